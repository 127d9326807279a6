"""Limits as people write them, and as monitors read them back."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from udppunch.check.thresholds import MILLISECONDS, PERCENT, Range, parse_limits
from udppunch.config.parse import Invalid


@pytest.mark.parametrize(
    "text,expected",
    [
        ("200ms", {MILLISECONDS: Range(0, 200)}),
        ("5%", {PERCENT: Range(0, 5)}),
        ("0.2s,5%", {MILLISECONDS: Range(0, 200), PERCENT: Range(0, 5)}),
        ("12.5%, 1min", {MILLISECONDS: Range(0, 60000), PERCENT: Range(0, 12.5)}),
        ("10ms:200ms", {MILLISECONDS: Range(10, 200)}),
        ("0:200ms", {MILLISECONDS: Range(0, 200)}),
        (":200ms", {MILLISECONDS: Range(0, 200)}),
        ("10ms:", {MILLISECONDS: Range(10, math.inf)}),
        ("~:200ms", {MILLISECONDS: Range(-math.inf, 200)}),
        ("@10%:20%", {PERCENT: Range(10, 20, True)}),
        ("0%", {PERCENT: Range(0, 0)}),
        ("0ms", {MILLISECONDS: Range(0, 0)}),
    ],
)
def test_limits(text: str, expected: object) -> None:
    assert parse_limits(text) == expected


@pytest.mark.parametrize(
    "text",
    ["", "200", "0", ":", "~:", "@", "5%:200ms", "200ms:10ms", "200ms,300ms", "5%,,200ms", "101%",
     "-5%", "fast", "1ms:2ms:3ms", "~", "ms", "5 parsecs", "~:~", "10ms:~"],
)  # fmt: skip
def test_what_is_no_limit(text: str) -> None:
    with pytest.raises(Invalid):
        parse_limits(text)


@pytest.mark.parametrize(
    "text,good,bad",
    [
        ("200ms", (0, 200), (200.001, 1e9)),
        ("10ms:200ms", (10, 200), (9.999, 200.001)),
        ("10ms:", (10, 1e9), (0, 9.999)),
        ("@10ms:200ms", (9.999, 200.001), (10, 100, 200)),
        ("0ms", (0,), (0.001,)),
    ],
)
def test_what_is_above_is_bad(
    text: str, good: "tuple[float, ...]", bad: "tuple[float, ...]"
) -> None:
    limit = parse_limits(text)[MILLISECONDS]
    assert not any(map(limit.alerts, good)) and all(map(limit.alerts, bad))


def plugin_alerts(text: str, value: float) -> bool:
    """The monitoring plugins' guidelines on ranges, word by word."""
    inside = text.startswith("@")
    start, colon, end = text.lstrip("@").rpartition(":")
    if not colon:
        start = "0"
    low = -math.inf if start == "~" else float(start)
    high = float(end) if end else math.inf
    outside = value < low or value > high
    return not outside if inside else outside


bounds = st.integers(0, 10**6).map(lambda n: n / 1000)


@given(low=st.none() | st.just(-math.inf) | bounds, high=st.none() | bounds, inside=st.booleans(),
       value=bounds)  # fmt: skip
def test_monitors_read_the_limits_as_we_do(
    low: "float | None", high: "float | None", inside: bool, value: float
) -> None:
    ends = sorted((0.0 if low is None else low, math.inf if high is None else high))
    limit = Range(ends[0], ends[1], inside)
    assert plugin_alerts(str(limit), value) == limit.alerts(value)
