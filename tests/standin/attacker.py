"""A stranger's datagrams: bytes that a robust end of the puncher protocol must survive.

`datagrams(seed, count)` yields malformed, truncated, oversized, random, nearly right and
replayed ones, the same for the same seed. Each Punch among them names one of `named` (by
default addresses of the loopback), so that an end that believes it does not send anything
out into the world.
"""

from __future__ import annotations

import errno
import itertools
import random
import socket
from typing import Callable, Iterable, Iterator, Sequence

from tests.standin.puncher import CONTROL_BUFFER, Kind, Message, encode

SocketAddress = tuple[str, int]

LARGEST = 65507
MARK = b"\xf0upp\x01"  # ends what a udppunch end sends; 16 random bytes follow
NAMED: tuple[SocketAddress, ...] = (("127.66.0.1", 9), ("127.66.0.2", 65535), ("0.0.0.0", 0))

_VARIANTS = range(6)
_HANDSHAKES = (b"\x03\x00", b"\x03\x01", b"\x03\x02")
_SHORTEST_PUNCH = 7
_REFUSED = (errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENOBUFS, errno.EPERM)


def well_formed(key: str, named: Sequence[SocketAddress] = NAMED) -> list[bytes]:
    """One of each message, sent by who has no business to."""
    keyed = [Message(Kind.CLIENT, key=key), Message(Kind.SERVER, key=key)]
    punches = [Message(Kind.PEER, peer=peer) for peer in named]
    bare = [Message(kind) for kind in Kind if kind not in (Kind.CLIENT, Kind.SERVER, Kind.PEER)]
    return [encode(message) for message in (*keyed, *punches, *bare)]


MALFORMED: tuple[bytes, ...] = (
    b"",
    b"\x06",  # no such variant
    b"\xff\xff\xff\xff\x0f",
    b"\xff\xff\xff\xff\x1f",  # a variant index of more than 32 bits
    b"\x80" * CONTROL_BUFFER,  # an integer without an end
    b"\x02\x02",
    b"\x03\x04",
    b"\x03\x80",
    b"\x00\x7fkey",  # the length lies
    b"\x01\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",  # a key of 2^64 - 1 bytes
    b"\x01\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f",
    b"\x00\x02\xc3\x28",  # not UTF-8
    b"\x01\x03\xed\xa0\x80",  # a surrogate
    b"\x03\x03\x7f\x42\x00\x01\x80\x80\x04",  # port 65,536
    b"\x03\x03\x7f\x42\x00\x01\xff\xff\xff\x03",
    MARK + bytes(16),  # a mark and nothing before it
)

# Right for a lenient reader, each in its own way.
ODD: tuple[bytes, ...] = (
    b"\x00\x00",  # an empty key
    b"\x01\x00",
    b"\x01\x84\x00abcd",  # lengths and variants in more bytes than they need
    b"\x81\x00\x04abcd",
    b"\x85\x80\x80\x80\x00",
    b"\x83\x00\x01",
    b"\x01\x04a\x00b\n",
    b"\x01\x07" + "\u202eabcd".encode(),
    b"\x01\x7e" + b"k" * 126,  # the longest that an original can send
    b"\x01\x7f" + b"k" * 127,
    b"\x00\xe8\x07" + b"k" * 1000,
)


def datagrams(
    seed: int,
    count: int,
    *,
    key: str = "test",
    named: Sequence[SocketAddress] = NAMED,
    replayed: Sequence[bytes] = (),
) -> Iterator[bytes]:
    """`count` datagrams; `replayed` are ones that were seen on the wire."""
    chance = random.Random(seed)
    right = [*well_formed(key, named), *replayed]
    kinds: Sequence[Callable[[], bytes]] = (
        lambda: chance.choice(right),
        lambda: chance.choice(MALFORMED),
        lambda: chance.choice(ODD),
        lambda: _truncated(chance, chance.choice(right)),
        lambda: _flipped(chance, chance.choice(right)),
        lambda: chance.choice(right) + chance.randbytes(chance.randrange(1, 200)),
        lambda: chance.choice(_HANDSHAKES) + chance.randbytes(chance.randrange(0, 30)),
        lambda: chance.choice(right) + _mark(chance),
        lambda: bytes([chance.choice(_VARIANTS)]) + chance.randbytes(chance.randrange(0, 40)),
        lambda: chance.randbytes(chance.randrange(0, 1400)),
        lambda: chance.choice(right) + bytes(chance.choice((129, 1472, 9000, LARGEST - 200))),
    )
    candidates = (chance.choice(kinds)() for _ in itertools.count())
    harmless = {data[:6] for data in (*well_formed(key, (*named, *NAMED)), *replayed)}
    return itertools.islice(
        (data for data in candidates if not _may_punch(data) or data[:6] in harmless), count
    )


class Attacker:
    """Sends from a given socket, never more than `limit` datagrams in its life."""

    def __init__(self, sender: socket.socket, *, limit: int = 10_000) -> None:
        self._socket = sender
        self.left = limit
        self.sent = 0

    def send(self, destination: SocketAddress, data: Iterable[bytes]) -> int:
        """How many went out: what the far end or a filter refuses is no reason to stop."""
        before = self.sent
        for datagram in itertools.islice(data, self.left):
            self.left -= 1
            try:
                self._socket.sendto(datagram, destination)
            except OSError as error:
                if error.errno not in _REFUSED:
                    raise
            else:
                self.sent += 1
        return self.sent - before


def _truncated(chance: random.Random, data: bytes) -> bytes:
    return data[: chance.randrange(len(data))] if data else b""


def _flipped(chance: random.Random, data: bytes) -> bytes:
    if not data:
        return b"\x00"
    position = chance.randrange(len(data))
    changed = data[position] ^ 1 << chance.randrange(8)
    return data[:position] + bytes([changed]) + data[position + 1 :]


def _mark(chance: random.Random) -> bytes:
    """A mark; right, of another version, or cut."""
    mark = MARK[:-1] + bytes([chance.choice((1, 1, 0, 2, 255))]) + chance.randbytes(16)
    return mark[: chance.choice((len(mark), len(mark), 4, 5, 12))]


def _may_punch(data: bytes) -> bool:
    """Whether it may be read as a Punch to an address, however the variants are written."""
    octets = [octet & 0x7F for octet in data[:10] if octet != 0x80]
    return len(data) >= _SHORTEST_PUNCH and octets[:1] == [3] and 3 in octets[1:]
