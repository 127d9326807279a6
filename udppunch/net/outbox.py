"""What a role asks of the loop, kept until the loop may do it.

A role's own `LoopOutbox` notes sockets to open or close and names to resolve; datagrams go
to the one `Dispatch` of the loop, which sends those of a whole wake-up together at its end.
"""

from __future__ import annotations

import socket
from typing import Any, Dict, List, NamedTuple, Optional, Protocol, Sequence

from udppunch.address import Address
from udppunch.contract import Burst, Endpoint, Lookup, Piece, Role, Route
from udppunch.net import socketerrors
from udppunch.net.arena import LARGEST_DATAGRAM, Arena
from udppunch.net.grouping import headed
from udppunch.net.portable import Parcel, send_datagram
from udppunch.net.troubles import Troubles
from udppunch.net.udp import Prepared, UdpSocket, is_local


class Sender(Protocol):
    def send_lone(self, udp: UdpSocket, route: Route, prepared: Prepared, piece: Piece) -> None: ...

    def send(self, udp: UdpSocket, parcels: Sequence[Parcel]) -> None: ...


class Request(NamedTuple):
    """`subject` is an endpoint to open or close, or a name to resolve."""

    outbox: LoopOutbox
    verb: str
    subject: Any


class Dispatch:
    """The datagrams of all roles that wait for the flush."""

    def __init__(self, arena: Arena, sender: Sender, troubles: Troubles) -> None:
        self.sockets: Dict[Endpoint, UdpSocket] = {}
        self.waiting: List[Route] = []  # each with its pieces in `pending`
        self.requests: List[Request] = []
        self._arena = arena
        self._sender = sender
        self._troubles = troubles

    def keep(self, data: bytes) -> int:
        """Copies the bytes to where they live until the flush; gives the position."""
        if not self._arena.has_room(len(data)):
            self.flush()
        return self._arena.keep(data)

    def put_before(self, position: int, head: bytes) -> bool:
        """Writes it into the headroom of a received datagram; no, if it is one within a train,
        which has another datagram there."""
        end = position - self._arena.origin
        if not self._arena.starts_slot(end):
            return False
        self._arena.view[end - len(head) : end] = head
        return True

    def flush(self) -> None:
        """Sends all that waits. Whatever the kernel says to it, this returns."""
        if not self.waiting:
            return
        if len(self.waiting) == 1:
            (route,) = self.waiting
            pending = route.pending
            if pending is not None and len(pending) == 1 and not route.laid:
                self.waiting.clear()
                self._flush_lone(route, pending[0])
                return
        parcels: Dict[UdpSocket, List[Parcel]] = {}
        for route in self.waiting:
            pieces, route.pending = route.pending or [], None
            prepared = self.prepare(route)
            if prepared is None:
                self._troubles.unsendable(pieces)
                continue
            parcels.setdefault(prepared.udp, []).append((route, prepared, pieces))
        self.waiting.clear()
        for udp, of_one in parcels.items():
            self._sender.send(udp, of_one)
        self._arena.clear_scratch()

    def _flush_lone(self, route: Route, piece: Piece) -> None:
        """The short way, for one piece at a time."""
        route.pending = None
        prepared = self.prepare(route)
        if prepared is None:
            self._troubles.unsendable([piece])
        else:
            self._sender.send_lone(prepared.udp, route, prepared, piece)
        self._arena.clear_scratch()

    def prepare(self, route: Route) -> Optional[Prepared]:
        """The route as the kernel takes it; None if there is no way to send by it."""
        prepared: Optional[Prepared] = route.prepared
        if (
            prepared is not None
            and not prepared.udp.closed
            and prepared.destination is route.destination
            and prepared.source is route.source
        ):
            return prepared
        udp = self.sockets.get(route.endpoint)
        if udp is None:
            return None
        try:
            prepared = route.prepared = Prepared(udp, route)
        except ValueError:  # IPv6 destination, IPv4 socket
            return None
        return prepared

    def send_limited(self, route: Route, data: bytes, ttl: int) -> None:
        """Sends at once, after what waits, with a TTL of its own."""
        self.flush()
        prepared = self.prepare(route)
        if prepared is None:
            self._troubles.unsendable([(0, len(data), len(data))])
            return
        udp = prepared.udp
        level, option = socket.IPPROTO_IP, socket.IP_TTL
        if udp.family == socket.AF_INET6:
            level, option = socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS
        usual = udp.sock.getsockopt(level, option)
        udp.sock.setsockopt(level, option, ttl)
        try:
            send_datagram(udp, route, prepared, memoryview(data), self._troubles)
        finally:
            udp.sock.setsockopt(level, option, usual)

    def too_long(self, route: Route) -> None:
        udp = self.sockets.get(route.endpoint)
        if udp is not None:
            self._troubles.sending(udp, socketerrors.TOO_LONG, 1)


class LoopOutbox:
    """The `contract.Outbox` of one role."""

    def __init__(self, dispatch: Dispatch) -> None:
        self.role: Role  # set when the role, made with this outbox, joins the loop
        self._dispatch = dispatch
        self._waiting = dispatch.waiting

    def open(self, endpoint: Endpoint) -> None:
        self._dispatch.requests.append(Request(self, "open", endpoint))

    def close(self, endpoint: Endpoint) -> None:
        request = Request(self, "open", endpoint)
        if request in self._dispatch.requests:
            self._dispatch.requests.remove(request)
            return
        udp = self._dispatch.sockets.get(endpoint)
        if udp is not None and not udp.closing:
            udp.closing = True
            self._dispatch.requests.append(Request(self, "close", endpoint))

    def resolve(self, lookup: Lookup) -> None:
        self._dispatch.requests.append(Request(self, "resolve", lookup))

    def forward(self, route: Route, burst: Burst) -> None:
        piece = (burst.position, len(burst.view), burst.segment)
        pending = route.pending
        if pending is None:
            pending = self.begin(route)
        pending.append(piece)

    def prefix(self, route: Route, piece: Piece, head: bytes) -> None:
        position, length, segment = piece
        if length <= segment and self._dispatch.put_before(position, head):
            octets = len(head)
            self._add(route, (position - octets, octets + length, octets + length))
            return
        for message in headed(piece, self._dispatch.keep(head), len(head)):
            self._add(route, message)
            route.laid = True

    def strip(self, route: Route, piece: Piece, octets: int) -> None:
        position, length, segment = piece
        for start in range(0, length, segment):
            size = min(segment, length - start) - octets
            if size >= 0:
                self._add(route, (position + start + octets, size, size))

    def _add(self, route: Route, piece: Any) -> None:
        pending = route.pending
        if pending is None:
            pending = self.begin(route)
        pending.append(piece)

    def begin(self, route: Route) -> List[Piece]:
        pending: List[Piece] = []
        route.pending = pending
        self._waiting.append(route)
        return pending

    def is_own(self, address: Address) -> bool:
        return is_local(address)

    def send(self, route: Route, data: bytes, ttl: int = 0) -> None:
        length = len(data)
        if length > LARGEST_DATAGRAM:
            self._dispatch.too_long(route)
            return
        if ttl:
            self._dispatch.send_limited(route, data, ttl)
            return
        # First the copy, for making room may flush what waits.
        piece = (self._dispatch.keep(data), length, length)
        pending = route.pending
        if pending is None:
            pending = self.begin(route)
        pending.append(piece)
