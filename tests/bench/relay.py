"""What relaying costs: udppunch's relay beside a plain one in C, and one that does all it can.

    peers -> relay -> peers

All over loopback, on two cores: the relay that is measured has one, its peers the other. All
relays run, and the same load goes through each in turn, for several rounds; a figure is the
median of the rounds. CPU time is the relay's processes' for each datagram that arrived. From the
top of the tree:

    python -m tests.bench.relay [--quick] [--check] [--json FILE] [--write docs/performance.md]

Saturated, the peers send single datagrams, or trains of them as one message (UDP_SEGMENT), as
fast as a core can. The yardstick relays datagram by datagram (relay_plain.c); relay_batched.c is
the practical limit. Ours has one worker, its limits and counters on, and comes a second time
with `--coalesce 1ms`. Then the time on the way, one worker beside two, and the memory that
channels take.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import secrets
import shlex
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Dict, Iterable, List, Sequence

import psutil

from tests.bench import report
from tests.bench.common import (
    LOOPBACK,
    BenchError,
    Processes,
    Program,
    Udppunch,
    compile_programs,
    cpu_ns,
    process_tree,
    two_cores,
)
from tests.bench.relay_results import (
    BATCHED,
    COALESCED,
    MIXED,
    OURS,
    PLAIN,
    SHARED,
    Figures,
    Load,
    Memory,
    Result,
    Sample,
    as_json,
    sections,
)
from tests.ports import free_port
from udppunch.wire.relay import DEFAULT_SECRET, handshake

TRAINS_BAR = 0.33  # times the plain relay's CPU
MANY_FLOWS_BAR = 1.2
ONE_FLOW_BAR = 0.85
COALESCED_BAR = 0.5
WORKERS_BAR = 1.18  # times one worker's CPU

ONE_WORKER = "1"
TWO_WORKERS = "2"
OPTIONS = (
    *("--rate", "100000000", "--bandwidth", "100G"),
    *("--control", "none", "--drain-timeout", "10ms"),
)
ROOMY = (
    *("--max-channels", "200000", "--idle", "10min"),
    *("--half-open-prefix", "1000000", "--handshake-rate", "1000000"),
)

MOST_DATAGRAMS = 10_000_000  # of a round
CHANNELS_SECONDS = 30.0  # for them to come up
MANY_CHANNELS_SECONDS = 120.0
START_SECONDS = 10.0
MANY_CHANNELS = 100_000
QUICK_CHANNELS = 10_000

SIZES = (64, 512, 1200)
TRAINS = {OURS: TRAINS_BAR}
MANY_FLOWS = {OURS: MANY_FLOWS_BAR, COALESCED: COALESCED_BAR}
ONE_FLOW = {OURS: ONE_FLOW_BAR, COALESCED: COALESCED_BAR}
LOADS = (
    *(Load(1, 1, size, bars=ONE_FLOW) for size in SIZES),
    *(Load(64, 1, size, bars=MANY_FLOWS) for size in SIZES),
    *(Load(64, 16, size, bars=TRAINS) for size in SIZES),
    *(Load(64, 32, size, bars=TRAINS) for size in SIZES),
    Load(64, 1, MIXED),
    Load(64, 1, 1200, rate=20_000),
)
LATENCY_LOAD = Load(64, 1, 1200, rate=5_000)
WORKERS_LOADS = (
    Load(64, 1, 1200, bars={TWO_WORKERS: WORKERS_BAR}),
    Load(64, 16, 1200, bars={TWO_WORKERS: WORKERS_BAR}),
)


@dataclass(frozen=True)
class Relay:
    name: str
    program: Program
    port: int


class Bench:
    """The relays, and one round of a load through one of them."""

    def __init__(self, processes: Processes, folder: Path, python: str) -> None:
        self._processes = processes
        self._folder = folder
        self._programs = compile_programs(folder, "relay_plain", "relay_batched", "relay_load")
        self._udppunch = Udppunch(processes, python)
        self._core, self._peers_core = two_cores()
        self._numbers = itertools.count()

    def plain(self) -> Relay:
        return self.relay(PLAIN, [str(self._programs["relay_plain"]), "{port}"])

    def batched(self) -> Relay:
        return self.relay(BATCHED, [str(self._programs["relay_batched"]), "{port}"])

    def relay(self, name: str, template: Sequence[str]) -> Relay:
        """One given as a command with `{port}`."""
        port = free_port()
        command = [word.format(port=port) for word in template]
        return Relay(name, self._processes.start(name, command, self._core), port)

    def ours(self, name: str, *options: str, workers: int = 1) -> Relay:
        port = free_port()
        line = (f"{LOOPBACK}:{port}", "--workers", str(workers), *OPTIONS, *options)
        core = self._core if workers == 1 else None
        return Relay(name, self._udppunch.start("relay", *line, core=core), port)

    def end(self, relay: Relay) -> None:
        self._processes.end(relay.program)

    def give_cores(self, relays: Iterable[Relay]) -> None:
        """Both cores for each relay."""
        for relay in relays:
            for pid in process_tree(relay.program.pid):
                os.sched_setaffinity(pid, {self._core, self._peers_core})

    def measure(self, relay: Relay, load: Load, seconds: float, latency: bool = False) -> Sample:
        options = {
            "-s": load.size,
            "-t": load.train,
            "-r": load.rate,
            "-n": int(load.rate * seconds) or MOST_DATAGRAMS,
            "-d": 2 * seconds if load.rate else seconds,
        }
        words = [str(word) for option in options.items() for word in option]
        peers = self._peers(relay, load.channels, CHANNELS_SECONDS, words + ["-l"] * latency)
        try:
            pid = relay.program.pid
            cpu, waits = cpu_ns(pid), [waited_ns(pid), waited_ns(peers.pid)]
            peers.say("go")
            counted = json.loads(peers.line(2 * seconds + 10))
            relay.program.require_running()
            cpu = cpu_ns(pid) - cpu
            waited = max(waited_ns(pid) - waits[0], waited_ns(peers.pid) - waits[1])
        finally:
            self._processes.end(peers)
        return _sample(f"{relay.name}, {load}", counted, cpu, waited)

    def memory(self, relay: Relay, channels: int) -> Memory:
        """What the channels of that relay, which had none, take."""
        warm = self._peers(relay, 1, CHANNELS_SECONDS, ["-a"])
        self._processes.end(warm)
        before = memory_of(relay.program.pid)
        peers = self._peers(relay, channels, MANY_CHANNELS_SECONDS, ["-a"])
        try:
            after = memory_of(relay.program.pid)
            peers.say("go")
            alive = json.loads(peers.line(MANY_CHANNELS_SECONDS))["alive"]
        finally:
            self._processes.end(peers)
        return Memory(channels, alive, before, after)

    def _peers(
        self, relay: Relay, channels: int, seconds: float, options: Sequence[str]
    ) -> Program:
        """Peers whose channels are up."""
        file = self._folder / f"handshakes {next(self._numbers)}"
        guids = (secrets.token_bytes(16) for _ in range(channels))
        file.write_bytes(b"".join(handshake(guid, DEFAULT_SECRET) for guid in guids))
        command = [str(self._programs["relay_load"]), "-k", str(file), "-c", str(channels)]
        command += ["-p", str(seconds), *options, f"{LOOPBACK}:{relay.port}"]
        peers = self._processes.start(f"{relay.name} peers", command, self._peers_core)
        try:
            while not peers.has_line(0.5):
                relay.program.require_running()
            peers.line(0)
        except BenchError as error:
            said = relay.program.last_words()
            raise BenchError("\n    ".join([str(error), *said])) from None
        finally:
            file.unlink()
        return peers


def waited_ns(pid: int) -> int:
    """For how long the processes of a tree could have run, but others did, in nanoseconds."""
    schedstats = (Path(f"/proc/{each}/schedstat") for each in process_tree(pid))
    return sum(int(each.read_text().split()[1]) for each in schedstats)


def memory_of(pid: int) -> int:
    return sum(psutil.Process(each).memory_full_info().pss for each in process_tree(pid))


def _sample(what: str, counted: Dict[str, float], cpu: int, waited: int) -> Sample:
    received = int(counted["received"])
    if not received:
        raise BenchError(f"{what}: of a whole round not one datagram arrived")
    elapsed = counted["seconds"] * 1e9
    return Sample(
        sent=int(counted["sent"]),
        received=received,
        late=int(counted["late"]),
        malformed=int(counted["malformed"]),
        misdelivered=int(counted["misdelivered"]),
        dropped=int(counted["dropped"]),
        seconds=counted["seconds"],
        cpu_us=cpu / received / 1000,
        busy=cpu / elapsed,
        waited=waited / elapsed,
        median_us=counted.get("median_us", 0.0),
        p99_us=counted.get("p99_us", 0.0),
    )


@dataclass(frozen=True)
class Effort:
    rounds: int
    tries: int  # of a round, where other processes had much of the relay's core or the peers'
    seconds: float  # of a round
    latency_seconds: float
    channels: int  # for the memory


QUICK = Effort(3, 1, 0.1, 0.4, QUICK_CHANNELS)
FULL = Effort(7, 3, 0.6, 1.0, MANY_CHANNELS)


def compare(
    bench: Bench, relays: Sequence[Relay], load: Load, effort: Effort, latency: bool = False
) -> Result:
    """All rounds of a load, the relays taking turns."""
    report.progress(f"time on the way, {load}" if latency else str(load))
    seconds = effort.latency_seconds if latency else effort.seconds
    samples: Dict[str, List[Sample]] = {relay.name: [] for relay in relays}
    for _ in range(effort.rounds):
        for relay in relays:
            sample = bench.measure(relay, load, seconds, latency)
            for _ in range(effort.tries - 1):
                if sample.waited > SHARED:
                    again = bench.measure(relay, load, seconds, latency)
                    sample = min(sample, again, key=lambda each: each.waited)
            samples[relay.name].append(sample)
    return Result(load, samples, relays[0].name)


def compare_workers(bench: Bench, effort: Effort) -> List[Result]:
    relays = [bench.ours(ONE_WORKER), bench.ours(TWO_WORKERS, workers=2)]
    for relay in relays:
        bench.measure(relay, WORKERS_LOADS[0], 0.1)
    bench.give_cores(relays)
    # The peers are on one of the relay's cores here: to wait for it is no fault of a round.
    effort = replace(effort, tries=1)
    return [compare(bench, relays, load, effort) for load in WORKERS_LOADS]


def compare_memory(bench: Bench, effort: Effort, with_ours: bool) -> Dict[str, Memory]:
    relays = [bench.plain(), *([bench.ours(OURS, *ROOMY)] if with_ours else [])]
    memory = {}
    for relay in relays:
        report.progress(f"memory of {effort.channels:,} channels, {relay.name}")
        memory[relay.name] = bench.memory(relay, effort.channels)
        bench.end(relay)
    return memory


def run(bench: Bench, effort: Effort, options: argparse.Namespace) -> Figures:
    with_ours = not options.no_ours
    if options.memory:
        return Figures([], None, [], compare_memory(bench, effort, with_ours))
    relays = [bench.plain(), bench.batched()]
    if with_ours:
        relays += [bench.ours(OURS), bench.ours(COALESCED, "--coalesce", "1ms")]
    if options.against:
        command = shlex.split(options.against)
        relays.append(bench.relay(Path(command[0]).name, command))
    for relay in relays:
        # The first round pays for what happens once: the caches, the buffers.
        bench.measure(relay, LOADS[0], 0.1)
    throughput = [compare(bench, relays, load, effort) for load in LOADS]
    latency = compare(bench, relays, LATENCY_LOAD, effort, latency=True)
    for relay in relays:
        bench.end(relay)
    workers = compare_workers(bench, effort) if with_ours else []
    return Figures(throughput, latency, workers, compare_memory(bench, effort, with_ours))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="relay", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="fewer and shorter rounds: under 60 s")
    add("--check", action="store_true", help="exit status 1 when a bar is not met")
    add("--memory", action="store_true", help="the memory of channels alone")
    add("--json", metavar="FILE", type=Path, help="write all samples there")
    add("--write", metavar="FILE", type=Path, help="put the tables into this Markdown file")
    add("--python", metavar="PATH", default=sys.executable, help="interpreter for udppunch")
    add("--against", metavar="CMD", help="measure this relay too, such as 'prog --port {port}'")
    add("--no-ours", action="store_true", help="leave udppunch out: try the harness itself")
    return parser.parse_args()


def main() -> int:
    options = arguments()
    with tempfile.TemporaryDirectory(prefix="udppunch-bench-") as name:
        folder = Path(name)
        with Processes(folder) as processes:
            bench = Bench(processes, folder, options.python)
            figures = run(bench, QUICK if options.quick else FULL, options)
    report.progress("")
    shown = list(sections(figures))
    print("\n\n".join(section.as_text() for section in shown))
    print("\n".join(["", *figures.doubts()]))
    if options.json:
        options.json.write_text(as_json(figures) + "\n")
    if options.write:
        texts = [
            report.conditions("relay", options.python),
            *(section.as_markdown() for section in shown),
        ]
        report.write(options.write, "Relaying", "\n\n".join(texts))
    return report.status(figures.failures(), options.check)


if __name__ == "__main__":
    report.run("relay", main)
