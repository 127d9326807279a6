"""Packets between processes: whole, in order, kept while the other end does not listen."""

from __future__ import annotations

import os
import socket
from typing import Callable, Iterator, List, Tuple

import pytest

from udppunch.net.packets import Packets, packet_pair

from .conftest import Bench

Ends = Tuple[socket.socket, socket.socket]


@pytest.fixture
def ends() -> Iterator[Ends]:
    pair = packet_pair()
    yield pair
    for end in pair:
        end.close()


@pytest.fixture
def here(make_bench: Callable[..., Bench], ends: Ends) -> Tuple[Bench, Packets, List[bytes]]:
    bench = make_bench()
    heard: List[bytes] = []
    return bench, Packets(bench.loop, ends[0], heard.append), heard


def test_said_and_heard(here: Tuple[Bench, Packets, List[bytes]], ends: Ends) -> None:
    bench, packets, heard = here
    assert packets.say(b"one")
    assert packets.say(b"two")
    assert [ends[1].recv(100), ends[1].recv(100)] == [b"one", b"two"]
    ends[1].send(b"three")
    ends[1].send(b"four")
    bench.until(lambda: len(heard) == 2)
    assert heard == [b"three", b"four"]


def test_what_does_not_fit_waits_in_order(
    here: Tuple[Bench, Packets, List[bytes]], ends: Ends
) -> None:
    bench, packets, _ = here
    said = [index.to_bytes(4, "big") * 1000 for index in range(2000)]
    for record in said:
        assert packets.say(record)
    heard = b""

    def all_heard() -> bool:
        nonlocal heard
        try:
            while True:
                heard += ends[1].recv(1 << 18)
        except BlockingIOError:
            return len(heard) == 4000 * len(said)

    bench.until(all_heard)
    assert heard == b"".join(said)


def test_what_waits_is_bounded(here: Tuple[Bench, Packets, List[bytes]]) -> None:
    _, packets, _ = here
    record = bytes(60_000)
    taken = 0
    while packets.say(record):
        taken += 1
        assert taken < 1000
    assert 200 < taken


def test_other_end_may_end_and_come_again(
    here: Tuple[Bench, Packets, List[bytes]], ends: Ends
) -> None:
    """As a worker does that is killed: its successor has the same socket."""
    bench, packets, heard = here
    for word in (b"first", b"second"):
        pid = os.fork()
        if not pid:
            try:
                ends[1].send(b"I am " + word)
            finally:
                os._exit(0)
        os.waitpid(pid, 0)
    bench.until(lambda: len(heard) == 2)
    assert heard == [b"I am first", b"I am second"]
    assert packets.say(b"still here")
