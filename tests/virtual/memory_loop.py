"""The loop without a kernel: its own memory and outbox, and what would have been sent.

What a role does to the memory that datagrams lie in is done here as in the program: heads are
written before them, trains are laid together, and words are whatever is in a slot.
"""

from __future__ import annotations

from typing import Any, List, NamedTuple, Optional, Sequence, Tuple

from udppunch.address import Address
from udppunch.contract import Batch, Burst, Endpoint, Piece, Route
from udppunch.net import sockaddr
from udppunch.net.arena import LARGEST_DATAGRAM, Arena
from udppunch.net.grouping import lay
from udppunch.net.outbox import Dispatch, LoopOutbox
from udppunch.net.portable import Parcel, datagrams_of
from udppunch.net.troubles import Troubles
from udppunch.net.udp import Prepared

SLOTS = 128


class Socket:
    """As much of an open one as the outbox looks at."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.family = sockaddr.family(endpoint.bind)
        self.closing = False
        self.closed = False


class Arrived(NamedTuple):
    """One burst; a train where the data is longer than the segment."""

    source: Address
    data: bytes
    segment: int
    local: bytes = b""


class Sent(NamedTuple):
    """A datagram that left."""

    endpoint: Endpoint
    destination: Address
    data: bytes
    source: bytes


def split(data: bytes, segment: int) -> List[bytes]:
    return [data[at : at + segment] for at in range(0, len(data), segment or 1)] or [b""]


def train(*datagrams: bytes) -> Tuple[bytes, int]:
    """The data and segment of one."""
    size = len(datagrams[0])
    assert {len(each) for each in datagrams[:-1]} <= {size} and 0 < len(datagrams[-1]) <= size
    return b"".join(datagrams), size


class MemoryLoop:
    """Runs one role. `requests` are what it asked for, each a verb and its subject."""

    role: Any

    def __init__(self, slots: int = SLOTS) -> None:
        self.sent: List[Sent] = []
        self.trains = 0  # of more than one datagram
        self._slots = slots
        self._arena = Arena(slots)
        self._words = self._arena.view.cast("H")
        self._dispatch = Dispatch(self._arena, self, Troubles(lambda: 0.0))
        self.outbox = LoopOutbox(self._dispatch)

    @property
    def troubles(self) -> int:
        """Datagrams that there was no way to send."""
        return self._dispatch._troubles.counters["send_dropped"]

    def requests(self) -> List[Tuple[str, Any]]:
        """Those that were not seen to yet."""
        found = [(request.verb, request.subject) for request in self._dispatch.requests]
        self._dispatch.requests.clear()
        return found

    def open(self, endpoint: Endpoint, local: Optional[Address] = None) -> None:
        endpoint.local = local or endpoint.bind
        self._dispatch.sockets[endpoint] = Socket(endpoint)  # type: ignore[assignment]

    def close(self, endpoint: Endpoint) -> None:
        self._dispatch.sockets.pop(endpoint).closed = True

    def is_open(self, endpoint: Endpoint) -> bool:
        return endpoint in self._dispatch.sockets

    def deliver(
        self, endpoint: Endpoint, arrived: Sequence[Arrived], now: float, batch: bool
    ) -> None:
        """What came in one wake-up, and the flush after it."""
        for at in range(0, len(arrived), self._slots):
            some = arrived[at : at + self._slots]
            pieces = [self._place(slot, one) for slot, one in enumerate(some)]
            if batch:
                self.role.receive_batch(self._batch(endpoint, some, pieces, now), now)
            else:
                for one, piece in zip(some, pieces):
                    self.role.receive(self._burst(endpoint, one, piece), now)
            self._dispatch.flush()

    def call(self, method: Any, *arguments: Any) -> None:
        method(*arguments)
        self._dispatch.flush()

    # What the outbox has for a sender.

    def send_lone(self, udp: Any, route: Route, prepared: Prepared, piece: Piece) -> None:
        self.send(udp, [(route, prepared, [piece])])

    def send(self, udp: Any, parcels: Sequence[Parcel]) -> None:
        for route, _, pieces in parcels:
            route.laid = False
            destination = route.destination or route.endpoint.remote
            assert destination is not None
            for message in lay(pieces, LARGEST_DATAGRAM):
                data = b"".join(datagrams_of(self._arena, message))
                datagrams = split(data, message.segment)
                assert (len(datagrams), len(data)) == (message.datagrams, message.octets)
                route.datagrams += message.datagrams
                route.octets += message.octets
                self.trains += len(datagrams) > 1
                self.sent += [
                    Sent(route.endpoint, destination, each, route.source) for each in datagrams
                ]

    def _place(self, slot: int, one: Arrived) -> Piece:
        start = self._arena.start_of(slot)
        self._arena.view[start : start + len(one.data)] = one.data
        return start, len(one.data), one.segment

    def _burst(self, endpoint: Endpoint, one: Arrived, piece: Piece) -> Burst:
        burst = Burst()
        burst.endpoint, burst.source, burst.local = endpoint, one.source, one.local
        burst.position, length, burst.segment = piece
        burst.view = self._arena.view[burst.position : burst.position + length]
        return burst

    def _batch(
        self, endpoint: Endpoint, some: Sequence[Arrived], pieces: List[Piece], now: float
    ) -> Batch:
        batch = Batch()
        batch.endpoint = endpoint
        batch.sources = [one.source for one in some]
        batch.pieces = pieces
        batch.locals = [one.local for one in some] if any(one.local for one in some) else None
        batch.words = [self._words[position // 2] for position, _, _ in pieces]
        batch.singly = lambda index: self.role.receive(
            self._burst(endpoint, some[index], pieces[index]), now
        )
        return batch
