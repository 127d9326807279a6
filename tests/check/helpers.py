"""A helper in the test's own process, with faults: it answers as the stand-in's helper does.

Also `udppunch check helper` as a process, with no more of an environment than cron gives it.
"""

from __future__ import annotations

import socket
import threading
import time
from typing import Callable, Dict, List, Optional, Sequence

from tests.check.command import CHECK, Ran, run
from tests.standin.expose import Helper, derive_key, open_socket, text

COMMAND = (*CHECK, "helper")
PASSWORD = "the password of the tests"
WITH_PASSWORD = {"UDPPUNCH_PASSWORD": PASSWORD}

# What is sent in place of an answer.
Fault = Callable[[bytes], List[bytes]]


def no_fault(answer: bytes) -> List[bytes]:
    return [answer]


class EveryThird:
    """Says nothing to every third question."""

    def __init__(self) -> None:
        self._asked = 0

    def __call__(self, answer: bytes) -> List[bytes]:
        self._asked += 1
        return [answer] if self._asked % 3 else []


class FaultyHelper:
    """Answers on 127.0.0.1 or another address of loopback, its `counts` being what it tells.

    Its exposer was heard `heard` seconds ago, or never.
    """

    def __init__(
        self,
        fault: Fault = no_fault,
        *,
        heard: Optional[int] = 0,
        password: str = PASSWORD,
        ip: str = "127.0.0.1",
    ) -> None:
        self._fault = fault
        self._helper = Helper(4, derive_key(password))
        self.counts: Dict[str, int] = self._helper.counts
        if heard is not None:
            self.counts["last_ka_s"] = int(time.time()) - heard
        self._socket = open_socket((ip, 0))
        self._socket.settimeout(0.02)
        self.port = int(self._socket.getsockname()[1])
        self.address = text(self._socket.getsockname())
        self._ending = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def __enter__(self) -> FaultyHelper:
        return self

    def __exit__(self, *_: object) -> None:
        self._ending = True
        self._thread.join()
        self._socket.close()

    @property
    def asked(self) -> int:
        return self.counts["stats_requests"]

    def _run(self) -> None:
        while not self._ending:
            try:
                question, source = self._socket.recvfrom(4096)
            except OSError:
                continue  # nothing came, or ICMP said that who asked has gone
            sending = self._helper.receive(question, source, int(time.time()))
            for datagram in self._fault(sending.datagram) if sending else ():
                self._socket.sendto(datagram, source)


class Silent:
    """An address where every question is taken and none is answered."""

    def __init__(self, ip: str = "127.0.0.1", port: int = 0) -> None:
        self._socket = open_socket((ip, port))
        self.address = text(self._socket.getsockname())

    def __enter__(self) -> Silent:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def wait(self) -> None:
        """Until the first has come."""
        self._socket.settimeout(30)
        self._socket.recv(4096)

    def count(self) -> int:
        """How many have come since it was asked last."""
        found = 0
        while True:
            try:
                self._socket.recv(4096, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return found
            found += 1


def check(
    *arguments: str,
    environment: Optional[Dict[str, str]] = None,
    through: Sequence[str] = (),
    timeout: float = 60.0,
) -> Ran:
    """What comes of it; the password is given if no environment is."""
    given = WITH_PASSWORD if environment is None else environment
    found = run("helper", *arguments, environment=given, through=through, timeout=timeout)
    assert PASSWORD not in found.output + found.errors
    return found
