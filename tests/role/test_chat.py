"""Chats together with their server in the virtual network: what people see, and whom they hear."""

from __future__ import annotations

import base64
import itertools
import json
from typing import Any, Callable, Dict, List, Optional, Tuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.virtual.network import Host, Link, Nat
from tests.virtual.original import Socket
from tests.virtual.talks import CHAT_PORT, Chatter, OriginalChat, Talks
from udppunch import address
from udppunch.address import Address
from udppunch.proto.chat.view import Mark, Refused, State
from udppunch.wire import chat, marks, secrecy
from udppunch.wire.chat import Established, Message
from udppunch.wire.malformed import Malformed

CHAOS = Link(0.02, jitter=0.05, loss=0.05, duplicate=0.2)
EVE = secrecy.KeyPair(b"eve " * 8)
EVE_ID = chat.peer_id(EVE.public)
ELSEWHERE = address.pack("198.51.100.66", 6666)


def nat(number: int, mapping: str = "endpoint", filtering: str = "port", **more: Any) -> Nat:
    return Nat(f"203.0.113.{number}", mapping, filtering, **more)


def delivered(chatter: Chatter) -> bool:
    return all(mark is Mark.DELIVERED for _, mark in chatter.said())


def talk(talks: Talks, alice: Chatter, bob: Chatter, within: float = 30.0) -> None:
    """A sentence each way arrives, and each knows that it did."""
    number = str(talks.network.now)
    alice.say(f"from alice at {number}")
    bob.say(f"from bob at {number}")
    assert talks.run(within, lambda: delivered(alice) and delivered(bob))
    assert bob.heard()[-1] == f"from alice at {number}"
    assert alice.heard()[-1] == f"from bob at {number}"


def direct(talks: Talks, *chatters: Chatter, within: float = 20.0) -> bool:
    return talks.run(within, lambda: all(one.direct for one in chatters))


# To be had


@pytest.mark.parametrize("original", [False, True])
def test_from_a_name_to_a_conversation(original: bool) -> None:
    talks = Talks(original=original)
    alice, bob = Chatter(talks.a), Chatter(talks.b)
    assert alice.states == [State.UNNAMED] and len(alice.id) == 64
    alice.rename("  Alice ")
    bob.rename("Bob")
    assert alice.now_is.name == "Alice"
    assert talks.run(5.0, lambda: alice.state is bob.state is State.READY)
    alice.connect(bob.id.upper() + "\n")
    assert direct(talks, alice, bob)
    talk(talks, alice, bob)
    ways = [State.UNNAMED, State.REGISTERING, State.READY, State.ESTABLISHING, State.PUNCHING,
            State.DIRECT]  # fmt: skip
    assert [state for state, _ in itertools.groupby(alice.states)] == ways
    ways.remove(State.ESTABLISHING)
    assert [state for state, _ in itertools.groupby(bob.states)] == ways


@pytest.mark.parametrize("original", [False, True])
def test_each_sees_who_the_other_is(original: bool) -> None:
    alice, bob = Talks(original=original).direct_chats()
    peer = alice.now_is.peer
    assert peer is not None and (peer.id, peer.name) == (bob.id, "bob")
    assert peer.fingerprint == bob.now_is.fingerprint != alice.now_is.fingerprint
    assert peer.address == "203.0.113.102:40000"
    assert bob.now_is.peer is not None
    assert bob.now_is.peer.fingerprint == alice.now_is.fingerprint


@pytest.mark.parametrize("original", [False, True])
def test_both_may_ask(original: bool) -> None:
    for apart in (0.0, 0.02, 0.5):
        talks = Talks(original=original)
        alice, bob = talks.chats()
        alice.connect(bob)
        talks.run(apart)
        if bob.state is State.READY:
            bob.connect(alice)
        assert direct(talks, alice, bob)
        talk(talks, alice, bob)


@pytest.mark.parametrize("original", [False, True])
def test_who_is_not_there_yet_is_waited_for(original: bool) -> None:
    talks = Talks(original=original)
    alice, bob = Chatter(talks.a, "alice"), Chatter(talks.b)
    talks.run(2.0)
    alice.connect(bob)
    talks.run(20.0)
    assert alice.state is State.ESTABLISHING
    assert [text for text in alice.notices if "has not registered" in text] == alice.notices
    assert len(alice.notices) == 1 and bob.id in alice.notices[0]
    bob.rename("bob")
    assert direct(talks, alice, bob)


def test_another_may_be_sought_instead() -> None:
    talks = Talks(nat_a=nat(101, "port"))
    alice, bob = talks.chats()
    carol = Chatter(talks.network.host("c", "198.51.100.9"), "carol")
    talks.run(2.0)
    alice.connect(bob)  # bob's NAT and hers will never let them meet
    talks.run(15.0)
    assert alice.state is State.PUNCHING
    absent = Chatter(talks.network.host("d", "198.51.100.10"))
    alice.connect(absent)
    talks.run(10.0)
    assert alice.state is State.ESTABLISHING, "each has its own time"
    alice.connect(carol)
    assert direct(talks, alice, carol)
    talk(talks, alice, carol)


def test_why_there_is_no_path_is_said_and_it_is_sought_on() -> None:
    talks = Talks(nat_a=nat(101, "port"))
    alice, bob = talks.chats()
    alice.connect(bob)
    talks.run(25.0)
    assert alice.state is bob.state is State.FAILED
    assert "symmetric" in alice.now_is.reason and "\n" not in alice.now_is.reason
    talks.nat_a.mapping = "endpoint"
    assert direct(talks, alice, bob, within=90.0)


def test_who_comes_after_one_with_whom_it_failed_is_met() -> None:
    for theirs in (True, False):
        talks = Talks(nat_a=nat(101, "endpoint", "address"), nat_b=nat(102, "port"))
        talks.nat_a.filtering = "port"
        alice, bob = talks.chats()
        alice.connect(bob)
        talks.run(25.0)
        assert alice.state is State.FAILED
        host = talks.network.host("c", "198.51.100.9")
        carol: Any = OriginalChat(host, "carol") if theirs else Chatter(host, "carol")
        talks.run(2.0)
        carol.connect(alice)
        assert direct(talks, alice, within=30.0)
        assert alice.now_is.peer is not None and alice.now_is.peer.id == carol.id


def test_a_silent_server_is_told_of_and_waited_for() -> None:
    talks = Talks()
    talks.stop_servers()
    alice = Chatter(talks.a, "alice")
    talks.run(30.0)
    assert alice.state is State.REGISTERING
    assert alice.notices == ["server 203.0.113.10:9001 does not answer; asking on"]
    talks.start_servers()
    assert talks.run(5.0, lambda: alice.state is State.READY)


def test_a_server_whose_name_can_not_be_resolved_is_told_of_and_tried_again() -> None:
    talks = Talks()
    talks.network.names["203.0.113.10"] = []
    alice = Chatter(talks.a, "alice")
    talks.run(30.0)
    assert alice.state is State.REGISTERING and "no such name" in alice.notices[0]
    del talks.network.names["203.0.113.10"]
    assert talks.run(40.0, lambda: alice.state is State.READY)


def test_one_lost_introduction_of_another_server_is_made_good() -> None:
    talks = Talks(original=True)
    alice, bob = talks.chats()
    alice.connect(bob)
    talks.b.link = Link(0.01, loss=1.0)
    talks.run(3.0)
    talks.b.link = Link(0.01)
    assert direct(talks, alice, bob, within=40.0)


def test_two_that_gave_each_other_up_meet_when_the_server_names_them_again() -> None:
    talks = Talks(original=True)
    alice, bob = talks.chats()
    alice.connect(bob)
    for host, seconds in ((talks.b, 8.0), (talks.a, 5.0)):
        host.link = Link(0.01, loss=1.0)
        talks.run(seconds)
        host.link = Link(0.01)
    talks.nat_a.forget()
    assert direct(talks, alice, bob, within=60.0)


# What people may not ask


def test_what_can_not_be_said() -> None:
    talks = Talks()
    alice, bob = talks.chats()
    with pytest.raises(Refused, match="nobody to hear it"):
        alice.say("hello")
    alice.connect(bob)
    assert direct(talks, alice, bob)
    with pytest.raises(Refused, match="nothing in it"):
        alice.say("")
    with pytest.raises(Refused, match="at most 1800 bytes, and this has 1801"):
        alice.say("x" * 1801)
    alice.say("x" * 1800)
    assert talks.run(5.0, lambda: delivered(alice))
    bob.kill()
    for number in range(256):
        alice.say(str(number))
    with pytest.raises(Refused, match="too much is under way"):
        alice.say("one more")


def test_whom_one_can_not_connect_to() -> None:
    talks = Talks()
    unnamed = Chatter(talks.a)
    with pytest.raises(Refused, match="not registered yet"):
        unnamed.connect("0" * 64)
    alice, bob = talks.chats()
    for wrong in ("", "bob", "0" * 63, "g" * 64):
        with pytest.raises(Refused, match="64 hexadecimal digits"):
            alice.connect(wrong)
    with pytest.raises(Refused, match="your own id"):
        alice.connect(alice)
    alice.connect(bob)
    assert direct(talks, alice, bob)
    with pytest.raises(Refused, match="reset first"):
        alice.connect("0" * 64)
    assert alice.direct and bob.direct


@pytest.mark.parametrize("name", ["", "   ", "n" * 33, "a\nb", "\x1b[31m", "\u202e"])
def test_names_that_nobody_may_have(name: str) -> None:
    alice = Chatter(Talks().a)
    with pytest.raises(Refused):
        alice.rename(name)
    assert alice.state is State.UNNAMED
    alice.rename("alice")


def test_reset_is_for_when_there_is_something() -> None:
    talks = Talks()
    alice = Chatter(talks.a)
    for _ in range(2):
        with pytest.raises(Refused, match="no conversation"):
            alice.reset()
        if alice.state is State.UNNAMED:
            alice.rename("alice")


# Lines


def test_lines_are_told_apart_numbered_and_marked() -> None:
    talks = Talks(link=Link(0.1))
    alice, bob = talks.direct_chats()
    alice.say("one", "two")
    assert alice.said() == [("one", Mark.SENT), ("two", Mark.SENT)]
    talks.run(2.0)
    bob.say("three")
    talks.run(2.0)
    assert alice.said() == [("one", Mark.DELIVERED), ("two", Mark.DELIVERED)]
    assert [(line.number, line.mine, line.mark) for line in bob.lines.values()] == [
        (1, False, Mark.RECEIVED),
        (2, False, Mark.RECEIVED),
        (3, True, Mark.DELIVERED),
    ]


@pytest.mark.parametrize("text", [" ", "\x00", "a\nb\tc", "naïve 🕳", "<b>&amp;", "\ud83d\ude00"])
def test_any_text_arrives_as_it_is(text: str) -> None:
    talks = Talks()
    alice, bob = talks.direct_chats()
    alice.say(text)
    talks.run(2.0)
    assert bob.heard() == [text.encode("utf-8", "replace").decode()] and delivered(alice)


@pytest.mark.parametrize("seed", range(5))
def test_lines_arrive_once_and_in_order_over_a_bad_path(seed: int) -> None:
    talks = Talks(seed, link=CHAOS)
    alice, bob = talks.chats()
    alice.connect(bob)
    assert direct(talks, alice, bob)
    expected: Dict[str, List[str]] = {"alice": [], "bob": []}
    for number in range(100):
        for one, name in ((alice, "alice"), (bob, "bob")):
            expected[name].append(f"{name} {number}")
            one.say(expected[name][-1])
        talks.run(0.05)
    assert talks.run(60.0, lambda: delivered(alice) and delivered(bob))
    assert bob.heard() == expected["alice"] and alice.heard() == expected["bob"]


def test_what_is_said_while_the_peer_is_gone_arrives_when_he_is_back() -> None:
    talks = Talks()
    alice, bob = talks.direct_chats()
    talks.b.link = Link(0.01, loss=1.0)
    alice.say("are you there?")
    assert talks.run(15.0, lambda: alice.state is State.GONE)
    assert "seeking" in alice.now_is.reason
    alice.say("hello?")
    assert [mark for _, mark in alice.said()] == [Mark.SENT] * 2
    talks.run(20.0)
    talks.b.link = Link(0.01)
    assert direct(talks, alice, bob, within=40.0)
    assert talks.run(5.0, lambda: delivered(alice))
    assert bob.heard() == ["are you there?", "hello?"]


EVENTS: Dict[str, Callable[[Talks], None]] = {
    "a's NAT forgets": lambda talks: talks.nat_a.forget(),
    "both NATs forget": lambda talks: (talks.nat_a.forget(), talks.nat_b.forget()),
    "a's address changes": lambda talks: talks.nat_a.renumber("203.0.113.111"),
    "b's address changes": lambda talks: talks.nat_b.renumber("203.0.113.112"),
    "the server is started anew": lambda talks: talks.restart_servers(),
    "all of it": lambda talks: (
        talks.nat_a.renumber("203.0.113.111"),
        talks.nat_b.renumber("203.0.113.112"),
        talks.restart_servers(),
    ),
    "the machines sleep": lambda talks: setattr(talks.network, "now", talks.network.now + 600.0),
}


@pytest.mark.parametrize("bind", [None, address.pack("0.0.0.0", 5555)])
@pytest.mark.parametrize("name", EVENTS)
def test_a_conversation_survives(name: str, bind: Optional[Address]) -> None:
    talks = Talks(nat_a=nat(101, filtering="address"), nat_b=nat(102))
    alice, bob = (Chatter(host, who, bind=bind) for host, who in ((talks.a, "a"), (talks.b, "b")))
    talks.run(2.0)
    alice.connect(bob)
    assert direct(talks, alice, bob)
    talk(talks, alice, bob)
    EVENTS[name](talks)
    alice.say("still there?")
    assert talks.run(60.0, lambda: delivered(alice) and alice.direct and bob.direct)
    talk(talks, alice, bob)
    assert bob.heard()[-2:-1] == ["still there?"]


@pytest.mark.parametrize("when", [3.0, 30.0])
@pytest.mark.parametrize("name", ["both NATs forget", "a's address changes", "b's address changes"])
def test_a_conversation_survives_by_another_server(name: str, when: float) -> None:
    talks = Talks(nat_a=nat(101, filtering="address"), link=Link(0.02), original=True)
    alice, bob = talks.direct_chats()
    talks.run(when)
    EVENTS[name](talks)
    alice.say("still there?")
    assert talks.run(60.0, lambda: delivered(alice) and alice.direct and bob.direct)
    talk(talks, alice, bob)


def test_an_idle_conversation_holds_for_hours() -> None:
    talks = Talks()
    alice, bob = talks.direct_chats()
    seen = len(alice.states)
    talks.run(2 * 3600.0)
    assert len(alice.states) == seen
    talk(talks, alice, bob, within=1.0)


def test_names_are_changed_before_a_conversation_and_not_within() -> None:
    talks = Talks()
    alice, bob = talks.chats()
    bob.rename("Robert")
    assert talks.run(5.0, lambda: bob.state is State.READY)
    alice.connect(bob)
    assert direct(talks, alice, bob)
    assert alice.now_is.peer is not None and alice.now_is.peer.name == "Robert"
    with pytest.raises(Refused, match="reset first"):
        bob.rename("bob")


# Leaving


def test_who_stops_has_left() -> None:
    talks = Talks()
    alice, bob = talks.direct_chats()
    bob.stop()
    talks.run(1.0)
    assert alice.state is State.GONE and alice.now_is.reason == "has left"
    with pytest.raises(Refused):
        alice.say("hello?")
    alice.reset()
    assert alice.state is State.READY and alice.now_is.peer is None and not alice.lines


def test_who_dies_is_gone_and_what_was_said_to_him_is_lost() -> None:
    talks = Talks()
    alice, bob = talks.direct_chats()
    bob.kill()
    alice.say("hello?")
    assert talks.run(10.0, lambda: alice.state is State.GONE)
    talks.run(120.0)
    assert alice.state is State.GONE and alice.said() == [("hello?", Mark.SENT)]
    carol = Chatter(talks.network.host("c", "198.51.100.9"), "carol")
    talks.run(2.0)
    alice.reset()
    alice.connect(carol)
    assert direct(talks, alice, carol)
    talk(talks, alice, carol)


def test_after_a_reset_both_can_talk_anew() -> None:
    talks = Talks()
    alice, bob = talks.direct_chats()
    talk(talks, alice, bob)
    alice.reset()
    talks.run(2.0)
    assert alice.state is State.READY and not alice.lines
    assert bob.state is State.GONE and bob.now_is.reason == "has left" and len(bob.lines) == 2
    alice.connect(bob)
    assert direct(talks, alice, bob)
    talk(talks, alice, bob)
    assert len(alice.lines) == 2


@pytest.mark.parametrize("seed", range(4))
def test_when_one_resets_unnoticed_they_come_to_talk_again(seed: int) -> None:
    """Its goodbye is lost; the other seeks it and goes on where it was."""
    talks = Talks(seed)
    alice, bob = talks.direct_chats()
    talk(talks, alice, bob)
    talks.a.link = Link(0.01, loss=1.0)
    alice.reset()
    bob.say("meanwhile")
    talks.run(1.0)
    talks.a.link = Link(0.01)
    assert direct(talks, alice, bob, within=60.0)
    assert talks.run(10.0, lambda: delivered(bob))
    talk(talks, alice, bob)
    assert alice.heard()[:1] == ["meanwhile"]


# NATs


@pytest.mark.parametrize("original", [False, True])
@pytest.mark.parametrize("b", ["endpoint", "address", "port"])
@pytest.mark.parametrize("a", ["endpoint", "address", "port"])
@pytest.mark.parametrize("filtering", ["address", "port"])
def test_mappings_and_filterings(a: str, b: str, filtering: str, original: bool) -> None:
    """The filter of a's is as given, b's lets only known ports in."""
    talks = Talks(nat_a=nat(101, a, filtering), nat_b=nat(102, b), original=original)
    alice, bob = talks.chats()
    alice.connect(bob)
    met = direct(talks, alice, bob, within=12.0)
    assert met == ((b == "endpoint" or filtering == "address") and a == "endpoint")


@pytest.mark.parametrize("seed", range(4))  # other marks: the other one leads
@pytest.mark.parametrize("asker", ["a", "b"])
@pytest.mark.parametrize("original", [False, True])
def test_one_symmetric_nat_whoever_asks_and_whoever_leads(
    asker: str, seed: int, original: bool
) -> None:
    talks = Talks(
        seed, nat_a=nat(101, "port"), nat_b=nat(102, filtering="address"), original=original
    )
    alice, bob = talks.chats()
    first, second = (alice, bob) if asker == "a" else (bob, alice)
    first.connect(second)
    assert direct(talks, alice, bob, within=12.0)
    talk(talks, alice, bob)


# Originals


@pytest.mark.parametrize("asks", [False, True])
@pytest.mark.parametrize("original", [False, True])
def test_with_an_original_what_is_said_is_encrypted_and_unconfirmed(
    original: bool, asks: bool
) -> None:
    talks = Talks(original=original)
    alice, theirs = Chatter(talks.a, "alice"), OriginalChat(talks.b, "bob")
    talks.run(2.0)
    (theirs if asks else alice).connect(alice if asks else theirs)
    assert direct(talks, alice)
    assert "not udppunch" in alice.now_is.reason
    talks.run(1.0)
    alice.say("hello")
    theirs.say("in plain")
    theirs.say("encrypted", encrypted=True)
    talks.run(1.0)
    assert theirs.messages() == [("hello", True)] and not theirs.ended
    assert [(line.text, line.mark) for line in alice.lines.values()] == [
        ("hello", Mark.UNCONFIRMED),
        ("in plain", Mark.PLAIN),
        ("encrypted", Mark.RECEIVED),
    ]


def test_with_an_original_the_conversation_is_kept_alive() -> None:
    talks = Talks()
    alice, theirs = Chatter(talks.a, "alice"), OriginalChat(talks.b, "bob")
    talks.run(2.0)
    alice.connect(theirs)
    assert direct(talks, alice)
    talks.run(3600.0)
    assert alice.direct and not theirs.ended
    theirs.say("still here")
    talks.run(1.0)
    assert alice.heard() == ["still here"]
    theirs.kill()
    assert talks.run(90.0, lambda: alice.state is State.GONE)


def test_an_original_that_is_not_there_is_given_up() -> None:
    talks = Talks()
    alice, theirs = Chatter(talks.a, "alice"), OriginalChat(talks.b, "bob")
    talks.run(2.0)
    theirs.kill()
    alice.connect(theirs)
    assert talks.run(40.0, lambda: alice.state is State.FAILED)
    assert alice.now_is.reason


def test_two_originals_talk_by_our_server() -> None:
    talks = Talks()
    alice, bob = OriginalChat(talks.a, "alice"), OriginalChat(talks.b, "bob")
    talks.run(2.0)
    alice.connect(bob)
    talks.run(10.0)
    alice.say("hello", encrypted=True)
    talks.run(1.0)
    assert bob.messages() == [("hello", True)] and not alice.ended and not bob.ended


# A server that lies


class Liar:
    """A server that registers everybody, and says to whoever asks what it is told to say."""

    def __init__(self, host: Host) -> None:
        self.keys = secrecy.KeyPair(b"liar" * 8)
        self.clients: Dict[str, Tuple[Address, bytes]] = {}  # by name: where, and the secret
        self.answer: Callable[[str], List[Established]] = lambda name: []
        self._secrets: Dict[Address, bytes] = {}
        self._nonces = itertools.count()
        self._socket = Socket(host, CHAT_PORT)
        self._socket.read(self._receive)

    def tell(self, name: str, *said: Established) -> None:
        where, secret = self.clients[name]
        for of in said:
            self._send(where, chat.of_established(of))

    def _send(self, where: Address, message: Message) -> None:
        nonce = next(self._nonces).to_bytes(12, "big")
        sealed = secrecy.seal(self._secrets[where], nonce, chat.encode(message))
        self._socket.send(where, sealed)

    def _receive(self, source: Address, data: bytes) -> None:
        try:
            message = chat.decode(data)
        except Malformed:
            message = chat.decode(secrecy.unseal(self._secrets[source], data))
        if message.type == "greeting":
            self._secrets[source] = self.keys.secret(chat.public_key_of(message))
            own = chat.to_base64(self.keys.public)
            greeting = Message("greeting", data=own, version=1, nonce="7")
            self._socket.send(source, chat.encode(greeting))
        elif message.type == "register":
            self.clients[message.data["username"]] = source, self._secrets[source]
            self._send(source, Message("register"))
        elif message.type == "establish":
            for name, (where, _) in self.clients.items():
                if where == source:
                    self.tell(name, *self.answer(name))
        self._socket.read(self._receive)


class Lies:
    """Alice and Bob at a server that lies."""

    def __init__(self, honest: bool = False) -> None:
        self.talks = Talks()
        self.talks.stop_servers()
        self.liar = Liar(self.talks.server)
        self.alice, self.bob = Chatter(self.talks.a, "alice"), Chatter(self.talks.b, "bob")
        assert self.talks.run(5.0, lambda: self.alice.state is self.bob.state is State.READY)
        if honest:
            self.liar.tell("alice", self.truth(self.bob))
            self.liar.tell("bob", self.truth(self.alice))
            assert direct(self.talks, self.alice, self.bob)

    def truth(self, of: Chatter, **changes: Any) -> Established:
        where, _ = self.liar.clients[of.now_is.name]
        fields: Dict[str, Any] = {
            "id": of.id, "name": of.now_is.name, "peer": where,
            "public_key": of.role._secrets.keys.public, "mark": of.role._mark,
        }  # fmt: skip
        return Established(**{**fields, **changes})


def test_a_server_that_names_another_key_is_refused() -> None:
    lies = Lies()
    forged = lies.truth(lies.bob, public_key=EVE.public, peer=ELSEWHERE)
    lies.liar.answer = lambda name: [forged]
    lies.alice.connect(lies.bob)
    lies.talks.run(30.0)
    assert lies.alice.state is State.FAILED
    assert lies.alice.now_is.reason == "the server names a key that is not the peer's: refused"


def test_a_server_that_names_another_id_is_not_followed() -> None:
    lies = Lies()
    eve = Established(EVE_ID, "bob", ELSEWHERE, EVE.public, marks.new(b"e" * 16))
    sent: List[Address] = []
    lies.talks.network.watch = lambda _, destination, data: sent.append(destination)
    lies.liar.answer = lambda name: [eve]
    lies.alice.connect(lies.bob)
    lies.talks.run(30.0)
    assert lies.alice.state is State.ESTABLISHING and ELSEWHERE not in sent
    assert any(EVE_ID in notice for notice in lies.alice.notices)


class Eve:
    """Between the two: she has a key of her own, and answers as an original does."""

    def __init__(self, host: Host, claims: str) -> None:
        self.heard: List[bytes] = []
        self._claims = claims
        self._socket = Socket(host, 6666)
        self._socket.read(self._receive)

    def _receive(self, source: Address, data: bytes) -> None:
        self.heard.append(data)
        if len(self.heard) > 50:
            return
        for message in (
            Message("connect", self._claims),
            Message("key", self._claims, data=chat.to_base64(EVE.public)),
            Message("message", self._claims, data="it is me, bob"),
        ):
            self._socket.send(source, chat.encode(message))
        self._socket.read(self._receive)


def test_who_stands_between_the_two_is_not_taken_for_the_peer() -> None:
    """The server sends them both to her, and says nothing of keys and marks."""
    lies = Lies()
    eve = Eve(lies.talks.network.host("eve", "198.51.100.66"), lies.bob.id)
    where = lies.truth(lies.bob, public_key=b"", mark=b"", peer=ELSEWHERE)
    lies.liar.answer = lambda name: [where]
    lies.alice.connect(lies.bob)
    lies.talks.run(60.0)
    assert eve.heard and lies.alice.state is State.FAILED and not lies.alice.heard()
    (notice,) = (text for text in lies.alice.notices if "a key came" in text)
    assert "not the peer's" in notice


def test_nor_is_one_to_whom_the_server_gave_the_right_key_to_show() -> None:
    """She can show the peer's public key, and read nothing that is sealed with it."""
    lies = Lies()
    where = lies.truth(lies.bob, peer=ELSEWHERE)
    eve = Eve(lies.talks.network.host("eve", "198.51.100.66"), lies.bob.id)
    lies.liar.answer = lambda name: [where]
    lies.alice.connect(lies.bob)
    lies.talks.run(60.0)
    assert eve.heard and lies.alice.state is State.FAILED and not lies.alice.heard()


LATER_LIES: Dict[str, Callable[[Lies], Established]] = {
    "another key": lambda lies: lies.truth(lies.bob, public_key=EVE.public),
    "another mark": lambda lies: lies.truth(lies.bob, mark=marks.new(b"e" * 16)),
    "no mark": lambda lies: lies.truth(lies.bob, mark=b""),
    "neither": lambda lies: lies.truth(lies.bob, mark=b"", public_key=b""),
    "another address": lambda lies: lies.truth(lies.bob, peer=ELSEWHERE),
    "a forbidden address": lambda lies: lies.truth(lies.bob, peer=address.ANY_IPV4),
    "somebody else": lambda lies: Established(
        EVE_ID, "eve", ELSEWHERE, EVE.public, marks.new(b"e" * 16)
    ),
    "somebody else with another key": lambda lies: Established(EVE_ID, "e", ELSEWHERE, bytes(32)),
    "everything": lambda lies: lies.truth(
        lies.bob, mark=marks.new(b"e" * 16), peer=ELSEWHERE, name="eve"
    ),
}


@pytest.mark.parametrize("name", LATER_LIES)
def test_a_conversation_that_is_direct_is_none_of_the_servers_business(name: str) -> None:
    lies = Lies(honest=True)
    lies.talks.run(2.0)
    for _ in range(5):
        lies.liar.tell("alice", LATER_LIES[name](lies))
        lies.talks.run(1.0)
        talk(lies.talks, lies.alice, lies.bob, within=3.0)
    lies.talks.run(60.0)
    assert lies.alice.direct and lies.bob.direct
    assert State.FAILED not in lies.alice.states and State.GONE not in lies.alice.states
    talk(lies.talks, lies.alice, lies.bob, within=3.0)


# Strangers


def record(talks: Talks) -> "List[Tuple[Host, Address, bytes]]":
    recorded: "List[Tuple[Host, Address, bytes]]" = []
    talks.network.watch = lambda host, destination, data: recorded.append((host, destination, data))
    return recorded


def inject(chatter: Chatter, data: bytes) -> None:
    """A datagram with the peer's address as its source, on the socket of the path."""
    route = chatter.role._meeting.path.peer
    chatter.runner.burst(route.endpoint, route.destination, data, len(data))


def test_whatever_is_sent_again_is_shown_once() -> None:
    talks = Talks()
    alice, bob = talks.direct_chats()
    recorded = record(talks)
    for number in range(20):
        alice.say(f"alice {number}")
        bob.say(f"bob {number}")
        talks.run(0.2)
    lines = [dict(one.lines) for one in (alice, bob)]
    for _, _, data in list(recorded):
        for one in (alice, bob):
            inject(one, data)
    talks.run(5.0)
    assert [one.lines for one in (alice, bob)] == lines
    assert alice.direct and bob.direct
    said = "a message came a second time: passed over"
    assert alice.notices == bob.notices == [said]
    talk(talks, alice, bob)


def test_what_is_not_sealed_is_not_the_peers() -> None:
    talks = Talks()
    alice, bob = talks.direct_chats()
    inject(alice, chat.encode(Message("message", bob.id, data="in plain")))
    inject(alice, chat.encode(Message("message", bob.id, data="numbered", seq=1 << 20 | 1)))
    alice.say("hello")
    talks.run(0.001)
    inject(alice, chat.encode(Message("ack", bob.id, seq=1 << 20 | 1)))
    assert alice.said() == [("hello", Mark.SENT)] and alice.heard() == []
    assert alice.notices == ["a message came unencrypted: passed over"]


@pytest.mark.parametrize("key", [EVE.public, bytes(32), b"short"])
def test_another_key_changes_nothing(key: bytes) -> None:
    talks = Talks()
    alice, bob = talks.direct_chats()
    before = alice.now_is
    for identity in (bob.id, chat.peer_id(key)):
        inject(alice, chat.encode(Message("key", identity, data=base64.b64encode(key).decode())))
    assert alice.now_is == before
    (notice,) = alice.notices
    assert "not the peer's" in notice
    talk(talks, alice, bob)


FIELDS = ("peerID", "error", "data", "v", "mark", "nonce", "seq", "id")
VALUES: Any = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(st.characters(), max_size=20)
    | st.lists(st.integers(), max_size=3)
    | st.sampled_from((chat.to_base64(EVE.public), EVE_ID, 1 << 20 | 1))
)
TABLES = st.builds(
    lambda kind, more: json.dumps({"type": kind, **more}).encode(),
    st.sampled_from(("connect", "key", "message", "ack", "", "establish")) | st.text(max_size=9),
    st.dictionaries(st.sampled_from(FIELDS), VALUES),
)


@given(st.lists(st.tuples(st.booleans(), TABLES | st.binary(max_size=100)), max_size=20))
@settings(max_examples=50)
def test_anything_from_the_peers_address_is_survived(datagrams: "List[Tuple[bool, bytes]]") -> None:
    """Sealed with the right key or not: a peer of ours may be hostile, too."""
    talks = Talks()
    alice, bob = talks.direct_chats()
    secret = bob.role._secrets.keys.secret(alice.role._secrets.keys.public)
    for number, (seals, data) in enumerate(datagrams):
        inject(alice, secrecy.seal(secret, number.to_bytes(12, "big"), data) if seals else data)
        talks.run(0.05)
    for text in (*alice.heard(), *alice.notices):
        text.encode()
    assert alice.state in (State.DIRECT, State.GONE)


def test_what_a_peer_says_in_surrogates_can_be_shown() -> None:
    talks = Talks()
    alice, bob = talks.direct_chats()
    secret = bob.role._secrets.keys.secret(alice.role._secrets.keys.public)
    data = json.dumps(
        {"type": "message", "peerID": bob.id, "data": "a\ud83d", "seq": 1 << 20 | 1}
    ).encode()
    inject(alice, secrecy.seal(secret, bytes(12), data))
    assert alice.heard() == ["a?"]


def test_a_third_that_asks_during_a_conversation_is_told_of_once_and_left_alone() -> None:
    talks = Talks()
    alice, bob = talks.direct_chats()
    carol = Chatter(talks.network.host("c", "198.51.100.9"), "carol")
    talks.run(2.0)
    carol.connect(alice)
    talks.run(20.0)
    assert alice.notices == [f"carol wants to talk, id {carol.id}"]
    assert not carol.direct and alice.direct
    talk(talks, alice, bob)


@pytest.mark.parametrize("victim", ["203.0.113.10:9001", "224.0.0.1:5000", "255.255.255.255:5"])
def test_nothing_goes_where_a_server_must_not_send_it(victim: str) -> None:
    lies = Lies()
    ip, _, port = victim.rpartition(":")
    there = address.pack(ip, int(port))
    lies.liar.answer = lambda name: [lies.truth(lies.bob, peer=there)]
    recorded = record(lies.talks)
    lies.alice.connect(lies.bob)
    lies.talks.run(30.0)
    assert lies.alice.state is State.FAILED and "not punching" in lies.alice.now_is.reason
    for _, destination, data in recorded:
        assert destination != there or victim.endswith(":9001") and b"connect" not in data


def test_a_victim_of_a_lying_server_gets_little() -> None:
    for changes in ({}, {"mark": b""}, {"mark": b"", "public_key": b""}):
        lies = Lies()
        said = lies.truth(lies.bob, peer=ELSEWHERE, **changes)
        lies.liar.answer = lambda name, said=said: [said] * 5  # type: ignore[misc]
        recorded = record(lies.talks)
        lies.alice.connect(lies.bob)
        lies.talks.run(60.0)
        sizes = [len(data) for _, destination, data in recorded if destination == ELSEWHERE]
        assert len(sizes) <= 300 and sum(sizes) <= 20_000
