"""A server's side of its registration: what it sends when, by each answer or none."""

from __future__ import annotations

from typing import List, Tuple

from udppunch.proto.puncher import registration
from udppunch.proto.puncher.registration import Registration, State
from udppunch.wire import marks

MARK = marks.new(b"s" * 16)
RENDEZVOUS = marks.new(b"r" * 16)


def until(subject: Registration, start: float, end: float) -> List[Tuple[float, str]]:
    """Everything sent from `start` to `end`, when nothing answers."""
    sent = []
    now = start
    while now <= end:
        sent += [(now, type(message).__name__) for message in subject.due(now)]
        now = subject.deadline()
    return sent


def test_it_asks_until_it_is_answered_and_then_keeps_alive() -> None:
    subject = Registration(b"key", MARK, 0.0)
    asked = until(subject, 0.0, 2.0)
    assert len(asked) >= 5 and {name for _, name in asked} == {"Server"}
    assert subject.heard_ok(RENDEZVOUS, 2.0)
    assert subject.state is State.REGISTERED
    sent = until(subject, 2.0, 2.0 + registration.REFRESH - 0.01)
    assert [name for _, name in sent].count("KeepAlive") in (9, 10)
    assert "Server" not in [name for _, name in sent]


def test_it_registers_again_every_ten_seconds_which_is_no_news() -> None:
    subject = Registration(b"key", MARK, 0.0)
    subject.due(0.0)
    assert subject.heard_ok(RENDEZVOUS, 0.1)
    sent = until(subject, 0.1, 10.2)
    assert "Server" in [name for _, name in sent]
    assert not subject.heard_ok(RENDEZVOUS, 10.3)
    assert subject.heard_ok(marks.new(b"x" * 16), 20.0), "another rendezvous is news"


def test_silence_is_noticed_after_three_seconds() -> None:
    subject = Registration(b"key", MARK, 0.0)
    until(subject, 0.0, 2.9)
    assert not subject.silent(2.9)
    until(subject, 2.9, 3.5)
    assert subject.silent(3.1)
    subject.heard_ok(RENDEZVOUS, 4.0)
    assert not subject.silent(4.0)


def test_duplicate_key_of_an_original_rendezvous_means_still_registered() -> None:
    subject = Registration(b"key", MARK, 0.0)
    subject.heard_ok(b"", 0.1)
    assert not subject.heard_duplicate(10.2)
    assert subject.state is State.REGISTERED


def test_duplicate_key_of_ours_means_that_another_holds_it() -> None:
    subject = Registration(b"key", MARK, 0.0)
    subject.heard_ok(RENDEZVOUS, 0.1)
    assert subject.heard_duplicate(10.2)
    assert subject.state is State.TAKEN
    assert not subject.heard_duplicate(10.8), "said once"


def test_a_taken_key_is_asked_for_ever_more_slowly_and_the_binding_kept() -> None:
    subject = Registration(b"key", MARK, 0.0)
    now, asked = 0.0, []
    for _ in range(20):
        names = [type(message).__name__ for message in subject.due(now)]
        if "Server" in names:
            asked.append(now)
            subject.heard_duplicate(now)
        now = subject.deadline()
    gaps = [later - earlier for earlier, later in zip(asked, asked[1:])]
    assert gaps == sorted(gaps) and gaps[0] < 1.0 and gaps[-1] <= 2.0


def test_after_a_punch_it_registers_anew_where_the_rendezvous_forgot_it() -> None:
    for mark, again in ((b"", True), (RENDEZVOUS, False)):
        subject = Registration(b"key", MARK, 0.0)
        subject.due(0.0)
        subject.heard_ok(mark, 0.1)
        subject.heard_punch(0.5)
        names = [type(message).__name__ for message in subject.due(0.5)]
        assert ("Server" in names) is again
