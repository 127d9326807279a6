"""How long NATs keep a binding, as far as servers of each kind let a client see it."""

from __future__ import annotations

from typing import List, Optional, Tuple, Type

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.proto.stun_world import (
    FIRST,
    SECOND,
    WAN,
    Client,
    Deaf,
    Refusing,
    Serving,
    WithoutResponsePort,
    behind,
)
from tests.virtual.network import Link, Nat, Network
from udppunch import address
from udppunch.address import Address
from udppunch.proto.stun.lifetime import ASKING_SOCKET, Discovery, Lifetime, Method
from udppunch.proto.stun.transactions import Outgoing
from udppunch.wire import stun
from udppunch.wire.stun import Error, Kind, Message

HOUR = 3600.0


def begin(
    network: Network, nat: Nat, link: Optional[Link] = None, bounds: Tuple[float, float] = (5, 300)
) -> Client:
    host = behind(network, nat, link=link)
    return Client(host, Discovery(FIRST, *bounds, 2.0, network.random.randbytes))


@pytest.mark.parametrize("lifetime", [8.0, 30.0, 60.0, 119.0, 250.0])
@pytest.mark.parametrize("filtering", ["endpoint", "port"])
def test_by_response_port(lifetime: float, filtering: str) -> None:
    network = Network()
    Serving(network, FIRST)
    client = begin(network, Nat(WAN, "endpoint", filtering, timeout=lifetime, stream=500.0))
    began = network.now
    found = client.run(HOUR)
    assert found.method is Method.RESPONSE_PORT and found.reason == ""
    assert found.kept < lifetime <= found.gone
    assert found.gone - found.kept <= 2.0
    assert network.now - began < 60 + 10 * lifetime


@pytest.mark.parametrize("lifetime", [8.0, 30.0, 119.0, 250.0])
@pytest.mark.parametrize("serving", [WithoutResponsePort, Deaf])
def test_by_the_reflexive_address_where_the_nat_takes_another_port(
    lifetime: float, serving: Type[Serving]
) -> None:
    network = Network()
    serving(network, FIRST)
    client = begin(network, Nat(WAN, "port", "port", timeout=lifetime, stream=500.0))
    found = client.run(HOUR)
    assert found.method is Method.REFLEXIVE_ADDRESS and found.reason == ""
    assert found.kept < lifetime <= found.gone
    assert found.gone - found.kept <= 2.0


def test_where_the_nat_takes_the_same_port_an_ordinary_server_tells_nothing() -> None:
    network = Network()
    WithoutResponsePort(network, FIRST)
    found = begin(network, Nat(WAN, "endpoint", "port", timeout=30.0)).run(HOUR)
    assert (found.kept, found.gone) == (0.0, None)
    assert "RESPONSE-PORT" in found.reason


def test_gone_before_the_shortest_time_and_kept_until_after_the_longest() -> None:
    network = Network()
    Serving(network, FIRST)
    found = begin(network, Nat(WAN, timeout=3.0)).run(HOUR)
    assert found == Lifetime(Method.RESPONSE_PORT, 0.0, 5.0)
    network = Network()
    Serving(network, FIRST)
    found = begin(network, Nat(WAN, timeout=500.0)).run(HOUR)
    assert found.gone is None and 298.0 <= found.kept <= 300.0


def test_each_binding_has_a_socket_of_its_own_that_says_one_thing() -> None:
    network = Network()
    Serving(network, FIRST)
    client = begin(network, Nat(WAN, timeout=30.0))
    network.run(1.0)
    assert client.role.sockets == {ASKING_SOCKET, client.opened[-1]}
    client.run(HOUR)
    idle = [one.socket for one in client.sent if one.socket != ASKING_SOCKET]
    assert len(idle) == len(set(idle)) and client.role.sockets == frozenset()


def test_a_server_that_is_not_there() -> None:
    network = Network()
    found = begin(network, Nat(WAN)).run(HOUR)
    assert found == Lifetime(None, reason="no sound answer from 203.0.113.10:3478")


def test_a_server_that_answers_only_whom_it_knows() -> None:
    network = Network()
    Refusing(network, FIRST)
    found = begin(network, Nat(WAN)).run(HOUR)
    assert found.method is None and "no sound answer" in found.reason


def test_what_was_found_before_the_server_went_away_is_kept() -> None:
    network = Network()
    serving = Serving(network, FIRST)
    client = begin(network, Nat(WAN, timeout=30.0))
    assert network.run(HOUR, lambda: client.role.found.kept > 10.0)
    before = client.role.found
    serving.hosts["203.0.113.10"].link.loss = 1.0
    found = client.run(HOUR)
    assert "no sound answer" in found.reason
    assert (found.method, found.kept) == (before.method, before.kept)
    assert 10.0 < found.kept < 30.0


def test_what_is_in_doubt_when_the_server_goes_away_is_not_told() -> None:
    course = Course()
    course.silence()
    while course.discovery.outcome is None:
        course.discovery.expire(course.discovery.deadline())
    assert course.discovery.outcome == Lifetime(
        Method.RESPONSE_PORT, reason="no sound answer from 203.0.113.10:3478"
    )


@settings(max_examples=60)
@given(
    st.integers(0, 2**32),
    st.sampled_from([8.0, 30.0, 119.0]),
    st.sampled_from([Serving, WithoutResponsePort]),
)
def test_over_bad_links_it_is_found_too_or_said_not_to_be(
    seed: int, lifetime: float, serving: Type[Serving]
) -> None:
    network = Network(seed)
    serving(network, FIRST, SECOND)
    link = Link(delay=0.02, jitter=0.4, loss=0.1, duplicate=0.1)
    nat = Nat(WAN, "port", "port", timeout=lifetime)
    found = begin(network, nat, link).run(HOUR)
    if found.reason:
        return
    # What was lost and asked again was asked later: up to the time that an answer is awaited.
    assert found.kept < lifetime + 1.0
    assert found.gone is not None and found.gone > lifetime - 5.5


def test_loss_rarely_matters() -> None:
    right = 0
    for seed in range(100):
        network = Network(seed)
        Serving(network, FIRST)
        link = Link(delay=0.02, jitter=0.1, loss=0.1, duplicate=0.05)
        found = begin(network, Nat(WAN, timeout=30.0, stream=500.0), link).run(HOUR)
        right += found.kept < 30.0 < found.gone + 1.0
    assert right >= 98


class LosesTheFirst(Serving):
    """All the requests of the first transaction that has RESPONSE-PORT."""

    lost: Optional[bytes] = None

    def hear(self, number: int, source: Address, data: bytes) -> None:
        asked = stun.decode(data)
        if asked.response_port is not None:
            self.lost = self.lost or asked.transaction
        if asked.transaction != self.lost:
            super().hear(number, source, data)


class Course:
    """A discovery told by hand what comes, up to a binding that is idle since 0.5 s.

    It wakes up a little late, as all do.
    """

    def __init__(self) -> None:
        numbers = iter(range(1000))
        self.discovery = Discovery(FIRST, 5, 300, 2.0, lambda n: next(numbers).to_bytes(n, "big"))
        ((socket, _, opening),) = self.discovery.start(0.0)
        asked, _ = self.answer(opening, socket, 0.1)
        self.idle(*self.answer(asked.data, socket, 0.2), now=0.5)

    def idle(self, opening: Outgoing, now: float) -> None:
        self.opening, self.idle_since = opening, now
        self.answer(opening.data, opening.socket, now)

    def ask(self, now: float) -> bytes:
        """The request whose answer is to find the binding."""
        asked, witness = self.discovery.expire(now)
        assert stun.decode(asked.data).response_port == 50000
        assert stun.decode(witness.data).response_port is None
        return asked.data

    def wakes(self) -> float:
        return self.discovery.deadline() + 0.001

    def silence(self) -> None:
        """The binding is asked for in vain, the witness is answered."""
        now = self.wakes()
        asked, witness = self.discovery.expire(now)
        self.answer(witness.data, witness.socket, now + 0.1)
        sent = [asked]
        while sent and sent[0].data == asked.data:
            now = self.wakes()
            sent = self.discovery.expire(now)
        if sent:
            self.idle(*sent, now=now + 0.1)

    def kept(self) -> None:
        self.answered(self.opening.socket, self.wakes())

    def gone(self) -> None:
        """Its port is the asking socket's."""
        self.answered(ASKING_SOCKET, self.wakes())

    def answered(self, socket: int, now: float) -> None:
        opened = self.answer(self.ask(now), socket, now + 0.1)
        if opened:
            self.idle(*opened, now=now + 0.2)

    def answer(self, request: bytes, socket: int, now: float) -> List[Outgoing]:
        mapped = address.pack(WAN, 50000)
        answer = Message(Kind.SUCCESS, stun.decode(request).transaction, xor_mapped=mapped)
        return self.discovery.receive(stun.encode(answer), FIRST, socket, now)


def test_the_port_given_to_another_socket_means_that_the_binding_is_gone() -> None:
    course = Course()
    course.answer(course.ask(5.5), ASKING_SOCKET, 5.6)
    assert course.discovery.outcome == Lifetime(Method.RESPONSE_PORT, 0.0, 5.0)


def test_the_port_still_the_binding_s_means_that_it_is_there() -> None:
    course = Course()
    course.answer(course.ask(5.5), course.opening.socket, 5.6)
    assert course.discovery.found == Lifetime(Method.RESPONSE_PORT, 5.0, None)


def test_an_error_says_nothing_of_the_binding() -> None:
    course = Course()
    error = Message(Kind.ERROR, stun.decode(course.ask(5.5)).transaction, error=Error(500))
    (again,) = course.discovery.receive(stun.encode(error), FIRST, ASKING_SOCKET, 5.6)
    assert course.discovery.found == Lifetime(Method.RESPONSE_PORT)
    assert again.socket not in (ASKING_SOCKET, course.opening.socket)


def test_a_belated_answer_makes_the_binding_idle_from_then_on() -> None:
    course = Course()
    assert course.discovery.deadline() == 5.5
    course.answer(course.opening.data, course.opening.socket, 2.0)
    assert course.discovery.deadline() == 7.0
    assert course.discovery.expire(5.5) == []


def test_a_binding_used_both_ways_for_seconds_is_no_ordinary_one() -> None:
    course = Course()
    (again,) = course.answer(course.opening.data, course.opening.socket, 2.5)
    assert again.socket not in (ASKING_SOCKET, course.opening.socket)
    assert course.discovery.found == Lifetime(Method.RESPONSE_PORT)


def test_what_counts_is_how_long_it_was_idle_not_how_long_it_was_to_be() -> None:
    course = Course()
    course.answer(course.ask(20.5), course.opening.socket, 20.6)
    assert course.discovery.found.kept == 20.0


def test_silence_is_tried_again_before_it_is_believed() -> None:
    course = Course()
    silent = course.opening.socket
    course.silence()
    assert course.opening.socket not in (ASKING_SOCKET, silent)
    assert course.discovery.outcome is None
    course.silence()
    assert course.discovery.outcome == Lifetime(Method.RESPONSE_PORT, 0.0, 5.001)


def test_silence_that_was_loss_is_forgotten() -> None:
    course = Course()
    course.silence()
    course.kept()
    found = course.discovery.found
    assert found == Lifetime(Method.RESPONSE_PORT, found.kept)
    assert round(found.kept, 2) == 5.0


def test_loss_does_not_deceive_for_ever() -> None:
    """Each time is answered by silence at first, and the binding is there the second time."""
    course, silent, refuted = Course(), set(), 0
    while course.discovery.outcome is None:
        waited = round(course.discovery.deadline() - course.idle_since, 1)
        if waited in silent:
            course.kept()
            refuted += 1
        else:
            silent.add(waited)
            course.silence()
    assert course.discovery.outcome.reason == "a binding was kept for longer than another one"
    assert refuted == 4


def test_silence_is_confirmed_by_a_port_given_away_too() -> None:
    course = Course()
    course.silence()
    course.gone()
    assert course.discovery.outcome == Lifetime(Method.RESPONSE_PORT, 0.0, 5.001)


def test_one_who_wakes_up_too_late_sees_only_what_is_kept() -> None:
    course = Course()
    course.answered(ASKING_SOCKET, course.wakes() + 600.0)
    assert course.discovery.found == Lifetime(Method.RESPONSE_PORT)
    course.kept()
    assert round(course.discovery.found.kept, 2) == 5.0
    course.answered(course.opening.socket, course.wakes() + 100.0)
    assert round(course.discovery.found.kept, 2) == 138.73
    for _ in range(5):
        course.answered(ASKING_SOCKET, course.wakes() + 1.0)
    found = course.discovery.outcome
    assert found == Lifetime(Method.RESPONSE_PORT, found.kept, reason="this host wakes up too late")


@pytest.mark.parametrize("lateness", [0.0, 0.6, 0.7, 2.0, 10.0])
def test_it_ends_however_late_it_wakes_up(lateness: float) -> None:
    course, trials = Course(), 0
    while course.discovery.outcome is None:
        trials += 1
        now = course.wakes() + lateness
        kept = now - course.idle_since < 30.0
        course.answered(course.opening.socket if kept else ASKING_SOCKET, now)
    assert trials < 40
    found = course.discovery.outcome
    assert found.kept < 30.0 and (found.gone is None or found.gone >= 30.0)


def test_the_first_silence_is_not_for_want_of_response_port() -> None:
    network = Network()
    LosesTheFirst(network, FIRST)
    found = begin(network, Nat(WAN, timeout=30.0)).run(HOUR)
    assert found.method is Method.RESPONSE_PORT and found.kept < 30.0 <= found.gone


def test_a_nat_that_contradicts_itself_is_reported() -> None:
    course = Course()
    course.kept()
    course.gone()
    course.answered(course.opening.socket, course.wakes() + 600.0)
    found = course.discovery.outcome
    assert 600.0 < found.kept and 38.0 < found.gone < 39.0
    assert found.reason == "a binding was kept for longer than another one"
