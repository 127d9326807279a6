"""What a process does besides its roles, in the form of a role without endpoints."""

from __future__ import annotations

from collections import Counter
from typing import Callable, Dict, Optional, Sequence

from udppunch.address import Address
from udppunch.contract import Burst, Endpoint, Lookup


class Endpointless:
    """The part of a role that concerns endpoints, for those that have none."""

    def opened(self, endpoint: Endpoint, now: float) -> None: ...

    def failed(self, endpoint: Endpoint, reason: str, now: float) -> None: ...

    def resolved(
        self, lookup: Lookup, found: Sequence[Address], reason: str, now: float
    ) -> None: ...

    def refused(self, endpoint: Endpoint, now: float) -> None: ...

    def receive(self, burst: Burst, now: float) -> None: ...

    def gauges(self) -> Dict[str, int]:
        return {}


class Ticker(Endpointless):
    """Calls `tick` at the first turn and then each `each` seconds: the loop lives."""

    def __init__(
        self,
        each: float,
        tick: Callable[[float], None],
        goodbye: Callable[[float], None] = lambda now: None,
    ) -> None:
        self.counters: "Counter[str]" = Counter()
        self._each = each
        self._tick = tick
        self._goodbye = goodbye
        self._next: Optional[float] = None

    def start(self, now: float) -> None:
        self._next = now

    def expire(self, now: float) -> None:
        self._tick(now)
        self._next = now + self._each

    def deadline(self) -> Optional[float]:
        return self._next

    def stop(self, now: float) -> None:
        self._goodbye(now)

    def status(self) -> str:
        return ""
