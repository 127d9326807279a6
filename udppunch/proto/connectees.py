"""The connectees of one service as one worker knows them: who has which tag, and for how long.

Their number is bounded over all workers: each tells the others how many it has.
"""

from __future__ import annotations

from typing import Callable, Dict, Optional

from udppunch.address import Address
from udppunch.proto.tags import Connectee, Shared, Tags
from udppunch.wire import expose


class Entry:
    """What goes in front of a connectee's datagrams, and when it was last heard."""

    __slots__ = ("connectee", "tag", "head")

    def __init__(self, connectee: Connectee, tag: int, head: bytes) -> None:
        self.connectee = connectee
        self.tag = tag
        self.head = head


class Connectees:
    """`counts` has the number of each worker's; `most` bounds their sum."""

    def __init__(
        self,
        shared: Shared,
        counts: memoryview,
        worker: int,
        most: int,
        start: int,
        head_of: Callable[[Connectee], bytes],
        now: float,
    ) -> None:
        self._tags = Tags(shared, worker, len(counts), start, now)
        self._counts = counts
        self._worker = worker
        self._most = most
        self._head_of = head_of
        self._entries: Dict[bytes, Entry] = {}  # by address and address asked
        counts[worker] = len(self._tags)

    def __len__(self) -> int:
        return len(self._tags)

    def find(self, source: Address, local: bytes, now: float) -> Optional[Entry]:
        """The entry of one that has a tag, which it keeps for longer."""
        entry = self._entries.get(source + local)
        connectee = entry.connectee if entry is not None else Connectee(source, local)
        tag = self._tags.find(connectee, now)
        if tag is None:
            return None
        if entry is None or entry.tag != tag:
            entry = self._entries[source + local] = self._entry(connectee, tag)
        return entry

    def admit(self, source: Address, local: bytes, now: float) -> Optional[Entry]:
        """A tag for a newcomer, in the place of another if need be; None if there is none."""
        connectee = Connectee(source, local)
        if sum(self._counts) >= self._most:
            evicted = self._tags.evict(now)
            if evicted is None:
                return None
            self._entries.pop(evicted.address + evicted.local, None)
        tag = self._tags.issue(connectee, now)
        self._counts[self._worker] = len(self._tags)
        if tag is None:
            return None
        entry = self._entries[source + local] = self._entry(connectee, tag)
        return entry

    def expire(self, now: float, idle: float) -> int:
        """Forgets the idle ones; how many."""
        freed = self._tags.expire(now, idle)
        if freed:
            kept = self._tags.tag_of
            self._entries = {
                key: entry
                for key, entry in self._entries.items()
                if kept(entry.connectee) == entry.tag
            }
            self._counts[self._worker] = len(self._tags)
        return freed

    def _entry(self, connectee: Connectee, tag: int) -> Entry:
        return Entry(connectee, tag, expose.TAG.pack(tag) + self._head_of(connectee))
