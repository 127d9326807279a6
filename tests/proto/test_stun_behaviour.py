"""What a client finds out about NATs of every kind, over good links and bad ones."""

from __future__ import annotations

from typing import Any, List, Optional, Tuple, Type

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.proto.stun_world import (
    ELSEWHERE,
    FIRST,
    INSIDE,
    SECOND,
    WAN,
    Client,
    Deaf,
    Refusing,
    Serving,
    behind,
)
from tests.virtual.network import Link, Nat, Network
from udppunch import address
from udppunch.address import Address
from udppunch.proto.stun.behaviour import (
    FILTERING_SOCKET,
    MAPPING_SOCKET,
    Behaviour,
    Dependence,
    Discovery,
    mapping_of,
)
from udppunch.proto.stun.transactions import Outgoing
from udppunch.wire import stun
from udppunch.wire.stun import Kind, Message

KINDS = {
    "endpoint": Dependence.ENDPOINT_INDEPENDENT,
    "address": Dependence.ADDRESS_DEPENDENT,
    "port": Dependence.ADDRESS_AND_PORT_DEPENDENT,
}
STRICTER = list(KINDS.values())


def discover(
    network: Network,
    *nats: Nat,
    servers: Tuple[Address, ...] = (FIRST,),
    link: Optional[Link] = None,
    timeout: float = 10.0,
) -> "tuple[Behaviour, Client]":
    host = behind(network, *nats, link=link)
    random = network.random.randbytes
    client = Client(host, Discovery(servers, Client.local(host), timeout, random))
    began = network.now
    outcome = client.run(timeout + 1)
    assert outcome is not None and network.now <= began + timeout
    assert client.role.deadline() is None
    return outcome, client


@pytest.mark.parametrize("filtering", KINDS)
@pytest.mark.parametrize("mapping", KINDS)
def test_every_kind_of_nat(mapping: str, filtering: str) -> None:
    network = Network()
    Serving(network, FIRST, SECOND)
    found, _ = discover(network, Nat(WAN, mapping, filtering), link=Link(delay=0.015))
    assert (found.mapping, found.filtering) == (KINDS[mapping], KINDS[filtering])
    assert (found.mapping_reason, found.filtering_reason) == ("", "")
    assert found.local == address.pack(INSIDE, 50000)
    assert found.mapped is not None and str(address.ip(found.mapped)) == WAN
    assert found.port_preserved is (mapping == "endpoint")
    assert found.round_trip == pytest.approx(0.03)
    assert [server for server, _ in found.seen] == [
        FIRST, address.with_port(SECOND, 3478), SECOND,
    ]  # fmt: skip


@pytest.mark.parametrize("filtering", KINDS)
def test_a_firewall_without_a_nat(filtering: str) -> None:
    network = Network()
    Serving(network, FIRST, SECOND)
    host = network.host("client", WAN, [Nat(WAN, "endpoint", filtering)])
    discovery = Discovery([FIRST], Client.local(host), 10.0, network.random.randbytes)
    found = Client(host, discovery).run(10.0)
    assert (found.mapping, found.filtering) == (Dependence.NO_NAT, KINDS[filtering])
    assert found.port_preserved is True and found.mapped == found.local


def test_the_open_internet() -> None:
    network = Network()
    Serving(network, FIRST, SECOND)
    found, _ = discover(network)
    assert (found.mapping, found.filtering) == (
        Dependence.NO_NAT, Dependence.ENDPOINT_INDEPENDENT,
    )  # fmt: skip


def test_a_firewall_of_ipv6() -> None:
    network = Network()
    first, second = address.pack("2001:db8::10", 3478), address.pack("2001:db8::11", 3479)
    Serving(network, first, second)
    host = network.host("client", "2001:db8:1::2", [Nat("2001:db8:1::2", "endpoint", "port")])
    discovery = Discovery([first], Client.local(host), 10.0, network.random.randbytes)
    found = Client(host, discovery).run(10.0)
    assert found.mapping is Dependence.NO_NAT and found.mapped == found.local
    assert found.filtering is Dependence.ADDRESS_AND_PORT_DEPENDENT


def test_of_two_nats_the_stricter_shows() -> None:
    network = Network()
    Serving(network, FIRST, SECOND)
    found, _ = discover(
        network, Nat("100.64.0.2", "endpoint", "port"), Nat(WAN, "port", "endpoint")
    )
    assert (found.mapping, found.filtering) == (
        Dependence.ADDRESS_AND_PORT_DEPENDENT, Dependence.ADDRESS_AND_PORT_DEPENDENT,
    )  # fmt: skip


def test_a_router_that_takes_what_strangers_send_for_its_own() -> None:
    network = Network()
    Serving(network, FIRST, SECOND)
    found, _ = discover(network, Nat(WAN, "endpoint", "port", takes_strangers=True))
    assert (found.mapping, found.filtering) == (
        Dependence.ENDPOINT_INDEPENDENT, Dependence.ADDRESS_AND_PORT_DEPENDENT,
    )  # fmt: skip


def test_silence_takes_five_seconds_and_a_half_and_answers_none() -> None:
    for filtering, seconds in (("endpoint", 0.2), ("port", 5.6)):
        network = Network()
        Serving(network, FIRST, SECOND)
        began = network.now
        discover(network, Nat(WAN, "endpoint", filtering), link=Link(delay=0.05))
        assert network.now - began == pytest.approx(seconds)


def test_blocked() -> None:
    network = Network()
    Serving(network, FIRST, SECOND)
    found, client = discover(network, Nat(WAN), link=Link(loss=1.0))
    assert found.mapping is found.filtering is Dependence.BLOCKED
    assert found.mapped is None and found.seen == ()
    assert found.mapping_reason == "no answer in 10 s"
    assert len(client.sent) == 5, "at 0, 0.5, 1.5, 3.5 and 7.5 seconds"


def test_a_request_is_sent_seven_times_at_most() -> None:
    _, client = discover(Network(), Nat(WAN), timeout=100.0)
    assert len(client.sent) == 7
    assert len(set(client.sent)) == 1, "the same transaction"


@pytest.mark.parametrize(
    "mapping, expected",
    [
        ("endpoint", Dependence.ENDPOINT_INDEPENDENT),
        ("address", Dependence.ON_ADDRESS),
        ("port", Dependence.ON_ADDRESS),
    ],
)
def test_two_servers_that_have_one_address_each(mapping: str, expected: Dependence) -> None:
    network = Network()
    Serving(network, FIRST)
    Serving(network, ELSEWHERE)
    found, _ = discover(network, Nat(WAN, mapping), servers=(FIRST, ELSEWHERE))
    assert found.mapping is expected and found.mapping_reason == ""
    assert found.filtering is Dependence.UNKNOWN
    assert found.filtering_reason == "no server answers from a second address"


@pytest.mark.parametrize(
    "mapping, expected",
    [
        ("endpoint", Dependence.NOT_ON_PORT),
        ("address", Dependence.NOT_ON_PORT),
        ("port", Dependence.ADDRESS_AND_PORT_DEPENDENT),
    ],
)
def test_two_ports_of_one_address(mapping: str, expected: Dependence) -> None:
    network = Network()
    serving = Serving(network, FIRST)
    other = address.with_port(FIRST, 3479)
    serving.hosts["203.0.113.10"].bind(3479, lambda source, data: answer(source, data))

    def answer(source: Address, data: bytes) -> None:
        told = serving.server.answer(data, source)
        assert told is not None
        network.send(serving.hosts["203.0.113.10"], 3479, source, told.data, 0)

    found, _ = discover(network, Nat(WAN, mapping), servers=(FIRST, other))
    assert found.mapping is expected


def test_one_server_with_one_address_tells_where_one_is_seen_and_no_more() -> None:
    network = Network()
    Serving(network, FIRST)
    found, client = discover(network, Nat(WAN))
    assert found.mapping is found.filtering is Dependence.UNKNOWN
    assert found.mapped == address.pack(WAN, 50000)
    assert "second address" in found.mapping_reason
    assert len(client.sent) == 1


def test_the_server_that_has_a_second_address_is_taken_wherever_it_is_named() -> None:
    network = Network()
    Serving(network, ELSEWHERE)
    Serving(network, FIRST, SECOND)
    found, _ = discover(network, Nat(WAN, "address", "address"), servers=(ELSEWHERE, FIRST))
    assert (found.mapping, found.filtering) == (
        Dependence.ADDRESS_DEPENDENT, Dependence.ADDRESS_DEPENDENT,
    )  # fmt: skip


def test_a_server_that_is_not_there_is_not_waited_for_long() -> None:
    network = Network()
    Serving(network, ELSEWHERE)
    began = network.now
    found, _ = discover(network, Nat(WAN), servers=(FIRST, ELSEWHERE))
    assert found.mapping is Dependence.UNKNOWN and found.mapped is not None
    assert network.now - began == pytest.approx(5.5)


@pytest.mark.parametrize(
    "kind, reason",
    [
        (Deaf, "the server does not answer from its other address"),
        (Refusing, "203.0.113.10:3478 answers with error 401"),
    ],
)
def test_servers_that_are_of_little_use(kind: Type[Serving], reason: str) -> None:
    network = Network()
    kind(network, FIRST, SECOND)
    found, _ = discover(network, Nat(WAN, "port", "endpoint"))
    assert found.filtering is Dependence.UNKNOWN and found.filtering_reason == reason
    told = Dependence.ADDRESS_AND_PORT_DEPENDENT if kind is Deaf else Dependence.UNKNOWN
    assert found.mapping is told


def test_a_second_address_that_is_dead_tells_nothing() -> None:
    network = Network()
    serving = Serving(network, FIRST, SECOND)
    network.hosts.remove(serving.hosts["203.0.113.11"])
    serving.hosts["203.0.113.11"].link.loss = 1.0
    found, _ = discover(network, Nat(WAN, "endpoint", "port"))
    assert found.mapping is found.filtering is Dependence.UNKNOWN
    assert found.mapping_reason == found.filtering_reason
    assert found.filtering_reason == "the server's other address gives no answer"


def test_too_little_time_for_silence_to_mean_anything() -> None:
    network = Network()
    Serving(network, FIRST, SECOND)
    found, _ = discover(network, Nat(WAN, "endpoint", "port"), timeout=1.0)
    assert found.mapping is Dependence.ENDPOINT_INDEPENDENT
    assert found.filtering is Dependence.UNKNOWN and "too little time" in found.filtering_reason


@pytest.mark.parametrize(
    "server, other",
    [
        ("203.0.113.10", "203.0.113.10:3479"),  # the same IP
        ("203.0.113.10", "203.0.113.11:3478"),  # the same port
        ("203.0.113.10", "203.0.113.11:0"),
        ("203.0.113.10", "203.0.113.11:53"),
        ("203.0.113.10", "224.0.0.1:3479"),
        ("203.0.113.10", "0.0.0.0:3479"),
        ("203.0.113.10", "127.0.0.1:3479"),
        ("203.0.113.10", "2001:db8::1:3479"),
        ("192.0.0.9", "192.168.1.1:3479"),  # a server of the Internet, and the network at home
    ],
)
def test_other_addresses_that_nothing_is_sent_to(server: str, other: str) -> None:
    asked = address.pack(server, 3478)
    ip, _, port = other.rpartition(":")
    named = address.pack(ip, int(port))
    discovery = Discovery([asked], address.pack(INSIDE, 50000), 10.0, bytes)
    ((_, _, request),) = discovery.start(0.0)
    answer = Message(
        Kind.SUCCESS,
        stun.decode(request).transaction,
        xor_mapped=address.pack(WAN, 50000),
        other_address=named,
    )
    assert discovery.receive(stun.encode(answer), asked, MAPPING_SOCKET, 0.1) == []
    assert discovery.outcome is not None and discovery.outcome.filtering is Dependence.UNKNOWN


class TestAnswers:
    """Which datagrams count as an answer to the first request."""

    def setup_method(self) -> None:
        local = address.pack(INSIDE, 50000)
        self.discovery = Discovery([FIRST], local, 10.0, bytes)
        ((_, _, request),) = self.discovery.start(0.0)
        self.transaction = stun.decode(request).transaction

    def hear(self, source: Address = FIRST, socket: int = MAPPING_SOCKET, **changed: Any) -> None:
        content = {
            "kind": Kind.SUCCESS,
            "transaction": self.transaction,
            "xor_mapped": address.pack(WAN, 50000),
            **changed,
        }
        self.discovery.receive(stun.encode(Message(**content)), source, socket, 0.1)

    @pytest.mark.parametrize(
        "wrong",
        [
            {"source": SECOND},
            {"socket": FILTERING_SOCKET},
            {"kind": Kind.REQUEST},
            {"kind": Kind.INDICATION},
            {"transaction": b"another one."},
        ],
    )
    def test_what_does_not(self, wrong: Any) -> None:
        self.hear(**wrong)
        assert self.discovery.outcome is None
        self.hear()
        assert self.discovery.outcome is not None

    def test_nor_does_what_has_to_be_understood_and_is_not(self) -> None:
        answer = Message(Kind.SUCCESS, self.transaction, xor_mapped=FIRST)
        data = stun.encode(answer)
        strange = data[:2] + (len(data) - 16).to_bytes(2, "big") + data[4:] + b"\x7f\xff\0\0"
        self.discovery.receive(strange, FIRST, MAPPING_SOCKET, 0.1)
        assert self.discovery.outcome is None
        older = strange[:-4] + b"\x00\x05\0\0"  # CHANGED-ADDRESS, of RFC 3489
        self.discovery.receive(older, FIRST, MAPPING_SOCKET, 0.1)
        assert self.discovery.outcome is not None

    def test_an_answer_without_the_hidden_form_counts_too(self) -> None:
        self.hear(xor_mapped=None, mapped=ELSEWHERE)
        assert self.discovery.outcome is not None
        assert self.discovery.outcome.mapped == ELSEWHERE

    def test_after_the_outcome_nothing_is_done(self) -> None:
        self.hear()
        outcome = self.discovery.outcome
        self.hear(xor_mapped=SECOND)
        assert self.discovery.expire(50.0) == [] and self.discovery.outcome is outcome


def test_the_second_socket_says_nothing_to_the_other_addresses() -> None:
    network = Network()
    Serving(network, FIRST, SECOND)
    _, client = discover(network, Nat(WAN, "endpoint", "port"))
    heard_by: List[Outgoing] = [one for one in client.sent if one.socket == FILTERING_SOCKET]
    assert {one.destination for one in heard_by} == {FIRST}


def is_as_strict(found: Dependence, true: Dependence) -> bool:
    return STRICTER.index(found) >= STRICTER.index(true)


@settings(max_examples=150)
@given(
    st.sampled_from(list(KINDS)),
    st.sampled_from(list(KINDS)),
    st.integers(0, 2**32),
    st.sampled_from([0.1, 0.3, 0.6]),
)
def test_bad_links_make_it_know_less_and_never_something_laxer(
    mapping: str, filtering: str, seed: int, loss: float
) -> None:
    network = Network(seed)
    Serving(network, FIRST, SECOND)
    link = Link(delay=0.02, jitter=0.5, loss=loss, duplicate=0.2)
    found, _ = discover(network, Nat(WAN, mapping, filtering), link=link)
    vague = {Dependence.UNKNOWN, Dependence.BLOCKED}
    if mapping != "endpoint":
        vague.add(Dependence.ON_ADDRESS)
    assert found.mapping in vague | {KINDS[mapping]}
    if found.filtering not in vague:
        assert is_as_strict(found.filtering, KINDS[filtering])


def test_one_datagram_of_ten_lost_each_way_rarely_matters() -> None:
    right = 0
    for seed in range(300):
        network = Network(seed)
        Serving(network, FIRST, SECOND)
        mapping, filtering = list(KINDS)[seed % 3], list(KINDS)[seed // 3 % 3]
        link = Link(delay=0.02, jitter=0.1, loss=0.1, duplicate=0.05)
        found, _ = discover(network, Nat(WAN, mapping, filtering), link=link)
        right += (found.mapping, found.filtering) == (KINDS[mapping], KINDS[filtering])
    assert right >= 295


def test_what_addresses_seen_by_several_servers_mean() -> None:
    one, other = address.pack(WAN, 1), address.pack(WAN, 2)
    local = address.pack(INSIDE, 1)
    assert mapping_of([], local) is Dependence.UNKNOWN
    # One server was reached by another way out: no mapping to count on.
    seen = [(FIRST, one), (SECOND, one), (ELSEWHERE, other)]
    assert mapping_of(seen, local) is Dependence.ON_ADDRESS
