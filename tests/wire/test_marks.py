"""Marks: read where they stand, with what a rendezvous adds, and never taken for more."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from udppunch import address
from udppunch.address import Address
from udppunch.wire import marks
from udppunch.wire.marks import Marked

MARK = marks.new(bytes(range(16)))

seen = st.binary(min_size=6, max_size=6).filter(any).map(Address)
some_marks = st.binary(min_size=16, max_size=16).map(marks.new)


def test_by_the_book() -> None:
    assert MARK.hex() == "f0757070" + "01" + bytes(range(16)).hex()
    there = Marked(MARK, address.pack("198.51.100.7", 40000), 50001)
    assert marks.encode(there).hex() == MARK.hex() + "c6336407" + "9c40" + "c351"
    assert marks.LENGTH == 21 and marks.LONGEST == 29


@given(st.binary(max_size=60), some_marks, seen | st.none(), st.integers(0, 65535))
def test_round_trip(before: bytes, mark: bytes, where: "Address | None", port: int) -> None:
    marked = Marked(mark, where, port if where else 0)
    encoded = marks.encode(marked)
    assert marks.decode(before + encoded, len(before)) == marked
    assert len(encoded) in (marks.LENGTH, marks.LONGEST)


@given(st.binary(max_size=60), st.integers(0, 70))
def test_any_bytes_are_a_mark_or_nothing(data: bytes, start: int) -> None:
    found = marks.decode(data, start)
    assert found == marks.UNMARKED or data[start:].startswith(found.mark)
    assert len(found.mark) in (0, marks.LENGTH)


@given(some_marks, st.integers(0, 20))
def test_half_a_mark_is_none(mark: bytes, length: int) -> None:
    assert marks.decode(mark[:length], 0) == marks.UNMARKED


@given(some_marks, st.binary(max_size=5))
def test_half_an_address_is_none(mark: bytes, tail: bytes) -> None:
    assert marks.decode(mark + tail, 0) == Marked(mark)


@pytest.mark.parametrize("padding", [1, 6, 8, 100])
def test_the_zeros_of_a_padded_request_are_no_address(padding: int) -> None:
    assert marks.decode(MARK + bytes(padding), 0) == Marked(MARK)


def test_another_version_is_not_ours() -> None:
    assert marks.decode(marks.MAGIC + b"\x02" + bytes(16), 0) == marks.UNMARKED


def test_what_is_added_to_no_mark_is_not_sent() -> None:
    assert marks.encode(Marked(b"", address.pack("198.51.100.7", 1), 2)) == b""


def test_ipv6_is_refused() -> None:
    with pytest.raises(ValueError, match="IPv4"):
        marks.encode(Marked(MARK, address.pack("2001:db8::1", 1)))


@pytest.mark.parametrize("length", [0, 15, 17])
def test_a_mark_takes_sixteen_random_bytes(length: int) -> None:
    with pytest.raises(ValueError, match="16 random bytes"):
        marks.new(bytes(length))
