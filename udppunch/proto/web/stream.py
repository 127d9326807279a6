"""The way of bytes to a browser, as the state machines here see it."""

from __future__ import annotations

from typing import Protocol

HASTE = 10.0  # seconds a browser has for its request, for taking an answer, for a goodbye


class Stream(Protocol):
    """Nothing here blocks, fails or calls back."""

    @property
    def closed(self) -> bool:
        """Nothing goes or comes any more."""

    def send(self, data: bytes) -> None: ...

    def close(self) -> None:
        """As soon as everything is sent. Nothing is received any more."""

    def abort(self) -> None:
        """At once."""
