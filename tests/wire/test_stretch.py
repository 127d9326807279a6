"""What two of our peers say on their path: golden bytes, round trips, and nothing else taken."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from udppunch.wire import stretch
from udppunch.wire.malformed import Malformed

numbers = st.integers(1, (1 << 32) - 1)
whatever = st.one_of(
    st.builds(stretch.Stretch, numbers, st.binary(min_size=1, max_size=stretch.MOST)),
    st.builds(stretch.Ack, numbers),
    st.builds(stretch.End, numbers),
    st.builds(stretch.Raw, st.binary(max_size=stretch.MOST)),
)


@pytest.mark.parametrize(
    "value,encoded",
    [
        (stretch.Stretch(1, b"line\n"), "40000000016c696e650a"),
        (stretch.Ack(0xFFFFFFFF), "41ffffffff"),
        (stretch.End(2), "4200000002"),
        (stretch.Raw(b""), "43"),
        (stretch.Raw(b"\x00raw"), "4300726177"),
    ],
)
def test_golden_bytes(value: stretch.Said, encoded: str) -> None:
    assert stretch.encode(value).hex() == encoded
    assert stretch.decode(bytes.fromhex(encoded)) == value


@given(whatever)
def test_round_trip(value: stretch.Said) -> None:
    assert stretch.decode(stretch.encode(value)) == value


@given(st.binary(max_size=20) | st.binary(max_size=16).map(lambda rest: b"\x42" + rest))
def test_any_bytes_are_said_or_malformed(data: bytes) -> None:
    try:
        value = stretch.decode(data)
    except Malformed:
        return
    assert stretch.encode(value) == data


@pytest.mark.parametrize(
    "data",
    [
        "",
        "00",  # a Message of the holepunch protocol
        "3f00000001aa",
        "4400000001aa",
        "40000000",
        "4000000001",  # nothing in it
        "4000000000aa",  # number 0
        "41000000",
        "4100000000",
        "410000000100",  # something behind it
        "420000000100",
        "4000000001" + "61" * (stretch.MOST + 1),
        "43" + "61" * (stretch.MOST + 1),
    ],
)
def test_malformed(data: str) -> None:
    with pytest.raises(Malformed):
        stretch.decode(bytes.fromhex(data))


@pytest.mark.parametrize("said", [stretch.Raw(bytes(1201)), stretch.Stretch(1, bytes(1201))])
def test_too_much_is_not_sent(said: stretch.Said) -> None:
    with pytest.raises(ValueError, match="at most 1200 bytes, not 1201"):
        stretch.encode(said)


def test_numbers_end_with_32_bits() -> None:
    with pytest.raises(OverflowError):
        stretch.encode(stretch.Ack(1 << 32))


def test_it_fits_where_every_path_carries_it() -> None:
    longest = max(
        len(stretch.encode(value))
        for value in (stretch.Raw(bytes(stretch.MOST)), stretch.Stretch(1, bytes(stretch.MOST)))
    )
    assert longest + 8 + 40 <= 1280
