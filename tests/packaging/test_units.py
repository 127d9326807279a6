"""The systemd units: what systemd says of them, and that they agree with the program.

That the daemons work under them is tried by packaging/try-in-root, in booted systems.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Dict, List, Set

import pytest

from udppunch import config, usage

ROOT = Path(__file__).parents[2]
PACKAGING = ROOT / "packaging"
SERVICES = sorted((PACKAGING / "systemd").glob("*.service"))
UNITS = [
    *SERVICES,
    *sorted((PACKAGING / "systemd").glob("*.timer")),
    *sorted((PACKAGING / "examples").glob("*.socket")),
]
DEFAULTS = sorted((PACKAGING / "default").iterdir())
WORST_EXPOSURE = 1.5
# What differs between the units, of those settings that say what a daemon may not do.
SANDBOX = re.compile(
    r"(Private|Protect|Restrict|SystemCall|Capability|NoNew|Lock|Memory|Limit|UMask|Keyring|Remove)"
)


def identify(path: Path) -> str:
    return path.name


def settings(path: Path) -> List[str]:
    return [line for line in path.read_text().splitlines() if re.match(r"\w+=", line)]


def command(path: Path) -> str:
    """What the unit starts: the name of udppunch's command."""
    (line,) = (line for line in settings(path) if line.startswith("ExecStart="))
    found = re.fullmatch(r"ExecStart=/usr/bin/udppunch (\w+) .*", line)
    assert found, line
    return found[1]


@pytest.fixture
def analyze() -> str:
    found = shutil.which("systemd-analyze")
    if found is None:
        pytest.skip("there is no systemd-analyze")
    return found


@pytest.mark.parametrize("path", SERVICES, ids=identify)
def test_exposure(analyze: str, path: Path) -> None:
    done = subprocess.run(
        [analyze, "security", "--offline=true", "--no-pager", str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    found = re.search(r"Overall exposure level for .*: (\d+\.\d+)", done.stdout)
    assert found, done.stdout
    assert float(found[1]) <= WORST_EXPOSURE, done.stdout


@pytest.mark.parametrize("path", UNITS, ids=identify)
def test_systemd_understands_all_of_it(analyze: str, path: Path, tmp_path: Path) -> None:
    """But for the program and the pages, which are not installed here."""
    for unit in UNITS:
        text = re.sub(r"^Documentation=.*\n", "", unit.read_text(), flags=re.MULTILINE)
        (tmp_path / unit.name).write_text(text.replace("/usr/bin/udppunch", "/bin/true"))
    done = subprocess.run(
        [analyze, "verify", "--man=no", str(tmp_path / path.name)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_all_are_in_the_same_sandbox() -> None:
    sandboxes = {
        path.name: [line for line in settings(path) if SANDBOX.match(line)] for path in SERVICES
    }
    assert len(SERVICES) > 1
    assert len(set(map(tuple, sandboxes.values()))) == 1, sandboxes


@pytest.mark.parametrize("path", SERVICES, ids=identify)
def test_starts_a_command_that_there_is(path: Path) -> None:
    assert command(path) in usage.COMMANDS


@pytest.mark.parametrize("path", SERVICES, ids=identify)
def test_each_credential_has_a_default(path: Path) -> None:
    """Else the unit ends without a word of the program's when the file is not there."""
    named: Dict[str, Set[str]] = {"Load": set(), "Set": set()}
    for line in settings(path):
        found = re.match(r"(Load|Set)Credential=(.*?):", line)
        if found:
            named[found[1]].add(found[2])
    assert named["Load"] == named["Set"]


@pytest.mark.parametrize("path", DEFAULTS, ids=identify)
def test_defaults_are_for_a_unit_and_name_options_that_there_are(path: Path) -> None:
    unit = PACKAGING / "systemd" / f"{path.name}.service"
    assert f"EnvironmentFile=-/etc/default/{path.name}" in settings(unit)
    text = path.read_text()
    options = set(re.findall(r"--[\w-]+", text))
    assert options
    assert options <= set(re.findall(r"--[\w-]+", usage.COMMANDS[command(unit)]))
    started = next(line for line in settings(unit) if line.startswith("ExecStart="))
    assert set(re.findall(r"^#(\w+)=", text, re.MULTILINE)) == set(
        re.findall(r"\$\{?(\w+)", started)
    )


def test_there_is_a_default_for_each_unit_of_one_role() -> None:
    roles = {path.stem for path in SERVICES if command(path) in config.ROLES}
    assert roles == {path.name for path in DEFAULTS}
