"""Control datagrams of a path: only the other end's are taken, and payload is never one."""

from __future__ import annotations

from typing import List, Tuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from udppunch.address import Address
from udppunch.wire import marks, puncher
from udppunch.wire.control import CONTROL_LENGTH, Control, Kind, Pairing
from udppunch.wire.malformed import Malformed

SERVER_MARK = marks.new(b"s" * 16)
CLIENT_MARK = marks.new(b"c" * 16)


def pair(key: bytes = b"key", other: bytes = b"key") -> Tuple[Pairing, Pairing]:
    return (
        Pairing(key, SERVER_MARK, CLIENT_MARK, client=False),
        Pairing(other, SERVER_MARK, CLIENT_MARK, client=True),
    )


controls = st.builds(
    Control,
    st.sampled_from(Kind),
    st.binary(min_size=8, max_size=8),
    st.binary(min_size=6, max_size=6).map(Address),
)


@given(controls)
def test_each_end_reads_the_other(control: Control) -> None:
    server, client = pair()
    assert client.decode(server.encode(control)) == control
    assert server.decode(client.encode(control)) == control
    assert len(server.encode(control)) == CONTROL_LENGTH


@given(controls)
def test_what_comes_back_mirrored_is_refused(control: Control) -> None:
    for end in pair():
        with pytest.raises(Malformed):
            end.decode(end.encode(control))


@given(controls, st.integers(0, CONTROL_LENGTH * 8 - 1))
def test_a_flipped_bit_is_refused(control: Control, bit: int) -> None:
    server, client = pair()
    data = bytearray(server.encode(control))
    data[bit // 8] ^= 1 << bit % 8
    with pytest.raises(Malformed):
        client.decode(bytes(data))


@given(controls, st.integers(0, 100))
def test_another_length_is_refused(control: Control, length: int) -> None:
    server, client = pair()
    data = (server.encode(control) + bytes(60))[:length]
    if length != CONTROL_LENGTH:
        with pytest.raises(Malformed):
            client.decode(data)


@given(controls)
def test_who_does_not_know_the_key_shares_neither_token_nor_mac(control: Control) -> None:
    server, client = pair(b"key", b"another key")
    assert server.token != client.token
    with pytest.raises(Malformed):
        client.decode(server.encode(control))


@given(st.binary(max_size=CONTROL_LENGTH + 5))
def test_any_bytes_are_refused_or_read(data: bytes) -> None:
    server, _ = pair()
    for guess in (data, server.token + data):
        with pytest.raises(Malformed):
            server.decode(guess)


def is_control(pairing: Pairing, datagram: bytes) -> bool:
    """By the book: the token leads, or a handshake with the peer's mark is all there is."""
    late = [puncher.encode(puncher.Handshake(step, pairing.peer_mark)) for step in (1, 2, 3)]
    return datagram.startswith(pairing.token) or datagram in late


@st.composite
def bursts(draw: st.DrawFn) -> "Tuple[Pairing, List[bytes], int]":
    _, client = pair()
    segment = draw(st.sampled_from((1, 16, 17, 23, CONTROL_LENGTH, 60)))
    special = (
        client.token + bytes(60),
        puncher.encode(puncher.Handshake(3, SERVER_MARK)).ljust(60),
        client.token[:15] + bytes(45),
        b"\x03" * 60,
    )
    one = st.sampled_from(special) | st.binary(min_size=60, max_size=60)
    datagrams = [bytes(data[:segment]) for data in draw(st.lists(one, min_size=1, max_size=20))]
    last = draw(st.integers(1, segment))
    datagrams[-1] = datagrams[-1][:last]
    return client, datagrams, segment


@given(bursts())
def test_a_burst_is_searched_whole(burst: "Tuple[Pairing, List[bytes], int]") -> None:
    pairing, datagrams, segment = burst
    found = pairing.carries_control(memoryview(b"".join(datagrams)), segment)
    by_the_book = any(is_control(pairing, datagram) for datagram in datagrams)
    # Three bytes of another handshake number are no reason to deliver the peer's mark.
    assert found >= by_the_book
    if found and not by_the_book:
        assert any(d[2:] == pairing.peer_mark for d in datagrams)


def test_an_empty_datagram_is_payload() -> None:
    server, _ = pair()
    assert not server.carries_control(memoryview(b""), 0)
