"""`--lock` and `--splay`: runs that keep out of each other's way."""

from __future__ import annotations

import fcntl
import os
import subprocess
from pathlib import Path
from typing import Iterator

import pytest

from tests import program
from tests.check.answering import Answering
from tests.check.command import CHECK, CRON, PATIENT, line, refused, run
from tests.lab.whole_program import eventually

NO_SERVER = b"\x02\x01"


@pytest.fixture
def rendezvous() -> Iterator[Answering]:
    with Answering(lambda datagram: [NO_SERVER]) as running:
        yield running


def test_lock_is_made_and_left(rendezvous: Answering, tmp_path: Path) -> None:
    for _ in range(2):
        ran = run("rendezvous", rendezvous.where, "--lock", str(tmp_path / "lock"), *PATIENT)
        assert ran.status == 0 and " OK - rtt " in line(ran)
    assert (tmp_path / "lock").read_bytes() == b""


def test_no_lock(rendezvous: Answering, tmp_path: Path) -> None:
    through = ("env", "--chdir", str(tmp_path), f"PYTHONPATH={program.ROOT}")
    arguments = (rendezvous.where, "--lock", "none", *PATIENT)
    assert run("rendezvous", *arguments, through=through).status == 0
    assert not list(tmp_path.iterdir())


def test_while_another_runs_nothing_is_checked(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with Answering() as silent:
        command = [*CHECK, "rendezvous", silent.where, "-t", "30s", "--probes", "100"]
        first = subprocess.Popen(
            [*command, "--lock", str(lock)], cwd=program.ROOT, env=CRON, stdout=subprocess.DEVNULL
        )
        try:
            assert silent.wait_received(1)
            ran = run("rendezvous", "127.0.0.1:9", "--lock", str(lock))
            assert ran.status == 0
            assert line(ran).startswith("UDPPUNCH RENDEZVOUS OK - not checked: another")
            assert run("rendezvous", "127.0.0.1:9", "-q", "--lock", str(lock)) == (0, "", "")
        finally:
            first.kill()
            first.wait()
    # Whoever is killed holds it no longer.
    assert run("rendezvous", "127.0.0.1:9", "-t", "1s", "--lock", str(lock)).status == 2


def test_held_lock_as_json(tmp_path: Path) -> None:
    with open(tmp_path / "lock", "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        ran = run("relay", "127.0.0.1:9", "--json", "--lock", str(tmp_path / "lock"))
    document = ran.document
    assert (ran.status, document["status"], document["target"]) == (0, "OK", "127.0.0.1:9")
    assert document["text"] == f"not checked: another check holds {tmp_path / 'lock'}"


def test_mistakes_are_told_all_the_same(tmp_path: Path) -> None:
    with open(tmp_path / "lock", "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        ran = run("relay", "127.0.0.1:0", "-q", "--lock", str(tmp_path / "lock"))
    assert "port 0" in refused(ran)


@pytest.mark.parametrize("make", ["no folder", "a folder", "a link"])
def test_lock_that_cannot_be_made(rendezvous: Answering, tmp_path: Path, make: str) -> None:
    lock = tmp_path / "lock"
    if make == "no folder":
        lock = tmp_path / "none" / "lock"
    elif make == "a folder":
        lock.mkdir()
    else:
        lock.symlink_to(tmp_path / "elsewhere")
    ran = run("rendezvous", rendezvous.where, "--lock", str(lock))
    assert not (tmp_path / "elsewhere").exists()
    assert ran.status == 3 and " RENDEZVOUS UNKNOWN - lock " in line(ran)
    assert not rendezvous.received


def test_lock_that_is_a_fifo(rendezvous: Answering, tmp_path: Path) -> None:
    """Which whoever opens would wait at for a writer."""
    os.mkfifo(tmp_path / "lock")
    ran = run("rendezvous", rendezvous.where, "--lock", str(tmp_path / "lock"), *PATIENT)
    assert ran.status == 0 and rendezvous.received


def is_held(lock: Path) -> bool:
    if not lock.exists():
        return False
    with open(lock) as tried:
        try:
            fcntl.flock(tried, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def test_splay_is_waited_for(rendezvous: Answering, tmp_path: Path) -> None:
    """With the lock in hand: whoever comes meanwhile need not wait too."""
    lock = tmp_path / "lock"
    command = [*CHECK, "rendezvous", rendezvous.where, "--splay", "365d", "--lock", str(lock)]
    waiting = subprocess.Popen(command, cwd=program.ROOT, env=CRON, stdout=subprocess.DEVNULL)
    try:
        assert eventually(lambda: is_held(lock), 30.0)
        assert waiting.poll() is None and not rendezvous.received
    finally:
        waiting.kill()
        waiting.wait()


@pytest.mark.parametrize("splay", ["1ms", "0.2s", "none"])
def test_splay_ends(rendezvous: Answering, splay: str) -> None:
    assert run("rendezvous", rendezvous.where, "--splay", splay, *PATIENT).status == 0


@pytest.mark.parametrize("arguments", [("--splay", "soon"), ("--splay", "0")])
def test_splay_that_is_none(arguments: "tuple[str, ...]") -> None:
    ran = run("relay", "127.0.0.1:9", *arguments)
    assert "splay: " in refused(ran)


def test_locked_run_with_nothing_open(rendezvous: Answering, tmp_path: Path) -> None:
    """The lock's descriptor is not mistaken for output."""
    through = ("sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh")
    lock = tmp_path / "lock"
    arguments = (rendezvous.where, "--lock", str(lock), *PATIENT)
    assert run("rendezvous", *arguments, through=through).status == 0
    assert os.stat(lock).st_size == 0
