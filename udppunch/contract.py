"""What passes between a role and the loop that runs it: the nouns both sides know.

A role never touches a socket, a clock or a name server. It is told what happened by calls
that carry `now` (seconds, from an arbitrary start), and asks for what it wants through an
`Outbox`. So the same role runs in the program and, joined to another in memory, in a test
with a virtual clock.

    Endpoint   a UDP socket
    Burst      what one receive brought: one or several datagrams of one source
    Batch      many bursts at once, in columns
    Route      from which endpoint to which destination
    Lookup     a name to be resolved
"""

from __future__ import annotations

import sys
from collections import Counter
from typing import Any, Callable, Dict, List, Optional, Protocol, Sequence, Tuple

from udppunch.address import Address

Piece = Tuple[int, int, int]  # position in the loop's memory, length, segment


class Endpoint:
    """A UDP socket as a role sees it.

    `bind` is the wanted local address (port 0: any) and its length the family; `local` is
    the one in force from `Role.opened` on. With `remote` the socket is connected: it hears
    that peer alone, and of ICMP errors. `asked_address` makes `Burst.local` tell to which of
    the host's addresses a datagram was sent, so that the answer can leave from there.
    An `essential` endpoint that can't be opened ends the process. `handed_over_as` is the name
    under which the program that takes this one's place gets the socket; without one it is
    closed. `owner` is the role's own.
    """

    __slots__ = (
        "label", "bind", "remote", "asked_address", "essential", "handed_over_as", "local", "owner",
    )  # fmt: skip

    def __init__(
        self,
        label: str,
        bind: Address,
        *,
        remote: Optional[Address] = None,
        asked_address: bool = False,
        essential: bool = False,
        handed_over_as: str = "",
        owner: Any = None,
    ) -> None:
        self.label = label
        self.bind = bind
        self.remote = remote
        self.asked_address = asked_address
        self.essential = essential
        self.handed_over_as = handed_over_as
        self.local: Optional[Address] = None
        self.owner = owner

    def __repr__(self) -> str:
        return f"Endpoint({self.label!r})"


class Burst:
    """Datagrams that one receive brought, all from `source` and through `endpoint`.

    `view` holds them end to end: each `segment` bytes long but the last, which may be
    shorter; a lone datagram has `segment == len(view)`. `local` is the IP address (4 or 16
    bytes) that they were sent to, where the endpoint asked for it, else empty. The object
    and the bytes are the loop's, and are used again as soon as `Role.receive` returns: who
    keeps anything copies it.
    """

    __slots__ = ("endpoint", "source", "view", "segment", "local", "position")

    endpoint: Endpoint
    source: Address
    view: memoryview
    segment: int
    local: bytes
    position: int  # where the view starts in the loop's own memory

    @property
    def piece(self) -> Piece:
        return (self.position, len(self.view), self.segment)

    def datagrams(self) -> Sequence[memoryview]:
        """The datagrams one by one (slow: for control traffic, not for payload)."""
        view, segment = self.view, self.segment
        if len(view) <= segment:
            return (view,)
        return [view[start : start + segment] for start in range(0, len(view), segment)]

    def words(self) -> List[int]:
        """The first two bytes of each datagram, as `Batch.words` has them; nothing if one of
        them is shorter."""
        view, segment = self.view, self.segment
        if segment < 2 or len(view) % segment == 1:
            return []
        both = bytearray(2 * -(-len(view) // segment))
        both[::2] = view[::segment].tobytes()
        both[1::2] = view[1::segment].tobytes()
        return memoryview(both).cast("H").tolist()


class Batch:
    """What a batch of receives brought through `endpoint`, for a role that passes most of it on.

    Columns with an entry for each burst: its source, the piece of memory it is in (position,
    length, segment), its first two bytes as a number of this machine (see `word`; whatever was
    there before, as far as it is shorter), and the addresses asked, where these are told at
    all. `singly` gives one of them to `Role.receive`, for whatever is not passed on as it is.
    """

    __slots__ = ("endpoint", "sources", "pieces", "words", "locals", "singly")

    endpoint: Endpoint
    sources: List[Address]
    pieces: List[Piece]
    words: List[int]
    locals: Optional[List[bytes]]
    singly: Callable[[int], None]


def word(octets: bytes) -> int:
    """Two bytes as `Batch.words` has them."""
    return int.from_bytes(octets, sys.byteorder)


class Route:
    """Where datagrams go: from `endpoint` to `destination` (None: its connected remote).

    `source`, an IP address of 4 or 16 bytes, chooses the local address they leave from.
    Roles keep the routes they use often. `pending` are the pieces to be sent, None if there are
    none; `laid` (whether some of them are more than pieces) and `prepared` are the outbox's own.
    `datagrams` and `octets` count what was accepted.
    """

    __slots__ = (
        "endpoint", "destination", "source", "pending", "laid", "prepared", "datagrams", "octets",
    )  # fmt: skip

    def __init__(
        self, endpoint: Endpoint, destination: Optional[Address] = None, source: bytes = b""
    ) -> None:
        self.endpoint = endpoint
        self.destination = destination
        self.source = source
        self.pending: Optional[List[Piece]] = None
        self.laid = False
        self.prepared: Any = None
        self.datagrams = 0
        self.octets = 0


class Lookup:
    """A host name (or numeric address) and port to be resolved, IPv4 alone if so wanted."""

    __slots__ = ("host", "port", "ipv4_only")

    def __init__(self, host: str, port: int, *, ipv4_only: bool = False) -> None:
        self.host = host
        self.port = port
        self.ipv4_only = ipv4_only

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


class Outbox(Protocol):
    """What a role may ask of the loop. Nothing here blocks, fails or calls back at once."""

    def open(self, endpoint: Endpoint) -> None:
        """Open the socket; answered by `Role.opened` or `Role.failed`."""

    def close(self, endpoint: Endpoint) -> None:
        """Close it, once what was sent through it is out. No more bursts come of it."""

    def resolve(self, lookup: Lookup) -> None:
        """Resolve the name; answered by `Role.resolved`."""

    def forward(self, route: Route, burst: Burst) -> None:
        """Send all datagrams of the burst in hand, in order, without copying them."""

    def prefix(self, route: Route, piece: Piece, head: bytes) -> None:
        """Send each datagram of the piece with `head` (at most 64 bytes) in front of it."""

    def strip(self, route: Route, piece: Piece, octets: int) -> None:
        """Send each datagram of the piece, all of which are as long, without its first octets."""

    def begin(self, route: Route) -> List[Piece]:
        """`route.pending`, which was None: for a batch's pieces to be added to."""

    def is_own(self, address: Address) -> bool:
        """Whether this host has that IP address. Costs some system calls."""

    def send(self, route: Route, data: bytes, ttl: int = 0) -> None:
        """Send one datagram (copied); `ttl`, if not 0, limits its hops (IPv4, 1 to 255)."""


class Role(Protocol):
    """What the loop calls. Each call may use the outbox that the role was made with.

    `counters` says how often what happened, refusals and drops by their reason.
    """

    counters: "Counter[str]"

    def start(self, now: float) -> None: ...

    def opened(self, endpoint: Endpoint, now: float) -> None: ...

    def failed(self, endpoint: Endpoint, reason: str, now: float) -> None:
        """An endpoint that is not essential could not be opened."""

    def resolved(self, lookup: Lookup, found: Sequence[Address], reason: str, now: float) -> None:
        """The addresses of a name; when there are none, `reason` says why."""

    def refused(self, endpoint: Endpoint, now: float) -> None:
        """An ICMP error came for a connected endpoint: a hint that nobody listens there."""

    def receive(self, burst: Burst, now: float) -> None:
        """Datagrams came. A role with a method `receive_batch(batch, now)` too may be given
        many bursts at once."""

    def expire(self, now: float) -> None:
        """Called when `deadline()` has come; does what is due."""

    def deadline(self) -> Optional[float]:
        """When `expire` is wanted next; None for never."""

    def stop(self, now: float) -> None:
        """Say goodbye: the last call, after which what was sent is flushed."""

    def status(self) -> str:
        """One line for people: what the role does now."""

    def gauges(self) -> Dict[str, int]:
        """The same in numbers, by name."""
