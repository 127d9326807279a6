"""A peer's side of what is said between it and the chat's server: greet, register, establish.

    state        until                       says
    GREETING     the server's key is there   greeting
    REGISTERING  it has confirmed the name   register
    REGISTERED   it fails to confirm again   register each 15 s, and establish while one is sought

To a server that is ours the register is sealed, with the nonce of its greeting: a proof that
whoever has the id has its key.
"""

from __future__ import annotations

import enum
from typing import Callable, List, Optional, Sequence

from udppunch.proto.holepunch.dialogue import ORIGINAL_AGAIN
from udppunch.proto.puncher.asking import Asking
from udppunch.proto.puncher.consent import earliest
from udppunch.proto.puncher.meeting import Introduction, Refusal, Registered, Word
from udppunch.wire import chat, secrecy
from udppunch.wire.chat import Message
from udppunch.wire.malformed import Malformed

# Often enough for the NAT to let introductions in.
REFRESH = 15.0
_FIRST_GAP = 0.35
_GROWTH = 1.5
_LONGEST_GAP = 2.0
_SILENT_AFTER = 3.0
# A server that is not ours tells the other one each time, who forgets this end's key by that.
_ORIGINAL_GAP = 5.0


class _State(enum.Enum):
    GREETING = "greeting"
    REGISTERING = "registering"
    REGISTERED = "registered"


class Dialogue:
    def __init__(
        self,
        name: str,
        mark: bytes,
        keys: secrecy.KeyPair,
        random: Callable[[int], bytes],
        now: float,
    ) -> None:
        self._name = name
        self._mark = mark
        self._keys = keys
        self._id = chat.peer_id(keys.public)
        self._random = random
        self._state = _State.GREETING
        self._secret = b""
        self._nonce = ""  # of a server that is ours
        self._next: Optional[float] = now
        self._gap = _FIRST_GAP
        self._unanswered_since = now
        self._wanted = ""
        self._asking: Optional[Asking] = None
        self._refused = ""

    def ask(self, identity: str, now: float) -> None:
        self._wanted = identity
        self._asking = Asking(now, 0)
        self._refused = ""

    def settle(self, now: float) -> None:
        self._asking = None

    def cease(self) -> None:
        self._asking = self._next = None

    # What the server says

    def receive(self, datagram: bytes, now: float) -> Optional[Word]:
        message, sealed = self._open(datagram)
        if message.error:
            return self._error(message, now)
        if message.type == "greeting":
            self._greeted(message, now)
        elif message.type == "register" and sealed:
            return self._confirmed(now)
        elif message.type == "establish" and sealed:
            return self._established(message, now)
        return None

    def _open(self, datagram: bytes) -> "tuple[Message, bool]":
        try:
            return chat.decode(datagram), False
        except Malformed:
            if not self._secret:
                raise
        return chat.decode(secrecy.unseal(self._secret, datagram)), True

    def _greeted(self, message: Message, now: float) -> None:
        if self._state is not _State.GREETING or self._next is None:
            return  # late; forged, it could make us speak to somebody else
        self._secret = self._keys.secret(chat.public_key_of(message))
        self._nonce = message.nonce if message.version else ""
        self._move(_State.REGISTERING, 0.0, now)

    def _confirmed(self, now: float) -> Optional[Word]:
        if self._next is None:
            return None
        news = self._state is not _State.REGISTERED
        self._move(_State.REGISTERED, REFRESH, now)
        return Registered() if news else None

    def _established(self, message: Message, now: float) -> Word:
        said = chat.established(message)
        if self._asking is not None and said.id == self._wanted:
            self._asking.heard_named(bool(self._nonce), now, ORIGINAL_AGAIN)
        key = b""
        if said.public_key:
            if chat.peer_id(said.public_key) != said.id:
                return Refusal("the server names a key that is not the peer's: refused", True)
            key = self._keys.secret(said.public_key)
        mark = said.mark if key else b""
        return Introduction(said.id, said.name, said.peer, mark, key, said.seen, said.public_key)

    def _error(self, message: Message, now: float) -> Optional[Word]:
        if self._next is None:
            return None
        if message.type == "establish" and self._asking is not None and not self._asking.named:
            self._asking.heard_refusal(now)
        elif self._state is not _State.GREETING and message.type in ("", "register"):
            # It may have forgotten this end, or been started anew: begin again, with patience.
            self._move(_State.GREETING, _LONGEST_GAP, now)
        if message.error == self._refused:
            return None
        self._refused = message.error
        return Refusal(message.error[:200])

    # What this end says

    def due(self, now: float) -> Sequence[bytes]:
        said: List[bytes] = []
        if self._next is not None and now >= self._next:
            # Its nonce does not last, nor does a server.
            greets = self._state is _State.GREETING
            if not greets and self._unanswered_for(now) >= _SILENT_AFTER:
                self._move(_State.GREETING, 0.0, now, answered=False)
            said.append(self._greeting() if self._state is _State.GREETING else self._register())
            self._next = now + self._gap
            self._gap = min(self._gap * _GROWTH, _LONGEST_GAP)
        least = 0.0 if self._nonce else _ORIGINAL_GAP
        if self._state is _State.REGISTERED and self._asking and self._asking.due(now, least):
            question = Message("establish", self._id, data=self._wanted)
            said.append(chat.encode(question, chat.PADDED if self._nonce else 0))
        return said

    def deadline(self) -> Optional[float]:
        registered = self._state is _State.REGISTERED
        asking = self._asking.deadline() if self._asking and registered else None
        return earliest(self._next, asking)

    def silent(self, now: float) -> bool:
        return self._next is not None and self._unanswered_for(now) >= _SILENT_AFTER

    def goodbye(self) -> Sequence[bytes]:
        """There is no word for it on this wire."""
        return ()

    def _unanswered_for(self, now: float) -> float:
        return now - self._unanswered_since

    def _greeting(self) -> bytes:
        data = chat.to_base64(self._keys.public)
        return chat.encode(Message("greeting", data=data, version=chat.VERSION), 160)

    def _register(self) -> bytes:
        data = {"username": self._name, "publicKey": chat.to_base64(self._keys.public)}
        message = Message("register", self._id, data=data, version=chat.VERSION, mark=self._mark)
        if not self._nonce:
            return chat.encode(message)
        message = Message(
            "register", self._id, data=data,
            version=chat.VERSION, mark=self._mark, nonce=self._nonce,
        )  # fmt: skip
        sealed = chat.encode(message, chat.PADDED)
        return secrecy.seal(self._secret, self._random(secrecy.NONCE_LENGTH), sealed)

    def _move(self, state: _State, pause: float, now: float, *, answered: bool = True) -> None:
        self._state = state
        self._gap = _FIRST_GAP
        self._next = now + pause
        if answered:
            self._unanswered_since = self._next
