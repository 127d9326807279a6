"""A stand-in for the chat udp-hole-punching 0.0.1: its server and its client.

    python -m tests.standin.chat server LISTEN
    python -m tests.standin.chat client SERVER_IP[:PORT] USERNAME

It has the original's wire format and timing, and its weaknesses on purpose: what would end
the original's process ends this one (status 101) after an `exit` event that says why. A
client does what lines on its standard input say:

    establish ID    ask the server for that peer
    say TEXT        to the peer, in plain text as the original's own user interfaces do
    encrypt TEXT    to the peer, encrypted
    exit

Events go to standard output, one JSON object a line. SIGTERM ends it with status 0, and with
status 5 it has run for longer than `--life`. It needs the package `cryptography`.
"""

from __future__ import annotations

import argparse
import base64
import hmac
import ipaddress
import json
import os
import select
import subprocess
import time
from typing import Any, Callable, NamedTuple, NoReturn, Optional

from tests.standin.holepunch import LIFE, bound_life, panic, popen_of, server_address
from tests.standin.process import LOOPBACK, Popen, StandIn
from tests.standin.puncher import SocketAddress, address, emit, open_socket, text

PORT = 9001
BUFFER = 2048  # longer datagrams are cut
NONCE = 12
ID_KEY = b"hashing client public key for client id"

CONNECTS = 5
CONNECT_PAUSE = 3.0

Tell = Callable[..., None]


class Ended(Exception):
    """What ends the original's process; the text says why."""


# --- the wire ----------------------------------------------------------------------------


class Payload(NamedTuple):
    type: str
    peer_id: str = ""
    error: str = ""
    data: Any = ""


MALFORMED = Payload("", error="Malformed payload was sent")


def encode(payload: Payload) -> bytes:
    fields = {"peerID": payload.peer_id, "error": payload.error, "data": payload.data}
    filled = {name: value for name, value in fields.items() if value}
    written = json.dumps(
        {"type": payload.type, **filled}, separators=(",", ":"), ensure_ascii=False
    )
    return written.encode(errors="replace")


def decode(datagram: bytes) -> Payload:
    """Raises ValueError when it is not such an object."""
    try:
        fields = json.loads(datagram.decode(errors="replace"), parse_constant=_refuse)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(fields, dict):
        raise ValueError("not an object")
    type_, peer_id, error = (_string(fields.get(name)) for name in ("type", "peerID", "error"))
    return Payload(type_, peer_id, error, fields.get("data"))


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _string(value: Any) -> str:
    """Raises ValueError. What is left out is empty."""
    if value is not None and not isinstance(value, str):
        raise ValueError("not a string")
    return value or ""


def seal(payload: Payload, secret: bytes) -> bytes:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    nonce = os.urandom(NONCE)
    return nonce + AESGCM(secret).encrypt(nonce, encode(payload), None)


def unseal(datagram: bytes, secret: bytes) -> Payload:
    """Raises ValueError when it was not sealed with that secret, or is not such an object."""
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    try:
        return decode(AESGCM(secret).decrypt(datagram[:NONCE], datagram[NONCE:], None))
    except InvalidTag:
        raise ValueError("not sealed with this secret") from None


def read(datagram: bytes, secret: Optional[bytes]) -> tuple[Payload, bool]:
    """What it says, and whether it was encrypted. Raises ValueError."""
    try:
        return decode(datagram), False
    except ValueError:
        if secret is None:
            raise
        return unseal(datagram, secret), True


def id_of(public: bytes) -> str:
    return hmac.new(ID_KEY, public, "sha512_256").hexdigest()


class Keys:
    """The pair of one end; `public` is as it is on the wire."""

    def __init__(self) -> None:
        from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

        self._private = X25519PrivateKey.generate()
        public = self._private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        self.public = base64.b64encode(public).decode()
        self.id = id_of(public)

    def secret_with(self, public: Any) -> bytes:
        """Raises ValueError when that is no public key."""
        from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey

        key = base64.b64decode(_string(public), validate=True)
        return self._private.exchange(X25519PublicKey.from_public_bytes(key))


class Sending(NamedTuple):
    datagram: bytes
    destination: SocketAddress


def plain(payload: Payload, destination: SocketAddress) -> Sending:
    return Sending(encode(payload), destination)


# --- the server --------------------------------------------------------------------------


class Registration(NamedTuple):
    username: str
    address: SocketAddress


class Server:
    """Secrets by address, and who is registered by id; nobody looks whether an id is true."""

    def __init__(self, tell: Tell = emit) -> None:
        self._keys = Keys()
        self._secrets: dict[SocketAddress, bytes] = {}
        self._registered: dict[str, Registration] = {}
        self._tell = tell
        self._requests = {
            "greeting": self._greeting,
            "register": self._register,
            "establish": self._establish,
        }

    def receive(self, datagram: bytes, source: SocketAddress) -> list[Sending]:
        try:
            request, _ = read(datagram, self._secrets.get(source))
        except ValueError as error:
            self._tell("malformed", source=text(source), reason=str(error))
            return [plain(MALFORMED, source)]
        try:
            if request.type not in self._requests:
                raise ValueError(f"Request type {request.type} undefined")
            return self._requests[request.type](request, source)
        except ValueError as error:
            self._tell("refused", type=request.type, source=text(source), error=str(error))
            return [plain(Payload(request.type, error=str(error)), source)]

    def _greeting(self, request: Payload, source: SocketAddress) -> list[Sending]:
        self._secrets[source] = self._keys.secret_with(request.data)
        self._tell("greeted", source=text(source))
        return [plain(Payload("greeting", data=self._keys.public), source)]

    def _register(self, request: Payload, source: SocketAddress) -> list[Sending]:
        if source not in self._secrets:
            raise ValueError("no greeting came from this address")
        username = _string(_member(request.data, "username"))
        self._registered[request.peer_id] = Registration(username, source)
        self._tell("registered", id=request.peer_id, username=username, source=text(source))
        return [self._sealed(Payload("register"), source)]

    def _establish(self, request: Payload, source: SocketAddress) -> list[Sending]:
        asker, other = request.peer_id, _string(request.data)
        if asker not in self._registered:
            raise ValueError("client is not registered with this server")
        if other not in self._registered:
            raise ValueError(f"The peer: {other} has not registered with the server.")
        self._tell("established", ids=[asker, other])
        return [self._introduction(other, asker), self._introduction(asker, other)]

    def _introduction(self, of: str, to: str) -> Sending:
        username, (ip, port) = self._registered[of]
        data = {"id": of, "username": username, "endpoint": {"ip": ip, "port": port}}
        return self._sealed(Payload("establish", data=data), self._registered[to].address)

    def _sealed(self, payload: Payload, destination: SocketAddress) -> Sending:
        return Sending(seal(payload, self._secrets[destination]), destination)


def _member(value: Any, name: str) -> Any:
    """Raises ValueError."""
    if not isinstance(value, dict):
        raise ValueError("not an object")
    return value.get(name)


def run_server(listen: SocketAddress) -> NoReturn:
    opened = open_socket(listen)
    emit("listening", address=text(opened.getsockname()))
    server = Server()
    while True:
        for datagram, destination in server.receive(*opened.recvfrom(BUFFER)):
            try:
                opened.sendto(datagram, destination)
            except OSError as error:
                emit("unsent", destination=text(destination), reason=str(error))


# --- the client --------------------------------------------------------------------------


class Client:
    """One server and, once that has named him, one peer for good.

    It raises Ended where the original ends. `due` is when to wake it.
    """

    def __init__(self, server: SocketAddress, username: str, tell: Tell = emit) -> None:
        self.keys = Keys()
        self.due: Optional[float] = None
        self._server = server
        self._username = username
        self._tell = tell
        self._peer: SocketAddress = ("", 0)
        self._connects = 0
        self._secrets: dict[SocketAddress, bytes] = {}
        self._receivers = {
            "greeting": self._greeting,
            "register": self._register,
            "establish": self._establish,
            "connect": self._connect,
            "key": self._key,
            "message": self._message,
        }

    # What its user asks for

    def greet(self) -> list[Sending]:
        return [plain(Payload("greeting", data=self.keys.public), self._server)]

    def establish(self, peer_id: str) -> list[Sending]:
        return [plain(Payload("establish", self.keys.id, data=peer_id), self._server)]

    def say(self, words: str, *, encrypted: bool = False) -> list[Sending]:
        payload = Payload("message", self.keys.id, data=words)
        secret = self._secrets.get(self._peer)
        if not self._has_peer() or encrypted and secret is None:
            self._tell("refused", reason="no secret yet" if self._has_peer() else "no peer yet")
            return []
        self._tell("sent", text=words, encrypted=encrypted)
        datagram = seal(payload, secret) if encrypted and secret else encode(payload)
        return [Sending(datagram, self._peer)]

    # What the clock and the network bring

    def wake(self, now: float) -> list[Sending]:
        if self.due is None or now < self.due:
            return []
        if self._peer in self._secrets:
            return self._stop_connecting("connected")
        if self._connects == CONNECTS:
            return self._stop_connecting("could-not-connect")
        self._connects += 1
        self.due = now + CONNECT_PAUSE
        self._tell("connecting", attempt=self._connects, peer=text(self._peer))
        return [plain(Payload("connect", self.keys.id), self._peer)]

    def receive(self, datagram: bytes, source: SocketAddress, now: float) -> list[Sending]:
        try:
            payload, is_encrypted = read(datagram, self._secrets.get(source))
        except ValueError as error:
            self._tell("malformed", source=text(source), reason=str(error))
            return [plain(MALFORMED, source)]
        if payload.type not in self._receivers:
            self._tell("ignored", type=payload.type, error=payload.error, source=text(source))
            return []
        if payload.type in ("connect", "key", "message"):
            if payload.type == "connect" and not self._has_peer():
                self._tell("ignored", type="connect", error="no peer yet", source=text(source))
                return []
            if source != self._peer:
                raise Ended(f"{payload.type} from {text(source)}, not from {text(self._peer)}")
        elif payload.error:
            raise Ended(f"error to {payload.type}: {payload.error}")
        self._tell(payload.type, source=text(source), encrypted=is_encrypted, data=payload.data)
        try:
            return self._receivers[payload.type](payload, now)
        except ValueError as error:
            raise Ended(f"{payload.type} with {payload.data!r}: {error}") from None

    # The types; each was told as an event of that name

    def _greeting(self, payload: Payload, now: float) -> list[Sending]:
        self._secrets[self._server] = self.keys.secret_with(payload.data)
        data = {"username": self._username, "publicKey": self.keys.public}
        return [plain(Payload("register", self.keys.id, data=data), self._server)]

    def _register(self, payload: Payload, now: float) -> list[Sending]:
        self._tell("registered", id=self.keys.id)
        return []

    def _establish(self, payload: Payload, now: float) -> list[Sending]:
        named = _endpoint(_member(payload.data, "endpoint"))
        if self._has_peer() and named != self._peer:
            self._tell("ignored", type="establish", error=f"the peer is {text(self._peer)}")
            return []
        self._peer = named
        self._connects = 0
        self.due = now
        return self.wake(now)

    def _connect(self, payload: Payload, now: float) -> list[Sending]:
        return [plain(Payload("key", self.keys.id, data=self.keys.public), self._peer)]

    def _key(self, payload: Payload, now: float) -> list[Sending]:
        self._secrets[self._peer] = self.keys.secret_with(payload.data)
        return [] if self.due is None else self._stop_connecting("connected")

    def _message(self, payload: Payload, now: float) -> list[Sending]:
        _string(payload.data)
        return []

    def _has_peer(self) -> bool:
        return self._peer != ("", 0)

    def _stop_connecting(self, outcome: str) -> list[Sending]:
        self.due = None
        self._tell(outcome, peer=text(self._peer))
        return []


def _endpoint(value: Any) -> SocketAddress:
    """Raises ValueError."""
    port = _member(value, "port")
    if type(port) is not int or not 0 < port < 1 << 16:
        raise ValueError("not a port")
    return str(ipaddress.IPv4Address(_string(_member(value, "ip")))), port


class Running:
    """A client between its socket and its standard input, whose end does not end it."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._socket = open_socket()
        self._inputs: list[Any] = [self._socket, 0]
        self._unread = b""

    def run(self) -> NoReturn:
        emit("listening", address=text(self._socket.getsockname()))
        emit("identity", id=self._client.keys.id, public_key=self._client.keys.public)
        self._send(self._client.greet())
        while True:
            due = self._client.due
            timeout = None if due is None else max(due - time.monotonic(), 0.0)
            readable, _, _ = select.select(self._inputs, [], [], timeout)
            if self._socket in readable:
                received = self._socket.recvfrom(BUFFER)
                self._send(self._client.receive(*received, time.monotonic()))
            if 0 in readable:
                self._read_commands()
            self._send(self._client.wake(time.monotonic()))

    def _read_commands(self) -> None:
        octets = os.read(0, 1 << 16)
        if not octets:
            self._inputs.remove(0)
        *lines, self._unread = (self._unread + octets).split(b"\n")
        for line in lines:
            self._obey(*line.decode(errors="replace").partition(" ")[::2])

    def _obey(self, verb: str, argument: str) -> None:
        if verb == "establish":
            self._send(self._client.establish(argument))
        elif verb in ("say", "encrypt"):
            self._send(self._client.say(argument, encrypted=verb == "encrypt"))
        elif verb == "exit":
            emit("stopped")
            os._exit(0)
        else:
            emit("refused", reason=f"no such command: {verb}")

    def _send(self, sendings: list[Sending]) -> None:
        for datagram, destination in sendings:
            self._socket.sendto(datagram, destination)


# --- the command line --------------------------------------------------------------------


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="stand-in for udp-hole-punching 0.0.1")
    parser.add_argument("--life", type=float, default=LIFE, metavar="SECONDS")
    modes = parser.add_subparsers(dest="mode", required=True)
    server = modes.add_parser("server")
    server.add_argument("listen", type=address)
    client = modes.add_parser("client")
    client.add_argument("server", type=lambda argument: server_address(argument, PORT))
    client.add_argument("username")
    return parser.parse_args()


def main() -> NoReturn:
    arguments = _arguments()
    bound_life(arguments.life)
    try:
        if arguments.mode == "server":
            run_server(arguments.listen)
        Running(Client(arguments.server, arguments.username)).run()
    except (Ended, OSError) as error:
        panic(str(error))


# --- the stand-ins as processes ----------------------------------------------------------


class ClientProcess(StandIn):
    """A client that a test tells what to do."""

    def __init__(
        self,
        server: SocketAddress,
        username: str,
        *,
        life: float = LIFE,
        popen: Popen = subprocess.Popen,
    ) -> None:
        words = ("--life", str(life), "client", text(server), username)
        more = {"stdin": subprocess.PIPE, "encoding": "utf-8"}
        super().__init__(*words, popen=popen_of(__name__, popen, **more))

    def __enter__(self) -> ClientProcess:
        return self

    @property
    def id(self) -> str:
        return str(self.wait_event("identity")["id"])

    def tell(self, command: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()

    def stop(self) -> int:
        status = super().stop()
        assert self.process.stdin is not None
        self.process.stdin.close()
        return status


def server(
    listen: SocketAddress = LOOPBACK, *, life: float = LIFE, popen: Popen = subprocess.Popen
) -> StandIn:
    return StandIn("--life", str(life), "server", text(listen), popen=popen_of(__name__, popen))


def client(server: SocketAddress, username: str, **keywords: Any) -> ClientProcess:
    return ClientProcess(server, username, **keywords)


if __name__ == "__main__":
    main()
