"""A relay's worker in memory, with a registrar beside it: what it carries, and what it refuses."""

from __future__ import annotations

import logging
import random
import socket
import struct
import tracemalloc
from collections import Counter
from dataclasses import replace
from typing import Dict, Iterator, List, NamedTuple, Optional, Sequence, Set, Tuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from udppunch import address
from udppunch.address import Address
from udppunch.config.parse import Invalid
from udppunch.config.roles import RelayConfig, role_config
from udppunch.contract import Batch, Burst, Endpoint, Lookup, Piece, Route, word
from udppunch.net import mmsg
from udppunch.net.loop import Loop
from udppunch.notices import TRACE
from udppunch.proto.relay.pairing import Limits
from udppunch.proto.relay.registrar import Registrar
from udppunch.role.relay import Relay
from udppunch.wire import registrar as wire
from udppunch.wire import relay

SECRET = b"of the tests"
LIMITS = Limits(idle=30.0, channels=10_000, half_open=1000, half_open_prefix=1000)
HOST = address.pack("203.0.113.10", 6060)
CONFIG: RelayConfig = replace(
    role_config("relay", {}, {}), listen=(HOST,), secret=SECRET, handshake_rate=1000
)


class Sent(NamedTuple):
    """One piece that left: a datagram, or a train of them."""

    destination: Optional[Address]
    data: bytes
    segment: int
    source: bytes
    endpoint: Endpoint


class MemoryOutbox:
    """The contract's outbox, which like the loop's sends, and counts, at the flush alone.

    `memory` holds each datagram by itself, and a position is its place there.
    """

    def __init__(self, own: Sequence[Address] = ()) -> None:
        self.memory: List[bytes] = []
        self.sent: List[Sent] = []
        self.opened: List[Endpoint] = []
        self._own = {each[:-2] for each in own}
        self._waiting: List[Route] = []

    def open(self, endpoint: Endpoint) -> None:
        self.opened.append(endpoint)

    def close(self, endpoint: Endpoint) -> None:
        raise AssertionError("a relay closes nothing")

    def resolve(self, lookup: Lookup) -> None:
        raise AssertionError("a relay asks for no names")

    def prefix(self, route: Route, piece: Piece, head: bytes) -> None:
        raise AssertionError("a relay changes nothing")

    def strip(self, route: Route, piece: Piece, octets: int) -> None:
        raise AssertionError("a relay changes nothing")

    def keep(self, data: bytes) -> int:
        self.memory.append(data)
        return len(self.memory) - 1

    def begin(self, route: Route) -> List[Piece]:
        route.pending = pending = []
        self._waiting.append(route)
        return pending

    def forward(self, route: Route, burst: Burst) -> None:
        self._add(route, burst.piece)

    def send(self, route: Route, data: bytes, ttl: int = 0) -> None:
        self._add(route, (self.keep(data), len(data), len(data)))

    def is_own(self, address: Address) -> bool:
        return address[:-2] in self._own

    def flush(self) -> None:
        for route in self._waiting:
            pieces, route.pending = route.pending or [], None
            for position, length, segment in pieces:
                data = self.memory[position]
                assert len(data) == length
                route.datagrams += -(-length // segment) if length else 1
                route.octets += length
                where = route.destination, data, segment, route.source, route.endpoint
                self.sent.append(Sent(*where))
        self._waiting.clear()
        self.memory.clear()

    def _add(self, route: Route, piece: Piece) -> None:
        (self.begin(route) if route.pending is None else route.pending).append(piece)


Bursts = Sequence[Tuple[Address, bytes, int]]  # source, the bytes and their segment


class Site:
    """A relay of one worker. Its registrar is called at once, or not at all while `deaf`."""

    def __init__(self, config: RelayConfig = CONFIG, own: Sequence[Address] = ()) -> None:
        self.now = 1000.0
        self.deaf = False
        self.asked: List[wire.Message] = []
        self.outbox = MemoryOutbox(own)
        self.registrar = Registrar(LIMITS, 1, self._tell)
        self.relay = Relay(config, self.outbox, self._ask)
        self.registrar.start(self.now)
        self.relay.start(self.now)
        for endpoint in self.outbox.opened:
            endpoint.local = endpoint.bind
            self.relay.opened(endpoint, self.now)

    def _tell(self, worker: int, message: wire.Message, now: float) -> None:
        self.relay.told(message, now)

    def _ask(self, message: wire.Message, now: float) -> None:
        self.asked.append(message)
        if not self.deaf:
            self.registrar.hear(0, message, now)

    def bursts(self, bursts: Bursts, *, batch: bool = False, listener: int = 0) -> List[Sent]:
        """What is sent for what came in one wake-up."""
        endpoint = self.outbox.opened[listener]
        del self.outbox.sent[:]
        if batch:
            self.relay.receive_batch(self._batch(bursts, endpoint), self.now)
        else:
            for one in bursts:
                self.relay.receive(self._burst(one, endpoint, self.outbox.keep(one[1])), self.now)
        self.outbox.flush()
        return list(self.outbox.sent)

    def tell(self, source: Address, *datagrams: bytes) -> List[Tuple[Optional[Address], bytes]]:
        sent = self.bursts([(source, data, len(data)) for data in datagrams])
        return [(piece.destination, piece.data) for piece in sent]

    def join(self, number: int, one: Address, other: Address) -> None:
        said = signed(number)
        assert self.tell(one, said) == []
        assert self.tell(other, said) == [(one, said)]

    def counted(self) -> "Counter[str]":
        self.relay.stop(self.now)
        return +self.relay.counters

    def handshakes(self) -> List[wire.Handshake]:
        return [message for message in self.asked if isinstance(message, wire.Handshake)]

    def _burst(self, one: Tuple[Address, bytes, int], endpoint: Endpoint, position: int) -> Burst:
        burst = Burst()
        burst.source, data, burst.segment = one
        burst.endpoint, burst.local, burst.position = endpoint, b"", position
        burst.view = memoryview(data)
        return burst

    def _batch(self, bursts: Bursts, endpoint: Endpoint) -> Batch:
        batch = Batch()
        positions = [self.outbox.keep(data) for _, data, _ in bursts]
        batch.endpoint = endpoint
        batch.sources = [source for source, _, _ in bursts]
        batch.pieces = [
            (at, len(data), segment) for at, (_, data, segment) in zip(positions, bursts)
        ]
        batch.locals = None
        batch.words = [word(data[:2].ljust(2, b"\0")) for _, data, _ in bursts]
        batch.singly = lambda index: self.relay.receive(
            self._burst(bursts[index], endpoint, positions[index]), self.now
        )
        return batch


def at(number: int, ip: str = "198.51.100.7") -> Address:
    return address.pack(ip, number)


A, B = at(4000), at(5000, "192.0.2.9")
C, D = at(4000, "2001:db8::7"), at(5000, "2001:db8:1::9")


def guid(number: int) -> bytes:
    return number.to_bytes(16, "big")


def signed(number: int, padding: bytes = b"", secret: bytes = SECRET) -> bytes:
    return relay.handshake(guid(number), secret, padding)


def forged(number: int, padding: bytes = b"") -> bytes:
    return signed(number, padding, b"a guess")


def train(*datagrams: bytes) -> Tuple[bytes, int]:
    assert len({len(each) for each in datagrams[:-1]}) == 1
    return b"".join(datagrams), len(datagrams[0])


# --- payload ---------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [False, True])
@given(data=st.binary(max_size=3000), segment=st.integers(1, 1500))
def test_payload_passes_both_ways_as_it_is(batch: bool, data: bytes, segment: int) -> None:
    site = Site()
    site.join(1, A, B)
    site.join(2, C, D)
    for source, destination in ((A, B), (B, A), (C, D), (D, C)):
        segment = min(segment, len(data))
        sent = site.bursts([(source, data, segment)] * 3, batch=batch)
        assert {piece[:3] for piece in sent} == {(destination, data, segment)}
        assert len(sent) == 3


def test_empty_datagrams_are_datagrams() -> None:
    site = Site()
    site.join(1, A, B)
    assert site.tell(A, b"", b"x", b"") == [(B, b""), (B, b"x"), (B, b"")]
    assert site.tell(at(1), b"") == []
    counted = site.counted()
    assert counted["datagrams"] == 4 and counted["dropped: unknown source"] == 1


@pytest.mark.parametrize("data", [b"", b"x", b"\4", relay.MAGIC, relay.MAGIC + bytes(52)])
def test_a_stranger_is_told_nothing(data: bytes) -> None:
    site = Site()
    assert site.tell(A, data) == [] and site.handshakes() == []
    assert site.counted() == {"dropped: unknown source": 1}


def test_answers_leave_by_the_listener_and_address_that_the_peer_wrote_to() -> None:
    site = Site(replace(CONFIG, listen=(HOST, address.pack("::", 6061))))
    site.bursts([(A, signed(1), 56)], listener=0)
    site.bursts([(C, signed(1), 56)], listener=1)
    (to_c,) = site.bursts([(A, b"to c", 4)], listener=0)
    (to_a,) = site.bursts([(C, b"to a", 4)], listener=1)
    assert (to_c.destination, to_c.endpoint) == (C, site.outbox.opened[1])
    assert (to_a.destination, to_a.endpoint) == (A, site.outbox.opened[0])


# --- handshakes ------------------------------------------------------------------------------


def test_the_handshake_that_completes_a_channel_is_relayed_and_so_are_repeats() -> None:
    site = Site()
    site.join(1, A, B)
    asked = len(site.handshakes())
    for source, destination in ((A, B), (B, A)):
        for said in (signed(1, b"padding"), forged(1), relay.old_handshake(guid(1))):
            assert site.tell(source, said) == [(destination, said)], "its mac is nobody's concern"
    assert len(site.handshakes()) == asked
    assert not [name for name in site.counted() if "dropped" in name or "mac" in name]


@pytest.mark.parametrize("wrong", [forged(1), relay.old_handshake(guid(1)), signed(1) + b"x"])
def test_a_strangers_wrong_mac_is_counted_and_goes_no_further(wrong: bytes) -> None:
    site = Site()
    assert site.tell(A, wrong) == [] and site.handshakes() == []
    counted = site.counted()
    assert counted["dropped: wrong mac"] == counted["handshakes: wrong mac"] == 1


def test_without_a_secret_any_handshake_will_do() -> None:
    site = Site(replace(CONFIG, secret=b""))
    old = relay.old_handshake(guid(1))
    assert site.tell(A, old) == []
    assert site.tell(B, forged(1)) == [(A, forged(1))]


def test_the_secret_and_the_limits_may_change_while_it_runs() -> None:
    site = Site()
    site.join(1, A, B)
    site.relay.configure(replace(CONFIG, secret=b"a guess", rate=64))
    assert site.tell(C, signed(2)) == [] and site.handshakes()[-1].guid == guid(1)
    assert site.tell(C, forged(2)) == [] and site.handshakes()[-1].guid == guid(2)
    assert site.tell(D, forged(2)) == [(C, forged(2))]
    assert len(site.tell(A, *[b"x"] * 100)) == 100, "an old flow keeps its limits"
    assert len(site.tell(C, *[b"x"] * 100)) == 64


def test_a_third_party_disturbs_nobody() -> None:
    site = Site()
    site.join(1, A, B)
    assert site.tell(C, signed(1), b"payload") == []
    assert site.tell(A, b"x") == [(B, b"x")] and site.tell(B, b"y") == [(A, b"y")]


def test_until_the_other_peer_comes_a_moving_one_keeps_its_channel() -> None:
    site = Site()
    site.join(1, A, B)
    assert site.tell(A, signed(2), b"x") == [(B, signed(2)), (B, b"x")]
    assert site.tell(C, signed(2)) == [(A, signed(2))]
    assert site.tell(A, b"x", signed(1)) == [(C, b"x"), (C, signed(1))]
    assert site.tell(B, b"x") == [], "whom it left"


def test_a_train_with_a_handshake_for_a_new_guid_goes_in_order() -> None:
    site = Site()
    site.join(1, A, B)
    site.tell(C, signed(2))
    before, after = [bytes([n]) * 56 for n in (1, 2)], [bytes([n]) * 56 for n in (3, 4)]
    data, segment = train(*before, signed(1), signed(2), *after, b"end")
    sent = site.bursts([(A, data, segment)])
    assert [piece.data for piece in sent if piece.destination == B] == [*before, signed(1)]
    assert [piece.data for piece in sent if piece.destination == C] == [signed(2), *after, b"end"]
    assert len(sent) == 7


def test_a_train_of_a_stranger_is_joined_in_its_midst() -> None:
    site = Site()
    site.tell(B, signed(1))
    data, segment = train(b"x" * 56, signed(1), b"y" * 56, b"end")
    sent = site.bursts([(A, data, segment)])
    assert [piece[:2] for piece in sent] == [(B, signed(1)), (B, b"y" * 56), (B, b"end")]
    assert site.counted()["dropped: unknown source"] == 1


def test_a_train_through_three_channels() -> None:
    site = Site()
    site.join(1, A, B)
    site.tell(C, signed(2))
    site.tell(D, signed(3))
    data, segment = train(signed(2), b"c" * 56, forged(4), signed(3), b"d" * 56)
    sent = site.bursts([(A, data, segment)])
    expected = [(C, signed(2)), (C, b"c" * 56), (C, forged(4)), (D, signed(3)), (D, b"d" * 56)]
    assert [piece[:2] for piece in sent] == expected


def test_a_handshake_too_long_to_be_carried_along_joins_none_the_less() -> None:
    site = Site()
    site.tell(A, signed(1))
    long = signed(1, bytes(wire.MOST_CARRIED - relay.HEADER + 1))
    assert site.tell(B, long) == []
    assert site.tell(B, long) == [(A, long)]
    assert site.tell(A, b"x") == [(B, b"x")]


# --- who is no peer, and how many there may be ---------------------------------------------


@pytest.mark.parametrize("port", [0, 7, 13, 17, 19, 53, 69, 123])
@pytest.mark.parametrize("ip", ["198.51.100.7", "2001:db8::7"])
def test_services_that_answer_anything_are_no_peers(ip: str, port: int) -> None:
    site = Site()
    assert site.tell(at(port, ip), signed(1)) == [] and site.handshakes() == []
    assert site.counted() == {"dropped: source never a peer": 1}
    site.tell(at(port + 1, ip), signed(1))
    assert len(site.handshakes()) == 1


@pytest.mark.parametrize("listen", [HOST, address.pack("::", 6060)])
def test_it_is_no_peer_of_itself_by_whatever_address(listen: Address) -> None:
    others = [at(6060, ip) for ip in ("127.0.0.1", "192.0.2.1", "2001:db8::1")]
    site = Site(replace(CONFIG, listen=(listen,)), own=[HOST, *others])
    for own in (HOST, *others):
        assert site.tell(own, signed(1)) == []
    assert site.handshakes() == [] and site.counted() == {"dropped: source never a peer": 4}
    site.tell(at(6061, "127.0.0.1"), signed(1))  # another program on this host
    site.tell(at(6060), signed(1))  # the same port of another host
    assert len(site.handshakes()) == 2


@pytest.mark.parametrize(
    "neighbour,stranger",
    [("198.51.100.{}", "198.51.101.1"), ("2001:db8:0:aa{:02x}::1", "2001:db8:0:ab00::1")],
)
def test_each_network_has_its_rate_of_handshakes(neighbour: str, stranger: str) -> None:
    site = Site(replace(CONFIG, handshake_rate=10))
    for number in range(100):
        said = signed(number) if number % 2 else forged(number + 1)
        site.tell(at(4000 + number, neighbour.format(number)), said)
    assert len(site.handshakes()) == 10
    counted = site.counted()
    # The mac of what is over the rate is not even looked at.
    assert counted["dropped: wrong mac"] == 10
    assert counted["dropped: handshakes over their rate"] == 80
    site.tell(at(4000, stranger), signed(1000))
    assert len(site.handshakes()) == 11
    site.now += 0.5
    for number in range(2000, 2010):
        site.tell(at(4000, neighbour.format(1)), signed(number))
    assert len(site.handshakes()) == 16


def test_a_flood_from_next_door_leaves_a_peer_its_share() -> None:
    site = Site(replace(CONFIG, handshake_rate=10))
    site.join(1, A, B)
    site.tell(C, signed(2))
    for number in range(3000, 3100):
        site.tell(at(number), signed(number))
    assert site.tell(A, signed(2), b"x") == [(C, signed(2)), (C, b"x")]
    site.tell(D, signed(3))
    for number in range(100, 200):
        site.tell(A, signed(number))
    assert site.tell(A, signed(3)) == [(C, signed(3))], "its own share is bounded, too"


def test_payload_is_not_slowed_by_the_rate_of_handshakes() -> None:
    site = Site(replace(CONFIG, handshake_rate=1))
    site.join(1, A, B)
    said = [signed(1), b"\4 payload", relay.MAGIC, relay.MAGIC + bytes(60)] * 50
    assert [data for _, data in site.tell(A, *said)] == said


# --- what a channel may carry ----------------------------------------------------------------


@pytest.mark.parametrize("batch", [False, True])
def test_each_flow_has_its_rate_of_datagrams(batch: bool) -> None:
    site = Site(replace(CONFIG, rate=1000))
    site.join(1, A, B)
    for _ in range(3):
        for source, destination in ((A, B), (B, A)):
            sent = site.bursts([(source, b"%d" % n, len(b"%d" % n)) for n in range(400)],
                               batch=batch)  # fmt: skip
            assert [piece[:2] for piece in sent] == [
                (destination, b"%d" % number) for number in range(125)
            ]
        site.now += 0.125
    counted = site.counted()
    assert counted["dropped: channel over its rate"] == 6 * 275
    assert counted["datagrams"] == 6 * 125 + 1


@pytest.mark.parametrize("batch", [False, True])
def test_each_flow_has_its_bandwidth_in_bits(batch: bool) -> None:
    site = Site(replace(CONFIG, bandwidth=8e6))
    site.join(1, A, B)
    for _ in range(3):
        assert len(site.bursts([(A, bytes(1000), 1000)] * 400, batch=batch)) == 125
        site.now += 0.125


@pytest.mark.parametrize("batch", [False, True])
@pytest.mark.parametrize("size", [1, 64])
def test_no_pause_lets_more_than_a_quarter_second_pass_at_once(size: int, batch: bool) -> None:
    site = Site(replace(CONFIG, rate=1024))
    site.join(1, A, B)
    site.now += 10.0
    sent = site.bursts([(A, bytes(100 * size), 100)] * (600 // size), batch=batch)
    assert carried(sent)[0] <= 256 + size, "what was left, and what the pause gave back"
    assert carried(sent)[0] >= 128


@pytest.mark.parametrize("batch", [False, True])
def test_a_train_passes_whole_or_not_at_all(batch: bool) -> None:
    site = Site(replace(CONFIG, rate=100))
    site.join(1, A, B)
    trains = [(A, bytes(40 * 100), 100)] * 3
    assert [len(piece.data) for piece in site.bursts(trains, batch=batch)] == [4000]
    assert len(site.bursts([(A, b"x", 1)] * 30, batch=batch)) == 24, "the rest is not used up"
    assert site.counted()["dropped: channel over its rate"] == 86


def test_a_train_that_is_looked_at_singly_keeps_to_the_rate_too() -> None:
    site = Site(replace(CONFIG, rate=100))
    site.join(1, A, B)
    data, segment = train(*[forged(2)] * 100)
    assert len(site.bursts([(A, data, segment)])) == 64
    assert site.counted()["dropped: channel over its rate"] == 36


# --- counting --------------------------------------------------------------------------------


def carried(sent: Sequence[Sent]) -> Tuple[int, int]:
    datagrams = sum(-(-len(each.data) // each.segment) if each.data else 1 for each in sent)
    return datagrams, sum(len(each.data) for each in sent)


def test_what_was_sent_is_counted_and_reported() -> None:
    site = Site()
    site.join(1, A, B)
    site.bursts([(A, bytes(250), 100), (A, b"", 0), (B, b"xyz", 3)])
    assert (site.registrar.gauges()["channels"], site.relay.gauges()["flows"]) == (1, 2)
    site.now = site.relay.deadline() or 0.0
    site.relay.expire(site.now)
    (activity,) = [message for message in site.asked if isinstance(message, wire.Activity)]
    assert sorted(activity.entries) == [(1, 0, 4, 250), (1, 1, 2, 59)]
    assert site.counted()["datagrams"] == 6 and site.counted()["octets"] == 309
    (busiest,) = site.registrar.busiest(10, site.now)
    assert (busiest["datagrams"], busiest["octets"]) == ([4, 2], [250, 59])
    site.asked.clear()
    site.now += 1.0
    site.relay.expire(site.now)
    assert site.asked == [], "nothing more was carried"


def test_what_waits_when_its_flow_ends_or_changes_is_counted_as_well() -> None:
    site = Site()
    site.join(1, A, B)
    site.tell(C, signed(2))
    # In one wake-up A is carried, and then moves; B is carried, and its flow ends with that.
    sent = site.bursts([(B, b"b" * 9, 9), (A, b"a" * 10, 10), (A, signed(2), 56)])
    assert carried(sent) == (3, 75)
    counted = site.counted()
    assert (counted["datagrams"], counted["octets"]) == (1 + 3, 56 + 75)


def test_many_flows_are_reported_a_part_at_a_time_and_all_within_two_seconds() -> None:
    site = Site(replace(CONFIG, handshake_rate=100_000))
    pairs = 2500
    for number in range(1, pairs + 1):
        first, second = at(1000 + number), at(1000 + number, "192.0.2.9")
        site.join(number, first, second)
        site.tell(first, b"x")
    site.asked.clear()
    begun = site.now = site.relay.deadline() or 0.0
    reported: Set[Tuple[int, int]] = set()
    while site.now < begun + 2.0:
        site.relay.expire(site.now)
        entries = [e for m in site.asked if isinstance(m, wire.Activity) for e in m.entries]
        assert len(entries) <= 2000
        assert not reported & {entry[:2] for entry in entries}, "each once"
        reported |= {entry[:2] for entry in entries}
        site.asked.clear()
        site.now = site.relay.deadline() or 0.0
    assert len(reported) == 2 * pairs
    assert site.counted()["datagrams"] == 2 * pairs


def test_one_that_drains_carries_on_and_takes_nobody_new() -> None:
    site = Site()
    site.join(1, A, B)
    assert not site.registrar.drained
    site.registrar.drain()
    assert site.tell(C, signed(2)) == [] and site.tell(D, signed(2)) == []
    assert site.tell(A, b"x") == [(B, b"x")]
    assert not site.registrar.drained
    site.relay.expire(site.now)
    site.now += LIMITS.idle
    site.registrar.expire(site.now)
    assert site.registrar.drained and site.relay.gauges()["flows"] == 0
    assert site.tell(A, b"x") == []


def test_while_the_registrar_is_silent_channels_go_on() -> None:
    site = Site()
    site.join(1, A, B)
    site.deaf = True
    assert site.tell(C, signed(2)) == [] and site.tell(D, signed(2)) == []
    assert site.tell(A, signed(2), b"x") == [(B, signed(2)), (B, b"x")]
    for _ in range(60):
        site.now += 1.0
        site.relay.expire(site.now)
        assert site.tell(B, b"y") == [(A, b"y")]


# --- any course ------------------------------------------------------------------------------

SOURCES = (A, B, C, D, at(4001), at(7, "192.0.2.1"), HOST)
said = st.one_of(
    st.binary(max_size=80),
    st.builds(signed, st.integers(1, 3), st.binary(max_size=3)),
    st.builds(forged, st.integers(1, 3)),
    st.builds(relay.old_handshake, st.integers(1, 3).map(guid)),
    st.binary(max_size=80).map(relay.MAGIC.__add__),
)


@st.composite
def bursts(draw: st.DrawFn) -> Tuple[Address, bytes, int]:
    source = draw(st.sampled_from(SOURCES))
    data = draw(said)
    if not data or draw(st.booleans()):
        return source, data, len(data)
    more = draw(st.lists(st.just(data) | said.map(lambda other: other[: len(data)]), max_size=4))
    whole = [each for each in more if len(each) == len(data)]
    return source, b"".join([data, *whole, data[: draw(st.integers(0, len(data)))]]), len(data)


courses = st.lists(st.lists(bursts(), max_size=6), max_size=12)


def split(piece: Tuple[bytes, int]) -> List[bytes]:
    data, segment = piece
    return [data[at : at + segment] for at in range(0, len(data), segment or 1)] or [b""]


@given(courses, st.sampled_from((0, 100)))
def test_batches_and_bursts_are_two_ways_to_say_the_same(
    course: List[List[Tuple[Address, bytes, int]]], rate: int
) -> None:
    config = replace(CONFIG, rate=rate)
    singly, batched = Site(config, own=[HOST]), Site(config, own=[HOST])
    for wake_up in course:
        one, other = singly.bursts(wake_up), batched.bursts(wake_up, batch=True)
        assert [piece[:4] for piece in one] == [piece[:4] for piece in other]
    assert singly.handshakes() == batched.handshakes()
    assert singly.counted() == batched.counted()


@given(courses, st.sampled_from((0, 100)), st.booleans())
def test_each_datagram_is_relayed_or_asked_about_or_counted_as_dropped(
    course: List[List[Tuple[Address, bytes, int]]], rate: int, batch: bool
) -> None:
    site = Site(replace(CONFIG, rate=rate, handshake_rate=5), own=[HOST])
    came, went = 0, [0, 0]
    for wake_up in course:
        came += sum(len(split(burst[1:])) for burst in wake_up)
        sent = site.bursts(wake_up, batch=batch)
        went = [total + more for total, more in zip(went, carried(sent))]
        for piece in sent:
            assert piece.destination in SOURCES[:5]
        site.now += 0.05
    counted = site.counted()
    dropped = sum(count for name, count in counted.items() if name.startswith("dropped: "))
    assert [counted["datagrams"], counted["octets"]] == went
    # A handshake that the registrar is asked about is relayed if the peer has a channel then.
    assert came - len(site.handshakes()) <= went[0] + dropped <= came


@given(courses)
def test_each_peers_datagrams_reach_the_other_in_order(
    course: List[List[Tuple[Address, bytes, int]]],
) -> None:
    site = Site()
    site.join(1, A, B)
    said, heard = [], []
    for wake_up in course:
        mine = [(A, data, segment) for _, data, segment in wake_up]
        # B says nothing, and nobody else says a guid: nothing moves A to another channel.
        said += [each for burst in mine for each in split(burst[1:])]
        sent = site.bursts(mine)
        assert {piece.destination for piece in sent} <= {B}
        heard += [each for piece in sent for each in split(piece[1:3])]
    assert heard == said


# --- secrets ---------------------------------------------------------------------------------


def test_no_log_line_has_a_guid_or_a_secret(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(TRACE, "udppunch")
    site = Site()
    site.tell(D, forged(0x5EC12E7), b"payload")
    site.join(0x5EC12E7, A, B)
    site.tell(B, signed(0x5EC12E8))
    site.tell(C, signed(0x5EC12E8))
    site.now += 31.0
    site.registrar.expire(site.now)
    assert {record.levelno for record in caplog.records} >= {TRACE, logging.DEBUG, logging.INFO}
    lines = "".join(str(vars(record)).lower() for record in caplog.records)
    for secret in ("5ec12e", guid(0x5EC12E7).hex(), repr(guid(0x5EC12E7)), SECRET.decode()):
        assert secret.lower() not in lines


def test_a_configuration_does_not_show_its_secret() -> None:
    assert SECRET.decode() not in repr(CONFIG)
    made = role_config("relay", {"listen": ["127.0.0.1:6060"]}, {
        "UDP_RELAY_SECRET_KEY": "b2YgdGhlIHRlc3Rz"})  # fmt: skip
    assert made.secret == SECRET
    with pytest.raises(Invalid, match="^UDP_RELAY_SECRET_KEY: the secret is not base64$"):
        role_config("relay", {}, {"UDP_RELAY_SECRET_KEY": "hunter2!"})


def test_a_configuration_is_udp_relays_where_nothing_is_said() -> None:
    made: RelayConfig = role_config("relay", {}, {})
    assert made.listen == (address.pack("::", 6060),)
    assert (made.secret, made.idle) == (b"", 30.0)
    assert (made.rate, made.bandwidth, made.coalesce, made.workers) == (0, 0.0, 0.0, 0)


# --- through a loop --------------------------------------------------------------------------

PAIRS = 8
UDP_SEGMENT = 17, 103


@pytest.fixture
def loop() -> Iterator[Loop]:
    if not mmsg.available():
        pytest.skip("this platform has no batch calls")
    loop = Loop()
    yield loop
    loop.close()


def start(loop: Loop) -> Relay:
    worker: Relay
    registrar = Registrar(LIMITS, 1, lambda _, message, now: worker.told(message, now))
    outbox = loop.outbox()
    config = replace(CONFIG, listen=(at(0, "127.0.0.1"),))
    worker = Relay(config, outbox, lambda message, now: registrar.hear(0, message, now))
    loop.add(worker, outbox)
    while not loop.listening():
        loop.turn()
    return worker


def peers_of(loop: Loop) -> List[socket.socket]:
    """Pairs that are joined already."""
    host = "127.0.0.1", address.port(loop.listening()[0])
    peers = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2 * PAIRS)]
    for number, sock in enumerate(peers, 2):
        sock.settimeout(5)
        sock.connect(host)
        sock.send(signed(number // 2))
        loop.turn()
    for first in peers[::2]:
        assert len(first.recv(100)) == relay.HEADER
    return peers


def test_the_steady_state_keeps_nothing_it_allocates(loop: Loop) -> None:
    """Singles, trains, handshakes repeated and strangers, in one mixture for a long time."""
    worker, chance = start(loop), random.Random(5)
    peers = peers_of(loop)
    stranger = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    stranger.connect(peers[0].getpeername())
    segmented = [(*UDP_SEGMENT, struct.pack("@H", 40))]
    sizes = [bytes(20 + size) for size in range(8)]

    def wake_up() -> int:
        counts: Dict[int, int] = {}
        for _ in range(48):
            number = chance.randrange(2 * PAIRS)
            counts[number] = counts.get(number, 0) + 1
            peers[number].send(sizes[number % 8])
        for number in chance.sample(range(2 * PAIRS), 4):
            counts[number] = counts.get(number, 0) + 10
            peers[number].sendmsg([bytes(400)], segmented)
        stranger.send(b"\4 stranger")
        loop.turn()
        for number, count in counts.items():
            for _ in range(count):
                peers[number ^ 1].recv(100)
        return sum(counts.values())

    try:
        while worker.counters["datagrams"] + sum(wake_up() for _ in range(20)) < 1000:
            pass
        tracemalloc.start()
        for _ in range(20):
            wake_up()
        before, _ = tracemalloc.get_traced_memory()
        relayed = 0
        while relayed < 200_000:
            relayed += wake_up()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        for sock in (*peers, stranger):
            sock.close()
    assert after - before < 64 << 10
