"""The server's role: offers a key at a rendezvous, and gives each client a way to FORWARD.

    clients ── one socket towards the Internet ── Serve ── a socket for each client ── FORWARD

The socket towards the Internet is shared, so that it takes one binding at the NAT and any number
of clients can come at once; a client is told from another by the address it sends from. The
application sees each client as another local port.
"""

from __future__ import annotations

import logging
from collections import Counter
from typing import Callable, Dict, Iterable, List, Optional, Sequence

from udppunch import address
from udppunch.address import Address
from udppunch.config.roles import ServeConfig
from udppunch.contract import Burst, Endpoint, Lookup, Outbox, Route
from udppunch.notices import TRACE, Notices, event
from udppunch.proto.destination import Destination
from udppunch.proto.handover import socket_name
from udppunch.proto.limiter import TokenBucket
from udppunch.proto.puncher import prudence
from udppunch.proto.puncher.clients import Client, Clients
from udppunch.proto.puncher.consent import earliest
from udppunch.proto.puncher.path import CHECK_BURST, CHECK_RATE, Happening, State, Tools
from udppunch.proto.puncher.presence import Presence
from udppunch.proto.puncher.server_path import ServerPath
from udppunch.proto.timers import Timers
from udppunch.wire import marks, puncher
from udppunch.wire.control import may_be_control
from udppunch.wire.malformed import Malformed

log = logging.getLogger(__name__)


class Serve:
    def __init__(self, config: ServeConfig, outbox: Outbox, random: Callable[[int], bytes]) -> None:
        self.counters: "Counter[str]" = Counter()
        self._config = config
        self._outbox = outbox
        self._mark = marks.new(random(marks.RANDOM))
        self._forward = Destination(config.forward, outbox)
        self._socket_name = socket_name("serve", config.forward, config.rendezvous, config.bind)
        self._presence = Presence(
            config.rendezvous, config.key, self._mark, config.bind, outbox, self.counters,
            self._socket_name,
        )  # fmt: skip
        self._tools = Tools(
            outbox, random, TokenBucket(CHECK_RATE, CHECK_BURST), self.counters,
            config.keepalive, config.idle,
        )  # fmt: skip
        self._clients = Clients()
        self._timers: Timers[ServerPath] = Timers()
        self._notices = Notices(log)
        self.patient = False  # a name without an address is asked for again, and ends nothing

    def inherit(self, names: Iterable[str]) -> List[str]:
        """Take over the registered socket of a former server, which the rendezvous knows; the
        other names."""
        return [name for name in names if name != self._socket_name]

    def start(self, now: float) -> None:
        self._presence.start(now)
        self._forward.look_up(now)

    def opened(self, endpoint: Endpoint, now: float) -> None:
        client: Optional[Client] = endpoint.owner
        if client is None:
            self._presence.opened(endpoint, now)
            self._register_when_ready(now)
        elif client.application is endpoint:
            client.open = True
            assert client.to_application is not None
            for datagram in client.waiting.take():
                self._outbox.send(client.to_application, datagram)

    def failed(self, endpoint: Endpoint, reason: str, now: float) -> None:
        client: Optional[Client] = endpoint.owner
        self._notices.say(now, logging.ERROR, "no-socket", f"no socket for a client: {reason}")
        if client is None:
            self._presence.failed(endpoint)
        else:
            client.application = None
            self._remove(client)

    def resolved(self, lookup: Lookup, found: Sequence[Address], reason: str, now: float) -> None:
        destination = self._presence.rendezvous
        if lookup is self._forward.lookup:
            destination = self._forward
        if not self.patient:
            destination.insist(found, reason)
        if destination is self._forward:
            self._forward.resolved(found, reason, now)
        else:
            self._presence.resolved(found, reason, now)
        self._register_when_ready(now)

    def refused(self, endpoint: Endpoint, now: float) -> None:
        self.counters["refused by the application"] += 1
        where = str(self._forward.lookup)
        self._notices.say(
            now, logging.WARNING, "refused", f"nothing listens on {where} (ICMP); serving on"
        )
        self._forward.look_up(now)

    # The way of a datagram

    def receive(self, burst: Burst, now: float) -> None:
        client: Optional[Client] = burst.endpoint.owner
        if client is not None:
            self._from_application(client, burst, now)
            return
        client = self._clients.by_way.get((burst.endpoint, burst.source))
        # A control datagram says itself whose it is: perhaps another's, who has that port now.
        if client is not None and not may_be_control(burst.view, burst.segment):
            path = client.path
            peer = path.peer
            if (
                client.open
                and peer is not None
                and peer.destination == burst.source
                and path.state is State.UP
                and path.is_payload(burst.view, burst.segment)
            ):
                path.consent.heard = path.consent.carried = now
                assert client.to_application is not None
                self._outbox.forward(client.to_application, burst)
                return
        for datagram in burst.datagrams():
            self._one(datagram, Route(burst.endpoint, burst.source), now)

    def _from_application(self, client: Client, burst: Burst, now: float) -> None:
        path = client.path
        peer = path.peer
        if path.state is State.UP and peer is not None:
            if path.carries(now):
                self._timers.set(path, path.deadline())
            self._outbox.forward(peer, burst)
        else:
            path.waiting.add(burst.datagrams())

    def _one(self, datagram: memoryview, route: Route, now: float) -> None:
        """A datagram that needs more than to be forwarded."""
        source = route.destination
        assert source is not None
        if self._presence.is_rendezvous(source):
            punch = self._presence.receive(bytes(datagram), route, now)
            if punch is not None:
                self._introduced(punch, route.endpoint, now)
            return
        client = self._clients.of_datagram(datagram, route)
        if client is None:
            self._from_stranger(datagram, route, now)
            return
        contested = self._clients.other(client, route) is not None
        happening = client.path.receive(datagram, route, now, contested)
        if client.path.proved(route, contested):
            self._note_route(client, route, now)
        if happening is Happening.PAYLOAD:
            client.path.consent.heard = client.path.consent.carried = now
            self._to_application(client, datagram)
        else:
            self._after(client, happening, now)

    def _from_stranger(self, datagram: memoryview, route: Route, now: float) -> None:
        """Handshake 2 of a client that was introduced without a mark, or to be dropped."""
        source = route.destination
        assert source is not None
        message = _handshake(datagram)
        client = self._clients.awaiting(source, message.mark) if message is not None else None
        if client is None or message is None:
            self.counters["dropped: stranger"] += 1
            what = f"dropped a datagram of {address.text(source)}"
            self._notices.say(now, TRACE, "stranger", what)
            return
        known = self._clients.of_mark(message.mark)
        if known is not None and known is not client:
            # A client of ours that punches anew, by way of a rendezvous that shows no marks.
            known.path.introduced(puncher.Punch(source), route.endpoint, now)
            self._remove(client)
            client = known
        happening = client.path.second(message, route, now)
        self._clients.note_mark(client)
        if happening is Happening.UP:
            self._note_route(client, route, now)
        self._after(client, happening, now)

    def _note_route(self, client: Client, route: Route, now: float) -> None:
        for displaced in self._clients.note_route(client, route):
            self._after(displaced, Happening.LOST, now)

    def _to_application(self, client: Client, datagram: memoryview) -> None:
        if client.open and client.to_application is not None:
            self._outbox.send(client.to_application, bytes(datagram))
        else:
            client.waiting.add([datagram])

    # Clients come and go

    def _introduced(self, punch: puncher.Punch, endpoint: Endpoint, now: float) -> None:
        assert self._presence.rendezvous.address is not None
        refusal = prudence.refusal(punch.peer, self._presence.rendezvous.address)
        if refusal:
            self.counters["dropped: imprudent address"] += 1
            what = f"not punching {address.text(punch.peer)}: {refusal}"
            self._notices.say(now, logging.WARNING, "imprudent", what)
            return
        client = self._clients.of_mark(punch.mark) or self._newcomer(punch, now)
        if client is not None:
            taken = self._clients.other(client, Route(endpoint, punch.peer)) is not None
            client.path.introduced(punch, endpoint, now, taken)
            self._clients.note_mark(client)
            self._timers.set(client.path, client.path.deadline())

    def _newcomer(self, punch: puncher.Punch, now: float) -> Optional[Client]:
        if punch.mark:
            return self._admit(now)
        expected = self._clients.expected_at(punch.peer)
        if expected is not None:
            return expected  # the network has doubled the introduction
        former = self._clients.unmarked(punch.peer)
        if former is not None and not former.path.is_heard(now):
            self._remove(former)  # an original that punches anew: another path
        return self._admit(now)

    def _admit(self, now: float) -> Optional[Client]:
        if len(self._clients) >= self._config.max_paths:
            sought = self._clients.seeking()
            if sought is None:
                self.counters["refused: too many clients"] += 1
                say = "as many clients as --max-paths allows: refusing more"
                self._notices.say(now, logging.WARNING, "full", say)
                return None
            self._remove(sought)
        mapping = self._presence.mapping
        path = ServerPath(self._tools, self._config.key, self._mark, mapping, now)
        return self._clients.add(path)

    def _after(self, client: Client, happening: Optional[Happening], now: float) -> None:
        path = client.path
        if happening is Happening.UP:
            self._connect_application(client)
            self._say_up(client, now)
        elif happening is Happening.STALLED:
            self._presence.renew(now)
        elif happening is Happening.DOUBTED:
            # It may be this end that has another public address now.
            self._presence.refresh(now)
        elif happening is Happening.LOST:
            event(log, logging.WARNING, "path-lost", f"client {_who(path)} is lost")
            self._clients.forget_ways(client)
            self._presence.refresh(now)
        elif happening is Happening.CLOSED:
            event(log, logging.INFO, "path-closed", f"client {_who(path)} is gone")
            self._remove(client)
            return
        self._timers.set(path, path.deadline())

    def _connect_application(self, client: Client) -> None:
        if client.application is not None or self._forward.address is None:
            return
        forward = self._forward.address
        client.application = Endpoint(
            "application", address.any_of(forward), remote=forward, owner=client
        )
        client.to_application = Route(client.application)
        self._outbox.open(client.application)

    def _say_up(self, client: Client, now: float) -> None:
        path = client.path
        kind = "direct path" if path.pairing else "direct path (not udppunch)"
        local = path.peer.endpoint.local if path.peer is not None else None
        event(
            log, logging.INFO, "path-up", f"{kind} to client {_who(path)}", peer=_who(path),
            named=address.text(path.named) if path.named else "",
            local=address.text(local) if local is not None else "",
            seconds=round(now - path.since, 4),
        )  # fmt: skip

    def _remove(self, client: Client) -> None:
        self._clients.remove(client)
        self._timers.set(client.path, None)
        if client.application is not None:
            self._outbox.close(client.application)
            client.application = None

    # The rendezvous and the time

    def _register_when_ready(self, now: float) -> None:
        if self._forward.address is not None:
            self._presence.register(now)

    def expire(self, now: float) -> None:
        for path in self._timers.due(now):
            client = self._clients.of_path(path)
            if client is not None:
                self._after(client, path.expire(now), now)
        self._forward.expire(now)
        self._presence.rendezvous.expire(now)
        self._presence.expire(now)
        if self._presence.releases(now):
            self._presence.release(self._clients.endpoints())

    def deadline(self) -> Optional[float]:
        names = (self._forward.deadline(), self._presence.rendezvous.deadline())
        return earliest(self._timers.deadline(), self._presence.deadline(), *names)

    def stop(self, now: float) -> None:
        """Tell the clients of ours, so that they look for another server at once."""
        for client in self._clients:
            client.path.close(now)

    def status(self) -> str:
        gauges = self.gauges()
        clients = f"{gauges['clients connected']} of {gauges['clients']} clients connected"
        return f"{self._presence.status()}, {clients}"

    def gauges(self) -> Dict[str, int]:
        up = sum(client.path.state is State.UP for client in self._clients)
        return {"clients": len(self._clients), "clients connected": up}


def _who(path: ServerPath) -> str:
    where = path.peer.destination if path.peer is not None else path.named
    return address.text(where) if where is not None else "unknown"


def _handshake(datagram: memoryview) -> Optional[puncher.Handshake]:
    if len(datagram) > puncher.PADDED:
        return None
    try:
        message = puncher.decode(bytes(datagram))
    except Malformed:
        return None
    return message if isinstance(message, puncher.Handshake) else None
