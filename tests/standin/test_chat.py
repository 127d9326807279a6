"""udp-hole-punching's stand-ins talk with each other, and end where the original ends."""

from __future__ import annotations

import base64
import functools
import json
from collections.abc import Iterator
from typing import Any, Callable, NamedTuple, Optional

import pytest

from tests.standin import chat
from tests.standin.chat import BUFFER, CONNECTS, Client, ClientProcess, Ended, Keys, Payload, Server
from tests.standin.expose import Endpoint, SocketAddress, text
from tests.standin.holepunch import EXIT_PANIC
from tests.standin.process import StandIn

pytest.importorskip("cryptography", reason="cryptography is not installed")

PUBLIC_KEY = "E/vNOcQdNnLY3yCMfujx/cU4vZFSmDcbKmiyrs7beG0="
PEER_ID = "1f912fd25f4e22636a06e13c092cf2a0bd154317357c541e45810798d98c882e"
GREETING = '{"type":"greeting","data":"E/vNOcQdNnLY3yCMfujx/cU4vZFSmDcbKmiyrs7beG0="}'

SERVER, PEER, STRANGER = ("192.0.2.1", 9001), ("192.0.2.2", 2), ("192.0.2.3", 3)
MALFORMED = b'{"type":"","error":"Malformed payload was sent"}'
NEITHER = [
    b"",
    b"{",
    b"[]",
    b'{"type":1}',
    b'{"type":"key","peerID":[]}',
    b'{"type":NaN}',
    2000 * b"[",
    bytes(28),
    bytes(64),
]


class Told(NamedTuple):
    name: str
    fields: dict[str, Any]


class Events(list[Told]):
    """Stands where events are printed."""

    def tell(self, event: str, **fields: object) -> None:
        self.append(Told(event, fields))

    def names(self) -> list[str]:
        return [event.name for event in self]


class World:
    """A client in memory, with the keys of its server and of its peer."""

    def __init__(self) -> None:
        self.events = Events()
        self.client = Client(SERVER, "alice", self.events.tell)
        self.server = Keys()
        self.peer = Keys()

    def receive(
        self,
        payload: Payload,
        source: SocketAddress,
        secret: Optional[bytes] = None,
        now: float = 0.0,
    ) -> list[tuple[Payload, SocketAddress]]:
        """What the client sends on it, in plain text."""
        datagram = chat.seal(payload, secret) if secret else chat.encode(payload)
        sent = self.client.receive(datagram, source, now)
        return [(chat.decode(answer), destination) for answer, destination in sent]

    def establish(
        self, peer: SocketAddress = PEER, now: float = 0.0
    ) -> list[tuple[Payload, SocketAddress]]:
        endpoint = {"ip": peer[0], "port": peer[1]}
        data = {"id": self.peer.id, "username": "bob", "endpoint": endpoint}
        secret = self.server.secret_with(self.client.keys.public)
        return self.receive(Payload("establish", data=data), SERVER, secret, now)

    def exchange_keys(self) -> bytes:
        """The secret with the peer."""
        assert self.receive(Payload("key", self.peer.id, data=self.peer.public), PEER) == []
        return self.peer.secret_with(self.client.keys.public)


@pytest.fixture
def world() -> World:
    """The client is registered."""
    world = World()
    world.receive(Payload("greeting", data=world.server.public), SERVER)
    secret = world.server.secret_with(world.client.keys.public)
    assert world.receive(Payload("register"), SERVER, secret) == []
    assert world.events.names() == ["greeting", "register", "registered"]
    assert world.events[1].fields["encrypted"]
    return world


@pytest.fixture
def server() -> Iterator[StandIn]:
    with chat.server() as stand_in:
        yield stand_in


# --- the wire ----------------------------------------------------------------------------


def test_golden_greeting() -> None:
    assert chat.encode(Payload("greeting", data=PUBLIC_KEY)) == GREETING.encode()
    assert chat.decode(GREETING.encode())[::3] == ("greeting", PUBLIC_KEY)


def test_golden_id() -> None:
    assert chat.id_of(base64.b64decode(PUBLIC_KEY)) == PEER_ID


def test_what_is_empty_is_left_out_and_what_is_not_is_in_order() -> None:
    assert chat.encode(Payload("register")) == b'{"type":"register"}'
    assert chat.encode(chat.MALFORMED) == MALFORMED
    full = Payload("t", "i", "e", {"é": "<"})
    assert chat.encode(full) == '{"type":"t","peerID":"i","error":"e","data":{"é":"<"}}'.encode()


def test_sealed_datagrams_are_nonce_ciphertext_and_tag() -> None:
    one, other = Keys(), Keys()
    payload = Payload("message", one.id, data="hello")
    secret = one.secret_with(other.public)
    assert secret == other.secret_with(one.public)
    datagram = chat.seal(payload, secret)
    assert len(datagram) == 12 + len(chat.encode(payload)) + 16
    assert chat.read(datagram, secret)[0][::3] == ("message", "hello")
    assert datagram != chat.seal(payload, secret)
    for wrong in (datagram[:-1] + bytes([datagram[-1] ^ 1]), datagram[:20], b""):
        with pytest.raises(ValueError):
            chat.read(wrong, secret)


@pytest.mark.parametrize("public", ["", "?", 7, "AAAA", base64.b64encode(bytes(32)).decode()])
def test_no_public_key(public: Any) -> None:
    with pytest.raises(ValueError):
        Keys().secret_with(public)


# --- server and clients together ---------------------------------------------------------


def test_two_clients_talk(server: StandIn) -> None:
    with chat.client(server.address, "alice") as alice, chat.client(server.address, "bob") as bob:
        for client in (alice, bob):
            client.wait_event("registered")
        alice.tell(f"establish {bob.id}")
        for client, other, name in ((alice, bob, "bob"), (bob, alice, "alice")):
            established = client.wait_event("establish", encrypted=True)["data"]
            assert (established["id"], established["username"]) == (other.id, name)
            client.wait_event("connected")
        alice.tell("say héllo in plain")
        bob.wait_event("message", data="héllo in plain", encrypted=False)
        bob.tell("encrypt hello in secret")
        alice.wait_event("message", data="hello in secret", encrypted=True)
        for stand_in in (server, alice, bob):
            stand_in.assert_alive_and_sane()
        alice.tell("exit")
        assert alice.wait_exit() == 0


def _ended(client: ClientProcess) -> str:
    assert client.wait_exit() == EXIT_PANIC and not client.output
    return str(client.wait_event("exit")["reason"])


def test_client_ends_when_its_peer_is_not_registered(server: StandIn) -> None:
    with chat.client(server.address, "alice") as alice:
        alice.wait_event("registered")
        alice.tell("establish nobody")
        refusal = "error to establish: The peer: nobody has not registered with the server."
        assert _ended(alice) == f"panicked: {refusal}"


def test_client_ends_when_it_is_not_registered() -> None:
    with Endpoint() as silent, chat.client(silent.address, "alice") as alice:
        alice.tell("establish nobody")
        datagrams = [silent.receive_from() for _ in range(2)]
        assert {json.loads(datagram)["type"] for datagram, _ in datagrams} == {
            "greeting",
            "establish",
        }
        answer = chat.encode(Payload("establish", error="client is not registered"))
        silent.send_to(datagrams[0][1], answer)
        assert "client is not registered" in _ended(alice)


def test_client_ends_on_a_stranger_s_connect(server: StandIn) -> None:
    with chat.client(server.address, "alice") as alice, chat.client(server.address, "bob") as bob:
        for client in (alice, bob):
            client.wait_event("registered")
        alice.tell(f"establish {bob.id}")
        alice.wait_event("connected")
        with Endpoint() as stranger:
            stranger.send_to(("127.0.0.1", alice.address[1]), chat.encode(Payload("connect")))
            assert f"connect from {text(stranger.address)}" in _ended(alice)
        bob.assert_alive_and_sane()


@pytest.mark.parametrize("datagram", NEITHER, ids=lambda datagram: datagram[:16].hex())
def test_malformed_datagrams_are_answered(server: StandIn, world: World, datagram: bytes) -> None:
    with Endpoint() as peer:
        peer.send_to(server.address, datagram)
        assert peer.receive_from()[0] == MALFORMED
    server.assert_alive_and_sane()
    assert world.client.receive(datagram, STRANGER, 0.0) == [(MALFORMED, STRANGER)]


def test_processes_say_no_and_live(server: StandIn) -> None:
    with chat.client(server.address, "alice") as alice:
        alice.wait_event("registered")
        for command in ("say hello", "encrypt hello", "dance"):
            alice.tell(command)
        alice.wait_event("refused", count=2, reason="no peer yet")
        alice.wait_event("refused", reason="no such command: dance")
        with Endpoint() as stranger:
            stranger.send_to(("127.0.0.1", alice.address[1]), b"{")
            assert stranger.receive_from()[0] == MALFORMED
        alice.assert_alive_and_sane()


# --- the server alone --------------------------------------------------------------------


Ask = Callable[..., Payload]


@pytest.fixture
def ask() -> Ask:
    """One request from an address to a server in memory, and its only answer."""
    server = Server(Events().tell)

    def ask(
        source: SocketAddress, *words: Any, secret: Optional[bytes] = None, **fields: Any
    ) -> Payload:
        request = chat.encode(Payload(*words, **fields))
        ((answer, destination),) = server.receive(request, source)
        assert destination == source
        payload, is_encrypted = chat.read(answer, secret)
        assert is_encrypted == (secret is not None)
        return payload

    return ask


def test_server_registers_who_has_greeted(ask: Ask) -> None:
    keys = Keys()
    data = {"username": "alice", "publicKey": keys.public}
    assert ask(PEER, "register", keys.id, data=data).error
    secret = keys.secret_with(ask(PEER, "greeting", data=keys.public).data)
    assert ask(PEER, "register", keys.id, data=data, secret=secret) == Payload(
        "register", data=None
    )


def test_server_refuses_in_plain(ask: Ask) -> None:
    keys = Keys()
    request = functools.partial(ask, PEER, "establish", keys.id, data=PEER_ID)
    assert request().error == "client is not registered with this server"
    secret = keys.secret_with(ask(PEER, "greeting", data=keys.public).data)
    ask(PEER, "register", keys.id, data={"username": "alice"}, secret=secret)
    assert request().error == f"The peer: {PEER_ID} has not registered with the server."
    assert request().type == "establish"
    assert ask(PEER, "dance")[::2] == ("dance", "Request type dance undefined")
    assert ask(PEER, "greeting", data="no key").type == "greeting"


def test_server_reads_encrypted_requests(ask: Ask) -> None:
    server, keys = Server(Events().tell), Keys()
    ((greeting, _),) = server.receive(chat.encode(Payload("greeting", data=keys.public)), PEER)
    secret = keys.secret_with(chat.decode(greeting).data)
    ((answer, _),) = server.receive(chat.seal(Payload("dance"), secret), PEER)
    assert chat.decode(answer).error == "Request type dance undefined"
    assert server.receive(chat.seal(Payload("dance"), secret), STRANGER) == [(MALFORMED, STRANGER)]


# --- the client alone --------------------------------------------------------------------


def test_client_registers_once_it_is_greeted() -> None:
    world = World()
    ((greeting, destination),) = world.client.greet()
    assert (chat.decode(greeting).data, destination) == (world.client.keys.public, SERVER)
    ((register, destination),) = world.receive(
        Payload("greeting", data=world.server.public), SERVER
    )
    assert (register.type, register.peer_id) == ("register", world.client.keys.id)
    assert register.data == {"username": "alice", "publicKey": world.client.keys.public}
    assert destination == SERVER


def test_client_connects_five_times_in_vain(world: World) -> None:
    ((connect, destination),) = world.establish(now=10.0)
    assert (connect[:2], destination) == (("connect", world.client.keys.id), PEER)
    for attempt in range(1, CONNECTS):
        assert world.client.wake(10.0 + 3 * attempt - 0.1) == []
        assert len(world.client.wake(10.0 + 3 * attempt)) == 1
    assert world.client.wake(24.9) == world.client.wake(25.0) == []
    assert world.events.names()[-1] == "could-not-connect" and world.client.due is None
    assert len(world.establish(now=30.0)) == 1
    assert world.events[-1] == ("connecting", {"attempt": 1, "peer": text(PEER)})


def test_client_stops_connecting_with_the_key(world: World) -> None:
    world.establish()
    world.exchange_keys()
    assert world.events.names()[-2:] == ["key", "connected"] and world.client.due is None


def test_client_answers_only_its_peer_s_connect(world: World) -> None:
    assert world.receive(Payload("connect"), PEER) == []
    world.establish()
    ((key, destination),) = world.receive(Payload("connect"), PEER)
    assert key == ("key", world.client.keys.id, "", world.client.keys.public)
    assert destination == PEER


def test_client_keeps_its_first_peer(world: World) -> None:
    world.establish()
    assert world.establish(STRANGER) == []
    assert world.events.names()[-1] == "ignored"
    assert len(world.receive(Payload("connect"), PEER)) == 1


@pytest.mark.parametrize("type_", ["connect", "key", "message"])
def test_client_ends_on_what_comes_from_another_than_its_peer(world: World, type_: str) -> None:
    world.establish()
    with pytest.raises(Ended, match=f"{type_} from 192.0.2.3:3, not from 192.0.2.2:2"):
        world.receive(Payload(type_, world.peer.id, data=world.peer.public), STRANGER)


@pytest.mark.parametrize("type_", ["greeting", "register", "establish"])
def test_client_ends_on_an_error_of_the_server(world: World, type_: str) -> None:
    with pytest.raises(Ended, match=f"error to {type_}: why"):
        world.receive(Payload(type_, error="why"), SERVER)


@pytest.mark.parametrize(
    "payload",
    [
        Payload("greeting", data="no key"),
        Payload("key", data={"no": "key"}),
        Payload("message", data={"no": "text"}),
        Payload("establish", data="nobody"),
        Payload("establish", data={"endpoint": {"ip": "bob.example", "port": 1}}),
        Payload("establish", data={"endpoint": {"ip": "192.0.2.2", "port": "1"}}),
    ],
)
def test_client_ends_on_data_that_is_not_its_type_s(world: World, payload: Payload) -> None:
    world.establish()
    with pytest.raises(Ended, match=f"{payload.type} with"):
        world.receive(payload, PEER)


def test_client_shows_messages_and_whether_they_were_encrypted(world: World) -> None:
    world.establish()
    secret = world.exchange_keys()
    for key in (None, secret):
        assert world.receive(Payload("message", data="hello"), PEER, key) == []
        assert world.events[-1].name == "message"
        assert world.events[-1].fields["encrypted"] == (key is secret)
    sealed = chat.seal(Payload("message", data="hello"), world.peer.secret_with(PUBLIC_KEY))
    assert world.client.receive(sealed, PEER, 0.0) == [(MALFORMED, PEER)]


def test_client_speaks_in_plain_unless_told(world: World) -> None:
    assert world.client.say("hello") == []
    world.establish()
    assert world.client.say("hello", encrypted=True) == []
    ((plain, destination),) = world.client.say("hello")
    assert (chat.decode(plain), destination) == (
        ("message", world.client.keys.id, "", "hello"),
        PEER,
    )
    secret = world.exchange_keys()
    ((sealed, _),) = world.client.say("hello", encrypted=True)
    assert chat.unseal(sealed, secret) == chat.decode(plain)


def test_client_ignores_unknown_types_and_fields(world: World) -> None:
    assert world.receive(Payload("ack", error="no such thing", data=7), STRANGER) == []
    assert world.events[-1].fields["error"] == "no such thing"
    world.establish()
    assert world.client.receive(b'{"type":"message","data":"x","seq":1,"v":1}', PEER, 0.0) == []


def test_longer_datagrams_are_cut(server: StandIn) -> None:
    with Endpoint() as peer:
        for spare, answer in ((0, "Request type dance undefined"), (1, chat.MALFORMED.error)):
            padding = BUFFER - len(chat.encode(Payload("dance", data="x"))) + 1
            datagram = chat.encode(Payload("dance", data=(padding + spare) * "x"))
            assert len(datagram) == BUFFER + spare
            peer.send_to(server.address, datagram)
            assert json.loads(peer.receive_from()[0])["error"] == answer
