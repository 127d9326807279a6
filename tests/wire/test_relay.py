"""The relay protocol's handshakes: golden bytes, the mac, and whatever strangers send."""

from __future__ import annotations

import base64
import hmac
import traceback
from pathlib import Path
from typing import Any, Dict, List, Tuple

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tests.standin import relay as original
from udppunch.wire import relay

VECTORS = yaml.safe_load((Path(__file__).parents[1] / "vectors.yaml").read_text())["relay"]
SECRET = b"of the tests"

guids = st.binary(min_size=relay.GUID, max_size=relay.GUID).filter(any)
secrets = st.binary(min_size=1, max_size=100)
paddings = st.binary(max_size=100)
# Mostly bytes that begin as a handshake does, for few others get beyond the first comparison.
datagrams = st.binary(max_size=120) | st.binary(max_size=120).map(relay.MAGIC.__add__)


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["hex"][:32])
def test_golden_bytes(vector: Dict[str, Any]) -> None:
    data, value = bytes.fromhex(vector["hex"]), vector["value"]
    guid, secret = bytes.fromhex(value["guid"]), relay.parse_secret(vector["secret"])
    assert relay.guid_of(data) == guid
    assert relay.is_signed(data, secret) and value["mac"] == "valid"
    assert relay.handshake(guid, secret) == data


def test_what_was_captured_is_a_health_check_by_the_published_secret() -> None:
    captured = bytes.fromhex(VECTORS[0]["hex"])
    assert len(captured) == relay.HEADER
    assert relay.guid_of(captured).endswith(relay.CHECK_MARK)
    assert relay.is_signed(captured, relay.DEFAULT_SECRET)
    assert not relay.is_signed(captured, relay.DEFAULT_SECRET + b"\0x")


@given(guids, secrets, paddings)
def test_round_trip(guid: bytes, secret: bytes, padding: bytes) -> None:
    data = relay.handshake(guid, secret, padding)
    for form in (data, memoryview(data)):
        assert relay.guid_of(form) == guid
        assert relay.is_signed(form, secret)
    assert (
        data[: relay.OLD_HEADER] == relay.MAGIC + len(padding).to_bytes(2, "big") + b"\0\0" + guid
    )
    assert data[relay.HEADER :] == padding
    assert data == original.handshake(guid, secret, padding)


@given(guids)
def test_round_trip_of_the_old_form(guid: bytes) -> None:
    data = relay.old_handshake(guid)
    assert relay.guid_of(data) == guid and len(data) == relay.OLD_HEADER
    assert data == original.old_handshake(guid)
    assert not relay.is_signed(data, SECRET), "it has no mac"


@given(datagrams, secrets)
def test_any_bytes_are_a_handshake_or_not(data: bytes, secret: bytes) -> None:
    guid, signed = relay.guid_of(data), relay.is_signed(data, secret)
    assert (guid, signed) == (
        relay.guid_of(memoryview(data)),
        relay.is_signed(memoryview(data), secret),
    )
    assert guid == b"" or (len(guid) == relay.GUID and any(guid))
    assert (guid if signed else b"") == (original.guid_of(data, secret) or b"")


@given(guids, secrets, st.binary(min_size=1, max_size=40))
def test_any_flipped_bit_is_noticed(guid: bytes, secret: bytes, padding: bytes) -> None:
    data = bytearray(relay.handshake(guid, secret, padding))
    for bit in range(8 * len(data)):
        data[bit // 8] ^= 1 << bit % 8
        assert not relay.is_signed(data, secret), f"bit {bit}"
        data[bit // 8] ^= 1 << bit % 8
    assert relay.is_signed(data, secret)


@given(guids, paddings, st.binary(min_size=1, max_size=40))
def test_a_handshake_cut_or_prolonged_is_not_signed(
    guid: bytes, padding: bytes, more: bytes
) -> None:
    data = relay.handshake(guid, SECRET, padding)
    assert not relay.is_signed(data + more, SECRET)
    for length in range(len(data)):
        assert not relay.is_signed(data[:length], SECRET)
        assert bool(relay.guid_of(data[:length])) is (length >= relay.OLD_HEADER)


@given(guids, secrets, secrets)
def test_another_secret_signs_otherwise(guid: bytes, one: bytes, other: bytes) -> None:
    # HMAC fills a key up with zeros, and hashes one of more than 64 bytes.
    if one.rstrip(b"\0") != other.rstrip(b"\0") and max(len(one), len(other)) <= 64:
        assert not relay.is_signed(relay.handshake(guid, one), other)


def test_macs_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: List[Tuple[bytes, bytes]] = []
    real = hmac.compare_digest

    def compare(one: Any, other: Any) -> bool:
        compared.append((bytes(one), bytes(other)))
        return real(one, other)

    monkeypatch.setattr(hmac, "compare_digest", compare)
    guid = bytes(range(16))
    signed, forged = relay.handshake(guid, SECRET), relay.handshake(guid, b"another")
    assert relay.is_signed(signed, SECRET) and not relay.is_signed(forged, SECRET)
    right = signed[relay.MAC_AT : relay.HEADER]
    assert compared == [(right, right), (right, forged[relay.MAC_AT : relay.HEADER])]


@pytest.mark.parametrize("guid", [b"", bytes(16), b"\1" * 15, b"\1" * 17])
def test_guids_that_the_wire_does_not_carry(guid: bytes) -> None:
    for make in (relay.old_handshake, lambda guid: relay.handshake(guid, SECRET)):
        with pytest.raises(ValueError, match="16 bytes"):
            make(guid)


def test_a_guid_of_zeros_is_none() -> None:
    for data in (original.old_handshake(bytes(16)), original.handshake(bytes(16), SECRET)):
        assert relay.guid_of(data) == b""


@given(secrets, st.integers(1, 80))
def test_a_secret_is_read_in_lines_of_any_width(secret: bytes, width: int) -> None:
    text = base64.b64encode(secret).decode()
    lines = [text[at : at + width] for at in range(0, len(text), width)]
    assert relay.parse_secret(" \t\r\n".join(lines) + "\n") == secret


@given(st.text(max_size=60))
@pytest.mark.parametrize(
    "beginning", ["hunter2-hunter2", "aHVudGVyMg==aHVudGVyMg==", "hunt€r2hunt€r2", "\ud800hunter2"]
)
def test_a_wrong_secret_is_not_quoted(beginning: str, rest: str) -> None:
    with pytest.raises(ValueError, match="^the secret is not base64$") as caught:
        relay.parse_secret(beginning + rest + "!")
    report = "".join(traceback.format_exception(None, caught.value, caught.value.__traceback__))
    assert beginning not in report


@pytest.mark.parametrize("text", ["", " \n"])
def test_no_secret_is_no_secret(text: str) -> None:
    with pytest.raises(ValueError, match="^the secret is empty$"):
        relay.parse_secret(text)
