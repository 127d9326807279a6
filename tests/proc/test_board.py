"""The memory that a supervisor shares with its children."""

from __future__ import annotations

import os

import pytest

from udppunch.proc.board import Board, Process

NAMES = ["registrar", "worker 1", "worker 2"]


def test_a_new_board_tells_nothing() -> None:
    board = Board(NAMES)
    assert board.processes() == {}
    for slot in range(len(NAMES)):
        assert board.beats(slot) == 0 and board.status(slot) == ""


def test_slots_do_not_touch_each_other() -> None:
    board = Board(NAMES)
    for slot in range(len(NAMES)):
        board.enter(slot, 4_000_000 + slot, slot)
    for _ in range(3):
        board.beat(1, "x" * 1000)
    assert [board.beats(slot) for slot in range(3)] == [0, 3, 0]
    assert [len(board.status(slot)) for slot in range(3)] == [0, 111, 0]
    assert board.processes() == {
        name: Process(4_000_000 + slot, slot) for slot, name in enumerate(NAMES)
    }
    board.clear(1)
    assert list(board.processes()) == ["registrar", "worker 2"]
    assert board.beats(1) == 0 and board.status(1) == ""


def test_who_does_not_run_is_not_named() -> None:
    board = Board(NAMES)
    board.enter(0, 7, 2)
    board.enter(0, 0, 3)
    assert board.processes() == {}


@pytest.mark.parametrize("status", ["", "12 channels", "ünïcödé", "\udcff", "x" * 111, "é" * 56])
def test_a_status_is_cut_and_never_unreadable(status: str) -> None:
    board = Board(NAMES)
    board.beat(2, "a longer one that was there before")
    board.beat(2, status)
    told = board.status(2)
    if len(status.encode("utf-8", "replace")) <= 111:
        assert told == status.encode("utf-8", "replace").decode()
    else:
        assert told[:-1] == status[: len(told) - 1]


def test_a_child_writes_what_its_parent_reads() -> None:
    board = Board(NAMES)
    child = os.fork()
    if not child:
        board.enter(1, os.getpid(), 5)
        board.beat(1, "carries on")
        os._exit(0)
    os.waitpid(child, 0)
    assert board.processes() == {"worker 1": Process(child, 5)}
    assert board.beats(1) == 1 and board.status(1) == "carries on"


def test_a_board_without_slots() -> None:
    assert Board([]).processes() == {}
