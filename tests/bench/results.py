"""The figures of the forwarding benchmark: what was sent, what it cost, and how it is shown."""

from __future__ import annotations

import json
import statistics
from dataclasses import asdict, dataclass, fields
from typing import Dict, Iterator, List, Optional, Sequence

from tests.bench.common import table

YARDSTICK = "C"
OURS = "udppunch"


@dataclass(frozen=True)
class Load:
    """Datagrams of `size` bytes in trains of `train`, `rate` a second (0: saturated)."""

    size: int
    train: int
    rate: int
    bar: Optional[float] = None  # for the ratio of CPU
    lossless: bool = False

    def __str__(self) -> str:
        kind = f"trains of {self.train}" if self.train > 1 else "singles"
        rate = f"{self.rate:,}/s" if self.rate else "saturated"
        return f"{kind}, {self.size:,} B, {rate}"


@dataclass(frozen=True)
class Sample:
    """One round of one load through one pair."""

    sent: int
    delivered: int  # to the sink, and echoes to the generator
    lost: int
    late: int
    malformed: int
    seconds: float
    near_us: float  # CPU for each datagram delivered
    far_us: float
    both_us: float
    dropped_near: int  # before the process, by its sockets
    dropped_far: int
    dropped_sink: int

    def beside(self, other: Sample) -> Sample:
        """Both halves of a round: the near process was measured in this, the far in the other."""
        counts = {
            field.name: getattr(self, field.name) + getattr(other, field.name)
            for field in fields(Sample)
            if not field.name.endswith("_us")
        }
        both = self.near_us + other.far_us
        return Sample(near_us=self.near_us, far_us=other.far_us, both_us=both, **counts)


@dataclass(frozen=True)
class Result:
    """All rounds of one load, by the name of the pair."""

    load: Load
    samples: Dict[str, List[Sample]]

    def median(self, pair: str, figure: str) -> float:
        figures: List[float] = [getattr(sample, figure) for sample in self.samples[pair]]
        return statistics.median(figures)

    def ratio(self, pair: str) -> float:
        return self.median(pair, "both_us") / self.median(YARDSTICK, "both_us")

    def failures(self) -> List[str]:
        """Which bars ours did not meet."""
        if OURS not in self.samples:
            return []
        failures = []
        ratio, lost = self.ratio(OURS), self.median(OURS, "lost")
        if self.load.bar is not None and ratio > self.load.bar:
            failures.append(f"{self.load}: {ratio:.2f} times C, above {self.load.bar}")
        if self.load.lossless and lost:
            failures.append(f"{self.load}: {lost:,.0f} lost, not 0")
        for figure in ("late", "malformed"):
            worst = max(getattr(sample, figure) for sample in self.samples[OURS])
            if worst:
                failures.append(f"{self.load}: {worst:,} datagrams {figure}")
        return failures


HEADER = (
    *("load", "forwarder", "connect", "serve", "both", "ratio", "bar"),
    *("delivered", "lost", "lost %"),
)
LEGEND = """
connect, serve, both: microseconds of CPU of the two forwarding processes for each datagram
delivered; ratio: of both, to the C pair's. Each figure is the median of the rounds."""


def report(results: Sequence[Result]) -> str:
    rows: List[List[str]] = []
    for result in results:
        for index, pair in enumerate(result.samples):
            rows.append([str(result.load) if index == 0 else "", *_row(result, pair)])
    doubts = [line for result in results for line in _doubts(result)]
    return "\n".join([table(HEADER, rows, left=2), LEGEND, *doubts])


def _row(result: Result, pair: str) -> List[str]:
    lost, sent = result.median(pair, "lost"), result.median(pair, "sent")
    return [
        pair,
        *(f"{result.median(pair, figure):.2f}" for figure in ("near_us", "far_us", "both_us")),
        "" if pair == YARDSTICK else f"{result.ratio(pair):.2f}",
        _bar(result.load) if pair == OURS else "",
        f"{result.median(pair, 'delivered'):,.0f}",
        f"{lost:,.0f}",
        f"{100 * lost / sent:.2f}",
    ]


def _bar(load: Load) -> str:
    if load.lossless:
        return "lost 0"
    return "" if load.bar is None else f"{load.bar:.2f}"


def _doubts(result: Result) -> Iterator[str]:
    """Where the harness, and not a forwarder, may have made a figure what it is."""
    if not result.load.rate:
        return
    for pair, samples in result.samples.items():
        dropped = sum(sample.dropped_sink for sample in samples)
        if dropped:
            yield f"Doubtful: {result.load}: behind {pair} the sink itself dropped {dropped:,}."
        slowest = min(sample.sent / sample.seconds for sample in samples)
        if slowest < 0.95 * result.load.rate:
            yield f"Doubtful: {result.load}: before {pair} only {slowest:,.0f}/s were sent."


def as_json(results: Sequence[Result]) -> str:
    """Each load with its samples; the ratios and the failed bars are there to be read at once."""
    document = [
        {
            "load": asdict(result.load),
            "ratio": {pair: result.ratio(pair) for pair in result.samples},
            "failures": result.failures(),
            "samples": {
                pair: [asdict(sample) for sample in samples]
                for pair, samples in result.samples.items()
            },
        }
        for result in results
    ]
    return json.dumps(document, indent=1)
