"""How a peer comes to a path by way of a server that introduces it: sockets, questions, attempts.

    server ── Dialogue ── a socket for each attempt ── PeerPath ── peer

Each socket has a dialogue of its own with the server, which says who this peer is and whom it
asks for. A new attempt takes a fresh socket, since a router that once gave a socket another port
at the NAT (see `checks`) goes on to do so; the former ones still listen for as long as none is
found to work.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable, List, NamedTuple, Optional, Protocol, Sequence, Union

from udppunch import address
from udppunch.address import ANY_IPV4, Address
from udppunch.contract import Endpoint, Lookup, Route
from udppunch.proto.destination import Destination
from udppunch.proto.puncher import prudence
from udppunch.proto.puncher.consent import earliest
from udppunch.proto.puncher.mapping import Mapping
from udppunch.proto.puncher.path import Happening, State, Tools
from udppunch.proto.puncher.peer_path import PeerPath
from udppunch.wire.malformed import Malformed

_ALIVE_ATTEMPTS = 3
_FIRST_PATIENCE = 1.0
_LONGEST_PATIENCE = 30.0
_RENEWED_EACH = 0.5  # seconds between two fresh sockets for an attempt of the peer's


class Registered(NamedTuple):
    """The server knows this peer now."""

    seen: Optional[Address] = None


class Refusal(NamedTuple):
    """The server won't or can't; `text` is for people. A `final` one is not asked again."""

    text: str
    final: bool = False


class Introduction(NamedTuple):
    """The server named the peer: its `identity` and what people call it, where it is, its mark,
    and the key that both ends then have (empty while it is not known), of which `public_key` is
    the peer's part."""

    identity: str
    name: str
    peer: Address
    mark: bytes = b""
    key: bytes = b""
    seen: Optional[Address] = None
    public_key: bytes = b""


Word = Union[Registered, Refusal, Introduction]


class Dialogue(Protocol):
    """What is said between a server and one socket of this peer's."""

    def ask(self, identity: str, now: float) -> None:
        """Ask to be introduced to that one, until `settle` or `cease`."""

    def settle(self, now: float) -> None:
        """A path is there: stay registered, and no more."""

    def cease(self) -> None:
        """Another socket speaks to the server from now on."""

    def receive(self, datagram: bytes, now: float) -> Optional[Word]:
        """What the server says, where it is news. Raises Malformed."""

    def due(self, now: float) -> Sequence[bytes]:
        """What is to be said now."""

    def deadline(self) -> Optional[float]: ...

    def silent(self, now: float) -> bool:
        """Whether the server has left several questions unanswered."""

    def goodbye(self) -> Sequence[bytes]:
        """What is said when this peer goes."""


@dataclass(eq=False)
class _Attempt:
    endpoint: Endpoint
    dialogue: Dialogue
    open: bool = False


class Meeting:
    """One peer sought, or awaited, at a time. `path` leads to it once it was introduced."""

    def __init__(
        self,
        tools: Tools,
        server: Lookup,
        bind: Optional[Address],
        dialogue: Callable[[float], Dialogue],
        path: Callable[[Mapping, float], PeerPath],
    ) -> None:
        self.server = Destination(server, tools.outbox)
        self.mapping = Mapping()
        self.path: Optional[PeerPath] = None
        self.wanted = ""  # the identity of the one asked for
        self._tools = tools
        self._bind = bind or ANY_IPV4
        self._new_dialogue = dialogue
        self._new_path = path
        self._attempts: List[_Attempt] = []
        self._number = 0
        self._next_attempt: Optional[float] = None
        self._renewed_at = float("-inf")
        self.silent = False  # the server does not answer

    # Sockets

    def start(self, now: float) -> None:
        self.server.look_up(now)
        self.begin_anew(now)

    def opened(self, endpoint: Endpoint, now: float) -> None:
        for attempt in self._attempts:
            if attempt.endpoint is endpoint:
                attempt.open = True
                self._converse(now)

    def failed(self, endpoint: Endpoint, now: float) -> None:
        """No fresh socket was to be had: try again in a while."""
        self._attempts = [a for a in self._attempts if a.endpoint is not endpoint]
        self._next_attempt = now + _LONGEST_PATIENCE

    def resolved(self, found: Sequence[Address], reason: str, now: float) -> None:
        self.server.resolved(found, reason, now)

    def begin_anew(self, now: float) -> None:
        """Speak to the server from a fresh socket, and meet again by way of it."""
        for former in self._attempts:
            former.dialogue.cease()
        # A port that a person has chosen can be had once.
        if not (self._attempts and address.port(self._bind)):
            endpoint = Endpoint("peer", self._bind, essential=not self._number)
            self._attempts.append(_Attempt(endpoint, self._new_dialogue(now)))
            self._tools.outbox.open(endpoint)
        else:
            self._attempts[-1].dialogue = self._new_dialogue(now)
        self._number += 1
        self._next_attempt = None
        if self.wanted:
            self._attempts[-1].dialogue.ask(self.wanted, now)
        while len(self._attempts) > _ALIVE_ATTEMPTS:
            self._abandon(self._attempts[0])

    def _abandon(self, attempt: _Attempt) -> None:
        self._attempts.remove(attempt)
        if self.path is not None and self.path.checks is not None:
            self.path.checks.drop(attempt.endpoint)
        self._tools.outbox.close(attempt.endpoint)

    # Whom to meet

    def ask(self, identity: str, now: float) -> None:
        """Have the server introduce that peer."""
        self.wanted = identity
        if self._attempts:
            self._attempts[-1].dialogue.ask(identity, now)

    def leave(self, now: float) -> None:
        """The peer is not wanted any more; another may be."""
        if self.path is not None:
            self.path.close(now)
        self.path = None
        self.wanted = ""
        self._next_attempt = None
        self._number = 1
        for attempt in self._attempts:
            attempt.dialogue.settle(now)

    def introduce(self, word: Introduction, endpoint: Endpoint, now: float) -> str:
        """Go and meet who was introduced to `endpoint`; or why not."""
        assert self.server.address is not None
        path = self.path
        if path is not None and path.state is State.CLOSING:
            return ""  # said before the goodbye
        if path is not None and path.state is State.UP and word.mark != path.peer_mark:
            # Started anew, if it is the same: then this path will be lost. Or somebody lies.
            return f"another {word.name!r} was introduced: passed over"
        refusal = prudence.refusal(word.peer, self.server.address)
        if refusal:
            self._tools.counters["dropped: imprudent address"] += 1
            return f"not punching {address.text(word.peer)}: {refusal}"
        self.mapping.heard(word.seen, 0)
        if path is None or path.state is State.CLOSED:
            path = self.path = self._new_path(self.mapping, now)
        path.introduced(Route(endpoint, word.peer), word.mark, word.key, now)
        self._expect(path, now)
        return ""

    def recognised(self, route: Route, mark: bytes, key: bytes, now: float) -> bool:
        """The peer's greeting bears a mark; whether that is news, of it or of where it is."""
        path = self.path
        if path is None or path.state is State.UP:
            return False
        if path.peer_mark == mark and path.checks is not None and path.checks.tries(route):
            return False
        path.recognised(route, mark, key, now)
        self._expect(path, now)
        return True

    def settle(self, now: float) -> None:
        """The path is up: keep its socket, and let that one speak to the server."""
        assert self.path is not None and self.path.peer is not None
        self._next_attempt = None
        self._number = 1
        for attempt in list(self._attempts):
            if attempt.endpoint is not self.path.peer.endpoint:
                self._abandon(attempt)
        for attempt in self._attempts:
            attempt.dialogue.settle(now)

    def seek_again(self, now: float) -> None:
        """The path is lost."""
        assert self.path is not None
        self.server.look_up(now)
        if self.path.pairing is None:
            # An original knows one address of this end, and one that is asked for anew may end.
            self.path.greet_again(now)
            return
        self._number = 1
        self.begin_anew(now)

    def _expect(self, path: PeerPath, now: float) -> None:
        """Who leads begins anew when nothing comes of an attempt."""
        if path.leads and path.state is not State.UP:
            patience = _FIRST_PATIENCE * 2.0 ** min(self._number - 1, 8)
            self._next_attempt = now + min(patience, _LONGEST_PATIENCE)

    # Datagrams

    def hear(self, datagram: memoryview, route: Route, now: float) -> Optional[Word]:
        """The server's word, where it is news; nothing of anybody else's."""
        attempt = next((a for a in self._attempts if a.endpoint is route.endpoint), None)
        if attempt is None:
            return None
        try:
            word = attempt.dialogue.receive(bytes(datagram), now)
        except Malformed:
            self._tools.counters["dropped: malformed"] += 1
            return None
        self.silent = False
        if isinstance(word, Registered):
            self.mapping.heard(word.seen, 0)
        self._converse(now)
        return word

    def _converse(self, now: float) -> None:
        where = self.server.address
        if not self._attempts or where is None:
            return
        attempt = self._attempts[-1]
        if not attempt.open:
            return
        for said in attempt.dialogue.due(now):
            self._tools.outbox.send(Route(attempt.endpoint, where), said)
        if attempt.dialogue.silent(now):
            self.server.look_up(now)
            self.silent = True

    # Time

    def expire(self, now: float) -> Optional[Happening]:
        """Do what is due; what became of the path."""
        happening = self.path.expire(now) if self.path is not None else None
        if happening is Happening.STALLED and now - self._renewed_at >= _RENEWED_EACH:
            self._renewed_at = now
            self.begin_anew(now)
        elif self._next_attempt is not None and now >= self._next_attempt:
            self.begin_anew(now)
        self.server.expire(now)
        self._converse(now)
        return happening

    def deadline(self) -> Optional[float]:
        deadline = self.path.deadline() if self.path is not None else None
        if self.server.address is not None and self._attempts and self._attempts[-1].open:
            deadline = earliest(deadline, self._attempts[-1].dialogue.deadline())
        return earliest(deadline, self._next_attempt, self.server.deadline())

    def stop(self, now: float, content: bool = False) -> None:
        """Say goodbye to both."""
        if self.path is not None and self.path.state is State.UP:
            self.path.close(now, content)
        if self._attempts and self._attempts[-1].open and self.server.address is not None:
            route = Route(self._attempts[-1].endpoint, self.server.address)
            for said in self._attempts[-1].dialogue.goodbye():
                self._tools.outbox.send(route, said)
