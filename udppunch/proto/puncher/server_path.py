"""A server's side of a path to one client, through the socket that all its clients share.

A marked client is known by its mark, whatever address it comes from, so that it keeps its
socket towards the application when it has to punch anew. A client that is not ours is known by
the address that the rendezvous named, or another port of the same.
"""

from __future__ import annotations

from typing import List, Optional, Set, Tuple

from udppunch import address
from udppunch.address import Address
from udppunch.contract import Endpoint, Route
from udppunch.proto.puncher import checks
from udppunch.proto.puncher.checks import Candidate
from udppunch.proto.puncher.consent import LEGACY_SILENCE, earliest
from udppunch.proto.puncher.handshake import ServerHandshake
from udppunch.proto.puncher.mapping import Explanation, Mapping
from udppunch.proto.puncher.path import Happening, Path, State, Tools
from udppunch.wire import puncher
from udppunch.wire.control import TOKEN_LENGTH, Pairing

# A client that was introduced but did not come is let go after this; ours ask again.
_SOUGHT_FOR = 30.0
_INTRODUCTIONS = 8
# In time for the client's second attempt.
_STALLED_AFTER = 0.7


class ServerPath(Path):
    """`client_mark` is empty for a client that is not ours, or not yet known to be."""

    def __init__(self, tools: Tools, key: bytes, mark: bytes, mapping: Mapping, now: float) -> None:
        super().__init__(tools, now)
        self.client_mark = b""
        self.named: Optional[Address] = None
        self._key = key
        self._mark = mark
        self._named_to: Optional[Route] = None
        self._introductions: List[Tuple[Endpoint, Address]] = []
        self._handshake: Optional[ServerHandshake] = None
        self._attempt = -1
        self._named_at = now
        self._mapping = mapping
        self._explanation = Explanation("client")
        self._stalls_at: Optional[float] = None

    # What the rendezvous brings

    def introduced(
        self, punch: puncher.Punch, endpoint: Endpoint, now: float, taken: bool = False
    ) -> None:
        """The client is at `punch.peer`, and was told to come to `endpoint`.

        Where that way is taken, what is said there would reach another client, and this one will
        come along another way. A repeated introduction changes nothing.
        """
        if (endpoint, punch.peer) in self._introductions:
            return
        self._introductions = [*self._introductions[1 - _INTRODUCTIONS :], (endpoint, punch.peer)]
        self.named = punch.peer
        self._named_to = Route(endpoint, punch.peer)
        self._named_at = now
        # Also while the path is up: a client that comes anew has lost it.
        self._stalls_at = now + _STALLED_AFTER
        if self.state is not State.UP:
            self._explanation.expect(now)
        if punch.mark:
            self._begin_checks(punch.mark, now, taken)
        else:
            self._handshake = ServerHandshake(now, silent=taken)

    def _begin_checks(self, client_mark: bytes, now: float, taken: bool = False) -> None:
        assert self._named_to is not None
        self.client_mark = client_mark
        self._attempt += 1
        found = self.pair(Pairing(self._key, self._mark, client_mark, client=False))
        if not taken:
            opening = checks.attempt(self._attempt)
            found.begin(self._named_to, opening.opener_ttl, opening.server_hold, now)

    def proved(self, route: Route, contested: bool) -> bool:
        """Whether the path is up, and the client sends along `route`; a captured check is no
        proof where others do."""
        if self.state is not State.UP or self.checks is None:
            return False
        return self.checks.is_valid(route) if contested else self.checks.knows(route)

    def yields(self, route: Route) -> bool:
        """Another client has shown that it sends along `route`; whether that ends this path.

        What this end said there would reach the other one's application.
        """
        if self.checks is not None:
            self.checks.forget(route)
        if self.state is not State.UP or not self.accepts(route):
            return False
        self.state = State.LOST
        return True

    def is_at(self, source: Address) -> bool:
        """Whether the client last sent from there."""
        return self.peer is not None and self.peer.destination == source

    def is_heard(self, now: float) -> bool:
        """Whether the path is up, and not about to be forgotten for its silence."""
        return self.state is State.UP and now < self.consent.heard + LEGACY_SILENCE / 2

    def endpoints(self) -> Set[Endpoint]:
        """The sockets that this path needs."""
        needed = self.checks.endpoints() if self.checks is not None else set()
        for route in (self.peer, self._named_to):
            if route is not None:
                needed.add(route.endpoint)
        return needed

    # What the client brings

    def receive(
        self, datagram: memoryview, route: Route, now: float, contested: bool = False
    ) -> Optional[Happening]:
        """A datagram of whatever kind, along one of the client's ways or with its token.
        `contested`: where another client's path is up."""
        if self.pairing is not None:
            if datagram[:TOKEN_LENGTH] == self.pairing.token:
                return self.control(bytes(datagram), route, now, contested)
            if not self.pairing.is_control(datagram):
                return self._payload(route, now)
        elif self.state is State.UP and not self._is_second(datagram, now):
            return self._payload(route, now)
        return None

    def second(self, message: puncher.Handshake, route: Route, now: float) -> Optional[Happening]:
        """Handshake 2 came from the address that was named, or another port of it."""
        if self._handshake is None or message.step != 2:
            return None
        if message.mark and message.mark != self.client_mark:
            self._begin_checks(message.mark, now)
        if not self._handshake.answers_second(now):
            return None
        self._say(3, route)
        return None if self.state is State.UP else self.nominate(route, now)

    def awaits(self, source: Address) -> bool:
        """Whether a handshake 2 from `source` may be this client's."""
        named = self.named
        waits = self._handshake is not None and self.state is not State.UP
        return waits and named is not None and address.same_ip(named, source)

    def expects_first(self) -> bool:
        """Whether it still is the path that its only introduction began."""
        handshake = self._handshake
        return handshake is not None and not handshake.silent and self.state is State.SEEKING

    def _is_second(self, datagram: memoryview, now: float) -> bool:
        """Whether this is handshake 2 once more, of a client that has sent no payload yet.

        From then on the same two bytes can only be the application's.
        """
        if self._handshake is None or bytes(datagram) != puncher.encode(puncher.Handshake(2)):
            self._handshake = None
            self.settled = True
            return False
        assert self.peer is not None
        self.second(puncher.Handshake(2), self.peer, now)
        return True

    def _checked(self, candidate: Candidate, now: float) -> Optional[Happening]:
        return self._follow(candidate, self.named, now)

    def _answered(self, candidate: Candidate, now: float) -> Optional[Happening]:
        self._stalls_at = None
        return super()._answered(candidate, now)

    def nominate(self, route: Route, now: float) -> Happening:
        if self.state is State.SEEKING:
            self.consent.carried = now  # a client that has just come is not idle
        self._explanation.settle()
        self._stalls_at = None
        self._attempt = -1
        return super().nominate(route, now)

    # Time

    def expire(self, now: float) -> Optional[Happening]:
        happening = self.watch(now)
        if happening is not None or self.state is State.CLOSING:
            return happening
        if self._stalls_at is not None and now >= self._stalls_at:
            self._stalls_at = None
            return Happening.STALLED
        if self.state is State.UP:
            return None
        if now >= self._gives_up_at():
            return self._end()
        if self._handshake is not None and self._handshake.due(now):
            assert self._named_to is not None
            if self._tools.budget.take(now):
                self._say(1, self._named_to)
        self._explanation.expire(self._mapping, self.named, now)
        return None

    def deadline(self) -> Optional[float]:
        deadline = self.watch_deadline()
        if self.state is State.CLOSING:
            return deadline
        deadline = earliest(deadline, self._stalls_at)
        if self.state is State.UP:
            return deadline
        if self._handshake is not None:
            deadline = earliest(deadline, self._handshake.deadline())
        return earliest(deadline, self._explanation.deadline(), self._gives_up_at())

    def _gives_up_at(self) -> float:
        if self.state is State.LOST:
            return max(self._named_at + _SOUGHT_FOR, self.consent.carried + self._tools.idle)
        return self._named_at + _SOUGHT_FOR

    def _say(self, step: int, route: Route) -> None:
        self._tools.outbox.send(route, puncher.encode(puncher.Handshake(step, self._mark)))
