"""What two of our own peers say to each other once they have a path, in the place of Messages.

    40 number(4) bytes    Stretch(number, data)   of the sender's input, in order, 1 to 1,200 bytes
    41 number(4)          Ack(number)             that one came
    42 number(4)          End(number)             the input is over; a number of its own
    43 bytes              Raw(data)               a datagram as it is, unnumbered, 0 to 1,200 bytes

Numbers are big-endian and begin with 1. A datagram that starts otherwise is not as here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Union

from udppunch.wire.malformed import Malformed

MOST = 1200  # bytes; with its head, and those of UDP and IPv6, below the least MTU of IPv6
_STRETCH, _ACK, _END, _RAW = range(0x40, 0x44)
_NUMBER_END = 5


@dataclass(frozen=True)
class Stretch:
    number: int
    data: bytes


@dataclass(frozen=True)
class Ack:
    number: int


@dataclass(frozen=True)
class End:
    number: int


@dataclass(frozen=True)
class Raw:
    data: bytes


Said = Union[Stretch, Ack, End, Raw]


def encode(said: Said) -> bytes:
    """Raises ValueError for too much data, OverflowError for a number beyond 32 bits."""
    if isinstance(said, (Stretch, Raw)) and len(said.data) > MOST:
        raise ValueError(f"at most {MOST} bytes, not {len(said.data)}")
    if isinstance(said, Raw):
        return bytes([_RAW]) + said.data
    number = said.number.to_bytes(4, "big")
    if isinstance(said, Stretch):
        return bytes([_STRETCH]) + number + said.data
    return bytes([_ACK if isinstance(said, Ack) else _END]) + number


def decode(data: bytes) -> Said:
    """Raises Malformed."""
    kind = data[0] if data else -1
    if kind == _RAW and len(data) <= 1 + MOST:
        return Raw(bytes(data[1:]))
    number = int.from_bytes(data[1:_NUMBER_END], "big")
    if len(data) < _NUMBER_END or not number:
        raise Malformed("not what a peer says")
    if kind == _STRETCH and _NUMBER_END < len(data) <= _NUMBER_END + MOST:
        return Stretch(number, bytes(data[_NUMBER_END:]))
    if kind in (_ACK, _END) and len(data) == _NUMBER_END:
        return Ack(number) if kind == _ACK else End(number)
    raise Malformed("not what a peer says")
