"""What forwarding costs: udppunch's `connect` and `serve` beside a plain forwarder in C.

    load -> connect side -> serve side -> sink        (and back, with --echo)

All over loopback, on two cores. A paced load is measured once for each of the two forwarding
processes, which then has a core to itself, as on the two hosts where they live; the other one,
the load and the sink share the second core. Saturated, the two share a core. The same load goes
through udppunch and through a pair of C forwarders in turn, for several rounds. A figure is the
median of the rounds: CPU time of each forwarding process for each datagram that the application
got, and the ratio of ours to the yardstick's. Time on the clock plays no part. From the top of
the tree:

    python -m tests.bench.forward [--quick] [--check] [--json FILE]

Each kind of load comes paced, below what one core can do for either pair, and saturated, as
fast as it can be sent: then what was carried to the second forwarder and dropped there counts
as cost too. Trains leave the generator as one message (UDP_SEGMENT). The yardstick forwards
datagram by datagram (forwarder.c).
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, List, Sequence

from tests.bench.common import (
    LOOPBACK,
    BenchError,
    Processes,
    Program,
    Udppunch,
    compile_programs,
    cpu_ns,
    socket_drops,
    two_cores,
)
from tests.bench.results import OURS, YARDSTICK, Load, Result, Sample, as_json, report
from tests.ports import free_port

SINGLES_BAR = 1.5  # times the yardstick's CPU
TRAINS_BAR = 0.4

MOST_DATAGRAMS = 3_000_000  # of a saturated run
PATH_SECONDS = 30  # for the path to come up
SETTLE_SECONDS = 0.03


LOADS = (
    Load(1200, 1, 40_000, bar=SINGLES_BAR),
    Load(64, 1, 40_000, bar=SINGLES_BAR),
    # A wake-up for each train: in Python a bare receive and send alone come to the bar here.
    Load(1200, 16, 60_000),
    Load(1200, 32, 60_000, bar=TRAINS_BAR),
    Load(1200, 1, 0, bar=SINGLES_BAR),
    Load(64, 1, 0, bar=SINGLES_BAR),
    Load(1200, 16, 0, bar=TRAINS_BAR),
    Load(1200, 32, 0, bar=TRAINS_BAR),
    Load(1200, 1, 20_000),
    Load(1200, 1, 50_000),
    Load(1200, 16, 100_000, lossless=True),
)


@dataclass(frozen=True)
class Pair:
    """Two forwarding processes in a row, the sink behind them, and where the load goes."""

    name: str
    near: Program
    far: Program
    sink: Program
    listen: str
    source: str  # always the same: to udppunch another would be another client


class Bench:
    """The pairs, and one round of a load through one of them."""

    def __init__(self, processes: Processes, programs: Dict[str, Path], echo: bool) -> None:
        self._processes = processes
        self._programs = programs
        self._echo = echo
        self._forwarding, self._applications = two_cores()

    def pair_of(self, name: str, template: Sequence[str]) -> Pair:
        """Twice a one-hop forwarder, given as a command with `{listen}` and `{forward}`."""
        first, second, third, source = (_loopback(free_port()) for _ in range(4))
        hops = []
        for where, listen, forward in (("far", second, third), ("near", first, second)):
            command = [word.format(listen=listen, forward=forward) for word in template]
            hops.append(self._processes.start(f"{name} {where}", command, self._forwarding))
        far, near = hops
        return Pair(name, near, far, self._sink(name, third), first, source)

    def pair_of_ours(self, python: str, options: Sequence[str]) -> Pair:
        listen, forward, rendezvous, source = (_loopback(free_port()) for _ in range(4))
        ours = Udppunch(self._processes, python)
        core = self._forwarding
        ours.start("rendezvous", rendezvous)
        far = ours.start("serve", *options, forward, rendezvous, core=core)
        near = ours.start("connect", *options, listen, rendezvous, core=core)
        return Pair(OURS, near, far, self._sink(OURS, forward), listen, source)

    def _sink(self, name: str, listen: str) -> Program:
        command = [str(self._programs["sink"]), "-i", "0", *(["-e"] if self._echo else []), listen]
        return self._processes.start(f"{name} sink", command, self._applications)

    def measure(self, pair: Pair, load: Load, seconds: float) -> Sample:
        """One round; of a paced load half of it for each forwarding process, alone."""
        if not load.rate:
            return self._measure(pair, load, seconds, (pair.near, pair.far))
        near = self._measure(pair, load, seconds / 2, (pair.near,))
        far = self._measure(pair, load, seconds / 2, (pair.far,))
        return near.beside(far)

    def _measure(self, pair: Pair, load: Load, seconds: float, alone: Sequence[Program]) -> Sample:
        for program in (pair.near, pair.far):
            core = self._forwarding if program in alone else self._applications
            os.sched_setaffinity(program.pid, {core})
        generator = self._generator(pair, load, seconds)
        try:
            self._await_path(pair, generator)
            before = _Reading(pair)
            generator.say("go")
            sent = json.loads(generator.line(2 * seconds + 5))
            arrived = _settled(pair.sink, sent["run"])
            return _sample(sent, arrived, self._echo, before, _Reading(pair))
        finally:
            self._processes.end(generator)

    def _generator(self, pair: Pair, load: Load, seconds: float) -> Program:
        options = {
            "-s": load.size,
            "-t": load.train,
            "-r": load.rate,
            "-n": int(load.rate * seconds) or MOST_DATAGRAMS,
            "-d": 2 * seconds if load.rate else seconds,
            "-p": PATH_SECONDS,
            "-b": pair.source,
        }
        command = [str(self._programs["load"]), "-w", *(["-e"] if self._echo else [])]
        for option, value in options.items():
            command += [option, str(value)]
        return self._processes.start(
            f"{pair.name} load", [*command, pair.listen], self._applications
        )

    def _await_path(self, pair: Pair, generator: Program) -> None:
        try:
            while not generator.has_line(0.5):
                self._processes.require_running()
            generator.line(0)
        except BenchError as error:
            said = [*pair.near.last_words(), *pair.far.last_words()]
            raise BenchError("\n    ".join([str(error), *said])) from None


class _Reading:
    """The counters of a pair's processes at one moment."""

    def __init__(self, pair: Pair) -> None:
        programs = (pair.near, pair.far, pair.sink)
        for program in programs:
            program.require_running()
        self.near, self.far = cpu_ns(pair.near.pid), cpu_ns(pair.far.pid)
        self.drops = [socket_drops(program.pid) for program in programs]


def _settled(sink: Program, run: int) -> Dict[str, int]:
    """What the sink counted of a run, once it is counting no more."""
    counted = _ask(sink)
    while True:
        time.sleep(SETTLE_SECONDS)
        previous, counted = counted, _ask(sink)
        if counted == previous:
            return counted if counted["run"] == run else dict.fromkeys(counted, 0)


def _ask(sink: Program) -> Dict[str, int]:
    os.kill(sink.pid, signal.SIGUSR1)
    answer: Dict[str, int] = json.loads(sink.line(5))
    return answer


def _sample(
    sent: Dict[str, float], arrived: Dict[str, int], echo: bool, before: _Reading, after: _Reading
) -> Sample:
    offered = int(sent["sent"]) - int(sent["failed"])
    echoes = int(sent["echoes"])
    delivered = arrived["received"] + echoes
    if not delivered:
        raise BenchError("of a whole round not one datagram was delivered")
    near, far = after.near - before.near, after.far - before.far
    drops = [now - then for now, then in zip(after.drops, before.drops)]
    return Sample(
        sent=offered,
        delivered=delivered,
        lost=offered - (echoes if echo else arrived["received"]),
        late=arrived["late"] + int(sent["late"]),
        malformed=arrived["malformed"] + int(sent["malformed"]),
        seconds=sent["seconds"],
        near_us=near / delivered / 1000,
        far_us=far / delivered / 1000,
        both_us=(near + far) / delivered / 1000,
        dropped_near=drops[0],
        dropped_far=drops[1],
        dropped_sink=drops[2],
    )


def run(bench: Bench, pairs: Sequence[Pair], rounds: int, seconds: float) -> List[Result]:
    for pair in pairs:
        # The first round pays for what happens once: the path, the caches, the buffers.
        bench.measure(pair, LOADS[0], min(seconds, 0.2))
    results = []
    for number, load in enumerate(LOADS, 1):
        _progress(f"{number}/{len(LOADS)}  {load}")
        samples: Dict[str, List[Sample]] = {pair.name: [] for pair in pairs}
        for _ in range(rounds):
            for pair in pairs:
                samples[pair.name].append(bench.measure(pair, load, seconds))
        results.append(Result(load, samples))
    _progress("")
    return results


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\033[K{text}")
        sys.stderr.flush()


def _loopback(port: int) -> str:
    return f"{LOOPBACK}:{port}"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="forward", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="fewer and shorter rounds: under 30 s")
    add("--echo", action="store_true", help="the sink echoes: both directions are measured")
    add("--check", action="store_true", help="exit status 1 when a bar is not met")
    add("--json", metavar="FILE", type=Path, help="write all samples there")
    add("--python", metavar="PATH", default=sys.executable, help="interpreter for udppunch")
    add("--no-offload", action="store_true", help="udppunch without GSO and GRO")
    add(
        "--against",
        metavar="CMD",
        help="measure a pair of this forwarder too, such as 'prog {listen} {forward}'",
    )
    add("--no-ours", action="store_true", help="leave udppunch out: try the harness itself")
    return parser.parse_args()


def main() -> int:
    options = arguments()
    rounds, seconds = (3, 0.2) if options.quick else (5, 1.0)
    with tempfile.TemporaryDirectory(prefix="udppunch-bench-") as name:
        folder = Path(name)
        programs = compile_programs(folder, "forwarder", "load", "sink")
        with Processes(folder) as processes:
            bench = Bench(processes, programs, options.echo)
            plain = [str(programs["forwarder"]), "{listen}", "{forward}"]
            pairs = [bench.pair_of(YARDSTICK, plain)]
            if not options.no_ours:
                flags = ["--no-offload"] if options.no_offload else []
                pairs.append(bench.pair_of_ours(options.python, flags))
            if options.against:
                pairs.append(bench.pair_of("against", shlex.split(options.against)))
            results = run(bench, pairs, rounds, seconds)
    print(report(results))
    if options.json:
        options.json.write_text(as_json(results) + "\n")
    failures = [line for result in results for line in result.failures()]
    if options.check and failures:
        print("\n".join(["", "Bars not met:", *failures]))
        return 1
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
    except BenchError as error:
        sys.exit(f"forward: {error}")
