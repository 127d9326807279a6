"""`udppunch check rendezvous` against servers, ours and the originals', that work or don't."""

from __future__ import annotations

import contextlib
import time
from typing import Iterator, List, Tuple

import pytest

from tests import program
from tests.check.answering import Answering, Answers
from tests.check.command import PATIENT, Ran, line, refused, run
from tests.ports import free_port
from tests.program import Program, SocketAddress
from tests.standin import chat, holepunch, process
from tests.standin.process import StandIn

ONCE = (*PATIENT, "--probes", "1")
NOTHING = "rtt=U;60000;60000;0 loss=100%;20;60;0;100"
NO_SERVER = b"\x02\x01"
PROTOCOLS = ("puncher", "holepunch", "chat", "stun")


def check(*arguments: str, **keywords: float) -> Ran:
    return run("rendezvous", *arguments, timeout=keywords.get("timeout", 60.0))


def assert_works(ran: Ran, where: str, count: int = 5) -> None:
    assert ran.status == 0, ran
    said, _, figures = line(ran).partition(" | ")
    assert said.startswith("UDPPUNCH RENDEZVOUS OK - rtt "), ran
    assert said.endswith(f" ms, loss 0 % to {where}"), ran
    assert figures.startswith("rtt=") and figures.endswith("ms;60000;60000;0 loss=0%;20;60;0;100")


@pytest.fixture(scope="module")
def ours() -> "Iterator[Tuple[Program, dict[str, str]]]":
    """A rendezvous that speaks all protocols, and where it speaks which."""
    where = {name: f"127.0.0.1:{free_port()}" for name in PROTOCOLS[:3]}
    options = ("--holepunch", where["holepunch"], "--chat", where["chat"], "--control", "none")
    with Program("rendezvous", where["puncher"], *options) as running:
        running.wait_event("listening", count=3)
        yield running, {**where, "stun": where["puncher"]}
        running.assert_alive_and_sane()


@contextlib.contextmanager
def original(protocol: str) -> Iterator[StandIn]:
    servers = {"puncher": process.turn, "holepunch": holepunch.server, "chat": chat.server}
    with servers[protocol]() as running:
        yield running
        running.assert_alive_and_sane()


# One that works


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_ours(ours: "Tuple[Program, dict[str, str]]", protocol: str) -> None:
    where = ours[1][protocol]
    assert_works(check(where, "--protocol", protocol, *PATIENT), where)


@pytest.mark.parametrize("protocol", PROTOCOLS[:3])
def test_original(protocol: str) -> None:
    if protocol == "chat":
        pytest.importorskip("cryptography")
    with original(protocol) as running:
        where = program.text(running.address)
        assert_works(check(where, "--protocol", protocol, *PATIENT), where)


def test_puncher_is_what_is_spoken(ours: "Tuple[Program, dict[str, str]]") -> None:
    where = ours[1]["puncher"]
    assert_works(check(where, *PATIENT), where)


def test_port_alone_is_this_machine(ours: "Tuple[Program, dict[str, str]]") -> None:
    port = ours[1]["puncher"].rpartition(":")[2]
    assert_works(check(f":{port}", *ONCE), f"127.0.0.1:{port}")


def test_json(ours: "Tuple[Program, dict[str, str]]") -> None:
    document = check(ours[1]["puncher"], "--json", *PATIENT).document
    assert (document["check"], document["status"]) == ("rendezvous", "OK")
    assert document["target"] == ours[1]["puncher"]
    assert document["rtt"]["value"] > 0 and document["loss"]["value"] == 0


def test_registrations_are_not_used_up() -> None:
    """The original gives a server to whoever asks for its key, once."""
    with process.turn() as meeting:
        with process.server(("127.0.0.1", 9), meeting.address, "the key") as server:
            server.wait_event("registered")
            assert check(program.text(meeting.address), *PATIENT).status == 0
            server.assert_alive_and_sane()
        assert [event["event"] for event in meeting.events] == ["listening", "registered"] + [
            "refused"
        ] * 5
        keys = {event["key"] for event in meeting.events if event["event"] == "refused"}
        assert len(keys) == 5


def test_nothing_is_left_behind() -> None:
    """Of what ours counts, beside the datagrams themselves."""
    where = f"127.0.0.1:{free_port()}"
    with Program("rendezvous", where, "--control", "none") as running:
        running.wait_event("listening")
        assert check(where, *PATIENT).status == 0
        assert check(where, "--protocol", "stun", *PATIENT).status == 0
        assert running.stop() == 0
    counted = {key: value for key, value in running.events[-1].items() if " " in key}
    assert counted == {"no server": 5, "STUN requests": 5}


# One that is slow, or loses datagrams


class EveryThird:
    """Answers but every third question."""

    def __init__(self) -> None:
        self._asked = 0

    def __call__(self, datagram: bytes) -> List[bytes]:
        self._asked += 1
        return [NO_SERVER] if self._asked % 3 else []


@pytest.mark.parametrize(
    "limits,status", [(("-w", "20%", "-c", "60%"), 1), (("-w", "20%", "-c", "33%"), 2)]
)
def test_every_third_is_lost(limits: Tuple[str, ...], status: int) -> None:
    with Answering(EveryThird()) as server:
        ran = check(server.where, "--probes", "3", *limits)
    assert ran.status == status and " loss=33.333%;" in line(ran), ran


class Late(Answering):
    """Answers each question when the next one comes."""

    asked: "List[SocketAddress]" = []

    def arrived(self, data: bytes, source: SocketAddress) -> None:
        if self.asked:
            self.socket.sendto(NO_SERVER, self.asked[-1])
        self.asked = [*self.asked, source]


def test_late_answer_is_not_the_next_ones() -> None:
    server = Late()
    with server:
        ran = check(server.where, "--probes", "3", *PATIENT)
        assert len(server.asked) == 3
    assert ran.status == 2 and line(ran).endswith(NOTHING), ran


def test_slower_than_the_limits() -> None:
    def slow(datagram: bytes) -> List[bytes]:
        time.sleep(0.03)
        return [NO_SERVER]

    with Answering(slow) as server:
        ran = check(server.where, "-w", "20ms", "-c", "60s", "--probes", "2")
    assert ran.status == 1 and " RENDEZVOUS WARNING - rtt " in line(ran)


# One that does not work


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_silent_one(protocol: str) -> None:
    with Answering() as server:
        ran = check(server.where, "--protocol", protocol, "-t", "300ms", *ONCE)
        assert len(server.received) == 1
    said = f"UDPPUNCH RENDEZVOUS CRITICAL - no {protocol} answer from {server.where}"
    assert ran.status == 2 and line(ran) == f"{said} | {NOTHING}"


def test_nobody_listens() -> None:
    where = f"127.0.0.1:{free_port()}"
    ran = check(where, *PATIENT)
    said = f"UDPPUNCH RENDEZVOUS CRITICAL - nothing listens at {where}"
    assert ran.status == 2 and line(ran) == f"{said} | {NOTHING}"


@pytest.mark.parametrize("spoken", PROTOCOLS[:3])
@pytest.mark.parametrize("asked", PROTOCOLS)
def test_another_protocol(ours: "Tuple[Program, dict[str, str]]", spoken: str, asked: str) -> None:
    if asked == spoken or (asked, spoken) == ("stun", "puncher"):
        return
    ran = check(ours[1][spoken], "--protocol", asked, "-t", "200ms", *ONCE)
    assert ran.status == 2 and f" no {asked} answer from " in line(ran)


@pytest.mark.parametrize(
    "answers",
    [
        lambda datagram: [datagram],
        lambda datagram: [b""],
        lambda datagram: [b"\x02\x00"],
        lambda datagram: [b"\x05"],
        lambda datagram: [b"HTTP/1.1 400 Bad Request\r\n\r\n"],
        lambda datagram: [bytes(4000)],
    ],
    ids=["an echo", "empty", "key is taken", "registered", "HTTP", "longer"],
)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_is_no_answer(answers: Answers, protocol: str) -> None:
    with Answering(answers) as server:
        ran = check(server.where, "--protocol", protocol, "-t", "200ms", *ONCE)
        assert len(server.received) == 1
    assert ran.status == 2 and f" no {protocol} answer from " in line(ran)


def test_an_answer_counts_whatever_came_before() -> None:
    with Answering(lambda datagram: [b"", datagram, b"\x05", NO_SERVER]) as server:
        assert_works(check(server.where, "--probes", "2", *PATIENT), server.where)


def test_name_that_does_not_exist() -> None:
    ran = check("meet.invalid", "-t", "20s")
    assert ran.status == 2 and "meet.invalid" in line(ran) and "loss=100%" in line(ran)


@pytest.mark.parametrize(
    "arguments,said",
    [
        (["127.0.0.1", "--protocol", "chess"], "'chess' is not a protocol: known are puncher,"),
        (["127.0.0.1", "--protocol", "punch"], "did you mean puncher?"),
        (["[2001:db8::1]"], "address: '[2001:db8::1]' is an IPv6 address"),
        (["127.0.0.1:0"], "address: port 0"),
        (["127.0.0.1", "--silent", "1h"], "--silent is not for check rendezvous"),
        (["127.0.0.1", "key"], "too many arguments"),
        ([], "ADDRESS is missing"),
    ],
)
def test_usage_errors_are_unknown(arguments: List[str], said: str) -> None:
    ran = check(*arguments)
    assert said in refused(ran)
