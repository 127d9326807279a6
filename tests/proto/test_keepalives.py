"""An exposer's keepalives: when they are said, what to, and any course of answers to them."""

from __future__ import annotations

from pathlib import Path
from typing import Callable, List, Optional, Tuple

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.standin import expose as stand_in
from udppunch import address
from udppunch.address import Address
from udppunch.proto.expose.admission import Admission, Kind
from udppunch.proto.expose.keepalives import SILENT_AFTER, Keepalives
from udppunch.wire import expose
from udppunch.wire.expose import Keepalive, Registered, Retry

VECTORS = yaml.safe_load((Path(__file__).parents[1] / "vectors.yaml").read_text())["expose"]
(KEY,) = [bytes.fromhex(vector["key"]) for vector in VECTORS if "key" in vector]
OTHER_KEY = bytes(32)
INTERVAL = 25.0
MOST_PROOFS = 4
HERE = address.pack("198.51.100.2", 4000)
REGISTERED = expose.encode(Registered(), KEY)


def retry(nonce: int) -> bytes:
    return expose.encode(Retry(nonce), KEY)


def keepalives(interval: float = INTERVAL, key: bytes = KEY, name: str = "") -> Keepalives:
    return Keepalives(interval, key, name)


def registered(at: float = 0.0) -> Keepalives:
    subject = keepalives()
    assert subject.take(at) is not None
    assert subject.hear(REGISTERED, at)
    return subject


def until(subject: Keepalives, end: float) -> "List[Tuple[float, bytes]]":
    """Everything said before `end`, when nothing answers."""
    said = []
    while subject.deadline() < end:
        now = subject.deadline()
        datagram = subject.take(now)
        assert datagram is not None and subject.deadline() > now
        said.append((now, datagram))
    return said


def times(subject: Keepalives, end: float) -> List[float]:
    return [when for when, _ in until(subject, end)]


def nonce_said(datagram: Optional[bytes]) -> Optional[int]:
    assert datagram is not None and expose.is_signed(datagram, KEY)
    claims = expose.decode(datagram)
    assert isinstance(claims, Keepalive)
    return claims.nonce


# --- when ------------------------------------------------------------------------------------


def test_without_a_password_they_are_empty_and_soon_even() -> None:
    subject = keepalives(key=b"")
    said = until(subject, 101.0)
    assert {keepalive for _, keepalive in said} == {b""}
    at = [0.0, 0.5, 1.5, 3.5, 7.5, 15.5, 31.5, 56.5, 81.5]
    assert [moment for moment, _ in said] == at[:6] + [at[5] + 16.0, at[6] + 25.0, at[7] + 25.0]
    assert not subject.silent(1000.0), "nobody answers these"


@given(st.binary(max_size=100) | st.just(REGISTERED) | st.just(retry(5)))
def test_without_a_password_nothing_is_an_answer(datagram: bytes) -> None:
    subject = keepalives(key=b"")
    until(subject, 100.0)
    due = subject.deadline()
    assert not subject.hear(datagram, 100.0) and not subject.registered
    assert subject.take(due - 0.1) is None and subject.take(due) == b""


def test_with_a_password_they_are_the_golden_ones() -> None:
    (golden,) = [v["jws"] for v in VECTORS if "jws" in v and v["value"] == {"nonce": None}]
    assert keepalives().take(0.0) == golden.encode()
    named = keepalives(name="game").take(0.0)
    assert named is not None and expose.decode(named) == Keepalive(None, "game")


def test_an_answered_one_is_repeated_after_the_interval() -> None:
    subject = registered(at=3.0)
    assert subject.take(3.0 + INTERVAL - 0.01) is None
    for number in range(1, 5):
        now = 3.0 + number * (INTERVAL + 0.1)
        assert nonce_said(subject.take(now - 0.1)) is None
        assert not subject.hear(REGISTERED, now), "no news"
        assert subject.deadline() == now + INTERVAL


@pytest.mark.parametrize(
    "interval,expected",
    [
        (25.0, [0.0, 0.5, 1.5, 3.5, 7.5, 15.5, 31.5, 56.5, 81.5]),
        (2.0, [0.0, 0.5, 1.5, 3.5, 5.5, 7.5]),
        (0.25, [0.0, 0.25, 0.5, 0.75]),
    ],
)
def test_while_nobody_answers_they_come_sooner(interval: float, expected: List[float]) -> None:
    assert times(keepalives(interval), expected[-1] + 0.1) == expected


def test_a_silence_is_noticed_and_ends_with_an_answer() -> None:
    subject = registered()
    quiet = [25.0, 25.5, 26.5, 28.5]
    assert times(subject, 30.0) == quiet
    assert not subject.silent(25.0 + SILENT_AFTER - 0.01)
    assert subject.silent(25.0 + SILENT_AFTER) and subject.silent(30.0)
    subject.registered = False  # as the role notes when it has said so
    assert subject.hear(REGISTERED, 30.0) and subject.registered, "news, once"
    assert not subject.silent(1000.0)
    assert subject.deadline() == 30.0 + INTERVAL
    assert times(subject, 57.0) == [55.0, 55.5, 56.5], "as soon as the first time"
    assert not subject.hear(REGISTERED, 57.0)


def test_elsewhere_it_begins_anew_at_once() -> None:
    subject = registered()
    until(subject, 100.0)
    subject.lost()
    assert not subject.registered
    assert subject.take(100.0) is not None
    assert times(subject, 102.0) == [100.5, 101.5]
    assert subject.hear(REGISTERED, 102.0)


# --- proofs ----------------------------------------------------------------------------------


def test_a_nonce_is_said_at_once_and_once() -> None:
    subject = keepalives()
    assert nonce_said(subject.take(0.0)) is None
    assert not subject.hear(retry(7), 0.1) and not subject.registered
    assert nonce_said(subject.take(0.1)) == 7
    assert subject.take(0.1) is None
    assert [nonce_said(datagram) for _, datagram in until(subject, 5.0)] == [None, None]
    assert subject.hear(REGISTERED, 5.0)


def test_the_last_nonce_is_the_one_that_is_said() -> None:
    subject = keepalives()
    subject.take(0.0)
    subject.hear(retry(7), 0.1)
    subject.hear(retry(8), 0.1)
    assert nonce_said(subject.take(0.1)) == 8 and subject.take(0.1) is None


def test_a_helper_that_only_asks_for_proof_is_not_obeyed_at_its_own_pace() -> None:
    subject, said, proofs = keepalives(), 0, 0
    for tick in range(36_000):
        now = tick / 10
        subject.hear(retry(tick), now)
        datagram = subject.take(now)
        if datagram is not None:
            said += 1
            proofs += nonce_said(datagram) is not None
    # After a dozen at first, one an interval, and the few that each may lead to.
    assert 3600 / INTERVAL <= said <= 12 + (1 + MOST_PROOFS) * 3600 / INTERVAL
    assert proofs <= MOST_PROOFS / (1 + MOST_PROOFS) * said + MOST_PROOFS
    assert subject.silent(3600.0) and subject.hear(REGISTERED, 3600.0)


def test_answers_that_were_not_asked_for_do_not_put_off_the_next_one() -> None:
    """They are always the same bytes: who has heard one can repeat it for ever."""
    subject, said = registered(), []
    for second in range(1, 3600):
        if second % 20 == 0:
            subject.hear(REGISTERED, float(second))
        if subject.take(float(second)) is not None:
            said.append(second)
    gaps = [two - one for one, two in zip([0, *said], [*said, 3600])]
    assert max(gaps) <= 2 * INTERVAL


# --- any datagram ----------------------------------------------------------------------------


@given(
    st.one_of(
        st.binary(max_size=200),
        st.binary(max_size=200).map(expose.SIGNED.__add__),
        st.integers(0, 2**70).map(lambda n: stand_in.sign({"Retry": n + 2**64}, KEY)),
        st.text().filter(lambda t: t != "Registered").map(lambda t: stand_in.sign(t, KEY)),
        st.integers(0, 2**64 - 1).map(lambda n: stand_in.keepalive(n, KEY)),
    )
)
@example(expose.encode(Registered(), OTHER_KEY))
@example(expose.encode(Retry(5), OTHER_KEY))
@example(REGISTERED[:-1])
@example(REGISTERED + b"A")
def test_what_is_no_answer_changes_nothing(datagram: bytes) -> None:
    subject = keepalives()
    subject.take(0.0)
    assert not subject.hear(datagram, 0.1) and not subject.registered
    assert subject.silent(SILENT_AFTER)
    assert [nonce_said(said) for _, said in until(subject, 4.0)] == [None, None, None]


# --- any course ------------------------------------------------------------------------------


def test_a_helper_of_theirs_registers_it() -> None:
    helper, subject = stand_in.Helper(4, KEY), keepalives()
    datagram, now, exchanges = subject.take(0.0), 0, 0
    while datagram is not None:
        exchanges += 1
        sending = helper.receive(datagram, ("198.51.100.2", 4000), now)
        assert sending is not None
        subject.hear(sending[0], float(now))
        datagram = subject.take(float(now))
    assert subject.registered and exchanges == 2
    assert subject.deadline() == INTERVAL


class AnyCourse(RuleBasedStateMachine):
    """A helper that comes and goes, over a way that loses, repeats and reorders."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1.0
        self.subject = keepalives()
        self.asked: List[bytes] = []
        self.answers: List[bytes] = []
        self.up = True
        self.unanswered: Optional[float] = None  # since when
        self.registered = False
        self.nonce: Optional[int] = None  # the one that was heard last, unless said since
        self.proofs = 0  # asked for since one was said unasked

    @initialize(secret=st.binary(min_size=32, max_size=32))
    def restart(self, secret: bytes) -> None:
        self.admission = Admission(KEY, secret, 1e6)
        self.exposer: Optional[Address] = None

    @rule(up=st.booleans(), secret=st.binary(min_size=32, max_size=32))
    def helper(self, up: bool, secret: bytes) -> None:
        self.up = up
        if up:
            self.restart(secret)

    @rule(seconds=st.sampled_from((0.125, 1.0, SILENT_AFTER, 10.0, INTERVAL)))
    def pass_time(self, seconds: float) -> None:
        self._run(self.now + seconds)

    def _run(self, end: float, then: Callable[[], None] = lambda: None) -> None:
        while self.subject.deadline() <= end:
            self.now = max(self.now, self.subject.deadline())
            self._take()
            then()
        self.now = end

    def _take(self) -> None:
        datagram = self.subject.take(self.now)
        assert datagram is not None and nonce_said(datagram) == self.nonce
        if self.nonce is None:
            self.proofs = 0
        self.nonce = None
        self.asked.append(datagram)
        if self.unanswered is None:
            self.unanswered = self.now
        assert self.now < self.subject.deadline() <= self.now + INTERVAL
        assert self.subject.take(self.now) is None, "one at a time"

    @precondition(lambda self: self.asked)
    @rule(data=st.data(), again=st.booleans())
    def question_arrives(self, data: st.DataObject, again: bool) -> None:
        self._ask(data.draw(st.integers(0, len(self.asked) - 1)), again)

    def _ask(self, index: int, again: bool) -> None:
        datagram = self.asked[index] if again else self.asked.pop(index)
        if self.up:
            verdict = self.admission.judge(
                datagram, HERE, lambda name: self.exposer, False, self.now
            )
            if verdict.kind is Kind.PROVED:
                self.exposer = HERE
            if verdict.answer:
                self.answers.append(verdict.answer)

    @precondition(lambda self: self.answers)
    @rule(data=st.data(), again=st.booleans())
    def answer_arrives(self, data: st.DataObject, again: bool) -> None:
        self._answer(data.draw(st.integers(0, len(self.answers) - 1)), again)

    def _answer(self, index: int, again: bool) -> None:
        datagram = self.answers[index] if again else self.answers.pop(index)
        claims, before = expose.decode(datagram), self.subject.deadline()
        news = self.subject.hear(datagram, self.now)
        if isinstance(claims, Retry):
            assert not news
            if self.unanswered is not None and self.proofs < MOST_PROOFS:
                self.nonce, self.proofs = claims.nonce, self.proofs + 1
                assert self.subject.deadline() == self.now
            else:
                assert self.subject.deadline() == before
        elif self.unanswered is None:
            assert not news and self.subject.deadline() == before
        else:
            assert news is not self.registered
            assert self.subject.deadline() == self.now + INTERVAL
            self.registered, self.unanswered = True, None

    @precondition(lambda self: self.asked or self.answers)
    @rule(data=st.data())
    def is_lost(self, data: st.DataObject) -> None:
        way = data.draw(st.sampled_from([way for way in (self.asked, self.answers) if way]))
        del way[data.draw(st.integers(0, len(way) - 1))]

    @precondition(lambda self: self.subject.silent(self.now) and self.registered)
    @rule()
    def silence_is_said(self) -> None:
        self.subject.registered = self.registered = False

    @rule()
    def moves(self) -> None:
        self.subject.lost()
        self.registered = False
        self._take()

    @rule(secret=st.binary(min_size=32, max_size=32))
    def all_is_well_again(self, secret: bytes) -> None:
        """However it was before, two intervals of a good way are enough."""
        self.helper(True, secret)
        self.asked.clear()
        self.answers.clear()
        self._run(self.now + 2 * INTERVAL, then=self._exchange)
        assert self.subject.registered and self.exposer == HERE
        assert self.unanswered is None and not self.subject.silent(self.now)

    def _exchange(self) -> None:
        while self.asked or self.answers:
            if self.asked:
                self._ask(0, again=False)
            if self.answers:
                self._answer(0, again=False)

    @invariant()
    def as_the_model(self) -> None:
        assert self.subject.registered == self.registered
        since = self.unanswered
        assert self.subject.silent(self.now) is (
            since is not None and self.now >= since + SILENT_AFTER
        )


TestAnyCourse = AnyCourse.TestCase
TestAnyCourse.settings = settings(max_examples=200, stateful_step_count=60, deadline=None)
