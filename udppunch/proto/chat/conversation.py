"""What two people say to each other: sealed, in order, each line once, and whether it arrived.

With a peer that is ours each line has a number, is sent again until it is acknowledged, and is
taken once. Numbers go on from one conversation to the next with the same peer, so that nothing
of a former one can be said again: the upper part counts the conversations of a process, the
lower part the lines of one. A peer of the original gets each line once, and cannot say whether it
came; what it says itself may be plain, and is marked.

Both directions have one key: of what was sealed by either end, the nonces are remembered.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Callable, List, Optional

from udppunch.proto.reliability import Incoming, Outgoing
from udppunch.wire import chat, secrecy
from udppunch.wire.chat import Message
from udppunch.wire.malformed import Malformed

_LINES_BITS = 20
_LINES = (1 << _LINES_BITS) - 1
_MOST_NONCES = 4096


class Replayed(Malformed):
    """It was sealed with the right key, and came before."""


class Seals:
    """The secret with one peer, and what was ever sealed with it."""

    def __init__(self, secret: bytes, random: Callable[[int], bytes]) -> None:
        self._secret = secret
        self._random = random
        self._nonces: "OrderedDict[bytes, None]" = OrderedDict()
        # The last conversation that the peer has begun. It goes on where it was, also after this
        # end has left one: so nothing that was ever heard is heard again.
        self.latest = 0
        self.incoming: Incoming[str] = Incoming()

    def seal(self, message: Message) -> bytes:
        nonce = self._random(secrecy.NONCE_LENGTH)
        self._remember(nonce)
        return secrecy.seal(self._secret, nonce, chat.encode(message))

    def unseal(self, datagram: bytes) -> Message:
        """Raises Malformed, and Replayed for what either end has sealed before."""
        opened = secrecy.unseal(self._secret, datagram)
        nonce = datagram[: secrecy.NONCE_LENGTH]
        if nonce in self._nonces:
            raise Replayed("sent before")
        self._remember(nonce)
        return chat.decode(opened)

    def _remember(self, nonce: bytes) -> None:
        self._nonces[nonce] = None
        if len(self._nonces) > _MOST_NONCES:
            self._nonces.popitem(last=False)


class Conversation:
    """`number` counts the conversations of this process; `own_id` is who speaks here."""

    def __init__(self, seals: Seals, own_id: str, peer_id: str, number: int) -> None:
        self._seals = seals
        self._own_id = own_id
        self._peer_id = peer_id
        self._number = number
        self._outgoing: Outgoing[str] = Outgoing()
        self._answers: List[bytes] = []

    # This end's lines

    def say(self, text: str) -> int:
        """Have a line sent to an end that is ours; its number, by which `heard` tells of it."""
        return self._outgoing.add(text)

    def say_once(self, text: str) -> bytes:
        """The datagram for an end that is not ours."""
        return self._seals.seal(Message("message", self._own_id, data=text))

    @property
    def under_way(self) -> int:
        """Lines that are not acknowledged."""
        return len(self._outgoing)

    def due(self, now: float) -> List[bytes]:
        """The datagrams to be sent now."""
        said, self._answers = self._answers, []
        for number, text in self._outgoing.due(now):
            seq = self._number << _LINES_BITS | number & _LINES
            said.append(self._seals.seal(Message("message", self._own_id, data=text, seq=seq)))
        return said

    def deadline(self) -> Optional[float]:
        return float("-inf") if self._answers else self._outgoing.deadline()

    def hurry(self, now: float) -> None:
        """The path is up again."""
        self._outgoing.hurry(now)

    # The peer's

    def acknowledged(self, message: Message, now: float) -> int:
        """The number of the line that arrived, if that is news; else 0."""
        number = message.seq & _LINES
        if message.peer_id != self._peer_id or message.seq >> _LINES_BITS != self._number:
            return 0
        return number if self._outgoing.acknowledged(number, now) else 0

    def heard(self, message: Message) -> List[str]:
        """The lines that are next, with one that came from an end that is ours."""
        number, line = message.seq >> _LINES_BITS, message.seq & _LINES
        if message.peer_id != self._peer_id or number < self._seals.latest:
            return []
        if number > self._seals.latest:
            self._seals.latest, self._seals.incoming = number, Incoming()
        text = message.data if isinstance(message.data, str) else ""
        if self._seals.incoming.heard(line, text):
            ack = Message("ack", self._own_id, seq=message.seq)
            self._answers.append(self._seals.seal(ack))
        return self._seals.incoming.ready()
