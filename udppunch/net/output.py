"""What a program writes to its own output, on the loop: nothing blocks, what is not taken waits."""

from __future__ import annotations

import contextlib
import os
import select
import stat
from typing import Iterator, Optional

from udppunch.net.loop import Loop

MOST_WAITING = 1 << 20  # octets that are written and not taken
_CHUNK = 65536
_SHARED_CHUNK = 512  # what surely fits when a descriptor that may block is writable


class Output:
    """`broken` once nobody will take it, `trouble` says why. Without a descriptor all that is
    written is gone."""

    def __init__(self, loop: Loop, shared: Optional[int]) -> None:
        self._loop = loop
        self._waiting = bytearray()
        self._watched = False
        self.broken = False
        self.trouble = 0  # an errno
        self._own = _unshared(shared)
        self._descriptor = shared if self._own is None else self._own

    @property
    def waits(self) -> bool:
        return bool(self._waiting)

    @property
    def has_room(self) -> bool:
        return len(self._waiting) < MOST_WAITING

    def write(self, data: bytes) -> bool:
        """Whether it will be written, unless nobody takes it."""
        if self._descriptor is None or self.broken:
            return True
        if self._waiting and len(self._waiting) + len(data) > 2 * MOST_WAITING:
            return False
        self._waiting += data
        self._flush()
        return True

    def write_now(self, data: bytes) -> None:
        """At once or not at all, and nothing here is changed by it: for a signal's handler."""
        if self._descriptor is not None:
            with contextlib.suppress(OSError):
                self._write(data)

    def close(self) -> None:
        if self._own is not None:
            os.close(self._own)
        self._descriptor = self._own = None

    def _flush(self) -> None:
        try:
            while self._waiting:
                del self._waiting[: self._write(bytes(self._waiting[:_CHUNK]))]
        except BlockingIOError:
            pass
        except OSError as error:
            self.broken = True
            self.trouble = error.errno or 0
            self._waiting.clear()
        self._watch(bool(self._waiting))

    def _write(self, data: bytes) -> int:
        assert self._descriptor is not None
        if self._own is None:
            # It blocks, but not for so little if it is writable.
            data = data[:_SHARED_CHUNK]
            poll = select.poll()
            poll.register(self._descriptor, select.POLLOUT)
            if not poll.poll(0):
                raise BlockingIOError
        return os.write(self._descriptor, data)

    def _watch(self, wanted: bool) -> None:
        if wanted and not self._watched:
            self._loop.watch(self._descriptor, self._flush, readable=False, writable=True)
        elif self._watched and not wanted:
            self._loop.unwatch(self._descriptor)
        self._watched = wanted


def _unshared(shared: Optional[int]) -> Optional[int]:
    """A descriptor of its own for the same file, which does not block: to change that of the
    shared one would change it for the shell, too. None if there can't be one."""
    for path in _ways(shared) if shared is not None else ():
        with contextlib.suppress(OSError):
            own = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
            if not os.get_blocking(own):
                return own
            os.close(own)
    return None


def _ways(shared: int) -> Iterator[str]:
    with contextlib.suppress(OSError):
        mode = os.fstat(shared).st_mode
        if stat.S_ISCHR(mode) or stat.S_ISFIFO(mode):
            yield f"/dev/fd/{shared}"
        os.tcgetpgrp(shared)  # it fails unless this is what the next one is
        yield "/dev/tty"  # which may be opened also by somebody whose terminal is another's
