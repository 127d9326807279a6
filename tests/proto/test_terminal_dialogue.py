"""What somebody at a terminal is asked and told, and what his words do."""

from __future__ import annotations

import unicodedata
from typing import Callable, List, Optional, Tuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.proto.chat_user import BOB, ID, ScriptedChat
from udppunch.proto.chat.view import Mark, Peer, State
from udppunch.proto.terminal.dialogue import Dialogue
from udppunch.proto.terminal.page import Page


class Person:
    """Types, and reads what is written since the last time."""

    def __init__(
        self, *, columns: int = 80, colour: bool = False, editing: bool = True, **more: str
    ) -> None:
        self.written: List[str] = []
        self.kept: List[Tuple[Optional[float], str]] = []
        self.columns = columns
        self.chat = ScriptedChat()
        page = Page(self.written.append, lambda: self.columns, colour=colour, editing=editing)
        self.dialogue = Dialogue(
            self.chat,
            page,
            lambda at: "12:00" if at is None else "11:59",
            keep=lambda at, line: self.kept.append((at, line)),
            **more,
        )
        self.chat.join(self.dialogue)

    def type(self, *lines: str) -> None:
        for line in lines:
            self.dialogue.entered(line, 0.0)

    def read(self) -> List[str]:
        text = "".join(self.written)
        self.written.clear()
        assert not text or text.endswith("\n")
        return text.split("\n")[:-1]

    def chatting(self, peer: Peer = BOB) -> Person:
        self.type("alice")
        self.chat.ready()
        self.chat.direct(peer)
        self.read()
        return self


def test_from_the_name_to_the_conversation() -> None:
    person = Person()
    assert person.dialogue.prompt == "Your name: "
    person.type("x" * 33)
    assert person.read() == [f"Your name: {'x' * 33}", "! a name has at most 32 characters"]
    assert person.dialogue.prompt == "Your name: "
    person.type("alice")
    assert person.dialogue.prompt == ""
    person.chat.ready()
    assert person.read() == [
        "Your name: alice",
        "12:00 * registering as alice at chat.example:9001",
        "Your id, by which a peer finds you:",
        ID,
        "Your fingerprint: cccc dddd",
        "1  connect to a peer by its id",
        "2  wait for a peer",
        "3  exit",
    ]
    assert person.dialogue.prompt == "Choose 1, 2 or 3: "
    person.type("1")
    assert person.dialogue.prompt == "The peer's id: "
    person.type(BOB.id)
    assert person.chat.asked[-1] == ("connect", BOB.id)
    person.chat.direct()
    assert person.read()[2:] == [
        "12:00 * asking chat.example:9001 for the peer",
        "12:00 * seeking a path to bob (198.51.100.7:4000)",
        "12:00 * the path to bob is up (198.51.100.7:4000)",
        "Fingerprint of bob: aaaa bbbb",
        "Your fingerprint: cccc dddd",
        "Compare both with what the peer sees, by another way than this chat.",
        "/help tells what can be typed besides what you say.",
    ]
    assert person.dialogue.prompt == "> "
    person.type("hello", "  //x", "//x")
    assert person.chat.asked[-3:] == [("say", "hello"), ("say", "  //x"), ("say", "/x")]
    person.chat.add("hi", Mark.RECEIVED)
    assert person.read() == [
        "11:59 you: hello", "11:59 you:   //x", "11:59 you: /x", "11:59 bob: hi",
    ]  # fmt: skip
    assert person.kept[:2] == [
        (None, f"* bob, id {BOB.id}, fingerprint aaaa bbbb"),
        (0.0, "you: hello"),
    ]


def test_waiting_until_a_peer_comes() -> None:
    person = Person()
    person.type("alice")
    person.chat.ready()
    person.type("4", "2")
    assert person.read()[-3:] == [
        "Choose 1, 2 or 3: 4", "! 1, 2 or 3 is what can be chosen", "Choose 1, 2 or 3: 2",
    ]  # fmt: skip
    assert person.dialogue.prompt == "Waiting; Return shows the menu. "
    person.type("")
    assert person.read()[-1] == "3  exit"
    person.type("2")
    person.chat.direct()
    assert person.dialogue.prompt == "> "


def test_leaving() -> None:
    for lines in (["3"], ["/quit"], ["2", "/quit"]):
        person = Person()
        person.type("alice")
        person.chat.ready()
        person.type(*lines)
        assert person.dialogue.over == 0
    person = Person().chatting()
    person.type("one", "two")
    person.read()
    person.dialogue.ended(0.0)
    assert person.dialogue.over == 0
    assert person.read() == ["12:00 * 2 lines are not delivered yet"]


def test_answers_given_in_advance() -> None:
    person = Person(name="alice", peer=BOB.id)
    assert person.dialogue.prompt == ""
    assert person.dialogue.due()
    person.dialogue.proceed(0.0)
    assert not person.dialogue.due()
    person.chat.ready()
    assert person.dialogue.due()
    person.dialogue.proceed(0.0)
    assert person.chat.asked == [("rename", "alice"), ("connect", BOB.id)]
    assert "3  exit" not in person.read()
    person.chat.to(State.FAILED, reason="no such peer")
    assert person.read()[-4:] == [
        "12:00 * no such peer", "1  connect to a peer by its id", "2  wait for a peer", "3  exit",
    ]  # fmt: skip
    assert not person.dialogue.due()


def test_answers_in_advance_that_are_refused_are_asked_for() -> None:
    person = Person(name="x" * 33, peer="nonsense")
    person.dialogue.proceed(0.0)
    assert person.read() == ["! a name has at most 32 characters"]
    assert person.dialogue.prompt == "Your name: "
    person.type("alice")
    person.chat.ready()
    person.chat.refusing = "no id"
    person.dialogue.proceed(0.0)
    assert person.read()[-4:] == [
        "! no id", "1  connect to a peer by its id", "2  wait for a peer", "3  exit",
    ]  # fmt: skip
    assert person.dialogue.prompt == "Choose 1, 2 or 3: "


@pytest.mark.parametrize(
    "line", ["hello", "/connect 3f", "/reset", "/connect", "/nonsense", "/conn\x1b[2Ject"]
)
def test_a_refusal_is_one_line_and_never_an_end(line: str) -> None:
    person = Person().chatting()
    person.chat.refusing = "no\x1b[31m way"
    person.type(line)
    (told,) = person.read()
    assert told.startswith("! ") and told.isprintable()
    assert person.dialogue.over is None


def test_commands() -> None:
    person = Person().chatting()
    person.type("/help")
    assert any("/reset" in row for row in person.read())
    person.type("/connect  " + ID)
    assert person.chat.asked[-1] == ("connect", ID)
    person.chat.direct()
    person.read()
    person.type("one", "/status")
    told = person.read()
    assert "direct, server chat.example:9001" in told
    assert "the peer's fingerprint: aaaa bbbb" in told
    assert "1 line is not delivered yet" in told
    person.type("/reset")
    assert person.chat.asked[-1] == ("reset", "")
    assert person.read()[0] == "12:00 * the conversation is over"
    assert person.dialogue.prompt == "Choose 1, 2 or 3: "
    person.chat.direct()
    person.type("two")  # whose number is one that there was before
    assert person.read()[-1] == "11:59 you: two"


def test_nothing_but_commands_is_taken_while_the_server_is_silent() -> None:
    person = Person()
    person.type("alice", "hello?")
    assert person.read()[-1] == "! the server has not answered yet"
    person.chat.to(State.REGISTERING, reason="the server is silent")
    person.chat.to(State.REGISTERING, reason="the server is silent")
    assert person.read() == ["12:00 * the server is silent"]


def test_a_line_that_is_the_last_is_marked_in_its_place() -> None:
    person = Person().chatting()
    person.type("hello", "漢字")
    person.read()
    person.chat.mark(1, Mark.DELIVERED)
    assert person.read() == []  # the other one is still under way
    person.chat.mark(2, Mark.DELIVERED)
    assert person.read() == ["\x1b[A\x1b[15C  (delivered)"]
    person.chat.mark(2, Mark.DELIVERED)
    assert person.read() == []


def test_a_long_line_is_marked_behind_its_last_row() -> None:
    person = Person(columns=40).chatting()
    person.type("seven letters and " * 5)
    rows = person.read()
    person.chat.mark(1, Mark.DELIVERED)
    assert person.read() == [f"\x1b[A\x1b[{len(rows[-1])}C  (delivered)"]


def spoken_to(person: Person) -> None:
    person.chat.add("hi", Mark.RECEIVED)


def widened(person: Person) -> None:
    person.columns += 1


def disturbed(person: Person) -> None:
    person.dialogue.disturbed()


@pytest.mark.parametrize("happening", [spoken_to, widened, disturbed])
def test_a_line_that_is_not_the_last_is_told_of(happening: Callable[[Person], None]) -> None:
    person = Person().chatting()
    person.type("hello")
    happening(person)
    person.read()
    person.chat.mark(person.chat.asked.count(("say", "hello")), Mark.DELIVERED)
    assert person.read() == ["12:00 * delivered"]


def test_a_line_without_room_behind_it_is_told_of() -> None:
    person = Person(columns=40).chatting()
    person.type("x" * 20)
    person.read()
    person.chat.mark(1, Mark.DELIVERED)
    assert person.read() == ["12:00 * delivered"]


def test_a_terminal_without_escape_sequences_gets_none() -> None:
    person = Person(editing=False)
    person.type("alice")
    person.chat.ready()
    person.chat.direct()
    person.type("hello")
    person.chat.mark(1, Mark.DELIVERED)
    rows = person.read()
    assert rows[-1] == "12:00 * delivered"
    assert "Your name: alice" not in rows  # the terminal itself has shown it
    assert all(map(str.isprintable, rows))


def test_what_did_not_arrive_is_told() -> None:
    person = Person().chatting()
    person.type("lost", "maybe", "x" * 100)
    person.read()
    person.chat.mark(1, Mark.LOST)
    person.chat.mark(2, Mark.UNCONFIRMED)
    person.chat.mark(3, Mark.LOST)
    assert person.read() == [
        '12:00 * not delivered: "lost"',
        '12:00 * unconfirmed: "maybe"',
        f'12:00 * not delivered: "{"x" * 40}..."',
    ]
    assert (None, '* not delivered: "lost"') in person.kept
    person.type("last")
    person.read()
    person.chat.mark(4, Mark.LOST)
    assert person.read() == ["\x1b[A\x1b[15C  (not delivered)"]


def test_marks_that_are_known_at_once() -> None:
    person = Person().chatting()
    person.chat.add("hello", Mark.UNCONFIRMED, mine=True)
    person.chat.add("hi", Mark.PLAIN)
    assert person.read() == ["11:59 you: hello  (unconfirmed)", "11:59 bob: hi  (unencrypted)"]


def test_a_peer_that_is_gone_and_back() -> None:
    person = Person().chatting()
    person.type("hello")
    person.read()
    person.chat.to(State.GONE)
    person.chat.to(State.DIRECT)
    person.chat.to(State.GONE, reason="has left")
    person.chat.to(State.DIRECT)
    person.chat.to(State.DIRECT, peer=Peer(BOB.id, "bob", BOB.fingerprint, "192.0.2.1:5"))
    assert person.read() == [
        "12:00 * bob is gone, and is sought on; 1 line is not delivered yet",
        "12:00 * bob is back",
        "12:00 * bob is gone: has left; 1 line is not delivered yet",
        "12:00 * bob is back",
        "12:00 * the path to bob is now 192.0.2.1:5",
    ]


def test_colours_are_there_when_wanted() -> None:
    person = Person(colour=True).chatting()
    person.type("hello")
    person.chat.add("hi", Mark.RECEIVED)
    person.chat.to(State.GONE)
    assert person.read() == [
        "\x1b[2m11:59 \x1b[0m\x1b[36myou: \x1b[0mhello",
        "\x1b[2m11:59 \x1b[0m\x1b[1;32mbob: \x1b[0mhi",
        "\x1b[2m12:00 \x1b[0m\x1b[33m* bob is gone, and is sought on; 1 line is not "
        "delivered yet\x1b[0m",
    ]


@pytest.mark.parametrize(
    ("name", "called"),
    [
        ("", "b0b0b0b0"),
        ("You", "peer You"),
        ("yo\x1b[mu", "peer you"),
        (" \t\x1b[31m\u202e ", "b0b0b0b0"),
        ("* bob is gone", "peer * bob is gone"),
        ("bob\n12:00 you", "bob 12:00 you"),
        ("x" * 100, "x" * 32),
    ],
)
def test_a_peer_can_not_call_himself_somebody_else(name: str, called: str) -> None:
    person = Person().chatting(Peer(BOB.id, name))
    person.chat.add("hi", Mark.RECEIVED)
    assert person.read() == [f"11:59 {called}: hi"]


def test_a_peer_can_not_write_a_line_that_looks_like_ones_own() -> None:
    person = Person(columns=40).chatting()
    person.chat.add("\n12:00 you: yes\r12:00 you: no" + " " * 60 + "12:00 you: yes", Mark.RECEIVED)
    first, *rows = person.read()
    assert first == "11:59 bob: "
    assert rows and all(row.startswith(" " * 6) for row in rows)


STRANGE = st.text(st.characters() | st.sampled_from("\x1b[]\x9b\r\n\u202e\x07m;K"))


@given(STRANGE, STRANGE, STRANGE, st.integers(0, 100))
def test_nothing_that_comes_from_others_is_more_than_text(
    name: str, text: str, reason: str, columns: int
) -> None:
    person = Person(columns=columns).chatting(Peer(BOB.id, name, reason, reason))
    person.chat.add(text, Mark.RECEIVED)
    person.dialogue.notice(text)
    person.chat.to(State.GONE, reason=reason)
    person.chat.to(State.FAILED, reason=text)
    for row in person.read() + [line for _, line in person.kept]:
        assert not {char for char in row if unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp")}
        assert "\u202e" not in row
