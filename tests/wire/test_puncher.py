"""The puncher protocol's datagrams: golden bytes, round trips, and whatever strangers send."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Dict

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from udppunch import address
from udppunch.wire import marks, puncher
from udppunch.wire.malformed import Malformed

VECTORS = yaml.safe_load((Path(__file__).parents[1] / "vectors.yaml").read_text())["puncher"]
MARK = marks.new(bytes(range(16)))

keys = (
    st.text(min_size=1, max_size=puncher.KEY_MAXIMUM)
    .map(str.encode)
    .filter(lambda key: len(key) <= puncher.KEY_MAXIMUM)
)
some_marks = st.just(b"") | st.binary(min_size=16, max_size=16).map(marks.new)
peers = st.binary(min_size=6, max_size=6).map(address.Address)
messages = st.one_of(
    st.builds(puncher.Client, keys, some_marks),
    st.builds(puncher.Server, keys, some_marks),
    st.builds(puncher.Error, st.sampled_from(puncher.Refusal), some_marks),
    st.builds(puncher.Handshake, st.sampled_from((1, 2, 3)), some_marks),
    st.builds(puncher.Punch, peers, some_marks),
    st.builds(puncher.KeepAlive, some_marks),
    st.builds(puncher.Ok, some_marks),
)


def of_vector(value: Any) -> puncher.Message:
    if value == "keepalive":
        return puncher.KeepAlive()
    if value == "ok":
        return puncher.Ok()
    ((name, content),) = value.items()
    if name == "client":
        return puncher.Client(content.encode())
    if name == "server":
        return puncher.Server(content.encode())
    if name == "error":
        return puncher.Error(puncher.Refusal[content.replace("-", "_").upper()])
    if isinstance(content, dict):
        ip, _, port = content["peer"].rpartition(":")
        return puncher.Punch(address.pack(ip, int(port)))
    return puncher.Handshake(int(content[-1]))


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["hex"])
def test_golden_bytes(vector: Dict[str, Any]) -> None:
    message = of_vector(vector["value"])
    data = bytes.fromhex(vector["hex"])
    assert puncher.encode(message) == data
    assert puncher.decode(data) == message


@given(messages)
def test_round_trip(message: puncher.Message) -> None:
    assert puncher.decode(puncher.encode(message)) == message


@given(messages, st.binary(max_size=40))
def test_bytes_behind_a_message_mean_nothing(message: puncher.Message, tail: bytes) -> None:
    decoded = puncher.decode(puncher.encode(message) + tail)
    assert type(decoded) is type(message)
    if message.mark:
        assert decoded.mark == message.mark
    elif not tail.startswith(marks.PREFIX):
        assert decoded == message


@given(st.binary(max_size=200))
def test_any_bytes_give_a_message_or_are_malformed(data: bytes) -> None:
    try:
        message = puncher.decode(data)
    except Malformed:
        return
    assert puncher.decode(puncher.encode(message)) == message


@given(messages, st.data())
def test_a_message_cut_short_is_malformed_or_another(
    message: puncher.Message, data: st.DataObject
) -> None:
    bare = len(puncher.encode(dataclasses.replace(message, mark=b"")))
    length = data.draw(st.integers(0, bare + len(message.mark) - 1))
    try:
        assert puncher.decode(puncher.encode(message)[:length]) != message
    except Malformed:
        pass


def test_what_the_rendezvous_adds() -> None:
    seen = address.pack("198.51.100.7", 40000)
    for message in (
        puncher.Ok(MARK, seen, 50001),
        puncher.Punch(address.pack("203.0.113.9", 65535), MARK, seen, 50001),
    ):
        assert puncher.decode(puncher.encode(message)) == message


@given(keys, peers)
def test_no_answer_is_longer_than_a_marked_request(key: bytes, peer: address.Address) -> None:
    longest = address.pack("255.255.255.255", 65535)
    answers = (
        puncher.Ok(MARK, longest, 65535),
        puncher.Punch(longest, MARK, longest, 65535),
        puncher.Error(puncher.Refusal.NO_SERVER),
    )
    requests = (puncher.Client(key, MARK), puncher.Server(key, MARK), puncher.KeepAlive(MARK))
    shortest = min(len(puncher.encode(request)) for request in requests)
    assert max(len(puncher.encode(answer)) for answer in answers) <= shortest


@pytest.mark.parametrize("length", [0, puncher.KEY_MAXIMUM + 1])
def test_keys_that_the_wire_does_not_carry(length: int) -> None:
    with pytest.raises(ValueError, match="1 to 126"):
        puncher.encode(puncher.Client(b"k" * length))


@pytest.mark.parametrize(
    "data",
    [
        "",
        "06",  # no such message
        "00",  # key without length
        "0000",  # empty key
        "00047465",  # key cut short
        "007f" + "61" * 127,  # key too long
        "0002c328",  # key not UTF-8
        "02",
        "0202",  # no such error
        "03",
        "0304",  # no such punch
        "0303010203",  # address cut short
        "030301020304",  # port missing
        "030301020304ff",  # port cut short
        "030301020304ffff04",  # port over 65,535
        "030301020304ffffff01",  # port of four bytes
    ],
)
def test_malformed(data: str) -> None:
    with pytest.raises(Malformed):
        puncher.decode(bytes.fromhex(data))


def test_ipv6_is_refused() -> None:
    with pytest.raises(ValueError, match="IPv4"):
        puncher.encode(puncher.Punch(address.pack("2001:db8::1", 1)))
