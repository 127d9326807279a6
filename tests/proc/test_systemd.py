"""What the service manager is told and given to keep; what it is told of an upgrade."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional

import pytest

from tests import program
from tests.faults.relay_traffic import PATIENCE, RelayProgram
from tests.lab.whole_program import eventually
from tests.ports import free_port
from tests.program import Popen, Program
from tests.standin.service_manager import ServiceManager, Told
from udppunch.proc import systemd
from udppunch.proc.systemd import Notifier

of_any_size = pytest.mark.parametrize("workers", [1, 2])


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[ServiceManager]:
    with ServiceManager(tmp_path) as running:
        yield running


@pytest.fixture
def notifier(manager: ServiceManager) -> Notifier:
    return Notifier({"NOTIFY_SOCKET": manager.path})


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def same(one: int, other: int) -> bool:
    return os.path.samestat(os.fstat(one), os.fstat(other))


# --- telling -----------------------------------------------------------------------------


def test_told_in_one_message(manager: ServiceManager, notifier: Notifier) -> None:
    notifier.tell(READY="1", STATUS="all is well = yes")
    manager.wait_told("READY")
    assert manager.told == [Told({"READY": "1", "STATUS": "all is well = yes"}, 0)]


def test_a_name_that_is_no_file(tmp_path: Path) -> None:
    """In the abstract name space, as a user's service manager may have it."""
    name = f"udppunch-tests-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"\0{name}")
        Notifier({"NOTIFY_SOCKET": f"@{name}"}).tell(STATUS="there")
        assert manager.recv(100, socket.MSG_DONTWAIT) == b"STATUS=there"


def test_a_manager_that_hears_nothing_holds_nobody_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is to be kept may take a moment, all else takes none."""
    monkeypatch.setattr(systemd, "_PATIENCE", 0.05)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as deaf:
        deaf.bind(str(tmp_path / "deaf"))
        notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "deaf")})
        before = descriptors()
        with open(os.devnull) as file:
            assert notifier.store("file", file.fileno())
            for _ in range(2000):  # more than its queue takes
                notifier.tell(STATUS="busy")
            assert not notifier.store("file", file.fileno())
        assert descriptors() == before


ABSENT: Dict[str, Dict[str, str]] = {
    "not told where": {},
    "told nothing": {"NOTIFY_SOCKET": ""},
    "gone": {"NOTIFY_SOCKET": "/nowhere/notify"},
    "too long a name": {"NOTIFY_SOCKET": "/run/" + 200 * "x"},
}


@pytest.mark.parametrize("environment", ABSENT.values(), ids=ABSENT)
def test_without_a_manager_nothing_is_kept_and_nothing_fails(environment: Dict[str, str]) -> None:
    notifier = Notifier(environment)
    before = descriptors()
    notifier.tell(READY="1")
    with open(os.devnull) as file:
        assert not notifier.store("file", file.fileno())
    assert not notifier.wait()
    assert descriptors() == before


# --- keeping -----------------------------------------------------------------------------


def test_what_is_kept_is_the_very_file(manager: ServiceManager, notifier: Notifier) -> None:
    reader, writer = os.pipe()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        assert notifier.store("pipe", reader)
        assert notifier.store("socket", sock.fileno())
        assert notifier.wait()
        kept = dict(manager.stored)
        assert set(kept) == {"pipe", "socket"}
        assert same(kept["pipe"], reader) and same(kept["socket"], sock.fileno())
        os.close(reader)
        os.write(writer, b"still open")
        os.close(writer)
        assert os.read(kept["pipe"], 100) == b"still open"


def test_waits_until_all_was_heard(manager: ServiceManager, notifier: Notifier) -> None:
    before = descriptors()
    for count in range(1, 30):
        notifier.tell(STATUS=str(count))
        assert notifier.wait()
        assert manager.values("STATUS")[-1] == str(count)
    assert descriptors() == before


def test_waits_no_longer_than_it_may(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For one that reads nothing."""
    monkeypatch.setattr(systemd, "_BARRIER", 0.1)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as busy:
        busy.bind(str(tmp_path / "busy"))
        before = descriptors()
        assert not Notifier({"NOTIFY_SOCKET": str(tmp_path / "busy")}).wait()
        assert descriptors() == before


# --- what a daemon tells -----------------------------------------------------------------


def daemon(role: str, workers: int, manager: ServiceManager) -> Program:
    if role == "relay":
        return RelayProgram(workers=workers, popen=manager.popen)
    return program.rendezvous(popen=manager.popen)


of_any_kind = pytest.mark.parametrize(
    "role, workers", [("relay", 1), ("relay", 2), ("rendezvous", 1)]
)


@of_any_kind
def test_a_program_that_replaces_itself_is_ready_again(
    role: str, workers: int, manager: ServiceManager
) -> None:
    """And was never stopping: that would have it killed after a while."""
    with daemon(role, workers, manager) as running:
        manager.wait_told("READY")
        for count in (2, 3):
            running.process.send_signal(signal.SIGUSR2)
            manager.wait_told("READY", count)
        assert not manager.values("STOPPING") and not manager.stored
        running.assert_alive_and_sane()
        running.process.send_signal(signal.SIGINT)
        assert running.process.wait(PATIENCE) == 0
        manager.wait_told("STOPPING")


@of_any_kind
def test_what_is_to_be_kept_is_told_before_the_end(
    role: str, workers: int, manager: ServiceManager
) -> None:
    with daemon(role, workers, manager) as running:
        manager.wait_told("READY")
        running.process.send_signal(signal.SIGQUIT)
        assert running.process.wait(PATIENCE) == 0
        manager.wait_told("BARRIER")
        told: List[Told] = manager.told
        assert told[-1] == Told({"BARRIER": "1"}, 1)
        assert all(each.files for each in told if "FDSTORE" in each.assignments)
        inodes = {os.fstat(number).st_ino for _, number in manager.stored}
        assert len(inodes) == len(manager.stored)
        kept = [number for _, number in manager.stored if _is_udp(number)]
        assert len(kept) == workers
        assert all(":" not in name and name.isprintable() for name, _ in manager.stored)
        assert not running.output


@of_any_size
def test_nobody_to_keep_it(workers: int) -> None:
    """As from a terminal, where all processes are told: it ends, and leaves nothing."""
    with RelayProgram(workers=workers) as relay:
        pids = relay.pids().values()
        address = relay.address
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):  # the others may be faster
                os.kill(pid, signal.SIGQUIT)
        assert relay.process.wait(PATIENCE) == 0
        assert eventually(lambda: not relay.children(), PATIENCE), relay.children()
        assert not os.path.exists(relay.control) and not relay.count("restart")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind(address)


# --- a hang-up ---------------------------------------------------------------------------

_OF_A_SERVICE = ("NOTIFY_SOCKET", "INVOCATION_ID")


def started_by(variable: Optional[str]) -> Popen:
    """With that variable of a service manager alone."""

    def popen(arguments: List[str], *, env: Dict[str, str], **more: Any) -> Any:
        environment = {name: env[name] for name in env if name not in _OF_A_SERVICE}
        if variable is not None:
            environment[variable] = "/nowhere"
        return subprocess.Popen(arguments, env=environment, **more)

    return popen


@pytest.mark.parametrize("variable", _OF_A_SERVICE)
def test_a_service_managers_hang_up_has_files_read_again(variable: str, tmp_path: Path) -> None:
    """Also by a daemon of which nothing but the log level can change."""
    file = tmp_path / "rendezvous.yaml"
    where = program.text(("127.0.0.1", free_port()))
    file.write_text(f"roles: [{{rendezvous: {{listen: '{where}'}}}}]\n")
    with Program("run", str(file), popen=started_by(variable)) as rendezvous:
        rendezvous.wait_event("listening")
        rendezvous.process.send_signal(signal.SIGHUP)
        rendezvous.wait_event("reloaded")
        file.write_text("roles: [")
        rendezvous.process.send_signal(signal.SIGHUP)
        assert eventually(lambda: _complains(rendezvous), PATIENCE), rendezvous
        rendezvous.assert_alive_and_sane()


def test_a_terminals_hang_up_ends_what_has_nothing_to_read() -> None:
    with program.rendezvous(popen=started_by(None)) as rendezvous:
        rendezvous.wait_event("listening")
        rendezvous.process.send_signal(signal.SIGHUP)
        assert rendezvous.process.wait(PATIENCE) == 0
        rendezvous.stop()
        assert rendezvous.count("stopped") == 1 and not rendezvous.count("reloaded")


def _complains(running: Program) -> bool:
    return any(event["message"].endswith("all stays as it was") for event in running.events)


def _is_udp(number: int) -> bool:
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(number)) as sock:
        return sock.type == socket.SOCK_DGRAM
    return False
