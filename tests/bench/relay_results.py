"""The figures of the relay benchmark: what was carried, what it cost, and how it is shown."""

from __future__ import annotations

import json
import statistics
from dataclasses import asdict, dataclass, field
from typing import Dict, Iterator, List, Mapping, Optional, Sequence

from tests.bench.common import table

PLAIN = "plain C"
BATCHED = "batched C"
OURS = "udppunch"
COALESCED = "udppunch, 1 ms"

MIXED = 0  # for a size: from 64 to 1,200 bytes
SHARED = 0.05  # of the time: with more of it for others, a figure is doubtful


@dataclass(frozen=True)
class Load:
    """Trains of `train` datagrams over so many channels in turn, `rate` a second (0: saturated)."""

    channels: int
    train: int
    size: int
    rate: int = 0
    bars: Mapping[str, float] = field(default_factory=dict)  # for the ratio of CPU, by the relay

    def __str__(self) -> str:
        kind = f"trains of {self.train}" if self.train > 1 else "singles"
        channels = f"{self.channels} channels" if self.channels > 1 else "1 channel"
        size = f"{self.size:,} B" if self.size else "64 to 1,200 B"
        return ", ".join([kind, channels, size, *([f"{self.rate:,}/s"] if self.rate else [])])


@dataclass(frozen=True)
class Sample:
    """One round of one load through one relay."""

    sent: int
    received: int
    late: int
    malformed: int
    misdelivered: int
    dropped: int  # by the receiving peers' socket, which should have had room
    seconds: float
    cpu_us: float  # of the relay's processes, for each datagram received
    busy: float  # how much of its core the relay used
    waited: float  # how much of the time it, or its peers, would have run but others did
    median_us: float = 0.0  # on the way, where it was measured
    p99_us: float = 0.0

    @property
    def rate(self) -> float:
        return self.received / self.seconds

    @property
    def lost(self) -> float:
        return 1 - self.received / self.sent


@dataclass(frozen=True)
class Result:
    """All rounds of one load, by the relay's name."""

    load: Load
    samples: Dict[str, List[Sample]]
    yardstick: str = PLAIN

    def median(self, relay: str, figure: str) -> float:
        figures: List[float] = [getattr(sample, figure) for sample in self.samples[relay]]
        return statistics.median(figures)

    def ratio(self, relay: str) -> float:
        return self.median(relay, "cpu_us") / self.median(self.yardstick, "cpu_us")

    def failures(self) -> Iterator[str]:
        """Which bars were not met, and which datagrams arrived as they should not."""
        for relay, bar in self.load.bars.items():
            if relay in self.samples and self.ratio(relay) > bar:
                ratio = f"{self.ratio(relay):.2f} times {self.yardstick}"
                yield f"{self.load}: {relay}: {ratio}, above {bar:g}"
        for relay, samples in self.samples.items():
            for fault in ("late", "malformed", "misdelivered"):
                worst = max(getattr(sample, fault) for sample in samples)
                if worst:
                    yield f"{self.load}: {relay}: {worst:,} datagrams {fault}"

    def doubts(self) -> Iterator[str]:
        """Where the harness or the machine may have made a figure what it is."""
        for relay, samples in self.samples.items():
            dropped = sum(sample.dropped for sample in samples)
            if dropped:
                yield f"Doubtful: {self.load}: {relay}: the peers themselves dropped {dropped:,}."
            slowest = min(sample.sent / sample.seconds for sample in samples)
            if slowest < 0.95 * self.load.rate:
                yield f"Doubtful: {self.load}: {relay}: only {slowest:,.0f}/s were sent."
        waited = {relay: self.median(relay, "waited") for relay in self.samples}
        shared = [f"{relay} {100 * one:.0f} %" for relay, one in waited.items() if one > SHARED]
        if shared:
            yield f"Doubtful: {self.load}: a core had other work: {'; '.join(shared)}."


@dataclass(frozen=True)
class Memory:
    """What a relay holds (proportional set size) before and after it got so many channels."""

    channels: int
    alive: int  # of these, at the end
    before: int
    after: int

    @property
    def each(self) -> float:
        return (self.after - self.before) / self.channels


@dataclass(frozen=True)
class Figures:
    """All of a run; what was not measured is empty."""

    throughput: Sequence[Result]
    latency: Optional[Result]
    workers: Sequence[Result]
    memory: Mapping[str, Memory]

    def results(self) -> Iterator[Result]:
        yield from self.throughput
        yield from self.workers
        if self.latency:
            yield self.latency

    def failures(self) -> List[str]:
        failures = [line for result in self.results() for line in result.failures()]
        for relay, memory in self.memory.items():
            if memory.alive < memory.channels:
                failures.append(f"{relay}: of {memory.channels:,} channels {memory.alive:,} work")
        return failures

    def doubts(self) -> List[str]:
        # Two workers are always two more than the peers leave room for on two cores.
        measured = [*self.throughput, *([self.latency] if self.latency else [])]
        return [line for result in measured for line in result.doubts()]


@dataclass(frozen=True)
class Section:
    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: int  # of the columns
    legend: str

    def as_text(self) -> str:
        return "\n".join([self.title, "", table(self.header, self.rows, self.left), self.legend])

    def as_markdown(self) -> str:
        def line(cells: Sequence[str]) -> str:
            return f"| {' | '.join(cells)} |"

        right = len(self.header) - self.left
        rule = line([*["---"] * self.left, *["---:"] * right])
        rows = map(line, self.rows)
        return "\n".join([f"### {self.title}", "", line(self.header), rule, *rows, self.legend])


def sections(figures: Figures) -> Iterator[Section]:
    if figures.throughput:
        yield _throughput(figures.throughput)
    if figures.latency:
        yield _latency(figures.latency)
    if figures.workers:
        yield _workers(figures.workers)
    if figures.memory:
        yield _memory(figures.memory)


def _throughput(results: Sequence[Result]) -> Section:
    rows = [
        [
            str(result.load) if index == 0 else "",
            relay,
            f"{result.median(relay, 'cpu_us'):.2f}",
            *_against(result, relay),
            f"{result.median(relay, 'rate'):,.0f}",
            f"{100 * result.median(relay, 'lost'):.1f}",
            f"{100 * result.median(relay, 'busy'):.0f}",
        ]
        for result in results
        for index, relay in enumerate(result.samples)
    ]
    return Section(
        "CPU for each datagram",
        ("load", "relay", "µs", "ratio", "bar", "datagrams/s", "lost %", "core %"),
        rows,
        2,
        """
µs: CPU time of the relay's processes for each datagram that arrived, so that what was dropped
before it costs too; ratio: to the plain C relay's. Each figure is the median of the rounds. Loads
without a rate saturate: the peers send all that a core can. Where nothing is lost then, the
relay could do more than they can send, and its batches are not as deep as they would be.""",
    )


def _against(result: Result, relay: str) -> List[str]:
    """The ratio and its bar."""
    bar = result.load.bars.get(relay)
    ratio = "" if relay == result.yardstick else f"{result.ratio(relay):.2f}"
    return [ratio, "" if bar is None else f"{bar:g}"]


def _latency(result: Result) -> Section:
    plain = [result.median(PLAIN, figure) for figure in ("median_us", "p99_us")]
    rows = []
    for relay in result.samples:
        here = [result.median(relay, figure) for figure in ("median_us", "p99_us")]
        more = ["" if relay == PLAIN else f"{now - then:+.0f}" for now, then in zip(here, plain)]
        rows.append([relay, f"{here[0]:.0f}", more[0], f"{here[1]:.0f}", more[1]])
    return Section(
        f"Time on the way: {result.load}",
        ("relay", "median µs", "to plain C", "99th percentile µs", "to plain C"),
        rows,
        1,
        "\nFrom just before the sending peer's system call to just after the receiving one's.",
    )


def _workers(results: Sequence[Result]) -> Section:
    rows = [
        [
            str(result.load) if index == 0 else "",
            relay,
            f"{result.median(relay, 'cpu_us'):.2f}",
            *_against(result, relay),
            f"{result.median(relay, 'rate'):,.0f}",
            f"{100 * result.median(relay, 'lost'):.1f}",
        ]
        for result in results
        for index, relay in enumerate(result.samples)
    ]
    return Section(
        "One worker and two",
        ("load", "workers", "µs", "ratio", "bar", "datagrams/s", "lost %"),
        rows,
        2,
        """
CPU time as above, here with both cores for the relay; the peers have the second of them too.""",
    )


def _memory(memory: Mapping[str, Memory]) -> Section:
    rows = [
        [
            relay,
            f"{each.channels:,}",
            f"{each.before / 1e6:.1f}",
            f"{each.after / 1e6:.1f}",
            f"{each.each:,.0f}",
        ]
        for relay, each in memory.items()
    ]
    return Section(
        "Memory",
        ("relay", "channels", "MB before", "MB after", "bytes a channel"),
        rows,
        1,
        "\nProportional set size of the relay's processes; each channel has carried a datagram.",
    )


def as_json(figures: Figures) -> str:
    """Each load with its samples; the ratios and the failed bars are there to be read at once."""

    def loads(results: Sequence[Result]) -> List[Dict[str, object]]:
        return [
            {
                "load": {**asdict(result.load), "bars": dict(result.load.bars)},
                "ratio": {relay: result.ratio(relay) for relay in result.samples},
                "failures": list(result.failures()),
                "samples": {
                    relay: [asdict(sample) for sample in samples]
                    for relay, samples in result.samples.items()
                },
            }
            for result in results
        ]

    document = {
        "throughput": loads(figures.throughput),
        "latency": loads([figures.latency] if figures.latency else []),
        "workers": loads(figures.workers),
        "memory": {relay: asdict(memory) for relay, memory in figures.memory.items()},
    }
    return json.dumps(document, indent=1)
