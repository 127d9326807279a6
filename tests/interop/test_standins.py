"""The stand-ins do what the originals do, and fail where the originals fail.

A test that speaks with our own roles at one end is worth as much as the stand-in at the
other; so each weakness that our roles must live with is shown here to be there.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import pytest
import yaml

from tests.standin import process
from tests.standin.application import Echo, NumberedClient, SocketAddress
from tests.standin.attacker import MALFORMED, NAMED, Attacker, datagrams
from tests.standin.puncher import (
    CONTROL_BUFFER,
    EXIT_NO_SERVER,
    EXIT_UNEXPECTED,
    Kind,
    Message,
    Rendezvous,
    decode,
    encode,
    text,
)

VECTORS = yaml.safe_load(Path(__file__).parents[1].joinpath("vectors.yaml").read_text())["puncher"]

KEY = "test"
TRAILING = b"\xf0upp\x01" + bytes(range(16))
SERVER = Message(Kind.SERVER, key=KEY)
CLIENT = Message(Kind.CLIENT, key=KEY)


class Peer:
    """A bare socket with which a test speaks the protocol itself."""

    def __init__(self) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.socket.settimeout(10)
        self.address: SocketAddress = self.socket.getsockname()

    def send(self, data: bytes, destination: SocketAddress) -> None:
        self.socket.sendto(data, destination)

    def tell(
        self, kind: Kind, destination: SocketAddress, *, naming: SocketAddress = ("", 0)
    ) -> None:
        self.send(encode(Message(kind, peer=naming)), destination)

    def receive(self) -> tuple[bytes, SocketAddress]:
        data, source = self.socket.recvfrom(65536)
        return data, source

    def expect(self, message: Message) -> SocketAddress:
        """The source of the next datagram, which must be this message and nothing more."""
        data, source = self.receive()
        assert data == encode(message)
        return source

    def has_nothing(self) -> bool:
        return not select.select([self.socket], [], [], 0)[0]


OpenPeer = Callable[[], Peer]


@pytest.fixture
def open_peer() -> Iterator[OpenPeer]:
    opened: list[Peer] = []

    def open_one() -> Peer:
        opened.append(Peer())
        return opened[-1]

    yield open_one
    for peer in opened:
        peer.socket.close()


@pytest.fixture
def rendezvous(open_peer: OpenPeer) -> Peer:
    """A rendezvous that the test plays."""
    return open_peer()


# --- the wire ----------------------------------------------------------------------------


def _message(value: Any) -> Message:
    if isinstance(value, str):
        return Message(Kind[value.upper()])
    ((name, argument),) = value.items()
    if name in ("client", "server"):
        return Message(Kind[name.upper()], key=argument)
    if isinstance(argument, str):
        return Message(Kind[argument.replace("-", "_").upper()])
    ip, _, port = argument["peer"].rpartition(":")
    return Message(Kind.PEER, peer=(ip, int(port)))


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["hex"])
def test_golden_datagrams(vector: dict[str, Any]) -> None:
    data = bytes.fromhex(vector["hex"])
    assert encode(_message(vector["value"])) == data
    assert decode(data) == decode(data + TRAILING) == _message(vector["value"])


def test_every_kind_has_a_golden_datagram() -> None:
    assert {_message(vector["value"]).kind for vector in VECTORS} == set(Kind)


@pytest.mark.parametrize("data", MALFORMED, ids=bytes.hex)
def test_malformed_datagrams_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError):
        decode(data)


def test_longest_key_fills_the_control_buffer() -> None:
    assert len(encode(Message(Kind.SERVER, key="k" * 126))) == CONTROL_BUFFER
    with pytest.raises(ValueError):
        encode(Message(Kind.SERVER, key="k" * 127))


# --- rendezvous --------------------------------------------------------------------------


def test_rendezvous_introduces_once(open_peer: OpenPeer) -> None:
    server, rival, client = open_peer(), open_peer(), open_peer()
    with process.turn() as turn:
        server.send(encode(SERVER) + TRAILING, turn.address)
        server.expect(Message(Kind.OK))
        server.tell(Kind.KEEPALIVE, turn.address)
        rival.send(encode(SERVER), turn.address)
        rival.expect(Message(Kind.DUPLICATE_KEY))
        client.send(encode(CLIENT), turn.address)
        client.expect(Message(Kind.PEER, peer=server.address))
        server.expect(Message(Kind.PEER, peer=client.address))
        client.send(encode(CLIENT), turn.address)
        client.expect(Message(Kind.NO_SERVER))
        turn.assert_alive_and_sane()


def test_rendezvous_sweeps_old_entries_at_most_every_ten_minutes() -> None:
    server, client = ("127.0.0.1", 1), ("127.0.0.1", 2)
    rendezvous = Rendezvous(0)

    def register(key: str, source: SocketAddress, now: float) -> Kind:
        ((answer, _),) = rendezvous.receive(encode(Message(Kind.SERVER, key=key)), source, now)
        return decode(answer).kind

    assert register("old", server, 0) is register("young", server, 302) is Kind.OK
    assert register("old", client, 600) is Kind.DUPLICATE_KEY
    assert register("young", client, 601) is Kind.DUPLICATE_KEY
    assert register("old", client, 601) is Kind.OK
    assert register("young", client, 1201) is Kind.DUPLICATE_KEY
    assert register("young", client, 1202) is Kind.OK


def test_rendezvous_survives_an_attacker(open_peer: OpenPeer) -> None:
    stranger, probe = open_peer(), open_peer()
    attacker = Attacker(stranger.socket, limit=400)
    hostile = datagrams(seed=1, count=1000, key=KEY, replayed=[encode(SERVER) + TRAILING])
    with process.turn() as turn:
        # The probe's answer tells that the queue was read, so that none of it overflows.
        while attacker.left:
            attacker.send(turn.address, [next(hostile) for _ in range(10)])
            probe.send(encode(Message(Kind.CLIENT, key="nobody offers this")), turn.address)
            probe.expect(Message(Kind.NO_SERVER))
        assert turn.wait_event("malformed", count=50)["count"] == 50
        turn.assert_alive_and_sane()


# --- the three together ------------------------------------------------------------------


def test_application_data_crosses_two_paths() -> None:
    with Echo() as echo, process.turn() as turn:
        server = process.server(echo.address, turn.address, KEY)
        with server, process.client(turn.address, KEY) as client:
            server.wait_event("registered")
            first = NumberedClient(client.address, sizes=(12, 64, 1200, 4096))
            second = NumberedClient(client.address, sizes=(64,))
            with first, second:
                first.send(20)  # most of them wait for the path
                assert first.wait_echoed(), client
                server.wait_event("registered", count=2)
                second.send(5)
                assert second.wait_echoed(), client
                first.send(200, per_second=2000)
                assert first.wait_echoed(), first.missing()
            for application in (first, second):
                assert not application.foreign() + application.missing()
                assert not application.out_of_order() + application.duplicated()
            assert not echo.foreign([first, second])
            for stand_in in (turn, server, client):
                stand_in.assert_alive_and_sane()
                assert not any(event["event"] == "forgotten" for event in stand_in.events)
            assert [server.stop(), client.stop(), turn.stop()] == [0, 0, 0]


def test_silent_path_is_forgotten_and_punched_anew() -> None:
    with Echo() as echo, process.turn() as turn:
        server = process.server(echo.address, turn.address, KEY)
        with server, process.client(turn.address, KEY) as client:
            server.wait_event("registered")
            with NumberedClient(client.address) as application:
                application.send(3)
                totals = {"to_application": 3, "to_peer": 3}
                client.wait_event("forgotten", 15, **totals)
                server.wait_event("forgotten", 15, **totals)
                application.send()
                assert application.wait_echoed(), client
                assert not application.foreign()
            client.wait_event("path-up", count=2)


def test_second_server_with_the_key_ends() -> None:
    nowhere = ("127.0.0.1", 9)
    with process.turn() as turn, process.server(nowhere, turn.address, KEY) as first:
        first.wait_event("registered")
        with process.server(nowhere, turn.address, KEY) as second:
            assert second.wait_exit() == EXIT_UNEXPECTED
            assert "wanted OK, got DUPLICATE_KEY" in second.wait_event("exit")["reason"]
        first.assert_alive_and_sane()


# --- what the server does with the unexpected --------------------------------------------


@pytest.fixture
def echo() -> Iterator[Echo]:
    with Echo() as application:
        yield application


@pytest.fixture
def server(echo: Echo, rendezvous: Peer) -> Iterator[process.StandIn]:
    with process.server(echo.address, rendezvous.address, KEY) as stand_in:
        yield stand_in


@pytest.mark.parametrize(
    "kind", [Kind.OK, Kind.KEEPALIVE, Kind.DUPLICATE_KEY, Kind.HANDSHAKE_1, Kind.HANDSHAKE_2]
)
def test_server_ends_on_anything_but_punch(
    kind: Kind, server: process.StandIn, rendezvous: Peer, open_peer: OpenPeer
) -> None:
    source = rendezvous.expect(SERVER)
    rendezvous.tell(Kind.OK, source)
    server.wait_event("registered")
    open_peer().tell(kind, source)
    assert server.wait_exit() == EXIT_UNEXPECTED
    assert f"wanted PEER, got {kind.name}" in server.wait_event("exit")["reason"]


def test_server_ends_on_an_answered_keepalive(server: process.StandIn, rendezvous: Peer) -> None:
    rendezvous.tell(Kind.OK, rendezvous.expect(SERVER))
    rendezvous.tell(Kind.KEEPALIVE, rendezvous.expect(Message(Kind.KEEPALIVE)))
    assert server.wait_exit() == EXIT_UNEXPECTED


def test_server_ends_on_a_malformed_answer(server: process.StandIn, rendezvous: Peer) -> None:
    rendezvous.send(b"\x06", rendezvous.expect(SERVER))
    assert server.wait_exit() == EXIT_UNEXPECTED
    assert "wanted OK, got malformed 06" in server.wait_event("exit")["reason"]


def _introduced(rendezvous: Peer, client: Peer) -> SocketAddress:
    """The address at which the server waits for handshake 2 of this client."""
    source = rendezvous.expect(SERVER)
    rendezvous.send(encode(Message(Kind.OK)) + TRAILING, source)
    rendezvous.send(encode(Message(Kind.PEER, peer=client.address)) + TRAILING, source)
    assert client.expect(Message(Kind.HANDSHAKE_1)) == source
    return source


def test_server_trusts_the_named_address_and_cuts_the_handshake(
    server: process.StandIn, rendezvous: Peer, echo: Echo, open_peer: OpenPeer
) -> None:
    client, stranger = open_peer(), open_peer()
    source = _introduced(rendezvous, client)
    stranger.send(encode(Message(Kind.HANDSHAKE_2)) + TRAILING, source)
    client.expect(Message(Kind.HANDSHAKE_3))
    server.wait_event("path-up", peer=text(client.address))
    client.send(b"", source)
    client.send(b"payload", source)
    assert [client.receive()[0] for _ in range(2)] == [b"", b"payload"]
    assert [datagram.data for datagram in echo.received] == [b"", b"payload"]
    assert rendezvous.expect(SERVER) != source
    assert stranger.has_nothing()
    server.assert_alive_and_sane()


def test_repeated_handshake_2_becomes_payload(
    server: process.StandIn, rendezvous: Peer, echo: Echo, open_peer: OpenPeer
) -> None:
    client = open_peer()
    source = _introduced(rendezvous, client)
    client.tell(Kind.HANDSHAKE_2, source)
    client.expect(Message(Kind.HANDSHAKE_3))
    client.tell(Kind.HANDSHAKE_2, source)
    client.expect(Message(Kind.HANDSHAKE_2))  # it comes back from the application
    assert echo.received[0].data == encode(Message(Kind.HANDSHAKE_2))
    assert len(echo.foreign([])) == 1


def test_server_cuts_payload(
    server: process.StandIn, rendezvous: Peer, echo: Echo, open_peer: OpenPeer
) -> None:
    client = open_peer()
    source = _introduced(rendezvous, client)
    client.tell(Kind.HANDSHAKE_2, source)
    client.expect(Message(Kind.HANDSHAKE_3))
    client.send(bytes(4097), source)
    assert client.receive() == (bytes(4096), source)


def test_server_forgets_the_path_when_its_application_is_gone(
    server: process.StandIn, rendezvous: Peer, echo: Echo, open_peer: OpenPeer
) -> None:
    client = open_peer()
    source = _introduced(rendezvous, client)
    client.tell(Kind.HANDSHAKE_2, source)
    client.expect(Message(Kind.HANDSHAKE_3))
    echo.close()
    client.send(b"payload", source)
    server.wait_event("forgotten", 3, to_peer=0)


def test_server_gives_up_a_path_that_begins_with_payload(
    server: process.StandIn, rendezvous: Peer, echo: Echo, open_peer: OpenPeer
) -> None:
    hasty = open_peer()
    hasty.send(b"payload", _introduced(rendezvous, hasty))
    assert "got 7061796c from" in server.wait_event("gave-up")["reason"]
    with pytest.raises(AssertionError, match="gave-up"):
        server.assert_alive_and_sane()
    patient = open_peer()
    patient.tell(Kind.HANDSHAKE_2, _introduced(rendezvous, patient))
    patient.expect(Message(Kind.HANDSHAKE_3))
    assert not echo.received


# --- what the client does with the unexpected --------------------------------------------


@pytest.fixture
def client(rendezvous: Peer) -> Iterator[process.StandIn]:
    with process.client(rendezvous.address, KEY) as stand_in:
        yield stand_in


def _handshaking(
    client: process.StandIn, rendezvous: Peer, application: Peer, server: Peer
) -> SocketAddress:
    """The client's address, once it has sent handshake 2 to this server."""
    application.send(b"payload", client.address)
    source = rendezvous.expect(CLIENT)
    rendezvous.send(encode(Message(Kind.PEER, peer=server.address)) + TRAILING, source)
    assert server.expect(Message(Kind.HANDSHAKE_2)) == source
    return source


def test_client_ignores_handshake_1_and_trailing_bytes(
    client: process.StandIn, rendezvous: Peer, open_peer: OpenPeer
) -> None:
    application, server = open_peer(), open_peer()
    source = _handshaking(client, rendezvous, application, server)
    server.send(encode(Message(Kind.HANDSHAKE_1)) + TRAILING, source)
    server.send(encode(Message(Kind.HANDSHAKE_3)) + TRAILING, source)
    assert server.receive() == (b"payload", source)
    server.tell(Kind.HANDSHAKE_3, source)
    assert application.receive() == (encode(Message(Kind.HANDSHAKE_3)), client.address)
    client.assert_alive_and_sane()


@pytest.mark.parametrize("data", [b"\x03\x01", b"payload"], ids=bytes.hex)
def test_client_ends_on_a_third_kind_of_datagram(
    data: bytes, client: process.StandIn, rendezvous: Peer, open_peer: OpenPeer
) -> None:
    server = open_peer()
    source = _handshaking(client, rendezvous, open_peer(), server)
    server.tell(Kind.HANDSHAKE_1, source)
    server.send(data, source)
    assert client.wait_exit() == EXIT_UNEXPECTED
    assert f"{data.hex()} from {text(server.address)}" in client.wait_event("exit")["reason"]


def test_datagrams_in_the_pause_count_from_anyone(
    client: process.StandIn, rendezvous: Peer, open_peer: OpenPeer
) -> None:
    application, server, stranger = open_peer(), open_peer(), open_peer()
    application.send(b"payload", client.address)
    source = rendezvous.expect(CLIENT)
    rendezvous.tell(Kind.PEER, source, naming=server.address)
    stranger.tell(Kind.KEEPALIVE, source)
    server.expect(Message(Kind.HANDSHAKE_2))
    assert client.wait_exit() == EXIT_UNEXPECTED
    assert "got KEEPALIVE" in client.wait_event("exit")["reason"]


def test_client_ends_on_a_malformed_answer(
    client: process.StandIn, rendezvous: Peer, open_peer: OpenPeer
) -> None:
    open_peer().send(b"payload", client.address)
    rendezvous.send(b"\x06", rendezvous.expect(CLIENT))
    assert client.wait_exit() == EXIT_UNEXPECTED
    assert "wanted PEER" in client.wait_event("exit")["reason"]


def test_handshake_1_that_overtakes_the_punch_ends_the_client_in_the_end(
    client: process.StandIn, rendezvous: Peer, open_peer: OpenPeer
) -> None:
    server = open_peer()
    open_peer().send(b"payload", client.address)
    source = rendezvous.expect(CLIENT)
    server.tell(Kind.HANDSHAKE_1, source)
    client.wait_event("refused", answer="HANDSHAKE_1")
    rendezvous.tell(Kind.PEER, source, naming=server.address)
    assert rendezvous.expect(CLIENT) == source  # takes the Punch above for the answer
    rendezvous.tell(Kind.NO_SERVER, source)
    server.expect(Message(Kind.HANDSHAKE_2))
    assert client.wait_exit() == EXIT_UNEXPECTED
    assert "got NO_SERVER" in client.wait_event("exit")["reason"]


def test_client_ends_when_the_named_port_is_closed(
    client: process.StandIn, rendezvous: Peer, open_peer: OpenPeer
) -> None:
    server = open_peer()
    server.socket.close()
    open_peer().send(b"payload", client.address)
    rendezvous.tell(Kind.PEER, rendezvous.expect(CLIENT), naming=server.address)
    assert client.wait_exit() == EXIT_UNEXPECTED
    assert "refused" in client.wait_event("exit")["reason"]


def test_client_loses_the_datagram_that_finds_its_path_stale(
    client: process.StandIn, rendezvous: Peer, open_peer: OpenPeer
) -> None:
    application, server = open_peer(), open_peer()
    source = _handshaking(client, rendezvous, application, server)
    server.tell(Kind.HANDSHAKE_3, source)
    assert server.receive() == (b"payload", source)
    server.socket.close()
    application.send(b"unreachable", client.address)
    client.wait_event("forgotten", 3)
    assert rendezvous.has_nothing()
    application.send(b"lost", client.address)
    client.wait_event("dropped")
    application.send(b"punches anew", client.address)
    assert rendezvous.expect(CLIENT) != source


def test_client_punches_for_one_source_at_a_time(
    client: process.StandIn, rendezvous: Peer, open_peer: OpenPeer
) -> None:
    application, server = open_peer(), open_peer()
    application.send(b"payload", client.address)
    source = rendezvous.expect(CLIENT)
    open_peer().send(b"of another source", client.address)
    rendezvous.tell(Kind.PEER, source, naming=server.address)
    server.expect(Message(Kind.HANDSHAKE_2))
    assert rendezvous.has_nothing()
    server.tell(Kind.HANDSHAKE_3, source)
    assert rendezvous.expect(CLIENT) != source


def test_client_asks_again_with_growing_pauses_and_then_ends(
    client: process.StandIn, rendezvous: Peer, open_peer: OpenPeer
) -> None:
    open_peer().send(b"payload", client.address)
    sources = set()
    for _ in range(6):
        source = rendezvous.expect(CLIENT)
        rendezvous.tell(Kind.NO_SERVER, source)
        sources.add(source)
    assert client.wait_exit() == EXIT_NO_SERVER
    assert len(sources) == 1
    pauses = [event["pause"] for event in client.events if event["event"] == "refused"]
    assert pauses == [1, 2, 3, 4, 5, None]


# --- the instruments ---------------------------------------------------------------------


def test_application_tells_what_happened_to_its_datagrams(open_peer: OpenPeer) -> None:
    network, stranger = open_peer(), open_peer()
    with NumberedClient(network.address) as application:
        application.send(5)
        sent = [network.receive()[0] for _ in range(5)]
        altered = sent[3][:-1] + bytes([sent[3][-1] ^ 1])
        for data in (sent[0], sent[2], sent[1], sent[1], altered, sent[4][:-1]):
            network.send(data, application.address)
        stranger.send(sent[0], application.address)
        assert application.wait_received(7)
        assert [datagram.data for datagram in application.foreign()] == [
            altered,
            sent[4][:-1],
            sent[0],
        ]
        assert application.missing() == [3, 4]
        assert application.out_of_order() == [1]
        assert application.duplicated() == [0, 1]


def test_echo_tells_whose_datagrams_came(echo: Echo, open_peer: OpenPeer) -> None:
    with NumberedClient(echo.address) as application:
        application.send(3)
        assert application.wait_echoed()
        open_peer().send(b"nobody's", echo.address)
        assert echo.wait_received(4)
        assert [datagram.data for datagram in echo.foreign([application])] == [b"nobody's"]


def test_attack_is_repeatable_bounded_and_names_only_the_given_peers(open_peer: OpenPeer) -> None:
    attack = list(datagrams(seed=7, count=2000, key=KEY))
    assert attack == list(datagrams(seed=7, count=2000, key=KEY))
    assert attack != list(datagrams(seed=8, count=2000, key=KEY))
    named = {message.peer[0] for message in _decodable(attack) if message.kind is Kind.PEER}
    assert named == {ip for ip, _ in NAMED}
    assert {message.kind for message in _decodable(attack)} == set(Kind)
    attacker = Attacker(open_peer().socket, limit=3)
    assert attacker.send(open_peer().address, attack) == attacker.sent == 3


def _decodable(attack: list[bytes]) -> Iterator[Message]:
    for data in attack:
        try:
            yield decode(data)
        except ValueError:
            continue
