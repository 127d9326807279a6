"""Messages that arrive, once and in order, over a path that loses, doubles and reorders.

Each message has a number, from 1 on, and is sent again until that number is acknowledged. What
is sent again and when follows RFC 6298, each message with its own time; how many are on their way
grows with each acknowledgement and is halved when one is missing (RFC 5681). Which bytes carry a
number and an acknowledgement is for the caller's protocol to say.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import Deque, Dict, Generic, List, Optional, Tuple, TypeVar

Message = TypeVar("Message")

# How many numbers beyond the next one are kept; no sender goes further ahead.
WINDOW = 256
_FIRST_WINDOW = 16.0
_LEAST_WINDOW = 2.0
_FIRST_PATIENCE = 0.5
_LEAST_PATIENCE = 0.1
_LONGEST_PATIENCE = 4.0


@dataclass(eq=False)
class _Sent(Generic[Message]):
    message: Message
    at: float
    due: float
    times: int = 1
    measured: bool = True  # an acknowledgement can only be of the last time it was sent


class Outgoing(Generic[Message]):
    """What was said and is not acknowledged yet."""

    def __init__(self) -> None:
        self._last = 0
        self._waiting: Deque[Tuple[int, Message]] = deque()
        self._sent: "OrderedDict[int, _Sent[Message]]" = OrderedDict()
        self._window = _FIRST_WINDOW
        self._halved_at = float("-inf")
        self._patience = _FIRST_PATIENCE
        self._smoothed: Optional[float] = None
        self._deviation = 0.0

    def __len__(self) -> int:
        return len(self._waiting) + len(self._sent)

    def add(self, message: Message) -> int:
        """Have a message sent; its number."""
        self._last += 1
        self._waiting.append((self._last, message))
        return self._last

    def due(self, now: float) -> List[Tuple[int, Message]]:
        """What is to be sent now, for the first time or again."""
        again = [(number, sent) for number, sent in self._sent.items() if sent.due <= now]
        for _, sent in again:
            sent.times += 1
            sent.measured = False
            sent.due = now + min(self._patience * 2.0 ** (sent.times - 1), _LONGEST_PATIENCE)
        if again and now >= self._halved_at + self._patience:
            self._halved_at = now
            self._window = max(_LEAST_WINDOW, self._window / 2)
        said = [(number, sent.message) for number, sent in again]
        while self._waiting and self._may_send(self._waiting[0][0]):
            number, message = self._waiting.popleft()
            self._sent[number] = _Sent(message, now, now + self._patience)
            said.append((number, message))
        return said

    def acknowledged(self, number: int, now: float) -> bool:
        """The other end has it; whether that is news."""
        sent = self._sent.pop(number, None)
        if sent is None:
            return False
        if sent.measured:
            self._measure(now - sent.at)
        self._window = min(WINDOW, self._window + 1)
        return True

    def hurry(self, now: float) -> None:
        """The path is up again: what is unacknowledged need not wait its time out."""
        for sent in self._sent.values():
            sent.due = now
            sent.times = 1
            sent.measured = False

    def deadline(self) -> Optional[float]:
        """When something is due; at once if the window has room for what waits."""
        if self._waiting and self._may_send(self._waiting[0][0]):
            return float("-inf")
        return min((sent.due for sent in self._sent.values()), default=None)

    def _may_send(self, number: int) -> bool:
        return len(self._sent) < self._window and number < min(self._sent, default=number) + WINDOW

    def _measure(self, round_trip: float) -> None:
        if self._smoothed is None:
            self._smoothed, self._deviation = round_trip, round_trip / 2
        else:
            self._deviation += (abs(round_trip - self._smoothed) - self._deviation) / 4
            self._smoothed += (round_trip - self._smoothed) / 8
        patience = self._smoothed + 4 * self._deviation
        self._patience = min(max(patience, _LEAST_PATIENCE), _LONGEST_PATIENCE)


class Incoming(Generic[Message]):
    """What has come, and is to be delivered in order."""

    def __init__(self) -> None:
        self._next = 1
        self._early: Dict[int, Message] = {}

    def heard(self, number: int, message: Message) -> bool:
        """A message came; whether it is to be acknowledged. `ready` gives what is next."""
        if number < self._next:
            return number > 0
        if number >= self._next + WINDOW:
            return False
        self._early[number] = message
        return True

    def ready(self) -> List[Message]:
        """The messages that can be delivered now; each is given once."""
        delivered = []
        while self._next in self._early:
            delivered.append(self._early.pop(self._next))
            self._next += 1
        return delivered
