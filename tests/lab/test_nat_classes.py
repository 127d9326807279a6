"""Each NAT class, seen from outside, maps and filters as it says, and its router obeys."""

from __future__ import annotations

import socket
import time
from typing import Optional

import pytest

from tests.lab.fixtures import PORT, BuildLab, heard, heard_from, reflexive, udp
from udppunch.lab import NAT_CLASSES, Lab
from udppunch.lab.nats import AD, APD, EI, NONE

SERVER_PORTS = range(3478, 3486)
TRANSLATING = [name for name, nat in NAT_CLASSES.items() if nat.mapping != NONE]
DOUBLE = [
    ("cgn-prc", None, EI, APD),
    ("cgn-sym", None, APD, APD),
    ("full", "full", EI, EI),
    ("full", "arc", EI, AD),
    ("sym", "full", APD, APD),
]


def rendezvous_addresses(lab: Lab) -> list[str]:
    """Its two addresses of the family that site A speaks."""
    ipv6 = ":" in lab.a.address
    return [each for each in lab.rendezvous.addresses if (":" in each) == ipv6]


def observed_mapping(lab: Lab) -> str:
    first, second = rendezvous_addresses(lab)
    client = udp(lab.a)
    servers = [udp(lab.rendezvous, port, first) for port in SERVER_PORTS]
    same_address = {reflexive(client, server) for server in servers}
    other_address = {reflexive(client, udp(lab.rendezvous, 3478, second))}
    again = {reflexive(client, server) for server in servers}
    assert again == same_address, "a mapping changed while it was in use"
    if len(same_address) > 1:
        return APD
    return EI if same_address == other_address else AD


def observed_filtering(lab: Lab) -> str:
    first, second = rendezvous_addresses(lab)
    client = udp(lab.a)
    same = udp(lab.rendezvous, 3478, first)
    target = reflexive(client, same)
    stranger = lab.add_host("core")
    probes = {
        b"stranger": udp(stranger, PORT, stranger.addresses[-1 if ":" in first else 0]),
        b"other address": udp(lab.rendezvous, 3478, second),
        b"other port": udp(lab.rendezvous, 3479, first),
        b"same": same,
    }
    for data, prober in probes.items():
        prober.sendto(data, target)
    return {
        frozenset({b"same"}): APD,
        frozenset({b"same", b"other port"}): AD,
        frozenset(probes): EI,
    }[frozenset(heard(client))]


@pytest.mark.parametrize("name", TRANSLATING)
def test_mapping(build_lab: BuildLab, name: str) -> None:
    assert observed_mapping(build_lab(name, "public")) == NAT_CLASSES[name].mapping


@pytest.mark.parametrize("name", [n for n, nat in NAT_CLASSES.items() if nat.filtering != NONE])
def test_filtering(build_lab: BuildLab, name: str) -> None:
    assert observed_filtering(build_lab(name, "public")) == NAT_CLASSES[name].filtering


@pytest.mark.parametrize("core", ["routed", "bridge"])
@pytest.mark.parametrize("home, carrier, mapping, filtering", DOUBLE)
def test_a_home_behind_a_carrier(
    build_lab: BuildLab,
    home: str,
    carrier: Optional[str],
    mapping: str,
    filtering: str,
    core: str,
) -> None:
    lab = build_lab(home, "public", cgn_a=carrier, core=core)
    assert lab.nat_a.wan == "100.64.0.2"
    assert observed_filtering(lab) == filtering
    lab.carrier_a.forget()
    lab.nat_a.forget()
    lab.a.close_sockets()
    assert observed_mapping(lab) == mapping


@pytest.mark.parametrize("name", ["public", "fw"])
def test_a_site_without_translation_is_seen_as_itself(build_lab: BuildLab, name: str) -> None:
    lab = build_lab(name, "public")
    server = udp(lab.rendezvous, 3478, rendezvous_addresses(lab)[0])
    assert reflexive(udp(lab.a), server) == (lab.a.address, PORT)


@pytest.mark.parametrize(
    "name, ports",
    [
        ("full", range(PORT, PORT + 1)),
        ("prc", range(PORT, PORT + 1)),
        ("sym-range", range(40000, 40064)),
        ("sym-adm", range(20000, 21000)),
    ],
)
def test_the_mapped_port_is_in_the_range_of_the_class(
    build_lab: BuildLab, name: str, ports: range
) -> None:
    lab = build_lab(name, "public")
    address, port = reflexive(udp(lab.a), udp(lab.rendezvous, 3478, "203.0.113.10"))
    assert address == lab.nat_a.wan
    assert port in ports


def test_a_second_host_with_the_same_port_gets_another_mapping(build_lab: BuildLab) -> None:
    lab = build_lab("prc", "public")
    server = udp(lab.rendezvous, 3478, "203.0.113.10")
    first = reflexive(udp(lab.a), server)
    assert reflexive(udp(lab.add_host("a")), server) != first


def test_blocked_udp_reaches_nobody_while_tcp_does(build_lab: BuildLab) -> None:
    lab = build_lab("udp-blocked", "public")
    server = udp(lab.rendezvous, 3478)
    udp(lab.a).sendto(b"request", (lab.rendezvous.address, 3478))
    assert heard(server) == []
    listener = lab.rendezvous.socket(kind=socket.SOCK_STREAM)
    listener.bind(("", 3478))
    listener.listen()
    client = lab.a.socket(kind=socket.SOCK_STREAM)
    client.settimeout(5)
    client.connect((lab.rendezvous.address, 3478))


def test_a_static_full_cone_is_open_before_anything_was_sent(build_lab: BuildLab) -> None:
    lab = build_lab("full-static", "full")
    a, b = udp(lab.a), udp(lab.b)
    server = udp(lab.rendezvous, 3478)
    server.sendto(b"unasked", (lab.nat_a.wan, PORT))
    server.sendto(b"unasked", (lab.nat_b.wan, PORT))
    assert heard(a) == [b"unasked"]
    assert heard(b) == []


@pytest.mark.parametrize("name, refuses", [("prc", False), ("prc-reject", True)])
def test_who_refuses_says_so(build_lab: BuildLab, name: str, refuses: bool) -> None:
    lab = build_lab(name, "public")
    prober = udp(lab.rendezvous, 3478)
    prober.connect((lab.nat_a.wan, PORT))
    prober.send(b"unasked")
    if refuses:
        with pytest.raises(ConnectionRefusedError):
            prober.recv(1)
    else:
        assert heard(prober) == []


@pytest.mark.parametrize("name, port_kept", [("prc", True), ("prc-open", False)])
def test_an_early_datagram_of_the_peer_takes_the_port_only_of_an_open_router(
    build_lab: BuildLab, name: str, port_kept: bool
) -> None:
    lab = build_lab(name, "public")
    peer = udp(lab.b)
    peer.sendto(b"early", (lab.nat_a.wan, PORT))
    udp(lab.a).sendto(b"punch", (lab.b.address, PORT))
    [(data, source)] = heard_from(peer)
    assert data == b"punch"
    assert (source[1] == PORT) == port_kept


@pytest.mark.parametrize("name", ["prc", "arc", "full", "full-static", "sym", "prc-hairpin"])
def test_hairpinning(build_lab: BuildLab, name: str) -> None:
    lab = build_lab(name, "public")
    server = udp(lab.rendezvous, 3478, "203.0.113.10")
    one, other = udp(lab.a, 5001), udp(lab.add_host("a"), 5002)
    address_of_one, address_of_other = reflexive(one, server), reflexive(other, server)
    one.sendto(b"hello", address_of_other)
    expected = [(b"hello", address_of_one)] if NAT_CLASSES[name].hairpin else []
    assert heard_from(other) == expected


def test_hosts_of_one_lan_reach_each_other_directly(build_lab: BuildLab) -> None:
    lab = build_lab("prc", "public")
    neighbour = lab.add_host("a")
    there = udp(neighbour)
    udp(lab.a).sendto(b"hello", (neighbour.address, PORT))
    assert heard_from(there) == [(b"hello", (lab.a.address, PORT))]


@pytest.mark.parametrize("name, port_kept", [("prc", True), ("full", True), ("sym", False)])
def test_a_nat_that_forgot_is_closed_until_the_next_outbound_datagram(
    build_lab: BuildLab, name: str, port_kept: bool
) -> None:
    lab = build_lab(name, "public")
    client, server = udp(lab.a), udp(lab.rendezvous, 3478, "203.0.113.10")
    before = reflexive(client, server)
    lab.nat_a.forget()
    server.sendto(b"late", before)
    assert heard(client) == []
    after = reflexive(client, server)
    assert (after == before) == port_kept
    server.sendto(b"answer", after)
    assert heard(client) == [b"answer"]


@pytest.mark.parametrize("core", ["routed", "bridge"])
@pytest.mark.parametrize("name", ["prc", "full", "sym-adm"])
def test_a_renumbered_nat_is_seen_at_its_new_address_alone(
    build_lab: BuildLab, name: str, core: str
) -> None:
    lab = build_lab(name, "public", core=core)
    client, server = udp(lab.a), udp(lab.rendezvous, 3478, "203.0.113.10")
    before = reflexive(client, server)
    lab.nat_a.renumber("203.0.113.150")
    after = reflexive(client, server)
    assert after[0] == lab.nat_a.wan == "203.0.113.150"
    server.sendto(b"to the new", after)
    server.sendto(b"to the old", before)
    assert heard(client) == [b"to the new"]


def test_a_home_behind_a_carrier_can_be_renumbered(build_lab: BuildLab) -> None:
    lab = build_lab("cgn-prc", "public")
    client, server = udp(lab.a), udp(lab.rendezvous, 3478, "203.0.113.10")
    reflexive(client, server)
    lab.nat_a.renumber("100.64.0.9")
    after = reflexive(client, server)
    assert after[0] == lab.carrier_a.wan
    server.sendto(b"answer", after)
    assert heard(client) == [b"answer"]


@pytest.mark.parametrize("name", ["prc", "full", "arc"])
def test_a_mapping_ends_after_the_timeout_set(build_lab: BuildLab, name: str) -> None:
    lab = build_lab(name, "prc")
    lab.nat_a.timeouts(udp=1, stream=2)
    server = udp(lab.rendezvous, 3478, "203.0.113.10")
    clients = udp(lab.a), udp(lab.b)
    mapped = [reflexive(client, server) for client in clients]
    time.sleep(2.2)
    for each in mapped:
        server.sendto(b"late", each)
    assert [heard(client) for client in clients] == [[], [b"late"]]


def test_one_datagram_of_each_five_is_lost_exactly(build_lab: BuildLab) -> None:
    lab = build_lab("full", "public")
    lab.nat_a.lose_every(5)
    assert delivered(lab, 200) == 160
    lab.nat_a.lose_every(0)
    assert delivered(lab, 200) == 200


def test_a_share_is_lost_by_chance(build_lab: BuildLab) -> None:
    lab = build_lab("full", "public")
    client, server = udp(lab.a), udp(lab.rendezvous, 3478, "203.0.113.10")
    target = reflexive(client, server)
    lab.nat_a.lose(50)
    assert 0 < delivered(lab, 200) < 200
    lab.nat_a.lose(100)
    assert delivered(lab, 20) == 0
    server.sendto(b"inbound", target)
    assert heard(client) == []
    lab.nat_a.lose(0)
    assert delivered(lab, 200) == 200
    server.sendto(b"inbound", target)
    assert heard(client) == [b"inbound"], "losing must not disturb the mappings"


def delivered(lab: Lab, count: int) -> int:
    """How many of `count` datagrams from A reach the rendezvous."""
    with udp(lab.a, 0) as client, udp(lab.rendezvous, 4000) as server:
        for _ in range(count):
            client.sendto(b"datagram", (lab.rendezvous.address, 4000))
        return len(heard(server))


class Peer:
    """A host that punches: sends to the address it was told, and answers where it hears from."""

    def __init__(self, own: socket.socket, server: socket.socket) -> None:
        self.socket = own
        self.public = reflexive(own, server)
        self.reached = False

    def send(self, target: tuple[str, int], ttl: int = 64) -> None:
        self.socket.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, ttl)
        self.socket.sendto(b"punch", target)
        self.socket.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 64)

    def answer(self) -> None:
        for data, source in heard_from(self.socket):
            if data == b"answer":
                self.reached = True
            else:
                self.socket.sendto(b"answer", source)


def punches(lab: Lab, *, openers: bool = False, a_first: bool = False) -> bool:
    """Whether one of them comes to hear an answer: a way there and back."""
    server = udp(lab.rendezvous, 3478, "203.0.113.10")
    a, b = Peer(udp(lab.a), server), Peer(udp(lab.b), server)
    if openers:
        a.send(b.public, ttl=2)
        b.send(a.public, ttl=2)
    for _ in range(3):
        a.send(b.public)
        if a_first:
            a.answer()
        b.send(a.public)
        for _ in range(3):
            a.answer()
            b.answer()
        if a.reached or b.reached:
            return True
    return False


@pytest.mark.parametrize(
    "site_a, site_b, expected",
    [
        ("prc", "prc", True),
        ("prc", "sym", False),
        ("full", "sym", True),
        ("arc", "sym-adm", True),
        ("sym", "sym", False),
        ("cgn-prc", "prc-reject", True),
        ("public", "cgn-sym", True),
    ],
)
def test_punching(build_lab: BuildLab, site_a: str, site_b: str, expected: bool) -> None:
    assert punches(build_lab(site_a, site_b)) == expected


@pytest.mark.parametrize("openers", [False, True])
def test_an_open_router_takes_openers_that_die_on_the_way(
    build_lab: BuildLab, openers: bool
) -> None:
    assert punches(build_lab("prc", "prc-open"), a_first=True, openers=openers) == openers
