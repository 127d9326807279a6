"""The helper: publishes services of firewalled hosts at its own ports, tag by tag.

A service's exposer makes itself known by keepalives. Whoever else sends something to the
service's port is a connectee: it gets a tag, and its datagrams go to the exposer with the tag in
front; what the exposer sends with a tag goes to the connectee that has it. This is what each
worker does; which exposer is whose the registrar says.
"""

from __future__ import annotations

import logging
from collections import Counter
from typing import Callable, Dict, List, Optional, Sequence, Tuple

from udppunch import address
from udppunch.address import Address
from udppunch.config.roles import HelperConfig
from udppunch.contract import Batch, Burst, Endpoint, Lookup, Outbox, Piece, Route, word
from udppunch.notices import TRACE, Notices, event
from udppunch.proto.expose.access import AccessLog
from udppunch.proto.expose.admission import COMPLAINTS, Admission, Kind
from udppunch.proto.expose.connectees import Connectees
from udppunch.proto.expose.figures import Figures
from udppunch.proto.expose.service import Memory, Service, proxy_head
from udppunch.proto.expose.tags import Holder, Shared
from udppunch.proto.expose.trains import SIGNED_WORD, untag
from udppunch.proto.limiter import Limiter
from udppunch.wire import expose, registrar
from udppunch.wire.registrar import Claim, Peer

log = logging.getLogger(__name__)

_SWEEP = 1.0
_SPREAD = 40_503  # so that the next process id is far away


class Helper:
    """`ask` is how the registrar is told things; it answers by calls of `told`, and `hear` makes
    those happen that are due."""

    def __init__(
        self,
        config: HelperConfig,
        outbox: Outbox,
        ask: Callable[[registrar.Message, float], None],
        memory: Memory,
        worker: int = 0,
        pid: int = 0,
        hear: Callable[[], None] = lambda: None,
    ) -> None:
        self.counters: "Counter[str]" = Counter()
        self._config = config
        self._outbox = outbox
        self._ask = ask
        self._hear = hear
        self._memory = memory
        self._worker = worker
        self._pid = pid
        self._notices = Notices(log)
        self._newcomers = Limiter(config.rate, 2 * config.rate)
        self._admission = Admission(config.key, memory.secret, config.rate)
        self._figures = Figures(memory.figures, worker, memory.workers)
        self._services: List[Service] = []
        self._by_exposer: Dict[Address, Service] = {}
        self._listeners: List[Endpoint] = []
        self._confirmations: Dict[str, Tuple[Route, bytes]] = {}  # by the name of the service
        self._next_sweep: Optional[float] = None
        self._listening = False
        self._kept = False
        self._access = AccessLog(config.transparent_log)

    def configure(self, config: HelperConfig) -> None:
        """The password and the limits, read anew."""
        self._config = config
        self._newcomers = Limiter(config.rate, 2 * config.rate)
        self._admission = Admission(config.key, self._memory.secret, config.rate)
        for service in self._services:
            service.connectees.most = config.max_clients

    def keep(self) -> None:
        """The next process goes on with what there is: nobody leaves."""
        self._kept = True

    def start(self, now: float) -> None:
        self._next_sweep = now + _SWEEP
        names = [("", listen) for listen in self._config.listen] + list(self._config.name)
        for name, bind in names:
            service = self._named(name) or self._new_service(name, now)
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
            if not self._listening:
                # Whoever was told that may have gone without an answer.
                self._ask(registrar.Ready(self._pid), now)

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
        service: Service = burst.endpoint.owner
        exposed = None if service.name else self._by_exposer.get(burst.source)
        position, _, segment = burst.piece
        if segment < len(burst.view):
            if exposed is not None and self._train_from_exposer(exposed, burst, now):
                return
            if exposed is None and self._train_from_connectee(service, burst, now):
                return
        for datagram in burst.datagrams():
            size = len(datagram)
            piece = (position, size, size)
            position += segment
            if not service.name and self._is_keepalive(datagram):
                self._keepalive(bytes(datagram), burst, now)
            elif exposed is not None:
                self._from_exposer(exposed, datagram, piece, now)
            else:
                self._from_connectee(service, burst, piece, now)

    def receive_batch(self, batch: Batch, now: float) -> None:
        """Payload of who is known, without a detour for each datagram."""
        service: Service = batch.endpoint.owner
        to_exposer, prefix = service.to_exposer, self._outbox.prefix
        exposers, find = self._by_exposer, service.connectees.find
        locals_, carried = batch.locals, service.from_connectees
        for index, (source, piece, start) in enumerate(
            zip(batch.sources, batch.pieces, batch.words)
        ):
            _, length, segment = piece
            if source in exposers:
                if not self._returns(exposers[source], service, piece, start, now):
                    batch.singly(index)
                continue
            if to_exposer is None or start == SIGNED_WORD or not length or length > segment:
                batch.singly(index)
                continue
            holder = find(source, locals_[index] if locals_ is not None else b"", now)
            if holder is None:
                batch.singly(index)
                continue
            holder.datagrams += 1
            holder.octets += length
            carried[0] += 1
            carried[1] += length
            prefix(to_exposer, piece, holder.head)

    def _returns(self, exposed: Service, at: Service, piece: Piece, start: int, now: float) -> bool:
        """Sends back a lone datagram of an exposer, if its tag is a known one."""
        _, length, segment = piece
        way = exposed.ways_back.get(start)
        if way is None or length != segment or length < expose.TAG_LENGTH or at.name:
            return False
        shared = exposed.shared
        if shared.version(way.tag) != way.version:
            return False
        shared.answered[way.tag] = int(now) or 1
        exposed.from_exposer[0] += 1
        exposed.from_exposer[1] += length - expose.TAG_LENGTH
        self._outbox.strip(way.route, piece, expose.TAG_LENGTH)
        return True

    def expire(self, now: float) -> None:
        self._next_sweep = now + _SWEEP
        for service in self._services:
            service.connectees.expire(now, self._config.idle)
            service.count(self._figures, self.counters, now)
            self._tell_of_the_gone(service, now)

    def deadline(self) -> Optional[float]:
        return self._next_sweep

    def stop(self, now: float) -> None:
        """There is no word for it on this wire: exposers notice by the silence."""
        for service in self._services:
            service.count(self._figures, self.counters, now)
            if not self._kept:
                service.connectees.gone += service.connectees.all()
            self._tell_of_the_gone(service, now)

    def status(self) -> str:
        return f"worker {self._worker + 1}: {self.gauges()['connectees']} connectees"

    def gauges(self) -> Dict[str, int]:
        return {"connectees": sum(len(service.connectees) for service in self._services)}

    def _tell_of_the_gone(self, service: Service, now: float) -> None:
        gone = service.connectees.gone
        for holder in gone:
            self._access.left(str(service), holder, now)
        self.counters["connectees gone"] += len(gone)
        gone.clear()

    # Services and their exposers

    def _named(self, name: str) -> Optional[Service]:
        return next((service for service in self._services if service.name == name), None)

    def _new_service(self, name: str, now: float) -> Service:
        number = len(self._services)
        shared = Shared(self._memory.tags[number])
        # Not where a killed predecessor began, whose tags the exposer still knows.
        start = int.from_bytes(self._memory.secret[:2], "big") + self._pid * _SPREAD
        connectees = Connectees(
            shared,
            self._memory.counts[number],
            self._worker,
            self._config.max_clients,
            start,
            lambda who: proxy_head(self._config.proxy_protocol, service.endpoints[0], who),
            now,
        )
        service = Service(number, name, shared, connectees)
        self._services.append(service)
        return service

    def _publish(self, service: Service, peer: Peer) -> None:
        former = service.exposer
        if former is not None and self._by_exposer.get(former.address) is service:
            del self._by_exposer[former.address]
        other = self._by_exposer.get(peer.address)
        if other is not None and other is not service:
            other.retire()  # whatever is at that address speaks for one service
        service.publish(peer, self._listeners[peer.listener])
        self._by_exposer[peer.address] = service
        route, answer = self._confirmations.pop(service.name, (None, b""))
        if route is not None and route.destination == peer.address:
            self._outbox.send(route, answer)

    def _is_keepalive(self, datagram: memoryview) -> bool:
        if self._config.key:
            return expose.looks_signed(datagram)
        return not len(datagram)

    def _keepalive(self, datagram: bytes, burst: Burst, now: float) -> None:
        source = burst.source
        known = source in self._by_exposer
        if not self._config.key:
            self._figures.add("simple_keepalives")
            if not known and not self._newcomers.allows(address.prefix(source), now):
                self._drop("keepalives over their rate", source, now)
                return
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
        if verdict.kind is Kind.INVALID:
            self.counters["dropped: wrong signature"] += 1
        if verdict.kind in COMPLAINTS:
            name, sentence = COMPLAINTS[verdict.kind]
            self._notices.say(now, logging.WARNING, name, sentence % address.text(source))
        answer = verdict.answer
        if verdict.kind is Kind.STATISTICS:
            for service in self._services:
                service.count(self._figures, self.counters, now)
            answer = expose.encode_statistics(self._figures.totals(self._memory.ahead()))
        back = Route(burst.endpoint, source, burst.local)
        if verdict.kind is Kind.PROVED:  # answered when all workers know, of whom any is asked
            self._confirmations[verdict.name] = back, answer
        elif answer:
            self._outbox.send(back, answer)
        if verdict.kind is Kind.REFRESHED:
            self._figures.add(Kind.PROVED.value)
        if verdict.kind in (Kind.PROVED, Kind.REFRESHED):
            self._figures.note("last_ka_s", now)
            self._claim(verdict.name, burst, now)

    def _exposer_of(self, name: str) -> Optional[Address]:
        service = self._named(name)
        if service is None:
            raise KeyError(name)
        return service.exposer.address if service.exposer is not None else None

    def _claim(self, name: str, burst: Burst, now: float) -> None:
        service = self._named(name)
        assert service is not None
        at = self._listeners.index(burst.endpoint)
        peer = Peer(burst.source, self._worker, at, burst.local)
        if peer != service.exposer:  # it may have asked another of this host's addresses before
            self._ask(Claim(service.number, peer), now)

    # Payload

    def _train_from_exposer(self, service: Service, burst: Burst, now: float) -> bool:
        """Sends back a train whose tags are all known; whether it was such a one."""
        words = burst.words()
        if not words or SIGNED_WORD in words:
            return False
        version = service.shared.version
        ways = {}
        for start in set(words):
            way = service.ways_back.get(start)
            if way is None or version(way.tag) != way.version:
                return False
            service.shared.answered[way.tag] = int(now) or 1
            ways[start] = way.route
        untag(self._outbox, burst, words, ways)
        service.from_exposer[0] += len(words)
        service.from_exposer[1] += len(burst.view) - expose.TAG_LENGTH * len(words)
        return True

    def _from_exposer(
        self, service: Service, datagram: memoryview, piece: Piece, now: float
    ) -> None:
        if len(datagram) < expose.TAG_LENGTH:
            self._figures.add("dwarfs")
            return
        (tag,) = expose.TAG.unpack_from(datagram)
        way = service.way_back(word(bytes(datagram[: expose.TAG_LENGTH])), tag)
        if way is None:
            self._figures.add("ch_not_founds")
            return
        service.shared.answered[tag] = int(now) or 1
        service.from_exposer[0] += 1
        service.from_exposer[1] += len(datagram) - expose.TAG_LENGTH
        self._outbox.strip(way.route, piece, expose.TAG_LENGTH)

    def _train_from_connectee(self, service: Service, burst: Burst, now: float) -> bool:
        """Passes a train on, if it is of one who is known, and none of it a keepalive."""
        to_exposer = service.to_exposer
        if to_exposer is None or SIGNED_WORD in (burst.words() or (SIGNED_WORD,)):
            return False
        holder = service.connectees.find(burst.source, burst.local, now)
        if holder is None:
            return False
        self._pass_on(service, to_exposer, holder, burst.piece)
        return True

    def _pass_on(self, service: Service, to_exposer: Route, holder: Holder, piece: Piece) -> None:
        _, length, segment = piece
        datagrams = 1 if length <= segment else -(-length // segment)
        holder.datagrams += datagrams
        holder.octets += length
        service.from_connectees[0] += datagrams
        service.from_connectees[1] += length
        self._outbox.prefix(to_exposer, piece, holder.head)

    def _from_connectee(self, service: Service, burst: Burst, piece: Piece, now: float) -> None:
        if service.to_exposer is None:
            self._hear()
        source, to_exposer = burst.source, service.to_exposer
        if to_exposer is None:
            self._figures.add("dropped_no_client_address")
            return
        holder = service.connectees.find(source, burst.local, now)
        if holder is None:
            refusal = ""
            if address.port(source) in address.ANSWERING_PORTS:
                refusal = "source never a connectee"
            elif not self._newcomers.allows(address.prefix(source), now):
                refusal = "newcomers over their rate"
            else:
                holder = service.connectees.admit(source, burst.local, now)
            if holder is None:
                self._drop(refusal or "all tags in use", source, now)
                return
            self._figures.add("new_connectees")
            self.counters["connectees new"] += 1
            self._access.came(str(service), holder, now)
        self._pass_on(service, to_exposer, holder, piece)

    def _drop(self, reason: str, source: Address, now: float) -> None:
        self.counters[f"dropped: {reason}"] += 1
        about = f"dropped a datagram of {address.text(source)}: {reason}"
        self._notices.say(now, TRACE, "dropped", about, about=reason)
