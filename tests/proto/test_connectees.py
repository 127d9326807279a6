"""The connectees of a service: their bound over all workers, floods, and any course of events."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Dict, List, Optional, Tuple

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from udppunch import address
from udppunch.address import Address
from udppunch.proto.expose.connectees import COUNTS, Connectees
from udppunch.proto.expose.eviction import PROTECTED
from udppunch.proto.expose.tags import SHARED_OCTETS, Connectee, Holder, Shared
from udppunch.wire.expose import NEVER_A_TAG, TAG, TAGS

IDLE = 30.0
# So many workers have but eight tags each, and a short course goes around them.
MANY = 8192
EACH = TAGS // MANY
ASKED = (b"", bytes([192, 0, 2, 1]), bytes([192, 0, 2, 2]))


def empty() -> Shared:
    return Shared(memoryview(bytearray(SHARED_OCTETS)))


def no_counts(workers: int) -> memoryview:
    return memoryview(bytearray(4 * COUNTS * workers)).cast("I")


def head_of(connectee: Connectee) -> bytes:
    return b"of " + connectee.address + connectee.local


def one(number: int, port: int = 4000) -> Address:
    """Each of a network of its own."""
    return address.pack(f"10.{number >> 8 & 255}.{number & 255}.9", port)


class Service:
    """The workers of one service, or the first of many, and what they share."""

    def __init__(self, workers: int, most: int, start: int = 1, all_: int = 0) -> None:
        self.shared = empty()
        self.counts = no_counts(all_ or workers)
        self.most = most
        self.workers = [self.worker(number, start, 0.0) for number in range(workers)]

    def worker(self, number: int, start: int, now: float) -> Connectees:
        return Connectees(self.shared, self.counts, number, self.most, start, head_of, now)

    def answer(self, tag: int, now: float) -> None:
        self.shared.answered[tag] = max(1, int(now))

    def __len__(self) -> int:
        return sum(map(len, self.workers))

    @property
    def held(self) -> List[int]:
        """How many each worker has, as the others see it."""
        return list(self.counts[: len(self.workers)])


def admitted(subject: Connectees, source: Address, now: float, local: bytes = b"") -> Holder:
    assert subject.find(source, local, now) is None
    holder = subject.admit(source, local, now)
    assert holder is not None and subject.find(source, local, now) is holder
    return holder


def gone(subject: Connectees) -> List[Connectee]:
    """Who has lost its tag since the last look."""
    found = [holder.connectee for holder in subject.gone]
    assert all(holder.gone for holder in subject.gone)
    subject.gone.clear()
    return found


def known(subject: Connectees, *sources: Address, now: float) -> List[bool]:
    return [subject.find(source, b"", now) is not None for source in sources]


def test_a_holder_has_what_goes_before_the_datagrams() -> None:
    (subject,) = Service(1, 4, start=258).workers
    holder = admitted(subject, one(1), 0.0, ASKED[1])
    assert holder.tag == 258 and holder.connectee == (one(1), ASKED[1])
    assert holder.head == b"\x01\x02of " + one(1) + ASKED[1]


def test_one_that_asked_two_addresses_is_two() -> None:
    (subject,) = Service(1, 10).workers
    holders = [admitted(subject, one(1, port), 0.0, asked) for port in (1, 2) for asked in ASKED]
    assert len({holder.tag for holder in holders}) == len(subject) == 6


def test_the_unanswered_make_room_and_the_answered_are_kept() -> None:
    service = Service(1, 3)
    (subject,) = service.workers
    tags = [admitted(subject, one(number), float(number)).tag for number in range(3)]
    service.answer(tags[0], 3.0)
    admitted(subject, one(3), 4.0)
    assert gone(subject) == [(one(1), b"")]
    assert len(subject) == 3 and service.shared.read(tags[1]) is None
    assert known(subject, one(0), one(1), one(2), one(3), now=4.0) == [True, False, True, True]


def test_where_all_were_answered_newcomers_wait_until_one_is_silent() -> None:
    service = Service(1, 2)
    (subject,) = service.workers
    for number in range(2):
        service.answer(admitted(subject, one(number), 1.0).tag, 1.0)
    subject.find(one(0), b"", 5.0)
    assert subject.admit(one(2), b"", PROTECTED + 0.9) is None
    assert len(subject) == service.counts[0] == 2
    assert known(subject, one(2), now=PROTECTED + 0.9) == [False]
    admitted(subject, one(2), PROTECTED + 1.0)
    assert known(subject, one(0), one(1), now=PROTECTED + 1.0) == [True, False]


def test_the_idle_are_freed() -> None:
    service = Service(1, 4)
    (subject,) = service.workers
    tags = [admitted(subject, one(number), 0.0).tag for number in range(3)]
    service.answer(tags[0], 10.0)
    subject.find(one(1), b"", 20.0)
    for now, over in [(IDLE - 0.1, []), (IDLE, [2]), (10.0 + IDLE, [0]), (20.0 + IDLE, [1])]:
        subject.expire(now, IDLE)
        assert gone(subject) == [(one(number), b"") for number in over]
        assert not any(known(subject, *map(one, over), now=now))
    assert len(subject) == service.counts[0] == 0 and subject.all() == []
    again = admitted(subject, one(0), 60.0)
    assert again.tag not in tags and again.head[:2] == TAG.pack(again.tag)


def test_the_bound_is_for_all_workers() -> None:
    service = Service(2, 3)
    first, second = service.workers
    admitted(first, one(1), 0.0)
    admitted(first, one(2), 0.0)
    admitted(second, one(3), 0.0)
    admitted(second, one(4), 0.0)
    assert service.held == [2, 1] and known(second, one(3), now=0.0) == [False]
    first.expire(IDLE, IDLE)
    assert service.held == [0, 1]
    admitted(second, one(3), IDLE)
    assert service.held == [0, 2]


def test_a_worker_that_has_no_room_is_made_some_by_another() -> None:
    service = Service(3, 4)
    first, second, third = service.workers
    for number in range(4):
        admitted(service.workers[number % 2], one(number), float(number))
    for _ in range(10):
        assert third.admit(one(9), b"", 5.0) is None
    for subject in service.workers:
        subject.expire(6.0, IDLE)
    assert gone(first) == [(one(0), b"")] and gone(second) == []
    assert service.held == [1, 2, 0]
    admitted(third, one(9), 6.0)
    for subject in service.workers:
        subject.expire(7.0, IDLE)
    assert service.held == [1, 2, 1], "that was long heard"


def test_nobody_makes_room_who_has_to_keep_it() -> None:
    service = Service(2, 2)
    for number in range(2):
        service.answer(admitted(service.workers[0], one(number), 1.0).tag, 1.0)
    assert service.workers[1].admit(one(9), b"", 2.0) is None
    service.workers[0].expire(2.0, IDLE)
    assert service.held == [2, 0] and gone(service.workers[0]) == []


def test_a_flood_at_one_worker_takes_one_place_of_all_the_others() -> None:
    service, chance = Service(4, 64), random.Random(1)
    for number in range(64):
        subject = service.workers[number % 3]
        service.answer(admitted(subject, one(number), 1.0).tag, 1.0)
    now = 1.0 + PROTECTED
    for _ in range(10):
        now += 1.0
        for _ in range(1000):
            service.workers[3].admit(spoofed(chance), b"", now)
        for subject in service.workers:
            subject.expire(now, 300.0)
    assert sum(service.held[:3]) == 63 and service.held[3] == 1


def test_a_worker_whose_own_tags_are_all_taken_issues_them_anew() -> None:
    service = Service(2, TAGS - 1, all_=MANY)
    subject = service.workers[1]
    for number in range(EACH):
        admitted(subject, one(number), 0.0)
    admitted(subject, one(100), 1.0)
    assert service.held == [0, EACH]
    assert known(subject, one(0), one(1), now=1.0) == [False, True]


def test_a_successor_goes_on_with_the_same_tags_and_heads() -> None:
    service = Service(2, 4)
    before = [admitted(service.workers[1], one(number), 1.0) for number in range(3)]
    service.answer(before[1].tag, 2.0)
    service.counts[1] = 77  # whatever the one before left there
    subject = service.worker(1, 9, 3.0)
    assert len(subject) == service.counts[1] == 3
    for number, former in enumerate(before):
        holder = subject.find(one(number), b"", 3.0)
        assert holder is not None and (holder.tag, holder.head) == (former.tag, former.head)
    admitted(subject, one(3), 3.0)
    admitted(subject, one(4), 3.0)
    assert len(subject) == 4 and known(subject, one(1), now=3.0) == [True]


def spoofed(chance: random.Random) -> Address:
    """From anywhere, but for the networks that `one` has."""
    return Address(bytes([chance.randrange(11, 224)]) + chance.randbytes(5))


@pytest.mark.parametrize("workers", [1, 3])
def test_a_flood_of_spoofed_newcomers_sends_nobody_away_who_was_answered(workers: int) -> None:
    service, chance = Service(workers, 64, start=TAGS - 1000), random.Random(1)
    kept: Dict[Address, Tuple[Connectees, int]] = {}
    for number in range(40):
        subject = service.workers[number % workers]
        kept[one(number)] = (subject, admitted(subject, one(number), 0.0).tag)
    refused = 0
    for second in range(1, 101):
        now = float(second)
        for number, (source, (subject, tag)) in enumerate(kept.items()):
            # Some speak and are answered now and then, some only listen.
            if number % 2 or second % 7 == 1:
                service.answer(tag, now)
            else:
                assert known(subject, source, now=now) == [True]
        for number in range(1000):
            holder = service.workers[number % workers].admit(spoofed(chance), b"", now)
            refused += holder is None
            assert holder is None or holder.tag not in (0, NEVER_A_TAG)
            assert sum(service.held) <= 64
        assert len(service) == sum(service.held) == 64
    assert refused == 0
    assert {len(gone(subject)) > 30_000 for subject in service.workers} == {True}
    for source, (subject, tag) in kept.items():
        holder = subject.find(source, b"", 100.0)
        assert holder is not None and holder.tag == tag
    in_use = [tag for worker in range(workers) for tag in service.shared.in_use(worker, workers)]
    assert len(in_use) == 64
    for subject in service.workers:
        subject.expire(100.0 + IDLE, IDLE)
        assert len(subject) == 0


def test_a_flood_takes_one_place_of_those_who_were_answered_long_ago() -> None:
    service, chance = Service(1, 64), random.Random(1)
    (subject,) = service.workers
    for number in range(64):
        service.answer(admitted(subject, one(number), 1.0).tag, 1.0)
    assert subject.admit(spoofed(chance), b"", 2.0) is None
    for _ in range(100_000):
        assert subject.admit(spoofed(chance), b"", 1.0 + PROTECTED) is not None
    assert sum(known(subject, *map(one, range(64)), now=1.0 + PROTECTED)) == 63


# --- any course ------------------------------------------------------------------------------


@dataclass
class Model:
    tag: int
    issued: float
    active: float
    answered: int = 0

    @property
    def seen(self) -> float:
        return max(self.active, float(self.answered))


callers = st.builds(Connectee, st.integers(0, 5).map(one), st.sampled_from(ASKED))


class AnyCourse(RuleBasedStateMachine):
    """Each worker's connectees, and what is known of them, as plain dictionaries."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1.0

    @initialize(
        workers=st.sampled_from((2, 3, 1)),
        most=st.sampled_from((2, 3, 5, 20)),
        start=st.integers(0, 2**16),
    )
    def begin(self, workers: int, most: int, start: int) -> None:
        self.service = Service(workers, most, start, all_=MANY)
        self.held: List[Dict[Connectee, Model]] = [{} for _ in range(workers)]
        self.refused = 0
        self.heeded = [0] * workers

    @rule(worker=st.integers(0, 2), from_whom=st.lists(callers, min_size=1, max_size=6))
    def datagrams(self, worker: int, from_whom: List[Connectee]) -> None:
        for who in from_whom:
            self._datagram(worker % len(self.held), who)

    def _datagram(self, worker: int, who: Connectee) -> None:
        subject, held = self.service.workers[worker], self.held[worker]
        holder = subject.find(*who, self.now)
        assert (holder is not None) == (who in held)
        if holder is None:
            room = EACH - (worker == 0)  # 0 is no tag
            full = len(held) == room or sum(map(len, self.held)) >= self.service.most
            next_to_go = self._next_to_go(held) if full else []
            gone(subject)
            holder = subject.admit(*who, self.now)
            if full and not next_to_go:
                assert holder is None
                self.refused += 1
                return
            assert holder is not None
            evicted = gone(subject)
            assert len(evicted) == full and set(evicted) <= set(next_to_go)
            for each in evicted:
                del held[each]
            held[who] = Model(holder.tag, self.now, self.now)
        held[who].active = self.now
        assert holder.connectee == who and holder.tag == held[who].tag
        assert holder.head == TAG.pack(holder.tag) + head_of(who)
        assert holder.tag % MANY == worker and holder.tag != 0

    def _next_to_go(self, held: Dict[Connectee, Model]) -> List[Connectee]:
        """One of these; they came, or were last heard, at the same moment."""
        unanswered = {who: model.issued for who, model in held.items() if not model.answered}
        silent = {
            who: model.seen for who, model in held.items() if self.now >= model.seen + PROTECTED
        }
        turns = unanswered or silent
        return [who for who, turn in turns.items() if turn == min(turns.values())]

    @rule(worker=st.integers(0, 2), count=st.integers(0, 4))
    def answers(self, worker: int, count: int) -> None:
        for model in list(self.held[worker % len(self.held)].values())[:count]:
            self.service.answer(model.tag, self.now)
            model.answered = max(1, int(self.now))

    @rule(seconds=st.sampled_from((0.25, 1.0, 4.0, 11.0, IDLE)))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    @rule(worker=st.integers(0, 2))
    def expire(self, worker: int) -> None:
        worker %= len(self.held)
        subject, held = self.service.workers[worker], self.held[worker]
        gone(subject)
        over = [who for who, model in held.items() if self.now >= model.seen + IDLE]
        for who in over:
            del held[who]
        full = sum(map(len, self.held)) >= self.service.most
        wanted = full and self.heeded[worker] != self.refused
        for_room = self._next_to_go(held) if wanted else []
        self.heeded[worker] = self.refused
        subject.expire(self.now, IDLE)
        found = gone(subject)
        assert sorted(found[: len(over)]) == sorted(over)
        assert len(found[len(over) :]) == bool(for_room), "one, where another was refused"
        for who in found[len(over) :]:
            assert who in for_room
            del held[who]

    @rule(worker=st.integers(0, 2), start=st.integers(0, 2**16))
    def succeed(self, worker: int, start: int) -> None:
        """A worker is killed, and another takes its place."""
        worker %= len(self.held)
        self.service.workers[worker] = self.service.worker(worker, start, self.now)
        self.heeded[worker] = self.refused
        for model in self.held[worker].values():
            model.issued = model.active = self.now

    @invariant()
    def as_the_model(self) -> None:
        found: Dict[int, Optional[Connectee]] = {}
        for worker, (subject, held) in enumerate(zip(self.service.workers, self.held)):
            assert len(subject) == self.service.counts[worker] == len(held)
            assert not set(found) & {model.tag for model in held.values()}, "two have one tag"
            found.update({model.tag: who for who, model in held.items()})
            known = {each.connectee: (each.tag, each.answered) for each in subject.all()}
            assert known == {who: (model.tag, model.answered > 0) for who, model in held.items()}
        assert len(found) == sum(map(len, self.held)) <= self.service.most
        assert {tag: self.service.shared.read(tag) for tag in found} == found


TestAnyCourse = AnyCourse.TestCase
TestAnyCourse.settings = settings(max_examples=200, stateful_step_count=60, deadline=None)
