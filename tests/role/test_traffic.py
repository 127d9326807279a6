"""What a path carries once it is up: bursts of any mixture, either way alone, any NAT's clock."""

from __future__ import annotations

from typing import Any, List

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.virtual.network import Link, Nat
from tests.virtual.world import LOOPBACK, SERVICE, Application, World
from udppunch import address
from udppunch.wire import puncher
from udppunch.wire.control import CONTROL_LENGTH, Control, Kind


def up(**settings: Any) -> "tuple[World, Application]":
    world = World(link=Link(delay=0.02), **settings)
    return world, world.connected()


def push(world: World, application: Application, count: int) -> None:
    """The service sends on its own, as a game or a call does."""
    for _ in range(count):
        data = application.name + application.sent.to_bytes(4, "big")
        application.sent += 1
        port = next(iter(world.echo.sources[application.name]))
        world.network.send(world.a, SERVICE, address.with_port(LOOPBACK, port), data, 0)


@st.composite
def mixtures(draw: st.DrawFn) -> List[str]:
    return draw(st.lists(st.sampled_from(("payload", "check", "late", "forged")), max_size=30))


@given(mixtures(), st.integers(1, CONTROL_LENGTH), st.booleans())
@settings(max_examples=60, deadline=None)
def test_payload_passes_in_order_and_control_does_not(
    mixture: List[str], last: int, to_client: bool
) -> None:
    world, _ = up()
    path: Any = next(iter(world.client.role._paths.values()))  # type: ignore[attr-defined]
    client: Any = next(iter(world.server.role._clients))  # type: ignore[attr-defined]
    sender = client.path if to_client else path
    receiver, peer = (world.client, path.peer) if to_client else (world.server, client.path.peer)
    wanted, burst = [], b""
    mark = world.server.role._mark if to_client else path.mark  # type: ignore[attr-defined]
    late = puncher.encode(puncher.Handshake(3 if to_client else 2, mark))
    for number, kind in enumerate(mixture):
        if kind == "payload":
            data = b"\x03" + number.to_bytes(4, "big") * 12
            wanted.append(data[:CONTROL_LENGTH])
        elif kind == "check":
            data = sender.pairing.encode(Control(Kind.CHECK, number.to_bytes(8, "big")))
        elif kind == "late":
            data = late.ljust(CONTROL_LENGTH, b"x")  # longer than a handshake: payload
            wanted.append(data)
        else:
            data = sender.pairing.token + bytes(CONTROL_LENGTH)
        burst += data[:CONTROL_LENGTH]
    closing = b"\x02" * last
    wanted.append(closing)
    got: List[bytes] = world.applications[0].received if to_client else world.echo.received
    before = len(got)
    receiver.burst(peer.endpoint, peer.destination, burst + closing, CONTROL_LENGTH)
    world.network.run(0.001)
    assert got[before:] == wanted


def test_long_trains_arrive_whole_and_in_order() -> None:
    world, application = up()
    for _ in range(20):
        application.send(200)
        world.network.run(0.01)
    world.network.run(1.0)
    assert application.numbers() == list(range(application.sent))
    assert not world.foreign()


def test_an_empty_datagram_is_a_datagram() -> None:
    world, application = up()
    front = address.with_port(LOOPBACK, 7001)
    world.network.send(world.b, application.port, front, b"", 0)
    world.network.run(1.0)
    assert b"" in world.echo.received and b"" in application.received


def test_a_path_that_only_the_service_uses_stays_up() -> None:
    world, application = up(idle=60.0)
    first = application.sent
    for _ in range(600):
        push(world, application, 1)
        world.network.run(0.5)
    assert application.numbers()[1:] == list(range(first, application.sent))


@pytest.mark.parametrize("which", ["a", "b", "ab"])
def test_a_path_that_only_the_service_uses_is_found_again(which: str) -> None:
    world, application = up()
    for _ in range(20):
        push(world, application, 1)
        world.network.run(0.1)
    for nat in ([world.nat_a] if "a" in which else []) + ([world.nat_b] if "b" in which else []):
        nat.forget()
    since = application.sent
    for _ in range(200):
        push(world, application, 1)
        world.network.run(0.1)
    assert any(number >= since for number in application.numbers())


@pytest.mark.parametrize("mapping", ["endpoint", "address", "port"])
def test_an_idle_path_outlives_the_timeouts_of_nats(mapping: str) -> None:
    """Linux's: 30 s, and 120 s once datagrams went both ways."""
    world, application = up(
        nat_a=Nat("203.0.113.101", filtering="address"),
        nat_b=Nat("203.0.113.102", mapping),
        idle=3600.0,
    )
    for _ in range(3):
        world.network.run(1100.0)
        push(world, application, 1)
        assert world.network.run(0.1, lambda: len(application.received) == 2)
        del application.received[1:]
        application.send()
        assert world.network.run(0.2, lambda: len(application.received) == 2)
        del application.received[1:]
    assert len(world.echo.sources[application.name]) == 1


@pytest.mark.parametrize("keepalive,stays", [(2.0, True), (15.0, False)])
def test_a_keepalive_shorter_than_the_timeout_is_what_holds_a_nat_open(
    keepalive: float, stays: bool
) -> None:
    nats = [Nat(f"203.0.113.10{n}", timeout=3.0, stream=8.0) for n in (1, 2)]
    world, application = up(nat_a=nats[0], nat_b=nats[1], keepalive=keepalive, idle=600.0)
    arrived = []
    for _ in range(10):
        world.network.run(41.0)
        before = len(application.received)
        push(world, application, 1)
        world.network.run(0.1)
        arrived.append(len(application.received) > before)
    assert all(arrived) is stays


def test_a_path_is_closed_when_it_is_idle_and_no_sooner() -> None:
    world, application = up(idle=3600.0)
    world.network.run(3590.0)
    assert world.client.role.status() == "1 of 1 paths up"
    assert "1 of 1 clients" in world.server.role.status()
    world.network.run(20.0)
    assert world.client.role.status() == "0 of 0 paths up"
    assert "0 of 0 clients" in world.server.role.status()
    sockets = len(world.a.sockets), len(world.b.sockets)
    application.send()
    world.network.run(1.0)
    assert len(application.received) == 2
    world.network.run(3610.0)
    assert (len(world.a.sockets), len(world.b.sockets)) == sockets, "sockets are left open"


def test_an_application_that_went_away_before_its_path_came_up_is_forgotten() -> None:
    world = World(idle=20.0)
    world.server.kill()
    world.network.run(20.0)
    world.application().send()
    world.network.run(60.0)
    assert world.client.role.status() == "0 of 0 paths up"


def test_a_server_that_closes_idle_paths_sooner_does_not_make_the_client_punch_for_ever() -> None:
    world = World(link=Link(0.02))
    world.server.kill()
    world.idle = 20.0
    world.server = world.start_server()
    world.network.run(10.0)
    application = world.application()
    application.send()
    world.network.run(600.0)
    assert world.client.role.status() == "0 of 0 paths up"
    application.send()
    assert world.network.run(1.0, lambda: len(application.received) == 2)


@pytest.mark.parametrize("loss,enough", [(0.1, 30), (0.3, 28)])
def test_paths_come_up_over_links_that_lose_double_and_reorder(loss: float, enough: int) -> None:
    link = Link(0.02, jitter=0.04, loss=loss, duplicate=0.2)
    answered = 0
    for seed in range(30):
        world = World(seed, link=link, register=False)
        application = world.application()
        world.network.run(10.0)
        answered += world.answered_again(application, within=10.0, each=0.25)
        for _ in range(20):
            application.send(5)
            world.network.run(0.5)
        assert not world.foreign()
    assert answered >= enough


def test_an_hour_of_suspend_in_the_midst_of_traffic() -> None:
    world, application = up()
    for _ in range(20):
        application.send()
        world.network.run(0.1)
    world.network.now += 3600.0
    assert world.answered_again(application, within=10.0)
    assert not world.foreign()


def test_no_more_sockets_refuses_the_new_and_keeps_the_old() -> None:
    world, application = up(idle=600.0)
    world.client.outbox.full = world.server.outbox.full = True
    newcomer = world.application()
    for _ in range(120):
        application.send()
        newcomer.send()
        world.network.run(0.5)
    assert len(application.received) >= 120 and not newcomer.received
    world.client.outbox.full = world.server.outbox.full = False
    assert world.answered_again(newcomer, within=60.0)


def test_a_service_that_is_down_is_served_again_when_it_comes_up() -> None:
    world, application = up()
    handler = world.a.sockets.pop(SERVICE)
    for _ in range(50):
        application.send()
        world.network.run(0.2)
    assert world.server.role.counters["refused by the application"] == 50
    world.a.sockets[SERVICE] = handler
    assert world.answered_again(application, within=0.5)
    assert len(world.echo.sources[application.name]) == 1


def test_names_that_change_are_followed() -> None:
    """The rendezvous moves to another machine, and its name with it."""
    world = World(link=Link(0.02))
    world.network.names["203.0.113.10"] = ["203.0.113.12"]
    world.rendezvous.kill()
    world.meeting = world.network.host("rendezvous", "203.0.113.12")
    world.rendezvous = world.start_rendezvous()
    assert world.network.run(40.0, lambda: bool(world.rendezvous.role.status().startswith("1 key")))
    assert world.answered_again(world.application(), within=40.0)


def test_what_comes_behind_a_close_in_the_same_burst_revives_nothing() -> None:
    world, application = up(idle=20.0)
    client: Any = next(iter(world.server.role._clients))  # type: ignore[attr-defined]
    path: Any = next(iter(world.client.role._paths.values()))  # type: ignore[attr-defined]
    closing = client.path.pairing.encode(Control(Kind.CLOSE, b"goodbye!"))
    burst = closing + b"p" * CONTROL_LENGTH + closing
    world.client.burst(path.peer.endpoint, path.peer.destination, burst, CONTROL_LENGTH)
    for _ in range(60):
        application.send()
        world.network.run(1.0)
    assert world.rendezvous.role.counters["introduced"] == 2
    assert not world.foreign()
