"""How a peer comes to its path: sockets, attempts, and whose word counts."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any, List, Optional, Sequence, Tuple

import pytest

from udppunch import address
from udppunch.address import Address
from udppunch.contract import Endpoint, Lookup, Route
from udppunch.proto.limiter import TokenBucket
from udppunch.proto.puncher.mapping import Mapping
from udppunch.proto.puncher.meeting import Introduction, Meeting, Refusal, Registered, Word
from udppunch.proto.puncher.opening import Habit
from udppunch.proto.puncher.path import Happening, State, Tools
from udppunch.proto.puncher.peer_path import PeerPath
from udppunch.wire import marks
from udppunch.wire.control import Control, Kind, Pairing
from udppunch.wire.malformed import Malformed

OWN, LESSER, GREATER = (marks.new(letter * 16) for letter in (b"m", b"a", b"z"))
SERVER = address.pack("203.0.113.10", 39738)
PEER = address.pack("203.0.113.102", 6000)
KEY = b"key"


class ScriptedDialogue:
    """Says what it is told to say, and hears words for what they are: one a datagram."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.asked: List[str] = []
        self.ceased = self.settled = False
        self.quiet = False
        self.next: Optional[float] = None
        self.words: List[Optional[Word]] = []

    def ask(self, identity: str, now: float) -> None:
        self.asked.append(identity)

    def settle(self, now: float) -> None:
        self.settled = True

    def cease(self) -> None:
        self.ceased = True

    def receive(self, datagram: bytes, now: float) -> Optional[Word]:
        if datagram == b"malformed":
            raise Malformed("as asked")
        return self.words.pop(0) if self.words else None

    def due(self, now: float) -> Sequence[bytes]:
        if self.next is None or now < self.next:
            return []
        self.next = None
        return [b"said by %d" % self.number]

    def deadline(self) -> Optional[float]:
        return self.next

    def silent(self, now: float) -> bool:
        return self.quiet

    def goodbye(self) -> Sequence[bytes]:
        return [b"goodbye from %d" % self.number]


class World:
    """A meeting whose requests are done by hand."""

    def __init__(self, bind: Optional[Address] = None) -> None:
        self.opened: List[Endpoint] = []
        self.closed: List[Endpoint] = []
        self.lookups = 0
        self.sent: List[Tuple[Endpoint, Address, bytes]] = []
        self.dialogues: List[ScriptedDialogue] = []
        numbers = itertools.count(1)
        outbox: Any = self
        self.tools = Tools(
            outbox, lambda count: (next(numbers) % (1 << 8 * count)).to_bytes(count, "big"),
            TokenBucket(100, 500), Counter(), 15.0, 3600.0,
        )  # fmt: skip
        self.meeting = Meeting(
            self.tools, Lookup("server", 39738), bind, self.new_dialogue, self.new_path
        )

    def new_dialogue(self, now: float) -> ScriptedDialogue:
        self.dialogues.append(ScriptedDialogue(len(self.dialogues)))
        self.dialogues[-1].next = now
        return self.dialogues[-1]

    def new_path(self, mapping: Mapping, now: float) -> PeerPath:
        return PeerPath(self.tools, OWN, mapping, Habit(1.0, 5, 15.0), lambda: b"hello", now)

    # The outbox

    def open(self, endpoint: Endpoint) -> None:
        self.opened.append(endpoint)

    def close(self, endpoint: Endpoint) -> None:
        self.closed.append(endpoint)

    def resolve(self, lookup: Lookup) -> None:
        self.lookups += 1

    def send(self, route: Route, data: bytes, ttl: int = 0) -> None:
        assert route.destination is not None
        self.sent.append((route.endpoint, route.destination, data))

    # What happens to it

    def started(self) -> "World":
        self.meeting.start(0.0)
        self.meeting.resolved([SERVER], "", 0.0)
        self.meeting.opened(self.opened[0], 0.0)
        return self

    def told(self, word: Word, now: float, endpoint: Optional[Endpoint] = None) -> Optional[Word]:
        attempt = self.opened.index(endpoint) if endpoint else len(self.dialogues) - 1
        self.dialogues[attempt].words.append(word)
        route = Route(endpoint or self.opened[-1], SERVER)
        return self.meeting.hear(memoryview(b"word"), route, now)

    def introduced(
        self, now: float, mark: bytes = LESSER, peer: Address = PEER, attempt: int = -1
    ) -> str:
        word = Introduction("bob", "bob", peer, mark, KEY)
        return self.meeting.introduce(word, self.opened[attempt], now)

    def pass_time(self, start: float, end: float) -> "List[Happening]":
        """Sockets open as soon as they are asked for; nobody answers."""
        found: List[Happening] = []
        now = start
        while now <= end:
            happening = self.meeting.expire(now)
            if happening is not None:
                found.append(happening)
            for endpoint in self.opened:
                self.meeting.opened(endpoint, now)
            deadline = self.meeting.deadline()
            now = end + 1 if deadline is None else max(now + 0.001, deadline)
        return found

    def find_path(self, now: float, mark: bytes = LESSER, attempt: int = -1) -> None:
        """Whoever leads: the peer checks, is checked and answers."""
        client, server = (OWN, mark) if OWN > mark else (mark, OWN)
        peer = Pairing(KEY, server, client, client=mark > OWN)
        path = self.meeting.path
        assert path is not None
        route = Route(self.opened[attempt], PEER)
        check = peer.encode(Control(Kind.CHECK, b"question"))
        happening = path.receive(memoryview(check), route, now)
        for endpoint, destination, data in list(self.sent):
            if happening is None and endpoint is route.endpoint and destination == PEER:
                try:
                    control = peer.decode(data)
                except Malformed:
                    continue
                if control.kind is Kind.CHECK:
                    answer = peer.encode(Control(Kind.ANSWER, control.transaction))
                    happening = path.receive(memoryview(answer), route, now)
        assert happening is Happening.UP
        self.meeting.settle(now)


# The server


def test_it_speaks_once_it_knows_where_and_has_a_socket() -> None:
    for resolved_first in (True, False):
        world = World()
        world.meeting.start(0.0)
        assert world.lookups == 1 and world.opened[0].essential
        if resolved_first:
            world.meeting.resolved([SERVER], "", 0.1)
            assert world.sent == []
            world.meeting.opened(world.opened[0], 0.2)
        else:
            world.meeting.opened(world.opened[0], 0.1)
            assert world.sent == []
            world.meeting.resolved([SERVER], "", 0.2)
            world.meeting.expire(0.2)
        assert world.sent == [(world.opened[0], SERVER, b"said by 0")]


def test_a_name_that_does_not_resolve_is_looked_up_again() -> None:
    world = World()
    world.meeting.start(0.0)
    world.meeting.opened(world.opened[0], 0.0)
    for now in range(1, 61):
        world.meeting.resolved([], "no such name", float(now))
        world.meeting.expire(float(now))
    assert 5 <= world.lookups <= 8 and world.sent == []


def test_there_is_a_time_to_look_it_up_again() -> None:
    """Nobody else would wake it."""
    world = World()
    world.meeting.start(0.0)
    world.meeting.opened(world.opened[0], 0.0)
    world.meeting.resolved([], "no such name", 0.1)
    deadline = world.meeting.deadline()
    assert deadline is not None and deadline <= 31.0


def test_a_server_that_is_silent_is_looked_up_and_told_of() -> None:
    world = World().started()
    world.dialogues[0].quiet = True
    world.meeting.expire(20.0)
    assert world.meeting.silent and world.lookups == 2
    world.dialogues[0].quiet = False
    world.told(Registered(), 21.0)
    assert not world.meeting.silent


def test_words_are_the_servers_and_news() -> None:
    world = World().started()
    assert world.told(Refusal("no"), 1.0) == Refusal("no")
    route = Route(world.opened[0], SERVER)
    assert world.meeting.hear(memoryview(b"nothing new"), route, 1.0) is None
    assert world.meeting.hear(memoryview(b"malformed"), route, 1.0) is None
    assert world.tools.counters == {"dropped: malformed": 1}
    stranger = Route(Endpoint("stranger", address.ANY_IPV4), SERVER)
    assert world.meeting.hear(memoryview(b"word"), stranger, 1.0) is None


def test_where_this_end_is_seen_is_noted() -> None:
    world = World().started()
    seen = address.pack("198.51.100.9", 4000)
    world.told(Registered(seen), 1.0)
    assert world.meeting.mapping.seen == seen


def test_goodbye_goes_to_both() -> None:
    world = World().started()
    world.introduced(1.0)
    world.find_path(1.1)
    world.sent.clear()
    world.meeting.stop(2.0)
    assert [destination for _, destination, _ in world.sent] == [PEER, SERVER]
    assert world.sent[-1][2] == b"goodbye from 0"


# Attempts


def test_who_leads_begins_anew_ever_more_slowly_and_keeps_three_sockets() -> None:
    world = World().started()
    world.meeting.ask("bob", 0.5)
    now, times = 1.0, [1.0]
    while now < 120.0:
        world.introduced(now)
        count = len(world.opened)
        while len(world.opened) == count:
            now = max(now + 0.001, world.meeting.deadline() or 999.0)
            world.meeting.expire(now)
        times.append(now)
        world.meeting.opened(world.opened[-1], now)
        assert world.dialogues[-1].asked == ["bob"] and world.dialogues[-2].ceased
        assert len(world.opened) - len(world.closed) <= 3
    gaps = [round(later - earlier) for earlier, later in zip(times, times[1:])]
    assert gaps[:5] == [1, 2, 4, 8, 16] and gaps[-1] == 30
    assert len(set(world.opened)) == len(world.opened)
    assert not any(endpoint.essential for endpoint in world.opened[1:])


def test_who_follows_waits_for_the_leader_and_takes_a_fresh_socket_once() -> None:
    world = World().started()
    world.introduced(1.0, GREATER)
    assert world.pass_time(1.0, 60.0) == [Happening.STALLED]
    assert len(world.opened) == 2
    world.introduced(60.0, GREATER, address.with_port(PEER, 6001))
    assert world.pass_time(60.0, 120.0) == [Happening.STALLED]
    assert len(world.opened) == 3


def test_an_introduction_that_is_repeated_makes_no_attempt() -> None:
    world = World().started()
    for step in range(50):
        world.introduced(1.0 + 0.01 * step)
    assert len(world.opened) == 1


def test_an_earlier_socket_may_be_the_one_by_which_they_meet() -> None:
    world = World().started()
    world.introduced(1.0)
    world.pass_time(1.0, 2.5)
    assert len(world.opened) == 2
    world.find_path(2.5, attempt=0)
    assert world.closed == [world.opened[1]]
    world.sent.clear()
    world.dialogues[0].next = 3.0
    world.meeting.expire(3.0)
    assert (world.opened[0], SERVER, b"said by 0") in world.sent, "and speaks to the server"


def test_a_port_that_a_person_chose_is_had_once() -> None:
    bind = address.pack("0.0.0.0", 5555)
    world = World(bind).started()
    world.meeting.ask("bob", 0.5)
    for now in (1.0, 5.0, 10.0):
        world.introduced(now)
        world.pass_time(now, now + 5.0)
    assert len(world.opened) == 1 and world.opened[0].bind == bind
    assert len(world.dialogues) == 4 and world.dialogues[-1].asked == ["bob"]
    world.sent.clear()
    world.dialogues[-1].next = 20.0
    world.meeting.expire(20.0)
    assert [data for _, destination, data in world.sent if destination == SERVER] == [
        b"said by %d" % (len(world.dialogues) - 1)
    ]


def test_without_a_socket_it_is_tried_again_in_a_while() -> None:
    world = World().started()
    world.introduced(1.0)
    world.pass_time(1.0, 1.5)
    world.meeting.expire(2.1)
    assert len(world.opened) == 2
    world.meeting.failed(world.opened[1], 2.1)
    deadline = world.meeting.deadline()
    assert deadline is not None and deadline <= 33.0
    world.pass_time(2.2, 33.0)
    assert len(world.opened) == 3


def test_the_former_socket_speaks_on_when_no_fresh_one_is_to_be_had() -> None:
    world = World().started()
    world.introduced(1.0)
    world.meeting.expire(2.1)
    world.meeting.failed(world.opened[1], 2.1)
    world.sent.clear()
    world.pass_time(2.2, 80.0)
    assert any(destination == SERVER for _, destination, _ in world.sent)


def test_a_path_that_is_lost_is_sought_by_a_fresh_socket() -> None:
    world = World().started()
    world.meeting.ask("bob", 0.5)
    world.introduced(61.0)
    world.find_path(61.1)
    assert world.dialogues[0].settled
    path = world.meeting.path
    assert path is not None
    path.carries(62.0)
    now, happening = 62.0, None
    while happening is not Happening.LOST:
        now = max(now + 0.001, world.meeting.deadline() or 999.0)
        happening = world.meeting.expire(now)
    lookups = world.lookups
    world.meeting.seek_again(now)
    world.meeting.opened(world.opened[-1], now)
    assert len(world.opened) == 2 and world.lookups == lookups + 1
    assert world.dialogues[-1].asked == ["bob"] and world.dialogues[0].ceased
    world.introduced(now + 0.1)
    world.find_path(now + 0.2)
    assert world.closed == [world.opened[0]]


# Whom to meet


@pytest.mark.parametrize(
    "peer,why",
    [
        (address.pack("203.0.113.102", 0), "port 0"),
        (address.pack("0.0.0.0", 6000), "not the address of a host"),
        (address.pack("224.0.0.1", 6000), "not the address of a host"),
        (address.pack("255.255.255.255", 6000), "not the address of a host"),
        (SERVER, "the rendezvous itself"),
    ],
)
def test_imprudent_addresses_are_refused(peer: Address, why: str) -> None:
    world = World().started()
    world.sent.clear()
    assert why in world.introduced(1.0, peer=peer)
    assert world.meeting.path is None and world.sent == []
    assert world.tools.counters == {"dropped: imprudent address": 1}
    assert world.pass_time(1.0, 60.0) == []


def test_a_public_server_names_no_private_addresses() -> None:
    world = World()
    world.meeting.start(0.0)
    world.meeting.resolved([address.pack("1.1.1.1", 39738)], "", 0.0)
    assert "private" in world.introduced(1.0, peer=address.pack("192.168.1.2", 6000))
    assert world.introduced(1.0, peer=address.pack("8.8.8.8", 6000)) == ""


def test_whom_one_leaves_is_told_and_no_more_sought() -> None:
    world = World().started()
    world.meeting.ask("bob", 0.5)
    world.introduced(1.0)
    world.find_path(1.1)
    world.sent.clear()
    world.meeting.leave(2.0)
    assert [destination for _, destination, _ in world.sent] == [PEER]
    assert world.meeting.path is None and world.meeting.wanted == ""
    assert world.pass_time(2.0, 60.0) == [] and len(world.opened) == 1
    world.meeting.ask("carol", 60.0)
    assert world.dialogues[-1].asked == ["bob", "carol"]


def test_who_was_left_may_be_met_again() -> None:
    world = World().started()
    for now in (1.0, 10.0):
        world.introduced(now)
        world.find_path(now + 0.1)
        assert world.meeting.path is not None and world.meeting.path.state is State.UP
        world.meeting.leave(now + 5.0)


def test_a_greeting_that_bears_a_mark_makes_the_peer_ours_once() -> None:
    world = World().started()
    world.introduced(1.0, mark=b"")
    assert world.meeting.path is not None and world.meeting.path.pairing is None
    for step in range(20):
        world.meeting.recognised(Route(world.opened[0], PEER), LESSER, KEY, 1.5 + 0.01 * step)
    assert world.meeting.path.leads and world.meeting.path.pairing is not None
    world.find_path(1.8)
    assert len(world.opened) == 1
