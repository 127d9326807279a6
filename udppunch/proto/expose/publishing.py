"""The registrar of a helper: whose each service is. The last one that claims it has it.

As a relay's registrar it may be a process of its own, which asks the workers when it begins anew.
"""

from __future__ import annotations

import logging
from collections import Counter
from typing import Any, Callable, Dict, List, Optional, Sequence

from udppunch import address
from udppunch.notices import Notices
from udppunch.proto.tally import Counts, Tally
from udppunch.wire.registrar import (
    Claim,
    Complete,
    Counted,
    Held,
    Message,
    Peer,
    Publish,
    Ready,
    Recall,
)

log = logging.getLogger(__name__)

# A worker that has not told what it holds by then has been killed, and holds nothing.
_RECALL_LASTS = 0.5


class Publishing:
    """`names` of the services, by their number; `tell` gets a message to a worker. `counts` are
    those of each service's connectees, as `proto.connectees` has them."""

    def __init__(
        self,
        names: Sequence[str],
        workers: int,
        tell: Callable[[int, Message, float], None],
        counts: Sequence[memoryview],
        before: Optional[Counts] = None,
    ) -> None:
        self.counters: "Counter[str]" = Counter()
        self.tally = Tally(self.counters, before)
        self._names = names
        self._workers = range(workers)
        self._tell = tell
        self._counts = counts
        self._recalled = set() if before is None else set(self._workers)
        self._gives_up_at: Optional[float] = None
        self._exposers: Dict[int, Peer] = {}
        self._notices = Notices(log)
        self._draining = False

    def inherit(self, known: Sequence[Message], now: float) -> None:
        """What `estate` gave before, perhaps to another process: before anything else."""
        for message in known:
            if isinstance(message, Claim):
                self._exposers[message.service] = message.peer

    def estate(self) -> List[Message]:
        """What it knows, for a registrar that comes after it."""
        return [Claim(service, peer) for service, peer in self._exposers.items()]

    def start(self, now: float) -> None:
        for worker in list(self._recalled):
            self._gives_up_at = now + _RECALL_LASTS
            self._tell(worker, Recall(), now)

    def hear(self, worker: int, message: Message, now: float) -> None:
        if isinstance(message, Counted):
            self.tally.heard(worker, message.counters)
        elif isinstance(message, Claim):
            self._claim(message, now)
        elif isinstance(message, Held):
            self._recalled.discard(worker)
            self.tally.began(worker, message.pid)
        elif isinstance(message, Ready):
            self.tally.began(worker, message.pid)
            for service, peer in self._exposers.items():
                self._tell(worker, Publish(service, peer), now)
            self._tell(worker, Complete(), now)

    @property
    def settled(self) -> bool:
        """Whether it knows all that there is."""
        return not self._recalled

    def expire(self, now: float) -> None:
        if self._gives_up_at is not None and now >= self._gives_up_at:
            self._gives_up_at = None
            self._recalled.clear()

    def deadline(self) -> Optional[float]:
        return self._gives_up_at

    def drain(self) -> None:
        """Nothing on this wire ends by itself: there is nothing to wait for."""
        self._draining = True

    @property
    def drained(self) -> bool:
        return self._draining

    def gauges(self) -> Dict[str, int]:
        workers = len(self._workers)
        connectees = sum(sum(counts[:workers]) for counts in self._counts)
        return {"exposers": len(self._exposers), "connectees": connectees}

    def status(self) -> str:
        connectees = self.gauges()["connectees"]
        services = f"{len(self._exposers)} of {len(self._names)} services have an exposer"
        return f"{services}, {connectees} connectees"

    def busiest(self, most: int, now: float) -> List[Dict[str, Any]]:
        return []

    def _claim(self, message: Claim, now: float) -> None:
        service, peer = message
        former = self._exposers.get(service)
        if former == peer:
            self._tell(peer.worker, Publish(service, peer), now)
            return
        for other, known in list(self._exposers.items()):
            if other != service and known.address == peer.address:
                del self._exposers[other]  # it speaks for one service
        self._exposers[service] = peer
        name = self._names[service]
        if former is None or former.address != peer.address:
            self.counters["exposers changed"] += 1
            what = f"service {name}" if name else "the service"
            sentence = f"{what} is at {address.text(peer.address)} now"
            self._notices.say(now, logging.INFO, "exposer", sentence, about=name)
        for worker in self._workers:
            self._tell(worker, Publish(service, peer), now)
