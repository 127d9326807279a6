"""What two people say: each line once and in order, and nothing that a stranger sends again."""

from __future__ import annotations

import itertools
from random import Random
from typing import Any, Callable, Dict, List, Optional

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from udppunch.proto.chat.conversation import Conversation, Replayed, Seals
from udppunch.proto.chat.lines import Lines
from udppunch.proto.chat.secrets import Secrets
from udppunch.proto.chat.view import Line, Mark
from udppunch.wire import chat, secrecy
from udppunch.wire.chat import Message
from udppunch.wire.malformed import Malformed

ALICE, BOB, EVE = (secrecy.KeyPair(letter * 32) for letter in (b"a", b"b", b"e"))
NONCES_KEPT = 4096


def ids(start: int) -> Callable[[int], bytes]:
    """Random bytes that never come twice."""
    numbers = itertools.count(start)
    return lambda count: next(numbers).to_bytes(count, "big")


class End:
    """One process: its secret with the peer, and the conversations that it has with it."""

    def __init__(self, own: secrecy.KeyPair, peer: secrecy.KeyPair, start: int) -> None:
        self.id, self.peer_id = chat.peer_id(own.public), chat.peer_id(peer.public)
        self.seals = Seals(own.secret(peer.public), ids(start))
        self.conversations = 0
        self.lines: List[str] = []
        self.delivered: List[int] = []
        self.begin()

    def begin(self) -> None:
        self.conversations += 1
        self.talk = Conversation(self.seals, self.id, self.peer_id, self.conversations)

    def hear(self, datagram: bytes, now: float) -> List[str]:
        """The lines that came with it. Raises Malformed."""
        message = self.seals.unseal(datagram)
        if message.type == "ack":
            number = self.talk.acknowledged(message, now)
            if number:
                self.delivered.append(number)
            return []
        lines = self.talk.heard(message)
        self.lines += lines
        return lines


def ends() -> "tuple[End, End]":
    return End(ALICE, BOB, 0), End(BOB, ALICE, 1 << 40)


def exchange(one: End, other: End, now: float = 0.0) -> None:
    """Nothing is lost."""
    for sender, receiver in ((one, other), (other, one), (one, other)):
        for datagram in sender.talk.due(now):
            receiver.hear(datagram, now)


def test_lines_arrive_and_each_end_knows_which() -> None:
    alice, bob = ends()
    assert [alice.talk.say(text) for text in ("one", "two")] == [1, 2]
    bob.talk.say("three")
    exchange(alice, bob)
    assert bob.lines == ["one", "two"] and alice.lines == ["three"]
    assert alice.delivered == [1, 2] and alice.talk.under_way == 0
    assert bob.delivered == [1]
    assert alice.talk.deadline() is None


def test_a_line_that_comes_twice_is_acknowledged_twice_and_shown_once() -> None:
    alice, bob = ends()
    alice.talk.say("one")
    (first,) = alice.talk.due(0.0)
    (again,) = alice.talk.due(0.5)
    assert first != again, "sealed anew"
    assert bob.hear(first, 0.6) == ["one"] and bob.hear(again, 0.7) == []
    assert len(bob.talk.due(0.7)) == 2


def test_lines_that_come_out_of_order_are_shown_in_order() -> None:
    alice, bob = ends()
    for text in ("one", "two", "three"):
        alice.talk.say(text)
    one, two, three = alice.talk.due(0.0)
    assert bob.hear(three, 0.1) == [] and bob.hear(two, 0.1) == []
    assert bob.hear(one, 0.1) == ["one", "two", "three"]


# Who is not the peer


def test_what_was_sent_before_is_refused() -> None:
    alice, bob = ends()
    alice.talk.say("one")
    (datagram,) = alice.talk.due(0.0)
    bob.hear(datagram, 0.1)
    with pytest.raises(Replayed):
        bob.hear(datagram, 0.2)


def test_what_this_end_sent_is_refused_when_it_comes_back() -> None:
    alice, _ = ends()
    alice.talk.say("one")
    for datagram in (*alice.talk.due(0.0), alice.talk.say_once("two")):
        with pytest.raises(Replayed):
            alice.hear(datagram, 0.1)
    assert alice.lines == []


def forget_nonces(end: End) -> None:
    """By as much traffic as it takes."""
    for _ in range(NONCES_KEPT):
        end.talk.say_once("more")


def test_nor_is_it_taken_for_the_peers_once_its_nonce_is_forgotten() -> None:
    alice, _ = ends()
    alice.talk.say("one")
    (datagram,) = alice.talk.due(0.0)
    forget_nonces(alice)
    assert alice.hear(datagram, 0.1) == [] and alice.lines == []
    assert alice.talk.due(0.1) == [], "nothing is acknowledged"


def test_an_acknowledgement_of_ones_own_confirms_nothing_of_ones_own() -> None:
    alice, bob = ends()
    bob.talk.say("one")
    (line,) = bob.talk.due(0.0)
    alice.hear(line, 0.1)
    (own_ack,) = alice.talk.due(0.1)
    forget_nonces(alice)
    alice.talk.say("did you get this?")
    alice.talk.due(0.2)
    alice.hear(own_ack, 0.3)
    assert alice.delivered == []


@pytest.mark.parametrize("pair", [(EVE, BOB), (EVE, ALICE), (ALICE, EVE)])
def test_nobody_else_can_say_anything(pair: "tuple[secrecy.KeyPair, secrecy.KeyPair]") -> None:
    _, bob = ends()
    eve = End(*pair, start=1 << 50)
    eve.talk.say("one")
    for datagram in (*eve.talk.due(0.0), eve.talk.say_once("two")):
        with pytest.raises(Malformed):
            bob.hear(datagram, 0.1)


def test_an_id_that_is_not_the_peers_is_passed_over() -> None:
    _, bob = ends()
    line = Message("message", chat.peer_id(EVE.public), data="one", seq=1 << 20 | 1)
    assert bob.talk.heard(line) == [] and bob.talk.due(0.0) == []


# Conversations


def test_a_new_conversation_begins_again_and_hears_nothing_of_the_last() -> None:
    alice, bob = ends()
    alice.talk.say("one")
    (late,) = alice.talk.due(0.0)
    for end in (alice, bob):
        end.begin()
    alice.talk.say("two")
    exchange(alice, bob, 1.0)
    assert bob.hear(late, 2.0) == [] and bob.lines == ["two"]


def test_nothing_of_a_former_conversation_is_shown_in_the_next() -> None:
    """Not even when it is the first to come there, and its nonce is long forgotten."""
    alice, bob = ends()
    alice.talk.say("yes")
    (yes,) = alice.talk.due(0.0)
    bob.hear(yes, 0.1)
    for end in (alice, bob):
        end.begin()
    forget_nonces(bob)
    assert bob.hear(yes, 1.0) == []


def test_nor_in_the_midst_of_it() -> None:
    alice, bob = ends()
    for text in ("one", "yes"):
        alice.talk.say(text)
    _, yes = alice.talk.due(0.0)
    for end in (alice, bob):
        end.begin()
    alice.talk.say("shall we?")
    exchange(alice, bob, 1.0)
    assert bob.hear(yes, 2.0) == [] and bob.lines == ["shall we?"]


def test_an_acknowledgement_of_a_former_conversation_confirms_nothing() -> None:
    alice, bob = ends()
    alice.talk.say("one")
    (line,) = alice.talk.due(0.0)
    bob.hear(line, 0.1)
    (ack,) = bob.talk.due(0.1)
    alice.begin()
    alice.talk.say("two")
    alice.talk.due(0.2)
    alice.hear(ack, 0.3)
    assert alice.delivered == [] and alice.talk.under_way == 1


def test_an_end_that_forgot_a_conversation_joins_it_where_the_other_is() -> None:
    alice, bob = ends()
    for text in ("one", "two"):
        alice.talk.say(text)
    exchange(alice, bob)
    bob.begin()
    alice.talk.say("three")
    alice.talk.say("four")
    three, four = alice.talk.due(1.0)
    assert bob.hear(four, 1.1) == []
    assert bob.hear(three, 1.1) == ["three", "four"]


def test_nor_is_the_other_kept_waiting_for_what_was_never_acknowledged() -> None:
    alice, bob = ends()
    alice.talk.say("one")
    (line,) = alice.talk.due(0.0)
    bob.hear(line, 0.1)  # and its acknowledgement is lost
    bob.begin()
    alice.talk.say("two")
    exchange(alice, bob, 1.0)
    assert bob.lines == ["one", "two"] and alice.delivered == [1, 2]


def test_the_peers_new_conversation_begins_with_its_first_line() -> None:
    alice, bob = ends()
    for text in ("one", "two"):
        alice.talk.say(text)
    exchange(alice, bob)
    alice.begin()
    alice.talk.say("anew")
    exchange(alice, bob, 1.0)
    assert bob.lines == ["one", "two", "anew"] and alice.delivered == [1, 2, 1]


# An end that is not ours


def test_what_an_original_gets_has_no_number() -> None:
    alice, bob = ends()
    message = bob.seals.unseal(alice.talk.say_once("one"))
    assert message == Message("message", alice.id, data="one")
    assert alice.talk.under_way == 0


@pytest.mark.parametrize("data", [None, 1, ["one"], {"text": "one"}])
def test_a_line_that_is_no_text_is_an_empty_one(data: object) -> None:
    alice, bob = ends()
    line = Message("message", alice.id, data=data, seq=1 << 20 | 1)
    assert bob.hear(alice.seals.seal(line), 0.0) == [""]


# The secrets with all peers


def test_a_secret_is_learnt_from_the_key_that_the_id_is_the_hash_of() -> None:
    secrets = Secrets(lambda count: b"a" * count)
    bob = chat.peer_id(BOB.public)
    assert secrets.learn(bob, BOB.public) == BOB.secret(secrets.keys.public)
    for identity, key in ((bob, EVE.public), (chat.peer_id(EVE.public), BOB.public)):
        with pytest.raises(Malformed):
            secrets.learn(identity, key)
    assert secrets.with_peer(bob)
    with pytest.raises(KeyError):
        secrets.with_peer(chat.peer_id(EVE.public))


def test_what_comes_is_plain_or_the_peers_own() -> None:
    secrets = Secrets(lambda count: b"a" * count)
    bob, eve = (End(own, secrets.keys, start) for own, start in ((BOB, 0), (EVE, 1 << 40)))
    sealed = bob.talk.say_once("sealed")
    with pytest.raises(Malformed):
        secrets.open(bob.id, sealed)
    for end, own in ((bob, BOB), (eve, EVE)):
        secrets.learn(end.id, own.public)
    message = Message("message", bob.id, data="plain")
    assert secrets.open(bob.id, chat.encode(message)) == (message, False)
    assert secrets.open(bob.id, sealed)[1]
    with pytest.raises(Malformed):
        secrets.open(bob.id, eve.talk.say_once("another's"))


def test_what_was_heard_of_a_peer_is_remembered_when_its_key_comes_again() -> None:
    secrets = Secrets(lambda count: b"a" * count)
    bob = End(BOB, secrets.keys, 0)
    sealed = bob.talk.say_once("once")
    secrets.learn(bob.id, BOB.public)
    secrets.open(bob.id, sealed)
    secrets.learn(bob.id, BOB.public)
    with pytest.raises(Replayed):
        secrets.open(bob.id, sealed)


def test_the_number_of_secrets_is_bounded() -> None:
    secrets = Secrets(lambda count: b"a" * count)
    for number in range(0, 200 << 16, 1 << 16):
        public = secrecy.KeyPair(number.to_bytes(16, "big") * 2).public
        secrets.learn(chat.peer_id(public), public)
    assert len(secrets._seals) == 64 and secrets.with_peer(chat.peer_id(public))


# The lines as a screen shows them


class Shown:
    """A screen that keeps how each line fares."""

    def __init__(self) -> None:
        self.lines: "Dict[int, Line]" = {}

    def line(self, line: Line) -> None:
        self.lines[line.number] = line

    def cleared(self) -> None:
        self.lines.clear()

    def marks(self) -> "List[tuple[str, Mark]]":
        return [(line.text, line.mark) for line in self.lines.values()]


def shown() -> "tuple[Shown, Lines]":
    screen: Any = Shown()
    return screen, Lines(screen, lambda: 1e9)


def test_lines_are_numbered_as_they_come_and_told_apart() -> None:
    screen, lines = shown()
    lines.heard("theirs")
    lines.heard("unsealed", plain=True)
    lines.say(1, "mine")
    lines.say_unconfirmed("to an original")
    assert list(screen.lines) == [1, 2, 3, 4]
    assert [(line.mine, line.mark, line.at) for line in screen.lines.values()] == [
        (False, Mark.RECEIVED, 1e9),
        (False, Mark.PLAIN, 1e9),
        (True, Mark.SENT, 1e9),
        (True, Mark.UNCONFIRMED, 1e9),
    ]


def test_a_line_is_delivered_once_and_lost_only_while_under_way() -> None:
    screen, lines = shown()
    for number, text in enumerate(("one", "two", "three"), 1):
        lines.say(number, text)
    for number in (2, 2, 0, 99):
        lines.delivered(number)
    lines.lose()
    lines.delivered(1)
    lost, delivered = Mark.LOST, Mark.DELIVERED
    assert screen.marks() == [("one", lost), ("two", delivered), ("three", lost)]


def test_a_new_conversation_counts_anew_and_knows_nothing_of_the_last() -> None:
    screen, lines = shown()
    lines.say(1, "former")
    lines.clear()
    lines.say(1, "present")
    assert screen.marks() == [("present", Mark.SENT)] and list(screen.lines) == [1]


# Whatever happens


class AnyCourse(RuleBasedStateMachine):
    """Two people over a path that loses, doubles and reorders, with an eavesdropper beside it
    who sends again whatever there was, to whomever."""

    @initialize(loss=st.sampled_from((0.0, 0.2, 0.5)), random=st.randoms(use_true_random=False))
    def build(self, loss: float, random: Random) -> None:
        self.ends = ends()
        self.loss, self.random, self.now = loss, random, 0.0
        self.under_way: "List[tuple[float, int, bytes]]" = []
        self.recorded: List[bytes] = []
        self.said: "tuple[List[str], List[str]]" = ([], [])
        self.numbers = itertools.count()

    @rule(who=st.integers(0, 1), count=st.integers(1, 30))
    def somebody_says(self, who: int, count: int) -> None:
        for _ in range(count):
            text = f"{who} says {next(self.numbers)}"
            self.said[who].append(text)
            assert self.ends[who].talk.say(text) == len(self.said[who])

    @rule(seconds=st.floats(0.01, 5.0))
    def time_passes(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end:
            self.now = min(end, max(self.now + 0.01, self._next()))
            self._arrive()
            for who in (0, 1):
                for datagram in self.ends[who].talk.due(self.now):
                    self.recorded.append(datagram)
                    self._send(1 - who, datagram)

    @rule(which=st.integers(0, 10_000), whom=st.integers(0, 1))
    def the_eavesdropper_sends_again(self, which: int, whom: int) -> None:
        if self.recorded:
            self._send(whom, self.recorded[which % len(self.recorded)])

    @rule(whom=st.integers(0, 1), data=st.binary(max_size=100))
    def the_eavesdropper_sends_anything(self, whom: int, data: bytes) -> None:
        self._send(whom, data)

    @rule(who=st.integers(0, 1))
    def the_path_is_up_again(self, who: int) -> None:
        self.ends[who].talk.hurry(self.now)

    def _next(self) -> float:
        due: "List[Optional[float]]" = [end.talk.deadline() for end in self.ends]
        due += [when for when, _, _ in self.under_way]
        return min((when for when in due if when is not None), default=float("inf"))

    def _send(self, whom: int, datagram: bytes) -> None:
        for _ in range(2 if self.random.random() < 0.2 else 1):
            if self.random.random() >= self.loss:
                self.under_way.append((self.now + self.random.uniform(0, 0.5), whom, datagram))

    def _arrive(self) -> None:
        due = sorted(one for one in self.under_way if one[0] <= self.now)
        self.under_way = [one for one in self.under_way if one[0] > self.now]
        for _, whom, datagram in due:
            try:
                self.ends[whom].hear(datagram, self.now)
            except Malformed:
                pass

    @invariant()
    def lines_come_once_and_in_order_and_their_marks_are_true(self) -> None:
        if hasattr(self, "ends"):
            for who in (0, 1):
                heard = self.ends[1 - who].lines
                assert heard == self.said[who][: len(heard)]
                delivered = self.ends[who].delivered
                assert len(set(delivered)) == len(delivered) <= len(self.said[who])

    def teardown(self) -> None:
        if hasattr(self, "ends"):
            self.loss = 0.0
            for _ in range(60):
                self.time_passes(1.0)
            for who in (0, 1):
                assert self.ends[1 - who].lines == self.said[who]
                assert sorted(self.ends[who].delivered) == list(range(1, len(self.said[who]) + 1))


AnyCourse.TestCase.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)
TestAnyCourse = AnyCourse.TestCase
