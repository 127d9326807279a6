"""Connectivity checks: two ends in memory, and what a lying peer can make one send."""

from __future__ import annotations

from typing import Any, List, Tuple

from udppunch import address
from udppunch.address import Address
from udppunch.contract import Endpoint, Route
from udppunch.proto.limiter import TokenBucket
from udppunch.proto.puncher.checks import Checks
from udppunch.wire import marks
from udppunch.wire.control import Control, Kind, Pairing

SERVER_MARK = marks.new(b"s" * 16)
CLIENT_MARK = marks.new(b"c" * 16)
PEER = address.pack("203.0.113.101", 5000)
OTHER = address.pack("203.0.113.101", 6000)


class Outbox:
    def __init__(self) -> None:
        self.sent: List[Tuple[Address, bytes, int]] = []

    def send(self, route: Route, data: bytes, ttl: int = 0) -> None:
        assert route.destination is not None
        self.sent.append((route.destination, data, ttl))


class End:
    """The client's checks; `peer` is the server's view of the same pair."""

    def __init__(self) -> None:
        outbox: Any = Outbox()
        self.outbox = outbox
        self.own = Pairing(b"key", SERVER_MARK, CLIENT_MARK, client=True)
        self.peer = Pairing(b"key", SERVER_MARK, CLIENT_MARK, client=False)
        self._numbers = iter(range(10**6))
        self.endpoint = Endpoint("end", address.ANY_IPV4)
        self.checks = Checks(self.own, outbox, self._random, TokenBucket(100, 500))

    def _random(self, count: int) -> bytes:
        return next(self._numbers).to_bytes(count, "big")

    def route(self, peer: Address = PEER) -> Route:
        return Route(self.endpoint, peer)

    def last(self) -> Control:
        return self.peer.decode(self.outbox.sent[-1][1])

    def pass_time(self, start: float, end: float) -> None:
        now = start
        while now <= end:
            self.checks.expire(now)
            deadline = self.checks.deadline()
            assert deadline is None or deadline > now
            now = end + 1 if deadline is None else deadline


def test_the_opener_goes_at_once_and_checks_after_the_hold() -> None:
    end = End()
    end.checks.begin(end.route(), 2, 0.3, 0.0)
    assert [(peer, ttl) for peer, _, ttl in end.outbox.sent] == [(PEER, 2)]
    end.pass_time(0.0, 0.29)
    assert len(end.outbox.sent) == 1
    end.pass_time(0.3, 0.3)
    assert end.outbox.sent[1][2] == 0


def test_a_candidate_gets_twenty_checks_at_first_and_then_ever_fewer() -> None:
    end = End()
    end.checks.begin(end.route(), 0, 0.0, 0.0)
    end.pass_time(0.0, 1.0)
    assert len(end.outbox.sent) <= 21
    end.pass_time(1.0, 61.0)
    assert len(end.outbox.sent) <= 21 + 16


def test_a_candidate_is_valid_once_it_answered_from_where_it_was_asked() -> None:
    end = End()
    end.checks.begin(end.route(), 0, 0.0, 0.0)
    end.checks.expire(0.0)
    answer = Control(Kind.ANSWER, end.last().transaction)
    assert end.checks.answer(answer, end.route(OTHER), 0.1) is None, "from another address"
    end.checks.expire(0.1)
    answer = Control(Kind.ANSWER, end.last().transaction)
    candidate = end.checks.answer(answer, end.route(PEER), 0.2)
    assert candidate is not None and end.checks.is_valid(end.route(PEER))
    assert end.checks.answer(answer, end.route(PEER), 0.2) is None, "a transaction ends once"
    assert not end.checks.is_valid(end.route(OTHER))


def test_a_question_is_answered_to_where_it_came_from_and_asked_back() -> None:
    end = End()
    end.checks.question(Control(Kind.CHECK, b"question"), end.route(OTHER), 0.0)
    told = [(peer, end.peer.decode(data)) for peer, data, _ in end.outbox.sent]
    assert [(peer, control.kind) for peer, control in told] == [
        (OTHER, Kind.CHECK),
        (OTHER, Kind.ANSWER),
    ]
    assert told[1][1].transaction == b"question" and told[1][1].address == OTHER


def test_a_hundred_addresses_get_no_flood() -> None:
    end = End()
    for number in range(100):
        end.checks.begin(end.route(address.pack("203.0.113.9", 1 + number)), 0, 0.0, 0.0)
    end.pass_time(0.0, 1.0)
    assert len(end.outbox.sent) <= 8 * 21
    assert sum(len(data) for _, data, _ in end.outbox.sent) <= 10_000


def test_a_settled_path_checks_no_more_and_forgets_who_never_came() -> None:
    end = End()
    end.checks.begin(end.route(), 0, 0.0, 0.0)
    end.checks.question(Control(Kind.CHECK, b"question"), end.route(OTHER), 0.0)
    end.checks.settle(end.route())
    assert end.checks.deadline() is None
    assert not end.checks.knows(end.route(OTHER)), "it is to come anew"
