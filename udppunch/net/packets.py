"""Whole packets between two processes of one daemon, over a UNIX socket pair.

The pair outlives both processes: it is made by the one that starts them, and what one of them
said before it was killed is still read. What the other does not take is kept, up to a bound.
"""

from __future__ import annotations

import socket
from collections import deque
from typing import Callable, Deque, Tuple

from udppunch.net.loop import Loop

_LARGEST = 1 << 16
_MOST_WAITING = 16 << 20
_BUFFER = 1 << 20
_AT_ONCE = 64


def packet_pair() -> Tuple[socket.socket, socket.socket]:
    """Two ends that keep packets whole. Raises OSError."""
    pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in pair:
        end.setblocking(False)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
    return pair


class Packets:
    """One end. Small records said soon after each other travel as one packet."""

    def __init__(self, loop: Loop, end: socket.socket, heard: Callable[[bytes], None]) -> None:
        self._loop = loop
        self._end = end
        self._heard = heard
        self._waiting: Deque[bytes] = deque()
        self._octets = 0
        loop.watch(end, self._ready)

    def say(self, record: bytes) -> bool:
        """Whether it will get there; it does not when too much waits already."""
        if self._octets + len(record) > _MOST_WAITING:
            return False
        if not self._waiting and self._send(record):
            return True
        if self._waiting and len(self._waiting[-1]) + len(record) <= _LARGEST:
            self._waiting[-1] += record
        else:
            self._waiting.append(record)
        self._octets += len(record)
        if len(self._waiting) == 1:
            self._loop.watch(self._end, self._ready, writable=True)
        return True

    def _send(self, packet: bytes) -> bool:
        try:
            self._end.send(packet)
        except (BlockingIOError, ConnectionError, InterruptedError):
            return False
        return True

    def _ready(self) -> None:
        while self._waiting and self._send(self._waiting[0]):
            self._octets -= len(self._waiting.popleft())
        self._loop.watch(self._end, self._ready, writable=bool(self._waiting))
        self.hear()

    def hear(self) -> None:
        """Hears what has come by now, as the loop does sooner or later."""
        for _ in range(_AT_ONCE):
            try:
                packet = self._end.recv(_LARGEST * 2)
            except (BlockingIOError, ConnectionError, InterruptedError):
                return
            if not packet:
                return
            self._heard(packet)
