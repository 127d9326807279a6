"""What a flow may carry: never more than the rate and what there is at once, and not much less."""

from __future__ import annotations

from typing import List, Tuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from udppunch.proto.limiter import Allowance

rates = st.floats(1, 1e7)
bursts = st.tuples(st.floats(0, 2), st.integers(1, 64), st.integers(0, 65_507))


class Flow:
    """Takes off first and asks for more when nothing is left, as the relay's flows do."""

    def __init__(self, allowance: Allowance) -> None:
        self.allowance = allowance
        self.left = allowance.most
        self.refilled_at = 0.0

    def take(self, datagrams: int, octets: int, now: float) -> bool:
        self.left = self.left[0] - datagrams, self.left[1] - octets
        if min(self.left) >= 0:
            return True
        self.left = self.allowance.refill(*self.left, now - self.refilled_at)
        self.refilled_at = now
        if min(self.left) >= 0:
            return True
        self.left = self.left[0] + datagrams, self.left[1] + octets
        return False


@given(rates, rates, st.lists(bursts, max_size=200))
def test_no_more_than_the_rate_and_what_there_is_at_once(
    datagrams: float, octets: float, course: List[Tuple[float, int, int]]
) -> None:
    allowance = Allowance(datagrams, octets)
    flow, now, carried = Flow(allowance), 0.0, [0, 0]
    for pause, count, size in course:
        now += pause
        if flow.take(count, size, now):
            carried[0] += count
            carried[1] += size
        for which, rate in enumerate((datagrams, octets)):
            assert carried[which] <= (allowance.most[which] + rate * now) * (1 + 1e-9)


@given(st.floats(20, 1e6), st.integers(1, 1400), st.floats(0.1, 0.99), st.integers(500, 1500))
def test_whoever_keeps_to_the_rates_is_never_refused(
    rate: float, size: int, share: float, count: int
) -> None:
    flow = Flow(Allowance(rate, rate * size))
    pause = 1 / (rate * share)
    assert all(flow.take(1, size, number * pause) for number in range(count))


@given(st.floats(20, 1e6), st.integers(1, 1400))
def test_whoever_asks_for_twice_the_rate_gets_the_rate(rate: float, size: int) -> None:
    for flow in (Flow(Allowance(rate, 0)), Flow(Allowance(0, rate * size))):
        at_once = min(flow.left[0], flow.left[1] / size)
        carried = sum(flow.take(1, size, number / (2 * rate)) for number in range(4000))
        expected = at_once + 2000
        if expected < 4000:
            assert expected - 2 <= carried <= expected + 2


@pytest.mark.parametrize(
    "datagrams,octets,most",
    [
        (1, 1, (64, 65_536)),
        (256, 262_144, (64, 65_536)),
        (1000, 1_000_000, (125, 125_000)),
    ],
)
def test_there_is_an_eighth_of_a_second_at_once_or_a_train(
    datagrams: float, octets: float, most: Tuple[float, float]
) -> None:
    assert Allowance(datagrams, octets).most == most


@given(rates, rates, st.floats(0, 1e6), st.floats(0, 1e9), st.floats(0, 1e9))
def test_time_gives_back_no_more_than_there_is_at_once(
    datagrams: float, octets: float, passed: float, left: float, other: float
) -> None:
    allowance = Allowance(datagrams, octets)
    refilled = allowance.refill(min(left, allowance.most[0]), -other, passed)
    assert refilled[0] == min(allowance.most[0], min(left, allowance.most[0]) + passed * datagrams)
    assert refilled[1] == min(allowance.most[1], passed * octets - other)


@given(st.integers(1, 10**9))
def test_no_rate_is_no_limit(count: int) -> None:
    flow = Flow(Allowance(0, 0))
    assert flow.take(count, 65_507 * count, 0.0)
    assert all(flow.take(64, 65_507, 0.0) for _ in range(1000))


def test_one_limit_leaves_the_other_unlimited() -> None:
    few, wide = Flow(Allowance(100, 0)), Flow(Allowance(0, 100_000))
    assert few.take(64, 10**12, 0.0) and not few.take(1, 0, 0.0)
    assert wide.take(10**9, 65_536, 0.0) and not wide.take(1, 1, 0.0)
    assert few.take(10, 10**12, 0.1) and not few.take(1, 0, 0.1)
    assert wide.take(10**9, 9_999, 0.1) and not wide.take(1, 2, 0.1)
