"""The example configurations and the crontab, run by the real program in a network of their own."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Dict, Iterator, List

import pytest

from tests.lab.fixtures import BuildLab
from udppunch.lab import Host

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "packaging" / "examples"
CRON = ROOT / "packaging" / "cron"
PATIENCE = 20.0
SECRETS = {
    "key": "the key of the examples\n",
    "password": "the password of the examples\n",
    "relay-secret": "c2VjcmV0IG9mIHRoZSBleGFtcGxlcw==\n",
}


class Stage:
    """A host whose directory has the secrets that the units give a daemon, and no name server."""

    def __init__(self, host: Host, directory: Path) -> None:
        self.host = host
        self.directory = directory
        self._stack = ExitStack()
        for name, text in SECRETS.items():
            (directory / name).write_text(text)
            (directory / name).chmod(0o600)
        program = directory / "udppunch"
        program.write_text(f'#!/bin/sh\nexec {sys.executable} -m udppunch "$@"\n')
        program.chmod(0o755)

    def start(self, example: str) -> None:
        """Until the daemon says that it is ready, as the service manager waits for it."""
        self.copy(EXAMPLES / example)
        notified = self.directory / f"{example}.notify"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.bind(str(notified))
            manager.settimeout(PATIENCE)
            process = self.host.popen(
                ["udppunch", "run", example, "--control", f"{example}.sock"],
                cwd=self.directory,
                env={**self.environment, "NOTIFY_SOCKET": str(notified)},
            )
            self._stack.callback(end, process)
            while "READY=1" not in manager.recv(4096).decode().splitlines():
                pass

    def copy(self, file: Path) -> None:
        text = re.sub(r"\w+\.example\.org", "127.0.0.1", file.read_text())
        text = text.replace("/etc/udppunch/", f"{self.directory}/")
        (self.directory / file.name).write_text(text)

    @property
    def environment(self) -> Dict[str, str]:
        return {"PATH": f"{self.directory}:/usr/bin:/bin", "PYTHONPATH": str(ROOT)}

    def close(self) -> None:
        self._stack.close()


def end(process: "subprocess.Popen[str]") -> None:
    process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE) == 0


@pytest.fixture
def stage(build_lab: BuildLab, tmp_path: Path) -> Iterator[Stage]:
    made = Stage(build_lab("public", "public").a, tmp_path)
    try:
        yield made
    finally:
        made.close()


@pytest.mark.parametrize("example", sorted(path.name for path in EXAMPLES.glob("*.yaml")))
def test_starts_and_ends(stage: Stage, example: str) -> None:
    stage.start(example)


def test_make_a_path_together(stage: Stage) -> None:
    for example in ("public.yaml", "home.yaml", "laptop.yaml"):
        stage.start(example)
    with stage.host.socket() as service, stage.host.socket() as application:
        service.bind(("127.0.0.1", 51820))
        for each in (service, application):
            each.settimeout(PATIENCE)
        for front in (5182, 51821):
            application.sendto(b"there", ("127.0.0.1", front))
            data, source = service.recvfrom(99)
            service.sendto(data + b" and back", source)
            assert application.recv(99) == b"there and back"


def lines() -> List[str]:
    """The commands of the crontab."""
    text = (CRON / "udppunch").read_text()
    entries = re.findall(r"^(?:\S+ ){5}root (.*)$", text, re.MULTILINE)
    assert len(entries) == text.count("\n*/5 ")
    return entries


def run(stage: Stage, line: str) -> "subprocess.CompletedProcess[str]":
    """As cron does, but at once, and that nothing is restarted here."""
    stage.copy(CRON / "checks.yaml")
    command = line.split(";")[0].replace("--splay 30s", "")
    command = re.sub(r"(/etc/udppunch|/run)/", f"{stage.directory}/", command)
    return stage.host.run(["/bin/sh", "-c", command], env=stage.environment, check=False)


def test_cron_is_silent_while_all_is_well(stage: Stage) -> None:
    stage.start("public.yaml")
    stage.start("home.yaml")
    for line in lines():
        for _ in range(10):  # until the exposer has registered
            done = run(stage, line)
            if not done.returncode:
                break
        assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), line


@pytest.mark.parametrize("line", lines())
def test_cron_has_a_line_for_each_thing_when_not(stage: Stage, line: str) -> None:
    done = run(stage, line)
    assert done.returncode == 2
    things = 4 if "--file" in line else 1
    assert re.fullmatch(rf"(UDPPUNCH \w+ CRITICAL - .*\n){{{things}}}", done.stdout)
    assert not done.stderr
