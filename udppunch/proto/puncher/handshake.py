"""The three handshakes of p2p_udp_puncher, for a peer that bore no mark when it was introduced.

The server says 1, which opens its NAT; the client waits for that, or for a second, and says 2;
the server answers 3 and the path is up. Either may turn out to be ours by the mark behind its
handshake. An original takes nothing but exactly this: what comes too early ends its process,
what comes too late is payload to its application.
"""

from __future__ import annotations

from typing import Optional

# The client gives the server this long to open its NAT.
CLIENT_PAUSE = 1.0
_FIRST_DELAYS = (0.1, 0.4, 0.7)
_REPEAT = 1.0
_REPEATS = 4
# A second handshake 2 that comes sooner was doubled by the network; the server answered it.
_DOUBLED_WITHIN = 0.5


class ClientHandshake:
    """When to say handshake 2: once due, then at most four times more, a second apart."""

    __slots__ = ("said", "_next")

    def __init__(self, now: float) -> None:
        self.said = 0
        self._next = now + CLIENT_PAUSE

    def heard_first(self, now: float) -> None:
        """Handshake 1 came, so the server's NAT is open: no need to wait for longer."""
        if not self.said:
            self._next = now

    def due(self, now: float) -> bool:
        """Whether handshake 2 is to be said now; counts it as said."""
        if now < self._next or self.said > _REPEATS:
            return False
        self.said += 1
        self._next = now + _REPEAT
        return True

    def gave_up(self, now: float) -> bool:
        """Whether all repeats stayed unanswered."""
        return self.said > _REPEATS and now >= self._next

    def deadline(self) -> float:
        return self._next


class ServerHandshake:
    """When to say handshake 1, and which handshakes 2 to answer.

    Not at once: a 1 that overtakes the rendezvous's word to an original client ends it. Again
    as long as that client pauses, for the first may be lost on the way to this end's own NAT.
    And not at all where it would come to somebody else.
    """

    __slots__ = ("silent", "_firsts", "_second_at")

    def __init__(self, now: float, silent: bool = False) -> None:
        self.silent = silent
        self._firsts = [] if silent else [now + delay for delay in _FIRST_DELAYS]
        self._second_at = float("-inf")

    def due(self, now: float) -> bool:
        """Whether handshake 1 is to be said now; counts it as said."""
        if not self._firsts or now < self._firsts[0]:
            return False
        del self._firsts[0]
        return True

    def answers_second(self, now: float) -> bool:
        """Whether a handshake 2 that came now is answered with 3 (else it is passed over)."""
        again = now - self._second_at
        self._second_at = now
        self._firsts.clear()
        return again >= _DOUBLED_WITHIN

    def deadline(self) -> Optional[float]:
        return self._firsts[0] if self._firsts else None
