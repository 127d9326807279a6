"""p2p_udp_puncher's three ends in the virtual network, strict where the original is.

What would end an original's process is kept in `ended`, and the end says nothing more. Its own
waiting (a blocking read, a pause of a second) is kept too: datagrams that arrive meanwhile stay
in the socket and are read afterwards. Bytes are written out here, so that these share no code
with what they test.
"""

from __future__ import annotations

from collections import deque
from typing import Callable, Deque, Dict, List, Optional, Tuple

from tests.virtual.network import LOOPBACK, Host
from udppunch import address
from udppunch.address import Address

OK, KEEPALIVE = b"\x05", b"\x04"
DUPLICATE_KEY, NO_SERVER = b"\x02\x00", b"\x02\x01"
FIRST, SECOND, THIRD, PUNCH = b"\x03\x00", b"\x03\x01", b"\x03\x02", b"\x03\x03"
CONTROL_BUFFER, HANDSHAKE_BUFFER = 128, 4
SILENCE = 5.0
_RETRIES = (1.0, 2.0, 3.0, 4.0, 5.0)


def request(variant: int, key: bytes) -> bytes:
    return bytes([variant, len(key)]) + key


def punch(peer: Address) -> bytes:
    number = address.port(peer)
    octets = bytearray()
    while number > 0x7F:
        octets.append(number & 0x7F | 0x80)
        number >>= 7
    octets.append(number)
    return PUNCH + peer[:4] + bytes(octets)


def punched(data: bytes) -> Address:
    number = sum((octet & 0x7F) << 7 * index for index, octet in enumerate(data[6:9]))
    return Address(data[2:6] + (number & 0xFFFF).to_bytes(2, "big"))


class Socket:
    """Reads block: `then` gets the next datagram, at once if one waits."""

    def __init__(self, host: Host, number: int = 0) -> None:
        self.queue: Deque[Tuple[Address, bytes]] = deque()
        self.peer: Optional[Address] = None
        self._host = host
        self._then: Optional[Callable[[Address, bytes], None]] = None
        self.number = host.bind(number, self._arrive)

    def send(self, destination: Address, data: bytes) -> None:
        network, host, number = self._host.network, self._host, self.number
        network.at(network.now, lambda: network.send(host, number, destination, data, 0))

    def read(self, then: Optional[Callable[[Address, bytes], None]]) -> None:
        self._then = then
        if then is not None and self.queue:
            self._then = None
            then(*self.queue.popleft())

    def close(self) -> None:
        del self._host.sockets[self.number]

    def _arrive(self, source: Address, data: bytes) -> None:
        if self.peer is not None and source != self.peer:
            return
        then, self._then = self._then, None
        if then is None:
            self.queue.append((source, data))
        else:
            then(source, data)


class OriginalRendezvous:
    """A key's server until a client comes; keepalives mean nothing to it."""

    def __init__(self, host: Host, number: int) -> None:
        self._servers: Dict[bytes, Address] = {}
        self._socket = Socket(host, number)
        self._socket.read(self._receive)

    def _receive(self, source: Address, data: bytes) -> None:
        data = data[:CONTROL_BUFFER]
        key = data[2 : 2 + data[1]] if data[:1] in (b"\0", b"\1") else b""
        if data[:1] == b"\1":
            taken = key in self._servers
            self._servers.setdefault(key, source)
            self._socket.send(source, DUPLICATE_KEY if taken else OK)
        elif data[:1] == b"\0":
            server = self._servers.pop(key, None)
            if server is None:
                self._socket.send(source, NO_SERVER)
            else:
                self._socket.send(source, punch(server))
                self._socket.send(server, punch(source))
        self._socket.read(self._receive)


class _Joined:
    """A path that is up: forwards both ways, and ends when both were silent for too long."""

    def __init__(self, host: Host, path: Socket, peer: Address) -> None:
        self.path = path
        self.peer = peer
        self.over = False
        self.last = host.network.now
        self.from_peer: List[bytes] = []
        self._host = host

    def heard(self) -> None:
        self.last = self._host.network.now

    def watch(self, forget: Callable[[], None]) -> None:
        def look() -> None:
            if self._host.network.now >= self.last + SILENCE:
                self.over = True
                forget()
            else:
                self._host.network.at(self.last + SILENCE, look)

        self._host.network.at(self.last + SILENCE, look)


class OriginalServer:
    """One socket for each coming client."""

    def __init__(self, host: Host, rendezvous: Address, key: bytes, service: int) -> None:
        self.ended = ""
        self.given_up: List[str] = []
        self.paths: List[_Joined] = []
        self.registered = False
        self._host = host
        self._rendezvous = rendezvous
        self._key = key
        self._service = address.with_port(LOOPBACK, service)
        self._register()

    def _register(self) -> None:
        self.registered = False
        control = Socket(self._host)
        control.send(self._rendezvous, request(1, self._key))

        def answered(source: Address, data: bytes) -> None:
            if data[:1] != OK:
                self.ended = f"wanted Ok, got {data.hex()}"
                return
            self.registered = True
            control.read(lambda source, data: self._punched(control, data))
            self._keepalive(control)

        control.read(answered)

    def _keepalive(self, control: Socket) -> None:
        def tick() -> None:
            if self.registered_with is control and not self.ended:
                control.send(self._rendezvous, KEEPALIVE)
                self._host.network.at(self._host.network.now + 1.0, tick)

        self.registered_with: Optional[Socket] = control
        self._host.network.at(self._host.network.now + 1.0, tick)

    def _punched(self, control: Socket, data: bytes) -> None:
        self.registered_with = None
        if data[:2] != PUNCH:
            self.ended = f"wanted Punch, got {data.hex()}"
            return
        peer = punched(data)
        control.send(peer, FIRST)
        control.read(lambda source, data: self._second(control, peer, data[:HANDSHAKE_BUFFER]))
        self._register()

    def _second(self, control: Socket, peer: Address, data: bytes) -> None:
        if data[:2] != SECOND:
            self.given_up.append(f"wanted handshake 2, got {data.hex()}")
            control.close()
            return
        control.send(peer, THIRD)
        control.peer = peer
        joined = _Joined(self._host, control, peer)
        self.paths.append(joined)
        application = Socket(self._host)
        application.peer = self._service

        def from_peer(source: Address, data: bytes) -> None:
            joined.heard()
            joined.from_peer.append(data)
            application.send(self._service, data)
            control.read(from_peer)

        def from_application(source: Address, data: bytes) -> None:
            joined.heard()
            control.send(peer, data)
            application.read(from_application)

        def forget() -> None:
            control.close()
            application.close()

        control.read(from_peer)
        application.read(from_application)
        joined.watch(forget)


class OriginalClient:
    """Punches for one application at a time; the others wait in the listening socket."""

    def __init__(self, host: Host, rendezvous: Address, key: bytes, front: int) -> None:
        self.ended = ""
        self.punches = 0
        self._host = host
        self._rendezvous = rendezvous
        self._key = key
        self._paths: Dict[Address, _Joined] = {}
        self._listener = Socket(host, front)
        self._listener.read(self._from_application)

    def _from_application(self, source: Address, data: bytes) -> None:
        path = self._paths.get(source)
        if path is not None and path.over:
            del self._paths[source]  # the datagram that finds its path stale is lost
        elif path is not None:
            path.heard()
            path.path.send(path.peer, data)
        else:
            self._ask(Socket(self._host), source, data, 0)
            return
        self._listener.read(self._from_application)

    def _ask(self, control: Socket, application: Address, data: bytes, refusals: int) -> None:
        def answered(source: Address, answer: bytes) -> None:
            if answer[:2] == PUNCH:
                peer = punched(answer)
                self.punches += 1
                network = self._host.network
                network.at(network.now + 1.0, lambda: self._punch(control, peer, application, data))
            elif answer[:1] not in (b"\0", b"\1", b"\2", b"\3", b"\4", b"\5"):
                self.ended = f"wanted Punch, got {answer.hex()}"
            elif refusals == len(_RETRIES):
                self.ended = "no server"
            else:
                again = self._host.network.now + _RETRIES[refusals]
                self._host.network.at(
                    again, lambda: self._ask(control, application, data, refusals + 1)
                )

        control.send(self._rendezvous, request(0, self._key))
        control.read(answered)

    def _punch(self, control: Socket, peer: Address, application: Address, data: bytes) -> None:
        # Connecting does not empty the socket: what came before is read all the same.
        control.peer = peer
        control.send(peer, SECOND)

        def shaken(source: Address, answer: bytes) -> None:
            if answer[:2] == FIRST:
                control.read(shaken)
            elif answer[:2] != THIRD:
                self.ended = f"wanted handshake 1 or 3, got {answer.hex()}"
            else:
                self._join(control, peer, application, data)

        control.read(shaken)

    def _join(self, control: Socket, peer: Address, application: Address, data: bytes) -> None:
        joined = self._paths[application] = _Joined(self._host, control, peer)

        def back(source: Address, data: bytes) -> None:
            joined.heard()
            self._listener.send(application, data)
            control.read(back)

        control.send(peer, data)
        control.read(back)
        joined.watch(control.close)
        self._listener.read(self._from_application)
