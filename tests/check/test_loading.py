"""What a check loads: no more than it needs, for it may be run each minute."""

from __future__ import annotations

import subprocess
import sys
from typing import Set

import pytest

from tests.program import ROOT
from udppunch.check.settings import CHECKS

# Prints its outcome, and then all that was loaded for it.
SCRIPT = """
import sys
from udppunch import cli
cli.main(["check", *sys.argv[1:], "127.0.0.1:1", "--timeout", "100ms"])
print(*sys.modules)
"""
# What other commands need, each of which takes a while to load.
FOR_OTHERS = {
    "asyncio", "concurrent", "cryptography", "email", "http", "multiprocessing", "psutil", "ssl",
    "subprocess", "yaml", "udppunch.demo", "udppunch.lab", "udppunch.proc", "udppunch.role",
    "udppunch.stats", "udppunch.web",
}  # fmt: skip
SECRETS = {"UDPPUNCH_KEY": "a key", "UDPPUNCH_PASSWORD": "a password"}


def loaded(role: str) -> Set[str]:
    ran = subprocess.run(
        [sys.executable, "-c", SCRIPT, role],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
        env=SECRETS,
    )
    outcome, modules = ran.stdout.splitlines()
    assert outcome.startswith(f"UDPPUNCH {role.upper()} ") and not ran.stderr, ran
    return set(modules.split())


@pytest.mark.parametrize("role", CHECKS)
def test_it_loads_its_own_module_alone(role: str) -> None:
    modules = loaded(role)
    others = {f"udppunch.check.{other}" for other in CHECKS if other != role}
    assert f"udppunch.check.{role}" in modules and not modules & (others | FOR_OTHERS)
    assert ("argon2" in modules) == (role == "helper"), "it is for a password alone"
