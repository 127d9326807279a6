"""What one person's chat has in secret: its own key, and with each peer what is sealed with."""

from __future__ import annotations

from collections import OrderedDict
from typing import Callable, Tuple

from udppunch.proto.chat.conversation import Seals
from udppunch.wire import chat, secrecy
from udppunch.wire.chat import Message
from udppunch.wire.malformed import Malformed

_MOST = 64


class Secrets:
    """`keys` are made anew for each process, and so is the id."""

    def __init__(self, random: Callable[[int], bytes]) -> None:
        self.keys = secrecy.KeyPair(random(secrecy.PRIVATE_LENGTH))
        self._random = random
        self._seals: "OrderedDict[str, Seals]" = OrderedDict()

    def with_peer(self, peer_id: str) -> Seals:
        """What is sealed with, to and from that peer; KeyError if its key never came."""
        return self._seals[peer_id]

    def learn(self, peer_id: str, public: bytes) -> bytes:
        """The secret with that peer, whose key this is. Raises Malformed if it is another's."""
        if chat.peer_id(public) != peer_id:
            raise Malformed("another's key")
        secret = self.keys.secret(public)
        if peer_id not in self._seals:
            # One for as long as both processes live, or what was said could be said again.
            self._seals[peer_id] = Seals(secret, self._random)
            if len(self._seals) > _MOST:
                self._seals.popitem(last=False)
        return secret

    def open(self, peer_id: str, datagram: bytes) -> Tuple[Message, bool]:
        """A message of the peer's, and whether it was sealed. Raises Malformed."""
        try:
            return chat.decode(datagram), False
        except Malformed:
            if peer_id not in self._seals:
                raise
        return self._seals[peer_id].unseal(datagram), True
