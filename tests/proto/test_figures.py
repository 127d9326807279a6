"""The figures that are told over the wire: what each worker counts, and what all have counted."""

from __future__ import annotations

import json
from collections import Counter
from typing import Dict, List, Tuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.standin import expose as stand_in
from udppunch.proto.expose import figures
from udppunch.proto.expose.figures import Figures
from udppunch.wire import expose

NEVER = 0
AHEAD = 1_700_000_000.25  # Unix time, of the loop's clock
MOMENTS = ("last_ka_s", "last_client_s", "last_connectee_s")
COUNTS = tuple(name for name in stand_in.STATISTICS if name not in MOMENTS)

workers = st.integers(0, 2)
events = st.one_of(
    st.tuples(workers, st.sampled_from(COUNTS), st.integers(0, 2**40)),
    st.tuples(workers, st.sampled_from(MOMENTS), st.floats(0, 60)),
)


def new(count: int = 1) -> List[Figures]:
    memory = memoryview(bytearray(figures.OCTETS * count))
    return [Figures(memory, worker, count) for worker in range(count)]


def test_at_first_nothing_happened_and_no_moment_ever_was() -> None:
    (subject,) = new()
    assert subject.totals(AHEAD) == {**dict.fromkeys(COUNTS, 0), **dict.fromkeys(MOMENTS, NEVER)}
    assert figures.OCTETS == 8 * 23 == expose.STATISTICS_LENGTH


def test_golden_bytes_and_the_object_that_is_printed() -> None:
    """By position, as a client of theirs reads them."""
    (subject,) = new()
    for position, name in enumerate(COUNTS):
        subject.add(name, 256 + position)
    subject.note("last_ka_s", 90.0)
    subject.note("last_connectee_s", 99.5)
    sent = expose.encode_statistics(subject.totals(1_700_000_000.0))
    counts = b"".join((256 + position).to_bytes(8, "big") for position in range(20))
    moments = bytes.fromhex("00000000 6553f15a 00000000 00000000 00000000 6553f163")
    assert sent == counts + moments
    printed = json.dumps(expose.decode_statistics(sent))
    assert list(json.loads(printed)) == stand_in.STATISTICS
    assert printed.startswith('{"err1": 256, "signed_looking": 257, "refresh_address": 258,')
    assert printed.endswith(
        '"last_ka_s": 1700000090, "last_client_s": 0, "last_connectee_s": 1700000099}'
    )


@pytest.mark.parametrize("name", MOMENTS)
def test_a_moment_is_told_in_unix_time(name: str) -> None:
    first, second = new(2)
    first.note(name, 0.0)
    assert second.totals(AHEAD)[name] == 1_700_000_000, "long ago is not never"
    second.note(name, 20.0)
    assert first.totals(AHEAD)[name] == 1_700_000_020, "the latest of all workers'"
    first.note(name, 25.5)
    assert second.totals(AHEAD)[name] == 1_700_000_025
    assert second.totals(AHEAD + 3600)[name] == 1_700_003_625, "the wall clock was set"


def test_a_worker_writes_what_is_its_own_alone() -> None:
    """None of them asks another before it adds."""
    memory = bytearray(3 * figures.OCTETS)
    subject = Figures(memoryview(memory), 1, 3)
    for name in COUNTS:
        subject.add(name, 2**40)
    for name in MOMENTS:
        subject.note(name, 1.0)
    own = memory[figures.OCTETS : 2 * figures.OCTETS]
    assert all(any(own[at : at + 8]) for at in range(0, len(own), 8))
    assert not any(memory[: figures.OCTETS]) and not any(memory[2 * figures.OCTETS :])


@pytest.mark.parametrize("name", ["", "err", "dwarf", "connectees"])
def test_there_are_no_others(name: str) -> None:
    (subject,) = new()
    with pytest.raises(KeyError):
        subject.add(name)
    with pytest.raises(KeyError):
        subject.note(name, 1.0)


def test_a_successor_goes_on_counting() -> None:
    memory = memoryview(bytearray(2 * figures.OCTETS))
    Figures(memory, 1, 2).add("dwarfs", 5)
    successor = Figures(memory, 1, 2)
    successor.add("dwarfs")
    assert successor.totals(0.0)["dwarfs"] == Figures(memory, 0, 2).totals(0.0)["dwarfs"] == 6


@given(st.lists(events, max_size=60))
@settings(max_examples=200)
def test_any_course_is_summed(course: "List[Tuple[int, str, float]]") -> None:
    subjects = new(3)
    counted: "Counter[str]" = Counter()
    latest: Dict[str, int] = {}
    now = 0.0
    for worker, name, number in course:
        if name in MOMENTS:
            now += number
            subjects[worker].note(name, now)
            latest[name] = int(now)
        else:
            subjects[worker].add(name, int(number))
            counted[name] += int(number)
    for subject in subjects:
        totals = subject.totals(AHEAD)
        assert {name: totals[name] for name in COUNTS} == {name: counted[name] for name in COUNTS}
        for name in MOMENTS:
            assert totals[name] == (int(latest[name] + AHEAD) if name in latest else NEVER)
        assert expose.decode_statistics(expose.encode_statistics(totals)) == totals
