"""A published service as one worker of a helper knows it: exposer, connectees, and their routes."""

from __future__ import annotations

from collections import Counter
from typing import Callable, Dict, List, NamedTuple, Optional, Sequence

from udppunch.address import Address
from udppunch.contract import Endpoint, Route
from udppunch.proto.expose.connectees import Connectees
from udppunch.proto.expose.figures import Figures
from udppunch.proto.expose.tags import Connectee, Shared
from udppunch.wire import proxy
from udppunch.wire.registrar import Peer


class Memory(NamedTuple):
    """What the workers of a helper share: for each service its tags and how many each has.

    `ahead` gives by how much Unix time is ahead of the loop's clock.
    """

    workers: int
    tags: Sequence[memoryview]
    counts: Sequence[memoryview]
    figures: memoryview
    secret: bytes
    ahead: Callable[[], float]


class WayBack(NamedTuple):
    """Where the datagrams with a tag go, with the version of the tag's slot that said so."""

    version: int
    tag: int
    route: Route


def proxy_head(wanted: bool, endpoint: Endpoint, connectee: Connectee) -> bytes:
    """Who a connectee is and whom it asked, for the service behind the exposer; or nothing."""
    if not wanted:
        return b""
    assert endpoint.local is not None
    local, port = endpoint.local, endpoint.local[-2:]
    asked = Address(connectee.local + port) if connectee.local else local
    return proxy.header(connectee.address, asked)


class Service:
    """What is published at one or several endpoints, and the exposer beside it."""

    def __init__(self, number: int, name: str, shared: Shared, connectees: Connectees) -> None:
        self.number = number
        self.name = name
        self.shared = shared
        self.connectees = connectees
        self.endpoints: List[Endpoint] = []
        self.exposer: Optional[Peer] = None
        self.to_exposer: Optional[Route] = None
        self.ways_back: Dict[int, WayBack] = {}  # by the tag as `Batch.words` has it
        # What passed since it was counted last: datagrams and octets, of payload.
        self.from_connectees = [0, 0]
        self.from_exposer = [0, 0]

    def __str__(self) -> str:
        return f"service {self.name}" if self.name else "the service"

    def publish(self, exposer: Peer, endpoint: Endpoint) -> None:
        """From now on it is that exposer's, who is reached through the endpoint."""
        self.exposer = exposer
        self.to_exposer = Route(endpoint, exposer.address, exposer.local)

    def retire(self) -> None:
        """Nobody is its exposer any more."""
        self.exposer = self.to_exposer = None

    def way_back(self, start: int, tag: int) -> Optional[WayBack]:
        """That of a tag, whose first bytes are `start`; None if nobody has the tag."""
        version = self.shared.version(tag)
        way = self.ways_back.get(start)
        if way is not None and way.version == version:
            return way
        connectee = self.shared.read(tag)
        if connectee is None:
            return None
        endpoint = self.endpoints[0]
        for one in self.endpoints[1:]:
            if len(one.bind) == len(connectee.address):
                endpoint = one
        way = WayBack(version, tag, Route(endpoint, connectee.address, connectee.local))
        self.ways_back[start] = way
        return way

    def count(self, figures: Figures, counters: "Counter[str]", now: float) -> None:
        """Adds what passed to the figures, and for each connectee to what all workers see."""
        for name, carried in (("connectee", self.from_connectees), ("client", self.from_exposer)):
            if carried[0]:
                figures.add(f"from_{name}_msgs", carried[0])
                figures.add(f"from_{name}_bytes", carried[1])
                figures.note(f"last_{name}_s", now)
                counters["datagrams"] += carried[0]
                counters["octets"] += carried[1]
                carried[:] = [0, 0]
        for way in self.ways_back.values():
            if way.route.datagrams:
                self._give_back(way)

    def _give_back(self, way: WayBack) -> None:
        """What went to a connectee, which the worker that issued its tag tells of."""
        route = way.route
        if self.shared.version(way.tag) == way.version:
            self.shared.add_returned(way.tag, route.datagrams, route.octets)
        route.datagrams = route.octets = 0
