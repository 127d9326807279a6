"""`udppunch chat` as people and scripts meet it, in pipes and at a simple terminal."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Callable, Tuple

import pytest

from tests import program
from tests.lab import talking
from tests.lab.talking import PATIENCE, Chatter, Meeting, wait_until
from tests.ports import free_port
from udppunch.wire import chat as wire

pytest.importorskip("cryptography", reason="cryptography is not installed")

NOBODY = "ab" * 32

Open = Callable[..., Chatter]


@pytest.fixture
def meeting() -> Iterator[Meeting]:
    with talking.server() as server:
        yield server
        server.assert_alive_and_sane()


@pytest.fixture
def chat(meeting: Meeting) -> Iterator[Open]:
    """Starts chats; those that ask for nobody are registered when it returns."""
    with ExitStack() as stack:

        def start(name: str, peer: str = "", *options: str, **keywords: str) -> Chatter:
            chatter = talking.chat(meeting.chat, name, peer, *options, **keywords)
            stack.enter_context(chatter)
            if not peer:
                wait_until(lambda: _is_registered(meeting, name), f"{name!r} in {meeting}")
            return chatter

        yield start


def _is_registered(meeting: Meeting, name: str) -> bool:
    events = [event for event in meeting.events if event["event"] == "register"]
    return any(f"{name!r} is at " in event["message"] for event in events)


def pair(chat: Open, *options: str, **keywords: str) -> Tuple[Chatter, Chatter]:
    """Two who have a path; the options are the second one's."""
    bob = chat("bob")
    alice = chat("alice", bob.id, *options, **keywords)
    bob.wait_told("the path to alice is up")
    alice.wait_told("the path to bob is up")
    return bob, alice


# --- lines -------------------------------------------------------------------------------


def test_lines_go_both_ways_in_order_and_once(chat: Open) -> None:
    bob, alice = pair(chat)
    lines = [f"{number} grüezi\tmitenand ✓ {'x' * number}" for number in range(500)]
    alice.say(*lines)
    bob.say(*reversed(lines))
    bob.wait_heard(b"499 ")
    alice.wait_heard(b"\n0 ")
    assert bob.heard.decode().splitlines() == lines
    assert alice.heard.decode().splitlines() == lines[::-1]


def test_the_end_of_input_waits_for_what_was_said(chat: Open, tmp_path: Path) -> None:
    said = tmp_path / "said"
    said.write_text("".join(f"line {number}\n" for number in range(300)) + "without an end")
    bob = chat("bob")
    alice = chat("alice", bob.id, redirected=f"<{said}")
    assert alice.wait_exit() == 0, str(alice)
    assert bob.heard.decode() == said.read_text() + "\n"
    bob.wait_told("alice is gone: has left")


def test_what_is_said_before_there_is_a_path_waits(chat: Open, meeting: Meeting) -> None:
    bob = chat("bob")
    bob.say("first", "", "second")
    alice = chat("alice", bob.id)
    alice.wait_heard(b"first\nsecond\n")


@pytest.mark.parametrize("redirection", ["</dev/null", "<&-"])
def test_who_has_nothing_to_say_listens(redirection: str, chat: Open) -> None:
    bob = chat("bob", redirected=redirection)
    alice = chat("alice", bob.id)
    alice.say("words")
    alice.end_input()
    assert [alice.wait_exit(), bob.wait_exit()] == [0, 0], f"{bob}\n{alice}"
    assert bob.heard == b"words\n"


def test_what_could_disturb_a_terminal_does_not_come_out(chat: Open) -> None:
    bob, alice = pair(chat)
    alice.say("\x1b[2J\x1b]0;title\x07red\x1b[31m \u202eevil\x00", "end")
    bob.wait_heard(b"end\n")
    assert bob.heard == b"red evil\nend\n"


def test_octets_that_are_no_text(chat: Open) -> None:
    bob, alice = pair(chat)
    alice.write(b"\xff\xfe half \xf0\x9f\n")
    bob.wait_heard(b" half ")
    assert "\ufffd" in bob.heard.decode()


def test_a_message_that_is_too_long(chat: Open) -> None:
    """It is told with the limit, and what follows is said all the same."""
    bob, alice = pair(chat)
    longest = "ü" * (wire.TEXT_MAXIMUM // 2)
    alice.say(longest + "x", longest, "end")
    told = alice.wait_told("not sent")
    assert f"at most {wire.TEXT_MAXIMUM} bytes" in told and "1801" in told
    bob.wait_heard(b"end\n")
    assert bob.heard.decode().splitlines() == [longest, "end"]
    alice.end_input()
    assert alice.wait_exit() == 1


def test_both_see_the_same_fingerprints(chat: Open) -> None:
    bob, alice = pair(chat)
    for one, other, name in ((bob, alice, "alice"), (alice, bob, "bob")):
        assert one.wait_told(f"fingerprint of {name}: ").endswith(other.fingerprint)
        assert re.fullmatch(r"[0-9a-f]{64}", one.id)


def test_an_id_in_capitals(chat: Open) -> None:
    bob = chat("bob")
    alice = chat("alice", bob.id.upper())
    alice.wait_told("the path to bob is up")


# --- who goes ----------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_it_with_a_goodbye(number: int, chat: Open) -> None:
    bob, alice = pair(chat)
    alice.process.send_signal(number)
    alice.wait_exit()
    bob.wait_told("alice is gone: has left")


def test_a_peer_that_is_killed_before_all_has_arrived(chat: Open) -> None:
    bob, alice = pair(chat, "--keepalive", "1s")
    bob.process.kill()
    alice.wait_told("bob is gone")
    alice.say("to nobody")
    alice.end_input()
    assert alice.wait_exit(3 * PATIENCE) == 1, str(alice)
    assert alice.told("not sent: to nobody") + alice.told("not delivered: to nobody") == 1


def test_a_peer_that_sleeps_for_a_while_gets_all_of_it(chat: Open) -> None:
    bob, alice = pair(chat, "--keepalive", "1s")
    bob.process.send_signal(signal.SIGSTOP)
    alice.wait_told("bob is gone")
    alice.say("meanwhile", "and more")
    bob.process.send_signal(signal.SIGCONT)
    alice.wait_told("bob is back")
    bob.wait_heard(b"meanwhile\nand more\n")
    alice.end_input()
    assert alice.wait_exit() == 0, str(alice)
    assert bob.heard == b"meanwhile\nand more\n"


def test_who_comes_when_there_is_a_conversation_already(chat: Open) -> None:
    bob, alice = pair(chat)
    carol = chat("carol", bob.id)
    carol.say("me too")
    assert carol.id in bob.wait_told("carol wants to talk")
    carol.stop()
    alice.say("undisturbed")
    bob.wait_heard(b"undisturbed\n")
    assert bob.heard == b"undisturbed\n"


def test_a_peer_that_leaves_ends_a_pipe(chat: Open) -> None:
    """Also one whose own input goes on: nobody would hear it."""
    bob, alice = pair(chat)
    alice.say("goodbye")
    alice.end_input()
    assert alice.wait_exit() == 0, str(alice)
    assert bob.wait_exit() == 0, str(bob)
    assert bob.heard == b"goodbye\n"


# --- the server --------------------------------------------------------------------------


def test_a_peer_who_is_not_registered(chat: Open) -> None:
    alice = chat("alice", NOBODY)
    assert NOBODY in alice.wait_told("has not registered")
    alice.assert_alive_and_sane()
    alice.stop()
    assert alice.told("has not registered") == 1


@pytest.mark.parametrize("bound", [True, False], ids=["silent", "closed"])
def test_a_server_that_does_not_answer(bound: bool) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind((talking.LOOPBACK, 0))
        address = silent.getsockname()
        if not bound:
            silent.close()
        with talking.chat(address, "alice", NOBODY) as alice:
            assert program.text(address) in alice.wait_told("does not answer; asking on")
            alice.assert_alive_and_sane()


def test_a_server_that_comes_late() -> None:
    address = talking.LOOPBACK, free_port()
    with talking.chat(address, "bob") as bob, talking.chat(address, "alice", bob.id) as alice:
        for chatter in (bob, alice):
            chatter.wait_told("does not answer")
        with Meeting((talking.LOOPBACK, free_port()), address):
            alice.say("at last")
            bob.wait_heard(b"at last\n")


def test_a_server_that_is_started_anew_in_the_midst() -> None:
    with talking.server() as first, ExitStack() as stack:
        bob = stack.enter_context(talking.chat(first.chat, "bob", "", "--keepalive", "1s"))
        wait_until(lambda: _is_registered(first, "bob"), str(first))
        words = (first.chat, "alice", bob.id, "--keepalive", "1s")
        alice = stack.enter_context(talking.chat(*words))
        alice.say("before")
        bob.wait_heard(b"before\n")
        first.process.kill()
        alice.say("meanwhile")
        bob.wait_heard(b"meanwhile\n")
        with Meeting(first.holepunch, first.chat):
            bob.process.send_signal(signal.SIGSTOP)
            alice.wait_told("bob is gone")
            bob.process.send_signal(signal.SIGCONT)
            alice.say("after")
            bob.wait_heard(b"after\n")


def test_a_server_whose_name_nobody_knows() -> None:
    with Chatter("chat", "--name", "alice", "server.invalid") as alice:
        assert "server.invalid" in alice.wait_told("trying on")
        alice.assert_alive_and_sane()


# --- history -----------------------------------------------------------------------------


@pytest.mark.parametrize("existing", [False, True])
def test_history_is_its_owners_alone(existing: bool, chat: Open, tmp_path: Path) -> None:
    history = tmp_path / "history"
    if existing:
        history.write_text("before\n")
        history.chmod(0o644)
    bob, alice = pair(chat, "--history", str(history))
    assert stat.S_IMODE(history.stat().st_mode) == 0o600
    alice.say("a question ✓")
    bob.wait_heard("a question ✓\n".encode())
    bob.say("an answer")
    alice.wait_heard(b"an answer\n")
    alice.stop()
    lines = history.read_text().splitlines()
    assert [line for line in lines if line == "before"] == ["before"] * existing
    kept = [line.split(" ", 2)[2] for line in lines if line != "before"]
    assert kept[-2:] == ["you: a question ✓", "bob: an answer"]
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ", line) for line in lines[existing:])


def test_history_under_a_mask_that_masks_nothing(chat: Open, tmp_path: Path) -> None:
    history = tmp_path / "history"
    former = os.umask(0)
    try:
        pair(chat, "--history", str(history))
    finally:
        os.umask(former)
    assert stat.S_IMODE(history.stat().st_mode) == 0o600


def test_a_disk_that_is_full(chat: Open, tmp_path: Path) -> None:
    """It is told once, and the chat goes on; a device is left as it was."""
    device = Path("/dev/full")
    if os.geteuid() == 0:  # who could change the mode of everybody's
        device = tmp_path / "full"
        os.mknod(device, stat.S_IFCHR | 0o600, Path("/dev/full").stat().st_rdev)
        device.chmod(0o666)
    bob, alice = pair(chat, "--history", str(device))
    alice.say("one", "two")
    bob.wait_heard(b"one\ntwo\n")
    bob.say("three")
    alice.wait_heard(b"three\n")
    assert "No space left" in alice.wait_told(str(device))
    alice.end_input()
    assert alice.wait_exit() == 0
    assert alice.told(str(device)) == 1
    assert stat.S_IMODE(device.stat().st_mode) == 0o666


# --- outputs and arguments ---------------------------------------------------------------


def test_an_output_that_is_full(chat: Open) -> None:
    bob, alice = pair(chat, redirected=">/dev/full")
    bob.say("too much")
    assert alice.wait_exit() == 1, str(alice)
    bob.wait_told("alice is gone: has left")


def test_an_output_that_is_closed_loses_what_comes(chat: Open) -> None:
    bob, alice = pair(chat, redirected=">&-")
    bob.say("lost")
    alice.say("words")
    bob.wait_heard(b"words\n")
    alice.end_input()
    assert alice.wait_exit() == 0, str(alice)


def test_a_name_of_the_longest(chat: Open) -> None:
    bob = chat("ü" * 32)
    alice = chat("alice", bob.id)
    alice.wait_told(f"the path to {'ü' * 32} is up")


@pytest.mark.parametrize(
    "words,status,told",
    [
        (["--name", "n" * 33, "127.0.0.1"], 64, "at most 32 characters, not 33"),
        (["--name", " ", "127.0.0.1"], 64, "name"),
        (["--name", "a\tb", "127.0.0.1"], 64, "name"),
        (["127.0.0.1"], 64, "--name NAME"),
        (["--name", "alice", "--peer", "bob", "127.0.0.1"], 64, "64 hexadecimal digits"),
        (["--name", "alice", "--peer", NOBODY + "0", "127.0.0.1"], 64, "64 hexadecimal digits"),
        (["--name", "alice", "--nmae", "127.0.0.1"], 64, "did you mean --name?"),
        (["--name", "alice", "127.0.0.1", "bob"], 64, "too many arguments"),
        (["--name", "alice", "[::1]:9001"], 64, "IPv4 alone"),
        (["--name", "alice", "127.0.0.1:0"], 64, "out of range"),
        (["--name", "alice", "--keepalive", "0", "127.0.0.1"], 64, "out of range"),
        (["--name", "alice", "--history", "/nowhere/file", "127.0.0.1"], 73, "No such file"),
        (["--name", "alice", "--history", "/", "127.0.0.1"], 73, "Is a directory"),
    ],
)
def test_the_wrong_thing_gets_one_line_that_names_it(
    words: "list[str]", status: int, told: str
) -> None:
    found = subprocess.run(
        [sys.executable, "-m", "udppunch", "chat", *words],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE,
        cwd=program.ROOT,
    )  # fmt: skip
    assert (found.returncode, found.stdout) == (status, ""), found.stderr
    assert found.stderr.count("\n") == 1 and found.stderr.startswith("udppunch: "), found.stderr
    assert told in found.stderr


# --- at a terminal that knows no more than lines -----------------------------------------


class Typist:
    """A chat at a terminal, and who types there; `screen` is what was ever shown."""

    def __init__(self, *words: str) -> None:
        self.screen = ""
        self._master, slave = pty.openpty()
        environment = {**os.environ, "TERM": "dumb", "LC_ALL": "C.UTF-8"}
        # Whoever opens it first in a session of his own has it for his controlling terminal.
        at_terminal = ["sh", "-c", 'exec "$@" <>"$0" >&0 2>&0', os.ttyname(slave)]
        self.process = subprocess.Popen(
            [*at_terminal, sys.executable, "-m", "udppunch", "chat", *words],
            stdin=subprocess.DEVNULL, start_new_session=True, cwd=program.ROOT, env=environment,
        )  # fmt: skip
        self._slave = [slave]  # kept until the chat has it surely, or the terminal would be gone
        os.set_blocking(self._master, False)

    def __enter__(self) -> Typist:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        self._let_go()
        os.close(self._master)

    def type(self, *lines: str) -> None:
        os.write(self._master, "".join(f"{line}\n" for line in lines).encode())

    def press(self, key: bytes) -> None:
        os.write(self._master, key)

    def wait_shown(self, part: str, count: int = 1) -> None:
        due = time.monotonic() + PATIENCE
        while self.screen.count(part) < count:
            left = due - time.monotonic()
            assert left > 0 and self._read(left), f"{part!r} is not shown: {self.screen}"

    def wait_exit(self) -> int:
        self._let_go()
        while self._read(PATIENCE):
            pass
        status = self.process.wait(PATIENCE)
        assert "Traceback" not in self.screen and "internal error" not in self.screen, self.screen
        return status

    def _let_go(self) -> None:
        while self._slave:
            os.close(self._slave.pop())

    def _read(self, seconds: float) -> bool:
        """More of what is shown, if there is any to come."""
        if not select.select([self._master], [], [], seconds)[0]:
            return False
        try:
            data = os.read(self._master, 65536)
        except OSError:  # the last program on the terminal has gone
            return False
        self.screen += data.decode(errors="replace").replace("\r", "")
        return bool(data)


def test_somebody_at_a_terminal(chat: Open, meeting: Meeting) -> None:
    bob = chat("bob")
    with Typist(program.text(meeting.chat)) as alice:
        alice.wait_shown("Your name: ")
        alice.type("n" * 33)
        alice.wait_shown("at most 32 characters, not 33")
        alice.type("alice")
        alice.wait_shown("Choose 1, 2 or 3: ")
        alice.type("/nonsense")
        alice.wait_shown("/nonsense is no command")
        alice.type("1", "not an id")
        alice.wait_shown("64 hexadecimal digits")
        own = re.search(r"^[0-9a-f]{64}$", alice.screen, re.MULTILINE)
        assert own is not None, alice.screen
        alice.type(f"/connect {own[0]}")
        alice.wait_shown("that is your own id")
        alice.type(f"/connect {NOBODY}")
        alice.wait_shown("has not registered")
        alice.type(f"/connect {bob.id}")
        alice.wait_shown("the path to bob")
        alice.wait_shown(f"Fingerprint of bob: {bob.fingerprint}")
        alice.type("hello", "//slash")
        bob.wait_heard(b"hello\n/slash\n")
        alice.wait_shown("delivered")
        bob.say("welcome")
        alice.wait_shown("bob: welcome")
        alice.type("x" * 1801)
        alice.wait_shown("at most 1800 bytes, and this has 1801")
        alice.type("/reset")
        alice.wait_shown("the conversation is over")
        bob.wait_told("alice is gone: has left")
        alice.wait_shown("Choose 1, 2 or 3: ", 2)
        alice.type("3")
        assert alice.wait_exit() == 0, alice.screen


def test_a_server_that_is_silent_at_a_terminal() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind((talking.LOOPBACK, 0))
        with Typist("--name", "alice", program.text(silent.getsockname())) as alice:
            alice.wait_shown("does not answer; asking on")
            alice.type("anybody?")
            alice.wait_shown("the server has not answered yet")


@pytest.mark.parametrize("key", [b"\x03", b"\x04"], ids=["Ctrl-C", "Ctrl-D"])
def test_keys_that_end_it(key: bytes, meeting: Meeting) -> None:
    with Typist("--name", "alice", program.text(meeting.chat)) as alice:
        alice.wait_shown("Choose 1, 2 or 3: ")
        alice.press(key)
        assert alice.wait_exit() == 0, alice.screen


def test_a_terminal_that_hangs_up(chat: Open, meeting: Meeting) -> None:
    bob = chat("bob")
    words = ("--name", "alice", "--peer", bob.id, program.text(meeting.chat))
    with Typist(*words) as alice:
        bob.wait_told("the path to alice is up")
        alice.process.send_signal(signal.SIGHUP)
        bob.wait_told("alice is gone: has left")
        alice.wait_exit()
