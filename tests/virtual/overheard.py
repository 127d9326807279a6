"""Who is beside a path, and what they may have of it: its datagrams, its checks, its port."""

from __future__ import annotations

from collections import Counter
from typing import List

from tests.virtual.network import Host, Link
from tests.virtual.world import KEY, MEETING, PORT, World
from udppunch import address
from udppunch.address import Address
from udppunch.wire import marks, puncher
from udppunch.wire.control import CONTROL_LENGTH, TRANSACTION_LENGTH, Control, Kind, Pairing
from udppunch.wire.malformed import Malformed

RENDEZVOUS = address.pack(MEETING, PORT)


def mark(number: int) -> bytes:
    return marks.new(number.to_bytes(16, "big"))


class Sent:
    """What one host sends to others than the rendezvous: when, and to whom how much."""

    def __init__(self, world: World, host: Host) -> None:
        self.times: List[float] = []
        self.octets: Counter[Address] = Counter()
        self._host = host

        def watch(source: Host, destination: Address, data: bytes) -> None:
            if source is host and destination[:-2] != RENDEZVOUS[:-2]:
                self.times.append(world.network.now)
                self.octets[destination] += len(data)

        world.network.watch = watch

    def most_within(self, seconds: float) -> int:
        return max(
            sum(start <= other < start + seconds for other in self.times) for start in self.times
        )


class Overheard:
    """A path that is up, and the check of the client's that someone on the way has copied."""

    def __init__(self) -> None:
        self.world = World(link=Link(0.02), idle=3600.0)
        self.application = self.world.connected()
        self.path = next(iter(self.world.client.role._paths.values()))  # type: ignore[attr-defined]
        self.client = next(iter(self.world.server.role._clients))  # type: ignore[attr-defined]
        self.to_server = self.client.path.peer
        assert self.path.pairing is not None
        self.check = self.path.pairing.encode(Control(Kind.CHECK, b"captured"))

    def tell_server(self, source: Address, data: bytes) -> None:
        """Several controls at once are a burst of them."""
        whole = len(data) % CONTROL_LENGTH == 0 and len(data) > 0
        segment = CONTROL_LENGTH if whole else len(data)
        self.world.server.burst(self.to_server.endpoint, source, data, segment)

    def tell_client(self, data: bytes) -> None:
        peer = self.path.peer
        assert peer is not None and peer.destination is not None
        self.world.client.burst(peer.endpoint, peer.destination, data, len(data))


class Played:
    """A client played by hand, at one port of the clients' host, whose NAT keeps it.

    It says what it is told to, and answers the checks that are meant for it. What else comes to
    it is `heard`. `name` is what its payload begins with.
    """

    def __init__(self, world: World, number: int, port: int) -> None:
        serve = world.server.role
        self.name = b"P%03d" % number
        self.mark = mark(number)
        self.pairing = Pairing(KEY, serve._mark, self.mark, client=True)  # type: ignore[attr-defined]
        self.heard: List[bytes] = []
        self._world = world
        self._endpoint = serve._presence.endpoint  # type: ignore[attr-defined]
        self._server = address.with_port(
            address.pack(world.a.public_ip, 0), address.port(self._endpoint.local)
        )
        self.comes(port)

    def is_introduced(self, port: int = 0, marked: bool = True) -> None:
        """By the rendezvous, which may have seen it come from another port."""
        there = address.with_port(self.at, port) if port else self.at
        punch = puncher.encode(puncher.Punch(there, self.mark if marked else b""))
        self._world.server.burst(self._endpoint, RENDEZVOUS, punch, len(punch))

    def shakes_hands(self, marked: bool = True) -> None:
        self.sends(puncher.encode(puncher.Handshake(2, self.mark if marked else b"")))

    def asks(self) -> None:
        self.sends(self.check())

    def check(self) -> bytes:
        transaction = self._world.network.random.randbytes(TRANSACTION_LENGTH)
        return self.pairing.encode(Control(Kind.CHECK, transaction))

    def says(self, payload: bytes) -> None:
        self.sends(self.name + payload)

    def sends(self, data: bytes) -> None:
        self._world.network.send(self._world.b, address.port(self.at), self._server, data, 0)

    def leaves(self) -> None:
        del self._world.b.sockets[address.port(self.at)]

    def comes(self, port: int) -> None:
        self._world.b.bind(port, self._receive)
        self.at = address.pack(self._world.b.public_ip, port)

    def _receive(self, source: Address, data: bytes) -> None:
        try:
            control = self.pairing.decode(data)
        except Malformed:
            self.heard.append(data)
            return
        if control.kind is Kind.CHECK:
            self.sends(self.pairing.encode(Control(Kind.ANSWER, control.transaction)))
