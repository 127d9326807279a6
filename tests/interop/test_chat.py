"""The chat and its server, each once ours and once udp-hole-punching's, in every combination.

    chat ── Internet ── chat        chats, server: ours | original
      └──── server ────┘

An original ends its process on an error to establish, and on what comes from another address
than the one reported to it: either fails a test.
"""

from __future__ import annotations

import signal
from contextlib import ExitStack
from typing import Any, Iterator, Tuple, Union

import pytest

from tests.lab import talking
from tests.lab.fixtures import lab_permitted  # noqa: F401
from tests.lab.talking import CHAT_PORT, CORE, PATIENCE, Chatter, Meeting
from tests.ports import free_port
from tests.program import SocketAddress
from tests.standin import chat as original
from tests.standin.chat import ClientProcess
from tests.standin.process import StandIn
from udppunch.lab import Lab

pytest.importorskip("cryptography", reason="cryptography is not installed")

Server = Union[Meeting, StandIn]
End = Union[Chatter, ClientProcess]

OURS_OR_ORIGINAL = ("ours", "original")
MIXED = [("ours", "original"), ("original", "ours")]
LONGEST_NAME = "ü" * 32

of_servers = pytest.mark.parametrize("server", OURS_OR_ORIGINAL)
of_mixed = pytest.mark.parametrize("waiter,asker", MIXED)


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
            ours = Meeting((self.address[0], free_port()), self.address, **keywords)
            self.server = self._stack.enter_context(ours)
        else:
            self.server = self._stack.enter_context(original.server(self.address, **keywords))
            self.server.wait_event("listening")
        return self.server

    def start(self, kind: str, name: str, *options: str, peer: str = "", **keywords: Any) -> End:
        """Registered when it returns, unless it is ours and has a `peer` to ask for."""
        end: End
        if kind == "original":
            end = original.client(self.address, name, **keywords)
            self._ends.append(self._stack.enter_context(end))
            end.wait_event("registered", PATIENCE)
            if peer:
                end.tell(f"establish {peer}")
            return end
        count = self._registrations(name)
        end = talking.chat(self.address, name, peer, *options, **keywords)
        self._ends.append(self._stack.enter_context(end))
        if not peer:
            self.wait_registered(name, count + 1)
        return end

    def wait_registered(self, name: str, count: int = 1) -> None:
        """That the server knows one by that name; it was told `count` times."""
        if isinstance(self.server, Meeting):
            talking.wait_until(
                lambda: self._registrations(name) >= count, f"{name!r} in {self.server}"
            )
        else:
            self.server.wait_event("registered", PATIENCE, count=count, username=name)

    def pair(
        self, waiter: str, asker: str, *, names: Tuple[str, str] = ("bob", "alice")
    ) -> Tuple[End, End]:
        """Two who have a path."""
        bob = self.start(waiter, names[0])
        alice = self.start(asker, names[1], peer=bob.id)
        connected(bob, names[1])
        connected(alice, names[0])
        return bob, alice

    def assert_sane(self) -> None:
        for process in (self.server, *self._ends):
            process.assert_alive_and_sane()

    def _registrations(self, name: str) -> int:
        events = [event for event in self.server.events if event["event"] == "register"]
        return sum(f"{name!r} is at " in event["message"] for event in events)


@pytest.fixture
def stage(server: str) -> Iterator[Stage]:
    with ExitStack() as stack:
        stage = Stage(stack, server, (talking.LOOPBACK, free_port()))
        yield stage
        stage.assert_sane()


def connected(end: End, peer: str) -> None:
    if isinstance(end, Chatter):
        end.wait_told(f"the path to {peer} is up")
    else:
        end.wait_event("connected", PATIENCE)


def sorted_out(bob: End, alice: End) -> Tuple[Chatter, ClientProcess]:
    """Which of the two is ours, and which is not."""
    if isinstance(bob, Chatter):
        assert isinstance(alice, ClientProcess)
        return bob, alice
    assert isinstance(alice, Chatter)
    return alice, bob


# --- who talks with whom -----------------------------------------------------------------


@of_servers
@of_mixed
def test_ours_speaks_with_an_original(waiter: str, asker: str, stage: Stage) -> None:
    """What it says is always encrypted; what it hears in plain text is marked."""
    ours, theirs = sorted_out(*stage.pair(waiter, asker))
    ours.say("grüezi", '{"type":"message","data":"json"}')
    theirs.wait_event("message", PATIENCE, data="grüezi", encrypted=True)
    theirs.wait_event("message", PATIENCE, data='{"type":"message","data":"json"}', encrypted=True)
    theirs.tell("encrypt sealed")
    ours.wait_heard(b"sealed\n")
    assert not ours.told("unencrypted")
    theirs.tell("say in plain text ✓")
    ours.wait_heard("in plain text ✓\n".encode())
    name = "alice" if waiter == "ours" else "bob"
    ours.wait_told(f"what {name} says comes unencrypted")
    ours.wait_told("not udppunch: what is said is sent once, unconfirmed")


@of_servers
def test_ours_speaks_with_ours(stage: Stage) -> None:
    bob, alice = stage.pair("ours", "ours")
    assert isinstance(bob, Chatter) and isinstance(alice, Chatter)
    lines = [f"line {number}" for number in range(100)]
    alice.say(*lines)
    bob.say("one answer")
    bob.wait_heard(b"line 99\n")
    alice.wait_heard(b"one answer\n")
    assert bob.heard.decode().splitlines() == lines
    assert bob.told(f"fingerprint of alice: {alice.fingerprint}") == 1
    assert alice.told(f"fingerprint of bob: {bob.fingerprint}") == 1
    assert not bob.told("unconfirmed") and not alice.told("unconfirmed")


@of_servers
def test_originals_speak_with_each_other(stage: Stage) -> None:
    bob, alice = stage.pair("original", "original")
    assert isinstance(bob, ClientProcess) and isinstance(alice, ClientProcess)
    alice.tell("encrypt words")
    bob.wait_event("message", PATIENCE, data="words", encrypted=True)
    bob.tell("say words")
    alice.wait_event("message", PATIENCE, data="words", encrypted=False)


@of_servers
@of_mixed
def test_longest_names(waiter: str, asker: str, stage: Stage) -> None:
    names = LONGEST_NAME, "a" * 32
    ours, theirs = sorted_out(*stage.pair(waiter, asker, names=names))
    ours.say("words")
    theirs.wait_event("message", PATIENCE, data="words")


@of_servers
@of_mixed
def test_longest_messages(waiter: str, asker: str, stage: Stage) -> None:
    ours, theirs = sorted_out(*stage.pair(waiter, asker))
    ours.say("x" * 1800)
    theirs.wait_event("message", PATIENCE, data="x" * 1800, encrypted=True)
    theirs.tell("encrypt " + "y" * 1800)
    ours.wait_heard(b"y" * 1800 + b"\n")


@of_servers
def test_a_peer_who_is_not_there(stage: Stage) -> None:
    alice = stage.start("ours", "alice", peer="ab" * 32)
    assert isinstance(alice, Chatter)
    alice.wait_told(f"The peer: {'ab' * 32} has not registered")
    alice.assert_alive_and_sane()


# --- what happens to processes -----------------------------------------------------------


@of_servers
@of_mixed
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_an_original_outlives_ours(waiter: str, asker: str, number: int, stage: Stage) -> None:
    bob = stage.start("original", "bob") if waiter == "original" else None
    with talking.chat(stage.address, "ours", bob.id if bob else "") as ours:
        theirs = bob
        if theirs is None:
            stage.wait_registered("ours")
            theirs = stage.start("original", "alice", peer=ours.id)
        assert isinstance(theirs, ClientProcess)
        theirs.wait_event("connected", PATIENCE)
        ours.wait_told("is up")
        ours.say("last words")
        theirs.wait_event("message", PATIENCE, data="last words")
        ours.stop(number)
    theirs.tell("say into the void")
    theirs.wait_event("sent", PATIENCE)


@of_servers
def test_a_conversation_outlives_its_server(server: str) -> None:
    with ExitStack() as stack:
        stage = Stage(stack, server, (talking.LOOPBACK, free_port()))
        ours, theirs = sorted_out(*stage.pair("ours", "original"))
        stage.server.stop()
        ours.wait_told("does not answer")
        ours.say("still here")
        theirs.wait_event("message", PATIENCE, data="still here")
        theirs.tell("encrypt and so am I")
        ours.wait_heard(b"and so am I\n")
        ours.assert_alive_and_sane()
        theirs.assert_alive_and_sane()


@of_servers
@pytest.mark.parametrize("asker", OURS_OR_ORIGINAL)
def test_a_server_started_anew_knows_ours_again(asker: str, stage: Stage) -> None:
    bob = stage.start("ours", "bob")
    stage.server.stop()
    stage.start_server()
    stage.wait_registered("bob")
    alice = stage.start(asker, "alice", peer=bob.id)
    connected(alice, "bob")
    connected(bob, "alice")


# --- through NATs ------------------------------------------------------------------------


@pytest.mark.usefixtures("lab_permitted")
@pytest.mark.parametrize("sites", [("prc", "prc"), ("full", "prc"), ("prc", "full")], ids="-".join)
@of_servers
@pytest.mark.parametrize("waiter,asker", [*MIXED, ("ours", "ours")])
def test_words_go_through_nats(
    server: str, waiter: str, asker: str, sites: Tuple[str, str]
) -> None:
    with Lab(*sites) as lab, ExitStack() as stack:
        stage = Stage(stack, server, (CORE, CHAT_PORT), popen=lab.rendezvous.popen)
        bob = stage.start(waiter, "bob", popen=lab.a.popen)
        alice = stage.start(asker, "alice", peer=bob.id, popen=lab.b.popen)
        connected(bob, "alice")
        connected(alice, "bob")
        for sender, receiver in ((bob, alice), (alice, bob)):
            if isinstance(sender, Chatter):
                sender.say("through both")
            else:
                sender.tell("encrypt through both")
            if isinstance(receiver, Chatter):
                receiver.wait_heard(b"through both\n")
            else:
                receiver.wait_event("message", PATIENCE, data="through both", encrypted=True)
        stage.assert_sane()


@pytest.mark.usefixtures("lab_permitted")
@of_servers
@of_mixed
def test_an_original_far_away_is_introduced_once(server: str, waiter: str, asker: str) -> None:
    """It forgets the peer's key when it is told of the same peer again, which nobody repairs."""
    with Lab("prc", "prc", delay_a=0.2, delay_b=0.2) as lab, ExitStack() as stack:
        stage = Stage(stack, server, (CORE, CHAT_PORT), popen=lab.rendezvous.popen)
        bob = stage.start(waiter, "bob", popen=lab.a.popen)
        alice = stage.start(asker, "alice", peer=bob.id, popen=lab.b.popen)
        connected(bob, "alice")
        connected(alice, "bob")
        ours, theirs = sorted_out(bob, alice)
        for number in range(3):
            ours.say(f"line {number}")
            theirs.wait_event("message", PATIENCE, data=f"line {number}", encrypted=True)
        introductions = [event for event in theirs.events if event["event"] == "establish"]
        assert len(introductions) == 1, str(theirs)
        stage.assert_sane()
