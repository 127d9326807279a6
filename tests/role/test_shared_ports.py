"""A NAT may give one port to several hosts, or a dead one's to another: each client keeps its own.

No client's payload comes out of another one's socket towards the service, nothing of the service's
goes to another client, and no path that is up ends because somebody else appears at its port.
"""

from __future__ import annotations

import itertools
from typing import Any, List, Set, Tuple

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tests.virtual.network import LOOPBACK, Host, Link, Nat
from tests.virtual.overheard import RENDEZVOUS, Played, mark
from tests.virtual.world import KEY, SERVICE, World
from udppunch import address
from udppunch.address import Address
from udppunch.contract import Endpoint
from udppunch.proto.puncher.clients import Client
from udppunch.proto.puncher.path import State
from udppunch.wire import puncher
from udppunch.wire.control import Control, Kind, Pairing


class Neighbours:
    """Clients behind one NAT, played by hand, and the server that they come to."""

    def __init__(self, idle: float = 300.0) -> None:
        open_nat = Nat("203.0.113.101", filtering="endpoint")
        self.world = World(nat_a=open_nat, link=Link(0.005), idle=idle)
        self.echo = self.world.echo
        self.clients = self.world.server.role._clients  # type: ignore[attr-defined]
        self._number = itertools.count(1)

    def client(self, port: int) -> Played:
        return Played(self.world, next(self._number), port)

    def run(self, seconds: float) -> None:
        self.world.network.run(seconds)

    def connected(self, port: int) -> Tuple[Played, Client]:
        """A client with a path that is up and has carried its payload."""
        client = self.client(port)
        client.is_introduced()
        client.asks()
        return client, self._talks(client)

    def connected_without_marks(self, port: int, ours: bool) -> Tuple[Played, Client]:
        """The same by way of a rendezvous that shows no marks; the client may bear none, too."""
        client = self.client(port)
        client.is_introduced(marked=False)
        self.run(0.5)
        client.shakes_hands(marked=ours)
        return client, self._talks(client)

    def _talks(self, client: Played) -> Client:
        self.run(0.1)
        client.says(b"hello")
        self.run(0.1)
        assert client.heard.pop() == client.name + b"hello"
        client.heard.clear()
        found: Client = next(one for one in self.clients if one.path.is_at(client.at))
        return found

    def sockets(self, client: Played) -> Set[int]:
        """From which the service has heard the client."""
        return self.echo.sources[client.name]

    def controls(self) -> List[bytes]:
        """What the service heard that none of its clients has said."""
        return [data for data in self.echo.received if not data.startswith(b"P0")]


def service_says(world: World, client: Client, payload: bytes) -> None:
    assert client.application is not None and client.application.local is not None
    socket = address.with_port(LOOPBACK, address.port(client.application.local))
    world.network.send(world.a, SERVICE, socket, payload, 0)


def assert_consistent(clients: Any) -> None:
    present = set(clients)
    for way, client in clients.by_way.items():
        assert client in present and way in client.ways
        assert client.path.state in (State.UP, State.CLOSING)
    for client in present:
        assert len(set(client.ways)) == len(client.ways)
        assert all(clients.by_way[way] is client for way in client.ways)
    for table in (clients._by_mark, clients._by_token):
        assert present.issuperset(table.values())
    peers = [client.path.peer for client in present if client.path.state is State.UP]
    assert len({(peer.endpoint, peer.destination) for peer in peers}) == len(peers)


def assert_nothing_is_left(world: World) -> None:
    clients = world.server.role._clients  # type: ignore[attr-defined]
    assert not len(clients)
    assert not clients.by_way and not clients._by_mark and not clients._by_token
    assert not [one for one in world.server.outbox.open_endpoints if one.owner is not None]


# A path that is lost


def test_a_lost_path_is_not_taken_over_by_a_neighbour() -> None:
    site = Neighbours()
    one, lost = site.connected_without_marks(1001, ours=True)
    one.leaves()
    site.run(30.0)
    assert lost.path.state is State.LOST
    neighbour = site.client(2002)
    neighbour.is_introduced(1002, marked=False)  # its NAT maps each destination to another port
    site.run(0.5)
    neighbour.shakes_hands()
    site.run(0.1)
    neighbour.says(b"hello")
    site.run(0.1)
    assert neighbour.heard[-1] == neighbour.name + b"hello"
    assert not site.sockets(neighbour) & site.sockets(one)

    one.comes(1010)
    one.is_introduced(marked=False)
    site.run(0.5)
    one.shakes_hands()
    site.run(0.1)
    one.says(b"here again")
    site.run(0.1)
    assert one.heard[-1] == one.name + b"here again"
    assert len(site.sockets(one)) == 1, "its mark still finds it"
    assert_consistent(site.clients)
    site.run(1000.0)
    assert_nothing_is_left(site.world)


def test_a_lost_path_keeps_no_newcomer_out() -> None:
    site = Neighbours()
    one, lost = site.connected(1001)
    one.leaves()
    site.run(30.0)
    assert lost.path.state is State.LOST
    original = site.client(1001)
    original.is_introduced(9999, marked=False)
    site.run(0.5)
    original.shakes_hands(marked=False)
    site.run(0.1)
    original.says(b"hello")
    site.run(0.1)
    assert original.heard[-1] == original.name + b"hello"
    assert not site.sockets(original) & site.sockets(one)
    assert not site.controls()


def test_a_captured_check_turns_a_lost_path_on_no_neighbour() -> None:
    site = Neighbours(idle=3600.0)
    one, lost = site.connected(1001)
    neighbour, _ = site.connected(1002)
    captured = one.check()
    one.leaves()
    for second in range(60):
        service_says(site.world, lost, b"for the one")
        if second % 3 == 0:
            neighbour.says(b"hello")
        if second >= 30:
            # Also beside a control of the neighbour's own.
            for data in (neighbour.check(), captured)[second % 2 :]:
                neighbour.sends(data)
        site.run(1.0)
    assert lost.path.state is State.LOST
    assert neighbour.heard.count(neighbour.name + b"hello") == 20
    assert b"for the one" not in neighbour.heard
    assert not site.controls()


# Who gets a port


def test_another_ones_control_is_no_payload_for_the_service() -> None:
    """A NAT that was restarted has given two clients each other's port."""
    site = Neighbours()
    one, former = site.connected(1001)
    other, client = site.connected(1002)
    one.leaves()
    other.leaves()
    one.comes(1002)
    other.comes(1001)
    other.asks()
    site.run(0.1)
    assert client.path.is_at(other.at) and former.path.state is State.LOST
    other.says(b"here now")
    site.run(0.1)
    assert other.heard == [other.name + b"here now"]
    assert len(site.sockets(other)) == 1
    assert not site.controls()


def test_payload_from_a_port_that_it_once_had_moves_no_path() -> None:
    site = Neighbours()
    one, client = site.connected(1001)
    one.leaves()
    one.comes(1003)
    one.asks()
    site.run(0.1)
    one.says(b"moved")
    site.run(2.0)
    assert client.path.is_at(one.at)
    neighbour = site.client(1001)
    neighbour.says(b"who is there")
    site.run(0.1)
    one.heard.clear()
    for _ in range(10):
        service_says(site.world, client, b"for the one")
        site.run(0.1)
    assert one.heard == [b"for the one"] * 10
    assert b"for the one" not in neighbour.heard


class TwoPorts(Nat):
    """A symmetric NAT that gives each port twice: to one host towards the rendezvous, and to
    another towards everybody else."""

    def outward(self, source: Address, destination: Address, now: float) -> Address:
        seen = super().outward(source, destination, now)
        there = destination == RENDEZVOUS
        return address.with_port(seen, address.port(seen) + 1000) if there else seen

    def inward(self, source: Address, number: int, now: float) -> Any:
        return super().inward(source, number - 1000 if source == RENDEZVOUS else number, now)


LINKS = {
    "jitter": Link(0.02, jitter=0.01),
    "loss": Link(0.02, loss=0.1),
    "both": Link(0.02, jitter=0.01, loss=0.05, duplicate=0.05),
}


@pytest.mark.parametrize("symmetric", [False, True], ids=["same port", "symmetric"])
@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("since", [3.0, 30.0], ids=["path up", "path lost"])
def test_who_gets_a_dead_ones_port_speaks_for_itself(
    since: float, link: str, symmetric: bool
) -> None:
    for seed in range(12):
        world = World(
            seed,
            link=Link(0.02),
            nat_a=Nat("203.0.113.101", filtering="endpoint"),
            nat_b=(TwoPorts if symmetric else Nat)("203.0.113.102"),
        )
        dead = world.connected()
        world.network.run(5.0)
        (client,) = world.server.role._clients  # type: ignore[attr-defined]
        port = address.port(client.path.peer.destination)
        world.client.kill()
        world.network.run(since)
        for host in (world.a, world.b, world.meeting):
            host.link = LINKS[link]
        newcomer = world.application()
        world.b._ports = itertools.chain([port], world.b._ports)
        world.client = world.start_client()
        newcomer.send(3)
        assert world.answered_again(newcomer, within=10.0)
        assert not world.echo.sources[newcomer.name] & world.echo.sources[dead.name]


@pytest.mark.parametrize("marked", [False, True], ids=["an original", "one of ours"])
def test_an_originals_path_outlives_an_introduction_at_its_address(marked: bool) -> None:
    site = Neighbours()
    original, _ = site.connected_without_marks(1001, ours=False)
    site.client(1002).is_introduced(1001, marked=marked)
    for _ in range(20):
        original.says(b"still here")
        site.run(0.1)
    assert original.heard == [original.name + b"still here"] * 20


# Whatever happens in whatever order


sockets = st.sampled_from((0, 0, 0, 0, 1))
places = [address.pack("203.0.113.102", port) for port in (1001, 1002, 1003)]
ports = st.sampled_from([*places, address.pack("203.0.113.66", 6666)])
numbers = st.integers(0, 2)


class AnyCourse(RuleBasedStateMachine):
    """Three clients of ours and some originals come to a server's sockets, from three ports."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World(idle=60.0)
        self.world.network.watch = self.hear
        serve: Any = self.world.server.role
        self.clients = serve._clients
        self.marks = [mark(number) for number in range(3)]
        self.pairings = [Pairing(KEY, serve._mark, one, client=True) for one in self.marks]
        self.heard: List[Tuple[Address, bytes]] = []
        self.said: List[bytes] = []

    def hear(self, host: Host, destination: Address, data: bytes) -> None:
        if host is self.world.a:
            self.heard.append((destination, data))

    def tell(self, socket: int, source: Address, data: bytes) -> None:
        is_open = self.world.server.outbox.open_endpoints
        towards_all = sorted((one for one in is_open if one.owner is None), key=_local)
        endpoint = towards_all[socket % len(towards_all)]
        self.said.append(data)
        self.world.server.burst(endpoint, source, data, len(data))

    def control(self, number: int, kind: Kind, transaction: bytes) -> bytes:
        return self.pairings[number].encode(Control(kind, transaction))

    @rule(socket=sockets, port=ports, number=numbers, marked=st.booleans())
    def one_is_introduced(self, socket: int, port: Address, number: int, marked: bool) -> None:
        punch = puncher.Punch(port, self.marks[number] if marked else b"")
        self.tell(socket, RENDEZVOUS, puncher.encode(punch))

    @rule(socket=sockets, port=ports, number=numbers)
    def one_asks(self, socket: int, port: Address, number: int) -> None:
        transaction = len(self.said).to_bytes(8, "big")
        self.tell(socket, port, self.control(number, Kind.CHECK, transaction))

    @rule(socket=sockets, number=numbers)
    def all_but_one_answer(self, socket: int, number: int) -> None:
        asked, self.heard = self.heard, []
        for source, data in asked:
            asking = [one for one in self.pairings if data.startswith(one.token)]
            if asking and asking[0] is not self.pairings[number] and data not in self.said:
                answer = Control(Kind.ANSWER, asking[0].decode(data).transaction)
                self.tell(socket, source, asking[0].encode(answer))

    @rule(socket=sockets, port=ports, number=numbers, marked=st.booleans())
    def one_shakes_hands(self, socket: int, port: Address, number: int, marked: bool) -> None:
        handshake = puncher.Handshake(2, self.marks[number] if marked else b"")
        self.tell(socket, port, puncher.encode(handshake))

    @rule(socket=sockets, port=ports)
    def one_sends(self, socket: int, port: Address) -> None:
        self.tell(socket, port, b"payload")

    @rule(socket=sockets, port=ports, number=numbers)
    def one_leaves(self, socket: int, port: Address, number: int) -> None:
        self.tell(socket, port, self.control(number, Kind.CLOSE, b"goodbye!"))

    @rule(socket=sockets, port=ports, which=st.integers(0, 50))
    def somebody_repeats(self, socket: int, port: Address, which: int) -> None:
        if self.said:
            self.tell(socket, port, self.said[which % len(self.said)])

    @rule()
    def the_service_sends(self) -> None:
        for client in self.clients:
            if client.open:
                service_says(self.world, client, b"payload")

    @rule(seconds=st.sampled_from((0.01, 0.3, 1.0, 5.0, 20.0)))
    def time_passes(self, seconds: float) -> None:
        self.world.network.run(seconds)

    @invariant()
    def all_tables_agree(self) -> None:
        assert_consistent(self.clients)

    def teardown(self) -> None:
        self.world.network.run(400.0)
        assert_nothing_is_left(self.world)


def _local(endpoint: Endpoint) -> bytes:
    assert endpoint.local is not None
    return endpoint.local


AnyCourse.TestCase.settings = settings(max_examples=90, stateful_step_count=40, deadline=None)
TestAnyCourse = AnyCourse.TestCase
