"""A destination that a person named: host and port, resolved at first and again when lost."""

from __future__ import annotations

import logging
from typing import Optional, Sequence

from udppunch.address import Address
from udppunch.contract import Lookup, Outbox
from udppunch.errors import EX_NOHOST, CommandError
from udppunch.notices import Notices

log = logging.getLogger(__name__)

_AGAIN_AFTER = 10.0  # seconds between two look-ups of one name
_GIVEN_UP_AFTER = 30.0  # a look-up that was never answered is not waited for any longer


class Destination:
    """`address` is the one in use; None until the name was first resolved."""

    def __init__(self, lookup: Lookup, outbox: Outbox) -> None:
        self.lookup = lookup
        self.address: Optional[Address] = None
        self._outbox = outbox
        self._asked_at = float("-inf")
        self._pending = False
        self._notices = Notices(log)

    def look_up(self, now: float) -> None:
        """Resolve the name, unless that was just done or is under way."""
        if now >= self._again_at():
            self._asked_at = now
            self._pending = True
            self._outbox.resolve(self.lookup)

    def expire(self, now: float) -> None:
        """Resolve the name again, as long as it has no address."""
        if self.address is None:
            self.look_up(now)

    def deadline(self) -> Optional[float]:
        """When to call `expire`."""
        return self._again_at() if self.address is None else None

    def insist(self, found: Sequence[Address], reason: str) -> None:
        """What came is to be an answer, unless there was one before: without any, whoever has
        nothing else to do has nothing to wait for. Raises CommandError."""
        if not found and self.address is None:
            raise CommandError(f"{self.lookup}: {reason}", EX_NOHOST)

    def resolved(self, found: Sequence[Address], reason: str, now: float) -> bool:
        """The answer came; whether the destination is another one now."""
        self._pending = False
        if not found:
            self._notices.say(now, logging.WARNING, "unresolved", f"{self.lookup}: {reason}")
            return False
        self._notices.forget("unresolved")
        former = self.address
        if former is None or former not in found:
            self.address = found[0]
        elif len(found) > 1:
            # The one in use is suspect, or nobody would have asked: try the next.
            self.address = found[(list(found).index(former) + 1) % len(found)]
        return self.address != former

    def _again_at(self) -> float:
        return self._asked_at + (_GIVEN_UP_AFTER if self._pending else _AGAIN_AFTER)
