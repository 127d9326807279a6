"""Signals, acted on by the loop: a handler only notes that one came."""

from __future__ import annotations

import enum
import signal
import socket
from typing import Callable, Dict, List, Mapping, Sequence

from udppunch.net.loop import Loop


class Leaving(enum.Enum):
    """Why a daemon ends, and so what becomes of what it has open."""

    FOR_GOOD = "for good"
    TO_RETURN = "to return"  # it is replaced by the program that is installed now
    FOR_ANOTHER = "for another"  # the service manager will start it anew


# What asks for which, besides SIGTERM and SIGINT.
HANDING_OVER: Dict[int, Leaving] = {
    signal.SIGUSR2: Leaving.TO_RETURN,
    signal.SIGQUIT: Leaving.FOR_ANOTHER,
}
ENDING = (signal.SIGTERM, signal.SIGINT)
# By these a supervisor tells its children, who do not heed the others: a service manager may send
# those to all processes of a daemon at once.
TOLD: Dict[Leaving, int] = {
    Leaving.TO_RETURN: int(getattr(signal, "SIGRTMIN", signal.SIGUSR2)),
    Leaving.FOR_ANOTHER: int(getattr(signal, "SIGRTMIN", signal.SIGQUIT - 1)) + 1,
}
ALL = (*ENDING, signal.SIGHUP, signal.SIGUSR1, *HANDING_OVER, *TOLD.values())


class SignalQueue:
    """Notes the signals of `numbers`; `reader` is readable when some wait in `noted`.

    Made after the last fork: a child that kept its parent's would wake the parent. Signals may
    have been held back until it is there.
    """

    def __init__(self, numbers: Sequence[int]) -> None:
        self.noted: List[int] = []
        self.reader, self._writer = socket.socketpair()
        self.reader.setblocking(False)
        self._writer.setblocking(False)
        signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        for number in numbers:
            signal.signal(number, self._note)
        release_signals()

    def take(self) -> List[int]:
        """The signals that came since the last time, in order."""
        try:
            self.reader.recv(4096)
        except BlockingIOError:
            pass
        taken, self.noted = self.noted, []
        return taken

    def _note(self, number: int, frame: object) -> None:
        self.noted.append(number)


def act_on_signals(loop: Loop, actions: Mapping[int, Callable[[], None]]) -> SignalQueue:
    """Calls an action at the loop's next turn whenever its signal came."""
    queue = SignalQueue(list(actions))

    def act() -> None:
        for number in queue.take():
            actions[number]()

    loop.watch(queue.reader, act)
    return queue


def hold_signals() -> None:
    """From now on they wait, also for the program that this process becomes, or for the handlers
    of a child."""
    signal.pthread_sigmask(signal.SIG_BLOCK, ALL)


def release_signals() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ALL)


def ignore_signals() -> None:
    """The process is as good as over: another word does not change its exit status."""
    for number in ALL:
        signal.signal(number, signal.SIG_IGN)
