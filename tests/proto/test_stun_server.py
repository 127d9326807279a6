"""What a STUN server answers, from where, and how long the answer is."""

from __future__ import annotations

from typing import Any, Optional

import pytest
from hypothesis import given
from hypothesis import strategies as st

from udppunch import address
from udppunch.address import ANSWERING_PORTS, Address
from udppunch.proto.stun.server import SOFTWARE, Answer, Server, sockets
from udppunch.wire import stun
from udppunch.wire.stun import Change, Error, Kind, Message

TRANSACTION = b"transaction!"
CLIENT = address.pack("198.51.100.7", 40000)
CLIENT_6 = address.pack("2001:db8::7", 40000)
FIRST = address.pack("203.0.113.10", 3478)
SECOND = address.pack("203.0.113.11", 3479)
FIRST_6 = address.pack("2001:db8::10", 3478)
SECOND_6 = address.pack("2001:db8::11", 3479)
ONE = Server()
FOUR = Server(sockets(FIRST, SECOND))
FOUR_6 = Server(sockets(FIRST_6, SECOND_6))

transactions = st.binary(min_size=12, max_size=12)


def request(**attributes: Any) -> bytes:
    return stun.encode(Message(Kind.REQUEST, TRANSACTION, **attributes))


def with_attributes(*types: int) -> bytes:
    """A request of attributes without values."""
    body = b"".join(number.to_bytes(2, "big") + bytes(2) for number in types)
    return request()[:2] + len(body).to_bytes(2, "big") + request()[4:] + body


def read(answer: Optional[Answer]) -> Message:
    assert answer is not None
    return stun.decode(answer.data)


@pytest.mark.parametrize("client, length", [(CLIENT, 32), (CLIENT_6, 44)], ids=["ipv4", "ipv6"])
def test_a_bare_request_gets_the_least_that_there_is(client: Address, length: int) -> None:
    answer = ONE.answer(request(), client)
    assert read(answer) == Message(Kind.SUCCESS, TRANSACTION, xor_mapped=client)
    assert answer is not None and len(answer.data) == length
    assert (answer.socket, answer.destination) == (0, client)


@pytest.mark.parametrize(
    "server, client, length", [(FOUR, CLIENT, 56), (FOUR_6, CLIENT_6, 92)], ids=["ipv4", "ipv6"]
)
def test_where_there_is_a_second_address_it_is_told(
    server: Server, client: Address, length: int
) -> None:
    answer = server.answer(request(), client)
    served = sockets(FIRST, SECOND) if server is FOUR else sockets(FIRST_6, SECOND_6)
    assert read(answer) == Message(
        Kind.SUCCESS,
        TRANSACTION,
        xor_mapped=client,
        response_origin=served[0],
        other_address=served[3],
    )
    assert answer is not None and len(answer.data) == length


@pytest.mark.parametrize("socket", range(4))
@pytest.mark.parametrize("change", [None, *(Change(i, p) for i in (0, 1) for p in (0, 1))])
def test_change_request_as_in_table_1_of_rfc_5780(socket: int, change: Optional[Change]) -> None:
    served = sockets(FIRST, SECOND)
    asked = served[socket]
    other_ip = SECOND if address.same_ip(asked, FIRST) else FIRST
    other_port = address.port(SECOND if asked[-2:] == FIRST[-2:] else FIRST)
    from_ip = other_ip if change and change.ip else asked
    from_port = other_port if change and change.port else address.port(asked)
    answer = FOUR.answer(request(change=change), CLIENT, socket)
    assert answer is not None
    assert served[answer.socket] == address.with_port(from_ip, from_port)
    assert read(answer).response_origin == served[answer.socket]
    assert read(answer).other_address == address.with_port(other_ip, other_port)


def test_with_one_address_change_request_is_unknown() -> None:
    answer = ONE.answer(request(change=Change(ip=False, port=False)), CLIENT)
    assert read(answer) == Message(
        Kind.ERROR, TRANSACTION, error=Error(420), unknown=(stun.CHANGE_REQUEST,)
    )


@pytest.mark.parametrize("server", [ONE, FOUR], ids=["one", "four"])
def test_padding_is_unknown(server: Server) -> None:
    answer = server.answer(request(padding=1200), CLIENT)
    assert read(answer).unknown == (stun.PADDING,)
    assert read(answer).kind is Kind.ERROR and read(answer).xor_mapped is None


@pytest.mark.parametrize("server", [ONE, FOUR], ids=["one", "four"])
def test_another_port_of_the_client_hears_where_the_client_was_seen(server: Server) -> None:
    answer = server.answer(request(response_port=40001), CLIENT)
    assert read(answer).xor_mapped == CLIENT
    assert answer is not None and answer.destination == address.with_port(CLIENT, 40001)


def test_another_port_of_the_client_hears_from_another_address() -> None:
    answer = FOUR.answer(request(response_port=40001, change=Change(True, True)), CLIENT)
    assert answer is not None and answer.socket == 3
    assert answer.destination == address.with_port(CLIENT, 40001)


def test_a_refusal_goes_to_who_asked() -> None:
    answer = ONE.answer(request(response_port=40001, padding=0), CLIENT)
    assert answer is not None and answer.destination == CLIENT


def test_what_must_be_understood_is_told_back_and_the_rest_passed_over() -> None:
    answer = FOUR.answer(with_attributes(0x0024, 0x8001, 0x7FFF, 0x0006, 0x0014), CLIENT, 2)
    assert read(answer).unknown == (0x0024, 0x7FFF)
    assert answer is not None and answer.socket == 2
    assert read(FOUR.answer(with_attributes(0x8001, 0x0006), CLIENT)).kind is Kind.SUCCESS


def test_a_fingerprint_is_answered_with_one() -> None:
    assert read(ONE.answer(request(fingerprint=True), CLIENT)).fingerprint
    assert read(ONE.answer(request(fingerprint=True, padding=0), CLIENT)).fingerprint
    assert not read(ONE.answer(request(software="long enough to have any"), CLIENT)).fingerprint


@pytest.mark.parametrize("server", [ONE, FOUR], ids=["one", "four"])
def test_more_is_told_to_who_asks_at_length(server: Server) -> None:
    told = read(server.answer(request(software="x" * 60), CLIENT))
    assert told.software == SOFTWARE and told.mapped == CLIENT


@given(
    st.sampled_from([ONE, FOUR, FOUR_6]),
    st.sampled_from([CLIENT, CLIENT_6]),
    st.integers(0, 200),
    st.booleans(),
)
def test_nothing_optional_makes_an_answer_longer_than_its_request(
    server: Server, client: Address, length: int, fingerprint: bool
) -> None:
    asked = request(software="x" * length, fingerprint=fingerprint)
    answer = server.answer(asked, client)
    least = server.answer(request(fingerprint=fingerprint), client)
    assert answer is not None and least is not None
    assert len(answer.data) <= max(len(asked), len(least.data))


@given(st.lists(st.integers(0, 0x7FFF).filter(lambda n: n not in (1, 3, 9, 0x20, 0x27))))
def test_a_refusal_is_hardly_longer_than_its_request(types: "list[int]") -> None:
    asked = with_attributes(*types)
    answer = ONE.answer(asked, CLIENT)
    if answer is not None:
        assert len(answer.data) <= len(asked) + 12


@pytest.mark.parametrize("kind", [Kind.SUCCESS, Kind.ERROR, Kind.INDICATION])
def test_only_requests_are_answered(kind: Kind) -> None:
    assert ONE.answer(stun.encode(Message(kind, TRANSACTION)), CLIENT) is None


@pytest.mark.parametrize("port", sorted(ANSWERING_PORTS))
def test_services_that_answer_anything_are_not_answered(port: int) -> None:
    assert ONE.answer(request(), address.with_port(CLIENT, port)) is None
    assert ONE.answer(request(response_port=port), CLIENT) is None


def test_a_server_does_not_answer_itself() -> None:
    for at in sockets(FIRST, SECOND):
        assert FOUR.answer(request(), at) is None
        beside = address.with_port(at, 40000)
        assert FOUR.answer(request(response_port=address.port(at)), beside) is None


@given(st.binary(max_size=100) | st.builds(
    Message,
    kind=st.sampled_from(Kind),
    transaction=transactions,
    change=st.none() | st.builds(Change, st.booleans(), st.booleans()),
    response_port=st.none() | st.integers(0, 65535),
    fingerprint=st.booleans(),
).map(stun.encode), st.integers(0, 3))  # fmt: skip
def test_no_answer_is_answered(datagram: bytes, socket: int) -> None:
    answer = FOUR.answer(memoryview(datagram), CLIENT, socket)
    if answer is not None:
        assert stun.decode(datagram).transaction == read(answer).transaction
        assert FOUR.answer(answer.data, CLIENT, socket) is None


@pytest.mark.parametrize(
    "first, second, match",
    [
        (FIRST, address.with_port(FIRST, 1), "two IP addresses"),
        (FIRST, address.with_port(SECOND, 3478), "two ports"),
        (FIRST, SECOND_6, "family"),
    ],
)
def test_two_addresses_that_are_no_use(first: Address, second: Address, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        sockets(first, second)
