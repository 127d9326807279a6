"""The holepunch server: introduces two peers to each other, of whom one knows the other's name.

Marked peers (see `wire.holepunch`) get each other's mark with the address. A peer of hole-punch
ends on an answer it does not expect, so each of its requests gets exactly one.
"""

from __future__ import annotations

import logging
from collections import Counter
from typing import Callable, Dict, List, Optional, Sequence

from udppunch import address
from udppunch.address import Address
from udppunch.config.roles import HolepunchConfig
from udppunch.contract import Burst, Endpoint, Lookup, Outbox, Route
from udppunch.notices import Notices, event
from udppunch.proto.gate import Gate
from udppunch.proto.holepunch.registry import EXPIRES, Registration, Registry
from udppunch.proto.limiter import TokenBucket
from udppunch.wire import holepunch, marks
from udppunch.wire.malformed import Malformed

log = logging.getLogger(__name__)

_LONGEST = holepunch.PADDED + 256
_SWEEP = 60.0
# A second copy of an unmarked Register within this time is the network's doing: answered twice,
# a peer of hole-punch that goes on to ask would take the second answer for a wrong one, and end.
_DUPLICATE_WITHIN = 1.0
# Introductions a second, and at once, that are worth a line of the log.
_LINES_RATE = 1.0
_LINES_BURST = 20.0


class Holepunch:
    def __init__(
        self, config: HolepunchConfig, outbox: Outbox, random: Callable[[int], bytes]
    ) -> None:
        self.counters: "Counter[str]" = Counter()
        self._outbox = outbox
        self._mark = marks.new(random(marks.RANDOM))
        self._registry = Registry(config.max_names)
        self._gate = Gate(config.rate, _LONGEST, self.counters, log)
        self._notices = Notices(log)
        self._lines = TokenBucket(_LINES_RATE, _LINES_BURST)
        self._endpoints: List[Endpoint] = [
            Endpoint("holepunch", listen, asked_address=True, essential=True)
            for listen in config.listen
        ]
        self._next_sweep: Optional[float] = None

    def start(self, now: float) -> None:
        for endpoint in self._endpoints:
            self._outbox.open(endpoint)
        self._next_sweep = now + _SWEEP

    def opened(self, endpoint: Endpoint, now: float) -> None:
        assert endpoint.local is not None
        self._gate.own.append(endpoint.local)
        where = address.text(endpoint.local)
        event(log, logging.INFO, "listening", f"holepunch listens on {where}", address=where)

    def failed(self, endpoint: Endpoint, reason: str, now: float) -> None:
        """All its endpoints are essential."""

    def resolved(self, lookup: Lookup, found: Sequence[Address], reason: str, now: float) -> None:
        """It asks for no names."""

    def refused(self, endpoint: Endpoint, now: float) -> None:
        """Its endpoints are not connected."""

    def receive(self, burst: Burst, now: float) -> None:
        for datagram in burst.datagrams():
            known = self._registry.at(burst.source) is not None
            if self._gate.refuses(burst, datagram, known, now):
                continue
            try:
                message = holepunch.decode(bytes(datagram))
            except Malformed as error:
                self._gate.drop(f"malformed ({error})", burst.source, now)
                continue
            asks = isinstance(message, (holepunch.Register, holepunch.Request))
            if asks and message.mark and len(datagram) < holepunch.PADDED:
                self._gate.drop("shorter than its answer", burst.source, now)
                continue
            self._answer(message, Route(burst.endpoint, burst.source, burst.local), now)

    def _answer(self, message: holepunch.Datagram, route: Route, now: float) -> None:
        source = route.destination
        assert source is not None
        if isinstance(message, holepunch.Register):
            self._register(message, route, source, now)
        elif isinstance(message, holepunch.Request):
            self._introduce(message, route, source, now)
        elif isinstance(message, holepunch.Unknown) and message.mark:
            self._registry.leave(source, message.mark)
        else:
            # What a server says itself: answering an answer would start a loop.
            self._gate.drop("not a request", source, now)

    def _register(
        self, message: holepunch.Register, route: Route, source: Address, now: float
    ) -> None:
        known = self._registry.at(source)
        again = known is not None and known.name == message.name
        if again and known is not None and not message.mark:
            if now - known.heard < _DUPLICATE_WITHIN:
                self._gate.drop("duplicate", source, now)
                return
        if not self._registry.register(message.name, message.mark, route, source, now):
            self.counters["name is taken"] += 1
            if message.mark:
                self._send(route, holepunch.RegisterAck(self._mark))
            return
        self.counters["registered"] += 1
        if not again:
            where = address.text(source)
            event(log, logging.DEBUG, "register", f"{message.name!r} is at {where}", peer=where)
        mark = self._mark if message.mark else b""
        self._send(route, holepunch.RegisterAck(mark, source))

    def _introduce(
        self, message: holepunch.Request, route: Route, source: Address, now: float
    ) -> None:
        asker = self._registry.at(source)
        asked = self._registry.named(message.name)
        if asker is None or asked is None or asked is asker:
            self.counters["unknown"] += 1
            self._send(route, holepunch.Unknown(self._mark if message.mark else b""))
            return
        self.counters["introduced"] += 1
        self._say_introduced(asker, asked, now)
        # The asker first, who would end if the other's first message overtook this.
        self._initiate(asker, asked)
        if self._gate.may_tell(asked.address, now):
            self._initiate(asked, asker)
        else:
            self.counters["introductions over their rate"] += 1

    def _initiate(self, receiver: Registration, other: Registration) -> None:
        mark = other.mark if receiver.mark else b""
        initiate = holepunch.Initiate(other.name, other.address, mark, receiver.address)
        self._send(receiver.route, initiate)

    def _say_introduced(self, asker: Registration, asked: Registration, now: float) -> None:
        where = [address.text(one.address) for one in (asker, asked)]
        event(
            log, logging.INFO if self._lines.take(now) else logging.DEBUG, "introduced",
            f"{asker.name!r} at {where[0]} meets {asked.name!r} at {where[1]}",
            asker=where[0], asked=where[1],
        )  # fmt: skip

    def _send(self, route: Route, message: holepunch.Datagram) -> None:
        self._outbox.send(route, holepunch.encode(message))

    def expire(self, now: float) -> None:
        self._registry.expire(now - EXPIRES)
        self._next_sweep = now + _SWEEP

    def deadline(self) -> Optional[float]:
        return self._next_sweep

    def stop(self, now: float) -> None:
        """There is no word for it on this wire: peers notice and register again elsewhere."""

    def status(self) -> str:
        return f"{len(self._registry)} names, {self.counters['introduced']} introductions"

    def gauges(self) -> Dict[str, int]:
        return {"names": len(self._registry)}
