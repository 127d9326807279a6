"""STUN beside another protocol: which socket answers, and how much of it a network gets."""

from __future__ import annotations

import logging
from collections import Counter
from typing import Any, List, Tuple

import pytest

from udppunch import address
from udppunch.address import Address
from udppunch.contract import Burst, Endpoint, Route
from udppunch.proto.gate import Gate
from udppunch.proto.stun.service import LONGEST, StunService
from udppunch.wire import stun
from udppunch.wire.stun import Change, Kind, Message

CLIENT = address.pack("198.51.100.7", 4242)
ONE, OTHER = "203.0.113.1", "203.0.113.2"
TRANSACTION = b"transaction!"


class Outbox:
    def __init__(self) -> None:
        self.sent: List[Tuple[Endpoint, Address, bytes]] = []

    def send(self, route: Route, data: bytes, ttl: int = 0) -> None:
        assert route.destination is not None
        self.sent.append((route.endpoint, route.destination, data))


class Host:
    def __init__(self, *binds: Address, rate: float = 100.0) -> None:
        self.outbox: Any = Outbox()
        self.endpoints = [Endpoint("rendezvous", bind) for bind in binds]
        self.counters: "Counter[str]" = Counter()
        gate = Gate(rate, LONGEST, self.counters, logging.getLogger(), ipv4_only=False)
        self.service = StunService(self.endpoints, self.outbox, gate)

    def ask(self, at: Endpoint, message: Message, source: Address = CLIENT) -> Any:
        """From where the answer comes, and what it says; None if there is none."""
        data = stun.encode(message)
        burst = Burst()
        burst.endpoint, burst.source, burst.local = at, source, b""
        burst.view, burst.segment, burst.position = memoryview(data), len(data), 0
        del self.outbox.sent[:]
        answered = self.service.receive(burst, burst.view, 1.0)
        assert answered is bool(self.outbox.sent)
        if not answered:
            return None
        ((endpoint, destination, answer),) = self.outbox.sent
        assert destination == source
        return endpoint, stun.decode(answer)


def asking(**change: bool) -> Message:
    return Message(Kind.REQUEST, TRANSACTION, change=Change(**change) if change else None)


def test_one_address_says_where_a_client_is_seen() -> None:
    host = Host(address.pack(ONE, 3478))
    assert not host.service.wanted
    endpoint, answer = host.ask(host.endpoints[0], asking())
    assert endpoint is host.endpoints[0]
    assert answer.kind is Kind.SUCCESS and answer.transaction == TRANSACTION
    assert answer.xor_mapped == CLIENT and answer.other_address is None


@pytest.mark.parametrize("second", [3478, 3479], ids=["same port", "other port"])
def test_two_addresses_answer_from_all_four_places(second: int) -> None:
    host = Host(address.pack(ONE, 3478), address.pack(OTHER, second))
    sockets = {endpoint.bind: endpoint for endpoint in [*host.endpoints, *host.service.wanted]}
    places = {address.pack(ip, port) for ip in (ONE, OTHER) for port in (3478, 3479)}
    assert set(sockets) == places
    first = sockets[address.pack(ONE, 3478)]
    for ip in (False, True):
        for port in (False, True):
            endpoint, answer = host.ask(first, asking(ip=ip, port=port))
            expected = address.pack(OTHER if ip else ONE, 3479 if port else 3478)
            assert endpoint.bind == expected == answer.response_origin
            assert answer.other_address == address.pack(OTHER, 3479)


def test_without_the_further_sockets_there_is_no_second_address() -> None:
    host = Host(address.pack(ONE, 3478), address.pack(OTHER, 3478))
    assert not host.service.failed(host.endpoints[0])
    assert host.service.failed(host.service.wanted[0])
    _, answer = host.ask(host.endpoints[0], asking())
    assert answer.other_address is None


@pytest.mark.parametrize(
    "binds",
    [
        [address.pack("0.0.0.0", 3478), address.pack(OTHER, 3479)],
        [address.pack(ONE, 3478), address.pack(ONE, 3479)],
        [address.pack(ONE, 3478), address.pack("2001:db8::1", 3479)],
        [address.pack(ip, 3478) for ip in (ONE, OTHER, "203.0.113.3")],
    ],
)
def test_what_makes_no_two_addresses(binds: List[Address]) -> None:
    assert not Host(*binds).service.wanted


def test_a_network_gets_so_many_answers() -> None:
    host = Host(address.pack(ONE, 3478), rate=5)
    answers = [host.ask(host.endpoints[0], asking()) for _ in range(30)]
    assert len([answer for answer in answers if answer is not None]) == 10
    assert host.counters["dropped: rate"] == 20
    elsewhere = address.pack("192.0.2.1", 4242)
    assert host.ask(host.endpoints[0], asking(), elsewhere) is not None


def test_what_is_no_request_gets_no_answer() -> None:
    host = Host(address.pack(ONE, 3478))
    answer = Message(Kind.SUCCESS, TRANSACTION, xor_mapped=CLIENT)
    assert host.ask(host.endpoints[0], answer) is None
    assert host.counters["dropped: not a STUN request"] == 1
