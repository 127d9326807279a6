"""A path between two peers that a server introduced by name: either may have asked for it.

Of two marked ends the one with the greater mark leads: it takes the client's part, and begins
anew for as long as no way is found, while the other follows with a fresh socket when it is told
to meet again and nothing came of the last time. An unmarked peer is greeted as its protocol has
it, and is ours after all if its greeting bears a mark.
"""

from __future__ import annotations

from typing import Callable, List, Optional, Tuple

from udppunch import address
from udppunch.address import Address
from udppunch.contract import Endpoint, Route
from udppunch.proto.puncher import checks
from udppunch.proto.puncher.checks import Candidate
from udppunch.proto.puncher.consent import Silence, earliest
from udppunch.proto.puncher.mapping import Explanation, Mapping
from udppunch.proto.puncher.opening import Habit, Opening
from udppunch.proto.puncher.path import AnyConsent, Happening, Path, State, Tools
from udppunch.wire.control import TOKEN_LENGTH, Pairing

_INTRODUCTIONS = 8
# In time for the leader's second attempt, and for the later ones, which come ever more slowly.
_STALLED_AFTER = 0.7
_DOUBLINGS = 5


class PeerPath(Path):
    """`named` is where the server saw the peer. `peer_mark` is empty while it may be anyone's."""

    def __init__(
        self,
        tools: Tools,
        mark: bytes,
        mapping: Mapping,
        habit: Habit,
        greeting: Callable[[], bytes],
        now: float,
    ) -> None:
        super().__init__(tools, now)
        self.peer_mark = b""
        self.named: Optional[Address] = None
        self.leads = False
        self.explanation = Explanation("peer")
        self._mark = mark
        self._mapping = mapping
        self._habit = habit
        self._opening = Opening(habit, greeting, tools.budget)
        self._named_to: Optional[Route] = None
        self._introductions: List[Tuple[Endpoint, Address]] = []
        self._attempt = -1
        self._stalls_at: Optional[float] = None

    # How the peer comes to be known

    def introduced(self, route: Route, mark: bytes, key: bytes, now: float) -> None:
        """The peer is at the end of `route`, or was a moment ago. Repeated, it changes nothing,
        unless the peer was given up."""
        assert route.destination is not None
        introduction = (route.endpoint, route.destination)
        again = introduction in self._introductions and mark == self.peer_mark
        if again and not self.gave_up:
            return
        self._introductions = [*self._introductions[1 - _INTRODUCTIONS :], introduction]
        self.named = route.destination
        self._named_to = route
        if self.state is State.SEEKING:
            self.explanation.expect(now)
        if mark:
            self.recognised(route, mark, key, now)
        elif self.state is not State.UP:
            self._opening.begin(now)

    def recognised(self, route: Route, mark: bytes, key: bytes, now: float) -> None:
        """The peer is ours: its mark came with the introduction, or with its greeting."""
        self.peer_mark = mark
        self.leads = self._mark > mark
        client, server = (self._mark, mark) if self.leads else (mark, self._mark)
        found = self.pair(Pairing(key, server, client, client=self.leads))
        self._opening.cease()
        self._attempt += 1
        opening = checks.attempt(self._attempt)
        hold = opening.client_hold if self.leads else opening.server_hold
        found.begin(route, opening.opener_ttl, hold, now)
        if self.state is State.UP:
            found.pursue(route, now)  # who is introduced anew has lost it
        if not self.leads and self.state is not State.UP:
            self._stalls_at = now + _STALLED_AFTER * 2.0 ** min(self._attempt, _DOUBLINGS)

    def greet_again(self, now: float) -> None:
        """An unmarked peer fell silent, and may be heard again."""
        self._opening.go_on(now)

    def _forget_ways(self) -> None:
        """All ways to a marked peer are in doubt, those that were found to work as well."""
        if self.checks is not None:
            self.checks.clear()
        self._introductions.clear()

    @property
    def gave_up(self) -> bool:
        """Whether an unmarked peer was greeted as often as its protocol has it, in vain."""
        return self.state is not State.UP and self.pairing is None and self._opening.gave_up

    # Datagrams

    def receive(self, datagram: memoryview, route: Route, now: float) -> Optional[Happening]:
        """A datagram of anybody's but the server's. GREETING: the caller is to look at it, for
        it may be the peer's on a path that is not up yet."""
        if self.pairing is not None and datagram[:TOKEN_LENGTH] == self.pairing.token:
            return self.control(bytes(datagram), route, now)
        if self.state is State.UP:
            if self.pairing is not None:
                return self._payload(route, now)
            return Happening.PAYLOAD if self.accepts(route) else None
        return Happening.GREETING if self._is_from_named(route) else None

    def endpoints(self) -> List[Endpoint]:
        """The sockets that this path needs."""
        return [self.peer.endpoint] if self.peer is not None and self.state is State.UP else []

    def nominate(self, route: Route, now: float) -> Happening:
        self.explanation.settle()
        self._opening.cease()
        self._stalls_at = None
        self._attempt = -1
        self._introductions.clear()
        return super().nominate(route, now)

    def _is_from_named(self, route: Route) -> bool:
        assert route.destination is not None
        return self.named is not None and address.same_ip(route.destination, self.named)

    def _new_consent(self, now: float) -> AnyConsent:
        if self.pairing is None:
            return Silence(self._habit.patience, now)
        return super()._new_consent(now)

    def _checked(self, candidate: Candidate, now: float) -> Optional[Happening]:
        return None if self.leads else self._follow(candidate, self.named, now)

    # Time

    def expire(self, now: float) -> Optional[Happening]:
        happening = self.watch(now)
        if happening is Happening.LOST:
            self._forget_ways()
        if happening is not None or self.state in (State.UP, State.CLOSING):
            return happening
        if self._stalls_at is not None and now >= self._stalls_at:
            self._stalls_at = None
            return Happening.STALLED
        if self._named_to is not None:
            self._opening.expire(self._named_to, self._tools.outbox, now)
        self.explanation.expire(self._mapping, self.named, now)
        return None

    def deadline(self) -> Optional[float]:
        deadline = self.watch_deadline()
        if self.state in (State.UP, State.CLOSING):
            return deadline
        opening = self._opening.deadline()
        return earliest(deadline, self._stalls_at, opening, self.explanation.deadline())
