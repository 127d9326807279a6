"""Rendezvous, serve and connect together, in the virtual network: paths come up and stay."""

from __future__ import annotations

from typing import Callable

import pytest

from tests.virtual.network import Link, Nat
from tests.virtual.world import SERVICE, World

CHAOS = Link(delay=0.02, jitter=0.05, loss=0.05, duplicate=0.2)


def nat(number: int, mapping: str = "endpoint", filtering: str = "port", **more: bool) -> Nat:
    return Nat(f"203.0.113.{number}", mapping, filtering, **more)


@pytest.mark.parametrize("one_way", [0.001, 0.025, 0.1])
def test_the_first_answer_comes_within_three_round_trips(one_way: float) -> None:
    # Between the hosts two links are crossed, to the rendezvous one: its own has no delay.
    world = World(link=Link(delay=one_way))
    application = world.application()
    start = world.network.now
    application.send()
    assert world.network.run(5.0, application.answered)
    assert world.network.now - start <= 3 * (4 * one_way) + 0.02


def test_what_waits_is_delivered_in_order() -> None:
    world = World(link=Link(delay=0.05))
    application = world.application()
    application.send(200)
    assert world.network.run(5.0, lambda: len(application.received) == 200)
    assert application.numbers() == list(range(200))
    assert not world.foreign()


@pytest.mark.parametrize("loss,enough", [(0.1, 99), (0.3, 95)])
def test_loss_on_each_access_link(loss: float, enough: int) -> None:
    """Of a hundred applications that send four times a second, so many are answered in 10 s."""
    answered = 0
    for seed in range(100):
        world = World(seed, link=Link(0.03, loss=loss), register=False)
        world.network.run(15.0, lambda: "registered" in world.server.role.status())  # noqa: B023
        application = world.application()
        answered += world.answered_again(application, within=10.0, each=0.25)
        assert not world.foreign()
    assert answered >= enough


@pytest.mark.parametrize("seed", range(10))
def test_duplicates_and_reordering_are_harmless(seed: int) -> None:
    world = World(seed, link=CHAOS)
    application = world.application()
    for _ in range(200):
        application.send()
        world.network.run(0.05)
    assert application.received
    assert not world.foreign()


def test_a_hundred_clients_in_one_second() -> None:
    world = World(link=Link(delay=0.02))
    applications = [world.application() for _ in range(100)]
    for application in applications:
        application.send(3)
    assert world.network.run(2.0, lambda: all(len(a.received) == 3 for a in applications))
    assert len({frozenset(ports) for ports in world.echo.sources.values()}) == 100
    assert not world.foreign()


Event = Callable[[World], None]


def restart_server(world: World) -> None:
    world.server.kill()
    world.server = world.start_server()


def stop_server(world: World) -> None:
    world.server.stop()
    world.server = world.start_server()


def restart_client(world: World) -> None:
    world.client.kill()
    world.client = world.start_client()


EVENTS = {
    "the client's NAT forgets": lambda world: world.nat_b.forget(),
    "the server's NAT forgets": lambda world: world.nat_a.forget(),
    "both NATs forget": lambda world: (world.nat_a.forget(), world.nat_b.forget()),
    "the client's address changes": lambda world: world.nat_b.renumber("203.0.113.112"),
    "the server's address changes": lambda world: world.nat_a.renumber("203.0.113.111"),
    "the server dies": restart_server,
    "the server is stopped": stop_server,
    "the client dies": restart_client,
    "an hour passes in sleep": lambda world: setattr(
        world.network, "now", world.network.now + 250.0
    ),
}


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("name", EVENTS)
def test_a_path_in_use_is_found_again_within_ten_seconds(name: str, symmetric: bool) -> None:
    client_nat = nat(102, "port", "port") if symmetric else nat(102)
    world = World(nat_a=nat(101, filtering="address"), nat_b=client_nat, link=Link(delay=0.02))
    application = world.connected()
    for _ in range(20):
        application.send()
        world.network.run(0.1)
    ports = set(world.echo.sources[application.name])
    EVENTS[name](world)
    assert world.answered_again(application, within=10.0)
    if name.startswith(("the client's NAT", "the server's NAT", "both", "the client's address")):
        assert world.echo.sources[application.name] == ports, "the application saw another client"
    assert not world.foreign()


@pytest.mark.parametrize("name", ["the client's NAT forgets", "the server's NAT forgets"])
def test_an_idle_path_is_found_again(name: str) -> None:
    world = World(link=Link(delay=0.02))
    application = world.connected()
    world.network.run(60.0)
    EVENTS[name](world)
    world.network.run(30.0)
    before = len(application.received)
    application.send()
    world.network.run(1.0)
    assert len(application.received) > before


def test_keepalives_hold_an_idle_path_and_no_application_sees_them() -> None:
    world = World(link=Link(delay=0.02), idle=3600.0)
    application = world.connected()
    heard, sent = len(world.echo.received), world.network.sent
    world.network.run(1800.0)
    assert len(world.echo.received) == heard
    assert world.network.sent - sent < 3000 + 1800  # two ends' checks; the server's KeepAlives
    application.send()
    assert world.network.run(0.5, lambda: len(application.received) == 2)


def test_an_idle_path_closes_at_both_ends() -> None:
    world = World(link=Link(delay=0.02), idle=20.0)
    application = world.connected()
    world.network.run(25.0)
    assert world.client.role.status() == "0 of 0 paths up"
    assert "0 of 0 clients" in world.server.role.status()
    application.send()
    assert world.network.run(1.0, lambda: len(application.received) == 2)


def test_a_path_of_one_way_traffic_stays_up() -> None:
    world = World(link=Link(delay=0.02))
    world.connected()
    # Whatever the service sends back from now on is lost on the way: it is silent.
    del world.a.sockets[SERVICE]
    received = []
    world.a.bind(SERVICE, lambda source, data: received.append(data))
    application = world.applications[0]
    for _ in range(600):
        application.send()
        world.network.run(0.1)
    assert len(received) == 600


def test_a_restarted_rendezvous_gets_its_servers_back() -> None:
    world = World(link=Link(delay=0.02))
    world.rendezvous.kill()
    world.network.run(2.0)
    world.rendezvous = world.start_rendezvous()
    world.network.run(15.0)
    application = world.application()
    application.send()
    assert world.network.run(1.0, application.answered)


def test_a_dead_server_gives_way_within_seconds() -> None:
    world = World(link=Link(delay=0.02))
    world.server.kill()
    world.server = world.start_server()
    assert world.network.run(6.0, lambda: "registered" in world.server.role.status())


@pytest.mark.parametrize("delays", [(0.0, 0.0), (0.0, 0.2), (0.2, 0.0), (0.3, 0.3)])
@pytest.mark.parametrize("clashing", ["a", "b", "ab"])
def test_routers_that_take_strangers_datagrams(
    clashing: str, delays: "tuple[float, float]"
) -> None:
    world = World(
        nat_a=nat(101, takes_strangers="a" in clashing),
        nat_b=nat(102, takes_strangers="b" in clashing),
        link_a=Link(delays[0]),
        link_b=Link(delays[1]),
    )
    application = world.application()
    application.send()
    assert world.network.run(12.0, application.answered)
    assert not world.foreign()


@pytest.mark.parametrize("b", ["endpoint", "address", "port"])
@pytest.mark.parametrize("a", ["endpoint", "address", "port"])
@pytest.mark.parametrize("filtering", ["endpoint", "address", "port"])
def test_mappings_and_filterings(a: str, b: str, filtering: str) -> None:
    """The server's filter is as given, the client's lets only known ports in."""
    world = World(nat_a=nat(101, a, filtering), nat_b=nat(102, b), link=Link(0.01))
    application = world.application()
    application.send()
    met = world.network.run(8.0, application.answered)
    client_is_seen = b == "endpoint" or filtering in ("endpoint", "address")
    server_is_seen = a == "endpoint"
    assert met == (client_is_seen and server_is_seen)


def test_control_inside_a_burst_does_not_reach_the_application() -> None:
    world = World(link=Link(delay=0.01))
    application = world.connected()
    path = next(iter(world.client.role._paths.values()))  # type: ignore[attr-defined]
    peer, pairing = path.peer, path.pairing
    token = pairing.token
    payload = application.name + (0).to_bytes(4, "big")
    burst = payload.ljust(47, b"x") + token.ljust(47, b"y") + payload.ljust(47, b"z")
    received = len(application.received)
    world.client.burst(peer.endpoint, peer.destination, burst, 47)
    world.network.run(0.1)
    assert [d[8:] for d in application.received[received:]] == [b"x" * 39, b"z" * 39]
