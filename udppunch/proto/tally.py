"""What the workers of a role have counted, those included that were there before them."""

from __future__ import annotations

from collections import Counter
from typing import Dict, Mapping, Optional

Counts = Mapping[str, int]


class Tally:
    """`own` are the registrar's counters, `before` what its predecessor's `lasting` were."""

    def __init__(self, own: "Counter[str]", before: Optional[Counts]) -> None:
        self._own = own
        self._former: "Counter[str]" = Counter(before or {})
        self._of_workers: Dict[int, Counter[str]] = {}
        self._pids: Dict[int, int] = {}

    def heard(self, worker: int, counters: Counts) -> None:
        """All that a worker has counted so far."""
        self._of_workers[worker] = Counter(counters)

    def began(self, worker: int, pid: int) -> None:
        """Whatever process was that worker before counts no more."""
        if self._pids.get(worker, pid) != pid:
            self._former.update(self._of_workers.pop(worker, {}))
        self._pids[worker] = pid

    def lasting(self) -> "Counter[str]":
        """What no worker that lives will tell again."""
        return self._own + self._former

    def all(self) -> "Counter[str]":
        return sum(self._of_workers.values(), self.lasting())
