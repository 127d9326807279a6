"""Receiving and sending one datagram a call, by what every platform's socket module has.

The loop runs on it where the kernel has no batch calls; the batch sender uses
`send_datagram` for what must go singly.
"""

from __future__ import annotations

import socket
from typing import Any, Dict, Iterator, List, Sequence, Tuple

from udppunch.address import Address
from udppunch.contract import Burst, Piece, Route
from udppunch.errors import CommandError
from udppunch.net import offload, sockaddr, socketerrors
from udppunch.net.arena import Arena
from udppunch.net.grouping import Group
from udppunch.net.socketerrors import Action
from udppunch.net.troubles import Troubles
from udppunch.net.udp import Prepared, UdpSocket

# What one socket had to send by one flush: each route with its pieces in order.
Parcel = Tuple[Route, Prepared, List[Piece]]

_CONTROL = 128
WORTH_WAITING = 4  # messages in a batch
_MOST_NAMES = 1 << 14
_TRIES = 3  # a socket may hold one waiting error; three tell a persistent one from it


class PortableReceiver:
    def __init__(self, arena: Arena, troubles: Troubles) -> None:
        self._arena = arena
        self._troubles = troubles
        self._burst = Burst()
        self._next = 0
        self._sources: Dict[Any, Address] = {}

    def full(self) -> bool:
        return self._next >= self._arena.slots

    def is_deep(self) -> bool:
        """Whether so much came that more is likely to come, but not more than fits."""
        return WORTH_WAITING <= self._next and not self.full()

    def rewind(self) -> None:
        self._next = 0

    def receive(self, udp: UdpSocket, now: float) -> None:
        """Gives the role what waits, as far as there are slots."""
        burst, arena = self._burst, self._arena
        deliver = udp.role.receive
        control = _CONTROL if udp.endpoint.asked_address else 0
        burst.endpoint = udp.endpoint
        errors = 0
        while self._next < arena.slots and not udp.closing:
            position = arena.start_of(self._next)
            try:
                length, told, flags, name = udp.sock.recvmsg_into(
                    [arena.view[position : position + arena.slot_size]], control
                )
            except OSError as error:
                errors += 1
                if socketerrors.nothing_to_read(error.errno or 0) or errors == _TRIES:
                    return
                action = self._troubles.receiving(udp, error.errno or 0)
                if action in (Action.RETRY, Action.REFUSED):
                    continue
                return
            if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
                self._troubles.malformed(udp, "truncated")
                continue
            self._next += 1
            burst.source = self._source(name)
            burst.view = arena.view[position : position + length]
            burst.segment = length
            burst.local = offload.asked_address(told) if told else b""
            burst.position = position
            try:
                deliver(burst, now)
            except CommandError:
                raise
            except Exception as error:
                self._troubles.bug(udp, error)

    def _source(self, name: Any) -> Address:
        source = self._sources.get(name)
        if source is None:
            source = sockaddr.from_tuple(name)
            if len(self._sources) >= _MOST_NAMES:
                self._sources.clear()
            self._sources[name] = source
        return source


class PortableSender:
    def __init__(self, arena: Arena, troubles: Troubles) -> None:
        self._arena = arena
        self._troubles = troubles

    def send_lone(self, udp: UdpSocket, route: Route, prepared: Prepared, piece: Piece) -> None:
        self.send(udp, [(route, prepared, [piece])])

    def send(self, udp: UdpSocket, parcels: Sequence[Parcel]) -> None:
        for route, prepared, pieces in parcels:
            route.laid = False
            for piece in pieces:
                if isinstance(piece, Group):
                    for data in datagrams_of(self._arena, piece):
                        send_datagram(udp, route, prepared, data, self._troubles)
                    continue
                position, length, segment = piece
                data = self._arena.cut(position, length)
                send_train(udp, route, prepared, data, segment, self._troubles)


def datagrams_of(arena: Arena, message: Group) -> Iterator[memoryview]:
    """What the message's spans hold: its datagrams, joined to what is put in front of each."""
    cuts = [arena.cut(*span) for span in zip(message.spans[::2], message.spans[1::2])]
    if not message.headed:
        yield from cuts
        return
    for head, data in zip(cuts[::2], cuts[1::2]):
        yield memoryview(b"".join((head, data)))


def send_train(
    udp: UdpSocket,
    route: Route,
    prepared: Prepared,
    data: memoryview,
    segment: int,
    troubles: Troubles,
) -> int:
    """Sends the datagrams that `data` holds one by one; tells how many were accepted."""
    if len(data) <= segment:
        return int(send_datagram(udp, route, prepared, data, troubles))
    accepted = 0
    for start in range(0, len(data), segment):
        datagram = data[start : start + segment]
        accepted += send_datagram(udp, route, prepared, datagram, troubles)
    return accepted


def send_datagram(
    udp: UdpSocket, route: Route, prepared: Prepared, data: memoryview, troubles: Troubles
) -> bool:
    """Whether the kernel took it, which the route counts; a loss is counted by errno."""
    number = 0
    for _ in range(_TRIES - 1):
        try:
            udp.send_one(data, prepared.target, prepared.ancillary)
            route.datagrams += 1
            route.octets += len(data)
            return True
        except OSError as error:
            number = error.errno or 0
            action = troubles.met(udp, number)
        if action is Action.DROP or (action is Action.SPLIT and not udp.connected):
            break
    troubles.sending(udp, number, 1)
    return False
