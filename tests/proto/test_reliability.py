"""Messages over a bad path: once, in order, not too many at once, and not too often again."""

from __future__ import annotations

import heapq
import itertools
from random import Random
from typing import List, Tuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from udppunch.proto.reliability import WINDOW, Incoming, Outgoing


def filled(count: int) -> "Outgoing[int]":
    outgoing: Outgoing[int] = Outgoing()
    for number in range(1, count + 1):
        assert outgoing.add(number) == number
    return outgoing


def numbers(said: "List[Tuple[int, int]]") -> List[int]:
    return [number for number, _ in said]


def sent_again_at(outgoing: "Outgoing[int]", until: float) -> List[float]:
    """When anything is said, up to then."""
    found: List[float] = []
    while True:
        deadline = outgoing.deadline()
        if deadline is None or deadline > until:
            return found
        if outgoing.due(deadline):
            found.append(deadline)


# What is sent again


def test_what_is_not_acknowledged_is_sent_again_ever_more_slowly() -> None:
    outgoing = filled(1)
    assert outgoing.due(0.0) == [(1, 1)]
    times = [0.0, *sent_again_at(outgoing, 60.0)]
    gaps = [later - earlier for earlier, later in zip(times, times[1:])]
    assert gaps[:4] == [0.5, 1.0, 2.0, 4.0]
    assert set(gaps[3:]) == {4.0}


def test_what_is_acknowledged_is_not() -> None:
    outgoing = filled(2)
    outgoing.due(0.0)
    assert outgoing.acknowledged(1, 0.1)
    assert not outgoing.acknowledged(1, 0.2), "no news"
    assert not outgoing.acknowledged(3, 0.2), "was never said"
    assert outgoing.due(10.0) == [(2, 2)]
    assert len(outgoing) == 1


def test_when_all_is_acknowledged_nothing_is_due() -> None:
    outgoing = filled(1)
    assert outgoing.deadline() == float("-inf")
    outgoing.due(0.0)
    outgoing.acknowledged(1, 0.1)
    assert outgoing.deadline() is None and len(outgoing) == 0


@pytest.mark.parametrize("round_trip,least,most", [(0.02, 0.1, 0.1), (0.5, 0.5, 1.5), (9, 4, 4)])
def test_patience_follows_the_round_trip(round_trip: float, least: float, most: float) -> None:
    outgoing: Outgoing[int] = Outgoing()
    now = 0.0
    for number in range(1, 50):
        outgoing.add(number)
        outgoing.due(now)
        now += round_trip
        outgoing.acknowledged(number, now)
    outgoing.add(50)
    outgoing.due(now)
    deadline = outgoing.deadline()
    assert deadline is not None and least - 1e-6 <= deadline - now <= most + 1e-6


def test_a_message_that_was_sent_twice_measures_nothing() -> None:
    """Which of the two is acknowledged can't be told (Karn's algorithm)."""
    outgoing = filled(1)
    outgoing.due(0.0)
    outgoing.due(0.5)
    outgoing.acknowledged(1, 3.0)
    outgoing.add(2)
    outgoing.due(3.0)
    assert outgoing.deadline() == 3.5


def test_nor_does_one_that_was_on_its_way_while_the_path_was_down() -> None:
    outgoing = filled(1)
    outgoing.due(0.0)
    sent_again_at(outgoing, 60.0)
    outgoing.hurry(61.0)
    outgoing.acknowledged(1, 61.0)
    outgoing.add(2)
    outgoing.due(61.0)
    assert outgoing.deadline() == 61.5


def test_when_the_path_is_up_again_all_of_it_is_said_at_once() -> None:
    outgoing = filled(3)
    outgoing.due(0.0)
    sent_again_at(outgoing, 60.0)
    outgoing.hurry(61.0)
    assert outgoing.deadline() == 61.0
    assert numbers(outgoing.due(61.0)) == [1, 2, 3]
    assert outgoing.deadline() == 62.0, "and from then on with patience"


# How much at once


def test_as_many_as_the_window_has_room_for() -> None:
    outgoing = filled(100)
    assert numbers(outgoing.due(0.0)) == list(range(1, 17))
    assert outgoing.due(0.1) == []
    for number in range(1, 17):
        outgoing.acknowledged(number, 0.1)
    assert numbers(outgoing.due(0.1)) == list(range(17, 17 + 32))


def test_a_lost_one_halves_the_window_once_a_round_trip() -> None:
    outgoing = filled(1000)
    under_way = numbers(outgoing.due(0.0))
    assert numbers(outgoing.due(0.5)) == under_way, "all of them were lost"
    for number in under_way:
        outgoing.acknowledged(number, 0.6)
    assert len(outgoing.due(0.6)) == 8 + 16


def test_however_much_is_lost_something_is_tried() -> None:
    outgoing = filled(1000)
    outgoing.due(0.0)
    sent_again_at(outgoing, 300.0)
    for number in range(1, 17):
        outgoing.acknowledged(number, 300.0)
    assert len(outgoing.due(300.0)) == 2 + 16


def test_no_sender_goes_further_ahead_than_the_receiver_keeps() -> None:
    outgoing = filled(1000)
    outgoing.due(0.0)
    for number in range(2, WINDOW + 1):  # the first is lost again and again
        outgoing.due(0.0)
        assert outgoing.acknowledged(number, 0.0)
    assert outgoing.due(0.1) == []
    assert outgoing.deadline() == 0.5
    outgoing.acknowledged(1, 0.2)
    assert numbers(outgoing.due(0.2))[0] == WINDOW + 1


@given(st.lists(st.integers(1, 40), max_size=100), st.integers(1, 400))
def test_the_window_is_bounded_however_it_is_acknowledged(order: List[int], count: int) -> None:
    outgoing, now = filled(count), 0.0
    for step in order:
        now += 0.01
        outgoing.due(now)
        under_way = list(outgoing._sent)
        assert not under_way or max(under_way) < min(under_way) + WINDOW
        for number in under_way[::step]:
            outgoing.acknowledged(number, now)


# What comes


def test_what_comes_early_waits_for_what_is_before_it() -> None:
    incoming: Incoming[str] = Incoming()
    assert incoming.heard(2, "b") and incoming.ready() == []
    assert incoming.heard(3, "c") and incoming.ready() == []
    assert incoming.heard(1, "a") and incoming.ready() == ["a", "b", "c"]
    assert incoming.ready() == []


def test_what_came_before_is_acknowledged_again_and_not_given_again() -> None:
    incoming: Incoming[str] = Incoming()
    incoming.heard(1, "a")
    incoming.ready()
    assert incoming.heard(1, "another") and incoming.ready() == []


def test_what_is_too_far_ahead_is_not_kept() -> None:
    incoming: Incoming[str] = Incoming()
    assert incoming.heard(WINDOW, "last that fits")
    assert not incoming.heard(WINDOW + 1, "too far")
    assert not incoming.heard(0, "no number")
    incoming.heard(1, "a")
    incoming.ready()
    assert incoming.heard(WINDOW + 1, "now it fits")


@given(st.permutations(range(1, 60)), st.lists(st.integers(1, 59), max_size=60))
def test_any_order_is_put_right(order: List[int], doubled: List[int]) -> None:
    incoming: Incoming[int] = Incoming()
    found: List[int] = []
    for number in itertools.chain(*itertools.zip_longest(order, doubled)):
        if number is not None:
            assert incoming.heard(number, number)
            found += incoming.ready()
    assert found == list(range(1, 60))


# Both together


class AnyCourse(RuleBasedStateMachine):
    """A sender and a receiver with a path between that loses, doubles, delays and reorders."""

    @initialize(loss=st.sampled_from((0.0, 0.1, 0.5)), random=st.randoms(use_true_random=False))
    def build(self, loss: float, random: Random) -> None:
        self.loss, self.random = loss, random
        self.outgoing: Outgoing[int] = Outgoing()
        self.incoming: Incoming[int] = Incoming()
        self.now = 0.0
        self.added = 0
        self.given: List[int] = []
        self.confirmed: List[int] = []
        self.said = 0
        # When, a number that keeps the heap's order, whether it is an acknowledgement, of what.
        self.under_way: "List[Tuple[float, int, bool, int]]" = []
        self.order = itertools.count()

    @rule(count=st.integers(1, 400))
    def the_sender_has_more(self, count: int) -> None:
        for _ in range(count):
            self.added += 1
            assert self.outgoing.add(self.added) == self.added

    @rule(seconds=st.floats(0.001, 5.0))
    def time_passes(self, seconds: float) -> None:
        end = self.now + seconds
        while True:
            deadline = self.outgoing.deadline()
            times = [end] if deadline is None else [end, max(self.now, deadline)]
            self.now = min([*times, *(self.under_way[0][:1] if self.under_way else ())])
            if self.now >= end:
                return
            self.arrive()
            for number, message in self.outgoing.due(self.now):
                assert number == message
                self.said += 1
                self.send(False, number)
            after = self.outgoing.deadline()
            assert after is None or after > self.now, "would come again and again"

    @rule(seconds=st.floats(0.1, 100.0))
    def the_path_is_down(self, seconds: float) -> None:
        self.under_way.clear()
        self.now += seconds

    @rule()
    def the_path_is_up(self) -> None:
        self.outgoing.hurry(self.now)

    def send(self, acknowledges: bool, number: int) -> None:
        for _ in range(2 if self.random.random() < 0.2 else 1):
            if self.random.random() >= self.loss:
                when = self.now + self.random.uniform(0.01, 0.3)
                heapq.heappush(self.under_way, (when, next(self.order), acknowledges, number))

    def arrive(self) -> None:
        while self.under_way and self.under_way[0][0] <= self.now:
            _, _, acknowledges, number = heapq.heappop(self.under_way)
            if not acknowledges:
                assert self.incoming.heard(number, number), "the receiver keeps all that is sent"
                self.send(True, number)
                self.given += self.incoming.ready()
            elif self.outgoing.acknowledged(number, self.now):
                self.confirmed.append(number)

    @invariant()
    def each_is_given_once_and_in_order(self) -> None:
        if hasattr(self, "outgoing"):
            assert self.given == list(range(1, len(self.given) + 1))
            assert len(set(self.confirmed)) == len(self.confirmed)
            assert len(self.outgoing) + len(self.confirmed) == self.added
            assert len(self.outgoing._sent) <= WINDOW
            assert len(self.incoming._early) <= WINDOW

    def teardown(self) -> None:
        if hasattr(self, "outgoing"):
            self.loss = 0.0
            self.said = 0
            for _ in range(1000):
                if not len(self.outgoing):
                    break
                self.time_passes(1.0)
            assert self.given == list(range(1, self.added + 1))
            assert self.outgoing.deadline() is None
            assert self.said <= 3 * self.added + 20


AnyCourse.TestCase.settings = settings(max_examples=40, stateful_step_count=20, deadline=None)
TestAnyCourse = AnyCourse.TestCase
