"""The rendezvous's memory: which server offers which key, and who was introduced to whom.

A registration of an unmarked server (p2p_udp_puncher) serves one client and is gone; that
server then registers a fresh socket. A marked one stays, since our server takes all its
clients through one socket. Both tables are bounded.
"""

from __future__ import annotations

import enum
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Dict, Optional

from udppunch.address import Address
from udppunch.contract import Route

# A server sends a keepalive each second: after three lost in a row another may take the key.
GIVES_WAY = 4.0
# No sign of life for this long, and clients are told that there is no server. Servers that
# are behind a lossy link or asleep for a moment keep their clients.
EXPIRES = 15.0
# A second copy of an unmarked Server within this time is the network's doing, not the
# server's: answering it would end the original, which takes exactly one Ok.
DUPLICATE_WITHIN = 1.0
# A client that asks again within this time gets the same answer and no second server.
REMEMBERED = 5.0
# An unmarked server that still sends keepalives this long after its Punch has not got it.
PUNCH_LOST_AFTER = 1.0
_REMINDERS = 4


class Registered(enum.Enum):
    YES = "registered"
    TAKEN = "key is taken"
    FULL = "table is full"
    DUPLICATE = "duplicate"


@dataclass(eq=False)
class Registration:
    key: bytes
    route: Route
    address: Address
    mark: bytes
    since: float
    heard: float


@dataclass(eq=False)
class Introduction:
    """One client and the server it got; `asked` when it was last asked for."""

    key: bytes
    client: Route
    client_mark: bytes
    server: Registration
    since: float
    punched: float = field(init=False)
    keepalives: int = 0
    reminders: int = 0

    def __post_init__(self) -> None:
        self.punched = self.since


class Registry:
    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._by_key: "OrderedDict[bytes, Registration]" = OrderedDict()
        self._by_address: Dict[Address, Registration] = {}
        self._introductions: "OrderedDict[Address, Introduction]" = OrderedDict()
        self._awaiting: Dict[Address, Introduction] = {}

    def __len__(self) -> int:
        return len(self._by_key)

    def knows(self, address: Address) -> bool:
        """Whether a server is registered from there, or a client was introduced."""
        return address in self._by_address or address in self._introductions

    def register(
        self, key: bytes, mark: bytes, route: Route, address: Address, now: float
    ) -> Registered:
        """Note that the server at `address` offers `key`."""
        holder = self._by_key.get(key)
        if holder is not None:
            # At the same address a server that was started anew has another mark.
            same = holder.address == address or (mark and holder.mark == mark)
            if not same and now - holder.heard < GIVES_WAY:
                return Registered.TAKEN
            if same and not mark and now - holder.since < DUPLICATE_WITHIN:
                return Registered.DUPLICATE
            self._remove(holder)
        elif len(self._by_key) >= self._capacity and not self._evict(now):
            return Registered.FULL
        former = self._by_address.get(address)
        if former is not None:
            self._remove(former)
        registration = Registration(key, route, address, mark, now, now)
        self._by_key[key] = self._by_address[address] = registration
        return Registered.YES

    def heard(self, address: Address, now: float) -> Optional[Introduction]:
        """A keepalive came; the introduction to repeat when its Punch must have been lost."""
        registration = self._by_address.get(address)
        if registration is not None:
            registration.heard = now
            self._by_key.move_to_end(registration.key)
        waiting = self._awaiting.get(address)
        if waiting is None:
            return None
        waiting.keepalives += 1
        if waiting.keepalives < 2 or now - waiting.punched <= PUNCH_LOST_AFTER:
            return None
        if waiting.reminders >= _REMINDERS:
            del self._awaiting[address]
            return None
        waiting.keepalives = 0
        waiting.reminders += 1
        waiting.punched = now
        return waiting

    def introduced(
        self, key: bytes, mark: bytes, client: Address, now: float
    ) -> Optional[Introduction]:
        """What this client was told a moment ago; another mark is another client."""
        known = self._introductions.get(client)
        if known is None or known.key != key or known.client_mark != mark:
            return None
        return known if now - known.since < REMEMBERED else None

    def introduce(
        self, key: bytes, mark: bytes, route: Route, client: Address, now: float
    ) -> Optional[Introduction]:
        """Give the client the server of `key`, if one is there."""
        server = self._by_key.get(key)
        if server is None or now - server.heard >= EXPIRES:
            return None
        introduction = Introduction(key, route, mark, server, now)
        if client in self._introductions:
            self._forget_introduction(client)
        if len(self._introductions) >= self._capacity:
            self._forget_introduction(next(iter(self._introductions)))
        self._introductions[client] = introduction
        if not server.mark:
            self._remove(server)
            self._awaiting[server.address] = introduction
        return introduction

    def expire(self, now: float) -> None:
        """Let go of what is past its time."""
        while self._by_key:
            oldest = next(iter(self._by_key.values()))
            if now - oldest.heard < EXPIRES:
                break
            self._remove(oldest)
        while self._introductions:
            client, introduction = next(iter(self._introductions.items()))
            if now - introduction.since < EXPIRES:
                break
            self._forget_introduction(client)

    def _evict(self, now: float) -> bool:
        oldest = next(iter(self._by_key.values()))
        if now - oldest.heard < GIVES_WAY:
            return False
        self._remove(oldest)
        return True

    def _remove(self, registration: Registration) -> None:
        if self._by_key.get(registration.key) is registration:
            del self._by_key[registration.key]
        if self._by_address.get(registration.address) is registration:
            del self._by_address[registration.address]

    def _forget_introduction(self, client: Address) -> None:
        introduction = self._introductions.pop(client)
        server = introduction.server.address
        if self._awaiting.get(server) is introduction:
            del self._awaiting[server]
