"""A peer's side of the holepunch protocol: it keeps its name registered, and asks for another."""

from __future__ import annotations

from typing import List, Optional, Sequence

from udppunch.proto.puncher.asking import Asking
from udppunch.proto.puncher.consent import earliest
from udppunch.proto.puncher.meeting import Introduction, Refusal, Registered, Word
from udppunch.wire import holepunch

# Often enough for the NAT to let introductions in.
REFRESH = 15.0
_FIRST_GAP = 0.35
_GROWTH = 1.5
_LONGEST_GAP = 2.0
_SILENT_AFTER = 3.0
# It said so to both; after this long one of the two may not have got it.
ORIGINAL_AGAIN = 10.0
_ORIGINAL_GAP = 2.0  # what a server that is not ours is asked again after


class Dialogue:
    def __init__(self, name: str, mark: bytes, now: float) -> None:
        self._name = name
        self._mark = mark
        self._server_mark = b""
        self._registered = False
        self._taken_said = False
        self._next_register: Optional[float] = now
        self._gap = _FIRST_GAP
        self._unanswered_since = now
        self._wanted = ""
        self._asking: Optional[Asking] = None
        self._unknown_said = False

    def ask(self, identity: str, now: float) -> None:
        self._wanted = identity
        self._asking = Asking(now, 0)
        self._unknown_said = False

    def settle(self, now: float) -> None:
        self._asking = None

    def cease(self) -> None:
        self._asking = self._next_register = None

    def receive(self, datagram: bytes, now: float) -> Optional[Word]:
        message = holepunch.decode(datagram)
        self._server_mark = message.mark or self._server_mark
        if isinstance(message, holepunch.RegisterAck):
            return self._answered(message, now)
        if isinstance(message, holepunch.Unknown):
            return self._unknown(now)
        if isinstance(message, holepunch.Initiate):
            if self._asking is not None and message.name == self._wanted:
                self._asking.heard_named(bool(self._server_mark), now, ORIGINAL_AGAIN)
            seen = message.seen
            return Introduction(message.name, message.name, message.peer, message.mark, b"", seen)
        return None

    def due(self, now: float) -> Sequence[bytes]:
        said: List[holepunch.Datagram] = []
        if self._next_register is not None and now >= self._next_register:
            said.append(holepunch.Register(self._name, self._mark))
            self._next_register = now + self._gap
            self._gap = min(self._gap * _GROWTH, _LONGEST_GAP)
        if self._registered and self._asking is not None and self._asking.due(now, self._least):
            said.append(holepunch.Request(self._wanted, self._mark))
        return [holepunch.encode(message) for message in said]

    def deadline(self) -> Optional[float]:
        asking = self._asking.deadline() if self._asking and self._registered else None
        return earliest(self._next_register, asking)

    def silent(self, now: float) -> bool:
        return self._next_register is not None and now - self._unanswered_since >= _SILENT_AFTER

    def goodbye(self) -> Sequence[bytes]:
        """A server that is not ours takes it for a word of another server's, and passes it over."""
        return [holepunch.encode(holepunch.Unknown(self._mark))] if self._server_mark else []

    @property
    def _least(self) -> float:
        return 0.0 if self._server_mark else _ORIGINAL_GAP

    def _answered(self, ack: holepunch.RegisterAck, now: float) -> Optional[Word]:
        if self._next_register is None:
            return None
        if ack.mark and ack.seen is None:
            self._registered = False
            self._unanswered_since = now
            if self._taken_said:
                return None
            self._taken_said = True
            return Refusal(f"another peer is registered as {self._name!r}; waiting for it to go")
        news = not self._registered
        self._registered = True
        self._taken_said = False
        self._gap = _FIRST_GAP
        self._next_register = self._unanswered_since = now + REFRESH
        return Registered(ack.seen) if news else None

    def _unknown(self, now: float) -> Optional[Word]:
        if self._asking is None or self._asking.named:
            return None
        self._asking.heard_refusal(now)
        if self._unknown_said:
            return None
        self._unknown_said = True
        return Refusal(f"no peer is registered as {self._wanted!r}; asking on")
