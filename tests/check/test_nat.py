"""`udppunch check nat` on loopback: what STUN servers say, and what is made of it.

Real NATs are in `test_in_the_lab`.
"""

from __future__ import annotations

import dataclasses
from typing import Iterator, List, Optional

import pytest

from tests.check.answering import Answering
from tests.check.command import PATIENT, Ran, line, refused, run
from tests.ports import free_port
from tests.program import Program
from tests.standin.application import SocketAddress
from udppunch import address
from udppunch.check import nat
from udppunch.check.output import Status
from udppunch.proto.stun import server
from udppunch.proto.stun.behaviour import Behaviour, Dependence
from udppunch.proto.stun.lifetime import Discovery, Lifetime, Method
from udppunch.wire import stun

LONGEST = 240
HERE = address.pack("127.0.0.1", 40000)
SEEN = address.pack("198.51.100.7", 4242)


def check(*arguments: str) -> Ran:
    return run("nat", *arguments, *PATIENT)


def text(ran: Ran) -> str:
    return line(ran, LONGEST).partition(" | ")[0]


@pytest.fixture(scope="module")
def ours() -> Iterator[str]:
    """A rendezvous, which answers STUN requests."""
    where = f"127.0.0.1:{free_port()}"
    with Program("rendezvous", where, "--control", "none") as running:
        running.wait_event("listening")
        yield where
        running.assert_alive_and_sane()


class Stun(Answering):
    """Sees everybody at `seen`, if that is given."""

    def __init__(self, seen: Optional[address.Address] = None) -> None:
        self._seen = seen
        self._server = server.Server()
        super().__init__()

    def arrived(self, data: bytes, source: SocketAddress) -> None:
        answer = self._server.answer(data, self._seen or address.pack(*source))
        assert answer is not None
        self.socket.sendto(answer.data, source)


# What servers say


def test_no_nat(ours: str) -> None:
    ran = check(ours)
    assert ran.status == 0
    said = "UDPPUNCH NAT OK - no NAT, filtering unknown (no server answers from a second address)"
    assert text(ran).startswith(f"{said}, seen at 127.0.0.1:"), ran
    assert line(ran, LONGEST).rpartition(" | ")[2].startswith("rtt=")


def test_port_alone_is_this_machine(ours: str) -> None:
    assert check(":" + ours.rpartition(":")[2]).status == 0


def test_json(ours: str) -> None:
    document = check(ours, "--json").document
    assert (document["check"], document["target"], document["status"]) == ("nat", ours, "OK")
    assert (document["mapping"], document["mapping_reason"]) == ("no NAT", "")
    assert document["filtering"] == "unknown" and document["filtering_reason"]
    assert document["local"] == document["mapped"] and document["port_preserved"] is True
    assert document["seen"] == {ours: document["mapped"]}
    assert document["rtt"]["value"] > 0


def test_one_server_cannot_tell_the_mapping() -> None:
    with Stun(SEEN) as one:
        ran = check(one.where)
    reason = "the server has no second address, and no other server answers"
    said = f"UDPPUNCH NAT UNKNOWN - mapping unknown ({reason}), filtering unknown ("
    assert ran.status == 3 and text(ran).startswith(said)
    assert text(ran).endswith("), seen at 198.51.100.7:4242")


def test_two_servers_that_see_one_address() -> None:
    """They have one IP address, and differ by their ports."""
    with Stun(SEEN) as one, Stun(SEEN) as other:
        ran = check(one.where, other.where)
    said = "UDPPUNCH NAT OK - endpoint-independent or address-dependent mapping, filtering unknown"
    assert ran.status == 0 and text(ran).startswith(said)


def test_two_servers_that_see_two_addresses() -> None:
    with Stun(SEEN) as one, Stun(address.with_port(SEEN, 4343)) as other:
        ran = check(one.where, other.where)
    said = "UDPPUNCH NAT WARNING - address-and-port-dependent mapping, filtering unknown"
    assert ran.status == 1 and text(ran).startswith(said)


def test_second_that_is_silent() -> None:
    """The first one has answered: no more than a few seconds are waited for the other."""
    with Stun(SEEN) as one, Answering() as silent:
        ran = check(one.where, silent.where)
        assert silent.received
    assert ran.status == 3 and "mapping unknown (" in text(ran)


# None that answers


def test_silent_server() -> None:
    with Answering() as silent:
        ran = check(silent.where, "-t", "1s")
        assert silent.received
    said = f"no answer in 1 s from {silent.where}: UDP is blocked, or there is no STUN server"
    assert ran.status == 2 and text(ran) == f"UDPPUNCH NAT CRITICAL - {said}"
    assert line(ran, LONGEST).endswith(" | rtt=U;60000;60000;0")


def test_server_that_refuses() -> None:
    def refuse(datagram: bytes) -> List[bytes]:
        asked = stun.decode(datagram)
        error = stun.Message(stun.Kind.ERROR, asked.transaction, error=stun.Error(401))
        return [stun.encode(error)]

    with Answering(refuse) as refusing:
        ran = check(refusing.where)
    said = f"UDPPUNCH NAT CRITICAL - {refusing.where} answers with error 401"
    assert ran.status == 2 and text(ran) == said


@pytest.mark.parametrize("names", [("stun.invalid",), ("127.0.0.1", "stun.invalid")])
def test_name_that_does_not_exist(names: "tuple[str, ...]") -> None:
    ran = check(*names)
    assert ran.status == 2 and "stun.invalid" in text(ran)


def test_two_families(ours: str) -> None:
    ran = check(ours, "[::1]:3478")
    said = "one server has no address but IPv4, the other none but IPv6"
    assert ran.status == 2 and text(ran) == f"UDPPUNCH NAT CRITICAL - {said}"


def test_no_way_there() -> None:
    through = ("unshare", "--net", "--map-root-user")
    ran = run("nat", "127.0.0.1", *PATIENT, through=through)
    if "unshare" in ran.errors:
        pytest.skip("no network namespaces here")
    said = "UDPPUNCH NAT CRITICAL - cannot send to 127.0.0.1:3478: Network is unreachable"
    assert ran.status == 2 and text(ran) == said


@pytest.mark.parametrize(
    "arguments,said",
    [
        (["127.0.0.1:0"], "address: port 0"),
        (["127.0.0.1", "2001:db8::1"], "second: '2001:db8::1' is not an address"),
        (["127.0.0.1", "--longest", "soon"], "longest: 'soon' is not a time"),
        (["127.0.0.1", "--probes", "9"], "--probes is not for check nat"),
        (["127.0.0.1", "127.0.0.2", "127.0.0.3"], "too many arguments"),
        ([], "ADDRESS is missing"),
    ],
)
def test_usage_errors_are_unknown(arguments: List[str], said: str) -> None:
    ran = run("nat", *arguments)
    assert said in refused(ran)


# What is made of it


FOUND = Behaviour(
    Dependence.ENDPOINT_INDEPENDENT,
    Dependence.ADDRESS_AND_PORT_DEPENDENT,
    HERE,
    SEEN,
    round_trip=0.01,
    seen=((address.pack("192.0.2.1", 3478), SEEN),),
)


@pytest.mark.parametrize(
    "mapping,status",
    [
        (Dependence.NO_NAT, Status.OK),
        (Dependence.ENDPOINT_INDEPENDENT, Status.OK),
        (Dependence.NOT_ON_PORT, Status.OK),
        (Dependence.ADDRESS_DEPENDENT, Status.WARNING),
        (Dependence.ON_ADDRESS, Status.WARNING),
        (Dependence.ADDRESS_AND_PORT_DEPENDENT, Status.WARNING),
        (Dependence.UNKNOWN, Status.UNKNOWN),
    ],
)
def test_status_of_a_mapping(mapping: Dependence, status: Status) -> None:
    """Of the worst filter there is."""
    assert nat._judge(dataclasses.replace(FOUND, mapping=mapping), [], None).status is status


@pytest.mark.parametrize("mapping", Dependence)
@pytest.mark.parametrize("filtering", Dependence)
def test_whole_text_fits(mapping: Dependence, filtering: Dependence) -> None:
    why = "the server has no second address, and no other server answers"
    found = dataclasses.replace(
        FOUND, mapping=mapping, filtering=filtering, filtering_reason="no second socket"
    )
    if mapping is Dependence.UNKNOWN:
        found = dataclasses.replace(found, mapping_reason=why)
    assert len(nat._judge(found, [HERE], None).text) <= LONGEST - len("UDPPUNCH NAT CRITICAL - ")


def test_a_search_that_takes_too_long_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    at = address.pack("192.0.2.1", 3478)
    unfinished = Discovery(at, 10.0, 180.0, 5.0, bytes)
    monkeypatch.setattr(nat, "_run", lambda *_: unfinished)
    assert nat._lifetime(at, at, 180.0) == Lifetime(None, reason="not found out in time")


@pytest.mark.parametrize(
    "lifetime,said",
    [
        (Lifetime(Method.RESPONSE_PORT, 28.2, 33.4), "idle bindings last 28.2 to 33.4 s"),
        (Lifetime(Method.RESPONSE_PORT, 118.2, 121.9), "idle bindings last 118 to 122 s"),
        (Lifetime(Method.RESPONSE_PORT, 180.0), "idle bindings last 180 s and longer"),
        (Lifetime(Method.RESPONSE_PORT, 0.0, 10.0), "idle bindings last less than 10 s"),
        (Lifetime(None, reason="no answer"), "lifetime unknown (no answer)"),
    ],
)
def test_lifetimes(lifetime: Lifetime, said: str) -> None:
    outcome = nat._judge(FOUND, [], lifetime)
    assert outcome.text.endswith(f", seen at 198.51.100.7:4242, {said}")
    measure = outcome.measures[-1]
    assert (measure.name, measure.value, measure.unit) == ("lifetime", lifetime.kept or None, "s")
    assert outcome.details["lifetime_reason"] == lifetime.reason
