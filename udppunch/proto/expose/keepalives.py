"""An exposer's keepalives towards one helper: when to say them, and what with a password.

Without a password they are empty and nothing answers them: the first ones come in quick
succession. With one the helper answers each: then silence is noticed, and they are said sooner
until it ends.
"""

from __future__ import annotations

from typing import Optional

from udppunch.wire import expose
from udppunch.wire.malformed import Malformed

_FIRST_GAP = 0.5
_GROWTH = 2.0
# A helper that only ever asks for proof is not answered at its own pace.
_MOST_PROOFS = 4
SILENT_AFTER = 3.0


class Keepalives:
    """`key` empty: no password. `registered` as the helper said last, where it says so."""

    def __init__(self, interval: float, key: bytes, name: str) -> None:
        self.registered = False
        self._interval = interval
        self._key = key
        self._name = name
        self._gap = _FIRST_GAP
        self._next = 0.0
        self._proofs = 0
        self._proof: Optional[int] = None
        self._silent_since: Optional[float] = None

    def take(self, now: float) -> Optional[bytes]:
        """The keepalive to be sent now, if one is due."""
        if now < self._next:
            return None
        nonce, self._proof = self._proof, None
        if self._key and self._silent_since is None:
            self._silent_since = now
        self._next = now + min(self._gap, self._interval)
        self._gap = min(self._gap * _GROWTH, self._interval)
        if not self._key:
            return b""  # the first ones soon after each other, for the helper may not be there yet
        if nonce is None:
            self._proofs = 0
        return expose.encode(expose.Keepalive(nonce, self._name), self._key)

    def hear(self, datagram: bytes, now: float) -> bool:
        """A signed datagram of the helper; whether it registered this end for the first time,
        or again after a silence."""
        # A registration is always the same bytes: none that nobody asked for counts, or a
        # recorded one, said again and again, would keep this end silent.
        if self._silent_since is None or not expose.is_signed(datagram, self._key):
            return False
        try:
            claims = expose.decode(datagram)
        except Malformed:
            return False
        if isinstance(claims, expose.Retry) and self._proofs < _MOST_PROOFS:
            self._proofs += 1
            self._proof = claims.nonce
            self._next = now
        if not isinstance(claims, expose.Registered):
            return False
        first, self.registered = not self.registered, True
        self._silent_since = None
        self._gap = _FIRST_GAP
        self._next = now + self._interval
        return first

    def silent(self, now: float) -> bool:
        """Whether the helper has left keepalives unanswered for a while."""
        since = self._silent_since
        return since is not None and now >= since + SILENT_AFTER

    def lost(self) -> None:
        """The helper, or the way to it, is another one now: begin anew, at once."""
        self.registered = False
        self._gap = _FIRST_GAP
        self._next = 0.0

    def deadline(self) -> float:
        return self._next
