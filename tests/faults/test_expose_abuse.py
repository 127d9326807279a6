"""What strangers, connectees, services and false helpers do to a helper and an exposer.

Floods are bounded in number and rate; what they may cost is stated in memory, in log lines and
in the share of questions that the connectees find unanswered meanwhile.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import time
from typing import List, Optional, Sequence

import pytest

from tests.faults.expose_ends import (
    FORGED,
    KEY,
    PlayedExposer,
    Spoofer,
    loopback_addresses,
    named_keepalive,
    reaches,
)
from tests.faults.expose_traffic import (
    PASSWORD,
    QUICK,
    EchoingExposer,
    ExposerProgram,
    FarEnd,
    HelperProgram,
    Load,
)
from tests.faults.relay_traffic import PATIENCE
from tests.faults.strangers import Bounds, flood, octets_heard, strangers
from tests.lab.whole_program import eventually
from tests.ports import free_port
from tests.program import SocketAddress, text
from tests.standin.expose import ASKS_STATISTICS, Connectee, claims_of, keepalive, retry_of

of_any_size = pytest.mark.parametrize("workers", [1, 2])

LOSS = 0.01
LIVE = 8
GRACE = 0.5
LIKE_A_SIGNED_ONE = b"ey"
NONCE_LASTS = 10.0

# --- who is the exposer ------------------------------------------------------------------


def test_nobody_without_the_password_becomes_the_exposer() -> None:
    """Nor does who recorded one that has it. What is not signed at all is a connectee's."""
    with (
        HelperProgram(password=PASSWORD) as helper,
        FarEnd() as service,
        PlayedExposer(helper.address) as former,
    ):
        former.register()
        recorded = former.said
        issued = time.monotonic()
        with (
            ExposerProgram(service.address, helper.address, *QUICK, password=PASSWORD) as exposer,
            Load(helper.address, service, LIVE, 500) as load,
            strangers(4, each=8) as sources,
        ):
            bounds = Bounds(helper)
            flood(sources, helper.address, list(FORGED.values()) * 200, 5000)
            load.wait_answered()
            assert octets_heard(sources) == 0
            flood(sources, helper.address, [b"", *recorded] * 200, 5000)
            time.sleep(max(0.0, issued + NONCE_LASTS + 2.0 - time.monotonic()))
            for datagram in recorded * 10:
                former.send(datagram)
            load.wait_answered(10)
            load.finish()
            assert load.lost <= load.sent * LOSS, f"{load.lost} of {load.sent}"
            assert load.silent() == 0 and load.moved() == 0
            assert helper.counters()["exposers changed"] == 2
            assert exposer.count("silent") == 0
            bounds.hold()


def test_no_answer_exceeds_its_question_but_two() -> None:
    """The one that asks for proof, and the statistics, as the wire has it."""
    name = "n" * 64
    named = ("--name", f"{name}=127.0.0.1:{free_port()}")
    with (
        HelperProgram(*named, password=PASSWORD) as helper,
        PlayedExposer(helper.address) as exposer,
        Connectee(helper.address) as stranger,
    ):
        for wanted in ("", name):
            exposer.register(name=wanted)
            assert eventually(functools.partial(exposer.is_registered, wanted), PATIENCE), helper
            for nonce in (None, 1 << 32, 2**64 - 2):
                asked = exposer.say(nonce, KEY, wanted)
                assert len(exposer.receive()) <= len(asked)
                asked = named_keepalive(nonce, KEY, wanted) if wanted else keepalive(nonce, KEY)
                stranger.send(asked)
                answer = stranger.receive()
                assert retry_of(claims_of(answer, KEY)) is not None
                assert len(answer) <= max(len(asked), 105)
        stranger.send(keepalive(ASKS_STATISTICS, KEY))
        assert len(stranger.receive()) == 184


@pytest.mark.parametrize("nonce", [None, 5, ASKS_STATISTICS], ids=["first", "wrong", "statistics"])
def test_answers_that_exceed_their_question_are_limited(nonce: Optional[int]) -> None:
    """For each network, by each worker: a recorded request makes a helper send little to it."""
    with (
        HelperProgram(password=PASSWORD) as helper,
        PlayedExposer(helper.address) as exposer,
        strangers(2, each=8) as sources,
    ):
        begun = time.monotonic()
        sent = flood(sources, helper.address, [keepalive(nonce, KEY)] * 4000, 4000)
        exposer.register()
        took = time.monotonic() - begun
        assert sent > 3000
        assert 0 < octets_heard(sources) / 184 <= 2 * 2 * (20 + 10 * took)


def test_a_name_that_is_not_published_is_refused() -> None:
    """Said once, and not in the words of who claims it."""
    names = ("web", "", "\x1b[31m\n\0", "\ud800", "n" * 64)
    with (
        HelperProgram(password=PASSWORD) as helper,
        PlayedExposer(helper.address) as claimant,
        PlayedExposer(helper.address) as exposer,
    ):
        for name in names * 5:
            if name:
                claimant.say(None, KEY, name)
                claimant.say(5, KEY, name)
        exposer.register()
        helper.wait_event("unknown-name")
        assert claimant.has_nothing(GRACE)
        assert helper.count("unknown-name") == 1
        assert helper.gauges()["exposers"] == 1
        helper.assert_alive_and_sane()


def test_who_does_without_a_password_is_told_what_that_means() -> None:
    with HelperProgram() as helper, HelperProgram(password=PASSWORD) as protected:
        (warning,) = [event for event in helper.events if event["level"] == "warning"]
        assert "take the service's place" in warning["message"]
        assert "traffic sent to an address" in warning["message"]
        assert all(event["level"] != "warning" for event in protected.events)


# --- floods of connectees ----------------------------------------------------------------


@pytest.mark.parametrize("workers, count", [(1, 20_000), (2, 100_000)])
def test_flood_of_connectees(workers: int, count: int) -> None:
    """They take the places of each other, all tags there are, and none of who is answered."""
    with (
        HelperProgram(workers=workers) as helper,
        EchoingExposer(helper.address) as exposer,
        Load(helper.address, exposer, LIVE, 500) as load,
        Spoofer(helper.address) as spoofer,
    ):
        known = load.ends()
        bounds = Bounds(helper)
        spoofer.flood(loopback_addresses(count), itertools.repeat(b"hello"), 12_000)
        load.finish()
        assert load.lost <= load.sent * LOSS, f"{load.lost} of {load.sent}"
        assert load.silent() == 0 and load.ends() == known
        assert octets_heard([spoofer.socket]) == 0
        # Both workers may admit one at the same moment.
        assert helper.gauges()["connectees"] < 64 + workers
        assert helper.counters()["connectees new"] > count * 0.9
        tags = {tag for _, tag in exposer.strangers}
        assert not tags & {LIKE_A_SIGNED_ONE, bytes(2), *(tag for _, tag in known)}
        assert len(tags) > min(count, 60_000) * 0.8
        bounds.hold()


@of_any_size
def test_flood_of_connectees_that_an_exposer_hears_of(workers: int) -> None:
    """It has as many sockets as there are connectees, and who is answered keeps the same one."""
    with (
        HelperProgram(workers=workers) as helper,
        FarEnd() as service,
        ExposerProgram(service.address, helper.address) as exposer,
        Load(helper.address, service, LIVE, 500) as load,
        Spoofer(helper.address) as spoofer,
    ):
        bounds = Bounds(helper), Bounds(exposer)
        spoofer.flood(loopback_addresses(6000), itertools.repeat(b"hello"), 2000)
        load.finish()
        assert load.lost <= load.sent * LOSS, f"{load.lost} of {load.sent}"
        assert load.silent() == 0 and load.moved() == 0
        assert exposer.connectees() <= 64
        for each in bounds:
            each.hold()


@of_any_size
def test_newcomers_of_a_network_are_limited(workers: int) -> None:
    """A network next door does not feel it, nor who has a tag already."""
    options = ("--rate", "10", "--max-clients", "1000")
    with (
        HelperProgram(*options, workers=workers) as helper,
        EchoingExposer(helper.address) as exposer,
        strangers(1, each=200) as sources,
        Load(helper.address, exposer, LIVE, 200) as load,
    ):
        begun = time.monotonic()
        flood(sources, helper.address, [b"hello"] * 5000, 5000)
        load.finish()
        helper.wait_counted("dropped: newcomers over their rate", 1000)
        came = helper.counters()["connectees new"]
        assert came <= LIVE + workers * (20 + 10 * (time.monotonic() - begun))
        assert load.lost == 0 and load.silent() == 0 and load.moved() == 0


def test_who_is_idle_goes_first() -> None:
    """Once silent for ten seconds; who is not stays, and then a newcomer has to wait."""
    with (
        HelperProgram("--max-clients", "8") as helper,
        EchoingExposer(helper.address) as exposer,
        Load(helper.address, exposer, 4, 200) as live,
        Load(helper.address, exposer, 4, 200, first=100) as idle,
    ):
        idle.finish()
        known = live.ends()
        with Load(helper.address, exposer, 4, 200, first=200) as newcomers:
            assert idle.silent() == 4
            newcomers.finish()
            live.finish()
            assert newcomers.silent() == 0 and live.silent() == 0
        assert live.lost == 0 and live.ends() == known
        assert helper.gauges()["connectees"] == 8
        assert helper.counters()["dropped: all tags in use"] > 0
        helper.assert_alive_and_sane()


def test_a_newcomer_finds_room_that_another_worker_makes() -> None:
    """All places are the other's, and nobody there was ever answered."""
    listen = ("127.0.0.1", free_port())
    with contextlib.ExitStack() as opened:
        connectees = [opened.enter_context(Connectee(listen)) for _ in range(60)]
        those, others = _by_worker(connectees, listen)
        options = ("--max-clients", "8")
        helper = opened.enter_context(HelperProgram(*options, listen=text(listen)))
        exposer = opened.enter_context(Connectee(listen))
        exposer.send(b"")
        for connectee in those[:8]:
            assert eventually(functools.partial(reaches, connectee, exposer), PATIENCE), helper
        assert eventually(functools.partial(reaches, others[0], exposer), PATIENCE), helper
        assert helper.gauges()["connectees"] <= 8
        helper.assert_alive_and_sane()


def _by_worker(connectees: Sequence[Connectee], listen: SocketAddress) -> List[List[Connectee]]:
    """Whose each is, by the tags that the two issue: the kernel chooses by the addresses."""
    workers: List[List[Connectee]] = [[], []]
    with HelperProgram("--rate", "1000", listen=text(listen)), Connectee(listen) as exposer:
        exposer.send(b"")
        for connectee in connectees:
            assert eventually(functools.partial(reaches, connectee, exposer, workers), PATIENCE)
    return workers
