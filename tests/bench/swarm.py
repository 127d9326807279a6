"""udp-relay's load test at its full size: how many handshakes 1,024 clients get answered.

Each of them sends one of random length every 24 ms, for a minute, through one worker and two.

    python -m tests.bench.swarm [--quick] [--write docs/performance.md]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.bench.common import table
from tests.bench.report import conditions, write
from tests.interop.test_relay_swarm import SECRET, ours
from tests.standin.swarm import PER_SECOND, compile_swarm, run_swarm

CLIENTS = 1024
SECONDS = 60
QUICK_SECONDS = 10
BAR = 99.9


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="swarm", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_SECONDS} s each")
    parser.add_argument("--write", metavar="FILE", type=Path, help="put the table into it")
    options = parser.parse_args()
    seconds = QUICK_SECONDS if options.quick else SECONDS
    head = ["workers", "sent", "of those wanted %", "answered %", f"at least {BAR} %"]
    rows = []
    with tempfile.TemporaryDirectory(prefix="udppunch-bench-") as folder:
        swarm = compile_swarm(Path(folder))
        for workers in (1, 2):
            with ours(workers) as port:
                counted = run_swarm(swarm, port, clients=CLIENTS, seconds=seconds, secret=SECRET)
            answered = 100 * counted["answered"] / max(1, counted["sent"])
            wanted = 100 * counted["sent"] / (CLIENTS * seconds * PER_SECOND)
            met = "met" if answered >= BAR and not counted["unpaired"] else "not met"
            rows.append(
                [str(workers), f"{counted['sent']:,}", f"{wanted:.0f}", f"{answered:.3f}", met]
            )
    print(table(head, rows))
    if options.write:
        lines = [f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows]]
        what = f"{CLIENTS:,} clients for {seconds} s, each with a handshake every 24 ms."
        text = "\n\n".join([conditions("swarm", sys.executable), what, "\n".join(lines)])
        write(options.write, "udp-relay's load test", text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
