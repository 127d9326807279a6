"""A server in the test's own process that answers as a function says."""

from __future__ import annotations

import contextlib
from typing import Callable, List

from tests.program import text
from tests.standin.application import Application, SocketAddress

# What is sent for a datagram.
Answers = Callable[[bytes], List[bytes]]


class Answering(Application):
    """On a port of 127.0.0.1; what came is in `received`."""

    def __init__(self, answers: Answers = lambda datagram: []) -> None:
        self._answers = answers
        super().__init__()

    def __enter__(self) -> Answering:
        return self

    @property
    def where(self) -> str:
        return text(self.address)

    def arrived(self, data: bytes, source: SocketAddress) -> None:
        for answer in self._answers(data):
            with contextlib.suppress(OSError):  # an ICMP error: who asked has gone
                self.socket.sendto(answer, source)
