"""hole-punch's stand-ins find each other by name, and panic where the original panics."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Optional

import pytest

from tests.standin import holepunch
from tests.standin.expose import Endpoint, SocketAddress, text
from tests.standin.holepunch import (
    BUFFER,
    EXIT_OUTLIVED,
    EXIT_PANIC,
    Kind,
    Message,
    Server,
    decode,
    encode,
)
from tests.standin.process import StandIn

GOLDEN = [
    ("0105616c696365", Message(Kind.REGISTER, "alice")),
    ("02", Message(Kind.REGISTER_ACK)),
    ("0303626f62", Message(Kind.REQUEST, "bob")),
    ("04", Message(Kind.UNKNOWN)),
    (
        "0503626f62123139382e35312e3130302e373a3430303030",
        Message(Kind.INITIATE, "bob", "198.51.100.7:40000"),
    ),
    ("001048656c6c6f2066726f6d20616c696365", Message(Kind.MESSAGE, "Hello from alice")),
]
UNDECODABLE = [
    b"\x06",
    b"\xfd\x02",
    b"\xff",
    b"\x00\xfe",
    b"\x01\x02\xc3\x28",
    b"\x01\x03\xed\xa0\x80",
    b"\x00\x7f",
]
TRAILING = b"\xf0upp\x01" + bytes(range(16))
LONGEST_ADDRESS = "255.255.255.255:65535"

ACK = Message(Kind.REGISTER_ACK)
UNKNOWN = Message(Kind.UNKNOWN)


class Peer(Endpoint):
    """The end of the protocol that the test plays."""

    def tell(self, message: Message, destination: SocketAddress) -> None:
        self.send_to(destination, encode(message))

    def expect(self, message: Message) -> SocketAddress:
        """The source of the next datagram, which must be this message and nothing more."""
        datagram, source = self.receive_from()
        assert datagram == encode(message)
        return source

    def initiation(self) -> Message:
        """An Initiate that names this end."""
        return Message(Kind.INITIATE, "bob", text(self.address))


@pytest.fixture
def peer() -> Iterator[Peer]:
    """The server of a client, or a client of the server."""
    with Peer() as opened:
        yield opened


@pytest.fixture
def other() -> Iterator[Peer]:
    with Peer() as opened:
        yield opened


@pytest.fixture
def server() -> Iterator[StandIn]:
    with holepunch.server() as stand_in:
        yield stand_in


@pytest.fixture
def waiter(peer: Peer) -> Iterator[StandIn]:
    """A client of `peer` without OTHER."""
    with holepunch.client(peer.address, "alice") as stand_in:
        yield stand_in


@pytest.fixture
def asker(peer: Peer) -> Iterator[StandIn]:
    with holepunch.client(peer.address, "alice", "bob") as stand_in:
        yield stand_in


def registered(peer: Peer) -> SocketAddress:
    source = peer.expect(Message(Kind.REGISTER, "alice"))
    peer.tell(ACK, source)
    return source


def asking(peer: Peer) -> SocketAddress:
    source = registered(peer)
    assert peer.expect(Message(Kind.REQUEST, "bob")) == source
    return source


def assert_panics(stand_in: StandIn, part: str) -> None:
    assert stand_in.wait_exit() == EXIT_PANIC
    reason = stand_in.wait_event("exit")["reason"]
    assert reason.startswith("panicked: ") and part in reason
    assert not stand_in.output


# --- the wire ----------------------------------------------------------------------------


@pytest.mark.parametrize("octets,message", GOLDEN)
def test_golden_datagrams(octets: str, message: Message) -> None:
    data = bytes.fromhex(octets)
    assert encode(message) == data
    assert decode(data) == decode(data + TRAILING) == message


def test_every_kind_has_a_golden_datagram() -> None:
    assert {message.kind for _, message in GOLDEN} == set(Kind)


@pytest.mark.parametrize("length", ["fb0500", "fc05000000", "fd0500000000000000"])
def test_integers_of_any_width_up_to_their_type_s(length: str) -> None:
    data = bytes.fromhex("fb0100" + length) + b"alice"
    assert decode(data) == Message(Kind.REGISTER, "alice")


@pytest.mark.parametrize("data", UNDECODABLE, ids=bytes.hex)
def test_undecodable_datagrams_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError):
        decode(data.ljust(BUFFER, b"\0"))


def test_longest_name_that_can_be_introduced() -> None:
    assert len(encode(Message(Kind.INITIATE, 104 * "n", LONGEST_ADDRESS))) == BUFFER
    with pytest.raises(ValueError):
        encode(Message(Kind.INITIATE, 105 * "n", LONGEST_ADDRESS))


def test_longest_text_fills_the_buffer() -> None:
    assert len(encode(Message(Kind.MESSAGE, 63 * "é"))) == BUFFER
    with pytest.raises(ValueError):
        encode(Message(Kind.MESSAGE, 63 * "é" + "e"))


# --- server and clients together ---------------------------------------------------------


def test_two_clients_greet_each_other(server: StandIn) -> None:
    with holepunch.client(server.address, "bob") as bob:
        bob.wait_event("registered")
        with holepunch.client(server.address, "alice", "bob") as alice:
            alice.wait_event("received", count=2, kind="MESSAGE", text="Hello from bob")
            bob.wait_event("received", count=2, kind="MESSAGE", text="Hello from alice")
            assert alice.wait_event("initiate")["name"] == "bob"
            assert bob.wait_event("initiate")["name"] == "alice"
            for stand_in in (server, alice, bob):
                stand_in.assert_alive_and_sane()
            assert alice.stop() == 0
        assert bob.stop() == 0


def test_asker_asks_until_the_other_is_there(server: StandIn) -> None:
    with holepunch.client(server.address, "alice", "bob") as alice:
        alice.wait_event("unknown")
        with holepunch.client(server.address, "bob") as bob:
            bob.wait_event("received", text="Hello from alice")
            alice.wait_event("received", text="Hello from bob")


# --- the server alone --------------------------------------------------------------------


def test_server_names_each_to_the_other(server: StandIn, peer: Peer, other: Peer) -> None:
    for client, name in ((peer, "alice"), (other, "bob")):
        client.send_to(server.address, encode(Message(Kind.REGISTER, name)) + TRAILING)
        client.expect(ACK)
    peer.tell(Message(Kind.REQUEST, "bob"), server.address)
    peer.expect(Message(Kind.INITIATE, "bob", text(other.address)))
    other.expect(Message(Kind.INITIATE, "alice", text(peer.address)))
    server.assert_alive_and_sane()


def test_server_knows_neither_strangers_nor_unknown_names(
    server: StandIn, peer: Peer, other: Peer
) -> None:
    peer.tell(Message(Kind.REGISTER, "alice"), server.address)
    peer.expect(ACK)
    peer.tell(Message(Kind.REQUEST, "bob"), server.address)
    peer.expect(UNKNOWN)
    other.tell(Message(Kind.REQUEST, "alice"), server.address)
    other.expect(UNKNOWN)
    assert peer.has_nothing()


def test_last_registration_of_a_name_counts() -> None:
    first, last, asker = ("127.0.0.1", 1), ("127.0.0.1", 2), ("127.0.0.1", 3)
    server = Server(lambda event, **fields: None)
    for source in (first, last):
        assert server.receive(Message(Kind.REGISTER, "bob"), source) == [(ACK, source)]
    server.receive(Message(Kind.REGISTER, "alice"), asker)
    answers = server.receive(Message(Kind.REQUEST, "bob"), asker)
    assert [destination for _, destination in answers] == [asker, last]


@pytest.mark.parametrize("kind", [Kind.MESSAGE, Kind.REGISTER_ACK, Kind.UNKNOWN, Kind.INITIATE])
def test_server_ignores_what_is_no_request(kind: Kind) -> None:
    server = Server(lambda event, **fields: None)
    assert server.receive(Message(kind, "alice"), ("127.0.0.1", 1)) == []


@pytest.mark.parametrize("data", UNDECODABLE, ids=bytes.hex)
def test_server_panics_on_the_undecodable(data: bytes, server: StandIn, peer: Peer) -> None:
    peer.send_to(server.address, data)
    assert_panics(server, f"{data.hex()} from {text(peer.address)}")


def test_server_panics_when_it_introduces_too_long_a_name(server: StandIn, peer: Peer) -> None:
    name = 126 * "n"
    peer.tell(Message(Kind.REGISTER, name), server.address)
    peer.expect(ACK)
    peer.tell(Message(Kind.REQUEST, name), server.address)
    assert_panics(server, "INITIATE longer than 128 bytes")


# --- the client alone --------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer,part",
    [
        (encode(UNKNOWN), "got UNKNOWN"),
        (b"\x06", "undecodable"),
        (b"", "got MESSAGE"),  # the buffer is still zero
    ],
    ids=["unknown", "undecodable", "empty"],
)
def test_client_panics_on_another_answer_than_registered(
    answer: bytes, part: str, peer: Peer, waiter: StandIn
) -> None:
    peer.send_to(peer.expect(Message(Kind.REGISTER, "alice")), answer)
    assert_panics(waiter, part)


@pytest.mark.parametrize(
    "answer",
    [ACK, Message(Kind.MESSAGE, "Hello from bob"), Message(Kind.REQUEST, "alice"), None],
)
def test_asker_panics_on_what_does_not_answer_it(
    answer: Optional[Message], peer: Peer, asker: StandIn, other: Peer
) -> None:
    """Whoever sends it."""
    other.send_to(asking(peer), encode(answer) if answer else b"\x06")
    assert_panics(asker, "wanted INITIATE or UNKNOWN" if answer else "undecodable")


def test_asker_takes_an_initiate_that_nobody_asked_for(
    peer: Peer, asker: StandIn, other: Peer
) -> None:
    peer.tell(other.initiation(), asking(peer))
    other.expect(Message(Kind.MESSAGE, "Hello from alice"))
    asker.assert_alive_and_sane()


def test_waiter_prints_what_is_no_initiate(peer: Peer, waiter: StandIn, other: Peer) -> None:
    source = registered(peer)
    for message in (ACK, UNKNOWN, Message(Kind.MESSAGE, "hasty"), Message(Kind.REQUEST, "x")):
        other.tell(message, source)
        printed = waiter.wait_event("received", kind=message.kind.name, text=message.text)
        assert printed["source"] == text(other.address)
    peer.tell(other.initiation(), source)
    other.expect(Message(Kind.MESSAGE, "Hello from alice"))
    waiter.assert_alive_and_sane()


def test_waiter_panics_on_the_undecodable(peer: Peer, waiter: StandIn) -> None:
    peer.send_to(registered(peer), b"\x06")
    assert_panics(waiter, "06 from")


def test_greeting_client_prints_whatever_comes_and_panics_on_the_undecodable(
    peer: Peer, waiter: StandIn, other: Peer
) -> None:
    source = registered(peer)
    peer.tell(other.initiation(), source)
    for message in (ACK, other.initiation()):
        peer.tell(message, source)
        waiter.wait_event("received", kind=message.kind.name)
    peer.send_to(source, b"\x06")
    assert_panics(waiter, "undecodable")


@pytest.mark.parametrize(
    "named", ["bob.example:1", "198.51.100.7", "[::1]:1", "198.51.100.7:65536"]
)
def test_client_panics_when_it_is_told_no_address(named: str, peer: Peer, waiter: StandIn) -> None:
    peer.tell(Message(Kind.INITIATE, "bob", named), registered(peer))
    assert_panics(waiter, "")


def test_stale_bytes_stay_behind_a_shorter_datagram(peer: Peer, waiter: StandIn) -> None:
    source = registered(peer)
    peer.tell(Message(Kind.MESSAGE, "abcdef"), source)
    peer.send_to(source, b"\x00\x06xy")
    waiter.wait_event("received", text="xycdef")
    peer.send_to(source, b"")
    waiter.wait_event("received", text="xycdef", count=2)


def test_longer_datagrams_are_cut(peer: Peer, waiter: StandIn) -> None:
    source = registered(peer)
    peer.send_to(source, encode(Message(Kind.MESSAGE, 126 * "x")) + TRAILING)
    waiter.wait_event("received", text=126 * "x")
    peer.send_to(source, b"\x00\x7f" + 127 * b"x")
    assert_panics(waiter, "truncated")


def test_client_whose_answer_is_lost_hangs_for_life(peer: Peer) -> None:
    with holepunch.client(peer.address, "alice", life=2) as client:
        peer.expect(Message(Kind.REGISTER, "alice"))
        assert client.wait_exit() == EXIT_OUTLIVED
        assert client.events[-2] == {"event": "waiting", "wanted": "REGISTER_ACK"}
        assert peer.has_nothing()
