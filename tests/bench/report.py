"""Where a benchmark's figures go: a section of a Markdown file, with what made them."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Callable, NoReturn, Sequence

from tests.bench.common import BenchError


def conditions(bench: str, python: str) -> str:
    """The machine, and the command that was given."""
    cpus = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":")[1].strip() for line in cpus if "model name" in line), "")
    version = subprocess.run([python, "-V"], check=True, stdout=subprocess.PIPE).stdout
    machine = [
        model or platform.machine(),
        f"{os.cpu_count()} cores",
        f"Linux {platform.release()}",
        version.decode().strip(),
    ]
    command = " ".join([f"python -m tests.bench.{bench}", *map(shlex.quote, sys.argv[1:])])
    return f"Measured on {', '.join(machine)}, by\n\n    {command}"


def write(file: Path, title: str, text: str) -> None:
    """Put it between the section's two marks, or at the end with these."""
    begin, end = f"<!-- {title} -->", f"<!-- end of {title} -->"
    before, mark, rest = (file.read_text() if file.exists() else "").partition(begin)
    _, _, after = rest.partition(end)
    if not mark:
        before = f"{before.rstrip()}\n\n## {title}\n\n".lstrip()
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"{before}{begin}\n{text}\n{end}{after or chr(10)}")


def progress(text: str) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\033[K{text}")
        sys.stderr.flush()


def status(failures: Sequence[str], check: bool) -> int:
    """The exit status: 1 where bars are to be met and were not, which is said."""
    if not (check and failures):
        return 0
    print("\n".join(["", "Bars not met:", *failures]))
    return 1


def run(name: str, main: Callable[[], int]) -> NoReturn:
    """Ends the process as `main` does."""
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
    except BenchError as error:
        sys.exit(f"{name}: {error}")
