"""What a chat says to its server, ours or another, and what it believes of the answers."""

from __future__ import annotations

import base64
import itertools
from typing import Any, List, Optional, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.standin import chat as standin
from udppunch import address
from udppunch.proto.chat.dialogue import REFRESH, Dialogue
from udppunch.proto.puncher.meeting import Introduction, Refusal, Registered, Word
from udppunch.wire import chat, marks, secrecy
from udppunch.wire.chat import Established, Message
from udppunch.wire.malformed import Malformed

MARK = marks.new(b"p" * 16)
PEERS_MARK = marks.new(b"o" * 16)
ALICE, BOB, EVE = (secrecy.KeyPair(letter * 32) for letter in (b"a", b"b", b"e"))
ALICE_ID, BOB_ID = chat.peer_id(ALICE.public), chat.peer_id(BOB.public)
SEEN = address.pack("203.0.113.101", 4000)
PEER = address.pack("203.0.113.102", 5000)
RIGHT = Established(BOB_ID, "bob", PEER, BOB.public, PEERS_MARK, SEEN)
UNKNOWN = Message("establish", error=f"The peer: {BOB_ID} has not registered with the server.")


class Server:
    """As much of one as a test needs; it seals with the same key for all."""

    def __init__(self, ours: bool = True, private: bytes = b"s" * 32) -> None:
        self.ours = ours
        self.keys = secrecy.KeyPair(private)
        self.secret = self.keys.secret(ALICE.public)
        self.nonce = "1234" if ours else ""
        self._numbers = itertools.count(1)

    def greeting(self) -> bytes:
        data = chat.to_base64(self.keys.public)
        return chat.encode(Message("greeting", data=data, version=int(self.ours), nonce=self.nonce))

    def seal(self, message: Message) -> bytes:
        nonce = next(self._numbers).to_bytes(12, "big")
        return secrecy.seal(self.secret, nonce, chat.encode(message))

    def opened(self, datagram: bytes) -> "tuple[Message, bool]":
        try:
            return chat.decode(datagram), False
        except Malformed:
            return chat.decode(secrecy.unseal(self.secret, datagram)), True


def new_dialogue(now: float = 0.0) -> Dialogue:
    numbers = itertools.count()

    def random(count: int) -> bytes:
        return next(numbers).to_bytes(count, "big")

    return Dialogue("alice", MARK, ALICE, random, now)


def registered(server: Server) -> Dialogue:
    dialogue = new_dialogue()
    dialogue.due(0.0)
    dialogue.receive(server.greeting(), 0.05)
    dialogue.due(0.05)
    assert dialogue.receive(server.seal(Message("register")), 0.1) == Registered()
    return dialogue


def asking(server: Server) -> Dialogue:
    dialogue = registered(server)
    dialogue.ask(BOB_ID, 1.0)
    ((question, _),) = types(server, dialogue.due(1.0))
    assert question == "establish"
    return dialogue


def types(server: Server, said: Sequence[bytes]) -> "List[tuple[str, bool]]":
    """What kinds of messages, and which of them are sealed."""
    found = [server.opened(datagram) for datagram in said]
    return [(message.type, sealed) for message, sealed in found]


def pass_time(
    server: Server, dialogue: Dialogue, start: float, end: float
) -> "List[tuple[float, str]]":
    found: "List[tuple[float, str]]" = []
    now = start
    while True:
        deadline: Optional[float] = dialogue.deadline()
        if deadline is None or deadline > end:
            return found
        now = max(now, deadline)
        said = types(server, dialogue.due(now))
        assert said, "a deadline at which nothing is due"
        found += [(now, kind) for kind, _ in said]


# To be known to the server


def test_it_greets_until_it_is_greeted() -> None:
    server, dialogue = Server(), new_dialogue()
    times = [when for when, kind in pass_time(server, dialogue, 0.0, 20.0) if kind == "greeting"]
    gaps = [later - earlier for earlier, later in zip(times, times[1:])]
    assert times[0] == 0.0 and gaps[0] < 0.5 and gaps[-1] == pytest.approx(2.0)
    assert dialogue.silent(20.0)


def test_a_greeting_bears_the_key_and_nothing_secret() -> None:
    (datagram,) = new_dialogue().due(0.0)
    message = chat.decode(datagram)
    assert chat.public_key_of(message) == ALICE.public and message.version == chat.VERSION
    assert not message.mark
    assert standin.decode(datagram).data == base64.b64encode(ALICE.public).decode()


def test_to_a_server_of_ours_the_name_is_sealed_with_its_nonce() -> None:
    server, dialogue = Server(), new_dialogue()
    dialogue.due(0.0)
    assert dialogue.receive(server.greeting(), 0.1) is None
    (datagram,) = dialogue.due(0.1)
    message, sealed = server.opened(datagram)
    assert sealed and (message.type, message.peer_id) == ("register", ALICE_ID)
    assert message.nonce == server.nonce and message.mark == MARK
    assert message.data == {"username": "alice", "publicKey": chat.to_base64(ALICE.public)}
    assert len(datagram) == chat.PADDED + chat.SEAL


def test_to_another_server_it_is_plain_as_an_original_says_it() -> None:
    server, dialogue = Server(ours=False), new_dialogue()
    dialogue.due(0.0)
    dialogue.receive(server.greeting(), 0.1)
    (datagram,) = dialogue.due(0.1)
    message, sealed = server.opened(datagram)
    assert not sealed and message.peer_id == ALICE_ID and not message.nonce
    assert standin.decode(datagram).data["username"] == "alice"


@pytest.mark.parametrize("ours", [True, False])
def test_once_registered_it_says_so_again_each_15_s(ours: bool) -> None:
    server = Server(ours)
    dialogue = registered(server)
    assert dialogue.deadline() == 0.1 + REFRESH and not dialogue.silent(0.1 + REFRESH)
    for beat in range(1, 5):
        now = dialogue.deadline() or 0.0
        assert types(server, dialogue.due(now)) == [("register", ours)]
        assert dialogue.receive(server.seal(Message("register")), now) is None, "no news"
        assert now == pytest.approx(0.1 + REFRESH * beat)


def test_a_confirmation_that_is_not_sealed_confirms_nothing() -> None:
    server, dialogue = Server(), new_dialogue()
    dialogue.due(0.0)
    dialogue.receive(server.greeting(), 0.05)
    assert dialogue.receive(chat.encode(Message("register")), 0.1) is None
    assert types(server, dialogue.due(0.5)) == [("register", True)]


def test_a_second_greeting_changes_nothing() -> None:
    """A forged one could make this end speak to somebody else."""
    server, eve = Server(), Server(private=b"e" * 32)
    dialogue = new_dialogue()
    dialogue.due(0.0)
    dialogue.receive(server.greeting(), 0.05)
    dialogue.receive(eve.greeting(), 0.06)
    assert types(server, dialogue.due(0.1)) == [("register", True)]
    dialogue.receive(server.seal(Message("register")), 0.1)
    dialogue.receive(eve.greeting(), 0.2)
    assert types(server, dialogue.due(0.1 + REFRESH)) == [("register", True)]


def test_a_server_that_was_started_anew_is_greeted_anew() -> None:
    server, anew = Server(), Server(private=b"n" * 32)
    dialogue = registered(server)
    for _ in range(30):  # it can't open what was sealed with the former one's key
        deadline = dialogue.deadline()
        assert deadline is not None and deadline < 40.0
        if types_of_unknown(anew, dialogue.due(deadline)) == ["greeting"]:
            dialogue.receive(anew.greeting(), deadline)
            assert types(anew, dialogue.due(deadline + 0.01)) == [("register", True)]
            return
        dialogue.receive(chat.encode(Message("", error="Malformed payload was sent")), deadline)
    raise AssertionError("it is never greeted")


def types_of_unknown(server: Server, said: Sequence[bytes]) -> List[str]:
    """With a question mark for what that server can't open."""
    found = []
    for datagram in said:
        try:
            found.append(server.opened(datagram)[0].type)
        except Malformed:
            found.append("?")
    return found


def test_so_is_one_that_was_started_anew_right_after_its_greeting() -> None:
    server, anew = Server(), Server(private=b"n" * 32)
    dialogue = new_dialogue()
    dialogue.due(0.0)
    dialogue.receive(server.greeting(), 0.05)
    for _ in range(30):
        deadline = dialogue.deadline()
        assert deadline is not None and deadline < 30.0, "it says the name for ever"
        if types_of_unknown(anew, dialogue.due(deadline)) == ["greeting"]:
            return
        dialogue.receive(chat.encode(Message("", error="Malformed payload was sent")), deadline)
    raise AssertionError("it is never greeted")


def test_a_name_that_is_not_confirmed_in_time_needs_a_fresh_nonce() -> None:
    """The one of the first greeting is good for ten seconds."""
    server, dialogue = Server(), new_dialogue()
    dialogue.due(0.0)
    dialogue.receive(server.greeting(), 0.05)
    assert "greeting" in [kind for _, kind in pass_time(server, dialogue, 0.05, 12.0)]


def test_a_silent_server_is_greeted_anew_in_the_end() -> None:
    server = Server()
    dialogue = registered(server)
    found = pass_time(server, dialogue, 0.1, 60.0)
    assert "greeting" in [kind for _, kind in found]
    assert dialogue.silent(60.0)


def test_a_refusal_is_told_once_and_tried_again_with_patience() -> None:
    server, dialogue = Server(), new_dialogue()
    words: List[Word] = []
    tries = 0
    now = 0.0
    while now < 20.0:
        now = max(now + 0.01, dialogue.deadline() or now)
        for kind, _ in types(server, dialogue.due(now)):
            tries += kind == "register"
            answer = server.greeting()
            if kind == "register":
                answer = chat.encode(Message("register", error="this id is registered"))
            word = dialogue.receive(answer, now)
            words += [word] if word is not None else []
    assert words == [Refusal("this id is registered")]
    assert 5 <= tries <= 20


# To be introduced


def test_it_asks_our_server_in_the_length_of_the_answer() -> None:
    server = Server()
    dialogue = registered(server)
    dialogue.ask(BOB_ID, 1.0)
    (datagram,) = dialogue.due(1.0)
    message, _ = server.opened(datagram)
    assert (message.type, message.peer_id, message.data) == ("establish", ALICE_ID, BOB_ID)
    assert len(datagram) >= chat.PADDED


def test_it_does_not_ask_before_it_is_registered() -> None:
    server, dialogue = Server(), new_dialogue()
    dialogue.ask(BOB_ID, 0.0)
    assert {kind for _, kind in pass_time(server, dialogue, 0.0, 10.0)} == {"greeting"}


def test_our_server_introduces_a_peer_of_ours() -> None:
    server = Server()
    dialogue = asking(server)
    word = dialogue.receive(server.seal(chat.of_established(RIGHT)), 1.1)
    secret = ALICE.secret(BOB.public)
    assert word == Introduction(BOB_ID, "bob", PEER, PEERS_MARK, secret, SEEN, BOB.public)


def test_an_introduction_without_a_key_bears_no_mark() -> None:
    """What the two ends say to each other must not be forged by who has no key."""
    server = Server()
    dialogue = asking(server)
    of = Established(BOB_ID, "bob", PEER, b"", PEERS_MARK)
    word = dialogue.receive(server.seal(chat.of_established(of)), 1.1)
    assert word == Introduction(BOB_ID, "bob", PEER)


def test_a_key_that_the_id_is_not_the_hash_of_is_refused() -> None:
    server = Server()
    dialogue = asking(server)
    of = Established(BOB_ID, "bob", PEER, EVE.public, PEERS_MARK, SEEN)
    word = dialogue.receive(server.seal(chat.of_established(of)), 1.1)
    assert isinstance(word, Refusal) and word.final and "not the peer's" in word.text


def test_an_introduction_that_is_not_sealed_is_passed_over() -> None:
    dialogue = asking(Server())
    assert dialogue.receive(chat.encode(chat.of_established(RIGHT)), 1.1) is None


def test_nor_is_one_believed_that_somebody_else_has_sealed() -> None:
    dialogue = asking(Server())
    eve = Server(private=b"e" * 32)
    with pytest.raises(Malformed):
        dialogue.receive(eve.seal(chat.of_established(RIGHT)), 1.1)


def test_a_peer_that_is_not_registered_yet_is_asked_for_on() -> None:
    server = Server()
    dialogue = asking(server)
    assert dialogue.receive(chat.encode(UNKNOWN), 1.1) == Refusal(UNKNOWN.error)
    assert dialogue.receive(chat.encode(UNKNOWN), 1.2) is None, "said already"
    found = pass_time(server, dialogue, 1.2, 14.0)
    assert len([kind for _, kind in found if kind == "establish"]) >= 4
    word = dialogue.receive(server.seal(chat.of_established(RIGHT)), 14.0)
    assert isinstance(word, Introduction)


def test_our_server_is_asked_on_until_the_peer_is_there_and_another_seldom() -> None:
    for ours, most in ((True, 10), (False, 1)):
        server = Server(ours)
        dialogue = asking(server)
        dialogue.receive(server.seal(chat.of_established(RIGHT)), 1.1)
        asked = [kind for _, kind in pass_time(server, dialogue, 1.1, 12.0) if kind == "establish"]
        assert len(asked) == most
        dialogue.settle(12.0)
        assert all(kind != "establish" for _, kind in pass_time(server, dialogue, 12.0, 30.0))


def test_once_another_socket_speaks_this_one_says_nothing() -> None:
    server = Server()
    dialogue = asking(server)
    dialogue.cease()
    assert dialogue.deadline() is None and dialogue.due(100.0) == [] and not dialogue.silent(100.0)
    for answer in (
        server.greeting(),
        server.seal(Message("register")),
        chat.encode(UNKNOWN),
        chat.encode(Message("register", error="refused")),
    ):
        assert dialogue.receive(answer, 100.0) is None
    assert dialogue.deadline() is None
    word = dialogue.receive(server.seal(chat.of_established(RIGHT)), 100.0)
    assert isinstance(word, Introduction), "and yet may be the one by which the peer is met"


def test_goodbye_has_no_word() -> None:
    assert list(registered(Server()).goodbye()) == []


# Whatever the server says


GREETED: List[Any] = [
    chat.to_base64(BOB.public),
    "",
    "AAAA",
    None,
    chat.to_base64(bytes(32)),
    {"id": BOB_ID},
    [1],
]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(("greeting", "register", "establish", "connect", "", "ä")),
            st.sampled_from(GREETED) | st.text(max_size=9),
            st.sampled_from(("", "an error")),
            st.booleans(),
            st.floats(0, 5),
        ),
        max_size=30,
    )
)
def test_anything_is_survived_and_it_goes_on(
    steps: "List[tuple[str, Any, str, bool, float]]",
) -> None:
    server, dialogue, now = Server(), new_dialogue(), 0.0
    dialogue.ask(BOB_ID, now)
    for kind, data, error, seals, pause in steps:
        now += pause
        message = Message(kind, error=error, data=data, version=1, nonce="7")
        try:
            dialogue.receive(server.seal(message) if seals else chat.encode(message), now)
        except Malformed:
            pass
        assert len(dialogue.due(now)) <= 2
        deadline = dialogue.deadline()
        assert deadline is not None and now < deadline <= now + REFRESH
