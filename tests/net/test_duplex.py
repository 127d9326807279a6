"""Streams that last: what waits is bounded, and who holds up nobody."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import time
from typing import Any, Callable, Iterator, List

import pytest

from udppunch.net import duplex
from udppunch.net.duplex import DuplexServer, DuplexStream
from udppunch.net.loop import Loop

PATIENCE = 20.0


class Heard:
    """Says back what it hears; `welcome` is the word that proves something."""

    def __init__(self, stream: DuplexStream, now: float) -> None:
        self.stream = stream
        self.established = False
        self.heard = bytearray()

    def received(self, data: bytes, now: float) -> None:
        self.heard += data
        self.established |= data == b"welcome"
        self.stream.send(data)


class Bench:
    def __init__(self) -> None:
        self.loop = Loop(batched=False, slots=1)
        # Turns do not sleep: the tests wait for what the other end sees, too.
        self._wake, self._awake = os.pipe()
        os.write(self._awake, b"x")
        self.loop.watch(self._wake, lambda: None)
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.conversations: List[Heard] = []
        self.now = 0.0
        DuplexServer(self.loop, self.listener, self._converse, lambda: self.now)

    def _converse(self, stream: DuplexStream, now: float) -> Heard:
        self.conversations.append(Heard(stream, now))
        return self.conversations[-1]

    def until(self, condition: Callable[[], Any]) -> None:
        due = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < due, "in vain"
            self.loop.turn()

    def connect(self) -> socket.socket:
        """With its conversation, the newest."""
        count = len(self.conversations)
        sock = socket.create_connection(self.listener.getsockname(), PATIENCE)
        sock.setblocking(False)
        self.until(lambda: len(self.conversations) > count)
        return sock

    def read(self, sock: socket.socket, octets: int) -> bytes:
        data = bytearray()

        def enough() -> bool:
            with contextlib.suppress(BlockingIOError):
                data.extend(sock.recv(octets - len(data)))
            return len(data) >= octets

        self.until(enough)
        return bytes(data)

    def has_ended(self, sock: socket.socket) -> bool:
        try:
            return not sock.recv(1 << 16)
        except BlockingIOError:
            return False
        except ConnectionError:
            return True

    def close(self) -> None:
        for conversation in self.conversations:
            conversation.stream.abort()
        self.loop.close()
        self.listener.close()
        os.close(self._wake)
        os.close(self._awake)


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.close()


def test_both_speak_when_they_like(bench: Bench) -> None:
    with bench.connect() as sock:
        sock.send(b"one")
        assert bench.read(sock, 3) == b"one"
        bench.conversations[0].stream.send(b"unasked")
        bench.conversations[0].stream.send(b", twice")
        assert bench.read(sock, 14) == b"unasked, twice"
        sock.send(b"two")
        assert bench.read(sock, 3) == b"two"


def test_much_arrives_whole(bench: Bench) -> None:
    said = os.urandom(duplex.MOST_UNSENT)
    with bench.connect() as sock:
        bench.conversations[0].stream.send(said)
        assert bench.read(sock, len(said)) == said


def test_close_waits_for_what_was_said(bench: Bench) -> None:
    with bench.connect() as sock:
        stream = bench.conversations[0].stream
        said = os.urandom(1 << 20)
        stream.send(said)
        stream.close()
        stream.send(b"too late")
        assert not stream.closed
        assert bench.read(sock, len(said)) == said
        bench.until(lambda: bench.has_ended(sock))
        assert stream.closed


def test_who_leaves_is_noticed(bench: Bench) -> None:
    for reset in (False, True):
        sock = bench.connect()
        if reset:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        sock.close()
        stream = bench.conversations[-1].stream
        bench.until(lambda stream=stream: stream.closed)
        stream.send(b"to nobody")
        stream.close()
        stream.abort()


def test_what_was_said_before_the_end_is_answered(bench: Bench) -> None:
    with bench.connect() as sock:
        sock.send(b"goodbye")
        sock.shutdown(socket.SHUT_WR)
        assert bench.read(sock, 7) == b"goodbye"
        bench.until(lambda: bench.has_ended(sock))


def test_who_does_not_read_is_not_read(bench: Bench) -> None:
    """Of what a stubborn one says, only as much is taken as buffers hold; it stays, unread."""
    with bench.connect() as stubborn, bench.connect() as other:
        conversation = bench.conversations[0]
        sent, idle = 0, 0
        while idle < 200:
            try:
                sent += stubborn.send(bytes(1 << 16))
                idle = 0
            except BlockingIOError:
                idle += 1
            bench.loop.turn()
        heard = len(conversation.heard)
        assert heard < sent
        other.send(b"still there?")
        assert bench.read(other, 12) == b"still there?"
        assert not conversation.stream.closed
        assert bench.read(stubborn, sent) == bytes(sent), "and goes on when it does read"


def test_who_never_reads_is_left(bench: Bench) -> None:
    with bench.connect(), bench.connect() as other:
        stream = bench.conversations[0].stream
        for _ in range(1000):
            stream.send(bytes(1 << 16))
            bench.loop.turn()
        assert stream.closed
        other.send(b"still there?")
        assert bench.read(other, 12) == b"still there?"


def test_silent_strangers_go_first(bench: Bench) -> None:
    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(bench.connect()) for _ in range(duplex.MOST_STREAMS)]
        bench.now = 1.0
        socks[0].send(b"welcome")
        bench.read(socks[0], 7)
        bench.now = 2.0
        socks[1].send(b"hello")
        bench.read(socks[1], 5)
        for _ in range(duplex.MOST_STREAMS - 2):
            bench.now += 1
            stack.enter_context(bench.connect())
        gone = [conversation.stream.closed for conversation in bench.conversations]
        assert gone[:2] == [False, False] and all(gone[2 : duplex.MOST_STREAMS])
        assert gone.count(False) == duplex.MOST_STREAMS
        for _ in range(2 * duplex.MOST_STREAMS):
            bench.now += 1
            stack.enter_context(bench.connect())
        assert [c.stream.closed for c in bench.conversations[:2]] == [False, True]
        socks[0].send(b"still there?")
        assert bench.read(socks[0], 12) == b"still there?"


def test_no_descriptors(bench: Bench) -> None:
    """Who can't be taken is refused, and the others do not feel it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with bench.connect() as old, socket.socket() as new:
        resource.setrlimit(resource.RLIMIT_NOFILE, (new.fileno() + 1, hard))
        try:
            new.connect(bench.listener.getsockname())
            new.setblocking(False)
            bench.until(lambda: bench.has_ended(new))
            old.send(b"still there?")
            assert bench.read(old, 12) == b"still there?"
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    with bench.connect() as sock:
        sock.send(b"again")
        assert bench.read(sock, 5) == b"again"
