"""A terminal that gives each key at once, and is put back whenever the program does not run.

That is at its end and while it is stopped. Ctrl-C is a key here, in its order among the others,
and not a signal; Ctrl-Z remains one.
"""

from __future__ import annotations

import contextlib
import os
import signal
import termios
from typing import Any, Callable, Dict, List

_INPUT, _LOCAL, _CONTROL = 0, 3, 6  # where termios has them
_NO_KEY = b"\0"  # _POSIX_VDISABLE


class Cbreak:
    """The modes of a terminal, those wanted here and those it had before.

    `clear_row` is called before it gets the latter, also from a signal's handler. `resumed` is
    readable when the program was stopped and goes on.
    """

    def __init__(self, descriptor: int, clear_row: Callable[[], None]) -> None:
        self._descriptor = descriptor
        self._clear_row = clear_row
        self._before = termios.tcgetattr(descriptor)
        self._handlers: Dict[int, Any] = {}
        self.resumed, self._resuming = os.pipe()
        os.set_blocking(self.resumed, False)
        os.set_blocking(self._resuming, False)

    def enter(self) -> None:
        for number, handler in ((signal.SIGTSTP, self._suspend), (signal.SIGCONT, self._resume)):
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._handlers[number] = signal.signal(number, handler)
        self._set_keys()

    def leave(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._set_back()
        os.close(self.resumed)
        os.close(self._resuming)

    def take_note(self) -> None:
        """`resumed` is not readable any more."""
        with contextlib.suppress(BlockingIOError):
            os.read(self.resumed, 4096)

    def _suspend(self, number: int, frame: object) -> None:
        self._set_back()
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        signal.signal(number, self._suspend)
        self._resume(number, frame)  # in an orphaned process group it was not stopped at all

    def _resume(self, number: int, frame: object) -> None:
        self._set_keys()
        with contextlib.suppress(BlockingIOError):
            os.write(self._resuming, b"\0")

    def _set_keys(self) -> None:
        modes = [*self._before]
        modes[_INPUT] &= ~(termios.ICRNL | termios.INLCR | termios.IGNCR | termios.IXON)
        modes[_LOCAL] &= ~(termios.ICANON | termios.ECHO | termios.IEXTEN)
        keys = [*modes[_CONTROL]]
        keys[termios.VMIN], keys[termios.VTIME], keys[termios.VINTR] = 1, 0, _NO_KEY
        modes[_CONTROL] = keys
        self._set(modes)

    def _set_back(self) -> None:
        self._clear_row()
        self._set(self._before)

    def _set(self, modes: List[Any]) -> None:
        # It fails when the terminal is gone, or when this was stopped in it as a program of the
        # background: then SIGCONT comes next.
        with contextlib.suppress(termios.error):
            termios.tcsetattr(self._descriptor, termios.TCSANOW, modes)
