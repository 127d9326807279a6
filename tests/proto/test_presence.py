"""A server's presence at its rendezvous: when it registers, and when it takes a fresh socket."""

from __future__ import annotations

from collections import Counter
from typing import Any, List, Optional, Tuple

from udppunch import address
from udppunch.address import Address
from udppunch.contract import Endpoint, Lookup, Route
from udppunch.proto.puncher.presence import Presence
from udppunch.wire import marks, puncher

RENDEZVOUS = address.pack("203.0.113.10", 39737)
SEEN = address.pack("203.0.113.101", 5000)
CLIENT = address.pack("203.0.113.102", 6000)
OWN = marks.new(b"s" * 16)
THEIRS = marks.new(b"r" * 16)


class Outbox:
    def __init__(self) -> None:
        self.sent: List[Tuple[Endpoint, Optional[Address], bytes]] = []
        self.opened: List[Endpoint] = []
        self.closed: List[Endpoint] = []

    def open(self, endpoint: Endpoint) -> None:
        self.opened.append(endpoint)

    def close(self, endpoint: Endpoint) -> None:
        self.closed.append(endpoint)

    def resolve(self, lookup: Lookup) -> None:
        pass

    def send(self, route: Route, data: bytes, ttl: int = 0) -> None:
        self.sent.append((route.endpoint, route.destination, data))


class Server:
    def __init__(self, mark: bytes = THEIRS, bind: Optional[Address] = None) -> None:
        self.outbox: Any = Outbox()
        lookup = Lookup("203.0.113.10", 39737)
        self.presence = Presence(lookup, b"key", OWN, bind, self.outbox, Counter())
        self.presence.start(0.0)
        self._mark = mark

    def open(self, now: float) -> None:
        endpoint = self.outbox.opened[-1]
        endpoint.local = address.with_port(address.ANY_IPV4, 40000 + len(self.outbox.opened))
        self.presence.opened(endpoint, now)
        self.presence.register(now)

    def hear(self, message: puncher.Message, now: float, endpoint: Any = None) -> Any:
        route = Route(endpoint or self.presence.endpoint, RENDEZVOUS)
        return self.presence.receive(puncher.encode(message), route, now)

    def registered(self) -> "Server":
        self.presence.resolved([RENDEZVOUS], "", 0.0)
        self.open(0.0)
        self.presence.expire(0.0)
        self.hear(puncher.Ok(self._mark, SEEN if self._mark else None), 0.1)
        del self.outbox.sent[:]
        return self


def test_it_registers_once_its_socket_and_its_rendezvous_are_there() -> None:
    server = Server()
    server.presence.register(0.0)
    assert server.presence.deadline() is None
    server.presence.resolved([RENDEZVOUS], "", 0.5)
    server.open(1.0)
    server.presence.expire(1.0)
    ((_, peer, data),) = server.outbox.sent
    assert peer == RENDEZVOUS and puncher.decode(data) == puncher.Server(b"key", OWN)
    server.hear(puncher.Ok(THEIRS, SEEN), 1.1)
    assert server.presence.status() == "registered" and server.presence.mapping.seen == SEEN


def test_a_punch_is_for_the_caller_whichever_socket_it_comes_to() -> None:
    server = Server().registered()
    former = server.presence.endpoint
    server.presence.renew(1.0)
    server.open(1.0)
    punch = puncher.Punch(CLIENT, OWN, SEEN, 0)
    assert server.hear(punch, 1.1) == punch
    assert server.hear(punch, 1.1, endpoint=former) == punch
    assert server.hear(puncher.Handshake(1), 1.1) is None


def test_a_fresh_socket_is_registered_at_once_and_the_former_closed_when_unused() -> None:
    server = Server().registered()
    former = server.presence.endpoint
    assert not server.presence.releases(0.5)
    server.presence.renew(1.0)
    server.open(1.0)
    server.presence.expire(1.0)
    fresh = server.presence.endpoint
    assert fresh is not former
    assert [where for where, _, data in server.outbox.sent if data[0] == 1] == [fresh]
    assert server.presence.releases(1.0)
    server.presence.release({former})
    assert server.outbox.closed == []
    assert not server.presence.releases(1.5), "looking costs as much as there are clients"
    assert server.presence.releases(2.0)
    server.presence.release(set())
    assert server.outbox.closed == [former] and not server.presence.releases(4.0)


def test_fresh_sockets_are_not_taken_in_a_hurry_nor_where_the_port_was_chosen() -> None:
    server = Server().registered()
    for tenth in range(10):
        server.presence.renew(1.0 + tenth / 10)
    assert len(server.outbox.opened) == 3
    chosen = Server(bind=address.pack("0.0.0.0", 5000)).registered()
    chosen.presence.renew(1.0)
    assert len(chosen.outbox.opened) == 1


def test_a_rendezvous_of_theirs_takes_a_fresh_socket_with_the_next_client_only() -> None:
    server = Server(mark=b"").registered()
    server.presence.renew(1.0)
    assert len(server.outbox.opened) == 1
    assert server.hear(puncher.Punch(CLIENT), 2.0) is not None
    assert len(server.outbox.opened) == 2


def test_without_a_fresh_socket_the_former_serves_on() -> None:
    server = Server().registered()
    former = server.presence.endpoint
    server.presence.renew(1.0)
    server.presence.failed(server.presence.endpoint)
    assert server.presence.endpoint is former
    server.presence.expire(12.0)
    assert {where for where, _, _ in server.outbox.sent} == {former}
