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
_PATIENCE = 30.0


class Pace:
    """Of a flood to a UDP socket, or to several with one port, of this network namespace."""

    def __init__(self, destination: SocketAddress, per_second: int) -> None:
        self._port = f":{destination[1]:04X}"
        self._per_second = per_second
        self._sent = 0
        self._begun = time.monotonic()
        self._patience = _PATIENCE

    def sent(self) -> None:
        """One more; waits for as long as the next has to."""
        self._sent += 1
        if self._sent % _SELDOM == 0:
            self._let_hear()
        if self._sent % _OFTEN == 0:
            due = self._begun + self._sent / self._per_second
            time.sleep(max(0.0, due - time.monotonic()))

    def _let_hear(self) -> None:
        since = time.monotonic()
        while self._patience > 0 and self._waiting() > _MOST_WAITING:
            time.sleep(0.01)
            now = time.monotonic()
            self._patience -= now - since
            since = now

    def _waiting(self) -> int:
        """At the socket where most does."""
        lines = Path("/proc/net/udp").read_text().splitlines()[1:]
        sockets = [line.split() for line in lines if self._port in line]
        ours = [each for each in sockets if each[1].endswith(self._port)]
        return max((int(each[4].partition(":")[2], 16) for each in ours), default=0)
