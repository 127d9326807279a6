"""A server's table of clients: found by the way they send along, by mark and by token.

A way is a socket of the server's and an address. The address alone would not do: a symmetric
NAT may give one port to several of the hosts behind it, to each for another of those sockets.
"""

from __future__ import annotations

from typing import Dict, Iterator, List, Optional, Set, Tuple

from udppunch.address import Address
from udppunch.contract import Endpoint, Route
from udppunch.proto.puncher.path import State
from udppunch.proto.puncher.server_path import ServerPath
from udppunch.proto.puncher.waiting import Waiting
from udppunch.wire.control import TOKEN_LENGTH

_WAYS = 8  # that one client may seem to come along

Way = Tuple[Endpoint, Address]


class Client:
    """A client's path, and its socket towards the application (`open` once it is)."""

    __slots__ = ("path", "application", "to_application", "open", "waiting", "ways")

    def __init__(self, path: ServerPath) -> None:
        self.path = path
        self.application: Optional[Endpoint] = None
        self.to_application: Optional[Route] = None
        self.open = False
        self.waiting = Waiting()
        self.ways: List[Way] = []


class Clients:
    """`by_way` is read straight by who forwards datagrams. All clients in it have a path that
    is up, each perhaps by several ways."""

    def __init__(self) -> None:
        self.by_way: Dict[Way, Client] = {}
        self._by_path: Dict[ServerPath, Client] = {}
        self._by_mark: Dict[bytes, Client] = {}
        self._by_token: Dict[bytes, Client] = {}

    def __len__(self) -> int:
        return len(self._by_path)

    def __iter__(self) -> Iterator[Client]:
        return iter(self._by_path.values())

    def add(self, path: ServerPath) -> Client:
        client = self._by_path[path] = Client(path)
        return client

    def of_path(self, path: ServerPath) -> Optional[Client]:
        return self._by_path.get(path)

    def of_mark(self, mark: bytes) -> Optional[Client]:
        return self._by_mark.get(mark) if mark else None

    def of_datagram(self, datagram: memoryview, route: Route) -> Optional[Client]:
        """Whose datagram it is, by the token it starts with, or else by where it comes from."""
        by_token = self._by_token.get(bytes(datagram[:TOKEN_LENGTH]))
        return by_token or self.by_way.get(_way(route))

    def other(self, client: Client, route: Route) -> Optional[Client]:
        """Another client, whose path is up along it."""
        holder = self.by_way.get(_way(route))
        if holder is None or holder is client or not holder.path.accepts(route):
            return None
        return holder

    def awaiting(self, source: Address, mark: bytes) -> Optional[Client]:
        """Of whom handshake 2 with that mark is awaited from there, best from that very port."""
        named = [
            client
            for client in self
            if client.path.awaits(source) and client.path.client_mark in (b"", mark)
        ]
        exact = [client for client in named if client.path.named == source]
        return next(iter(exact or named), None)

    def expected_at(self, source: Address) -> Optional[Client]:
        """The client that was introduced there without a mark, and has yet to come."""
        awaited = (client for client in self if client.path.named == source)
        return next((client for client in awaited if client.path.expects_first()), None)

    def unmarked(self, source: Address) -> Optional[Client]:
        """Who last sent from there, and is not ours."""
        there = (client for client in self if client.path.is_at(source))
        return next((client for client in there if client.path.pairing is None), None)

    def seeking(self) -> Optional[Client]:
        """The first client that has no path yet."""
        return next((client for client in self if client.path.state is not State.UP), None)

    def note_mark(self, client: Client) -> None:
        """The client has shown its mark."""
        path = client.path
        if path.client_mark and path.pairing is not None:
            self._by_mark[path.client_mark] = client
            self._by_token[path.pairing.token] = client

    def note_route(self, client: Client, route: Route) -> List[Client]:
        """The client sends along it, and so nobody else does: those whose path is lost by that."""
        way, peer = _way(route), client.path.peer
        in_use = _way(peer) if peer is not None else None
        if way == in_use and client.ways != [way]:
            self.forget_ways(client)  # it has proved that it is here, and so nowhere else
        former = self.by_way.get(way)
        if former is client:
            return []
        if former is not None:
            former.ways.remove(way)
        client.ways.append(way)
        self.by_way[way] = client
        if len(client.ways) > _WAYS:
            stale = next(known for known in client.ways if known != in_use)
            client.ways.remove(stale)
            del self.by_way[stale]
        return [other for other in self if other is not client and other.path.yields(route)]

    def forget_ways(self, client: Client) -> None:
        """Its path is not up that way, or not any more."""
        for way in client.ways:
            del self.by_way[way]
        client.ways.clear()

    def remove(self, client: Client) -> None:
        path = client.path
        self._by_path.pop(path, None)
        self.forget_ways(client)
        if self._by_mark.get(path.client_mark) is client:
            del self._by_mark[path.client_mark]
        if path.pairing is not None and self._by_token.get(path.pairing.token) is client:
            del self._by_token[path.pairing.token]

    def endpoints(self) -> Set[Endpoint]:
        """All sockets towards the Internet that paths need."""
        return {endpoint for client in self for endpoint in client.path.endpoints()}


def _way(route: Route) -> Way:
    assert route.destination is not None
    return route.endpoint, route.destination
