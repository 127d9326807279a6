"""The table of who registered as what: a model beside it, and whatever comes, its bounds."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from udppunch import address
from udppunch.address import Address
from udppunch.proto.register import Register


@dataclass(frozen=True)
class Entry:
    name: str
    address: Address
    heard: float


def at(network: int, host: int) -> Address:
    return address.pack(f"198.51.{network}.{host}", 4000)


def entry(number: int, network: int, heard: float = 0.0) -> Entry:
    return Entry(f"name {number}", at(network, number % 250), heard)


def test_a_flood_from_one_network_leaves_the_others_alone() -> None:
    table: Register[Entry] = Register(40)
    others = [entry(number, number, float(number)) for number in range(20)]
    for one in others:
        assert table.enter(one) == []
    for number in range(1000, 2000):
        table.enter(entry(number, 99, float(number)))
    assert [table.named(one.name) for one in others] == others
    assert len(table) == 20 + 40 // 4


def test_the_quietest_of_the_network_goes_and_is_told() -> None:
    table: Register[Entry] = Register(8)
    one, two, three = (entry(number, 1, float(number)) for number in range(3))
    assert table.enter(one) == table.enter(two) == []
    again = Entry(one.name, one.address, 2.5)
    assert table.enter(again) == [], "in the place of what has its name"
    assert table.enter(three) == [two]
    assert table.named(two.name) is None and table.at(two.address) is None
    assert table.named(one.name) is again


def test_a_full_table_lets_the_quietest_go() -> None:
    table: Register[Entry] = Register(4)
    for number in range(4):
        assert table.enter(entry(number, number, float(number))) == []
    gone = table.enter(entry(9, 9, 9.0))
    assert [one.name for one in gone] == ["name 0"] and len(table) == 4


def test_an_address_may_have_two_names_and_keeps_the_later_one() -> None:
    table: Register[Entry] = Register(40)
    first, second = Entry("first", at(1, 1), 0.0), Entry("second", at(1, 1), 1.0)
    table.enter(first)
    table.enter(second)
    assert table.at(at(1, 1)) is second and table.named("first") is first
    table.remove(first)
    assert table.at(at(1, 1)) is second
    table.remove(second)
    assert table.at(at(1, 1)) is None and not len(table)


def test_who_was_not_heard_goes_and_who_was_stays() -> None:
    table: Register[Entry] = Register(40)
    for number in range(10):
        table.enter(entry(number, number, float(number)))
    table.enter(Entry("name 0", at(0, 0), 20.0))
    assert [one.name for one in table.expire(5.0)] == [f"name {n}" for n in range(1, 6)]
    assert len(table) == 5 and table.expire(5.0) == []


class AnyCourse(RuleBasedStateMachine):
    """Against a plain dictionary that knows whom the table said to have let go."""

    @initialize(capacity=st.integers(1, 12))
    def build(self, capacity: int) -> None:
        self.capacity = capacity
        self.share = max(1, capacity // 4)
        self.table: Register[Entry] = Register(capacity)
        self.model: "OrderedDict[str, Entry]" = OrderedDict()
        self.now = 0.0

    @rule(name=st.integers(0, 15), network=st.integers(0, 4), host=st.integers(0, 3))
    def enter(self, name: int, network: int, host: int) -> None:
        one = Entry(f"name {name}", at(network, host), self.now)
        self.model.pop(one.name, None)
        full = len(self.model) >= self.capacity
        neighbours = [o for o in self.model.values() if o.address[:3] == one.address[:3]]
        gone = self.table.enter(one)
        if len(neighbours) >= self.share:
            assert gone == neighbours[:1]
        else:
            assert gone == (list(self.model.values())[:1] if full else [])
        for other in gone:
            del self.model[other.name]
        self.model[one.name] = one

    @rule(seconds=st.floats(0, 10))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(age=st.floats(0, 20))
    def expire(self, age: float) -> None:
        gone = [one for one in self.model.values() if one.heard <= self.now - age]
        assert self.table.expire(self.now - age) == gone
        for one in gone:
            del self.model[one.name]

    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        if self.model:
            one = data.draw(st.sampled_from(list(self.model.values())))
            self.table.remove(one)
            del self.model[one.name]

    @invariant()
    def it_is_as_the_model(self) -> None:
        if not hasattr(self, "table"):
            return
        assert len(self.table) == len(self.model) <= self.capacity
        for name in (f"name {number}" for number in range(16)):
            assert self.table.named(name) == self.model.get(name)
        held = set(self.model.values())
        for network in range(5):
            for host in range(4):
                found = self.table.at(at(network, host))
                assert found is None or found in held and found.address == at(network, host)
        networks = [one.address[:3] for one in held]
        assert all(networks.count(network) <= self.share for network in networks)
        assert set(self.table._of_prefix) == set(networks), "no empty ones are kept"


AnyCourse.TestCase.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
TestAnyCourse = AnyCourse.TestCase
