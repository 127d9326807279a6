"""A stand-in for hole-punch 0.1.0: its server and its client.

    python -m tests.standin.holepunch server LISTEN
    python -m tests.standin.holepunch client SERVER_IP[:PORT] NAME [OTHER]

It has the original's wire format and timing, and its weaknesses on purpose: what makes the
original panic ends this one (status 101) after an `exit` event that says why. A read without
time-out hangs here too, until the end that `--life` sets (status 5). Events go to standard
output, one JSON object a line; `waiting` is told before each such read. SIGTERM ends it with
status 0.

    0 Message(str)   1 Register(str)   2 RegisterAck   3 HolePunchRequest(str)
    4 HolePunchResponseUnknown   5 HolePunchInitiate{client_name: str, client_address: str}
"""

from __future__ import annotations

import argparse
import enum
import ipaddress
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any, Callable, NamedTuple, NoReturn, Optional, Sequence

from tests.standin.process import LOOPBACK, Popen, StandIn
from tests.standin.puncher import SocketAddress, address, emit, end, open_socket, text

PORT = 39738
BUFFER = 128

ASKING_PAUSE = 2.0
GREETING_PAUSE = 1.0
GREETING_WAIT = 1.0

LIFE = 300.0
EXIT_PANIC = 101  # what Rust's panics end with
EXIT_OUTLIVED = 5

ROOT = Path(__file__).parents[2]


# --- the wire: bincode 2 standard --------------------------------------------------------


class Kind(enum.IntEnum):
    """What a datagram says; the value is the variant it begins with."""

    MESSAGE = 0
    REGISTER = 1
    REGISTER_ACK = 2
    REQUEST = 3
    UNKNOWN = 4
    INITIATE = 5


class Message(NamedTuple):
    """`text` is what a Message says, and whoever the others name."""

    kind: Kind
    text: str = ""
    address: str = ""


_STRINGS = {Kind.MESSAGE: 1, Kind.REGISTER: 1, Kind.REQUEST: 1, Kind.INITIATE: 2}
_WIDTHS = {251: 2, 252: 4, 253: 8}


def encode(message: Message) -> bytes:
    """Raises ValueError when the message does not fit the buffer."""
    data = bytes([message.kind])
    for string in (message.text, message.address)[: _STRINGS.get(message.kind, 0)]:
        octets = string.encode()
        if len(data) + 1 + len(octets) > BUFFER:
            raise ValueError(f"a {message.kind.name} longer than {BUFFER} bytes")
        data += bytes([len(octets)]) + octets
    return data


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    def take(self, length: int) -> bytes:
        end = self._position + length
        if end > len(self._data):
            raise ValueError("truncated")
        taken = self._data[self._position : end]
        self._position = end
        return taken

    def integer(self, widest: int) -> int:
        first = self.take(1)[0]
        if first < min(_WIDTHS):
            return first
        width = _WIDTHS.get(first)
        if width is None or width > widest:
            raise ValueError(f"{first} begins no integer of up to {widest} bytes")
        return int.from_bytes(self.take(width), "little")

    def string(self) -> str:
        return self.take(self.integer(8)).decode()


def decode(data: bytes) -> Message:
    """The message a buffer begins with; what follows is ignored. Raises ValueError."""
    reader = _Reader(data)
    kind = Kind(reader.integer(4))
    return Message(kind, *(reader.string() for _ in range(_STRINGS.get(kind, 0))))


# --- what both positions are made of -----------------------------------------------------


def panic(reason: str) -> NoReturn:
    end(EXIT_PANIC, f"panicked: {reason}")


def bound_life(seconds: float) -> None:
    """Ends the process by SIGTERM, or after that time as one that hangs."""

    def terminated(number: int, frame: Optional[FrameType]) -> None:
        emit("stopped")
        os._exit(0)

    def outlived(number: int, frame: Optional[FrameType]) -> None:
        end(EXIT_OUTLIVED, f"still running after {seconds:g} s")

    signal.signal(signal.SIGTERM, terminated)
    signal.signal(signal.SIGALRM, outlived)
    signal.setitimer(signal.ITIMER_REAL, seconds)


class Receiver:
    """The original's buffer, which nobody clears: stale bytes stay behind a shorter datagram.

    A longer one is cut, and an empty one is the datagram before once more.
    """

    def __init__(self, opened: socket.socket) -> None:
        self._socket = opened
        self._buffer = bytearray(BUFFER)

    def receive(self, timeout: Optional[float] = None) -> tuple[Message, SocketAddress]:
        """Raises socket.timeout."""
        self._socket.settimeout(timeout)
        length, source = self._socket.recvfrom_into(self._buffer)
        try:
            return decode(bytes(self._buffer)), source
        except ValueError as error:
            datagram = self._buffer[:length].hex()
            panic(f"undecodable ({error}): {datagram} from {text(source)}")


# --- the server --------------------------------------------------------------------------


class Server:
    """Name → address; the last registration of a name counts, and nothing removes it."""

    def __init__(self, tell: Callable[..., None] = emit) -> None:
        self._addresses: dict[str, SocketAddress] = {}
        self._tell = tell

    def receive(
        self, message: Message, source: SocketAddress
    ) -> list[tuple[Message, SocketAddress]]:
        """The messages to send, each with its destination."""
        if message.kind is Kind.REGISTER:
            self._addresses[message.text] = source
            self._tell("registered", name=message.text, source=text(source))
            return [(Message(Kind.REGISTER_ACK), source)]
        if message.kind is Kind.REQUEST:
            return self._introduce(message.text, source)
        self._tell("ignored", kind=message.kind.name, source=text(source))
        return []

    def _introduce(self, other: str, asker: SocketAddress) -> list[tuple[Message, SocketAddress]]:
        names = [name for name, holder in self._addresses.items() if holder == asker]
        if not names or other not in self._addresses:
            self._tell("unknown", name=other, source=text(asker))
            return [(Message(Kind.UNKNOWN), asker)]
        holder = self._addresses[other]
        self._tell("introduced", names=[names[0], other], addresses=[text(asker), text(holder)])
        # The asker first: the other's greeting, were it to overtake, would end him.
        return [
            (Message(Kind.INITIATE, other, text(holder)), asker),
            (Message(Kind.INITIATE, names[0], text(asker)), holder),
        ]


def run_server(listen: SocketAddress) -> NoReturn:
    opened = open_socket(listen)
    emit("listening", address=text(opened.getsockname()))
    server, receiver = Server(), Receiver(opened)
    while True:
        for answer, destination in server.receive(*receiver.receive()):
            opened.sendto(encode(answer), destination)


# --- the client --------------------------------------------------------------------------


class Client:
    """One thing after the other on one socket, and whatever comes next is the answer."""

    def __init__(self, server: SocketAddress, name: str, other: Optional[str]) -> None:
        self._server = server
        self._name = name
        self._other = other
        self._socket = open_socket()
        self._receiver = Receiver(self._socket)

    def run(self) -> NoReturn:
        emit("listening", address=text(self._socket.getsockname()))
        self._register()
        initiate = self._await_initiate() if self._other is None else self._ask(self._other)
        emit("initiate", name=initiate.text, address=initiate.address)
        self._greet(_endpoint(initiate.address))

    def _register(self) -> None:
        self._send(Message(Kind.REGISTER, self._name), self._server)
        message, source = self._receive(Kind.REGISTER_ACK)
        if message.kind is not Kind.REGISTER_ACK:
            panic(f"wanted REGISTER_ACK, got {message.kind.name} from {text(source)}")
        emit("registered", name=self._name)

    def _ask(self, other: str) -> Message:
        while True:
            self._send(Message(Kind.REQUEST, other), self._server)
            message, source = self._receive(Kind.INITIATE)
            if message.kind is Kind.INITIATE:
                return message
            if message.kind is not Kind.UNKNOWN:
                panic(f"wanted INITIATE or UNKNOWN, got {message.kind.name} from {text(source)}")
            emit("unknown", name=other)
            time.sleep(ASKING_PAUSE)

    def _await_initiate(self) -> Message:
        while True:
            message, source = self._receive(Kind.INITIATE)
            if message.kind is Kind.INITIATE:
                return message
            _tell_received(message, source)

    def _greet(self, peer: SocketAddress) -> NoReturn:
        while True:
            self._send(Message(Kind.MESSAGE, f"Hello from {self._name}"), peer)
            try:
                _tell_received(*self._receiver.receive(GREETING_WAIT))
            except socket.timeout:
                emit("silence")
            time.sleep(GREETING_PAUSE)

    def _send(self, message: Message, destination: SocketAddress) -> None:
        self._socket.sendto(encode(message), destination)
        emit("sent", kind=message.kind.name, text=message.text, destination=text(destination))

    def _receive(self, wanted: Kind) -> tuple[Message, SocketAddress]:
        emit("waiting", wanted=wanted.name)
        return self._receiver.receive()


def _tell_received(message: Message, source: SocketAddress) -> None:
    emit(
        "received",
        kind=message.kind.name,
        text=message.text,
        address=message.address,
        source=text(source),
    )


def _endpoint(of_initiate: str) -> SocketAddress:
    """Raises ValueError."""
    ip, _, port = of_initiate.rpartition(":")
    if not (port.isascii() and port.isdecimal() and int(port) < 1 << 16):
        raise ValueError(f"{of_initiate!r} is no address")
    return str(ipaddress.IPv4Address(ip)), int(port)


# --- the command line --------------------------------------------------------------------


def server_address(argument: str, port: int = PORT) -> SocketAddress:
    return address(argument if ":" in argument else f"{argument}:{port}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="stand-in for hole-punch 0.1.0")
    parser.add_argument("--life", type=float, default=LIFE, metavar="SECONDS")
    modes = parser.add_subparsers(dest="mode", required=True)
    server = modes.add_parser("server")
    server.add_argument("listen", type=address)
    client = modes.add_parser("client")
    client.add_argument("server", type=server_address)
    client.add_argument("name")
    client.add_argument("other", nargs="?")
    return parser.parse_args()


def main() -> NoReturn:
    arguments = _arguments()
    bound_life(arguments.life)
    try:
        if arguments.mode == "server":
            run_server(arguments.listen)
        Client(arguments.server, arguments.name, arguments.other).run()
    except (OSError, ValueError) as error:
        panic(str(error))


# --- the stand-ins as processes ----------------------------------------------------------


def popen_of(module: str, popen: Popen = subprocess.Popen, **more: Any) -> Popen:
    """Starts that module where a `StandIn` starts puncher.py."""

    def start(arguments: Sequence[str], **keywords: Any) -> subprocess.Popen[str]:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        words = [sys.executable, "-m", module, *arguments[2:]]
        return popen(words, **{**keywords, "env": environment, **more})

    return start


def server(
    listen: SocketAddress = LOOPBACK, *, life: float = LIFE, popen: Popen = subprocess.Popen
) -> StandIn:
    return StandIn("--life", str(life), "server", text(listen), popen=popen_of(__name__, popen))


def client(
    server: SocketAddress,
    name: str,
    other: str = "",
    *,
    life: float = LIFE,
    popen: Popen = subprocess.Popen,
) -> StandIn:
    names = (name, other) if other else (name,)
    words = ("--life", str(life), "client", text(server), *names)
    return StandIn(*words, popen=popen_of(__name__, popen))


if __name__ == "__main__":
    main()
