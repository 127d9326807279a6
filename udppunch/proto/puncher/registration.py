"""A server's side of its registration at a rendezvous: what to send when, what an answer means.

    state        until                      sends
    ASKING       Ok, DuplicateKey           Server, again and again
    TAKEN        Ok                         Server, ever more slowly, and KeepAlive
    REGISTERED   Ok fails to come           KeepAlive each second, Server each ten

A rendezvous that is not ours gives no sign of which server holds a key, and forgets it as soon
as it served one client: there DuplicateKey after our own Ok means that we are still registered.
"""

from __future__ import annotations

import enum
from typing import List

from udppunch.wire.puncher import KeepAlive, Message, Server

KEEPALIVE = 1.0
REFRESH = 10.0
_FIRST_GAP = 0.35
_TAKEN_GAP = 0.5
_LONGEST_GAP = 2.0
# The rendezvous is called silent after this: said to people, its name resolved again.
SILENT_AFTER = 3.0


class State(enum.Enum):
    ASKING = "asking"
    TAKEN = "key is taken"
    REGISTERED = "registered"


class Registration:
    def __init__(self, key: bytes, mark: bytes, now: float) -> None:
        self.state = State.ASKING
        self.rendezvous_mark = b""
        self._server = Server(key, mark)
        self._gap = _FIRST_GAP
        self._unanswered_since = now
        self._ever_registered = False
        self._next_server = now
        self._next_keepalive = now + KEEPALIVE

    def heard_ok(self, mark: bytes, now: float) -> bool:
        """Registered; whether that is news."""
        news = self.state is not State.REGISTERED or mark != self.rendezvous_mark
        self._ever_registered = True
        self.rendezvous_mark = mark
        self._answered(State.REGISTERED, REFRESH, now)
        return news

    def heard_duplicate(self, now: float) -> bool:
        """The key is taken; whether that is news, and by another than this server."""
        if self._ever_registered and not self.rendezvous_mark:
            self._answered(State.REGISTERED, REFRESH, now)
            return False
        news = self.state is not State.TAKEN
        grown = _TAKEN_GAP if news else min(self._gap * 1.25, _LONGEST_GAP)
        self._answered(State.TAKEN, grown, now)
        self._gap = grown
        return news

    def heard_punch(self, now: float) -> None:
        """A client is coming. A rendezvous that is not ours has now forgotten the server."""
        if not self.rendezvous_mark:
            self._next_server = now
            self._unanswered_since = now
            self._gap = _FIRST_GAP

    def restart(self, now: float) -> None:
        """The rendezvous has moved: register anew."""
        self.state = State.ASKING
        self._ever_registered = False
        self._gap = _FIRST_GAP
        self._next_server = self._unanswered_since = now

    def move(self, now: float) -> None:
        """The server is reached through another socket now: say so at once."""
        self._next_server = self._unanswered_since = now
        self._gap = _FIRST_GAP

    def silent(self, now: float) -> bool:
        """Whether the rendezvous has left several questions unanswered."""
        return now - self._unanswered_since >= SILENT_AFTER

    def due(self, now: float) -> List[Message]:
        """What is to be sent now."""
        messages: List[Message] = []
        if now >= self._next_server:
            messages.append(self._server)
            self._next_server = now + self._gap
            if self.silent(now):
                self.state = State.ASKING
                self._gap = min(self._gap * 1.5, _LONGEST_GAP)
        if now >= self._next_keepalive:
            self._next_keepalive = now + KEEPALIVE
            if self.state is not State.ASKING:
                messages.append(KeepAlive())
        return messages

    def deadline(self) -> float:
        return min(self._next_server, self._next_keepalive)

    def _answered(self, state: State, pause: float, now: float) -> None:
        self.state = state
        self._gap = _FIRST_GAP
        self._next_server = now + pause
        self._unanswered_since = self._next_server
