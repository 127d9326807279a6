"""The applications in front of and behind a path: what they sent, what came, what never should.

A `NumberedClient` sends datagrams that carry its random run identifier and a number and are
filled with bytes that follow from both, so one that was altered, cut or made up by anybody
else is told from its own. An `Echo` sends back what it gets. Both keep everything they get.

    datagram = run(8) ‖ number(4) ‖ filler

In a lab, `open_socket` makes the UDP socket inside a host's namespace.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import selectors
import socket
import threading
import time
from collections import Counter
from types import TracebackType
from typing import Callable, Iterable, NamedTuple, Optional, Sequence

SocketAddress = tuple[str, int]
OpenSocket = Callable[[], socket.socket]

HEADER = 12
LARGEST = 65507
LOOPBACK: SocketAddress = ("127.0.0.1", 0)

_RECEIVE_QUEUE = 1 << 22
_PACE = 0.001  # seconds between the groups that a paced sender sends


class Received(NamedTuple):
    data: bytes
    source: SocketAddress


def udp_socket() -> socket.socket:
    return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)


class Application:
    """A UDP socket; a thread keeps what comes to it in `received`."""

    def __init__(
        self, bind: SocketAddress = LOOPBACK, *, open_socket: OpenSocket = udp_socket
    ) -> None:
        self.received: list[Received] = []
        self.socket = open_socket()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_QUEUE)
        self.socket.bind(bind)
        self.address: SocketAddress = self.socket.getsockname()
        self._arrived = threading.Condition()
        self._wake, self._woken = socket.socketpair()
        self._receiver = threading.Thread(target=self._receive, daemon=True)
        self._receiver.start()

    def __enter__(self) -> Application:
        return self

    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        self.close()

    def close(self) -> None:
        self._wake.close()
        self._receiver.join()
        self._woken.close()
        self.socket.close()

    def wait_received(self, count: int, timeout: float = 10.0) -> bool:
        """Whether `count` datagrams in all, of whatever kind, came in time."""
        return self._wait(lambda: len(self.received) >= count, timeout)

    def arrived(self, data: bytes, source: SocketAddress) -> None:
        """Called in the receiving thread, for what a kind of application does with it."""

    def _wait(self, condition: Callable[[], bool], timeout: float) -> bool:
        with self._arrived:
            return self._arrived.wait_for(condition, timeout)

    def _receive(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self.socket, selectors.EVENT_READ)
            selector.register(self._woken, selectors.EVENT_READ)
            while not any(key.fileobj is self._woken for key, _ in selector.select()):
                try:
                    while True:
                        self._keep(*self.socket.recvfrom(LARGEST, socket.MSG_DONTWAIT))
                except OSError:  # drained, or an ICMP error
                    continue

    def _keep(self, data: bytes, source: SocketAddress) -> None:
        with self._arrived:
            self.received.append(Received(data, source))
            self.arrived(data, source)
            self._arrived.notify_all()


class Echo(Application):
    """The service behind the server: sends each datagram back to where it came from."""

    def __enter__(self) -> Echo:
        return self

    def arrived(self, data: bytes, source: SocketAddress) -> None:
        with contextlib.suppress(OSError):  # an ICMP error: the path's socket is gone
            self.socket.sendto(data, source)

    def foreign(self, clients: Iterable[NumberedClient]) -> list[Received]:
        """What none of these applications sent."""
        senders = list(clients)
        return [
            datagram
            for datagram in list(self.received)
            if all(sender.number(datagram.data) is None for sender in senders)
        ]


class NumberedClient(Application):
    """Sends numbered datagrams to `destination` and expects each of them back.

    `sizes` are the lengths of the datagrams, in turn.
    """

    def __init__(
        self,
        destination: SocketAddress,
        *,
        sizes: Sequence[int] = (64,),
        bind: SocketAddress = LOOPBACK,
        open_socket: OpenSocket = udp_socket,
    ) -> None:
        if not all(HEADER <= size <= LARGEST for size in sizes):
            raise ValueError(f"sizes are {HEADER} to {LARGEST}")
        self.destination = destination
        self.sent = 0
        self.run = os.urandom(8)
        self._sizes = sizes
        self._filler = os.urandom(256) * (max(sizes) // 256 + 2)
        self._echoed: set[int] = set()
        super().__init__(bind, open_socket=open_socket)

    def __enter__(self) -> NumberedClient:
        return self

    def datagram(self, number: int) -> bytes:
        length = self._sizes[number % len(self._sizes)] - HEADER
        start = number % 256
        return self.run + number.to_bytes(4, "big") + self._filler[start : start + length]

    def number(self, data: bytes) -> Optional[int]:
        """The number of a datagram of this run, None if it is none that was sent."""
        if not data.startswith(self.run):
            return None
        number = int.from_bytes(data[8:HEADER], "big")
        return number if number < self.sent and data == self.datagram(number) else None

    def send(self, count: int = 1, *, per_second: Optional[float] = None) -> None:
        """Send the next `count` datagrams: at once, or at a rate."""
        begun = time.monotonic()
        for position in range(count):
            if per_second:
                while position > (time.monotonic() - begun) * per_second:
                    time.sleep(_PACE)
            data = self.datagram(self.sent)
            self.sent += 1
            self.socket.sendto(data, self.destination)

    def wait_echoed(self, timeout: float = 10.0) -> bool:
        """Whether everything that was sent came back in time."""
        return self._wait(lambda: len(self._echoed) >= self.sent, timeout)

    def arrived(self, data: bytes, source: SocketAddress) -> None:
        number = self.number(data)
        if number is not None:
            self._echoed.add(number)

    def foreign(self) -> list[Received]:
        """What came and was not sent by this run, or not from where it was sent to."""
        return [
            datagram
            for datagram in list(self.received)
            if self.number(datagram.data) is None or datagram.source != self.destination
        ]

    def echoed(self) -> list[int]:
        """The numbers that came back so far."""
        return sorted(self._echoed)

    def missing(self) -> list[int]:
        return sorted(set(range(self.sent)) - self._echoed)

    def out_of_order(self) -> list[int]:
        """The numbers that came for the first time after a higher one."""
        first_come = list(dict.fromkeys(self._numbers()))
        highest = itertools.accumulate(first_come, max)
        return [number for number, seen in zip(first_come, highest) if number < seen]

    def duplicated(self) -> list[int]:
        return sorted(number for number, times in Counter(self._numbers()).items() if times > 1)

    def _numbers(self) -> list[int]:
        numbers = (self.number(datagram.data) for datagram in list(self.received))
        return [number for number in numbers if number is not None]
