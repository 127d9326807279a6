"""What workers have counted: nothing is lost and nothing twice, whoever is killed."""

from __future__ import annotations

from collections import Counter
from typing import List

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from udppunch.proto.tally import Tally

WORKERS = 3
workers = st.integers(0, WORKERS - 1)


def test_a_worker_tells_all_that_it_has_counted_each_time() -> None:
    tally = Tally(Counter(), None)
    tally.began(0, 100)
    tally.heard(0, {"datagrams": 5})
    tally.heard(0, {"datagrams": 7, "drops": 1})
    tally.heard(1, {"datagrams": 2})
    assert tally.all() == {"datagrams": 9, "drops": 1}
    assert tally.lasting() == {}


def test_what_a_worker_told_is_kept_as_it_was() -> None:
    counters = Counter(datagrams=1)
    tally = Tally(Counter(), None)
    tally.heard(0, counters)
    counters["datagrams"] = 100
    assert tally.all() == {"datagrams": 1}
    tally.all()["datagrams"] = 100
    tally.lasting()["datagrams"] = 100
    assert tally.all() == {"datagrams": 1} and tally.lasting() == {}


def test_a_process_that_says_twice_that_it_began_counts_once() -> None:
    tally = Tally(Counter(), {"datagrams": 1})
    for _ in range(3):
        tally.began(0, 100)
        tally.heard(0, {"datagrams": 5})
    assert tally.all() == {"datagrams": 6} and tally.lasting() == {"datagrams": 1}
    for _ in range(3):
        tally.began(0, 101)
    assert tally.all() == tally.lasting() == {"datagrams": 6}


class Worker:
    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.counters: "Counter[str]" = Counter()


class AnyCourse(RuleBasedStateMachine):
    """Workers count, tell and are killed, and so is the registrar: `told` is to be there."""

    @initialize()
    def begin(self) -> None:
        self.pids = iter(range(1, 1_000_000))
        self.told: "Counter[str]" = Counter()
        self.own: "Counter[str]" = Counter()
        self.tally = Tally(self.own, None)
        self.workers = [Worker(next(self.pids)) for _ in range(WORKERS)]
        for number in range(WORKERS):
            self.tally.began(number, self.workers[number].pid)
        self.last: List["Counter[str]"] = [Counter() for _ in range(WORKERS)]

    @rule(worker=workers, what=st.sampled_from("ab"), count=st.integers(1, 9))
    def one_counts(self, worker: int, what: str, count: int) -> None:
        self.workers[worker].counters[what] += count

    @rule(worker=workers)
    def one_tells(self, worker: int) -> None:
        counters = self.workers[worker].counters
        self.tally.heard(worker, counters)
        self.told += counters - self.last[worker]
        self.last[worker] = Counter(counters)

    @rule(worker=workers)
    def one_is_killed(self, worker: int) -> None:
        self.workers[worker] = Worker(next(self.pids))
        self.tally.began(worker, self.workers[worker].pid)
        self.last[worker] = Counter()

    @rule(count=st.integers(1, 9))
    def the_registrar_counts(self, count: int) -> None:
        self.own["a"] += count
        self.told["a"] += count

    @rule()
    def the_registrar_is_killed(self) -> None:
        lasting, self.own = dict(self.tally.lasting()), Counter()
        self.tally = Tally(self.own, lasting)
        for number in range(WORKERS):
            self.tally.began(number, self.workers[number].pid)
            self.one_tells(number)

    @invariant()
    def all_is_there(self) -> None:
        assert self.tally.all() == self.told


TestAnyCourse = AnyCourse.TestCase
TestAnyCourse.settings = settings(max_examples=100, stateful_step_count=40)
