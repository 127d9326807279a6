"""Memory that several processes share, and that can be handed to the one that comes next."""

from __future__ import annotations

import mmap
import os
from typing import List, Optional


class Area:
    """A file without a name, where the system has those. What is taken of it, in the same order
    and sizes as before, holds what it held then."""

    def __init__(self, name: str, descriptor: Optional[int] = None) -> None:
        create = getattr(os, "memfd_create", None)
        if descriptor is None and create is not None:
            descriptor = create(name)
        self.descriptor: Optional[int] = descriptor
        self._end = 0
        self._maps: List[mmap.mmap] = []

    def take(self, octets: int) -> memoryview:
        """So many bytes, zero at first."""
        start, size = self._end, -(-octets // mmap.PAGESIZE) * mmap.PAGESIZE
        self._end += size
        if self.descriptor is None:
            taken = mmap.mmap(-1, size)
        else:
            if os.fstat(self.descriptor).st_size < self._end:
                os.ftruncate(self.descriptor, self._end)
            taken = mmap.mmap(self.descriptor, size, offset=start)
        self._maps.append(taken)
        return memoryview(taken)[:octets]
