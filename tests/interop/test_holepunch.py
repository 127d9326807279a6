"""Named peers and their server, each once ours and once hole-punch's, in every combination.

    peer ── Internet ── peer        peers, server: ours | original
       └──── server ────┘

An original panics on any datagram that it did not expect, which fails a test. hole-punch itself
takes part where UDPPUNCH_HOLEPUNCH names the directory of its programs.
"""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Iterator, Tuple, Union

import pytest

from tests.lab import talking
from tests.lab.fixtures import lab_permitted  # noqa: F401
from tests.lab.talking import CORE, HOLEPUNCH_PORT, PATIENCE, Meeting, Talker
from tests.ports import free_port
from tests.program import SocketAddress
from tests.standin import holepunch
from tests.standin.process import StandIn
from udppunch.lab import Host, Lab

Server = Union[Meeting, StandIn]
End = Union[Talker, StandIn]

OURS_OR_ORIGINAL = ("ours", "original")
MIXED = [("ours", "original"), ("original", "ours")]
LONGEST = "ü" * 52  # 104 bytes

of_servers = pytest.mark.parametrize("server", OURS_OR_ORIGINAL)
of_mixed = pytest.mark.parametrize("waiter,asker", MIXED)
HELLO = ("--hello",)


class Stage:
    """Starts ends of either kind, which meet at one server, and sees that they stay sane."""

    def __init__(self, stack: ExitStack, server: str, at: SocketAddress, **keywords: Any) -> None:
        self.address = at
        self._stack = stack
        self._kind = server
        self._ends: "list[End]" = []
        self.server = self.start_server(**keywords)

    def start_server(self, **keywords: Any) -> Server:
        """Also once more, after it was stopped."""
        if self._kind == "ours":
            chat = (self.address[0], free_port())
            ours = Meeting(self.address, chat, **keywords)
            self.server = self._stack.enter_context(ours)
        else:
            original = holepunch.server(self.address, **keywords)
            self.server = self._stack.enter_context(original)
            self.server.wait_event("listening")
        return self.server

    def start(self, kind: str, name: str, remote: str = "", *options: str, **keywords: Any) -> End:
        end: End
        if kind == "ours":
            end = talking.peer(self.address, name, remote, *options, **keywords)
            self._stack.enter_context(end)
        else:
            end = holepunch.client(self.address, name, remote, **keywords)
            self._stack.enter_context(end)
        self._ends.append(end)
        return end

    def pair(
        self, waiter: str, asker: str, *options: str, names: Tuple[str, str] = ("bob", "alice")
    ) -> Tuple[End, End]:
        """Who waits, registered, and who asks for it."""
        bob = self.start(waiter, names[0], "", *options)
        bob.wait_event("registered", PATIENCE)
        return bob, self.start(asker, names[1], names[0], *options)

    def assert_sane(self) -> None:
        for process in (self.server, *self._ends):
            process.assert_alive_and_sane()


@pytest.fixture
def stage(server: str) -> Iterator[Stage]:
    with ExitStack() as stack:
        stage = Stage(stack, server, (talking.LOOPBACK, free_port()))
        yield stage
        stage.assert_sane()


def hears(end: End, words: str, count: int = 1) -> None:
    """That the peer's words arrive, as a line or as a Message."""
    if isinstance(end, Talker):
        end.wait_heard(words.encode() + b"\n", count)
    else:
        end.wait_event("received", PATIENCE, count=count, kind="MESSAGE", text=words)


# --- who meets whom ----------------------------------------------------------------------


@of_servers
@pytest.mark.parametrize("asker", OURS_OR_ORIGINAL)
@pytest.mark.parametrize("waiter", OURS_OR_ORIGINAL)
def test_greetings_go_both_ways(waiter: str, asker: str, stage: Stage) -> None:
    bob, alice = stage.pair(waiter, asker, *HELLO)
    hears(bob, "Hello from alice", 3)
    hears(alice, "Hello from bob", 3)


@of_servers
@of_mixed
def test_lines_reach_an_original(waiter: str, asker: str, stage: Stage) -> None:
    bob, alice = stage.pair(waiter, asker)
    ours, original = (bob, alice) if isinstance(bob, Talker) else (alice, bob)
    assert isinstance(ours, Talker)
    ours.say("one", "", "two ✓")
    for words in ("one", "", "two ✓"):
        hears(original, words)
    hears(ours, "Hello from alice" if original is alice else "Hello from bob", 2)


@of_servers
@of_mixed
def test_text_is_split_between_characters(waiter: str, asker: str, stage: Stage) -> None:
    bob, alice = stage.pair(waiter, asker)
    ours, original = (bob, alice) if isinstance(bob, Talker) else (alice, bob)
    assert isinstance(ours, Talker) and isinstance(original, StandIn)
    line = "x" + "ü" * 100
    ours.say(line, "end")
    hears(original, "end")
    told = [event for event in original.events if event["event"] == "received"]
    texts = [event["text"] for event in told if event["text"] and set(event["text"]) <= {*line}]
    assert "".join(texts) == line and len(texts) == 2
    assert len(texts[0].encode()) == 125


@of_servers
@of_mixed
def test_the_end_of_input_does_not_end_an_original(waiter: str, asker: str, stage: Stage) -> None:
    bob, alice = stage.pair(waiter, asker)
    ours, original = (bob, alice) if isinstance(bob, Talker) else (alice, bob)
    assert isinstance(ours, Talker)
    ours.write(b"without a newline")
    ours.end_input()
    hears(original, "without a newline")
    hears(ours, "Hello from alice" if original is alice else "Hello from bob", 3)


@of_servers
@pytest.mark.parametrize("asker", OURS_OR_ORIGINAL)
@pytest.mark.parametrize("waiter", OURS_OR_ORIGINAL)
def test_longest_names(waiter: str, asker: str, stage: Stage) -> None:
    names = LONGEST, "a" * 104
    bob, alice = stage.pair(waiter, asker, *HELLO, names=names)
    hears(bob, f"Hello from {names[1]}")
    hears(alice, f"Hello from {names[0]}")


@of_servers
@pytest.mark.parametrize("waiter,asker", [*MIXED, ("ours", "ours")])
def test_who_asks_before_the_other_is_there(waiter: str, asker: str, stage: Stage) -> None:
    alice = stage.start(asker, "alice", "bob", *HELLO)
    if isinstance(alice, Talker):
        assert "'bob'" in alice.wait_event("refused", PATIENCE)["message"]
    else:
        alice.wait_event("unknown", PATIENCE)
    bob = stage.start(waiter, "bob", "", *HELLO)
    hears(bob, "Hello from alice")
    hears(alice, "Hello from bob")


# --- ours with ours ----------------------------------------------------------------------


@of_servers
def test_ours_are_a_pipe_to_each_other_through_either_server(server: str) -> None:
    data = os.urandom(1 << 20)
    with ExitStack() as stack:
        stage = Stage(stack, server, (talking.LOOPBACK, free_port()))
        bob, alice = stage.pair("ours", "ours")
        assert isinstance(bob, Talker) and isinstance(alice, Talker)
        alice.write(data)
        alice.end_input()
        bob.say("done")
        bob.end_input()
        assert bob.wait_exit() == alice.wait_exit() == 0, f"{bob}\n{alice}"
        assert bob.heard == data and alice.heard == b"done\n"
        stage.server.assert_alive_and_sane()


@of_servers
def test_datagrams_between_ours(stage: Stage) -> None:
    bob, alice = stage.pair("ours", "ours", "--raw")
    assert isinstance(bob, Talker) and isinstance(alice, Talker)
    pieces = (b"\0\x01\xff", bytes(1200), b"\x40")
    bob.wait_event("path-up", PATIENCE)
    alice.wait_event("path-up", PATIENCE)
    for sender, receiver in ((alice, bob), (bob, alice)):
        for count, piece in enumerate(pieces, 1):
            sender.write(piece)
            receiver.wait(
                lambda: receiver.heard == b"".join(pieces[:count]),  # noqa: B023
                f"datagram {count}",
            )


# --- what happens to processes -----------------------------------------------------------


@of_servers
@of_mixed
def test_an_original_outlives_ours(waiter: str, asker: str, stage: Stage) -> None:
    """Ended by a signal and started anew by the same name, it finds an original as before."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        ours = talking.peer(stage.address, "ours", "" if waiter == "ours" else "theirs", *HELLO)
        with ours:
            if waiter == "ours":
                ours.wait_event("registered", PATIENCE)
                original = stage.start("original", "theirs", "ours")
            else:
                original = stage.start("original", "theirs")
                original.wait_event("registered", PATIENCE)
            hears(original, "Hello from ours")
            hears(ours, "Hello from theirs")
            ours.stop(number)
        assert isinstance(original, StandIn)
        original.wait_event("silence", PATIENCE)
    stage.assert_sane()


@of_servers
def test_a_server_started_anew_knows_ours_again(stage: Stage) -> None:
    bob = stage.start("ours", "bob", "", *HELLO)
    bob.wait_event("registered", PATIENCE)
    stage.server.stop()
    stage.start_server()
    alice = stage.start("original", "alice", "bob")  # asks on until bob registers again
    hears(alice, "Hello from bob")
    hears(bob, "Hello from alice")


@of_servers
def test_a_path_outlives_its_server(server: str) -> None:
    with ExitStack() as stack:
        stage = Stage(stack, server, (talking.LOOPBACK, free_port()))
        bob, alice = stage.pair("ours", "original", *HELLO)
        hears(bob, "Hello from alice")
        stage.server.stop()
        for count in (5, 8):
            hears(bob, "Hello from alice", count)
            hears(alice, "Hello from bob", count)
        bob.assert_alive_and_sane()
        alice.assert_alive_and_sane()


@of_servers
def test_a_name_that_ours_holds_is_told_to_who_wants_it(server: str, stage: Stage) -> None:
    """Only our server keeps it; hole-punch's gives it to the last who asks for it."""
    bob = stage.start("ours", "bob", "", *HELLO)
    bob.wait_event("registered", PATIENCE)
    # Another host's, for who comes from the same one may well be the same peer.
    rival = stage.start("ours", "bob", "", *HELLO, "--bind", "127.0.0.2")
    if server == "ours":
        assert "another peer" in rival.wait_event("refused", PATIENCE)["message"]
    else:
        rival.wait_event("registered", PATIENCE)
    winner = bob if server == "ours" else rival
    alice = stage.start("original", "alice", "bob")
    hears(alice, "Hello from bob")
    hears(winner, "Hello from alice")


# --- through NATs ------------------------------------------------------------------------


@pytest.mark.usefixtures("lab_permitted")
@pytest.mark.parametrize("sites", [("prc", "prc"), ("full", "prc"), ("prc", "full")], ids="-".join)
@of_servers
@pytest.mark.parametrize("waiter,asker", [*MIXED, ("ours", "ours")])
def test_greetings_go_through_nats(
    server: str, waiter: str, asker: str, sites: Tuple[str, str]
) -> None:
    with Lab(*sites) as lab, ExitStack() as stack:
        stage = Stage(stack, server, (CORE, HOLEPUNCH_PORT), popen=lab.rendezvous.popen)
        bob = stage.start(waiter, "bob", "", *HELLO[: waiter == "ours"], popen=lab.a.popen)
        bob.wait_event("registered", PATIENCE)
        options = HELLO[: asker == "ours"]
        alice = stage.start(asker, "alice", "bob", *options, popen=lab.b.popen)
        hears(bob, "Hello from alice", 3)
        hears(alice, "Hello from bob", 3)
        stage.assert_sane()


# --- hole-punch itself -------------------------------------------------------------------

_PROGRAMS = os.environ.get("UDPPUNCH_HOLEPUNCH")


class Original:
    """A program of hole-punch in a host of a lab; a panic ends it with status 101."""

    def __init__(self, host: Host, name: str, *arguments: str, output: Path) -> None:
        assert _PROGRAMS is not None
        self._output = output
        with output.open("wb") as file:
            self.process = host.popen(
                [os.path.join(_PROGRAMS, name), *arguments],
                stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT,
            )  # fmt: skip

    def __enter__(self) -> Original:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()

    def wait(self, part: str, count: int = 1) -> None:
        talking.wait_until(lambda: self.said().count(part) >= count, f"{count}. {part!r}")

    def said(self) -> str:
        return self._output.read_text(errors="replace")

    def assert_alive(self) -> None:
        assert self.process.poll() is None, self.said()


@pytest.mark.usefixtures("lab_permitted")
@pytest.mark.skipif(not _PROGRAMS, reason="UDPPUNCH_HOLEPUNCH does not name hole-punch's programs")
@pytest.mark.parametrize(
    "server,waiter,asker",
    [kinds for kinds in itertools.product(OURS_OR_ORIGINAL, repeat=3) if "original" in kinds],
)
def test_with_hole_punch_itself(server: str, waiter: str, asker: str, tmp_path: Path) -> None:
    with Lab("prc", "prc") as lab, ExitStack() as stack:

        def start(kind: str, host: Host, *names: str) -> Any:
            if kind == "ours":
                own, *remote = names
                ours = talking.peer(
                    (CORE, HOLEPUNCH_PORT), own, *remote, "--hello", popen=host.popen
                )
                return stack.enter_context(ours)
            original = Original(host, "hole_punch_client", CORE, *names, output=tmp_path / names[0])
            return stack.enter_context(original)

        def wait_registered(end: Any) -> None:
            if isinstance(end, Talker):
                end.wait_event("registered", PATIENCE)
            else:
                end.wait("Successfully register")

        def wait_greeting(end: Any, of: str) -> None:
            if isinstance(end, Talker):
                hears(end, f"Hello from {of}", 3)
            else:
                end.wait(f'Message("Hello from {of}")', 3)

        if server == "ours":
            stack.enter_context(talking.server(CORE, popen=lab.rendezvous.popen))
        else:
            original = Original(lab.rendezvous, "hole_punch_server", output=tmp_path / "server")
            stack.enter_context(original).wait("Starting server")
        bob = start(waiter, lab.a, "bob")
        wait_registered(bob)
        alice = start(asker, lab.b, "alice", "bob")
        wait_greeting(bob, "alice")
        wait_greeting(alice, "bob")
        for end in (bob, alice):
            if isinstance(end, Talker):
                end.assert_alive_and_sane()
            else:
                end.assert_alive()
