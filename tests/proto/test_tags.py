"""Tags: the slots that workers share, who is sent away for whom, and any course of events.

A worker of 8,192 has but eight tags, so that a short course goes around them many times.
"""

from __future__ import annotations

import random
import struct
from dataclasses import dataclass
from typing import Dict, List, Optional, Set

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from udppunch import address
from udppunch.proto.expose.eviction import PROTECTED, Eviction
from udppunch.proto.expose.tags import SHARED_OCTETS, Connectee, Holder, Shared, Tags
from udppunch.wire.expose import NEVER_A_TAG, SIGNED, TAG, TAGS

WORKERS = 8192
EACH = TAGS // WORKERS
SLOT = 40

ports = st.integers(0, 65535)
ips = st.ip_addresses().map(str)
locals_ = st.just(b"") | st.binary(min_size=4, max_size=4) | st.binary(min_size=16, max_size=16)
connectees = st.builds(Connectee, st.builds(address.pack, ips, ports), locals_)
tags = st.integers(0, TAGS - 1)


def empty() -> Shared:
    return Shared(memoryview(bytearray(SHARED_OCTETS)))


def one(number: int) -> Connectee:
    """Each of a network of its own."""
    return Connectee(address.pack(f"10.{number >> 8 & 255}.{number & 255}.9", 4000), b"")


def answer(shared: Shared, tag: int, now: float) -> None:
    """As whichever worker hears the exposer notes it."""
    shared.answered[tag] = max(1, int(now))


def issued(subject: Tags, count: int, now: float = 0.0, first: int = 0) -> List[int]:
    return [admitted(subject, number, now).tag for number in range(first, first + count)]


def admitted(subject: Tags, number: int, now: float = 0.0) -> Holder:
    holder = subject.issue(one(number), now)
    assert holder is not None and holder.connectee == one(number)
    return holder


def hear(subject: Tags, number: int, now: float) -> None:
    """As whoever hears the connectee notes it."""
    subject.holders[one(number).address].active = now


def evicted(subject: Tags, now: float) -> Optional[Connectee]:
    holder = subject.evict(now)
    assert holder is None or holder.gone
    return None if holder is None else holder.connectee


def expired(subject: Tags, now: float, idle: float) -> List[Connectee]:
    holders = subject.expire(now, idle)
    assert all(holder.gone for holder in holders)
    return [holder.connectee for holder in holders]


# --- the slots -------------------------------------------------------------------------------


def test_golden_slot() -> None:
    memory = bytearray(SHARED_OCTETS)
    shared = Shared(memoryview(memory))
    asked = bytes([203, 0, 113, 7])
    shared.write(3, Connectee(address.pack("198.51.100.2", 258), asked))
    slot = memory[3 * SLOT : 4 * SLOT]
    (version,) = struct.unpack_from("=I", slot)
    assert version and version % 2 == 0
    assert slot[4:6] == bytes([6, 4])
    assert slot[6:24] == bytes([198, 51, 100, 2, 1, 2]) + bytes(12)
    assert slot[24:] == asked + bytes(12)
    assert not any(memory[: 3 * SLOT]) and not any(memory[4 * SLOT :])
    assert len(memory) == TAGS * (SLOT + 4 + 16)


@given(st.lists(st.tuples(tags, st.none() | connectees), max_size=20))
def test_a_slot_has_what_was_written_last(writes: "List[tuple[int, Optional[Connectee]]]") -> None:
    shared = empty()
    written: Dict[int, Optional[Connectee]] = {}
    for tag, connectee in writes:
        before = shared.version(tag)
        shared.write(tag, connectee)
        written[tag] = connectee
        assert shared.version(tag) not in (0, before), "readers keep what they read by version"
        assert {tag: shared.read(tag) for tag in written} == written
    for worker in range(3):
        theirs = {tag for tag, who in written.items() if who is not None and tag % 3 == worker}
        assert set(shared.in_use(worker, 3)) == theirs


@given(st.binary(min_size=SLOT, max_size=SLOT))
def test_any_bytes_in_a_slot_are_a_connectee_or_none(data: bytes) -> None:
    memory = bytearray(SHARED_OCTETS)
    memory[:SLOT] = data
    shared = Shared(memoryview(memory))
    found = shared.read(0)
    if struct.unpack_from("=I", data)[0] % 2:
        assert found is None
    elif found is not None:
        assert found.address == data[6 : 6 + min(data[4], 18)] and found.address
        assert found.local == data[24 : 24 + min(data[5], 16)]


class Meanwhile(Shared):
    """One whose slots somebody else writes in the middle of each of the next reads."""

    def __init__(self) -> None:
        super().__init__(memoryview(bytearray(SHARED_OCTETS)))
        self.soon: List[Connectee] = []

    def version(self, tag: int) -> int:
        if self.soon:
            connectee, *later = self.soon
            self.soon = []  # to write looks at the version too
            self.write(tag, connectee)
            self.soon = later
        return super().version(tag)


def test_what_changes_while_it_is_read_is_read_again_and_then_given_up() -> None:
    shared = Meanwhile()
    shared.write(5, one(1))
    shared.soon = [one(2)]
    assert shared.read(5) == one(2), "not the former one, which it had read"
    shared.soon = [one(3), one(4)]
    assert shared.read(5) is None
    assert shared.read(5) == one(4)


def test_a_writer_that_was_killed_leaves_a_slot_that_nobody_has() -> None:
    memory = bytearray(SHARED_OCTETS)
    shared = Shared(memoryview(memory))
    (tag,) = issued(Tags(shared, 5, WORKERS, 0, 0.0), 1)
    struct.pack_into("=I", memory, tag * SLOT, shared.version(tag) + 1)
    assert shared.read(tag) is None
    successor = Tags(shared, 5, WORKERS, 0, 0.0)
    assert len(successor) == 0
    assert tag in issued(successor, EACH)
    assert shared.read(tag) is not None and shared.version(tag) % 2 == 0


# --- which tags ------------------------------------------------------------------------------


@pytest.mark.parametrize("start", [0, 1, NEVER_A_TAG, TAGS - 1, TAGS, 2**32 - 1])
def test_tags_go_around_sixteen_bits_and_leave_two_out(start: int) -> None:
    assert TAG.pack(NEVER_A_TAG) == SIGNED[:2] == b"ey"
    shared = empty()
    subject = Tags(shared, 0, 1, start, 0.0)
    around = issued(subject, TAGS - 2)
    assert sorted(around) == [n for n in range(TAGS) if n not in (0, NEVER_A_TAG)]
    ascents = [(two - first) % TAGS for first, two in zip(around, around[1:])]
    assert set(ascents) <= {1, 2}, "one after the other"
    assert subject.full and subject.issue(one(TAGS - 1), 0.0) is None
    assert evicted(subject, 0.0) == one(0)
    assert issued(subject, 1) == around[:1]


def test_a_freed_tag_is_issued_again_only_after_all_others() -> None:
    """The exposer still has a socket of the former connectee's under it."""
    shared = empty()
    subject = Tags(shared, 0, 1, 100, 0.0)
    kept = issued(subject, 10)
    for tag in kept:
        answer(shared, tag, 0.0)
    seen: List[int] = []
    for number in range(10, TAGS - 2):
        seen += issued(subject, 1, first=number)
        assert evicted(subject, 0.0) == one(number)
    assert len(set(kept + seen)) == TAGS - 2
    assert issued(subject, 1, first=TAGS - 1) == seen[:1], "those that are kept are passed over"


@given(st.integers(1, 8), st.integers(0, TAGS))
def test_workers_issue_tags_of_their_own(workers: int, start: int) -> None:
    shared = empty()
    all_ = [Tags(shared, worker, workers, start, 0.0) for worker in range(workers)]
    found: Set[int] = set()
    for turn in range(5):
        for worker, subject in enumerate(all_):
            (tag,) = issued(subject, 1, first=turn * workers + worker)
            assert tag % workers == worker and tag not in found
            found.add(tag)


def test_the_worker_of_the_tags_that_are_never_issued_has_fewer() -> None:
    for never in (0, NEVER_A_TAG):
        subject = Tags(empty(), never % WORKERS, WORKERS, 3, 0.0)
        assert never not in issued(subject, EACH - 1)
        assert subject.issue(one(EACH), 0.0) is None


# --- who is sent away ------------------------------------------------------------------------


def test_whom_nobody_answered_goes_first_and_the_oldest_of_them() -> None:
    shared = empty()
    subject = Tags(shared, 1, WORKERS, 0, 0.0)
    found = [issued(subject, 1, now=float(number), first=number)[0] for number in range(4)]
    answer(shared, found[0], 5.0)
    answer(shared, found[2], 5.0)
    hear(subject, 3, 99.0)
    assert [evicted(subject, 100.0) for _ in range(2)] == [one(1), one(3)]
    assert [shared.read(tag) for tag in found] == [one(0), None, one(2), None]
    assert {evicted(subject, 100.0) for _ in range(2)} == {one(0), one(2)}
    assert evicted(subject, 100.0) is None and len(subject) == 0


def test_who_was_answered_is_safe_until_silent_for_a_while() -> None:
    shared = empty()
    subject = Tags(shared, 1, WORKERS, 0, 0.0)
    found = issued(subject, 2)
    answer(shared, found[0], 3.0)
    answer(shared, found[1], 3.0)
    assert evicted(subject, 3.0 + PROTECTED - 0.01) is None
    hear(subject, 0, 4.0)
    assert evicted(subject, 3.0 + PROTECTED) == one(1)
    assert evicted(subject, 4.0 + PROTECTED - 0.01) is None
    answer(shared, found[0], 9.0)
    assert evicted(subject, 9.0 + PROTECTED - 0.01) is None
    assert evicted(subject, 9.0 + PROTECTED) == one(0)


def test_the_quietest_of_the_answered_goes_whoever_came_first() -> None:
    shared = empty()
    subject = Tags(shared, 1, WORKERS, 0, 0.0)
    (older,) = issued(subject, 1)
    hear(subject, 0, 5.0)
    (younger,) = issued(subject, 1, now=10.0, first=1)
    answer(shared, older, 1.0)
    answer(shared, younger, 10.0)
    assert evicted(subject, 5.0 + PROTECTED + 1) == one(0), "silent for longer than the other"


def test_who_is_idle_is_freed_in_time_whoever_came_first() -> None:
    shared = empty()
    subject = Tags(shared, 1, WORKERS, 0, 0.0)
    issued(subject, 1)
    hear(subject, 0, 5.0)
    issued(subject, 1, now=10.0, first=1)
    assert expired(subject, 16.9, 12.0) == []
    assert expired(subject, 17.0, 12.0) == [one(0)]
    assert list(subject.holders) == [one(1).address]


def test_an_answer_keeps_a_connectee_that_says_nothing_itself() -> None:
    shared = empty()
    subject = Tags(shared, 1, WORKERS, 0, 0.0)
    (tag,) = issued(subject, 1)
    for second in range(0, 100, 5):
        answer(shared, tag, float(second))
        assert expired(subject, second + 5.0, 6.0) == []
    assert expired(subject, 95.0 + 6.0, 6.0) == [one(0)] and shared.read(tag) is None


def test_a_former_connectees_answers_are_not_the_next_ones() -> None:
    shared = empty()
    subject = Tags(shared, 1, WORKERS, 0, 0.0)
    for tag in issued(subject, EACH):
        answer(shared, tag, 50.0)
    assert len(expired(subject, 100.0, 10.0)) == EACH
    issued(subject, EACH, now=100.0, first=EACH)
    assert evicted(subject, 100.0) == one(EACH), "nobody answered it"


def test_a_successor_has_the_tags_and_the_answers_of_the_one_before() -> None:
    shared = empty()
    killed = Tags(shared, 1, WORKERS, 0, 0.0)
    found = issued(killed, 4)
    answer(shared, found[2], 7.0)
    killed.evict(8.0)
    subject = Tags(shared, 1, WORKERS, 5, 9.0)
    assert {holder.tag for holder in subject.holders.values()} == set(found[1:])
    assert issued(subject, EACH - 3, now=9.0, first=4)
    assert len({holder.tag for holder in subject.holders.values()}) == EACH and subject.full
    gone = [evicted(subject, 9.0) for _ in range(EACH)]
    assert gone[-1] is None and one(2) not in gone


def test_what_a_connectee_was_sent_is_its_own_account() -> None:
    shared = empty()
    subject = Tags(shared, 1, WORKERS, 0, 0.0)
    first, second = admitted(subject, 0), admitted(subject, 1)
    shared.add_returned(first.tag, 2, 3000)
    shared.add_returned(first.tag, 1, 2**40)
    answer(shared, first.tag, 0.0)
    told = [(one.answered, one.returned) for one in map(subject.look_at, (first, second))]
    assert told == [(True, (3, 3000 + 2**40)), (False, (0, 0))]
    shared.add_returned(second.tag, 1, 7)
    gone = subject.evict(1.0)
    assert gone is second and (gone.answered, gone.returned) == (False, (1, 7))
    (gone,) = subject.expire(50.0, 10.0)
    assert gone is first and (gone.answered, gone.returned) == (True, (3, 3000 + 2**40))
    again = issued(subject, EACH, now=50.0, first=2)
    assert {first.tag, second.tag} <= set(again)
    assert {shared.returned(tag) for tag in again} == {(0, 0)}


def test_what_is_kept_of_those_who_are_gone_is_bounded() -> None:
    shared = empty()
    subject = Tags(shared, 1, WORKERS, 0, 0.0)
    for tag in issued(subject, EACH - 1):
        answer(shared, tag, 0.0)
    for number in range(EACH, 10_000):
        issued(subject, 1, now=1.0, first=number)
        assert evicted(subject, 1.0) == one(number)
        assert len(subject._eviction._by_silence) < 100
    assert len(subject) == len(subject._taken) == EACH - 1 and not subject._eviction._unanswered


def test_the_quietest_of_many_is_found_whoever_came_and_went() -> None:
    """So many come and go that they are cleared away now and then."""
    seen: Dict[int, float] = {}
    subject: Eviction[int] = Eviction(lambda item: True, seen.__getitem__)
    chance = random.Random(1)
    for number in range(4000):
        now = number / 10
        seen[number] = now
        subject.add(number, now)
        for item in chance.sample(list(seen), min(2, len(seen))):
            seen[item] = now
        if len(seen) > 200:
            (gone,) = chance.sample(list(seen), 1)
            subject.remove(gone)
            del seen[gone]
        quietest = subject.silent(now, 0.0)
        assert quietest is not None and seen[quietest] == min(seen.values())
        assert subject.silent(now, now - seen[quietest] + 0.01) is None
        assert len(subject._by_silence) <= 2 * 201 + 65


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


class AnyCourse(RuleBasedStateMachine):
    """Two workers, one of which has the tag that is never issued, and who has which tag."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1.0
        self.shared = empty()
        self.workers = (7, NEVER_A_TAG % WORKERS)
        self.room = (EACH, EACH - 1)
        self.held: List[Dict[Connectee, Model]] = [{}, {}]

    @initialize(start=st.integers(0, 2**16))
    def begin(self, start: int) -> None:
        self.tags = [Tags(self.shared, w, WORKERS, start, self.now) for w in self.workers]

    @rule(side=st.integers(0, 1), number=st.integers(0, 11))
    def datagram(self, side: int, number: int) -> None:
        subject, held = self.tags[side], self.held[side]
        connectee = one(number)
        if connectee in held:
            hear(subject, number, self.now)
            held[connectee].active = self.now
            return
        full = len(held) == self.room[side]
        holder = subject.issue(connectee, self.now)
        assert (holder is None) == full
        if holder is None:
            return
        tag = holder.tag
        assert tag % WORKERS == self.workers[side]
        assert tag not in (0, NEVER_A_TAG)
        assert tag not in [model.tag for model in held.values()]
        held[connectee] = Model(tag, self.now, self.now)

    @rule(side=st.integers(0, 1), count=st.integers(0, 8))
    def answers(self, side: int, count: int) -> None:
        for model in list(self.held[side].values())[:count]:
            answer(self.shared, model.tag, self.now)
            model.answered = max(1, int(self.now))

    @rule(side=st.integers(0, 1))
    def evict(self, side: int) -> None:
        held = self.held[side]
        who = evicted(self.tags[side], self.now)
        unanswered = {each: model.issued for each, model in held.items() if not model.answered}
        if unanswered:
            assert who is not None and unanswered[who] == min(unanswered.values())
        elif held and self.now >= min(model.seen for model in held.values()) + PROTECTED:
            assert who is not None
            assert held[who].seen == min(model.seen for model in held.values())
        else:
            assert who is None
        if who is not None:
            assert self.shared.read(held.pop(who).tag) is None

    @rule(seconds=st.sampled_from((0.25, 1.0, 4.0, 11.0)))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    @rule(side=st.integers(0, 1), idle=st.sampled_from((0.5, 5.0, 15.0)))
    def expire(self, side: int, idle: float) -> None:
        held = self.held[side]
        over = [who for who, model in held.items() if self.now >= model.seen + idle]
        freed = expired(self.tags[side], self.now, idle)
        assert sorted(freed) == sorted(over)
        for who in over:
            del held[who]

    @precondition(lambda self: self.held[0])
    @rule(start=st.integers(0, 2**16), killed=st.booleans())
    def succeed(self, start: int, killed: bool) -> None:
        """The first worker dies, perhaps while it writes, and another takes its place."""
        held = self.held[0]
        if killed:
            who, model = next(iter(held.items()))
            self.shared.write(model.tag, who)
            version = self.shared.version(model.tag)
            struct.pack_into("=I", self.shared._memory, model.tag * SLOT, version - 1)
            del held[who]
        self.tags[0] = Tags(self.shared, self.workers[0], WORKERS, start, self.now)
        for model in held.values():
            model.issued = model.active = self.now

    @invariant()
    def as_the_model(self) -> None:
        for subject, held, worker in zip(self.tags, self.held, self.workers):
            assert len(subject) == len(held)
            found = {each.connectee: each.tag for each in subject.holders.values()}
            assert found == {who: model.tag for who, model in held.items()}
            assert list(subject.holders) == [who.address + who.local for who in found]
            assert len(set(found.values())) == len(found)
            slots = {tag: self.shared.read(tag) for tag in self.shared.in_use(worker, WORKERS)}
            assert slots == {model.tag: who for who, model in held.items()}

    @invariant()
    def tables_agree(self) -> None:
        for subject, held in zip(self.tags, self.held):
            assert subject._taken == {model.tag for model in held.values()}
            unanswered = {who for who, model in held.items() if not model.answered}
            oldest_first = [holder.connectee for holder in subject._eviction._unanswered]
            assert unanswered <= set(oldest_first) <= set(held)
            assert {entry[2].connectee for entry in subject._eviction._by_silence} >= set(held)


TestAnyCourse = AnyCourse.TestCase
TestAnyCourse.settings = settings(max_examples=200, stateful_step_count=60, deadline=None)
