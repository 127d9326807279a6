"""Malformed and hostile datagrams at a helper and at an exposer: none ends a process.

What they may cost is bounded in memory, in descriptors and in log lines.
"""

from __future__ import annotations

import functools
import os
import signal
import time

import psutil
import pytest

from tests.faults.expose_ends import (
    KEY,
    LONGEST_OF_ALL,
    ODD_CLAIMS,
    PlayedExposer,
    discard,
    false_helper,
    noise,
    reaches,
    send_train,
    sign_raw,
    tagged,
    trains,
    wait_published,
)
from tests.faults.expose_traffic import (
    PASSWORD,
    QUICK,
    ExposerProgram,
    HelperProgram,
    few_descriptors,
)
from tests.faults.relay_traffic import PATIENCE, RelayProgram
from tests.faults.strangers import GROWTH, Bounds, flood, octets_heard, strangers
from tests.faults.test_relay_processes import stop
from tests.lab.whole_program import eventually
from tests.standin.expose import SIGNED, TAG, Connectee, Endpoint, keepalive, sign

of_any_size = pytest.mark.parametrize("workers", [1, 2])
GRACE = 0.5

# --- at the helper -----------------------------------------------------------------------


@of_any_size
def test_nothing_malformed_ends_a_helper(workers: int) -> None:
    """From strangers, from who has the password, and from the exposer itself."""
    with (
        HelperProgram(workers=workers, password=PASSWORD, level="trace") as helper,
        PlayedExposer(helper.address) as exposer,
        PlayedExposer(helper.address) as insider,
        strangers(8, each=8) as sources,
    ):
        exposer.register()
        bounds = Bounds(helper)
        descriptors = _descriptors(helper)
        flood(sources, helper.address, noise(10_000, seed=1), 10_000)
        for said in (noise(5000, seed=2), (sign_raw(claims, KEY) for claims in ODD_CLAIMS)):
            flood([exposer.socket, insider.socket], helper.address, said, 10_000)
        for length in (1501, 8972, 40_000, LONGEST_OF_ALL - 1, LONGEST_OF_ALL):
            flood([*sources[:8], exposer.socket], helper.address, [os.urandom(length)] * 18, 1000)
        for train in trains(300, seed=3):
            for sender in (exposer.socket, sources[0]):
                send_train(sender, helper.address, train)
        assert octets_heard(sources) < 300 * 105
        assert eventually(exposer.is_registered, PATIENCE), helper
        with Connectee(helper.address) as connectee:
            assert eventually(functools.partial(reaches, connectee, exposer), PATIENCE), helper
        assert _descriptors(helper) <= descriptors + 2
        # Each of the longest takes 16 pages of the memory that datagrams are received in.
        bounds.hold(growth=GROWTH + (8 << 10))


def _descriptors(program: RelayProgram) -> int:
    return sum(psutil.Process(pid).num_fds() for pid in program.pids().values())


def test_the_longest_datagrams_do_not_fit_with_a_tag() -> None:
    """They are dropped and those after them are not, both ways."""
    with (
        HelperProgram() as helper,
        Endpoint() as service,
        ExposerProgram(service.address, helper.address) as exposer,
        Connectee(helper.address) as connectee,
    ):
        fits = LONGEST_OF_ALL - TAG
        wait_published(helper.address, service)
        for length in (LONGEST_OF_ALL, LONGEST_OF_ALL - 1, fits):
            said = connectee.send(os.urandom(length))
        datagram, source = service.receive_from()
        assert datagram == said
        for length in (LONGEST_OF_ALL, LONGEST_OF_ALL - 1, fits):
            said = os.urandom(length)
            service.send_to(source, said)
        assert connectee.receive() == said
        assert service.has_nothing() and connectee.has_nothing()
        helper.assert_alive_and_sane()
        exposer.assert_alive_and_sane()


# --- at the exposer ----------------------------------------------------------------------


def test_nothing_malformed_ends_an_exposer() -> None:
    with false_helper(*QUICK) as helper, Endpoint() as stranger:
        bounds = Bounds(helper.exposer)
        for sender in (stranger, helper.socket):
            flood([sender.socket], helper.address, noise(5000, seed=4), 5000)
            for train in trains(100, seed=5):
                send_train(sender.socket, helper.address, train)
                time.sleep(0.001)
            discard(helper.service)
        helper.ask(1)
        said = (sign_raw(claims, KEY) for claims in ODD_CLAIMS * 10)
        flood([helper.socket.socket], helper.address, said, 5000)
        helper.ask(2)
        assert helper.exposer.connectees() <= 64
        # Each of the longest takes 16 pages of the memory that datagrams are received in.
        bounds.hold(growth=GROWTH + (8 << 10))


def test_a_stranger_is_not_an_exposers_helper() -> None:
    """Whatever he says, the service hears nothing of it, and he is not answered."""
    with false_helper() as helper, Endpoint() as stranger:
        for datagram in (tagged(1, b"hello"), sign({"Retry": 5}, KEY), sign("Registered", KEY)):
            for _ in range(100):
                stranger.send_to(helper.address, datagram)
        helper.ask(1)
        assert helper.service.has_nothing(GRACE) and stranger.has_nothing()
        assert helper.exposer.connectees() == 1


def test_all_tags_at_once() -> None:
    """More than it has sockets for: whoever comes last is served, and memory is bounded."""
    with false_helper() as helper:
        bounds = Bounds(helper.exposer)
        descriptors = _descriptors(helper.exposer)
        tags = (tagged(tag, b"hello") for tag in range(1 << 16))
        flood([helper.socket.socket], helper.address, tags, 12_000)
        discard(helper.service)
        helper.ask(5)
        assert _descriptors(helper.exposer) <= descriptors + 64
        assert helper.exposer.connectees() == 64
        bounds.hold()


def test_a_helper_that_only_asks_for_proof_is_not_answered_at_its_pace() -> None:
    with Endpoint() as helper, Endpoint() as service:
        ends = (service.address, helper.address)
        with ExposerProgram(*ends, *QUICK, unanswered=PASSWORD) as exposer:
            _, address = helper.receive_from()
            retries = (sign({"Retry": nonce}, KEY) for nonce in range(3000))
            flood([helper.socket], address, retries, 2000)
            assert exposer.counters()["keepalives"] <= 100
            assert not exposer.count("registered")
            exposer.assert_alive_and_sane()


def test_an_answer_is_never_payload() -> None:
    """Though the tag that it begins with be somebody's, as a helper of udpexposer's has it."""
    with false_helper(*QUICK) as helper:
        helper.ask(1, int.from_bytes(SIGNED[:TAG], "big"))
        helper.wait_told(keepalive(None, KEY))
        stop(helper.exposer.process.pid)  # so that all come together
        for datagram in (tagged(1, b"before"), sign({"Retry": 5}, KEY), tagged(1, b"after")):
            helper.tell(datagram)
        os.kill(helper.exposer.process.pid, signal.SIGCONT)
        heard = [helper.service.receive_from()[0] for _ in range(2)]
        assert heard == [b"before", b"after"]
        helper.wait_told(keepalive(5, KEY))


# --- without descriptors -----------------------------------------------------------------


def test_exposer_that_may_open_few_sockets() -> None:
    """It keeps some back for whatever else there is, and who is answered stays."""
    with false_helper("--max-clients", "1000", popen=few_descriptors(100)) as helper:
        exposer, there = helper.exposer, helper.ask(*range(1, 11))
        for tag in range(100, 600):
            helper.tell(tagged(tag, b"newcomer"))
        assert helper.ask(*there) == there
        assert exposer.document()["pid"] == exposer.process.pid
        assert 10 < exposer.connectees() < 100
        assert not exposer.count("no-socket")
        (warning,) = [event for event in exposer.events if event["level"] == "warning"]
        assert "descriptors" in warning["message"]
        exposer.assert_alive_and_sane()


def test_exposer_that_runs_out_of_descriptors() -> None:
    """Said once. Newcomers are refused for as long, and who was there is served on."""
    with false_helper("--max-clients", "1000") as helper:
        exposer, there = helper.exposer, helper.ask(*range(1, 11))
        process = psutil.Process(exposer.process.pid)
        before = process.rlimit(psutil.RLIMIT_NOFILE)
        process.rlimit(psutil.RLIMIT_NOFILE, (process.num_fds() + 10, before[1]))
        for tag in range(100, 600):
            helper.tell(tagged(tag, b"newcomer"))
        exposer.wait_event("no-socket")
        assert helper.ask(*there) == there
        process.rlimit(psutil.RLIMIT_NOFILE, before)
        newcomers = helper.ask(*range(700, 720))
        assert helper.ask(*there, *newcomers) == {**there, **newcomers}
        assert exposer.count("no-socket") == 1
        exposer.assert_alive_and_sane()
