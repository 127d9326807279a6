"""A tab of a browser, at the other end of a WebSocket: it is told everything, and may ask.

It is pinged, so that one that is gone is noticed. What it says is bounded, and nothing but the
commands: one that says anything else is sent away with a code of RFC 6455.
"""

from __future__ import annotations

from typing import Protocol

from wsproto import WSConnection
from wsproto.events import BytesMessage, CloseConnection, Event, Ping, TextMessage
from wsproto.frame_protocol import CloseReason

from udppunch.proto.web.stream import HASTE, Stream

MOST_OF_MESSAGE = 65536  # characters
PING_EACH = 20.0  # seconds
DEAD_AFTER = 60.0


class Conversation(Protocol):
    """What the tabs show; the site."""

    def whole(self) -> str: ...

    def asked(self, message: str, now: float) -> str: ...


class Tab:
    """`websocket` is accepted already. `due` is when `expire` is wanted next."""

    def __init__(
        self, conversation: Conversation, stream: Stream, websocket: WSConnection, now: float
    ) -> None:
        self.due = now + PING_EACH
        self._conversation = conversation
        self._stream = stream
        self._websocket = websocket
        self._heard = now
        self._message = ""
        self._dismissed = False
        self.tell(conversation.whole())

    def tell(self, message: str) -> None:
        if not self._dismissed:
            self._stream.send(self._websocket.send(TextMessage(data=message)))

    def received(self, data: bytes, now: float) -> None:
        self._heard = now
        self._websocket.receive_data(data)
        for event in self._websocket.events():
            if isinstance(event, CloseConnection):
                self._end(event)
                return
            if not self._dismissed:
                self._meet(event, now)

    def expire(self, now: float) -> None:
        if self._dismissed or now - self._heard >= DEAD_AFTER:
            self._stream.abort()
            return
        self._stream.send(self._websocket.send(Ping()))
        self.due = now + PING_EACH

    def _meet(self, event: Event, now: float) -> None:
        if isinstance(event, Ping):
            self._stream.send(self._websocket.send(event.response()))
        elif isinstance(event, TextMessage):
            self._gather(event, now)
        elif isinstance(event, BytesMessage):
            self._dismiss(CloseReason.UNSUPPORTED_DATA, now)

    def _gather(self, event: TextMessage, now: float) -> None:
        self._message += event.data
        if len(self._message) > MOST_OF_MESSAGE:
            self._dismiss(CloseReason.MESSAGE_TOO_BIG, now)
        elif event.message_finished:
            message, self._message = self._message, ""
            self._obey(message, now)

    def _obey(self, message: str, now: float) -> None:
        try:
            answer = self._conversation.asked(message, now)
        except ValueError:
            self._dismiss(CloseReason.POLICY_VIOLATION, now)
            return
        if answer:
            self.tell(answer)

    def _dismiss(self, code: CloseReason, now: float) -> None:
        """It is told why, and then to close is its part, so that the code surely arrives."""
        self._dismissed = True
        self._stream.send(self._websocket.send(CloseConnection(code=code)))
        self.due = now + HASTE

    def _end(self, event: CloseConnection) -> None:
        """It goes, or what it said was no WebSocket's."""
        if not self._dismissed:
            self._stream.send(self._websocket.send(event.response()))
        self._dismissed = True
        self._stream.close()
