"""How fast floods go: as fast as they are to, unless who is flooded has to wait for the machine.

A flood has a rate of its own, but the daemon's share of a machine that is busy with other tests
is no more than is left. What the kernel drops then, the flood's and everybody's alike, says
nothing of the daemon.
"""

from __future__ import annotations

import time
from pathlib import Path

from tests.program import SocketAddress

_OFTEN = 100  # datagrams
_SELDOM = 1000
_MOST_WAITING = 1 << 20  # bytes, as the kernel counts them; daemons have room for some times that
_PAUSE = 0.01  # seconds
_MOST_PAUSES = 3000


class Pace:
    """Of a flood to a UDP socket, or to several with one port, of this network namespace."""

    def __init__(self, destination: SocketAddress, per_second: int) -> None:
        self._port = f":{destination[1]:04X}"
        self._per_second = per_second
        self._sent = 0
        self._begun = time.monotonic()
        self._pauses = _MOST_PAUSES

    def sent(self) -> None:
        """One more; waits for as long as the next has to."""
        self._sent += 1
        if self._sent % _SELDOM == 0:
            self._let_hear()
        if self._sent % _OFTEN == 0:
            due = self._begun + self._sent / self._per_second
            time.sleep(max(0.0, due - time.monotonic()))

    def _let_hear(self) -> None:
        while self._pauses and self._waiting() > _MOST_WAITING:
            self._pauses -= 1
            time.sleep(_PAUSE)

    def _waiting(self) -> int:
        """At the socket where most does."""
        sockets = map(str.split, Path("/proc/net/udp").read_text().splitlines())
        queues = (fields[4] for fields in sockets if fields[1].endswith(self._port))
        return max((int(queue.partition(":")[2], 16) for queue in queues), default=0)
