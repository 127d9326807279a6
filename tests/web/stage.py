"""A chat without a network, its page on a real socket, and a loop that runs when a test waits."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections import Counter
from typing import Any, Callable, List, Optional

from udppunch import web
from udppunch.net.duplex import DuplexServer
from udppunch.net.loop import Loop
from udppunch.proc.ticker import Endpointless
from udppunch.proto.chat.view import Line, Mark, Peer, Refused, Screen, State, Status
from udppunch.proto.web.site import Site

PATIENCE = 20.0
OWN_ID = "5f" * 32
PEER_ID = "c3" * 32
SERVER = "chat.example.org:9001"
_FINGERPRINT = "b1946 ac924 92d23 47c6b 235b4 d2611"


class FakeChat:
    """Takes commands as the chat does, and does at once what the test says."""

    def __init__(self) -> None:
        self.screen: Screen
        self.status = Status(State.UNNAMED, SERVER)
        self.said: List[str] = []
        self._lines: List[Line] = []

    def become(self, state: State, **more: Any) -> None:
        kept = {
            key: getattr(self.status, key)
            for key in ("server", "name", "id", "fingerprint", "peer")
        }
        self.status = Status(state, **{**kept, **more})
        self.screen.status(self.status)

    def meet(self, name: str = "Bob") -> None:
        self.become(
            State.DIRECT,
            peer=Peer(PEER_ID, name, _FINGERPRINT[::-1], "203.0.113.7:40123"),
        )

    def put(self, text: str, mark: Mark) -> int:
        mine = mark not in (Mark.RECEIVED, Mark.PLAIN)
        line = Line(len(self._lines) + 1, mine, text, mark, 1_700_000_000.0)
        self._lines.append(line)
        self.screen.line(line)
        return line.number

    def mark(self, number: int, mark: Mark) -> None:
        before = self._lines[number - 1]
        line = Line(number, before.mine, before.text, mark, before.at)
        self._lines[number - 1] = line
        self.screen.line(line)

    # --- Commands -------------------------------------------------------------------------

    def rename(self, name: str, now: float) -> None:
        if not 1 <= len(name) <= 32:
            raise Refused("A name has 1 to 32 characters.")
        state = State.READY if self.status.state is State.UNNAMED else self.status.state
        self.become(state, name=name, id=OWN_ID, fingerprint=_FINGERPRINT)

    def connect(self, peer_id: str, now: float) -> None:
        if peer_id == self.status.id:
            raise Refused("This is your own id.")
        if len(peer_id) != 64:
            raise Refused("An id has 64 characters, 0 to 9 and a to f.")
        self.become(State.PUNCHING, peer=Peer(peer_id))

    def say(self, text: str, now: float) -> None:
        if self.status.state is not State.DIRECT:
            raise Refused("There is nobody to talk to yet.")
        self.said.append(text)
        self.put(text, Mark.SENT)

    def reset(self, now: float) -> None:
        self._lines.clear()
        self.screen.cleared()
        self.become(State.READY, peer=None)


class Stage:
    """`skip` lets time pass for the page and nobody else."""

    def __init__(self, port: int = 0) -> None:
        self.chat = FakeChat()
        self.urls: List[str] = []
        self._skipped = 0.0
        self.loop = Loop(self.clock, batched=False, slots=1)
        self._listen(port)
        self.port: int = self.listener.getsockname()[1]
        self.host = f"127.0.0.1:{self.port}"
        self.site = Site(self.chat, web.files(), [self.host], os.urandom, self.urls.append)
        self.chat.screen = self.site
        self.site.status(self.chat.status)
        self._serve()
        self.loop.add(_Pulse(self.site, self.clock), self.loop.outbox())

    def _listen(self, port: int) -> None:
        self.listener = socket.create_server(("127.0.0.1", port), backlog=64)

    def _serve(self) -> None:
        self.server = DuplexServer(self.loop, self.listener, self.site.converse, self.clock)

    def vanish(self) -> None:
        """Nobody is there any more, to browsers; to itself the chat goes on."""
        self.loop.unwatch(self.listener)
        self.listener.close()
        for stream in self.server.streams:
            stream.abort()

    def come_back(self) -> None:
        self._listen(self.port)
        self._serve()

    def clock(self) -> float:
        return time.monotonic() + self._skipped

    def skip(self, seconds: float) -> None:
        self._skipped += seconds

    def until(self, condition: Callable[[], Any]) -> None:
        due = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < due, "in vain"
            self.loop.turn()

    def connect(self) -> socket.socket:
        sock = socket.create_connection(("127.0.0.1", self.port), PATIENCE)
        sock.setblocking(False)
        return sock

    def exchange(self, said: bytes) -> bytes:
        """All that is answered to it, until the other side closes."""
        with contextlib.closing(self.connect()) as sock:
            sock.send(said)
            return self.drain(sock)

    def drain(self, sock: socket.socket) -> bytes:
        heard = bytearray()

        def ended() -> bool:
            try:
                data = sock.recv(1 << 16)
            except BlockingIOError:
                return False
            except ConnectionError:
                return True
            heard.extend(data)
            return not data

        self.until(ended)
        return bytes(heard)

    def close(self) -> None:
        """As when the program ends."""
        if self.listener.fileno() >= 0:
            self.vanish()
            self.loop.close()


class _Pulse(Endpointless):
    """Joins the site to the loop, and wakes it often enough for a test's conditions."""

    def __init__(self, site: Site, clock: Callable[[], float]) -> None:
        self.counters: "Counter[str]" = Counter()
        self._site = site
        self._clock = clock

    def start(self, now: float) -> None: ...

    def deadline(self) -> Optional[float]:
        due = self._site.deadline()
        soon = self._clock() + 0.05
        return soon if due is None else min(soon, due)

    def expire(self, now: float) -> None:
        self._site.expire(now)

    def stop(self, now: float) -> None: ...

    def status(self) -> str:
        return ""
