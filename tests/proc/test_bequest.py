"""What one process leaves is found by the other, whole, and by nobody twice."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
from typing import Dict, Iterator, List, Tuple

import pytest

from udppunch.proc.bequest import Bequest


@pytest.fixture
def bequest() -> Iterator[Bequest]:
    bequest = Bequest()
    yield bequest
    taken(bequest)


@contextlib.contextmanager
def opened(count: int) -> Iterator[Dict[str, int]]:
    with contextlib.ExitStack() as stack:
        sockets = [
            stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            for _ in range(count)
        ]
        yield {f"socket-{at}": sock.fileno() for at, sock in enumerate(sockets)}


def inodes(files: Dict[str, int]) -> Dict[str, int]:
    return {name: os.fstat(number).st_ino for name, number in files.items()}


def taken(bequest: Bequest) -> Dict[str, int]:
    found = bequest.found()
    known = inodes(dict(found))
    close_all(found)
    return known


def close_all(found: List[Tuple[str, int]]) -> int:
    for _, number in found:
        os.close(number)
    return len(found)


@pytest.mark.parametrize("count", [0, 1, 249, 250, 251, 1500])
def test_what_was_left_is_found_once(count: int, bequest: Bequest) -> None:
    """After whoever left it has closed it."""
    with opened(count) as files:
        left = inodes(files)
        bequest.leave(files)
    assert taken(bequest) == left
    assert bequest.found() == []


def leave_in_a_process_of_its_own(bequest: Bequest, files: Dict[str, int]) -> None:
    child = os.fork()
    if not child:
        bequest.leave(files)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0


def test_the_last_one_counts(bequest: Bequest) -> None:
    """Who was killed while he wrote is replaced, and his files are not kept open."""
    with opened(600) as files, opened(3) as later:
        leave_in_a_process_of_its_own(bequest, files)
        leave_in_a_process_of_its_own(bequest, later)
        open_before = len(os.listdir("/proc/self/fd"))
        assert taken(bequest) == inodes(later)
        assert len(os.listdir("/proc/self/fd")) == open_before


def test_what_finds_no_room_is_told(bequest: Bequest, caplog: pytest.LogCaptureFixture) -> None:
    rounds = 0
    with opened(1) as files:
        while not caplog.messages:
            bequest.leave(files)
            rounds += 1
            assert rounds < 100_000
        assert "sockets that cannot be handed over: 1 (" in caplog.text
        assert close_all(bequest.found()) == rounds - 1
        caplog.clear()
        bequest.leave(files)  # there is room again
        assert taken(bequest) == inodes(files) and not caplog.messages


def test_who_may_open_fewer_files_is_told_of_the_others(
    bequest: Bequest, caplog: pytest.LogCaptureFixture
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with opened(100) as files:
        left = inodes(files)
        bequest.leave(files)
    highest = max(map(int, os.listdir("/proc/self/fd")))
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, hard))
    try:
        found = taken(bequest)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert found.items() <= left.items() and len(found) < len(left)
    count = len(left) - len(found)
    assert f"sockets that cannot be handed over: {count} (too many open files)" in caplog.text
