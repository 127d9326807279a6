"""The holepunch protocol's datagrams: golden bytes, round trips, and what an original reads.

What it reads is what the stand-in's own decoder, which shares no code with ours, makes of the
first 128 bytes.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Dict

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tests.standin import holepunch as standin
from udppunch import address
from udppunch.wire import holepunch, marks
from udppunch.wire.malformed import Malformed

VECTORS = yaml.safe_load((Path(__file__).parents[1] / "vectors.yaml").read_text())["holepunch"]
MARK = marks.new(bytes(range(16)))
FARTHEST = address.pack("255.255.255.255", 65535)


def utf8(least: int, most: int) -> "st.SearchStrategy[str]":
    """Text of so many bytes."""
    texts = st.text(min_size=least, max_size=most)
    return texts.map(lambda text: text.encode()[:most].decode(errors="ignore"))


names = utf8(1, holepunch.NAME_MAXIMUM) | st.sampled_from(
    ("n" * 104, "é" * 52, "名" * 34 + "é", "🕳" * 26)
)
texts = utf8(0, holepunch.TEXT_MAXIMUM) | st.sampled_from(("", "t" * 126, "é" * 63))
some_marks = st.just(b"") | st.binary(min_size=16, max_size=16).map(marks.new)
peers = st.binary(min_size=6, max_size=6).map(address.Address)
messages = st.one_of(
    st.builds(holepunch.Message, texts, some_marks),
    st.builds(holepunch.Register, names, some_marks),
    st.builds(holepunch.RegisterAck, some_marks),
    st.builds(holepunch.Request, names, some_marks),
    st.builds(holepunch.Unknown, some_marks),
    st.builds(holepunch.Initiate, names, peers, some_marks),
)


def of_vector(value: Any) -> holepunch.Datagram:
    if value == "register-ack":
        return holepunch.RegisterAck()
    if value == "unknown":
        return holepunch.Unknown()
    ((kind, content),) = value.items()
    if kind == "initiate":
        ip, _, port = content["address"].rpartition(":")
        return holepunch.Initiate(content["name"], address.pack(ip, int(port)))
    of = {"register": holepunch.Register, "request": holepunch.Request}
    return of.get(kind, holepunch.Message)(content)


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["hex"])
def test_golden_bytes(vector: Dict[str, Any]) -> None:
    message = of_vector(vector["value"])
    data = bytes.fromhex(vector["hex"])
    assert holepunch.encode(message) == data
    assert holepunch.decode(data) == message


@given(messages)
def test_round_trip(message: holepunch.Datagram) -> None:
    assert holepunch.decode(holepunch.encode(message)) == message


@given(names, peers, peers.filter(any))
def test_what_the_server_adds(name: str, peer: address.Address, seen: address.Address) -> None:
    answers = (holepunch.RegisterAck(MARK, seen), holepunch.Initiate(name, peer, MARK, seen))
    for message in answers:
        assert holepunch.decode(holepunch.encode(message)) == message


@given(messages, st.binary(max_size=40))
def test_bytes_behind_a_message_mean_nothing(message: holepunch.Datagram, tail: bytes) -> None:
    decoded = holepunch.decode(holepunch.encode(message) + tail)
    assert type(decoded) is type(message)
    if not message.mark and not tail.startswith(marks.PREFIX):
        assert decoded == message


@given(st.binary(max_size=200))
def test_any_bytes_give_a_message_or_are_malformed(data: bytes) -> None:
    try:
        message = holepunch.decode(data)
    except Malformed:
        return
    if isinstance(message, holepunch.Message) and len(message.text.encode()) > 126:
        return
    assert holepunch.decode(holepunch.encode(message)) == message


@given(messages, st.data())
def test_a_message_cut_short_is_malformed_or_another(
    message: holepunch.Datagram, data: st.DataObject
) -> None:
    bare = len(holepunch.encode(dataclasses.replace(message, mark=b"")))
    length = data.draw(st.integers(0, bare + len(message.mark) - 1))
    try:
        assert holepunch.decode(holepunch.encode(message)[:length]) != message
    except Malformed:
        pass


# What an original makes of it


def as_an_original_reads(datagram: bytes, before: bytes = b"") -> standin.Message:
    """In a buffer that nobody clears, with what came before behind it."""
    buffer = bytearray(before[: holepunch.BUFFER].ljust(holepunch.BUFFER, b"\0"))
    cut = datagram[: holepunch.BUFFER]
    buffer[: len(cut)] = cut
    return standin.decode(bytes(buffer))


def in_its_words(message: holepunch.Datagram) -> standin.Message:
    kinds = {
        holepunch.Message: standin.Kind.MESSAGE,
        holepunch.Register: standin.Kind.REGISTER,
        holepunch.RegisterAck: standin.Kind.REGISTER_ACK,
        holepunch.Request: standin.Kind.REQUEST,
        holepunch.Unknown: standin.Kind.UNKNOWN,
        holepunch.Initiate: standin.Kind.INITIATE,
    }
    kind = kinds[type(message)]
    if isinstance(message, holepunch.Initiate):
        return standin.Message(kind, message.name, address.text(message.peer))
    if isinstance(message, holepunch.Message):
        return standin.Message(kind, message.text)
    return standin.Message(kind, getattr(message, "name", ""))


@given(messages, st.binary(max_size=150))
def test_an_original_reads_what_is_meant(message: holepunch.Datagram, before: bytes) -> None:
    assert as_an_original_reads(holepunch.encode(message), before) == in_its_words(message)


@given(messages.filter(lambda message: not message.mark))
def test_unmarked_it_is_what_an_original_says(message: holepunch.Datagram) -> None:
    assert standin.encode(in_its_words(message)) == holepunch.encode(message)


@given(names, some_marks)
def test_every_name_can_be_introduced(name: str, mark: bytes) -> None:
    initiate = holepunch.Initiate(name, FARTHEST, mark, FARTHEST)
    bare = holepunch.encode(holepunch.Initiate(name, FARTHEST))
    assert len(bare) <= holepunch.BUFFER
    assert holepunch.encode(initiate).startswith(bare)
    assert as_an_original_reads(holepunch.encode(initiate)).address == "255.255.255.255:65535"


@given(names)
def test_no_answer_is_longer_than_a_marked_request(name: str) -> None:
    answers = (
        holepunch.RegisterAck(MARK, FARTHEST),
        holepunch.Unknown(MARK),
        holepunch.Initiate("n" * holepunch.NAME_MAXIMUM, FARTHEST, MARK, FARTHEST),
    )
    requests = (holepunch.Register(name, MARK), holepunch.Request(name, MARK))
    shortest = min(len(holepunch.encode(request)) for request in requests)
    assert max(len(holepunch.encode(answer)) for answer in answers) <= shortest


# Texts


@given(st.text(max_size=600))
def test_texts_are_split_on_character_boundaries_and_joined_again(text: str) -> None:
    pieces, rest = [], text
    while True:
        piece, rest = holepunch.split(rest)
        pieces.append(piece)
        assert len(holepunch.encode(holepunch.Message(piece))) <= holepunch.BUFFER
        if not rest:
            break
        # No piece is shorter than it need be.
        assert len((piece + rest[0]).encode()) > holepunch.TEXT_MAXIMUM
    assert "".join(pieces) == text


@pytest.mark.parametrize(
    "text,head",
    [
        ("", ""),
        ("t" * 126, "t" * 126),
        ("t" * 127, "t" * 126),
        ("t" * 125 + "é", "t" * 125),
        ("t" * 123 + "🕳", "t" * 123),
        ("t" * 122 + "🕳", "t" * 122 + "🕳"),
    ],
)
def test_where_a_text_is_split(text: str, head: str) -> None:
    assert holepunch.split(text) == (head, text[len(head) :])


def test_a_text_that_is_too_long_is_not_sent() -> None:
    with pytest.raises(ValueError, match="at most 126"):
        holepunch.encode(holepunch.Message("é" * 64))


# Names


@pytest.mark.parametrize("name", ["", "n" * 105, "é" * 53, "🕳" * 27])
def test_names_that_the_wire_does_not_carry(name: str) -> None:
    for message in (
        holepunch.Register(name),
        holepunch.Request(name),
        holepunch.Initiate(name, FARTHEST),
    ):
        with pytest.raises(ValueError, match="1 to 104"):
            holepunch.encode(message)
    with pytest.raises(ValueError, match="1 to 104"):
        holepunch.check_name(name)


def test_a_name_that_is_not_unicode_is_refused() -> None:
    with pytest.raises(ValueError):
        holepunch.check_name("\udcff")


@pytest.mark.parametrize(
    "data",
    [
        "",
        "06",  # no such message
        "ff",
        "fe00",
        "01",  # name without length
        "0100",  # empty name
        "0300",
        "0105616c6963",  # cut short
        "0169" + "61" * 105,  # too long to be introduced
        "0102c328",  # not UTF-8
        "00fdffffffffffffffff",  # a text of 2^64 - 1 bytes
        "05",
        "0503626f62",  # address missing
        "0503626f6200",  # empty
        "0500" + "12" + b"198.51.100.7:40000".hex(),  # nobody
        "0503626f62" + "0c" + b"198.51.100.7".hex(),  # port missing
        "0503626f62" + "0d" + b"198.51.100.7:".hex(),
        "0503626f62" + "12" + b"198.51.100.7:65536".hex(),
        "0503626f62" + "0f" + b"198.51.100.7:+1".hex(),
        "0503626f62" + "10" + "198.51.100.7:²".encode().ljust(16, b"1").hex(),
        "0503626f62" + "13" + b"198.51.100.07:40000".hex(),
        "0503626f62" + "0f" + b"[2001:db8::1]:1".hex(),
        "0503626f62" + "0d" + b"2001:db8::1:1".hex(),
        "0503626f62" + "0b" + b"localhost:1".hex(),
        "0503626f62" + "fbc800" + (b"198.51.100.7:" + b"1" * 187).hex(),
    ],
)
def test_malformed(data: str) -> None:
    with pytest.raises(Malformed):
        holepunch.decode(bytes.fromhex(data))


def test_ipv6_is_refused() -> None:
    there = address.pack("2001:db8::1", 1)
    with pytest.raises(ValueError, match="IPv4"):
        holepunch.encode(holepunch.Initiate("bob", there))
    with pytest.raises(ValueError, match="IPv4"):
        holepunch.encode(holepunch.RegisterAck(MARK, there))
