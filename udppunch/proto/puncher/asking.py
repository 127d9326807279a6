"""A client's side of being introduced: when to ask the rendezvous for the server of its key.

Asked again soon, since a lost datagram is the likeliest cause of silence; until it is known that
the rendezvous is ours not too soon, since p2p_udp_puncher's spends a second server on a second
question. After an answer our rendezvous is asked on until the server was heard, for its own
copy of the introduction may have been lost, and this repeats it.
"""

from __future__ import annotations

_FIRST_GAP = 0.35
_GROWTH = 1.1
_LONGEST_GAP = 2.0
_INSIST_GAP = 0.25
_INSISTENCES = 10
_REFUSED_GAP = 0.5
_REFUSED_GROWTH = 1.5
_REFUSED_LONGEST = 3.0
SILENT_AFTER = 3.0


class Asking:
    """One attempt's questions. `named` once the rendezvous has named the server."""

    __slots__ = ("named", "refusals", "_gap", "_next", "_since", "_insisted", "_insist_gap")

    def __init__(self, now: float, refusals: int) -> None:
        self.named = False
        self.refusals = refusals
        self._gap = _FIRST_GAP
        self._next = now
        self._since = now
        self._insisted = 0
        self._insist_gap = _INSIST_GAP

    def due(self, now: float, least: float = 0.0) -> bool:
        """Whether to ask now; counts it as done. `least` seconds until the next time, if the
        first answer is worth waiting for."""
        if now < self._next:
            return False
        if self.named:
            self._insisted += 1
            last = self._insisted >= _INSISTENCES and self._insist_gap == _INSIST_GAP
            self._next = float("inf") if last else now + self._insist_gap
            return True
        self._next = now + max(self._gap, least)
        self._gap = min(self._gap * _GROWTH, _LONGEST_GAP)
        return True

    def heard_named(self, ours: bool, now: float, again: float = float("inf")) -> None:
        """The server was named, by a rendezvous that is `ours` and bears insisting or not; one
        that is not is asked again after so many seconds."""
        self.named = True
        self._insist_gap = _INSIST_GAP if ours else again
        self._next = now + self._insist_gap

    def heard_refusal(self, now: float) -> None:
        """No server offers the key: ask again, ever more slowly."""
        pause = _REFUSED_GAP * _REFUSED_GROWTH ** min(self.refusals, 8)
        self.refusals += 1
        self._next = now + min(pause, _REFUSED_LONGEST)
        self._gap = _FIRST_GAP
        self._since = self._next

    def cease(self) -> None:
        """The server knows of this end, or another attempt asks: no more questions."""
        self._next = float("inf")

    def silent(self, now: float) -> bool:
        """Whether the rendezvous has left several questions unanswered."""
        return not self.named and now - self._since >= SILENT_AFTER

    def deadline(self) -> float:
        return self._next
