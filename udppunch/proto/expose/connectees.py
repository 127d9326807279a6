"""The connectees of one service as one worker knows them: who has which tag, and for how long.

Their number is bounded over all workers: each tells the others how many it has, and how many it
had no room for, so that they make some.

    counts      how many each worker has, then how many each had to refuse: 4 bytes each
"""

from __future__ import annotations

from typing import Callable, List, Optional

from udppunch.address import Address
from udppunch.proto.expose.tags import Connectee, Holder, Shared, Tags
from udppunch.wire import expose

COUNTS = 2  # for each worker
_COUNT = 0xFFFFFFFF


class Connectees:
    """`most` bounds the sum of all workers'. `head_of` gives what goes between the tag and a
    connectee's datagrams."""

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
        workers = len(counts) // COUNTS
        self.most = most
        self.gone: List[Holder] = []  # for whoever wants to know; theirs to clear
        self._tags = Tags(shared, worker, workers, start, now)
        self._holders = self._tags.holders
        self._counts = counts[:workers]
        self._refused = counts[workers:]
        self._heeded = sum(self._refused)
        self._worker = worker
        self._head_of = head_of
        self._counts[worker] = len(self._tags)

    def __len__(self) -> int:
        return len(self._tags)

    def find(self, source: Address, local: bytes, now: float) -> Optional[Holder]:
        """One that has a tag, which it keeps for longer."""
        holder = self._holders.get(source + local)
        if holder is None:
            return None
        holder.active = now
        return holder if holder.head else self._with_head(holder)

    def admit(self, source: Address, local: bytes, now: float) -> Optional[Holder]:
        """A tag for a newcomer, in the place of another if need be; None if there is none."""
        if self._tags.full or sum(self._counts) >= self.most:
            evicted = self._tags.evict(now)
            if evicted is None:
                self._refused[self._worker] = (self._refused[self._worker] + 1) & _COUNT
                return None
            self.gone.append(evicted)
        holder = self._tags.issue(Connectee(source, local), now)
        self._counts[self._worker] = len(self._tags)
        return None if holder is None else self._with_head(holder)

    def expire(self, now: float, idle: float) -> None:
        """Forgets the idle ones, and makes room for one where other workers had none: with that
        they have one of their own to send away for the next."""
        self.gone += self._tags.expire(now, idle)
        self._counts[self._worker] = len(self._tags)
        refused = sum(self._refused)
        if refused != self._heeded and sum(self._counts) >= self.most:
            evicted = self._tags.evict(now)
            if evicted is not None:
                self.gone.append(evicted)
                self._counts[self._worker] = len(self._tags)
        self._heeded = refused

    def all(self) -> List[Holder]:
        """Those that have a tag, with what is known of them until now."""
        return [self._tags.look_at(holder) for holder in self._holders.values()]

    def _with_head(self, holder: Holder) -> Holder:
        holder.head = expose.TAG.pack(holder.tag) + self._head_of(holder.connectee)
        return holder
