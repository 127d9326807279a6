"""The chat as a pipe: what is said when, what goes where, and how it ends."""

from __future__ import annotations

from typing import List, Optional

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.proto.chat_user import BOB, ID, ScriptedChat
from udppunch.proto.chat.view import Mark, State
from udppunch.proto.terminal.pipe import Pipe


class Program:
    """What feeds a pipe; whatever is due is done after each step, as a loop does it."""

    def __init__(self, name: str = "alice", peer: str = BOB.id) -> None:
        self.out: List[str] = []
        self.err: List[str] = []
        self.chat = ScriptedChat()
        self.pipe = Pipe(self.chat, self.out.append, self.err.append, name=name, peer=peer)
        self.chat.join(self.pipe)

    def settle(self) -> None:
        while self.pipe.due():
            self.pipe.proceed(0.0)

    def feed(self, *lines: str) -> None:
        for line in lines:
            self.pipe.entered(line, 0.0)
        self.settle()

    def end(self) -> None:
        self.pipe.ended(0.0)
        self.settle()

    def connected(self) -> Program:
        self.settle()
        self.chat.ready()
        self.settle()
        self.chat.direct()
        self.settle()
        return self

    def mark(self, number: int, mark: Mark) -> None:
        self.chat.mark(number, mark, "text")
        self.settle()

    def said(self) -> List[str]:
        return [text for what, text in self.chat.asked if what == "say"]

    def over(self) -> Optional[int]:
        return self.pipe.over


def test_lines_wait_for_the_path_and_the_end_for_the_lines() -> None:
    program = Program()
    program.feed("one", "", "two")
    program.end()
    assert program.said() == []
    program.connected()
    assert program.chat.asked == [
        ("rename", "alice"), ("connect", BOB.id), ("say", "one"), ("say", "two"),
    ]  # fmt: skip
    assert program.over() is None
    program.mark(1, Mark.DELIVERED)
    assert program.over() is None
    program.mark(2, Mark.UNCONFIRMED)
    assert program.over() == 0
    assert program.out == []
    assert program.err == [
        f"your id: {ID}\n",
        "your fingerprint: cccc dddd\n",
        "registering as alice at chat.example:9001\n",
        "asking chat.example:9001 for the peer\n",
        "seeking a path to bob (198.51.100.7:4000)\n",
        "fingerprint of bob: aaaa bbbb\n",
        "the path to bob is up (198.51.100.7:4000)\n",
    ]


def test_without_a_peer_one_is_waited_for() -> None:
    program = Program(peer="").connected()
    program.feed("hello")
    assert program.chat.asked == [("rename", "alice"), ("say", "hello")]


def test_what_the_peer_says_goes_out_as_it_is_a_line_each() -> None:
    program = Program().connected()
    program.err.clear()
    program.chat.add("one", Mark.RECEIVED)
    program.chat.add("\ttwo\x1b[2J\nrows", Mark.PLAIN)
    program.chat.add("three", Mark.PLAIN)
    assert program.out == ["one\n", "\ttwo rows\n", "three\n"]
    assert program.err == ["what bob says comes unencrypted\n"]


def test_no_more_is_taken_than_can_wait_and_no_more_said_than_can_be_under_way() -> None:
    program = Program()
    while program.pipe.wants_input:
        program.feed("line")
    program.connected()
    assert program.pipe.wants_input
    said = len(program.said())
    assert 0 < said < 64
    program.mark(1, Mark.DELIVERED)
    assert len(program.said()) == said + 1


def test_nothing_is_said_to_somebody_who_is_gone() -> None:
    program = Program().connected()
    program.chat.to(State.GONE)
    program.feed("hello")
    program.end()
    assert (program.said(), program.over()) == ([], None)
    program.chat.to(State.DIRECT)
    program.settle()
    assert program.said() == ["hello"]


@pytest.mark.parametrize("how", ["lost", "refused", "cleared"])
def test_a_lost_line_is_told_in_the_exit_status(how: str) -> None:
    program = Program().connected()
    program.chat.refusing = "it is too long" if how == "refused" else ""
    program.feed("one")
    if how == "lost":
        program.mark(1, Mark.LOST)
    elif how == "cleared":
        program.chat.screen.cleared()
    program.chat.refusing = ""
    program.feed("two")
    program.end()
    assert program.over() is None
    program.mark(program.chat.number, Mark.DELIVERED)
    assert program.over() == 1
    told = {"lost": "not delivered: text\n", "refused": "not sent: it is too long\n"}
    assert told.get(how, program.err[-1]) in program.err


def test_nothing_to_say_is_an_end_at_once() -> None:
    program = Program()
    program.end()
    assert program.over() == 0


@pytest.mark.parametrize("peer", [BOB.id, ""])
def test_without_a_server_it_fails(peer: str) -> None:
    program = Program(peer=peer)
    program.settle()
    program.chat.to(State.FAILED, reason="no\x1b[2J")
    assert program.over() == 1
    assert program.err[-1] == "no\n"


def test_without_the_peer_it_fails() -> None:
    program = Program().connected()
    program.chat.to(State.FAILED)
    assert program.over() == 1
    assert program.err[-1] == "the peer can't be had\n"


def test_when_any_peer_will_do_another_may_come() -> None:
    program = Program(peer="").connected()
    program.chat.to(State.FAILED)
    program.feed("hello")
    program.chat.direct()
    program.settle()
    assert program.said() == ["hello"]


def test_options_that_are_refused_are_a_failure() -> None:
    program = Program(name="x" * 33)
    program.settle()
    assert (program.over(), program.err[-1]) == (1, "a name has at most 32 characters\n")
    program = Program()
    program.settle()
    program.chat.refusing = "that is your own id"
    program.chat.ready()
    program.settle()
    assert (program.over(), program.err[-1]) == (1, "that is your own id\n")


@given(st.lists(st.sampled_from(["say", "say", "say", "mark", "gone", "back"]), max_size=200))
def test_each_line_is_said_once_in_order_and_the_end_comes(steps: List[str]) -> None:
    program = Program().connected()
    sent, marked = 0, 0
    for step in [*steps, "back", "end", *["mark"] * len(steps)]:
        if step == "say":
            sent += 1
            program.feed(str(sent))
        elif step == "mark" and marked < len(program.said()):
            marked += 1
            program.mark(marked, Mark.DELIVERED)
        elif step in ("gone", "back"):
            program.chat.to(State.GONE if step == "gone" else State.DIRECT)
            program.settle()
        elif step == "end":
            assert program.over() is None
            program.end()
        assert program.said() == [str(number + 1) for number in range(len(program.said()))]
        assert len(program.said()) - marked <= 16
    assert len(program.said()) == marked == sent
    assert program.over() == 0
