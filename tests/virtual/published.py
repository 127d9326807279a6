"""A helper of some workers and exposers in the virtual network, a service and its connectees."""

from __future__ import annotations

import zlib
from typing import Any, Callable, Dict, List, Optional, Sequence, Set, Tuple

from tests.virtual.memory_loop import Arrived, MemoryLoop
from tests.virtual.network import Host, Link, Nat, Network
from udppunch import address
from udppunch.address import Address
from udppunch.config.roles import ExposeConfig, HelperConfig
from udppunch.contract import Endpoint, Lookup, Outbox
from udppunch.proto.expose import connectees, figures, tags
from udppunch.proto.expose.publishing import Publishing
from udppunch.proto.expose.service import Memory
from udppunch.role.expose import Expose
from udppunch.role.helper import Helper
from udppunch.wire import registrar as wire

HELPER = "203.0.113.10"
PORT = 6000
NAMED = {"dns": 6053, "game": 6054}
SERVICE = 7000
KEEPALIVE = 25.0
AHEAD = 1_700_000_000.0
_TOLD_AFTER = 0.002  # from a worker to the registrar, or back
_MOST_TURNS = 16

# By port and worker: of those that share a port each has its sources, as with SO_REUSEPORT.
Handlers = Dict[Tuple[int, int], Callable[[Address, bytes], None]]


class Program:
    """One role on one host: its wake-ups, and what it asks of the loop.

    With `tick` it wakes up no sooner than every so many seconds, and more comes at once.
    """

    def __init__(
        self,
        host: Host,
        make: Callable[[Outbox], Any],
        tick: float = 0.0,
        group: Optional[Tuple[Handlers, int, int]] = None,
    ) -> None:
        self.host = host
        self.network = host.network
        self.loop = MemoryLoop()
        self.batches = 0
        self.sockets: Set[Endpoint] = set()
        self.full = False  # no more sockets are to be had
        self._tick = tick
        self._group = group
        self._arrived: List[Tuple[Endpoint, Address, bytes]] = []
        self._refused: List[Endpoint] = []
        self.role = self.loop.role = make(self.loop.outbox)
        self.network.runners.append(self)  # type: ignore[arg-type]
        self.call(self.role.start)

    def call(self, method: Callable[..., None], *arguments: Any) -> None:
        self.loop.call(method, *arguments, self.network.now)
        self.settle()

    def expire(self) -> None:
        self.call(self.role.expire)

    def kill(self) -> None:
        """End the process without a word."""
        self.network.runners.remove(self)  # type: ignore[arg-type]
        for endpoint in list(self.sockets):
            self._close(endpoint)

    def settle(self) -> None:
        for _ in range(_MOST_TURNS):
            self._leave()
            requests = self.loop.requests()
            refused, self._refused = self._refused, []
            if not requests and not refused:
                return
            for endpoint in refused:
                self.loop.call(self.role.refused, endpoint, self.network.now)
            for verb, subject in requests:
                self._do(verb, subject, self.network.now)
        raise AssertionError("it asks again and again")

    def _do(self, verb: str, subject: Any, now: float) -> None:
        if verb == "resolve":
            ips = self.network.names.get(subject.host, [subject.host])
            found = [address.pack(ip, subject.port) for ip in ips]
            self.loop.call(self.role.resolved, subject, found, "no such name", now)
        elif verb == "close":
            self._close(subject)
        elif self.full:
            self.loop.call(self.role.failed, subject, "too many open files", now)
        else:
            self._open(subject)
            self.loop.call(self.role.opened, subject, now)

    def _open(self, endpoint: Endpoint) -> None:
        def handle(source: Address, data: bytes) -> None:
            if endpoint.remote is None or endpoint.remote == source:
                self._receive(endpoint, source, data)

        number = address.port(endpoint.bind)
        if self._group is None:
            number = self.host.bind(number, handle)
        else:
            handlers, worker, workers = self._group
            handlers[number, worker] = handle
            if number not in self.host.sockets:
                self.host.bind(number, lambda s, data: _share(handlers, number, workers, s, data))
        self.sockets.add(endpoint)
        self.loop.open(endpoint, address.with_port(endpoint.bind, number))

    def _close(self, endpoint: Endpoint) -> None:
        assert endpoint.local is not None
        number = address.port(endpoint.local)
        if self._group is None:
            del self.host.sockets[number]
        else:
            handlers, worker, _ = self._group
            del handlers[number, worker]
        self.sockets.discard(endpoint)
        self.loop.close(endpoint)

    def _leave(self) -> None:
        for sent in self.loop.sent:
            assert sent.endpoint.local is not None
            number = address.port(sent.endpoint.local)
            self.network.at(self.network.now, _Leaving(self, number, sent.endpoint, sent[1:3]))
        self.loop.sent.clear()

    def refuse(self, endpoint: Endpoint) -> None:
        """Nobody listens where it is connected to."""
        if endpoint in self.sockets:
            self._refused.append(endpoint)
            self.network.at(self.network.now, self.settle)

    def _receive(self, endpoint: Endpoint, source: Address, data: bytes) -> None:
        if not self._arrived:
            now, tick = self.network.now, self._tick
            self.network.at((now // tick + 1) * tick if tick else now, self._wake)
        self._arrived.append((endpoint, source, data))

    def _wake(self) -> None:
        arrived, self._arrived = self._arrived, []
        for endpoint in dict.fromkeys(one[0] for one in arrived):
            bursts = _coalesced([one[1:] for one in arrived if one[0] is endpoint])
            if endpoint in self.sockets:
                self.batches += len(bursts) > 1
                self.loop.deliver(endpoint, bursts, self.network.now, len(bursts) > 1)
        self.settle()


class _Leaving:
    """A datagram that leaves once the role has returned."""

    def __init__(
        self, program: Program, number: int, endpoint: Endpoint, what: Tuple[Address, bytes]
    ) -> None:
        self._program = program
        self._number = number
        self._endpoint = endpoint
        self._what = what

    def __call__(self) -> None:
        program = self._program
        reached = program.network.send(program.host, self._number, *self._what, 0)
        if reached is False and self._endpoint.remote is not None:
            program.refuse(self._endpoint)


def _share(handlers: Handlers, number: int, workers: int, source: Address, data: bytes) -> None:
    handler = handlers.get((number, zlib.crc32(source) % workers))
    if handler is not None:
        handler(source, data)


def _coalesced(arrived: Sequence[Tuple[Address, bytes]]) -> List[Arrived]:
    """In bursts, as the kernel does: of one source, of equal sizes, the last may be shorter."""
    bursts: List[Arrived] = []
    is_open = False
    for source, data in arrived:
        last = bursts[-1] if bursts else None
        if last and is_open and data and last.source == source and len(data) <= last.segment:
            bursts[-1] = last._replace(data=last.data + data)
            is_open = len(data) == last.segment
        else:
            bursts.append(Arrived(source, data, len(data)))
            is_open = bool(data)
    return bursts


class Service:
    """Keeps what it gets by where it came from, and sends back what `answer` makes of it."""

    def __init__(self, host: Host, port: int = SERVICE) -> None:
        self.received: Dict[int, List[bytes]] = {}
        self.answer: Callable[[bytes], List[bytes]] = lambda data: [data]
        self._host = host
        self.port = port
        self.up()

    def up(self) -> None:
        self._host.bind(self.port, self._receive)

    def down(self) -> None:
        del self._host.sockets[self.port]

    def _receive(self, source: Address, data: bytes) -> None:
        self.received.setdefault(address.port(source), []).append(data)
        for answer in self.answer(data):
            self.send(source, answer)

    def send(self, to: Address, data: bytes) -> None:
        network = self._host.network

        def leave() -> None:
            network.send(self._host, self.port, to, data, 0)

        network.at(network.now, leave)


class Visitor:
    """A connectee, at a port of its own."""

    def __init__(self, host: Host, port: int = PORT) -> None:
        self.host = host
        self.sent: List[bytes] = []
        self.received: List[bytes] = []
        self.helper = address.pack(HELPER, port)
        self.port = host.bind(0, self._receive)

    def _receive(self, source: Address, data: bytes) -> None:
        assert source == self.helper
        self.received.append(data)

    def send(self, *datagrams: bytes) -> None:
        for data in datagrams:
            self.sent.append(data)
            self.host.network.send(self.host, self.port, self.helper, data, 0)


class Published:
    """`link` is the exposer's and each visitor's. All exposers share a home and its NAT."""

    def __init__(
        self,
        seed: int = 0,
        *,
        workers: int = 1,
        key: bytes = b"",
        names: Sequence[str] = (),
        link: Optional[Link] = None,
        tick: float = 0.0,
        idle: float = 300.0,
        max_clients: int = 64,
        rate: int = 100_000,
        nat: Optional[Nat] = None,
    ) -> None:
        self.network = Network(seed)
        self.tick = tick
        self.key, self.names, self.workers = key, names, workers
        self.idle, self.max_clients, self.rate = idle, max_clients, rate
        self.link = link or Link()
        self.nat = nat or Nat("203.0.113.101")
        self.host = self.network.host("helper", HELPER)
        self.home = self.network.host("home", "192.168.1.2", [self.nat], self.link)
        self.away = self.network.host("away", "198.51.100.7", [], self.link)
        self.service = Service(self.home)
        self.helper: List[Program] = []
        self.start_helper()
        self.exposer = self.start_exposer()

    def start_helper(self) -> None:
        """With new memory, as after its host was started again."""
        for program in self.helper:
            program.kill()
        services = 1 + len(self.names)
        chance = self.network.random
        self.memory = Memory(
            self.workers,
            [memoryview(bytearray(tags.SHARED_OCTETS)) for _ in range(services)],
            [
                memoryview(bytearray(4 * self.workers * connectees.COUNTS)).cast("I")
                for _ in range(services)
            ],
            memoryview(bytearray(figures.OCTETS * self.workers)),
            chance.randbytes(16),
            lambda: AHEAD,
        )
        self.registrar = Publishing(["", *self.names], self.workers, self._tell, self.memory.counts)
        self._handlers: Handlers = {}
        self._roles: Dict[int, Helper] = {}
        self.host.sockets.clear()
        self.helper = []
        for worker in range(self.workers):
            self.start_worker(worker)

    def start_worker(self, worker: int) -> None:
        """In the place of the one that was there, if any."""
        if worker < len(self.helper):
            self.helper[worker].kill()
        config = HelperConfig(
            listen=(address.pack(HELPER, PORT),),
            name=tuple((name, address.pack(HELPER, NAMED[name])) for name in self.names),
            key=self.key, max_clients=self.max_clients, workers=self.workers, idle=self.idle,
            rate=self.rate, proxy_protocol=False, transparent_log=None, coalesce=0.0,
            recv_buffer=0, send_buffer=0,
        )  # fmt: skip
        pid = self.network.random.getrandbits(20)

        def make(outbox: Outbox) -> Helper:
            def ask(message: wire.Message, now: float) -> None:
                self._ask(worker, message)

            role = self._roles[worker] = Helper(config, outbox, ask, self.memory, worker, pid)
            return role

        program = Program(self.host, make, self.tick, (self._handlers, worker, self.workers))
        self.helper[worker : worker + 1] = [program]

    def start_exposer(
        self, name: str = "", local: int = SERVICE, helpers: Sequence[str] = (HELPER,)
    ) -> Program:
        config = ExposeConfig(
            local=Lookup("127.0.0.1", local),
            helper=tuple(Lookup(host, PORT) for host in helpers), key=self.key, bind=None,
            name=name, max_clients=self.max_clients, keepalive=KEEPALIVE, idle=self.idle,
            coalesce=0.0,
        )  # fmt: skip
        randbytes = self.network.random.randbytes
        return Program(self.home, lambda outbox: Expose(config, outbox, randbytes), self.tick)

    def visitor(self, port: int = PORT) -> Visitor:
        return Visitor(self.away, port)

    def answered(self, visitor: Visitor, within: float, each: float = 0.25) -> bool:
        """Whether something new that it says, all the while, is answered in time."""
        end = self.network.now + within
        asked: Set[bytes] = set()
        while self.network.now < end:
            data = b"again %d" % len(visitor.sent)
            asked.add(data)
            visitor.send(data)
            if self.network.run(each, lambda: bool(asked.intersection(visitor.received))):
                return True
        return False

    def sources_of(self, visitor_of: Callable[[bytes], Any]) -> Dict[Any, Set[int]]:
        """From which ports the service had each one's datagrams."""
        found: Dict[Any, Set[int]] = {}
        for port, datagrams in self.service.received.items():
            for data in datagrams:
                found.setdefault(visitor_of(data), set()).add(port)
        return found

    def _ask(self, worker: int, message: wire.Message) -> None:
        """As it goes: a packet, to whoever is the registrar by then; or a call, beside one."""
        if self.workers == 1:
            self.registrar.hear(worker, message, self.network.now)
            return
        packet, registrar = wire.encode(message), self.registrar

        def arrive() -> None:
            if self.registrar is registrar:
                for each in wire.decode(packet):
                    registrar.hear(worker, each, self.network.now)

        self.network.at(self.network.now + _TOLD_AFTER, arrive)

    def _tell(self, worker: int, message: wire.Message, now: float) -> None:
        role = self._roles[worker]
        if self.workers == 1:
            role.told(message, now)
            return
        packet = wire.encode(message)

        def arrive() -> None:
            for program in self.helper:
                if program.role is role:
                    for each in wire.decode(packet):
                        program.call(role.told, each)

        self.network.at(self.network.now + _TOLD_AFTER, arrive)
