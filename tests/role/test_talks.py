"""Whatever happens in whatever order: lines arrive once and in order with true marks, and what
goes into a pipe comes out of it whole, and both its ends know.
"""

from __future__ import annotations

from typing import Any, Dict, List, Tuple

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.standin import attacker
from tests.virtual.network import Link, Nat
from tests.virtual.talks import CHAT_PORT, HOLEPUNCH_PORT, Chatter, PeerProcess, Talks
from udppunch import address
from udppunch.proto.chat.view import Mark, Refused, State

HOSTILE = list(attacker.datagrams(11, 400, key="bob"))
# A server that is not ours is not asked for ever.
_DOWN_AT_MOST = 60.0
mappings = st.sampled_from(("endpoint", "address", "port"))
seconds = st.floats(0.01, 20.0)


class _Course(RuleBasedStateMachine):
    """What may happen to any two who talk. The NATs let them meet; everything else is bad."""

    talks: Talks

    @initialize(
        seed=st.integers(0, 1 << 30),
        loss=st.sampled_from((0.0, 0.1, 0.2)),
        mapping=mappings,
        original=st.booleans(),
    )
    def build(self, seed: int, loss: float, mapping: str, original: bool) -> None:
        self.bad = Link(0.02, jitter=0.04, loss=loss, duplicate=0.1)
        self.talks = Talks(
            seed,
            nat_a=Nat("203.0.113.101", filtering="address"),
            # By a server that is not ours, addresses are all that they are told at first.
            nat_b=Nat("203.0.113.102", "endpoint" if original else mapping),
            link=self.bad,
            original=original,
        )
        self.original = original
        self.down = 0.0
        self.addresses = iter(range(120, 250))
        self.recorded: List[Tuple[bytes, bytes]] = []
        self.talks.network.watch = self._record
        self.stranger = self.talks.network.host("stranger", "203.0.113.66")
        self.begin()

    def _record(self, host: Any, destination: bytes, data: bytes) -> None:
        if len(self.recorded) < 2000:
            self.recorded.append((destination, data))

    def begin(self) -> None:
        raise NotImplementedError

    @rule(seconds=seconds)
    def time_passes(self, seconds: float) -> None:
        self.talks.run(seconds)

    @rule(which=st.sampled_from("ab"))
    def a_nat_forgets(self, which: str) -> None:
        (self.talks.nat_a if which == "a" else self.talks.nat_b).forget()

    # Another server repeats nothing: who moves while they are being introduced is not found.
    @precondition(lambda self: not self.original)
    @rule(which=st.sampled_from("ab"))
    def an_address_changes(self, which: str) -> None:
        router = self.talks.nat_a if which == "a" else self.talks.nat_b
        number = next(self.addresses, None)
        if number is not None:
            router.renumber(f"203.0.113.{number}")

    @rule(which=st.sampled_from("ab"), seconds=seconds)
    def a_link_is_down(self, which: str, seconds: float) -> None:
        host = self.talks.a if which == "a" else self.talks.b
        self.down += seconds
        if self.original and self.down > _DOWN_AT_MOST:
            return
        host.link = Link(0.02, loss=1.0)
        self.talks.run(seconds)
        host.link = self.bad

    @precondition(lambda self: not self.original)
    @rule(seconds=seconds)
    def the_servers_are_started_anew(self, seconds: float) -> None:
        self.talks.stop_servers()
        self.talks.run(seconds)
        self.talks.start_servers()

    @rule(first=st.integers(0, 380), count=st.integers(1, 20), whom=st.integers(0, 5))
    def a_stranger_sends(self, first: int, count: int, whom: int) -> None:
        """To the servers, or straight to a socket of either."""
        for data in HOSTILE[first : first + count]:
            self._deliver(whom, address.pack(self.stranger.ip, 6666), data)

    @rule(which=st.integers(0, 1999), count=st.integers(1, 30), whom=st.integers(2, 5))
    def what_was_sent_before_comes_again(self, which: int, count: int, whom: int) -> None:
        for destination, data in self.recorded[which : which + count]:
            if self.may_come_again(whom, destination):
                self._deliver(whom, address.pack("203.0.113.102", 40000), data)

    def may_come_again(self, whom: int, destination: bytes) -> bool:
        raise NotImplementedError

    def _deliver(self, whom: int, source: address.Address, data: bytes) -> None:
        if whom < 2:
            if not self.original:  # what strangers send ends these
                port = (HOLEPUNCH_PORT, CHAT_PORT)[whom]
                there = address.pack(self.talks.server.ip, port)
                self.talks.network.send(self.stranger, 6666, there, data, 0)
            return
        host = self.talks.a if whom % 2 else self.talks.b
        numbers = sorted(host.sockets)
        if numbers:
            host.deliver(numbers[whom % len(numbers)], source, data)

    def make_good(self) -> None:
        """From now on nothing bad happens any more."""
        self.talks.a.link = self.talks.b.link = Link(0.02)


class Chats(_Course):
    def may_come_again(self, whom: int, destination: bytes) -> bool:
        return True

    def begin(self) -> None:
        self.alice, self.bob = Chatter(self.talks.a, "alice"), Chatter(self.talks.b, "bob")
        self.both = (self.alice, self.bob)
        self.said: Dict[Chatter, List[str]] = {self.alice: [], self.bob: []}

    @rule(who=st.integers(0, 1))
    def somebody_connects(self, who: int) -> None:
        try:
            self.both[who].connect(self.both[1 - who])
        except Refused:
            assert self.both[who].state in (State.REGISTERING, State.DIRECT, State.GONE)

    @rule(who=st.integers(0, 1), count=st.integers(1, 20))
    def somebody_speaks(self, who: int, count: int) -> None:
        one = self.both[who]
        for _ in range(count):
            text = f"{one.now_is.name} {len(self.said[one])}"
            try:
                one.say(text)
            except Refused:
                assert not one.direct or len(self.said[one]) > 200
                return
            self.said[one].append(text)

    @invariant()
    def lines_come_once_and_in_order_and_their_marks_are_true(self) -> None:
        if not hasattr(self, "both"):
            return
        for one, other in (self.both, self.both[::-1]):
            heard = other.heard()
            assert heard == self.said[one][: len(heard)]
            assert [text for text, _ in one.said()] == self.said[one]
            delivered = {text for text, mark in one.said() if mark is Mark.DELIVERED}
            assert delivered <= {*heard, *self._early(one, other)}
            assert all(mark in (Mark.SENT, Mark.DELIVERED) for _, mark in one.said())
            assert State.FAILED not in one.states[-1:] or one.now_is.reason

    def teardown(self) -> None:
        if not hasattr(self, "both"):
            return
        self.make_good()
        self.talks.run(60.0)
        if not any(one.direct for one in self.both):
            self.somebody_connects(0)
        assert self.talks.run(120.0, lambda: all(one.direct for one in self.both))
        for who in (0, 1):
            self.somebody_speaks(who, 1)
        assert self.talks.run(30.0, self._all_is_delivered)
        assert [one.heard() for one in self.both] == [self.said[one] for one in self.both[::-1]]

    def _early(self, one: Chatter, other: Chatter) -> List[str]:
        """What has come to the other, and waits there for a line that is before it."""
        seals = other.role._secrets._seals.get(one.id)
        return [] if seals is None else list(seals.incoming._early.values())

    def _all_is_delivered(self) -> bool:
        return all(mark is Mark.DELIVERED for one in self.both for _, mark in one.said())


class Pipes(_Course):
    def may_come_again(self, whom: int, destination: bytes) -> bool:
        """What a pipe carries has no seal: only what was meant for an end comes there again."""
        router = self.talks.nat_a if whom % 2 else self.talks.nat_b
        return destination[:-2] == address.pack(router.wan, 0)[:-2]

    def begin(self) -> None:
        self.bob = PeerProcess(self.talks.b, "bob")
        self.alice = PeerProcess(self.talks.a, "alice", "bob")
        self.both = (self.alice, self.bob)
        self.input: Dict[PeerProcess, bytearray] = {one: bytearray() for one in self.both}
        self.over: Dict[PeerProcess, bool] = {one: False for one in self.both}

    @rule(who=st.integers(0, 1), length=st.integers(1, 20_000))
    def input_comes(self, who: int, length: int) -> None:
        one = self.both[who]
        if not self.over[one] and one.status is None:
            data = self.talks.network.random.randbytes(length)
            self.input[one] += data
            one.give(data)

    @rule(who=st.integers(0, 1))
    def input_ends(self, who: int) -> None:
        one = self.both[who]
        if not self.over[one] and one.status is None:
            self.over[one] = True
            one.end()

    @rule(who=st.integers(0, 1), room=st.booleans())
    def an_output_fills_or_empties(self, who: int, room: bool) -> None:
        self.both[who].pipe.has_room = room

    @invariant()
    def what_comes_out_went_in_and_no_end_is_bad_for_nothing(self) -> None:
        if not hasattr(self, "both"):
            return
        for one, other in (self.both, self.both[::-1]):
            assert self.input[one].startswith(other.output)
            if other.status == 0:
                assert self.over[one] and other.output == self.input[one]
            if one.status == 0:
                assert self.over[one] and other.output == self.input[one], "it said it was well"

    def teardown(self) -> None:
        if not hasattr(self, "both"):
            return
        # In bad times the last goodbye may be lost, or a path sought in vain for too long.
        parted = all(self.over.values()) or any(one.status is not None for one in self.both)
        self.make_good()
        for who in (0, 1):
            self.both[who].pipe.has_room = True
            self.input_ends(who)
        assert self.talks.run(180.0, lambda: all(one.status is not None for one in self.both))
        self.what_comes_out_went_in_and_no_end_is_bad_for_nothing()
        if not parted:
            assert [one.status for one in self.both] == [0, 0]


few = settings(max_examples=25, stateful_step_count=20, deadline=None)
Chats.TestCase.settings = few
Pipes.TestCase.settings = few
TestChats = Chats.TestCase
TestPipes = Pipes.TestCase
