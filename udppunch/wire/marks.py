"""The mark by which our own ends know each other, behind a message that is another protocol's.

    F0 75 70 70 ‖ version(1) ‖ random(16)     mark, 21 bytes
    a b c d ‖ port(2) ‖ port(2)               what only a rendezvous adds: the IPv4 address it saw
                                              the receiver at, and another port of its own

An end keeps its mark for as long as the path or the presence lasts that it stands for, whatever
sockets it goes through.
"""

from __future__ import annotations

from typing import NamedTuple, Optional

from udppunch.address import Address

MAGIC = b"\xf0upp"
VERSION = 1
PREFIX = MAGIC + bytes([VERSION])
RANDOM = 16
LENGTH = len(PREFIX) + RANDOM
_SEEN_LENGTH = 6
_OTHER_PORT_LENGTH = 2
LONGEST = LENGTH + _SEEN_LENGTH + _OTHER_PORT_LENGTH


class Marked(NamedTuple):
    """What stands behind a message."""

    mark: bytes = b""
    seen: Optional[Address] = None
    other_port: int = 0


UNMARKED = Marked()


def new(random: bytes) -> bytes:
    """The mark with these 16 random bytes."""
    if len(random) != RANDOM:
        raise ValueError(f"a mark takes {RANDOM} random bytes, not {len(random)}")
    return PREFIX + random


def encode(marked: Marked) -> bytes:
    """Raises ValueError for an address that is not IPv4."""
    if not marked.mark or marked.seen is None:
        return marked.mark
    if len(marked.seen) != _SEEN_LENGTH:
        raise ValueError("marks carry IPv4 addresses only")
    return marked.mark + marked.seen + marked.other_port.to_bytes(_OTHER_PORT_LENGTH, "big")


def decode(data: bytes, start: int) -> Marked:
    """What stands at `start`; anything that is not a mark of ours means nothing."""
    end = start + LENGTH
    mark = bytes(data[start:end])
    if len(mark) != LENGTH or not mark.startswith(PREFIX):
        return UNMARKED
    seen = bytes(data[end : end + _SEEN_LENGTH])
    if len(seen) != _SEEN_LENGTH or not any(seen):
        return Marked(mark)
    end += _SEEN_LENGTH
    port = int.from_bytes(data[end : end + _OTHER_PORT_LENGTH], "big")
    return Marked(mark, Address(seen), port)
