"""Datagrams through a loop: whole, in order, and as many as came, in every manner of I/O."""

from __future__ import annotations

import random
import socket
from typing import Any, Callable, List

import pytest

from udppunch.address import pack
from udppunch.contract import Burst, Endpoint, Route
from udppunch.net.offload import SOL_UDP, UDP_GRO, UDP_SEGMENT

from .conftest import Bench, receive, route_to


def numbered(sizes: List[int]) -> List[bytes]:
    return [number.to_bytes(4, "big").ljust(size, b".") for number, size in enumerate(sizes)]


def send_train(sock: socket.socket, segment: int, data: bytes) -> None:
    sock.setsockopt(SOL_UDP, UDP_SEGMENT, segment)
    sock.send(data)
    sock.setsockopt(SOL_UDP, UDP_SEGMENT, 0)


@pytest.mark.parametrize("ip", ["127.0.0.1", "::1"])
def test_trains_come_and_go_whole(bench: Bench, ip: str) -> None:
    bench.echo()
    peer = bench.peer(ip, to=bench.open(ip=ip))
    sent = numbered([1200] * 15 + [700])
    send_train(peer, 1200, b"".join(sent))
    assert bench.hears(16) == sent
    assert receive(peer, 16) == sent


def test_a_coalesced_train_is_one_burst(batched: Bench) -> None:
    peer = batched.peer(to=batched.open())
    send_train(peer, 1000, bytes(3500))
    batched.hears(4)
    assert len(batched.role.bursts) == 1


def test_a_train_leaves_as_one_message(batched: Bench) -> None:
    batched.echo()
    peer = batched.peer(to=batched.open())
    peer.setsockopt(SOL_UDP, UDP_GRO, 1)
    send_train(peer, 1000, bytes(3500))
    batched.hears(4)
    data, control, _, _ = peer.recvmsg(1 << 16, 64)
    assert (len(data), [each[:2] for each in control]) == (3500, [(SOL_UDP, UDP_GRO)])


def test_singles_of_one_batch_leave_as_one_message(batched: Bench) -> None:
    batched.echo()
    peer = batched.peer(to=batched.open())
    peer.setsockopt(SOL_UDP, UDP_GRO, 1)
    sent = numbered([1000] * 30)
    for each in sent:
        peer.send(each)
    batched.hears(30)
    assert peer.recv(1 << 16) == b"".join(sent)


def test_no_offload_when_not_wanted(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(offload=False)
    bench.echo()
    peer = bench.peer(to=bench.open())
    peer.setsockopt(SOL_UDP, UDP_GRO, 1)
    send_train(peer, 1000, bytes(3500))
    bench.hears(4)
    assert len(bench.role.bursts) == 4
    assert [len(each) for each in receive(peer, 4)] == [1000, 1000, 1000, 500]


def test_order_over_mixed_sizes(bench: Bench) -> None:
    bench.echo()
    peer = bench.peer(to=bench.open())
    dice = random.Random(5)
    sent = numbered([dice.choice([4, 100, 1200, 1200, 1200, 1400]) for _ in range(400)])
    for start in range(0, 400, 50):
        for each in sent[start : start + 50]:
            peer.send(each)
        bench.hears(start + 50)
    assert bench.role.datagrams() == sent
    assert receive(peer, 400) == sent


def test_flows_keep_apart(bench: Bench) -> None:
    bench.echo()
    endpoint = bench.open()
    peers = [bench.peer(to=endpoint) for _ in range(20)]
    for turn in range(5):
        for number, peer in enumerate(peers):
            peer.send(b"%d of %d" % (turn, number))
    bench.hears(100)
    for number, peer in enumerate(peers):
        assert receive(peer, 5) == [b"%d of %d" % (turn, number) for turn in range(5)]


def test_more_than_one_batch_waits(bench: Bench) -> None:
    bench.echo()
    peer = bench.peer(to=bench.open())
    sent = numbered([50] * 1000)
    for each in sent:
        peer.send(each)
    assert bench.hears(1000) == sent
    assert receive(peer, 1000) == sent


def test_many_sockets_share_the_slots(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(slots=8)
    bench.echo()
    peers = [bench.peer(to=bench.open(str(number))) for number in range(10)]
    for peer in peers:
        for number in range(5):
            peer.send(b"%d" % number)
    bench.hears(50)
    for peer in peers:
        assert receive(peer, 5) == [b"0", b"1", b"2", b"3", b"4"]


@pytest.mark.parametrize("size", [0, 1, 1472, 1473, 65_507])
def test_sizes_at_the_edges(bench: Bench, size: int) -> None:
    bench.echo()
    peer = bench.peer(to=bench.open())
    peer.send(b"before")
    peer.send(bytes(size))
    peer.send(b"after")
    bench.hears(3)
    assert receive(peer, 3) == [b"before", bytes(size), b"after"]


def test_largest_train(bench: Bench) -> None:
    """It exceeds what one of our own messages may hold, so it leaves in two."""
    bench.echo()
    peer = bench.peer(to=bench.open())
    send_train(peer, 1023, bytes(64 * 1023))
    bench.hears(64)
    assert [len(each) for each in receive(peer, 64)] == [1023] * 64


def test_own_datagrams_keep_their_place(bench: Bench) -> None:
    endpoint = bench.open()
    peer = bench.peer(to=endpoint)
    route = route_to(endpoint, peer)

    def sandwich(burst: Burst) -> None:
        bench.outbox.send(route, b"first")
        bench.outbox.forward(route, burst)
        bench.outbox.send(route, b"last")

    bench.role.on_burst = sandwich
    send_train(peer, 3, b"onetwo")
    bench.hears(2)
    heard = receive(peer, 4)
    if heard[2] == b"last":  # uncoalesced: each came by itself
        heard += receive(peer, 2)
        assert heard == [b"first", b"one", b"last", b"first", b"two", b"last"]
    else:
        assert heard == [b"first", b"one", b"two", b"last"]


def test_more_own_datagrams_than_the_scratch_area_holds(bench: Bench) -> None:
    endpoint = bench.open()
    sink = bench.peer()
    route = route_to(endpoint, sink)
    for number in range(60):
        bench.outbox.send(route, bytes([number]) * 30_000)
    bench.turn()
    assert [each[0] for each in receive(sink, 60)] == list(range(60))


def test_what_was_accepted_is_counted(bench: Bench) -> None:
    bench.echo()
    endpoint = bench.open()
    peer = bench.peer(to=endpoint)
    routes: List[Route] = []

    def back(burst: Burst) -> None:
        routes.append(Route(burst.endpoint, burst.source))
        bench.outbox.forward(routes[-1], burst)

    bench.role.on_burst = back
    send_train(peer, 1000, bytes(2500))
    peer.send(b"")
    bench.hears(4)
    assert sum(each.datagrams for each in routes) == 4
    assert sum(each.octets for each in routes) == 2500


def test_a_route_may_change_its_destination(bench: Bench) -> None:
    endpoint = bench.open()
    one, other = bench.peer(), bench.peer()
    route = route_to(endpoint, one)
    bench.outbox.send(route, b"to one")
    bench.turn()
    route.destination = route_to(endpoint, other).destination
    bench.outbox.send(route, b"to the other")
    bench.turn()
    assert one.recv(99) == b"to one"
    assert other.recv(99) == b"to the other"


def test_truncated_datagrams_are_dropped(make_bench: Callable[..., Bench]) -> None:
    for batched in (True, False):
        bench = make_bench(batched=batched)
        receiver: Any = bench.loop._receiver
        receiver._arena.slot_size = 100
        if batched:
            receiver._lay_out(receiver._arena.slots)
        peer = bench.peer(to=bench.open())
        peer.send(bytes(101))
        peer.send(bytes(100))
        assert bench.hears(1) == [bytes(100)]
        assert bench.loop.counters["receive_truncated"] == 1


def test_sources_are_told_exactly(bench: Bench) -> None:
    endpoint = bench.open("here")
    peer = bench.peer("127.0.0.3")
    assert endpoint.local is not None
    peer.sendto(b"x", ("127.0.0.1", int.from_bytes(endpoint.local[4:], "big")))
    bench.hears(1)
    expected = ("here", pack("127.0.0.3", peer.getsockname()[1]), [b"x"], b"")
    assert bench.role.bursts == [expected]


def test_too_long_a_datagram_is_counted(bench: Bench) -> None:
    endpoint = bench.open()
    bench.outbox.send(route_to(endpoint, bench.peer()), bytes(70_000))
    assert bench.loop.counters["send_EMSGSIZE"] == 1


def test_an_endpoint_that_is_not_open_sends_nothing(bench: Bench) -> None:
    bench.turn()
    stranger = Endpoint("stranger", pack("127.0.0.1", 0))
    bench.outbox.send(route_to(stranger, bench.peer()), b"x")
    bench.turn()
    assert bench.loop.counters["send_unopened"] == 1


def test_no_ipv6_destination_through_an_ipv4_endpoint(bench: Bench) -> None:
    bench.outbox.send(Route(bench.open(), pack("::1", 9)), b"x")
    bench.turn()
    assert bench.loop.counters["send_unopened"] == 1
