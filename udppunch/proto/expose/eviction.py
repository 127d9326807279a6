"""Whose turn it is to go when there is no more room, and who has been silent for long.

Whoever was never answered may be a forged address: those go first, the one that came first before
the others. Then whoever was silent longest; but nobody who was answered and is not silent yet.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from typing import Callable, Dict, Generic, List, Optional, Tuple, TypeVar

# Seconds for which one that was answered may be silent without fear.
PROTECTED = 10.0
_MOST_GONE = 64

Item = TypeVar("Item")


class Eviction(Generic[Item]):
    """Of items whose state the two functions tell, when it is wanted."""

    def __init__(
        self, was_answered: Callable[[Item], bool], last_seen: Callable[[Item], float]
    ) -> None:
        self._was_answered = was_answered
        self._last_seen = last_seen
        self._unanswered: "OrderedDict[Item, None]" = OrderedDict()  # the oldest first
        # When each was last seen, or some time before: it is looked up anew on the way, which
        # each datagram would cost otherwise. Those that are gone stay until they come up, or are
        # many.
        self._by_silence: List[Tuple[float, int, Item]] = []
        self._serials: Dict[Item, int] = {}
        self._last_serial = 0

    def add(self, item: Item, now: float) -> None:
        self._last_serial += 1
        self._serials[item] = self._last_serial
        self._unanswered[item] = None
        heapq.heappush(self._by_silence, (now, self._last_serial, item))

    def remove(self, item: Item) -> None:
        del self._serials[item]
        self._unanswered.pop(item, None)
        if len(self._by_silence) > 2 * len(self._serials) + _MOST_GONE:
            self._by_silence = [entry for entry in self._by_silence if self._is_there(entry)]
            heapq.heapify(self._by_silence)

    def choose(self, now: float) -> Optional[Item]:
        """Who is to go; None if all deserve to stay."""
        while self._unanswered:
            oldest = next(iter(self._unanswered))
            if not self._was_answered(oldest):
                return oldest
            del self._unanswered[oldest]
        return self.silent(now, PROTECTED)

    def silent(self, now: float, seconds: float) -> Optional[Item]:
        """The one that was silent longest, if it was for so long."""
        while self._by_silence:
            entry = then, serial, item = self._by_silence[0]
            if not self._is_there(entry):
                heapq.heappop(self._by_silence)
                continue
            seen = self._last_seen(item)
            if seen > then:
                heapq.heapreplace(self._by_silence, (seen, serial, item))
                continue
            return item if now >= seen + seconds else None
        return None

    def _is_there(self, entry: Tuple[float, int, Item]) -> bool:
        return self._serials.get(entry[2]) == entry[1]
