"""A rendezvous, a server and clients in the virtual network, with applications at both ends."""

from __future__ import annotations

from typing import Any, Dict, List, Optional, Set

from tests.virtual.network import LOOPBACK, Host, Link, Nat, Network, Runner
from udppunch import address
from udppunch.address import Address
from udppunch.config.roles import ConnectConfig, RendezvousConfig, ServeConfig
from udppunch.contract import Lookup
from udppunch.role.connect import Connect
from udppunch.role.rendezvous import Rendezvous
from udppunch.role.serve import Serve

MEETING = "203.0.113.10"
PORT = 39737
SERVICE = 7000
FRONT = 7001
KEY = b"the key of the tests"


def filler(number: int) -> bytes:
    """So that some neighbours have the same length, and some are shorter or longer."""
    return bytes(number // 4 * 7 % 50)


class Echo:
    """The service: sends back what it gets, and keeps it with where it came from."""

    def __init__(self, host: Host) -> None:
        self.received: List[bytes] = []
        self.sources: Dict[bytes, Set[int]] = {}
        self._host = host
        host.bind(SERVICE, self._receive)

    def _receive(self, source: Address, data: bytes) -> None:
        self.received.append(data)
        self.sources.setdefault(data[:4], set()).add(address.port(source))
        network = self._host.network
        network.at(network.now, lambda: self._reply(source, data))

    def _reply(self, source: Address, data: bytes) -> None:
        self._host.network.send(self._host, SERVICE, source, data, 0)


class Application:
    """Sends numbered datagrams to the front; `name` is four bytes."""

    def __init__(self, host: Host, name: bytes) -> None:
        self.name = name
        self.sent = 0
        self.received: List[bytes] = []
        self._host = host
        self.port = host.bind(0, lambda source, data: self.received.append(data))

    def send(self, count: int = 1) -> None:
        for _ in range(count):
            data = self.name + self.sent.to_bytes(4, "big") + filler(self.sent)
            self.sent += 1
            front = address.with_port(LOOPBACK, FRONT)
            self._host.network.send(self._host, self.port, front, data, 0)

    def numbers(self) -> List[int]:
        return [int.from_bytes(data[4:8], "big") for data in self.received]

    def answered(self) -> bool:
        return bool(self.received)


class World:
    def __init__(
        self,
        seed: int = 0,
        *,
        nat_a: Optional[Nat] = None,
        nat_b: Optional[Nat] = None,
        link: Optional[Link] = None,
        link_a: Optional[Link] = None,
        link_b: Optional[Link] = None,
        keepalive: float = 15.0,
        idle: float = 300.0,
        register: bool = True,
    ) -> None:
        self.network = Network(seed)
        self.nat_a = nat_a or Nat("203.0.113.101")
        self.nat_b = nat_b or Nat("203.0.113.102")
        self.keepalive, self.idle = keepalive, idle
        self.meeting = self.network.host("rendezvous", MEETING)
        a, b = link_a or link or Link(), link_b or link or Link()
        self.a = self.network.host("a", "192.168.1.2", [self.nat_a], a)
        self.b = self.network.host("b", "192.168.1.2", [self.nat_b], b)
        self.echo = Echo(self.a)
        self.applications: List[Application] = []
        self.rendezvous = self.start_rendezvous()
        self.server = self.start_server()
        if register:
            assert self.network.run(10.0, lambda: "registered" in self.server.role.status())
        self.client = self.start_client()

    def start_rendezvous(self) -> Runner:
        listen = (address.pack("0.0.0.0", PORT),)
        config = RendezvousConfig(listen, 10000, 500)
        return Runner(self.meeting, lambda outbox, rng: Rendezvous(config, outbox, rng))

    def start_server(self) -> Runner:
        config = ServeConfig(
            forward=Lookup("127.0.0.1", SERVICE), rendezvous=Lookup(MEETING, PORT), key=KEY,
            bind=None, keepalive=self.keepalive, idle=self.idle, max_paths=1024,
        )  # fmt: skip
        return Runner(self.a, lambda outbox, rng: Serve(config, outbox, rng))

    def start_client(self, host: Optional[Host] = None) -> Runner:
        config = ConnectConfig(
            listen=(address.with_port(LOOPBACK, FRONT),), rendezvous=Lookup(MEETING, PORT),
            key=KEY, keepalive=self.keepalive, idle=self.idle, max_paths=1024,
        )  # fmt: skip
        return Runner(host or self.b, lambda outbox, rng: Connect(config, outbox, rng))

    def application(self, host: Optional[Host] = None) -> Application:
        name = b"A%03d" % len(self.applications)
        application = Application(host or self.b, name)
        self.applications.append(application)
        return application

    def connected(self) -> Application:
        """An application with a path that is up."""
        application = self.application()
        application.send()
        assert self.network.run(20.0, application.answered)
        return application

    def answered_again(self, application: Application, within: float, each: float = 0.1) -> bool:
        """Whether a datagram sent from now on, one each `each` seconds, is answered in time."""
        first, end = application.sent, self.network.now + within
        while self.network.now < end:
            application.send()
            self.network.run(each)
            if any(number >= first for number in application.numbers()):
                return True
        return False

    def foreign(self) -> List[Any]:
        """What reached an application and was sent by none."""
        sent = {a.name: a for a in self.applications}
        strays: List[Any] = [d for d in self.echo.received if not _is_of(sent, d)]
        for application in self.applications:
            own = {application.name: application}
            strays += [d for d in application.received if not _is_of(own, d)]
        return strays


def _is_of(applications: Dict[bytes, Application], data: bytes) -> bool:
    application = applications.get(data[:4])
    if application is None or len(data) < 8:
        return False
    number = int.from_bytes(data[4:8], "big")
    return number < application.sent and data[8:] == filler(number)
