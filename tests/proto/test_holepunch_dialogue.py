"""What a peer says to a holepunch server, ours or another, and what it makes of the answers."""

from __future__ import annotations

from typing import List, Optional

import pytest
from hypothesis import given
from hypothesis import strategies as st

from udppunch import address
from udppunch.proto.holepunch.dialogue import REFRESH, Dialogue
from udppunch.proto.puncher.meeting import Introduction, Refusal, Registered
from udppunch.wire import holepunch, marks
from udppunch.wire.malformed import Malformed

MARK = marks.new(b"p" * 16)
SERVERS = marks.new(b"s" * 16)
PEERS = marks.new(b"o" * 16)
SEEN = address.pack("203.0.113.101", 4000)
PEER = address.pack("203.0.113.102", 5000)

OUR_ACK = holepunch.RegisterAck(SERVERS, SEEN)
THEIR_ACK = holepunch.RegisterAck()


def said(dialogue: Dialogue, now: float) -> List[holepunch.Datagram]:
    return [holepunch.decode(datagram) for datagram in dialogue.due(now)]


def tell(dialogue: Dialogue, message: holepunch.Datagram, now: float) -> object:
    return dialogue.receive(holepunch.encode(message), now)


def registered(ack: holepunch.Datagram = OUR_ACK) -> Dialogue:
    dialogue = Dialogue("alice", MARK, 0.0)
    dialogue.due(0.0)
    tell(dialogue, ack, 0.1)
    return dialogue


def pass_time(dialogue: Dialogue, start: float, end: float) -> "List[tuple[float, object]]":
    """What it says meanwhile, and when."""
    found: "List[tuple[float, object]]" = []
    now = start
    while True:
        deadline: Optional[float] = dialogue.deadline()
        if deadline is None or deadline > end:
            return found
        assert not found or deadline > now or not dialogue.due(now), "comes again and again"
        now = max(now, deadline)
        found += [(now, message) for message in said(dialogue, now)]


def test_it_registers_under_its_name_and_mark() -> None:
    dialogue = Dialogue("alice", MARK, 0.0)
    assert dialogue.deadline() == 0.0
    (datagram,) = dialogue.due(0.0)
    assert holepunch.decode(datagram) == holepunch.Register("alice", MARK)
    assert len(datagram) == holepunch.PADDED


def test_until_it_is_answered_it_registers_again_and_then_each_15_s() -> None:
    dialogue = Dialogue("alice", MARK, 0.0)
    times = [when for when, _ in pass_time(dialogue, 0.0, 20.0)]
    gaps = [later - earlier for earlier, later in zip(times, times[1:])]
    assert gaps[0] < 0.5 and gaps[-1] == pytest.approx(2.0)
    assert all(later >= earlier - 1e-9 for earlier, later in zip(gaps, gaps[1:]))
    assert tell(dialogue, OUR_ACK, 20.0) == Registered(SEEN)
    assert dialogue.deadline() == 20.0 + REFRESH
    assert tell(dialogue, OUR_ACK, 20.1) is None, "no news"


def test_a_server_is_silent_when_it_leaves_several_unanswered() -> None:
    dialogue = Dialogue("alice", MARK, 0.0)
    assert not dialogue.silent(2.9) and dialogue.silent(3.0)
    tell(dialogue, OUR_ACK, 4.0)
    assert not dialogue.silent(4.0 + REFRESH)
    assert dialogue.silent(4.0 + REFRESH + 3.0)


def test_it_does_not_ask_before_it_is_registered() -> None:
    """An asker that is not registered is told that nobody has the name."""
    dialogue = Dialogue("alice", MARK, 0.0)
    dialogue.ask("bob", 0.0)
    assert {type(message) for _, message in pass_time(dialogue, 0.0, 10.0)} == {holepunch.Register}
    tell(dialogue, OUR_ACK, 10.0)
    assert said(dialogue, 10.0) == [holepunch.Request("bob", MARK)]


def test_while_nobody_has_the_name_it_is_said_once_and_asked_on() -> None:
    dialogue = registered()
    dialogue.ask("bob", 1.0)
    words, asked, now = [], 0, 1.0
    while now < 60.0:
        for message in said(dialogue, now):
            if isinstance(message, holepunch.Request):
                asked += 1
                words.append(tell(dialogue, holepunch.Unknown(SERVERS), now + 0.05))
            else:
                assert tell(dialogue, OUR_ACK, now + 0.05) is None
        now = max(now + 0.1, dialogue.deadline() or now)
    assert words == [Refusal("no peer is registered as 'bob'; asking on"), *[None] * (asked - 1)]
    assert 20 <= asked <= 40


def test_our_server_is_asked_on_until_the_peer_is_there() -> None:
    """For the peer's copy of the introduction may have been lost, and this repeats it."""
    dialogue = registered()
    dialogue.ask("bob", 1.0)
    said(dialogue, 1.0)
    word = tell(dialogue, holepunch.Initiate("bob", PEER, PEERS, SEEN), 1.1)
    assert word == Introduction("bob", "bob", PEER, PEERS, b"", SEEN)
    requests = [m for _, m in pass_time(dialogue, 1.1, 10.0) if isinstance(m, holepunch.Request)]
    assert len(requests) == 10
    dialogue.settle(10.0)
    assert all(isinstance(m, holepunch.Register) for _, m in pass_time(dialogue, 10.0, 60.0))


def test_another_server_that_has_named_the_peer_is_seldom_asked_again() -> None:
    dialogue = registered(THEIR_ACK)
    dialogue.ask("bob", 1.0)
    assert said(dialogue, 1.0) == [holepunch.Request("bob", MARK)]
    word = tell(dialogue, holepunch.Initiate("bob", PEER), 1.1)
    assert word == Introduction("bob", "bob", PEER)
    later = pass_time(dialogue, 1.1, 31.0)
    asked = [when for when, m in later if isinstance(m, holepunch.Request)]
    assert asked and all(when >= 8.0 for when in asked) and len(asked) <= 3


def test_a_peer_that_came_by_itself_is_introduced_too() -> None:
    dialogue = registered()
    word = tell(dialogue, holepunch.Initiate("carol", PEER, PEERS, SEEN), 1.0)
    assert word == Introduction("carol", "carol", PEER, PEERS, b"", SEEN)


def test_an_answer_about_somebody_else_does_not_answer_the_question() -> None:
    dialogue = registered()
    dialogue.ask("bob", 1.0)
    said(dialogue, 1.0)
    tell(dialogue, holepunch.Initiate("carol", PEER, PEERS, SEEN), 1.1)
    tell(dialogue, holepunch.Unknown(SERVERS), 1.2)
    assert any(isinstance(m, holepunch.Request) for _, m in pass_time(dialogue, 1.2, 5.0))


def test_a_name_that_another_keeps_is_waited_for() -> None:
    dialogue = Dialogue("alice", MARK, 0.0)
    dialogue.ask("bob", 0.0)
    dialogue.due(0.0)
    word = tell(dialogue, holepunch.RegisterAck(SERVERS), 0.1)
    assert isinstance(word, Refusal) and "'alice'" in word.text and not word.final
    assert tell(dialogue, holepunch.RegisterAck(SERVERS), 0.5) is None, "said already"
    later = [message for _, message in pass_time(dialogue, 0.5, 30.0)]
    assert later and set(later) == {holepunch.Register("alice", MARK)}
    assert not dialogue.silent(0.2)
    assert tell(dialogue, OUR_ACK, 30.0) == Registered(SEEN)


def test_a_name_that_was_lost_to_another_is_news_again() -> None:
    dialogue = registered()
    assert isinstance(tell(dialogue, holepunch.RegisterAck(SERVERS), 16.0), Refusal)
    assert tell(dialogue, OUR_ACK, 17.0) == Registered(SEEN)
    assert isinstance(tell(dialogue, holepunch.RegisterAck(SERVERS), 33.0), Refusal)


def test_goodbye_is_said_to_our_server_alone() -> None:
    assert Dialogue("alice", MARK, 0.0).goodbye() == []
    assert registered(THEIR_ACK).goodbye() == []
    (datagram,) = registered().goodbye()
    assert holepunch.decode(datagram) == holepunch.Unknown(MARK)


def test_once_another_socket_speaks_this_one_says_nothing() -> None:
    dialogue = registered()
    dialogue.ask("bob", 1.0)
    dialogue.cease()
    assert dialogue.deadline() is None and dialogue.due(100.0) == []
    assert not dialogue.silent(100.0)
    for message in (OUR_ACK, THEIR_ACK, holepunch.Unknown(SERVERS)):
        assert tell(dialogue, message, 100.0) is None
    assert dialogue.deadline() is None
    word = tell(dialogue, holepunch.Initiate("bob", PEER, PEERS, SEEN), 100.0)
    assert isinstance(word, Introduction), "and yet may be the one by which the peer is met"


@pytest.mark.parametrize(
    "message",
    [holepunch.Message("hello"), holepunch.Register("x"), holepunch.Request("x")],
)
def test_what_no_server_says_is_passed_over(message: holepunch.Datagram) -> None:
    assert tell(registered(), message, 1.0) is None


@given(st.lists(st.tuples(st.integers(0, 5), st.binary(max_size=60), st.floats(0, 5)), max_size=40))
def test_whatever_the_server_says_it_goes_on_registering(
    steps: "List[tuple[int, bytes, float]]",
) -> None:
    dialogue, now = Dialogue("alice", MARK, 0.0), 0.0
    dialogue.ask("bob", now)
    for first, rest, pause in steps:
        now += pause
        try:
            dialogue.receive(bytes([first]) + rest, now)
        except Malformed:
            pass
        assert len(dialogue.due(now)) <= 2
        deadline = dialogue.deadline()
        assert deadline is not None and now < deadline <= now + REFRESH
