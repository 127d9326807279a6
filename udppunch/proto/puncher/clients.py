"""A server's table of clients: found by the address they send from, by mark and by token."""

from __future__ import annotations

from typing import Dict, Iterator, List, Optional, Set

from udppunch.address import Address
from udppunch.contract import Endpoint, Route
from udppunch.proto.puncher.path import State
from udppunch.proto.puncher.server_path import ServerPath
from udppunch.proto.puncher.waiting import Waiting
from udppunch.wire.control import TOKEN_LENGTH

_SOURCES = 8  # addresses that one client may come from


class Client:
    """A client's path, and its socket towards the application (`open` once it is)."""

    __slots__ = ("path", "application", "to_application", "open", "waiting", "sources")

    def __init__(self, path: ServerPath) -> None:
        self.path = path
        self.application: Optional[Endpoint] = None
        self.to_application: Optional[Route] = None
        self.open = False
        self.waiting = Waiting()
        self.sources: List[Address] = []


class Clients:
    """`by_source` is read straight by who forwards datagrams."""

    def __init__(self) -> None:
        self.by_source: Dict[Address, Client] = {}
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

    def of_datagram(self, datagram: memoryview, source: Address) -> Optional[Client]:
        """Whose datagram it is, by the token it starts with, or else by where it comes from."""
        return self._by_token.get(bytes(datagram[:TOKEN_LENGTH])) or self.by_source.get(source)

    def awaiting(self, source: Address) -> Optional[Client]:
        """Of whom handshake 2 is awaited from there, best from that very port."""
        named = [client for client in self if client.path.awaits(source)]
        exact = [client for client in named if client.path.named == source]
        return next(iter(exact or named), None)

    def expected_at(self, source: Address) -> Optional[Client]:
        """The client that was introduced there without a mark, and has yet to come."""
        awaited = (client for client in self if client.path.named == source)
        return next((client for client in awaited if client.path.expects_first()), None)

    def seeking(self) -> Optional[Client]:
        """The first client that has no path yet."""
        return next((client for client in self if client.path.state is not State.UP), None)

    def note_mark(self, client: Client) -> None:
        """The client has shown its mark."""
        path = client.path
        if path.client_mark and path.pairing is not None:
            self._by_mark[path.client_mark] = client
            self._by_token[path.pairing.token] = client

    def note_source(self, client: Client, source: Address) -> None:
        """The client sends from there. The source in use is the last to be forgotten."""
        if self.by_source.get(source) is client:
            return
        self.release_source(source)
        client.sources.append(source)
        self.by_source[source] = client
        if len(client.sources) > _SOURCES:
            peer = client.path.peer
            in_use = peer.destination if peer is not None else None
            stale = next(known for known in client.sources if known != in_use)
            client.sources.remove(stale)
            self._forget_source(client, stale)

    def release_source(self, source: Address) -> None:
        """Whoever sent from there does so no longer: the NAT has given the port to another."""
        client = self.by_source.pop(source, None)
        if client is not None:
            client.sources.remove(source)

    def remove(self, client: Client) -> None:
        path = client.path
        self._by_path.pop(path, None)
        for source in client.sources:
            self._forget_source(client, source)
        if self._by_mark.get(path.client_mark) is client:
            del self._by_mark[path.client_mark]
        if path.pairing is not None and self._by_token.get(path.pairing.token) is client:
            del self._by_token[path.pairing.token]

    def endpoints(self) -> Set[Endpoint]:
        """All sockets towards the Internet that paths need."""
        return {endpoint for client in self for endpoint in client.path.endpoints()}

    def _forget_source(self, client: Client, source: Address) -> None:
        if self.by_source.get(source) is client:
            del self.by_source[source]
