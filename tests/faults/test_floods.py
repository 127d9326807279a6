"""Floods of garbage: processes live, paths stay up, applications and log files see little of it.

Each flood is bounded in number, about 20,000 datagrams; so are memory and log lines.
"""

from __future__ import annotations

import random
from collections import Counter
from typing import Iterator, List

import pytest

from tests import program
from tests.faults.forging import Forger, Listener
from tests.faults.traffic import both_ways
from tests.lab.whole_program import FRONT, MEETING, Punched, answered_within, eventually
from tests.program import Program, SocketAddress
from tests.standin.attacker import MARK, Attacker, datagrams
from tests.standin.puncher import Kind, Message, encode
from udppunch.lab import Lab
from udppunch.wire.control import CONTROL_LENGTH, TOKEN_LENGTH

pytestmark = pytest.mark.usefixtures("lab_permitted")

FLOOD = 20_000
LINES = 60  # that a flood may cause, of all processes together
GROWTH = 40_000  # KiB of a process's memory
NOBODY = ("203.0.113.250", 9)


def resident(process: Program) -> int:
    """KiB."""
    with open(f"/proc/{process.process.pid}/status", encoding="ascii") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))


class Bounds:
    """What a flood may cost the three processes."""

    def __init__(self, punched: Punched) -> None:
        self._processes = (punched.rendezvous, punched.server, punched.client)
        self._memory = [resident(process) for process in self._processes]
        self._lines = sum(self._logged().values())

    def hold(self, lines: int = LINES) -> None:
        for process, before in zip(self._processes, self._memory):
            process.assert_alive_and_sane()
            assert resident(process) - before < GROWTH, process.name
        logged = self._logged()
        assert sum(logged.values()) - self._lines < lines, logged

    def _logged(self) -> "Counter[str]":
        """How often what was said, at the level that is usual."""
        return Counter(
            f"{process.name.split()[0]}: {event['event']}"
            for process in self._processes
            for event in process.events
            if event["level"] != "debug"
        )


def garbage(seed: int, count: int = FLOOD) -> Iterator[bytes]:
    return datagrams(seed, count, key=program.KEY, named=[NOBODY, ("127.66.0.1", 9)])


def address(text: str) -> SocketAddress:
    ip, _, port = text.rpartition(":")
    return ip, int(port)


def test_rendezvous() -> None:
    """From one host with many ports, which registers and asks for all it can think of."""
    with Lab("prc", "prc") as lab, Punched(lab) as punched:
        flow = both_ways(punched)
        assert flow.flows(20.0), punched.story()
        bounds = Bounds(punched)
        stranger = lab.add_host("core")
        for number in range(100):
            sender = stranger.socket()
            Attacker(sender).send(MEETING, garbage(number, FLOOD // 100))
            sender.sendto(encode(Message(Kind.SERVER, key=f"own key {number}")), MEETING)
            sender.sendto(encode(Message(Kind.CLIENT, key=f"own key {number}")), MEETING)
        assert flow.flows(10.0), punched.story()
        assert answered_within(punched.application(), 20.0), punched.story("after the flood")
        flow.stop()
        assert not punched.client.count("path-lost")
        bounds.hold()


@pytest.mark.parametrize("end", ["server", "client"])
@pytest.mark.parametrize("claimed", ["a stranger", "the rendezvous", "another port of the peer"])
def test_punched_socket(claimed: str, end: str) -> None:
    """A host without a NAT hears all of it; the rendezvous's address is easily forged."""
    with Lab("public", "public") as lab, Punched(lab) as punched:
        flow = both_ways(punched)
        assert flow.flows(20.0), punched.story()
        bounds = Bounds(punched)
        target = address(_other(punched, end).wait_event("path-up")["peer"])
        peer = address(getattr(punched, end).wait_event("path-up")["peer"])
        sources = {
            "a stranger": ("203.0.113.77", 7777),
            "the rendezvous": MEETING,
            "another port of the peer": (peer[0], peer[1] ^ 1),
        }
        forger = Forger(lab.add_host("core"))
        assert forger.flood(sources[claimed], target, garbage(5)) > FLOOD / 2
        forger.flood(sources[claimed], target, told_by_a_rendezvous(2000))
        assert flow.flows(10.0), punched.story()
        flow.stop()
        assert flow.sender.wait_echoed(5.0) or len(flow.sender.missing()) < 0.3 * flow.sender.sent
        punched.assert_clean(flow.sender)
        bounds.hold()
        assert punched.client.count("path-up") == 1, punched.story()
        assert answered_within(punched.application(), 20.0), punched.story("after the flood")


def told_by_a_rendezvous(count: int) -> Iterator[bytes]:
    """Well-formed, with marks and all; each different from the one before."""
    chance = random.Random(count)
    for number in range(count):
        mark = MARK + chance.randbytes(16)
        seen = chance.randbytes(8)
        message = (
            Message(Kind.OK),
            Message(Kind.DUPLICATE_KEY),
            Message(Kind.NO_SERVER),
            Message(Kind.PEER, peer=("203.0.113.250", number % 60_000 + 1)),
            Message(Kind.PEER, peer=("127.0.0.1", 9)),
            Message(Kind.PEER, peer=MEETING),
        )[number % 6]
        yield encode(message) + mark + seen


@pytest.mark.parametrize("end", ["server", "client"])
def test_forged_control_from_the_peers_own_address(end: str) -> None:
    """Whoever overheard a path's token still can't say anything with it, nor reach anybody."""
    quick = ("--keepalive", "300ms")
    with (
        Lab("public", "public") as lab,
        Punched(lab, serve_options=quick, connect_options=quick) as punched,
    ):
        application = punched.application()
        assert answered_within(application, 20.0), punched.story()
        bounds = Bounds(punched)
        target = address(_other(punched, end).wait_event("path-up")["peer"])
        peer = address(getattr(punched, end).wait_event("path-up")["peer"])
        listener = Listener(lab.a)
        overheard = [
            each.data
            for each in listener.wait_for(
                lambda each: len(each.data) == CONTROL_LENGTH and peer[1] == each.source[1], 4
            )
        ]
        forger = Forger(lab.add_host("core"))
        assert forger.flood(peer, target, forged(overheard)) > FLOOD / 2
        first = application.sent
        application.send(100, per_second=200)
        assert application.wait_echoed(5.0), punched.story(f"{first}")
        punched.assert_clean(application)
        assert punched.client.count("path-up") == 1, punched.story()
        bounds.hold()


def forged(overheard: List[bytes]) -> Iterator[bytes]:
    """Replayed, altered, cut and lengthened; all of it starts with the token."""
    chance = random.Random(7)
    for _ in range(FLOOD):
        data = bytearray(chance.choice(overheard))
        if chance.random() < 0.7:
            data[chance.randrange(TOKEN_LENGTH, len(data))] ^= 1 << chance.randrange(8)
        if chance.random() < 0.2:
            del data[chance.randrange(TOKEN_LENGTH, len(data)) :]
        if chance.random() < 0.1:
            data += chance.randbytes(chance.randrange(1, 1300))
        yield bytes(data)


def test_listen() -> None:
    """By applications of its own host, from more ports than there are paths: who came first
    is served on, and garbage that is an application's is carried to the service."""
    with Lab("prc", "prc") as lab, Punched(lab, connect_options=("--max-paths", "50")) as punched:
        flow = both_ways(punched)
        assert flow.flows(20.0), punched.story()
        bounds = Bounds(punched)
        for number in range(500):
            Attacker(lab.b.socket()).send(FRONT, garbage(number, FLOOD // 500))
        assert flow.flows(20.0), punched.story()
        punched.client.wait_event("full")
        assert eventually(lambda: punched.server.count("path-up") == 50, 20.0), punched.story()
        flow.stop()
        assert punched.client.count("full") == 1
        assert not flow.sender.foreign()
        bounds.hold(lines=200)  # 50 paths, at either end


def test_two_rendezvous_do_not_answer_each_other() -> None:
    """One datagram with a forged source, from one to the other, starts no endless talk."""
    with Lab("public", "public") as lab:
        other = lab.add_host("core")
        addresses = MEETING, (other.address, 39737)
        one = program.rendezvous(MEETING, popen=lab.rendezvous.popen)
        two = program.rendezvous(addresses[1], popen=other.popen)
        with one, two:
            for process in (one, two):
                process.wait_event("listening")
            listener = Listener(lab.rendezvous)
            forger = Forger(lab.add_host("core"))
            triggers = [*garbage(11, 300), *told_by_a_rendezvous(12)]
            for data in triggers:
                if len(data) <= 1400:
                    forger.send(addresses[1], addresses[0], data)
                    forger.send(addresses[0], addresses[0], data)
            talk = listener.all_for(2.0)
            between = [each for each in talk if each.source == MEETING]
            assert len(talk) > len(triggers), "the triggers did not arrive"
            assert len(between) <= len(triggers)
            assert not [each for each in listener.all_for(1.0) if each.source[1] == 39737]
            for process in (one, two):
                process.assert_alive_and_sane()


def _other(punched: Punched, end: str) -> Program:
    return punched.client if end == "server" else punched.server
