"""The two inputs of a path: one's is the other's output, whole and in order, or as datagrams."""

from __future__ import annotations

import itertools
from random import Random
from typing import List, Optional, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.standin import holepunch as standin
from udppunch.proto.holepunch.exchange import Exchange
from udppunch.wire import holepunch, marks, stretch
from udppunch.wire.malformed import Malformed


class End:
    def __init__(self, raw: bool = False) -> None:
        self.exchange = Exchange(raw)
        self.output: List[bytes] = []

    def hear(self, datagrams: Sequence[bytes], now: float, room: bool = True) -> None:
        for datagram in datagrams:
            self.output += self.exchange.hear(datagram, room, now)


def carry(one: End, other: End, now: float = 0.0) -> None:
    """Until neither has anything to say any more; nothing is lost."""
    for _ in range(1000):
        from_one, from_other = one.exchange.due(True, now), other.exchange.due(True, now)
        if not from_one and not from_other:
            return
        other.hear(from_one, now)
        one.hear(from_other, now)
        now += 0.01
    raise AssertionError("they never come to an end")


# A stream, between our own ends


@given(st.lists(st.binary(max_size=5000), max_size=20))
def test_the_bytes_arrive_whole_and_in_order(pieces: List[bytes]) -> None:
    one, other = End(), End()
    for piece in pieces:
        one.exchange.take(piece)
    one.exchange.end()
    carry(one, other)
    assert b"".join(other.output) == b"".join(pieces)
    assert other.exchange.heard_end and one.exchange.said_all and not one.exchange.undelivered


def test_each_end_may_be_over_before_the_other() -> None:
    one, other = End(), End()
    one.exchange.end()
    carry(one, other)
    assert other.exchange.heard_end and one.exchange.said_all
    other.exchange.take(b"still talking")
    carry(one, other)
    assert one.output == [b"still talking"]
    assert not one.exchange.heard_end and not other.exchange.said_all


def test_what_is_lost_is_said_again() -> None:
    one, other = End(), End()
    one.exchange.take(b"first")
    assert len(one.exchange.due(True, 0.0)) == 1
    one.exchange.take(b"second")
    second = one.exchange.due(True, 0.1)
    other.hear(second, 0.2)
    assert other.output == []
    other.hear(one.exchange.due(True, 1.0), 1.0)
    assert other.output == [b"first", b"second"]


def test_input_is_not_over_until_the_other_end_has_it() -> None:
    one, other = End(), End()
    one.exchange.take(b"data")
    one.exchange.end()
    data, end = one.exchange.due(True, 0.0)
    assert not one.exchange.said_all and one.exchange.undelivered
    other.hear([data], 0.1)
    one.hear(other.exchange.due(True, 0.1), 0.2)
    assert not one.exchange.said_all and not one.exchange.undelivered, "all but the end"
    other.hear([end], 0.3)
    one.hear(other.exchange.due(True, 0.3), 0.4)
    assert one.exchange.said_all


def test_nothing_to_say_is_said_as_well() -> None:
    one, other = End(), End()
    one.exchange.end()
    assert not one.exchange.said_all
    (datagram,) = one.exchange.due(True, 0.0)
    assert stretch.decode(datagram) == stretch.End(1)
    other.hear([datagram], 0.1)
    assert other.exchange.heard_end and other.output == []


def test_an_output_that_is_full_takes_nothing_and_has_it_said_again() -> None:
    one, other = End(), End()
    one.exchange.take(b"data")
    other.hear(one.exchange.due(True, 0.0), 0.1, room=False)
    assert other.output == [] and other.exchange.due(True, 0.1) == []
    other.hear(one.exchange.due(True, 1.0), 1.0)
    assert other.output == [b"data"]


def test_a_full_output_still_hears_what_was_acknowledged() -> None:
    one, other = End(), End()
    one.exchange.take(b"data")
    one.exchange.end()
    other.hear(one.exchange.due(True, 0.0), 0.1)
    one.hear(other.exchange.due(True, 0.1), 0.2, room=False)
    assert one.exchange.said_all


def test_no_more_input_is_wanted_than_can_be_kept() -> None:
    one, other = End(), End()
    assert one.exchange.wants_input
    one.exchange.take(bytes(65_536))
    assert not one.exchange.wants_input
    one.exchange.due(True, 0.0)
    assert one.exchange.wants_input, "it is on its way, as far as there is room for that"
    for _ in range(100):
        one.exchange.take(bytes(65_536))
        one.exchange.due(True, 0.0)
        if not one.exchange.wants_input:
            break
    assert not one.exchange.wants_input
    carry(one, other, now=1.0)
    assert one.exchange.wants_input


def test_with_nothing_to_do_there_is_no_deadline() -> None:
    one, other = End(), End()
    assert one.exchange.deadline(True) is None
    one.exchange.take(b"data")
    assert one.exchange.deadline(True) == float("-inf")
    datagrams = one.exchange.due(True, 0.0)
    assert 0.0 < (one.exchange.deadline(True) or 0.0) < 1.0
    other.hear(datagrams, 0.1)
    assert other.exchange.deadline(True) == float("-inf"), "to acknowledge it"
    one.hear(other.exchange.due(True, 0.1), 0.2)
    one.exchange.due(True, 0.2)
    assert one.exchange.deadline(True) is None and other.exchange.deadline(True) is None


# Datagrams, between our own ends


@given(st.lists(st.binary(max_size=1200), max_size=20))
def test_raw_pieces_of_input_are_datagrams(pieces: List[bytes]) -> None:
    one, other = End(raw=True), End(raw=True)
    for piece in pieces:
        one.exchange.take(piece)
    datagrams = one.exchange.due(True, 0.0)
    assert len(datagrams) == len(pieces)
    other.hear(datagrams, 0.0)
    assert other.output == pieces


def test_a_raw_piece_that_is_too_long_is_cut() -> None:
    one, other = End(raw=True), End(raw=True)
    one.exchange.take(bytes(range(256)) * 10)
    other.hear(one.exchange.due(True, 0.0), 0.0)
    assert [len(data) for data in other.output] == [1200, 1200, 160]
    assert b"".join(other.output) == bytes(range(256)) * 10


def test_raw_is_sent_once_and_only_its_end_is_certain() -> None:
    one, other = End(raw=True), End(raw=True)
    one.exchange.take(b"lost")
    one.exchange.end()
    one.exchange.due(True, 0.0)
    again = one.exchange.due(True, 1.0)
    assert [stretch.decode(datagram) for datagram in again] == [stretch.End(1)]
    other.hear(again, 1.0)
    assert other.exchange.heard_end and other.output == []


# Lines, to a peer of hole-punch


def in_its_buffer(datagram: bytes) -> str:
    message = standin.decode(datagram[:128].ljust(128, b"\0"))
    assert message.kind is standin.Kind.MESSAGE
    return message.text


def test_an_original_gets_lines_and_reads_them() -> None:
    one = End()
    one.exchange.take(b"first\nsec")
    assert [in_its_buffer(d) for d in one.exchange.due(False, 0.0)] == ["first"]
    one.exchange.take(b"ond\n\nlast")
    assert [in_its_buffer(d) for d in one.exchange.due(False, 0.1)] == ["second", ""]
    one.exchange.end()
    assert [in_its_buffer(d) for d in one.exchange.due(False, 0.2)] == ["last"]
    assert not one.exchange.undelivered and one.exchange.deadline(False) is None


@given(st.text(max_size=1000), st.integers(1, 50))
def test_lines_of_any_text_are_split_where_an_original_can_read_them(text: str, step: int) -> None:
    one = End()
    encoded = text.encode()
    said: List[str] = []
    for start in range(0, len(encoded), step):
        one.exchange.take(encoded[start : start + step])
        said += map(in_its_buffer, one.exchange.due(False, 0.0))
    one.exchange.end()
    said += map(in_its_buffer, one.exchange.due(False, 0.0))
    assert "".join(said) == text.replace("\n", "")
    assert len(said) >= text.count("\n")


@given(st.binary(max_size=500))
def test_bytes_that_are_no_text_make_no_original_end(data: bytes) -> None:
    one = End()
    one.exchange.take(data)
    one.exchange.end()
    for datagram in one.exchange.due(False, 0.0):
        in_its_buffer(datagram)
    assert not one.exchange.undelivered


def test_what_an_original_says_is_a_line() -> None:
    one = End()
    for text in ("Hello from bob", "", "naïve"):
        one.hear([standin.encode(standin.Message(standin.Kind.MESSAGE, text))], 0.0)
    assert one.output == [b"Hello from bob\n", b"\n", "naïve\n".encode()]
    assert one.exchange.due(False, 0.0) == [] and not one.exchange.heard_end


# Whatever comes


@pytest.mark.parametrize(
    "datagram",
    [
        b"",
        holepunch.encode(holepunch.RegisterAck()),
        holepunch.encode(holepunch.Register("x", marks.new(bytes(16)))),
        b"\x00\x05cut",
        b"\x44anything",
    ],
)
def test_what_is_none_of_it_is_malformed(datagram: bytes) -> None:
    with pytest.raises(Malformed):
        Exchange(False).hear(datagram, True, 0.0)


@given(
    st.lists(
        st.binary(max_size=20)
        | st.builds(
            lambda kind, number, data: bytes([kind]) + number.to_bytes(4, "big") + data,
            st.sampled_from(range(0x40, 0x44)),
            st.integers(0, 300) | st.integers(0, (1 << 32) - 1),
            st.binary(max_size=3),
        ),
        max_size=40,
    )
)
def test_any_datagrams_are_survived(datagrams: List[bytes]) -> None:
    end = End()
    end.exchange.take(b"data")
    for number, datagram in enumerate(datagrams):
        try:
            end.hear([datagram], 0.1 * number)
        except Malformed:
            pass
        assert len(end.exchange.due(True, 0.1 * number)) <= 3
        assert len(end.exchange._incoming._early) <= 256


class AnyCourse(RuleBasedStateMachine):
    """Two pipes over a path that loses, doubles and reorders, with outputs that may be full."""

    @initialize(loss=st.sampled_from((0.0, 0.1, 0.3)), random=st.randoms(use_true_random=False))
    def build(self, loss: float, random: Random) -> None:
        self.ends = (End(), End())
        self.loss, self.random, self.now = loss, random, 0.0
        self.room = [True, True]
        self.input = [bytearray(), bytearray()]
        self.over = [False, False]
        self.under_way: "List[tuple[float, int, int, bytes]]" = []
        self.numbers = itertools.count()

    @rule(who=st.integers(0, 1), length=st.integers(1, 40_000))
    def input_comes(self, who: int, length: int) -> None:
        if not self.over[who] and self.ends[who].exchange.wants_input:
            data = self.random.randbytes(length)
            self.input[who] += data
            self.ends[who].exchange.take(data)

    @rule(who=st.integers(0, 1))
    def input_ends(self, who: int) -> None:
        if not self.over[who]:
            self.over[who] = True
            self.ends[who].exchange.end()

    @rule(who=st.integers(0, 1), room=st.booleans())
    def an_output_fills_or_empties(self, who: int, room: bool) -> None:
        self.room[who] = room

    @rule(who=st.integers(0, 1))
    def the_path_is_up_again(self, who: int) -> None:
        self.ends[who].exchange.hurry(self.now)

    @rule(seconds=st.floats(0.05, 3.0))
    def time_passes(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end:
            due: "List[Optional[float]]" = [one.exchange.deadline(True) for one in self.ends]
            due += [one[0] for one in self.under_way]
            first = min((when for when in due if when is not None), default=end)
            self.now = min(end, max(self.now + 0.001, first))
            self._arrive()
            for who in (0, 1):
                for datagram in self.ends[who].exchange.due(True, self.now):
                    self._send(1 - who, datagram)

    def _send(self, whom: int, datagram: bytes) -> None:
        for _ in range(2 if self.random.random() < 0.1 else 1):
            if self.random.random() >= self.loss:
                when = self.now + self.random.uniform(0, 0.2)
                self.under_way.append((when, next(self.numbers), whom, datagram))

    def _arrive(self) -> None:
        due = sorted(one for one in self.under_way if one[0] <= self.now)
        self.under_way = [one for one in self.under_way if one[0] > self.now]
        for _, _, whom, datagram in due:
            self.ends[whom].hear([datagram], self.now, self.room[whom])

    @invariant()
    def the_output_is_the_beginning_of_the_input(self) -> None:
        if hasattr(self, "ends"):
            for who in (0, 1):
                output = b"".join(self.ends[1 - who].output)
                assert self.input[who].startswith(output)
                if self.ends[1 - who].exchange.heard_end:
                    assert self.over[who] and output == self.input[who]

    def teardown(self) -> None:
        if hasattr(self, "ends"):
            self.loss = 0.0
            self.room = [True, True]
            for who in (0, 1):
                self.input_ends(who)
            for _ in range(100):
                if all(end.exchange.said_all for end in self.ends):
                    break
                self.time_passes(1.0)
            for who in (0, 1):
                assert b"".join(self.ends[1 - who].output) == self.input[who]
                assert self.ends[who].exchange.said_all and self.ends[who].exchange.heard_end


AnyCourse.TestCase.settings = settings(max_examples=15, stateful_step_count=20, deadline=None)
TestAnyCourse = AnyCourse.TestCase
