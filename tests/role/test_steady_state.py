"""The steady state keeps nothing it allocates: a long time of traffic leaves memory as it was.

Through the loop's own outbox, in batches and in bursts, singles and trains; nothing is sent.
"""

from __future__ import annotations

import itertools
import tracemalloc
from dataclasses import replace
from typing import Any, Callable, List, Sequence

import pytest

from tests.virtual.memory_loop import Arrived, MemoryLoop, train
from udppunch import address
from udppunch.address import Address
from udppunch.config.roles import role_config
from udppunch.contract import Batch, Endpoint
from udppunch.net.arena import LARGEST_DATAGRAM
from udppunch.net.grouping import lay
from udppunch.net.portable import Parcel
from udppunch.proto.expose import connectees, figures, tags
from udppunch.proto.expose.publishing import Publishing
from udppunch.proto.expose.service import Memory
from udppunch.proto.relay.pairing import Limits
from udppunch.proto.relay.registrar import Registrar
from udppunch.role.expose import Expose
from udppunch.role.helper import Helper
from udppunch.role.relay import Relay
from udppunch.wire import expose, relay

GROWTH = 256 << 10  # an object for each hundredth datagram would be more
FLOWS = 16
IPS = ("198.51.100.7", "198.51.100.8")
SLOTS = 512
HOST = address.pack("203.0.113.10", 6000)
EXPOSER = address.pack("192.0.2.9", 5000)
SERVICE = address.pack("127.0.0.1", 7000)
STRANGER = address.pack("192.0.2.66", 6666)
KEY = bytes(range(32))
SECRET = bytes(16)


class Sink(MemoryLoop):
    """Lays together what is to be sent, and counts it."""

    def __init__(self) -> None:
        super().__init__(SLOTS)
        self.datagrams = 0
        self.now = 1000.0

    def send(self, udp: Any, parcels: Sequence[Parcel]) -> None:
        for route, _, pieces in parcels:
            route.laid = False
            for message in lay(pieces, LARGEST_DATAGRAM):
                route.datagrams += message.datagrams
                route.octets += message.octets
                self.datagrams += message.datagrams

    def wake_up(self, batch: Batch) -> None:
        """For a batch that was made before, of which the memory holds the datagrams."""
        self.now += 0.02
        self.role.receive_batch(batch, self.now)
        self._dispatch.flush()
        if self.role.deadline() <= self.now:
            self.call(self.role.expire, self.now)

    def prepare(self, endpoint: Endpoint, arrived: Sequence[Arrived]) -> Batch:
        pieces = [self._place(slot, one) for slot, one in enumerate(arrived)]
        batch = self._batch(endpoint, arrived, pieces, self.now)
        singly = batch.singly
        batch.singly = lambda index: singly(index)
        return batch

    def settle(self) -> List[Endpoint]:
        """Does what was asked for; the endpoints that were opened."""
        opened = []
        for verb, subject in self.requests():
            if verb == "open":
                self.open(subject)
                opened.append(subject)
                self.call(self.role.opened, subject, self.now)
            elif verb == "close":
                self.close(subject)
            else:
                found = [address.pack(subject.host, subject.port)]
                self.call(self.role.resolved, subject, found, "", self.now)
        return opened


def at(number: int, ip: str = "198.51.100.7") -> Address:
    return address.pack(ip, 4000 + number)


def single(source: Address, data: bytes) -> Arrived:
    return Arrived(source, data, len(data))


def handshake(number: int) -> bytes:
    """Of the pair of that number."""
    return relay.handshake((1 + number).to_bytes(16, "big"), SECRET)


def flat(loop: Sink, step: Callable[[], None], datagrams: int) -> None:
    """Runs the steps: some more at first, by which all that is kept has been there once."""

    def run(count: int) -> int:
        end = loop.datagrams + count
        while loop.datagrams < end:
            step()
        loop.call(loop.role.expire, loop.now)  # what is kept until the next time is gone
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        before = run(min(datagrams // 3, 40_000))
        after = run(datagrams)
    finally:
        tracemalloc.stop()
    assert loop.troubles == 0
    assert after - before < GROWTH


def joined_relay() -> "tuple[Sink, Endpoint]":
    """With as many pairs as there are flows."""
    loop = Sink()
    config = replace(role_config("relay", {}, {}), listen=(HOST,), secret=SECRET)
    limits = Limits(30.0, 1000, 1000, 1000)
    role: Relay
    registrar = Registrar(limits, 1, lambda _, message, now: role.told(message, now))
    role = Relay(config, loop.outbox, lambda message, now: registrar.hear(0, message, now))
    loop.role = role
    role.start(loop.now)
    (endpoint,) = loop.settle()
    for number in range(FLOWS):
        for ip in IPS:
            loop.deliver(endpoint, [single(at(number, ip), handshake(number))], loop.now, False)
    assert role.gauges() == {"flows": 2 * FLOWS}
    return loop, endpoint


def test_a_million_datagrams_through_a_relay() -> None:
    loop, endpoint = joined_relay()
    sources = [at(n, ip) for ip in IPS for n in range(FLOWS)]
    singles = [single(source, bytes(20 + n)) for n, source in enumerate(sources)]
    batch = loop.prepare(endpoint, singles * (SLOTS // len(singles)))
    flat(loop, lambda: loop.wake_up(batch), 1_000_000)


def test_all_that_comes_to_a_relay() -> None:
    loop, endpoint = joined_relay()
    mixed = [single(at(n % FLOWS), bytes(30)) for n in range(60)]
    mixed += [Arrived(at(n), *train(*[bytes(100)] * 9, b"end")) for n in range(FLOWS)]
    mixed += [single(at(n), handshake(n)) for n in range(FLOWS)]
    mixed += [single(STRANGER, b"who am I"), single(at(0), b""), single(at(1), relay.MAGIC)]

    def step() -> None:
        loop.wake_up(loop.prepare(endpoint, mixed))
        loop.deliver(endpoint, mixed[50:80], loop.now, False)

    flat(loop, step, 100_000)


def published(workers: int = 1, **changes: Any) -> "tuple[Sink, Endpoint]":
    """The first of a helper's workers, which knows the exposer."""
    loop = Sink()
    config = replace(
        role_config("helper", {"listen": ["203.0.113.10:6000"]}, {}), rate=100_000, **changes
    )
    memory = Memory(
        workers,
        [memoryview(bytearray(tags.SHARED_OCTETS))],
        [memoryview(bytearray(4 * workers * connectees.COUNTS)).cast("I")],
        memoryview(bytearray(figures.OCTETS * workers)),
        SECRET,
        lambda: 0.0,
    )
    role: Helper

    def tell(worker: int, message: Any, now: float) -> None:
        if worker == 0:
            role.told(message, now)

    registrar = Publishing([""], workers, tell, memory.counts)
    role = Helper(config, loop.outbox, lambda message, now: registrar.hear(0, message, now), memory)
    loop.role = role
    role.start(loop.now)
    (endpoint,) = loop.settle()
    loop.deliver(endpoint, [single(EXPOSER, b"")], loop.now, False)
    return loop, endpoint


def tagged(tag: int, payload: bytes) -> bytes:
    return expose.TAG.pack(tag) + payload


def mixed_train(source: Address) -> List[Arrived]:
    """Trains of tags by turns, with a tail of none."""
    return [
        Arrived(source, *train(*(tagged(1 + (n + m) % FLOWS, bytes(60)) for m in range(6)), b"end"))
        for n in range(8)
    ]


def test_all_that_comes_to_a_helper() -> None:
    loop, endpoint = published(max_clients=FLOWS)
    for number in range(FLOWS):
        loop.deliver(endpoint, [single(at(number), b"x")], loop.now, False)
    there = [single(at(n % FLOWS), bytes(30 + n % 3)) for n in range(40)]
    there += [Arrived(at(n), *train(*[bytes(100)] * 4, b"tail"[:n])) for n in (1, 2, 4)]
    back = [single(EXPOSER, tagged(1 + n % FLOWS, bytes(40))) for n in range(40)]
    back += mixed_train(EXPOSER)
    own = [single(EXPOSER, b""), single(EXPOSER, b"x"), single(STRANGER, b"all are in use")]
    mixed = [*back, *there, *own]

    def step() -> None:
        loop.wake_up(loop.prepare(endpoint, mixed))
        loop.deliver(endpoint, mixed[30:60], loop.now, False)

    flat(loop, step, 100_000)
    assert loop.role.counters["connectees new"] == FLOWS


@pytest.mark.parametrize("answered", [False, True])
def test_newcomers_without_end(answered: bool) -> None:
    """Of 256 workers each has 256 tags, so that these soon come around."""
    workers = 256
    loop, endpoint = published(workers=workers, max_clients=100, idle=0.5)
    numbers = itertools.count()
    held = [single(EXPOSER, tagged(tag, b"y")) for tag in range(0, expose.TAGS, workers)]

    def step() -> None:
        some = [at(next(numbers) % 50_000) for _ in range(32)]
        loop.wake_up(loop.prepare(endpoint, [single(one, b"x") for one in some]))
        if answered:
            loop.wake_up(loop.prepare(endpoint, held))

    flat(loop, step, 10_000)


def test_all_that_comes_to_an_exposer() -> None:
    loop = Sink()
    raw = {"local": "127.0.0.1:7000", "helper": ["203.0.113.10:6000"]}
    config = replace(role_config("expose", raw, {}), key=KEY, max_clients=FLOWS)
    loop.role = Expose(config, loop.outbox, lambda count: bytes(count))
    loop.role.start(loop.now)
    loop.settle()
    (helper,) = loop.settle()
    sockets = []
    for tag in range(1, 1 + FLOWS):
        loop.deliver(helper, [single(HOST, tagged(tag, b"x"))], loop.now, False)
        sockets += loop.settle()
    assert len(sockets) == FLOWS
    answer = expose.encode(expose.Registered(), KEY)
    there = [single(HOST, tagged(1 + n % FLOWS, bytes(40 + n % 3))) for n in range(60)]
    there += mixed_train(HOST)
    there += [single(HOST, answer), single(HOST, b""), single(STRANGER, b"x")]
    back = [single(SERVICE, bytes(50)), Arrived(SERVICE, *train(*[bytes(90)] * 5, b"end"))] * 4

    def step() -> None:
        loop.wake_up(loop.prepare(helper, there))
        for socket in sockets:
            loop.deliver(socket, back, loop.now, True)
        loop.deliver(helper, there[50:], loop.now, False)

    flat(loop, step, 100_000)
