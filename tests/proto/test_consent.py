"""When an end asks whether its peer is there, and when it takes the path for lost."""

from __future__ import annotations

from typing import List

from hypothesis import given
from hypothesis import strategies as st

from udppunch.proto.puncher import consent
from udppunch.proto.puncher.consent import Consent, LegacyConsent, Verdict

KEEPALIVE = 15.0


def even(count: int) -> bytes:
    return b"\x80" * count


def verdicts(subject: Consent, start: float, end: float) -> "List[tuple[float, Verdict]]":
    found, now = [], start
    while now <= end:
        verdict = subject.verdict(now)
        if verdict is not Verdict.FINE:
            found.append((now, verdict))
        if verdict in (Verdict.LOST, Verdict.IDLE):
            break
        assert subject.deadline() > now, "would come again and again"
        now = subject.deadline()
    return found


def test_an_idle_path_is_asked_for_at_each_keepalive() -> None:
    subject = Consent(KEEPALIVE, 3600.0, even, 0.0)
    now, checks = 0.0, 0
    while now < 600.0:
        if subject.verdict(now) is Verdict.CHECK:
            checks += 1
            subject.heard = now + 0.05
        now = max(subject.deadline(), now + 0.001)
    assert 36 <= checks <= 44


def test_a_silent_peer_of_a_path_in_use_is_lost_within_seven_seconds() -> None:
    subject = Consent(KEEPALIVE, 300.0, even, 0.0)
    subject.verdict(0.0)
    subject.sent = subject.carried = 0.1
    found = verdicts(subject, subject.deadline(), 100.0)
    assert found[-1][1] is Verdict.LOST and found[-1][0] <= 7.0
    assert sum(verdict is Verdict.CHECK for _, verdict in found) == 10


def test_after_a_pause_it_is_noticed_as_soon() -> None:
    subject = Consent(KEEPALIVE, 300.0, even, 0.0)
    subject.verdict(0.0)
    subject.heard = 5.0
    subject.awake(10.0)
    subject.sent = subject.carried = 10.0
    assert subject.deadline() <= 10.0 + consent.ASK_AFTER
    found = verdicts(subject, subject.deadline(), 100.0)
    assert found[-1][1] is Verdict.LOST and found[-1][0] <= 10.0 + 7.0


def test_an_answer_ends_the_questions() -> None:
    subject = Consent(KEEPALIVE, 300.0, even, 0.0)
    subject.sent = subject.carried = 0.1
    assert subject.verdict(2.0) is Verdict.CHECK
    subject.heard = 2.1
    assert subject.verdict(2.4) is Verdict.FINE


def test_a_path_that_carries_nothing_is_idle_whatever_its_keepalives_say() -> None:
    subject = Consent(KEEPALIVE, 60.0, even, 0.0)
    subject.heard = 59.0
    assert subject.verdict(59.9) is Verdict.FINE
    assert subject.verdict(60.0) is Verdict.IDLE


@given(
    st.floats(0, 1e9), st.floats(0.01, 1e3), st.floats(1, 1e6), st.binary(min_size=2, max_size=2)
)
def test_no_deadline_comes_twice(
    start: float, keepalive: float, idle: float, random: bytes
) -> None:
    """Rounding must not make a deadline that changes nothing: the loop would spin on it."""
    subject = Consent(keepalive, idle, lambda count: random[:count], start)
    now = start
    for _ in range(30):
        verdict = subject.verdict(now)
        if verdict in (Verdict.LOST, Verdict.IDLE):
            return
        if verdict is Verdict.FINE:
            assert subject.deadline() > now
        now = max(now, subject.deadline())


def test_an_original_is_forgotten_after_five_seconds_of_silence() -> None:
    subject = LegacyConsent(0.0)
    subject.sent = 3.0
    assert subject.verdict(7.9) is Verdict.FINE
    assert subject.verdict(subject.deadline()) is Verdict.IDLE


def test_an_original_that_used_to_answer_is_sought_anew() -> None:
    subject = LegacyConsent(0.0)
    subject.heard = 1.0
    for tenth in range(10, 200):
        subject.sent = tenth / 10
        verdict = subject.verdict(tenth / 10)
        if verdict is not Verdict.FINE:
            break
    assert verdict is Verdict.LOST and tenth == 160
