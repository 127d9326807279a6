"""A client's side of a path: asks for the server, punches, and begins anew until it is up.

Each attempt has a socket, and so a port at the NAT, of its own; the next attempt begins
while the ones before still listen, and the first way found to work is taken. The mark stays
the same over all attempts, by which the server knows them for one path.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import List, Optional

from udppunch import address
from udppunch.address import ANY_IPV4, Address
from udppunch.contract import Endpoint, Route
from udppunch.notices import event
from udppunch.proto.destination import Destination
from udppunch.proto.puncher import checks, prudence
from udppunch.proto.puncher.asking import Asking
from udppunch.proto.puncher.checks import Candidate
from udppunch.proto.puncher.consent import earliest
from udppunch.proto.puncher.handshake import ClientHandshake
from udppunch.proto.puncher.mapping import Explanation, Mapping
from udppunch.proto.puncher.path import Happening, Path, State, Tools
from udppunch.wire import marks, puncher
from udppunch.wire.control import Pairing
from udppunch.wire.malformed import Malformed

log = logging.getLogger(__name__)

_ALIVE_ATTEMPTS = 3
_FIRST_PATIENCE = 1.0
_LONGEST_PATIENCE = 30.0
# A second copy of a handshake that comes this soon was doubled by the network.
_DOUBLED_WITHIN = 1.0
_BARE_HANDSHAKE = 2  # bytes; more can only be the application's


@dataclass(eq=False)
class _Attempt:
    number: int
    endpoint: Endpoint
    asking: Asking
    open: bool = False
    named: Optional[Address] = None
    server_mark: bytes = b""
    handshake: Optional[ClientHandshake] = None


class ClientPath(Path):
    """`to_application` is where the server's payload goes."""

    def __init__(
        self,
        tools: Tools,
        key: bytes,
        rendezvous: Destination,
        to_application: Route,
        now: float,
    ) -> None:
        super().__init__(tools, now)
        self.to_application = to_application
        self.mark = marks.new(tools.random(marks.RANDOM))
        self.mapping = Mapping()
        self.sought_since = now
        self._up_since = now
        self._key = key
        self._rendezvous = rendezvous
        self._attempts: List[_Attempt] = []
        self._number = 0
        self._refusals = 0
        self._next_attempt: Optional[float] = None
        self._explanation = Explanation("server")
        self._silence_said = False
        self._refusal_said = False
        self._imprudence_said = False

    # Endpoints

    def seek(self, now: float) -> None:
        """Begin an attempt with a fresh local port."""
        for former in self._attempts:
            former.asking.cease()
        self._ask_other_port()
        endpoint = Endpoint("client path", ANY_IPV4, owner=self)
        self._attempts.append(_Attempt(self._number, endpoint, Asking(now, self._refusals)))
        self._number += 1
        self._next_attempt = None
        self._tools.outbox.open(endpoint)
        while len(self._attempts) > _ALIVE_ATTEMPTS:
            self._abandon(self._attempts[0])

    def opened(self, endpoint: Endpoint, now: float) -> None:
        attempt = self._attempt_of(endpoint)
        if attempt is not None:
            attempt.open = True
            self._ask(attempt, now)

    def failed(self, endpoint: Endpoint, now: float) -> None:
        attempt = self._attempt_of(endpoint)
        if attempt is not None:
            self._attempts.remove(attempt)
            self._next_attempt = now + _LONGEST_PATIENCE

    def release(self) -> None:
        """Close all that this path holds open."""
        while self._attempts:
            self._abandon(self._attempts[0])

    # Datagrams

    def receive(self, datagram: memoryview, route: Route, now: float) -> Optional[Happening]:
        """A datagram that came along `route`, of whatever kind."""
        attempt = self._attempt_of(route.endpoint)
        if attempt is None:
            return None
        if self.pairing is not None and datagram[:16] == self.pairing.token:
            attempt.asking.cease()
            return self.control(bytes(datagram), route, now)
        if route.destination == self._rendezvous.address:
            return self._introduction(attempt, datagram, now)
        assert route.destination is not None
        if self.mapping.is_other_port(route.destination, self._rendezvous.address):
            self._other_port_answers(bytes(datagram), route.endpoint)
            return None
        return self._handshake_or_payload(attempt, datagram, route, now)

    def _other_port_answers(self, datagram: bytes, endpoint: Endpoint) -> None:
        try:
            self.mapping.heard_other(datagram, endpoint)
        except Malformed:
            self._tools.counters["dropped: malformed"] += 1

    def _introduction(
        self, attempt: _Attempt, datagram: memoryview, now: float
    ) -> Optional[Happening]:
        message = self._decode(datagram)
        if self.state is State.UP:
            # Late, or forged: it may not change who the peer is.
            self._tools.counters["dropped: unexpected"] += 1
        elif isinstance(message, puncher.Punch):
            self._silence_said = self._refusal_said = False
            self._refusals = 0
            self._punch(attempt, message, now)
        elif isinstance(message, puncher.Error) and not attempt.asking.named:
            attempt.asking.heard_refusal(now)
            self._refusals = attempt.asking.refusals
            if not self._refusal_said:
                self._refusal_said = True
                event(
                    log,
                    logging.WARNING,
                    "no-server",
                    f"no server of this key at {self._rendezvous.lookup}; asking on",
                )
        return None

    def _punch(self, attempt: _Attempt, punch: puncher.Punch, now: float) -> None:
        assert self._rendezvous.address is not None
        refusal = prudence.refusal(punch.peer, self._rendezvous.address)
        if refusal:
            self._tools.counters["dropped: imprudent address"] += 1
            if not self._imprudence_said:
                self._imprudence_said = True
                event(
                    log,
                    logging.WARNING,
                    "imprudent",
                    f"not punching {address.text(punch.peer)}: {refusal}",
                )
            return
        first = not attempt.asking.named
        if not first and (punch.peer, punch.mark) != (attempt.named, attempt.server_mark):
            # One server an attempt, or a rendezvous that lies could name one after the other.
            self._tools.counters["dropped: another address"] += 1
            return
        attempt.named = punch.peer
        attempt.server_mark = punch.mark
        self.mapping.heard(punch.seen, punch.other_port)
        self._explanation.expect(now)
        if first:
            attempt.asking.heard_named(bool(punch.mark), now)
        if punch.mark:
            self._begin_checks(attempt, punch.mark, now)
            if first:
                self._next_attempt = now + self._patience()
        elif first:
            attempt.handshake = ClientHandshake(now)

    def _begin_checks(self, attempt: _Attempt, server_mark: bytes, now: float) -> None:
        assert attempt.named is not None
        found = self.pair(Pairing(self._key, server_mark, self.mark, client=True))
        opening = checks.attempt(attempt.number)
        route = Route(attempt.endpoint, attempt.named)
        if self.state is not State.UP:
            found.begin(route, opening.opener_ttl, opening.client_hold, now)

    def _handshake_or_payload(
        self, attempt: _Attempt, datagram: memoryview, route: Route, now: float
    ) -> Optional[Happening]:
        accepted = self.state is State.UP and self.accepts(route)
        young = now - self._up_since < _DOUBLED_WITHIN
        if accepted and (self.pairing or not young):
            self.settled = True
            late = self.pairing is not None and self.pairing.is_control(datagram)
            return None if late else Happening.PAYLOAD
        assert route.destination is not None
        if attempt.named is None or not address.same_ip(route.destination, attempt.named):
            self._tools.counters["dropped: stranger"] += 1
            return None
        message = self._decode(datagram) if len(datagram) <= puncher.PADDED else None
        is_handshake = isinstance(message, puncher.Handshake)
        if accepted and not (is_handshake and len(datagram) == _BARE_HANDSHAKE):
            return Happening.PAYLOAD
        if not isinstance(message, puncher.Handshake):
            return None
        if accepted or attempt.handshake is None:
            return None
        return self._handshake(attempt, message, route, now)

    def _handshake(
        self, attempt: _Attempt, message: puncher.Handshake, route: Route, now: float
    ) -> Optional[Happening]:
        assert attempt.handshake is not None
        if message.mark and not attempt.server_mark:
            attempt.server_mark = message.mark
            self._begin_checks(attempt, message.mark, now)
        if message.step == 1:
            attempt.handshake.heard_first(now)
            self._say_second(attempt, now)
        elif message.step == 3:
            return self.nominate(route, now)
        return None

    def nominate(self, route: Route, now: float) -> Happening:
        happening = super().nominate(route, now)
        self._up_since = now
        self._number = 0
        self._next_attempt = None
        self._explanation.settle()
        for attempt in list(self._attempts):
            attempt.asking.cease()
            attempt.handshake = None
            if attempt.endpoint is not route.endpoint:
                self._abandon(attempt)
        return happening

    def _checked(self, candidate: Candidate, now: float) -> Optional[Happening]:
        return None

    # Time

    def expire(self, now: float) -> Optional[Happening]:
        happening = self.watch(now)
        if happening is Happening.LOST:
            self._seek_again(now)
        if happening is not None or self.state in (State.UP, State.CLOSING):
            return happening
        if now >= self.consent.carried + self._tools.idle:
            return self._end()
        for attempt in list(self._attempts):
            if attempt.open:
                self._ask(attempt, now)
                self._say_second(attempt, now)
        if self._next_attempt is not None and now >= self._next_attempt:
            self.seek(now)
        named = [attempt.named for attempt in self._attempts if attempt.named is not None]
        self._explanation.expire(self.mapping, named[-1] if named else None, now)
        return None

    def deadline(self) -> Optional[float]:
        deadline = self.watch_deadline()
        if self.state in (State.UP, State.CLOSING):
            return deadline
        for attempt in self._attempts:
            if attempt.open:
                deadline = earliest(deadline, attempt.asking.deadline())
                if attempt.handshake is not None:
                    deadline = earliest(deadline, attempt.handshake.deadline())
        ending = self.consent.carried + self._tools.idle
        return earliest(deadline, self._next_attempt, self._explanation.deadline(), ending)

    def wanted(self, now: float) -> bool:
        """The path is closed; whether the application still wants one.

        With an end that is not ours it does when it sends again, and not before.
        """
        patience = self._tools.idle
        if not len(self.waiting):
            patience = patience / 2 if self.pairing is not None else 0.0
        # As `expire` computes it, or rounding could have one path begin another for ever.
        return now < self.consent.carried + patience

    def inherit(self, former: ClientPath) -> None:
        """Carry on for a path that was closed while it was wanted."""
        self.waiting = former.waiting
        self.consent.carried = former.consent.carried

    def _seek_again(self, now: float) -> None:
        self.sought_since = now
        self._rendezvous.look_up(now)
        self.release()
        self._number = self._refusals = 0
        if self.checks is not None:
            self.checks.clear()
        self.seek(now)

    def _ask(self, attempt: _Attempt, now: float) -> None:
        if not attempt.asking.due(now):
            return
        if attempt.asking.silent(now):
            self._rendezvous.look_up(now)
            if not self._silence_said:
                self._silence_said = True
                event(
                    log,
                    logging.WARNING,
                    "rendezvous-silent",
                    f"rendezvous {self._rendezvous.lookup} does not answer; asking on",
                )
        if self._rendezvous.address is not None:
            question = puncher.encode(puncher.Client(self._key, self.mark))
            route = Route(attempt.endpoint, self._rendezvous.address)
            self._tools.outbox.send(route, question)

    def _ask_other_port(self) -> None:
        """While a path won't come up, find out what this end's NAT has to do with it."""
        if self._attempts and self._rendezvous.address is not None:
            route = Route(self._attempts[-1].endpoint, self._rendezvous.address)
            self.mapping.ask(route, self.mark, self._tools.outbox)

    def _say_second(self, attempt: _Attempt, now: float) -> None:
        handshake = attempt.handshake
        if handshake is None or attempt.named is None:
            return
        if handshake.gave_up(now):
            attempt.handshake = None
            self._next_attempt = now + self._patience()
        elif handshake.due(now):
            second = puncher.encode(puncher.Handshake(2, self.mark))
            self._tools.outbox.send(Route(attempt.endpoint, attempt.named), second)

    # Inner

    def _patience(self) -> float:
        return min(_FIRST_PATIENCE * 2.0 ** min(self._number - 1, 8), _LONGEST_PATIENCE)

    def _attempt_of(self, endpoint: Endpoint) -> Optional[_Attempt]:
        return next((a for a in self._attempts if a.endpoint is endpoint), None)

    def _abandon(self, attempt: _Attempt) -> None:
        self._attempts.remove(attempt)
        if self.checks is not None:
            self.checks.drop(attempt.endpoint)
        self._tools.outbox.close(attempt.endpoint)

    def _decode(self, datagram: memoryview) -> Optional[puncher.Message]:
        try:
            return puncher.decode(bytes(datagram))
        except Malformed:
            self._tools.counters["dropped: malformed"] += 1
            return None
