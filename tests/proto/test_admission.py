"""Signed keepalives: who is believed, what is answered, to whom how often, and any datagram."""

from __future__ import annotations

import hmac
from collections import Counter
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Tuple

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tests.standin import expose as stand_in
from udppunch import address
from udppunch.address import Address
from udppunch.proto.expose.admission import MACS, Admission, Kind, Verdict
from udppunch.wire import expose
from udppunch.wire.expose import Keepalive, Registered, Retry

VECTORS = yaml.safe_load((Path(__file__).parents[1] / "vectors.yaml").read_text())["expose"]
(KEY,) = [bytes.fromhex(vector["key"]) for vector in VECTORS if "key" in vector]
OTHER_KEY = bytes(32)
SECRET = bytes(range(32))
RATE = 100.0
LARGER_AT_ONCE, LARGER = 20, 10

A, B, C = (address.pack(f"198.51.{100 + number}.7", 4000) for number in range(3))
NOT_YET = Keepalive()
STATISTICS = Keepalive(expose.ASKS_STATISTICS)

bodies = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.just("Registered"),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.sampled_from(["nonce", "name", "Retry"]), inner)
    ),
    max_leaves=8,
)
datagrams = st.one_of(
    st.binary(max_size=600),
    st.binary(max_size=600).map(expose.SIGNED.__add__),
    bodies.map(lambda body: stand_in.sign(body, KEY)),
    bodies.map(lambda body: stand_in.sign(body, OTHER_KEY)),
    st.integers(0, 2**64).map(lambda nonce: stand_in.keepalive(nonce, KEY)),
)


class Helper:
    """Whose each service is, and what admission says to a datagram."""

    def __init__(self, rate: float = RATE, secret: bytes = SECRET) -> None:
        self.exposers: Dict[str, Optional[Address]] = {"": None, "game": None}
        self.subject = Admission(KEY, secret, rate)
        self.now = 100.0

    def judge(self, datagram: bytes, source: Address) -> Verdict:
        known = source in self.exposers.values()
        verdict = self.subject.judge(datagram, source, self.exposers.__getitem__, known, self.now)
        if verdict.kind is Kind.PROVED:
            self.exposers[verdict.name] = source
        return verdict

    def hear(self, claims: expose.Claims, source: Address, key: bytes = KEY) -> Verdict:
        return self.judge(expose.encode(claims, key), source)

    def nonce(self, source: Address, name: str = "") -> int:
        """What it asks of an address that it does not know."""
        verdict = self.hear(Keepalive(name=name), source)
        assert verdict.kind is Kind.PROVE and verdict.name == name
        claims = expose.decode(verdict.answer)
        assert expose.is_signed(verdict.answer, KEY) and isinstance(claims, Retry)
        return claims.nonce

    def prove(self, source: Address, name: str = "") -> Verdict:
        return self.hear(Keepalive(self.nonce(source, name), name), source)


def golden(value: object) -> bytes:
    (vector,) = [v for v in VECTORS if "jws" in v and v["value"] == value]
    return bytes(vector["jws"].encode())


# --- who is believed -------------------------------------------------------------------------


def test_golden_datagrams() -> None:
    helper = Helper()
    verdict = helper.judge(golden({"nonce": None}), A)
    assert verdict.kind is Kind.PROVE
    nonce = stand_in.retry_of(stand_in.claims_of(verdict.answer, KEY))
    proved = helper.judge(stand_in.keepalive(nonce, KEY), A)
    assert proved == Verdict(Kind.PROVED, golden("registered"))
    refreshed = helper.judge(golden({"nonce": None}), A)
    assert refreshed == Verdict(Kind.REFRESHED, golden("registered"))


def test_an_address_is_believed_once_it_has_said_the_nonce() -> None:
    helper = Helper()
    assert helper.prove(A) == Verdict(Kind.PROVED, expose.encode(Registered(), KEY))
    assert helper.exposers == {"": A, "game": None}
    assert helper.hear(NOT_YET, A).kind is Kind.REFRESHED
    helper.now += 3600
    assert helper.hear(Keepalive(12345), A).kind is Kind.REFRESHED, "it is known"


def test_the_one_before_stays_until_the_next_has_proved_its_address() -> None:
    helper = Helper()
    helper.prove(A)
    nonce = helper.nonce(B)
    assert helper.exposers[""] == A and helper.hear(NOT_YET, A).kind is Kind.REFRESHED
    assert helper.hear(Keepalive(nonce), B).kind is Kind.PROVED
    assert helper.exposers[""] == B and helper.hear(NOT_YET, A).kind is Kind.PROVE


def test_services_have_exposers_of_their_own() -> None:
    helper = Helper()
    helper.prove(A)
    assert helper.prove(B, "game").name == "game"
    assert helper.exposers == {"": A, "game": B}
    assert helper.hear(Keepalive(name="game"), A).kind is Kind.PROVE
    assert helper.hear(Keepalive(name="game"), B).kind is Kind.REFRESHED
    assert helper.hear(Keepalive(name="chess"), B) == Verdict(Kind.UNKNOWN_NAME, b"", "chess")


@pytest.mark.parametrize("other", [B, address.with_port(A, 4001), address.pack("::1", 4000)])
def test_a_nonce_of_another_address_is_worth_nothing(other: Address) -> None:
    helper = Helper()
    taken = Keepalive(helper.nonce(A))
    assert helper.hear(taken, other).kind is Kind.PROVE and helper.exposers[""] is None
    helper.hear(taken, A)
    verdict = helper.hear(taken, other)
    assert verdict.kind is Kind.PROVE and helper.exposers[""] == A
    assert verdict.answer != expose.encode(Retry(taken.nonce or 0), KEY)


def test_an_old_nonce_is_worth_nothing() -> None:
    helper = Helper()
    taken = Keepalive(helper.nonce(A))
    helper.prove(B)
    helper.now += 11
    assert helper.hear(taken, A).kind is Kind.PROVE and helper.exposers[""] == B


def test_a_recorded_keepalive_brings_nobody_back_later() -> None:
    helper = Helper()
    recorded = Keepalive(helper.nonce(A))
    assert helper.hear(recorded, A).kind is Kind.PROVED
    helper.prove(B)
    for clock in (11.0, 600.0, 2.0**15 - 611, 2.0**15, 2.0**16, 2.0**24):
        helper.now += clock
        assert helper.hear(recorded, A).kind is Kind.PROVE, f"at {helper.now}"
        assert helper.exposers[""] == B


def test_another_workers_nonce_is_good_and_another_helpers_is_not() -> None:
    nonce = Helper().nonce(A)
    assert Helper().hear(Keepalive(nonce), A).kind is Kind.PROVED
    assert Helper(secret=bytes(32)).hear(Keepalive(nonce), A).kind is Kind.PROVE


def test_what_another_key_signed_is_not_answered() -> None:
    helper = Helper()
    helper.prove(A)
    for claims in (NOT_YET, Keepalive(name="chess"), STATISTICS, Registered(), Retry(5)):
        for source in (A, B):
            assert helper.hear(claims, source, OTHER_KEY) == Verdict(Kind.INVALID)


@pytest.mark.parametrize("claims", [Registered(), Retry(5)])
def test_answers_are_never_answered(claims: expose.Claims) -> None:
    """Two helpers that hear each other would not stop."""
    helper = Helper()
    helper.prove(A)
    for source in (A, B):
        assert helper.hear(claims, source) == Verdict(Kind.INVALID)


def test_the_mac_is_looked_at_before_the_claims() -> None:
    def nobody(name: str) -> Optional[Address]:
        raise AssertionError("a stranger's claims were read")

    forged = expose.encode(Keepalive(name="game"), OTHER_KEY)
    verdict = Admission(KEY, SECRET, RATE).judge(forged, A, nobody, False, 0.0)
    assert verdict == Verdict(Kind.INVALID)


def test_macs_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    helper = Helper()
    nonce = helper.nonce(A)
    compared: List[Tuple[bytes, bytes]] = []
    real = hmac.compare_digest

    def compare(one: Any, other: Any) -> bool:
        compared.append((bytes(one), bytes(other)))
        return real(one, other)

    monkeypatch.setattr(hmac, "compare_digest", compare)
    datagram = expose.encode(Keepalive(nonce), KEY)
    assert helper.judge(datagram, A).kind is Kind.PROVED
    mac, said = datagram.rpartition(b".")[2], nonce.to_bytes(8, "big")
    assert compared == [(mac, mac), (said, said)], "that of the datagram, and of the nonce"


# --- how often -------------------------------------------------------------------------------


def kinds(
    helper: Helper, count: int, claims: expose.Claims, source: Callable[[int], Address]
) -> "Counter[Kind]":
    datagram = expose.encode(claims, KEY)
    return Counter(helper.judge(datagram, source(number)).kind for number in range(count))


def of_network(third: int) -> Callable[[int], Address]:
    return lambda number: address.pack(f"192.0.{third}.{number % 256}", 1000 + number)


@pytest.mark.parametrize("claims", [NOT_YET, STATISTICS], ids=["proof", "statistics"])
def test_answers_longer_than_the_question_are_few_for_a_network(claims: Keepalive) -> None:
    helper = Helper()
    kind = Kind.STATISTICS if claims is STATISTICS else Kind.PROVE
    told = kinds(helper, 100, claims, of_network(2))
    assert told == {kind: LARGER_AT_ONCE, Kind.OVER_RATE: 100 - LARGER_AT_ONCE}
    assert helper.hear(claims, A).kind is kind, "of another network"
    helper.now += 1
    assert kinds(helper, 50, claims, of_network(2))[kind] == LARGER


def test_the_two_longer_answers_have_one_limit_together() -> None:
    helper = Helper()
    assert set(kinds(helper, LARGER_AT_ONCE, NOT_YET, of_network(2))) == {Kind.PROVE}
    assert set(kinds(helper, 10, STATISTICS, of_network(2))) == {Kind.OVER_RATE}


@pytest.mark.parametrize("key", [KEY, OTHER_KEY], ids=["signed", "forged"])
def test_a_network_has_its_share_of_what_is_signed(key: bytes) -> None:
    helper = Helper(rate=50)
    helper.exposers[""] = A
    datagram = expose.encode(NOT_YET, key)
    told = Counter(helper.judge(datagram, of_network(2)(n)).kind for n in range(300))
    assert told[Kind.OVER_RATE] == (0 if key is OTHER_KEY else 300 - LARGER_AT_ONCE)
    assert helper.judge(datagram, of_network(3)(0)).kind is not Kind.OVER_RATE
    helper.now += 1
    told = Counter(helper.judge(datagram, of_network(2)(n)).kind for n in range(300))
    assert told[Kind.OVER_RATE] == (0 if key is OTHER_KEY else 300 - LARGER)


def test_the_mac_of_what_comes_too_often_is_not_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    helper = Helper(rate=1)
    forged = expose.encode(NOT_YET, OTHER_KEY)
    computed = []
    real = hmac.digest

    def digest(key: bytes, message: bytes, name: str) -> bytes:
        computed.append(message)
        return real(key, message, name)

    monkeypatch.setattr(hmac, "digest", digest)
    for number in range(int(MACS) + 100):
        helper.judge(forged, of_network(number % 7)(number))
    assert len(computed) == MACS


def test_neighbours_that_flood_do_not_silence_the_exposer() -> None:
    helper = Helper()
    exposer = of_network(2)(7)
    assert helper.prove(exposer).kind is Kind.PROVED
    for _ in range(100):
        helper.now += 1
        forged = expose.encode(NOT_YET, OTHER_KEY)
        for number in range(300):
            helper.judge(forged, of_network(2)(1000 + number))
        assert helper.hear(NOT_YET, exposer).kind is Kind.REFRESHED


def test_what_is_kept_of_strangers_is_bounded() -> None:
    helper = Helper()
    for number in range(50_000):
        source = Address((11 << 24 | number << 8).to_bytes(4, "big") + b"\x0f\xa0")
        helper.judge(expose.SIGNED, source)
    assert len(helper.subject._limiter) == len(helper.subject._larger) == 0


# --- any datagram ----------------------------------------------------------------------------


@given(st.lists(datagrams, min_size=1, max_size=10), st.booleans())
@settings(max_examples=300)
def test_any_datagram_has_a_verdict_and_few_have_an_answer(
    course: List[bytes], known: bool
) -> None:
    helper = Helper()
    if known:
        helper.prove(A)
    for datagram in course:
        verdict = helper.judge(datagram, A)
        if verdict.kind is Kind.PROVE:
            assert len(verdict.answer) <= 105, "for 78 and more: therefore it has a limit"
        elif verdict.kind is Kind.REFRESHED:
            assert known and verdict.answer == golden("registered")
        else:
            assert not verdict.answer
        if verdict.answer:
            assert expose.is_signed(datagram, KEY) and expose.is_signed(verdict.answer, KEY)
        assert helper.exposers == {"": A if known else None, "game": None}


class AnyCourse(RuleBasedStateMachine):
    """Exposers and liars who know the password and hear everything, but at their own addresses.

    What a source was told to say proves its address for ten seconds; nothing else ever does.
    """

    def __init__(self) -> None:
        super().__init__()
        self.helper = Helper(rate=1e6)
        self.told: List[Tuple[int, Address, float]] = []  # nonce, to whom, when
        self.exposers: Dict[str, Optional[Address]] = {"": None, "game": None}

    @rule(seconds=st.sampled_from((0.5, 3.0, 12.0, 2.0**15 - 12)))
    def pass_time(self, seconds: float) -> None:
        self.helper.now += seconds

    @rule(source=st.sampled_from((A, B)), name=st.sampled_from(("", "game", "chess")),
          heard=st.none() | st.integers(0, 3))  # fmt: skip
    def keepalive(self, source: Address, name: str, heard: Optional[int]) -> None:
        told = self.told[-1 - heard] if heard is not None and heard < len(self.told) else None
        claims = Keepalive(None if told is None else told[0], name)
        now = int(self.helper.now)
        verdict = self.helper.hear(claims, source)
        if name not in self.exposers:
            assert verdict.kind is Kind.UNKNOWN_NAME
        elif self.exposers[name] == source:
            assert verdict.kind is Kind.REFRESHED
        elif told is not None and told[1] == source and now - int(told[2]) <= 10:
            assert verdict.kind is Kind.PROVED
            self.exposers[name] = source
        elif verdict.kind is not Kind.OVER_RATE:
            assert verdict.kind is Kind.PROVE
            answer = expose.decode(verdict.answer)
            assert isinstance(answer, Retry)
            self.told.append((answer.nonce, source, self.helper.now))

    @invariant()
    def as_the_model(self) -> None:
        assert self.helper.exposers == self.exposers


TestAnyCourse = AnyCourse.TestCase
TestAnyCourse.settings = settings(max_examples=200, stateful_step_count=50, deadline=None)
