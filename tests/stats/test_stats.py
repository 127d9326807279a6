"""`udppunch stats` as a process, with daemons that answer, are gone, or are none."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Dict, Iterator, List, NamedTuple

import pytest

from tests import program
from tests.ports import free_port
from tests.stats.daemons import Daemon, document
from udppunch.stats import client

COMMAND = (sys.executable, "-m", "udppunch", "stats")


class Ran(NamedTuple):
    status: int
    output: str
    errors: str


def environment(folder: "Path | None" = None) -> Dict[str, str]:
    own = {"XDG_RUNTIME_DIR": str(folder)} if folder else {}
    return {"PATH": os.environ["PATH"], "PYTHONPATH": str(program.ROOT), **own}


def stats(*arguments: str, folder: "Path | None" = None, through: "tuple[str, ...]" = ()) -> Ran:
    found = subprocess.run(
        [*through, *COMMAND, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        env=environment(folder),
    )
    assert "Traceback" not in found.stderr, found.stderr
    return Ran(found.returncode, found.stdout, found.stderr)


# Gives the command a /run of its own: what else this machine runs is not the test's.
ALONE = (
    *("unshare", "--mount", "--map-root-user")[: 2 if os.geteuid() == 0 else 3],
    *("sh", "-c", 'mount -t tmpfs none /run && exec "$@"', "sh"),
)


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """The user's folder for control sockets."""
    if subprocess.run([*ALONE, "true"], capture_output=True).returncode:
        pytest.skip("no mount namespaces here")
    folder = tmp_path / "udppunch"
    folder.mkdir()
    return folder


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with Daemon(tmp_path / "relay.sock", [document()]) as running:
        yield running


# One that answers


def test_table(daemon: Daemon) -> None:
    ran = stats(daemon.path)
    assert (ran.status, ran.errors) == (0, "")
    assert ran.output.startswith("relay on [::]:6060\n")
    assert "/relay.sock, pid 12, version " in ran.output
    assert daemon.asked == [{"want": "stats", "channels": 10}]


def test_json_is_the_document_as_given(daemon: Daemon) -> None:
    ran = stats("--json", daemon.path)
    assert (ran.status, json.loads(ran.output)) == (0, document())


@pytest.mark.parametrize("given,asked", [("3", 3), ("none", 0)])
def test_channels(daemon: Daemon, given: str, asked: int) -> None:
    assert stats("--channels", given, daemon.path).status == 0
    assert daemon.asked == [{"want": "stats", "channels": asked}]


def test_relative_path(daemon: Daemon) -> None:
    path = os.path.relpath(daemon.path)
    assert "/" in path and stats(path).status == 0


def test_daemon_of_ours(tmp_path: Path) -> None:
    control = str(tmp_path / "control")
    where = f"127.0.0.1:{free_port()}"
    with program.Program("relay", where, "--workers", "1", "--control", control) as daemon:
        daemon.wait_event("listening")
        found = json.loads(stats("--json", control).output)
        assert (found["pid"], found["listen"]) == (daemon.process.pid, [where])
        shown = stats(control).output
        assert f"pid {daemon.process.pid}, " in shown and f" on {where}\n" in shown
        daemon.assert_alive_and_sane()


# Those that are found


def test_all_that_are_found_are_shown(own: Path) -> None:
    with Daemon(own / "a.sock", [document(name="relay")]):
        with Daemon(own / "b.sock", [document(name="serve")]):
            (own / "note.txt").write_text("no socket")
            ran = stats(folder=own.parent, through=ALONE)
            assert (ran.status, ran.errors) == (0, "")
            assert ran.output.startswith("relay on ") and "\n\nserve on " in ran.output
            both = json.loads(stats("--json", folder=own.parent, through=ALONE).output)
            assert [each["name"] for each in both] == ["relay", "serve"]
        assert (
            json.loads(stats("--json", folder=own.parent, through=ALONE).output)["name"] == "relay"
        )


def test_one_that_was_left_behind_hides_no_other(own: Path) -> None:
    leave_behind(own / "a.sock")
    with Daemon(own / "b.sock", [document()]):
        ran = stats(folder=own.parent, through=ALONE)
    assert ran.status == 0 and ran.output.startswith("relay on ")
    assert ran.errors.count("\n") == 1 and f"nobody listens at {own}/a.sock" in ran.errors


def test_none_is_found(own: Path) -> None:
    ran = stats(folder=own.parent, through=ALONE)
    assert (ran.status, ran.output, ran.errors.count("\n")) == (69, "", 1)
    assert f"no control socket in /run/udppunch or {own}: start a daemon" in ran.errors
    assert "no control socket in /run/udppunch: " in stats(through=ALONE).errors


# Those that do not answer


def leave_behind(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))


def complaint(path: str, status: int) -> str:
    ran = stats(path)
    assert (ran.status, ran.output, ran.errors.count("\n")) == (status, "", 1), ran
    assert path in ran.errors
    return ran.errors


def test_socket_that_was_left_behind(tmp_path: Path) -> None:
    leave_behind(tmp_path / "dead")
    assert "its daemon has ended" in complaint(str(tmp_path / "dead"), 69)


def test_no_such_socket(tmp_path: Path) -> None:
    assert "does the daemon run?" in complaint(str(tmp_path / "none"), 69)


def test_file_that_is_no_socket(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "is no control socket" in complaint(str(tmp_path / "file"), 69)


def test_path_that_is_too_long(tmp_path: Path) -> None:
    complaint(str(tmp_path / ("a" * 120)), 69)


@pytest.mark.parametrize(
    "said",
    [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"[1]", b"{", b'{"error": "ask for stats"}',
     b"[" * 100_000, b"1" * 10_000, b"\xff"],
)  # fmt: skip
def test_what_is_no_daemon(tmp_path: Path, said: bytes) -> None:
    with Daemon(tmp_path / "other", [said]) as other:
        assert "is it udppunch?" in complaint(other.path, 69)


def test_daemon_that_is_stuck(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_PATIENCE", 0.2)
    path = str(tmp_path / "stuck")
    waiting: List[socket.socket] = []
    with socket.socket(socket.AF_UNIX) as stuck:
        stuck.bind(path)
        stuck.listen(0)
        found = client.ask(path, 0).said
        assert isinstance(found, client.CommandError) and found.status == 69
        assert str(found) == f"the daemon at {path} does not answer"
        # Nor is there room for another who waits.
        for _ in range(3):
            waiting.append(socket.socket(socket.AF_UNIX))
            waiting[-1].setblocking(False)
            waiting[-1].connect_ex(path)
        assert "does not answer" in str(client.ask(path, 0).said)
        for each in waiting:
            each.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_no_permission(daemon: Daemon, own: Path) -> None:
    os.chmod(daemon.path, 0o600)
    for folder in (own.parent, *own.parent.parents[:-2]):
        os.chmod(folder, 0o755)
    nobody = ("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups")
    if subprocess.run([*nobody, sys.executable, "-c", ""], capture_output=True).returncode:
        pytest.skip("nobody may not run this Python")
    ran = stats(daemon.path, through=nobody)
    assert ran.status == 77 and "ask as root or as the daemon's user" in ran.errors
    os.chmod(own, 0o700)
    ran = stats(folder=own.parent, through=(*ALONE, *nobody))
    assert ran.status == 77 and f"no permission for {own}" in ran.errors


@pytest.mark.parametrize(
    "arguments,said",
    [
        (["relay.example.org:6061"], "--password-file FILE or UDPPUNCH_PASSWORD"),
        (["relay.sock"], "./relay.sock"),
        (["--every", "1ms"], "at least 100ms"),
        (["--channels", "many"], "channels: 'many'"),
        (["./a", "./b"], "too many arguments"),
    ],
)
def test_usage_errors(arguments: List[str], said: str) -> None:
    ran = stats(*arguments)
    assert (ran.status, ran.output) == (64, "") and said in ran.errors


# Again and again


class Watch:
    """`stats --watch`, ended by Ctrl-C."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [*COMMAND, "--watch", "--every", "100ms", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(),
        )

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def read_until(self, wanted: str) -> List[str]:
        assert self.process.stdout is not None
        lines: List[str] = []
        while not (lines and wanted in lines[-1]):
            line = self.process.stdout.readline()
            assert line, (lines, self.process.stderr)
            lines.append(line.rstrip("\n"))
        return lines

    def interrupt(self) -> Ran:
        self.process.send_signal(signal.SIGINT)
        output, errors = self.process.communicate(timeout=30)
        return Ran(self.process.returncode, output, errors)


def counted(datagrams: int, uptime: float) -> "dict[str, object]":
    role = {"name": "relay", "counters": {"datagrams": datagrams}}
    return {"pid": 12, "uptime": uptime, "roles": [role]}


def test_watch_shows_rates_in_blocks(tmp_path: Path) -> None:
    documents = [counted(1000, 1.0), counted(1600, 2.0)]
    with Daemon(tmp_path / "relay", documents) as daemon, Watch(daemon.path) as watch:
        first = watch.read_until("datagrams")
        assert first[-1].split() == ["datagrams", "1000"]
        second = watch.read_until("datagrams")
        assert second[:2] == ["", "udppunch"]
        name, total, rate = second[-1].split()
        assert total == "1600" and 0 < float(rate[:-2]) <= 6000 and rate.endswith("/s")
        assert watch.read_until("datagrams")[-1].endswith(" 0.0/s")
        ran = watch.interrupt()
    assert (ran.status, ran.errors) == (0, "")
    assert "\x1b" not in "\n".join([*first, *second]) + ran.output


def test_watch_knows_a_restart(tmp_path: Path) -> None:
    documents = [counted(1000, 9.0), counted(1600, 1.0)]
    with Daemon(tmp_path / "relay", documents) as daemon, Watch(daemon.path) as watch:
        watch.read_until("datagrams")
        assert watch.read_until("datagrams")[-1].split() == ["datagrams", "1600"]


def test_watch_goes_on_when_the_daemon_is_gone_for_a_while(tmp_path: Path) -> None:
    with Daemon(tmp_path / "relay", [document()]) as daemon, Watch(daemon.path) as watch:
        watch.read_until("channel: from")
        os.rename(daemon.path, daemon.path + ".away")
        assert watch.process.stderr is not None
        assert "does the daemon run?" in watch.process.stderr.readline()
        os.rename(daemon.path + ".away", daemon.path)
        watch.read_until("channel: from")
        assert watch.interrupt().status == 0


def test_watch_in_json_is_a_line_each(daemon: Daemon) -> None:
    with Watch("--json", daemon.path) as watch:
        for _ in range(2):
            assert json.loads(watch.read_until("{")[0]) == document()
        assert watch.interrupt().status == 0


def test_watch_needs_a_daemon_to_begin_with(tmp_path: Path) -> None:
    with Watch(str(tmp_path / "none")) as watch:
        assert watch.process.wait(30) == 69


def test_watch_clears_a_terminal(daemon: Daemon) -> None:
    import pty

    ours, theirs = pty.openpty()
    watching = subprocess.Popen(
        [*COMMAND, "--watch", "--every", "100ms", daemon.path],
        stdin=theirs,
        stdout=theirs,
        env=environment(),
    )
    os.close(theirs)
    shown = b""
    while shown.count(b"\x1b[H\x1b[2J") < 2:
        shown += os.read(ours, 4096)
    watching.send_signal(signal.SIGINT)
    assert watching.wait(30) == 0
    os.close(ours)


# Where it runs


@pytest.mark.parametrize("output", [">&-", "<&-"])
def test_closed_output(daemon: Daemon, output: str) -> None:
    ran = stats(daemon.path, through=("sh", "-c", f'exec "$@" {output}', "sh"))
    assert (ran.status, ran.errors) == (0, "")


def test_full_disk(daemon: Daemon) -> None:
    ran = stats(daemon.path, through=("sh", "-c", 'exec "$@" >/dev/full', "sh"))
    assert (ran.status, ran.errors) == (71, "udppunch: No space left on device\n")


def test_reader_that_has_gone(daemon: Daemon) -> None:
    with Watch(daemon.path) as watch:
        watch.read_until("relay on")
        assert watch.process.stdout is not None and watch.process.stderr is not None
        watch.process.stdout.close()
        assert watch.process.wait(30) == 0
        assert watch.process.stderr.read() == ""
        watch.process.stdout = None


def test_ctrl_c_while_the_daemon_is_silent(tmp_path: Path) -> None:
    path = tmp_path / "silent"
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(path))
        silent.listen()
        with Watch(str(path)) as watch:
            asking = silent.accept()[0]
            time.sleep(0.05)
            ran = watch.interrupt()
            asking.close()
    assert ran == (0, "", "")
