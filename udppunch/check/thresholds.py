"""What is too much: the limits of `--warning` and `--critical`, as monitoring plugins take them.

    200ms          above 200 ms is bad
    5%             above 5 % is bad
    200ms,5%       either is
    10ms:200ms     so is what is outside the range
    10ms:          below it
    @10ms:200ms    within it, its ends included

The unit tells what a limit is for, so none may go without.
"""

from __future__ import annotations

import math
import re
from typing import Dict, NamedTuple, Tuple

from udppunch.config.parse import Invalid, parse_time

MILLISECONDS = "ms"
PERCENT = "%"

_REMEDY = "write 200ms, 5%, 200ms,5% or a range as 10ms:200ms"


class Range(NamedTuple):
    """In the unit it is kept for. `is_bad_inside` turns the meaning around."""

    low: float
    high: float
    is_bad_inside: bool = False

    def alerts(self, value: float) -> bool:
        return (self.low <= value <= self.high) == self.is_bad_inside

    def __str__(self) -> str:
        """As performance data has it, without the unit."""
        low = {0.0: "", -math.inf: "~:"}.get(self.low, f"{number(self.low)}:")
        high = number(self.high) if math.isfinite(self.high) else ""
        return ("@" if self.is_bad_inside else "") + ((low + high) or "0:")


Limits = Dict[str, Range]  # by unit


def number(value: float) -> str:
    """In plain digits, which every reader of performance data knows."""
    return f"{value:.3f}".rstrip("0").rstrip(".")


def parse_limits(text: str) -> Limits:
    """The limits in the text, one for each unit at most. Raises Invalid."""
    limits: Limits = {}
    for part in text.split(","):
        unit, limit = _parse_range(part.strip())
        if unit in limits:
            raise Invalid(f"{text!r} has two limits of one kind: {_REMEDY}")
        limits[unit] = limit
    return limits


def _parse_range(text: str) -> Tuple[str, Range]:
    match = re.fullmatch(r"(@?)(?:([^:@]*)(:))?([^:@]*)", text)
    if not match:
        raise Invalid(f"{text!r} is not a limit: {_REMEDY}")
    low, low_unit = (-math.inf, "") if match[2] == "~" else _parse_bound(match[2] or "0")
    high, high_unit = _parse_bound(match[4]) if match[4] or not match[3] else (math.inf, "")
    units = {unit for unit in (low_unit, high_unit) if unit}
    if len(units) != 1:
        raise Invalid(f"{text!r} takes one unit, ms for time or % for loss: {_REMEDY}")
    if low > high:
        raise Invalid(f"{text!r} ends before it starts: {_REMEDY}")
    return units.pop(), Range(low, high, bool(match[1]))


def _parse_bound(text: str) -> Tuple[float, str]:
    """A number and its unit, which 0 alone may lack."""
    text = text.strip()
    if re.fullmatch(r"\d{1,9}(\.\d{1,9})?%", text):
        share = float(text[:-1])
        if share > 100:
            raise Invalid(f"{text!r} is out of range: at most 100%")
        return share, PERCENT
    zero = re.fullmatch(r"0(?:\.0+)?(us|ms|s|min)?", text)
    if zero:
        return 0.0, MILLISECONDS if zero[1] else ""
    if not re.search(r"[a-z]$", text):
        raise Invalid(f"{text!r} is not a limit with its unit: {_REMEDY}")
    return parse_time(text) * 1000, MILLISECONDS
