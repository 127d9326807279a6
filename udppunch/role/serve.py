"""The server's role: offers a key at a rendezvous, and gives each client a way to FORWARD.

    clients ── one socket towards the Internet ── Serve ── a socket for each client ── FORWARD

The socket towards the Internet is shared, so that it takes one binding at the NAT and any number
of clients can come at once; a client is told from another by the address it sends from. The
application sees each client as another local port.
"""

from __future__ import annotations

import logging
from collections import Counter
from typing import Callable, Dict, List, Optional, Sequence

from udppunch import address
from udppunch.address import ANY_IPV4, Address
from udppunch.config import ServeConfig
from udppunch.contract import Burst, Endpoint, Lookup, Outbox, Route
from udppunch.errors import EX_NOHOST, CommandError
from udppunch.notices import TRACE, Notices, event
from udppunch.proto import prudence
from udppunch.proto.destination import Destination
from udppunch.proto.limiter import TokenBucket
from udppunch.proto.path import Happening, State, Tools
from udppunch.proto.registration import Registration
from udppunch.proto.server_path import ServerPath
from udppunch.proto.timers import Timers
from udppunch.proto.waiting import Waiting
from udppunch.wire import puncher
from udppunch.wire.control import TOKEN_LENGTH
from udppunch.wire.malformed import Malformed

log = logging.getLogger(__name__)

# All checks to clients that have not shown themselves: so many at once, so many a second.
_CHECK_BURST = 500
_CHECK_RATE = 100
_PAUSE = 1.0  # seconds without a datagram after which an application "sends again"
_SOURCES = 8  # addresses that one client may come from


class _Client:
    """What the role keeps of one client: its path, and its socket towards the application."""

    __slots__ = ("path", "application", "to_application", "open", "waiting", "sources")

    def __init__(self, path: ServerPath) -> None:
        self.path = path
        self.application: Optional[Endpoint] = None
        self.to_application: Optional[Route] = None
        self.open = False
        self.waiting = Waiting()
        self.sources: List[Address] = []


class Serve:
    def __init__(
        self, config: ServeConfig, outbox: Outbox, random: Callable[[int], bytes]
    ) -> None:
        self.counters: "Counter[str]" = Counter()
        self._config = config
        self._outbox = outbox
        self._mark = puncher.new_mark(random(puncher.MARK_RANDOM))
        self._forward = Destination(config.forward, outbox)
        self._rendezvous = Destination(config.rendezvous, outbox)
        self._endpoint = Endpoint("serve", config.bind or ANY_IPV4, essential=True)
        self._registration = Registration(config.key, self._mark, 0.0)
        self._registering = False
        self._silence_said = False
        self._tools = Tools(
            outbox, random, TokenBucket(_CHECK_RATE, _CHECK_BURST), self.counters,
            config.keepalive, config.idle,
        )  # fmt: skip
        self._clients: Dict[ServerPath, _Client] = {}
        self._by_source: Dict[Address, _Client] = {}
        self._by_mark: Dict[bytes, _Client] = {}
        self._by_token: Dict[bytes, _Client] = {}
        self._timers: Timers[ServerPath] = Timers()
        self._notices = Notices(log)

    def start(self, now: float) -> None:
        self._outbox.open(self._endpoint)
        self._forward.look_up(now)
        self._rendezvous.look_up(now)

    def opened(self, endpoint: Endpoint, now: float) -> None:
        if endpoint is self._endpoint:
            self._register_when_ready(now)
            return
        client: _Client = endpoint.owner
        if client.application is endpoint:
            client.open = True
            assert client.to_application is not None
            for datagram in client.waiting.take():
                self._outbox.send(client.to_application, datagram)

    def failed(self, endpoint: Endpoint, reason: str, now: float) -> None:
        client: _Client = endpoint.owner
        self._notices.say(now, logging.ERROR, "no-socket", f"no socket for a client: {reason}")
        self._remove(client)

    def resolved(self, lookup: Lookup, found: Sequence[Address], reason: str, now: float) -> None:
        for destination in (self._forward, self._rendezvous):
            if lookup is not destination.lookup:
                continue
            if not found and destination.address is None:
                raise CommandError(f"{lookup}: {reason}", EX_NOHOST)
            moved = destination.resolved(found, reason, now)
            if moved and destination is self._rendezvous and self._registering:
                self._registration.restart(now)
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
        if burst.endpoint is not self._endpoint:
            self._from_application(burst, now)
            return
        client = self._by_source.get(burst.source)
        if client is not None:
            path = client.path
            peer = path.peer
            if (
                client.open
                and peer is not None
                and peer.destination == burst.source
                and path.state is State.UP
                and path.pairing is not None
                and not path.pairing.carries_control(burst.view, burst.segment)
            ):
                path.consent.heard = path.consent.carried = now
                assert client.to_application is not None
                self._outbox.forward(client.to_application, burst)
                return
        for datagram in burst.datagrams():
            self._one(datagram, burst, now)

    def _from_application(self, burst: Burst, now: float) -> None:
        path: ServerPath = burst.endpoint.owner.path
        peer = path.peer
        if path.state is State.UP and peer is not None:
            consent = path.consent
            if now - consent.sent > _PAUSE:
                consent.awake(now)
                self._timers.set(path, path.deadline())
            consent.sent = consent.carried = now
            self._outbox.forward(peer, burst)
        else:
            path.waiting.add(burst.datagrams())

    def _one(self, datagram: memoryview, burst: Burst, now: float) -> None:
        """A datagram that needs more than to be forwarded."""
        source = burst.source
        if source == self._rendezvous.address:
            self._from_rendezvous(datagram, now)
            return
        client = self._by_source.get(source) or self._by_token.get(bytes(datagram[:TOKEN_LENGTH]))
        if client is None:
            client = self._awaited(datagram, burst, now)
            if client is None:
                self.counters["dropped: stranger"] += 1
                self._notices.say(
                    now, TRACE, "stranger", f"dropped a datagram of {address.text(source)}"
                )
            return
        happening = client.path.receive(datagram, Route(self._endpoint, source), now)
        if client.path.pairing is not None and client.path.state is not State.CLOSED:
            self._note_source(client, datagram, source)
        if happening is Happening.PAYLOAD:
            client.path.consent.heard = client.path.consent.carried = now
            self._to_application(client, datagram)
        self._after(client, happening, now)

    def _awaited(self, datagram: memoryview, burst: Burst, now: float) -> Optional[_Client]:
        """The client that says handshake 2 here, if one was introduced from that address."""
        message = self._decode(datagram) if len(datagram) <= puncher.PADDED else None
        if not isinstance(message, puncher.Handshake):
            return None
        named = [c for c in self._clients.values() if c.path.awaits(burst.source)]
        if not named:
            return None
        client = next((c for c in named if c.path.named == burst.source), named[0])
        known = self._by_mark.get(message.mark)
        if known is not None and known is not client:
            # A client of ours that punches anew, by way of a rendezvous that shows no marks.
            assert client.path.named is not None
            known.path.introduced(puncher.Punch(client.path.named), now)
            self._remove(client)
            client = known
        happening = client.path.second(message, Route(self._endpoint, burst.source), now)
        self._note_mark(client)
        if happening is Happening.UP:
            self._index(client, burst.source)
        self._after(client, happening, now)
        return client

    def _to_application(self, client: _Client, datagram: memoryview) -> None:
        if client.open and client.to_application is not None:
            self._outbox.send(client.to_application, bytes(datagram))
        else:
            client.waiting.add([datagram])

    # The rendezvous

    def _register_when_ready(self, now: float) -> None:
        ready = self._endpoint.local is not None and self._forward.address is not None
        if not self._registering and ready and self._rendezvous.address is not None:
            self._registering = True
            self._registration.restart(now)

    def _from_rendezvous(self, datagram: memoryview, now: float) -> None:
        message = self._decode(datagram)
        where = str(self._rendezvous.lookup)
        if isinstance(message, puncher.Ok):
            self._silence_said = False
            if self._registration.heard_ok(message.mark, now):
                seen = f", seen at {address.text(message.seen)}" if message.seen else ""
                event(
                    log, logging.INFO, "registered", f"registered at {where}{seen}",
                    rendezvous=where, seen=address.text(message.seen) if message.seen else "",
                    local=address.text(self._endpoint.local or ANY_IPV4),
                )  # fmt: skip
        elif isinstance(message, puncher.Error):
            if self._registration.heard_duplicate(now):
                event(
                    log, logging.WARNING, "key-taken",
                    f"another server holds this key at {where}; waiting for it to go",
                )  # fmt: skip
        elif isinstance(message, puncher.Punch):
            self._registration.heard_punch(now)
            self._introduced(message, now)
        elif message is not None:
            self.counters["dropped: unexpected"] += 1

    def _introduced(self, punch: puncher.Punch, now: float) -> None:
        assert self._rendezvous.address is not None
        refusal = prudence.refusal(punch.peer, self._rendezvous.address)
        if refusal:
            self.counters["dropped: imprudent address"] += 1
            what = f"not punching {address.text(punch.peer)}: {refusal}"
            self._notices.say(now, logging.WARNING, "imprudent", what)
            return
        client = self._by_mark.get(punch.mark) if punch.mark else None
        if client is None and not punch.mark:
            client = self._by_source.get(punch.peer)
            if client is not None and client.path.pairing is None:
                self._remove(client)  # the original punches anew from there: a new path
                client = None
        if client is None:
            client = self._admit(now)
        if client is not None:
            client.path.introduced(punch, now)
            self._note_mark(client)
            self._timers.set(client.path, client.path.deadline())

    def _admit(self, now: float) -> Optional[_Client]:
        if len(self._clients) >= self._config.max_paths:
            sought = next((c for p, c in self._clients.items() if p.state is not State.UP), None)
            if sought is None:
                self.counters["refused: too many clients"] += 1
                say = "as many clients as --max-paths allows: refusing more"
                self._notices.say(now, logging.WARNING, "full", say)
                return None
            self._remove(sought)
        path = ServerPath(self._tools, self._config.key, self._mark, self._endpoint, now)
        client = self._clients[path] = _Client(path)
        return client

    # What comes of it

    def _after(self, client: _Client, happening: Optional[Happening], now: float) -> None:
        path = client.path
        if happening is Happening.UP:
            self._connect_application(client)
            self._say_up(client, now)
        elif happening is Happening.LOST:
            event(log, logging.WARNING, "path-lost", f"client {self._who(client)} is lost")
        elif happening is Happening.CLOSED:
            event(log, logging.INFO, "path-closed", f"client {self._who(client)} is gone")
            self._remove(client)
            return
        if happening is not Happening.PAYLOAD:
            self._timers.set(path, path.deadline())

    def _connect_application(self, client: _Client) -> None:
        if client.application is not None or self._forward.address is None:
            return
        forward = self._forward.address
        client.application = Endpoint(
            "application", address.any_of(forward), remote=forward, owner=client
        )
        client.to_application = Route(client.application)
        self._outbox.open(client.application)

    def _say_up(self, client: _Client, now: float) -> None:
        path = client.path
        assert path.peer is not None and path.peer.destination is not None
        who = address.text(path.peer.destination)
        kind = "direct path" if path.pairing else "direct path (not udppunch)"
        event(
            log, logging.INFO, "path-up", f"{kind} to client {who}",
            peer=who, named=address.text(path.named) if path.named else "",
            seconds=round(now - path.since, 4),
        )  # fmt: skip

    def _who(self, client: _Client) -> str:
        peer = client.path.peer.destination if client.path.peer else client.path.named
        return address.text(peer) if peer else "unknown"

    def _note_mark(self, client: _Client) -> None:
        path = client.path
        if path.client_mark and path.pairing is not None:
            self._by_mark[path.client_mark] = client
            self._by_token[path.pairing.token] = client
        elif path.named is not None and not path.client_mark:
            self._index(client, path.named, awaited=True)

    def _note_source(self, client: _Client, datagram: memoryview, source: Address) -> None:
        """Remember an address from which the client proved itself."""
        checks = client.path.checks
        if source not in client.sources and checks is not None:
            if checks.knows(Route(self._endpoint, source)):
                self._index(client, source)

    def _index(self, client: _Client, source: Address, awaited: bool = False) -> None:
        if awaited or source in client.sources:
            return
        client.sources.append(source)
        self._by_source[source] = client
        if len(client.sources) > _SOURCES:
            former = client.sources.pop(0)
            if self._by_source.get(former) is client:
                del self._by_source[former]

    def _remove(self, client: _Client) -> None:
        path = client.path
        self._clients.pop(path, None)
        self._timers.set(path, None)
        for source in client.sources:
            if self._by_source.get(source) is client:
                del self._by_source[source]
        if self._by_mark.get(path.client_mark) is client:
            del self._by_mark[path.client_mark]
        if path.pairing is not None:
            self._by_token.pop(path.pairing.token, None)
        if client.application is not None:
            self._outbox.close(client.application)
            client.application = None

    # Time

    def expire(self, now: float) -> None:
        for path in self._timers.due(now):
            client = self._clients.get(path)
            if client is not None:
                self._after(client, path.expire(now), now)
        if self._registering and self._registration.deadline() <= now:
            self._keep_registered(now)

    def _keep_registered(self, now: float) -> None:
        assert self._rendezvous.address is not None
        route = Route(self._endpoint, self._rendezvous.address)
        for message in self._registration.due(now):
            self._outbox.send(route, puncher.encode(message))
        if self._registration.silent(now):
            self._rendezvous.look_up(now)
            if not self._silence_said:
                self._silence_said = True
                event(
                    log, logging.WARNING, "rendezvous-silent",
                    f"rendezvous {self._rendezvous.lookup} does not answer; asking on",
                )  # fmt: skip

    def deadline(self) -> Optional[float]:
        paths = self._timers.deadline()
        if not self._registering:
            return paths
        own = self._registration.deadline()
        return own if paths is None or own < paths else paths

    def stop(self, now: float) -> None:
        """Tell the clients of ours, so that they look for another server at once."""
        for path in self._clients:
            path.close(now)

    def status(self) -> str:
        up = sum(path.state is State.UP for path in self._clients)
        return f"{self._registration.state.value}, {up} of {len(self._clients)} clients connected"

    def _decode(self, datagram: memoryview) -> Optional[puncher.Message]:
        try:
            return puncher.decode(bytes(datagram))
        except Malformed:
            self.counters["dropped: malformed"] += 1
            return None
