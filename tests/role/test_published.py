"""Our helper and our exposer joined in memory, over a wire that loses, doubles and reorders."""

from __future__ import annotations

import random
from typing import List

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.virtual.network import Link, Nat
from tests.virtual.published import KEEPALIVE, NAMED, PORT, Published, Service, Visitor
from udppunch import address

KEY = bytes(range(32))
BAD = Link(0.02, jitter=0.03, loss=0.05, duplicate=0.05)
guarded = pytest.mark.parametrize("key", [b"", KEY], ids=["open", "password"])
shared = pytest.mark.parametrize("workers", [1, 3])


def numbered(visitor: int, number: int) -> bytes:
    """Neighbours often have the same length, so that they come in trains."""
    return b"%02d %05d" % (visitor, number) + bytes(number // 5 % 4 * 9)


def whose(data: bytes) -> bytes:
    return data[:2]


def begun(world: Published) -> Published:
    world.network.run(2.0)
    return world


def batches(world: Published) -> int:
    return sum(program.batches for program in (*world.helper, world.exposer))


@guarded
@shared
def test_each_payload_comes_as_it_was_sent_and_in_order(key: bytes, workers: int) -> None:
    world = begun(Published(1, key=key, workers=workers, link=Link(0.01), tick=0.005))
    visitors = [world.visitor() for _ in range(8)]
    chance = random.Random(7)
    for number in range(60):
        for index, visitor in enumerate(visitors):
            tail = chance.choice([[], [b"x"], [b"y" * 1400], [b""] if key else []])
            visitor.send(*(numbered(index, 10 * number + n) for n in range(5)), *tail)
        if number % 3 == 2:
            world.network.run(0.01)
    world.network.run(1.0)
    assert [visitor.received for visitor in visitors] == [visitor.sent for visitor in visitors]
    assert len(world.service.received) == 8
    assert batches(world) > 10
    assert world.exposer.loop.trains > 10 and sum(h.loop.trains for h in world.helper) > 10
    assert all(program.loop.troubles == 0 for program in (*world.helper, world.exposer))


@guarded
@shared
@pytest.mark.parametrize("seed", range(2))
def test_nobody_gets_anothers_whatever_the_wire_does(key: bytes, workers: int, seed: int) -> None:
    world = begun(Published(seed, key=key, workers=workers, link=BAD, tick=0.01))
    visitors = [world.visitor() for _ in range(8)]
    for number in range(100):
        for index, visitor in enumerate(visitors):
            visitor.send(*(numbered(index, 3 * number + n) for n in range(3)))
        world.network.run(0.02)
    world.network.run(1.0)
    for visitor in visitors:
        assert set(visitor.received) <= set(visitor.sent)
        assert len(visitor.received) > 150, "of 300, which pass eight links"
    sources = world.sources_of(whose)
    assert len(sources) == 8 and all(len(ports) == 1 for ports in sources.values())
    sent = {data for visitor in visitors for data in visitor.sent}
    assert all(set(received) <= sent for received in world.service.received.values())
    for index, visitor in enumerate(visitors):
        assert set(world.service.received[min(sources[b"%02d" % index])]) <= set(visitor.sent)


@guarded
def test_a_service_may_answer_as_it_likes(key: bytes) -> None:
    """Much, with nothing, later, or to some of what it is sent."""
    world = begun(Published(key=key, tick=0.005))
    visitor = world.visitor()
    world.service.answer = lambda data: [b"", data, b"z" * 500, data * 3, b""] * 3
    visitor.send(b"ask")
    world.network.run(1.0)
    assert visitor.received == [b"", b"ask", b"z" * 500, b"ask" * 3, b""] * 3
    visitor.received.clear()
    world.service.answer = lambda data: []
    visitor.send(b"ask")
    world.network.run(100.0)
    (port,) = world.service.received
    world.service.send(address.pack("127.0.0.1", port), b"at last")
    world.network.run(1.0)
    assert visitor.received == [b"at last"]


@guarded
@shared
def test_it_keeps_its_way_open_through_a_nat_that_forgets(key: bytes, workers: int) -> None:
    world = begun(Published(key=key, workers=workers, nat=Nat("203.0.113.101", timeout=30.0)))
    visitor = world.visitor()
    assert world.answered(visitor, 1.0)
    for pause in (3600.0, 301.0):
        world.network.run(pause)
        assert world.answered(visitor, 0.5), "at the first datagram"
    assert sorted(map(len, world.service.received.values())) == [1, 1, 1], "each time a newcomer"


@guarded
@shared
@pytest.mark.parametrize("event", ["the exposer's address", "a forgetful NAT", "a new helper"])
def test_it_is_back_within_a_keepalive(key: bytes, workers: int, event: str) -> None:
    world = begun(Published(key=key, workers=workers, link=Link(0.02)))
    visitors = [world.visitor() for _ in range(3)]
    assert all(world.answered(visitor, 1.0) for visitor in visitors)
    world.network.run(60.0)
    for number in range(3):
        if event == "the exposer's address":
            world.nat.renumber(f"203.0.113.{110 + number}")
        elif event == "a forgetful NAT":
            world.nat.forget()
        else:
            world.start_helper()
        assert not world.answered(visitors[0], 0.5), "who would know"
        world.network.run(KEEPALIVE)
        assert all(world.answered(visitor, 0.5) for visitor in visitors)
        world.network.run(20.0 * number)


@guarded
@shared
def test_an_exposer_that_begins_anew_is_back_at_once(key: bytes, workers: int) -> None:
    world = begun(Published(key=key, workers=workers, link=Link(0.02)))
    visitor = world.visitor()
    for _ in range(3):
        assert world.answered(visitor, 1.0)
        world.exposer.kill()
        world.network.run(100.0)
        world.exposer = world.start_exposer()
    assert world.answered(visitor, 1.0)


@guarded
def test_workers_that_begin_anew_lose_nobodys_tag(key: bytes) -> None:
    world = begun(Published(key=key, workers=3))
    visitors = [world.visitor() for _ in range(12)]
    for worker in (0, 1, 2, 1):
        assert all(world.answered(visitor, 0.5) for visitor in visitors)
        world.start_worker(worker)
        world.network.run(0.1)
    assert all(world.answered(visitor, 0.5) for visitor in visitors)
    assert len(world.service.received) == 12, "the service has seen no more than there are"


def test_services_by_name() -> None:
    world = begun(Published(key=KEY, workers=2, names=("dns", "game")))
    services = {name: Service(world.home, 7100 + n) for n, name in enumerate(NAMED)}
    for name, service in services.items():
        world.start_exposer(name, service.port)
    world.network.run(2.0)
    visitors = {name: world.visitor(port) for name, port in NAMED.items()}
    visitors[""] = world.visitor(PORT)
    for name, visitor in visitors.items():
        visitor.send(b"to " + name.encode())
    world.network.run(1.0)
    services[""] = world.service
    for name, visitor in visitors.items():
        assert visitor.received == [b"to " + name.encode()]
        assert list(services[name].received.values()) == [[b"to " + name.encode()]]
    assert world.registrar.gauges() == {"exposers": 3, "connectees": 3}


@guarded
def test_the_idle_are_forgotten_at_both_ends(key: bytes) -> None:
    world = begun(Published(key=key, idle=30.0))
    visitors = [world.visitor() for _ in range(4)]
    assert all(world.answered(visitor, 0.5) for visitor in visitors)
    for _ in range(4):
        world.network.run(20.0)
        assert world.answered(visitors[0], 0.5)
    assert world.exposer.role.gauges()["connectees"] == 1
    assert world.registrar.gauges()["connectees"] == 1
    world.network.run(32.0)
    assert world.exposer.role.gauges()["connectees"] == 0
    assert world.registrar.gauges()["connectees"] == 0
    assert len(world.home.sockets) == 2, "the service's, and that towards the helper"


@guarded
@shared
def test_strangers_that_are_never_answered_take_nobodys_place(key: bytes, workers: int) -> None:
    world = begun(Published(key=key, workers=workers, max_clients=16))
    world.service.answer = lambda data: [data] if data.startswith(b"again") else []
    talkers = [world.visitor() for _ in range(4)]
    assert all(world.answered(visitor, 0.5) for visitor in talkers)
    for number in range(300):
        world.visitor().send(b"flood")
        if not number % 10:
            for visitor in talkers:
                visitor.send(b"again %d" % number)
            world.network.run(0.5)
    assert [visitor.received for visitor in talkers] == [visitor.sent for visitor in talkers]
    sources = world.sources_of(lambda data: data.startswith(b"again"))
    assert len(sources[True]) == 4, "none of them has become another one to the service"


def test_a_service_that_is_down_is_found_again_when_it_is_up() -> None:
    world = begun(Published())
    visitor = world.visitor()
    assert world.answered(visitor, 0.5)
    world.service.down()
    assert not world.answered(visitor, 30.0)
    assert world.exposer.role.counters["refused by the service"] > 10
    world.service.up()
    assert world.answered(visitor, 0.5)
    assert len(world.service.received) == 1


@guarded
def test_an_exposer_without_sockets_serves_those_it_has(key: bytes) -> None:
    world = begun(Published(key=key))
    known, newcomer = world.visitor(), world.visitor()
    assert world.answered(known, 0.5)
    world.exposer.full = True
    assert not world.answered(newcomer, 5.0) and world.answered(known, 0.5)
    world.exposer.full = False
    assert world.answered(newcomer, 0.5)


class AnyCourse(RuleBasedStateMachine):
    """Whatever happens in whatever order, nobody gets another's, and in the end all talk."""

    @initialize(
        seed=st.integers(0, 1 << 30),
        key=st.sampled_from((b"", KEY)),
        workers=st.sampled_from((1, 2)),
        mapping=st.sampled_from(("endpoint", "port")),
    )
    def begin(self, seed: int, key: bytes, workers: int, mapping: str) -> None:
        self.world = Published(
            seed, key=key, workers=workers, link=BAD, tick=0.01, idle=60.0,
            nat=Nat("203.0.113.101", mapping),
        )  # fmt: skip
        self.visitors: List[Visitor] = []
        self.numbers = iter(range(120, 250))

    @rule(count=st.integers(1, 8), who=st.integers(0, 9))
    def one_speaks(self, count: int, who: int) -> None:
        if who >= len(self.visitors):
            self.visitors.append(self.world.visitor())
        index = min(who, len(self.visitors) - 1)
        visitor = self.visitors[index]
        visitor.send(*(numbered(index, len(visitor.sent) + n) for n in range(count)))

    @rule(seconds=st.sampled_from((0.01, 0.1, 1.0, 20.0, 70.0)))
    def time_passes(self, seconds: float) -> None:
        self.world.network.run(seconds)

    @rule(kind=st.sampled_from(("forgets", "address")))
    def the_nat_changes(self, kind: str) -> None:
        number = next(self.numbers, None)
        if kind == "forgets" or number is None:
            self.world.nat.forget()
        else:
            self.world.nat.renumber(f"203.0.113.{number}")

    @rule(what=st.sampled_from(("exposer", "helper", "worker")), which=st.integers(0, 1))
    def a_process_begins_anew(self, what: str, which: int) -> None:
        world = self.world
        if what == "exposer":
            world.exposer.kill()
            world.exposer = world.start_exposer()
        elif what == "helper":
            world.start_helper()
        else:
            world.start_worker(which % world.workers)

    @invariant()
    def nobody_has_anothers(self) -> None:
        for visitor in getattr(self, "visitors", ()):
            assert set(visitor.received) <= set(visitor.sent)

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        self.world.network.run(2 * KEEPALIVE)
        for visitor in self.visitors[:3]:
            assert self.world.answered(visitor, 60.0)
        self.nobody_has_anothers()


TestAnyCourse = AnyCourse.TestCase
TestAnyCourse.settings = settings(max_examples=40, stateful_step_count=25)
