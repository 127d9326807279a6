"""STUN servers and a client's state machine in the virtual network."""

from __future__ import annotations

import functools
from typing import Any, Dict, List, Optional

from tests.virtual.network import Host, Link, Nat, Network
from udppunch import address
from udppunch.address import Address
from udppunch.proto.stun import server
from udppunch.proto.stun.transactions import Outgoing
from udppunch.wire import stun
from udppunch.wire.stun import Error, Kind, Message

FIRST = address.pack("203.0.113.10", 3478)
SECOND = address.pack("203.0.113.11", 3479)
ELSEWHERE = address.pack("198.51.100.20", 3478)
WAN = "203.0.113.101"
INSIDE = "192.168.1.2"
_FIRST_PORT = 50000


class Serving:
    """Ours, at one address, or at two of them with all that RFC 5780 has."""

    def __init__(self, network: Network, first: Address, second: Optional[Address] = None) -> None:
        self.network = network
        self.requests: List[bytes] = []
        self.served = (first,) if second is None else server.sockets(first, second)
        self.server = server.Server(() if second is None else self.served)
        self.hosts: Dict[str, Host] = {}
        for number, at in enumerate(self.served):
            ip = str(address.ip(at))
            host = self.hosts.setdefault(ip, Host(network, ip, ip, [], Link()))
            host.bind(address.port(at), functools.partial(self.hear, number))
        network.hosts += self.hosts.values()

    def hear(self, number: int, source: Address, data: bytes) -> None:
        self.requests.append(data)
        answer = self.server.answer(data, source, number)
        if answer is not None:
            self.send(answer.socket, answer.destination, answer.data)

    def send(self, number: int, destination: Address, data: bytes) -> None:
        at = self.served[number]
        host = self.hosts[str(address.ip(at))]
        self.network.send(host, address.port(at), destination, data, 0)


class WithoutResponsePort(Serving):
    """As most servers are."""

    def hear(self, number: int, source: Address, data: bytes) -> None:
        asked = stun.decode(data)
        if asked.response_port is None:
            super().hear(number, source, data)
            return
        error = Message(
            Kind.ERROR, asked.transaction, error=Error(420), unknown=(stun.RESPONSE_PORT,)
        )
        self.send(number, source, stun.encode(error))


class Deaf(Serving):
    """Answers from where it was asked, to where it was asked from, whatever was wished for."""

    def hear(self, number: int, source: Address, data: bytes) -> None:
        answer = Message(
            Kind.SUCCESS,
            stun.decode(data).transaction,
            xor_mapped=source,
            other_address=self.served[number ^ 3] if len(self.served) == 4 else None,
        )
        self.send(number, source, stun.encode(answer))


class Refusing(Serving):
    """Wants to know who is there."""

    def hear(self, number: int, source: Address, data: bytes) -> None:
        error = Message(Kind.ERROR, stun.decode(data).transaction, error=Error(401))
        self.send(number, source, stun.encode(error))


class Client:
    """Runs a discovery on a host; socket n has port 50000 + n, and is opened when first used."""

    def __init__(self, host: Host, discovery: Any) -> None:
        self.host = host
        self.network = host.network
        self.role = discovery
        self.opened: List[int] = []
        self.sent: List[Outgoing] = []
        self.network.runners.append(self)  # type: ignore[arg-type]
        self._send(discovery.start(self.network.now))

    @staticmethod
    def local(host: Host) -> Address:
        """Of socket 0."""
        return address.pack(host.ip, _FIRST_PORT)

    def run(self, seconds: float) -> Any:
        """Let time pass until there is an outcome."""
        self.network.run(seconds, lambda: self.role.outcome is not None)
        return self.role.outcome

    def expire(self) -> None:
        self._send(self.role.expire(self.network.now))
        deadline = self.role.deadline()
        assert deadline is None or deadline > self.network.now

    def _hear(self, number: int, source: Address, data: bytes) -> None:
        self._send(self.role.receive(data, source, number, self.network.now))

    def _send(self, outgoing: List[Outgoing]) -> None:
        self.sent += outgoing
        for number, destination, data in outgoing:
            port = _FIRST_PORT + number
            if number not in self.opened:
                self.opened.append(number)
                self.host.bind(port, functools.partial(self._hear, number))
            leave = functools.partial(self.network.send, self.host, port, destination, data, 0)
            self.network.at(self.network.now, leave)


def behind(network: Network, *nats: Nat, link: Optional[Link] = None) -> Host:
    return network.host("client", INSIDE if nats else WAN, list(nats), link)
