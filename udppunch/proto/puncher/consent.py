"""Whether the peer of a path that is up is still there (consent, RFC 7675), and still wanted.

Between marked ends any datagram heard is a sign of life. When there was none for a while
the end checks: soon while the application waits for an answer, else just often enough to keep
the NATs' bindings. Checks that stay unanswered mean that the path is lost. Towards an end that
is not ours nothing can be asked, and silence alone decides.
"""

from __future__ import annotations

import enum
from typing import Callable, Optional

# While the application sends and hears nothing, ask after this long.
ASK_AFTER = 2.0
# A path counts as in use for so long after its last payload.
_IN_USE_FOR = 10.0
# While it only listens: a service that pushes may have paused, or have been cut off.
_LISTEN_FOR = 4.0
# Unanswered checks, one each gap, until the path is lost: 4 s in all. At 30 % loss on each
# of two links three in four checks stay unanswered, and ten in a row still are rare.
_CHECKS = 10
_GAP = 0.4
_DOUBTED_AFTER = 3
# p2p_udp_puncher forgets a path after this silence, and so must who talks to it.
LEGACY_SILENCE = 5.0
# It can't be asked whether it lives: when it used to answer and no longer does, punch anew.
LEGACY_UNANSWERED = 15.0
_JITTER = 0.1


class Verdict(enum.Enum):
    FINE = "fine"
    CHECK = "send a check"
    LOST = "lost"
    IDLE = "idle"


class Consent:
    """`heard`, `sent` and `carried` are set straight by who moves datagrams, on their way."""

    __slots__ = ("heard", "sent", "carried", "_keepalive", "_idle", "_asked", "_ask_at", "_look")

    def __init__(
        self, keepalive: float, idle: float, random: Callable[[int], bytes], now: float
    ) -> None:
        spread = int.from_bytes(random(2), "big") / 0xFFFF * 2 - 1
        self._keepalive = keepalive * (1 + _JITTER * spread)
        self._idle = idle
        self.heard = now  # last datagram of the peer's
        self.sent = now  # last datagram of the application's towards the peer
        self.carried = now  # last datagram of either application
        self._asked = 0
        self._ask_at = now
        self._look = now

    def verdict(self, now: float) -> Verdict:
        """What is due at `now`."""
        verdict = self._verdict(now)
        self._look = min(self._look, self.carried + self._idle)
        return verdict

    def awake(self, now: float) -> None:
        """The application sends again after a pause: silence is now to be noticed soon."""
        self._look = min(self._look, now + ASK_AFTER)

    @property
    def doubted(self) -> bool:
        """Whether several checks went unanswered, one more than may be chance."""
        return self._asked == _DOUBTED_AFTER

    def deadline(self) -> float:
        """When `verdict` is to be asked for next."""
        return self._look

    def _verdict(self, now: float) -> Verdict:
        if now >= self.carried + self._idle:
            return Verdict.IDLE
        patience = self._keepalive
        if self.sent > self.heard:
            patience = min(ASK_AFTER, patience)
        elif now - self.carried < _IN_USE_FOR:
            patience = min(_LISTEN_FOR, patience)
        # As the deadline is computed, or rounding could make it come again and again.
        if now < self.heard + patience:
            self._asked = 0
            in_use = self.heard >= self.sent and now - self.sent < _IN_USE_FOR
            self._look = now + ASK_AFTER if in_use else self.heard + patience
            return Verdict.FINE
        if self._asked and now < self._ask_at:
            self._look = self._ask_at
            return Verdict.FINE
        if self._asked >= _CHECKS:
            return Verdict.LOST
        self._asked += 1
        self._look = self._ask_at = now + _GAP
        return Verdict.CHECK


class LegacyConsent:
    """The same for an end that is not ours: it can hear no checks, so there are none."""

    __slots__ = ("heard", "sent", "carried", "_answered")

    def __init__(self, now: float) -> None:
        self.heard = now
        self.sent = now
        self.carried = now
        self._answered = now

    def verdict(self, now: float) -> Verdict:
        """IDLE or LOST alike mean that the path is forgotten; LOST that it is wanted still."""
        if now >= max(self.heard, self.sent) + LEGACY_SILENCE:
            return Verdict.IDLE
        if self.heard > self._answered and now >= self.heard + LEGACY_UNANSWERED:
            return Verdict.LOST
        return Verdict.FINE

    def awake(self, now: float) -> None:
        """Nothing can be asked any sooner."""

    def deadline(self) -> float:
        silence = max(self.heard, self.sent) + LEGACY_SILENCE
        if self.heard > self._answered:
            return min(silence, self.heard + LEGACY_UNANSWERED)
        return silence


class Silence:
    """The same for an end that is not ours and says something of itself now and then: it is
    lost after so many seconds without."""

    __slots__ = ("heard", "sent", "carried", "_patience")

    def __init__(self, patience: float, now: float) -> None:
        self.heard = now
        self.sent = now
        self.carried = now
        self._patience = patience

    def verdict(self, now: float) -> Verdict:
        return Verdict.LOST if now >= self.heard + self._patience else Verdict.FINE

    def awake(self, now: float) -> None:
        """Nothing can be asked any sooner."""

    def deadline(self) -> float:
        return self.heard + self._patience


def earliest(*deadlines: Optional[float]) -> Optional[float]:
    """The first of those that are set."""
    return min((when for when in deadlines if when is not None), default=None)
