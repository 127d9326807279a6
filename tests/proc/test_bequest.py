"""What one process leaves is found by the other, whole, and by nobody twice."""

from __future__ import annotations

import contextlib
import os
import socket
from typing import Dict, Iterator, List, Tuple

import pytest

from udppunch.proc.bequest import Bequest, bequest_pair

Sockets = List[socket.socket]


@pytest.fixture
def ends() -> Iterator[Tuple[Bequest, Bequest]]:
    one, other = bequest_pair()
    yield one, other
    for _, number in (*one.found(), *other.found()):
        os.close(number)


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


def taken(end: Bequest) -> Dict[str, int]:
    found = dict(end.found())
    known = inodes(found)
    for number in found.values():
        os.close(number)
    return known


@pytest.mark.parametrize("count", [0, 1, 249, 250, 251, 1500])
def test_what_was_left_is_found_once(count: int, ends: Tuple[Bequest, Bequest]) -> None:
    """By whichever end, after whoever left it has closed it."""
    for giver, heir in (ends, ends[::-1]):
        with opened(count) as files:
            left = inodes(files)
            giver.leave(files)
        assert taken(heir) == left
        assert heir.found() == giver.found() == []


def leave_in_a_process_of_its_own(end: Bequest, files: Dict[str, int]) -> None:
    child = os.fork()
    if not child:
        end.leave(files)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0


def test_the_last_one_counts(ends: Tuple[Bequest, Bequest]) -> None:
    """Who was killed while he wrote is replaced, and his files are not kept open."""
    one, other = ends
    with opened(600) as files, opened(3) as later:
        leave_in_a_process_of_its_own(one, files)
        leave_in_a_process_of_its_own(one, later)
        open_before = len(os.listdir("/proc/self/fd"))
        assert taken(other) == inodes(later)
        assert len(os.listdir("/proc/self/fd")) == open_before


def test_what_finds_no_room_is_told(
    ends: Tuple[Bequest, Bequest], caplog: pytest.LogCaptureFixture
) -> None:
    one, other = ends
    rounds = 0
    with opened(1) as files:
        while not caplog.messages:
            one.leave(files)
            rounds += 1
            assert rounds < 100_000
        assert "sockets that cannot be handed over: 1 (" in caplog.text
        assert len(other.found()) == rounds - 1
        caplog.clear()
        one.leave(files)  # there is room again
        assert taken(other) == inodes(files) and not caplog.messages


def test_who_left_nothing_and_is_gone() -> None:
    one, other = bequest_pair()
    del one
    assert other.found() == []
