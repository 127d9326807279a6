"""What strangers say to a relay, how they say it, and what it may cost the relay at most."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import socket
from typing import Callable, Dict, Iterable, Iterator, List, Optional, Sequence

from tests.faults.pace import Pace
from tests.faults.relay_traffic import SECRET, RelayProgram, new_guid, resident
from tests.program import SocketAddress
from tests.standin.relay import MAGIC, ZERO_GUID, handshake, old_handshake

GROWTH = 16 << 10  # KiB of each process's memory, at most, whatever comes
LINES = 100
LONGEST = 1500


@contextlib.contextmanager
def strangers(networks: int, each: int = 1) -> Iterator[List[socket.socket]]:
    """So many sockets in each of so many /24 networks of loopback, none of them the peers' own."""
    with contextlib.ExitStack() as opened:
        sockets = []
        for number in range(networks):
            for _ in range(each):
                stranger = opened.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
                stranger.bind((f"127.1.{number}.1", 0))
                stranger.setblocking(False)
                sockets.append(stranger)
        yield sockets


def flood(
    sources: Sequence[socket.socket],
    destination: SocketAddress,
    datagrams: Iterable[bytes],
    per_second: int,
) -> int:
    """Sends them by turns from all sources, no faster than that; how many were sent."""
    sent = 0
    pace = Pace(destination, per_second)
    turns = itertools.cycle(sources)
    for datagram in datagrams:
        with contextlib.suppress(BlockingIOError):
            next(turns).sendto(datagram, destination)
            sent += 1
            pace.sent()
    return sent


def handshakes(count: int, secret: Optional[bytes]) -> Iterator[bytes]:
    """Each with a guid of its own, signed if there is a secret to sign with."""
    make: Callable[[bytes], bytes] = old_handshake
    if secret is not None:
        key = secret
        make = lambda guid: handshake(guid, key)  # noqa: E731
    return (make(new_guid()) for _ in range(count))


def octets_heard(sockets: Iterable[socket.socket]) -> int:
    """Of what waited at these sockets: none for strangers, whom nobody answers."""
    octets = 0
    for each in sockets:
        each.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                octets += len(each.recv(65535))
    return octets


# Of each kind, one of that length, as a stranger without the secret may say it.
STRANGE: Dict[str, Callable[[int], bytes]] = {
    "noise": os.urandom,
    "zeros": bytes,
    "magic and zeros": lambda length: _long(MAGIC, length),
    "magic and noise": lambda length: (MAGIC + os.urandom(LONGEST))[:length],
    "old form": lambda length: _long(old_handshake(new_guid()), length),
    "another secret's": lambda length: signed(new_guid(), length, b"another secret"),
    "signed, then altered": lambda length: _altered(signed(new_guid(), length)),
    "signed, then cut": lambda length: signed(new_guid(), LONGEST + 1)[:length],
    "signed, no guid": lambda length: signed(ZERO_GUID, length),
    "signed, after a byte": lambda length: b"\0" + signed(new_guid(), max(0, length - 1)),
}


def _long(head: bytes, length: int) -> bytes:
    return (head + bytes(max(0, length - len(head))))[:length]


def signed(guid: bytes, length: int, secret: bytes = SECRET) -> bytes:
    """Of 56 bytes at least, less can't be signed."""
    return handshake(guid, secret, bytes(max(0, length - 56)))


def _altered(datagram: bytes) -> bytes:
    altered = bytearray(datagram)
    altered[random.randrange(8, len(altered))] ^= 1
    return bytes(altered)


def strange(count: int, seed: int = 1) -> Iterator[bytes]:
    chance = random.Random(seed)
    kinds = list(STRANGE.values())
    return (chance.choice(kinds)(chance.randrange(LONGEST + 1)) for _ in range(count))


def trains(count: int, seed: int) -> Iterator[List[bytes]]:
    """What one system call sends (UDP_SEGMENT): good, bad and odd in one piece."""
    chance = random.Random(seed)
    for _ in range(count):
        length = chance.randrange(1, LONGEST)
        most = min(40, 60_000 // length)
        good = handshake(new_guid(), SECRET, bytes(max(0, length - 56)))[:length].ljust(length)
        odd = [_long(MAGIC + os.urandom(20), length), os.urandom(length), good]
        yield [chance.choice(odd) for _ in range(chance.randrange(1, most + 1))]


class Bounds:
    """What a flood may cost the processes: memory and log lines, and none of them its life."""

    def __init__(self, relay: RelayProgram) -> None:
        self._relay = relay
        self._pids = relay.pids()
        self._memory = {name: resident(pid) for name, pid in self._pids.items()}
        self._lines = len(relay.events)

    def hold(self, *, growth: int = GROWTH, lines: int = LINES) -> None:
        relay = self._relay
        relay.assert_alive_and_sane()
        assert relay.pids() == self._pids, relay
        grown = {name: resident(pid) - self._memory[name] for name, pid in self._pids.items()}
        assert max(grown.values()) < growth, grown
        assert len(relay.events) - self._lines <= lines, relay.logged()
        assert not relay.counters().get("role_errors"), relay
