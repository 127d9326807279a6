"""The chat's server: tells two peers where each other is, of whom one knows the other's id.

It never sees what they say. An id is the hash of a public key, so that no server and nobody else
can stand in for a peer; who registers sealed, as ours do, has proved the key, and is not replaced
by anybody who has not.
"""

from __future__ import annotations

import logging
from collections import Counter, OrderedDict
from dataclasses import dataclass
from typing import Callable, Dict, List, Optional, Sequence, Tuple

from udppunch import address
from udppunch.address import Address
from udppunch.config.roles import ChatServerConfig
from udppunch.contract import Burst, Endpoint, Lookup, Outbox, Route
from udppunch.notices import Notices, event
from udppunch.proto import cookie
from udppunch.proto.gate import Gate
from udppunch.proto.limiter import TokenBucket
from udppunch.proto.register import Register
from udppunch.wire import chat, secrecy
from udppunch.wire.chat import Established, Message
from udppunch.wire.malformed import Malformed

log = logging.getLogger(__name__)

_SWEEP = 60.0
# A client of the original registers once, and its NAT forgets this server long before.
_EXPIRES = 3600.0
_TOLD_EACH = 60.0
# Else two servers could be made to greet each other for ever: the answer looks like a question.
_GREETED_EACH = 0.3
_LINES_RATE = 1.0
_LINES_BURST = 20.0


@dataclass(frozen=True)
class _Registration:
    """`name` is the id. `proved`: whoever registered it has its private key."""

    name: str
    username: str
    public_key: bytes
    mark: bytes
    proved: bool
    secret: bytes
    route: Route
    address: Address
    heard: float


@dataclass(eq=False)
class _Greeted:
    """What is known of an address that greeted."""

    public_key: bytes
    secret: bytes
    at: float
    proved: bool = False


class _Refused(Exception):
    """Answered with its text."""


class ChatServer:
    def __init__(
        self, config: ChatServerConfig, outbox: Outbox, random: Callable[[int], bytes]
    ) -> None:
        self.counters: "Counter[str]" = Counter()
        self._outbox = outbox
        self._random = random
        self._keys = secrecy.KeyPair(random(secrecy.PRIVATE_LENGTH))
        self._cookies = random(cookie.SECRET)
        self._most = config.max_ids
        self._greeted: "OrderedDict[Address, _Greeted]" = OrderedDict()
        self._told: "OrderedDict[Tuple[str, str, Address], float]" = OrderedDict()
        self._register: Register[_Registration] = Register(config.max_ids)
        self._gate = Gate(config.rate, chat.LARGEST, self.counters, log)
        self._notices = Notices(log)
        self._lines = TokenBucket(_LINES_RATE, _LINES_BURST)
        self._endpoints: List[Endpoint] = [
            Endpoint("chat", listen, asked_address=True, essential=True) for listen in config.listen
        ]
        self._next_sweep: Optional[float] = None

    def start(self, now: float) -> None:
        for endpoint in self._endpoints:
            self._outbox.open(endpoint)
        self._next_sweep = now + _SWEEP

    def opened(self, endpoint: Endpoint, now: float) -> None:
        assert endpoint.local is not None
        self._gate.own.append(endpoint.local)
        where = address.text(endpoint.local)
        event(log, logging.INFO, "listening", f"chat listens on {where}", address=where)

    def failed(self, endpoint: Endpoint, reason: str, now: float) -> None:
        """All its endpoints are essential."""

    def resolved(self, lookup: Lookup, found: Sequence[Address], reason: str, now: float) -> None:
        """It asks for no names."""

    def refused(self, endpoint: Endpoint, now: float) -> None:
        """Its endpoints are not connected."""

    # The way of a datagram

    def receive(self, burst: Burst, now: float) -> None:
        for datagram in burst.datagrams():
            known = burst.source in self._greeted
            if self._gate.refuses(burst, datagram, known, now):
                continue
            route = Route(burst.endpoint, burst.source, burst.local)
            try:
                message, sealed = self._open(bytes(datagram), burst.source)
            except Malformed as error:
                self._gate.drop(f"malformed ({error})", burst.source, now)
                self._send(route, Message("", error="Malformed payload was sent"), len(datagram))
                continue
            try:
                self._answer(message, sealed, route, burst.source, len(datagram), now)
            except _Refused as refusal:
                self.counters["refused"] += 1
                self._send(route, Message(message.type, error=str(refusal)), len(datagram))

    def _open(self, datagram: bytes, source: Address) -> Tuple[Message, bool]:
        """The message, and whether it was sealed. Raises Malformed."""
        try:
            return chat.decode(datagram), False
        except Malformed:
            greeted = self._greeted.get(source)
            if greeted is None:
                raise
        return chat.decode(secrecy.unseal(greeted.secret, datagram)), True

    def _answer(
        self,
        message: Message,
        sealed: bool,
        route: Route,
        source: Address,
        octets: int,
        now: float,
    ) -> None:
        if message.error:
            # An answer of another server's: answering that would start a loop.
            self._gate.drop("not a request", source, now)
        elif message.type == "greeting":
            self._greet(message, route, source, octets, now)
        elif message.type == "register":
            self._enter(message, sealed, route, source, octets, now)
        elif message.type == "establish":
            self._establish(message, source, octets, now)
        else:
            raise _Refused(f"Request type {message.type[:32]} undefined")

    def _greet(
        self, message: Message, route: Route, source: Address, octets: int, now: float
    ) -> None:
        if message.nonce:
            # Another server's answer, to a request that somebody forged in this one's name.
            self._gate.drop("not a request", source, now)
            return
        try:
            public = chat.public_key_of(message)
            secret = self._keys.secret(public)
        except Malformed:
            raise _Refused("greeting request must contain client's public key") from None
        known = self._greeted.pop(source, None)
        if known is None or known.public_key != public:
            known = _Greeted(public, secret, now)
        elif now - known.at < _GREETED_EACH:
            self._greeted[source] = known
            self._gate.drop("duplicate", source, now)
            return
        known.at = now
        self._greeted[source] = known
        if len(self._greeted) > self._most:
            self._greeted.popitem(last=False)
        self.counters["greeted"] += 1
        answer = Message("greeting", data=chat.to_base64(self._keys.public))
        if message.version:
            nonce = str(cookie.issue(self._cookies, source, now))
            answer = Message("greeting", data=answer.data, version=chat.VERSION, nonce=nonce)
        self._send(route, answer, octets)

    def _enter(
        self,
        message: Message,
        sealed: bool,
        route: Route,
        source: Address,
        octets: int,
        now: float,
    ) -> None:
        greeted = self._greeted.get(source)
        if greeted is None:
            raise _Refused("greet first: no public key of this address is known")
        data = message.data if isinstance(message.data, dict) else {}
        try:
            username = chat.check_name(str(data.get("username", "")))
            public = chat.public_key(data.get("publicKey"))
        except (ValueError, Malformed) as error:
            raise _Refused(str(error)) from None
        if public != greeted.public_key or message.peer_id != chat.peer_id(public):
            raise _Refused("the id is not the hash of the public key")
        if sealed and not greeted.proved:
            greeted.proved = message.nonce.isdecimal() and cookie.is_good(
                self._cookies, int(message.nonce[:20]) % (1 << 64), source, now
            )
        proved = sealed and greeted.proved
        holder = self._register.named(message.peer_id)
        if holder is not None and holder.proved and not proved:
            raise _Refused("this id is registered by who proved its key")
        if holder is None or holder.address != source:
            where = address.text(source)
            event(log, logging.DEBUG, "register", f"{username!r} is at {where}", peer=where)
        self.counters["registered"] += 1
        self._register.enter(
            _Registration(
                message.peer_id,
                username,
                public,
                message.mark,
                proved,
                greeted.secret,
                route,
                source,
                now,
            )
        )
        self._send_sealed(greeted.secret, route, Message("register", mark=message.mark), octets)

    def _establish(self, message: Message, source: Address, octets: int, now: float) -> None:
        asker = self._register.named(message.peer_id)
        if asker is None or asker.address != source:
            raise _Refused("client is not registered with this server")
        if asker.mark and octets < chat.PADDED:
            self._gate.drop("shorter than its answer", source, now)
            return
        identity = message.data if isinstance(message.data, str) else ""
        asked = self._register.named(identity)
        if asked is None or asked is asker:
            raise _Refused(f"The peer: {identity[:64]} has not registered with the server.")
        self.counters["introduced"] += 1
        where = [address.text(one.address) for one in (asker, asked)]
        event(
            log, logging.INFO if self._lines.take(now) else logging.DEBUG, "introduced",
            f"{asker.username!r} at {where[0]} meets {asked.username!r} at {where[1]}",
            asker=where[0], asked=where[1],
        )  # fmt: skip
        if not self._gate.may_tell(asked.address, now):
            self.counters["introductions over their rate"] += 1
        elif asked.mark or self._is_news(asked, asker, now):
            self._introduce(asked, asker)
        self._introduce(asker, asked)

    def _is_news(self, receiver: _Registration, other: _Registration, now: float) -> bool:
        """Whether an original has to be told: told again, it forgets the other's key."""
        told = (receiver.name, other.name, other.address)
        before = self._told.pop(told, float("-inf"))
        self._told[told] = now if now - before >= _TOLD_EACH else before
        if len(self._told) > self._most:
            self._told.popitem(last=False)
        return now - before >= _TOLD_EACH

    def _introduce(self, receiver: _Registration, other: _Registration) -> None:
        said = Established(other.name, other.username, other.address)
        if receiver.mark:
            said = Established(
                other.name, other.username, other.address,
                other.public_key, other.mark, receiver.address,
            )  # fmt: skip
        self._send_sealed(receiver.secret, receiver.route, chat.of_established(said), chat.LARGEST)

    def _send(self, route: Route, message: Message, octets: int) -> None:
        """No longer than what it answers, from whoever that was."""
        datagram = chat.encode(message)
        if len(datagram) <= octets:
            self._outbox.send(route, datagram)
        else:
            self.counters["dropped: shorter than its answer"] += 1

    def _send_sealed(self, secret: bytes, route: Route, message: Message, octets: int) -> None:
        nonce = self._random(secrecy.NONCE_LENGTH)
        datagram = secrecy.seal(secret, nonce, chat.encode(message))
        if len(datagram) <= octets:
            self._outbox.send(route, datagram)

    def expire(self, now: float) -> None:
        self._register.expire(now - _EXPIRES)
        self._next_sweep = now + _SWEEP

    def deadline(self) -> Optional[float]:
        return self._next_sweep

    def stop(self, now: float) -> None:
        """There is no word for it on this wire: peers notice and register again elsewhere."""

    def status(self) -> str:
        return f"{len(self._register)} ids, {self.counters['introduced']} introductions"

    def gauges(self) -> Dict[str, int]:
        return {"ids": len(self._register)}
