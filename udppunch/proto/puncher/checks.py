"""Connectivity checks between two marked ends: which of the peer's addresses carry datagrams.

Each address at which the peer may be is a candidate (RFC 8445). Both ends send checks to the
address that the rendezvous named and answer to where a check really came from, which makes that
a (peer-reflexive) candidate too: behind a NAT that maps each destination to another port it is
the only one that works. A candidate is valid once a check to it was answered from it.

The opener. A Linux router that masquerades and accepts what is sent to itself takes the peer's
early datagram for its own, and then gives this end's datagrams another port than the
rendezvous saw: the two never meet. So each end first sends a datagram whose hop limit carries it
through its own NAT and no further, and holds its checks until the other had time to do the same.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Callable, NamedTuple, Optional, Set

from udppunch.address import Address
from udppunch.contract import Endpoint, Outbox, Route
from udppunch.proto.limiter import TokenBucket
from udppunch.wire.control import TRANSACTION_LENGTH, Control, Kind, Pairing

# At most 20 checks to a candidate in its first second, then ever fewer: a peer named by a
# lying rendezvous is not to be flooded (threat: the voice hammer of RFC 8445, 19.5.1).
_FAST_CHECKS = 20
_FAST_GAP = 0.05
_SLOW_GAP = 0.5
_LONGEST_GAP = 5.0
_CANDIDATES = 8
_OUTSTANDING = 64


class Attempt(NamedTuple):
    """How one attempt at a path opens: hop limit of the opener (0: none), seconds of hold."""

    opener_ttl: int
    client_hold: float
    server_hold: float


# The first is quick. The second gives a peer time that is slower to hear of it. The others
# serve two NATs next to each other, where an opener reaches the far one: now the server's
# datagrams go first, now the client's. The last opens two NATs in a row (CGNAT). And again.
ATTEMPTS = (
    Attempt(2, 0.015, 0.015),
    Attempt(2, 0.3, 0.3),
    Attempt(0, 0.5, 0.0),
    Attempt(0, 0.0, 0.5),
    Attempt(3, 0.5, 0.5),
)


def attempt(number: int) -> Attempt:
    """How attempt `number` (from 0) opens."""
    return ATTEMPTS[number % len(ATTEMPTS)]


@dataclass(eq=False)
class Candidate:
    route: Route
    next_check: Optional[float]
    opener_ttl: int = 0
    sent: int = 0
    heard: bool = False  # the peer sent a check from there
    valid: bool = False  # and answered one


class Checks:
    """The candidates of one path. `budget` is shared by all paths of a process."""

    def __init__(
        self,
        pairing: Pairing,
        outbox: Outbox,
        random: Callable[[int], bytes],
        budget: TokenBucket,
    ) -> None:
        self.round_trip = 0.0
        self._pairing = pairing
        self._outbox = outbox
        self._random = random
        self._budget = budget
        self._candidates: "OrderedDict[tuple[Endpoint, Address], Candidate]" = OrderedDict()
        self._outstanding: "OrderedDict[bytes, tuple[Candidate, float]]" = OrderedDict()

    def begin(self, route: Route, opener_ttl: int, hold: float, now: float) -> None:
        """Try the address that the rendezvous named; again does nothing."""
        if self._find(route) is None:
            candidate = self._add(route, now + hold)
            candidate.opener_ttl = opener_ttl
            if opener_ttl:
                self._check(candidate, now, opener_ttl)

    def question(self, control: Control, route: Route, now: float) -> Candidate:
        """A check came along `route`: answer it, and check the way back."""
        candidate = self._find(route) or self._add(route, now)
        candidate.heard = True
        if not candidate.valid:
            self._check(candidate, now)
        destination = route.destination
        assert destination is not None
        answer = Control(Kind.ANSWER, control.transaction, destination)
        self._outbox.send(candidate.route, self._pairing.encode(answer))
        return candidate

    def answer(self, control: Control, route: Route, now: float) -> Optional[Candidate]:
        """An answer came along `route`: the candidate that it makes valid, if it does."""
        asked = self._outstanding.pop(control.transaction, None)
        if asked is None:
            return None
        candidate, at = asked
        if candidate is not self._find(route):
            # It took another way back than the question took there; see whether both work.
            self._check(self._find(route) or self._add(route, now), now)
            return None
        self.round_trip = now - at
        candidate.valid = True
        return candidate

    def probe(self, route: Route, now: float) -> None:
        """Ask once whether the path is still there, outside of the schedule."""
        self._ask(self._find(route) or self._add(route, None), now, 0)

    def pursue(self, route: Route, now: float) -> None:
        """Check the way to where the peer sends from, unless that is under way."""
        candidate = self._find(route)
        if candidate is not None and candidate.next_check is None:
            self._check(candidate, now)

    def endpoints(self) -> "Set[Endpoint]":
        """The sockets behind the candidates."""
        return {endpoint for endpoint, _ in self._candidates}

    def knows(self, route: Route) -> bool:
        """Whether the peer has sent a check that way."""
        candidate = self._find(route)
        return candidate is not None and (candidate.heard or candidate.valid)

    def tries(self, route: Route) -> bool:
        """Whether that way is a candidate."""
        return self._find(route) is not None

    def is_valid(self, route: Route) -> bool:
        """Whether the peer proved to be at the end of `route`."""
        candidate = self._find(route)
        return candidate is not None and candidate.valid

    def settle(self, route: Route) -> None:
        """The path goes that way. Where the peer was before its NAT may soon let another be, and
        it is to prove anew that it is there."""
        chosen = self._find(route)
        for way in [way for way, known in self._candidates.items() if known is not chosen]:
            del self._candidates[way]
        if chosen is not None:
            chosen.next_check = None

    def forget(self, route: Route) -> None:
        """It leads to another than the peer."""
        assert route.destination is not None
        self._candidates.pop((route.endpoint, route.destination), None)

    def drop(self, endpoint: Endpoint) -> None:
        """The endpoint is closed, and with it all candidates behind it."""
        for key in [key for key in self._candidates if key[0] is endpoint]:
            del self._candidates[key]

    def clear(self) -> None:
        self._candidates.clear()
        self._outstanding.clear()

    def expire(self, now: float) -> None:
        """Send the checks that are due."""
        for candidate in list(self._candidates.values()):
            if candidate.next_check is not None and candidate.next_check <= now:
                self._check(candidate, now)

    def deadline(self) -> Optional[float]:
        due = [c.next_check for c in self._candidates.values() if c.next_check is not None]
        return min(due, default=None)

    def _find(self, route: Route) -> Optional[Candidate]:
        assert route.destination is not None
        return self._candidates.get((route.endpoint, route.destination))

    def _add(self, route: Route, when: Optional[float]) -> Candidate:
        assert route.destination is not None
        if len(self._candidates) >= _CANDIDATES:
            stale = next((k for k, c in self._candidates.items() if not c.valid), None)
            del self._candidates[stale or next(iter(self._candidates))]
        candidate = Candidate(route, when)
        self._candidates[route.endpoint, route.destination] = candidate
        return candidate

    def _check(self, candidate: Candidate, now: float, ttl: int = 0) -> None:
        if not ttl:
            gap = _FAST_GAP
            if candidate.sent >= _FAST_CHECKS:
                doublings = min(candidate.sent - _FAST_CHECKS, 8)
                gap = min(_LONGEST_GAP, _SLOW_GAP * 2.0**doublings)
            candidate.next_check = now + gap
        if self._budget.take(now):
            candidate.sent += 1
            self._ask(candidate, now, ttl)

    def _ask(self, candidate: Candidate, now: float, ttl: int) -> None:
        transaction = self._random(TRANSACTION_LENGTH)
        if len(self._outstanding) >= _OUTSTANDING:
            self._outstanding.popitem(last=False)
        self._outstanding[transaction] = (candidate, now)
        check = self._pairing.encode(Control(Kind.CHECK, transaction))
        self._outbox.send(candidate.route, check, ttl)
