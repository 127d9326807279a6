"""Processes of a helper and an exposer killed: what connectees feel of it, and for how long.

Losses are bounded as the questions that are asked in so long a time, at the rate that is asked.
"""

from __future__ import annotations

import os
import signal
import socket
from typing import List, Optional

import pytest

from tests.faults.expose_traffic import (
    PASSWORD,
    QUICK,
    ExposerProgram,
    FarEnd,
    HelperProgram,
    Load,
)
from tests.faults.relay_traffic import PATIENCE
from tests.faults.test_relay_processes import stop
from tests.lab.whole_program import eventually
from tests.program import SocketAddress, text
from tests.standin.expose import Connectee, Endpoint, derive_key, keepalive, sign

PER_SECOND = 4000
IN_200_MS = PER_SECOND // 5
CONNECTEES = 16

of_any_size = pytest.mark.parametrize("workers", [1, 2])
with_and_without = pytest.mark.parametrize(
    "workers, password", [(1, None), (2, PASSWORD)], ids=["no-password", "password"]
)


def free(address: SocketAddress) -> None:
    """Fails if a process still has it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(address)


# --- the helper's processes --------------------------------------------------------------


@pytest.mark.parametrize("victims", [["worker 1"], ["worker 2"], ["worker 1", "worker 2"]], ids=str)
def test_killed_worker(victims: List[str]) -> None:
    """Its successor serves the connectees that it had, each with the tag that it had."""
    with (
        HelperProgram() as helper,
        FarEnd() as service,
        ExposerProgram(service.address, helper.address),
        Load(helper.address, service, CONNECTEES, PER_SECOND) as load,
    ):
        pids = helper.pids()
        load.wait_sent(PER_SECOND // 2)
        for victim in victims:
            os.kill(pids[victim], signal.SIGKILL)
        for victim in victims:
            helper.wait_event("restart", process=victim)
        load.wait_answered()
        load.wait_sent(PER_SECOND // 2)
        load.finish()
        assert load.lost <= IN_200_MS, f"{load.lost} of {load.sent}; {helper}"
        assert load.silent() == 0 and load.moved() == 0
        assert helper.gauges()["connectees"] == CONNECTEES
        successors = helper.pids()
        assert [name for name in successors if successors[name] != pids[name]] == victims
        helper.assert_alive_and_sane()


def test_worker_killed_again_and_again() -> None:
    """No connectee is lost, and a newcomer gets a tag that nobody had."""
    with (
        HelperProgram() as helper,
        FarEnd() as service,
        ExposerProgram(service.address, helper.address),
        Load(helper.address, service, CONNECTEES, PER_SECOND) as load,
    ):
        for count in range(1, 4):
            os.kill(helper.pids()["worker 1"], signal.SIGKILL)
            helper.wait_event("restart", process="worker 1", count=count)
            load.wait_answered()
            assert eventually(lambda: "worker 1" in helper.pids(), PATIENCE)
        load.finish()
        assert load.lost <= 3 * IN_200_MS, f"{load.lost} of {load.sent}; {helper}"
        assert load.silent() == 0 and load.moved() == 0
        known = load.ends()
        with Load(helper.address, service, CONNECTEES, PER_SECOND) as more:
            more.wait_answered()
            more.finish()
            assert more.lost == 0
        assert helper.gauges()["connectees"] == 2 * CONNECTEES
        assert len(load.ends() - known) == CONNECTEES
        helper.assert_alive_and_sane()


def test_killed_registrar() -> None:
    """Established connectees lose not one datagram, and newcomers need none."""
    with (
        HelperProgram() as helper,
        FarEnd() as service,
        ExposerProgram(service.address, helper.address, *QUICK),
        Load(helper.address, service, CONNECTEES, PER_SECOND) as load,
    ):
        pids = helper.pids()
        load.wait_sent(PER_SECOND // 2)
        os.kill(pids["registrar"], signal.SIGKILL)
        helper.wait_event("restart", process="registrar")
        load.wait_sent(PER_SECOND)
        load.finish()
        assert load.lost == 0, f"{load.lost} of {load.sent}"
        assert load.silent() == 0 and load.moved() == 0
        assert helper.gauges() == {"exposers": 1, "connectees": CONNECTEES}
        successors = helper.pids()
        assert [name for name in pids if successors[name] != pids[name]] == ["registrar"]
        helper.assert_alive_and_sane()


def test_killed_supervisor() -> None:
    with (
        HelperProgram() as helper,
        FarEnd() as service,
        ExposerProgram(service.address, helper.address) as exposer,
        Load(helper.address, service, CONNECTEES, PER_SECOND) as load,
    ):
        load.wait_answered()
        assert len(helper.children()) == 3
        address = helper.address
        helper.process.kill()
        assert eventually(lambda: not helper.children(), PATIENCE), helper.children()
        free(address)
        assert not helper.output
        exposer.assert_alive_and_sane()


@of_any_size
def test_told_to_end(workers: int) -> None:
    """There is nothing to wait for, and the exposer looks for it further on."""
    with (
        HelperProgram(workers=workers) as helper,
        FarEnd() as service,
        ExposerProgram(service.address, helper.address) as exposer,
        Load(helper.address, service, CONNECTEES, PER_SECOND) as load,
    ):
        load.wait_answered()
        address = helper.address
        helper.process.send_signal(signal.SIGTERM)
        assert helper.wait_exit() == 0, helper
        free(address)
        assert not helper.output and not helper.count("restart")
        exposer.process.send_signal(signal.SIGTERM)
        assert exposer.wait_exit() == 0 and not exposer.output


# --- an end that is killed and started again ---------------------------------------------


@with_and_without
def test_exposer_started_anew(workers: int, password: Optional[str]) -> None:
    """It says its first keepalive at once, and connectees keep their tags."""
    with (
        HelperProgram(workers=workers, password=password) as helper,
        FarEnd() as service,
        ExposerProgram(service.address, helper.address, password=password) as former,
        Load(helper.address, service, CONNECTEES, PER_SECOND // 4) as load,
    ):
        load.wait_answered()
        former.process.kill()
        with ExposerProgram(service.address, helper.address, password=password) as exposer:
            load.wait_answered()
            load.finish()
            assert load.silent() == 0
            assert {len(ends) for ends in service.seen.values()} == {2}
            assert helper.counters()["exposers changed"] == 2
            assert helper.gauges() == {"exposers": 1, "connectees": CONNECTEES}
            assert exposer.counters()["keepalives"] <= 3
            exposer.assert_alive_and_sane()
        helper.assert_alive_and_sane()


@with_and_without
def test_helper_started_anew(workers: int, password: Optional[str]) -> None:
    """The next keepalive makes the exposer known, or the one that proves its address."""
    with FarEnd() as service, HelperProgram(workers=workers, password=password) as former:
        address = former.address
        with (
            ExposerProgram(service.address, address, *QUICK, password=password) as exposer,
            Load(address, service, CONNECTEES, PER_SECOND // 4) as load,
        ):
            load.wait_answered()
            former.process.kill()
            former.stop()
            successor = HelperProgram(workers=workers, password=password, listen=text(address))
            with successor as helper:
                said = exposer.counters()["keepalives"]
                load.wait_answered()
                assert exposer.counters()["keepalives"] - said <= 4
                load.finish()
                assert load.silent() == 0
                assert helper.gauges() == {"exposers": 1, "connectees": CONNECTEES}
                helper.assert_alive_and_sane()
            exposer.assert_alive_and_sane()


def test_exposer_that_comes_while_there_is_no_registrar() -> None:
    """What was told to the one that died is told to its successor."""
    with HelperProgram() as helper, FarEnd() as service:
        registrar = helper.pids()["registrar"]
        stop(registrar)
        with ExposerProgram(service.address, helper.address, *QUICK) as exposer:
            assert eventually(lambda: exposer.counters().get("keepalives", 0) > 0, PATIENCE)
            os.kill(registrar, signal.SIGKILL)
            with Load(helper.address, service, CONNECTEES, PER_SECOND) as load:
                load.wait_answered()
                load.finish()
                assert load.lost == 0
        assert helper.gauges()["exposers"] == 1
        helper.assert_alive_and_sane()


# --- an end that is silent ---------------------------------------------------------------


def test_silent_helper() -> None:
    """Keepalives come sooner until it answers, which it does with a password alone."""
    key = derive_key(PASSWORD)
    every = ("--keepalive", "20s")
    with Endpoint() as helper, Endpoint() as other, Endpoint() as service:
        protected = ExposerProgram(service.address, helper.address, *every, unanswered=PASSWORD)
        unprotected = ExposerProgram(service.address, other.address, *every)
        with protected as exposer, unprotected as open_:
            for _ in range(4):
                datagram, address = helper.receive_from()
                assert datagram == keepalive(None, key)
            exposer.wait_event("silent")
            assert [other.receive_from()[0] for _ in range(3)] == [b""] * 3
            assert not open_.count("silent")
            helper.send_to(address, sign({"Retry": 5}, key))
            while helper.receive_from()[0] != keepalive(5, key):
                pass
            helper.send_to(address, sign("Registered", key))
            exposer.wait_event("registered")
            assert exposer.count("silent") == 1
            exposer.assert_alive_and_sane()


def test_service_that_is_down_and_comes_back() -> None:
    """Said once, however often the kernel tells it."""
    with HelperProgram() as helper, Endpoint() as service:
        where = service.address
        with (
            ExposerProgram(where, helper.address) as exposer,
            Connectee(helper.address) as one,
            Connectee(helper.address) as other,
        ):
            asked = (one, other)
            assert eventually(lambda: helper.gauges().get("exposers") == 1, PATIENCE)
            service.close()

            def refused() -> bool:
                for connectee in asked:
                    connectee.send(b"is anybody there?")
                return exposer.counters().get("refused by the service", 0) >= 10

            assert eventually(refused, PATIENCE), exposer
            exposer.wait_event("refused")
            with Endpoint(where) as again:
                for connectee in asked:
                    said = connectee.send(b"%d" % connectee.address[1])
                    while True:
                        datagram, source = again.receive_from()
                        if datagram == said:
                            break
                    again.send_to(source, b"yes")
                    assert connectee.receive() == b"yes"
            assert exposer.count("refused") == 1
            exposer.assert_alive_and_sane()
