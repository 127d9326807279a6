"""Whatever happens in whatever order, nothing breaks, and in the end the applications talk."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.standin import attacker
from tests.virtual.network import Link, Nat
from tests.virtual.world import PORT, World
from udppunch import address

HOSTILE = list(attacker.datagrams(7, 400, key="the key of the tests"))
mappings = st.sampled_from(("endpoint", "address", "port"))


class AnyCourse(RuleBasedStateMachine):
    @initialize(
        seed=st.integers(0, 1 << 30),
        loss=st.sampled_from((0.0, 0.1, 0.2)),
        mapping=mappings,
        strangers=st.booleans(),
    )
    def build(self, seed: int, loss: float, mapping: str, strangers: bool) -> None:
        self.world = World(
            seed,
            nat_a=Nat("203.0.113.101", filtering="address", takes_strangers=strangers),
            nat_b=Nat("203.0.113.102", mapping),
            link=Link(0.02, jitter=0.03, loss=loss, duplicate=0.1),
            idle=60.0,
            register=False,
        )
        self.numbers = iter(range(120, 250))
        self.stranger = self.world.network.host("stranger", "203.0.113.66")

    @rule(count=st.integers(1, 20))
    def an_application_sends(self, count: int) -> None:
        if not self.world.applications:
            self.world.application()
        self.world.applications[-1].send(count)

    @rule()
    def another_application_comes(self) -> None:
        if len(self.world.applications) < 20:
            self.world.application().send()

    @rule(seconds=st.floats(0.001, 90.0))
    def time_passes(self, seconds: float) -> None:
        self.world.network.run(seconds)

    @rule(seconds=st.floats(1.0, 3600.0))
    def the_machines_sleep(self, seconds: float) -> None:
        self.world.network.now += seconds

    @rule(which=st.sampled_from("ab"))
    def a_nat_forgets(self, which: str) -> None:
        (self.world.nat_a if which == "a" else self.world.nat_b).forget()

    @rule(which=st.sampled_from("ab"))
    def an_address_changes(self, which: str) -> None:
        router = self.world.nat_a if which == "a" else self.world.nat_b
        number = next(self.numbers, None)
        if number is not None:
            router.renumber(f"203.0.113.{number}")

    @rule(which=st.sampled_from(("rendezvous", "server", "client")), kindly=st.booleans())
    def a_process_restarts(self, which: str, kindly: bool) -> None:
        process = getattr(self.world, which)
        process.stop() if kindly else process.kill()
        setattr(self.world, which, getattr(self.world, f"start_{which}")())

    @rule(first=st.integers(0, 380), count=st.integers(1, 20), whom=st.integers(0, 10))
    def a_stranger_sends(self, first: int, count: int, whom: int) -> None:
        """To the rendezvous, or straight to a socket of either end."""
        for data in HOSTILE[first : first + count]:
            source = address.pack(self.stranger.ip, 6666)
            if whom == 0:
                there = address.pack("203.0.113.10", PORT)
                self.world.network.send(self.stranger, 6666, there, data, 0)
                continue
            host = self.world.a if whom % 2 else self.world.b
            wan = [number for number in host.sockets if number >= 40000]
            if wan:
                host.deliver(wan[whom % len(wan)], source, data)

    @invariant()
    def no_application_gets_what_none_sent(self) -> None:
        if hasattr(self, "world"):
            # A stranger on the host itself may well write to an application's own port.
            strays = [d for d in self.world.foreign() if d not in HOSTILE]
            assert not strays

    def teardown(self) -> None:
        if hasattr(self, "world"):
            world = self.world
            world.nat_a.takes_strangers = False
            world.a.link = world.b.link = Link(0.02)
            world.network.run(20.0)
            assert world.answered_again(world.application(), within=30.0)


AnyCourse.TestCase.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
TestAnyCourse = AnyCourse.TestCase
