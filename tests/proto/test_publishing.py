"""A helper's registrar: whose each service is, as it is told to all workers, in any course."""

from __future__ import annotations

import logging
from typing import Dict, List, Optional, Tuple

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from udppunch import address
from udppunch.proto.expose.connectees import COUNTS
from udppunch.proto.expose.publishing import Publishing
from udppunch.wire.registrar import (
    Claim,
    Complete,
    Counted,
    Held,
    Message,
    Peer,
    Publish,
    Ready,
    Recall,
)

NAMES = ("", "game")


def peer(number: int, worker: int = 0, port: int = 4000) -> Peer:
    return Peer(address.pack(f"198.51.{100 + number}.7", port), worker, 0, b"")


A, B, C = peer(0), peer(1), peer(2)


def no_counts(workers: int) -> List[memoryview]:
    """Of each service's connectees."""
    return [memoryview(bytearray(4 * COUNTS * workers)).cast("I") for _ in NAMES]


class Told:
    """A registrar, and what it has told to whom since the last look."""

    def __init__(self, workers: int = 2, before: Optional[Dict[str, int]] = None) -> None:
        self._told: List[Tuple[int, Message]] = []
        self.counts = no_counts(workers)
        self.subject = Publishing(NAMES, workers, self._tell, self.counts, before)

    def _tell(self, worker: int, message: Message, now: float) -> None:
        self._told.append((worker, message))

    def hear(self, worker: int, *messages: Message, now: float = 0.0) -> List[Tuple[int, Message]]:
        for message in messages:
            self.subject.hear(worker, message, now)
        return self.look()

    def look(self) -> List[Tuple[int, Message]]:
        told, self._told = self._told, []
        return told


def to_all(*messages: Message, workers: int = 2) -> List[Tuple[int, Message]]:
    return [(worker, message) for message in messages for worker in range(workers)]


def test_the_last_that_claims_a_service_has_it() -> None:
    told = Told()
    assert told.hear(0, Claim(0, A)) == to_all(Publish(0, A))
    assert told.hear(1, Claim(0, B)) == to_all(Publish(0, B))
    assert told.hear(0, Claim(0, A)) == to_all(Publish(0, A))
    assert told.subject.counters == {"exposers changed": 3}


def test_one_that_claims_what_it_has_is_no_news() -> None:
    told = Told()
    told.hear(0, Claim(0, A))
    assert told.hear(0, *[Claim(0, A)] * 100) == [(0, Publish(0, A))] * 100, "as it waits for"
    assert told.subject.tally.all() == {"exposers changed": 1}


def test_the_same_address_by_another_worker_is_told_and_is_no_other_exposer() -> None:
    told = Told()
    told.hear(0, Claim(0, A))
    for changed in (A._replace(worker=1), A._replace(listener=1), A._replace(local=b"\x7f\0\0\1")):
        assert told.hear(1, Claim(0, changed)) == to_all(Publish(0, changed))
    assert told.subject.counters == {"exposers changed": 1}
    other_port = peer(0, port=4001)
    assert told.hear(0, Claim(0, other_port)) == to_all(Publish(0, other_port))
    assert told.subject.counters == {"exposers changed": 2}


def test_services_are_apart() -> None:
    told = Told()
    told.hear(0, Claim(0, A), Claim(1, B))
    assert told.hear(0, Claim(0, C)) == to_all(Publish(0, C))
    assert set(told.hear(1, Ready(7))) == {
        (1, Publish(0, C)),
        (1, Publish(1, B)),
        (1, Complete()),
    }
    assert told.subject.gauges() == {"exposers": 2, "connectees": 0}


def test_an_address_speaks_for_one_service() -> None:
    """Two exposers behind one NAT that gave their ports anew, the one to the other."""
    told = Told()
    told.hear(0, Claim(0, A), Claim(1, B))
    assert told.hear(0, Claim(0, B)) == to_all(Publish(0, B))
    assert set(told.hear(1, Ready(7))) == {(1, Publish(0, B)), (1, Complete())}
    assert told.subject.gauges() == {"exposers": 1, "connectees": 0}


@pytest.mark.parametrize("before", [None, {}, {"dropped": 1}])
def test_one_that_begins_anew_asks_the_workers_and_the_first_does_not(
    before: Optional[Dict[str, int]],
) -> None:
    told = Told(3, before)
    told.subject.start(0.0)
    assert told.look() == ([] if before is None else to_all(Recall(), workers=3))


def test_a_worker_that_begins_is_told_all_and_then_that_this_was_all() -> None:
    told = Told()
    assert told.hear(0, Ready(100)) == [(0, Complete())]
    told.hear(0, Claim(1, A))
    assert told.hear(1, Ready(101)) == [(1, Publish(1, A)), (1, Complete())]
    assert told.hear(0, Held(102)) == []


def test_what_workers_count_is_added_up_and_survives_them() -> None:
    told = Told()
    told.hear(0, Ready(1), Counted({"connectees idle": 5}))
    told.hear(1, Ready(2), Counted({"connectees idle": 7, "dropped": 1}))
    told.hear(0, Counted({"connectees idle": 6}))
    assert told.subject.tally.all() == {"connectees idle": 13, "dropped": 1}
    told.hear(0, Ready(3), Counted({"connectees idle": 2}), Ready(4))
    told.hear(0, Claim(0, A))
    both = {"connectees idle": 15, "dropped": 1, "exposers changed": 1}
    assert told.subject.tally.all() == both
    successor = Told(before=dict(told.subject.tally.lasting()))
    successor.hear(1, Held(2), Counted({"connectees idle": 7, "dropped": 1}))
    successor.hear(0, Held(4))
    assert successor.subject.tally.all() == both


def test_its_status_says_how_many_exposers_and_connectees_there_are() -> None:
    told = Told()
    assert told.subject.status() == "0 of 2 services have an exposer, 0 connectees"
    told.hear(0, Claim(1, A))
    for counts, of_service in zip(told.counts, ([3, 0, 70, 70], [2, 1, 70, 70])):
        for place, count in enumerate(of_service):
            counts[place] = count  # the last two are of newcomers that were refused
    assert told.subject.status() == "1 of 2 services have an exposer, 6 connectees"
    assert told.subject.gauges() == {"exposers": 1, "connectees": 6}


def test_it_has_nothing_to_wait_for() -> None:
    subject = Told().subject
    assert subject.deadline() is None and not subject.drained
    subject.drain()
    assert subject.drained


def test_exposers_that_take_turns_do_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    told = Told()
    for number in range(10_000):
        told.hear(0, Claim(0, peer(number % 2)), now=number / 1000)
    assert [record.getMessage() for record in caplog.records] == [
        "the service is at 198.51.100.7:4000 now"
    ]
    told.hear(0, Claim(1, B), now=10.0)
    told.hear(0, Claim(0, A), now=60.0)
    assert [record.getMessage() for record in caplog.records[1:]] == [
        "service game is at 198.51.101.7:4000 now",
        "the service is at 198.51.100.7:4000 now (9999 more of this kind in between)",
    ]
    assert told.subject.counters["exposers changed"] == 10_002


# --- any course ------------------------------------------------------------------------------


def published(before: Dict[int, Peer], service: int, peer: Peer) -> Dict[int, Peer]:
    others = {s: p for s, p in before.items() if p.address != peer.address}
    return {**others, service: peer}


class Worker:
    """What a worker knows: as `role.helper`, it keeps the last it was told."""

    def __init__(self) -> None:
        self.inbox: List[Message] = []
        self.exposers: Dict[int, Peer] = {}
        self.complete = False

    def read(self) -> Optional[Message]:
        message = self.inbox.pop(0)
        if isinstance(message, Publish):
            self.exposers = published(self.exposers, message.service, message.peer)
        self.complete |= isinstance(message, Complete)
        return message


class AnyCourse(RuleBasedStateMachine):
    """Workers and the registrar, each of which may be killed; what is said arrives in order."""

    def __init__(self) -> None:
        super().__init__()
        self.published: Dict[int, Peer] = {}

    @initialize(workers=st.integers(1, 3))
    def begin(self, workers: int) -> None:
        self.workers = [Worker() for _ in range(workers)]
        self.subject = self._registrar(None)
        for number in range(workers):
            self.subject.hear(number, Ready(number), 0.0)

    def _registrar(self, before: Optional[Dict[str, int]]) -> Publishing:
        workers = len(self.workers)
        subject = Publishing(NAMES, workers, self._tell, no_counts(workers), before)
        subject.start(0.0)
        return subject

    def _tell(self, worker: int, message: Message, now: float) -> None:
        self.workers[worker].inbox.append(message)

    @rule(worker=st.integers(0, 2), service=st.integers(0, 1), number=st.integers(0, 2))
    def claim(self, worker: int, service: int, number: int) -> None:
        claimed = peer(number, worker % len(self.workers))
        self.subject.hear(claimed.worker, Claim(service, claimed), 0.0)
        self.published = published(self.published, service, claimed)

    @rule(worker=st.integers(0, 2), count=st.integers(0, 5))
    def reads(self, worker: int, count: int) -> None:
        subject = self.workers[worker % len(self.workers)]
        while subject.inbox and count:
            subject.read()
            count -= 1

    @rule(worker=st.integers(0, 2))
    def worker_is_killed(self, worker: int) -> None:
        worker %= len(self.workers)
        self.workers[worker] = Worker()
        self.subject.hear(worker, Ready(100), 0.0)

    @precondition(lambda self: not any(worker.inbox for worker in self.workers))
    @rule(data=st.data())
    def registrar_is_killed(self, data: st.DataObject) -> None:
        """All workers know the same; they say so in any order."""
        self.subject = self._registrar({})
        for number in data.draw(st.permutations(range(len(self.workers)))):
            worker = self.workers[number]
            assert isinstance(worker.read(), Recall)
            for service, exposer in worker.exposers.items():
                self.subject.hear(number, Claim(service, exposer), 0.0)
            self.subject.hear(number, Held(number), 0.0)

    @invariant()
    def all_come_to_know_the_same(self) -> None:
        assert self.subject.gauges()["exposers"] == len(self.published)
        for worker in self.workers:
            known = worker.exposers
            for message in worker.inbox:
                if isinstance(message, Publish):
                    known = published(known, *message)
            assert known == self.published
            assert worker.inbox.count(Complete()) == (not worker.complete), "once"


TestAnyCourse = AnyCourse.TestCase
TestAnyCourse.settings = settings(max_examples=200, stateful_step_count=50, deadline=None)
