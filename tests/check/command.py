"""`udppunch check` as a process: with no more of an environment than cron gives it."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any, Dict, List, NamedTuple, Optional, Sequence

from tests.program import ROOT

CRON = {"PATH": "/usr/bin:/bin"}
CHECK = (sys.executable, "-m", "udppunch", "check")
COMMAND = (*CHECK, "relay")
# So that a machine which is busy with other tests is none that is far away.
PATIENT = ("--warning", "60s,20%", "--critical", "60s,60%")


class Ran(NamedTuple):
    status: int
    output: str
    errors: str

    @property
    def document(self) -> Dict[str, Any]:
        found = json.loads(self.output)
        assert isinstance(found, dict)
        return found


def run(
    *arguments: str,
    environment: Optional[Dict[str, str]] = None,
    through: Sequence[str] = (),
    timeout: float = 60.0,
) -> Ran:
    """What comes of it. `through` is a command that is given this one to run."""
    command: List[str] = [*through, *CHECK, *arguments]
    found = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        cwd=ROOT,
        env={**CRON, **(environment or {})},
    )
    assert "Traceback" not in found.stderr, found.stderr
    return Ran(found.returncode, found.stdout, found.stderr)


def check(*arguments: str, **keywords: Any) -> Ran:
    """Of a relay."""
    return run("relay", *arguments, **keywords)


def refused(ran: Ran) -> str:
    """What is said of a command line that is wrong: the same line, on standard output too."""
    said = line(ran, 240)
    assert ran.status == 3 and " UNKNOWN - " in said, ran
    return said


def line(ran: Ran, longest: int = 80) -> str:
    """The one line that a monitor reads, of which what is UNKNOWN may be longer."""
    assert ran.output.count("\n") == 1 and ran.output.endswith("\n"), ran
    assert ran.output.isascii() and not ran.errors
    said = ran.output.rstrip("\n").partition(" | ")[0]
    assert len(said) <= (240 if " UNKNOWN - " in said else longest)
    return ran.output.rstrip("\n")
