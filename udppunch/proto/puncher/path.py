"""One path between the two ends of a key, seen from either end: checked, up, watched, closed.

    state      meaning                                   left when
    SEEKING    no way to the peer is known to work       a check or handshake succeeds: UP
    UP         payload goes along `peer`                 consent is lost: LOST; idle: CLOSING
    LOST       was up, and is sought again               as SEEKING
    CLOSING    close was said                            closed is heard, or is late: CLOSED
    CLOSED     over

`ClientPath` and `ServerPath` add how each side comes to know of the other.
"""

from __future__ import annotations

import enum
from collections import Counter
from dataclasses import dataclass
from typing import Callable, Optional, Union

from udppunch import address
from udppunch.address import ANY_IPV4, Address
from udppunch.contract import Outbox, Route
from udppunch.proto.limiter import TokenBucket
from udppunch.proto.puncher.checks import Candidate, Checks
from udppunch.proto.puncher.consent import Consent, LegacyConsent, Silence, Verdict, earliest
from udppunch.proto.puncher.waiting import Waiting
from udppunch.wire.control import CONTENT, TRANSACTION_LENGTH, Control, Kind, Pairing
from udppunch.wire.malformed import Malformed

AnyConsent = Union[Consent, LegacyConsent, Silence]

_CLOSE_GAP = 0.3
_CLOSES = 4
# All checks of a process to peers that have not shown themselves: so many at once, so many a
# second. A hundred clients may come in the same second.
CHECK_BURST = 500
CHECK_RATE = 100
_PAUSE = 1.0  # seconds without a datagram after which an application "sends again"


class State(enum.Enum):
    SEEKING = "seeking"
    UP = "up"
    LOST = "lost"
    CLOSING = "closing"
    CLOSED = "closed"


class Happening(enum.Enum):
    """What a datagram or the time brought about, for the role to act on."""

    UP = "up"
    LOST = "lost"
    CLOSED = "closed"
    PAYLOAD = "payload"
    STALLED = "stalled"
    DOUBTED = "doubted"
    GREETING = "greeting"


@dataclass(frozen=True)
class Tools:
    """What all paths of a role share. `keepalive` and `idle` are seconds."""

    outbox: Outbox
    random: Callable[[int], bytes]
    budget: TokenBucket
    counters: "Counter[str]"
    keepalive: float
    idle: float


class Path:
    def __init__(self, tools: Tools, now: float) -> None:
        self.state = State.SEEKING
        self.peer: Optional[Route] = None
        self.pairing: Optional[Pairing] = None
        self.checks: Optional[Checks] = None
        self.consent: AnyConsent = LegacyConsent(now)
        self.waiting = Waiting()
        self.since = now
        self.settled = False  # a path to an end that is not ours: past its handshakes
        self._tools = tools
        self.peer_content = False  # the peer has closed, having got all there was to get
        self._content = False
        self._closes = 0
        self._next_close: Optional[float] = None
        self._close_transaction = b""

    # What a datagram of the peer's brings

    def pair(self, pairing: Pairing) -> Checks:
        """The peer is ours: from now on checks, and consent that can be asked for."""
        if self.checks is None or self.pairing is None or self.pairing.token != pairing.token:
            tools = self._tools
            self.pairing = pairing
            self.checks = Checks(pairing, tools.outbox, tools.random, tools.budget)
        return self.checks

    def control(
        self, data: bytes, route: Route, now: float, contested: bool = False
    ) -> Optional[Happening]:
        """A datagram that starts with the token came along `route`.

        Where somebody else's path is up, `contested`, the peer is to prove that it is there
        before its check is answered, for until then what comes is the other one's.
        """
        assert self.pairing is not None and self.checks is not None
        try:
            control = self.pairing.decode(data)
        except Malformed:
            self._tools.counters["dropped: forged control"] += 1
            return None
        if self.accepts(route):
            self.consent.heard = now
        if control.kind is Kind.CHECK and contested:
            self.checks.probe(route, now)
            return None
        if control.kind is Kind.CHECK:
            found: Optional[Candidate] = self.checks.question(control, route, now)
        elif control.kind is Kind.ANSWER:
            found = self.checks.answer(control, route, now)
        else:
            return self._goodbye(control, route)
        if found is None or self.state in (State.CLOSING, State.CLOSED):
            return None  # late: what is being closed does not come up again
        checked = control.kind is Kind.CHECK
        return self._checked(found, now) if checked else self._answered(found, now)

    def _goodbye(self, control: Control, route: Route) -> Optional[Happening]:
        assert self.pairing is not None
        if control.kind is Kind.CLOSE:
            closed = Control(Kind.CLOSED, control.transaction)
            self._tools.outbox.send(route, self.pairing.encode(closed))
            self.peer_content = control.address == CONTENT
            return self._end()
        if self.state is State.CLOSING and control.transaction == self._close_transaction:
            return self._end()
        return None

    def nominate(self, route: Route, now: float) -> Happening:
        """Payload goes along `route` from now on, and first of all what waited."""
        if self.checks is not None:
            self.checks.settle(route)
        if self.state is not State.UP:
            carried = self.consent.carried
            self.consent = self._new_consent(now)
            self.consent.carried = carried
        self.state = State.UP
        self.settled = False
        self.peer = route
        self.consent.heard = now
        for datagram in self.waiting.take():
            self._tools.outbox.send(route, datagram)
            self.consent.sent = self.consent.carried = now
        return Happening.UP

    def carries(self, now: float) -> bool:
        """The application sends through the path; whether that has moved the deadline."""
        consent = self.consent
        again = now - consent.sent > _PAUSE
        if again:
            consent.awake(now)
        consent.sent = consent.carried = now
        return again

    def is_payload(self, view: memoryview, segment: int) -> bool:
        """Whether a burst of the peer's on a path that is up is all payload."""
        pairing = self.pairing
        if pairing is None:
            return self.settled
        return not pairing.carries_control(view, segment)

    def accepts(self, route: Route) -> bool:
        """Whether payload that came along `route` is the peer's."""
        peer = self.peer
        return (
            peer is not None
            and peer.destination == route.destination
            and peer.endpoint is route.endpoint
        )

    # What the time brings

    def watch(self, now: float) -> Optional[Happening]:
        """Send the checks that are due, and see whether the path still holds."""
        if self.state is State.CLOSING:
            return self._close_again(now)
        if self.checks is not None:
            self.checks.expire(now)
        if self.state is not State.UP:
            return None
        verdict = self.consent.verdict(now)
        if verdict is Verdict.CHECK:
            assert self.checks is not None and self.peer is not None
            self.checks.probe(self.peer, now)
            if isinstance(self.consent, Consent) and self.consent.doubted:
                return Happening.DOUBTED
        elif verdict is Verdict.LOST:
            self.state = State.LOST
            return Happening.LOST
        elif verdict is Verdict.IDLE:
            return self.close(now)
        return None

    def close(self, now: float, content: bool = False) -> Optional[Happening]:
        """The path is not wanted any more: for this end is `content`, or for another reason."""
        self._content = content
        if self.pairing is None or self.peer is None or self.state is not State.UP:
            return self._end()
        self.state = State.CLOSING
        self._close_transaction = self._tools.random(TRANSACTION_LENGTH)
        return self._close_again(now)

    def watch_deadline(self) -> Optional[float]:
        if self.state is State.CLOSING:
            return self._next_close
        checks = self.checks.deadline() if self.checks is not None else None
        return earliest(checks, self.consent.deadline() if self.state is State.UP else None)

    # Inner

    def _new_consent(self, now: float) -> AnyConsent:
        if self.pairing is None:
            return LegacyConsent(now)
        tools = self._tools
        return Consent(tools.keepalive, tools.idle, tools.random, now)

    def _payload(self, route: Route, now: float) -> Optional[Happening]:
        """Payload of a marked peer, who may send from another address than before."""
        if self.accepts(route):
            return Happening.PAYLOAD
        if self.checks is None or not self.checks.knows(route):
            return None
        self.checks.pursue(route, now)
        return Happening.PAYLOAD

    def _checked(self, candidate: Candidate, now: float) -> Optional[Happening]:
        raise NotImplementedError

    def _answered(self, candidate: Candidate, now: float) -> Optional[Happening]:
        if self.state is not State.UP:
            return self.nominate(candidate.route, now)
        # The peer's NAT has given it another port, and it let itself be heard from there.
        assert self.checks is not None
        self.peer = candidate.route
        self.consent.heard = now
        self.checks.settle(candidate.route)
        return None

    def _follow(
        self, candidate: Candidate, named: Optional[Address], now: float
    ) -> Optional[Happening]:
        """A check of the end that begins paths came along `candidate`; `named` is where it was
        introduced. A check may be a copy that someone sends from elsewhere: only there is it
        enough. Anywhere else it has to answer first."""
        if self.state is State.UP:
            return None
        source = candidate.route.destination
        assert source is not None
        there = named is not None and address.same_ip(named, source)
        return self.nominate(candidate.route, now) if there or candidate.valid else None

    def _end(self) -> Happening:
        self.state = State.CLOSED
        return Happening.CLOSED

    def _close_again(self, now: float) -> Optional[Happening]:
        assert self.pairing is not None and self.peer is not None
        if self._closes >= _CLOSES:
            return self._end()
        self._closes += 1
        self._next_close = now + _CLOSE_GAP
        why = CONTENT if self._content else ANY_IPV4
        close = Control(Kind.CLOSE, self._close_transaction, why)
        self._tools.outbox.send(self.peer, self.pairing.encode(close))
        return None
