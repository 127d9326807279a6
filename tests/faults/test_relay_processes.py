"""A relay's processes killed, stopped, signalled and told to end: what its channels feel of it.

Losses are bounded as the datagrams that arrive in so long a time, at the rate that is sent.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import time
from typing import Any, List

import psutil
import pytest

from tests import program
from tests.faults.relay_traffic import (
    PATIENCE,
    SECRET,
    Load,
    RelayProgram,
    carries,
    new_guid,
    pair_at,
    says_in_vain,
)
from tests.lab.whole_program import eventually
from tests.ports import free_port
from tests.program import Program
from tests.standin.relay import Peer, wait_readable

PER_SECOND = 20_000
IN_200_MS = PER_SECOND // 5
GRACE = 0.5  # for what must not come
FOREVER = ("--idle", "10min", "--drain-timeout", "10min")

of_any_size = pytest.mark.parametrize("workers", [1, 2])


def assert_nothing_left(relay: RelayProgram) -> None:
    """No process, no file, and the port is free again."""
    address = relay.address
    assert eventually(lambda: not relay.children(), PATIENCE), relay.children()
    assert eventually(lambda: not os.path.exists(relay.control), PATIENCE), relay
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(address)


def stop(pid: int) -> None:
    """By SIGSTOP; when this returns it runs no more."""
    os.kill(pid, signal.SIGSTOP)
    stopped = psutil.Process(pid)
    assert eventually(lambda: stopped.status() == psutil.STATUS_STOPPED, PATIENCE)


# --- killed ------------------------------------------------------------------------------


@pytest.mark.parametrize("victims", [["worker 1"], ["worker 2"], ["worker 1", "worker 2"]], ids=str)
def test_killed_worker(victims: List[str]) -> None:
    with RelayProgram() as relay, Load(relay.address, 16, PER_SECOND) as load:
        pids = relay.pids()
        load.wait_sent(PER_SECOND // 2)
        for victim in victims:
            os.kill(pids[victim], signal.SIGKILL)
        for victim in victims:
            relay.wait_event("restart", process=victim)
        load.wait_sent(PER_SECOND)
        load.finish()
        assert load.lost <= IN_200_MS, f"{load.lost} of {load.sent}; {relay}"
        assert load.silent_flows() == 0
        assert relay.gauges()["channels"] == 16
        successors = relay.pids()
        changed = [name for name in successors if successors[name] != pids[name]]
        assert changed == victims
        relay.assert_alive_and_sane()


def test_worker_killed_again_and_again() -> None:
    """As often as it is not yet taken for one that can't start."""
    with RelayProgram() as relay, Load(relay.address, 16, PER_SECOND) as load:
        for count in range(1, 4):
            os.kill(relay.pids()["worker 1"], signal.SIGKILL)
            relay.wait_event("restart", process="worker 1", count=count)
            load.wait_sent(PER_SECOND // 2)
            assert eventually(lambda: "worker 1" in relay.pids(), PATIENCE)
        load.wait_sent(PER_SECOND)
        load.finish()
        assert load.lost <= 3 * IN_200_MS, f"{load.lost} of {load.sent}; {relay}"
        assert load.silent_flows() == 0
        relay.assert_alive_and_sane()


def test_what_waits_at_a_dead_worker_is_served_by_its_successor() -> None:
    with RelayProgram() as relay:
        pairs = [pair_at(relay) for _ in range(10)]
        workers = {name: pid for name, pid in relay.pids().items() if name.startswith("worker")}
        for pid in workers.values():
            stop(pid)
        said = [one.send(b"%d" % number) for number in range(100) for one, _ in pairs]
        for pid in workers.values():
            os.kill(pid, signal.SIGKILL)
        for place, (_, other) in enumerate(pairs):
            assert [other.receive() for _ in range(100)] == said[place :: len(pairs)]
        relay.assert_alive_and_sane()


def test_killed_registrar() -> None:
    """Established channels lose not one datagram, and new ones are waited for briefly."""
    with RelayProgram() as relay, Load(relay.address, 16, PER_SECOND) as load:
        pids = relay.pids()
        load.wait_sent(PER_SECOND // 2)
        os.kill(pids["registrar"], signal.SIGKILL)
        with Peer(relay.address) as one, Peer(relay.address) as other:
            guid = new_guid()
            said = 0
            while not wait_readable(one, other, timeout=0.1):
                one.handshake(guid, SECRET)
                other.handshake(guid, SECRET)
                said += 1
                assert said < 100, relay
            assert said <= 10, f"{said} handshakes, ten a second; {relay}"
        load.wait_sent(PER_SECOND)
        load.finish()
        assert load.lost == 0, f"{load.lost} of {load.sent}"
        assert load.is_in_order()
        assert load.silent_flows() == 0
        assert relay.gauges()["channels"] == 17
        successors = relay.pids()
        assert [name for name in pids if successors[name] != pids[name]] == ["registrar"]
        relay.assert_alive_and_sane()


def test_handshakes_wait_for_a_registrar() -> None:
    """Said once, while there is none."""
    with RelayProgram() as relay:
        pairs = [(relay.open_peer(), relay.open_peer()) for _ in range(20)]
        registrar = relay.pids()["registrar"]
        stop(registrar)
        for one, other in pairs:
            guid = new_guid()
            one.handshake(guid, SECRET)
            other.handshake(guid, SECRET)
        assert not wait_readable(*(peer for pair in pairs for peer in pair), timeout=GRACE)
        os.kill(registrar, signal.SIGKILL)
        for one, other in pairs:
            assert wait_readable(one, other, timeout=PATIENCE), relay
            first = wait_readable(one, other)[0]
            first.receive()
            assert carries(one, other) and carries(other, one)


def test_the_successor_of_a_registrar_ends_silent_channels_and_no_others() -> None:
    with RelayProgram("--idle", "2s") as relay, Load(relay.address, 8, 1000) as load:
        for _ in range(8):
            pair_at(relay)
        assert relay.gauges()["channels"] == 16
        os.kill(relay.pids()["registrar"], signal.SIGKILL)
        relay.wait_event("recalled")
        assert relay.gauges()["channels"] == 16
        assert eventually(lambda: relay.gauges()["channels"] == 8, PATIENCE), relay
        load.wait_sent(3000)
        load.finish()
        assert load.lost == 0 and relay.gauges()["channels"] == 8


def test_killed_supervisor() -> None:
    with RelayProgram("--metrics", f"127.0.0.1:{free_port()}") as relay:
        with Load(relay.address, 8, 2000) as load:
            load.wait_sent(1000)
            assert len(relay.children()) == 3
            relay.process.kill()
            assert_nothing_left(relay)
            assert not relay.output


def test_killed_only_process() -> None:
    """What it leaves is its control socket, which the next one with that path removes."""
    with RelayProgram(workers=1) as relay:
        assert not relay.children()
        relay.process.kill()
        relay.process.wait()
        again = ("relay", program.text(relay.address), "--workers", "1")
        with Program(*again, "--control", relay.control) as successor:
            successor.wait_event("listening")
            assert relay.document()["pid"] == successor.process.pid


# --- stopped -----------------------------------------------------------------------------


@pytest.mark.parametrize("victim", ["worker 1", "registrar"])
def test_one_that_shows_no_life_is_replaced(victim: str) -> None:
    """What is sent to a stopped worker meanwhile waits in the kernel for its successor."""
    per_second = 1000
    with RelayProgram() as relay, Load(relay.address, 16, per_second) as load:
        os.kill(relay.pids()[victim], signal.SIGSTOP)
        relay.wait_event("restart", process=victim)
        load.wait_sent(per_second)
        load.finish()
        assert load.lost <= per_second // 5, f"{load.lost} of {load.sent}; {relay}"
        assert load.silent_flows() == 0
        assert any("no sign of life" in event["message"] for event in relay.events)
        assert relay.logged()["restart"] == 1
        relay.assert_alive_and_sane()


def test_a_stop_of_all_processes_ends_none() -> None:
    """A machine that slept: nobody is late, for the supervisor did not watch meanwhile."""
    with RelayProgram(*FOREVER) as relay:
        one, other = pair_at(relay)
        pids = relay.pids()
        stopped = [relay.process.pid, *(child.pid for child in relay.children())]
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        time.sleep(7.0)
        for pid in reversed(stopped):
            os.kill(pid, signal.SIGCONT)
        assert carries(one, other)
        time.sleep(1.0)
        assert relay.pids() == pids and not relay.count("restart")


# --- told to end -------------------------------------------------------------------------


@of_any_size
def test_drains_until_the_last_channel_ends(workers: int) -> None:
    options = ("--idle", "2s", "--drain-timeout", "10min")
    with RelayProgram(*options, workers=workers) as relay, Load(relay.address, 8, 1000) as load:
        with Peer(relay.address) as early, Peer(relay.address) as late:
            guid = new_guid()
            early.handshake(guid, SECRET)
            assert eventually(lambda: relay.gauges()["half-open"] == 1, PATIENCE)
            relay.process.send_signal(signal.SIGTERM)
            relay.wait_event("draining")
            assert says_in_vain(relay), relay
            late.handshake(guid, SECRET)
            assert not wait_readable(early, late, timeout=GRACE)
        load.wait_sent(2000)
        load.finish()
        assert load.lost == 0
        relay.children()
        assert relay.process.wait(PATIENCE) == 0
        assert_nothing_left(relay)


@of_any_size
def test_drains_no_longer_than_it_may(workers: int) -> None:
    options = ("--idle", "10min", "--drain-timeout", "1s")
    with RelayProgram(*options, workers=workers) as relay, Load(relay.address, 8, 1000) as load:
        load.wait_sent(500)
        relay.process.send_signal(signal.SIGTERM)
        assert relay.process.wait(PATIENCE) == 0
        assert_nothing_left(relay)


@of_any_size
@pytest.mark.parametrize("again", [signal.SIGTERM, signal.SIGINT], ids=lambda s: s.name)
def test_told_twice_it_stops_now(workers: int, again: signal.Signals) -> None:
    with RelayProgram(*FOREVER, workers=workers) as relay:
        one, other = pair_at(relay)
        relay.process.send_signal(signal.SIGTERM)
        relay.wait_event("draining")
        assert carries(one, other)
        relay.process.send_signal(again)
        assert relay.process.wait(PATIENCE) == 0
        assert_nothing_left(relay)


@of_any_size
def test_interrupt_stops_now(workers: int) -> None:
    """From a terminal, which sends it to all processes at once."""
    popen = _in_a_session_of_its_own
    with RelayProgram(*FOREVER, workers=workers, popen=popen) as relay:
        pair_at(relay)
        os.killpg(relay.process.pid, signal.SIGINT)
        assert relay.process.wait(PATIENCE) == 0
        assert_nothing_left(relay)
        assert not relay.count("restart") and not relay.output, relay


def test_a_worker_killed_while_it_drains() -> None:
    """It is replaced, for the channels that are left."""
    with RelayProgram(*FOREVER) as relay:
        pairs = [pair_at(relay) for _ in range(10)]
        workers = [pid for name, pid in relay.pids().items() if name.startswith("worker")]
        relay.process.send_signal(signal.SIGTERM)
        relay.wait_event("draining")
        for pid in workers:
            os.kill(pid, signal.SIGKILL)
        for one, other in pairs:
            assert carries(one, other) and carries(other, one)
        relay.process.send_signal(signal.SIGTERM)
        assert relay.process.wait(PATIENCE) == 0
        assert_nothing_left(relay)


def _in_a_session_of_its_own(*arguments: Any, **options: Any) -> "subprocess.Popen[str]":
    return subprocess.Popen(*arguments, start_new_session=True, **options)


# --- signals at random -------------------------------------------------------------------

HARMLESS = (signal.SIGHUP, signal.SIGCHLD, signal.SIGCONT, signal.SIGWINCH, signal.SIGPIPE)


@of_any_size
def test_storm_of_signals(workers: int) -> None:
    """None of them is news; the last ones are, and then all end in order."""
    chance = random.Random(17)
    with RelayProgram(*FOREVER, workers=workers) as relay, Load(relay.address, 8, 2000) as load:
        pids = relay.pids()
        for _ in range(500):
            os.kill(chance.choice(list(pids.values())), chance.choice(HARMLESS))
            if chance.random() < 0.1:
                time.sleep(0.005)
        load.wait_sent(2000)
        load.finish()
        assert load.lost <= load.sent // 100
        assert load.silent_flows() == 0
        assert relay.pids() == pids and not relay.count("restart"), relay
        relay.assert_alive_and_sane()
        for _ in range(50):
            relay.process.send_signal(chance.choice((*HARMLESS, signal.SIGTERM, signal.SIGINT)))
        relay.process.send_signal(signal.SIGINT)
        assert relay.process.wait(PATIENCE) == 0, relay
        assert_nothing_left(relay)


def test_storm_of_signals_that_end_children() -> None:
    """Whatever they die of, there is one successor each in the end, and no other process."""
    chance = random.Random(18)
    deadly = (signal.SIGTERM, signal.SIGINT, signal.SIGKILL, signal.SIGSEGV, signal.SIGUSR1)
    with RelayProgram(*FOREVER) as relay:
        for _ in range(3):
            for victim in relay.children():
                os.kill(victim.pid, chance.choice(deadly))
            time.sleep(2.5)  # they have started by then, and may fall once more
        assert eventually(lambda: len(relay.children()) == 3, PATIENCE), relay
        assert len(relay.pids()) == 4
        pair_at(relay)
        relay.assert_alive_and_sane()
        relay.children()
        relay.process.send_signal(signal.SIGINT)
        assert relay.process.wait(PATIENCE) == 0, relay
        assert_nothing_left(relay)
