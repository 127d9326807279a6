"""The expose protocol's datagrams: golden bytes, round trips, and whatever strangers sign."""

from __future__ import annotations

import base64
import hmac
import json
from pathlib import Path
from typing import Any, Dict, List, Optional

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tests.standin import expose as stand_in
from udppunch.wire import expose
from udppunch.wire.malformed import Malformed

VECTORS = yaml.safe_load((Path(__file__).parents[1] / "vectors.yaml").read_text())["expose"]
SIGNED_VECTORS = [vector for vector in VECTORS if "jws" in vector]
KEY = bytes(range(32))
OTHER_KEY = bytes(range(1, 33))

nonces = st.integers(0, expose.NONCE_MAXIMUM)
printable = st.text(st.characters(blacklist_categories=("Cs", "Cc")))
names = printable.filter(lambda name: len(name.encode()) <= expose.NAME_MAXIMUM)
keepalives = st.builds(expose.Keepalive, st.none() | nonces, names)
claims = st.one_of(keepalives, st.builds(expose.Registered), st.builds(expose.Retry, nonces))
keys = st.binary(min_size=32, max_size=32)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | printable,
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.sampled_from(["nonce", "name", "Retry"]), inner)
    ),
    max_leaves=10,
)


def signed(payload: bytes, key: bytes = KEY) -> bytes:
    """Any claims, signed as RFC 7515 says."""
    head = expose.SIGNED + base64.urlsafe_b64encode(payload).rstrip(b"=")
    mac = hmac.new(key, head, "sha256").digest()
    return head + b"." + base64.urlsafe_b64encode(mac).rstrip(b"=")


def of_vector(value: Any) -> expose.Claims:
    return expose.Registered() if value == "registered" else expose.Keepalive(value["nonce"])


def decoded(datagram: bytes) -> Optional[expose.Claims]:
    try:
        return expose.decode(datagram)
    except Malformed:
        return None


# --- golden bytes, and what others make of them ------------------------------------------


def test_golden_key() -> None:
    (vector,) = [vector for vector in VECTORS if "key" in vector]
    assert expose.derive_key(vector["password"].encode()).hex() == vector["key"]


@pytest.mark.parametrize("vector", SIGNED_VECTORS, ids=lambda vector: vector["jws"])
def test_golden_claims(vector: Dict[str, Any]) -> None:
    key = expose.derive_key(vector["password"].encode())
    datagram = vector["jws"].encode()
    assert expose.encode(of_vector(vector["value"]), key) == datagram
    assert expose.looks_signed(datagram) and expose.looks_signed(memoryview(datagram))
    assert expose.is_signed(datagram, key)
    assert expose.decode(datagram) == of_vector(vector["value"])


def test_golden_tag() -> None:
    (vector,) = [vector for vector in VECTORS if vector.get("hex")]
    datagram = bytes.fromhex(vector["hex"])
    assert expose.TAG.unpack_from(datagram) == (vector["value"]["tag"],)
    assert datagram[expose.TAG_LENGTH :].decode() == vector["value"]["payload"]


def test_no_tag_is_taken_for_a_signature() -> None:
    assert expose.NEVER_A_TAG == 0x6579 < expose.TAGS
    assert expose.looks_signed(expose.TAG.pack(0x6579) + expose.SIGNED[2:])
    assert not expose.looks_signed(expose.TAG.pack(0x6578) + expose.SIGNED[2:])
    assert not expose.looks_signed(expose.SIGNED[:-1])


@given(st.none() | nonces, keys)
def test_agrees_with_the_stand_in(nonce: Optional[int], key: bytes) -> None:
    assert expose.encode(expose.Keepalive(nonce), key) == stand_in.keepalive(nonce, key)
    assert expose.encode(expose.Registered(), key) == stand_in.sign("Registered", key)
    assert expose.encode(expose.Retry(nonce or 0), key) == stand_in.sign({"Retry": nonce or 0}, key)


@given(keepalives, keys)
def test_a_name_means_nothing_to_the_original(keepalive: expose.Keepalive, key: bytes) -> None:
    told = stand_in.claims_of(expose.encode(keepalive, key), key)
    assert stand_in.nonce_of(told) == keepalive.nonce


@given(claims, keys)
def test_agrees_with_pyjwt(value: expose.Claims, key: bytes) -> None:
    api_jws = pytest.importorskip("jwt.api_jws", reason="PyJWT is not installed")
    pyjwt = api_jws.PyJWS(algorithms=["HS256"])
    datagram = expose.encode(value, key)
    payload = pyjwt.decode(datagram.decode(), key, algorithms=["HS256"])
    assert pyjwt.encode(payload, key, "HS256", headers={"typ": ""}).encode() == datagram
    assert json.loads(payload) is not None


# --- round trips -------------------------------------------------------------------------


@given(claims, keys)
def test_round_trip(value: expose.Claims, key: bytes) -> None:
    datagram = expose.encode(value, key)
    assert len(datagram) <= expose.LONGEST_CLAIMS
    assert expose.looks_signed(datagram) and expose.is_signed(datagram, key)
    assert expose.decode(datagram) == value


@given(st.dictionaries(st.sampled_from(expose.STATISTICS), nonces))
def test_statistics_round_trip(counts: Dict[str, int]) -> None:
    datagram = expose.encode_statistics(counts)
    assert len(datagram) == expose.STATISTICS_LENGTH
    assert expose.decode_statistics(datagram) == {**dict.fromkeys(expose.STATISTICS, 0), **counts}


def test_statistics_are_in_the_originals_order() -> None:
    assert list(expose.STATISTICS) == stand_in.STATISTICS
    datagram = b"".join(number.to_bytes(8, "big") for number in range(23))
    assert expose.decode_statistics(datagram) == dict(zip(expose.STATISTICS, range(23)))
    assert expose.encode_statistics(dict(zip(expose.STATISTICS, range(23)))) == datagram


@pytest.mark.parametrize("length", [0, 183, 185])
def test_statistics_of_another_length_are_none(length: int) -> None:
    with pytest.raises(Malformed):
        expose.decode_statistics(bytes(length))


def test_answers_and_what_they_answer() -> None:
    """By how much the wire's nature makes a signed answer exceed its request."""
    most = expose.NONCE_MAXIMUM
    assert len(expose.encode(expose.Keepalive(), KEY)) == 84
    assert len(expose.encode(expose.Registered(), KEY)) == 81
    assert len(expose.encode(expose.Retry(most), KEY)) == 105
    assert len(expose.encode(expose.Keepalive(expose.ASKS_STATISTICS), KEY)) == 105
    assert expose.STATISTICS_LENGTH == 184


# --- signatures --------------------------------------------------------------------------


@pytest.mark.parametrize("vector", SIGNED_VECTORS, ids=lambda vector: vector["jws"])
def test_a_flipped_bit_is_badly_signed(vector: Dict[str, Any]) -> None:
    key = expose.derive_key(vector["password"].encode())
    datagram = vector["jws"].encode()
    for bit in range(len(datagram) * 8):
        altered = bytearray(datagram)
        altered[bit // 8] ^= 1 << bit % 8
        assert not expose.is_signed(bytes(altered), key), altered


@given(claims, st.data())
def test_what_is_cut_or_longer_or_of_another_key_is_badly_signed(
    value: expose.Claims, data: st.DataObject
) -> None:
    datagram = expose.encode(value, KEY)
    assert not expose.is_signed(datagram, OTHER_KEY)
    assert not expose.is_signed(datagram[: data.draw(st.integers(0, len(datagram) - 1))], KEY)
    assert not expose.is_signed(datagram[data.draw(st.integers(1, len(datagram))) :], KEY)
    assert not expose.is_signed(datagram + data.draw(st.binary(min_size=1, max_size=50)), KEY)


def test_other_spellings_of_a_mac_are_badly_signed() -> None:
    datagram = expose.encode(expose.Keepalive(), KEY)
    head, _, mac = datagram.rpartition(b".")
    alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    ends = [mac[:-1] + bytes([end]) for end in alphabet if end != mac[-1]]
    raw = base64.urlsafe_b64decode(mac + b"=")
    same = [end for end in ends if base64.urlsafe_b64decode(end + b"=") == raw]
    assert len(same) == 3  # 43 digits of 6 bits for 32 bytes leave 2 bits
    for other in (*ends, mac + b"=", mac.hex().encode(), b"", raw):
        assert not expose.is_signed(head + b"." + other, KEY), other


def test_claims_are_bounded() -> None:
    def of_length(length: int) -> bytes:
        return signed(b'{"nonce":1}' + b" " * length)

    longest = max(length for length in range(512) if len(of_length(length)) <= 512)
    assert expose.is_signed(of_length(longest), KEY)
    assert expose.decode(of_length(longest)) == expose.Keepalive(1)
    assert not expose.is_signed(of_length(longest + 1), KEY)
    assert decoded(of_length(longest + 1)) is None


# --- whatever strangers send -------------------------------------------------------------


@given(st.binary(max_size=600), st.binary(max_size=600))
def test_any_bytes_are_claims_or_malformed(data: bytes, payload: bytes) -> None:
    for datagram in (data, expose.SIGNED + data, expose.SIGNED + data + b"." + data):
        assert not expose.is_signed(datagram, KEY)
        decoded(datagram)
    assert_read_or_refused(signed(payload))


@given(values)
def test_any_signed_json_is_claims_or_malformed(value: object) -> None:
    assert_read_or_refused(signed(json.dumps(value).encode()))


def assert_read_or_refused(datagram: bytes) -> None:
    """And what is read is said again so that it is read the same."""
    value = decoded(datagram)
    if value is not None:
        assert expose.decode(expose.encode(value, KEY)) == value


MALFORMED: List[bytes] = [
    b"",
    b" ",
    b"null",
    b"1",
    b"[]",
    b"{}",
    b'"registered"',
    b'["Registered"]',
    b'{"Registered":null}',
    b'{"name":"x"}',
    b'{"nonce":1',
    b'{"nonce":1}}',
    b'{"nonce":NaN}',
    b'{"nonce":Infinity}',
    b'{"nonce":1e400}',
    b'{"nonce":-1e400}',
    b'{"nonce":1.0}',
    b'{"nonce":1e1}',
    b'{"nonce":"1"}',
    b'{"nonce":[1]}',
    b'{"nonce":true}',
    b'{"nonce":false}',
    b'{"nonce":-1}',
    b'{"nonce":18446744073709551616}',
    b'{"nonce":100000000000000000000}',
    b'{"nonce":' + b"9" * 300 + b"}",
    b'{"nonce":-' + b"9" * 300 + b"}",
    b'{"nonce":1,"more":' + b"9" * 300 + b"}",
    b'{"nonce":01}',
    b'{"Retry":null}',
    b'{"Retry":true}',
    b'{"Retry":-1}',
    b'{"Retry":18446744073709551616}',
    b'{"Retry":1e400}',
    b'{"nonce":1,"name":null}',
    b'{"nonce":1,"name":1}',
    b'{"nonce":1,"name":["x"]}',
    b'{"nonce":1,"name":"' + b"x" * 65 + b'"}',
    b'{"nonce":1,"name":"' + "é".encode() * 33 + b'"}',
    b'{"nonce":1,"name":"' + b"\\u00e9" * 33 + b'"}',
    b'{"nonce":1,"name":"\xff"}',
    b'{"nonce":1,"name":"\xc3',
    b"[" * 330,
    b"[" * 165 + b"]" * 165,
    b'{"a":' * 60,
    b'{"nonce":' + b"[" * 150 + b"]" * 150 + b"}",
]


@pytest.mark.parametrize("payload", MALFORMED, ids=lambda payload: repr(payload[:40]))
def test_malformed_claims(payload: bytes) -> None:
    datagram = signed(payload)
    assert expose.is_signed(datagram, KEY), "never comes to be decoded"
    with pytest.raises(Malformed):
        expose.decode(datagram)


@pytest.mark.parametrize(
    "payload",
    ["", "A", "AAAAA", "eyJ9=", "e30=", "e30\n", "e3 0", "e3+0", "e3/0", "\0", "é", "e30" * 200],
    ids=repr,
)
def test_what_is_no_base64url(payload: str) -> None:
    for datagram in (expose.SIGNED + payload.encode(), expose.SIGNED + payload.encode() + b".mac"):
        with pytest.raises(Malformed):
            expose.decode(datagram)


def test_claims_without_the_header_are_malformed() -> None:
    datagram = expose.encode(expose.Keepalive(), KEY)
    for other in (b"", b"eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiJ9.", b"eyJhbGciOiJub25lIn0.", b"."):
        with pytest.raises(Malformed):
            expose.decode(other + datagram[len(expose.SIGNED) :])


@pytest.mark.parametrize(
    "payload, value",
    [
        (' { "nonce" : null } ', expose.Keepalive()),
        ('{"nonce":18446744073709551615}', expose.Keepalive(expose.ASKS_STATISTICS)),
        ('{"nonce":1,"nonce":2}', expose.Keepalive(2)),
        ('{"nonce":1,"more":[{"nonce":3}],"name":""}', expose.Keepalive(1)),
        ('{"nonce":1,"more":1e400}', expose.Keepalive(1)),
        ('{"nonce":null,"name":"é\\u00e9 名"}', expose.Keepalive(None, "éé 名")),
        ('{"nonce":null,"name":"%s"}' % ("é" * 32), expose.Keepalive(None, "é" * 32)),
        ('{"Retry":0}', expose.Retry(0)),
        ('"\\u0052egistered"', expose.Registered()),
        ('{"nonce":1,"more":%s}' % ("[" * 150 + "]" * 150), expose.Keepalive(1)),
    ],
)
def test_other_spellings_and_more_claims(payload: str, value: expose.Claims) -> None:
    assert expose.decode(signed(payload.encode())) == value
