"""Timers, limiters, queues, questions, handshakes, destinations and prudence."""

from __future__ import annotations

from typing import Any, Dict, List

import pytest
from hypothesis import given
from hypothesis import strategies as st

from udppunch import address
from udppunch.contract import Lookup
from udppunch.proto.destination import Destination
from udppunch.proto.limiter import Limiter, TokenBucket
from udppunch.proto.puncher import prudence
from udppunch.proto.puncher.asking import Asking
from udppunch.proto.puncher.handshake import ClientHandshake, ServerHandshake
from udppunch.proto.puncher.waiting import Waiting
from udppunch.proto.timers import Timers


@given(st.lists(st.tuples(st.integers(0, 5), st.none() | st.floats(0, 100)), max_size=200))
def test_timers_are_a_table_of_deadlines(steps: "List[tuple[int, float | None]]") -> None:
    timers: Timers[int] = Timers()
    table: Dict[int, float] = {}
    for item, when in steps:
        timers.set(item, when)
        table.pop(item, None)
        if when is not None:
            table[item] = when
        assert timers.deadline() == min(table.values(), default=None)
    assert sorted(timers.due(50.0)) == sorted(i for i, when in table.items() if when <= 50.0)
    assert len(timers._heap) <= 64 + 4 * 6 + 1


def test_a_timer_set_while_others_are_due_waits_for_its_own() -> None:
    timers: Timers[str] = Timers()
    timers.set("first", 1.0)
    for item in timers.due(2.0):
        assert item == "first"
        timers.set("again", 3.0)
    assert timers.deadline() == 3.0


@given(st.lists(st.floats(0, 1), max_size=300), st.floats(1, 50), st.floats(1, 50))
def test_a_bucket_gives_its_burst_and_then_its_rate(
    pauses: List[float], rate: float, burst: float
) -> None:
    bucket, now, taken = TokenBucket(rate, burst), 0.0, 0
    for pause in pauses:
        now += pause
        taken += bucket.take(now)
    assert taken <= burst + rate * now + 1e-6


def test_parties_have_buckets_of_their_own_and_their_number_is_bounded() -> None:
    limiter = Limiter(1.0, 2.0, capacity=100)
    assert [limiter.allows(b"a", 0.0) for _ in range(3)] == [True, True, False]
    assert limiter.allows(b"b", 0.0)
    assert limiter.allows(b"a", 1.0)
    for number in range(1000):
        limiter.allows(b"%d" % number, 1.0)
    assert len(limiter) == 100


def test_what_waits_is_bounded_and_in_order() -> None:
    waiting = Waiting()
    waiting.add([memoryview(b"%d" % number) for number in range(2000)])
    held = list(waiting.take())
    assert held == [b"%d" % number for number in range(1024)]
    assert waiting.dropped == 2000 - 1024 and not len(waiting)
    waiting.add([memoryview(bytes(60_000))] * 100)
    assert sum(map(len, waiting.take())) <= 1 << 20


def test_questions_come_soon_again_and_stop_when_the_server_was_heard() -> None:
    asking = Asking(0.0, 0)
    assert asking.due(0.0) and not asking.due(0.1)
    assert asking.due(asking.deadline()) and asking.deadline() < 1.0
    asking.heard_named(ours=True, now=1.0)
    insisted = 0
    while asking.deadline() < 100:
        insisted += asking.due(asking.deadline())
    assert 3 <= insisted <= 20
    asking = Asking(0.0, 0)
    asking.heard_named(ours=False, now=1.0)
    assert asking.deadline() == float("inf"), "an original spends a server on each question"


def test_refusals_slow_the_questions_down() -> None:
    asking, now, pauses = Asking(0.0, 0), 0.0, []
    for _ in range(10):
        assert asking.due(now)
        asking.heard_refusal(now)
        pauses.append(asking.deadline() - now)
        now = asking.deadline()
    assert pauses[0] == 0.5 and pauses[-1] == pytest.approx(3.0)
    assert not asking.silent(now)


def test_handshake_two_waits_and_is_repeated_four_times() -> None:
    handshake, said = ClientHandshake(0.0), []
    now = 0.0
    while not handshake.gave_up(now):
        if handshake.due(now):
            said.append(now)
        now += 0.125
    assert said == [1.0, 2.0, 3.0, 4.0, 5.0] and now == 6.0
    handshake = ClientHandshake(0.0)
    handshake.heard_first(0.25)
    assert handshake.due(0.25) and not handshake.due(0.5)


def test_handshake_one_is_said_while_an_original_pauses_and_no_longer() -> None:
    handshake, said = ServerHandshake(0.0), []
    for tick in range(40):
        if handshake.due(tick / 20):
            said.append(tick / 20)
    assert said and 0 < said[0] < 0.5 and said[-1] < 1.0
    handshake = ServerHandshake(0.0)
    assert handshake.answers_second(0.2)
    assert not handshake.answers_second(0.3), "doubled by the network"
    assert handshake.answers_second(1.3)
    assert handshake.deadline() is None


class Resolving:
    def __init__(self) -> None:
        self.asked: List[Lookup] = []

    def resolve(self, lookup: Lookup) -> None:
        self.asked.append(lookup)


def test_a_name_is_resolved_again_but_not_in_a_hurry() -> None:
    outbox: Any = Resolving()
    destination = Destination(Lookup("host.example", 1), outbox)
    for now in (0.0, 1.0, 5.0):
        destination.look_up(now)
    assert len(outbox.asked) == 1
    one, other = address.pack("192.0.2.1", 1), address.pack("192.0.2.2", 1)
    assert destination.resolved([one, other], "", 5.0) and destination.address == one
    destination.look_up(6.0)
    assert len(outbox.asked) == 1
    destination.look_up(20.0)
    assert destination.resolved([one, other], "", 20.0) and destination.address == other
    destination.look_up(40.0)
    assert not destination.resolved([], "no answer", 40.0) and destination.address == other


@pytest.mark.parametrize(
    "peer,rendezvous,fine",
    [
        ("8.8.4.4:5000", "8.8.8.8:1", True),
        ("192.168.1.2:5000", "8.8.8.8:1", False),
        ("127.0.0.1:5000", "8.8.8.8:1", False),
        ("100.64.0.7:5000", "8.8.8.8:1", False),
        ("192.168.1.2:5000", "192.168.1.1:1", True),
        ("127.0.0.1:5000", "127.0.0.1:1", True),
        ("203.0.113.101:5000", "203.0.113.10:1", True),
        ("203.0.113.101:0", "203.0.113.10:1", False),
        ("0.0.0.0:5000", "203.0.113.10:1", False),
        ("224.0.0.1:5000", "203.0.113.10:1", False),
        ("255.255.255.255:5000", "203.0.113.10:1", False),
        ("203.0.113.10:1", "203.0.113.10:1", False),
    ],
)
def test_where_a_rendezvous_may_send_an_end(peer: str, rendezvous: str, fine: bool) -> None:
    def of(text: str) -> address.Address:
        ip, _, port = text.rpartition(":")
        return address.pack(ip, int(port))

    assert (prudence.refusal(of(peer), of(rendezvous)) == "") is fine
