"""What publishing a service costs: udppunch's helper and exposer beside a plain pair in C.

    connectees -> helper -> exposer -> service        (which echoes, all the way back)

All over loopback, on two cores: the helper and the exposer that are measured share one, the
connectees and the service have the other. All pairs run, and the same load goes through each in
turn, for several rounds; a figure is the median of the rounds. CPU time is each process's for
each datagram that it carried, in either direction. From the top of the tree:

    python -m tests.bench.expose [--quick] [--check] [--json FILE] [--write docs/performance.md]

Saturated, 8 connectees send single datagrams, or trains of them as one message (UDP_SEGMENT), as
fast as their echoes come back, with always enough under way to keep the pair busy. With `--flood`
they send all that a core can, of which most is dropped before the pair and between the two.
Trains are echoed as they come; a service of singles is an ordinary one, which sees and sends no
trains. The yardsticks forward datagram by datagram (expose_helper.c, expose_exposer.c). There is
no password.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, List, Sequence

from tests.bench import report
from tests.bench.common import (
    LOOPBACK,
    BenchError,
    Processes,
    Program,
    Udppunch,
    compile_programs,
    cpu_ns,
    two_cores,
)
from tests.bench.expose_results import (
    OURS,
    PLAIN,
    Load,
    Result,
    Sample,
    as_json,
    doubts,
    failures,
    section,
)
from tests.bench.relay import waited_ns
from tests.bench.relay_results import SHARED
from tests.ports import free_port

TRAINS_BAR = 0.4  # times the plain pair's CPU, the helper's and the exposer's each
SINGLES_BAR = 1.4
LOST_BAR = 0.001

CONNECTEES = 8
WINDOW = 128  # datagrams of each under way, for which the sockets have room
NO_WINDOW = 1_000_000_000
OPTIONS = ("--control", "none")
MOST_DATAGRAMS = 5_000_000  # of a round
PATH_SECONDS = 30.0

SIZES = (64, 512, 1200)
LOADS = (
    *(Load(1, size, bar=SINGLES_BAR) for size in SIZES),
    *(Load(16, size, bar=TRAINS_BAR) for size in SIZES),
    # A paced train is a wake-up for each, which no bar of CPU is for.
    *(Load(16, size, rate=60_000, lost_bar=LOST_BAR) for size in SIZES),
)


@dataclass(frozen=True)
class Pair:
    """A helper, the exposer beside it, and the ports of the ends of the way through them."""

    name: str
    helper: Program
    exposer: Program
    port: int
    service: int
    connectees: int  # always the same: with another one they would be newcomers

    def require_running(self) -> None:
        self.helper.require_running()
        self.exposer.require_running()


class Bench:
    """The pairs, and one round of a load through one of them."""

    def __init__(self, processes: Processes, folder: Path, python: str, window: int) -> None:
        self._processes = processes
        self._window = window
        self._programs = compile_programs(folder, "expose_helper", "expose_exposer", "expose_load")
        self._udppunch = Udppunch(processes, python)
        self._core, self._load_core = two_cores()

    def plain(self) -> Pair:
        helper = [str(self._programs["expose_helper"]), "{port}"]
        exposer = [str(self._programs["expose_exposer"]), "{service}", f"{LOOPBACK}:{{port}}"]
        return self.pair(PLAIN, helper, exposer)

    def pair(self, name: str, helper: Sequence[str], exposer: Sequence[str]) -> Pair:
        """One given as commands with `{port}`, the helper's, and `{service}`, an address."""
        ports = [free_port() for _ in range(3)]
        words = {"port": ports[0], "service": f"{LOOPBACK}:{ports[1]}"}
        programs = {
            side: self._processes.start(
                f"{name} {side}", [word.format(**words) for word in command], self._core
            )
            for side, command in (("helper", helper), ("exposer", exposer))
        }
        return Pair(name, programs["helper"], programs["exposer"], *ports)

    def ours(self) -> Pair:
        ports = [free_port() for _ in range(3)]
        listen, service = (f"{LOOPBACK}:{port}" for port in ports[:2])
        start, core = self._udppunch.start, self._core
        helper = start("helper", listen, "--workers", "1", *OPTIONS, core=core)
        exposer = start("expose", service, listen, *OPTIONS, core=core)
        return Pair(OURS, helper, exposer, *ports)

    def measure(self, pair: Pair, load: Load, seconds: float) -> Sample:
        generator = self._load(pair, load, seconds)
        try:
            before = _Reading(pair, generator)
            generator.say("go")
            counted = json.loads(generator.line(2 * seconds + 10))
            pair.require_running()
            return _sample(f"{pair.name}, {load}", counted, before, _Reading(pair, generator))
        finally:
            self._processes.end(generator)

    def _load(self, pair: Pair, load: Load, seconds: float) -> Program:
        """Connectees and a service that have heard each other."""
        options = {
            "-e": f"{LOOPBACK}:{pair.service}",
            "-b": pair.connectees,
            "-c": CONNECTEES,
            "-s": load.size,
            "-t": load.train,
            "-r": load.rate,
            "-w": self._window,
            "-n": int(load.rate * seconds) or MOST_DATAGRAMS,
            "-d": 2 * seconds if load.rate else seconds,
            "-p": PATH_SECONDS,
        }
        words = [str(word) for option in options.items() for word in option]
        command = [str(self._programs["expose_load"]), *words, f"{LOOPBACK}:{pair.port}"]
        generator = self._processes.start(f"{pair.name} load", command, self._load_core)
        try:
            while not generator.has_line(0.5):
                pair.require_running()
            generator.line(0)
        except BenchError as error:
            said = [*pair.helper.last_words(), *pair.exposer.last_words()]
            raise BenchError("\n    ".join([str(error), *said])) from None
        return generator


class _Reading:
    """What the processes of a round have used at one moment, and waited for, in nanoseconds."""

    def __init__(self, pair: Pair, generator: Program) -> None:
        self.helper, self.exposer = cpu_ns(pair.helper.pid), cpu_ns(pair.exposer.pid)
        self.helper_waited = waited_ns(pair.helper.pid)
        self.exposer_waited = waited_ns(pair.exposer.pid)
        self.load_waited = waited_ns(generator.pid)


def _sample(what: str, counted: Dict[str, float], before: _Reading, after: _Reading) -> Sample:
    served, received = int(counted["served"]), int(counted["received"])
    if not received:
        raise BenchError(f"{what}: of a whole round not one datagram came back")
    elapsed = counted["seconds"] * 1e9
    spent = {name: then - vars(before)[name] for name, then in vars(after).items()}
    helper, exposer = spent["helper"], spent["exposer"]
    # Each waits for the other on their core; only what is beyond that was a stranger's.
    waited = max(
        spent["helper_waited"] - exposer, spent["exposer_waited"] - helper, spent["load_waited"], 0
    )
    return Sample(
        sent=int(counted["sent"]),
        served=served,
        received=received,
        late=int(counted["late"]),
        malformed=int(counted["malformed"]),
        misdelivered=int(counted["misdelivered"]),
        dropped=int(counted["dropped"]),
        sending=counted["sending"],
        seconds=counted["seconds"],
        helper_us=helper / (served + received) / 1000,
        exposer_us=exposer / (served + received) / 1000,
        busy=(helper + exposer) / elapsed,
        waited=waited / elapsed,
    )


@dataclass(frozen=True)
class Effort:
    rounds: int
    tries: int  # of a round, where other processes had much of a core
    seconds: float  # of a round


QUICK = Effort(3, 1, 0.2)
FULL = Effort(7, 3, 0.6)


def compare(bench: Bench, pairs: Sequence[Pair], load: Load, effort: Effort) -> Result:
    """All rounds of a load, the pairs taking turns."""
    report.progress(str(load))
    samples: Dict[str, List[Sample]] = {pair.name: [] for pair in pairs}
    for _ in range(effort.rounds):
        for pair in pairs:
            sample = bench.measure(pair, load, effort.seconds)
            for _ in range(effort.tries - 1):
                if sample.waited > SHARED:
                    again = bench.measure(pair, load, effort.seconds)
                    sample = min(sample, again, key=lambda each: each.waited)
            samples[pair.name].append(sample)
    return Result(load, samples)


def run(bench: Bench, effort: Effort, options: argparse.Namespace) -> List[Result]:
    pairs = [bench.plain()]
    if not options.no_ours:
        pairs.insert(0, bench.ours())
    if options.against_helper:
        commands = [shlex.split(options.against_helper), shlex.split(options.against_expose)]
        pairs.append(bench.pair(Path(commands[0][0]).name, *commands))
    for pair in pairs:
        # The first round pays for what happens once: the tags, the caches, the buffers.
        bench.measure(pair, LOADS[0], 0.1)
    return [compare(bench, pairs, load, effort) for load in LOADS]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="expose", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="fewer and shorter rounds: under 60 s")
    add("--flood", action="store_true", help="saturate without regard to what comes back")
    add("--check", action="store_true", help="exit status 1 when a bar is not met")
    add("--json", metavar="FILE", type=Path, help="write all samples there")
    add("--write", metavar="FILE", type=Path, help="put the table into this Markdown file")
    add("--python", metavar="PATH", default=sys.executable, help="interpreter for udppunch")
    add(
        "--against-helper",
        metavar="CMD",
        help="measure this helper too, such as 'prog --port {port}'",
    )
    add(
        "--against-expose",
        metavar="CMD",
        help="with this exposer, such as 'prog {service} 127.0.0.1:{port}'; {service} is IP:PORT",
    )
    add("--no-ours", action="store_true", help="leave udppunch out: try the harness itself")
    options = parser.parse_args()
    if bool(options.against_helper) != bool(options.against_expose):
        parser.error("--against-helper and --against-expose go together")
    return options


def main() -> int:
    options = arguments()
    os.environ.pop("UDPPUNCH_PASSWORD", None)
    with tempfile.TemporaryDirectory(prefix="udppunch-bench-") as name:
        folder = Path(name)
        with Processes(folder) as processes:
            window = NO_WINDOW if options.flood else WINDOW
            bench = Bench(processes, folder, options.python, window)
            results = run(bench, QUICK if options.quick else FULL, options)
    report.progress("")
    shown = section(results)
    print(shown.as_text())
    print("\n".join(["", *doubts(results)]))
    if options.json:
        options.json.write_text(as_json(results) + "\n")
    if options.write:
        text = f"{report.conditions('expose', options.python)}\n\n{shown.as_markdown()}"
        report.write(options.write, "Exposing", text)
    return report.status(failures(results), options.check)


if __name__ == "__main__":
    report.run("expose", main)
