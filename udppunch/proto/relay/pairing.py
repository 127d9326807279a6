"""Which two peers are joined in a channel of the relay: who asked first, who second, who too late.

A guid is half-open from its first handshake to the second peer's, and a channel from then until
nothing has passed for so long. Strangers can make half-open ones at will: these are bounded
apart, for each network prefix and in all, and never cost a channel its place.
"""

from __future__ import annotations

import enum
from collections import Counter, OrderedDict
from dataclasses import dataclass
from typing import Dict, Iterator, List, NamedTuple, Optional, Tuple

from udppunch import address
from udppunch.address import Address
from udppunch.wire.registrar import Flow, Peer


@dataclass(frozen=True)
class Limits:
    """`idle` in seconds; the others are counts."""

    idle: float
    channels: int
    half_open: int
    half_open_prefix: int


class Outcome(enum.Enum):
    """What came of a handshake; the values name counters."""

    OPENED = "opened"
    JOINED = "joined"
    REPEATED = "repeated"
    THIRD_PARTY = "third party"
    FULL = "all channels in use"
    PREFIX_FULL = "prefix over its share"
    DRAINING = "stopping"


class Channel:
    """Two peers, the first to come first, and what each has sent."""

    __slots__ = ("number", "guid", "peers", "opened", "active", "datagrams", "octets")

    def __init__(self, number: int, guid: bytes, peers: List[Peer], opened: float) -> None:
        self.number = number
        self.guid = guid
        self.peers = peers
        self.opened = opened
        self.active = opened
        self.datagrams = [0, 0]
        self.octets = [0, 0]

    def flow(self, side: int) -> Flow:
        """The direction from the peer of that side to the other."""
        source, destination = self.peers[side], self.peers[1 - side]
        return Flow(self.number, side, self.guid, self.opened, source, destination)


class HalfOpen(NamedTuple):
    guid: bytes
    peer: Peer
    since: float


class Answer(NamedTuple):
    """`channel` where there is one; `ended` are those that a peer left for it.

    `moved` is how the peer was known until now, where it comes by another worker.
    """

    outcome: Outcome
    channel: Optional[Channel] = None
    ended: Tuple[Channel, ...] = ()
    moved: Optional[Peer] = None


class Pairing:
    """All channels, half-open or not. Not one of its methods takes longer for their number."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.draining = False
        self.evicted = 0  # half-open ones that made room for newer ones
        self._half_open: "OrderedDict[bytes, HalfOpen]" = OrderedDict()  # the oldest first
        self._of_prefix: "Counter[bytes]" = Counter()
        self._by_guid: Dict[bytes, Channel] = {}
        self._by_address: Dict[Address, Channel] = {}
        self._by_activity: "OrderedDict[int, Channel]" = OrderedDict()  # the quietest first
        self._last_number = 0

    def __len__(self) -> int:
        return len(self._by_activity)

    def __iter__(self) -> Iterator[Channel]:
        return iter(self._by_activity.values())

    @property
    def half_open(self) -> int:
        return len(self._half_open)

    def handshake(self, guid: bytes, peer: Peer, now: float) -> Answer:
        """A peer, already proved where that is asked for, wants to be joined by that guid."""
        channel = self._by_guid.get(guid)
        if channel is not None:
            return self._again(channel, peer)
        half_open = self._half_open.get(guid)
        if half_open is not None and half_open.peer.address == peer.address:
            if half_open.peer != peer:
                self._half_open[guid] = half_open._replace(peer=peer)
            return Answer(Outcome.REPEATED)
        if self.draining:
            return Answer(Outcome.DRAINING)
        if half_open is not None:
            return self._join(half_open, peer, now)
        return self._open(guid, peer, now)

    def touch(self, number: int, side: int, datagrams: int, octets: int, now: float) -> None:
        """The channel carried something; `datagrams` and `octets` are that side's totals."""
        channel = self._by_activity.get(number)
        if channel is not None:
            channel.active = now
            channel.datagrams[side] = datagrams
            channel.octets[side] = octets
            self._by_activity.move_to_end(number)

    def expire(self, now: float) -> List[Channel]:
        """Forgets what was silent for too long; the channels that ended so."""
        while self._half_open:
            oldest = next(iter(self._half_open.values()))
            if now < oldest.since + self.limits.idle:
                break
            self._forget(oldest)
        ended = []
        while self._by_activity:
            quietest = next(iter(self._by_activity.values()))
            if now < quietest.active + self.limits.idle:
                break
            self._end(quietest)
            ended.append(quietest)
        return ended

    def number_from(self, least: int) -> None:
        """No channel gets a number below that from now on, for fear that another one has it."""
        self._last_number = max(self._last_number, least)

    def restore(self, flow: Flow, datagrams: int, octets: int, now: float) -> bool:
        """Takes over a flow that a worker still carries; whether it still is one."""
        channel = self._by_activity.get(flow.channel)
        if channel is None:
            peers = [flow.source, flow.destination]
            if flow.side:
                peers.reverse()
            for peer in peers:
                other = self._by_address.get(peer.address)
                if other is not None and other.number > flow.channel:
                    return False  # the peer was joined anew meanwhile
            channel = Channel(flow.channel, flow.guid, peers, flow.opened)
            self._last_number = max(self._last_number, channel.number)
            self._begin(channel)
            channel.active = now
        elif channel.guid != flow.guid:
            return False  # the number was given away again meanwhile
        channel.datagrams[flow.side] = datagrams
        channel.octets[flow.side] = octets
        return True

    def _again(self, channel: Channel, peer: Peer) -> Answer:
        for side, known in enumerate(channel.peers):
            if known.address == peer.address:
                channel.peers[side] = peer
                moved = known if known.worker != peer.worker else None
                return Answer(Outcome.REPEATED, channel, moved=moved)
        return Answer(Outcome.THIRD_PARTY)

    def _open(self, guid: bytes, peer: Peer, now: float) -> Answer:
        prefix = address.prefix(peer.address)
        if self._of_prefix[prefix] >= self.limits.half_open_prefix:
            return Answer(Outcome.PREFIX_FULL)
        if len(self._half_open) >= self.limits.half_open:
            self._forget(next(iter(self._half_open.values())))
            self.evicted += 1
        self._half_open[guid] = HalfOpen(guid, peer, now)
        self._of_prefix[prefix] += 1
        return Answer(Outcome.OPENED)

    def _join(self, half_open: HalfOpen, peer: Peer, now: float) -> Answer:
        leaving = (self._by_address.get(one.address) for one in (half_open.peer, peer))
        ended = tuple(dict.fromkeys(channel for channel in leaving if channel is not None))
        if len(self) - len(ended) >= self.limits.channels:
            return Answer(Outcome.FULL)
        self._forget(half_open)
        for channel in ended:
            self._end(channel)
        self._last_number += 1
        channel = Channel(self._last_number, half_open.guid, [half_open.peer, peer], now)
        self._begin(channel)
        return Answer(Outcome.JOINED, channel, ended)

    def _begin(self, channel: Channel) -> None:
        self._by_guid[channel.guid] = channel
        self._by_activity[channel.number] = channel
        for peer in channel.peers:
            self._by_address[peer.address] = channel

    def _end(self, channel: Channel) -> None:
        del self._by_activity[channel.number]
        if self._by_guid.get(channel.guid) is channel:
            del self._by_guid[channel.guid]
        for peer in channel.peers:
            if self._by_address.get(peer.address) is channel:
                del self._by_address[peer.address]

    def _forget(self, half_open: HalfOpen) -> None:
        del self._half_open[half_open.guid]
        prefix = address.prefix(half_open.peer.address)
        self._of_prefix[prefix] -= 1
        if not self._of_prefix[prefix]:
            del self._of_prefix[prefix]
