"""A relay on a host with several addresses: each peer is answered from the one it wrote to.

A NAT, and any socket that is connected, lets nothing else through.
"""

from __future__ import annotations

import itertools
import os
import signal
import socket
import time
from typing import List, NamedTuple, Tuple

import pytest

from tests.faults.relay_traffic import PATIENCE, SECRET, RelayProgram, new_guid
from tests.lab.fixtures import BuildLab
from tests.standin.relay import handshake
from udppunch.lab import Host, Lab

PORT = 6060
IPV4 = ["203.0.113.10", "203.0.113.11"]
IPV6 = ["2001:db8::10", "2001:db8::11"]
# So many that, of two workers, each hears some peers of each kind.
TIMES = 6

of_any_size = pytest.mark.parametrize("workers", [1, 2])


class Asker(NamedTuple):
    """A peer, connected to the address of the relay that it asks."""

    socket: socket.socket
    asked: str

    def say(self, datagram: bytes) -> bytes:
        self.socket.send(datagram)
        return datagram

    def hear(self) -> bytes:
        """Fails with a timeout if nothing comes, from the address that was asked."""
        return self.socket.recv(2048)


Pair = Tuple[Asker, Asker]


def asker(host: Host, asked: str) -> Asker:
    opened = host.socket(socket.AF_INET6 if ":" in asked else socket.AF_INET)
    opened.settimeout(PATIENCE)
    opened.connect((asked, PORT))
    return Asker(opened, asked)


def pairs(one: Host, other: Host, asked: List[str], of_other: List[str]) -> List[Pair]:
    """Several for each two addresses that they may ask."""
    every = list(itertools.product(asked, of_other)) * TIMES
    return [(asker(one, address), asker(other, another)) for address, another in every]


def join_all(relay: RelayProgram, askers: List[Pair]) -> None:
    for number, (one, other) in enumerate(askers, 1):
        guid = new_guid()
        other.say(handshake(guid, SECRET))
        relay.wait_counted("handshakes: opened", number)
        completing = one.say(handshake(guid, SECRET, b"completes"))
        assert other.hear() == completing, (one.asked, other.asked)


def assert_answered(askers: List[Pair]) -> None:
    """Each hears what its partner says, from the address it asked."""
    for number in range(3):
        for one, other in askers:
            for sender, receiver in ((one, other), (other, one)):
                said = sender.say(b"%d" % number)
                assert receiver.hear() == said, (sender.asked, receiver.asked)


def relay_in(lab: Lab, workers: int, *listen: str) -> RelayProgram:
    command = ("relay", *listen, "--workers", str(workers))
    return RelayProgram(workers=workers, command=command, popen=lab.rendezvous.popen)


@of_any_size
@pytest.mark.parametrize("bind", ["0.0.0.0", "[::]", ""], ids=["ipv4", "dual-stack", "port-alone"])
def test_ipv4(bind: str, workers: int, build_lab: BuildLab) -> None:
    """The peers are behind NATs, each of which lets in what comes from where it was sent."""
    lab = build_lab("prc", "prc")
    with relay_in(lab, workers, f"{bind}:{PORT}") as relay:
        askers = pairs(lab.a, lab.b, IPV4, IPV4)
        join_all(relay, askers)
        assert_answered(askers)
        relay.assert_alive_and_sane()


@of_any_size
@pytest.mark.parametrize("named", [False, True], ids=["wildcard", "each-address"])
def test_ipv6_and_ipv4(named: bool, workers: int, build_lab: BuildLab) -> None:
    """One peer has IPv6 behind a firewall, the other either; on one socket, or on four."""
    each = [*(f"{ip}:{PORT}" for ip in IPV4), *(f"[{ip}]:{PORT}" for ip in IPV6)]
    listen = each if named else [f"[::]:{PORT}"]
    lab = build_lab("fw", "public")
    with relay_in(lab, workers, *listen) as relay:
        askers = pairs(lab.a, lab.add_host("core"), IPV6, IPV6)
        askers += pairs(lab.a, lab.b, IPV6, IPV4)
        join_all(relay, askers)
        assert_answered(askers)
        relay.assert_alive_and_sane()


def test_successors_know_which_address_was_asked(build_lab: BuildLab) -> None:
    """Of the workers first, then of the registrar, which learns it from them, and once more."""
    lab = build_lab("prc", "prc")
    with relay_in(lab, 2, f"[::]:{PORT}") as relay:
        askers = pairs(lab.a, lab.b, IPV4, IPV4)
        join_all(relay, askers)
        for victims in (["worker 1", "worker 2"], ["registrar"], ["worker 1", "worker 2"]):
            before = relay.count("restart")
            pids = relay.pids()
            for victim in victims:
                os.kill(pids[victim], signal.SIGKILL)
            relay.wait_event("restart", count=before + len(victims))
            assert_answered(askers)
            time.sleep(1.0)  # so that workers have started before they are killed once more
