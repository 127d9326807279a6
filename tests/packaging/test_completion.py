"""The completions of bash, zsh and fish, each asked of the shell itself.

bash and zsh have a terminal, where a person types the start of a command, Tab and Enter: `udppunch`
is a function there that says its arguments, so what was completed is what it was called with. fish
says by itself what it would complete.
"""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import socket
import struct
import subprocess
import sys
import termios
import time
from fcntl import ioctl
from pathlib import Path
from typing import Iterator, List, Set, Union

import docopt
import pytest

from udppunch import config, demo, usage
from udppunch.check.settings import PROTOCOLS
from udppunch.config import parse

ROOT = Path(__file__).parents[2]
TEXTS = {**usage.COMMANDS, "udpexposer": usage.UDPEXPOSER}
PATIENCE = 30.0
PROMPT = "<ready>"
ZSH = """\
unset zle_bracketed_paste
unsetopt prompt_cr prompt_sp beep list_ambiguous
LISTMAX=1000 PS1='<ready>'
fpath=({made}/zsh $fpath)
autoload -U compinit && compinit -u -d {home}/.zcompdump
udppunch() {{ printf '<%s>' "$@"; echo ' were the arguments' }}
"""
BASH = """\
PS1='<ready>'
bind 'set enable-bracketed-paste off'
bind 'set bell-style none'
bind 'set completion-query-items 0'
bind 'set page-completions off'
bind 'set show-all-if-ambiguous on'
source {made}/bash/udppunch
udppunch() {{ printf '<%s>' "$@"; echo ' were the arguments'; }}
"""


class AtTerminal:
    """bash or zsh, with the completions and nothing that the user of this machine has set."""

    def __init__(self, name: str, made: Path, home: Path) -> None:
        self.home = home
        start = home / (".zshrc" if name == "zsh" else "bashrc")
        start.write_text((ZSH if name == "zsh" else BASH).format(made=made, home=home))
        arguments = ["--noprofile", "--rcfile", str(start)] if name == "bash" else []
        self._terminal, other = pty.openpty()
        ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", 400, 300, 0, 0))
        self._shell = subprocess.Popen(
            ["setsid", "--ctty", "--wait", name, *arguments, "-i"],
            stdin=other,
            stdout=other,
            stderr=other,
            cwd=home,
            env={**clean(home), "ZDOTDIR": str(home), "TERM": "dumb"},
        )
        os.close(other)
        self._read_until(PROMPT)

    def completed(self, line: str) -> List[str]:
        """The arguments after Tab at the end of the line."""
        self._type(f"{line}\t\r")
        said = self._read_until(f"were the arguments\r\n{PROMPT}")
        (last,) = re.findall(r"^(<.*>) were the arguments", said, re.MULTILINE)
        return list(re.findall(r"<(.*?)>", last))

    def offered(self, line: str) -> Set[str]:
        """The words of the list that Tab shows."""
        # Control-U takes the line away; the quotes tell what is typed from what is said.
        self._type(f"{line}\t\x15echo en''ded\r")
        said = self._read_until(f"ended\r\n{PROMPT}")
        return set(said.partition("\n")[2].split()) - {"--"}

    def close(self) -> None:
        os.close(self._terminal)
        self._shell.wait(PATIENCE)

    def _type(self, text: str) -> None:
        os.write(self._terminal, text.encode())

    def _read_until(self, mark: str) -> str:
        said, due = "", time.monotonic() + PATIENCE
        while not said.endswith(mark):
            ready, _, _ = select.select([self._terminal], [], [], max(0.0, due - time.monotonic()))
            assert ready, f"no {mark!r}: {said!r}"
            said += os.read(self._terminal, 65536).decode()
        return said


class Fish:
    def __init__(self, made: Path, home: Path) -> None:
        self._made, self.home = made, home

    def completed(self, line: str) -> List[str]:
        (only,) = self.offered(line)
        return [*line.split()[1:-1], only]

    def offered(self, line: str) -> Set[str]:
        said = subprocess.run(
            ["fish", "--no-config", "-c", 'source $argv[1]; complete -C "$argv[2]"']
            + [str(self._made / "fish/udppunch.fish"), line],
            cwd=self.home,
            env=clean(self.home),
            capture_output=True,
            text=True,
            check=True,
        )
        assert said.stderr == ""
        return {offer.partition("\t")[0] for offer in said.stdout.splitlines()}

    def close(self) -> None:
        pass


Shell = Union[AtTerminal, Fish]


def clean(home: Path) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "LC_ALL": "C.UTF-8",
        "HOME": str(home),
        "XDG_RUNTIME_DIR": str(home / "run"),
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("completion")
    subprocess.run([sys.executable, ROOT / "packaging/completion", folder], check=True)
    return folder


@pytest.fixture(scope="module", params=["bash", "zsh", "fish"])
def shell(
    request: pytest.FixtureRequest, made: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Shell]:
    name: str = request.param
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not installed")
    home = tmp_path_factory.mktemp(name)
    for file in ("secret-of-the-relay", "public.yaml", "a key"):
        (home / file).touch()
    (home / "run/udppunch").mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as relay, socket.socket(socket.AF_UNIX) as helper:
        relay.bind(str(home / "run/udppunch/relay-1.sock"))
        helper.bind(str(home / "run/udppunch/helper-2.sock"))
        found = Fish(made, home) if name == "fish" else AtTerminal(name, made, home)
        yield found
        found.close()


def long_options(command: str) -> Set[str]:
    options = docopt.parse_defaults(TEXTS[command])  # type: ignore[attr-defined]
    return {option.long for option in options}


def test_commands_are_those_of_help(shell: Shell) -> None:
    assert set(usage.COMMANDS) <= shell.offered("udppunch ")


@pytest.mark.parametrize("command", [*TEXTS, *config.ALIASES])
def test_options_are_those_of_help(shell: Shell, command: str) -> None:
    offered = shell.offered(f"udppunch {command} --")
    found = {word for word in offered if re.fullmatch(r"--[a-z][a-z-]+", word)}
    assert found == long_options(config.ALIASES.get(command, command))


@pytest.mark.parametrize(
    ("line", "completed"),
    [
        ("udppunch ren", ["rendezvous"]),
        ("udppunch relay --sec", ["relay", "--secret-file"]),
        ("udppunch server --key", ["server", "--key-file"]),
        ("udppunch relay --secret-file sec", ["relay", "--secret-file", "secret-of-the-relay"]),
        ("udppunch relay --log-level deb", ["relay", "--log-level", "debug"]),
        ("udppunch relay --log-level=deb", ["relay", "--log-level=debug"]),
        ("udppunch helper -n 5 --proxy-protocol v", "helper -n 5 --proxy-protocol v2".split()),
        ("udppunch demo --nat-a full-", ["demo", "--nat-a", "full-static"]),
        ("udppunch check hel", ["check", "helper"]),
        ("udppunch check relay --sec", ["check", "relay", "--secret-file"]),
        ("udppunch check -t 5s rel", ["check", "-t", "5s", "relay"]),
        ("udppunch check serve h --key-file a", ["check", "serve", "h", "--key-file", "a key"]),
        (
            "udppunch check rendezvous --protocol holep",
            "check rendezvous --protocol holepunch".split(),
        ),
        ("udppunch run pub", ["run", "public.yaml"]),
    ],
)
def test_a_start_is_completed(shell: Shell, line: str, completed: List[str]) -> None:
    assert shell.completed(line) == completed


@pytest.mark.parametrize(
    ("line", "values"),
    [
        ("udppunch run --log-level ", set(parse.LOG_LEVELS)),
        ("udppunch demo --nat-b ", set(demo.CLASSES)),
        ("udppunch helper --proxy-protocol ", {"v2", "none"}),
        ("udppunch check rendezvous --protocol ", set(PROTOCOLS)),
        ("udppunch check ", set(usage.CHECKS)),
    ],
)
def test_values_are_those_that_the_program_takes(shell: Shell, line: str, values: Set[str]) -> None:
    assert values <= shell.offered(line)
    assert values.isdisjoint(shell.offered("udppunch relay --idle "))


def test_stats_knows_the_sockets_of_running_daemons(shell: Shell) -> None:
    names = {Path(word).name for word in shell.offered("udppunch stats ")}
    assert {"relay-1.sock", "helper-2.sock"} <= names


def test_name_of_a_socket_is_no_command(shell: Shell) -> None:
    """A daemon may be another user's, and so is what it calls its socket."""
    with socket.socket(socket.AF_UNIX) as named:
        place = shell.home / "run/udppunch/x$(touch ran).sock"
        named.bind(str(place))
        try:
            shell.offered("udppunch stats ")
            completed = shell.completed(f"udppunch stats {place.parent}/x")
        finally:
            place.unlink()
    assert completed == ["stats", str(place)]
    assert not (shell.home / "ran").exists()
