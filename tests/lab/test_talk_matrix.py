"""Which NATs `peer` and `chat` get through: those that `serve` and `connect` do.

Both are seekers and sought alike, so that a pair of classes is one lab, in which each side once
waits for the other and once asks for it, for both commands at the same time.
"""

from __future__ import annotations

import itertools
from contextlib import ExitStack
from typing import List, Tuple

import pytest

from tests.lab import talking
from tests.lab.talking import CORE, PATIENCE, Chatter, Talker
from tests.lab.test_matrix import CLASSES, expected
from udppunch.lab import Host, Lab

pytest.importorskip("cryptography", reason="cryptography is not installed")

pytestmark = pytest.mark.usefixtures("lab_permitted")

PAIRS = list(itertools.combinations_with_replacement(CLASSES, 2))
HOPELESS = [pair for pair in PAIRS if not expected(*pair)]
# Most of their time is waiting: so many labs wait at once.
AT_ONCE = 6
GIVES_UP_AFTER = "25s"

EXPLANATION = (
    "nothing of the other end's arrives: one NAT uses another port for each destination "
    "(symmetric) and the other lets only known ports in, or a firewall drops UDP"
)


class Talkers:
    """Two commands in a lab, each twice: one end waits, and the other one asks for it."""

    def __init__(self, stack: ExitStack, lab: Lab) -> None:
        self._stack = stack
        self.meeting = stack.enter_context(talking.server(CORE, popen=lab.rendezvous.popen))

    def peers(self, waiter: Host, asker: Host, *options: str) -> Tuple[Talker, Talker]:
        names = f"asker at {asker.name}", f"waiter at {waiter.name}"
        at = self.meeting.holepunch
        bob = talking.peer(at, names[1], "", *options, popen=waiter.popen)
        alice = talking.peer(at, *names, *options, popen=asker.popen)
        return self._stack.enter_context(bob), self._stack.enter_context(alice)

    def chats(self, waiter: Host, asker: Host) -> Tuple[Chatter, Chatter]:
        bob = self._stack.enter_context(talking.chat(self.meeting.chat, "bob", popen=waiter.popen))
        alice = talking.chat(self.meeting.chat, "alice", bob.id, popen=asker.popen)
        return bob, self._stack.enter_context(alice)


@pytest.mark.parametrize("a,b", [pair for pair in PAIRS if expected(*pair)])
def test_who_can_meet_does(a: str, b: str) -> None:
    with Lab(a, b) as lab, ExitStack() as stack:
        talkers = Talkers(stack, lab)
        ends: List[Tuple[Talker, Talker]] = []
        for waiter, asker in ((lab.a, lab.b), (lab.b, lab.a)):
            ends += [talkers.peers(waiter, asker), talkers.chats(waiter, asker)]
        for bob, alice in ends:
            bob.say("from who waits")
            alice.say("from who asks")
        for bob, alice in ends:
            bob.wait_heard(b"from who asks\n")
            alice.wait_heard(b"from who waits\n")
        for talker in itertools.chain(*ends):
            talker.assert_alive_and_sane()
            assert talker.heard.count(b"\n") == 1
        talkers.meeting.assert_alive_and_sane()


@pytest.mark.parametrize(
    "pairs",
    [HOPELESS[start : start + AT_ONCE] for start in range(0, len(HOPELESS), AT_ONCE)],
    ids=lambda pairs: "_".join("-".join(pair) for pair in pairs),
)
def test_who_cannot_meet_is_told_why(pairs: List[Tuple[str, str]]) -> None:
    with ExitStack() as stack:
        peers: List[Talker] = []
        chats: List[Tuple[Chatter, Chatter]] = []
        for a, b in pairs:
            lab = stack.enter_context(Lab(a, b))
            talkers = Talkers(stack, lab)
            peers += talkers.peers(lab.a, lab.b, "--wait", GIVES_UP_AFTER)
            chats.append(talkers.chats(lab.b, lab.a))
        for peer in peers:
            assert EXPLANATION in peer.wait_event("no-path", PATIENCE)["message"]
            assert peer.wait_exit() == 1, str(peer)
            assert "no path was found in time" in peer.wait_event("broken")["message"]
        for waiter, asker in chats:
            waiter.wait_told(EXPLANATION)
            asker.wait_told(EXPLANATION)
            assert asker.wait_exit() == 1, str(asker)


def test_who_may_not_send_is_told_that_the_server_is_silent() -> None:
    with Lab("udp-blocked", "public") as lab, ExitStack() as stack:
        meeting = Talkers(stack, lab).meeting
        peer = talking.peer(meeting.holepunch, "alice", popen=lab.a.popen)
        chat = talking.chat(meeting.chat, "alice", popen=lab.a.popen)
        stack.enter_context(peer).wait_event("server-silent", PATIENCE)
        stack.enter_context(chat).wait_told("does not answer; asking on")
