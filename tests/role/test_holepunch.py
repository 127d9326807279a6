"""The holepunch server alone: who gets which answer, how many, and how long."""

from __future__ import annotations

from typing import Any, List, Tuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.standin import attacker
from tests.standin import holepunch as standin
from tests.virtual.network import Runner
from tests.virtual.talks import HOLEPUNCH_PORT, SERVER, Alone, new_holepunch
from udppunch import address
from udppunch.address import Address
from udppunch.proto.holepunch.registry import GIVES_WAY
from udppunch.wire import holepunch, marks
from udppunch.wire.holepunch import Initiate, Message, Register, RegisterAck, Request, Unknown

MARK, OTHER = marks.new(b"m" * 16), marks.new(b"o" * 16)
LONGEST_NAME = "n" * holepunch.NAME_MAXIMUM
HOSTILE = [
    bytes([first]) + data[1:]
    for first, data in zip(list(range(6)) * 400, attacker.datagrams(5, 2000, key="bob"))
]


def at(number: int) -> Address:
    return address.pack("198.51.100.7", number)


def far(number: int) -> Address:
    return address.pack(f"192.0.{number}.9", 4000)


class Server(Alone):
    def __init__(self, **more: Any) -> None:
        super().__init__(new_holepunch, **more)

    def say(
        self, source: Address, message: holepunch.Datagram
    ) -> "List[Tuple[Address, holepunch.Datagram]]":
        answers = self.tell(source, holepunch.encode(message))
        return [(to, holepunch.decode(data)) for to, data in answers]

    def with_bob(self, mark: bytes = b"") -> "Server":
        assert self.say(at(4000), Register("bob", mark))
        return self


# An original's requests


def test_an_unmarked_register_gets_exactly_one_bare_answer() -> None:
    server = Server()
    assert server.tell(at(4000), standin.encode(standin.Message(standin.Kind.REGISTER, "bob"))) == [
        (at(4000), b"\x02")
    ]


def test_a_second_copy_within_a_second_is_the_networks_and_gets_none() -> None:
    server = Server()
    for pause, answered in ((0.0, 1), (0.0, 0), (0.9, 0), (1.1, 1), (1.1, 1)):
        server.network.run(pause)
        assert len(server.say(at(4000), Register("bob"))) == answered


def test_a_marked_one_is_answered_each_time() -> None:
    server = Server()
    for _ in range(3):
        ((to, answer),) = server.say(at(4000), Register("bob", MARK))
        assert to == at(4000) and isinstance(answer, RegisterAck)
        assert answer.mark and answer.seen == at(4000)


def test_no_mark_goes_where_none_came_from() -> None:
    server = Server().with_bob(MARK)
    assert server.tell(at(5000), holepunch.encode(Register("alice"))) == [(at(5000), b"\x02")]
    assert server.tell(at(5000), holepunch.encode(Request("carol"))) == [(at(5000), b"\x04")]
    answers = dict(server.say(at(5000), Request("bob")))
    assert answers == {
        at(5000): Initiate("bob", at(4000)),
        at(4000): Initiate("alice", at(5000), b"", None),
    }


def test_an_asker_that_is_not_registered_gets_unknown() -> None:
    server = Server().with_bob()
    assert server.say(at(5000), Request("bob")) == [(at(5000), Unknown())]


def test_nobody_is_introduced_to_himself() -> None:
    server = Server().with_bob()
    assert server.say(at(4000), Request("bob")) == [(at(4000), Unknown())]


def test_the_asker_hears_first_and_each_of_them_once() -> None:
    for mark in (b"", MARK):
        server = Server().with_bob()
        server.say(at(5000), Register("alice", mark))
        answers = server.say(at(5000), Request("bob", mark))
        assert [to for to, _ in answers] == [at(5000), at(4000)]
        assert all(isinstance(answer, Initiate) for _, answer in answers)


def test_each_of_ours_hears_of_the_other_and_where_it_is_seen() -> None:
    server = Server().with_bob(MARK)
    server.say(at(5000), Register("alice", OTHER))
    assert server.say(at(5000), Request("bob", OTHER)) == [
        (at(5000), Initiate("bob", at(4000), MARK, at(5000))),
        (at(4000), Initiate("alice", at(5000), OTHER, at(4000))),
    ]


@pytest.mark.parametrize("name", [LONGEST_NAME, "é" * 52, "\x00", "bob\n"])
def test_any_name_can_be_registered_and_introduced_to_an_original(name: str) -> None:
    server = Server()
    server.say(at(4000), Register(name))
    server.say(at(5000), Register("alice"))
    told = dict(server.tell(at(5000), holepunch.encode(Request(name))))
    read = standin.decode(told[at(5000)][:128])
    assert read == standin.Message(standin.Kind.INITIATE, name, "198.51.100.7:4000")


# Who has a name


def test_the_last_writer_has_the_name_of_one_that_is_not_ours() -> None:
    server = Server().with_bob()
    assert server.say(far(1), Register("bob"))
    server.say(at(5000), Register("alice"))
    assert server.say(at(5000), Request("bob"))[0] == (at(5000), Initiate("bob", far(1)))


def test_a_name_that_its_holder_refreshes_is_kept() -> None:
    server = Server()
    for _ in range(10):
        server.with_bob(MARK)
        server.network.run(15.0)
        ((_, refused),) = server.say(far(1), Register("bob", OTHER))
        assert isinstance(refused, RegisterAck) and refused.mark and refused.seen is None
        assert server.say(far(2), Register("bob")) == [], "the wire has no word for it"
    server.network.run(GIVES_WAY)
    ((_, answer),) = server.say(far(1), Register("bob", OTHER))
    assert isinstance(answer, RegisterAck) and answer.seen == far(1)


def test_its_own_host_may_take_it_over_at_once() -> None:
    server = Server().with_bob(MARK)
    ((_, answer),) = server.say(at(4001), Register("bob", OTHER))
    assert isinstance(answer, RegisterAck) and answer.seen == at(4001)


def test_goodbye_frees_the_name_of_one_of_ours_and_is_not_answered() -> None:
    server = Server().with_bob(MARK)
    for source, mark in ((at(4000), OTHER), (at(4000), b""), (far(1), MARK)):
        assert server.say(source, Unknown(mark)) == []
        assert len(server.role._registry) == 1
    assert server.say(at(4000), Unknown(MARK)) == []
    assert len(server.role._registry) == 0


def test_a_registration_is_forgotten_after_an_hour() -> None:
    server = Server().with_bob()
    server.say(at(5000), Register("alice"))
    server.network.run(3500.0)
    assert len(server.say(at(5000), Request("bob"))) == 2
    server.network.run(200.0)
    assert server.role.gauges() == {"names": 0}
    assert server.say(at(5000), Request("bob")) == [(at(5000), Unknown())]


# What strangers get


def test_no_answer_is_longer_than_a_marked_request() -> None:
    server = Server()
    longest = address.pack("198.151.100.107", 65000)
    server.say(longest, Register(LONGEST_NAME, MARK))
    for message in (
        Register("a", OTHER),
        Register(LONGEST_NAME, OTHER),
        Request(LONGEST_NAME, OTHER),
        Request("nobody", OTHER),
    ):
        data = holepunch.encode(message)
        source = address.pack("198.151.100.106", 65001)
        answers = [answer for to, answer in server.tell(source, data) if to == source]
        assert len(answers) == 1 and len(answers[0]) <= len(data)


@pytest.mark.parametrize("message", [Register(LONGEST_NAME, OTHER), Request("bob", OTHER)])
def test_without_all_of_its_padding_a_marked_request_gets_nothing(
    message: holepunch.Datagram,
) -> None:
    server = Server().with_bob(MARK)
    server.say(at(5000), Register("alice", OTHER))
    data = holepunch.encode(message)
    bare = data.index(OTHER) + len(OTHER)
    for length in range(bare, len(data)):
        assert server.tell(at(5000), data[:length]) == []


def test_what_is_cut_down_to_an_unmarked_request_is_one() -> None:
    server = Server()
    data = holepunch.encode(Register("bob", MARK))
    for cut in range(len(data)):
        answers = server.tell(at(6000 + cut), data[:cut])
        assert all(len(answer) == 1 for _, answer in answers)


@given(st.lists(st.sampled_from(HOSTILE) | st.binary(max_size=200), max_size=40))
def test_any_datagrams_are_survived(datagrams: List[bytes]) -> None:
    server = Server(most=10)
    for number, data in enumerate(datagrams):
        answers = server.tell(at(2000 + number % 7), data)
        assert len(answers) <= 2
        server.network.run(0.3)
    assert len(server.role._registry) <= 10


def test_its_own_words_make_it_say_nothing() -> None:
    server = Server().with_bob()
    for message in (
        RegisterAck(),
        RegisterAck(MARK, at(1)),
        RegisterAck(MARK),
        Unknown(),
        Unknown(MARK),
        Initiate("bob", at(1)),
        Initiate("bob", at(1), MARK, at(2)),
        Message("hello"),
        Message("hello", MARK),
    ):
        assert server.say(at(4000), message) == []


def test_two_of_them_do_not_answer_each_other() -> None:
    for message in (Register("bob"), Register("bob", MARK), Request("bob"), Request("bob", MARK)):
        one = Server()
        Runner(one.network.host("another", "203.0.113.11"), new_holepunch)
        one.tell(address.pack("203.0.113.11", HOLEPUNCH_PORT), holepunch.encode(message))
        one.network.run(30.0)
        assert len(one.heard) == 1


@pytest.mark.parametrize(
    "source",
    [
        address.pack("2001:db8::1", 4000),
        address.pack(SERVER, 19),
        *[address.with_port(at(0), port) for port in (0, 7, 53, 123)],
    ],
)
def test_who_is_nobody_to_talk_with_gets_nothing(source: Address) -> None:
    assert Server().tell(source, holepunch.encode(Register("bob", MARK))) == []


def test_a_flood_from_one_network_leaves_the_others_their_names() -> None:
    server = Server(most=40, rate=1e6)
    for number in range(20):
        server.say(far(number), Register(f"name {number}", MARK))
    for number in range(2000):
        server.say(at(2000 + number), Register(f"flood {number}", b""))
    server.say(far(0), Register("name 0", MARK))
    for number in range(1, 20):
        answers = server.say(far(0), Request(f"name {number}", MARK))
        assert isinstance(answers[0][1], Initiate)
    assert len(server.role._registry) <= 40


def test_one_neighbourhood_has_its_rate_and_the_next_another() -> None:
    server = Server(rate=10)
    answered = sum(len(server.say(at(2000 + n), Request("nobody"))) for n in range(200))
    assert answered == 20
    assert len(server.say(far(1), Request("nobody"))) == 1


def test_a_flood_from_next_door_does_not_lock_out_who_is_registered() -> None:
    server = Server(rate=10).with_bob(MARK)
    for _ in range(60):
        for number in range(50):
            server.say(at(5000 + number), Request("nobody"))
        assert server.say(at(4000), Register("bob", MARK))
        server.network.run(1.0)


def test_what_it_did_is_told() -> None:
    server = Server().with_bob(MARK)
    server.say(at(5000), Register("alice"))
    server.say(at(5000), Request("bob"))
    server.say(at(5000), Request("carol"))
    assert server.role.status() == "2 names, 1 introductions"
    assert server.role.counters["registered"] == 2 and server.role.counters["unknown"] == 1
