"""A server's presence at its rendezvous: the socket that clients are sent to, kept registered.

All clients come through one socket, until a path won't come up: a Linux router that has once
given this socket another port at the NAT (see `checks`) goes on to do so for every new client,
and only a fresh socket gets out of it. The former ones stay open for the paths they carry.
"""

from __future__ import annotations

import logging
from collections import Counter
from typing import Collection, List, Optional, Sequence

from udppunch import address
from udppunch.address import ANY_IPV4, Address
from udppunch.contract import Endpoint, Lookup, Outbox, Route
from udppunch.notices import event
from udppunch.proto.destination import Destination
from udppunch.proto.limiter import TokenBucket
from udppunch.proto.puncher.mapping import Mapping
from udppunch.proto.puncher.registration import Registration
from udppunch.wire import puncher
from udppunch.wire.malformed import Malformed

log = logging.getLogger(__name__)

_RENEWED_EACH = 0.5  # seconds between two fresh sockets
_RELEASED_EACH = 1.0  # seconds between two looks which former ones are still in use
# How often a second, and at once, the state of the registration is worth a line of the log.
_LINES_RATE = 0.1
_LINES_BURST = 10.0


class Presence:
    """`endpoint` is the socket in use. `ready` holds back until the server can take clients."""

    def __init__(
        self,
        rendezvous: Lookup,
        key: bytes,
        mark: bytes,
        bind: Optional[Address],
        outbox: Outbox,
        counters: "Counter[str]",
        handed_over_as: str = "",
    ) -> None:
        self.rendezvous = Destination(rendezvous, outbox)
        self.endpoint = Endpoint(
            "serve", bind or ANY_IPV4, essential=True, handed_over_as=handed_over_as
        )
        self.mapping = Mapping()
        self._mark = mark
        self._former: List[Endpoint] = []
        self._outbox = outbox
        self._counters = counters
        self._registration = Registration(key, mark, 0.0)
        self._registering = False
        self._silence_said = False
        self._renewed_at = float("-inf")
        self._next_release = float("-inf")
        self._renewal_wanted = False
        # Who forges the rendezvous's address could say one thing and then another for ever.
        self._lines = TokenBucket(_LINES_RATE, _LINES_BURST)

    def start(self, now: float) -> None:
        self._outbox.open(self.endpoint)
        self.rendezvous.look_up(now)

    def opened(self, endpoint: Endpoint, now: float) -> None:
        """The socket is there; a fresh one is registered in the place of the former."""
        if endpoint is self.endpoint:
            self.refresh(now)

    def failed(self, endpoint: Endpoint) -> None:
        """No fresh socket was to be had: the former serves on."""
        if endpoint is self.endpoint and self._former:
            self.endpoint = self._former.pop()
            self.endpoint.handed_over_as = endpoint.handed_over_as

    def resolved(self, found: Sequence[Address], reason: str, now: float) -> None:
        if self.rendezvous.resolved(found, reason, now) and self._registering:
            self._registration.restart(now)

    def register(self, now: float) -> None:
        """Begin, as soon as all is there that it takes."""
        if not self._registering and self.endpoint.local and self.rendezvous.address:
            self._registering = True
            self._registration.restart(now)

    def refresh(self, now: float) -> None:
        """Let the rendezvous see at once where this end is now."""
        if self._registering:
            self._registration.move(now)

    def is_rendezvous(self, source: Address) -> bool:
        """Whether a datagram from `source` is for `receive`."""
        where = self.rendezvous.address
        return source == where or self.mapping.is_other_port(source, where)

    def receive(self, datagram: bytes, route: Route, now: float) -> Optional[puncher.Punch]:
        """What the rendezvous says; a Punch is for the caller to act on."""
        endpoint = route.endpoint
        try:
            if route.destination != self.rendezvous.address:
                self.mapping.heard_other(datagram, endpoint)
                return None
            message = puncher.decode(datagram)
        except Malformed:
            self._counters["dropped: malformed"] += 1
            return None
        if isinstance(message, puncher.Punch):
            self._registration.heard_punch(now)
            if self._renewal_wanted:
                self.renew(now)
            return message
        if endpoint is not self.endpoint:
            return None
        if isinstance(message, puncher.Ok):
            self._registered(message, now)
        elif isinstance(message, puncher.Error):
            if self._registration.heard_duplicate(now):
                event(
                    log, self._level(logging.WARNING, now), "key-taken",
                    f"another server holds this key at {self.rendezvous.lookup}; "
                    "waiting for it to go",
                )  # fmt: skip
        else:
            self._counters["dropped: unexpected"] += 1
        return None

    def renew(self, now: float) -> None:
        """Take a fresh socket, unless the person has chosen the port.

        A rendezvous that is not ours takes no second address for a key: there it has to wait
        until the next client has used the registration up.
        """
        if address.port(self.endpoint.bind) or now - self._renewed_at < _RENEWED_EACH:
            return
        if not self._registration.rendezvous_mark and not self._renewal_wanted:
            self._renewal_wanted = True
            return
        self._renewal_wanted = False
        self._renewed_at = now
        former = self.endpoint
        name, former.handed_over_as = former.handed_over_as, ""
        self._former.append(former)
        self.endpoint = Endpoint("serve", former.bind, handed_over_as=name)
        self._outbox.open(self.endpoint)

    def release(self, in_use: Collection[Endpoint]) -> None:
        """Close the former sockets that no path needs any more."""
        for endpoint in [e for e in self._former if e not in in_use]:
            self._former.remove(endpoint)
            self._outbox.close(endpoint)

    def releases(self, now: float) -> bool:
        """Whether to look for former sockets to close; counts it as done."""
        if not self._former or now < self._next_release:
            return False
        self._next_release = now + _RELEASED_EACH
        return True

    def expire(self, now: float) -> None:
        """Send what is due, and see whether the rendezvous still answers."""
        if not self._registering or now < self._registration.deadline():
            return
        assert self.rendezvous.address is not None
        route = Route(self.endpoint, self.rendezvous.address)
        for message in self._registration.due(now):
            self._outbox.send(route, puncher.encode(message))
            if isinstance(message, puncher.Server):
                self.mapping.ask(route, self._mark, self._outbox)
        if self._registration.silent(now):
            self.rendezvous.look_up(now)
            if not self._silence_said:
                self._silence_said = True
                event(
                    log, logging.WARNING, "rendezvous-silent",
                    f"rendezvous {self.rendezvous.lookup} does not answer; asking on",
                )  # fmt: skip

    def deadline(self) -> Optional[float]:
        return self._registration.deadline() if self._registering else None

    def status(self) -> str:
        return self._registration.state.value

    def _level(self, level: int, now: float) -> int:
        return level if self._lines.take(now) else logging.DEBUG

    def _registered(self, ok: puncher.Ok, now: float) -> None:
        self._silence_said = False
        self.mapping.heard(ok.seen, ok.other_port)
        if self._registration.heard_ok(ok.mark, now):
            where = str(self.rendezvous.lookup)
            seen = address.text(ok.seen) if ok.seen else ""
            route = Route(self.endpoint, self.rendezvous.address)
            self.mapping.ask(route, self._mark, self._outbox)
            event(
                log, self._level(logging.INFO, now), "registered",
                f"registered at {where}" + (f", seen at {seen}" if seen else ""),
                rendezvous=where, seen=seen,
                local=address.text(self.endpoint.local or ANY_IPV4),
            )  # fmt: skip
