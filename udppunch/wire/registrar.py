"""What the workers of a relay or a helper and their registrar say to each other, in one host.

Each worker forwards the flows whose datagrams the kernel gives it; the registrar alone decides
which flows there are. A packet between them holds one or several records:

    length(2) ‖ kind(1) ‖ body        length: of kind and body; all integers big-endian

    worker to registrar                          registrar to worker
    01 ready      pid(4)                         81 recall
    02 handshake  guid(16) peer datagram         82 join      flow totals datagram
    03 holding    flow totals                    83 part      channel(8) source
    04 held       pid(4)                         84 complete
    05 activity   (channel(8) side(1) totals)*
    06 counted    JSON
    07 claim      service(2) peer                85 publish   service(2) peer

    peer      worker(2) listener(2) local address(1+n) address(1+n)
    flow      channel(8) side(1) guid(16) opened(8, IEEE 754) peer peer
    totals    datagrams(8) octets(8)
"""

from __future__ import annotations

import json
import struct
from typing import Callable, Dict, Iterator, List, NamedTuple, Tuple, Type, Union

from udppunch.address import Address
from udppunch.wire.malformed import Malformed
from udppunch.wire.relay import GUID

# A handshake longer than this is not carried along; its sender says it again anyway.
MOST_CARRIED = 2048
LONGEST_RECORD = 0xFFFF


class Peer(NamedTuple):
    """One peer of a channel: who, and where the host hears it."""

    address: Address
    worker: int
    listener: int  # which of the listening addresses it wrote to
    local: bytes  # to which of the host's addresses, where that is told


class Flow(NamedTuple):
    """One direction of a channel; `side` is 0 for the peer that came first, 1 for the other."""

    channel: int
    side: int
    guid: bytes
    opened: float
    source: Peer
    destination: Peer


class Totals(NamedTuple):
    channel: int
    side: int
    datagrams: int
    octets: int


class Ready(NamedTuple):
    """A worker has begun, with no flows, and wants those that are its own."""

    pid: int


class Handshake(NamedTuple):
    guid: bytes
    peer: Peer
    datagram: bytes  # to be sent to the other peer if it completes a channel


class Holding(NamedTuple):
    """A flow that a worker has, told to a registrar that has begun anew."""

    flow: Flow
    datagrams: int
    octets: int


class Held(NamedTuple):
    """Those were all."""

    pid: int


class Activity(NamedTuple):
    """Which flows carried something since the last time, with their totals."""

    entries: List[Totals]


class Counted(NamedTuple):
    """What a worker has counted since it began."""

    counters: Dict[str, int]


class Claim(NamedTuple):
    """An exposer has proved that it is there, and wants a service of the helper to be its own."""

    service: int
    peer: Peer


class Publish(NamedTuple):
    """Whose a service of the helper is from now on."""

    service: int
    peer: Peer


class Recall(NamedTuple):
    """A registrar has begun, with no channels, and wants to know them."""


class Join(NamedTuple):
    """A flow to carry, which may have carried something already, by a worker before this one."""

    flow: Flow
    datagrams: int
    octets: int
    datagram: bytes  # that completed the channel, where this is its flow


class Part(NamedTuple):
    channel: int
    source: Address


class Complete(NamedTuple):
    """Those were all your flows: begin to listen."""


Message = Union[
    Ready, Handshake, Holding, Held, Activity, Counted, Claim,
    Recall, Join, Part, Complete, Publish,
]  # fmt: skip

_LENGTH = struct.Struct(">H")
_PID = struct.Struct(">I")
_CHANNEL = struct.Struct(">Q")
_PEER = struct.Struct(">HH")
_FLOW = struct.Struct(">QB16sd")
_COUNTS = struct.Struct(">QQ")
_TOTALS = struct.Struct(">QBQQ")
MOST_ENTRIES = (LONGEST_RECORD - 1) // _TOTALS.size


def encode(message: Message) -> bytes:
    kind, write = _WRITERS[type(message)]
    body = write(message)
    return _LENGTH.pack(1 + len(body)) + bytes((kind,)) + body


def decode(packet: bytes) -> Iterator[Message]:
    """The records of a packet. Raises Malformed."""
    at = 0
    try:
        while at < len(packet):
            (length,) = _LENGTH.unpack_from(packet, at)
            record = packet[at + 2 : at + 2 + length]
            if len(record) != length:
                raise Malformed("a record is cut short")
            at += 2 + length
            yield _READERS[record[0]](record[1:])
    except (struct.error, IndexError, KeyError, ValueError, RecursionError) as error:
        raise Malformed("not a record of workers and registrars") from error


def _write_peer(peer: Peer) -> bytes:
    return b"".join(
        (
            _PEER.pack(peer.worker, peer.listener),
            bytes((len(peer.local),)),
            peer.local,
            bytes((len(peer.address),)),
            peer.address,
        )
    )


def _read_counters(body: bytes) -> Counted:
    counters = json.loads(body)
    if not isinstance(counters, dict) or not all(type(n) is int for n in counters.values()):
        raise Malformed("counters are names with numbers")
    return Counted(counters)


def _read_peer(body: bytes, at: int) -> Tuple[Peer, int]:
    worker, listener = _PEER.unpack_from(body, at)
    local, at = _read_bytes(body, at + _PEER.size)
    address, at = _read_bytes(body, at)
    return Peer(Address(address), worker, listener, local), at


def _read_bytes(body: bytes, at: int) -> Tuple[bytes, int]:
    end = at + 1 + body[at]
    if end > len(body):
        raise Malformed("a field is cut short")
    return body[at + 1 : end], end


def _write_flow(flow: Flow) -> bytes:
    head = _FLOW.pack(flow.channel, flow.side, flow.guid, flow.opened)
    return head + _write_peer(flow.source) + _write_peer(flow.destination)


def _read_flow(body: bytes) -> Tuple[Flow, int]:
    channel, side, guid, opened = _FLOW.unpack_from(body)
    source, at = _read_peer(body, _FLOW.size)
    destination, at = _read_peer(body, at)
    return Flow(channel, side, guid, opened, source, destination), at


def _read_handshake(body: bytes) -> Handshake:
    peer, at = _read_peer(body, GUID)
    return Handshake(body[:GUID], peer, body[at:])


def _read_holding(body: bytes) -> Holding:
    flow, at = _read_flow(body)
    return Holding(flow, *_COUNTS.unpack_from(body, at))


def _read_join(body: bytes) -> Join:
    flow, at = _read_flow(body)
    datagrams, octets = _COUNTS.unpack_from(body, at)
    return Join(flow, datagrams, octets, body[at + _COUNTS.size :])


def _read_part(body: bytes) -> Part:
    (channel,) = _CHANNEL.unpack_from(body)
    return Part(channel, Address(body[_CHANNEL.size :]))


def _read_claim(body: bytes) -> Claim:
    (service,) = _LENGTH.unpack_from(body)
    return Claim(service, _read_peer(body, _LENGTH.size)[0])


_WRITERS: Dict[Type[Message], Tuple[int, Callable[..., bytes]]] = {
    Ready: (0x01, lambda m: _PID.pack(m.pid)),
    Handshake: (0x02, lambda m: m.guid + _write_peer(m.peer) + m.datagram),
    Holding: (0x03, lambda m: _write_flow(m.flow) + _COUNTS.pack(*m[1:])),
    Held: (0x04, lambda m: _PID.pack(m.pid)),
    Activity: (0x05, lambda m: b"".join(_TOTALS.pack(*entry) for entry in m.entries)),
    Counted: (0x06, lambda m: json.dumps(m.counters).encode()),
    Claim: (0x07, lambda m: _LENGTH.pack(m.service) + _write_peer(m.peer)),
    Recall: (0x81, lambda m: b""),
    Join: (0x82, lambda m: _write_flow(m.flow) + _COUNTS.pack(*m[1:3]) + m.datagram),
    Part: (0x83, lambda m: _CHANNEL.pack(m.channel) + m.source),
    Complete: (0x84, lambda m: b""),
    Publish: (0x85, lambda m: _LENGTH.pack(m.service) + _write_peer(m.peer)),
}

_READERS: Dict[int, Callable[[bytes], Message]] = {
    0x01: lambda body: Ready(*_PID.unpack(body)),
    0x02: _read_handshake,
    0x03: _read_holding,
    0x04: lambda body: Held(*_PID.unpack(body)),
    0x05: lambda body: Activity([Totals(*entry) for entry in _TOTALS.iter_unpack(body)]),
    0x06: _read_counters,
    0x07: _read_claim,
    0x81: lambda body: Recall(),
    0x82: _read_join,
    0x83: _read_part,
    0x84: lambda body: Complete(),
    0x85: lambda body: Publish(*_read_claim(body)),
}
