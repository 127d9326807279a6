"""What workers and their registrar say to each other: round trips, and bytes that are neither's."""

from __future__ import annotations

from typing import List, get_args

import pytest
from hypothesis import example, find, given
from hypothesis import strategies as st

from udppunch.address import Address
from udppunch.wire import registrar
from udppunch.wire.malformed import Malformed

LONGEST_ADDRESS = Address(b"\xff" * 18)

half_words = st.integers(0, 2**16 - 1)
words = st.integers(0, 2**32 - 1)
counts = st.integers(0, 2**64 - 1)
sides = st.integers(0, 1)
times = st.floats(allow_nan=False)
guids = st.binary(min_size=16, max_size=16)
addresses = (st.binary(min_size=6, max_size=6) | st.binary(min_size=18, max_size=18)).map(Address)
locals_ = st.just(b"") | st.binary(min_size=4, max_size=4) | st.binary(min_size=16, max_size=16)
datagrams = st.binary(max_size=registrar.MOST_CARRIED)
peers = st.builds(registrar.Peer, addresses, half_words, half_words, locals_)
flows = st.builds(registrar.Flow, counts, sides, guids, times, peers, peers)
totals = st.builds(registrar.Totals, counts, sides, counts, counts)
EACH = {
    registrar.Ready: st.builds(registrar.Ready, words),
    registrar.Handshake: st.builds(registrar.Handshake, guids, peers, datagrams),
    registrar.Holding: st.builds(registrar.Holding, flows, counts, counts),
    registrar.Held: st.builds(registrar.Held, words),
    registrar.Activity: st.builds(registrar.Activity, st.lists(totals)),
    registrar.Counted: st.builds(registrar.Counted, st.dictionaries(st.text(), st.integers())),
    registrar.Claim: st.builds(registrar.Claim, half_words, peers),
    registrar.Recall: st.just(registrar.Recall()),
    registrar.Join: st.builds(registrar.Join, flows, counts, counts, datagrams),
    registrar.Part: st.builds(registrar.Part, counts, addresses),
    registrar.Complete: st.just(registrar.Complete()),
    registrar.Publish: st.builds(registrar.Publish, half_words, peers),
}
messages: st.SearchStrategy[registrar.Message] = st.one_of(*EACH.values())
KINDS = (*range(0x01, 0x08), *range(0x81, 0x86))


def record(kind: int, body: bytes) -> bytes:
    return (1 + len(body)).to_bytes(2, "big") + bytes((kind,)) + body


def test_these_are_all_messages() -> None:
    assert set(EACH) == set(get_args(registrar.Message))
    kinds = {registrar.encode(find(strategy, lambda _: True))[2] for strategy in EACH.values()}
    assert kinds == set(KINDS)


@given(messages)
def test_round_trip(message: registrar.Message) -> None:
    (decoded,) = registrar.decode(registrar.encode(message))
    assert decoded == message and type(decoded) is type(message)


@given(st.lists(messages, max_size=5))
def test_a_packet_holds_several(several: List[registrar.Message]) -> None:
    packet = b"".join(map(registrar.encode, several))
    assert list(registrar.decode(packet)) == several


@given(st.lists(messages, min_size=1, max_size=3), st.data())
def test_a_packet_cut_short_gives_what_was_whole(
    several: List[registrar.Message], data: st.DataObject
) -> None:
    whole = [registrar.encode(message) for message in several]
    length = data.draw(st.integers(0, sum(map(len, whole)) - 1))
    decoded: List[registrar.Message] = []
    ends = [sum(map(len, whole[:count])) for count in range(len(whole))]
    try:
        for message in registrar.decode(b"".join(whole)[:length]):
            decoded.append(message)
    except Malformed:
        assert length not in ends
    else:
        assert length in ends
    assert decoded == several[: sum(end <= length for end in ends) - 1]


def decodes_or_is_malformed(packet: bytes) -> None:
    try:
        decoded = list(registrar.decode(packet))
    except Malformed:
        return
    again = b"".join(map(registrar.encode, decoded))
    assert b"".join(map(registrar.encode, registrar.decode(again))) == again


@given(st.binary(max_size=300))
def test_any_bytes_are_a_packet_or_malformed(data: bytes) -> None:
    decodes_or_is_malformed(data)


@given(st.sampled_from(KINDS) | st.integers(0, 255), st.binary(max_size=200))
@example(0x06, b"[" * 60_000)
@example(0x06, b'{"a":' * 10_000)
@example(0x06, b"1" * 60_000)
@example(0x06, b"\xff\xfe")
def test_any_body_is_a_message_or_malformed(kind: int, body: bytes) -> None:
    decodes_or_is_malformed(record(kind, body))


@given(st.lists(messages, min_size=1, max_size=3), st.data())
def test_a_damaged_packet_is_another_or_malformed(
    several: List[registrar.Message], data: st.DataObject
) -> None:
    packet = bytearray(b"".join(map(registrar.encode, several)))
    for _ in range(data.draw(st.integers(1, 4))):
        packet[data.draw(st.integers(0, len(packet) - 1))] = data.draw(st.integers(0, 255))
    decodes_or_is_malformed(bytes(packet))


@pytest.mark.parametrize(
    "packet",
    [
        b"\0",
        b"\0\0",  # a record without a kind
        record(0x00, b""),
        record(0x7F, b""),
        record(0x80, b""),
        record(0xFF, b""),  # no such kind
        record(0x01, bytes(3)),
        record(0x01, bytes(5)),
        record(0x02, bytes(15)),
        record(0x02, bytes(20) + b"\x05"),  # a local address cut short
        record(0x02, bytes(20) + b"\0\x06" + bytes(5)),  # an address cut short
        record(0x03, bytes(33 + 6 + 6 + 15)),  # totals cut short
        record(0x04, b""),
        record(0x05, bytes(24)),
        record(0x82, bytes(33 + 6 + 6 + 15)),
        record(0x83, bytes(7)),
        record(0x85, bytes(1)),
    ],
    ids=lambda packet: packet.hex()[:24],
)
def test_malformed(packet: bytes) -> None:
    with pytest.raises(Malformed):
        list(registrar.decode(packet))


@pytest.mark.parametrize("text", ["", "{", "[]", "7", '{"a": "b"}', '{"a": 1.5}', '{"a": null}'])
def test_counters_are_names_with_numbers(text: str) -> None:
    with pytest.raises(Malformed):
        list(registrar.decode(record(0x06, text.encode())))


def test_the_longest_of_each_fit_in_a_record() -> None:
    peer = registrar.Peer(LONGEST_ADDRESS, 0xFFFF, 0xFFFF, bytes(16))
    flow = registrar.Flow(2**64 - 1, 1, b"\xff" * 16, 1e300, peer, peer)
    totals = registrar.Totals(2**64 - 1, 1, 2**64 - 1, 2**64 - 1)
    carried = bytes(registrar.MOST_CARRIED)
    for message in (
        registrar.Handshake(flow.guid, peer, carried),
        registrar.Join(flow, 2**64 - 1, 2**64 - 1, carried),
        registrar.Activity([totals] * registrar.MOST_ENTRIES),
    ):
        packet = registrar.encode(message)  # type: ignore[arg-type]
        assert len(packet) <= 2 + registrar.LONGEST_RECORD
        assert list(registrar.decode(packet)) == [message]
