"""A path between two peers that were introduced by name, both ends of it driven by hand."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any, List, NamedTuple, Optional, Tuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from udppunch import address
from udppunch.address import Address
from udppunch.contract import Endpoint, Route
from udppunch.proto.limiter import TokenBucket
from udppunch.proto.puncher.mapping import Mapping
from udppunch.proto.puncher.opening import Habit
from udppunch.proto.puncher.path import Happening, State, Tools
from udppunch.proto.puncher.peer_path import PeerPath
from udppunch.wire import marks
from udppunch.wire.control import Control, Kind, Pairing

LESSER, GREATER = marks.new(b"a" * 16), marks.new(b"b" * 16)
OTHER_MARK = marks.new(b"c" * 16)
HERE = address.pack("203.0.113.101", 5000)
THERE = address.pack("203.0.113.102", 6000)
ELSEWHERE = address.pack("203.0.113.66", 6666)
KEY = b"what both ends have in common"
HELLO = b"hello"
HABIT = Habit(1.0, 5, 15.0)


class Sent(NamedTuple):
    destination: Address
    data: bytes
    ttl: int


class End:
    """One end of it, at `own`; the other is at `peer`."""

    def __init__(self, mark: bytes, own: Address = HERE, peer: Address = THERE) -> None:
        self.mark, self.own, self.peer = mark, own, peer
        self.sent: List[Sent] = []
        self.endpoint = Endpoint("peer", own)
        self.happenings: List[Happening] = []
        numbers = itertools.count(int.from_bytes(mark[-1:], "big") << 32)
        outbox: Any = self
        self.tools = Tools(
            outbox, lambda count: (next(numbers) % (1 << 8 * count)).to_bytes(count, "big"),
            TokenBucket(100, 500), Counter(), 15.0, 3600.0,
        )  # fmt: skip
        self.path = PeerPath(self.tools, mark, Mapping(), HABIT, lambda: HELLO, 0.0)

    def send(self, route: Route, data: bytes, ttl: int = 0) -> None:
        assert route.endpoint is self.endpoint and route.destination is not None
        self.sent.append(Sent(route.destination, data, ttl))

    def taken(self) -> List[Sent]:
        sent, self.sent = self.sent, []
        return sent

    def introduced(self, mark: bytes, now: float, peer: Optional[Address] = None) -> None:
        self.path.introduced(Route(self.endpoint, peer or self.peer), mark, KEY, now)

    def hear(self, source: Address, data: bytes, now: float) -> Optional[Happening]:
        return self._note(self.path.receive(memoryview(data), Route(self.endpoint, source), now))

    def expire(self, now: float) -> Optional[Happening]:
        return self._note(self.path.expire(now))

    def _note(self, happening: Optional[Happening]) -> Optional[Happening]:
        if happening is not None:
            self.happenings.append(happening)
        return happening

    @property
    def up(self) -> bool:
        return self.path.state is State.UP


def pass_time(ends: "Tuple[End, ...]", start: float, end: float, carried: bool = True) -> None:
    """What they send arrives at once, but for openers, or not at all."""
    now, again = start, 0
    while now <= end:
        for one in ends:
            deadline = one.path.deadline()
            if deadline is not None and deadline <= now:
                one.expire(now)
        deliver(ends, now, carried)
        due = [one.path.deadline() for one in ends]
        later = min((when for when in due if when is not None), default=end + 1)
        again = again + 1 if later <= now else 0
        assert again < 5, "a deadline that comes again and again"
        now = max(now, later)


def deliver(ends: "Tuple[End, ...]", now: float, carried: bool = True) -> None:
    for _ in range(100):
        under_way = [(one, sent) for one in ends for sent in one.taken()]
        if not under_way:
            return
        for sender, sent in under_way:
            for receiver in ends:
                if carried and receiver.own == sent.destination and not sent.ttl:
                    receiver.hear(sender.own, sent.data, now)
    raise AssertionError("they answer each other without end")


def pair(mark: bytes = LESSER, other: bytes = GREATER) -> "Tuple[End, End]":
    return End(mark), End(other, THERE, HERE)


def met(mark: bytes = LESSER, other: bytes = GREATER) -> "Tuple[End, End]":
    one, two = pair(mark, other)
    one.introduced(other, 0.0)
    two.introduced(mark, 0.0)
    pass_time((one, two), 0.0, 2.0)
    assert one.up and two.up
    for end in (one, two):
        end.happenings.clear()
    return one, two


ORDERS = pytest.mark.parametrize("marks_", [(LESSER, GREATER), (GREATER, LESSER)])


# Two ends that are ours


@ORDERS
def test_two_that_are_introduced_meet_and_one_of_them_leads(marks_: "Tuple[bytes, bytes]") -> None:
    one, two = pair(*marks_)
    one.introduced(two.mark, 0.0)
    two.introduced(one.mark, 0.0)
    assert one.path.leads is (one.mark > two.mark) and one.path.leads is not two.path.leads
    pass_time((one, two), 0.0, 2.0)
    for end in (one, two):
        assert end.up and end.happenings == [Happening.UP]
        assert end.path.peer is not None and end.path.peer.destination == end.peer
        assert end.path.endpoints() == [end.endpoint]


@ORDERS
def test_one_may_be_told_much_later_than_the_other(marks_: "Tuple[bytes, bytes]") -> None:
    one, two = pair(*marks_)
    one.introduced(two.mark, 0.0)
    pass_time((one,), 0.0, 0.5, carried=False)
    two.introduced(one.mark, 0.5)
    pass_time((one, two), 0.5, 2.0)
    assert one.up and two.up


def test_an_opener_goes_first_and_no_further_than_the_own_nat() -> None:
    one, _ = pair()
    one.introduced(GREATER, 0.0)
    (opener,) = one.taken()
    assert opener.ttl == 2 and opener.destination == THERE


def test_a_repeated_introduction_begins_nothing_anew() -> None:
    one, _ = pair()
    one.introduced(GREATER, 0.0)
    one.taken()
    for _ in range(20):
        one.introduced(GREATER, 0.001)
    assert one.taken() == []


@pytest.mark.parametrize("key", [KEY, b""])
def test_who_has_another_key_or_mark_forges_nothing(key: bytes) -> None:
    """`key` is empty where the protocol has none: then the marks are all there is."""
    one, _ = pair()
    one.path.introduced(Route(one.endpoint, THERE), GREATER, key, 0.0)
    for pairing in (
        Pairing(b"another", LESSER, GREATER, client=True),
        Pairing(key, LESSER, OTHER_MARK, client=True),
        Pairing(key, GREATER, LESSER, client=True),
    ):
        check = pairing.encode(Control(Kind.CHECK, b"question"))
        assert one.hear(THERE, check, 0.1) is not Happening.UP
    assert not one.up


def test_what_comes_back_mirrored_is_not_the_peers() -> None:
    for mark, other in ((LESSER, GREATER), (GREATER, LESSER)):
        one, _ = pair(mark, other)
        one.introduced(other, 0.0)
        pass_time((one,), 0.0, 0.3, carried=False)
        one.introduced(other, 0.3, ELSEWHERE)
        for sent in one.taken():
            assert one.hear(THERE, sent.data, 0.3) is None
        assert not one.up


def checks_of(peer: End) -> bytes:
    """A check that only the peer can have sent."""
    assert peer.path.pairing is not None
    return peer.path.pairing.encode(Control(Kind.CHECK, b"question"))


def test_who_follows_is_up_with_a_check_from_the_host_that_was_named() -> None:
    follower, leader = pair()
    follower.introduced(GREATER, 0.0)
    leader.introduced(LESSER, 0.0)
    there = address.with_port(THERE, 6001)
    assert follower.hear(there, checks_of(leader), 0.1) is Happening.UP
    assert follower.path.peer is not None and follower.path.peer.destination == there


def test_from_elsewhere_a_check_could_be_a_copy_and_has_to_answer_first() -> None:
    follower, leader = pair()
    follower.introduced(GREATER, 0.0)
    leader.introduced(LESSER, 0.0)
    assert follower.hear(ELSEWHERE, checks_of(leader), 0.1) is None and not follower.up
    question = next(sent for sent in follower.taken() if sent.destination == ELSEWHERE and
                    asks(leader, sent.data))  # fmt: skip
    assert leader.path.pairing is not None
    control = leader.path.pairing.decode(question.data)
    answer = leader.path.pairing.encode(Control(Kind.ANSWER, control.transaction, ELSEWHERE))
    assert follower.hear(ELSEWHERE, answer, 0.2) is Happening.UP


def asks(peer: End, data: bytes) -> bool:
    assert peer.path.pairing is not None
    return peer.path.pairing.decode(data).kind is Kind.CHECK


def test_who_leads_is_not_up_before_an_answer() -> None:
    follower, leader = pair()
    leader.introduced(LESSER, 0.0)
    follower.introduced(GREATER, 0.0)
    assert leader.hear(HERE, checks_of(follower), 0.1) is None and not leader.up


def test_only_who_follows_stalls_and_says_so_once_an_attempt() -> None:
    for mark, other, stalls in ((LESSER, GREATER, 1), (GREATER, LESSER, 0)):
        one, _ = pair(mark, other)
        one.introduced(other, 0.0)
        pass_time((one,), 0.0, 60.0, carried=False)
        assert one.happenings.count(Happening.STALLED) == stalls
        one.introduced(other, 60.0, ELSEWHERE)
        pass_time((one,), 60.0, 200.0, carried=False)
        assert one.happenings.count(Happening.STALLED) == 2 * stalls


def test_in_vain_little_is_sent_and_ever_more_slowly() -> None:
    one, _ = pair()
    one.introduced(GREATER, 0.0)
    counts = []
    for minute in range(5):
        end = 60.0 * minute
        now = end
        sent = 0
        while now < end + 60.0:
            one.expire(now)
            sent += len(one.taken())
            deadline = one.path.deadline()
            now = max(now + 0.001, deadline if deadline is not None else end + 60.0)
        counts.append(sent)
    assert counts[0] <= 40 and max(counts[1:]) <= 13


# While it is up


@ORDERS
def test_payload_comes_from_the_peer_alone(marks_: "Tuple[bytes, bytes]") -> None:
    one, _ = met(*marks_)
    for data in (b"payload", b"", HELLO):
        assert one.hear(THERE, data, 3.0) is Happening.PAYLOAD
        assert one.hear(ELSEWHERE, data, 3.0) is None
        assert one.hear(address.with_port(THERE, 6001), data, 3.0) is None


@ORDERS
def test_a_peer_whose_address_changes_is_followed(marks_: "Tuple[bytes, bytes]") -> None:
    one, two = met(*marks_)
    moved = address.pack("203.0.113.112", 6100)
    two.own = one.peer = moved
    two.path.checks.probe(Route(two.endpoint, HERE), 3.0)  # type: ignore[union-attr]
    deliver((one, two), 3.0)
    pass_time((one, two), 3.0, 4.0)
    assert one.path.peer is not None and one.path.peer.destination == moved
    assert one.hear(moved, b"payload", 4.0) is Happening.PAYLOAD


def test_a_silent_peer_is_asked_for_and_then_lost() -> None:
    one, _ = met()
    one.path.carries(2.0)
    pass_time((one,), 2.0, 12.0, carried=False)
    assert one.happenings[-1] is Happening.LOST and one.path.state is State.LOST
    assert Happening.DOUBTED in one.happenings and one.path.endpoints() == []


def test_an_idle_path_lives_on_checks() -> None:
    one, two = met()
    pass_time((one, two), 2.0, 600.0)
    assert one.up and two.up and not one.happenings and not two.happenings


@ORDERS
def test_a_lost_path_is_found_again_when_introduced_anew(marks_: "Tuple[bytes, bytes]") -> None:
    one, two = met(*marks_)
    for end in (one, two):
        end.path.carries(2.0)
    pass_time((one, two), 2.0, 12.0, carried=False)
    assert one.path.state is two.path.state is State.LOST
    one.introduced(two.mark, 12.0)
    two.introduced(one.mark, 12.0)
    pass_time((one, two), 12.0, 15.0)
    assert one.up and two.up
    assert one.happenings.count(Happening.UP) == two.happenings.count(Happening.UP) == 1


@ORDERS
def test_one_end_may_find_it_lost_while_the_other_does_not(marks_: "Tuple[bytes, bytes]") -> None:
    one, two = met(*marks_)
    one.path.carries(2.0)
    pass_time((one,), 2.0, 12.0, carried=False)
    assert one.path.state is State.LOST and two.up
    one.introduced(two.mark, 12.0)
    two.introduced(one.mark, 12.0)
    pass_time((one, two), 12.0, 15.0)
    assert one.up and two.up


def test_who_leaves_says_so_and_is_answered() -> None:
    one, two = met()
    assert one.path.close(3.0) is None and one.path.state is State.CLOSING
    deliver((one, two), 3.0)
    assert two.happenings == [Happening.CLOSED] and one.happenings == [Happening.CLOSED]
    assert one.path.state is two.path.state is State.CLOSED


def test_a_goodbye_that_nobody_confirms_ends_all_the_same() -> None:
    one, _ = met()
    one.path.close(3.0)
    pass_time((one,), 3.0, 10.0, carried=False)
    assert one.path.state is State.CLOSED


@ORDERS
def test_a_check_does_not_bring_back_a_path_that_is_closing(marks_: "Tuple[bytes, bytes]") -> None:
    one, two = met(*marks_)
    two.path.checks.probe(Route(two.endpoint, HERE), 3.0)  # type: ignore[union-attr]
    one.path.checks.probe(Route(one.endpoint, THERE), 3.0)  # type: ignore[union-attr]
    one.path.close(3.0)
    for sent in one.taken():
        if asks(two, sent.data):
            two.hear(HERE, sent.data, 3.1)
    for sent in two.taken():
        one.hear(THERE, sent.data, 3.2)
    assert one.path.state is State.CLOSING and one.happenings == []


# A peer that may not be ours


def greetings(end: End, start: float, until: float) -> "List[Tuple[float, int]]":
    """When it greets, and with which hop limit."""
    found: "List[Tuple[float, int]]" = []
    now = start
    while now <= until:
        end.expire(now)
        found += [(round(now - start, 3), sent.ttl) for sent in end.taken() if sent.data == HELLO]
        deadline = end.path.deadline()
        now = until + 1 if deadline is None else max(now + 0.001, deadline)
    return found


def test_it_is_greeted_as_its_protocol_has_it() -> None:
    one, _ = pair()
    one.introduced(b"", 0.0)
    assert one.taken() == [], "time for the server to tell it, too"
    found = greetings(one, 0.0, 60.0)
    assert found == [(0.1, 2), *[(pytest.approx(0.4 + 1.0 * n), 0) for n in range(5)]]
    assert one.path.gave_up
    one.introduced(b"", 60.0, ELSEWHERE)
    assert not one.path.gave_up and len(greetings(one, 60.0, 120.0)) == 6


def test_a_peer_that_was_given_up_is_greeted_when_it_is_introduced_again() -> None:
    one, _ = pair()
    one.introduced(b"", 0.0)
    assert len(greetings(one, 0.0, 60.0)) == 6 and one.path.gave_up
    one.introduced(b"", 60.0)
    assert not one.path.gave_up and len(greetings(one, 60.0, 120.0)) == 6


def test_what_comes_from_its_host_is_to_be_looked_at() -> None:
    one, _ = pair()
    assert one.hear(THERE, b"anything", 0.0) is None, "nobody is introduced"
    one.introduced(b"", 0.0)
    assert one.hear(THERE, b"anything", 0.1) is Happening.GREETING
    assert one.hear(address.with_port(THERE, 6001), b"anything", 0.1) is Happening.GREETING
    assert one.hear(ELSEWHERE, b"anything", 0.1) is None


def test_a_peer_that_is_not_ours_is_up_as_soon_as_it_is_heard() -> None:
    one, _ = pair()
    one.introduced(b"", 0.0)
    assert one.path.nominate(Route(one.endpoint, THERE), 0.5) is Happening.UP
    assert one.hear(THERE, b"payload", 1.0) is Happening.PAYLOAD
    assert one.hear(ELSEWHERE, b"payload", 1.0) is None
    assert greetings(one, 1.0, 10.0) == []


def test_it_is_lost_when_it_says_nothing_for_as_long_as_its_habit_allows() -> None:
    one, _ = pair()
    one.introduced(b"", 0.0)
    one.path.nominate(Route(one.endpoint, THERE), 0.5)
    one.path.carries(10.0)
    one.expire(15.4)
    assert one.up
    one.path.consent.heard = 15.4
    one.expire(15.5)
    assert one.up and one.path.deadline() == 30.4
    assert one.expire(30.4) is Happening.LOST


def test_two_that_were_introduced_unmarked_know_each_other_by_their_greetings() -> None:
    one, two = pair()
    for end in (one, two):
        end.introduced(b"", 0.0)
    now = 0.0
    while now < 3.0 and not (one.up and two.up):
        for end in (one, two):
            end.expire(now)
        for end, other in ((one, two), (two, one)):
            for sent in end.taken():
                if sent.ttl or sent.destination != other.own:
                    continue
                if other.hear(end.own, sent.data, now) is Happening.GREETING:
                    other.path.recognised(Route(other.endpoint, end.own), end.mark, KEY, now)
        now += 0.01
    assert one.up and two.up and one.path.leads is not two.path.leads
    assert one.path.pairing is not None and two.path.pairing is not None


# Whatever comes


@given(
    st.lists(
        st.tuples(
            st.sampled_from(("introduced", "unmarked", "recognised", "hear", "close", "time")),
            st.sampled_from((LESSER, GREATER, OTHER_MARK)),
            st.sampled_from((THERE, ELSEWHERE, address.with_port(THERE, 6001))),
            st.binary(max_size=60),
            st.floats(0, 3),
        ),
        max_size=40,
    )
)
def test_any_course_is_survived(
    steps: "List[Tuple[str, bytes, Address, bytes, float]]",
) -> None:
    one, now = End(LESSER), 0.0
    for what, mark, where, data, pause in steps:
        route = Route(one.endpoint, where)
        if what == "introduced" and mark != LESSER:
            one.introduced(mark, now, where)
        elif what == "unmarked":
            one.introduced(b"", now, where)
        elif what == "recognised" and mark != LESSER:
            one.path.recognised(route, mark, KEY, now)
        elif what == "hear":
            pairing = one.path.pairing
            one.hear(where, (pairing.token if pairing else b"") + data, now)
            one.hear(where, data, now)
        elif what == "close":
            one.path.close(now)
        pass_time((one,), now, now + pause, carried=False)
        now += pause
        deadline = one.path.deadline()
        assert deadline is None or deadline > now
    assert not one.up, "nobody ever answered"
    pass_time((one,), now, now + 60.0, carried=False)
