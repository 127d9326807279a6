"""The applications at both ends of the path, and what they measure.

Both are plain UDP sockets that know nothing of udppunch. The application asks, the service
echoes; then the application sends a burst, which the service only counts. All datagrams begin
with random bytes of this run, so that anything else which arrives is told from them.
"""

from __future__ import annotations

import contextlib
import os
import socket
import statistics
import time
from typing import Dict, List, NamedTuple, Tuple

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
        self._counted = 0
        self._answered: Dict[int, float] = {}
        self._asked = 0
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
        self._asked += 1
        self._application.sendto(self._question(self._asked), self._destination)
        return self._asked

    def has_answer(self, number: int) -> bool:
        return number in self._answered

    def round_trips(self, count: int, seconds: float) -> List[float]:
        """Ask one question after the other; the seconds that each answer took, in order."""
        took = []
        deadline = time.monotonic() + seconds
        while len(took) < count and time.monotonic() < deadline:
            asked = time.perf_counter()
            number = self.ask()
            if self._stage.until(lambda number=number: self.has_answer(number), 0.5):  # type: ignore[misc]
                took.append(self._answered[number] - asked)
        return sorted(took)

    def throughput(self, seconds: float) -> Throughput:
        """Send for so long, with as many datagrams under way as fit on the way."""
        send = self._sender()
        sent = written_off = 0
        before = self._counted
        start = time.monotonic()
        while time.monotonic() < start + seconds and sent < _MOST:
            arrived = self._counted - before
            if sent - arrived - written_off < _WINDOW:
                send()
                sent += _TRAIN
            self._stage.turn(0.0)
            if sent - (self._counted - before) - written_off >= _WINDOW:
                self._await_arrival()
                if self._counted - before == arrived:
                    written_off = sent - arrived
        took = time.monotonic() - start
        self.settle()
        return Throughput(sent, self._counted - before, took)

    def settle(self, quiet: float = 0.05) -> None:
        """Let what is still under way arrive."""
        self._stage.until(lambda: not self._stage.turn(quiet), 1.0)
