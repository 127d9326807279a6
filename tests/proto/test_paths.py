"""The two ends of one path, driven by hand: what each takes from whom, and when it ends."""

from __future__ import annotations

from collections import Counter
from typing import Any, List, Optional, Tuple

import pytest

from udppunch import address
from udppunch.address import Address
from udppunch.contract import Endpoint, Lookup, Route
from udppunch.proto.destination import Destination
from udppunch.proto.limiter import TokenBucket
from udppunch.proto.puncher.client_path import ClientPath
from udppunch.proto.puncher.clients import Clients
from udppunch.proto.puncher.mapping import Mapping, why_no_path
from udppunch.proto.puncher.path import Happening, State, Tools
from udppunch.proto.puncher.server_path import ServerPath
from udppunch.wire import marks, puncher
from udppunch.wire.control import Control, Kind, Pairing

KEY = b"key"
RENDEZVOUS = address.pack("203.0.113.10", 39737)
SERVER = address.pack("203.0.113.101", 5000)
CLIENT = address.pack("203.0.113.102", 6000)
ELSEWHERE = address.pack("203.0.113.66", 6666)
SERVER_MARK = marks.new(b"s" * 16)
CLIENT_MARK = marks.new(b"c" * 16)


class Outbox:
    def __init__(self) -> None:
        self.sent: List[Tuple[Optional[Address], bytes]] = []
        self.opened: List[Endpoint] = []
        self.closed: List[Endpoint] = []
        self.lookups: List[Lookup] = []

    def open(self, endpoint: Endpoint) -> None:
        self.opened.append(endpoint)

    def close(self, endpoint: Endpoint) -> None:
        self.closed.append(endpoint)

    def resolve(self, lookup: Lookup) -> None:
        self.lookups.append(lookup)

    def send(self, route: Route, data: bytes, ttl: int = 0) -> None:
        self.sent.append((route.destination, data))

    def taken(self) -> List[Tuple[Optional[Address], bytes]]:
        sent, self.sent = self.sent, []
        return sent


def tools(outbox: Any, idle: float = 300.0) -> Tools:
    numbers = iter(range(1, 10**6))

    def random(count: int) -> bytes:
        return next(numbers).to_bytes(count, "big")

    return Tools(outbox, random, TokenBucket(100, 500), Counter(), 15.0, idle)


class ClientEnd:
    """A client's path whose first attempt has its socket; `server` is the peer's pairing."""

    def __init__(self) -> None:
        self.outbox = Outbox()
        destination = Destination(Lookup("203.0.113.10", 39737), self.outbox)  # type: ignore[arg-type]
        destination.resolved([RENDEZVOUS], "", 0.0)
        application = Route(Endpoint("connect", address.ANY_IPV4), address.pack("127.0.0.1", 1))
        self.path = ClientPath(tools(self.outbox), KEY, destination, application, 0.0)
        self.path.seek(0.0)
        self.path.opened(self.outbox.opened[-1], 0.0)
        self.server = Pairing(KEY, SERVER_MARK, self.path.mark, client=False)

    def hear(self, source: Address, data: bytes, now: float, attempt: int = -1) -> Any:
        route = Route(self.outbox.opened[attempt], source)
        return self.path.receive(memoryview(data), route, now)

    def punch(self, now: float, peer: Address = SERVER, mark: bytes = SERVER_MARK) -> Any:
        return self.hear(RENDEZVOUS, puncher.encode(puncher.Punch(peer, mark)), now)

    def answer_last_check(self, now: float, source: Address = SERVER) -> Any:
        check = next(data for peer, data in reversed(self.outbox.sent) if peer == source)
        control = self.server.decode(check)
        assert control.kind is Kind.CHECK
        answer = Control(Kind.ANSWER, control.transaction)
        return self.hear(source, self.server.encode(answer), now)

    def up(self) -> "ClientEnd":
        self.punch(0.1)
        self.path.expire(0.2)
        assert self.answer_last_check(0.3) is Happening.UP
        self.outbox.taken()
        return self


def test_a_client_is_up_when_its_check_is_answered() -> None:
    end = ClientEnd()
    assert puncher.decode(end.outbox.taken()[0][1]) == puncher.Client(KEY, end.path.mark)
    end.path.waiting.add([memoryview(b"first"), memoryview(b"second")])
    assert end.punch(0.1) is None and end.path.state is State.SEEKING
    end.path.expire(0.2)
    assert end.answer_last_check(0.3) is Happening.UP
    assert end.outbox.taken()[-2:] == [(SERVER, b"first"), (SERVER, b"second")]


@pytest.mark.parametrize(
    "peer,mark",
    [(ELSEWHERE, SERVER_MARK), (SERVER, marks.new(b"x" * 16)), (SERVER, b"")],
)
def test_a_client_is_sent_to_one_server_an_attempt(peer: Address, mark: bytes) -> None:
    end = ClientEnd()
    end.punch(0.1)
    end.outbox.taken()
    end.punch(0.11, peer, mark)
    assert end.outbox.taken() == []
    end.path.expire(0.2)
    assert end.answer_last_check(0.3) is Happening.UP, "the first one still counts"


def test_each_attempt_has_a_socket_of_its_own_and_three_stay_open() -> None:
    end = ClientEnd()
    for number in range(5):
        end.punch(10.0 * number)
        end.path.seek(10.0 * number + 5)
        end.path.opened(end.outbox.opened[-1], 10.0 * number + 5)
    assert len(set(end.outbox.opened)) == 6
    assert end.outbox.closed == end.outbox.opened[:3]


def test_an_earlier_attempt_may_still_be_the_one_that_works() -> None:
    end = ClientEnd()
    end.punch(0.1)
    end.path.expire(0.2)
    end.path.seek(1.2)
    end.path.opened(end.outbox.opened[-1], 1.2)
    check = next(data for peer, data in end.outbox.sent[::-1] if peer == SERVER)
    answer = Control(Kind.ANSWER, end.server.decode(check).transaction)
    assert end.hear(SERVER, end.server.encode(answer), 1.3, attempt=0) is Happening.UP
    assert end.outbox.closed == [end.outbox.opened[1]]


@pytest.mark.parametrize("data", [b"payload", b"", b"\x03\x02", b"\x05"])
def test_a_client_takes_payload_from_its_server_alone(data: bytes) -> None:
    end = ClientEnd().up()
    assert end.hear(SERVER, data, 1.0) is Happening.PAYLOAD
    assert end.hear(ELSEWHERE, data, 1.0) is None
    assert end.hear(RENDEZVOUS, data, 1.0) is None
    assert end.hear(address.with_port(SERVER, 5001), data, 1.0) is None


def test_a_server_that_says_close_is_answered_and_left() -> None:
    end = ClientEnd().up()
    close = end.server.encode(Control(Kind.CLOSE, b"goodbye!"))
    assert end.hear(SERVER, close, 1.0) is Happening.CLOSED
    ((peer, data),) = end.outbox.taken()
    assert peer == SERVER and end.server.decode(data) == Control(Kind.CLOSED, b"goodbye!")
    assert end.path.wanted(1.0) and not end.path.wanted(151.0)


def test_a_close_that_nobody_confirms_ends_all_the_same() -> None:
    end = ClientEnd().up()
    assert end.path.close(10.0) is None and end.path.state is State.CLOSING
    said = len(end.outbox.taken())
    happening, now = None, 10.0
    while happening is None:
        deadline = end.path.deadline()
        assert deadline is not None and deadline > now
        now = deadline
        happening = end.path.expire(now)
        said += len(end.outbox.taken())
    assert happening is Happening.CLOSED and said == 4 and now < 12.0


def test_a_close_confirmed_for_another_is_not_confirmed() -> None:
    end = ClientEnd().up()
    end.path.close(10.0)
    close = end.server.decode(end.outbox.taken()[-1][1])
    other = end.server.encode(Control(Kind.CLOSED, b"another!"))
    assert end.hear(SERVER, other, 10.1) is None
    right = end.server.encode(Control(Kind.CLOSED, close.transaction))
    assert end.hear(SERVER, right, 10.1) is Happening.CLOSED


def test_a_lost_path_is_sought_with_the_same_mark_and_a_fresh_socket() -> None:
    end = ClientEnd().up()
    mark, sockets = end.path.mark, len(end.outbox.opened)
    end.path.carries(1.0)
    happening, now = None, 1.0
    while happening is not Happening.LOST:
        deadline = end.path.deadline()
        assert deadline is not None
        now = max(now, deadline)
        happening = end.path.expire(now)
    assert now < 8.0
    assert len(end.outbox.opened) == sockets + 1
    end.outbox.taken()
    end.path.opened(end.outbox.opened[-1], now)
    assert puncher.decode(end.outbox.taken()[0][1]) == puncher.Client(KEY, mark)


# The server's end


class ServerEnd:
    def __init__(self, idle: float = 300.0) -> None:
        self.outbox = Outbox()
        self.endpoint = Endpoint("serve", address.ANY_IPV4)
        self.path = ServerPath(tools(self.outbox, idle), KEY, SERVER_MARK, Mapping(), 0.0)
        self.client = Pairing(KEY, SERVER_MARK, CLIENT_MARK, client=True)

    def route(self, source: Address) -> Route:
        return Route(self.endpoint, source)

    def hear(self, source: Address, data: bytes, now: float) -> Any:
        return self.path.receive(memoryview(data), self.route(source), now)

    def introduced(self, now: float, mark: bytes = CLIENT_MARK, peer: Address = CLIENT) -> None:
        self.path.introduced(puncher.Punch(peer, mark), self.endpoint, now)

    def check(self, source: Address, now: float, transaction: bytes = b"question") -> Any:
        return self.hear(source, self.client.encode(Control(Kind.CHECK, transaction)), now)

    def answer_last_check(self, source: Address, now: float) -> Any:
        for peer, data in reversed(self.outbox.sent):
            control = self.client.decode(data)
            if peer == source and control.kind is Kind.CHECK:
                answer = Control(Kind.ANSWER, control.transaction)
                return self.hear(source, self.client.encode(answer), now)
        raise AssertionError("it asked nothing there")


def test_a_server_is_up_with_the_first_check_from_where_the_client_was_seen() -> None:
    end = ServerEnd()
    end.introduced(0.0)
    assert end.check(address.with_port(CLIENT, 6001), 0.1) is Happening.UP
    assert end.path.peer is not None
    assert end.path.peer.destination == address.with_port(CLIENT, 6001)


def test_a_client_that_took_long_to_come_is_not_idle_on_arrival() -> None:
    end = ServerEnd(idle=5.0)
    end.introduced(0.0)
    assert end.check(CLIENT, 6.0) is Happening.UP
    assert end.path.expire(6.0) is None and end.path.state is State.UP


def test_from_anywhere_else_a_check_could_be_a_copy_and_has_to_answer_first() -> None:
    end = ServerEnd()
    end.introduced(0.0)
    assert end.check(ELSEWHERE, 0.1) is None and end.path.state is State.SEEKING
    assert end.answer_last_check(ELSEWHERE, 0.2) is Happening.UP


def test_a_server_follows_its_client_to_where_it_answers() -> None:
    end = ServerEnd()
    end.introduced(0.0)
    end.check(CLIENT, 0.1)
    assert end.hear(ELSEWHERE, b"payload", 0.2) is None, "nobody that it knows"
    end.check(ELSEWHERE, 0.3)
    assert end.path.peer is not None and end.path.peer.destination == CLIENT
    assert end.answer_last_check(ELSEWHERE, 0.4) is None
    assert end.path.peer.destination == ELSEWHERE
    assert end.hear(ELSEWHERE, b"payload", 0.5) is Happening.PAYLOAD


def test_a_repeated_introduction_begins_nothing_anew() -> None:
    end = ServerEnd()
    end.introduced(0.0)
    end.outbox.taken()
    for _ in range(20):
        end.introduced(0.01)
    assert end.outbox.taken() == []


def test_who_was_introduced_and_never_comes_is_let_go() -> None:
    end, now = ServerEnd(), 0.0
    end.introduced(0.0)
    happenings = []
    while Happening.CLOSED not in happenings:
        deadline = end.path.deadline()
        assert deadline is not None and deadline < 100.0
        now = max(now, deadline)
        happenings.append(end.path.expire(now))
    assert Happening.STALLED in happenings and 20.0 <= now <= 40.0


def test_a_client_of_theirs_shakes_hands_and_then_everything_is_payload() -> None:
    end = ServerEnd()
    end.introduced(0.0, mark=b"")
    end.path.expire(0.1)
    assert end.outbox.taken() == [(CLIENT, puncher.encode(puncher.Handshake(1, SERVER_MARK)))]
    assert end.path.awaits(CLIENT) and not end.path.awaits(ELSEWHERE)
    second = puncher.Handshake(2)
    assert end.path.second(second, end.route(CLIENT), 1.1) is Happening.UP
    assert end.outbox.taken() == [(CLIENT, puncher.encode(puncher.Handshake(3, SERVER_MARK)))]
    assert end.hear(CLIENT, b"\x03\x01", 1.2) is None, "doubled by the network"
    assert end.hear(CLIENT, b"payload", 1.3) is Happening.PAYLOAD
    assert end.hear(CLIENT, b"\x03\x01", 1.4) is Happening.PAYLOAD
    assert end.hear(ELSEWHERE, b"payload", 1.5) is None


# The table of them


def pair_of_clients() -> Tuple[Clients, List[Any]]:
    """Both of one server's socket."""
    table, found = Clients(), []
    for letter in (b"1", b"2"):
        end = ServerEnd()
        end.path.introduced(puncher.Punch(CLIENT, letter * 21), SHARED, 0.0)
        client = table.add(end.path)
        table.note_mark(client)
        found.append(client)
    return table, found


SHARED = Endpoint("serve", address.ANY_IPV4)
ANOTHER = Endpoint("serve", address.ANY_IPV4)
THERE = Route(SHARED, CLIENT)


def test_a_client_is_found_by_way_mark_and_token_until_it_is_removed() -> None:
    table, (one, other) = pair_of_clients()
    table.note_route(one, THERE)
    token = memoryview(other.path.pairing.token + b"rest")
    assert table.of_datagram(memoryview(b"payload"), THERE) is one
    assert table.of_datagram(memoryview(b"payload"), Route(ANOTHER, CLIENT)) is None
    assert table.of_datagram(token, THERE) is other, "control says itself whose it is"
    assert table.of_mark(b"1" * 21) is one and table.of_mark(b"") is None
    for client in (one, other):
        table.remove(client)
    assert not len(table) and not table.by_way and table.of_mark(b"1" * 21) is None
    assert table.of_datagram(token, THERE) is None


def test_a_way_has_one_client_and_may_come_back_to_it() -> None:
    table, (one, other) = pair_of_clients()
    way = (SHARED, CLIENT)
    table.note_route(one, THERE)
    table.note_route(other, THERE)
    assert table.by_way == {way: other} and one.ways == []
    table.note_route(one, THERE)
    assert table.by_way == {way: one} and other.ways == []
    table.remove(other)
    assert table.by_way == {way: one}


def test_a_port_may_be_one_clients_for_one_socket_and_anothers_for_another() -> None:
    table, (one, other) = pair_of_clients()
    one.path.nominate(THERE, 0.0)
    table.note_route(one, THERE)
    assert table.note_route(other, Route(ANOTHER, CLIENT)) == []
    assert table.by_way == {(SHARED, CLIENT): one, (ANOTHER, CLIENT): other}


def test_ways_are_bounded_and_the_one_in_use_is_kept() -> None:
    table, (one, _) = pair_of_clients()
    one.path.peer = THERE
    table.note_route(one, THERE)
    for number in range(1, 100):
        table.note_route(one, Route(SHARED, address.with_port(ELSEWHERE, number)))
    assert len(table.by_way) == len(one.ways) == 8
    assert table.by_way[SHARED, CLIENT] is one


def test_who_was_sought_where_another_comes_along_is_sought_there_no_more() -> None:
    """What is said there would come to the other one's application."""
    table, (one, other) = pair_of_clients()
    assert one.path.checks.tries(THERE)
    assert table.note_route(other, THERE) == []
    assert not one.path.checks.tries(THERE) and one.path.state is State.SEEKING


def test_who_had_a_path_where_another_comes_along_has_lost_it() -> None:
    table, (one, other) = pair_of_clients()
    one.path.nominate(THERE, 0.0)
    table.note_route(one, THERE)
    assert table.note_route(other, THERE) == [one]
    assert one.path.state is State.LOST and table.note_route(other, THERE) == []


def test_a_way_is_anothers_while_his_path_is_up_along_it() -> None:
    table, (one, other) = pair_of_clients()
    assert table.other(other, THERE) is None, "nobody is there yet"
    one.path.nominate(THERE, 0.0)
    table.note_route(one, THERE)
    assert table.other(other, THERE) is one and table.other(one, THERE) is None
    one.path.nominate(Route(SHARED, ELSEWHERE), 1.0)
    assert table.other(other, THERE) is None, "it was there before"


def test_a_path_that_is_lost_has_no_way() -> None:
    table, (one, other) = pair_of_clients()
    for number in range(3):
        table.note_route(one, Route(SHARED, address.with_port(CLIENT, 1 + number)))
    table.note_route(other, THERE)
    table.forget_ways(one)
    assert list(table.by_way.values()) == [other] and one.ways == []


# What an end knows of its NAT


@pytest.mark.parametrize(
    "there,symmetric,said",
    [
        (address.with_port(CLIENT, 7000), True, "another port for each destination"),
        (CLIENT, False, "keeps its port"),
        (None, None, "nothing of the other end's arrives"),
    ],
)
def test_an_end_learns_its_mapping_and_says_so(
    there: Optional[Address], symmetric: Optional[bool], said: str
) -> None:
    mapping, outbox = Mapping(), Outbox()
    endpoint = Endpoint("end", address.ANY_IPV4)
    mapping.heard(CLIENT, 50001)
    mapping.ask(Route(endpoint, RENDEZVOUS), CLIENT_MARK, outbox)  # type: ignore[arg-type]
    ((peer, data),) = outbox.sent
    assert peer == address.with_port(RENDEZVOUS, 50001)
    assert puncher.decode(data) == puncher.KeepAlive(CLIENT_MARK)
    assert mapping.is_other_port(peer, RENDEZVOUS) and not mapping.is_other_port(SERVER, RENDEZVOUS)
    if there is not None:
        answer = puncher.encode(puncher.Ok(SERVER_MARK, there))
        mapping.heard_other(answer, Endpoint("another", address.ANY_IPV4))
        assert mapping.symmetric is None, "another socket's answer"
        mapping.heard_other(answer, endpoint)
    assert mapping.symmetric is symmetric
    assert said in why_no_path(mapping, SERVER)
    assert "same NAT" in why_no_path(mapping, address.with_port(CLIENT, 1))
