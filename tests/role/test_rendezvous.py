"""The rendezvous alone, against whatever strangers send: it answers little, seldom, once."""

from __future__ import annotations

from typing import Any, List, Tuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.standin import attacker
from tests.virtual.network import Network, Runner
from tests.virtual.world import KEY, MEETING, PORT
from udppunch import address
from udppunch.address import Address
from udppunch.config.roles import RendezvousConfig
from udppunch.proto.puncher import registry
from udppunch.role.rendezvous import Rendezvous
from udppunch.wire import marks, puncher

MARK = marks.new(b"m" * 16)
HOSTILE = list(attacker.datagrams(3, 2000, key=KEY.decode()))


class Meeting:
    """A rendezvous, and hosts that write to it by hand."""

    def __init__(self, *, ip: str = MEETING, max_keys: int = 100, rate: float = 500.0) -> None:
        self.network = Network()
        self.heard: List[Tuple[Address, bytes]] = []
        host = self.network.host("rendezvous", ip)
        config = RendezvousConfig((address.pack("0.0.0.0", PORT),), max_keys, rate)
        self.runner = Runner(host, lambda outbox, rng: Rendezvous(config, outbox, rng))
        self.role: Any = self.runner.role
        self.network.watch = lambda _, destination, data: self.heard.append((destination, data))
        self.address = address.pack(ip, PORT)
        self._endpoint = self.role._endpoints[0]

    def tell(self, source: Address, data: bytes) -> List[Tuple[Address, bytes]]:
        """What it sends at once for a datagram from `source`."""
        del self.heard[:]
        self.runner.burst(self._endpoint, source, data, len(data))
        self.network.run(0.0)
        return list(self.heard)

    def say(self, number: int, message: puncher.Message) -> List[Tuple[Address, bytes]]:
        return self.tell(at(number), puncher.encode(message))


def at(number: int) -> Address:
    return address.pack("198.51.100.7", number)


@pytest.mark.parametrize("key", [b"k", b"k" * puncher.KEY_MAXIMUM])
def test_nothing_marked_gets_more_than_it_sent(key: bytes) -> None:
    meeting = Meeting()
    for number, message in enumerate(
        (
            puncher.Server(key, MARK),
            puncher.Server(key, marks.new(b"o" * 16)),
            puncher.Client(key, MARK),
            puncher.Client(b"another", MARK),
            puncher.KeepAlive(MARK),
        )
    ):
        source, data = at(65000 + number), puncher.encode(message)
        answers = [answer for peer, answer in meeting.tell(source, data) if peer == source]
        assert len(answers) == 1 and len(answers[0]) <= len(data)
        for cut in range(len(data) - 1, 0, -1):
            answers = [a for peer, a in meeting.tell(at(64000), data[:cut]) if peer == at(64000)]
            # Without all of its padding a marked request is not answered; what is cut down to an
            # unmarked one is, as the originals' are.
            assert all(len(answer) <= max(cut, 9) for answer in answers)


@given(st.lists(st.sampled_from(HOSTILE) | st.binary(max_size=200), max_size=50))
def test_any_datagrams_are_survived(datagrams: List[bytes]) -> None:
    meeting = Meeting(max_keys=10)
    for number, data in enumerate(datagrams):
        answers = meeting.tell(at(2000 + number % 7), data)
        assert len(answers) <= 2
        meeting.network.run(0.3)
    assert len(meeting.role._registry) <= 10
    meeting.network.run(60.0)
    assert len(meeting.role._registry) == 0


@pytest.mark.parametrize(
    "first", [puncher.Client(KEY), puncher.Server(KEY), puncher.KeepAlive(MARK)]
)
def test_two_of_them_do_not_answer_each_other(first: puncher.Message) -> None:
    one = Meeting()
    another = Runner(
        one.network.host("another", "203.0.113.11"),
        lambda outbox, rng: Rendezvous(
            RendezvousConfig((address.pack("0.0.0.0", PORT),), 10, 500), outbox, rng
        ),
    )
    one.tell(address.pack("203.0.113.11", PORT), puncher.encode(first))
    one.network.run(60.0)
    assert len(one.heard) == 1
    assert sum(another.role.counters.values()) == 1


def test_its_own_words_make_it_say_nothing() -> None:
    meeting = Meeting()
    for message in (
        puncher.Ok(MARK, at(1), 1),
        puncher.Ok(),
        puncher.Error(puncher.Refusal.NO_SERVER),
        puncher.Punch(at(1), MARK, at(2), 3),
        puncher.Handshake(1, MARK),
        puncher.Handshake(2),
    ):
        assert meeting.say(5000, message) == []


@pytest.mark.parametrize("port", [0, 7, 13, 17, 19, 53, 69, 123])
def test_services_that_answer_anything_are_no_clients(port: int) -> None:
    assert Meeting().say(port, puncher.Server(KEY, MARK)) == []


def test_one_neighbourhood_has_its_rate_and_the_next_another() -> None:
    meeting = Meeting(rate=10)
    question = puncher.encode(puncher.Client(KEY))
    answered = sum(len(meeting.tell(at(2000 + n), question)) for n in range(200))
    assert answered == 20
    assert len(meeting.tell(address.pack("192.0.2.9", 2000), question)) == 1


def test_a_flood_from_next_door_does_not_lock_out_who_is_registered() -> None:
    meeting = Meeting(rate=10)
    assert meeting.say(4000, puncher.Server(KEY, MARK))
    for second in range(60):
        for number in range(200):
            meeting.say(5000 + number, puncher.Client(b"no such key"))
        meeting.say(4000, puncher.KeepAlive())
        if second % 10 == 9:
            assert meeting.say(4000, puncher.Server(KEY, MARK))
        meeting.network.run(1.0)
    assert len(meeting.role._registry) == 1


def test_each_end_hears_of_the_other_and_where_it_is_seen() -> None:
    meeting = Meeting()
    theirs = marks.new(b"c" * 16)
    ((_, ok),) = meeting.say(4000, puncher.Server(KEY, MARK))
    assert puncher.decode(ok).seen == at(4000)  # type: ignore[union-attr]
    told = dict(meeting.say(5000, puncher.Client(KEY, theirs)))
    other_port = address.port(meeting.role._other.local)
    assert puncher.decode(told[at(4000)]) == puncher.Punch(at(5000), theirs, at(4000), other_port)
    assert puncher.decode(told[at(5000)]) == puncher.Punch(at(4000), MARK, at(5000), other_port)


def test_a_restarted_client_on_its_old_port_is_introduced_by_its_new_mark() -> None:
    meeting = Meeting()
    meeting.say(4000, puncher.Server(KEY, MARK))
    for letter in (b"1", b"2"):
        mark = marks.new(letter * 16)
        told = dict(meeting.say(5000, puncher.Client(KEY, mark)))
        assert puncher.decode(told[at(4000)]).mark == mark
        meeting.network.run(0.5)


def test_no_mark_goes_where_none_came_from() -> None:
    """An original takes what is behind a message for nothing, but it need not be sent."""
    meeting = Meeting()
    assert meeting.say(4000, puncher.Server(KEY)) == [(at(4000), b"\x05")]
    told = dict(meeting.say(5000, puncher.Client(KEY, MARK)))
    assert len(told[at(4000)]) <= 9 and not puncher.decode(told[at(5000)]).mark


def test_a_server_that_died_gives_way_and_its_key_is_forgotten() -> None:
    meeting = Meeting()
    meeting.say(4000, puncher.Server(KEY, MARK))
    other = puncher.Server(KEY, marks.new(b"o" * 16))
    taken = puncher.encode(puncher.Error(puncher.Refusal.DUPLICATE_KEY))
    assert meeting.say(4001, other) == [(at(4001), taken)]
    meeting.network.run(registry.GIVES_WAY)
    ((_, data),) = meeting.say(4001, other)
    assert isinstance(puncher.decode(data), puncher.Ok)
    meeting.network.run(30.0)
    assert len(meeting.role._registry) == 0


def test_the_other_port_answers_keepalives_and_nothing_else() -> None:
    meeting = Meeting()
    other = meeting.role._other
    for message, answers in ((puncher.KeepAlive(MARK), 1), (puncher.Server(KEY, MARK), 0)):
        del meeting.heard[:]
        data = puncher.encode(message)
        meeting.runner.burst(other, at(5000), data, len(data))
        meeting.network.run(0.0)
        assert len(meeting.heard) == answers
