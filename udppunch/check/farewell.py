"""A check that is told to go before its end says goodbye first, lest a server wait for it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from typing import Callable, Iterator, List

from udppunch.net.loop import Loop

_NUMBERS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@contextlib.contextmanager
def on_signals(loop: Loop, close: Callable[[], None]) -> Iterator[None]:
    """While the loop runs, a signal that would end the process calls `close` at its next turn.

    The process dies of it when the loop has come to its end, and of another one at once.
    """
    came: List[int] = []

    def note(number: int, frame: object) -> None:
        came.append(number)
        for each in heeded:
            signal.signal(each, signal.SIG_DFL)

    # One that is ignored, as by nohup, stays so.
    heeded = [each for each in _NUMBERS if signal.getsignal(each) is signal.SIG_DFL]
    awake, waking = socket.socketpair()
    with awake, waking:
        waking.setblocking(False)  # as the interpreter wants it
        signal.set_wakeup_fd(waking.fileno(), warn_on_full_buffer=False)
        loop.watch(awake, lambda: _act(awake, close))
        for each in heeded:
            signal.signal(each, note)
        try:
            yield
        finally:
            for each in heeded:
                signal.signal(each, signal.SIG_DFL)
            signal.set_wakeup_fd(-1)
    if came:
        os.kill(os.getpid(), came[0])


def _act(awake: socket.socket, close: Callable[[], None]) -> None:
    awake.recv(1)
    close()
