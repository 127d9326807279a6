"""Byte streams on the loop: those who ask a daemon what it does, over UNIX or TCP sockets.

They are few, slow and not trusted: each may say a bounded number of bytes, what it is told waits
until it reads, and the oldest goes when there are too many.
"""

from __future__ import annotations

import contextlib
import socket
from typing import Callable, List, Protocol

from udppunch.net.acceptor import Acceptor
from udppunch.net.loop import Loop

_MOST_STREAMS = 32
_CHUNK = 65536


class Conversation(Protocol):
    """What is said on one stream."""

    def received(self, data: bytes) -> bytes:
        """More has come (nothing: that was all). The answer, after which the stream ends; or
        nothing yet."""


class Stream:
    def __init__(
        self, loop: Loop, sock: socket.socket, conversation: Conversation, most: int
    ) -> None:
        self._loop = loop
        self._sock = sock
        self._conversation = conversation
        self._left = most
        self._answer = b""
        self.closed = False
        sock.setblocking(False)
        loop.watch(sock, self._ready)

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self._loop.unwatch(self._sock)
            self._sock.close()

    def _ready(self) -> None:
        try:
            if self._answer:
                self._write()
            else:
                self._read()
        except BlockingIOError:
            pass
        except OSError:
            self.close()

    def _read(self) -> None:
        data = self._sock.recv(_CHUNK)
        self._left -= len(data)
        if self._left < 0:
            self.close()
            return
        self._answer = self._conversation.received(data)
        if self._answer:
            self._write()
        elif not data:
            self.close()

    def _write(self) -> None:
        sent = self._sock.send(self._answer)
        self._answer = self._answer[sent:]
        if self._answer:
            self._loop.watch(self._sock, self._ready, readable=False, writable=True)
            return
        with contextlib.suppress(OSError):
            self._sock.recv(_CHUNK)  # what is left unread would be told to the peer as an error
        self.close()


class StreamServer:
    """Takes streams on a listening socket, and gives each a conversation."""

    def __init__(
        self,
        loop: Loop,
        listener: socket.socket,
        converse: Callable[[], Conversation],
        most_octets: int,
    ) -> None:
        self._loop = loop
        self._acceptor = Acceptor(listener)
        self._converse = converse
        self._most_octets = most_octets
        self._streams: List[Stream] = []
        loop.watch(listener, self._accept)

    def _accept(self) -> None:
        self._streams = [stream for stream in self._streams if not stream.closed]
        sock = self._acceptor.accept()
        if sock is None:
            return
        if len(self._streams) >= _MOST_STREAMS:
            # The one that came first has had its time.
            self._streams.pop(0).close()
        self._streams.append(Stream(self._loop, sock, self._converse(), self._most_octets))
