"""The statistics that udpexposer's wire has, of all workers of a helper, in shared memory.

    figures     23 integers of 8 bytes for each worker, which alone writes them

The last three are moments: seconds of the loop's clock here, and of Unix time when they are told.
"""

from __future__ import annotations

from typing import Dict, List

from udppunch.wire.expose import STATISTICS

OCTETS = 8 * len(STATISTICS)
_MOMENTS = STATISTICS[-3:]
_INDEX = {name: index for index, name in enumerate(STATISTICS)}


class Figures:
    """Those of one worker, and the sums of all. `memory` has OCTETS for each worker."""

    def __init__(self, memory: memoryview, worker: int, workers: int) -> None:
        numbers = memory.cast("Q")
        size = len(STATISTICS)
        self._all: List[memoryview] = [
            numbers[at * size : (at + 1) * size] for at in range(workers)
        ]
        self._own = self._all[worker]

    def add(self, name: str, count: int = 1) -> None:
        self._own[_INDEX[name]] += count

    def note(self, name: str, now: float) -> None:
        """That it happened now."""
        self._own[_INDEX[name]] = int(now) + 1  # 0 is for never

    def totals(self, ahead: float) -> Dict[str, int]:
        """As they are told: moments in Unix time, which is so far ahead of the loop's clock, and 0
        for never."""
        totals = {}
        for name, index in _INDEX.items():
            values = [figures[index] for figures in self._all]
            if name in _MOMENTS:
                latest = max(values)
                totals[name] = int(latest - 1 + ahead) if latest else 0
            else:
                totals[name] = sum(values)
        return totals
