"""A network in memory, with a clock of its own: hosts, NATs, links, and the roles on them.

    Host ── Nat ── Link ── core ── Link ── Nat ── Host

A NAT's mapping and its filtering are set apart, as in RFC 4787. A link loses, doubles, delays
and reorders, by a seeded chance: one seed is one course of events. `Outbox` is the contract's,
so that roles run here as they do in the program.
"""

from __future__ import annotations

import heapq
import itertools
import random
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, List, Optional, Set, Tuple

from udppunch import address
from udppunch.address import Address
from udppunch.contract import Burst, Endpoint, Lookup, Role, Route

LOOPBACK = address.pack("127.0.0.1", 0)
_CLASH_LASTS = 30.0
# Linux calls a binding a stream, and keeps it for longer, once datagrams went both ways so long.
_STREAM_AFTER = 2.0
_SEGMENTS = 64
# A role may want to be called again at once, for what it was told meanwhile; but not for ever.
_EXPIRIES = 20


@dataclass
class Link:
    """Between a site and the core; `delay` and `jitter` are one-way seconds."""

    delay: float = 0.0
    jitter: float = 0.0
    loss: float = 0.0
    duplicate: float = 0.0


@dataclass
class _Binding:
    """Towards one peer, as finely as the NAT filters; `until` it is silent for too long."""

    since: float
    until: float = 0.0
    answered: bool = False


@dataclass
class Nat:
    """`mapping` and `filtering`: "endpoint", "address" or "port" dependent.

    `takes_strangers`: a Linux router without an input policy, which confirms what a stranger sends
    to it, and then gives the inside host another port towards that stranger. A binding lasts
    `timeout` seconds, and `stream` once it is used both ways.
    """

    wan: str
    mapping: str = "endpoint"
    filtering: str = "port"
    takes_strangers: bool = False
    timeout: float = 30.0
    stream: float = 120.0
    _ports: Dict[Any, int] = field(default_factory=dict)
    _inside: Dict[int, Address] = field(default_factory=dict)
    _bindings: Dict[Tuple[int, bytes], _Binding] = field(default_factory=dict)
    _lives: Dict[int, float] = field(default_factory=dict)
    _taken: Dict[Tuple[Address, int], float] = field(default_factory=dict)
    _preferred: Dict[Address, int] = field(default_factory=dict)
    _fresh: Any = field(default_factory=lambda: itertools.count(20000))

    def forget(self) -> None:
        for table in (self._ports, self._inside, self._taken, self._preferred):
            table.clear()
        self._bindings.clear()
        self._lives.clear()

    def renumber(self, wan: str) -> None:
        self.forget()
        self.wan = wan

    def outward(self, source: Address, destination: Address, now: float) -> Address:
        key: Any = source
        if self.mapping != "endpoint":
            key = (source, self._scope(destination, self.mapping))
        number = self._ports.get(key)
        if number is None or self._lives[number] <= now:
            number = self._preferred.get(source, address.port(source))
            if self.mapping != "endpoint" or self._inside.get(number, source) != source:
                number = next(self._fresh)
            self._ports[key] = number
        if self._taken.get((destination, number), float("-inf")) > now - _CLASH_LASTS:
            self._taken[destination, number] = now
            number = self._ports[source, destination] = self._ports.get(
                (source, destination), next(self._fresh)
            )
            # And from then on towards every other destination too.
            self._preferred[source] = self._ports[source] = number
        self._inside[number] = source
        scope = number, self._scope(destination, self.filtering)
        binding = self._bindings.get(scope)
        if binding is None or binding.until <= now:
            binding = self._bindings[scope] = _Binding(now)
        self._use(number, binding, now)
        return address.pack(self.wan, number)

    def inward(self, source: Address, number: int, now: float) -> Optional[Address]:
        inside = self._inside.get(number)
        if inside is not None:
            binding = self._bindings.get((number, self._scope(source, self.filtering)))
            if binding is not None and now < binding.until:
                binding.answered = True
                self._use(number, binding, now)
                return inside
        if self.takes_strangers:
            self._taken[source, number] = now
        return None

    def _use(self, number: int, binding: _Binding, now: float) -> None:
        stream = binding.answered and now - binding.since > _STREAM_AFTER
        binding.until = now + (self.stream if stream else self.timeout)
        self._lives[number] = max(self._lives.get(number, 0.0), binding.until)

    @staticmethod
    def _scope(peer: Address, dependence: str) -> bytes:
        return {"endpoint": b"", "address": peer[:-2], "port": bytes(peer)}[dependence]


class Host:
    """`nats` from the inside out. `sockets` by port; a handler gets (source, data)."""

    def __init__(self, network: Network, name: str, ip: str, nats: List[Nat], link: Link) -> None:
        self.network = network
        self.name = name
        self.ip = ip
        self.nats = nats
        self.link = link
        self.sockets: Dict[int, Callable[[Address, bytes], None]] = {}
        self._ports = itertools.count(40000)

    @property
    def public_ip(self) -> str:
        return self.nats[-1].wan if self.nats else self.ip

    def bind(self, number: int, handler: Callable[[Address, bytes], None]) -> int:
        number = number or next(self._ports)
        assert number not in self.sockets
        self.sockets[number] = handler
        return number

    def deliver(self, number: int, source: Address, data: bytes) -> bool:
        handler = self.sockets.get(number)
        if handler is not None:
            handler(source, data)
        return handler is not None


class Network:
    def __init__(self, seed: int = 0) -> None:
        self.now = 1000.0
        self.random = random.Random(seed)
        self.watch: Callable[[Host, Address, bytes], None] = lambda host, destination, data: None
        self.hosts: List[Host] = []
        self.runners: List[Runner] = []
        self.sent = 0
        self.names: Dict[str, List[str]] = {}
        self._events: List[Tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()

    def host(
        self, name: str, ip: str, nats: Optional[List[Nat]] = None, link: Optional[Link] = None
    ) -> Host:
        host = Host(self, name, ip, nats or [], link or Link())
        self.hosts.append(host)
        return host

    def at(self, when: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when, next(self._numbers), action))

    def run(self, seconds: float, until: Callable[[], bool] = lambda: False) -> bool:
        """Let time pass, until `until` holds; whether it came to hold."""
        end = self.now + seconds
        while not until():
            due = [runner.role.deadline() for runner in self.runners]
            times = [when for when in due if when is not None]
            if self._events:
                times.append(self._events[0][0])
            when = min(times, default=float("inf"))
            if when > end:
                self.now = end
                return until()
            self.now = max(self.now, when)
            while self._events and self._events[0][0] <= self.now:
                heapq.heappop(self._events)[2]()
            for runner in list(self.runners):
                deadline = runner.role.deadline()
                if deadline is not None and deadline <= self.now:
                    runner.expire()
        return True

    def send(
        self, host: Host, number: int, destination: Address, data: bytes, ttl: int
    ) -> Optional[bool]:
        """False: nobody listens there, on the same host. Else nothing is known."""
        if destination[:-2] == LOOPBACK[:-2]:
            source = address.with_port(LOOPBACK, number)
            return host.deliver(address.port(destination), source, data)
        self.sent += 1
        self.watch(host, destination, data)
        source = address.pack(host.ip, number)
        for hops, nat in enumerate(host.nats, 1):
            if ttl and ttl <= hops:
                return None
            source = nat.outward(source, destination, self.now)
        if ttl and ttl <= len(host.nats) + 1:
            return None
        self._travel(host.link, lambda: self._arrive(source, destination, data))
        return None

    def _travel(self, link: Link, then: Callable[[], None]) -> None:
        copies = 2 if self.random.random() < link.duplicate else 1
        for _ in range(copies):
            if self.random.random() >= link.loss:
                self.at(self.now + link.delay + self.random.random() * link.jitter, then)

    def _arrive(self, source: Address, destination: Address, data: bytes) -> None:
        ip = str(address.ip(destination))
        host = next((host for host in self.hosts if host.public_ip == ip), None)
        if host is not None:
            self._travel(host.link, lambda: self._enter(host, source, destination, data))

    def _enter(self, host: Host, source: Address, destination: Address, data: bytes) -> None:
        inside = destination
        for nat in reversed(host.nats):
            translated = nat.inward(source, address.port(inside), self.now)
            if translated is None:
                return
            inside = translated
        host.deliver(address.port(inside), source, data)


class Outbox:
    """The contract's outbox, towards the network."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.requests: List[Tuple[str, Any]] = []
        self.refused: List[Endpoint] = []
        self.open_endpoints: Set[Endpoint] = set()
        self.full = False  # no more sockets are to be had
        self.receive: Callable[[Endpoint, Address, bytes], None]

    def open(self, endpoint: Endpoint) -> None:
        self.requests.append(("open", endpoint))

    def close(self, endpoint: Endpoint) -> None:
        self.requests.append(("close", endpoint))

    def resolve(self, lookup: Lookup) -> None:
        self.requests.append(("resolve", lookup))

    def forward(self, route: Route, burst: Burst) -> None:
        for datagram in burst.datagrams():
            self.send(route, bytes(datagram))

    def send(self, route: Route, data: bytes, ttl: int = 0) -> None:
        endpoint = route.endpoint
        if endpoint not in self.open_endpoints:
            return
        assert endpoint.local is not None
        destination = route.destination or endpoint.remote
        assert destination is not None
        network, number = self.host.network, address.port(endpoint.local)

        def leave() -> None:
            reached = network.send(self.host, number, destination, data, ttl)
            if reached is False and endpoint.remote is not None:
                self.refused.append(endpoint)

        # As in the loop, nothing is delivered while a role is still at work.
        network.at(network.now, leave)

    def do_open(self, endpoint: Endpoint) -> None:
        def handle(source: Address, data: bytes) -> None:
            if endpoint.remote is None or endpoint.remote == source:
                self.receive(endpoint, source, data)

        number = self.host.bind(address.port(endpoint.bind), handle)
        endpoint.local = address.with_port(endpoint.bind, number)
        self.open_endpoints.add(endpoint)

    def do_close(self, endpoint: Endpoint) -> None:
        if endpoint in self.open_endpoints:
            assert endpoint.local is not None
            self.open_endpoints.remove(endpoint)
            del self.host.sockets[address.port(endpoint.local)]


class Runner:
    """Runs one role on one host, as the loop would."""

    def __init__(self, host: Host, make: Callable[[Outbox, Callable[[int], bytes]], Role]) -> None:
        self.host = host
        self.network = host.network
        self._arrived: List[Tuple[Endpoint, Address, bytes]] = []
        self._expired = (0.0, 0)
        self.outbox = Outbox(host)
        self.outbox.receive = self._received
        self.role = make(self.outbox, self.network.random.randbytes)
        self.network.runners.append(self)
        self.call(self.role.start)

    def call(self, method: Callable[..., None], *arguments: Any) -> None:
        method(*arguments, self.network.now)
        while self.outbox.requests or self.outbox.refused:
            while self.outbox.refused:
                self.role.refused(self.outbox.refused.pop(), self.network.now)
            requests, self.outbox.requests = self.outbox.requests, []
            for verb, subject in requests:
                self._do(verb, subject)

    def expire(self) -> None:
        now = self.network.now
        self._expired = (now, self._expired[1] + 1 if self._expired[0] == now else 0)
        assert self._expired[1] < _EXPIRIES, "a deadline that comes again and again"
        self.call(self.role.expire)

    def kill(self) -> None:
        """End the process without a word."""
        self.network.runners.remove(self)
        for endpoint in list(self.outbox.open_endpoints):
            self.outbox.do_close(endpoint)

    def stop(self) -> None:
        """End it with its goodbye."""
        self.call(self.role.stop)
        self.network.run(0.0)
        self.kill()

    def burst(self, endpoint: Endpoint, source: Address, data: bytes, segment: int) -> None:
        """A burst of several datagrams at once."""
        burst = Burst()
        burst.endpoint, burst.source, burst.local = endpoint, source, b""
        burst.view, burst.segment, burst.position = memoryview(data), segment, 0
        self.call(self.role.receive, burst)

    def _received(self, endpoint: Endpoint, source: Address, data: bytes) -> None:
        if not self._arrived:
            self.network.at(self.network.now, self._coalesce)
        self._arrived.append((endpoint, source, data))

    def _coalesce(self) -> None:
        """What came at one time in bursts, as the kernel does: equal sizes, the last may differ."""
        arrived, self._arrived = self._arrived, []
        while arrived:
            endpoint, source, data = arrived[0]
            count = 1
            for other, whence, more in arrived[1:_SEGMENTS]:
                closed = len(arrived[count - 1][2]) < len(data)
                if other is not endpoint or whence != source or len(more) > len(data) or closed:
                    break
                if not more:
                    break
                count += 1
            whole = b"".join(one[2] for one in arrived[:count])
            del arrived[:count]
            if endpoint in self.outbox.open_endpoints:
                self.burst(endpoint, source, whole, len(data))

    def _do(self, verb: str, subject: Any) -> None:
        now = self.network.now
        if verb == "open" and self.outbox.full:
            self.role.failed(subject, "too many open files", now)
        elif verb == "open":
            self.outbox.do_open(subject)
            self.role.opened(subject, now)
        elif verb == "close":
            self.network.at(now, lambda: self.outbox.do_close(subject))
        else:
            ips = self.network.names.get(subject.host, [subject.host])
            found = [address.pack(ip, subject.port) for ip in ips]
            self.role.resolved(subject, found, "" if found else "no such name", now)
