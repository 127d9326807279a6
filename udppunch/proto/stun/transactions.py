"""A client's Binding transactions: sent again until they are answered (RFC 8489, 6.2.1).

A request goes out again after half a second, then after twice as long each time, seven times in
all; whoever begins a transaction says until when an answer is waited for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable, Dict, List, NamedTuple, Optional

from udppunch.address import Address
from udppunch.wire import stun
from udppunch.wire.malformed import Malformed
from udppunch.wire.stun import Kind, Message

_RTO = 0.5
_MOST_SENT = 7
# SOURCE-ADDRESS and CHANGED-ADDRESS, which servers from before RFC 5389 still add.
_OBSOLETE = frozenset({0x0004, 0x0005})
# Makes a request as long as the shortest answer over IPv4: this client needs no amplification.
_SOFTWARE = "udppunch"


class Outgoing(NamedTuple):
    """A datagram to be sent. Sockets have numbers, which say no more than which are the same."""

    socket: int
    destination: Address
    data: bytes


class Response(NamedTuple):
    """How a transaction was answered; `round_trip` None: it can't be told to which request."""

    message: Message
    source: Address
    socket: int
    round_trip: Optional[float]

    @property
    def mapped(self) -> Optional[Address]:
        """The reflexive address; None if this is an error."""
        if self.message.kind is not Kind.SUCCESS:
            return None
        return self.message.xor_mapped or self.message.mapped


@dataclass(eq=False)
class Transaction:
    """`loose`: the answer may come from another address than the one asked, or to another
    socket than the one that asked."""

    outgoing: Outgoing
    loose: bool
    until: float
    next_send: Optional[float]
    sent: int = 0
    last_sent: float = 0.0
    response: Optional[Response] = None

    def over(self, now: float) -> bool:
        return self.response is not None or now >= self.until

    def accepts(self, source: Address, socket: int) -> bool:
        expected = source == self.outgoing.destination and socket == self.outgoing.socket
        return self.response is None and (self.loose or expected)


class Transactions:
    """`random` gives so many random bytes."""

    def __init__(self, random: Callable[[int], bytes]) -> None:
        self._random = random
        self._open: Dict[bytes, Transaction] = {}

    def begin(
        self,
        socket: int,
        destination: Address,
        now: float,
        until: float,
        *,
        change: Optional[stun.Change] = None,
        response_port: Optional[int] = None,
    ) -> Transaction:
        """The first request is sent by the next `due`."""
        number = self._random(stun.TRANSACTION_LENGTH)
        request = Message(
            Kind.REQUEST, number, change=change, response_port=response_port, software=_SOFTWARE
        )
        outgoing = Outgoing(socket, destination, stun.encode(request))
        loose = change is not None or response_port is not None
        transaction = self._open[number] = Transaction(outgoing, loose, until, now)
        return transaction

    def receive(
        self, data: bytes, source: Address, socket: int, now: float
    ) -> Optional[Transaction]:
        """The transaction that the datagram answers, for the first time, if it does."""
        try:
            message = stun.decode(data)
        except Malformed:
            return None
        transaction = self._open.get(message.transaction)
        if transaction is None or not transaction.accepts(source, socket):
            return None
        if message.kind not in (Kind.SUCCESS, Kind.ERROR):
            return None
        if set(message.not_understood) - _OBSOLETE:
            return None
        round_trip = now - transaction.last_sent if transaction.sent == 1 else None
        transaction.response = Response(message, source, socket, round_trip)
        del self._open[message.transaction]
        return transaction

    def due(self, now: float) -> List[Outgoing]:
        """The requests to be sent now; those that are waited for in vain are forgotten."""
        outgoing = []
        for number, transaction in list(self._open.items()):
            if transaction.over(now):
                del self._open[number]
            elif transaction.next_send is not None and transaction.next_send <= now:
                outgoing.append(transaction.outgoing)
                transaction.last_sent = now
                transaction.next_send = now + _RTO * 2**transaction.sent
                transaction.sent += 1
                if transaction.sent == _MOST_SENT:
                    transaction.next_send = None
        return outgoing

    def deadline(self) -> Optional[float]:
        times = [transaction.until for transaction in self._open.values()]
        sends = [transaction.next_send for transaction in self._open.values()]
        return min(times + [when for when in sends if when is not None], default=None)

    def drop(self) -> None:
        """Wait for nothing any more."""
        self._open.clear()
