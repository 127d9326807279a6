"""`udppunch peer` as people and scripts meet it: what goes in and out, and what it ends with."""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Callable, List

import pytest

from tests import program
from tests.lab import talking
from tests.lab.talking import PATIENCE, Meeting, Talker

MEGABYTES = os.urandom(3 << 20)

Open = Callable[..., Talker]


@pytest.fixture
def meeting() -> Iterator[Meeting]:
    with talking.server() as server:
        yield server
        server.assert_alive_and_sane()


@pytest.fixture
def peer(meeting: Meeting) -> Iterator[Open]:
    """Starts peers; those without a remote one are registered when it returns."""
    with ExitStack() as stack:

        def start(name: str, remote: str = "", *options: str, **keywords: str) -> Talker:
            words = (meeting.holepunch, name, remote, *options)
            talker = stack.enter_context(talking.peer(*words, **keywords))
            if not remote:
                talker.wait_event("registered", PATIENCE)
            return talker

        yield start


def connected(*talkers: Talker) -> None:
    for talker in talkers:
        talker.wait_event("path-up", PATIENCE)


def said(talker: Talker, event: str) -> str:
    return str(talker.wait_event(event, PATIENCE)["message"])


# --- a pipe ------------------------------------------------------------------------------


def test_both_inputs_arrive_whole_and_both_end_with_0(peer: Open) -> None:
    bob, alice = peer("bob"), peer("alice", "bob")
    other_way = bytes(reversed(MEGABYTES))
    for offset in range(0, len(MEGABYTES), 1 << 16):
        alice.write(MEGABYTES[offset : offset + (1 << 16)])
        bob.write(other_way[offset : offset + (1 << 16)])
    alice.end_input()
    bob.end_input()
    assert [bob.wait_exit(), alice.wait_exit()] == [0, 0], f"{bob}\n{alice}"
    assert bob.heard == MEGABYTES and alice.heard == other_way


def test_a_file_to_a_file(peer: Open, tmp_path: Path) -> None:
    source, copy = tmp_path / "source", tmp_path / "copy"
    source.write_bytes(MEGABYTES)
    bob = peer("bob", redirected=f"</dev/null >{copy}")
    alice = peer("alice", "bob", redirected=f"<{source}")
    assert [bob.wait_exit(), alice.wait_exit()] == [0, 0], f"{bob}\n{alice}"
    assert copy.read_bytes() == MEGABYTES


def test_an_output_that_is_not_read_holds_the_input_up(peer: Open, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    bob = peer("bob", redirected=f"</dev/null >{fifo}")
    alice = peer("alice", "bob")
    data = os.urandom(8 << 20)
    os.set_blocking(reader, True)
    written = program_that_fills(alice, data)
    assert written < len(data) // 2, "nothing held it up"
    received = bytearray()
    child = os.fork()
    if not child:
        alice.write(data[written:])
        os._exit(0)
    alice.end_input()
    while chunk := os.read(reader, 1 << 16):
        received += chunk
    os.close(reader)
    os.waitpid(child, 0)
    assert [bob.wait_exit(), alice.wait_exit()] == [0, 0], f"{bob}\n{alice}"
    assert received == data
