"""A role that takes batches in columns gets, and passes on, the very same datagrams."""

from __future__ import annotations

import random
import socket
import struct
import sys
from typing import Callable, Dict, List, Tuple

import pytest

from udppunch.address import Address
from udppunch.contract import Batch, Burst, Endpoint, Route
from udppunch.net import clock

from .conftest import Bench, receive, route_to

SOL_UDP, UDP_SEGMENT = 17, 103
MARKED = 4  # datagrams that start with this are looked at singly


class Forwarder:
    """Passes all on to one route, in batches where there are any; notes what came singly."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.route: Route
        self.singly: List[Tuple[Address, bytes, bytes]] = []
        self.batches: List[int] = []

    def receive(self, burst: Burst, now: float) -> None:
        self.singly += [(burst.source, bytes(each), burst.local) for each in burst.datagrams()]
        self.bench.outbox.forward(self.route, burst)

    def receive_batch(self, batch: Batch, now: float) -> None:
        self.batches.append(len(batch.sources))
        for index, (_, piece, start) in enumerate(zip(batch.sources, batch.pieces, batch.words)):
            if start.to_bytes(2, sys.byteorder)[0] == MARKED or piece[1] > piece[2] or not piece[1]:
                batch.singly(index)
                continue
            pending = self.route.pending
            if pending is None:
                pending = self.bench.outbox.begin(self.route)
            pending.append(piece)


@pytest.fixture
def forwarding(make_bench: Callable[..., Bench]) -> Tuple[Bench, Forwarder]:
    bench = make_bench(batched=True)
    forwarder = Forwarder(bench)
    bench.role.receive = forwarder.receive  # type: ignore[method-assign]
    bench.role.receive_batch = forwarder.receive_batch  # type: ignore[attr-defined]
    return bench, forwarder


def start(
    bench: Bench, forwarder: Forwarder, ip: str = "127.0.0.1"
) -> Tuple[Endpoint, socket.socket]:
    endpoint = bench.open(ip=ip, asked_address=True)
    sink = bench.peer()
    forwarder.route = route_to(endpoint, sink)
    return endpoint, sink


@pytest.mark.parametrize("ip", ["127.0.0.1", "0.0.0.0"])
def test_all_kinds_pass_in_order(forwarding: Tuple[Bench, Forwarder], ip: str) -> None:
    bench, forwarder = forwarding
    endpoint, sink = start(bench, forwarder, ip)
    assert endpoint.local is not None
    to = ("127.0.0.1", int.from_bytes(endpoint.local[-2:], "big"))
    peer = bench.peer()
    peer.connect(to)
    chooser = random.Random(7)
    sent = [
        bytes([chooser.choice((MARKED, 7))]) + bytes([index]) * chooser.choice((0, 5, 1199))
        for index in range(200)
    ]
    sent[50] = b""
    for datagram in sent:
        peer.send(datagram)
    bench.turn()
    assert receive(sink, len(sent)) == sent
    # Without the kernel's coalescing each came as it was; else runs came as one burst.
    assert sum(forwarder.batches) <= len(sent)
    local = socket.inet_aton("127.0.0.1") if ip == "0.0.0.0" else b""
    assert {local_ip for _, _, local_ip in forwarder.singly} == {local}
    assert b"" in [datagram for _, datagram, _ in forwarder.singly]


def test_trains_come_singly_and_whole(forwarding: Tuple[Bench, Forwarder]) -> None:
    bench, forwarder = forwarding
    endpoint, sink = start(bench, forwarder)
    peer = bench.peer(to=endpoint)
    train = b"".join(bytes([index]) * 100 for index in range(1, 9)) + b"end"
    ancillary = [(SOL_UDP, UDP_SEGMENT, struct.pack("@H", 100))]
    for _ in range(3):
        peer.sendmsg([train], ancillary)
    bench.turn()
    datagrams = [train[at : at + 100] for at in range(0, len(train), 100)]
    assert receive(sink, 3 * len(datagrams)) == 3 * datagrams


def test_error_in_a_batch_costs_no_process(
    forwarding: Tuple[Bench, Forwarder], caplog: pytest.LogCaptureFixture
) -> None:
    bench, forwarder = forwarding
    endpoint, sink = start(bench, forwarder)
    peer = bench.peer(to=endpoint)
    forwarder.batches = None  # type: ignore[assignment]
    for _ in range(3):
        peer.send(b"lost")
    bench.turn()
    assert bench.loop.counters["role_errors"] == 1
    forwarder.batches = []
    for _ in range(3):
        peer.send(b"passes")
    bench.turn()
    assert receive(sink, 3) == [b"passes"] * 3


@pytest.mark.parametrize("batched", [True, False])
def test_coalescing_waits_after_a_deep_batch_alone(
    make_bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch, batched: bool
) -> None:
    slept: List[float] = []
    monkeypatch.setattr(clock, "sleep", slept.append)
    bench = make_bench(batched=batched, offload=False, slots=16, coalesce=0.001)
    endpoint = bench.open()
    peer = bench.peer(to=endpoint)
    outcomes: Dict[int, List[float]] = {}
    for count in (1, 3, 4, 10, 16):
        for _ in range(count):
            peer.send(b"x")
        slept.clear()
        bench.turn()
        outcomes[count] = list(slept)
    assert outcomes == {1: [], 3: [], 4: [0.001], 10: [0.001], 16: []}
    assert len(bench.role.datagrams()) == 34
