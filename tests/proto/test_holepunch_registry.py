"""The holepunch server's memory: who may have a name, for how long, and who it is known by."""

from __future__ import annotations

from typing import List

import pytest
from hypothesis import given
from hypothesis import strategies as st

from udppunch import address
from udppunch.address import Address
from udppunch.contract import Endpoint, Route
from udppunch.proto.holepunch.registry import EXPIRES, GIVES_WAY, Registry
from udppunch.wire import marks

ENDPOINT = Endpoint("holepunch", address.ANY_IPV4)
MARK = marks.new(b"1" * 16)
OTHER = marks.new(b"2" * 16)
HERE = address.pack("198.51.100.7", 4000)
ELSEWHERE = address.pack("192.0.2.9", 4000)


def register(
    table: Registry, source: Address, now: float, mark: bytes = b"", name: str = "bob"
) -> bool:
    return table.register(name, mark, Route(ENDPOINT, source), source, now)


def holder(table: Registry, name: str = "bob") -> "Address | None":
    found = table.named(name)
    return None if found is None else found.address


@pytest.mark.parametrize("mark", [b"", MARK])
def test_the_last_to_register_has_the_name_where_its_holder_can_not_be_known(mark: bytes) -> None:
    table = Registry(10)
    assert register(table, HERE, 0.0)
    assert register(table, ELSEWHERE, 0.1, mark)
    assert holder(table) == ELSEWHERE


@pytest.mark.parametrize("mark", [b"", OTHER])
def test_a_name_that_its_holder_keeps_registering_is_kept(mark: bytes) -> None:
    table = Registry(10)
    for beat in range(20):
        assert register(table, HERE, 15.0 * beat, MARK)
        assert not register(table, ELSEWHERE, 15.0 * beat + 14.9, mark)
    assert holder(table) == HERE


@pytest.mark.parametrize("mark", [b"", OTHER])
def test_a_holder_that_ceases_to_gives_way(mark: bytes) -> None:
    table = Registry(10)
    register(table, HERE, 0.0, MARK)
    assert not register(table, ELSEWHERE, GIVES_WAY - 0.1, mark)
    assert register(table, ELSEWHERE, GIVES_WAY, mark)
    assert holder(table) == ELSEWHERE


def test_a_holder_is_known_by_its_mark_wherever_it_is() -> None:
    table = Registry(10)
    register(table, HERE, 0.0, MARK)
    assert register(table, ELSEWHERE, 1.0, MARK)
    assert holder(table) == ELSEWHERE and table.at(HERE) is None


@pytest.mark.parametrize("mark", [b"", OTHER])
def test_a_holder_that_was_started_anew_is_known_by_its_host(mark: bytes) -> None:
    table = Registry(10)
    register(table, HERE, 0.0, MARK)
    assert register(table, address.with_port(HERE, 4001), 1.0, mark)
    assert holder(table) == address.with_port(HERE, 4001)


def test_a_neighbour_is_not_its_host() -> None:
    table = Registry(10)
    register(table, HERE, 0.0, MARK)
    assert not register(table, address.pack("198.51.100.8", 4000), 1.0, OTHER)


def test_one_of_ours_has_one_name_and_an_original_may_have_several() -> None:
    for mark, names in ((MARK, 1), (b"", 2)):
        table = Registry(10)
        register(table, HERE, 0.0, mark, "bob")
        register(table, HERE, 1.0, mark, "robert")
        assert len(table) == names and holder(table, "robert") == HERE


@pytest.mark.parametrize("source,mark,gone", [(HERE, MARK, True), (HERE, OTHER, False),
    (HERE, b"", False), (ELSEWHERE, MARK, False)])  # fmt: skip
def test_only_its_holder_leaves_a_name(source: Address, mark: bytes, gone: bool) -> None:
    table = Registry(10)
    register(table, HERE, 0.0, MARK)
    table.leave(source, mark)
    assert (holder(table) is None) == gone


def test_nobody_leaves_an_originals_name() -> None:
    table = Registry(10)
    register(table, HERE, 0.0)
    for mark in (b"", MARK):
        table.leave(HERE, mark)
    assert holder(table) == HERE


def test_a_registration_expires_after_an_hour() -> None:
    table = Registry(10)
    register(table, HERE, 0.0)
    table.expire(3599.0 - EXPIRES)
    assert holder(table) == HERE
    table.expire(3600.0 - EXPIRES)
    assert holder(table) is None and not len(table)


def test_a_registration_that_is_refreshed_does_not() -> None:
    table = Registry(10)
    for hour in range(5):
        register(table, HERE, 3000.0 * hour, MARK)
        table.expire(3000.0 * hour + 2999.0 - EXPIRES)
        assert holder(table) == HERE


@given(
    st.lists(
        st.tuples(
            st.integers(0, 5), st.integers(1, 6), st.sampled_from((b"", MARK, OTHER)),
            st.floats(0, 30),
        ),
        max_size=80,
    )
)  # fmt: skip
def test_whatever_comes_a_name_that_is_refreshed_is_kept_and_the_table_bounded(
    steps: "List[tuple[int, int, bytes, float]]",
) -> None:
    table, now, refreshed = Registry(16), 0.0, 0.0
    kept, own = address.pack("203.0.113.9", 9000), marks.new(b"k" * 16)
    assert register(table, kept, now, own, "kept")
    for name, host, mark, pause in steps:
        now += pause
        while now - refreshed >= 15.0:
            refreshed += 15.0
            assert register(table, kept, refreshed, own, "kept")
        source = address.pack(f"198.51.100.{host}", 4000)
        register(table, source, now, mark, "kept" if not name else f"name {name}")
        assert holder(table, "kept") == kept
        assert len(table) <= 16
    table.expire(now + 1)
    assert not len(table)
