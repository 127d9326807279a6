"""The RPM: built, judged by rpmlint, and installed into a root of its own.

That it works where systemd runs is tried by packaging/rpm/try-in-root.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from configparser import ConfigParser
from pathlib import Path
from typing import List, Set

import pytest

import udppunch

# Packages are built, which takes its time on a machine that is busy with other tests.
pytestmark = pytest.mark.timeout(600)

ROOT = Path(__file__).parents[2]
PYTHON = "/usr/bin/python3"
NEEDED = "docopt, psutil, pytest, setuptools, wheel, yaml"
DEBIAN = Path("/etc/debian_version").exists()


def rpm(*arguments: object) -> List[str]:
    said = subprocess.run(
        ["rpm", *map(str, arguments)], stdout=subprocess.PIPE, text=True, check=True
    )
    return said.stdout.splitlines()


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Just built. It has to be without a word of rpmlint."""
    for tool in ("rpmbuild", "rpmlint"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    if subprocess.run([PYTHON, "-c", f"import {NEEDED}"], capture_output=True).returncode:
        pytest.skip(f"{PYTHON} has not all of {NEEDED}")
    directory = tmp_path_factory.mktemp("rpm")
    done = subprocess.run(
        [ROOT / "packaging/build-rpm", directory],
        env={**os.environ, "DEB_BUILD_OPTIONS": "nocheck"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (made,) = directory.iterdir()
    assert done.stdout == f"{made}\n"
    return made


def test_requires_what_setup_says(package: Path) -> None:
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")

    def named(text: str) -> Set[str]:
        return {f"python3dist({name.lower()})" for name in re.findall(r"^[\w-]+", text, re.M)}

    extras = setup["options.extras_require"]
    optional = [name for name in extras if name not in ("test", "lint")]
    assert named(setup["options"]["install_requires"]) <= set(rpm("-qpR", package))
    assert set(rpm("-qp", "--recommends", package)) == {
        each for name in optional for each in named(extras[name])
    }


def test_installed_it_is_whole_and_runs(package: Path, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("rpm installs into a root for root only")
    # Of what it requires nothing is there, nor what its scriptlets call.
    without = ["--nodeps", "--noscripts", *(["--force-debian"] if DEBIAN else [])]
    rpm("--root", tmp_path, "-i", *without, package)
    assert rpm("--root", tmp_path, "-V", "--nodeps", "udppunch") == []

    share = tmp_path / "usr/share"
    modules = {
        str(path.relative_to(ROOT)) for path in (ROOT / "udppunch").rglob("*") if path.is_file()
    }
    installed = {
        str(path.relative_to(share / "udppunch"))
        for path in (share / "udppunch").rglob("*")
        if path.is_file()
    }
    compiled = {name for name in installed if name.endswith(".pyc")}
    assert installed - compiled == {name for name in modules if not name.endswith(".pyc")}
    assert len(compiled) == sum(name.endswith(".py") for name in installed)
    for page in (ROOT / "man").iterdir():
        assert (share / f"man/man{page.suffix[1]}" / f"{page.name}.gz").exists()
    for unit in (ROOT / "packaging/systemd").glob("*.service"):
        assert (tmp_path / "usr/lib/systemd/system" / unit.name).read_text() == unit.read_text()

    launcher = (tmp_path / "usr/bin/udppunch").read_text()
    assert launcher.startswith(f"#!{PYTHON} -I\n")
    said = subprocess.run(
        [PYTHON, "-I", "-", "--version"],
        input=launcher.replace("/usr/share", str(share)),
        capture_output=True,
        text=True,
    )
    assert (said.returncode, said.stdout) == (0, f"udppunch {udppunch.__version__}\n")
