"""The Debian package: that it says what the program says, and what packaging/build-deb makes of it.

How it is installed, used, upgraded and purged is tried by packaging/try-in-root.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from configparser import ConfigParser
from pathlib import Path
from typing import List

import pytest

import udppunch

# Packages are built, which takes its time on a machine that is busy with other tests.
pytestmark = pytest.mark.timeout(600)

ROOT = Path(__file__).parents[2]
DEBIAN = ROOT / "packaging" / "debian"
MANUAL = ROOT / "man"
# A python3 of the user's own is not the distribution's.
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
# Where the name is not python3- and that of the Python package index.
NAMES = {"argon2-cffi": "argon2"}
# How the files in the package begin.
PLACES = (
    "etc/default/udppunch-",
    "usr/bin/udppunch",
    "usr/lib/python3/dist-packages/udppunch",
    "usr/lib/systemd/system/udppunch",
    "usr/lib/sysusers.d/udppunch.conf",
    "usr/share/bash-completion/completions/udppunch",
    "usr/share/doc/udppunch/",
    "usr/share/fish/vendor_completions.d/udppunch.fish",
    "usr/share/lintian/overrides/udppunch",
    "usr/share/man/",
    "usr/share/zsh/vendor-completions/_udppunch",
)


def test_version_is_the_programs() -> None:
    newest = (DEBIAN / "changelog").read_text().split("\n")[0]
    assert newest.startswith(f"udppunch ({udppunch.__version__}) ")


def test_whatever_a_part_of_the_program_needs_is_recommended() -> None:
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    extras = setup["options.extras_require"]
    needed = {
        re.split(r"[ <>=]", line)[0].lower()
        for name, lines in extras.items()
        if name not in ("test", "lint")
        for line in lines.split("\n")
        if line
    }
    assert needed
    recommended = re.search(r"^Recommends:\n((?: .*\n)*)", (DEBIAN / "control").read_text(), re.M)
    assert recommended
    missing = {f"python3-{NAMES.get(name, name)}" for name in needed} - set(
        re.findall(r"[\w-]+", recommended[1])
    )
    assert not missing


def test_overrides_of_lintian_have_a_reason() -> None:
    for block in (DEBIAN / "udppunch.lintian-overrides").read_text().strip().split("\n\n"):
        assert block.startswith("# "), block


@pytest.fixture(scope="module")
def builds(tmp_path_factory: pytest.TempPathFactory) -> List[Path]:
    """Two, made in other directories, time zones and with other umasks."""
    for tool in ("dpkg-buildpackage", "lintian", "git"):
        if shutil.which(tool, path=PATH) is None:
            pytest.skip(f"there is no {tool}")
    lacking = subprocess.run(
        ["dpkg-checkbuilddeps", str(DEBIAN / "control")],
        env={"PATH": PATH},
        stderr=subprocess.PIPE,
        text=True,
    )
    if lacking.returncode:
        pytest.skip(lacking.stderr.strip())
    made = []
    for zone, umask in (("UTC", 0o022), ("Asia/Kathmandu", 0o077)):
        directory = tmp_path_factory.mktemp("build")
        environment = {
            **os.environ,
            "TZ": zone,
            "TMPDIR": str(directory),
            # The tests of the build are these here.
            "DEB_BUILD_OPTIONS": "nocheck",
        }
        done = subprocess.run(
            ["/bin/bash", "-c", f"umask {umask:o}; exec packaging/build-deb {directory}/out"],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr[-5000:]
        assert done.stdout == f"{directory}/out/udppunch_{udppunch.__version__}_all.deb\n"
        made.append(directory / "out")
    return made


def test_two_builds_are_the_same_bytes(builds: List[Path]) -> None:
    first, second = ({path.name: path.read_bytes() for path in made.iterdir()} for made in builds)
    assert len(first) == 3  # the package, its source and what describes that
    assert first == second


def test_package_has_the_program_and_nothing_else(builds: List[Path]) -> None:
    (package,) = builds[0].glob("*.deb")
    listing = subprocess.run(
        ["dpkg-deb", "-c", str(package)], stdout=subprocess.PIPE, text=True, check=True
    ).stdout
    files = re.findall(r"^-.* \./(.*)$", listing, re.MULTILINE)
    library = "usr/lib/python3/dist-packages/"
    modules = {path[len(library) :] for path in files if path.startswith(f"{library}udppunch/")}
    known = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "udppunch"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout.split()
    assert modules == set(known)
    assert not [path for path in files if not path.startswith(PLACES)]
    pages = {f"usr/share/man/man{page.suffix[1:]}/{page.name}.gz" for page in MANUAL.iterdir()}
    assert pages == {path for path in files if path.startswith("usr/share/man/")}
