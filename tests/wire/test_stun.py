"""STUN messages: the test vectors of RFC 5769, round trips, and whatever strangers send."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from udppunch import address
from udppunch.address import Address
from udppunch.wire import stun
from udppunch.wire.malformed import Malformed
from udppunch.wire.stun import Change, Error, Kind, Message

TRANSACTION = bytes.fromhex("b7e7a701bc34d686fa87dfae")
REQUEST = bytes.fromhex(
    "000100582112a442b7e7a701bc34d686fa87dfae"
    "802200105354554e207465737420636c69656e74"
    "002400046e0001ff"
    "80290008932ff9b151263b36"
    "000600096576746a3a68367659202020"
    "000800149aeaa70cbfd8cb56781ef2b5b2d3f249c1b571a2"
    "80280004e57a3bcf"
)
IPV4_RESPONSE = bytes.fromhex(
    "0101003c2112a442b7e7a701bc34d686fa87dfae"
    "8022000b7465737420766563746f7220"
    "002000080001a147e112a643"
    "000800142b91f599fd9e90c38c7489f92af9ba53f06be7d7"
    "80280004c07d4c96"
)
IPV6_RESPONSE = bytes.fromhex(
    "010100482112a442b7e7a701bc34d686fa87dfae"
    "8022000b7465737420766563746f7220"
    "002000140002a1470113a9faa5d3f179bc25f4b5bed2b9d9"
    "00080014a382954e4be67bf11784c97c8292c275bfe3ed41"
    "80280004c8fb0b4c"
)
LONG_TERM_REQUEST = bytes.fromhex(
    "000100602112a44278ad3433c6ad72c029da412e"
    "00060012e3839ee38388e383aae38383e382afe382b90000"
    "0015001c662f2f3439396b39353464364f4c33346f4c39465354767936347341"
    "0014000b6578616d706c652e6f726700"
    "00080014f67024656dd64a3e02b8e0712e85c9a28ca89666"
)
VECTORS = [REQUEST, IPV4_RESPONSE, IPV6_RESPONSE, LONG_TERM_REQUEST]

ipv4 = st.binary(min_size=6, max_size=6).map(Address)
ipv6 = st.binary(min_size=18, max_size=18).map(Address)
addresses = st.none() | ipv4 | ipv6
ports = st.integers(0, 65535)
texts = st.text(max_size=30)
messages = st.builds(
    Message,
    kind=st.sampled_from(Kind),
    transaction=st.binary(min_size=12, max_size=12),
    mapped=addresses,
    xor_mapped=addresses,
    change=st.none() | st.builds(Change, st.booleans(), st.booleans()),
    response_port=st.none() | ports,
    padding=st.none() | st.integers(0, 40),
    error=st.none() | st.builds(Error, st.integers(300, 699), texts),
    unknown=st.lists(ports, max_size=5).map(tuple),
    response_origin=addresses,
    other_address=addresses,
    software=texts,
    fingerprint=st.booleans(),
)


def message(*attributes: str, kind: int = 0x0001) -> bytes:
    """A message of the attributes given in hexadecimal digits."""
    body = bytes.fromhex("".join(attributes))
    return b"".join((kind.to_bytes(2, "big"), len(body).to_bytes(2, "big"), stun.COOKIE,
                     TRANSACTION, body))  # fmt: skip


def test_request_of_rfc_5769() -> None:
    assert stun.decode(REQUEST) == Message(
        Kind.REQUEST,
        TRANSACTION,
        software="STUN test client",
        fingerprint=True,
        not_understood=(0x0024,),  # PRIORITY, of ICE
    )


@pytest.mark.parametrize(
    "response, mapped",
    [
        (IPV4_RESPONSE, address.pack("192.0.2.1", 32853)),
        (IPV6_RESPONSE, address.pack("2001:db8:1234:5678:11:2233:4455:6677", 32853)),
    ],
    ids=["ipv4", "ipv6"],
)
def test_responses_of_rfc_5769(response: bytes, mapped: Address) -> None:
    expected = Message(
        Kind.SUCCESS, TRANSACTION, xor_mapped=mapped, software="test vector", fingerprint=True
    )
    assert stun.decode(response) == expected
    written = stun.encode(Message(Kind.SUCCESS, TRANSACTION, xor_mapped=mapped))
    assert written[20:] in response


def test_long_term_request_of_rfc_5769() -> None:
    transaction = bytes.fromhex("78ad3433c6ad72c029da412e")
    assert stun.decode(LONG_TERM_REQUEST) == Message(Kind.REQUEST, transaction)


@pytest.mark.parametrize("vector", VECTORS[:3], ids=["request", "ipv4", "ipv6"])
def test_the_fingerprints_of_rfc_5769(vector: bytes) -> None:
    length = len(vector) - 20 - 8
    bare = vector[:2] + length.to_bytes(2, "big") + vector[4:-8]
    assert stun.with_fingerprint(bare) == vector


@pytest.mark.parametrize("vector", VECTORS[:3], ids=["request", "ipv4", "ipv6"])
def test_one_bit_changed_makes_a_fingerprint_wrong(vector: bytes) -> None:
    type_at = len(vector) - 8
    for at in [at for at in range(20, len(vector)) if at not in (type_at, type_at + 1)]:
        with pytest.raises(Malformed):
            stun.decode(vector[:at] + bytes([vector[at] ^ 1]) + vector[at + 1 :])


@given(messages)
@example(Message(Kind.REQUEST, bytes(12), padding=0, response_port=0, change=Change(False, False)))
def test_round_trip(sent: Message) -> None:
    data = stun.encode(sent)
    assert stun.is_stun(data) and stun.is_stun(memoryview(data))
    assert stun.decode(data) == stun.decode(memoryview(data)) == sent


@given(st.binary(max_size=200) | st.binary(max_size=100).map(lambda body: message(body.hex())))
def test_any_bytes_give_a_message_or_are_malformed(data: bytes) -> None:
    try:
        read = stun.decode(data)
    except Malformed:
        return
    assert stun.is_stun(data)
    known = dataclasses.replace(read, not_understood=())
    assert stun.decode(stun.encode(known)) == known


@given(st.sampled_from(VECTORS) | messages.map(stun.encode), st.data())
def test_changed_bytes_give_a_message_or_are_malformed(data: bytes, draw: st.DataObject) -> None:
    at = draw.draw(st.integers(0, len(data) - 1))
    changed = data[:at] + draw.draw(st.binary(max_size=8)) + data[at + draw.draw(ports) % 9 :]
    try:
        stun.decode(changed)
    except Malformed:
        pass


@given(messages, st.integers(1, 20))
def test_cut_short_it_is_not_stun(sent: Message, missing: int) -> None:
    assert not stun.is_stun(stun.encode(sent)[:-missing])


@pytest.mark.parametrize(
    "data",
    [
        b"",
        stun.COOKIE,
        bytes(20),
        REQUEST[:4] + bytes(4) + REQUEST[8:],  # as in RFC 3489
        REQUEST + bytes(4),
        b"\x40" + REQUEST[1:],
        message()[:2] + b"\0\1" + message()[4:] + b"a",
    ],
)
def test_what_is_not_stun(data: bytes) -> None:
    assert not stun.is_stun(data)
    with pytest.raises(Malformed):
        stun.decode(data)


@pytest.mark.parametrize(
    "attributes",
    [
        ("00010008", "0001"),  # cut short
        ("0001ffff", "00010000"),
        ("00010004", "00010000"),  # an IPv4 address of no length
        ("00010008", "0003000001020304"),  # no such family
        ("00010008", "0002000001020304"),  # not the length of its family
        ("00010000",),
        ("00030002", "00060000"),
        ("00270008", "0001000000000000"),
        ("00090003", "00000400"),
        ("00090004", "00000200"),  # error code 200
        ("00090004", "00000464"),  # error code 400 + 100
        ("000a0003", "00240000"),
        ("80280004", "00000000"),  # a wrong FINGERPRINT
        ("80280003", "00000000"),
        ("80220000",) * 65,  # more attributes than anyone sends
    ],
    ids=lambda attributes: " ".join(attributes)[:24],
)
def test_malformed(attributes: "tuple[str, ...]") -> None:
    with pytest.raises(Malformed):
        stun.decode(message(*attributes) + bytes(-len(message(*attributes)) % 4))


@pytest.mark.parametrize("kind", [0x0003, 0x0101 | 0x0002, 0x3EEF, 0x0000])
def test_other_methods_are_malformed_and_yet_stun(kind: int) -> None:
    data = message(kind=kind)
    assert stun.is_stun(data)
    with pytest.raises(Malformed, match="Binding"):
        stun.decode(data)


def test_a_fingerprint_is_the_last_attribute() -> None:
    whole = stun.encode(Message(Kind.REQUEST, TRANSACTION, fingerprint=True))
    body = whole[20:].hex()
    assert stun.decode(message(body)).fingerprint
    with pytest.raises(Malformed, match="last"):
        stun.decode(message(body, "80220000"))


def test_the_first_of_two_counts_and_nothing_behind_a_message_integrity() -> None:
    first, second = "802200026f6e0000", "802200026f660000"
    assert stun.decode(message(first, second)).software == "on"
    integrity = "00080014" + "00" * 20
    read = stun.decode(message(integrity, second, "00240000"))
    assert read.software == "" and read.not_understood == ()


def test_attributes_not_known_are_told_if_they_must_be() -> None:
    read = stun.decode(message("00240000", "7fff0000", "80010000", "00240000", "00150000"))
    assert read.not_understood == (0x0024, 0x7FFF)


def test_response_port_with_its_padding_counted_or_not() -> None:
    for attribute in ("0027000430390000", "0027000230390000"):
        assert stun.decode(message(attribute)).response_port == 12345


def test_software_that_is_not_utf_8_is_no_reason_to_drop_an_answer() -> None:
    assert stun.decode(message("80220004", "41ffff42")).software == "A\ufffd\ufffdB"
