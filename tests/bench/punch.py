"""How long a path takes to come up: from an application's first datagram to its answer.

    echo - serve - [NAT] - core - [NAT] - connect - application
                             |
                         rendezvous

In the NAT lab (prc x prc), at several round-trip times between the two hosts, the rendezvous being
half as far from each. Our own ends through our own rendezvous, beside stand-ins with the
original's timing in all three places; each path is a new application's. Round trips are what the
wire takes, so the figure to hold is five of them plus 50 ms. From the top of the tree, as root:

    python -m tests.bench.punch [--quick] [--check] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, List

from tests import program
from tests.bench.common import table
from tests.lab.whole_program import FRONT, MEETING, SERVICE
from tests.standin import process as original
from tests.standin.application import Echo, NumberedClient
from udppunch.lab import Lab, LabError, can_build, enter_user_namespace

ROUND_TRIPS = (0.0, 0.02, 0.05, 0.1, 0.2)
BAR_ROUND_TRIPS = 5
BAR_SECONDS = 0.05
CROWD = 100
ORIGINAL_CROWD = 4  # it takes them one by one, a second each
PATIENCE = 30.0


class Ends:
    """A rendezvous, a server and a client of one make, in a lab with that round-trip time."""

    def __init__(self, make: str, round_trip: float) -> None:
        self._make = make
        self._stack = ExitStack()
        # Two links are crossed each way, and one of them on the way to the rendezvous.
        one_way = round_trip / 4
        lab = Lab("prc", "prc", delay_a=one_way, delay_b=one_way)
        self.lab: Lab = self._stack.enter_context(lab)

    def __enter__(self) -> Ends:
        lab, enter = self.lab, self._stack.enter_context
        ours, key = self._make == "udppunch", program.KEY
        at_core, at_a, at_b = lab.rendezvous.popen, lab.a.popen, lab.b.popen
        turn: Any
        server: Any
        client: Any
        try:
            start_turn: Any = program.rendezvous if ours else original.turn
            turn = enter(start_turn(MEETING, popen=at_core))
            turn.wait_event("listening")
            enter(Echo(SERVICE, open_socket=lab.a.socket))
            if ours:
                server = enter(program.serve(SERVICE, MEETING, popen=at_a))
                client = enter(program.connect(MEETING, listen=FRONT, popen=at_b))
            else:
                server = enter(original.server(SERVICE, MEETING, key, popen=at_a))
                client = enter(original.client(MEETING, key, FRONT, popen=at_b))
            server.wait_event("registered")
            client.wait_event("listening")
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def application(self) -> NumberedClient:
        client = NumberedClient(FRONT, open_socket=self.lab.b.socket)
        return self._stack.enter_context(client)

    def first_answer(self) -> float:
        """Seconds from a new application's first datagram to its answer."""
        application = self.application()
        start = time.perf_counter()
        application.send(1)
        if not application.wait_received(1, PATIENCE):
            raise SystemExit(f"punch: no answer within {PATIENCE:.0f} s")
        return time.perf_counter() - start

    def crowd(self, size: int) -> float:
        """Seconds until the last of so many applications has its answer."""
        applications = [self.application() for _ in range(size)]
        start = time.perf_counter()
        for application in applications:
            application.send(1)
        for application in applications:
            if not application.wait_received(1, PATIENCE):
                raise SystemExit(f"punch: one of {size} had no answer within {PATIENCE:.0f} s")
        return time.perf_counter() - start


def measure(make: str, round_trip: float, runs: int) -> List[float]:
    with Ends(make, round_trip) as ends:
        return [ends.first_answer() for _ in range(runs)]


def in_milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:,.0f}"


def main() -> int:
    options = _arguments()
    reason = can_build()
    if reason is not None:
        raise SystemExit(f"punch: no NAT lab: {reason}")
    enter_user_namespace()
    runs, original_runs = (5, 1) if options.quick else (20, 3)
    rows, failures, figures = [], [], []
    for round_trip in ROUND_TRIPS:
        ours = measure("udppunch", round_trip, runs)
        theirs = measure("original", round_trip, original_runs)
        bar = BAR_ROUND_TRIPS * round_trip + BAR_SECONDS
        median = statistics.median(ours)
        if median > bar:
            failures.append(f"at {round_trip * 1000:.0f} ms: {median * 1000:.0f} ms")
        rows.append(
            [in_milliseconds(s) for s in (round_trip, median, max(ours), bar)]
            + [in_milliseconds(statistics.median(theirs))]
        )
        figures.append({"round_trip": round_trip, "ours": ours, "original": theirs})
    print(table(["round trip", "udppunch", "worst", "bar", "original"], rows))
    print("\nmilliseconds to the first answer; medians of", runs, "and", original_runs, "paths\n")
    with Ends("udppunch", 0.02) as ends:
        ours_crowd = ends.crowd(CROWD)
    with Ends("original", 0.02) as ends:
        theirs_crowd = ends.crowd(ORIGINAL_CROWD)
    print(f"{CROWD} clients at once: all answered after {in_milliseconds(ours_crowd)} ms;")
    print(f"{ORIGINAL_CROWD} of the original's: after {in_milliseconds(theirs_crowd)} ms")
    if options.json:
        figures.append({"crowd": ours_crowd, "original_crowd": theirs_crowd})
        options.json.write_text(json.dumps(figures, indent=1) + "\n")
    if options.check and failures:
        print("\nabove the bar:", "; ".join(failures))
        return 1
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="punch", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="fewer runs: under 40 s")
    add("--check", action="store_true", help="exit status 1 when the bar is not met")
    add("--json", metavar="FILE", type=Path, help="write all figures there")
    return parser.parse_args()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
    except LabError as error:
        sys.exit(f"punch: {error}")
