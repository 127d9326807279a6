"""The chat: one person's side of a conversation with a peer who is known by id.

    a Screen ── Chat ── a socket for each attempt ── Internet ── the peer

What is said is sealed with a key that only the two ends have, whose public parts their ids are
the hashes of: nobody between them, the server included, can read it or stand in for either.
"""

from __future__ import annotations

import dataclasses
import logging
from collections import Counter
from typing import Callable, Dict, Optional, Sequence

from udppunch import address
from udppunch.address import Address
from udppunch.config.people import ChatConfig
from udppunch.contract import Burst, Endpoint, Lookup, Outbox, Route
from udppunch.notices import event
from udppunch.proto.chat.conversation import Conversation, Replayed
from udppunch.proto.chat.dialogue import Dialogue
from udppunch.proto.chat.display import Display
from udppunch.proto.chat.secrets import Secrets
from udppunch.proto.chat.view import LEFT, SILENT, Peer, Refused, Screen, State, Status, checked
from udppunch.proto.limiter import TokenBucket
from udppunch.proto.puncher import path as paths
from udppunch.proto.puncher.consent import earliest
from udppunch.proto.puncher.mapping import Mapping, why_no_path
from udppunch.proto.puncher.meeting import Introduction, Meeting, Registered, Word
from udppunch.proto.puncher.opening import Habit
from udppunch.proto.puncher.path import Happening, Tools
from udppunch.proto.puncher.peer_path import PeerPath
from udppunch.wire import chat, marks
from udppunch.wire.chat import Message
from udppunch.wire.malformed import Malformed

log = logging.getLogger(__name__)

# A peer of the original greets five times, and answers each greeting for as long as it lives.
_HABIT = Habit(3.0, 5, 50.0)
_GREETED_EACH = 15.0
_GREETED_AT_MOST = 1.0
_NEVER_IDLE = 365 * 86400.0
# So long a path is sought before people are told why it does not come up.
_PATIENCE = 20.0
# And so long one that was lost, before it is called silent; it is sought on all the same.
_LOST_FOR = 60.0
_UNDER_WAY = 256
_GREETING = 300  # octets, or its answer would be longer
_SOUGHT = (State.ESTABLISHING, State.PUNCHING)
_BUSY = (*_SOUGHT, State.DIRECT, State.GONE)


class Chat:
    """A `view.Commands`. `wall` gives seconds since 1970."""

    def __init__(
        self,
        config: ChatConfig,
        outbox: Outbox,
        random: Callable[[int], bytes],
        wall: Callable[[], float],
    ) -> None:
        self.counters: "Counter[str]" = Counter()
        self._display: Display
        self._config = config
        self._outbox = outbox
        self._random = random
        self._wall = wall
        self._secrets = Secrets(random)
        self._mark = marks.new(random(marks.RANDOM))
        self._tools = Tools(
            outbox, random, TokenBucket(paths.CHECK_RATE, paths.CHECK_BURST), self.counters,
            config.keepalive, _NEVER_IDLE,
        )  # fmt: skip
        self._meeting = Meeting(
            self._tools, config.server, config.bind, self._new_dialogue, self._new_path
        )
        self._conversation: Optional[Conversation] = None
        self._conversations = 0
        self._name = ""
        self._id = chat.peer_id(self._secrets.keys.public)
        self._fails_at: Optional[float] = None
        self._greets_at: Optional[float] = None
        self._greeted_at = float("-inf")
        self._given_up_at: Optional[float] = None

    def join(self, screen: Screen) -> None:
        """Once, before the loop runs."""
        own = chat.fingerprint(self._secrets.keys.public)
        status = Status(State.UNNAMED, str(self._config.server), "", self._id, own)
        self._display = Display(screen, status, self.counters, self._wall)

    @property
    def _status(self) -> Status:
        return self._display.status

    def _new_dialogue(self, now: float) -> Dialogue:
        return Dialogue(self._name, self._mark, self._secrets.keys, self._random, now)

    def _new_path(self, mapping: Mapping, now: float) -> PeerPath:
        return PeerPath(self._tools, self._mark, mapping, _HABIT, self._greeting, now)

    def _greeting(self) -> bytes:
        greeting = Message("connect", self._id, version=chat.VERSION, mark=self._mark)
        return chat.encode(greeting, _GREETING)

    # What people ask for

    def rename(self, name: str, now: float) -> None:
        name = checked(chat.check_name, name)
        if self._status.state in _BUSY:
            raise Refused("reset first: the other one knows you by your present name")
        named = self._status.state is not State.UNNAMED
        self._name = name
        self._display.name(name)
        if named:
            self._meeting.leave(now)
            self._meeting.begin_anew(now)
        else:
            self._meeting.start(now)

    def connect(self, peer_id: str, now: float) -> None:
        identity = checked(chat.check_id, peer_id)
        if identity == self._id:
            raise Refused("that is your own id: the other one needs it")
        if self._status.state in (State.UNNAMED, State.REGISTERING):
            raise Refused("not registered yet")
        if self._status.state in (State.DIRECT, State.GONE):
            raise Refused("reset first: there is a conversation already")
        self._fails_at = None
        self._meeting.leave(now)
        self._display.become(State.ESTABLISHING, peer=Peer(identity))
        self._meeting.ask(identity, now)

    def say(self, text: str, now: float) -> None:
        text = checked(chat.check_text, text)
        path, conversation = self._meeting.path, self._conversation
        if self._status.state not in (State.DIRECT, State.GONE) or conversation is None:
            raise Refused("there is nobody to hear it yet")
        assert path is not None
        if path.pairing is not None:
            if conversation.under_way >= _UNDER_WAY:
                raise Refused("too much is under way already: wait for some of it to arrive")
            self._display.lines.say(conversation.say(text), text)
        elif self._status.state is State.GONE or path.peer is None:
            raise Refused("the peer does not answer")
        else:
            self._outbox.send(path.peer, conversation.say_once(text))
            self._display.lines.say_unconfirmed(text)

    def reset(self, now: float) -> None:
        if self._status.state in (State.UNNAMED, State.REGISTERING):
            raise Refused("there is no conversation")
        self._meeting.leave(now)
        self._end_conversation()
        self._display.lines.clear()
        self._display.become(State.READY)

    # Sockets and names

    def start(self, now: float) -> None:
        """Nothing is done before there is a name."""

    def opened(self, endpoint: Endpoint, now: float) -> None:
        self._meeting.opened(endpoint, now)

    def failed(self, endpoint: Endpoint, reason: str, now: float) -> None:
        self._display.tell("no-socket", f"no socket for a path: {reason}", now)
        self._meeting.failed(endpoint, now)

    def resolved(self, lookup: Lookup, found: Sequence[Address], reason: str, now: float) -> None:
        if not found:
            self._display.tell("unresolved", f"server {lookup}: {reason}; trying on", now)
        self._meeting.resolved(found, reason, now)

    def refused(self, endpoint: Endpoint, now: float) -> None:
        """Its endpoints are not connected."""

    # The way of a datagram

    def receive(self, burst: Burst, now: float) -> None:
        route = Route(burst.endpoint, burst.source)
        for datagram in burst.datagrams():
            if burst.source == self._meeting.server.address:
                self._from_server(self._meeting.hear(datagram, route, now), burst.endpoint, now)
                continue
            path = self._meeting.path
            happening = path.receive(datagram, route, now) if path is not None else None
            if path is not None and happening in (Happening.PAYLOAD, Happening.GREETING):
                if happening is Happening.PAYLOAD:
                    path.consent.heard = path.consent.carried = now
                self._from_peer(path, bytes(datagram), route, now)
            else:
                self._after(happening, now)

    def _from_server(self, word: Optional[Word], endpoint: Endpoint, now: float) -> None:
        if isinstance(word, Registered):
            if self._status.state is State.REGISTERING:
                self._display.become(State.READY)
        elif isinstance(word, Introduction):
            self._introduced(word, endpoint, now)
        elif (
            word is not None
            and word.final
            and self._status.state in (State.ESTABLISHING, State.PUNCHING)
        ):
            self._display.become(State.FAILED, word.text)
            self._meeting.leave(now)
        elif word is not None:
            self._display.notice(f"the server says: {word.text}")

    def _introduced(self, word: Introduction, endpoint: Endpoint, now: float) -> None:
        peer, state, path = self._status.peer, self._status.state, self._meeting.path
        another = peer is not None and peer.id != word.identity
        if another and state in _BUSY:
            self._display.tell(word.identity, f"{word.name} wants to talk, id {word.identity}", now)
            return
        if another:
            self._meeting.leave(now)
            path = None
        refusal = self._meeting.introduce(word, endpoint, now)
        if refusal and state in (State.DIRECT, State.GONE):
            self._display.tell("introduction", refusal, now)
            return
        if refusal:
            self._display.become(State.FAILED, refusal)
            return
        self._meeting.wanted = word.identity
        peer = self._display.peer_of(word)
        if word.public_key:
            self._secrets.learn(word.identity, word.public_key)
        if path is self._meeting.path:
            self._display.become(state, self._status.reason, peer=peer)
            return
        self._fails_at = now + _PATIENCE
        self._display.become(State.PUNCHING, peer=peer)

    def _from_peer(self, path: PeerPath, datagram: bytes, route: Route, now: float) -> None:
        peer = self._status.peer
        if peer is None:
            return
        try:
            message, sealed = self._secrets.open(peer.id, datagram)
        except Replayed:
            self._display.count("replayed", "a message came a second time: passed over", now)
            return
        except Malformed:
            self._display.count(
                "malformed", "something came that could not be read: passed over", now
            )
            return
        if message.type == "connect":
            self._connected(route)
            if path.state is not paths.State.UP and now >= self._greeted_at + _GREETED_AT_MOST:
                # Where the peer really is, behind a NAT that is not as named.
                self._greeted_at = now
                self._outbox.send(route, self._greeting())
        elif message.type == "key":
            self._key(path, peer, message, route, now)
        elif message.type == "message":
            self._message(path, message, sealed, now)
        elif message.type == "ack" and sealed and self._conversation is not None:
            self._display.lines.delivered(self._conversation.acknowledged(message, now))
        elif message.error:
            if path.pairing is None:
                self._connected(route)  # it may have forgotten this end's key
            self._display.tell("unread", f"the peer's program says: {message.error[:200]}", now)

    def _connected(self, route: Route) -> None:
        """The peer greets: it is told this end's key."""
        key, own = chat.to_base64(self._secrets.keys.public), self._id
        message = Message("key", own, data=key, version=chat.VERSION, mark=self._mark)
        self._outbox.send(route, chat.encode(message))

    def _key(self, path: PeerPath, peer: Peer, message: Message, route: Route, now: float) -> None:
        try:
            public = chat.public_key_of(message)
            secret = self._secrets.learn(peer.id, public)
        except Malformed:
            said = "a key came that is not the peer's: somebody else may have answered; refused"
            self._display.count("wrong key", said, now)
            return
        self._display.know(chat.fingerprint(public))
        if path.state is paths.State.UP:
            return
        if message.version and message.mark:
            self._meeting.recognised(route, message.mark, secret, now)
        elif path.pairing is None:
            self._after(path.nominate(route, now), now)

    def _message(self, path: PeerPath, message: Message, sealed: bool, now: float) -> None:
        conversation = self._conversation
        text = message.data
        if conversation is None or path.state is not paths.State.UP or not isinstance(text, str):
            self.counters["dropped: unexpected"] += 1
        elif sealed and message.seq:
            for line in conversation.heard(message):
                self._display.lines.heard(line)
        elif path.pairing is None:
            self._display.lines.heard(text, plain=not sealed)
        else:
            self._display.count("unsealed", "a message came unencrypted: passed over", now)

    # What comes of it

    def _after(self, happening: Optional[Happening], now: float) -> None:
        if happening is Happening.UP:
            self._up(now)
        elif happening is Happening.LOST:
            self._display.become(State.GONE, "no answer any more; seeking on")
            self._given_up_at = now + _LOST_FOR
            self._meeting.seek_again(now)
        elif happening is Happening.CLOSED:
            self._meeting.path = None
            self._end_conversation()
            self._display.become(State.GONE, LEFT)

    def _up(self, now: float) -> None:
        path, peer = self._meeting.path, self._status.peer
        assert path is not None and path.peer is not None and path.peer.destination is not None
        assert peer is not None
        self._meeting.settle(now)
        self._fails_at = None
        self._given_up_at = None
        self._greets_at = None
        if path.pairing is None:
            self._greets_at = now + _GREETED_EACH
            self._connected(path.peer)  # its greeting may have been lost, and so this end's key
        if self._conversation is None:
            self._conversations += 1
            self._conversation = Conversation(
                self._secrets.with_peer(peer.id), self._id, peer.id, self._conversations
            )
        self._conversation.hurry(now)
        where = address.text(path.peer.destination)
        event(log, logging.INFO, "path-up", f"direct path to {where}", peer=where)
        reason = "" if path.pairing else "not udppunch: what is said is sent once, unconfirmed"
        self._display.become(State.DIRECT, reason, peer=dataclasses.replace(peer, address=where))

    def _end_conversation(self) -> None:
        self._conversation = None
        self._fails_at = self._greets_at = self._given_up_at = None
        self._display.lines.lose()

    # Time

    def expire(self, now: float) -> None:
        if self._status.state is State.UNNAMED:
            return
        self._after(self._meeting.expire(now), now)
        path = self._meeting.path
        if path is not None and path.state is paths.State.UP and path.peer is not None:
            self._say(path, path.peer, now)
        elif path is not None and path.gave_up and self._status.state is State.PUNCHING:
            self._display.become(State.FAILED, f"no answer to {_HABIT.most} greetings")
        elif self._fails_at is not None and now >= self._fails_at:
            self._fails_at = None
            why = why_no_path(self._meeting.mapping, path.named if path is not None else None)
            self._display.become(State.FAILED, f"{why}; trying on, ever more slowly")
        if self._given_up_at is not None and now >= self._given_up_at:
            self._given_up_at = None
            self._display.become(State.GONE, SILENT)
        if self._meeting.silent:
            self._display.tell(
                "silent", f"server {self._status.server} does not answer; asking on", now
            )

    def _say(self, path: PeerPath, route: Route, now: float) -> None:
        if path.pairing is not None and self._conversation is not None:
            said = self._conversation.due(now)
            for datagram in said:
                self._outbox.send(route, datagram)
            if said:
                path.carries(now)
        elif self._greets_at is not None and now >= self._greets_at:
            self._greets_at = now + _GREETED_EACH
            self._outbox.send(route, self._greeting())

    def deadline(self) -> Optional[float]:
        if self._status.state is State.UNNAMED:
            return None
        deadline = earliest(self._meeting.deadline(), self._fails_at, self._given_up_at)
        path = self._meeting.path
        if path is None or path.state is not paths.State.UP:
            return deadline
        if path.pairing is None or self._conversation is None:
            return earliest(deadline, self._greets_at)
        return earliest(deadline, self._conversation.deadline())

    def stop(self, now: float) -> None:
        if self._status.state is not State.UNNAMED:
            self._meeting.stop(now)

    def status(self) -> str:
        return self._status.state.value

    def gauges(self) -> Dict[str, int]:
        return {"paths up": int(self._status.state is State.DIRECT)}
