"""`udppunch peer` as people and scripts meet it: what goes in and out, and what it ends with."""

from __future__ import annotations

import array
import fcntl
import os
import signal
import socket
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Callable, Tuple

import pytest

from tests import program
from tests.lab import talking
from tests.lab.talking import PATIENCE, Meeting, Talker, wait_until
from tests.ports import free_port

MEGABYTES = os.urandom(3 << 20)
PIECE = 1 << 16

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
            talker = talking.peer(meeting.holepunch, name, remote, *options, **keywords)
            stack.enter_context(talker)
            if not remote:
                talker.wait_event("registered", PATIENCE)
            return talker

        yield start


def connected(*talkers: Talker) -> None:
    for talker in talkers:
        talker.wait_event("path-up", PATIENCE)


def said(talker: Talker, event: str) -> str:
    return str(talker.wait_event(event, PATIENCE)["message"])


def statuses(*talkers: Talker) -> "list[int]":
    return [talker.wait_exit() for talker in talkers]


# --- a pipe ------------------------------------------------------------------------------


def test_both_inputs_arrive_whole_and_both_end_with_0(peer: Open) -> None:
    bob, alice = peer("bob"), peer("alice", "bob")
    other_way = bytes(reversed(MEGABYTES))
    for offset in range(0, len(MEGABYTES), PIECE):
        alice.write(MEGABYTES[offset : offset + PIECE])
        bob.write(other_way[offset : offset + PIECE])
    alice.end_input()
    bob.end_input()
    assert statuses(bob, alice) == [0, 0], f"{bob}\n{alice}"
    assert bob.heard == MEGABYTES and alice.heard == other_way


def test_a_file_to_a_file(peer: Open, tmp_path: Path) -> None:
    source, copy = tmp_path / "source", tmp_path / "copy"
    source.write_bytes(MEGABYTES)
    bob = peer("bob", redirected=f"</dev/null >{copy}")
    alice = peer("alice", "bob", redirected=f"<{source}")
    assert statuses(bob, alice) == [0, 0], f"{bob}\n{alice}"
    assert copy.read_bytes() == MEGABYTES


def test_what_is_put_in_while_nobody_is_there_waits(peer: Open) -> None:
    alice = peer("alice", "bob")
    alice.write(MEGABYTES[:1000])
    alice.end_input()
    said(alice, "refused")
    bob = peer("bob")
    bob.end_input()
    assert statuses(bob, alice) == [0, 0], f"{bob}\n{alice}"
    assert bob.heard == MEGABYTES[:1000]


def test_an_output_that_is_not_read_holds_the_input_up(peer: Open, tmp_path: Path) -> None:
    source, fifo = tmp_path / "source", tmp_path / "fifo"
    source.write_bytes(4 * MEGABYTES)
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    bob = peer("bob", redirected=f"</dev/null >{fifo}")
    alice = peer("alice", "bob", redirected=f"<{source}")
    wait_until(lambda: _readable(reader) > 0, f"what alice says: {bob}")
    assert _where_it_stops(alice) < 2 * len(MEGABYTES), "nothing held it up"
    os.set_blocking(reader, True)
    with open(reader, "rb") as output:
        assert output.read() == 4 * MEGABYTES
    assert statuses(bob, alice) == [0, 0], f"{bob}\n{alice}"


def _readable(descriptor: int) -> int:
    """How many octets a pipe holds."""
    octets = array.array("i", [0])
    fcntl.ioctl(descriptor, termios.FIONREAD, octets)
    return octets[0]


def _where_it_stops(talker: Talker) -> int:
    """How much of the file that is its input it has read when it reads no more for a while."""
    path = Path(f"/proc/{talker.process.pid}/fdinfo/0")
    before = -1
    while before != (now := int(path.read_text().split()[1])):
        before = now
        time.sleep(1.0)
    return before


def test_one_input_may_end_before_the_other(peer: Open) -> None:
    """And lines pass as they come, in both directions."""
    bob, alice = peer("bob"), peer("alice", "bob")
    for number in range(5):
        alice.say(f"question {number}")
        bob.wait_heard(f"question {number}\n".encode())
        bob.say(f"answer {number}")
        alice.wait_heard(f"answer {number}\n".encode())
    alice.end_input()
    for number in range(5):
        bob.say(f"more {number}")
        alice.wait_heard(f"more {number}\n".encode())
    bob.end_input()
    assert statuses(bob, alice) == [0, 0], f"{bob}\n{alice}"


@pytest.mark.parametrize("redirection", ["</dev/null", "<&-", "<{empty}"])
def test_inputs_without_anything(redirection: str, peer: Open, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.touch()
    redirected = redirection.format(empty=empty)
    bob = peer("bob", redirected=redirected)
    alice = peer("alice", "bob", redirected=redirected)
    assert statuses(bob, alice) == [0, 0], f"{bob}\n{alice}"
    assert bob.heard == alice.heard == b""


def test_a_closed_input_and_an_output_that_is_read(peer: Open) -> None:
    bob, alice = peer("bob", redirected="<&-"), peer("alice", "bob")
    alice.write(MEGABYTES)
    alice.end_input()
    assert statuses(bob, alice) == [0, 0], f"{bob}\n{alice}"
    assert bob.heard == MEGABYTES


def test_a_closed_output_loses_what_comes(peer: Open) -> None:
    bob, alice = peer("bob", redirected="</dev/null >&-"), peer("alice", "bob")
    alice.write(MEGABYTES)
    alice.end_input()
    assert statuses(bob, alice) == [0, 0], f"{bob}\n{alice}"


def test_a_closed_standard_error_changes_nothing(meeting: Meeting, peer: Open) -> None:
    with talking.peer(meeting.holepunch, "bob", redirected="</dev/null 2>&-") as bob:
        alice = peer("alice", "bob")
        alice.write(MEGABYTES)
        alice.end_input()
        assert statuses(bob, alice) == [0, 0], str(alice)
        assert bob.heard == MEGABYTES


# --- what breaks a pipe ------------------------------------------------------------------


def test_an_output_that_is_full(peer: Open) -> None:
    bob, alice = peer("bob", redirected=">/dev/full"), peer("alice", "bob")
    alice.say("too much")
    assert statuses(bob, alice) == [1, 1], f"{bob}\n{alice}"
    assert "No space left" in said(bob, "output")
    assert "'bob' has gone" in said(alice, "broken")


def test_an_output_that_nobody_reads_any_more(peer: Open, tmp_path: Path) -> None:
    """As with `| head`: that is no error to be told."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    bob, alice = peer("bob", redirected=f">{fifo}"), peer("alice", "bob")
    alice.say("enough")
    wait_until(lambda: _readable(reader) > 0, f"what alice said: {bob}")
    os.close(reader)
    alice.say("too much")
    assert statuses(bob, alice) == [1, 1], f"{bob}\n{alice}"
    assert not [event for event in bob.events if event["level"] == "error"] and not bob.output
    assert "'bob' has gone" in said(alice, "broken")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_both(number: int, peer: Open) -> None:
    """Who was interrupted does not claim that all is well, or a script would go on."""
    bob, alice = peer("bob"), peer("alice", "bob")
    alice.say("a line")
    bob.wait_heard(b"a line\n")
    bob.process.send_signal(number)
    assert bob.wait_exit() == 128 + number, str(bob)
    assert alice.wait_exit() == 1, str(alice)
    assert "'bob' has gone" in said(alice, "broken")


def test_a_signal_after_all_was_said(peer: Open) -> None:
    """The one who ended his input has what came; nobody can say whether that was all."""
    bob, alice = peer("bob"), peer("alice", "bob")
    alice.say("all")
    alice.end_input()
    bob.wait_heard(b"all\n")
    bob.stop(signal.SIGTERM)
    assert alice.wait_exit() == 1, str(alice)


def test_a_peer_that_is_killed(peer: Open) -> None:
    bob = peer("bob")
    alice = peer("alice", "bob", "--keepalive", "1s", "--wait", "3s")
    alice.say("a line")
    bob.wait_heard(b"a line\n")
    bob.process.kill()
    assert alice.wait_exit() == 1, str(alice)
    said(alice, "path-lost")
    assert "in time" in said(alice, "broken")


def test_a_peer_that_is_killed_and_started_anew(peer: Open) -> None:
    """A pipe is one conversation: what was on its way to the first is not for the second."""
    bob = peer("bob")
    alice = peer("alice", "bob", "--keepalive", "1s")
    alice.say("a line")
    bob.wait_heard(b"a line\n")
    bob.process.kill()
    anew = peer("bob")
    assert alice.wait_exit() == 1, str(alice)
    assert "started anew" in said(alice, "broken")
    assert anew.heard == b""


def test_a_peer_that_sleeps_for_a_while_loses_nothing(peer: Open) -> None:
    """Its path is lost meanwhile, and sought again."""
    bob, alice = peer("bob"), peer("alice", "bob", "--keepalive", "1s")
    connected(bob, alice)
    bob.process.send_signal(signal.SIGSTOP)
    alice.write(MEGABYTES[:300_000])
    said(alice, "path-lost")
    bob.process.send_signal(signal.SIGCONT)
    alice.write(MEGABYTES[300_000:])
    alice.end_input()
    bob.end_input()
    assert statuses(bob, alice) == [0, 0], f"{bob}\n{alice}"
    assert bob.heard == MEGABYTES


# --- the server --------------------------------------------------------------------------


def test_a_server_that_is_killed_in_the_midst() -> None:
    with talking.server() as meeting, ExitStack() as stack:
        bob = stack.enter_context(talking.peer(meeting.holepunch, "bob"))
        bob.wait_event("registered", PATIENCE)
        alice = stack.enter_context(talking.peer(meeting.holepunch, "alice", "bob"))
        alice.say("before")
        bob.wait_heard(b"before\n")
        meeting.process.kill()
        alice.write(MEGABYTES)
        alice.end_input()
        bob.end_input()
        assert statuses(bob, alice) == [0, 0], f"{bob}\n{alice}"
        assert bob.heard == b"before\n" + MEGABYTES


def test_a_path_that_is_lost_while_the_server_was_started_anew(peer: Open) -> None:
    with talking.server() as first, ExitStack() as stack:
        bob = stack.enter_context(talking.peer(first.holepunch, "bob"))
        bob.wait_event("registered", PATIENCE)
        address = first.holepunch
        words = (address, "alice", "bob", "--keepalive", "1s")
        alice = stack.enter_context(talking.peer(*words))
        alice.say("before")
        bob.wait_heard(b"before\n")
        bob.process.send_signal(signal.SIGSTOP)
        first.stop()
        with Meeting(address, (talking.LOOPBACK, free_port())):
            said(alice, "path-lost")
            bob.process.send_signal(signal.SIGCONT)
            alice.say("after")
            bob.wait_heard(b"after\n")
            alice.end_input()
            bob.end_input()
            assert statuses(bob, alice) == [0, 0], f"{bob}\n{alice}"


@pytest.mark.parametrize("bound", [True, False], ids=["silent", "closed"])
def test_a_server_that_does_not_answer(bound: bool) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind((talking.LOOPBACK, 0))
        address = silent.getsockname()
        if not bound:
            silent.close()
        with talking.peer(address, "alice", "bob", "--wait", "5s") as alice:
            assert program.text(address) in said(alice, "server-silent")
            assert alice.wait_exit() == 1, str(alice)


def test_a_server_that_comes_late() -> None:
    address = talking.LOOPBACK, free_port()
    with talking.peer(address, "bob") as bob, talking.peer(address, "alice", "bob") as alice:
        for talker in (bob, alice):
            said(talker, "server-silent")
        with Meeting(address, (talking.LOOPBACK, free_port())):
            alice.say("at last")
            bob.wait_heard(b"at last\n")


# --- options -----------------------------------------------------------------------------


def test_datagrams_are_as_they_were_put_in(peer: Open) -> None:
    bob, alice = peer("bob", "", "--raw"), peer("alice", "bob", "--raw")
    connected(bob, alice)
    heard = b""
    for piece in (b"\0", b"\x40\0\0\0\1data", MEGABYTES[:1200], MEGABYTES[:5000]):
        alice.write(piece)
        heard += piece
        bob.wait(lambda: len(bob.heard) >= len(heard), "a datagram")  # noqa: B023
    assert bob.heard == heard
    alice.end_input()
    bob.end_input()
    assert statuses(bob, alice) == [0, 0], f"{bob}\n{alice}"


def test_datagrams_one_way_and_a_stream_the_other(peer: Open) -> None:
    bob, alice = peer("bob"), peer("alice", "bob", "--raw")
    connected(bob, alice)
    alice.write(b"a datagram")
    bob.wait_heard(b"a datagram")
    bob.write(MEGABYTES)
    bob.end_input()
    alice.end_input()
    assert statuses(bob, alice) == [0, 0], f"{bob}\n{alice}"
    assert alice.heard == MEGABYTES


def test_greetings_are_printed_as_they_come(peer: Open) -> None:
    bob, alice = peer("bob", "", "--hello"), peer("alice", "bob", "--hello")
    bob.wait_heard(b"Hello from alice\n", 3)
    alice.wait_heard(b"Hello from bob\n", 3)
    assert set(bob.heard.splitlines()) == {b"Hello from alice"}


def test_greetings_begin_anew_with_a_peer_that_does(peer: Open) -> None:
    bob = peer("bob", "", "--hello", "--keepalive", "1s")
    for count in range(2):
        alice = peer("alice", "bob", "--hello")
        alice.wait_heard(b"Hello from bob\n", 2)
        bob.wait_heard(b"Hello from alice\n", len(bob.heard.splitlines()) + 2)
        if count:
            alice.stop()
        else:
            alice.process.kill()
    bob.assert_alive_and_sane()


def test_greetings_do_not_end_with_the_input(peer: Open) -> None:
    bob = peer("bob", "", "--hello", redirected="</dev/null")
    alice = peer("alice", "bob", "--hello", redirected="<&-")
    alice.wait_heard(b"Hello from bob\n", 3)
    bob.wait_heard(b"Hello from alice\n", 3)


@pytest.mark.parametrize("remote", ["", "bob"], ids=["waits", "asks"])
def test_the_wait_is_bounded_if_so_wanted(remote: str, peer: Open) -> None:
    alice = peer("alice", remote, "--wait", "2s")
    assert alice.wait_exit() == 1
    assert "no path was found in time" in said(alice, "broken")


def test_a_wait_that_was_long_enough_bounds_nothing_later(peer: Open) -> None:
    bob, alice = peer("bob", "", "--wait", "3s"), peer("alice", "bob", "--wait", "3s")
    connected(bob, alice)
    time.sleep(4.0)
    alice.say("later")
    bob.wait_heard(b"later\n")


def test_quitting_after_the_end_of_input(peer: Open) -> None:
    bob, alice = peer("bob"), peer("alice", "bob", "-q", "500ms")
    connected(bob, alice)
    alice.say("all")
    alice.end_input()
    assert statuses(alice, bob) == [0, 0], f"{bob}\n{alice}"
    assert bob.heard == b"all\n"


def test_quitting_before_the_input_has_arrived(peer: Open) -> None:
    bob, alice = peer("bob"), peer("alice", "bob", "-q", "500ms")
    connected(bob, alice)
    bob.process.send_signal(signal.SIGSTOP)
    alice.say("not all")
    alice.end_input()
    assert alice.wait_exit() == 1, str(alice)
    assert "did not take all" in said(alice, "broken")
    bob.process.send_signal(signal.SIGCONT)


def test_a_third_peer_is_told_nothing(peer: Open) -> None:
    bob, alice = peer("bob"), peer("alice", "bob")
    alice.say("for bob")
    bob.wait_heard(b"for bob\n")
    carol = peer("carol", "bob", "--wait", "3s")
    carol.say("me too")
    assert carol.wait_exit() == 1, str(carol)
    assert "'carol'" in said(bob, "another")
    alice.end_input()
    bob.end_input()
    assert statuses(bob, alice) == [0, 0], f"{bob}\n{alice}"
    assert bob.heard == b"for bob\n" and carol.heard == b""


@pytest.mark.parametrize("name", ["n" * 104, "ü" * 52, "an id; with 'all' that is *allowed*"])
def test_names(name: str, peer: Open) -> None:
    bob, alice = peer(name), peer("alice", name)
    alice.say("words")
    bob.wait_heard(b"words\n")


@pytest.mark.parametrize(
    "words,told",
    [
        (["127.0.0.1", "n" * 105], "104 bytes of UTF-8, not 105"),
        (["127.0.0.1", "ü" * 53], "104 bytes of UTF-8, not 106"),
        (["127.0.0.1", "alice", "b" * 105], "remote"),
        (["127.0.0.1", ""], "not 0"),
        (["127.0.0.1", "alice", "alice"], "the same"),
        (["127.0.0.1", "alice", "--raw", "--hello"], "raw and hello"),
        (["127.0.0.1", "alice", "--wait", "soon"], "write 25s"),
        (["127.0.0.1", "alice", "--quit-after", "0"], "out of range"),
        (["127.0.0.1", "alice", "--bind", "nowhere"], "not a local IPv4 address"),
        (["127.0.0.1", "alice", "--rw"], "did you mean --raw?"),
        (["127.0.0.1", "alice", "bob", "carol"], "too many arguments"),
        (["127.0.0.1:", "alice"], "no port"),
        (["127.0.0.1:99999", "alice"], "out of range"),
        (["[2001:db8::1]:39738", "alice"], "IPv4 alone"),
    ],
)
def test_the_wrong_thing_gets_one_line_that_names_it(words: "list[str]", told: str) -> None:
    status, output, errors = run(*words)
    assert (status, output, errors.count("\n")) == (64, "", 1), errors
    assert errors.startswith("udppunch: ") and told in errors


def test_what_is_missing_is_named() -> None:
    status, output, errors = run("127.0.0.1")
    said = "udppunch: NAME is missing; see udppunch peer --help\n"
    assert (status, output, errors) == (64, "", said)


def test_a_server_whose_name_nobody_knows() -> None:
    status, output, errors = run("server.invalid", "alice")
    assert (status, output, errors.count("\n")) == (68, "", 1), errors
    assert "server.invalid" in errors


def test_an_address_to_bind_that_is_not_this_machines() -> None:
    status, output, errors = run("127.0.0.1", "alice", "--bind", "192.0.2.1")
    assert status and not output and errors.count("\n") == 1, errors
    assert "192.0.2.1" in errors


def run(*words: str) -> Tuple[int, str, str]:
    found = subprocess.run(
        [sys.executable, "-m", "udppunch", "peer", *words],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE,
        cwd=program.ROOT,
    )  # fmt: skip
    return found.returncode, found.stdout, found.stderr


# --- nothing to do -----------------------------------------------------------------------


def test_it_sleeps_when_nothing_is_to_be_done(peer: Open, tmp_path: Path) -> None:
    """Waiting for a peer; connected, with an input that is over; with an output that is full."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    waiting = peer("waiting", redirected="</dev/null")
    bob = peer("bob", redirected=f"</dev/null >{fifo}")
    alice = peer("alice", "bob", redirected="</dev/zero")
    carol, dora = peer("carol"), peer("dora", "carol", redirected="<&-")
    connected(bob, alice, carol, dora)
    wait_until(lambda: _readable(reader) > 0, f"what alice says: {bob}")
    talkers = (waiting, bob, alice, carol, dora)
    time.sleep(1.0)
    before = [_busy(talker) for talker in talkers]
    time.sleep(2.0)
    for talker, former in zip(talkers, before):
        assert _busy(talker) - former < 0.5, str(talker)
    os.close(reader)


def _busy(talker: Talker) -> float:
    """Seconds of CPU that it has used."""
    fields: Any = Path(f"/proc/{talker.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
