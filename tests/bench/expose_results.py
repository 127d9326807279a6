"""The figures of the expose benchmark: what was carried, what it cost, and how it is shown."""

from __future__ import annotations

import json
import statistics
from dataclasses import asdict, dataclass
from typing import Dict, Iterator, List, Sequence

from tests.bench.relay_results import SHARED, Section

PLAIN = "plain C"
OURS = "udppunch"

_SIDES = {"helper": "helper_us", "exposer": "exposer_us"}


@dataclass(frozen=True)
class Load:
    """Trains of `train` datagrams of each connectee in turn, `rate` a second (0: saturated)."""

    train: int
    size: int
    rate: int = 0
    bar: float = 0.0  # for the ratio of CPU, of the helper and of the exposer each; 0: none
    lost_bar: float = 0.0  # for the part of the datagrams that never came back; 0: none

    def __str__(self) -> str:
        kind = f"trains of {self.train}" if self.train > 1 else "singles"
        return ", ".join([kind, f"{self.size:,} B", *([f"{self.rate:,}/s"] if self.rate else [])])


@dataclass(frozen=True)
class Sample:
    """One round of one load through one pair."""

    sent: int  # by the connectees
    served: int  # by the service
    received: int  # by the connectees, of what the service echoed
    late: int
    malformed: int
    misdelivered: int
    dropped: int  # by the sockets of the load and of the service, which should have had room
    sending: float  # seconds
    seconds: float  # from the first datagram to the last that came back
    helper_us: float  # CPU for each datagram that it carried, to the service or back
    exposer_us: float
    busy: float  # how much of their core the two used
    waited: float  # how much of the time a process would have run but strangers did

    @property
    def rate(self) -> float:
        return self.received / self.seconds

    @property
    def lost(self) -> float:
        return 1 - self.received / self.sent


@dataclass(frozen=True)
class Result:
    """All rounds of one load, by the name of the pair."""

    load: Load
    samples: Dict[str, List[Sample]]

    def median(self, pair: str, figure: str) -> float:
        figures: List[float] = [getattr(sample, figure) for sample in self.samples[pair]]
        return statistics.median(figures)

    def ratio(self, pair: str, figure: str) -> float:
        return self.median(pair, figure) / self.median(PLAIN, figure)

    def unmet(self) -> Dict[str, str]:
        """Which bars ours did not meet: by whom or what, and how far."""
        if OURS not in self.samples:
            return {}
        unmet = {}
        for side, figure in _SIDES.items():
            ratio = self.ratio(OURS, figure)
            if self.load.bar and ratio > self.load.bar:
                unmet[side] = f"{ratio:.3f} times {PLAIN}, above {self.load.bar:g}"
        lost = self.median(OURS, "lost")
        if self.load.lost_bar and lost >= self.load.lost_bar:
            unmet["loss"] = f"{100 * lost:.2f} %, not under {100 * self.load.lost_bar:g} %"
        return unmet

    def failures(self) -> Iterator[str]:
        """Which bars were not met, and which datagrams arrived as they should not."""
        yield from (f"{self.load}: {OURS}: {what}: {how}" for what, how in self.unmet().items())
        for pair, samples in self.samples.items():
            for fault in ("late", "malformed", "misdelivered"):
                worst = max(getattr(sample, fault) for sample in samples)
                if worst:
                    yield f"{self.load}: {pair}: {worst:,} datagrams {fault}"

    def doubts(self) -> Iterator[str]:
        """Where the harness or the machine may have made a figure what it is."""
        for pair, samples in self.samples.items():
            dropped = sum(sample.dropped for sample in samples)
            if dropped:
                yield f"Doubtful: {self.load}: {pair}: the load itself dropped {dropped:,}."
            slowest = min(sample.sent / sample.sending for sample in samples)
            if slowest < 0.95 * self.load.rate:
                yield f"Doubtful: {self.load}: {pair}: only {slowest:,.0f}/s were sent."
        waited = {pair: self.median(pair, "waited") for pair in self.samples}
        shared = [f"{pair} {100 * one:.0f} %" for pair, one in waited.items() if one > SHARED]
        if shared:
            yield f"Doubtful: {self.load}: a core had other work: {'; '.join(shared)}."


def failures(results: Sequence[Result]) -> List[str]:
    return [line for result in results for line in result.failures()]


def doubts(results: Sequence[Result]) -> List[str]:
    return [line for result in results for line in result.doubts()]


def section(results: Sequence[Result]) -> Section:
    rows = [
        [str(result.load) if index == 0 else "", pair, *_cells(result, pair)]
        for result in results
        for index, pair in enumerate(result.samples)
    ]
    return Section(
        "CPU for each datagram",
        (
            *("load", "helper and exposer", "helper µs", "ratio", "exposer µs", "ratio"),
            *("bar", "verdict", "datagrams/s", "lost %", "core %"),
        ),
        rows,
        2,
        """
µs: CPU time of each process for each datagram that it carried to the service or back to a
connectee, so that what was dropped before its end costs too; ratio: to the plain C one's; bar:
for the ratio of each, or for the loss. Datagrams/s: echoes that came back. Each figure is the
median of the rounds. Loads without a rate saturate.""",
    )


def _cells(result: Result, pair: str) -> List[str]:
    costs: List[str] = []
    for figure in _SIDES.values():
        ratio = "" if pair == PLAIN else f"{result.ratio(pair, figure):.2f}"
        costs += [f"{result.median(pair, figure):.2f}", ratio]
    return [
        *costs,
        *(_verdict(result) if pair == OURS else ["", ""]),
        f"{result.median(pair, 'rate'):,.0f}",
        f"{100 * result.median(pair, 'lost'):.2f}",
        f"{100 * result.median(pair, 'busy'):.0f}",
    ]


def _verdict(result: Result) -> List[str]:
    """The bars of a load, and whether they are met."""
    load = result.load
    bars = [f"{load.bar:g}"] if load.bar else []
    bars += [f"lost {100 * load.lost_bar:g} %"] if load.lost_bar else []
    unmet = ", ".join(result.unmet())
    verdict = f"not met: {unmet}" if unmet else "met"
    return [", ".join(bars), verdict if bars else ""]


def as_json(results: Sequence[Result]) -> str:
    """Each load with its samples; the ratios and the failed bars are there to be read at once."""
    document = [
        {
            "load": asdict(result.load),
            "ratio": {
                pair: {side: result.ratio(pair, figure) for side, figure in _SIDES.items()}
                for pair in result.samples
            },
            "failures": list(result.failures()),
            "samples": {
                pair: [asdict(sample) for sample in samples]
                for pair, samples in result.samples.items()
            },
        }
        for result in results
    ]
    return json.dumps(document, indent=1)
