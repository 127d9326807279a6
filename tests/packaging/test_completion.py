"""The completions of bash, zsh and fish: each by the shell itself, at a terminal of its own.

What is typed there is what a person types: the start of a command, Tab and Enter. `udppunch` is a
function of the shell that says its arguments, so what was completed is what it was called with.
"""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Dict, Iterator, List, Set

import docopt
import pytest

from udppunch import config, usage
from udppunch.config.settings import Setting

ROOT = Path(__file__).parents[2]
SHELLS = ["bash", "zsh", "fish"]
PATIENCE = 20.0
COMMANDS = [*usage.COMMANDS, *config.ALIASES, "udpexposer"]
TEXTS = {**usage.COMMANDS, "udpexposer": usage.UDPEXPOSER}
# Each shell with the completions, and nothing of the user's.
START = {
    "bash": """\
PS1=; bind 'set enable-bracketed-paste off'; bind 'set bell-style none'
source {made}/bash/udppunch
udppunch() {{ printf '<%s>' "$@"; echo ' called'; }}
""",
    "zsh": """\
unsetopt zle_bracketed_paste prompt_cr prompt_sp; PS1=; unsetopt beep
fpath=({made}/zsh $fpath); autoload -U compinit; compinit -u -d {home}/zcompdump
udppunch() {{ printf '<%s>' "$@"; echo ' called' }}
""",
}
ARGUMENTS = {
    "bash": ["--noprofile", "--norc", "--noediting", "-i"],
    "zsh": ["-f", "-i"],
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("completion")
    subprocess.run([sys.executable, ROOT / "packaging/completion", folder], check=True)
    return folder
