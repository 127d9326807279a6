"""What a check found, and how it is told: one line as monitoring plugins print it, or JSON.

    UDPPUNCH RELAY OK - rtt 31.2 ms, loss 0 % | rtt=31.2ms;200;500;0 loss=0%;20;60;0;100

The text before the bar has at most 80 characters, all of them ASCII, and fits the smallest
display, but for the checks that have to explain something, and for what is UNKNOWN because of
something here that is to be mended. The exit status is the `Status`.
"""

from __future__ import annotations

import enum
import json
import sys
from typing import Any, Dict, Iterable, Mapping, NamedTuple, Optional, Tuple

from udppunch.check.thresholds import MILLISECONDS, PERCENT, Limits, number
from udppunch.errors import print_as_far_as_possible

LONGEST_TEXT = 80
LONGEST_EXPLANATION = 240
_EXPLAINING = ("serve", "nat", "file")
_GAP = "..."
# From good to bad, as max_state_alt() of the monitoring plugins has it.
_BY_SEVERITY = ("OK", "WARNING", "UNKNOWN", "CRITICAL")


class Status(enum.IntEnum):
    OK = 0
    WARNING = 1
    CRITICAL = 2
    UNKNOWN = 3


def worst(statuses: Iterable[Status]) -> Status:
    """The status of several checks together."""
    return max(statuses, key=lambda status: _BY_SEVERITY.index(status.name))


class Measure(NamedTuple):
    """One figure; `value` None: it could not be measured."""

    name: str
    value: Optional[float]
    unit: str


def rtt_and_loss(rtt: Optional[float], loss: Optional[float]) -> Tuple[Measure, ...]:
    """What most checks measure; `rtt` in seconds."""
    milliseconds = None if rtt is None else 1000 * rtt
    return Measure("rtt", milliseconds, MILLISECONDS), Measure("loss", loss, PERCENT)


class Outcome(NamedTuple):
    """What a probe found. Limits can make its status worse, not better.

    `details` are for machines, which read neither text nor measures.
    """

    status: Status
    text: str
    measures: Tuple[Measure, ...] = ()
    details: Mapping[str, Any] = {}


class Report(NamedTuple):
    """The outcome of a check of `role` at `target`, with the limits it was held against.

    `name` tells it from the others of a file.
    """

    role: str
    target: str
    outcome: Outcome
    warning: Limits
    critical: Limits
    name: str = ""

    @property
    def status(self) -> Status:
        statuses = [self.outcome.status]
        for limits, status in ((self.warning, Status.WARNING), (self.critical, Status.CRITICAL)):
            for _, value, unit in self.outcome.measures:
                if value is not None and unit in limits and limits[unit].alerts(value):
                    statuses.append(status)
        return worst(statuses)

    def line(self) -> str:
        head = f"UDPPUNCH {self.role.upper()} {self.status.name} - "
        explains = self.role in _EXPLAINING or self.status is Status.UNKNOWN
        longest = LONGEST_EXPLANATION if explains else LONGEST_TEXT
        text = _shortened(_plain(self.outcome.text), longest - len(head))
        name = f"{_shortened(_plain(self.name), LONGEST_TEXT)}: " if self.name else ""
        text = head + name + text
        figures = " ".join(map(self._performance, self.outcome.measures))
        return f"{text} | {figures}" if figures else text

    def document(self) -> str:
        document: Dict[str, Any] = {
            "check": self.role,
            **({"name": self.name} if self.name else {}),
            "target": self.target,
            "status": self.status.name,
            "exit_status": int(self.status),
            "text": self.outcome.text,
            **self.outcome.details,
        }
        for name, value, unit in self.outcome.measures:
            document[name] = {
                "value": None if value is None else float(number(value)),
                "unit": unit,
                "warning": self._limit(self.warning, unit) or None,
                "critical": self._limit(self.critical, unit) or None,
            }
        return json.dumps(document)

    def _performance(self, measure: Measure) -> str:
        """`name=value unit;warning;critical;least;most`, U for what could not be measured."""
        name, value, unit = measure
        figure = "U" if value is None else number(value) + unit
        limits = f"{self._limit(self.warning, unit)};{self._limit(self.critical, unit)}"
        return f"{name}={figure};{limits};0" + (";100" if unit == PERCENT else "")

    @staticmethod
    def _limit(limits: Limits, unit: str) -> str:
        return str(limits[unit]) if unit in limits else ""


def write(text: str) -> None:
    """Print a line. Where nobody can read it, the exit status still tells."""
    print_as_far_as_possible(text, sys.stdout)


def _plain(text: str) -> str:
    """ASCII that can't be taken for another line, or for the start of performance data."""
    return "".join(c if " " <= c <= "~" and c != "|" else "?" for c in text)


def _shortened(text: str, most: int) -> str:
    """Both ends say more than the middle, which is where long names are."""
    if len(text) <= most:
        return text
    tail = (most - len(_GAP)) // 2
    return text[: most - len(_GAP) - tail] + _GAP + text[-tail:]
