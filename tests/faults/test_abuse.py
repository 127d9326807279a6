"""Strangers, floods, and resources that run out: nothing ends, and nothing reaches applications."""

from __future__ import annotations

import resource
import socket
import subprocess
import sys
import time
from typing import Any, Iterator

import psutil
import pytest

from tests import program
from tests.lab.whole_program import MEETING, Punched
from tests.standin import attacker
from tests.standin.application import Echo, NumberedClient
from udppunch.lab import Lab

DATAGRAMS = 20_000
PACE = 200  # a burst, and then a moment: more than the processes take, less than a core


@pytest.fixture
def punched() -> Iterator[Punched]:
    with Lab("public", "public") as lab, Punched(lab) as punched:
        yield punched


def flood(sock: socket.socket, destination: "tuple[str, int]", seed: int) -> None:
    stranger = attacker.Attacker(sock, limit=DATAGRAMS)
    for number, data in enumerate(attacker.datagrams(seed, DATAGRAMS, key=program.KEY)):
        stranger.send(destination, [data])
        if number % PACE == 0:
            time.sleep(0.005)


@pytest.mark.usefixtures("lab_permitted")
@pytest.mark.parametrize("target", ["rendezvous", "server", "client"])
def test_a_flood_of_whatever_strangers_send(punched: Punched, target: str) -> None:
    application = punched.application()
    application.send(5)
    assert application.wait_echoed(), punched.story()
    up = punched.client.wait_event("path-up")
    destination = {
        "rendezvous": MEETING,
        "server": _address(up["peer"]),
        "client": (punched.lab.b.address, _address(up["local"])[1]),
    }[target]
    attacked = getattr(punched, target)
    process = psutil.Process(attacked.process.pid)
    memory, lines = process.memory_info().rss, len(attacked.events)
    with punched.lab.add_host("core").socket() as sock:
        flood(sock, destination, seed=1)
    application.send(50, per_second=100)
    assert application.wait_echoed(), punched.story()
    newcomer = punched.application()
    newcomer.send(1)
    assert newcomer.wait_echoed(20.0)
    punched.assert_clean(application, newcomer)
    assert process.memory_info().rss - memory < 16 << 20
    assert len(attacked.events) - lines < 200


def test_a_service_that_is_down_is_said_once_and_served_when_it_comes_up() -> None:
    port = program.free_port()
    with program.rendezvous() as turn, program.serve(("127.0.0.1", port), turn.address) as server:
        server.wait_event("registered")
        with program.connect(turn.address) as client, NumberedClient(client.address) as sender:
            for _ in range(20):
                sender.send(1)
                time.sleep(0.05)
            server.wait_event("refused")
            with Echo(("127.0.0.1", port)):
                first = sender.sent
                sender.send(10)
                due = time.monotonic() + 10
                while not any(number >= first for number in sender.echoed()):
                    assert time.monotonic() < due
                    time.sleep(0.05)
            assert server.count("refused") == 1
            server.assert_alive_and_sane()


def test_descriptors_that_run_out_refuse_new_clients_and_keep_the_old() -> None:
    def limited(argv: Any, **options: Any) -> "subprocess.Popen[str]":
        def limit() -> None:
            resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))

        return subprocess.Popen(argv, preexec_fn=limit, **options)

    with (
        Echo() as echo,
        program.rendezvous() as turn,
        program.serve(echo.address, turn.address, popen=limited) as server,
    ):
        server.wait_event("registered")
        with program.connect(turn.address) as client:
            old = NumberedClient(client.address)
            old.send(1)
            assert old.wait_echoed()
            crowd = [NumberedClient(client.address) for _ in range(100)]
            for newcomer in crowd:
                newcomer.send(1)
            server.wait_event("no-socket")
            old.send(10)
            assert old.wait_echoed()
            assert sum(bool(newcomer.received) for newcomer in crowd) > 30
            server.assert_alive_and_sane()
            for application in (old, *crowd):
                application.close()


@pytest.mark.parametrize("stream", ["/dev/full", "closed"])
def test_a_log_that_cannot_be_written_ends_nothing(stream: str) -> None:
    port = program.free_port()
    redirect = "2>&-" if stream == "closed" else f"2>{stream}"
    command = f"exec {sys.executable} -m udppunch rendezvous 127.0.0.1:{port} {redirect}"
    process = subprocess.Popen(["sh", "-c", command], cwd=program.ROOT)
    try:
        with Echo() as echo, program.serve(echo.address, ("127.0.0.1", port)) as server:
            server.wait_event("registered")
            assert process.poll() is None
    finally:
        process.terminate()
    assert process.wait(10) == 0


@pytest.mark.usefixtures("lab_permitted")
def test_a_lying_rendezvous_can_make_no_flood_of_an_end() -> None:
    """It names a hundred servers to one client: what these get is little in all."""
    with Lab("public", "public") as lab, Punched(lab) as punched:
        punched.rendezvous.stop()
        liar = lab.rendezvous.socket()
        liar.bind(MEETING)
        liar.settimeout(10.0)
        victims = []
        for index in range(100):
            victim = lab.rendezvous.socket()
            victim.bind((lab.rendezvous.addresses[1], 6000 + index))
            victim.setblocking(False)
            victims.append(victim)
        application = punched.application()
        application.send(1)
        while True:
            question, client = liar.recvfrom(1000)
            if question[0] == 0:
                break
        mark = b"\xf0upp\x01" + bytes(16)
        for victim in victims:
            ip, port = victim.getsockname()
            varint = bytes([port & 0x7F | 0x80, port >> 7 & 0x7F])
            liar.sendto(b"\x03\x03" + socket.inet_aton(ip) + varint + mark, client)
        time.sleep(3.0)
        heard = [data for victim in victims for data in _drain(victim)]
        assert 0 < len(heard) <= 160
        assert sum(map(len, heard)) <= 10_000
        assert not punched.echo.received


def _address(text: str) -> "tuple[str, int]":
    ip, _, port = text.rpartition(":")
    return ip, int(port)


def _drain(sock: socket.socket) -> "list[bytes]":
    found = []
    while True:
        try:
            found.append(sock.recv(2000))
        except BlockingIOError:
            return found
