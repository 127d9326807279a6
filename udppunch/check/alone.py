"""How runs keep out of each other's way: one at a time here, and a fleet's not all at once."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from typing import Iterator, Optional

from udppunch.errors import EX_CANTCREAT, CommandError

# No link, and no FIFO to wait at for a writer, that others have put where everybody may write.
_FLAGS = os.O_RDONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@contextlib.contextmanager
def lock(path: Optional[str]) -> Iterator[bool]:
    """Hold the file, made if need be and never removed; whether nobody else holds it.

    Raises CommandError.
    """
    if path is None:
        yield True
        return
    with contextlib.ExitStack() as held:
        try:
            descriptor = os.open(path, _FLAGS, 0o644)
            held.callback(os.close, descriptor)
            taken = _is_taken(descriptor)
        except OSError as error:
            raise CommandError(f"lock file {path}: {error.strerror}", EX_CANTCREAT) from None
        yield taken


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
