"""SIGUSR1: how a daemon fares, in one line of its log, and it goes on as before."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Any, List

import pytest

from tests import program
from tests.check.command import run
from tests.faults.expose_traffic import ExposerProgram, HelperProgram
from tests.faults.relay_traffic import PATIENCE, Load, RelayProgram, pair_at
from tests.lab.whole_program import eventually
from tests.ports import free_port
from tests.program import Event, Program
from tests.standin.expose import Connectee, Endpoint

of_any_size = pytest.mark.parametrize("workers", [1, 2])


def state_of(daemon: Program, count: int = 1) -> Event:
    """What it says when it is asked for the `count`th time."""
    daemon.process.send_signal(signal.SIGUSR1)
    said = daemon.wait_event("state", PATIENCE, count=count)
    assert said["level"] == "info"
    return said


def comes_to_say(daemon: Program, wanted: str) -> bool:
    """In the end: what workers count they tell twice a second."""
    return eventually(
        lambda: wanted in state_of(daemon, daemon.count("state") + 1)["message"], PATIENCE
    )


@of_any_size
def test_a_relay_tells_of_its_channels(workers: int) -> None:
    with RelayProgram(workers=workers) as relay:
        assert comes_to_say(relay, "relay: 0 channels, 0 half-open"), relay
        for _ in range(3):
            pair_at(relay)
        assert comes_to_say(relay, "relay: 3 channels, 0 half-open"), relay
        relay.assert_alive_and_sane()


@of_any_size
def test_a_helper_tells_of_its_connectees(workers: int) -> None:
    with HelperProgram(workers=workers) as helper, Endpoint() as service:
        assert comes_to_say(helper, "0 of 1 services have an exposer, 0 connectees"), helper
        with (
            ExposerProgram(service.address, helper.address) as exposer,
            Connectee(helper.address) as connectee,
        ):
            assert comes_to_say(helper, "1 of 1 services have an exposer"), helper
            connectee.send(b"hello")
            assert comes_to_say(helper, "1 connectees"), helper
            assert comes_to_say(exposer, "1 connectees"), exposer


def test_all_roles_tell(tmp_path: Path) -> None:
    """Those that share no workers, too."""
    relay, rendezvous = (program.text(("127.0.0.1", free_port())) for _ in range(2))
    file = tmp_path / "both.yaml"
    file.write_text(
        f"roles: [{{relay: {{listen: '{relay}', workers: 2}}}},"
        f" {{rendezvous: {{listen: '{rendezvous}'}}}}]"
    )
    with RelayProgram(command=("run", str(file))) as both:
        both.wait_event("listening", count=2)
        assert comes_to_say(both, "relay: 0 channels, 0 half-open; 0 keys"), both


def test_what_has_but_one_process_tells_too() -> None:
    with program.rendezvous() as rendezvous:
        rendezvous.wait_event("listening")
        assert state_of(rendezvous)["message"]
        with program.serve(("127.0.0.1", 9), rendezvous.address) as server:
            server.wait_event("registered")
            assert "1 keys" in state_of(rendezvous, 2)["message"]
            assert state_of(server)["message"]
            with program.connect(rendezvous.address) as client:
                client.wait_event("listening")
                assert state_of(client)["message"]


def plainly(arguments: List[str], **more: Any) -> "subprocess.Popen[str]":
    """Starts a program that writes its log for people."""
    return subprocess.Popen([word for word in arguments if word != "--log-json"], **more)


@of_any_size
def test_a_line_for_people(workers: int) -> None:
    words = ("relay", program.text(("127.0.0.1", free_port())), "--workers", str(workers))
    with Program(*words, "--control", "none", popen=plainly) as relay:
        assert eventually(lambda: any("listens on" in line for line in relay.output), PATIENCE)
        line = r"[\d:.]+ info    relay: 0 channels, 0 half-open"

        def is_said() -> bool:
            relay.process.send_signal(signal.SIGUSR1)
            return any(re.fullmatch(line, said) for said in relay.output)

        assert eventually(is_said, PATIENCE), relay


def quietly(arguments: List[str], **more: Any) -> "subprocess.Popen[str]":
    """Starts a program that writes errors alone."""
    return subprocess.Popen(["error" if word == "debug" else word for word in arguments], **more)


@of_any_size
def test_who_asks_is_told_at_any_log_level(workers: int) -> None:
    words = ("relay", program.text(("127.0.0.1", free_port())), "--workers", str(workers))
    with Program(*words, "--control", "none", popen=quietly) as relay:
        assert eventually(lambda: run("relay", words[1], "-t", "1s").status != 2, PATIENCE)
        assert state_of(relay)["message"].startswith("relay: ")
        assert relay.count("listening") == 0


@of_any_size
def test_a_line_for_machines(workers: int) -> None:
    with RelayProgram(workers=workers) as relay:
        assert set(state_of(relay)) == {"time", "level", "event", "message"}


@of_any_size
def test_all_processes_are_asked(workers: int) -> None:
    """As `systemctl kill` does it: one line all the same, and nobody ends of it."""
    with RelayProgram(workers=workers) as relay:
        pids = relay.pids()
        for _ in range(20):
            for pid in pids.values():
                os.kill(pid, signal.SIGUSR1)
        relay.wait_event("state")
        pair_at(relay)
        assert relay.count("state") <= 20
        assert relay.pids() == pids and not relay.count("restart"), relay


@of_any_size
def test_asked_again_and_again_under_load(workers: int) -> None:
    with RelayProgram(workers=workers) as relay, Load(relay.address, 8, 2000) as load:
        for _ in range(200):
            relay.process.send_signal(signal.SIGUSR1)
            time.sleep(0.002)
        relay.wait_event("state")
        load.wait_sent(500)
        load.finish()
        assert load.lost == 0 and load.silent_flows() == 0
        assert not relay.count("restart")
        relay.assert_alive_and_sane()


@of_any_size
def test_asked_while_it_drains(workers: int) -> None:
    with RelayProgram("--drain-timeout", "10min", workers=workers) as relay:
        pair_at(relay)
        relay.process.send_signal(signal.SIGTERM)
        relay.wait_event("draining")
        assert comes_to_say(relay, "1 channels"), relay
        relay.process.send_signal(signal.SIGTERM)
        assert relay.process.wait(PATIENCE) == 0
