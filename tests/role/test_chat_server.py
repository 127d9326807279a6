"""The chat's server alone: who may have an id, what is proved, and what strangers get."""

from __future__ import annotations

import itertools
import json
from typing import Any, Dict, List, Optional, Tuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.standin import attacker
from tests.standin import chat as standin
from tests.virtual.network import Runner
from tests.virtual.talks import CHAT_PORT, SERVER, Alone, OriginalChatServer, new_chat_server
from udppunch import address
from udppunch.address import Address
from udppunch.wire import chat, marks, secrecy
from udppunch.wire.chat import Message
from udppunch.wire.malformed import Malformed

A = address.pack("198.51.100.7", 4000)
B = address.pack("192.0.2.9", 5000)
C = address.pack("203.0.113.66", 6000)
HOSTILE = list(attacker.datagrams(5, 500, key="bob"))


def at(number: int) -> Address:
    return address.pack("198.51.100.7", number)


class Server(Alone):
    def __init__(self, **more: Any) -> None:
        super().__init__(new_chat_server, **more)


class Client:
    """One that does by hand what a chat does; `ours` or as the original does it."""

    _numbers = itertools.count(1 << 16, 1 << 16)

    def __init__(
        self, server: Server, where: Address, *, ours: bool = True, name: str = "bob",
        keys: Optional[secrecy.KeyPair] = None,
    ) -> None:  # fmt: skip
        self.keys = keys or secrecy.KeyPair(next(self._numbers).to_bytes(16, "big") * 2)
        self.id = chat.peer_id(self.keys.public)
        self.mark = marks.new(self.keys.public[:16]) if ours else b""
        self.server, self.where, self.ours, self.name = server, where, ours, name
        self.nonce = ""
        self.secret = b""
        self._nonces = itertools.count(1)

    def tell(self, data: bytes) -> "List[Tuple[Address, Message]]":
        """What the server says to anybody; what is sealed for another is left out."""
        found = []
        for to, answer in self.server.tell(self.where, data):
            message = self.read(answer)
            if message is not None:
                found.append((to, message))
        return found

    def read(self, answer: bytes) -> Optional[Message]:
        try:
            return chat.decode(answer)
        except Malformed:
            pass
        try:
            return chat.decode(secrecy.unseal(self.secret, answer))
        except Malformed:
            return None

    def say(self, message: Message, padded: int = 0) -> "List[Tuple[Address, Message]]":
        return self.tell(chat.encode(message, padded))

    def greeting(self) -> bytes:
        data = chat.to_base64(self.keys.public)
        return chat.encode(Message("greeting", data=data, version=int(self.ours)), 160)

    def greet(self) -> Message:
        ((to, answer),) = self.tell(self.greeting())
        assert to == self.where and answer.type == "greeting" and not answer.error
        self.secret = self.keys.secret(chat.public_key_of(answer))
        self.nonce = answer.nonce
        return answer

    def registration(self, **changes: Any) -> Message:
        data = {"username": self.name, "publicKey": chat.to_base64(self.keys.public)}
        fields: Dict[str, Any] = {
            "type": "register", "peer_id": self.id, "data": data,
            "version": int(self.ours), "mark": self.mark, "nonce": self.nonce,
        }  # fmt: skip
        return Message(**{**fields, **changes})

    def seal(self, message: Message) -> bytes:
        nonce = next(self._nonces).to_bytes(12, "big")
        return secrecy.seal(self.secret, nonce, chat.encode(message, chat.PADDED))

    def register(self, **changes: Any) -> Message:
        """Greeted before; the answer."""
        message = self.registration(**changes)
        ((to, answer),) = self.tell(self.seal(message) if self.ours else chat.encode(message))
        assert to == self.where
        return answer

    def registered(self) -> "Client":
        self.greet()
        answer = self.register()
        assert answer.type == "register" and not answer.error
        return self

    def question(self, identity: str) -> bytes:
        padded = chat.PADDED if self.ours else 0
        return chat.encode(Message("establish", self.id, data=identity), padded)


def established(client: Client, other: Client) -> "Dict[Address, chat.Established]":
    """What each of the two is told when the client asks for the other."""
    found = {}
    for to, data in client.server.tell(client.where, client.question(other.id)):
        receiver = client if to == client.where else other
        message = receiver.read(data)
        assert message is not None and message.type == "establish"
        with pytest.raises(Malformed):
            chat.decode(data)  # sealed
        found[to] = chat.established(message)
    return found


# Registration


@pytest.mark.parametrize("ours", [True, False])
def test_who_greets_is_told_the_servers_key(ours: bool) -> None:
    answer = Client(Server(), A, ours=ours).greet()
    assert len(chat.public_key_of(answer)) == 32
    assert bool(answer.version) is bool(answer.nonce) is ours


@pytest.mark.parametrize("ours", [True, False])
def test_who_registers_is_confirmed_sealed(ours: bool) -> None:
    client = Client(Server(), A, ours=ours)
    client.greet()
    answers = client.server.tell(A, client.seal(client.registration()))
    ((_, data),) = answers
    with pytest.raises(Malformed):
        chat.decode(data)
    assert client.read(data) == Message("register", mark=client.mark)


def test_an_original_client_is_served() -> None:
    server, client = Server(), standin.Client((SERVER, CHAT_PORT), "bob", lambda *_, **__: None)
    where, sendings, now = ("198.51.100.7", 4000), client.greet(), 0.0
    for _ in range(2):
        ((_, answer),) = server.tell(address.pack(*where), sendings[0].datagram)
        sendings = client.receive(answer, (SERVER, CHAT_PORT), now)
    assert sendings == [] and server.role.gauges() == {"ids": 1}


@pytest.mark.parametrize(
    "changes,why",
    [
        ({"peer_id": "0" * 64}, "not the hash"),
        ({"peer_id": ""}, "not the hash"),
        ({"data": None}, "a name has"),
        ({"data": {"username": "n" * 33, "publicKey": ""}}, "at most 32 characters, not 33"),
        ({"data": {"username": "bob", "publicKey": ""}}, "not a public key"),
        ({"data": {"username": "bob\x1b[2J", "publicKey": ""}}, "a name has letters"),
        ({"data": {"username": ["bob"], "publicKey": 1}}, "not base64"),
    ],
)
def test_what_is_refused_is_refused_in_plain(changes: Dict[str, Any], why: str) -> None:
    for ours in (True, False):
        client = Client(Server(), A, ours=ours)
        client.greet()
        answer = client.register(**changes)
        assert answer.type == "register" and why in answer.error
        assert client.server.role.gauges() == {"ids": 0}


def test_the_id_must_be_the_hash_of_the_key_that_greeted() -> None:
    server = Server()
    eve, bob = Client(server, C), Client(server, B)
    eve.greet()
    data = {"username": "bob", "publicKey": chat.to_base64(bob.keys.public)}
    for changes in ({"peer_id": bob.id}, {"peer_id": bob.id, "data": data}):
        assert "not the hash" in eve.register(**changes).error
    assert server.role.gauges() == {"ids": 0}


def test_who_has_not_greeted_is_told_to() -> None:
    client = Client(Server(), A, ours=False)
    assert "greet first" in client.register().error


def test_two_that_greeted_from_one_address_have_each_their_own_turn() -> None:
    server = Server()
    first = Client(server, A).registered()
    second = Client(server, A).registered()
    assert first.tell(first.seal(first.registration())) == [
        (A, Message("", error="Malformed payload was sent"))
    ], "it has to greet again"
    first.registered()
    assert server.role.gauges() == {"ids": 2} and second.id != first.id


def test_a_greeting_that_came_twice_is_answered_once() -> None:
    server = Server()
    client = Client(server, A)
    client.greet()
    assert client.tell(client.greeting()) == []
    server.network.run(0.35)
    client.greet()


# Proof


def proved(server: Server, client: Client) -> bool:
    return bool(server.role._register.named(client.id).proved)


def test_only_sealed_and_with_a_nonce_of_ones_own_a_key_is_proved() -> None:
    server = Server()
    assert proved(server, Client(server, A).registered())
    assert not proved(server, Client(server, B, ours=False).registered())
    for nonce in ("", "0", "x", "-1", "9" * 400, str(1 << 64)):
        client = Client(server, C)
        client.greet()
        assert not client.register(nonce=nonce).error
        assert not proved(server, client)


def test_a_nonce_is_good_for_ten_seconds_and_the_proof_for_longer() -> None:
    for pause, good in ((10.0, True), (12.0, False)):
        server = Server()
        client = Client(server, A)
        client.greet()
        server.network.run(pause)
        client.register()
        assert proved(server, client) is good
        server.network.run(100.0)
        client.register()
        assert proved(server, client) is good


def test_who_has_not_proved_the_key_does_not_replace_who_has() -> None:
    server = Server()
    bob = Client(server, B).registered()
    eve = Client(server, C, ours=False, keys=bob.keys)  # it is public: anybody may greet with it
    eve.greet()
    assert "by who proved its key" in eve.register().error
    assert server.role._register.named(bob.id).address == B


def test_who_proves_the_key_anew_may_be_elsewhere() -> None:
    server = Server()
    bob = Client(server, B).registered()
    Client(server, C, keys=bob.keys).registered()
    assert server.role._register.named(bob.id).address == C


def test_a_sealed_register_that_is_sent_again_from_elsewhere_is_refused() -> None:
    server = Server()
    bob = Client(server, B)
    bob.greet()
    recorded = bob.seal(bob.registration())
    assert bob.tell(recorded)
    eve = Client(server, C, keys=bob.keys)
    assert eve.greet().nonce != bob.nonce
    ((to, answer),) = eve.tell(recorded)
    assert to == C and "by who proved its key" in answer.error
    assert server.role._register.named(bob.id).address == B


def test_nor_does_it_prove_anything_there_when_the_name_is_free() -> None:
    server = Server()
    bob = Client(server, B)
    bob.greet()
    recorded = bob.seal(bob.registration())
    eve = Client(server, C, keys=bob.keys)
    eve.greet()
    eve.tell(recorded)
    server.network.run(1.0)
    bob.registered()
    assert server.role._register.named(bob.id).address == B


def test_a_greeting_with_another_key_proves_nothing_for_it() -> None:
    server = Server()
    Client(server, A).registered()
    other = Client(server, A)
    other.greet()
    other.register(nonce="")
    assert not proved(server, other)


# Introduction


def test_two_of_ours_hear_all_there_is_to_know_of_the_other() -> None:
    server = Server()
    alice = Client(server, A, name="alice").registered()
    bob = Client(server, B).registered()
    assert established(alice, bob) == {
        A: chat.Established(bob.id, "bob", B, bob.keys.public, bob.mark, A),
        B: chat.Established(alice.id, "alice", A, alice.keys.public, alice.mark, B),
    }


def test_an_original_hears_what_it_knows() -> None:
    server = Server()
    alice = Client(server, A, name="alice").registered()
    bob = Client(server, B, ours=False).registered()
    assert established(alice, bob) == {
        A: chat.Established(bob.id, "bob", B, bob.keys.public, b"", A),
        B: chat.Established(alice.id, "alice", A),
    }


@pytest.mark.parametrize("identity", ["", "bob", "0" * 64, "x" * 1500])
def test_who_is_not_registered_is_named_in_the_refusal(identity: str) -> None:
    server = Server()
    alice = Client(server, A).registered()
    ((to, answer),) = alice.tell(alice.question(identity))
    assert to == A and answer.type == "establish"
    assert answer.error == f"The peer: {identity[:64]} has not registered with the server."


def test_nobody_is_introduced_to_himself() -> None:
    alice = Client(Server(), A).registered()
    assert "has not registered" in alice.tell(alice.question(alice.id))[0][1].error


def test_nobody_asks_in_anothers_name() -> None:
    server = Server()
    alice, bob = Client(server, A).registered(), Client(server, B).registered()
    eve = Client(server, C).registered()
    for where in (C, at(4001)):
        answers = server.tell(where, alice.question(bob.id))
        assert [to for to, _ in answers] == [where]
        assert chat.decode(answers[0][1]).error == "client is not registered with this server"
    assert eve.id != alice.id


def test_a_registration_is_forgotten_after_an_hour() -> None:
    server = Server()
    alice = Client(server, A).registered()
    bob = Client(server, B, ours=False).registered()
    for _ in range(4):
        server.network.run(1000.0)
        alice.register()
    assert server.role.gauges() == {"ids": 1}
    assert "has not registered" in alice.tell(alice.question(bob.id))[0][1].error


# What strangers get


def test_nothing_marked_gets_more_than_it_sent() -> None:
    server = Server()
    bob = Client(server, address.pack("198.151.100.107", 65000), name="\U0001f573" * 32)
    bob.registered()
    alice = Client(server, address.pack("198.151.100.106", 65001))
    alice.greet()
    server.network.run(1.0)
    nobody = "0" * 64
    for data in (
        alice.greeting(),
        alice.seal(alice.registration()),
        alice.question(bob.id),
        alice.question(nobody),
    ):
        answers = [answer for to, answer in server.tell(alice.where, data) if to == alice.where]
        assert len(answers) == 1 and len(answers[0]) <= len(data)


def test_without_all_of_its_padding_the_question_of_one_of_ours_gets_no_longer_answer() -> None:
    server = Server()
    alice, bob = Client(server, A).registered(), Client(server, B).registered()
    short = chat.encode(Message("establish", alice.id, data=bob.id))
    for to, answer in server.tell(A, short):
        assert to != A or len(answer) <= len(short)


@given(
    st.sampled_from(("greeting", "register", "establish", "connect", "", "x" * 500)),
    st.text(max_size=80),
    st.none() | st.text(max_size=80) | st.dictionaries(st.text(max_size=9), st.text(max_size=50)),
)
def test_refusals_are_no_longer_than_what_they_refuse(kind: str, peer: str, data: Any) -> None:
    server = Server()
    client = Client(server, A, ours=False)
    for greeted in (False, True):
        if greeted:
            client.greet()
        request = chat.encode(Message(kind, peer, data=data))
        for to, answer in server.tell(A, request):
            assert to == A and len(answer) <= len(request)
            assert chat.decode(answer).error and chat.decode(answer).type == kind


def test_an_unknown_request_is_refused_as_the_original_does() -> None:
    client = Client(Server(), A)
    ((_, answer),) = client.say(Message("connect"), 200)
    assert answer == Message("connect", error="Request type connect undefined")


@pytest.mark.parametrize("length", [1, 59, 60, 2048])
def test_what_is_no_json_is_refused_as_far_as_there_is_room(length: int) -> None:
    answers = Server().tell(A, b"x" * length)
    refusal = b'{"type":"","error":"Malformed payload was sent"}'
    assert answers == ([(A, refusal)] if length >= len(refusal) else [])


@pytest.mark.parametrize(
    "source",
    [
        address.pack("2001:db8::1", 4000),
        address.pack(SERVER, 19),
        *[address.with_port(A, port) for port in (0, 7, 53, 123)],
    ],
)
def test_who_is_nobody_to_talk_with_gets_nothing(source: Address) -> None:
    server = Server()
    assert server.tell(source, Client(server, A).greeting()) == []


def test_its_own_words_make_it_say_nothing() -> None:
    server = Server()
    for message in (
        Message("", error="Malformed payload was sent"),
        Message("register", error="no"),
        Message("greeting", error="no", data=chat.to_base64(bytes(31) + b"\x09")),
    ):
        assert server.tell(A, chat.encode(message, 300)) == []


GREETING = chat.encode(Message("greeting", data=chat.to_base64(secrecy.KeyPair(b"x" * 32).public)))


@pytest.mark.parametrize(
    "data",
    [
        b"x" * 100,
        chat.encode(Message("connect"), 200),
        chat.encode(Message("greeting", data="AAAA"), 200),
        GREETING,
        chat.encode(Message("greeting", data=chat.decode(GREETING).data, version=1), 200),
    ],
)
def test_two_servers_do_not_answer_each_other_for_ever(data: bytes) -> None:
    """What a stranger begins, with the other's address as the source."""
    another = address.pack("203.0.113.11", CHAT_PORT)
    for make, most in ((OriginalChatServer, 100), (lambda host: Runner(host, new_chat_server), 3)):
        one = Server()
        make(one.network.host("another", "203.0.113.11"))
        one.tell(another, data)
        one.network.run(30.0)
        assert len(one.heard) <= most


@given(
    st.lists(
        st.sampled_from(HOSTILE)
        | st.binary(max_size=200)
        | st.dictionaries(
            st.sampled_from(("type", "peerID", "error", "data", "v", "mark", "nonce", "seq")),
            st.none() | st.integers() | st.text(max_size=20) | st.lists(st.integers(), max_size=2)
            | st.sampled_from(("greeting", "register", "establish", chat.to_base64(bytes(32)))),
        ).map(lambda table: json.dumps(table).encode()),
        max_size=30,
    )
)  # fmt: skip
def test_any_datagrams_are_survived(datagrams: List[bytes]) -> None:
    server = Server(most=10)
    for number, data in enumerate(datagrams):
        answers = server.tell(at(2000 + number % 7), data)
        assert len(answers) <= 1 and all(len(answer) <= len(data) for _, answer in answers)
        server.network.run(0.3)
    assert len(server.role._register) <= 10 and len(server.role._greeted) <= 10


def test_greetings_and_ids_are_bounded() -> None:
    server = Server(most=20, rate=1e6)
    known = Client(server, B).registered()
    for number in range(200):
        Client(server, address.pack(f"10.{number}.1.1", 4000)).registered()
    assert len(server.role._greeted) <= 20 and server.role.gauges()["ids"] <= 20
    assert server.role._register.named(known.id) is None, "the quietest went"


def test_a_flood_of_ids_from_one_network_leaves_the_others_theirs() -> None:
    server = Server(most=40, rate=1e6)
    known = Client(server, B).registered()
    for number in range(300):
        Client(server, at(2000 + number), ours=False).registered()
    assert server.role._register.named(known.id) is not None
    assert server.role.gauges()["ids"] <= 11


def test_a_greeting_in_anothers_name_does_not_make_him_deaf() -> None:
    """Whose source address is forged never sees the answer, and goes on as before."""
    server = Server()
    bob = Client(server, B).registered()
    alice = Client(server, A, name="alice").registered()
    server.tell(B, Client(server, B).greeting())
    assert set(established(alice, bob)) == {A, B}


def test_a_flood_of_greetings_from_one_network_leaves_the_others_their_secrets() -> None:
    """Who is registered, but not greeted any more, can't be told of whoever asks for it."""
    server = Server(most=40, rate=1e6)
    bob = Client(server, B).registered()
    alice = Client(server, C, name="alice").registered()
    for number in range(300):
        Client(server, at(2000 + number), ours=False).greet()
    assert set(established(alice, bob)) == {B, C}


def test_one_neighbourhood_has_its_rate_and_the_next_another() -> None:
    server = Server(rate=10)
    answered = 0
    for number in range(100):
        answered += len(server.tell(at(2000 + number), Client(server, A).greeting()))
    assert answered == 20
    assert len(server.tell(B, Client(server, B).greeting())) == 1
