"""Links that delay, lose, duplicate and reorder: two TUN devices and a process between them.

Not every kernel has netem, and a seeded pump makes the same choices for the same datagrams. One
process pumps all the wires of a lab. The devices carry bare IP packets with the checksums done
and nothing coalesced, since neither is offered any offload.
"""

from __future__ import annotations

import contextlib
import fcntl
import heapq
import os
import random
import select
import struct
import time
from collections.abc import Sequence
from typing import NamedTuple

from udppunch.lab.namespace import LabError, Namespace
from udppunch.lab.processes import fork

_TUNSETIFF = 0x400454CA
_IFF_TUN = 0x0001
_IFF_NO_PI = 0x1000

_LONGEST = 65535
_AT_ONCE = 64  # packets read from one device before those due are written
_HELD_BACK = 0.010  # seconds a reordered packet waits for others to overtake it


class Wire(NamedTuple):
    """What a link does to each packet, in both directions. Times in seconds, shares 0 to 1.

    A packet takes `delay` and up to `jitter` more, so that jitter alone reorders what is sent
    at shorter intervals; one chosen by `reorder` waits 10 ms longer still.
    """

    delay: float = 0.0
    jitter: float = 0.0
    loss: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0

    def arrivals(self, choice: random.Random) -> list[float]:
        """After how many seconds the packet comes out: never, once or twice."""
        # All the numbers are drawn each time, so that one share does not shift the others' luck.
        lost, doubled, held, *jitters = [choice.random() for _ in range(5)]
        if lost < self.loss:
            return []
        base = self.delay + (_HELD_BACK if held < self.reorder else 0.0)
        copies = 2 if doubled < self.duplicate else 1
        return [base + self.jitter * extra for extra in jitters[:copies]]


def open_tun(namespace: Namespace, name: str) -> int:
    """Make a TUN device in the namespace; it lasts as long as its descriptor is open."""
    request = struct.pack("16sH22x", name.encode(), _IFF_TUN | _IFF_NO_PI)
    try:
        with namespace.inside():
            fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        try:
            fcntl.ioctl(fd, _TUNSETIFF, request)
        except OSError:
            os.close(fd)
            raise
    except OSError as error:
        raise LabError(f"wires need /dev/net/tun: {error.strerror}") from None
    return fd


def start_pump(ends: Sequence[tuple[int, int, Wire]], namespace: Namespace, seed: int) -> int:
    """Pump between pairs of devices in a child, born in `namespace` and ended with it."""
    fds = [fd for one, other, _ in ends for fd in (one, other)]
    with namespace.inside():
        return fork(lambda: _pump(ends, seed), fds)


class _Direction(NamedTuple):
    """One way of a wire. With luck of its own: the others' traffic doesn't change it."""

    target: int
    wire: Wire
    choice: random.Random


def _pump(ends: Sequence[tuple[int, int, Wire]], seed: int) -> None:
    directions: dict[int, _Direction] = {}
    for one, other, wire in ends:
        for source, target in ((one, other), (other, one)):
            choice = random.Random(f"{seed} {len(directions)}")
            directions[source] = _Direction(target, wire, choice)
    sources = list(directions)
    underway: list[tuple[float, int, int, bytes]] = []
    number = 0  # keeps the order of packets due at the same instant
    while True:
        wait = max(0.0, underway[0][0] - time.monotonic()) if underway else None
        # select and not poll: its timeout has microseconds.
        for source in select.select(sources, [], [], wait)[0]:
            target, wire, choice = directions[source]
            for packet in _read_some(source):
                now = time.monotonic()
                for seconds in wire.arrivals(choice):
                    number += 1
                    heapq.heappush(underway, (now + seconds, number, target, packet))
        now = time.monotonic()
        while underway and underway[0][0] <= now:
            _, _, target, packet = heapq.heappop(underway)
            with contextlib.suppress(OSError):  # down or full: lost, as on any link
                os.write(target, packet)


def _read_some(fd: int) -> list[bytes]:
    packets: list[bytes] = []
    try:
        while len(packets) < _AT_ONCE:
            packets.append(os.read(fd, _LONGEST))
    except BlockingIOError:
        pass
    return packets
