"""A stand-in for p2p_udp_puncher 0.1.0: its rendezvous, its server and its client.

    puncher.py turn LISTEN
    puncher.py server FORWARD RENDEZVOUS KEY
    puncher.py client LISTEN RENDEZVOUS KEY

It has the original's wire format and timing, and its weaknesses on purpose: what would end
the original's process ends this one (status 3; 4 when the client asked in vain) after an
`exit` event that says why. Events go to standard output, one JSON object a line. `delivered`
is told once for each path and direction, `forgotten` carries the path's totals. SIGTERM ends
it with status 0. It is one file, so that a lab host can run it by its path alone.
"""

from __future__ import annotations

import argparse
import contextlib
import enum
import json
import os
import selectors
import signal
import socket
import threading
import time
from types import FrameType
from typing import NamedTuple, NoReturn, Optional

SocketAddress = tuple[str, int]

CONTROL_BUFFER = 128
HANDSHAKE_BUFFER = 4
PAYLOAD_BUFFER = 4096  # longer payload is cut
RECEIVE_QUEUE = 1 << 22
BURST = 64  # datagrams taken from one socket before the other direction has its turn

KEEPALIVE_INTERVAL = 1.0
HANDSHAKE_PAUSE = 1.0
RETRY_PAUSES = (1.0, 2.0, 3.0, 4.0, 5.0)
SILENCE_LIMIT = 5.0
ENTRY_LIFETIME = 300.0
SWEEP_INTERVAL = 600.0

EXIT_UNEXPECTED = 3
EXIT_NO_SERVER = 4


# --- the wire: postcard ------------------------------------------------------------------


class Kind(enum.Enum):
    """What a datagram says; the value is the variant indices it begins with."""

    CLIENT = b"\x00"
    SERVER = b"\x01"
    DUPLICATE_KEY = b"\x02\x00"
    NO_SERVER = b"\x02\x01"
    HANDSHAKE_1 = b"\x03\x00"
    HANDSHAKE_2 = b"\x03\x01"
    HANDSHAKE_3 = b"\x03\x02"
    PEER = b"\x03\x03"
    KEEPALIVE = b"\x04"
    OK = b"\x05"


class Message(NamedTuple):
    kind: Kind
    key: str = ""
    peer: SocketAddress = ("", 0)


_NESTED = (2, 3)  # Error and Punch hold an enumeration of their own


def _varint(value: int) -> bytes:
    octets = bytearray()
    while value > 0x7F:
        octets.append(value & 0x7F | 0x80)
        value >>= 7
    octets.append(value)
    return bytes(octets)


def encode(message: Message) -> bytes:
    """Raises ValueError when the message does not fit the control buffer."""
    data = message.kind.value
    if message.kind in (Kind.CLIENT, Kind.SERVER):
        key = message.key.encode()
        data += _varint(len(key)) + key
    elif message.kind is Kind.PEER:
        ip, port = message.peer
        data += socket.inet_aton(ip) + _varint(port)
    if len(data) > CONTROL_BUFFER:
        raise ValueError("the key is longer than 126 bytes")
    return bytes(data)


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

    def varint(self, bits: int) -> int:
        value = 0
        for shift in range(0, bits, 7):
            octet = self.take(1)[0]
            value |= (octet & 0x7F) << shift
            if not octet & 0x80:
                if value >> bits:
                    break
                return value
        raise ValueError(f"not a {bits}-bit integer")


def decode(data: bytes) -> Message:
    """The message a datagram begins with; what follows is ignored. Raises ValueError."""
    reader = _Reader(data)
    variants = [reader.varint(32)]
    if variants[0] in _NESTED:
        variants.append(reader.varint(32))
    kind = Kind(bytes(variants))
    if kind in (Kind.CLIENT, Kind.SERVER):
        return Message(kind, key=reader.take(reader.varint(64)).decode())
    if kind is Kind.PEER:
        return Message(kind, peer=(socket.inet_ntoa(reader.take(4)), reader.varint(16)))
    return Message(kind)


def _kind(data: bytes) -> Optional[Kind]:
    try:
        return decode(data).kind
    except ValueError:
        return None


# --- events and the end ------------------------------------------------------------------


def text(address: SocketAddress) -> str:
    return f"{address[0]}:{address[1]}"


def emit(event: str, **fields: object) -> None:
    """One write of less than PIPE_BUF: whole lines, from any thread or signal handler."""
    os.write(1, json.dumps({"event": event, **fields}).encode() + b"\n")


def end(status: int, reason: str) -> NoReturn:
    emit("exit", status=status, reason=reason)
    os._exit(status)


def _end_unexpected(wanted: str, data: bytes, source: SocketAddress) -> NoReturn:
    kind = _kind(data)
    got = kind.name if kind else "malformed"
    end(EXIT_UNEXPECTED, f"wanted {wanted}, got {got} {data.hex()} from {text(source)}")


def _terminated(number: int, frame: Optional[FrameType]) -> None:
    emit("stopped")
    os._exit(0)


def open_socket(local: SocketAddress = ("0.0.0.0", 0)) -> socket.socket:
    opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_QUEUE)
    opened.bind(local)
    return opened


# --- the rendezvous ----------------------------------------------------------------------


class Rendezvous:
    """Key → address and time of registration. Nothing but a client or a sweep removes it."""

    def __init__(self, now: float) -> None:
        self.malformed = 0
        self._servers: dict[str, tuple[SocketAddress, float]] = {}
        self._swept = now

    def receive(
        self, data: bytes, source: SocketAddress, now: float
    ) -> list[tuple[bytes, SocketAddress]]:
        """The datagrams to send, each with its destination."""
        self._sweep(now)
        try:
            message = decode(data)
        except ValueError as error:
            self.malformed += 1
            emit("malformed", count=self.malformed, source=text(source), reason=str(error))
            return []
        if message.kind is Kind.SERVER:
            return self._register(message.key, source, now)
        if message.kind is Kind.CLIENT:
            return self._introduce(message.key, source)
        return []

    def _register(
        self, key: str, source: SocketAddress, now: float
    ) -> list[tuple[bytes, SocketAddress]]:
        if key in self._servers:
            emit("refused", key=key, source=text(source), reason="duplicate-key")
            return [(encode(Message(Kind.DUPLICATE_KEY)), source)]
        self._servers[key] = (source, now)
        emit("registered", key=key, source=text(source))
        return [(encode(Message(Kind.OK)), source)]

    def _introduce(self, key: str, client: SocketAddress) -> list[tuple[bytes, SocketAddress]]:
        if key not in self._servers:
            emit("refused", key=key, source=text(client), reason="no-server")
            return [(encode(Message(Kind.NO_SERVER)), client)]
        server, _ = self._servers.pop(key)
        emit("punch", key=key, server=text(server), client=text(client))
        # The original sends these two the other way round, at once. Between two destinations
        # the network keeps no order; on the loopback of a busy machine this one keeps the
        # server's handshake 1 from overtaking the client's Punch, which ends the client.
        return [
            (encode(Message(Kind.PEER, peer=server)), client),
            (encode(Message(Kind.PEER, peer=client)), server),
        ]

    def _sweep(self, now: float) -> None:
        if now - self._swept <= SWEEP_INTERVAL:
            return
        self._swept = now
        self._servers = {
            key: entry for key, entry in self._servers.items() if now - entry[1] < ENTRY_LIFETIME
        }


def run_turn(listen: SocketAddress) -> NoReturn:
    rendezvous = Rendezvous(time.monotonic())
    control = open_socket(listen)
    emit("listening", address=text(control.getsockname()))
    while True:
        data, source = control.recvfrom(CONTROL_BUFFER)
        for answer, destination in rendezvous.receive(data, source, time.monotonic()):
            try:
                control.sendto(answer, destination)
            except OSError as error:
                emit("unsent", destination=text(destination), reason=str(error))


# --- the server --------------------------------------------------------------------------


class Server:
    """One socket for each coming client: registered, punched, then forwarding."""

    def __init__(self, forward: SocketAddress, rendezvous: SocketAddress, key: str) -> None:
        self._forward = forward
        self._rendezvous = rendezvous
        self._registration = encode(Message(Kind.SERVER, key=key))

    def run(self) -> NoReturn:
        while True:
            control = self._register()
            peer = self._await_punch(control)
            emit("punch", peer=text(peer))
            threading.Thread(target=self._serve, args=(control, peer), daemon=True).start()

    def _register(self) -> socket.socket:
        control = open_socket()
        control.sendto(self._registration, self._rendezvous)
        data, source = control.recvfrom(CONTROL_BUFFER)
        if _kind(data) is not Kind.OK:
            _end_unexpected("OK", data, source)
        emit("registered", port=control.getsockname()[1])
        return control

    def _await_punch(self, control: socket.socket) -> SocketAddress:
        due = time.monotonic() + KEEPALIVE_INTERVAL
        while True:
            control.settimeout(max(due - time.monotonic(), 0.001))
            try:
                data, source = control.recvfrom(CONTROL_BUFFER)
            except socket.timeout:
                control.sendto(encode(Message(Kind.KEEPALIVE)), self._rendezvous)
                due += KEEPALIVE_INTERVAL
                continue
            if _kind(data) is not Kind.PEER:
                _end_unexpected("PEER", data, source)
            control.settimeout(None)
            return decode(data).peer

    def _serve(self, path: socket.socket, peer: SocketAddress) -> None:
        with path:
            try:
                _shake_hands(path, peer)
            except (OSError, ValueError) as error:
                emit("gave-up", peer=text(peer), reason=str(error))
                return
            with open_socket() as application:
                application.connect(self._forward)
                emit("path-up", peer=text(peer))
                to_application, to_peer = _join(path, application)
        emit("forgotten", peer=text(peer), to_application=to_application, to_peer=to_peer)


def _shake_hands(path: socket.socket, peer: SocketAddress) -> None:
    path.sendto(encode(Message(Kind.HANDSHAKE_1)), peer)
    data, source = path.recvfrom(HANDSHAKE_BUFFER)
    if _kind(data) is not Kind.HANDSHAKE_2:
        raise ValueError(f"wanted HANDSHAKE_2, got {data.hex()} from {text(source)}")
    # The original looks at neither the source nor what came since: it trusts the
    # rendezvous' address, and what is in the socket already becomes payload.
    path.sendto(encode(Message(Kind.HANDSHAKE_3)), peer)
    path.connect(peer)


def _join(path: socket.socket, application: socket.socket) -> tuple[int, int]:
    """Forward both ways until both were silent for the limit, or either met an ICMP error."""
    delivered = {path: 0, application: 0}
    buffer = memoryview(bytearray(PAYLOAD_BUFFER))
    with selectors.DefaultSelector() as selector, contextlib.suppress(OSError):
        selector.register(path, selectors.EVENT_READ, (application, "application"))
        selector.register(application, selectors.EVENT_READ, (path, "peer"))
        while True:
            ready = selector.select(SILENCE_LIMIT)
            if not ready:
                break
            for key, _ in ready:
                assert isinstance(key.fileobj, socket.socket)
                onward, name = key.data
                count = _move(key.fileobj, onward, buffer)
                if count and not delivered[key.fileobj]:
                    emit("delivered", to=name)
                delivered[key.fileobj] += count
    return delivered[path], delivered[application]


def _move(source: socket.socket, onward: socket.socket, buffer: memoryview) -> int:
    for count in range(BURST):
        try:
            length = source.recv_into(buffer, 0, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return count
        onward.send(buffer[:length])
    return BURST


# --- the client --------------------------------------------------------------------------


class Path:
    """A client's punched socket. Its own thread marks it stale; the listener drops it."""

    def __init__(self, connected: socket.socket, peer: SocketAddress) -> None:
        self.socket = connected
        self.peer = peer
        self.stale = False
        self.written = time.monotonic()
        self.to_peer = 0
        self.to_application = 0

    def send(self, data: memoryview, source: SocketAddress) -> bool:
        try:
            self.socket.send(data)
        except OSError:
            self.stale = True
            return False
        if not self.to_peer:
            emit("delivered", to="peer", source=text(source))
        self.to_peer += 1
        self.written = time.monotonic()
        return True


class Client:
    """Local sources on one socket, each with a path of its own; one is punched at a time."""

    def __init__(self, listen: SocketAddress, rendezvous: SocketAddress, key: str) -> None:
        self._listener = open_socket(listen)
        self._rendezvous = rendezvous
        self._request = encode(Message(Kind.CLIENT, key=key))
        self._paths: dict[SocketAddress, Path] = {}
        self._swept = time.monotonic()

    def run(self) -> NoReturn:
        emit("listening", address=text(self._listener.getsockname()))
        buffer = memoryview(bytearray(PAYLOAD_BUFFER))
        while True:
            length, source = self._listener.recvfrom_into(buffer)
            self._sweep()
            path = self._paths.get(source)
            if not path:
                self._open(source).send(buffer[:length], source)
            elif path.stale or not path.send(buffer[:length], source):
                # The datagram that finds its path stale is lost; the next one punches.
                del self._paths[source]
                emit("dropped", source=text(source))

    def _sweep(self) -> None:
        now = time.monotonic()
        if now - self._swept > SILENCE_LIMIT:
            self._swept = now
            self._paths = {source: path for source, path in self._paths.items() if not path.stale}

    def _open(self, source: SocketAddress) -> Path:
        control = open_socket()
        peer = self._ask(control)
        emit("punch", peer=text(peer), source=text(source))
        path = self._punch(control, peer)
        emit("path-up", peer=text(peer), source=text(source))
        self._paths[source] = path
        threading.Thread(target=self._return, args=(path, source), daemon=True).start()
        return path

    def _ask(self, control: socket.socket) -> SocketAddress:
        """The server's address. Any answer but a malformed one makes it ask again."""
        for pause in (*RETRY_PAUSES, None):
            control.sendto(self._request, self._rendezvous)
            data, source = control.recvfrom(CONTROL_BUFFER)
            kind = _kind(data)
            if kind is Kind.PEER:
                return decode(data).peer
            if kind is None:
                _end_unexpected("PEER", data, source)
            emit("refused", answer=kind.name, pause=pause)
            if pause is not None:
                time.sleep(pause)
        end(EXIT_NO_SERVER, "no server after 5 retries")

    def _punch(self, control: socket.socket, peer: SocketAddress) -> Path:
        """Raises ConnectionRefusedError, the end of the process, when the peer's host refuses."""
        time.sleep(HANDSHAKE_PAUSE)
        control.connect(peer)
        control.send(encode(Message(Kind.HANDSHAKE_2)))
        while True:
            data, source = control.recvfrom(CONTROL_BUFFER)
            kind = _kind(data)
            if kind is Kind.HANDSHAKE_3:
                return Path(control, peer)
            if kind is not Kind.HANDSHAKE_1:
                _end_unexpected("HANDSHAKE_1 or HANDSHAKE_3", data, source)

    def _return(self, path: Path, source: SocketAddress) -> None:
        buffer = memoryview(bytearray(PAYLOAD_BUFFER))
        path.socket.settimeout(SILENCE_LIMIT)
        while not path.stale:
            try:
                length = path.socket.recv_into(buffer)
                self._listener.sendto(buffer[:length], source)
            except socket.timeout:
                path.stale = time.monotonic() - path.written > SILENCE_LIMIT
            except OSError:  # an ICMP error
                path.stale = True
            else:
                if not path.to_application:
                    emit("delivered", to="application", source=text(source))
                path.to_application += 1
        emit(
            "forgotten",
            peer=text(path.peer),
            source=text(source),
            to_application=path.to_application,
            to_peer=path.to_peer,
        )


# --- the command line --------------------------------------------------------------------


def address(argument: str) -> SocketAddress:
    ip, colon, port = argument.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65535:
        raise argparse.ArgumentTypeError(f"{argument!r} is not IP:PORT")
    return ip or "0.0.0.0", int(port)


def key(argument: str) -> str:
    try:
        encode(Message(Kind.SERVER, key=argument))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return argument


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="stand-in for p2p_udp_puncher 0.1.0")
    modes = parser.add_subparsers(dest="mode", required=True)
    turn = modes.add_parser("turn")
    turn.add_argument("listen", type=address)
    server = modes.add_parser("server")
    server.add_argument("forward", type=address)
    client = modes.add_parser("client")
    client.add_argument("listen", type=address)
    for mode in (server, client):
        mode.add_argument("rendezvous", type=address)
        mode.add_argument("key", type=key)
    return parser.parse_args()


def main() -> NoReturn:
    arguments = _arguments()
    signal.signal(signal.SIGTERM, _terminated)
    try:
        if arguments.mode == "turn":
            run_turn(arguments.listen)
        elif arguments.mode == "server":
            Server(arguments.forward, arguments.rendezvous, arguments.key).run()
        else:
            Client(arguments.listen, arguments.rendezvous, arguments.key).run()
    except OSError as error:
        end(EXIT_UNEXPECTED, str(error))


if __name__ == "__main__":
    main()
