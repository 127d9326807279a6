"""What liars and eavesdroppers can do: little, and never to somebody else."""

from __future__ import annotations

from typing import Any, Callable, Dict, List, Tuple

import pytest

from tests.virtual.network import Host, Link
from tests.virtual.overheard import RENDEZVOUS, Overheard, Played, Sent, mark
from tests.virtual.world import KEY, MEETING, PORT, World
from udppunch import address
from udppunch.address import Address
from udppunch.proto.puncher.path import CHECK_BURST, CHECK_RATE, State
from udppunch.wire import puncher
from udppunch.wire.control import CONTROL_LENGTH, Control, Kind

VICTIM = address.pack("203.0.113.200", 4500)
ATTACKER = address.pack("203.0.113.66", 6666)


class Liar:
    """A rendezvous that answers each client with all of `punches`, for as long as a second."""

    def __init__(self, host: Host, punches: List[puncher.Message]) -> None:
        self._host = host
        self._punches = [puncher.encode(punch) for punch in punches]
        host.bind(PORT, self._receive)

    def _receive(self, source: Address, data: bytes) -> None:
        if data[:1] != b"\0":
            return
        network = self._host.network
        for number, punch in enumerate(self._punches):
            when = network.now + 0.01 * number
            network.at(when, lambda p=punch: network.send(self._host, PORT, source, p, 0))


def lied_to(punches: List[puncher.Message]) -> Tuple[World, Sent]:
    world = World(link=Link(0.01))
    world.rendezvous.kill()
    Liar(world.meeting, punches)
    world.application().send()
    return world, Sent(world, world.b)


LIES: Dict[str, Callable[[int], puncher.Message]] = {
    "a hundred addresses": lambda n: puncher.Punch(
        address.pack(f"203.0.113.{150 + n % 100}", 4500), mark(1)
    ),
    "a hundred ports": lambda n: puncher.Punch(address.with_port(VICTIM, 1 + n), mark(1)),
    "a hundred servers": lambda n: puncher.Punch(VICTIM, mark(n)),
    "servers of theirs": lambda n: puncher.Punch(address.with_port(VICTIM, 1 + n)),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_client_floods_nobody_for_a_rendezvous_that_lies(lie: str) -> None:
    world, sent = lied_to([LIES[lie](number) for number in range(100)])
    world.network.run(30.0)
    assert 0 < len(sent.times) <= 160
    assert sent.most_within(1.0) <= 100
    assert sum(sent.octets.values()) <= 10_000
    world.network.run(600.0)
    assert world.client.role.status() == "0 of 0 paths up", "the application has long gone"


def test_a_client_that_goes_on_trying_becomes_no_nuisance() -> None:
    world, sent = lied_to([puncher.Punch(VICTIM, mark(1))])
    for _ in range(600):
        world.applications[0].send()
        world.network.run(1.0)
    later = [when for when in sent.times if when > sent.times[0] + 60.0]
    assert len(later) <= 1.5 * 540, "checks a second, at most, in the long run"


def test_a_server_floods_nobody_for_a_rendezvous_that_lies() -> None:
    world = World(link=Link(0.01))
    sent = Sent(world, world.a)
    endpoint = world.server.role._presence.endpoint  # type: ignore[attr-defined]
    for number in range(3000):
        punch = puncher.encode(puncher.Punch(VICTIM, mark(number)))
        world.server.burst(endpoint, RENDEZVOUS, punch, len(punch))
        if number % 10 == 9:
            world.network.run(0.01)
    world.network.run(27.0)
    assert len(sent.times) <= CHECK_BURST + 30 * CHECK_RATE
    assert sum(sent.octets.values()) <= len(sent.times) * CONTROL_LENGTH
    assert "0 of 1024 clients" in world.server.role.status()


@pytest.mark.parametrize("peer", ["192.168.1.1", "127.0.0.1", "10.0.0.1", "224.0.0.1", "0.0.0.0"])
def test_a_public_rendezvous_sends_nobody_into_private_networks(peer: str) -> None:
    world = World(link=Link(0.01))
    world.rendezvous.kill()
    world.network.names[MEETING] = ["8.8.8.8"]
    liar = world.network.host("public", "8.8.8.8")
    Liar(liar, [puncher.Punch(address.pack(peer, 53), mark(1))])
    world.client.kill()
    world.client = world.start_client()
    asked: List[Address] = []
    world.network.watch = lambda host, destination, data: asked.append(destination)
    world.application().send()
    world.network.run(10.0)
    assert asked
    assert not [one for one in asked if one[:-2] == address.pack(peer, 53)[:-2]]


# On a path that is up


def test_a_captured_check_steals_no_path() -> None:
    overheard = Overheard()
    world, application = overheard.world, overheard.application
    sent = Sent(world, world.a)
    overheard.tell_server(ATTACKER, overheard.check)
    for _ in range(50):
        application.send()
        world.network.run(0.1)
    assert len(application.received) == 1 + 50
    # It is answered and asked back as any candidate, and left when it does not answer.
    assert sent.octets[ATTACKER] <= 30 * CONTROL_LENGTH
    assert not world.foreign()


def test_a_captured_check_takes_no_other_clients_place() -> None:
    overheard = Overheard()
    world = overheard.world
    other = world.application()
    other.send()
    assert world.network.run(2.0, other.answered)
    (client,) = [
        client
        for client in world.server.role._clients  # type: ignore[attr-defined]
        if client is not overheard.client
    ]
    path = next(
        path
        for path in world.client.role._paths.values()  # type: ignore[attr-defined]
        if path is not overheard.path
    )
    for count in range(2, 30):
        # Beside a control of the other's own it is not just taken for the other's payload.
        own = path.pairing.encode(Control(Kind.CHECK, count.to_bytes(8, "big")))
        overheard.tell_server(client.path.peer.destination, own + overheard.check)
        other.send()
        world.network.run(0.1)
        # Who can forge that address can have the server say anything there, but no more.
        assert sum(data.startswith(other.name) for data in other.received) == count
    assert len(world.echo.sources[other.name]) == 1


def test_captured_checks_from_everywhere_do_not_push_the_client_out() -> None:
    overheard = Overheard()
    world, application = overheard.world, overheard.application
    for number in range(200):
        overheard.tell_server(address.pack("203.0.113.66", 2000 + number), overheard.check)
        before = len(application.received)
        application.send()
        world.network.run(0.1)
        assert len(application.received) == before + 1
    assert len(overheard.client.ways) <= 8


def test_a_captured_check_makes_no_amplifier_of_payload() -> None:
    overheard = Overheard()
    sent = Sent(overheard.world, overheard.world.a)
    overheard.tell_server(VICTIM, overheard.check)
    for _ in range(1000):
        overheard.tell_server(VICTIM, b"")
    overheard.world.network.run(10.0)
    assert sent.octets[VICTIM] <= 30 * CONTROL_LENGTH


def test_a_captured_check_turns_no_payload_of_a_lost_path_on_a_stranger() -> None:
    overheard = Overheard()
    world = overheard.world
    # The service goes on sending to a client that is gone, until the path is lost.
    world.client.kill()
    port = next(iter(world.echo.sources[overheard.application.name]))
    to_client = address.pack("127.0.0.1", port)
    sent = Sent(world, world.a)
    for second in range(300):
        world.network.send(world.a, 7000, to_client, bytes(1000), 0)
        if second % 10 == 0:
            overheard.tell_server(VICTIM, overheard.check)
        world.network.run(0.1)
    assert sent.octets[VICTIM] <= 3 * 30 * CONTROL_LENGTH


def test_who_gets_the_clients_old_port_is_another_client() -> None:
    """A NAT that has forgotten the client gives its port to the next one."""
    overheard = Overheard()
    world = overheard.world
    world.client.kill()
    newcomer = Played(world, 7, address.port(overheard.to_server.destination))
    newcomer.is_introduced()
    for _ in range(20):
        newcomer.asks()
        world.network.run(0.05)
    assert overheard.client.path.state is State.LOST
    assert "1 of 2 clients" in world.server.role.status()
    newcomer.says(b"hello")
    world.network.run(1.0)
    sources = world.echo.sources
    assert sources.keys() == {overheard.application.name, newcomer.name}, "nothing but payload"
    assert not sources[newcomer.name] & sources[overheard.application.name]
    assert newcomer.heard == [newcomer.name + b"hello"]


def test_who_is_introduced_where_a_path_is_up_does_not_disturb_it() -> None:
    """A symmetric NAT has one port for two hosts, for one of them towards the rendezvous."""
    overheard = Overheard()
    world, application = overheard.world, overheard.application
    there = overheard.to_server.destination
    for number in range(10):
        overheard.tell_server(RENDEZVOUS, puncher.encode(puncher.Punch(there, mark(7 + number))))
        before = len(application.received)
        application.send(5)
        world.network.run(0.1)
        assert len(application.received) == before + 5
    world.network.run(10.0)
    assert not world.foreign()
    assert len(world.echo.sources[application.name]) == 1


STRAYS: Dict[str, Any] = {
    "punch to another server": puncher.Punch(VICTIM, mark(9), ATTACKER, 99),
    "punch to a server of theirs": puncher.Punch(VICTIM),
    "no server": puncher.Error(puncher.Refusal.NO_SERVER),
    "key is taken": puncher.Error(puncher.Refusal.DUPLICATE_KEY),
    "registered": puncher.Ok(mark(9), ATTACKER, 99),
    "registered with theirs": puncher.Ok(),
    "handshake": puncher.Handshake(1, mark(9)),
    "keepalive": puncher.KeepAlive(mark(9)),
    "question": puncher.Client(KEY, mark(9)),
}


@pytest.mark.parametrize("stray", STRAYS)
def test_a_forged_word_of_the_rendezvous_does_not_touch_a_path_that_is_up(stray: str) -> None:
    overheard = Overheard()
    world, application = overheard.world, overheard.application
    data = puncher.encode(STRAYS[stray])
    endpoint = overheard.path.peer.endpoint
    for _ in range(20):
        overheard.tell_server(RENDEZVOUS, data)
        world.client.burst(endpoint, RENDEZVOUS, data, len(data))
        before = len(application.received)
        application.send()
        world.network.run(0.1)
        assert len(application.received) == before + 1
    assert not world.foreign()
    assert len(world.echo.sources[application.name]) == 1


def test_forged_control_is_dropped_and_counted() -> None:
    overheard = Overheard()
    world = overheard.world
    pairing = overheard.path.pairing
    token = pairing.token
    mirrored = pairing.encode(Control(Kind.CLOSE, b"mirrored"))
    forged = [token, token + bytes(31), token + bytes(60), overheard.check[:-1] + b"\0", mirrored]
    for data in forged:
        overheard.tell_client(data)
    for data in [*forged[:4], overheard.client.path.pairing.encode(Control(Kind.CLOSE, b"m" * 8))]:
        overheard.tell_server(overheard.to_server.destination, data)
    world.network.run(5.0)
    for runner in (world.client, world.server):
        assert runner.role.counters["dropped: forged control"] == 5
    assert not world.foreign()
    overheard.application.send()
    assert world.network.run(0.2, lambda: len(overheard.application.received) == 2)
