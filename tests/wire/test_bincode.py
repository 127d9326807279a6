"""Bincode: the numbers and strings of the standard configuration, and nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from udppunch.wire import bincode
from udppunch.wire.malformed import Malformed

numbers = st.integers(0, (1 << 64) - 1) | st.sampled_from(
    [edge + step for edge in (250, 1 << 16, 1 << 32) for step in (-1, 0, 1)]
)


@pytest.mark.parametrize(
    "value,encoded",
    [
        (0, "00"),
        (250, "fa"),
        (251, "fbfb00"),
        (256, "fb0001"),
        (65_535, "fbffff"),
        (65_536, "fc00000100"),
        ((1 << 32) - 1, "fcffffffff"),
        (1 << 32, "fd0000000001000000"),
        ((1 << 64) - 1, "fdffffffffffffffff"),
    ],
)
def test_numbers_by_the_book(value: int, encoded: str) -> None:
    assert bincode.encode_number(value).hex() == encoded
    assert bincode.decode_number(bytes.fromhex(encoded), 0) == (value, len(encoded) // 2)


@pytest.mark.parametrize("value", [-1, 1 << 64])
def test_numbers_beyond_64_bits(value: int) -> None:
    with pytest.raises(ValueError, match="64 bits"):
        bincode.encode_number(value)


@pytest.mark.parametrize("data", ["", "fb", "fb00", "fc000000", "fd00000000000000", "fe", "ff"])
def test_numbers_that_are_none(data: str) -> None:
    with pytest.raises(Malformed):
        bincode.decode_number(bytes.fromhex(data), 0)


@given(st.binary(max_size=9), numbers, st.binary(max_size=9))
def test_a_number_is_read_where_it_stands(before: bytes, value: int, behind: bytes) -> None:
    encoded = bincode.encode_number(value)
    data = before + encoded + behind
    assert bincode.decode_number(data, len(before)) == (value, len(before) + len(encoded))


@given(st.integers(0, (1 << 64) - 1))
def test_longer_forms_than_needed_are_read(value: int) -> None:
    for first, width in ((0xFB, 2), (0xFC, 4), (0xFD, 8)):
        if value < 1 << 8 * width:
            data = bytes([first]) + value.to_bytes(width, "little")
            assert bincode.decode_number(data, 0) == (value, 1 + width)


@given(st.text(max_size=300), st.binary(max_size=9))
def test_strings_go_round(value: str, behind: bytes) -> None:
    encoded = bincode.encode_string(value)
    assert bincode.decode_string(encoded + behind, 0) == (value, len(encoded))


@given(st.text(min_size=1, max_size=300), st.data())
def test_a_string_cut_short_is_malformed(value: str, data: st.DataObject) -> None:
    encoded = bincode.encode_string(value)
    with pytest.raises(Malformed):
        bincode.decode_string(encoded[: data.draw(st.integers(0, len(encoded) - 1))], 0)


@pytest.mark.parametrize("data", ["02c328", "03eda080", "01ff", "fdffffffffffffffff61"])
def test_strings_that_are_none(data: str) -> None:
    """Not UTF-8, a surrogate, half a character, and a length that lies."""
    with pytest.raises(Malformed):
        bincode.decode_string(bytes.fromhex(data), 0)


def test_what_utf8_has_no_form_of() -> None:
    with pytest.raises(ValueError):
        bincode.encode_string("\ud800")


@given(st.binary(max_size=300))
def test_any_bytes_give_a_string_or_are_malformed(data: bytes) -> None:
    try:
        value, end = bincode.decode_string(data, 0)
    except Malformed:
        return
    assert end <= len(data) and data[:end].endswith(value.encode())
