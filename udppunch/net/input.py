"""What a program reads from its own input, on the loop, whether that is a terminal, a pipe or a
file: pieces as they come, and the end."""

from __future__ import annotations

import os
from typing import Callable, Optional

from udppunch.net.loop import Loop

_CHUNK = 65536


class Input:
    """`received` is called with each piece, and with nothing at the end. None for a descriptor
    means an input that was closed before the program began: it is at its end."""

    def __init__(
        self, loop: Loop, descriptor: Optional[int], received: Callable[[bytes], None]
    ) -> None:
        self._loop = loop
        self._descriptor = descriptor
        self._received = received
        self._watched = False
        self._polled = False  # a file, which no selector takes, and which is always ready
        self._ended = False

    @property
    def wanted(self) -> bool:
        """What `want` said last, as long as there is anything to come."""
        return self._watched

    @property
    def due(self) -> bool:
        """Whether `read` is to be called, for want of a selector that would."""
        return not self._ended and (self._polled or self._descriptor is None) and self._watched

    def want(self, more: bool) -> None:
        """Whether pieces are wanted for now."""
        if more is self._watched or self._ended:
            return
        self._watched = more
        if self._descriptor is None or self._polled:
            return
        if not more:
            self._loop.unwatch(self._descriptor)
            return
        try:
            self._loop.watch(self._descriptor, self.read)
        except PermissionError:
            self._polled = True
        except OSError:
            self._end()

    def read(self) -> None:
        """A piece, which is there."""
        try:
            data = b"" if self._descriptor is None else os.read(self._descriptor, _CHUNK)
        except BlockingIOError:
            return
        except OSError:  # the terminal is gone
            data = b""
        if data:
            self._received(data)
            return
        self.want(False)
        self._end()

    def _end(self) -> None:
        self._watched, self._ended = False, True
        self._received(b"")
