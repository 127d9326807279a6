"""Datagrams with something put in front of each, or taken off, for every manner of loop."""

from __future__ import annotations

import errno
import socket
import struct
from typing import Callable, List, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from udppunch.contract import Burst, Route
from udppunch.net import grouping

from .conftest import Bench, receive, route_to

SOL_UDP, UDP_SEGMENT = 17, 103
HEAD = b"\x01\x02"


def send_train(peer: socket.socket, datagrams: Sequence[bytes]) -> None:
    ancillary = [(SOL_UDP, UDP_SEGMENT, struct.pack("@H", len(datagrams[0])))]
    peer.sendmsg([b"".join(datagrams)], ancillary)


def train(count: int, size: int = 100) -> List[bytes]:
    return [bytes([index]) * size for index in range(count)]


def do(bench: Bench, act: Callable[[Burst], None]) -> socket.socket:
    """A peer whose datagrams meet with that."""
    endpoint = bench.open()
    bench.role.on_burst = act
    return bench.peer(to=endpoint)


@pytest.mark.parametrize("head", [HEAD, bytes(range(64))])
def test_heads_are_put_in_front(bench: Bench, head: bytes) -> None:
    sink = bench.peer()
    routes: List[Route] = []
    peer = do(bench, lambda burst: bench.outbox.prefix(routes[0], burst.piece, head))
    routes.append(route_to(next(iter(bench.loop._dispatch.sockets)), sink))
    sent = [b"alone", b"", b"x" * 1200, *train(16), b"end", *train(64, 500), b"last"]
    for datagram in sent[:3]:
        peer.send(datagram)
    send_train(peer, sent[3:20])
    send_train(peer, sent[20:])
    bench.hears(len(sent))
    assert receive(sink, len(sent)) == [head + datagram for datagram in sent]
    assert (routes[0].datagrams, routes[0].octets) == (
        len(sent),
        sum(map(len, sent)) + len(sent) * len(head),
    )


def test_heads_are_taken_off(bench: Bench) -> None:
    sink = bench.peer()
    routes: List[Route] = []
    peer = do(bench, lambda burst: bench.outbox.strip(routes[0], burst.piece, 2))
    routes.append(route_to(next(iter(bench.loop._dispatch.sockets)), sink))
    sent = [HEAD + b"alone", HEAD, *(HEAD + each for each in train(64, 700)), HEAD + b"end"]
    peer.send(sent[0])
    peer.send(sent[1])
    send_train(peer, sent[2:])
    bench.hears(len(sent))
    assert receive(sink, len(sent)) == [datagram[2:] for datagram in sent]


def test_each_kind_between_the_others_in_order(bench: Bench) -> None:
    sink = bench.peer()
    routes: List[Route] = []

    def act(burst: Burst) -> None:
        way = burst.view[0] % 3
        if way == 0:
            bench.outbox.forward(routes[0], burst)
        elif way == 1:
            bench.outbox.prefix(routes[0], burst.piece, HEAD)
        else:
            bench.outbox.strip(routes[0], burst.piece, 2)

    peer = do(bench, act)
    routes.append(route_to(next(iter(bench.loop._dispatch.sockets)), sink))
    expected = []
    for index in range(60):
        datagrams = [bytes([index]) * 50] * (index % 5 + 1)
        if len(datagrams) > 1:
            send_train(peer, datagrams)
        else:
            peer.send(datagrams[0])
        way = index % 3
        for each in datagrams:
            expected.append(each if way == 0 else HEAD + each if way == 1 else each[2:])
    bench.hears(len(expected))
    assert receive(sink, len(expected)) == expected


def test_refused_trains_go_singly_with_their_heads(batched: Bench) -> None:
    sink = batched.peer()
    routes: List[Route] = []
    peer = do(batched, lambda burst: batched.outbox.prefix(routes[0], burst.piece, HEAD))
    routes.append(route_to(next(iter(batched.loop._dispatch.sockets)), sink))
    sender = batched.loop._dispatch._sender
    real, refusals = sender._sendmmsg, [errno.EMSGSIZE]  # type: ignore[attr-defined]

    def refuse(*arguments: object) -> int:
        if refusals:
            import ctypes

            ctypes.set_errno(refusals.pop())
            return -1
        return int(real(*arguments))

    sender._sendmmsg = refuse  # type: ignore[attr-defined]
    sent = train(8)
    send_train(peer, sent)
    batched.hears(8)
    assert receive(sink, 8) == [HEAD + each for each in sent]
    # From then on no train that large is tried.
    send_train(peer, sent)
    batched.hears(16)
    assert receive(sink, 8) == [HEAD + each for each in sent]


@given(
    segment=st.integers(1, 5000),
    count=st.integers(1, 200),
    last=st.integers(1, 5000),
    head=st.integers(1, 64),
)
def test_headed_messages_are_what_the_kernel_takes(
    segment: int, count: int, last: int, head: int
) -> None:
    last = min(last, segment)
    length = (count - 1) * segment + last
    messages = grouping.headed((1000, length, segment), 7, head)
    sizes = []
    at = 1000
    for message in messages:
        assert message.datagrams <= grouping.MOST_SEGMENTS
        assert message.octets <= grouping.MOST_OCTETS or message.datagrams == 1
        assert message.octets == sum(message.spans[1::2])
        for head_at, of_head, position, size in zip(*[iter(message.spans)] * 4):
            assert (head_at, of_head, position) == (7, head, at)
            at += size
            sizes.append(size)
    assert sizes == [segment] * (count - 1) + [last]
