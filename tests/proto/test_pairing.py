"""Who is joined with whom: each outcome, the bounds of the half-open, and any course of events.

The last is a comparison with a model of plain dictionaries and searches through all of them.
"""

from __future__ import annotations

import ipaddress
import random
from collections import Counter
from dataclasses import dataclass, replace
from typing import Dict, List, Optional, Set

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from udppunch import address
from udppunch.address import Address
from udppunch.proto.relay.pairing import Answer, Channel, Limits, Outcome, Pairing
from udppunch.wire.registrar import Flow, Peer

IDLE = 30.0
LIMITS = Limits(idle=IDLE, channels=100, half_open=8, half_open_prefix=4)
DUAL = "2001:db8:0:aa{:02x}::{:x}"  # of the /56 2001:db8:0:aa00::, whatever the numbers


def peer(ip: str, port: int = 4000, worker: int = 0, listener: int = 0) -> Peer:
    return Peer(address.pack(ip, port), worker, listener, b"")


def stranger(number: int) -> Peer:
    """Each of a network of its own."""
    return peer(f"10.{number >> 8 & 255}.{number & 255}.9")


A, B, C, D = (peer(f"198.51.{100 + number}.7") for number in range(4))


def guid(number: int) -> bytes:
    return number.to_bytes(16, "big")


def join(pairing: Pairing, number: int, one: Peer, other: Peer, now: float = 0.0) -> Channel:
    assert pairing.handshake(guid(number), one, now).outcome is Outcome.OPENED
    answer = pairing.handshake(guid(number), other, now)
    assert answer.outcome is Outcome.JOINED and answer.channel is not None
    return answer.channel


def outcomes(pairing: Pairing, number: int, *peers: Peer, now: float = 0.0) -> List[Outcome]:
    return [pairing.handshake(guid(number), one, now).outcome for one in peers]


def test_the_second_peer_joins_and_the_third_is_too_late() -> None:
    pairing = Pairing(LIMITS)
    channel = join(pairing, 1, A, B, now=5.0)
    assert channel.peers == [A, B] and channel.guid == guid(1) and channel.opened == 5.0
    assert channel.flow(0) == Flow(channel.number, 0, guid(1), 5.0, A, B)
    assert channel.flow(1) == Flow(channel.number, 1, guid(1), 5.0, B, A)
    assert outcomes(pairing, 1, C) == [Outcome.THIRD_PARTY]
    assert pairing.handshake(guid(1), C, 6.0) == Answer(Outcome.THIRD_PARTY)
    assert list(pairing) == [channel] and pairing.half_open == 0


def test_a_repeat_of_either_peer_names_the_channel() -> None:
    pairing = Pairing(LIMITS)
    assert outcomes(pairing, 1, A, A, A) == [Outcome.OPENED] + 2 * [Outcome.REPEATED]
    assert pairing.half_open == 1
    answer = pairing.handshake(guid(1), B, 0.0)
    for one in (A, B):
        assert pairing.handshake(guid(1), one, 1.0) == Answer(Outcome.REPEATED, answer.channel)


def test_an_address_is_its_ip_and_its_port() -> None:
    pairing = Pairing(LIMITS)
    same_ip = replace_port(A, 4001)
    assert join(pairing, 1, A, same_ip).peers == [A, same_ip]
    assert outcomes(pairing, 1, replace_port(A, 4002)) == [Outcome.THIRD_PARTY]


def replace_port(one: Peer, port: int) -> Peer:
    return one._replace(address=address.with_port(one.address, port))


def test_repeats_do_not_keep_a_half_open_one() -> None:
    pairing = Pairing(LIMITS)
    for second in range(30):
        outcomes(pairing, 1, A, now=float(second))
        assert pairing.expire(second + 0.9) == [] and pairing.half_open == 1
    pairing.expire(IDLE)
    assert pairing.half_open == 0
    assert outcomes(pairing, 1, B, now=IDLE) == [Outcome.OPENED]


def test_a_channel_lives_as_long_as_either_side_speaks() -> None:
    pairing = Pairing(LIMITS)
    channel, silent = join(pairing, 1, A, B), join(pairing, 2, C, D)
    for turn in range(1, 10):
        now = turn * 20.0
        pairing.touch(channel.number, turn % 2, turn, 100 * turn, now)
        assert pairing.expire(now + 1) == ([silent] if turn == 2 else [])
    assert (channel.datagrams, channel.octets) == ([8, 9], [800, 900])
    assert pairing.expire(180.0 + IDLE - 0.1) == []
    assert pairing.expire(180.0 + IDLE) == [channel] and not len(pairing)
    pairing.touch(channel.number, 0, 10, 1000, 211.0)
    assert not len(pairing)


def test_a_guid_may_be_used_again_after_its_end() -> None:
    pairing = Pairing(LIMITS)
    first = join(pairing, 1, A, B)
    assert pairing.expire(IDLE) == [first]
    second = join(pairing, 1, C, A, now=IDLE)
    assert second.number > first.number and second.peers == [C, A]


def test_a_peer_that_moves_ends_the_channel_it_leaves() -> None:
    pairing = Pairing(LIMITS)
    old = join(pairing, 1, A, B)
    assert outcomes(pairing, 2, A) == [Outcome.OPENED]
    assert list(pairing) == [old], "until the second peer comes"
    answer = pairing.handshake(guid(2), C, 1.0)
    assert answer.outcome is Outcome.JOINED and answer.ended == (old,)
    assert [channel.peers for channel in pairing] == [[A, C]]
    assert outcomes(pairing, 1, B) == [Outcome.OPENED], "whom it left is free"


def test_two_peers_may_move_together_or_from_two_channels_at_once() -> None:
    pairing = Pairing(LIMITS)
    old = join(pairing, 1, A, B)
    outcomes(pairing, 2, B)
    answer = pairing.handshake(guid(2), A, 1.0)
    assert answer.ended == (old,) and [channel.peers for channel in pairing] == [[B, A]]
    other = join(pairing, 3, C, D)
    outcomes(pairing, 4, A)
    answer = pairing.handshake(guid(4), D, 2.0)
    assert len(answer.ended) == 2 and other in answer.ended
    assert [channel.peers for channel in pairing] == [[A, D]]


def test_a_peer_that_comes_by_another_worker_is_known_by_the_new_way() -> None:
    pairing = Pairing(LIMITS)
    outcomes(pairing, 1, A._replace(worker=3))
    outcomes(pairing, 1, A)
    channel = pairing.handshake(guid(1), B, 0.0).channel
    assert channel is not None and channel.peers == [A, B]
    elsewhere = B._replace(worker=2, listener=1, local=b"\x7f\0\0\1")
    answer = pairing.handshake(guid(1), elsewhere, 1.0)
    assert answer == Answer(Outcome.REPEATED, channel, moved=B)
    assert channel.peers == [A, elsewhere]
    other_port = elsewhere._replace(listener=0)
    assert pairing.handshake(guid(1), other_port, 2.0) == Answer(Outcome.REPEATED, channel)
    assert channel.peers == [A, other_port]


def test_full_is_full_save_for_those_who_leave_a_channel_for_it() -> None:
    pairing = Pairing(replace(LIMITS, channels=2))
    join(pairing, 1, A, B)
    join(pairing, 2, C, D)
    assert outcomes(pairing, 3, stranger(1), stranger(2)) == [Outcome.OPENED, Outcome.FULL]
    assert pairing.half_open == 1, "it may be joined when there is room"
    assert outcomes(pairing, 3, A) == [Outcome.JOINED]
    assert len(pairing) == 2
    assert outcomes(pairing, 4, stranger(3), stranger(4)) == [Outcome.OPENED, Outcome.FULL]
    pairing.expire(IDLE - 0.1)
    assert outcomes(pairing, 4, stranger(4), now=IDLE - 0.1) == [Outcome.FULL]
    assert len(pairing.expire(IDLE)) == 2


def test_one_that_drains_takes_no_new_channel_and_keeps_the_old() -> None:
    pairing = Pairing(LIMITS)
    channel = join(pairing, 1, A, B)
    outcomes(pairing, 2, C)
    pairing.draining = True
    assert outcomes(pairing, 2, C, D) == [Outcome.REPEATED, Outcome.DRAINING]
    assert outcomes(pairing, 3, D, A) == 2 * [Outcome.DRAINING]
    assert outcomes(pairing, 1, A, B, C) == 2 * [Outcome.REPEATED] + [Outcome.THIRD_PARTY]
    assert list(pairing) == [channel]


@pytest.mark.parametrize(
    "neighbours,others",
    [
        ([f"192.0.2.{n}" for n in range(5)], ["192.0.3.0", "192.0.1.255"]),
        ([DUAL.format(n, n) for n in (0, 1, 0x7F, 0xFE, 0xFF)],
         ["2001:db8:0:a900::", "2001:db8:0:ab00::", "2001:db8:1:aa00::"]),
    ],
    ids=["/24", "/56"],
)  # fmt: skip
def test_a_network_has_its_share_of_the_half_open(neighbours: List[str], others: List[str]) -> None:
    pairing = Pairing(LIMITS)
    for number, ip in enumerate(neighbours):
        expected = Outcome.OPENED if number < 4 else Outcome.PREFIX_FULL
        assert outcomes(pairing, number, peer(ip, 4000 + number)) == [expected]
    for number, ip in enumerate(others, 100):
        assert outcomes(pairing, number, peer(ip)) == [Outcome.OPENED]
    # To come second needs no share, and gives the first its share back.
    assert outcomes(pairing, 0, peer(neighbours[4])) == [Outcome.JOINED]
    assert outcomes(pairing, 4, peer(neighbours[4])) == [Outcome.OPENED]
    assert outcomes(pairing, 5, peer(neighbours[4])) == [Outcome.PREFIX_FULL]
    pairing.expire(IDLE)
    assert outcomes(pairing, 6, peer(neighbours[4]), now=IDLE) == [Outcome.OPENED]


def test_the_oldest_half_open_makes_room_and_a_share_is_refused_before() -> None:
    pairing = Pairing(LIMITS)
    for number in range(4):
        outcomes(pairing, number, peer("192.0.2.1"), now=float(number))
    for number in range(4, 8):
        outcomes(pairing, number, stranger(number), now=float(number))
    assert outcomes(pairing, 50, peer("192.0.2.2"), now=8.0) == [Outcome.PREFIX_FULL]
    assert pairing.half_open == 8 and pairing.evicted == 0
    outcomes(pairing, 0, peer("192.0.2.1"), now=8.0)  # makes it no younger
    assert outcomes(pairing, 51, stranger(51), now=8.0) == [Outcome.OPENED]
    assert pairing.half_open == 8 and pairing.evicted == 1
    assert outcomes(pairing, 1, A, now=8.0) == [Outcome.JOINED]
    assert outcomes(pairing, 0, peer("192.0.2.3"), now=8.0) == [Outcome.OPENED], "it was evicted"


def test_new_limits_leave_what_is_there() -> None:
    pairing = Pairing(LIMITS)
    channels = [join(pairing, n, stranger(2 * n), stranger(2 * n + 1)) for n in range(3)]
    for number in range(10, 18):
        outcomes(pairing, number, stranger(number))
    pairing.limits = Limits(idle=10.0, channels=1, half_open=2, half_open_prefix=1)
    assert list(pairing) == channels and pairing.half_open == 8
    assert outcomes(pairing, 20, A) == [Outcome.OPENED] and pairing.half_open <= 8
    assert outcomes(pairing, 20, B) == [Outcome.FULL]
    assert pairing.expire(10.0) == channels and pairing.half_open == 0


def test_a_flood_of_random_guids_is_bounded_and_costs_no_channel() -> None:
    limits = Limits(idle=IDLE, channels=100_000, half_open=8192, half_open_prefix=1024)
    pairing, chance = Pairing(limits), random.Random(1)
    channels = [join(pairing, number, stranger(number), A._replace(
        address=address.pack("198.51.100.7", 1000 + number))) for number in range(100)]  # fmt: skip
    told: "Counter[Outcome]" = Counter()
    for number in range(200_000):
        # Half of it from one network, the rest from everywhere.
        ip = chance.getrandbits(8) | 0xC0000200 if number % 2 else chance.getrandbits(32)
        source = Address(ip.to_bytes(4, "big") + b"\x0f\xa0")
        told[pairing.handshake(chance.randbytes(16), Peer(source, 0, 0, b""), 1.0).outcome] += 1
        assert pairing.half_open <= 8192
    assert set(told) == {Outcome.OPENED, Outcome.PREFIX_FULL}
    assert pairing.evicted == told[Outcome.OPENED] - 8192
    assert max(pairing._of_prefix.values()) <= 1024
    assert sum(pairing._of_prefix.values()) == len(pairing._half_open) == 8192
    assert list(pairing) == channels
    pairing.expire(1.0 + IDLE)
    assert not pairing.half_open and not pairing._of_prefix


def flows_of(pairing: Pairing) -> List[Flow]:
    return [channel.flow(side) for channel in pairing for side in (0, 1)]


def test_channels_are_restored_from_their_flows_and_go_on_counting() -> None:
    before, after = Pairing(LIMITS), Pairing(LIMITS)
    join(before, 1, A, B)
    join(before, 2, C, D)
    for number, flow in enumerate(reversed(flows_of(before))):
        assert after.restore(flow, number, 10 * number, 50.0)
    assert {tuple(flows_of(before))} == {tuple(sorted(flows_of(after)))}
    assert [(channel.datagrams, channel.octets) for channel in after] == [
        ([1, 0], [10, 0]),
        ([3, 2], [30, 20]),
    ]
    assert after.expire(50.0 + IDLE - 0.1) == []
    assert join(after, 3, stranger(1), stranger(2)).number > 2
    assert outcomes(after, 1, A, C) == [Outcome.REPEATED, Outcome.THIRD_PARTY]


def test_one_flow_is_enough_to_restore_a_channel() -> None:
    for side in (0, 1):
        before, after = Pairing(LIMITS), Pairing(LIMITS)
        channel = join(before, 1, A, B)
        assert after.restore(channel.flow(side), 7, 70, 1.0)
        (restored,) = after
        assert restored.peers == [A, B] and restored.datagrams[side] == 7


def test_a_flow_whose_number_is_a_newer_channels_by_now_is_none_of_it() -> None:
    """Its worker answered the recall so late that the number was given away again."""
    before, after = Pairing(LIMITS), Pairing(LIMITS)
    late = join(before, 1, A, B).flow(0)
    newer = join(after, 2, C, D)
    assert newer.number == late.channel
    assert not after.restore(late, 7, 70, 1.0)
    assert newer.datagrams == [0, 0]


# --- any course ------------------------------------------------------------------------------


@dataclass
class ModelChannel:
    guid: bytes
    peers: List[Peer]
    active: float


@dataclass
class ModelHalfOpen:
    guid: bytes
    peer: Peer
    since: float


def network(one: Address) -> object:
    width = 24 if len(one) == 6 else 56
    return ipaddress.ip_network(f"{address.ip(one)}/{width}", strict=False)


IPS = ("192.0.2.1", "192.0.2.200", "192.0.3.1", DUAL.format(1, 1), DUAL.format(2, 2),
       "2001:db8:0:ab00::1")  # fmt: skip
addresses = st.builds(address.pack, st.sampled_from(IPS), st.sampled_from((4000, 5000)))
guids = st.integers(1, 6).map(guid)
workers = st.integers(0, 1)


class AnyCourse(RuleBasedStateMachine):
    """`half_open` is in order of age; `channels` by number."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.draining = False
        self.half_open: List[ModelHalfOpen] = []
        self.channels: Dict[int, ModelChannel] = {}

    @initialize(channels=st.integers(1, 4), half_open=st.integers(1, 4), share=st.integers(1, 3))
    def begin(self, channels: int, half_open: int, share: int) -> None:
        self.limits = Limits(IDLE, channels, half_open, share)
        self.pairing = Pairing(self.limits)

    @rule(guid=guids, source=addresses, worker=workers, listener=workers)
    def handshake(self, guid: bytes, source: Address, worker: int, listener: int) -> None:
        one = Peer(source, worker, listener, b"")
        before = set(self.channels)
        waiting = next((half for half in self.half_open if half.guid == guid), None)
        expected = self._expect(guid, one, waiting)
        answer = self.pairing.handshake(guid, one, self.now)
        assert answer.outcome is expected
        if expected is Outcome.JOINED:
            assert waiting is not None
            self._join(waiting, one, answer)
        elif expected is Outcome.REPEATED and waiting is None:
            self._repeat(guid, one, answer)
        else:
            assert answer == Answer(expected)
            if expected is Outcome.REPEATED and waiting is not None:
                waiting.peer = one
        if expected is not Outcome.JOINED:
            assert before == set(self.channels)

    def _expect(self, guid: bytes, one: Peer, waiting: Optional[ModelHalfOpen]) -> Outcome:
        for channel in self.channels.values():
            if channel.guid == guid:
                known = one.address in [each.address for each in channel.peers]
                return Outcome.REPEATED if known else Outcome.THIRD_PARTY
        if waiting is not None and waiting.peer.address == one.address:
            return Outcome.REPEATED
        if self.draining:
            return Outcome.DRAINING
        if waiting is not None:
            staying = len(self.channels) - len(self._channels_of(waiting.peer, one))
            return Outcome.JOINED if staying < self.limits.channels else Outcome.FULL
        networks = [network(half.peer.address) for half in self.half_open]
        if networks.count(network(one.address)) >= self.limits.half_open_prefix:
            return Outcome.PREFIX_FULL
        if len(self.half_open) == self.limits.half_open:
            del self.half_open[0]
        self.half_open.append(ModelHalfOpen(guid, one, self.now))
        return Outcome.OPENED

    def _channels_of(self, *peers: Peer) -> Set[int]:
        theirs = {one.address for one in peers}
        return {
            number
            for number, channel in self.channels.items()
            if theirs & {one.address for one in channel.peers}
        }

    def _join(self, waiting: ModelHalfOpen, one: Peer, answer: Answer) -> None:
        left = self._channels_of(waiting.peer, one)
        assert len(answer.ended) == len(left)
        assert {channel.number for channel in answer.ended} == left
        assert answer.channel is not None and answer.moved is None
        for number in left:
            del self.channels[number]
        assert answer.channel.number > max(self.channels, default=0)
        self.half_open.remove(waiting)
        joined = ModelChannel(waiting.guid, [waiting.peer, one], self.now)
        self.channels[answer.channel.number] = joined

    def _repeat(self, guid: bytes, one: Peer, answer: Answer) -> None:
        (channel,) = [each for each in self.channels.values() if each.guid == guid]
        (side,) = [n for n in (0, 1) if channel.peers[n].address == one.address]
        was, channel.peers[side] = channel.peers[side], one
        assert answer.channel is not None and answer.ended == ()
        assert self.channels[answer.channel.number] is channel
        assert answer.moved == (was if was.worker != one.worker else None)

    @precondition(lambda self: self.channels)
    @rule(data=st.data(), side=st.integers(0, 1), carried=st.integers(0, 2**40))
    def touch(self, data: st.DataObject, side: int, carried: int) -> None:
        number = data.draw(st.sampled_from(sorted(self.channels)))
        self.pairing.touch(number, side, carried, 3 * carried, self.now)
        self.channels[number].active = self.now

    @rule(number=st.integers(100_000, 100_009))
    def touch_none(self, number: int) -> None:
        self.pairing.touch(number, 0, 1, 1, self.now)

    @rule(seconds=st.sampled_from((0.5, 5.0, 14.0, 29.0, IDLE)))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        ended = {channel.number for channel in self.pairing.expire(self.now)}
        over = {n for n, each in self.channels.items() if self.now - each.active >= IDLE}
        assert ended == over
        for number in over:
            del self.channels[number]
        self.half_open = [half for half in self.half_open if self.now - half.since < IDLE]

    @rule(draining=st.sampled_from((False, False, True)))
    def drain(self, draining: bool) -> None:
        self.pairing.draining = self.draining = draining

    @rule(data=st.data())
    def begin_anew(self, data: st.DataObject) -> None:
        """From what the workers hold, in any order, some of it lost with one of them."""
        flows = data.draw(st.permutations(flows_of(self.pairing)))
        kept = [f for f in flows if f.side == 0 or data.draw(st.booleans())]
        self.pairing = Pairing(self.limits)
        for flow in kept:
            assert self.pairing.restore(flow, 0, 0, self.now)
        for channel in self.channels.values():
            channel.active = self.now
        self.half_open, self.draining = [], False

    @invariant()
    def as_the_model(self) -> None:
        of_pairing = {c.number: ModelChannel(c.guid, c.peers, c.active) for c in self.pairing}
        assert of_pairing == self.channels
        half_open = [ModelHalfOpen(*half) for half in self.pairing._half_open.values()]
        assert half_open == self.half_open

    @invariant()
    def tables_agree(self) -> None:
        pairing, channels = self.pairing, list(self.pairing)
        assert len(pairing) == len(channels) and pairing.half_open == len(pairing._half_open)
        assert {c.guid: c for c in channels} == pairing._by_guid
        assert len(pairing._by_guid) == len(channels)
        places = [(one.address, c) for c in channels for one in c.peers]
        assert dict(places) == pairing._by_address
        assert len(pairing._by_address) == len(places), "an address in two channels"
        assert [c.active for c in channels] == sorted(c.active for c in channels)
        halves = pairing._half_open
        assert not set(halves) & set(pairing._by_guid)
        assert all(half.guid == key for key, half in halves.items())
        shares = Counter(address.prefix(half.peer.address) for half in halves.values())
        assert pairing._of_prefix == shares and len(pairing._of_prefix) == len(shares)
        assert len(halves) <= self.limits.half_open
        assert max(shares.values(), default=0) <= self.limits.half_open_prefix


TestAnyCourse = AnyCourse.TestCase
TestAnyCourse.settings = settings(max_examples=200, stateful_step_count=60, deadline=None)
