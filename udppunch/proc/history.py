"""What is said in a chat, kept in a file for its owner alone."""

from __future__ import annotations

import contextlib
import os
import stat
import time
from typing import Callable, Optional

from udppunch.errors import EX_CANTCREAT, CommandError

_MODE = 0o600


class History:
    """Appends to the file at `path`. Raises CommandError if that can't be done; what can't be
    written later on, the disk being full, is told once to `complain`."""

    def __init__(self, path: str, complain: Callable[[str], None]) -> None:
        self._path = path
        self._complain = complain
        self._complained = False
        try:
            self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, _MODE)
        except OSError as error:
            raise CommandError(f"history {path}: {error.strerror}", EX_CANTCREAT) from None
        with contextlib.suppress(OSError):
            status = os.fstat(self._descriptor)
            if stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid():
                os.fchmod(self._descriptor, _MODE)

    def keep(self, at: Optional[float], line: str) -> None:
        """A line of the conversation; `at` is seconds since 1970, None for now."""
        moment = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))
        try:
            os.write(self._descriptor, f"{moment} {line}\n".encode("utf-8", "replace"))
        except OSError as error:
            if not self._complained:
                self._complained = True
                self._complain(f"history {self._path} is not written any more: {error.strerror}")

    def close(self) -> None:
        os.close(self._descriptor)
