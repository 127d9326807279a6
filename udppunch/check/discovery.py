"""A discovery of `proto.stun` on a loop: its sockets are opened when they are first used."""

from __future__ import annotations

from collections import Counter
from typing import Any, Callable, Dict, List, Optional, Protocol, Sequence

from udppunch.address import Address
from udppunch.contract import Burst, Endpoint, Lookup, Outbox, Route
from udppunch.errors import EX_OSERR, CommandError
from udppunch.proto.puncher.consent import earliest
from udppunch.proto.stun.transactions import Outgoing


class Discovery(Protocol):
    """What `behaviour.Discovery` and `lifetime.Discovery` have in common."""

    outcome: Any

    def start(self, now: float) -> List[Outgoing]: ...

    def receive(self, data: bytes, source: Address, socket: int, now: float) -> List[Outgoing]: ...

    def expire(self, now: float) -> List[Outgoing]: ...

    def deadline(self) -> Optional[float]: ...


class StunClient:
    """`begin` makes the discovery once socket 0 is open, whose address it is told.

    All sockets are bound to the IP address of `local`. `done` is called when there is an outcome,
    or when `patience` seconds are over.
    """

    def __init__(
        self,
        local: Address,
        begin: Callable[[Address], Discovery],
        patience: float,
        outbox: Outbox,
        done: Callable[[], None],
    ) -> None:
        self.counters: "Counter[str]" = Counter()
        self.discovery: Optional[Discovery] = None
        self._local = local
        self._begin = begin
        self._patience = patience
        self._outbox = outbox
        self._done = done
        self._endpoints: Dict[int, Endpoint] = {}
        self._waiting: List[Outgoing] = []  # for their sockets
        self._ends: Optional[float] = None

    def start(self, now: float) -> None:
        self._ends = now + self._patience
        self._open(0)

    def _open(self, number: int) -> None:
        endpoint = Endpoint(f"socket {number}", self._local, owner=number)
        self._endpoints[number] = endpoint
        self._outbox.open(endpoint)

    def opened(self, endpoint: Endpoint, now: float) -> None:
        if self.discovery is None:
            assert endpoint.local is not None
            self.discovery = self._begin(endpoint.local)
            self._send(self.discovery.start(now), now)
            return
        waiting, self._waiting = self._waiting, []
        self._send(waiting, now)

    def failed(self, endpoint: Endpoint, reason: str, now: float) -> None:
        raise CommandError(reason, EX_OSERR)

    def resolved(self, lookup: Lookup, found: Sequence[Address], reason: str, now: float) -> None:
        """It asks for no names."""

    def refused(self, endpoint: Endpoint, now: float) -> None:
        """Its endpoints are not connected."""

    def receive(self, burst: Burst, now: float) -> None:
        assert self.discovery is not None
        number: int = burst.endpoint.owner
        for datagram in burst.datagrams():
            outgoing = self.discovery.receive(bytes(datagram), burst.source, number, now)
            self._send(outgoing, now)

    def _send(self, outgoing: Sequence[Outgoing], now: float) -> None:
        for each in outgoing:
            endpoint = self._endpoints.get(each.socket)
            if endpoint is None:
                self._open(each.socket)
            if endpoint is None or endpoint.local is None:
                self._waiting.append(each)
            else:
                self._outbox.send(Route(endpoint, each.destination), each.data)
        if self.discovery is not None and self.discovery.outcome is not None:
            self._done()

    def expire(self, now: float) -> None:
        if self._ends is not None and now >= self._ends:
            self._done()
        elif self.discovery is not None:
            self._send(self.discovery.expire(now), now)

    def deadline(self) -> Optional[float]:
        discovery = self.discovery.deadline() if self.discovery is not None else None
        return earliest(self._ends, discovery)

    def stop(self, now: float) -> None:
        """There is no word for it on this wire."""

    def status(self) -> str:
        return f"{len(self._endpoints)} sockets"

    def gauges(self) -> Dict[str, int]:
        return {"sockets": len(self._endpoints)}
