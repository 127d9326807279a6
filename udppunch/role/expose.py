"""The exposer: stands beside a firewalled service and makes helpers publish it.

It keeps itself known to each helper, and gives each connectee that a helper tells it of, by a
tag, a socket of its own towards the service. It speaks with udpexposer's helper as with ours.
All these sockets are handed over to an exposer of the same service and helper that takes this
one's place: neither the helper nor the service notices. Their names say which they are.
"""

from __future__ import annotations

import logging
from collections import Counter
from typing import Callable, Dict, Iterable, List, Optional, Sequence

from udppunch import address
from udppunch.address import Address
from udppunch.config.roles import ExposeConfig
from udppunch.contract import Batch, Burst, Endpoint, Lookup, Outbox, Piece, Route, word
from udppunch.notices import TRACE, Notices, event
from udppunch.proto.destination import Destination
from udppunch.proto.expose.eviction import Eviction
from udppunch.proto.expose.handover import SocketNames
from udppunch.proto.expose.keepalives import Keepalives
from udppunch.proto.expose.trains import SIGNED_WORD, head_of, untag
from udppunch.wire import expose

log = logging.getLogger(__name__)

_SWEEP = 1.0
_MOST_WAITING = 32  # datagrams of a tag whose socket is not open yet


class _Helper:
    """A helper, the endpoint that talks to it, and the connectees it has told of."""

    def __init__(
        self, lookup: Lookup, outbox: Outbox, keepalives: Keepalives, names: SocketNames
    ) -> None:
        self.destination = Destination(lookup, outbox)
        self.keepalives = keepalives
        self.names = names
        self.inherited: List[int] = []  # tags whose sockets were handed over
        self.endpoint: Optional[Endpoint] = None
        self.route: Optional[Route] = None
        self.connectees: Dict[int, _Connectee] = {}  # by the tag as `Batch.words` has it
        self.eviction: Eviction[_Connectee] = Eviction(
            lambda connectee: connectee.answered, lambda connectee: connectee.seen
        )
        self.silence_said = False

    def __str__(self) -> str:
        return str(self.destination.lookup)


class _Connectee:
    """A tag, and the socket that stands for who has it."""

    __slots__ = (
        "helper", "head", "endpoint", "to_service", "waiting", "open", "seen", "carried",
        "answered",
    )  # fmt: skip

    def __init__(self, helper: _Helper, head: bytes, endpoint: Endpoint, now: float) -> None:
        self.helper = helper
        self.head = head
        self.endpoint = endpoint
        self.to_service = Route(endpoint)
        self.waiting: List[bytes] = []
        self.open = False
        self.seen = now
        self.carried = 0
        self.answered = False


class Expose:
    def __init__(
        self, config: ExposeConfig, outbox: Outbox, random: Callable[[int], bytes]
    ) -> None:
        self.counters: "Counter[str]" = Counter()
        self._config = config
        self._outbox = outbox
        self._notices = Notices(log)
        self._service = Destination(config.local, outbox)
        self._helpers = [
            _Helper(
                lookup,
                outbox,
                Keepalives(config.keepalive, config.key, config.name),
                SocketNames(config.local, lookup, config.name, config.bind),
            )
            for lookup in config.helper
        ]
        self._next_sweep = 0.0
        self.patient = False  # a name without an address is asked for again, and ends nothing

    def inherit(self, names: Iterable[str]) -> List[str]:
        """Take over those sockets of a former exposer that are this one's; the other names."""
        return [name for name in names if not any(self._inherits(h, name) for h in self._helpers)]

    def _inherits(self, helper: _Helper, name: str) -> bool:
        found, tag = helper.names.whereabouts(name), helper.names.tag(name)
        if found is not None:
            helper.destination.address, self._service.address = found
        elif tag is None or len(helper.inherited) >= self._config.max_clients:
            return False
        else:
            helper.inherited.append(tag)
        self.patient = True  # what it carried is not to end because a name server fails
        return True

    def start(self, now: float) -> None:
        for destination in (self._service, *(helper.destination for helper in self._helpers)):
            destination.expire(now)
        self._go_on(now)
        self._next_sweep = now + _SWEEP

    def resolved(self, lookup: Lookup, found: Sequence[Address], reason: str, now: float) -> None:
        if lookup is self._service.lookup:
            if not self.patient:
                self._service.insist(found, reason)
            before = self._service.address
            if self._service.resolved(found, reason, now) and before is not None:
                self._move()
            self._go_on(now)
            return
        helper = next(one for one in self._helpers if one.destination.lookup is lookup)
        if len(self._helpers) == 1 and not self.patient:
            helper.destination.insist(found, reason)
        self._meet(helper, changed=helper.destination.resolved(found, reason, now))

    def opened(self, endpoint: Endpoint, now: float) -> None:
        connectee = endpoint.owner
        if isinstance(connectee, _Connectee):
            connectee.open = True
            for datagram in connectee.waiting:
                self._outbox.send(connectee.to_service, datagram)
            connectee.waiting.clear()
            return
        helper: _Helper = endpoint.owner
        helper.route = Route(endpoint, helper.destination.address)
        helper.keepalives.lost()
        self._keep_alive(helper, now)

    def failed(self, endpoint: Endpoint, reason: str, now: float) -> None:
        self._notices.say(now, logging.ERROR, "no-socket", f"no socket: {reason}")
        connectee = endpoint.owner
        if isinstance(connectee, _Connectee):
            self._forget(connectee, close=False)
        else:
            connectee.endpoint = connectee.route = None

    def refused(self, endpoint: Endpoint, now: float) -> None:
        self.counters["refused by the service"] += 1
        where = str(self._service.lookup)
        self._notices.say(
            now, logging.WARNING, "refused", f"nothing listens on {where} (ICMP); going on"
        )
        self._service.look_up(now)

    def receive(self, burst: Burst, now: float) -> None:
        owner = burst.endpoint.owner
        if isinstance(owner, _Connectee):
            self._from_service(owner, burst.piece, now)
            return
        helper: _Helper = owner
        if burst.source != helper.destination.address:
            self._drop("not the helper's", burst, now)
            return
        position, length, segment = burst.piece
        if length > segment and self._train_from_helper(helper, burst):
            return
        for datagram in burst.datagrams():
            self._from_helper(helper, datagram, (position, len(datagram), len(datagram)), now)
            position += segment

    def receive_batch(self, batch: Batch, now: float) -> None:
        """Payload of tags that are known, without a detour for each datagram."""
        owner = batch.endpoint.owner
        if isinstance(owner, _Connectee):
            for piece in batch.pieces:
                self._from_service(owner, piece, now)
            return
        helper: _Helper = owner
        connectees, peer = helper.connectees, helper.destination.address
        strip = self._outbox.strip
        for index, (source, piece, start) in enumerate(
            zip(batch.sources, batch.pieces, batch.words)
        ):
            connectee = connectees.get(start)
            length = piece[1]
            if (
                connectee is None
                or start == SIGNED_WORD
                or source != peer
                or not connectee.open
                or length < expose.TAG_LENGTH
                or length > piece[2]
            ):
                batch.singly(index)
                continue
            strip(connectee.to_service, piece, expose.TAG_LENGTH)

    def expire(self, now: float) -> None:
        self._service.expire(now)
        for helper in self._helpers:
            helper.destination.expire(now)
            self._meet(helper)
            if now >= helper.keepalives.deadline():
                self._keep_alive(helper, now)
            self._mind_silence(helper, now)
        if now >= self._next_sweep:
            self._next_sweep = now + _SWEEP
            self._sweep(now)

    def deadline(self) -> Optional[float]:
        due = [self._next_sweep]
        due += [h.keepalives.deadline() for h in self._helpers if h.route is not None]
        return min(due)

    def stop(self, now: float) -> None:
        """There is no word for it on this wire: helpers keep the address they know."""

    def status(self) -> str:
        connectees = sum(len(helper.connectees) for helper in self._helpers)
        known = sum(helper.keepalives.registered for helper in self._helpers)
        told = f"registered with {known} of {len(self._helpers)} helpers, "
        return f"{told if self._config.key else ''}{connectees} connectees"

    def gauges(self) -> Dict[str, int]:
        return {"connectees": sum(len(helper.connectees) for helper in self._helpers)}

    # Helpers

    def _meet(self, helper: _Helper, changed: bool = False) -> None:
        """A socket for the helper's address, in place of one for a former address; not before
        there is a service for what comes by it."""
        peer = helper.destination.address
        if peer is None or self._service.address is None:
            return
        if helper.endpoint is not None:
            if not changed:
                return
            self._outbox.close(helper.endpoint)
        bind = self._config.bind or address.any_of(peer)
        if address.is_wildcard(bind):  # of whatever family it was meant
            bind = address.with_port(address.any_of(peer), address.port(bind))
        name = helper.names.to_helper(peer, self._service.address)
        helper.endpoint = Endpoint("helper", bind, handed_over_as=name, owner=helper)
        helper.route = None  # until it is open
        self._outbox.open(helper.endpoint)

    def _keep_alive(self, helper: _Helper, now: float) -> None:
        if helper.route is None:
            return
        keepalive = helper.keepalives.take(now)
        if keepalive is not None:
            self.counters["keepalives"] += 1
            self._outbox.send(helper.route, keepalive)

    def _mind_silence(self, helper: _Helper, now: float) -> None:
        if not helper.keepalives.silent(now):
            return
        helper.destination.look_up(now)
        if not helper.silence_said:
            helper.silence_said = True
            helper.keepalives.registered = False
            event(log, logging.WARNING, "silent", f"helper {helper} does not answer; going on")

    def _from_helper(self, helper: _Helper, datagram: memoryview, piece: Piece, now: float) -> None:
        if self._config.key and expose.looks_signed(datagram):
            if helper.keepalives.hear(bytes(datagram), now):
                helper.silence_said = False
                event(log, logging.INFO, "registered", f"registered with helper {helper}")
            self._keep_alive(helper, now)
            return
        if len(datagram) < expose.TAG_LENGTH:
            self.counters["dropped: no tag"] += 1
            return
        tag = word(bytes(datagram[: expose.TAG_LENGTH]))
        connectee = helper.connectees.get(tag) or self._newcomer(helper, tag, now)
        if connectee is None:
            return
        if connectee.open:
            self._outbox.strip(connectee.to_service, piece, expose.TAG_LENGTH)
        elif len(connectee.waiting) < _MOST_WAITING:
            connectee.waiting.append(bytes(datagram[expose.TAG_LENGTH :]))
        else:
            self.counters["dropped: waited too long"] += 1

    def _train_from_helper(self, helper: _Helper, burst: Burst) -> bool:
        """Passes a train on whose tags are all known; whether it was such a one."""
        words = burst.words()
        if not words or SIGNED_WORD in words:
            return False
        ways = {}
        for start in set(words):
            connectee = helper.connectees.get(start)
            if connectee is None or not connectee.open:
                return False
            ways[start] = connectee.to_service
        untag(self._outbox, burst, words, ways)
        return True

    def _drop(self, reason: str, burst: Burst, now: float) -> None:
        self.counters[f"dropped: {reason}"] += 1
        about = f"dropped a datagram of {address.text(burst.source)}: {reason}"
        self._notices.say(now, TRACE, "dropped", about, about=reason)

    # Connectees

    def _from_service(self, connectee: _Connectee, piece: Piece, now: float) -> None:
        route = connectee.helper.route
        if route is not None:
            connectee.seen = now
            connectee.answered = True
            self._outbox.prefix(route, piece, connectee.head)

    def _newcomer(self, helper: _Helper, tag: int, now: float) -> Optional[_Connectee]:
        service = self._service.address
        if service is None:
            self._service.look_up(now)
            return None
        if len(helper.connectees) >= self._config.max_clients and not self._make_room(helper, now):
            self.counters["dropped: no room for a connectee"] += 1
            return None
        self.counters["connectees new"] += 1
        return self._admit(helper, tag, service, now)

    def _admit(self, helper: _Helper, tag: int, service: Address, now: float) -> _Connectee:
        endpoint = Endpoint(
            "connectee",
            address.any_of(service),
            remote=service,
            handed_over_as=helper.names.to_service(tag),
        )
        connectee = _Connectee(helper, head_of(tag), endpoint, now)
        endpoint.owner = connectee
        helper.connectees[tag] = connectee
        helper.eviction.add(connectee, now)
        self._outbox.open(endpoint)
        return connectee

    def _go_on(self, now: float) -> None:
        """Once there is a service: with the connectees that a former exposer had, and by way of
        the helpers."""
        service = self._service.address
        if service is None:
            return
        for helper in self._helpers:
            for tag in helper.inherited:
                self._admit(helper, tag, service, now).answered = True
            helper.inherited.clear()
            self._meet(helper)

    def _make_room(self, helper: _Helper, now: float) -> bool:
        evicted = helper.eviction.choose(now)
        if evicted is None:
            return False
        self.counters["connectees evicted"] += 1
        self._forget(evicted)
        return True

    def _forget(self, connectee: _Connectee, close: bool = True) -> None:
        helper = connectee.helper
        if helper.connectees.get(word(connectee.head)) is connectee:
            del helper.connectees[word(connectee.head)]
            helper.eviction.remove(connectee)
        if close:
            self._outbox.close(connectee.endpoint)

    def _move(self) -> None:
        """The service is elsewhere now: its connectees' sockets lead to where it was."""
        for helper in self._helpers:
            for connectee in list(helper.connectees.values()):
                self._forget(connectee)
            if helper.endpoint is not None:
                peer, service = helper.destination.address, self._service.address
                assert peer is not None and service is not None
                helper.endpoint.handed_over_as = helper.names.to_helper(peer, service)

    def _sweep(self, now: float) -> None:
        """Notes who was heard since the last time, and forgets the idle ones."""
        for helper in self._helpers:
            for connectee in helper.connectees.values():
                carried = connectee.to_service.datagrams
                if carried != connectee.carried:
                    connectee.carried = carried
                    connectee.seen = now
            while True:
                idle = helper.eviction.silent(now, self._config.idle)
                if idle is None:
                    break
                self.counters["connectees idle"] += 1
                self._forget(idle)
