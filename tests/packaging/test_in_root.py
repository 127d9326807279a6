"""The Debian package in a system of its own, booted: installed, used, upgraded under load, purged.

What is done there packaging/in-root says. It takes root and a mirror of Debian, and minutes.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import urllib.request
from pathlib import Path
from typing import Optional

import pytest

ROOT = Path(__file__).parents[2]
SUITE = "bookworm"
MIRROR = "http://deb.debian.org/debian"
TOOLS = ("debootstrap", "dpkg-buildpackage", "lintian", "systemd-nspawn")
# Runs a command in a container that has this host's /usr and nothing else.
CONTAINER = "systemd-nspawn -q --register=no --keep-unit --private-network --volatile=yes -D /"


def hindrance() -> Optional[str]:
    """Why no system can be booted here."""
    if os.geteuid() != 0:
        return "not root"
    for tool in TOOLS:
        if shutil.which(tool) is None:
            return f"there is no {tool}"
    tried = subprocess.run(
        [*CONTAINER.split(), "/bin/true"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if tried.returncode:
        return f"no containers: {tried.stdout.strip()}"
    try:
        urllib.request.urlopen(f"{MIRROR}/dists/{SUITE}/Release", timeout=10).close()
    except OSError as error:
        return f"{MIRROR}: {error}"
    return None


@pytest.mark.timeout(900)
def test_all_is_well_in_a_fresh_system(tmp_path: Path) -> None:
    reason = hindrance()
    if reason is not None:
        pytest.skip(reason)
    # The tests of the build are run here anyway.
    environment = {**os.environ, "TMPDIR": str(tmp_path), "DEB_BUILD_OPTIONS": "nocheck"}
    done = subprocess.run(
        [ROOT / "packaging" / "try-in-root", SUITE],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    assert done.returncode == 0, done.stdout[-10_000:]
