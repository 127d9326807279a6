"""Takes connections from a listening socket, also when the descriptors have run out."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from typing import Optional


class Acceptor:
    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._spare = os.open(os.devnull, os.O_RDONLY)
        listener.setblocking(False)

    def accept(self) -> Optional[socket.socket]:
        """None if it went away again, or if there was no descriptor for it."""
        try:
            return self._listener.accept()[0]
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                self._refuse()
            return None

    def _refuse(self) -> None:
        """Takes it to close it: one that waits for a descriptor would not let the loop sleep."""
        os.close(self._spare)
        with contextlib.suppress(OSError):
            self._listener.accept()[0].close()
        self._spare = os.open(os.devnull, os.O_RDONLY)
