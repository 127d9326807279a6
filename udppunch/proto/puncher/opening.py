"""What is said to a peer that bore no mark when it was introduced, until it is heard.

That is a greeting of the protocol by which the two were introduced. It opens this end's NAT, and
tells the peer, if it is ours after all, that this end is too.
"""

from __future__ import annotations

from typing import Callable, NamedTuple, Optional

from udppunch.contract import Outbox, Route
from udppunch.proto.limiter import TokenBucket

# Time for the server's word to the peer, which ends some originals when it comes second.
_PAUSE = 0.1
# The first goes through this end's own NAT and no further (see `checks`).
_OPENER_TTL = 2
_OPENER_HOLD = 0.3


class Habit(NamedTuple):
    """How a protocol greets: seconds between two greetings, and how many of them at most; and
    how long a peer that is up may be silent, seconds."""

    gap: float
    most: int
    patience: float


class Opening:
    def __init__(self, habit: Habit, greeting: Callable[[], bytes], budget: TokenBucket) -> None:
        self.said = 0
        self._habit = habit
        self._greeting = greeting
        self._budget = budget
        self._next: Optional[float] = None
        self._opener_due = False
        self._endless = False

    def begin(self, now: float) -> None:
        """The peer was introduced, at first or anew."""
        self.said = 0
        self._endless = False
        self._next = now + _PAUSE
        self._opener_due = True

    def go_on(self, now: float) -> None:
        """The peer was heard once: greet it for as long as it takes."""
        self._endless = True
        self._next = now

    def cease(self) -> None:
        self._next = None

    @property
    def gave_up(self) -> bool:
        return self.said >= self._habit.most and not self._endless

    def expire(self, route: Route, outbox: Outbox, now: float) -> None:
        """Greets if that is due."""
        if self._next is None or now < self._next:
            return
        if self._opener_due:
            self._opener_due = False
            self._next = now + _OPENER_HOLD
            outbox.send(route, self._greeting(), _OPENER_TTL)
            return
        self.said += 1
        self._next = None if self.gave_up else now + self._habit.gap
        if self._budget.take(now):
            outbox.send(route, self._greeting())

    def deadline(self) -> Optional[float]:
        return self._next
