"""When what is due: a heap with one deadline an item, and cancelling that costs nothing."""

from __future__ import annotations

import heapq
import itertools
from typing import Dict, Generic, Hashable, Iterator, List, Optional, Tuple, TypeVar

Item = TypeVar("Item", bound=Hashable)


class Timers(Generic[Item]):
    """Setting an item again moves it. Stale heap entries are passed over when they come up."""

    def __init__(self) -> None:
        self._heap: List[Tuple[float, int, Item]] = []
        self._set: Dict[Item, int] = {}
        self._numbers = itertools.count()

    def set(self, item: Item, when: Optional[float]) -> None:
        """Make `item` due at `when`, or never."""
        if when is None:
            self._set.pop(item, None)
            return
        number = next(self._numbers)
        self._set[item] = number
        heapq.heappush(self._heap, (when, number, item))
        if len(self._heap) > 64 + 4 * len(self._set):
            self._heap = [entry for entry in self._heap if self._set.get(entry[2]) == entry[1]]
            heapq.heapify(self._heap)

    def deadline(self) -> Optional[float]:
        """When the next item is due."""
        heap = self._heap
        while heap and self._set.get(heap[0][2]) != heap[0][1]:
            heapq.heappop(heap)
        return heap[0][0] if heap else None

    def due(self, now: float) -> Iterator[Item]:
        """The items due at `now`, each taken out; what is set meanwhile for later waits."""
        while True:
            when = self.deadline()
            if when is None or when > now:
                return
            item = heapq.heappop(self._heap)[2]
            del self._set[item]
            yield item
