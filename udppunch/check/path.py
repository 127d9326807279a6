"""One path to the server of a key, made as a client makes it, tried and closed: a role for a loop.

SEEKING    until the path is up, or there is no more time for it
PROBING    so many checks of our own, one after the other; not if the server is not ours
ASKING     what is to be said to the service, again until it answers; if anything is
CLOSING    until the server has heard that the path is not wanted any more
"""

from __future__ import annotations

import enum
from collections import Counter
from dataclasses import dataclass, field
from typing import Callable, Dict, List, NamedTuple, Optional, Sequence, Union

from udppunch import address
from udppunch.address import Address
from udppunch.contract import Burst, Endpoint, Lookup, Outbox, Route
from udppunch.errors import EX_OSERR, CommandError
from udppunch.proto.destination import Destination
from udppunch.proto.limiter import TokenBucket
from udppunch.proto.puncher import prudence
from udppunch.proto.puncher.client_path import ClientPath
from udppunch.proto.puncher.consent import earliest
from udppunch.proto.puncher.mapping import why_no_path
from udppunch.proto.puncher.path import CHECK_BURST, CHECK_RATE, Happening, State, Tools
from udppunch.wire import puncher
from udppunch.wire.malformed import Malformed

# Of the time: by when the path has to be up, and all be known; the rest is to say goodbye.
_UP_BY = 0.75
_KNOWN_BY = 0.9
_INTERVAL = 0.1
# A probe that takes longer is lost.
PATIENCE = 1.0
_ASK_AGAIN = 0.5
# Longer than any check takes to come to its end, unless it was told to take so long.
_KEEPALIVE, _IDLE = 15.0, 300.0


class Plan(NamedTuple):
    """`say` None: nothing to the service, `expect` None: any answer will do."""

    rendezvous: Lookup
    key: bytes
    probes: int
    timeout: float
    say: Optional[bytes] = None
    expect: Optional[bytes] = None


@dataclass
class Finding:
    """What came of it. Times in seconds; `peer` None: there was no path, and `trouble` says why.

    `reached`: the rendezvous has answered. `sent` probes gave these round trips. `answered` is
    how long the service took; if it did not, `other` is the length of another answer than was
    expected.
    """

    peer: Optional[Address] = None
    local: Optional[Address] = None
    seen: Optional[Address] = None
    ours: bool = False
    up_after: float = 0.0
    sent: int = 0
    round_trips: List[float] = field(default_factory=list)
    answered: Optional[float] = None
    other: Optional[int] = None
    reached: bool = False
    trouble: str = ""


class _Stage(enum.Enum):
    SEEKING = enum.auto()
    PROBING = enum.auto()
    ASKING = enum.auto()
    CLOSING = enum.auto()


class PathCheck:
    """`done` is called when all is known and the path closed, at `plan.timeout` at the latest."""

    def __init__(
        self,
        plan: Plan,
        outbox: Outbox,
        random: Callable[[int], bytes],
        done: Callable[[], None],
    ) -> None:
        self.counters: "Counter[str]" = Counter()
        self.finding = Finding()
        self._plan = plan
        self._outbox = outbox
        self._done = done
        self._tools = Tools(
            outbox, random, TokenBucket(CHECK_RATE, CHECK_BURST), self.counters,
            max(_KEEPALIVE, plan.timeout), max(_IDLE, plan.timeout),
        )  # fmt: skip
        self._rendezvous = Destination(plan.rendezvous, outbox)
        self._path: Optional[ClientPath] = None
        self._heard: Optional[Union[puncher.Error, puncher.Punch]] = None
        self._stage = _Stage.SEEKING
        self._began = self._up_by = self._known_by = self._ends = 0.0
        self._probing_ends = self._asking_since = self._asked_at = 0.0
        self._next: Optional[float] = None  # probe, or word to the service

    def start(self, now: float) -> None:
        timeout = self._plan.timeout
        self._began, self._ends = now, now + timeout
        self._up_by, self._known_by = now + _UP_BY * timeout, now + _KNOWN_BY * timeout
        self._rendezvous.look_up(now)

    def resolved(self, lookup: Lookup, found: Sequence[Address], reason: str, now: float) -> None:
        self._rendezvous.resolved(found, reason, now)
        if self._path is not None:
            return
        if not found:
            self.finding.trouble = reason
            self._done()
            return
        nobody = Route(Endpoint("application", address.ANY_IPV4))
        path = ClientPath(self._tools, self._plan.key, self._rendezvous, nobody, now)
        self._path = path
        path.seek(now)

    def opened(self, endpoint: Endpoint, now: float) -> None:
        if self._path is not None:
            self._path.opened(endpoint, now)

    def failed(self, endpoint: Endpoint, reason: str, now: float) -> None:
        raise CommandError(reason, EX_OSERR)

    def refused(self, endpoint: Endpoint, now: float) -> None:
        """Its endpoints are not connected."""

    # What comes

    def receive(self, burst: Burst, now: float) -> None:
        if self._path is None:
            return
        for datagram in burst.datagrams():
            if burst.source == self._rendezvous.address:
                self._overhear(bytes(datagram))
            self._one(self._path, datagram, Route(burst.endpoint, burst.source), now)

    def _overhear(self, datagram: bytes) -> None:
        """What the path is told, to explain why there is none."""
        try:
            message = puncher.decode(datagram)
        except Malformed:
            return
        if isinstance(message, puncher.Punch) or (
            isinstance(message, puncher.Error) and not isinstance(self._heard, puncher.Punch)
        ):
            self._heard = message
            self.finding.reached = True

    def _one(self, path: ClientPath, datagram: memoryview, route: Route, now: float) -> None:
        if path.checks is not None:
            path.checks.round_trip = 0.0  # until this turns out to be an answer
        happening = path.receive(datagram, route, now)
        if happening is Happening.PAYLOAD:
            path.consent.heard = path.consent.carried = now
            self._from_service(bytes(datagram), now)
        elif happening is not None:
            self._after(path, happening, now)
        elif self._stage is _Stage.PROBING and path.checks is not None:
            if 0 < path.checks.round_trip < PATIENCE:
                self.finding.round_trips.append(path.checks.round_trip)
                self._next = self._asked_at + self._interval()
                self._go_on(now)

    def _from_service(self, datagram: bytes, now: float) -> None:
        if self._stage is not _Stage.ASKING:
            return
        if self._plan.expect is not None and datagram != self._plan.expect:
            self.finding.other = len(datagram)
            return
        self.finding.answered = now - self._asking_since
        self.close(now)

    def _after(self, path: ClientPath, happening: Happening, now: float) -> None:
        if happening is Happening.UP and self._stage is _Stage.SEEKING:
            self._say_up(path, now)
            self._stage, self._next = _Stage.PROBING, now
            share = 0.5 if self._plan.say is not None else 1.0
            self._probing_ends = now + share * (self._known_by - now)
            self._go_on(now)
        elif happening is Happening.LOST:
            self.close(now)
        elif happening is Happening.CLOSED:
            self._done()

    def _say_up(self, path: ClientPath, now: float) -> None:
        assert path.peer is not None
        finding = self.finding
        finding.peer, finding.local = path.peer.destination, path.peer.endpoint.local
        finding.seen = path.mapping.seen
        finding.ours = path.pairing is not None
        finding.up_after = now - self._began

    # What is done

    def _go_on(self, now: float) -> None:
        """Probe, or say what is to be said, when that is due; and what comes after it."""
        path = self._path
        assert path is not None
        if self._stage is _Stage.PROBING:
            enough = path.checks is None or self.finding.sent >= self._plan.probes
            if now >= self._probing_ends or (enough and self._all_answered(now)):
                self._stage, self._next = _Stage.ASKING, now
                self._asking_since = now
            elif not enough and self._next is not None and now >= self._next:
                self._probe(path, now)
        if self._stage is _Stage.ASKING:
            if self._plan.say is None or now >= self._known_by:
                self.close(now)
            elif self._next is not None and now >= self._next:
                self._ask(path, self._plan.say, now)

    def _probe(self, path: ClientPath, now: float) -> None:
        assert path.checks is not None and path.peer is not None
        path.checks.probe(path.peer, now)
        self.finding.sent += 1
        self._asked_at, self._next = now, now + PATIENCE

    def _interval(self) -> float:
        """Half of the time at most, so that the last one's answer can come, too."""
        left = self._probing_ends - self._began - self.finding.up_after
        return min(_INTERVAL, left / 2 / self._plan.probes)

    def _all_answered(self, now: float) -> bool:
        return len(self.finding.round_trips) >= self.finding.sent or (
            self._next is not None and now >= self._next
        )

    def _ask(self, path: ClientPath, say: bytes, now: float) -> None:
        assert path.peer is not None
        path.carries(now)
        self._outbox.send(path.peer, say)
        self._next = now + _ASK_AGAIN

    def close(self, now: float) -> None:
        """Enough is known, or nobody wants to know any more."""
        if self._stage is _Stage.CLOSING:
            return
        self._stage, self._next = _Stage.CLOSING, None
        if self._path is None or self._path.close(now) is Happening.CLOSED:
            self._done()

    # The time

    def expire(self, now: float) -> None:
        if now >= self._ends:
            self._done()
            return
        path = self._path
        if path is not None:
            happening = path.expire(now)
            if happening is not None:
                self._after(path, happening, now)
        if self._stage is _Stage.SEEKING and now >= self._up_by:
            self.finding.trouble = self._why_no_path()
            self.close(now)
        elif self._stage in (_Stage.PROBING, _Stage.ASKING):
            self._go_on(now)

    def deadline(self) -> Optional[float]:
        ends = {_Stage.SEEKING: self._up_by, _Stage.CLOSING: self._ends}
        own = ends.get(self._stage, self._known_by)
        if self._stage is _Stage.PROBING:
            own = self._probing_ends
        path = self._path.deadline() if self._path is not None else None
        return earliest(own, self._next, path)

    def _why_no_path(self) -> str:
        path, heard, where = self._path, self._heard, self._plan.rendezvous
        if path is None or self._rendezvous.address is None:
            return f"no name server answered for {where.host} in {self._up_by - self._began:.1f} s"
        if heard is None:
            return f"rendezvous {where} does not answer"
        if isinstance(heard, puncher.Error):
            return f"no server of this key at {where}"
        peer = address.text(heard.peer)
        refusal = prudence.refusal(heard.peer, self._rendezvous.address)
        if refusal:
            return f"not punching {peer}: {refusal}"
        return f"no direct path to the server at {peer}: {why_no_path(path.mapping, heard.peer)}"

    def stop(self, now: float) -> None:
        """The path was closed, or nobody is there to be told."""

    def status(self) -> str:
        return self._stage.name.lower()

    def gauges(self) -> Dict[str, int]:
        up = self._path is not None and self._path.state is State.UP
        return {"paths": int(self._path is not None), "paths up": int(up)}
