"""The rendezvous's memory: who may hold a key, who is introduced, and what is forgotten."""

from __future__ import annotations

from typing import List

from hypothesis import given
from hypothesis import strategies as st

from udppunch import address
from udppunch.address import Address
from udppunch.contract import Endpoint, Route
from udppunch.proto.puncher import registry
from udppunch.proto.puncher.registry import Registered, Registry
from udppunch.wire import marks

ENDPOINT = Endpoint("rendezvous", address.ANY_IPV4)
MARK = marks.new(b"1" * 16)
OTHER = marks.new(b"2" * 16)


def at(number: int) -> Address:
    return address.pack("198.51.100.7", number)


def route(number: int) -> Route:
    return Route(ENDPOINT, at(number))


def register(table: Registry, number: int, now: float, mark: bytes = b"") -> Registered:
    return table.register(b"key", mark, route(number), at(number), now)


def test_a_taken_key_gives_way_once_its_server_is_silent() -> None:
    table = Registry(10)
    assert register(table, 1, 0.0, MARK) is Registered.YES
    assert register(table, 2, 1.0, OTHER) is Registered.TAKEN
    table.heard(at(1), 3.0)
    assert register(table, 2, 3.0 + registry.GIVES_WAY - 0.1, OTHER) is Registered.TAKEN
    assert register(table, 2, 3.0 + registry.GIVES_WAY, OTHER) is Registered.YES


def test_a_server_that_was_started_anew_with_its_socket_need_not_wait() -> None:
    table = Registry(10)
    for now, mark in enumerate((MARK, OTHER, b"", MARK)):
        assert register(table, 1, float(now), mark) is Registered.YES
    found = table.introduce(b"key", MARK, route(9), at(9), 4.0)
    assert found is not None and found.server.mark == MARK


def test_the_same_server_registers_again_freely_from_wherever_it_is_now() -> None:
    table = Registry(10)
    for now, number in enumerate((1, 1, 2, 1)):
        assert register(table, number, float(now), MARK) is Registered.YES
    found = table.introduce(b"key", MARK, route(9), at(9), 4.0)
    assert found is not None and found.server.address == at(1)


def test_a_doubled_datagram_of_an_original_is_answered_once() -> None:
    table = Registry(10)
    assert register(table, 1, 0.0) is Registered.YES
    assert register(table, 1, 0.1) is Registered.DUPLICATE
    assert register(table, 1, registry.DUPLICATE_WITHIN) is Registered.YES


def test_an_original_server_serves_one_client_and_ours_all() -> None:
    for mark, further in ((b"", False), (MARK, True)):
        table = Registry(10)
        register(table, 1, 0.0, mark)
        assert table.introduce(b"key", b"", route(8), at(8), 1.0)
        assert bool(table.introduce(b"key", b"", route(9), at(9), 1.0)) is further


def test_a_client_that_asks_again_gets_the_same_answer_for_a_while() -> None:
    table = Registry(10)
    register(table, 1, 0.0)
    first = table.introduce(b"key", b"", route(9), at(9), 1.0)
    assert table.introduced(b"key", b"", at(9), 1.0 + registry.REMEMBERED - 0.1) is first
    assert table.introduced(b"another", b"", at(9), 1.0) is None
    assert table.introduced(b"key", MARK, at(9), 1.0) is None, "another client on that port"
    assert table.introduced(b"key", b"", at(9), 1.0 + registry.REMEMBERED) is None


def test_a_client_that_uses_up_one_server_after_the_other_leaves_nothing_behind() -> None:
    table = Registry(4)
    for number in range(1, 100):
        register(table, number, float(number))
        assert table.introduce(b"key", b"", route(900), at(900), float(number))
    assert len(table._awaiting) == len(table._introductions) == 1


def test_a_lost_punch_is_repeated_to_an_original_that_still_sends_keepalives() -> None:
    table = Registry(10)
    register(table, 1, 0.0)
    introduction = table.introduce(b"key", b"", route(9), at(9), 1.0)
    assert table.heard(at(1), 1.5) is None  # may have been on its way
    assert table.heard(at(1), 2.5) is introduction
    assert table.heard(at(1), 3.0) is None
    assert table.heard(at(1), 4.0) is introduction


def test_no_client_is_sent_to_a_server_that_is_gone() -> None:
    table = Registry(10)
    register(table, 1, 0.0, MARK)
    assert table.introduce(b"key", MARK, route(9), at(9), registry.EXPIRES) is None


def test_a_full_table_refuses_rather_than_evict_the_living() -> None:
    table = Registry(2)
    for number in (1, 2):
        found = table.register(b"%d" % number, MARK, route(number), at(number), 0.0)
        assert found is Registered.YES
    assert table.register(b"3", MARK, route(3), at(3), 1.0) is Registered.FULL
    assert table.register(b"3", MARK, route(3), at(3), registry.GIVES_WAY) is Registered.YES
    assert len(table) == 2


@given(
    st.lists(
        st.tuples(
            st.sampled_from(("register", "mark", "heard", "introduce", "expire")),
            st.integers(1, 8),
            st.integers(1, 6),
            st.floats(0, 3),
        ),
        max_size=80,
    )
)
def test_whatever_comes_the_tables_stay_bounded(steps: "List[tuple[str, int, int, float]]") -> None:
    table, now = Registry(4), 0.0
    for what, number, key, pause in steps:
        now += pause
        name = b"%d" % key
        if what == "register":
            table.register(name, b"", route(number), at(number), now)
        elif what == "mark":
            table.register(name, MARK, route(number), at(number), now)
        elif what == "heard":
            table.heard(at(number), now)
        elif what == "introduce":
            client = 100 + key
            table.introduce(name, b"", route(client), at(client), now)
        else:
            table.expire(now)
        assert len(table) <= 4
        assert len(table._introductions) <= 4 and len(table._awaiting) <= 4
    table.expire(now + registry.EXPIRES + 1)
    assert not len(table) and not table._introductions and not table._awaiting
