"""The supervisor with children of our own, which start, stumble and fall as a test wants it.

Each scenario is a process of its own: this file, run with the scenario's name. What supervisor
and children do they tell by log lines.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NoReturn

import psutil
import pytest

from tests.lab.whole_program import eventually
from tests.program import Program
from udppunch import logs
from udppunch.errors import CommandError, report
from udppunch.notices import event
from udppunch.proc import supervisor
from udppunch.proc.board import Board
from udppunch.proc.signals import release_signals
from udppunch.proc.supervisor import Child, Kind, Supervisor
from udppunch.proc.systemd import Notifier

PATIENCE = 20.0
LONG = 600.0

log = logging.getLogger("udppunch.tests")
Run = Callable[[Board, int], None]


# --- children ----------------------------------------------------------------------------


class _Told(BaseException):
    """A signal said to end."""


def told(board: Board, slot: int, what: str) -> None:
    name = board.names[slot]
    event(log, logging.INFO, what, f"{name}: {what}", child=name, pid=os.getpid())


def steady(board: Board, slot: int, *, ends_after: float = 0.0, heeds: bool = True) -> None:
    """Shows life until it is told to end, and for so long after that if asked by SIGTERM."""

    def end(number: int, frame: object) -> None:
        told(board, slot, signal.Signals(number).name)
        if heeds:
            for each in (signal.SIGTERM, signal.SIGINT):
                signal.signal(each, signal.SIG_IGN)  # once is enough
            raise _Told

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    signal.signal(signal.SIGHUP, lambda number, frame: told(board, slot, "SIGHUP"))
    release_signals()
    try:
        told(board, slot, "started")
        while True:
            board.beat(slot, f"{board.names[slot]} is well")
            time.sleep(0.05)
    except _Told:
        time.sleep(ends_after)
    told(board, slot, "ended")


def leaving_late(board: Board, slot: int) -> None:
    steady(board, slot, ends_after=1.0)


def deaf(board: Board, slot: int) -> None:
    steady(board, slot, heeds=False)


def raising(board: Board, slot: int) -> None:
    told(board, slot, "started")
    raise RuntimeError("hush hush")


def complaining(board: Board, slot: int) -> None:
    raise CommandError("cannot use 192.0.2.1:1: this host has no such address", 73)


def returning(board: Board, slot: int) -> None:
    told(board, slot, "started")


def crashing(board: Board, slot: int) -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def stumbling(board: Board, slot: int) -> None:
    """Three times."""
    if board.processes()[board.names[slot]].restarts < 3:
        raise RuntimeError
    steady(board, slot)


def short_lived(board: Board, slot: int) -> None:
    board.beat(slot, "")
    told(board, slot, "started")
    time.sleep(0.3)


def falling_silent(board: Board, slot: int) -> None:
    """At the first try."""
    if not board.processes()[board.names[slot]].restarts:
        board.beat(slot, "")
        time.sleep(LONG)
    steady(board, slot)


def never_alive(board: Board, slot: int) -> None:
    """At the first try."""
    if not board.processes()[board.names[slot]].restarts:
        time.sleep(LONG)
    steady(board, slot)


def slow(board: Board, slot: int) -> None:
    time.sleep(1.0)
    told(board, slot, "about to live")
    steady(board, slot)


# --- scenarios ---------------------------------------------------------------------------


def group(leader: Run, *followers: Run, number: int = 1) -> List[Child]:
    children = [Child(f"leader {number}", Kind.LEADER, number, leader)]
    for index, run in enumerate(followers, 1):
        children.append(Child(f"follower {number}.{index}", Kind.FOLLOWER, number, run))
    return children


SCENARIOS: Dict[str, List[Child]] = {
    "steady": group(steady, steady, steady),
    "raising": group(steady, raising),
    "complaining": group(steady, complaining),
    "returning": group(steady, returning),
    "crashing": group(steady, crashing),
    "raising leader": group(raising, steady),
    "stumbling": group(steady, stumbling),
    "short-lived": group(steady, short_lived),
    "silent": group(steady, falling_silent, never_alive),
    "slow": group(slow, steady),
    "leaving late": group(leaving_late, steady),
    "deaf": group(deaf, deaf),
    "two groups": [*group(steady, steady), *group(leaving_late, steady, number=2)],
}


def reload() -> bool:
    right = not Path(os.environ["WRONG"]).exists()
    if not right:
        event(log, logging.ERROR, "wrong", "all wrong")
    return right


def main(scenario: str, drain: str) -> NoReturn:
    logs.set_up("debug", True, {})
    if scenario == "short-lived":
        supervisor._STARTED = 0.1  # else each of its lives had to take seconds
    children = SCENARIOS[scenario]
    try:
        Supervisor(children, Notifier(os.environ), float(drain), reload).run()
    except CommandError as error:
        sys.exit(report(error))
    sys.exit(0)


class Supervised(Program):
    def __init__(self, scenario: str, wrong: Path, drain: float = LONG, **variables: str) -> None:
        def popen(arguments: List[str], *, env: Dict[str, str], **more: Any) -> Any:
            command = [sys.executable, "-m", __name__, scenario, str(drain)]
            return subprocess.Popen(command, env={**env, "WRONG": str(wrong), **variables}, **more)

        super().__init__(scenario, popen=popen)

    def wait_started(self) -> None:
        for child in SCENARIOS[self.name]:
            self.wait_event("started", child=child.name)

    def said(self) -> List[str]:
        """What happened to whom, in order."""
        return [f"{e['child']} {e['event']}" for e in self.events if "child" in e]

    def restarts(self) -> List[str]:
        return [e["message"] for e in self.events if e["event"] == "restart"]

    def wait_exit(self) -> int:
        """The status that it ends with, having left no child of its own behind."""
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"did not end: {self}") from None
        status = self.stop()
        pids = {e["pid"] for e in self.events if "pid" in e}
        ended = eventually(lambda: not any(map(runs, pids)), PATIENCE)
        assert ended, f"left some of {pids}: {self}"
        return status


def runs(pid: int) -> bool:
    try:
        return str(psutil.Process(pid).status()) != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[..., Supervised]]:
    started: List[Supervised] = []

    def run_one(scenario: str, **options: Any) -> Supervised:
        started.append(Supervised(scenario, tmp_path / "wrong", **options))
        return started[-1]

    yield run_one
    for each in started:
        each.stop(signal.SIGKILL)


RunScenario = Callable[..., Supervised]


# --- children that fall ------------------------------------------------------------------


@pytest.mark.parametrize(
    "scenario, how",
    [
        ("raising", "ended with status 70"),
        ("complaining", "ended with status 73"),
        ("returning", "ended with status 0"),
        ("crashing", "was killed by SIGSEGV"),
    ],
)
def test_who_cannot_start_is_tried_ever_later_and_then_no_more(
    scenario: str, how: str, run: RunScenario
) -> None:
    process = run(scenario)
    assert process.wait_exit() == 70
    pauses = ["started again", "again in 0.1 s", "again in 0.2 s", "again in 0.4 s"]
    assert process.restarts() == [f"follower 1.1 {how}: {pause}" for pause in pauses]
    last = f"udppunch: follower 1.1 {how} 5 times in a row while it started: giving up"
    assert process.output[-1] == last
    assert process.said()[-2:] == ["leader 1 SIGINT", "leader 1 ended"]
    assert "Traceback" not in str(process.output) and "hush" not in str(process.output)


def test_a_leader_that_cannot_start(run: RunScenario) -> None:
    process = run("raising leader")
    assert process.wait_exit() == 70
    assert "leader 1 ended with status 70 5 times in a row" in process.output[-1]
    assert "follower 1.1 ended" in process.said()


def test_who_stumbles_is_started_again(run: RunScenario) -> None:
    process = run("stumbling")
    process.wait_event("started", child="follower 1.1")
    assert len(process.restarts()) == 3
    process.process.send_signal(signal.SIGINT)
    assert process.wait_exit() == 0


def test_who_has_lived_is_started_again_without_end(run: RunScenario) -> None:
    process = run("short-lived")
    process.wait_event("started", child="follower 1.1", count=9)
    assert set(process.restarts()) == {"follower 1.1 ended with status 0: started again"}
    process.process.send_signal(signal.SIGINT)
    assert process.wait_exit() == 0


def test_who_shows_no_life_is_ended(run: RunScenario) -> None:
    process = run("silent")
    for name in ("follower 1.1", "follower 1.2"):
        process.wait_event("restart", process=name)
        process.wait_event("started", child=name)
    assert sorted(process.restarts()) == [
        f"{name} was killed by SIGKILL: started again" for name in ("follower 1.1", "follower 1.2")
    ]
    process.process.send_signal(signal.SIGINT)
    assert process.wait_exit() == 0


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGCHLD], ids=lambda s: s.name)
def test_signals_make_nobody_late(number: signal.Signals, run: RunScenario) -> None:
    """Each wakes the supervisor, which is no measure of time."""
    process = run("steady")
    process.wait_started()
    for victim in [e["pid"] for e in process.events if "pid" in e]:
        os.kill(victim, signal.SIGSTOP)
    for _ in range(200):
        process.process.send_signal(number)
        time.sleep(0.005)
    for victim in [e["pid"] for e in process.events if "pid" in e]:
        os.kill(victim, signal.SIGCONT)
    process.process.send_signal(signal.SIGINT)
    assert process.wait_exit() == 0
    assert not process.restarts(), process


# --- told to end -------------------------------------------------------------------------


def test_followers_end_after_their_leader(run: RunScenario) -> None:
    process = run("leaving late")
    process.wait_started()
    process.process.send_signal(signal.SIGTERM)
    assert process.wait_exit() == 0
    assert process.said()[2:] == [
        "leader 1 SIGTERM", "leader 1 ended", "follower 1.1 SIGINT", "follower 1.1 ended"
    ]  # fmt: skip


def test_groups_end_each_with_its_leader(run: RunScenario) -> None:
    process = run("two groups")
    process.wait_started()
    process.process.send_signal(signal.SIGTERM)
    assert process.wait_exit() == 0
    said = process.said()
    assert said.index("follower 1.1 ended") < said.index("leader 2 ended")
    assert said.index("leader 2 ended") < said.index("follower 2.1 SIGINT")


def test_who_does_not_drain_in_time_is_ended(run: RunScenario) -> None:
    process = run("deaf", drain=0.2)
    process.wait_started()
    process.process.send_signal(signal.SIGTERM)
    assert process.wait_exit() == 0
    assert process.said()[2:] == ["leader 1 SIGTERM"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda s: s.name)
def test_a_second_signal_ends_all_at_once(number: signal.Signals, run: RunScenario) -> None:
    """Those that heed nothing by force."""
    process = run("deaf")
    process.wait_started()
    process.process.send_signal(signal.SIGTERM)
    process.wait_event("SIGTERM", child="leader 1")
    process.process.send_signal(number)
    assert process.wait_exit() == 0
    assert sorted(process.said()[3:]) == ["follower 1.1 SIGINT", "leader 1 SIGINT"]


def test_followers_are_replaced_as_long_as_their_leader_is_there(run: RunScenario) -> None:
    """For it is their work that it waits for."""
    process = run("leaving late")
    process.wait_started()
    process.process.send_signal(signal.SIGTERM)
    process.wait_event("SIGTERM", child="leader 1")
    os.kill(process.wait_event("started", child="follower 1.1")["pid"], signal.SIGKILL)
    assert process.wait_exit() == 0
    assert process.restarts() == ["follower 1.1 was killed by SIGKILL: started again"]
    assert process.said()[-4:] == [
        "follower 1.1 started", "leader 1 ended", "follower 1.1 SIGINT", "follower 1.1 ended"
    ]  # fmt: skip


def test_told_to_end_while_a_leader_waits_to_be_started(run: RunScenario) -> None:
    """The others have nothing to wait for."""
    process = run("raising leader")
    process.wait_event("restart", count=4)
    process.process.send_signal(signal.SIGTERM)
    assert process.wait_exit() == 0
    assert "follower 1.1 ended" in process.said()


def test_all_end_with_the_supervisor(run: RunScenario) -> None:
    """Followers at once, whatever they heed; leaders are told, for they have to clear away."""
    process = run("steady")
    process.wait_started()
    process.process.kill()
    assert process.wait_exit() == -signal.SIGKILL
    assert process.said()[3:] == ["leader 1 SIGINT", "leader 1 ended"]


# --- told to reread ----------------------------------------------------------------------


def test_a_reload_reaches_all_children_unless_it_is_wrong(tmp_path: Path, run: RunScenario) -> None:
    wrong = tmp_path / "wrong"
    process = run("steady")
    process.wait_started()
    for count in (1, 2):
        process.process.send_signal(signal.SIGHUP)
        for child in SCENARIOS["steady"]:
            process.wait_event("SIGHUP", child=child.name, count=count)
        wrong.touch()
        process.process.send_signal(signal.SIGHUP)
        process.wait_event("wrong", count=count)
        wrong.unlink()
    assert process.count("SIGHUP") == 6
    process.process.send_signal(signal.SIGINT)
    assert process.wait_exit() == 0
    assert not process.restarts() and not process.output


# --- the service manager -----------------------------------------------------------------


def test_the_service_manager_is_told(tmp_path: Path, run: RunScenario) -> None:
    """Ready when all live and not before; then signs of life, and what they do."""
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(path))
        manager.settimeout(PATIENCE)
        process = run("slow", NOTIFY_SOCKET=str(path), WATCHDOG_USEC="400000")
        first = manager.recv(4096).decode().split("\n")
        process.wait_event("about to live")
        assert "READY=1" in first and "WATCHDOG=1" in first
        assert "STATUS=leader 1 is well; follower 1.1 is well" in first
        for _ in range(3):
            again = manager.recv(4096).decode().split("\n")
            assert "WATCHDOG=1" in again and "READY=1" not in again
        process.process.send_signal(signal.SIGTERM)
        while "STOPPING=1" not in manager.recv(4096).decode().split("\n"):
            pass
        assert process.wait_exit() == 0


if __name__ == "__main__":
    main(*sys.argv[1:])
