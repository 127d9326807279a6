"""Who may see the page: the host asked for, the origin asking, a one-time token, a session.

A URL with a token is shown in the terminal. Whoever opens it first gets a cookie, and the token
is spent. Cookies know no ports: every server on this host's other ports is sent one that is
for all paths. So ours is for one path, as hard to guess as the cookie itself.
"""

from __future__ import annotations

import hmac
from typing import Callable, Iterable, List, Optional, Sequence

_SECRET = 24  # random bytes in a token, a path, a cookie
_COOKIE = "udppunch"


class Gate:
    """`hosts`, each as `host:port`, are what the page may be called; its URLs name the first."""

    def __init__(self, hosts: Sequence[str], random: Callable[[int], bytes]) -> None:
        self._first = hosts[0].lower()
        self._hosts = _also_without_port_80(host.lower() for host in hosts)
        self._random = random
        self._session = self._secret()
        self._token = self._secret()
        self.home = f"/{self._secret()}/"

    @property
    def url(self) -> str:
        """What is to be opened; good for one time."""
        return f"http://{self._first}/?token={self._token}"

    @property
    def cookie(self) -> str:
        """As Set-Cookie has it."""
        return f"{_COOKIE}={self._session}; Path={self.home}; HttpOnly; SameSite=Strict"

    def is_ours(self, host: str) -> bool:
        return host.lower() in self._hosts

    def is_own_origin(self, origin: str, host: str) -> bool:
        return origin.lower() == f"http://{host.lower()}"

    def inside(self, path: str) -> Optional[str]:
        """The path as seen from `home`; None for one that is elsewhere."""
        here, name = path[: len(self.home)], path[len(self.home) :]
        return name if _same(here, self.home) else None

    def spend(self, token: str) -> bool:
        """Whether it was the token; then the next one is another."""
        right = _same(token, self._token)
        if right:
            self._token = self._secret()
        return right

    def knows(self, cookies: str) -> bool:
        """Whether the session's is among the cookies, as the header of that name has them."""
        pairs = [pair.strip().partition("=") for pair in cookies.split(";")]
        return any([_same(value, self._session) for name, _, value in pairs if name == _COOKIE])

    def _secret(self) -> str:
        return self._random(_SECRET).hex()


def _also_without_port_80(hosts: Iterable[str]) -> List[str]:
    """Browsers leave the port of http out."""
    given = list(hosts)
    return given + [host[: -len(":80")] for host in given if host.endswith(":80")]


def _same(said: str, secret: str) -> bool:
    return hmac.compare_digest(said.encode(), secret.encode())
