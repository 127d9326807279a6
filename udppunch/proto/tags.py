"""The tags of a helper's connectees: 16-bit numbers that stand for addresses on the wire.

All workers read one table in shared memory, but each slot has one writer: worker i of n issues
the tags that are i modulo n. So the datagrams of the exposer, which all come to one worker, find
their connectees whichever worker these come to, and a worker that is killed leaves its tags
behind, in order, for its successor.

    slot     version(4) ‖ address length(1) ‖ local length(1) ‖ address(18) ‖ local(16)     40 bytes

The version is odd while the slot is written and 0 where it was never in use; an address length
of 0 frees it. Beside the slots there is a column of times, in seconds, at which a connectee was
last answered, written by whichever worker hears the exposer.
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from dataclasses import dataclass
from typing import Dict, Iterator, NamedTuple, Optional

from udppunch.address import Address
from udppunch.wire.expose import NEVER_A_TAG, TAGS

_SLOT = struct.Struct("=IBB18s16s")
_VERSION = struct.Struct("=I")
# A connectee that was answered keeps its tag for as long as it was not silent for so long.
PROTECTED = 10.0

SHARED_OCTETS = TAGS * (_SLOT.size + _VERSION.size)


class Connectee(NamedTuple):
    """Who has a tag; `local` is the address of this host that it asked, where that is told."""

    address: Address
    local: bytes


class Shared:
    """The table that all workers see. `memory` has SHARED_OCTETS bytes, zero at first."""

    def __init__(self, memory: memoryview) -> None:
        self._memory = memory
        self._slots = memory[: TAGS * _SLOT.size]
        self.answered = memory[TAGS * _SLOT.size : SHARED_OCTETS].cast("I")

    def version(self, tag: int) -> int:
        (version,) = _VERSION.unpack_from(self._slots, tag * _SLOT.size)
        return int(version)

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

    def in_use(self, worker: int, workers: int) -> Iterator[int]:
        """The tags of a worker that somebody has."""
        for tag in range(worker, TAGS, workers):
            if self.version(tag) and self.read(tag) is not None:
                yield tag


@dataclass
class _Holder:
    tag: int
    since: float
    active: float


class Tags:
    """The tags that one worker issues: to whom, since when, and whose turn it is to go.

    Connectees that nobody ever answered come before those that were, and of each kind the one
    that was silent longest; one that was answered and is not silent yet is never sent away.
    """

    def __init__(self, shared: Shared, worker: int, workers: int, start: int, now: float) -> None:
        self._shared = shared
        self._step = workers
        self._worker = worker
        self._next = worker + start % (TAGS // workers) * workers
        self._holders: "OrderedDict[Connectee, _Holder]" = OrderedDict()  # the quietest first
        self._unanswered: "OrderedDict[Connectee, None]" = OrderedDict()  # the oldest first
        self._taken: Dict[int, Connectee] = {}
        for tag in shared.in_use(worker, workers):
            connectee = shared.read(tag)
            if connectee is not None:
                self._add(connectee, tag, now)

    def __len__(self) -> int:
        return len(self._holders)

    def find(self, connectee: Connectee, now: float) -> Optional[int]:
        """Its tag, which it keeps for longer; None if it has none."""
        holder = self._holders.get(connectee)
        if holder is None:
            return None
        holder.active = now
        return holder.tag

    def tag_of(self, connectee: Connectee) -> Optional[int]:
        holder = self._holders.get(connectee)
        return None if holder is None else holder.tag

    def issue(self, connectee: Connectee, now: float) -> Optional[int]:
        """A tag for a newcomer, one that nobody has; None if all are taken."""
        for _ in range(TAGS // self._step):
            tag = self._next
            self._next += self._step
            if self._next >= TAGS:
                self._next = self._worker
            if tag not in self._taken and tag != NEVER_A_TAG and tag:
                self._shared.answered[tag] = 0
                self._shared.write(tag, connectee)
                self._add(connectee, tag, now)
                return tag
        return None

    def evict(self, now: float) -> Optional[Connectee]:
        """Makes room by sending one away; None if all deserve to stay."""
        while self._unanswered:
            connectee = next(iter(self._unanswered))
            if self._was_answered(connectee):
                del self._unanswered[connectee]
                continue
            self._free(connectee)
            return connectee
        quietest = self._quietest()
        if quietest is None or now < self._last_seen(quietest) + PROTECTED:
            return None
        self._free(quietest)
        return quietest

    def expire(self, now: float, idle: float) -> int:
        """Frees the tags of those that were silent for so long; how many."""
        freed = 0
        while True:
            quietest = self._quietest()
            if quietest is None or now < self._last_seen(quietest) + idle:
                return freed
            self._free(quietest)
            freed += 1

    def _add(self, connectee: Connectee, tag: int, now: float) -> None:
        self._holders[connectee] = _Holder(tag, now, now)
        self._taken[tag] = connectee
        self._unanswered[connectee] = None

    def _free(self, connectee: Connectee) -> None:
        holder = self._holders.pop(connectee)
        self._unanswered.pop(connectee, None)
        del self._taken[holder.tag]
        self._shared.write(holder.tag, None)

    def _quietest(self) -> Optional[Connectee]:
        """Who has been silent longest: those seen since they were put in their place are put
        into a later one on the way, which each datagram would cost otherwise."""
        for _ in range(len(self._holders)):
            connectee, holder = next(iter(self._holders.items()))
            seen = self._last_seen(connectee)
            if seen <= holder.since:
                return connectee
            holder.since = seen
            self._holders.move_to_end(connectee)
        return next(iter(self._holders), None)

    def _last_seen(self, connectee: Connectee) -> float:
        holder = self._holders[connectee]
        return max(holder.active, float(self._shared.answered[holder.tag]))

    def _was_answered(self, connectee: Connectee) -> bool:
        return self._shared.answered[self._holders[connectee].tag] > 0
