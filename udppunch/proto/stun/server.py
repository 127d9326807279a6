"""Answers STUN Binding requests (RFC 8489), from a second address too, if there is one (RFC 5780).

With two addresses of two IP addresses and two ports, four sockets serve them:

    0    first IP, first port          2    second IP, first port
    1    first IP, second port         3    second IP, second port

so that a client may ask for its answer from another port (the lowest bit is changed), from
another IP (the other bit), or from both. With one socket a client that asks so is told that this
is not understood, as is PADDING always: it would make an answer long. RESPONSE-PORT sends the
answer to another port of the host that asks, by which that host learns how long its NAT remembers.

Anyone may forge the source of a request, so that its length bounds what may come of it. A bare
request has 20 octets. The least that RFC 8489 lets a success have is the XOR-MAPPED-ADDRESS: 32
octets, 44 of IPv6. RFC 5780 wants RESPONSE-ORIGIN and OTHER-ADDRESS besides, without which clients
do not find the second address: 56 octets, 92 of IPv6. Whatever else is usual (MAPPED-ADDRESS,
SOFTWARE) comes only as far as the answer gets no longer than the request by it, FINGERPRINT only
if the request has one, and a refusal carries no reason in words. How many answers a network gets
is for the caller to limit. What is not a sound Binding request gets none at all, nor does one
that would be answered to a port whose service answers anything (see `ANSWERING_PORTS`).
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple, Optional, Tuple

from udppunch import address
from udppunch.address import ANSWERING_PORTS, Address
from udppunch.wire import stun
from udppunch.wire.malformed import Malformed
from udppunch.wire.stun import Bytes, Error, Kind, Message

SOFTWARE = "udppunch"
UNKNOWN_ATTRIBUTE = 420
_OTHER_IP, _OTHER_PORT = 2, 1


class Answer(NamedTuple):
    """What to send, where to, and through which socket."""

    socket: int
    destination: Address
    data: bytes


def sockets(first: Address, second: Address) -> Tuple[Address, ...]:
    """The four addresses to serve, by socket. Raises ValueError unless both IP addresses and
    both ports differ, and the family does not."""
    if len(first) != len(second):
        raise ValueError("the two addresses are not of one family")
    if address.same_ip(first, second) or first[-2:] == second[-2:]:
        raise ValueError("the two addresses need two IP addresses and two ports")
    here, there = address.port(first), address.port(second)
    return first, address.with_port(first, there), address.with_port(second, here), second


class Server:
    """`served` as `sockets` gives them, by the addresses that clients know; none: one socket."""

    def __init__(self, served: Tuple[Address, ...] = ()) -> None:
        self._served = served

    def answer(self, request: Bytes, source: Address, socket: int = 0) -> Optional[Answer]:
        """The answer to a datagram from `source` that came to that socket, if it gets one."""
        try:
            asked = stun.decode(request)
        except Malformed:
            return None
        if asked.kind is not Kind.REQUEST or not self._may_hear(source):
            return None
        refused = self._not_served(asked)
        if not refused:
            answer = self._success(asked, source, socket, len(request))
            return answer if self._may_hear(answer.destination) else None
        error = Message(
            Kind.ERROR,
            asked.transaction,
            error=Error(UNKNOWN_ATTRIBUTE),
            unknown=refused,
            fingerprint=asked.fingerprint,
        )
        return Answer(socket, source, stun.encode(error))

    def _may_hear(self, destination: Address) -> bool:
        return address.port(destination) not in ANSWERING_PORTS and destination not in self._served

    def _not_served(self, asked: Message) -> Tuple[int, ...]:
        """The attributes of the request that it would have to understand, and does not."""
        refused = asked.not_understood
        if asked.change is not None and not self._served:
            refused += (stun.CHANGE_REQUEST,)
        if asked.padding is not None:
            refused += (stun.PADDING,)
        return refused

    def _success(self, asked: Message, source: Address, socket: int, longest: int) -> Answer:
        leaves, origin, other, destination = socket, None, None, source
        if asked.response_port is not None:
            destination = address.with_port(source, asked.response_port)
        if self._served:
            if asked.change is not None:
                leaves ^= _OTHER_IP * asked.change.ip | _OTHER_PORT * asked.change.port
            origin, other = self._served[leaves], self._served[socket ^ _OTHER_IP ^ _OTHER_PORT]
        least = Message(
            Kind.SUCCESS,
            asked.transaction,
            xor_mapped=source,
            response_origin=origin,
            other_address=other,
            fingerprint=asked.fingerprint,
        )
        return Answer(leaves, destination, _with_what_fits(least, source, longest))


def _with_what_fits(message: Message, source: Address, longest: int) -> bytes:
    """The message, and with it what is usual and makes it no longer than that."""
    data = stun.encode(message)
    for more in (
        dataclasses.replace(message, mapped=source),
        dataclasses.replace(message, mapped=source, software=SOFTWARE),
    ):
        longer = stun.encode(more)
        if len(longer) > longest:
            break
        data = longer
    return data
