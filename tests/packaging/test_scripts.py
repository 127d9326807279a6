"""The scripts that make packages and are in them: whether shellcheck has anything to say."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import List

import pytest

ROOT = Path(__file__).parents[2]
SHELLS = re.compile(rb"#!/bin/(ba)?sh\n")


def scripts() -> List[Path]:
    files = [path for path in (ROOT / "packaging").rglob("*") if path.is_file()]
    return sorted(path for path in [*files, ROOT / ".ci/run"] if is_shell(path.read_bytes()))


def is_shell(text: bytes) -> bool:
    return bool(SHELLS.match(text) or text.startswith(b"#!/usr/bin/env bash\n"))


@pytest.mark.parametrize("script", scripts(), ids=lambda path: str(path.relative_to(ROOT)))
def test_shellcheck_is_silent(script: Path) -> None:
    if shutil.which("shellcheck") is None:
        pytest.skip("there is no shellcheck")
    done = subprocess.run(
        # What a system has is not followed: it is another one where the script runs.
        ["shellcheck", "--exclude=SC1091", str(script)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert done.stdout == ""
    assert done.returncode == 0
