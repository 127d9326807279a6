"""What a check costs whoever runs it each minute: CPU time of the whole process.

Each check, of a relay and a helper that answer at once, beside a bare interpreter, one after the
other. The least of each counts: whatever else the machine does only adds. From the top of the
tree:

    python -m tests.bench.check [--quick] [--check]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from typing import Dict, List, Mapping, Sequence

from tests.bench import report
from tests.bench.common import BenchError, table
from tests.check.command import CHECK, CRON, PATIENT
from tests.check.helpers import WITH_PASSWORD, FaultyHelper
from tests.check.relays import FaultyRelay
from tests.program import ROOT

# Of a bare interpreter's CPU time.
BAR = 12.0
BARE = "a bare interpreter"


def cpu_seconds(command: Sequence[str], environment: Mapping[str, str]) -> float:
    """User and system time of that process, from its start to its end."""
    output = subprocess.DEVNULL
    process = subprocess.Popen(command, stdout=output, cwd=ROOT, env={**CRON, **environment})
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise BenchError(f"{' '.join(command)} ended with status {process.returncode}")
    return usage.ru_utime + usage.ru_stime


def measure(runs: int) -> Dict[str, float]:
    with FaultyRelay() as relay, FaultyHelper() as helper:
        commands: Dict[str, List[str]] = {
            BARE: [sys.executable, "-c", "pass"],
            "check relay": [*CHECK, "relay", relay.address, *PATIENT],
            "check helper": [*CHECK, "helper", helper.address, *PATIENT],
        }
        times: Dict[str, List[float]] = {name: [] for name in commands}
        for _ in range(runs):
            for name, command in commands.items():
                times[name].append(cpu_seconds(command, WITH_PASSWORD))
    return {name: min(each) for name, each in times.items()}


def main() -> int:
    options = _arguments()
    least = measure(5 if options.quick else 30)
    ratios = {name: each / least[BARE] for name, each in least.items() if name != BARE}
    rows = [[name, f"{1000 * least[name]:.0f}", f"{ratio:.1f}"] for name, ratio in ratios.items()]
    print(table(["check", "CPU ms", "ratio"], [[BARE, f"{1000 * least[BARE]:.0f}", ""], *rows]))
    failures = [f"{name}: {ratio:.1f}" for name, ratio in ratios.items() if ratio > BAR]
    return report.status(failures, options.check)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="check", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="fewer runs: under 10 s")
    add("--check", action="store_true", help=f"exit status 1 when a ratio is above {BAR:g}")
    return parser.parse_args()


if __name__ == "__main__":
    report.run("check", main)
