"""A chat at a real terminal and between real pipes, in a process whose events the test makes."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import socket
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import Any, Callable, Iterator, List

import pytest

from tests.net.screen import Screen
from tests.proto.chat_user import BOB, ID

ROOT = Path(__file__).parents[2]
PATIENCE = 60.0  # seconds, for a process that is stuck

# What a shell does with a job: it runs in the foreground, and again when it was stopped and
# something is typed.
SHELL = """
import fcntl, os, signal, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
signal.signal(signal.SIGTTOU, signal.SIG_IGN)
job = os.fork()
if job == 0:
    os.setpgid(0, 0)
    os.tcsetpgrp(0, os.getpid())
    signal.signal(signal.SIGTTOU, signal.SIG_DFL)
    os.execv(sys.argv[1], sys.argv[1:])
while True:
    _, status = os.waitpid(job, os.WUNTRACED)
    os.tcsetpgrp(0, os.getpgrp())
    if not os.WIFSTOPPED(status):
        sys.exit(os.WEXITSTATUS(status))
    os.write(1, b"[stopped]\\n")
    os.read(0, 1)
    os.tcsetpgrp(0, job)
    os.kill(job, signal.SIGCONT)
"""


class Child:
    """The process and the strings it hangs on."""

    def __init__(self, *arguments: str, before: List[str], **more: Any) -> None:
        self._strings, other = socket.socketpair()
        self._strings.settimeout(PATIENCE)
        self._heard = b""
        environment = {**os.environ, "PYTHONPATH": str(ROOT), **more.pop("env", {})}
        self.process = subprocess.Popen(
            [*before, sys.executable, "-m", "tests.net.terminal_child", str(other.fileno())]
            + [*arguments],
            pass_fds=[other.fileno()],
            env=environment,
            **more,
        )
        other.close()

    def pull(self, what: str) -> None:
        """Something happens in the chat; that which it leads to may still be to come."""
        self._strings.sendall(f"{what}\n".encode())
        assert self.told() == f"done {what.partition(' ')[0]}"

    def told(self) -> str:
        while b"\n" not in self._heard:
            data = self._strings.recv(4096)
            assert data, "it has ended"
            self._heard += data
        line, _, self._heard = self._heard.partition(b"\n")
        return line.decode()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self._strings.close()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()


class Seat(Child):
    """At a terminal of 80 columns and 24 rows."""

    def __init__(self, *arguments: str, shell: bool = False, **env: str) -> None:
        self.master, self.slave = pty.openpty()
        self.resize(80)
        self.before = termios.tcgetattr(self.slave)
        self.screen = Screen()
        super().__init__(
            *arguments,
            before=[sys.executable, "-c", SHELL] if shell else [],
            stdin=self.slave,
            stdout=self.slave,
            stderr=self.slave,
            start_new_session=True,
            env={"TERM": "xterm", "NO_COLOR": "", **env},
        )

    def resize(self, columns: int) -> None:
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))

    def type(self, keys: str) -> None:
        os.write(self.master, keys.encode())

    def see(self, *last: str) -> None:
        """Waits until the last rows are these, and the cursor stands behind them."""
        self.until(lambda: self.screen.text()[-len(last) :] == [*last])

    def until(self, seen: Callable[[], bool]) -> None:
        end = time.monotonic() + PATIENCE
        while not seen():
            if not select.select([self.master], [], [], max(0, end - time.monotonic()))[0]:
                pytest.fail("\n".join(["is not seen:", *self.screen.text()]))
            self.screen.feed(os.read(self.master, 4096))

    def end(self) -> int:
        """Its exit status, once it has ended; the terminal has to be as it was."""
        status = self.process.wait(PATIENCE)
        while select.select([self.master], [], [], 0)[0]:
            self.screen.feed(os.read(self.master, 4096))
        assert termios.tcgetattr(self.slave) == self.before
        assert not self.screen.pastes
        assert self.screen.column == 0
        return status

    def chatting(self) -> Seat:
        self.pull("ready")
        self.pull("direct")
        self.see("/help tells what can be typed besides what you say.", ">")
        return self

    def close(self) -> None:
        super().close()
        os.close(self.master)
        os.close(self.slave)


@pytest.fixture
def seat() -> Iterator[Callable[..., Seat]]:
    seats: List[Seat] = []

    def take(*arguments: str, **more: Any) -> Seat:
        seats.append(Seat(*arguments, **more))
        return seats[-1]

    yield take
    for each in seats:
        each.close()


@pytest.fixture
def program() -> Iterator[Callable[..., Child]]:
    children: List[Child] = []

    def start(before: List[str] = [], **more: Any) -> Child:  # noqa: B006
        streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        children.append(Child(before=before, **{**streams, **more}))
        return children[-1]

    yield start
    for each in children:
        each.close()


Take = Callable[..., Seat]
Start = Callable[..., Child]


def test_from_the_name_to_the_conversation_and_out(seat: Take) -> None:
    person = seat()
    person.see("Your name:")
    person.type("alixe\x1b[D\x7fc\r")
    assert person.told() == "rename alice"
    person.pull("ready")
    person.see(ID, "Your fingerprint: cccc dddd", "1  connect to a peer by its id",
               "2  wait for a peer", "3  exit", "Choose 1, 2 or 3:")  # fmt: skip
    assert "Your name: alice" in person.screen.text()
    person.type("1\r")
    person.see("Choose 1, 2 or 3: 1", "The peer's id:")
    person.type(BOB.id + "\r")
    assert person.told() == f"connect {BOB.id}"
    person.pull("direct")
    person.see("/help tells what can be typed besides what you say.", ">")
    person.type("hello\r")
    assert person.told() == "say hello"
    person.see("12:00 you: hello", ">")
    person.pull("delivered 1")
    person.see("12:00 you: hello  (delivered)", ">")
    person.pull("peer hi there")
    person.see("12:00 you: hello  (delivered)", "12:00 bob: hi there", ">")
    person.type("\x1b[A\x03")
    assert person.end() == 0
    assert person.screen.text()[-2:] == ["12:00 bob: hi there", ""]


def test_what_is_typed_stays_when_a_line_comes(seat: Take) -> None:
    person = seat("alice").chatting()
    person.type("hel you" + "\x1b[D" * 4)
    person.see("> hel you")
    column = person.screen.column
    person.pull("peer " + "a long story " * 10)
    person.until(lambda: person.screen.text()[-2].endswith("story"))
    person.see("> hel you")
    assert person.screen.column == column
    assert person.screen.text()[-3].startswith("12:00 bob: a long story")
    assert person.screen.text()[-2].startswith("      ")
    person.type("lo\x05!\r")
    assert person.told() == "say hello you!"


def test_a_paste_says_each_line(seat: Take) -> None:
    person = seat("alice").chatting()
    assert person.screen.pastes
    person.type("\x1b[200~one\rtwo\x03\rthr\x1b[201~ee\r")
    assert [person.told() for _ in range(3)] == ["say one", "say two", "say three"]


def test_a_long_line_scrolls_and_the_window_may_change(seat: Take) -> None:
    person = seat("alice").chatting()
    person.type("0123456789" * 10)
    person.until(lambda: person.screen.text()[-1].endswith("789"))
    rows = len(person.screen.rows)
    assert len(person.screen.text()[-1]) < 80
    person.resize(40)
    person.type("!")
    person.until(lambda: person.screen.text()[-1].endswith("789!"))
    assert len(person.screen.text()[-1]) < 40
    assert len(person.screen.rows) == rows
    person.type("\r")
    assert person.told() == "say " + "0123456789" * 10 + "!"


@pytest.mark.parametrize("keys", ["\x03", "\x04", "/quit\r"])
def test_leaving_leaves_the_terminal_as_it_was(seat: Take, keys: str) -> None:
    person = seat("alice").chatting()
    assert termios.tcgetattr(person.slave) != person.before
    person.type(keys)
    assert person.end() == 0


def test_a_crash_leaves_the_terminal_as_it_was(seat: Take) -> None:
    person = seat("alice").chatting()
    person.type("typed")
    person.see("> typed")
    with pytest.raises(AssertionError, match="ended"):
        person.pull("crash")
    assert person.end() == 1
    assert "RuntimeError: as the test wants it" in person.screen.text()
    assert "> typed" not in person.screen.text()


def test_a_stopped_chat_gives_the_terminal_back_and_goes_on(seat: Take) -> None:
    person = seat("alice", shell=True).chatting()
    person.type("hello")
    person.see("> hello")
    ours = termios.tcgetattr(person.slave)
    person.type("\x1a")
    person.see("[stopped]", "")
    assert termios.tcgetattr(person.slave) == person.before
    assert not person.screen.pastes
    person.type("\n")
    person.until(lambda: person.screen.text()[-1] == "> hello" and person.screen.pastes)
    assert termios.tcgetattr(person.slave) == ours
    person.type(" you\r")
    assert person.told() == "say hello you"
    person.see("12:00 you: hello you", ">")
    person.type("\x1a")
    person.see("[stopped]", "")
    person.type("\n")
    person.see(">")
    person.pull("delivered 1")  # which can't be noted where it was, for the shell wrote since
    person.see("12:00 * delivered", ">")
    person.type("\x03")
    assert person.end() == 0


@pytest.mark.parametrize("shell", [False, True])
def test_a_terminal_that_takes_nothing_stops_nothing(seat: Take, shell: bool) -> None:
    person = seat("alice", shell=shell).chatting()
    person.pull("flood 3000")  # three times as much as waits
    person.pull("peer hi")
    person.pull("gone")
    person.type("hello?\r")
    assert person.told() == "say hello?"


def test_a_terminal_that_goes_away_is_an_end(seat: Take) -> None:
    person = seat("alice").chatting()
    other = os.dup(person.slave)
    os.close(person.master)
    person.master = other
    assert person.process.wait(PATIENCE) in (0, 1)


@pytest.mark.parametrize(("no_color", "coloured"), [("", True), ("1", False)])
def test_colours(seat: Take, no_color: str, coloured: bool) -> None:
    person = seat("alice", NO_COLOR=no_color).chatting()
    person.pull("peer hi")
    person.see("12:00 bob: hi", ">")
    assert person.screen.coloured is coloured


def test_a_terminal_that_knows_nothing(seat: Take) -> None:
    person = seat("alice", TERM="dumb")
    person.pull("ready")
    person.see("Choose 1, 2 or 3:")
    person.type("2\n")
    person.see("Choose 1, 2 or 3: 2", "Waiting; Return shows the menu.")
    person.pull("direct")
    person.see(">")
    person.type("hello\n")
    assert person.told() == "say hello"
    person.see("> hello", "12:00 you: hello", ">")
    person.pull("delivered 1")
    person.see(">", "12:00 * delivered", ">")
    person.type("/quit\n")
    assert person.process.wait(PATIENCE) == 0
    assert termios.tcgetattr(person.slave) == person.before
    assert not person.screen.coloured


# Pipes


def connected(child: Child) -> Child:
    assert child.told() == "rename alice"
    child.pull("ready")
    assert child.told() == f"connect {ID}"
    child.pull("direct")
    return child


def end_input(child: Child) -> None:
    assert child.process.stdin is not None
    child.process.stdin.close()
    child.process.stdin = None  # lest `communicate` flushes it


def outcome(child: Child) -> List[Any]:
    out, err = child.process.communicate(timeout=PATIENCE)
    return [child.process.returncode, out, err]


def test_a_pipe(program: Start) -> None:
    child = program()
    child.process.stdin.write("one\nzwei: ö\n\nthree".encode())
    end_input(child)
    connected(child)
    assert [child.told() for _ in range(3)] == ["say one", "say zwei: ö", "say three"]
    child.pull("peer first\x1b[2J")
    child.pull("peer second")
    for number in range(1, 4):
        child.pull(f"delivered {number}")
    status, out, err = outcome(child)
    assert (status, out) == (0, b"first\nsecond\n")
    assert b"the path to bob is up" in err


def test_a_lost_line_fails(program: Start) -> None:
    child = connected(program())
    child.process.stdin.write(b"one\n")
    end_input(child)
    assert child.told() == "say one"
    child.pull("lost 1")
    assert outcome(child)[0] == 1


def test_input_waits_while_no_more_can_be_said(program: Start) -> None:
    child = program()
    os.set_blocking(child.process.stdin.fileno(), False)
    written = 0
    try:
        while written < 1 << 24:
            written += os.write(child.process.stdin.fileno(), b"x\n" * 2048)
    except BlockingIOError:
        pass
    assert written < 1 << 24
    connected(child)
    assert [child.told() for _ in range(16)] == ["say x"] * 16
    for number in range(1, 100):
        child.pull(f"delivered {number}")
        assert child.told() == "say x"


@pytest.mark.parametrize("redirection", ["</dev/null", "<&-"])
def test_nothing_to_say(program: Start, redirection: str) -> None:
    child = program(["sh", "-c", f'exec "$@" {redirection}', "sh"], stdin=None)
    assert outcome(child)[:2] == [0, b""]


def test_a_file(program: Start, tmp_path: Path) -> None:
    said = tmp_path / "said"
    said.write_text("".join(f"{number}\n" for number in range(1, 5001)))
    heard = tmp_path / "heard"
    with said.open() as stdin, heard.open("w") as stdout:
        child = connected(program(stdin=stdin, stdout=stdout))
        for number in range(1, 17):
            assert child.told() == f"say {number}"
        for number in range(1, 4985):
            child.pull(f"delivered {number}")
            assert child.told() == f"say {number + 16}"
        child.pull("peer hi")
        for number in range(4985, 5001):
            child.pull(f"delivered {number}")
        assert outcome(child)[0] == 0
    assert heard.read_text() == "hi\n"


def test_nobody_reads_any_more(program: Start) -> None:
    child = connected(program())
    child.process.stdout.close()
    child.process.stdout = None
    child.pull("peer hi")
    assert child.process.wait(PATIENCE) == 1


def test_closed_output(program: Start) -> None:
    child = connected(program(["sh", "-c", 'exec "$@" >&- 2>&-', "sh"]))
    child.pull("peer hi")
    end_input(child)
    assert outcome(child)[0] == 0


def test_output_that_is_not_read_is_bounded(program: Start) -> None:
    child = connected(program())
    assert child.process.stdout is not None
    child.pull("flood 3000")
    os.read(child.process.stdout.fileno(), 1)
    child.pull("flood 3000")
    end_input(child)
    status, out, err = outcome(child)
    assert status == 0
    assert 1 << 20 < len(out) < 3 << 20  # what was on its way, and what waited behind it
    assert b"is not read" in err
