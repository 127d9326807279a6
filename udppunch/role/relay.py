"""The relay: carries datagrams between two peers that said the same guid, both ways, unchanged.

This is the part that a worker does: it knows the flows whose datagrams come to it and forwards
them, and asks the registrar about handshakes. A handshake is proved, where there is a secret,
only if it would change anything: a pair's own repeats are datagrams like all others.
"""

from __future__ import annotations

import logging
from collections import Counter
from typing import Callable, Dict, List, Optional, Sequence

from udppunch import address
from udppunch.address import Address
from udppunch.config.roles import RelayConfig
from udppunch.contract import Batch, Burst, Endpoint, Lookup, Outbox, Route, word
from udppunch.notices import TRACE, Notices, event
from udppunch.proto.limiter import Allowance, Limiter
from udppunch.wire import registrar, relay
from udppunch.wire.registrar import Activity, Handshake, Held, Holding, Peer, Totals

log = logging.getLogger(__name__)

_FIRST_BYTE = relay.MAGIC[0]
_FIRST_WORD = word(relay.MAGIC[:2])
_REPORT = 1.0
_REPORTED_AT_ONCE = 2000


class _Flow:
    """From one peer, by `route` to the other.

    What it may carry before time must be looked at is at hand, for it is asked each time.
    """

    __slots__ = (
        "told", "route", "allowance", "datagrams_left", "octets_left", "refilled_at",
        "reported", "counted_octets",
    )  # fmt: skip

    def __init__(
        self, told: registrar.Flow, route: Route, allowance: Allowance, now: float
    ) -> None:
        self.told = told
        self.route = route
        self.allowance = allowance
        self.datagrams_left, self.octets_left = allowance.most
        self.refilled_at = now
        self.reported = route.datagrams
        self.counted_octets = route.octets


class Relay:
    """`ask` is how the registrar is told things; it answers by calls of `told`, and `hear` makes
    those happen that are due."""

    def __init__(
        self,
        config: RelayConfig,
        outbox: Outbox,
        ask: Callable[[registrar.Message, float], None],
        hear: Callable[[], None] = lambda: None,
        worker: int = 0,
        pid: int = 0,
    ) -> None:
        self.counters: "Counter[str]" = Counter()
        self._outbox = outbox
        self._ask = ask
        self._hear = hear
        self._worker = worker
        self._pid = pid
        self._flows: Dict[Address, _Flow] = {}
        self._notices = Notices(log)
        self._endpoints = [
            Endpoint("relay", listen, asked_address=True, essential=True, owner=index)
            for index, listen in enumerate(config.listen)
        ]
        self._own: List[Address] = []
        self._listening = False
        self._asking = False  # a registrar that answers while it is asked is in this process
        # Known peers that may leave for another channel, and when they said so. The first that
        # comes to it may tell them sooner than the registrar was heard.
        self._leaving: Dict[Address, float] = {}
        self._unreported: List[_Flow] = []
        self._ended: List[_Flow] = []  # some of what they carried may wait to be sent yet
        self._next_report: Optional[float] = None
        self.configure(config)

    def configure(self, config: RelayConfig) -> None:
        """The secret and the limits, at first or anew; flows keep the limits they came with."""
        self._secret = config.secret
        self._idle = config.idle
        self._limiter = Limiter(config.handshake_rate, 2 * config.handshake_rate)
        self._allowance = Allowance(config.rate, config.bandwidth / 8)

    def start(self, now: float) -> None:
        self._next_report = now + _REPORT
        self._ask(registrar.Ready(self._pid), now)

    def told(self, message: registrar.Message, now: float) -> None:
        """The registrar said something."""
        if isinstance(message, registrar.Join):
            self._join(message, now)
        elif isinstance(message, registrar.Part):
            flow = self._flows.get(message.source)
            if flow is not None and flow.told.channel == message.channel:
                self._ended.append(flow)
                del self._flows[message.source]
        elif isinstance(message, registrar.Complete):
            if not self._listening:
                self._listening = True
                for endpoint in self._endpoints:
                    self._outbox.open(endpoint)
        elif isinstance(message, registrar.Recall):
            for flow in self._flows.values():
                route = flow.route
                self._ask(Holding(flow.told, route.datagrams, route.octets), now)
            self._ask(Held(self._pid), now)
            if not self._listening:
                # Whoever was told that may have gone without an answer.
                self._ask(registrar.Ready(self._pid), now)

    def keep(self) -> None:
        """The next process goes on with what there is."""

    def opened(self, endpoint: Endpoint, now: float) -> None:
        assert endpoint.local is not None
        self._own.append(endpoint.local)
        where = address.text(endpoint.local)
        if self._worker == 0:
            event(log, logging.INFO, "listening", f"relay listens on {where}", address=where)

    def failed(self, endpoint: Endpoint, reason: str, now: float) -> None:
        """All its endpoints are essential."""

    def resolved(self, lookup: Lookup, found: Sequence[Address], reason: str, now: float) -> None:
        """It asks for no names."""

    def refused(self, endpoint: Endpoint, now: float) -> None:
        """Its endpoints are not connected."""

    def receive(self, burst: Burst, now: float) -> None:
        flow = self._flows.get(burst.source)
        view, segment = burst.view, burst.segment
        octets = len(view)
        if flow is None or self._leaving:
            # A peer may know sooner than this worker: from the handshake that another one sent it.
            self._hear()
            flow = self._flows.get(burst.source)
        if flow is None:
            self._stranger(burst, now)
            return
        if octets <= segment:
            datagrams = 1
            if octets and view[0] == _FIRST_BYTE and self._may_leave(flow, view):
                self._in_turn(burst, now)
                return
        else:
            datagrams = -(-octets // segment)
            if _FIRST_BYTE in view[::segment].tobytes() and self._any_may_leave(flow, burst):
                self._in_turn(burst, now)
                return
        flow.datagrams_left -= datagrams
        flow.octets_left -= octets
        if flow.datagrams_left < 0 or flow.octets_left < 0:
            if not self._refill(flow, datagrams, octets, now):
                self._drop("channel over its rate", datagrams, burst.source, now)
                return
        self._outbox.forward(flow.route, burst)

    def receive_batch(self, batch: Batch, now: float) -> None:
        """What is plain payload of a known peer, without a detour for each datagram."""
        flows, begin = self._flows, self._outbox.begin
        if self._leaving:
            self._hear()
        for index, (source, piece, start) in enumerate(
            zip(batch.sources, batch.pieces, batch.words)
        ):
            flow = flows.get(source)
            _, octets, segment = piece
            if (
                flow is None
                or start == _FIRST_WORD
                or octets > segment
                or octets > flow.octets_left
                or flow.datagrams_left < 1
            ):
                batch.singly(index)
                continue
            flow.datagrams_left -= 1
            flow.octets_left -= octets
            pending = flow.route.pending
            if pending is None:
                pending = begin(flow.route)
            pending.append(piece)

    def expire(self, now: float) -> None:
        """Reports what was carried: some flows at a time, all of them once a second or so."""
        self._count_ended()
        if not self._unreported:
            self._unreported = list(self._flows.values())
        some = self._unreported[-_REPORTED_AT_ONCE:]
        del self._unreported[-_REPORTED_AT_ONCE:]
        entries = []
        for flow in some:
            told, route = flow.told, flow.route
            if route.datagrams != flow.reported:
                entries.append(Totals(told.channel, told.side, route.datagrams, route.octets))
                self._count(flow)
        for at in range(0, len(entries), registrar.MOST_ENTRIES):
            self._ask(Activity(entries[at : at + registrar.MOST_ENTRIES]), now)
        for source, said in list(self._leaving.items()):
            if now >= said + self._idle:
                del self._leaving[source]
        slices = -(-len(self._flows) // _REPORTED_AT_ONCE) or 1
        self._next_report = now + _REPORT / slices

    def deadline(self) -> Optional[float]:
        return self._next_report

    def stop(self, now: float) -> None:
        """There is no word for it on this wire: peers notice by the silence."""
        self._count_ended()
        for flow in self._flows.values():
            self._count(flow)

    def status(self) -> str:
        return f"worker {self._worker + 1}: {len(self._flows)} flows"

    def gauges(self) -> Dict[str, int]:
        return {"flows": len(self._flows)}

    def _join(self, message: registrar.Join, now: float) -> None:
        told = message.flow
        if told.destination.listener >= len(self._endpoints):
            return  # a registrar of other listening addresses
        self._leaving.pop(told.source.address, None)
        known = self._flows.get(told.source.address)
        if known is not None:
            self._ended.append(known)
        endpoint = self._endpoints[told.destination.listener]
        route = Route(endpoint, told.destination.address, told.destination.local)
        route.datagrams, route.octets = message.datagrams, message.octets
        if known is not None and known.told.channel == told.channel:
            route.datagrams, route.octets = known.route.datagrams, known.route.octets
        self._flows[told.source.address] = _Flow(told, route, self._allowance, now)
        went_already = (
            known is not None and not self._asking and known.route.destination == route.destination
        )
        if message.datagram and not went_already:
            self._outbox.send(route, message.datagram)

    def _may_leave(self, flow: _Flow, datagram: memoryview) -> bool:
        """Whether it may be a handshake for another channel than the flow's."""
        return datagram[:4] == relay.MAGIC and relay.guid_of(datagram) not in (
            b"",
            flow.told.guid,
        )

    def _any_may_leave(self, flow: _Flow, burst: Burst) -> bool:
        return any(self._may_leave(flow, datagram) for datagram in burst.datagrams())

    def _in_turn(self, burst: Burst, now: float) -> None:
        """A burst of a known peer that may move to another channel in its midst."""
        for datagram in burst.datagrams():
            before = self._flows.get(burst.source)
            asks = before is None or self._may_leave(before, datagram)
            refusal = self._handshake(burst, datagram, before, now) if asks else ""
            if before is None and refusal:
                self._drop(refusal, 1, burst.source, now)
            flow = self._flows.get(burst.source)
            # A handshake that moved the peer was sent along with the answer.
            if flow is not None and flow is before:
                if asks and not refusal:
                    self._leaving[burst.source] = now
                octets = len(datagram)
                flow.datagrams_left -= 1
                flow.octets_left -= octets
                if self._refill(flow, 1, octets, now):
                    self._outbox.send(flow.route, bytes(datagram))
                else:
                    self._drop("channel over its rate", 1, burst.source, now)

    def _refill(self, flow: _Flow, datagrams: int, octets: int, now: float) -> bool:
        """Whether what was just taken off may pass, with what time has given since."""
        left = flow.datagrams_left, flow.octets_left
        passed, flow.refilled_at = max(0.0, now - flow.refilled_at), now
        flow.datagrams_left, flow.octets_left = flow.allowance.refill(*left, passed)
        if flow.datagrams_left >= 0 and flow.octets_left >= 0:
            return True
        flow.datagrams_left += datagrams
        flow.octets_left += octets
        return False

    def _stranger(self, burst: Burst, now: float) -> None:
        first_bytes = burst.view[:: burst.segment].tobytes() if burst.segment else b""
        if _FIRST_BYTE not in first_bytes:
            self._drop("unknown source", len(first_bytes) or 1, burst.source, now)
        else:
            self._in_turn(burst, now)

    def _handshake(
        self, burst: Burst, datagram: memoryview, flow: Optional[_Flow], now: float
    ) -> str:
        """Asks the registrar, if it is one and all is well: length, source, rate, mac. Else why
        not; what a known peer says is payload all the same."""
        guid = relay.guid_of(datagram)
        source = burst.source
        if not guid:
            return "unknown source"
        if address.port(source) in address.ANSWERING_PORTS:
            return "source never a peer"
        # A peer has a share of its own, which a flood from next door does not use up.
        party = bytes(source) if flow is not None else address.prefix(source)
        if not self._limiter.allows(party, now):
            return "handshakes over their rate"
        if self._is_own(source):
            return "source never a peer"
        if self._secret and not relay.is_signed(datagram, self._secret):
            self.counters["handshakes: wrong mac"] += 1
            return "wrong mac"
        listener: int = burst.endpoint.owner
        peer = Peer(source, self._worker, listener, burst.local)
        carried = bytes(datagram) if len(datagram) <= registrar.MOST_CARRIED else b""
        self._asking = True
        self._ask(Handshake(guid, peer, carried), now)
        self._asking = False
        return ""

    def _is_own(self, source: Address) -> bool:
        """Whether it would be a peer of itself, to which each datagram came back for ever."""
        return any(source[-2:] == own[-2:] for own in self._own) and self._outbox.is_own(source)

    def _count(self, flow: _Flow) -> None:
        """Adds what the flow carried since the last time to the counters."""
        route = flow.route
        self.counters["datagrams"] += route.datagrams - flow.reported
        self.counters["octets"] += route.octets - flow.counted_octets
        flow.reported, flow.counted_octets = route.datagrams, route.octets

    def _count_ended(self) -> None:
        while self._ended:
            self._count(self._ended.pop())

    def _drop(self, reason: str, datagrams: int, source: Address, now: float) -> None:
        self.counters[f"dropped: {reason}"] += datagrams
        if log.isEnabledFor(TRACE):
            about = f"dropped a datagram of {address.text(source)}: {reason}"
            self._notices.say(now, TRACE, "dropped", about, about=reason)
