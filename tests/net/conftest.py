"""Real loops on real sockets: each test drives the turns itself, so nothing runs beside it."""

from __future__ import annotations

import socket
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple

import pytest

from udppunch.address import Address, pack, port
from udppunch.contract import Burst, Endpoint, Lookup, Outbox, Route
from udppunch.net import mmsg
from udppunch.net.loop import Loop

MANNERS = {
    "batched": {"batched": True, "offload": True},
    "batched-plain": {"batched": True, "offload": False},
    "portable": {"batched": False, "offload": False},
}
GUARD = 0.005  # seconds after which a turn that nothing woke ends
MOST_TURNS = 250


class Recorder:
    """A role that notes what it is told, and does what `on_burst` says."""

    def __init__(self, outbox: Outbox, endpoints: Sequence[Endpoint] = ()) -> None:
        self.outbox = outbox
        self.endpoints = endpoints
        self.bursts: List[Tuple[str, Address, List[bytes], bytes]] = []
        self.told: List[Tuple[Any, ...]] = []
        self.on_burst: Callable[[Burst], None] = lambda burst: None
        self.due: Optional[float] = None
        self.guard: Callable[[], Optional[float]] = lambda: None

    def start(self, now: float) -> None:
        self.told.append(("start",))
        for endpoint in self.endpoints:
            self.outbox.open(endpoint)

    def opened(self, endpoint: Endpoint, now: float) -> None:
        self.told.append(("opened", endpoint))

    def failed(self, endpoint: Endpoint, reason: str, now: float) -> None:
        self.told.append(("failed", endpoint, reason))

    def resolved(self, lookup: Lookup, found: Sequence[Address], reason: str, now: float) -> None:
        self.told.append(("resolved", lookup, list(found), reason))

    def refused(self, endpoint: Endpoint, now: float) -> None:
        self.told.append(("refused", endpoint))

    def receive(self, burst: Burst, now: float) -> None:
        datagrams = [bytes(each) for each in burst.datagrams()]
        self.bursts.append((burst.endpoint.label, burst.source, datagrams, burst.local))
        self.on_burst(burst)

    def expire(self, now: float) -> None:
        self.told.append(("expire", now))
        self.due = None

    def deadline(self) -> Optional[float]:
        return self.due if self.due is not None else self.guard()

    def stop(self, now: float) -> None:
        self.told.append(("stop",))

    def status(self) -> str:
        return "recording"

    def datagrams(self) -> List[bytes]:
        return [each for _, _, datagrams, _ in self.bursts for each in datagrams]

    def named(self, what: str) -> List[Tuple[Any, ...]]:
        return [each for each in self.told if each[0] == what]


class Bench:
    """A loop with one recording role, and plain sockets to talk to it."""

    def __init__(self, **options: Any) -> None:
        self.loop = Loop(**options)
        self.now = self.loop._clock
        self.outbox = self.loop.outbox()
        self.role = Recorder(self.outbox)
        self.role.guard = lambda: self.now() + GUARD
        self.loop.add(self.role, self.outbox)
        self.sockets: List[socket.socket] = []

    def open(self, label: str = "local", ip: str = "127.0.0.1", **more: Any) -> Endpoint:
        endpoint = Endpoint(label, pack(ip, more.pop("port", 0)), **more)
        self.outbox.open(endpoint)
        self.until(lambda: any(each[1:2] == (endpoint,) for each in self.role.told))
        return endpoint

    def peer(self, ip: str = "127.0.0.1", to: Optional[Endpoint] = None) -> socket.socket:
        family = socket.AF_INET6 if ":" in ip else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_DGRAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        sock.settimeout(2)
        sock.bind((ip, 0))
        if to is not None:
            assert to.local is not None
            sock.connect((ip, port(to.local)))
        self.sockets.append(sock)
        return sock

    def echo(self) -> None:
        """From now on the role sends back what it gets."""
        routes: Dict[Tuple[Endpoint, Address, bytes], Route] = {}

        def back(burst: Burst) -> None:
            key = burst.endpoint, burst.source, burst.local
            route = routes.setdefault(key, Route(*key))
            self.outbox.forward(route, burst)

        self.role.on_burst = back

    def turn(self) -> None:
        self.loop.turn()

    def until(self, condition: Callable[[], bool]) -> None:
        for _ in range(MOST_TURNS):
            if condition():
                return
            self.turn()
        assert condition(), self.role.told

    def hears(self, count: int) -> List[bytes]:
        self.until(lambda: len(self.role.datagrams()) >= count)
        return self.role.datagrams()

    def close(self) -> None:
        self.loop.close()
        for sock in self.sockets:
            sock.close()


def route_to(endpoint: Endpoint, sock: socket.socket) -> Route:
    name = sock.getsockname()
    return Route(endpoint, pack(name[0], name[1]))


def receive(sock: socket.socket, count: int) -> List[bytes]:
    return [sock.recv(1 << 16) for _ in range(count)]


@pytest.fixture
def make_bench() -> Iterator[Callable[..., Bench]]:
    made: List[Bench] = []

    def make(**options: Any) -> Bench:
        made.append(Bench(**options))
        return made[-1]

    yield make
    for bench in made:
        bench.close()


@pytest.fixture(params=list(MANNERS))
def bench(request: Any, make_bench: Callable[..., Bench]) -> Bench:
    """One loop of each manner in turn."""
    options = MANNERS[request.param]
    if options["batched"] and not mmsg.available():
        pytest.skip("this platform has no batch calls")
    return make_bench(**options)


@pytest.fixture
def batched(make_bench: Callable[..., Bench]) -> Bench:
    if not mmsg.available():
        pytest.skip("this platform has no batch calls")
    return make_bench(batched=True)
