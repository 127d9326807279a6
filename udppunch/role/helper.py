"""The helper: publishes services of firewalled hosts at its own ports, tag by tag.

A service's exposer makes itself known by keepalives. Whoever else sends something to the
service's port is a connectee: it gets a tag, and its datagrams go to the exposer with the tag in
front; what the exposer sends with a tag goes to the connectee that has it. This is what each
worker does; which exposer is whose the registrar says.
"""

from __future__ import annotations

import logging
from collections import Counter
from typing import Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

from udppunch import address
from udppunch.address import Address
from udppunch.config.roles import HelperConfig
from udppunch.contract import Batch, Burst, Endpoint, Lookup, Outbox, Piece, Route, word
from udppunch.notices import TRACE, Notices, event
from udppunch.proto.admission import Admission, Kind
from udppunch.proto.connectees import Connectees
from udppunch.proto.figures import Figures
from udppunch.proto.limiter import Limiter
from udppunch.proto.tags import Connectee, Shared
from udppunch.wire import expose, proxy, registrar
from udppunch.wire.registrar import Claim, Peer

log = logging.getLogger(__name__)

# Services that answer anything: none of them is ever a connectee (Loop DoS, CVE-2024-2169).
_NEVER_CONNECTEES = frozenset({0, 7, 13, 17, 19, 53, 69, 123})
_SIGNED_WORD = word(expose.SIGNED[: expose.TAG_LENGTH])
_SWEEP = 1.0


class _Service:
    """What is published at one or several endpoints, and the exposer beside it."""

    def __init__(self, number: int, name: str, shared: Shared, connectees: Connectees) -> None:
        self.number = number
        self.name = name
        self.shared = shared
        self.connectees = connectees
        self.endpoints: List[Endpoint] = []
        self.exposer: Optional[Peer] = None
        self.to_exposer: Optional[Route] = None
        # Where what the exposer sends goes, by the tag as `Batch.words` has it, with the
        # version of the tag's slot that this was read from.
        self.routes: Dict[int, Tuple[int, Route]] = {}
        self.counted = [0, 0]


class HelperMemory(NamedTuple):
    """What the workers of a helper share: for each service its tags and how many each has."""

    workers: int
    tags: Sequence[memoryview]
    counts: Sequence[memoryview]
    figures: memoryview
    secret: bytes


class Helper:
    """`ask` is how the registrar is told things; it answers by calls of `told`."""

    def __init__(
        self,
        config: HelperConfig,
        outbox: Outbox,
        ask: Callable[[registrar.Message, float], None],
        memory: HelperMemory,
        worker: int = 0,
        pid: int = 0,
    ) -> None:
        self.counters: "Counter[str]" = Counter()
        self._config = config
        self._outbox = outbox
        self._ask = ask
        self._memory = memory
        self._worker = worker
        self._pid = pid
        self._notices = Notices(log)
        self._newcomers = Limiter(config.rate, 2 * config.rate)
        self._admission = Admission(config.key, memory.secret, config.rate)
        self._figures = Figures(memory.figures, worker, memory.workers)
        self._services: List[_Service] = []
        self._by_exposer: Dict[Address, _Service] = {}
        self._listeners: List[Endpoint] = []
        self._next_sweep: Optional[float] = None
        self._listening = False

    def configure(self, config: HelperConfig) -> None:
        """The password and the limits, read anew."""
        self._config = config
        self._newcomers = Limiter(config.rate, 2 * config.rate)
        self._admission = Admission(config.key, self._memory.secret, config.rate)

    def start(self, now: float) -> None:
        self._next_sweep = now + _SWEEP
        names = [("", listen) for listen in self._config.listen] + list(self._config.name)
        for name, bind in names:
            service = self._named(name)
            if service is None:
                service = self._new_service(name, now)
            endpoint = Endpoint("helper", bind, asked_address=True, essential=True, owner=service)
            service.endpoints.append(endpoint)
            self._listeners.append(endpoint)
        self._ask(registrar.Ready(self._pid), now)

    def told(self, message: registrar.Message, now: float) -> None:
        """The registrar said something."""
        if isinstance(message, registrar.Publish):
            self._publish(self._services[message.service], message.peer)
        elif isinstance(message, registrar.Complete):
            if not self._listening:
                self._listening = True
                for endpoint in self._listeners:
                    self._outbox.open(endpoint)
        elif isinstance(message, registrar.Recall):
            for service in self._services:
                if service.exposer is not None:
                    self._ask(Claim(service.number, service.exposer), now)
            self._ask(registrar.Held(self._pid), now)

    def opened(self, endpoint: Endpoint, now: float) -> None:
        assert endpoint.local is not None
        if self._worker:
            return
        where, name = address.text(endpoint.local), endpoint.owner.name
        what = f"{name or 'the service'} is published at {where}"
        event(log, logging.INFO, "listening", what, address=where, service=name)

    def failed(self, endpoint: Endpoint, reason: str, now: float) -> None:
        """All its endpoints are essential."""

    def resolved(self, lookup: Lookup, found: Sequence[Address], reason: str, now: float) -> None:
        """It asks for no names."""

    def refused(self, endpoint: Endpoint, now: float) -> None:
        """Its endpoints are not connected."""

    def receive(self, burst: Burst, now: float) -> None:
        endpoint = burst.endpoint
        service: _Service = endpoint.owner
        exposed = self._by_exposer.get(burst.source)
        position, _, segment = burst.piece
        for datagram in burst.datagrams():
            size = len(datagram)
            piece = (position, size, size)
            position += segment
            if not service.name and self._is_keepalive(datagram):
                self._keepalive(bytes(datagram), burst, now)
            elif exposed is not None and not service.name:
                self._from_exposer(exposed, datagram, piece, now)
            else:
                self._from_connectee(service, burst, piece, now)

    def receive_batch(self, batch: Batch, now: float) -> None:
        """Payload of who is known, without a detour for each datagram."""
        service: _Service = batch.endpoint.owner
        to_exposer, prefix = service.to_exposer, self._outbox.prefix
        exposers, find = self._by_exposer, service.connectees.find
        locals_ = batch.locals
        for index, (source, piece, start) in enumerate(
            zip(batch.sources, batch.pieces, batch.words)
        ):
            if to_exposer is None or source in exposers or start == _SIGNED_WORD or not piece[1]:
                batch.singly(index)
                continue
            entry = find(source, locals_[index] if locals_ is not None else b"", now)
            if entry is None:
                batch.singly(index)
                continue
            prefix(to_exposer, piece, entry.head)

    def expire(self, now: float) -> None:
        self._next_sweep = now + _SWEEP
        for service in self._services:
            freed = service.connectees.expire(now, self._config.idle)
            if freed:
                self.counters["connectees idle"] += freed
            self._count(service)

    def deadline(self) -> Optional[float]:
        return self._next_sweep

    def stop(self, now: float) -> None:
        """There is no word for it on this wire: exposers notice by the silence."""
        for service in self._services:
            self._count(service)

    def status(self) -> str:
        return f"worker {self._worker + 1}: {self.gauges()['connectees']} connectees"

    def gauges(self) -> Dict[str, int]:
        return {"connectees": sum(len(service.connectees) for service in self._services)}

    # Services and their exposers

    def _named(self, name: str) -> Optional[_Service]:
        return next((service for service in self._services if service.name == name), None)

    def _new_service(self, name: str, now: float) -> _Service:
        number = len(self._services)
        shared = Shared(self._memory.tags[number])
        start = int.from_bytes(self._memory.secret[:2], "big")
        connectees = Connectees(
            shared,
            self._memory.counts[number],
            self._worker,
            self._config.max_clients,
            start,
            lambda connectee: self._head(number, connectee),
            now,
        )
        service = _Service(number, name, shared, connectees)
        self._services.append(service)
        return service

    def _head(self, number: int, connectee: Connectee) -> bytes:
        """What goes between the tag and the payload: the connectee's address, where wanted."""
        if not self._config.proxy_protocol:
            return b""
        local = self._services[number].endpoints[0].local
        assert local is not None
        asked = Address(connectee.local + local[-2:]) if connectee.local else local
        return proxy.header(connectee.address, asked)

    def _publish(self, service: _Service, peer: Peer) -> None:
        if service.exposer is not None:
            self._by_exposer.pop(service.exposer.address, None)
        self._count(service)
        service.exposer = peer
        endpoint = self._listeners[peer.listener]
        service.to_exposer = Route(endpoint, peer.address, peer.local)
        service.counted[0] = 0
        self._by_exposer[peer.address] = service

    def _is_keepalive(self, datagram: memoryview) -> bool:
        if self._config.key:
            return expose.looks_signed(datagram)
        return not len(datagram)

    def _keepalive(self, datagram: bytes, burst: Burst, now: float) -> None:
        source = burst.source
        known = source in self._by_exposer
        if not self._config.key:
            self._figures.add("simple_keepalives")
            if not known:
                self._figures.add("simple_address_switches")
                self._claim("", burst, now)
            self._figures.note("last_ka_s", now)
            return
        self._figures.add("signed_looking")
        verdict = self._admission.judge(datagram, source, self._exposer_of, known, now)
        if verdict.kind.value in expose.STATISTICS:
            self._figures.add(verdict.kind.value)
        else:
            self.counters[f"dropped: {verdict.kind.value}"] += 1
        if verdict.kind is Kind.UNKNOWN_NAME:
            what = f"an exposer at {address.text(source)} has a name that is not published"
            self._notices.say(now, logging.WARNING, "unknown-name", what)
        answer = verdict.answer
        if verdict.kind is Kind.STATISTICS:
            answer = expose.encode_statistics(self._figures.totals(now))
        if answer:
            self._outbox.send(Route(burst.endpoint, source, burst.local), answer)
        if verdict.kind in (Kind.PROVED, Kind.REFRESHED):
            self._figures.note("last_ka_s", now)
        if verdict.kind is Kind.PROVED:
            self._claim(verdict.name, burst, now)

    def _exposer_of(self, name: str) -> Optional[Address]:
        service = self._named(name)
        if service is None:
            raise KeyError(name)
        return service.exposer.address if service.exposer is not None else None

    def _claim(self, name: str, burst: Burst, now: float) -> None:
        service = self._named(name)
        assert service is not None
        listener = self._listeners.index(burst.endpoint)
        peer = Peer(burst.source, self._worker, listener, burst.local)
        self._ask(Claim(service.number, peer), now)

    # Payload

    def _from_exposer(
        self, service: _Service, datagram: memoryview, piece: Piece, now: float
    ) -> None:
        if len(datagram) < expose.TAG_LENGTH:
            self._figures.add("dwarfs")
            return
        start = word(bytes(datagram[: expose.TAG_LENGTH]))
        (tag,) = expose.TAG.unpack_from(datagram)
        version, route = service.routes.get(start, (0, None))
        if route is None or service.shared.version(tag) != version:
            route = self._route_of(service, start, tag)
            if route is None:
                self._figures.add("ch_not_founds")
                return
        service.shared.answered[tag] = max(1, int(now))
        self._outbox.strip(route, piece, expose.TAG_LENGTH)

    def _route_of(self, service: _Service, start: int, tag: int) -> Optional[Route]:
        version = service.shared.version(tag)
        connectee = service.shared.read(tag)
        if connectee is None:
            return None
        endpoint = service.endpoints[0]
        for one in service.endpoints[1:]:
            if len(one.bind) == len(connectee.address):
                endpoint = one
        route = Route(endpoint, connectee.address, connectee.local)
        service.routes[start] = (version, route)
        return route

    def _from_connectee(self, service: _Service, burst: Burst, piece: Piece, now: float) -> None:
        source, to_exposer = burst.source, service.to_exposer
        if to_exposer is None:
            self._figures.add("dropped_no_client_address")
            return
        entry = service.connectees.find(source, burst.local, now)
        if entry is None:
            if address.port(source) in _NEVER_CONNECTEES:
                self._drop("source never a connectee", source, now)
                return
            if not self._newcomers.allows(address.prefix(source), now):
                self._drop("newcomers over their rate", source, now)
                return
            entry = service.connectees.admit(source, burst.local, now)
            if entry is None:
                self._drop("all tags in use", source, now)
                return
            self._figures.add("new_connectees")
        self._outbox.prefix(to_exposer, piece, entry.head)

    def _count(self, service: _Service) -> None:
        """Adds what passed since the last time to the figures."""
        if service.to_exposer is None:
            return
        route = service.to_exposer
        self._figures.add("from_connectee_msgs", route.datagrams - service.counted[0])
        service.counted[0] = route.datagrams

    def _drop(self, reason: str, source: Address, now: float) -> None:
        self.counters[f"dropped: {reason}"] += 1
        about = f"dropped a datagram of {address.text(source)}: {reason}"
        self._notices.say(now, TRACE, "dropped", about, about=reason)
