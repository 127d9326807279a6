"""Long-lived streams on the loop, on which both sides speak whenever they like.

What waits to be sent is bounded: while there is much of it nothing is read, and the stream of
one that does not read at all ends. When there are too many, one of those that have not proved
anything goes first, and of these the one that was silent for longest.
"""

from __future__ import annotations

import contextlib
import socket
from typing import Callable, List, Protocol

from udppunch.net.acceptor import Acceptor
from udppunch.net.loop import Loop

MOST_STREAMS = 32
MOST_UNSENT = 1 << 22
_MUCH = 65536  # unsent: no more is read for now
_CHUNK = 65536


class Conversation(Protocol):
    """What is said on one stream."""

    @property
    def established(self) -> bool:
        """Whether the other side has proved that it is welcome."""

    def received(self, data: bytes, now: float) -> None: ...


class DuplexStream:
    """Nothing that is asked of it blocks, fails or calls back; once closed it ignores it."""

    def __init__(self, loop: Loop, sock: socket.socket, clock: Callable[[], float]) -> None:
        self.closed = False
        self.active = clock()  # when something came last
        self.conversation: Conversation
        self._loop = loop
        self._sock = sock
        self._clock = clock
        self._unsent = bytearray()
        self._ending = False
        sock.setblocking(False)

    def begin(self, conversation: Conversation) -> None:
        self.conversation = conversation
        self._watch()

    def send(self, data: bytes) -> None:
        if self.closed or self._ending:
            return
        self._unsent += data
        if len(self._unsent) > MOST_UNSENT:
            self.abort()
        else:
            self._watch()

    def close(self) -> None:
        """As soon as everything is sent. Nothing is received any more."""
        if not self.closed:
            self._ending = True
            self._watch()

    def abort(self) -> None:
        if not self.closed:
            self.closed = True
            self._unsent.clear()
            self._loop.unwatch(self._sock)
            self._sock.close()

    def _watch(self) -> None:
        readable = not self._ending and len(self._unsent) < _MUCH
        writable = self._ending or bool(self._unsent)
        self._loop.watch(self._sock, self._ready, readable=readable, writable=writable)

    def _ready(self) -> None:
        try:
            if self._unsent or self._ending:
                self._write()
            if not self._ending and len(self._unsent) < _MUCH:
                self._read()
        except BlockingIOError:
            pass
        except OSError:
            self.abort()

    def _write(self) -> None:
        if self._unsent:
            del self._unsent[: self._sock.send(self._unsent)]
        if self._ending and not self._unsent:
            with contextlib.suppress(OSError):
                self._sock.recv(_CHUNK)  # what is left unread would be told as an error
            self.abort()
        else:
            self._watch()

    def _read(self) -> None:
        data = self._sock.recv(_CHUNK)
        if data:
            self.active = self._clock()
            self.conversation.received(data, self.active)
        else:
            self.close()


class DuplexServer:
    """Takes streams on a listening socket; `converse` says what is to be said on each."""

    def __init__(
        self,
        loop: Loop,
        listener: socket.socket,
        converse: Callable[[DuplexStream, float], Conversation],
        clock: Callable[[], float],
    ) -> None:
        self._loop = loop
        self._acceptor = Acceptor(listener)
        self._converse = converse
        self._clock = clock
        self.streams: List[DuplexStream] = []
        loop.watch(listener, self._accept)

    def _accept(self) -> None:
        sock = self._acceptor.accept()
        if sock is None:
            return
        self.streams = [stream for stream in self.streams if not stream.closed]
        if len(self.streams) >= MOST_STREAMS:
            first = min(self.streams, key=lambda one: (one.conversation.established, one.active))
            first.abort()
        stream = DuplexStream(self._loop, sock, self._clock)
        self.streams.append(stream)
        stream.begin(self._converse(stream, self._clock()))
