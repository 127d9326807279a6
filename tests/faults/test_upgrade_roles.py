"""Daemons replaced with another configuration, with several roles, and without any workers."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import socket
import time
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional

import pytest
import yaml

from tests import program
from tests.faults.expose_ends import PlayedExposer, reaches
from tests.faults.expose_traffic import (
    PASSWORD,
    PASSWORD_VARIABLE,
    ExposerProgram,
    FarEnd,
    HelperProgram,
)
from tests.faults.relay_traffic import PATIENCE, RelayProgram, carries, join, new_guid, pair_at
from tests.faults.upgrading import FLOWS, ExposeLoad, assert_short, of_any_size, upgrade
from tests.lab.whole_program import eventually
from tests.program import Program, SocketAddress, text
from tests.standin.application import Echo, NumberedClient
from tests.standin.expose import TAG, Connectee, Endpoint
from tests.standin.relay import Peer
from tests.standin.service_manager import ServiceManager

STUN_REQUEST = bytes.fromhex("000100002112a442") + b"udppunchtest"
A, B = (f"127.0.0.1:{program.free_port()}" for _ in range(2))


# --- with another configuration ----------------------------------------------------------


class Change(NamedTuple):
    """From which settings to which, and whether channels outlive it."""

    before: Dict[str, Any]
    after: Dict[str, Any]
    kept: bool


CHANGES: Dict[str, Change] = {
    "one more address": Change({"listen": A}, {"listen": [A, B]}, False),
    "one less address": Change({"listen": [A, B]}, {"listen": A}, False),
    "another address": Change({"listen": A}, {"listen": B}, False),
    "more workers": Change({"listen": A}, {"listen": A, "workers": 5}, True),
    "other limits": Change({"listen": A}, {"listen": A, "max-channels": 10, "rate": 500}, True),
}


def write_relay(file: Path, settings: Dict[str, Any]) -> None:
    """The settings may have the number of workers."""
    file.write_text(yaml.safe_dump({"roles": [{"relay": {"idle": "10min", **settings}}]}))


def places(settings: Dict[str, Any]) -> List[str]:
    listen = settings["listen"]
    return [listen] if isinstance(listen, str) else listen


def port(place: str) -> int:
    return int(place.rpartition(":")[2])


@pytest.mark.parametrize(
    "workers, change",
    [(number % 2 + 1, change) for number, change in enumerate(CHANGES.values())],
    ids=CHANGES,
)
def test_a_relays_configuration_changed(workers: int, change: Change, tmp_path: Path) -> None:
    file = tmp_path / "relay.yaml"
    write_relay(file, {"workers": workers, **change.before})
    with RelayProgram(workers=workers, command=("run", str(file))) as relay:
        one, other = relay.open_peer(port(A)), relay.open_peer(port(A))
        join(one, other, new_guid())
        write_relay(file, {"workers": workers, **change.after})
        upgrade(relay)
        now = places(change.after)
        assert eventually(lambda: relay.document()["listen"] == now, PATIENCE), relay
        assert relay.gauges()["channels"] == change.kept
        if change.kept:
            assert carries(one, other) and carries(other, one)
        for place in now:
            first, second = relay.open_peer(port(place)), relay.open_peer(port(place))
            join(first, second, new_guid())
        for place in set(places(change.before)) - set(now):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.bind(("127.0.0.1", port(place)))
        upgrade(relay)
        assert relay.gauges()["channels"] == change.kept + len(now)
        relay.assert_alive_and_sane()


@of_any_size
def test_a_wrong_file_replaces_nobody(workers: int, tmp_path: Path) -> None:
    file = tmp_path / "relay.yaml"
    write_relay(file, {"workers": workers, "listen": A})
    good = file.read_text()
    with RelayProgram(workers=workers, command=("run", str(file))) as relay:
        one, other = pair_at(relay)
        file.write_text("roles: [")
        relay.process.send_signal(signal.SIGUSR2)
        assert eventually(lambda: any(e["level"] == "error" for e in relay.events), PATIENCE)
        assert carries(one, other) and carries(other, one)
        assert not relay.count("replaced"), relay
        relay.assert_alive_and_sane()
        file.write_text(good)
        upgrade(relay)
        assert carries(one, other) and carries(other, one)


def test_a_helpers_services_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It begins anew; exposers make themselves known again."""
    monkeypatch.setenv(PASSWORD_VARIABLE, PASSWORD)
    file = tmp_path / "helper.yaml"

    def write(*names: str) -> Dict[str, SocketAddress]:
        found: Dict[str, SocketAddress] = {
            name: ("127.0.0.1", program.free_port()) for name in names
        }
        named = [f"{name}={text(address)}" for name, address in found.items()]
        helper = {"listen": A, "workers": 2, "name": named}
        file.write_text(yaml.safe_dump({"roles": [{"helper": helper}]}))
        return found

    services = write("one", "two")
    with Program("run", str(file), "--control", "none") as helper:
        helper.wait_event("listening", count=3)
        for names in (("two", "three"), (), ("one",)):
            for name, address in {"": ("127.0.0.1", port(A)), **services}.items():
                with PlayedExposer(("127.0.0.1", port(A))) as exposer:
                    with Connectee(address) as connectee:
                        exposer.register(name=name)
                        come = functools.partial(reaches, connectee, exposer)
                        assert eventually(come, PATIENCE), f"{name}: {helper}"
            services = write(*names)
            upgrade(helper)
        helper.assert_alive_and_sane()


def test_an_access_log_says_who_left_when_he_left(tmp_path: Path) -> None:
    """Which nobody does for an upgrade."""
    file = tmp_path / "access.log"
    options = ("--transparent-log", str(file))
    with HelperProgram(*options) as helper, contextlib.ExitStack() as stack:
        exposer, *connectees = (stack.enter_context(Connectee(helper.address)) for _ in range(4))
        exposer.send(b"")
        for connectee in connectees:
            come = functools.partial(reaches, connectee, exposer)
            assert eventually(come, PATIENCE), helper
        upgrade(helper)
        assert all(reaches(connectee, exposer) for connectee in connectees)
        assert " left " not in file.read_text()
        helper.process.send_signal(signal.SIGINT)
        assert helper.wait_exit() == 0
        said = file.read_text()
        assert said.count(" came ") == said.count(" left ") == len(connectees), said


# --- several roles, and those without workers --------------------------------------------


def tag_of(connectee: Connectee, exposer: Connectee) -> bytes:
    said = connectee.send(os.urandom(16))
    while True:
        heard = exposer.receive()
        if heard[TAG:] == said:
            return heard[:TAG]


@of_any_size
def test_roles_side_by_side(workers: int, tmp_path: Path) -> None:
    file = tmp_path / "all.yaml"
    meeting = ("127.0.0.1", program.free_port())
    published = ("127.0.0.1", program.free_port())
    roles = [
        {"relay": {"listen": A, "workers": workers, "drain-timeout": "1ms"}},
        {"rendezvous": {"listen": text(meeting)}},
        {"relay": {"listen": B, "workers": 1, "drain-timeout": "1ms"}},
        {"helper": {"listen": text(published), "workers": workers}},
    ]
    file.write_text(yaml.safe_dump({"roles": roles}))
    with (
        Program("run", str(file), "--control", "none") as daemon,
        Endpoint() as asking,
        contextlib.ExitStack() as stack,
    ):
        daemon.wait_event("listening", count=4)
        pairs = []
        for place in (A, B):
            peers = [stack.enter_context(Peer(("127.0.0.1", port(place)))) for _ in range(2)]
            join(peers[0], peers[1], new_guid(), b"")
            pairs.append(peers)
        connectee = stack.enter_context(Connectee(published))
        exposer = stack.enter_context(Connectee(published))
        exposer.send(b"")
        assert eventually(lambda: reaches(connectee, exposer), PATIENCE), daemon
        tags = set()
        for times in range(3):
            daemon.wait_event("listening", count=4 * (times + 1))
            for one, other in pairs:
                assert carries(one, other) and carries(other, one)
            tags.add(tag_of(connectee, exposer))
            asking.send_to(meeting, STUN_REQUEST)
            assert asking.receive_from()[1] == meeting
            daemon.process.send_signal(signal.SIGUSR2)
        assert len(tags) == 1
        daemon.assert_alive_and_sane()


@pytest.mark.parametrize("password", [None, PASSWORD], ids=["no-password", "password"])
def test_an_exposer(password: Optional[str]) -> None:
    """Neither the helper nor the service notices, and what comes meanwhile waits."""
    began = time.monotonic()
    with (
        HelperProgram(password=password) as helper,
        FarEnd() as service,
        ExposerProgram(service.address, helper.address, password=password) as exposer,
        ExposeLoad(helper.address, service) as load,
    ):
        started = time.monotonic() - began  # all of them
        load.wait_answered()
        gaps = []
        for times in range(1, 3):
            load.gaps.begin()
            exposer.process.send_signal(signal.SIGUSR2)
            exposer.wait_event("replaced", count=times)
            load.wait_answered()
            gaps.append(load.gaps.longest())
        assert_short(gaps, [started])
        load.finish()
        assert load.silent() == load.lost == 0
        assert {len(ends) for ends in service.seen.values()} == {1}
        counted = helper.counters()
        assert counted["connectees new"] == FLOWS and not counted.get("connectees gone")
        exposer.assert_alive_and_sane()


@pytest.mark.parametrize("of", ["a service manager", "the program"])
def test_a_server_keeps_its_place(of: str, tmp_path: Path) -> None:
    """The rendezvous knows it by its socket, and it need not wait for its key."""
    with contextlib.ExitStack() as stack:
        manager = stack.enter_context(ServiceManager(tmp_path))
        rendezvous = stack.enter_context(program.rendezvous())
        service = stack.enter_context(Echo())
        meeting = rendezvous.address

        def start() -> Program:
            return program.serve(service.address, meeting, popen=manager.popen)

        server = stack.enter_context(start())
        before = server.wait_event("registered")["local"]
        client = stack.enter_context(program.connect(meeting))
        application = stack.enter_context(NumberedClient(client.address))
        application.send()
        assert application.wait_echoed(PATIENCE)
        if of == "the program":
            upgrade_one(server, "registered")
            found = server.wait_event("registered", count=2)
        else:
            server.process.send_signal(signal.SIGQUIT)
            assert server.process.wait(PATIENCE) == 0
            server = stack.enter_context(start())
            found = server.wait_event("registered")
        assert found["local"] == before and not server.count("key-taken"), server
        answered = len(application.received)

        def is_answered() -> bool:
            application.send()
            return application.wait_received(answered + 1, 0.1)

        assert eventually(is_answered, PATIENCE), client
        server.assert_alive_and_sane()


def upgrade_one(daemon: Program, until: str) -> None:
    count = daemon.count(until) + 1
    daemon.process.send_signal(signal.SIGUSR2)
    daemon.wait_event("replaced")
    daemon.wait_event(until, count=count)


@pytest.mark.parametrize("role", ["connect", "rendezvous"])
def test_what_listens_never_ceases_to(role: str) -> None:
    """Whoever says something meanwhile is not told that nobody is there."""
    meeting = ("127.0.0.1", program.free_port())
    made = program.connect(meeting) if role == "connect" else program.rendezvous(meeting)
    with made as daemon, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(daemon.address)
        sock.settimeout(0.0)
        daemon.process.send_signal(signal.SIGUSR2)
        while daemon.count("listening") < 2:
            sock.send(b"anything")  # raises what an ICMP error has told
            time.sleep(0.001)
        daemon.assert_alive_and_sane()
