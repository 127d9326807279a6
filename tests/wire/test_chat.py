"""The chat's datagrams: golden text, round trips, and whatever strangers send.

What an original reads and sends is what the stand-in's own code, which shares nothing with ours,
makes of it.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any, Dict, List

import pytest
import yaml
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.standin import chat as standin
from udppunch import address
from udppunch.wire import chat, marks
from udppunch.wire.chat import Established, Message
from udppunch.wire.malformed import Malformed

VECTORS = yaml.safe_load((Path(__file__).parents[1] / "vectors.yaml").read_text())["chat"]
MARK = marks.new(bytes(range(16)))
KEY = bytes(range(32))
ID = chat.peer_id(KEY)
FARTHEST = address.pack("255.255.255.255", 65535)

unicode = st.text(max_size=100)
some_marks = st.just(b"") | st.binary(min_size=16, max_size=16).map(marks.new)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 40), 1 << 40) | unicode,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(unicode, inner, max_size=3),
    max_leaves=5,
)
numbers = st.integers(0, (1 << 53) - 1)
messages = st.builds(
    Message, unicode, unicode, unicode, json_values, numbers, some_marks, unicode, numbers
)
peers = st.binary(min_size=6, max_size=6).map(address.Address)
keys = st.binary(min_size=32, max_size=32)
names = st.text(min_size=1, max_size=chat.NAME_MAXIMUM)


def decoded(table: Any) -> Message:
    return chat.decode(json.dumps(table).encode())


# Golden text


@pytest.mark.parametrize("vector", [v for v in VECTORS if "text" in v])
def test_golden_text(vector: Dict[str, Any]) -> None:
    ((kind, data),) = vector["value"].items()
    assert chat.encode(Message(kind, data=data)) == vector["text"].encode()
    assert chat.decode(vector["text"].encode()) == Message(kind, data=data)


@pytest.mark.parametrize("vector", [v for v in VECTORS if "public_key" in v])
def test_golden_ids(vector: Dict[str, Any]) -> None:
    assert chat.peer_id(chat.public_key(vector["public_key"])) == vector["peer_id"]


# Round trips


@given(messages)
def test_round_trip(message: Message) -> None:
    # What says nothing is left out.
    given = message if message.data else Message(**{**vars(message), "data": None})
    assert chat.decode(chat.encode(message)) == given


@given(messages, st.integers(0, 1000))
def test_padding_means_nothing(message: Message, length: int) -> None:
    bare = chat.encode(message)
    encoded = chat.encode(message, length)
    assert chat.decode(encoded) == chat.decode(bare)
    assert len(encoded) in (len(bare), length) and len(encoded) >= min(length - 9, len(bare))


@given(messages)
def test_an_original_reads_what_is_meant(message: Message) -> None:
    read = standin.decode(chat.encode(message))
    assert (read.type, read.peer_id, read.error) == (message.type, message.peer_id, message.error)
    assert read.data == (message.data or None)


@given(unicode, unicode, unicode, unicode | st.dictionaries(unicode, unicode))
def test_what_an_original_says_is_read(kind: str, peer: str, error: str, data: Any) -> None:
    payload = standin.Payload(kind, peer, error, data)
    assert chat.decode(standin.encode(payload)) == Message(kind, peer, error, data or None)


@given(names, peers, keys, some_marks, peers)
def test_what_the_server_says_of_a_peer(
    name: str, peer: address.Address, key: bytes, mark: bytes, seen: address.Address
) -> None:
    for of in (
        Established(chat.peer_id(key), name, peer),
        Established(chat.peer_id(key), name, peer, key, mark, seen),
    ):
        assert chat.established(chat.decode(chat.encode(chat.of_established(of)))) == of


def test_an_original_reads_where_the_peer_is() -> None:
    of = Established(ID, "bob", address.pack("198.51.100.7", 40000), KEY, MARK, FARTHEST)
    data = standin.decode(chat.encode(chat.of_established(of))).data
    assert data["id"] == ID and data["username"] == "bob"
    assert data["endpoint"] == {"ip": "198.51.100.7", "port": 40000}


# Whatever strangers send


def check_fields(message: Message) -> None:
    for text in (message.type, message.peer_id, message.error, message.nonce):
        assert isinstance(text, str)
    for text in (message.peer_id, message.error, message.nonce):
        text.encode()
    for number in (message.version, message.seq):
        assert type(number) is int and 0 <= number < 1 << 53
    assert len(message.mark) in (0, marks.LENGTH)


@given(st.binary(max_size=200))
def test_any_bytes_give_a_message_or_are_malformed(data: bytes) -> None:
    try:
        check_fields(chat.decode(data))
    except Malformed:
        pass


FIELDS = ("type", "peerID", "error", "data", "v", "mark", "nonce", "seq", "pad", "more")


@given(st.dictionaries(st.sampled_from(FIELDS), json_values | st.floats(), max_size=11))
def test_any_object_gives_a_message_or_is_malformed(table: Dict[str, Any]) -> None:
    data = json.dumps(table).encode()
    if not isinstance(table.get("type"), str) or len(data) > chat.LARGEST:
        with pytest.raises(Malformed):
            chat.decode(data)
        return
    message = chat.decode(data)
    check_fields(message)
    for read in (chat.established, chat.public_key_of):
        try:
            read(message)
        except Malformed:
            pass


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not JSON",
        b"null",
        b"[]",
        b'"greeting"',
        b"{}",
        b'{"type":1}',
        b'{"type":null}',
        b'{"type":"greeting"',
        b'{"type":"greeting"} {"type":"greeting"}',
        b'{"type":"gr\xffeting"}',
        b"[" * 2000,
        b'{"type":"a","data":' + b"[" * 1000 + b"]" * 1000 + b"}" + b" " * 100,
        b'{"type":"a"}' + b" " * 2048,
        b'{"type":"a","seq":' + b"9" * 2000 + b"x}",
    ],
)
def test_malformed(data: bytes) -> None:
    with pytest.raises(Malformed):
        chat.decode(data)


@pytest.mark.parametrize("number", [-1, 0, 1.0, 1.5, True, "1", None, 1 << 53, 10**30, [1]])
def test_numbers_that_are_none(number: Any) -> None:
    message = decoded({"type": "message", "v": number, "seq": number})
    assert (message.version, message.seq) == (0, 0)


@pytest.mark.parametrize("mark", ["", "AAAA", "no base64!", base64.b64encode(KEY).decode(), 1])
def test_marks_that_are_none(mark: Any) -> None:
    assert decoded({"type": "connect", "mark": mark}).mark == b""


def test_no_text_has_half_a_surrogate_pair() -> None:
    """UTF-8 has no form of it, so that nobody could show, keep or send it."""
    message = decoded(
        {
            "type": "message",
            "peerID": "\ud800",
            "error": "\udfff",
            "data": "a\ud83d",
            "nonce": "\udc00",
        }
    )
    for text in (message.peer_id, message.error, message.data, message.nonce):
        text.encode()


@pytest.mark.parametrize("key", [None, 1, "", "AAAA", base64.b64encode(bytes(33)).decode(), "ä"])
def test_public_keys_that_are_none(key: Any) -> None:
    with pytest.raises(Malformed):
        chat.public_key(key)


RIGHT = {"id": ID, "username": "bob", "endpoint": {"ip": "198.51.100.7", "port": 40000}}


@pytest.mark.parametrize(
    "change",
    [
        {"id": ID[:-1]},
        {"id": ID.upper()},
        {"id": ID + "\n"},
        {"id": None},
        {"endpoint": None},
        {"endpoint": {}},
        {"endpoint": []},
        {"endpoint": {"ip": "198.51.100.7"}},
        {"endpoint": {"ip": "198.51.100.7", "port": "40000"}},
        {"endpoint": {"ip": "198.51.100.7", "port": True}},
        {"endpoint": {"ip": "198.51.100.7", "port": 65536}},
        {"endpoint": {"ip": "198.51.100.7", "port": -1}},
        {"endpoint": {"ip": "2001:db8::1", "port": 40000}},
        {"endpoint": {"ip": "bob.example", "port": 40000}},
        {"endpoint": {"ip": 3325256711, "port": 40000}},
        {"publicKey": "AAAA"},
        {"publicKey": [1]},
    ],
)
def test_peers_that_are_none(change: Dict[str, Any]) -> None:
    chat.established(Message("establish", data=RIGHT))
    with pytest.raises(Malformed):
        chat.established(Message("establish", data={**RIGHT, **change}))


@pytest.mark.parametrize("name", [None, 1, "", "b" * 500, "b\ud800"])
def test_a_peer_may_have_an_odd_name(name: Any) -> None:
    of = chat.established(Message("establish", data={**RIGHT, "username": name}))
    assert len(of.name.encode()) <= 4 * chat.NAME_MAXIMUM


# Limits


printable = (
    st.text(max_size=chat.NAME_MAXIMUM)
    .map(lambda text: "".join(filter(str.isprintable, text)))
    .filter(str.strip)
)


@given(printable | st.sampled_from(("\U0001f573" * 32, '"\\' * 16)))
def test_no_answer_is_longer_than_a_request_of_ours(name: str) -> None:
    longest = Established(ID, name, FARTHEST, KEY, MARK, FARTHEST)
    answer = chat.encode(chat.of_established(longest))
    assert len(answer) + chat.SEAL <= chat.PADDED
    assert len(chat.encode(Message("establish", ID, data=ID), chat.PADDED)) == chat.PADDED


@given(
    st.text(st.characters(), max_size=2000)
    | st.sampled_from(("\x00" * 300, '"' * 900, "\U0001f573" * 450))
)
def test_every_text_that_is_taken_fits_in_a_datagram(text: str) -> None:
    assume(text)
    try:
        taken = chat.check_text(text)
    except ValueError as error:
        assert "at most 1800 bytes" in str(error)
        assert len(json.dumps(text, ensure_ascii=False).encode(errors="replace")) > 1800
        return
    most = (1 << 53) - 1
    encoded = chat.encode(Message("message", ID, data=taken, seq=most))
    assert len(encoded) + chat.SEAL <= chat.LARGEST
    assert chat.decode(encoded).data == taken == text.encode(errors="replace").decode()


def test_beyond_a_datagram_nothing_is_encoded() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        chat.encode(Message("message", data="x" * 2048))


@pytest.mark.parametrize(
    "name", ["", " ", "\t", "b\nb", "b\x1b[31m", "b\u202eb", "\ud800", "n" * 33]
)
def test_names_that_nobody_may_have(name: str) -> None:
    with pytest.raises(ValueError):
        chat.check_name(name)


@given(printable)
def test_names_that_anybody_may_have(name: str) -> None:
    assert chat.check_name(f"  {name} ") == chat.check_name(name) == name.strip()


def test_the_limit_of_a_name_is_named() -> None:
    with pytest.raises(ValueError, match="at most 32 characters, not 33"):
        chat.check_name("é" * 33)


@pytest.mark.parametrize("text", [ID, ID.upper(), f" {ID}\n"])
def test_an_id_as_people_paste_it(text: str) -> None:
    assert chat.check_id(text) == ID


@pytest.mark.parametrize("text", ["", "bob", ID[:-1], ID + "0", ID[:-1] + "g", "é" * 64])
def test_what_is_no_id(text: str) -> None:
    with pytest.raises(ValueError, match="64 hexadecimal digits"):
        chat.check_id(text)


# Fingerprints


@given(st.lists(keys, min_size=2, max_size=20, unique=True))
def test_fingerprints_are_twenty_digits_and_differ(some: List[bytes]) -> None:
    found = [chat.fingerprint(key) for key in some]
    assert len(set(found)) == len(found)
    for fingerprint in found:
        assert [len(group) for group in fingerprint.split(" ")] == [5, 5, 5, 5]
        assert fingerprint.replace(" ", "").isdecimal() and fingerprint.isascii()
