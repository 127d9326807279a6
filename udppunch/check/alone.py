"""How runs keep out of each other's way: one at a time here, and a fleet's not all at once."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from typing import Iterator, Optional

from udppunch.errors import EX_CANTCREAT, CommandError


@contextlib.contextmanager
def lock(path: Optional[str]) -> Iterator[bool]:
    """Hold the file, made if need be and never removed; whether nobody else holds it.

    Raises CommandError.
    """
    if path is None:
        yield True
        return
    try:
        # No link that others have put where everybody may write.
        descriptor = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise CommandError(f"lock file {path}: {error.strerror}", EX_CANTCREAT) from None
    try:
        yield _is_taken(descriptor)
    finally:
        os.close(descriptor)


def _is_taken(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def wait(splay: Optional[float]) -> None:
    """A random time, up to so many seconds."""
    if splay is not None:
        time.sleep(splay * int.from_bytes(os.urandom(4), "big") / (1 << 32))
