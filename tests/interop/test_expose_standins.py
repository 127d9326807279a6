"""The helper and the exposer of udpexposer, as each other, connectees and services meet them.

What runs against the stand-in (and udpexposer itself, where it is installed) shows what the
original does, its weaknesses included; what those of ours do as well runs against them too.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import resource
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Union

import pytest
import yaml

from tests.ports import free_port
from tests.standin.application import Echo, NumberedClient
from tests.standin.expose import (
    ASKS_STATISTICS,
    LONGEST_ANSWER,
    LONGEST_QUESTION,
    LOOPBACK,
    SIGNED,
    STAND_IN,
    STATISTICS,
    TAG,
    Connectee,
    Endpoint,
    Helper,
    OriginalExposer,
    OriginalHelper,
    Sending,
    SocketAddress,
    claims_of,
    derive_key,
    keepalive,
    nonce_of,
    retry_of,
    sign,
    statistics,
    text,
)

VECTORS = yaml.safe_load(Path(__file__).parents[1].joinpath("vectors.yaml").read_text())["expose"]

PASSWORD = "the password of the tests"
WRONG = "the password of others"
LIKE_A_TAG = int.from_bytes(SIGNED[:TAG], "big")

UDPEXPOSER = pytest.param(
    "udpexposer",
    marks=pytest.mark.skipif(not shutil.which("udpexposer"), reason="udpexposer is not on PATH"),
)
PROGRAMS = {"stand-in": STAND_IN, "udpexposer": ("udpexposer",)}
of_helpers = pytest.mark.parametrize("kind", ["stand-in", UDPEXPOSER])
of_exposers = pytest.mark.parametrize("kind", ["stand-in", UDPEXPOSER])


of_pairs = pytest.mark.parametrize(
    "helper_kind, exposer_kind",
    [
        ("stand-in", "stand-in"),
        pytest.param("udpexposer", "stand-in", marks=UDPEXPOSER.marks),
        pytest.param("stand-in", "udpexposer", marks=UDPEXPOSER.marks),
        pytest.param("udpexposer", "udpexposer", marks=UDPEXPOSER.marks),
    ],
)
with_and_without = pytest.mark.parametrize(
    "password", [None, PASSWORD], ids=["no-password", "password"]
)


Program = Union[OriginalHelper, OriginalExposer]


class PlayedExposer(Connectee):
    """The exposer that a test plays at a helper."""

    def register(self, password: Optional[str]) -> None:
        if password is None:
            self.send(b"")
            return
        key = derive_key(password)
        nonce = self.ask_for_retry(key)
        self.send(keepalive(nonce, key))
        self.expect_registered(key)

    def ask_for_retry(self, key: bytes) -> int:
        self.send(keepalive(None, key))
        nonce = retry_of(claims_of(self.receive(), key))
        assert nonce is not None, "registered without proof"
        return nonce

    def expect_registered(self, key: bytes) -> None:
        assert claims_of(self.receive(), key) == "Registered"

    def expect(self, tag: int, payload: bytes) -> None:
        assert self.receive() == _tagged(tag, payload)

    def answer(self, tag: int, payload: bytes) -> None:
        self.send(_tagged(tag, payload))


def _tagged(tag: int, payload: bytes) -> bytes:
    return tag.to_bytes(TAG, "big") + payload


def assert_complains(program: Program, *lines: str) -> None:
    """Of these datagrams, in its words, and of nothing else."""
    assert program.complaints() == list(lines), str(program)


class Stage:
    """What a test opened. The programs must still run when it ends, if it did not end them."""

    def __init__(self) -> None:
        self._opened = contextlib.ExitStack()
        self._running: List[Program] = []

    def helper(
        self, kind: str, listen: Optional[SocketAddress] = None, **options: Any
    ) -> OriginalHelper:
        listen = listen or ("127.0.0.1", free_port())
        helper = OriginalHelper(listen, program=PROGRAMS[kind], **options)
        self._running.append(self._opened.enter_context(helper))
        return helper

    def exposer(
        self, kind: str, helper: SocketAddress, service: SocketAddress, **options: Any
    ) -> OriginalExposer:
        exposer = OriginalExposer(helper, service, program=PROGRAMS[kind], **options)
        self._running.append(self._opened.enter_context(exposer))
        return exposer

    def end(self, program: Program) -> None:
        self._running.remove(program)
        program.stop()

    def played_exposer(self, helper: OriginalHelper) -> PlayedExposer:
        return self._opened.enter_context(PlayedExposer(helper.address))

    def connectees(self, helper: OriginalHelper, count: int) -> List[Connectee]:
        opened = [Connectee(helper.address) for _ in range(count)]
        return [self._opened.enter_context(connectee) for connectee in opened]

    def endpoint(self, local: SocketAddress = LOOPBACK) -> Endpoint:
        return self._opened.enter_context(Endpoint(local))

    def echo(self) -> Echo:
        return self._opened.enter_context(Echo())

    def numbered(self, helper: OriginalHelper, sizes: List[int]) -> NumberedClient:
        host, port = helper.address
        return self._opened.enter_context(NumberedClient((host, port), sizes=sizes))

    def assert_all_sane(self) -> None:
        for program in self._running:
            program.assert_alive_and_sane()

    def close(self) -> None:
        self._opened.close()


@pytest.fixture
def stage() -> Iterator[Stage]:
    with contextlib.closing(Stage()) as opened:
        yield opened
        opened.assert_all_sane()


# --- the stand-in's wire -----------------------------------------------------------------


def test_golden_key() -> None:
    (vector,) = [vector for vector in VECTORS if "key" in vector]
    assert derive_key(vector["password"]).hex() == vector["key"]


@pytest.mark.parametrize(
    "vector", [vector for vector in VECTORS if "jws" in vector], ids=lambda vector: vector["jws"]
)
def test_golden_claims(vector: Dict[str, Any]) -> None:
    key = derive_key(vector["password"])
    claims = "Registered" if vector["value"] == "registered" else vector["value"]
    datagram = vector["jws"].encode()
    assert sign(claims, key) == datagram
    assert claims_of(datagram, key) == claims
    for position in range(len(datagram)):
        altered = bytearray(datagram)
        altered[position] ^= 1
        with pytest.raises(ValueError, match="badly signed"):
            claims_of(bytes(altered), key)


@pytest.mark.parametrize("claims", [None, 1, "Registered", [], {"Retry": 1}, {"nonce": "1"}])
def test_what_no_helper_takes_for_a_keepalive(claims: object) -> None:
    if claims == {"Retry": 1}:  # to whom the nonce may be missing
        assert nonce_of(claims) is None
    else:
        with pytest.raises(ValueError, match="not a"):
            nonce_of(claims)


@pytest.mark.parametrize("nonce", [True, 1.0, -1, 2**64, "1"])
def test_what_is_no_nonce(nonce: object) -> None:
    for read, claims in ((nonce_of, {"nonce": nonce}), (retry_of, {"Retry": nonce})):
        with pytest.raises(ValueError, match="not a nonce"):
            read(claims)


# --- the helper --------------------------------------------------------------------------


@of_helpers
@with_and_without
def test_tags_count_from_1_and_carry_payload_both_ways(
    kind: str, password: Optional[str], stage: Stage
) -> None:
    helper = stage.helper(kind, password=password)
    exposer = stage.played_exposer(helper)
    exposer.register(password)
    connectees = stage.connectees(helper, 4)
    for _ in range(2):
        for tag, connectee in enumerate(connectees, 1):
            exposer.expect(tag, connectee.send(os.urandom(100)))
    for tag, connectee in reversed(list(enumerate(connectees, 1))):
        answer = os.urandom(100)
        exposer.answer(tag, answer)
        assert connectee.receive() == answer
    assert_complains(helper)


@of_helpers
@with_and_without
def test_what_comes_before_an_exposer_takes_no_tag(
    kind: str, password: Optional[str], stage: Stage
) -> None:
    helper = stage.helper(kind, password=password)
    early, connectee = stage.connectees(helper, 2)
    early.send(b"early")
    exposer = stage.played_exposer(helper)
    exposer.register(password)
    exposer.expect(1, connectee.send(b"in time"))
    exposer.expect(2, early.send(b"in time"))


@of_helpers
def test_without_a_password_whoever_sends_nothing_is_the_exposer(kind: str, stage: Stage) -> None:
    helper = stage.helper(kind)
    first, second = stage.played_exposer(helper), stage.played_exposer(helper)
    (connectee,) = stage.connectees(helper, 1)
    for _ in range(3):
        first.register(None)
    first.expect(1, connectee.send(b"to the first"))
    second.register(None)
    second.expect(1, connectee.send(b"to the second"))
    second.expect(2, first.send(_tagged(1, b"a connectee's now")))
    assert first.has_nothing() and connectee.has_nothing()
    assert helper.wait_exposer() == first.address
    assert helper.wait_exposer(count=2) == second.address


@of_helpers
def test_without_a_password_what_is_signed_is_payload(kind: str, stage: Stage) -> None:
    helper = stage.helper(kind)
    exposer = stage.played_exposer(helper)
    exposer.register(None)
    (connectee,) = stage.connectees(helper, 1)
    exposer.expect(1, connectee.send(keepalive(None, derive_key(PASSWORD))))
    assert connectee.has_nothing()


@of_helpers
def test_with_a_password_an_empty_datagram_is_payload(kind: str, stage: Stage) -> None:
    helper = stage.helper(kind, password=PASSWORD)
    exposer = stage.played_exposer(helper)
    exposer.register(PASSWORD)
    (connectee,) = stage.connectees(helper, 1)
    exposer.expect(1, connectee.send(b""))
    exposer.send(b"")
    exposer.answer(1, b"after nothing")
    assert connectee.receive() == b"after nothing"
    assert_complains(helper, "Too short datagram from client")


@of_helpers
def test_an_unknown_address_has_to_repeat_what_it_was_told(kind: str, stage: Stage) -> None:
    key = derive_key(PASSWORD)
    helper = stage.helper(kind, password=PASSWORD)
    first, second = stage.played_exposer(helper), stage.played_exposer(helper)
    (connectee,) = stage.connectees(helper, 1)
    nonce = first.ask_for_retry(key)
    first.send(keepalive(nonce, key))
    first.expect_registered(key)
    assert second.ask_for_retry(key) != nonce, "the nonce is not bound to the address"
    for wrong in (nonce, 0, ASKS_STATISTICS - 1):
        second.send(keepalive(wrong, key))
        assert retry_of(claims_of(second.receive(), key)) is not None
    first.expect(1, connectee.send(b"still to the first"))
    for unproven in (None, 0):
        first.send(keepalive(unproven, key))
        first.expect_registered(key)
    second.register(PASSWORD)
    second.expect(1, connectee.send(b"to the second"))
    first.ask_for_retry(key)


def _forgeries() -> Dict[str, bytes]:
    key = derive_key(PASSWORD)
    good = keepalive(None, key)
    return {
        "other-password": keepalive(None, derive_key(WRONG)),
        "no-mac": good.rpartition(b".")[0] + b".",
        "no-claims": SIGNED,
        "other-claims": keepalive(0, key).rpartition(b".")[0] + b"." + good.rpartition(b".")[2],
        "more": good + b"A",
        "no-nonce": sign({"nonce": "1"}, key),
        "answer": sign("Registered", key),
    }


FORGERIES = _forgeries()


@of_helpers
@pytest.mark.parametrize("forgery", FORGERIES.values(), ids=FORGERIES)
def test_helper_takes_what_is_badly_signed_for_payload(
    kind: str, forgery: bytes, stage: Stage
) -> None:
    helper = stage.helper(kind, password=PASSWORD)
    exposer = stage.played_exposer(helper)
    exposer.register(PASSWORD)
    forger, connectee = stage.connectees(helper, 2)
    exposer.expect(1, forger.send(forgery))
    exposer.send(forgery)  # for the connectee of a tag that nobody has
    exposer.expect(2, connectee.send(b"payload"))
    assert forger.has_nothing()
    complaints = helper.complaints()
    assert len(complaints) == 2
    assert all(complaint.endswith("failed to authenticate") for complaint in complaints)


@of_helpers
@with_and_without
def test_what_the_exposer_may_not_send(kind: str, password: Optional[str], stage: Stage) -> None:
    helper = stage.helper(kind, password=password)
    exposer = stage.played_exposer(helper)
    exposer.register(password)
    (connectee,) = stage.connectees(helper, 1)
    exposer.expect(1, connectee.send(b"payload"))
    for datagram in (b"\1", _tagged(0, b"nobody's"), _tagged(2, b""), _tagged(65535, b"x")):
        exposer.send(datagram)
    exposer.answer(1, b"")
    exposer.answer(1, b"the last")
    assert [connectee.receive(), connectee.receive()] == [b"", b"the last"]
    not_found = [f"Failed to find channel {tag}" for tag in (0, 2, 65535)]
    assert_complains(helper, "Too short datagram from client", *not_found)


@of_helpers
def test_helper_cuts_what_is_too_long(kind: str, stage: Stage) -> None:
    helper = stage.helper(kind)
    exposer = stage.played_exposer(helper)
    exposer.register(None)
    (connectee,) = stage.connectees(helper, 1)
    payload = os.urandom(LONGEST_QUESTION + 1)
    for length in (LONGEST_QUESTION, LONGEST_QUESTION + 1):
        connectee.send(payload[:length])
        exposer.expect(1, payload[:LONGEST_QUESTION])
    for length in (LONGEST_ANSWER, LONGEST_ANSWER + 1):
        exposer.answer(1, payload[:length])
        assert connectee.receive() == payload[:LONGEST_ANSWER]


@of_helpers
def test_the_least_recent_connectee_loses_its_tag(kind: str, stage: Stage) -> None:
    helper = stage.helper(kind, most=2)
    exposer = stage.played_exposer(helper)
    exposer.register(None)
    one, two, three = stage.connectees(helper, 3)
    for connectee, tag in ((one, 1), (two, 2), (one, 1), (three, 3), (one, 1), (two, 4), (one, 1)):
        exposer.expect(tag, connectee.send(b"payload"))
    exposer.expect(5, three.send(b"payload"))


@of_helpers
def test_the_oldest_connectee_gets_no_answers_however_busy(kind: str, stage: Stage) -> None:
    helper = stage.helper(kind, most=2)
    exposer = stage.played_exposer(helper)
    exposer.register(None)
    busy, *newcomers = stage.connectees(helper, 3)
    for tag, newcomer in enumerate(newcomers, 2):
        exposer.expect(1, busy.send(b"busy"))
        exposer.answer(1, b"answer")
        assert busy.receive() == b"answer"
        exposer.expect(tag, newcomer.send(b"new"))
    exposer.expect(1, busy.send(b"busy"))
    exposer.answer(1, b"never comes")
    for tag, newcomer in enumerate(newcomers, 2):
        exposer.answer(tag, b"answer")
        assert newcomer.receive() == b"answer"
    assert busy.has_nothing()
    assert_complains(helper, "Failed to find channel 1")


def test_tags_are_of_16_bits_and_one_is_like_a_signature() -> None:
    helper = Helper(4, None)
    helper.receive(b"", ("192.0.2.1", 1), 0)
    tags = []
    for number in range(2**16 + 1):
        sending = helper.receive(b"x", (f"198.51.100.{number >> 16}", number & 0xFFFF), 0)
        assert sending is not None
        tags.append(int.from_bytes(sending.datagram[:TAG], "big"))
    assert tags == [*range(1, 2**16), 0, 1]
    assert LIKE_A_TAG in tags


@pytest.mark.parametrize(
    "age, is_good", [(-2, False), (-1, True), (0, True), (10, True), (11, False)]
)
def test_a_nonce_is_good_for_a_while(age: int, is_good: bool) -> None:
    key = derive_key(PASSWORD)
    helper = Helper(4, key)
    issued = 1_700_000_000

    def say(nonce: Optional[int], now: int) -> Any:
        sending = helper.receive(keepalive(nonce, key), ("192.0.2.1", 1), now)
        assert sending is not None and sending.destination == ("192.0.2.1", 1)
        return claims_of(sending.datagram, key)

    nonce = say(None, issued)["Retry"]
    assert (say(nonce, issued + age) == "Registered") is is_good


# --- statistics --------------------------------------------------------------------------

TIMES = ("last_ka_s", "last_client_s", "last_connectee_s")


@functools.cache
def _skip_without_statistics(kind: str) -> None:
    told = subprocess.run([*PROGRAMS[kind], "--help"], capture_output=True, text=True, check=True)
    if "-S" not in told.stdout:
        pytest.skip("this udpexposer has no statistics")


def _counted(stage: Stage, kind: str) -> OriginalHelper:
    """A helper to which each thing that its statistics count happened."""
    helper = stage.helper(kind, password=PASSWORD)
    connectee, forger = stage.connectees(helper, 2)
    connectee.send(b"dropped")
    exposer = stage.played_exposer(helper)
    exposer.register(PASSWORD)
    exposer.send(keepalive(None, derive_key(PASSWORD)))
    exposer.expect_registered(derive_key(PASSWORD))
    exposer.expect(1, connectee.send(b"12345"))
    exposer.expect(1, connectee.send(b""))
    exposer.expect(2, forger.send(FORGERIES["no-claims"]))
    for datagram in (b"1", _tagged(9, b"nobody's"), FORGERIES["no-claims"]):
        exposer.send(datagram)
    exposer.answer(1, b"1234567")
    assert connectee.receive() == b"1234567"
    return helper


COUNTED = {
    "signed_looking": 5,
    "refresh_address": 2,
    "invalid_auths": 2,
    "auth_in_progress": 1,
    "auth_completeds": 2,
    "dwarfs": 1,
    "ch_not_founds": 1,
    "dropped_no_client_address": 1,
    "new_connectees": 2,
    "from_connectee_bytes": 5 + len(SIGNED),
    "from_connectee_msgs": 3,
    "from_client_bytes": 7,
    "from_client_msgs": 1,
}


@of_helpers
def test_statistics(kind: str, stage: Stage) -> None:
    _skip_without_statistics(kind)
    helper = _counted(stage, kind)
    for requests in (1, 2):
        counts = statistics(helper.address, PASSWORD)
        asked = {"signed_looking": COUNTED["signed_looking"] + requests, "stats_requests": requests}
        expected = {**dict.fromkeys(STATISTICS, 0), **COUNTED, **asked}
        assert all(counts.pop(name) and not expected.pop(name) for name in TIMES)
        assert counts == expected
    with Connectee(helper.address) as stranger:
        stranger.send(keepalive(ASKS_STATISTICS, derive_key(WRONG)))
        assert statistics(helper.address, PASSWORD)["invalid_auths"] == 3
        assert stranger.has_nothing()


def test_statistics_without_a_password() -> None:
    helper = Helper(4, None)
    exposer, connectee = ("192.0.2.1", 1), ("192.0.2.2", 2)
    for source, now in ((exposer, 10), (exposer, 20), (connectee, 30), (exposer, 40)):
        assert helper.receive(b"", source, now) is None
    assert helper.receive(b"12", connectee, 50) == Sending(b"\0\x0112", exposer, "err4")
    assert helper.receive(b"\0\x01123", exposer, 60) == Sending(b"123", connectee, "err3")
    helper.count_failure("err3")
    told = {name: count for name, count in helper.counts.items() if count}
    assert told == {
        "simple_keepalives": 4,
        "simple_address_switches": 3,
        "new_connectees": 1,
        "from_connectee_bytes": 2,
        "from_connectee_msgs": 1,
        "from_client_bytes": 3,
        "from_client_msgs": 1,
        "err3": 1,
        "last_ka_s": 40,
        "last_connectee_s": 50,
        "last_client_s": 60,
    }


@of_helpers
def test_statistics_are_printed_as_one_object(kind: str, stage: Stage) -> None:
    _skip_without_statistics(kind)
    helper = _counted(stage, kind)
    asked = ("127.0.0.1:0", "-a", text(helper.address), "-P", PASSWORD, "-S")
    told = subprocess.run([*PROGRAMS[kind], *asked], capture_output=True, text=True, timeout=30)
    assert told.returncode == 0, told.stderr
    counts = json.loads(told.stdout)
    assert list(counts) == STATISTICS
    assert counts["from_connectee_bytes"] == COUNTED["from_connectee_bytes"]


# --- the exposer -------------------------------------------------------------------------


@of_exposers
def test_keepalives_go_out_for_ever(kind: str, stage: Stage) -> None:
    helper, service = stage.endpoint(), stage.endpoint()
    stage.exposer(kind, helper.address, service.address, interval=50)
    stage.exposer(kind, helper.address, service.address, interval=50, password=PASSWORD)
    signed = keepalive(None, derive_key(PASSWORD))
    told = {b"": 0, signed: 0}
    while min(told.values()) < 3:
        datagram, _ = helper.receive_from()
        told[datagram] += 1


def _registered(
    stage: Stage, kind: str, service: Endpoint, **options: Any
) -> "tuple[Endpoint, SocketAddress, OriginalExposer]":
    """A helper that the test plays, and the exposer's address."""
    helper = stage.endpoint()
    exposer = stage.exposer(kind, helper.address, service.address, **options)
    datagram, address = helper.receive_from()
    if "password" in options:
        key = derive_key(options["password"])
        assert datagram == keepalive(None, key)
        helper.send_to(address, sign({"Retry": 2**64 - 2}, key))
        assert helper.receive_from() == (keepalive(2**64 - 2, key), address)
        helper.send_to(address, sign("Registered", key))
    else:
        assert datagram == b""
    return helper, address, exposer


@of_exposers
def test_each_tag_has_a_socket_of_its_own(kind: str, stage: Stage) -> None:
    service = stage.endpoint()
    helper, address, exposer = _registered(stage, kind, service, password=PASSWORD)
    sources: Dict[int, SocketAddress] = {}
    for tag in (1, 0, 65535, 1, LIKE_A_TAG):
        helper.send_to(address, _tagged(tag, b"question"))
        datagram, source = service.receive_from()
        assert datagram == b"question"
        assert sources.setdefault(tag, source) == source
    assert len(set(sources.values())) == 4
    for tag, source in sources.items():
        for answer in (b"an answer", b""):
            service.send_to(source, answer)
            assert helper.receive_from() == (_tagged(tag, answer), address)
    assert_complains(exposer, f"New incoming channel {LIKE_A_TAG}")


@of_exposers
def test_exposer_takes_datagrams_from_anyone(kind: str, stage: Stage) -> None:
    service, stranger = stage.endpoint(), stage.endpoint()
    helper, address, _ = _registered(stage, kind, service, password=PASSWORD)
    stranger.send_to(address, _tagged(1, b"question"))
    datagram, source = service.receive_from()
    assert datagram == b"question"
    service.send_to(source, b"answer")
    assert helper.receive_from() == (_tagged(1, b"answer"), address)
    stranger.send_to(address, sign({"Retry": 5}, derive_key(PASSWORD)))
    assert helper.receive_from() == (keepalive(5, derive_key(PASSWORD)), address)
    assert stranger.has_nothing()


@of_exposers
def test_a_local_socket_takes_the_services_datagrams_alone(kind: str, stage: Stage) -> None:
    service, stranger = stage.endpoint(), stage.endpoint()
    helper, address, exposer = _registered(stage, kind, service)
    helper.send_to(address, _tagged(1, b"question"))
    _, source = service.receive_from()
    stranger.send_to(source, b"intruding")
    service.send_to(source, b"answer")
    assert helper.receive_from() == (_tagged(1, b"answer"), address)
    (complaint,) = exposer.complaints()
    assert complaint.endswith(
        f"Foreign incoming address on worker socket: {text(stranger.address)}"
    )


@of_exposers
@pytest.mark.parametrize("forgery", ["other-password", "no-claims", "more"])
def test_exposer_takes_what_is_badly_signed_for_payload(
    kind: str, forgery: str, stage: Stage
) -> None:
    service = stage.endpoint()
    helper, address, exposer = _registered(stage, kind, service, password=PASSWORD)
    helper.send_to(address, FORGERIES[forgery])
    datagram, _ = service.receive_from()
    assert _tagged(LIKE_A_TAG, datagram) == FORGERIES[forgery]
    assert_complains(exposer, f"New incoming channel {LIKE_A_TAG}")


@of_exposers
def test_exposer_drops_two_bytes_and_less(kind: str, stage: Stage) -> None:
    service = stage.endpoint()
    helper, address, exposer = _registered(stage, kind, service)
    for datagram in (b"", b"\0", _tagged(1, b""), _tagged(2, b"x")):
        helper.send_to(address, datagram)
    assert service.receive_from()[0] == b"x"
    assert service.has_nothing()
    assert_complains(exposer, *["Datagram from server is too small"] * 3)


@of_exposers
def test_exposer_cuts_what_is_too_long(kind: str, stage: Stage) -> None:
    service = stage.endpoint()
    helper, address, _ = _registered(stage, kind, service)
    payload = os.urandom(LONGEST_QUESTION + 1)
    for length in (LONGEST_QUESTION, LONGEST_QUESTION + 1):
        helper.send_to(address, _tagged(1, payload[:length]))
        datagram, source = service.receive_from()
        assert datagram == payload[:LONGEST_QUESTION]
        service.send_to(source, payload[:length])
        assert helper.receive_from()[0] == _tagged(1, payload[:LONGEST_QUESTION])


@of_exposers
def test_the_least_recent_tag_loses_its_socket(kind: str, stage: Stage) -> None:
    service = stage.endpoint()
    helper, address, exposer = _registered(stage, kind, service, most=2)

    def ask(tag: int) -> SocketAddress:
        helper.send_to(address, _tagged(tag, b"question"))
        return service.receive_from()[1]

    first, second = ask(1), ask(2)
    assert ask(1) == first
    third = ask(3)
    exposer.wait_line("Finished serving channel 2")
    for tag, source in ((2, second), (1, first), (3, third)):
        service.send_to(source, b"answer %d" % tag)
    # Of the two that have a socket, either may be served first.
    answers = {helper.receive_from()[0] for _ in range(2)}
    assert answers == {_tagged(1, b"answer 1"), _tagged(3, b"answer 3")}
    assert ask(1) == first
    ask(2)
    exposer.wait_line("Finished serving channel 3")
    assert ask(1) == first
    assert helper.has_nothing()


@of_exposers
def test_exposer_outlives_its_service(kind: str, stage: Stage) -> None:
    service = stage.endpoint()
    helper, address, _ = _registered(stage, kind, service)
    service.close()
    for tag in (1, 2, 1, 2):
        helper.send_to(address, _tagged(tag, b"to nobody"))
    restarted = stage.endpoint(service.address)
    helper.send_to(address, _tagged(3, b"to the new one"))
    while True:  # what came late for nobody comes first
        datagram, source = restarted.receive_from()
        if datagram == b"to the new one":
            break
    restarted.send_to(source, b"answer")
    assert helper.receive_from() == (_tagged(3, b"answer"), address)


@of_exposers
def test_exposer_without_descriptors_ends(kind: str, stage: Stage) -> None:
    service = stage.endpoint()
    helper, address, exposer = _registered(stage, kind, service, most=100)
    limit = len(os.listdir(f"/proc/{exposer.process.pid}/fd")) + 10
    resource.prlimit(exposer.process.pid, resource.RLIMIT_NOFILE, (limit, limit))
    # It ends at the datagram after the one for which it could open no socket.
    while exposer.process.poll() is None:
        for tag in range(1, 21):
            helper.send_to(address, _tagged(tag, b"a socket each"))
        time.sleep(0.05)
    assert exposer.process.returncode == 1
    stage.end(exposer)


# --- the two together --------------------------------------------------------------------


@of_pairs
@with_and_without
def test_several_connectees(
    helper_kind: str, exposer_kind: str, password: Optional[str], stage: Stage
) -> None:
    echo = stage.echo()
    helper = stage.helper(helper_kind, most=6, password=password)
    exposer = stage.exposer(exposer_kind, helper.address, echo.address, most=6, password=password)
    helper.wait_exposer()
    sizes = [12, 64, 1200, LONGEST_ANSWER]
    clients = [stage.numbered(helper, sizes) for _ in range(6)]
    for _ in range(10):
        for client in clients:
            client.send(3)
        assert all(client.wait_echoed() for client in clients), (str(helper), str(exposer))
    for client in clients:
        assert not client.foreign() + client.missing()
        assert not client.out_of_order() + client.duplicated()
    assert not echo.foreign(clients)
    assert len({datagram.source for datagram in echo.received}) == len(clients)
    assert_complains(helper)
    assert_complains(exposer)


@of_pairs
@with_and_without
def test_long_and_empty_payloads(
    helper_kind: str, exposer_kind: str, password: Optional[str], stage: Stage
) -> None:
    service = stage.endpoint()
    helper = stage.helper(helper_kind, password=password)
    exposer = stage.exposer(exposer_kind, helper.address, service.address, password=password)
    helper.wait_exposer()
    (connectee,) = stage.connectees(helper, 1)
    long = connectee.send(os.urandom(3000))
    datagram, source = service.receive_from()
    assert datagram == long[:LONGEST_QUESTION]
    for answer in (long, b""):
        service.send_to(source, answer)
        assert connectee.receive() == answer[:LONGEST_ANSWER]
    if password is not None:  # without one it would be a keepalive
        connectee.send(b"")
    connectee.send(b"x")
    assert service.receive_from() == (b"x", source)
    dropped = [] if password is None else ["Datagram from server is too small"]
    assert_complains(exposer, *dropped)


@of_pairs
def test_a_busy_connectee_gets_no_answers_after_so_many_newcomers(
    helper_kind: str, exposer_kind: str, stage: Stage
) -> None:
    service = stage.endpoint()
    helper = stage.helper(helper_kind, most=2)
    stage.exposer(exposer_kind, helper.address, service.address, most=2)
    helper.wait_exposer()
    busy, *newcomers = stage.connectees(helper, 3)
    sources = set()
    for newcomer in (*newcomers, busy):
        busy.send(b"busy")
        datagram, source = service.receive_from()
        assert datagram == b"busy"
        sources.add(source)
        newcomer.send(b"new")
        service.send_to(service.receive_from()[1], b"answer")
        assert newcomer is busy or newcomer.receive() == b"answer"
    assert len(sources) == 1
    helper.wait_line("Failed to find channel 1")
    assert busy.has_nothing()


@of_pairs
@with_and_without
def test_each_may_start_anew(
    helper_kind: str, exposer_kind: str, password: Optional[str], stage: Stage
) -> None:
    echo = stage.echo()
    options = {"interval": 100, "password": password}
    helper = stage.helper(helper_kind, password=password)
    first = stage.exposer(exposer_kind, helper.address, echo.address, **options)
    address = helper.wait_exposer()
    stage.end(helper)
    helper = stage.helper(helper_kind, helper.address, password=password)
    assert helper.wait_exposer() == address
    (connectee,) = stage.connectees(helper, 1)
    connectee.send(b"to the first")
    assert connectee.receive() == b"to the first"
    stage.end(first)
    stage.exposer(exposer_kind, helper.address, echo.address, **options)
    assert helper.wait_exposer(count=2) != address
    connectee.send(b"to the second")
    assert connectee.receive() == b"to the second"


@of_pairs
def test_who_has_another_password_exposes_nothing(
    helper_kind: str, exposer_kind: str, stage: Stage
) -> None:
    mine, theirs = stage.endpoint(), stage.endpoint()
    helper = stage.helper(helper_kind, password=PASSWORD)
    ends = (exposer_kind, helper.address)
    impostor = stage.exposer(*ends, theirs.address, password=WRONG)
    helper.wait_line("A client from ")
    exposer = stage.exposer(*ends, mine.address, password=PASSWORD)
    exposer.wait_line("Authenticated")
    (connectee,) = stage.connectees(helper, 1)
    connectee.send(b"question")
    assert mine.receive_from()[0] == b"question"
    assert theirs.has_nothing()
    with pytest.raises(AssertionError, match="New client address"):
        helper.wait_line("New client address: ", count=2, timeout=0)
    assert not any("Authenticated" in line for line in impostor.lines())
