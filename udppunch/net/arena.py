"""The one piece of memory that datagrams live in, from a receive to the flush after it.

It holds a slot for each datagram (or train of them) that one wake-up may receive, and a
scratch area for what roles send of their own. Pages that no datagram reached cost nothing.
"""

from __future__ import annotations

import mmap

LARGEST_DATAGRAM = 65_507

_SLOT = 65_536
# Before each slot, for what may have to be put in front of a datagram; keeps slots aligned.
HEADROOM = 64
_SCRATCH = 1 << 20


class Arena:
    """Positions count from `origin`: 0, or the memory's address where the kernel is told it."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.slot_size = _SLOT
        self.stride = HEADROOM + _SLOT
        self._scratch_at = slots * self.stride
        self.memory = mmap.mmap(
            -1, self._scratch_at + _SCRATCH, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        )
        self.view = memoryview(self.memory)
        self.origin = 0
        self._free_at = self._scratch_at

    def start_of(self, slot: int) -> int:
        """Where a slot's datagram starts, counted from the memory's start."""
        return slot * self.stride + HEADROOM

    def starts_slot(self, start: int) -> bool:
        """Whether that is where a slot's datagram starts, with its headroom before it."""
        return start % self.stride == HEADROOM and start < self._scratch_at

    def cut(self, position: int, length: int) -> memoryview:
        start = position - self.origin
        return self.view[start : start + length]

    def has_room(self, length: int) -> bool:
        return self._free_at + length <= len(self.view)

    def keep(self, data: bytes) -> int:
        """Copies into the scratch area, which must have room; gives the position."""
        start = self._free_at
        self._free_at = end = start + len(data)
        self.view[start:end] = data
        return self.origin + start

    def clear_scratch(self) -> None:
        self._free_at = self._scratch_at
