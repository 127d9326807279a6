"""The registrar of a relay: hears of handshakes from the workers, tells them which flows to carry.

It is a process of its own where there are several workers, since the two peers of a channel may
be heard by two of them; where there is one it is an object beside it. Workers do without it for
as long as no channel is to be opened or closed: one that begins anew asks them what they hold.
"""

from __future__ import annotations

import heapq
import logging
from collections import Counter
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

from udppunch import address
from udppunch.notices import Notices, event
from udppunch.proto.relay.pairing import Channel, Limits, Outcome, Pairing
from udppunch.proto.tally import Counts, Tally
from udppunch.wire.registrar import (
    Activity,
    Complete,
    Counted,
    Handshake,
    Held,
    Holding,
    Join,
    Message,
    Part,
    Ready,
    Recall,
)

log = logging.getLogger(__name__)

_SWEEP = 1.0
# A worker that has not told what it holds by then has been killed, and holds nothing.
_RECALL_LASTS = 0.5
_MOST_POSTPONED = 4096
# What is refused for want of room, and the setting that gives more.
_ROOM = {
    Outcome.FULL: "all channels are in use: raise --max-channels",
    Outcome.PREFIX_FULL: "one network opens too many channels at once (--half-open-prefix)",
}


class Registrar:
    """`tell` gets a message to a worker. One that comes after another has that one's counters
    `before`, and asks the workers first what there is."""

    def __init__(
        self,
        limits: Limits,
        workers: int,
        tell: Callable[[int, Message, float], None],
        before: Optional[Counts] = None,
    ) -> None:
        self.counters: "Counter[str]" = Counter()
        self.tally = Tally(self.counters, before)
        self._pairing = Pairing(limits)
        self._workers = range(workers)
        self._tell = tell
        self._notices = Notices(log)
        self._recalled = set() if before is None else set(self._workers)
        self._postponed: List[Tuple[int, Message]] = []
        self._next = 0.0

    def inherit(self, known: Sequence[Message], now: float) -> None:
        """What `estate` gave before, perhaps to another process: before anything else."""
        for message in known:
            if isinstance(message, Holding):
                self._pairing.restore(*message, now)

    def estate(self) -> List[Message]:
        """What it knows, for a registrar that comes after it."""
        return [
            Holding(channel.flow(side), channel.datagrams[side], channel.octets[side])
            for channel in self._pairing
            for side in range(len(channel.peers))
        ]

    @property
    def settled(self) -> bool:
        """Whether it knows all that there is."""
        return not self._recalled

    def start(self, now: float) -> None:
        self._next = now + (_RECALL_LASTS if self._recalled else _SWEEP)
        if self._recalled:
            # No predecessor gave numbers away as fast.
            self._pairing.number_from(int(now * 1e6))
        for worker in list(self._recalled):
            self._tell(worker, Recall(), now)

    def hear(self, worker: int, message: Message, now: float) -> None:
        """A worker said something."""
        if isinstance(message, Activity):
            for entry in message.entries:
                self._pairing.touch(*entry, now)
        elif isinstance(message, Counted):
            self.tally.heard(worker, message.counters)
        elif isinstance(message, Holding):
            if self._recalled:
                self._next = now + _RECALL_LASTS
            if not self._pairing.restore(*message, now):
                self._tell(worker, Part(message.flow.channel, message.flow.source.address), now)
        elif isinstance(message, Held):
            self.tally.began(worker, message.pid)
            self._recalled.discard(worker)
            if not self._recalled:
                self._resume(now)
        elif self._recalled:
            # Who is ready and not heard would stay deaf; there are only so many of those.
            if len(self._postponed) < _MOST_POSTPONED or isinstance(message, Ready):
                self._postponed.append((worker, message))
        elif isinstance(message, Handshake):
            self._pair(worker, message, now)
        elif isinstance(message, Ready):
            self._welcome(worker, message, now)

    def expire(self, now: float) -> None:
        self._next = now + _SWEEP
        if self._recalled:
            self._recalled.clear()
            self._resume(now)
        for channel in self._pairing.expire(now):
            self._ended(channel, "idle", now)

    def deadline(self) -> Optional[float]:
        return self._next

    def configure(self, limits: Limits) -> None:
        """New limits; what exists beyond them is left to end by itself."""
        self._pairing.limits = limits

    def drain(self) -> None:
        """Takes no new channels from now on."""
        self._pairing.draining = True

    @property
    def drained(self) -> bool:
        return self._pairing.draining and not self._recalled and not len(self._pairing)

    def gauges(self) -> Dict[str, int]:
        return {"channels": len(self._pairing), "half-open": self._pairing.half_open}

    def status(self) -> str:
        return f"{len(self._pairing)} channels, {self._pairing.half_open} half-open"

    def busiest(self, most: int, now: float) -> List[Dict[str, Any]]:
        """The channels that carried most, for people; without their guids, which are secrets."""
        channels = heapq.nlargest(most, self._pairing, key=lambda c: sum(c.octets))
        return [
            {
                "peers": [address.text(peer.address) for peer in channel.peers],
                "age": round(now - channel.opened, 1),
                "idle": round(max(0.0, now - channel.active), 1),
                "datagrams": list(channel.datagrams),
                "octets": list(channel.octets),
            }
            for channel in channels
        ]

    def _pair(self, worker: int, message: Handshake, now: float) -> None:
        answer = self._pairing.handshake(message.guid, message.peer, now)
        self.counters[f"handshakes: {answer.outcome.value}"] += 1
        self.counters["half-open evicted"] = self._pairing.evicted
        if answer.outcome in _ROOM:
            about = answer.outcome.value
            self._notices.say(now, logging.WARNING, "full", _ROOM[answer.outcome], about=about)
        channel = answer.channel
        if channel is None:
            return
        if answer.moved is not None:
            self._tell(answer.moved.worker, Part(channel.number, answer.moved.address), now)
        joined = answer.outcome is Outcome.JOINED
        if joined:
            self._opened(channel)
        # A repeat means that the worker lacks the flow: the peer came by another way before.
        for side, peer in enumerate(channel.peers):
            completes = joined and peer.address == message.peer.address
            datagram = message.datagram if completes else b""
            self._tell(peer.worker, self._flow(channel, side, datagram), now)
        # Only then, so that a peer that moves is never without a channel.
        for left in answer.ended:
            self._ended(left, "left for another", now)

    def _welcome(self, worker: int, message: Ready, now: float) -> None:
        self.tally.began(worker, message.pid)
        for channel in self._pairing:
            for side, peer in enumerate(channel.peers):
                if peer.worker == worker:
                    self._tell(worker, self._flow(channel, side), now)
        self._tell(worker, Complete(), now)

    def _flow(self, channel: Channel, side: int, datagram: bytes = b"") -> Join:
        return Join(channel.flow(side), channel.datagrams[side], channel.octets[side], datagram)

    def _resume(self, now: float) -> None:
        """The channels are known again: sees to what came meanwhile."""
        if len(self._pairing):
            count = len(self._pairing)
            event(log, logging.INFO, "recalled", f"{count} channels recalled from the workers")
        postponed, self._postponed = self._postponed, []
        for worker, message in postponed:
            self.hear(worker, message, now)

    def _opened(self, channel: Channel) -> None:
        self.counters["channels opened"] += 1
        if log.isEnabledFor(logging.DEBUG):
            first, second = (address.text(peer.address) for peer in channel.peers)
            event(log, logging.DEBUG, "joined", f"channel {channel.number}: {first} and {second}")

    def _ended(self, channel: Channel, why: str, now: float) -> None:
        self.counters["channels closed"] += 1
        for peer in channel.peers:
            self._tell(peer.worker, Part(channel.number, peer.address), now)
        if log.isEnabledFor(logging.DEBUG):
            sentence = f"channel {channel.number} ended ({why}) after {now - channel.opened:.0f} s"
            event(log, logging.DEBUG, "ended", sentence)
