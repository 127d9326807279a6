"""The rendezvous: tells a client and the server of a key where the other one is.

It carries no payload and keeps no secret but the keys it is asked for. Marked ends (see
`wire.puncher`) get each other's mark with the address; towards p2p_udp_puncher it answers
exactly once what is asked once, since that ends its process on anything it did not expect.

On the same sockets it answers anybody's STUN requests, which the magic cookie tells apart.
"""

from __future__ import annotations

import logging
from collections import Counter
from typing import Callable, Dict, List, Optional, Sequence

from udppunch import address
from udppunch.address import Address
from udppunch.config.roles import RendezvousConfig
from udppunch.contract import Burst, Endpoint, Lookup, Outbox, Route
from udppunch.notices import Notices, event
from udppunch.proto.gate import Gate
from udppunch.proto.limiter import TokenBucket
from udppunch.proto.puncher.registry import Introduction, Registered, Registry
from udppunch.proto.stun import service as stun_service
from udppunch.proto.stun.service import StunService
from udppunch.wire import marks, puncher, stun
from udppunch.wire.malformed import Malformed

log = logging.getLogger(__name__)

_LONGEST = puncher.KEY_MAXIMUM + 2 + 256
_SWEEP = 5.0
# Introductions a second, and at once, that are worth a line of the log.
_LINES_RATE = 1.0
_LINES_BURST = 20.0


class Rendezvous:
    def __init__(
        self, config: RendezvousConfig, outbox: Outbox, random: Callable[[int], bytes]
    ) -> None:
        self.counters: "Counter[str]" = Counter()
        self._outbox = outbox
        self._mark = marks.new(random(marks.RANDOM))
        self._registry = Registry(config.max_keys)
        self._gate = Gate(config.rate, _LONGEST, self.counters, log)
        self._notices = Notices(log)
        # Whoever has a key of his own can have clients of it introduced as often as he likes.
        self._lines = TokenBucket(_LINES_RATE, _LINES_BURST)
        self._endpoints: List[Endpoint] = [
            Endpoint("rendezvous", listen, asked_address=True, essential=True)
            for listen in config.listen
        ]
        # At which ends ask where they are seen, to know their NAT. Any port will do.
        self._other = Endpoint(
            "other port", address.with_port(config.listen[0], 0), asked_address=True
        )
        self._stun: Optional[StunService] = None
        if config.stun:
            gate = Gate(config.rate, stun_service.LONGEST, self.counters, log, ipv4_only=False)
            gate.own = self._gate.own
            self._stun = StunService(self._endpoints, outbox, gate)
        self._next_sweep: Optional[float] = None

    def start(self, now: float) -> None:
        for endpoint in [*self._endpoints, self._other, *(self._stun.wanted if self._stun else ())]:
            self._outbox.open(endpoint)
        self._next_sweep = now + _SWEEP

    def opened(self, endpoint: Endpoint, now: float) -> None:
        assert endpoint.local is not None
        self._gate.own.append(endpoint.local)
        where = address.text(endpoint.local)
        if endpoint in self._endpoints:
            event(log, logging.INFO, "listening", f"rendezvous listens on {where}", address=where)
        elif endpoint is not self._other:
            event(log, logging.INFO, "stun", f"STUN is answered at {where}, too", address=where)

    def failed(self, endpoint: Endpoint, reason: str, now: float) -> None:
        """The other port may be missing, of which ends are not told then; and what STUN wants
        besides."""
        if self._stun is not None and self._stun.failed(endpoint):
            log.warning("%s; STUN clients get no answers from a second address", reason)

    def resolved(self, lookup: Lookup, found: Sequence[Address], reason: str, now: float) -> None:
        """It asks for no names."""

    def refused(self, endpoint: Endpoint, now: float) -> None:
        """Its endpoints are not connected."""

    def receive(self, burst: Burst, now: float) -> None:
        for datagram in burst.datagrams():
            if self._stun is not None and stun.is_stun(datagram):
                self.counters["STUN requests"] += self._stun.receive(burst, datagram, now)
                continue
            if self._gate.refuses(burst, datagram, self._registry.knows(burst.source), now):
                continue
            try:
                message = puncher.decode(bytes(datagram))
            except Malformed as error:
                self._gate.drop(f"malformed ({error})", burst.source, now)
                continue
            if message.mark and len(datagram) < puncher.PADDED:
                self._gate.drop("shorter than its answer", burst.source, now)
                continue
            self._answer(message, burst, now)

    def expire(self, now: float) -> None:
        self._registry.expire(now)
        self._next_sweep = now + _SWEEP

    def deadline(self) -> Optional[float]:
        return self._next_sweep

    def stop(self, now: float) -> None:
        """There is no word for it on this wire: servers notice and register again elsewhere."""

    def status(self) -> str:
        return f"{len(self._registry)} keys, {self.counters['introduced']} introductions"

    def gauges(self) -> Dict[str, int]:
        return {"keys": len(self._registry)}

    def _answer(self, message: puncher.Message, burst: Burst, now: float) -> None:
        if isinstance(message, puncher.KeepAlive) and message.mark:
            route = Route(burst.endpoint, burst.source, burst.local)
            self._send(route, puncher.Ok(self._mark, burst.source, self._other_port))
        elif burst.endpoint not in self._endpoints:
            self._gate.drop("not for this port", burst.source, now)
        elif isinstance(message, puncher.KeepAlive):
            self._keepalive(burst, now)
        elif isinstance(message, puncher.Server):
            self._register(message, burst, now)
        elif isinstance(message, puncher.Client):
            self._introduce(message, burst, now)
        else:
            # What a rendezvous says itself: answering an answer would start a loop.
            self._gate.drop("not a request", burst.source, now)

    def _keepalive(self, burst: Burst, now: float) -> None:
        self.counters["keepalives"] += 1
        again = self._registry.heard(burst.source, now)
        if again is not None:
            self._punch_server(again)

    def _register(self, message: puncher.Server, burst: Burst, now: float) -> None:
        route = Route(burst.endpoint, burst.source, burst.local)
        outcome = self._registry.register(message.key, message.mark, route, burst.source, now)
        self.counters[outcome.value] += 1
        where = address.text(burst.source)
        event(log, logging.DEBUG, "register", f"server {where}: {outcome.value}", server=where)
        if outcome is Registered.YES:
            mark = self._mark if message.mark else b""
            self._send(route, puncher.Ok(mark, burst.source, self._other_port))
        elif outcome is Registered.TAKEN:
            self._send(route, puncher.Error(puncher.Refusal.DUPLICATE_KEY))
        elif outcome is Registered.FULL:
            self._notices.say(now, logging.WARNING, "full", "all keys are in use: raise --max-keys")

    def _introduce(self, message: puncher.Client, burst: Burst, now: float) -> None:
        source = burst.source
        known = self._registry.introduced(message.key, message.mark, source, now)
        first = known is None
        if known is None:
            route = Route(burst.endpoint, source, burst.local)
            known = self._registry.introduce(message.key, message.mark, route, source, now)
            if known is None:
                self.counters["no server"] += 1
                self._send(route, puncher.Error(puncher.Refusal.NO_SERVER))
                return
            self.counters["introduced"] += 1
            client, server = address.text(source), address.text(known.server.address)
            event(
                log,
                logging.INFO if self._lines.take(now) else logging.DEBUG,
                "introduced",
                f"client {client} meets server {server}",
                client=client,
                server=server,
            )
        # The client before the server, whose handshake 1 would else overtake this and end an
        # original client.
        self._punch_client(known, message)
        if first or known.server.mark:
            # Our server takes a repeated Punch for what it is; the original would give up.
            self._punch_server(known)

    def _punch_server(self, introduction: Introduction) -> None:
        server = introduction.server
        client = introduction.client.destination
        assert client is not None
        mark = introduction.client_mark if server.mark else b""
        punch = puncher.Punch(client, mark, server.address, self._other_port)
        self._send(server.route, punch)

    def _punch_client(self, introduction: Introduction, message: puncher.Client) -> None:
        mark = introduction.server.mark if message.mark else b""
        seen = introduction.client.destination
        server = introduction.server.address
        self._send(introduction.client, puncher.Punch(server, mark, seen, self._other_port))

    @property
    def _other_port(self) -> int:
        return address.port(self._other.local) if self._other.local is not None else 0

    def _send(self, route: Route, message: puncher.Message) -> None:
        self._outbox.send(route, puncher.encode(message))
