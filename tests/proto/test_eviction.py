"""Who goes when there is no more room, beside a naive list that is searched each time."""

from __future__ import annotations

import random
import weakref
from typing import List, Optional

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from udppunch.proto.expose.eviction import PROTECTED, Eviction


class Item:
    """Heard at `seen` for the last time."""

    def __init__(self, now: float, name: object = None) -> None:
        self.answered = False
        self.seen = now
        self.name = name

    def __repr__(self) -> str:
        return f"Item({self.name})"


def eviction() -> "Eviction[Item]":
    return Eviction(lambda item: item.answered, lambda item: item.seen)


def added(subject: "Eviction[Item]", *times: float, answered: bool = False) -> List[Item]:
    items = [Item(now, number) for number, now in enumerate(times)]
    for item in items:
        item.answered = answered
        subject.add(item, item.seen)
    return items


def test_of_nobody_nobody_goes() -> None:
    subject = eviction()
    assert subject.choose(1e9) is None and subject.silent(1e9, 0.0) is None
    (item,) = added(subject, 0.0)
    subject.remove(item)
    assert subject.choose(1e9) is None and subject.silent(1e9, 0.0) is None


def test_the_unanswered_go_in_the_order_they_came_however_lately_heard() -> None:
    subject = eviction()
    items = added(subject, 0.0, 0.0, 1.0, 2.0)
    items[0].seen = items[1].seen = 100.0
    items[1].answered = True
    went = []
    for _ in range(3):
        chosen = subject.choose(100.0)
        assert chosen is not None
        went.append(chosen)
        subject.remove(chosen)
    assert went == [items[0], items[2], items[3]]
    assert subject.choose(100.0 + PROTECTED - 0.01) is None, "it was answered"
    assert subject.choose(100.0 + PROTECTED) is items[1]


def test_asking_sends_nobody_away() -> None:
    subject = eviction()
    first, second = added(subject, 0.0, 1.0)
    assert [subject.choose(1.0) for _ in range(3)] == [first] * 3
    assert [subject.silent(50.0, 10.0) for _ in range(3)] == [first] * 3
    first.answered = second.answered = True
    assert [subject.choose(50.0) for _ in range(3)] == [first] * 3
    first.seen = 45.0
    assert [subject.choose(50.0) for _ in range(3)] == [second] * 3


def test_of_the_answered_the_quietest_goes_and_of_the_equally_quiet_the_first() -> None:
    subject = eviction()
    items = added(subject, 0.0, 1.0, 2.0, 3.0, answered=True)
    items[0].seen, items[1].seen, items[3].seen = 7.0, 9.0, 7.0
    order = []
    for _ in items:
        quietest = subject.silent(100.0, 1.0)
        assert quietest is not None
        order.append(quietest)
        subject.remove(quietest)
    assert order == [items[2], items[0], items[3], items[1]]


def test_one_that_left_and_came_again_is_a_newcomer() -> None:
    subject = eviction()
    first, second = added(subject, 0.0, 1.0)
    subject.remove(first)
    first.seen = 2.0
    subject.add(first, 2.0)
    assert subject.choose(2.0) is second
    first.answered = second.answered = True
    assert subject.silent(2.0 + 30.0, 30.0) is second
    subject.remove(second)
    assert subject.silent(2.0 + 29.9, 30.0) is None
    assert subject.silent(2.0 + 30.0, 30.0) is first


def test_what_is_kept_of_the_gone_is_bounded() -> None:
    subject = eviction()
    (stays,) = added(subject, 0.0)
    gone: "weakref.WeakSet[Item]" = weakref.WeakSet()
    for number in range(10_000):
        item = Item(1.0 + number)
        subject.add(item, item.seen)
        subject.remove(item)
        gone.add(item)
        del item
        assert len(gone) < 100
    assert subject.choose(20_000.0) is stays


def test_the_gone_are_forgotten_without_a_change_of_order() -> None:
    subject = eviction()
    chance = random.Random(4)
    items = added(subject, *(0.0 for _ in range(500)), answered=True)
    for item in items:
        item.seen = float(chance.randrange(1_000_000))
    assert subject.silent(2e6, 0.0) is min(items, key=lambda item: item.seen)
    stay = sorted(chance.sample(items, 150), key=lambda item: item.seen)
    for item in items:
        if item not in stay:
            subject.remove(item)
    for item in stay:
        assert subject.silent(2e6, 0.0) is item
        subject.remove(item)


def test_one_that_comes_and_goes_is_kept_once() -> None:
    looked = 0

    def seen(item: Item) -> float:
        nonlocal looked
        looked += 1
        return item.seen

    subject: "Eviction[Item]" = Eviction(lambda item: item.answered, seen)
    item = Item(0.0)
    for number in range(10_000):
        item.seen = float(number)
        subject.add(item, item.seen)
        subject.remove(item)
    subject.add(item, item.seen)
    assert subject.silent(1e6, 0.0) is item and looked < 3


def test_it_looks_at_few_to_find_one_of_many() -> None:
    """Newcomers may come by the thousand each second, and each wants somebody to go."""
    looked = 0

    def seen(item: Item) -> float:
        nonlocal looked
        looked += 1
        return item.seen

    subject: "Eviction[Item]" = Eviction(lambda item: item.answered, seen)
    items = added(subject, *(float(number) for number in range(1000)), answered=True)
    for item in items:
        item.seen = 2000.0 - item.seen
    for item in reversed(items):
        assert subject.choose(5000.0) is item
        subject.remove(item)
    assert looked < 3 * len(items)


class AnyCourse(RuleBasedStateMachine):
    """Beside a list in the order in which they came."""

    @initialize()
    def begin(self) -> None:
        self.subject = eviction()
        self.there: List[Item] = []
        self.gone: List[Item] = []
        self.now = 0.0
        self.names = iter(range(1_000_000))

    @rule(count=st.integers(1, 5))
    def come(self, count: int) -> None:
        for _ in range(count):
            item = Item(self.now, next(self.names))
            self.subject.add(item, self.now)
            self.there.append(item)

    @precondition(lambda self: self.gone)
    @rule(which=st.integers(0, 1 << 20))
    def one_comes_again(self, which: int) -> None:
        item = self.gone.pop(which % len(self.gone))
        item.seen, item.answered = self.now, False
        self.subject.add(item, self.now)
        self.there.append(item)

    @precondition(lambda self: self.there)
    @rule(which=st.integers(0, 1 << 20))
    def one_leaves(self, which: int) -> None:
        self.leave(self.there[which % len(self.there)])

    @precondition(lambda self: self.there)
    @rule(which=st.lists(st.integers(0, 1 << 20), min_size=1, max_size=4), answer=st.booleans())
    def some_are_heard(self, which: List[int], answer: bool) -> None:
        for number in which:
            item = self.there[number % len(self.there)]
            item.seen = self.now
            item.answered |= answer

    @precondition(lambda self: self.there)
    @rule()
    def all_are_answered(self) -> None:
        for item in self.there:
            item.answered = True

    @rule(seconds=st.sampled_from((0.5, 1.0, 3.0, PROTECTED, 40.0)))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(leaves=st.booleans())
    def room_is_wanted(self, leaves: bool) -> None:
        chosen = self.subject.choose(self.now)
        unanswered = [item for item in self.there if not item.answered]
        assert chosen is (unanswered[0] if unanswered else self.quietest(PROTECTED))
        if leaves and chosen is not None:
            self.leave(chosen)

    @rule(seconds=st.sampled_from((0.0, 2.0, PROTECTED, 30.0)), leaves=st.booleans())
    def the_silent_are_wanted(self, seconds: float, leaves: bool) -> None:
        silent = self.subject.silent(self.now, seconds)
        assert silent is self.quietest(seconds)
        while leaves and silent is not None:
            self.leave(silent)
            silent = self.subject.silent(self.now, seconds)
            assert silent is self.quietest(seconds)

    def quietest(self, seconds: float) -> Optional[Item]:
        item = min(self.there, key=lambda item: item.seen, default=None)
        return item if item is not None and self.now >= item.seen + seconds else None

    def leave(self, item: Item) -> None:
        self.there.remove(item)
        self.subject.remove(item)
        self.gone.append(item)


TestAnyCourse = AnyCourse.TestCase
TestAnyCourse.settings = settings(max_examples=150, stateful_step_count=40)
