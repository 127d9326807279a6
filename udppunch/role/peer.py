"""A named peer: a pipe between this process's input and output and another peer's.

    input, output ── Peer ── a socket for each attempt ── Internet ── the other peer

It waits for whoever asks for its name, or asks for another by name. One that is ours (see
`wire.marks`) gets the input whole and in order; a peer of hole-punch gets lines of text.
"""

from __future__ import annotations

import logging
from collections import Counter
from typing import Callable, Dict, Optional, Protocol, Sequence

from udppunch import address
from udppunch.address import Address
from udppunch.config.people import PeerConfig
from udppunch.contract import Burst, Endpoint, Lookup, Outbox, Route
from udppunch.notices import Notices, event
from udppunch.proto.holepunch.dialogue import Dialogue
from udppunch.proto.holepunch.exchange import Exchange
from udppunch.proto.limiter import TokenBucket
from udppunch.proto.puncher.consent import earliest
from udppunch.proto.puncher.mapping import Mapping
from udppunch.proto.puncher.meeting import Introduction, Meeting, Refusal, Registered, Word
from udppunch.proto.puncher.opening import Habit
from udppunch.proto.puncher.path import CHECK_BURST, CHECK_RATE, Happening, State, Tools
from udppunch.proto.puncher.peer_path import PeerPath
from udppunch.wire import holepunch, marks
from udppunch.wire.malformed import Malformed

log = logging.getLogger(__name__)

_GREETING_GAP = 1.0
_FOR_EVER = 1 << 62
# A peer of hole-punch says something each second or two.
_HABIT = Habit(_GREETING_GAP, _FOR_EVER, 15.0)
# Paths of this role have no idle time of their own: silence is for the applications to judge.
_NEVER_IDLE = 365 * 86400.0
# A path that is lost is sought again for so long, and then the pipe is broken.
_LOST_FOR = 60.0
_FAILED = 1
_UNMARKED = b"of hole-punch"  # in the place of a mark


class Pipe(Protocol):
    """This process's own input and output."""

    def write(self, data: bytes) -> None:
        """Put it out, sooner or later."""

    @property
    def has_room(self) -> bool:
        """Whether the output is being read."""

    def want(self, more: bool) -> None:
        """Whether more input is to be read for now."""

    def finish(self, status: int) -> None:
        """All is done: end the process with that status, once the output is written."""


class Peer:
    def __init__(
        self, config: PeerConfig, outbox: Outbox, random: Callable[[int], bytes], pipe: Pipe
    ) -> None:
        self.counters: "Counter[str]" = Counter()
        self._config = config
        self._outbox = outbox
        self._pipe = pipe
        self._mark = marks.new(random(marks.RANDOM))
        self._tools = Tools(
            outbox, random, TokenBucket(CHECK_RATE, CHECK_BURST), self.counters,
            config.keepalive, _NEVER_IDLE,
        )  # fmt: skip
        self._meeting = Meeting(
            self._tools, config.server, config.bind, self._new_dialogue, self._new_path
        )
        self._exchange = Exchange(config.raw)
        self._remote = config.remote  # empty until somebody came
        self._conversed = b""  # the mark of whom the exchange is with
        self._next_hello: Optional[float] = None
        self._gives_up_at: Optional[float] = None
        self._quits_at: Optional[float] = None
        self._registered = False
        self._finished = False
        self._content = False
        self._notices = Notices(log)

    def _new_dialogue(self, now: float) -> Dialogue:
        return Dialogue(self._config.name, self._mark, now)

    def _new_path(self, mapping: Mapping, now: float) -> PeerPath:
        return PeerPath(self._tools, self._mark, mapping, _HABIT, self._greeting, now)

    def _greeting(self) -> bytes:
        """Until the path is up, with the mark."""
        return self._hello(self._mark)

    def _hello(self, mark: bytes = b"") -> bytes:
        text, _ = holepunch.split(f"Hello from {self._config.name}")
        return holepunch.encode(holepunch.Message(text, mark))

    # Sockets and names

    def start(self, now: float) -> None:
        self._meeting.start(now)
        if self._remote:
            self._meeting.ask(self._remote, now)
        if self._config.wait:
            self._gives_up_at = now + self._config.wait
        self._pipe.want(not self._config.hello)

    def opened(self, endpoint: Endpoint, now: float) -> None:
        self._meeting.opened(endpoint, now)

    def failed(self, endpoint: Endpoint, reason: str, now: float) -> None:
        self._notices.say(now, logging.ERROR, "no-socket", f"no socket for a path: {reason}")
        self._meeting.failed(endpoint, now)

    def resolved(self, lookup: Lookup, found: Sequence[Address], reason: str, now: float) -> None:
        self._meeting.server.insist(found, reason)
        self._meeting.resolved(found, reason, now)

    def refused(self, endpoint: Endpoint, now: float) -> None:
        """Its endpoints are not connected."""

    # This end's input

    def typed(self, data: bytes, now: float) -> None:
        """A piece of the input came."""
        self._exchange.take(data)
        self._pipe.want(self._exchange.wants_input)

    def ended(self, now: float) -> None:
        """The input is over."""
        self._exchange.end()
        if self._config.quit_after is not None:
            self._quits_at = now + self._config.quit_after

    # The way of a datagram

    def receive(self, burst: Burst, now: float) -> None:
        route = Route(burst.endpoint, burst.source)
        for datagram in burst.datagrams():
            if burst.source == self._meeting.server.address:
                word = self._meeting.hear(datagram, route, now)
                if word is not None:
                    self._from_server(word, burst.endpoint, now)
                continue
            path = self._meeting.path
            happening = path.receive(datagram, route, now) if path is not None else None
            if happening is Happening.PAYLOAD:
                self._from_peer(bytes(datagram), now)
            elif happening is Happening.GREETING:
                self._greeted(datagram, route, now)
            else:
                self._after(happening, now)

    def _from_server(self, word: Word, endpoint: Endpoint, now: float) -> None:
        if isinstance(word, Registered):
            seen = f", seen at {address.text(word.seen)}" if word.seen else ""
            said = f"registered as {self._config.name!r} at {self._meeting.server.lookup}{seen}"
            level = logging.DEBUG if self._registered else logging.INFO
            self._registered = True
            event(log, level, "registered", said)
        elif isinstance(word, Refusal):
            event(log, logging.WARNING, "refused", word.text)
        else:
            self._introduced(word, endpoint, now)

    def _introduced(self, word: Introduction, endpoint: Endpoint, now: float) -> None:
        if word.identity != self._remote and not self._config.remote and not self._conversed:
            self._meeting.leave(now)  # who asked before may never come
        elif self._remote and word.identity != self._remote:
            said = f"{word.name!r} asks for this peer, which is busy with {self._remote!r}"
            self._notices.say(now, logging.WARNING, "another", said)
            return
        self._remote = word.identity
        self._meeting.wanted = word.identity
        refusal = self._meeting.introduce(word, endpoint, now)
        if refusal:
            self._notices.say(now, logging.WARNING, "passed-over", refusal)

    def _greeted(self, datagram: memoryview, route: Route, now: float) -> None:
        """Something came from where the peer should be, on a path that is not up yet."""
        try:
            message = holepunch.decode(bytes(datagram))
        except Malformed:
            self.counters["dropped: malformed"] += 1
            return
        path = self._meeting.path
        assert path is not None
        if not isinstance(message, holepunch.Message):
            self.counters["dropped: unexpected"] += 1
        elif message.mark:
            if self._meeting.recognised(route, message.mark, b"", now):
                # The peer may never have heard this end's, behind a NAT that is not as named.
                self._outbox.send(route, self._greeting())
        elif path.pairing is None:
            self._after(path.nominate(route, now), now)
            self._put_out(bytes(datagram), now)

    def _from_peer(self, datagram: bytes, now: float) -> None:
        path = self._meeting.path
        assert path is not None
        path.consent.heard = path.consent.carried = now
        self._put_out(datagram, now)
        self._look_whether_done(now)

    def _put_out(self, datagram: bytes, now: float) -> None:
        try:
            for data in self._exchange.hear(datagram, self._pipe.has_room, now):
                self._pipe.write(data)
        except Malformed:
            self.counters["dropped: malformed"] += 1

    # What comes of it

    def _after(self, happening: Optional[Happening], now: float) -> None:
        if happening is Happening.UP:
            self._up(now)
        elif happening is Happening.LOST:
            event(log, logging.WARNING, "path-lost", f"path to {self._remote!r} is lost; seeking")
            self._meeting.seek_again(now)
            self._meeting.ask(self._remote, now)
            if self._conversed and not self._config.hello:
                self._gives_up_at = now + (self._config.wait or _LOST_FOR)
        elif happening is Happening.CLOSED:
            self._closed(now)

    def _up(self, now: float) -> None:
        path = self._meeting.path
        assert path is not None and path.peer is not None and path.peer.destination is not None
        whom = path.peer_mark or _UNMARKED
        if self._conversed and self._conversed != whom and not self._config.hello:
            self._break(f"{self._remote!r} was started anew: what came before is over")
            return
        self._conversed = whom
        self._gives_up_at = None
        self._meeting.settle(now)
        self._exchange.hurry(now)
        if self._config.hello:
            self._next_hello = now
        where = address.text(path.peer.destination)
        kind = "direct path" if path.pairing else "direct path (not udppunch)"
        said = f"{kind} to {self._remote!r} at {where}"
        event(log, logging.INFO, "path-up", said, peer=where, remote=self._remote)

    def _closed(self, now: float) -> None:
        """Either end was done, or the other one was stopped."""
        path = self._meeting.path
        content = path is not None and path.peer_content
        if self._config.hello:
            self._meeting.path = None
            if self._config.remote:
                self._meeting.ask(self._config.remote, now)
        elif self._exchange.is_over(content):
            self._finish(0)
        else:
            self._break(f"{self._remote!r} has gone")

    def _look_whether_done(self, now: float) -> None:
        path = self._meeting.path
        if path is not None and path.state is State.UP:
            if self._exchange.said_all and self._exchange.heard_end:
                self._after(path.close(now, content=True), now)

    def _break(self, why: str) -> None:
        undelivered = "; some of the input did not arrive" if self._exchange.undelivered else ""
        event(log, logging.ERROR, "broken", f"{why}{undelivered}")
        self._finish(_FAILED)

    def _finish(self, status: int) -> None:
        if not self._finished:
            self._finished = True
            self._content = status == 0
            self._pipe.finish(status)

    # Time

    def expire(self, now: float) -> None:
        self._after(self._meeting.expire(now), now)
        self._judge_silence(now)
        path = self._meeting.path
        if path is not None and path.state is State.UP and path.peer is not None:
            self._say(path, path.peer, now)
            self._look_whether_done(now)
        if self._gives_up_at is not None and now >= self._gives_up_at:
            self._gives_up_at = None
            if self._exchange.heard_end and not self._exchange.undelivered:
                self._finish(0)  # all that the other end could still say is goodbye
            else:
                self._break("no path was found in time")
        if self._quits_at is not None and now >= self._quits_at:
            self._quits_at = None
            if self._exchange.undelivered:
                self._break("the other end did not take all of the input in time")
            else:
                self._finish(0)
        self._pipe.want(self._exchange.wants_input and not self._config.hello)

    def _judge_silence(self, now: float) -> None:
        if self._meeting.silent:
            self._registered = False
            said = f"server {self._meeting.server.lookup} does not answer; asking on"
            self._notices.say(now, logging.WARNING, "server-silent", said)
        else:
            self._notices.forget("server-silent")

    def _say(self, path: PeerPath, route: Route, now: float) -> None:
        said = self._exchange.due(path.pairing is not None, now)
        if self._next_hello is not None and now >= self._next_hello:
            self._next_hello = now + _GREETING_GAP
            said = [*said, self._hello()]
        for datagram in said:
            self._outbox.send(route, datagram)
        if said:
            path.carries(now)

    def deadline(self) -> Optional[float]:
        deadline = earliest(self._meeting.deadline(), self._gives_up_at, self._quits_at)
        path = self._meeting.path
        if path is None or path.state is not State.UP:
            return deadline
        exchange = self._exchange.deadline(path.pairing is not None)
        return earliest(deadline, exchange, self._next_hello)

    def stop(self, now: float) -> None:
        self._meeting.stop(now, content=self._content)

    def status(self) -> str:
        path = self._meeting.path
        if path is None:
            return f"waiting for {self._remote!r}" if self._remote else "waiting"
        return f"{path.state.value} {self._remote!r}"

    def gauges(self) -> Dict[str, int]:
        path = self._meeting.path
        return {"paths up": int(path is not None and path.state is State.UP)}
