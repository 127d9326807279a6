"""The tags of a helper's connectees: 16-bit numbers that stand for addresses on the wire.

All workers read one table in shared memory, but each slot has one writer: worker i of n issues
the tags that are i modulo n. So the datagrams of the exposer, which all come to one worker, find
their connectees whichever worker these come to, and a worker that is killed leaves its tags
behind, in order, for its successor.

    slot     version(4) ‖ address length(1) ‖ local length(1) ‖ address(18) ‖ local(16)     40 bytes

The version is odd while the slot is written and 0 where it was never in use; an address length
of 0 frees it. Behind the slots there are two columns, written by whichever worker hears the
exposer: when a connectee was last answered, in seconds (4 bytes), and what it was sent so far, in
datagrams and octets (8 bytes each).
"""

from __future__ import annotations

import struct
from typing import Dict, Iterator, List, NamedTuple, Optional, Set, Tuple

from udppunch.address import Address
from udppunch.proto.expose.eviction import Eviction
from udppunch.wire.expose import NEVER_A_TAG, TAGS

_SLOT = struct.Struct("=IBB18s16s")
_VERSION = struct.Struct("=I")

_ANSWERED_AT = TAGS * _SLOT.size
_RETURNED_AT = _ANSWERED_AT + TAGS * 4
SHARED_OCTETS = _RETURNED_AT + TAGS * 16


class Connectee(NamedTuple):
    """Who has a tag; `local` is the address of this host that it asked, where that is told."""

    address: Address
    local: bytes


class Shared:
    """The table that all workers see. `memory` has SHARED_OCTETS bytes, zero at first."""

    def __init__(self, memory: memoryview) -> None:
        self._memory = memory
        self._slots = memory[: TAGS * _SLOT.size]
        self._versions = self._slots.cast("I")[:: _SLOT.size // _VERSION.size]
        self.answered = memory[_ANSWERED_AT:_RETURNED_AT].cast("I")
        self._returned = memory[_RETURNED_AT:SHARED_OCTETS].cast("Q")

    def version(self, tag: int) -> int:
        return self._versions[tag]

    def read(self, tag: int) -> Optional[Connectee]:
        """Who has it; None if nobody does, or it is being written at this moment."""
        for _ in range(2):
            version, length, local, address, source = _SLOT.unpack_from(
                self._slots, tag * _SLOT.size
            )
            if version % 2 == 0 and self.version(tag) == version:
                if not length:
                    return None
                return Connectee(Address(address[:length]), source[:local])
        return None

    def write(self, tag: int, connectee: Optional[Connectee]) -> None:
        """Gives it to the connectee, or to nobody. For its one writer alone."""
        at = tag * _SLOT.size
        version = (self.version(tag) | 1) + 2  # odd, and another one than a killed writer left
        version &= 0xFFFFFFFF
        _VERSION.pack_into(self._slots, at, version)
        address, local = connectee if connectee is not None else (b"", b"")
        _SLOT.pack_into(self._slots, at, version, len(address), len(local), address, local)
        _VERSION.pack_into(self._slots, at, (version + 1) & 0xFFFFFFFF)

    def add_returned(self, tag: int, datagrams: int, octets: int) -> None:
        """So much more was sent to who has the tag."""
        self._returned[2 * tag] += datagrams
        self._returned[2 * tag + 1] += octets

    def returned(self, tag: int) -> Tuple[int, int]:
        return self._returned[2 * tag], self._returned[2 * tag + 1]

    def give(self, tag: int, connectee: Connectee) -> None:
        """To a newcomer, who was neither answered nor sent anything. For its one writer alone."""
        self.answered[tag] = 0
        self._returned[2 * tag] = self._returned[2 * tag + 1] = 0
        self.write(tag, connectee)

    def in_use(self, worker: int, workers: int) -> Iterator[int]:
        """The tags of a worker that somebody has."""
        for tag in range(worker, TAGS, workers):
            if self.version(tag) and self.read(tag) is not None:
                yield tag


class Holder:
    """A connectee that has a tag, until it is `gone`.

    `head` is what its owner puts in front of its datagrams; `datagrams` and `octets` say what
    came from it since `since`. `active` is when it was last heard. Others may see whether it
    was `answered`, and what was `returned` to it in datagrams and octets, once these are looked at.
    """

    __slots__ = (
        "connectee", "tag", "since", "active", "gone", "head", "datagrams", "octets", "answered",
        "returned",
    )  # fmt: skip

    def __init__(self, connectee: Connectee, tag: int, now: float) -> None:
        self.connectee = connectee
        self.tag = tag
        self.since = now
        self.active = now
        self.gone = False
        self.head = b""
        self.datagrams = 0
        self.octets = 0
        self.answered = False
        self.returned = (0, 0)


class Tags:
    """The tags that one worker issues: to whom, and since when."""

    def __init__(self, shared: Shared, worker: int, workers: int, start: int, now: float) -> None:
        self.holders: Dict[bytes, Holder] = {}  # by address and address asked, end to end
        self._shared = shared
        self._step = workers
        self._worker = worker
        self._next = worker + start % (TAGS // workers) * workers
        self._taken: Set[int] = set()
        own = range(worker, TAGS, workers)
        self._room = len(own) - (0 in own) - (NEVER_A_TAG in own)
        self._eviction: Eviction[Holder] = Eviction(
            lambda holder: shared.answered[holder.tag] > 0,
            lambda holder: max(holder.active, float(shared.answered[holder.tag])),
        )
        for tag in shared.in_use(worker, workers):
            connectee = shared.read(tag)
            if connectee is not None:
                self._add(connectee, tag, now)

    def __len__(self) -> int:
        return len(self.holders)

    @property
    def full(self) -> bool:
        """Whether all tags that this worker may issue are taken."""
        return len(self.holders) >= self._room

    def issue(self, connectee: Connectee, now: float) -> Optional[Holder]:
        """A tag for a newcomer, one that nobody has; None if all are taken."""
        if self.full:
            return None
        while True:
            tag = self._next
            self._next += self._step
            if self._next >= TAGS:
                self._next = self._worker
            if tag not in self._taken and tag != NEVER_A_TAG and tag:
                self._shared.give(tag, connectee)
                return self._add(connectee, tag, now)

    def evict(self, now: float) -> Optional[Holder]:
        """Makes room by sending one away; None if all deserve to stay."""
        holder = self._eviction.choose(now)
        return None if holder is None else self._free(holder)

    def expire(self, now: float, idle: float) -> List[Holder]:
        """Frees the tags of those that were silent for so long."""
        freed: List[Holder] = []
        while True:
            holder = self._eviction.silent(now, idle)
            if holder is None:
                return freed
            freed.append(self._free(holder))

    def look_at(self, holder: Holder) -> Holder:
        """Fills in whether it was answered, and what it was sent."""
        holder.answered = self._shared.answered[holder.tag] > 0
        holder.returned = self._shared.returned(holder.tag)
        return holder

    def _add(self, connectee: Connectee, tag: int, now: float) -> Holder:
        holder = Holder(connectee, tag, now)
        self.holders[connectee.address + connectee.local] = holder
        self._taken.add(tag)
        self._eviction.add(holder, now)
        return holder

    def _free(self, holder: Holder) -> Holder:
        self.look_at(holder).gone = True
        del self.holders[holder.connectee.address + holder.connectee.local]
        self._eviction.remove(holder)
        self._taken.discard(holder.tag)
        self._shared.write(holder.tag, None)
        return holder
