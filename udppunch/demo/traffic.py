"""The applications at both ends of the path, and what they measure.

Both are plain UDP sockets that know nothing of udppunch. The application asks, the service
echoes; then the application sends a burst, which the service only counts. All datagrams begin
with random bytes of this run, so that anything else which arrives is told from them.
"""

from __future__ import annotations

import contextlib
import functools
import os
import socket
import time
from typing import Callable, Dict, List, NamedTuple, Tuple

from udppunch.demo.stage import Host, Stage

_SOL_UDP = 17
_UDP_SEGMENT = 103
_UDP_GRO = 104

_LARGEST = 65535
_TAG = 8
_QUESTION = _TAG + 4

SIZE = 1200
_TRAIN = 32
_WINDOW = 128  # datagrams under way: less than what any socket on the way can hold
_STALL = 0.02  # seconds without arrivals after which what is under way is taken for lost
_QUIET = 0.05  # seconds without arrivals after which nothing more is awaited
_MOST = 1_000_000


class Throughput(NamedTuple):
    sent: int
    arrived: int
    seconds: float

    @property
    def bits_per_second(self) -> float:
        return 8 * SIZE * self.arrived / self.seconds


class Traffic:
    """A service on host `a` and, once it is opened, an application on host `b`."""

    def __init__(self, stage: Stage) -> None:
        self.foreign = 0
        self._stage = stage
        self._tag = os.urandom(_TAG)
        self._burst = (self._tag + os.urandom(SIZE - _TAG)) * (_LARGEST // SIZE)
        self._sent = self._counted = self._written_off = 0  # datagrams of the burst
        self._answered: Dict[int, float] = {}
        self._asked_at: List[float] = []
        self._destination: Tuple[str, int]
        self._application: socket.socket
        self._service = stage.udp(stage.ground.a, self._at_service)
        with contextlib.suppress(OSError):  # works without, more slowly
            self._service.setsockopt(_SOL_UDP, _UDP_GRO, 1)

    @property
    def service(self) -> Tuple[str, int]:
        return _name(self._service)

    @property
    def application(self) -> Tuple[str, int]:
        return _name(self._application)

    def open_application(self, host: Host, destination: Tuple[str, int]) -> None:
        self._application = self._stage.udp(host, self._at_application)
        self._destination = destination

    def ask(self) -> int:
        """Send a question; its number."""
        number = len(self._asked_at)
        self._asked_at.append(time.perf_counter())
        self._application.sendto(self._question(number), self._destination)
        return number

    def has_answer(self, number: int) -> bool:
        return number in self._answered

    def took(self, number: int) -> float:
        """Seconds from the question to its answer."""
        return self._answered[number] - self._asked_at[number]

    def round_trips(self, count: int, seconds: float) -> List[float]:
        """Ask one question after the other; the seconds that each answer took, sorted."""
        took: List[float] = []
        deadline = time.monotonic() + seconds
        while len(took) < count and time.monotonic() < deadline:
            number = self.ask()
            if self._stage.until(functools.partial(self.has_answer, number), 0.5):
                took.append(self.took(number))
        return sorted(took)

    def throughput(self, seconds: float) -> Throughput:
        """Send for so long, no more at once than there is room for on the way."""
        send = self._sender()
        start = time.monotonic()
        while time.monotonic() < start + seconds and self._sent < _MOST:
            send()
            self._sent += _TRAIN
            if not self._stage.until(self._has_room, _STALL):
                self._written_off = self._sent - self._counted
        self._stage.until(lambda: self._counted >= self._sent, _STALL)
        return Throughput(self._sent, self._counted, time.monotonic() - start)

    def settle(self) -> None:
        """Let arrive what still may."""
        deadline = time.monotonic() + 20 * _QUIET
        while self._stage.turn(_QUIET) and time.monotonic() < deadline:
            pass

    def _has_room(self) -> bool:
        return self._sent - self._counted - self._written_off < _WINDOW

    def _sender(self) -> Callable[[], object]:
        """What sends a train: in one call where the kernel cuts it (UDP_SEGMENT)."""
        train = self._burst[: _TRAIN * SIZE]
        try:
            self._application.setsockopt(_SOL_UDP, _UDP_SEGMENT, SIZE)
        except OSError:
            return lambda: [
                self._application.sendto(train[:SIZE], self._destination) for _ in range(_TRAIN)
            ]
        return lambda: self._application.sendto(train, self._destination)

    def _question(self, number: int) -> bytes:
        return self._tag + number.to_bytes(_QUESTION - _TAG, "big")

    def _at_service(self, service: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                data, source = service.recvfrom(_LARGEST)
                if self._is_asked(data):
                    service.sendto(data, source)
                elif not len(data) % SIZE and data == self._burst[: len(data)]:
                    self._counted += len(data) // SIZE
                else:
                    self.foreign += 1

    def _at_application(self, application: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                data, source = application.recvfrom(_LARGEST)
                if self._is_asked(data) and source == self._destination:
                    self._answered[int.from_bytes(data[_TAG:], "big")] = time.perf_counter()
                else:
                    self.foreign += 1

    def _is_asked(self, data: bytes) -> bool:
        number = int.from_bytes(data[_TAG:_QUESTION], "big")
        return number < len(self._asked_at) and data == self._question(number)


def _name(sock: socket.socket) -> Tuple[str, int]:
    ip, port = sock.getsockname()
    return ip, port
