"""The client's role: listens for applications, and gives each a path of its own to the server.

    applications ── LISTEN ── Connect ── a socket for each path ── Internet ── server

An application is known by the address it sends from; another port is another application.
"""

from __future__ import annotations

import logging
from collections import Counter
from typing import Callable, Dict, List, Optional, Sequence

from udppunch import address
from udppunch.address import Address
from udppunch.config.roles import ConnectConfig
from udppunch.contract import Burst, Endpoint, Lookup, Outbox, Route
from udppunch.notices import Notices, event
from udppunch.proto.destination import Destination
from udppunch.proto.limiter import TokenBucket
from udppunch.proto.puncher.client_path import ClientPath
from udppunch.proto.puncher.consent import earliest
from udppunch.proto.puncher.path import CHECK_BURST, CHECK_RATE, Happening, State, Tools
from udppunch.proto.timers import Timers

log = logging.getLogger(__name__)


class Connect:
    def __init__(
        self, config: ConnectConfig, outbox: Outbox, random: Callable[[int], bytes]
    ) -> None:
        self.counters: "Counter[str]" = Counter()
        self._config = config
        self._outbox = outbox
        self._rendezvous = Destination(config.rendezvous, outbox)
        self._listeners: List[Endpoint] = [
            Endpoint("connect", listen, asked_address=True, essential=not index)
            for index, listen in enumerate(config.listen)
        ]
        self._tools = Tools(
            outbox, random, TokenBucket(CHECK_RATE, CHECK_BURST), self.counters,
            config.keepalive, config.idle,
        )  # fmt: skip
        self._paths: Dict[Address, ClientPath] = {}
        self._timers: Timers[ClientPath] = Timers()
        self._notices = Notices(log)
        self.patient = False  # a name without an address is asked for again, and ends nothing

    def start(self, now: float) -> None:
        for listener in self._listeners:
            self._outbox.open(listener)
        self._rendezvous.look_up(now)

    def opened(self, endpoint: Endpoint, now: float) -> None:
        path: Optional[ClientPath] = endpoint.owner
        if path is None:
            assert endpoint.local is not None
            where = address.text(endpoint.local)
            event(log, logging.INFO, "listening", f"listening on {where}", address=where)
            return
        path.opened(endpoint, now)
        self._after(path, None, now)

    def failed(self, endpoint: Endpoint, reason: str, now: float) -> None:
        path: Optional[ClientPath] = endpoint.owner
        if path is None:
            log.warning("%s; going on with the name's other addresses", reason)
            return
        self._notices.say(now, logging.ERROR, "no-socket", f"no socket for a path: {reason}")
        path.failed(endpoint, now)
        self._after(path, None, now)

    def resolved(self, lookup: Lookup, found: Sequence[Address], reason: str, now: float) -> None:
        if not self.patient:
            self._rendezvous.insist(found, reason)
        self._rendezvous.resolved(found, reason, now)

    def refused(self, endpoint: Endpoint, now: float) -> None:
        """Its endpoints are not connected."""

    # The way of a datagram

    def receive(self, burst: Burst, now: float) -> None:
        path: Optional[ClientPath] = burst.endpoint.owner
        if path is None:
            self._from_application(burst, now)
            return
        peer = path.peer
        if (
            peer is not None
            and peer.destination == burst.source
            and peer.endpoint is burst.endpoint
            and path.state is State.UP
            and path.is_payload(burst.view, burst.segment)
        ):
            path.consent.heard = path.consent.carried = now
            self._outbox.forward(path.to_application, burst)
            return
        for datagram in burst.datagrams():
            self._one(path, datagram, burst, now)

    def _from_application(self, burst: Burst, now: float) -> None:
        path = self._paths.get(burst.source)
        if path is None:
            path = self._admit(burst, now)
            if path is None:
                return
        peer = path.peer
        if path.state is State.UP and peer is not None:
            if path.carries(now):
                self._timers.set(path, path.deadline())
            self._outbox.forward(peer, burst)
        else:
            path.waiting.add(burst.datagrams())
            path.consent.carried = now

    def _admit(self, burst: Burst, now: float) -> Optional[ClientPath]:
        if len(self._paths) >= self._config.max_paths:
            self.counters["refused: too many applications"] += 1
            say = "as many paths as --max-paths allows: refusing more"
            self._notices.say(now, logging.WARNING, "full", say)
            return None
        return self._begin(Route(burst.endpoint, burst.source, burst.local), now)

    def _begin(self, to_application: Route, now: float) -> ClientPath:
        source = to_application.destination
        assert source is not None
        path = ClientPath(self._tools, self._config.key, self._rendezvous, to_application, now)
        self._paths[source] = path
        path.seek(now)
        event(log, logging.DEBUG, "seeking", f"seeking a path for {address.text(source)}")
        return path

    def _one(self, path: ClientPath, datagram: memoryview, burst: Burst, now: float) -> None:
        """A datagram that needs more than to be forwarded."""
        happening = path.receive(datagram, Route(burst.endpoint, burst.source), now)
        if happening is Happening.PAYLOAD:
            path.consent.heard = path.consent.carried = now
            self._outbox.send(path.to_application, bytes(datagram))
            return
        self._after(path, happening, now)

    # What comes of it

    def _after(self, path: ClientPath, happening: Optional[Happening], now: float) -> None:
        application = path.to_application.destination
        if application is None or self._paths.get(application) is not path:
            return  # it was closed a moment ago, in the same burst
        who = address.text(application)
        if happening is Happening.UP:
            self._say_up(path, who, now)
        elif happening is Happening.LOST:
            event(log, logging.WARNING, "path-lost", f"path for {who} is lost; seeking another")
        elif happening is Happening.CLOSED:
            event(log, logging.INFO, "path-closed", f"path for {who} is closed")
            self._remove(path)
            if path.wanted(now):
                self._begin(path.to_application, now).inherit(path)
            return
        self._timers.set(path, path.deadline())

    def _say_up(self, path: ClientPath, who: str, now: float) -> None:
        assert path.peer is not None and path.peer.destination is not None
        server = address.text(path.peer.destination)
        kind = "direct path" if path.pairing else "direct path (not udppunch)"
        local = path.peer.endpoint.local
        event(
            log, logging.INFO, "path-up", f"{kind} for {who} to server {server}",
            application=who, peer=server, seconds=round(now - path.sought_since, 4),
            local=address.text(local) if local else "",
            seen=address.text(path.mapping.seen) if path.mapping.seen else "",
        )  # fmt: skip

    def _remove(self, path: ClientPath) -> None:
        application = path.to_application.destination
        assert application is not None
        del self._paths[application]
        self._timers.set(path, None)
        path.release()

    # Time

    def expire(self, now: float) -> None:
        for path in self._timers.due(now):
            self._after(path, path.expire(now), now)
        self._rendezvous.expire(now)

    def deadline(self) -> Optional[float]:
        return earliest(self._timers.deadline(), self._rendezvous.deadline())

    def stop(self, now: float) -> None:
        """Tell the server, so that it need not wait for what does not come."""
        for path in self._paths.values():
            path.close(now)

    def status(self) -> str:
        gauges = self.gauges()
        return f"{gauges['paths up']} of {gauges['paths']} paths up"

    def gauges(self) -> Dict[str, int]:
        up = sum(path.state is State.UP for path in self._paths.values())
        return {"paths": len(self._paths), "paths up": up}
