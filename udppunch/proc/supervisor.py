"""The supervisor: starts the processes of a daemon, replaces those that die, stops them all.

It keeps every socket open that a child works with, so that a successor finds in it what the
kernel queued meanwhile, and reads no byte that came from the network. Signal handlers only note
the signal. A child that can't even start is tried again ever later, and in the end not at all.
"""

from __future__ import annotations

import contextlib
import ctypes
import enum
import logging
import os
import select
import signal
import sys
import time
from typing import Callable, Optional, Sequence, Tuple

from udppunch import logs
from udppunch.errors import EX_SOFTWARE, CommandError
from udppunch.notices import event, say_state
from udppunch.proc.board import Board
from udppunch.proc.signals import (
    ALL,
    ENDING,
    HANDING_OVER,
    TOLD,
    Leaving,
    SignalQueue,
    hold_signals,
    release_signals,
)
from udppunch.proc.systemd import Notifier

log = logging.getLogger(__name__)

_TICK = 0.25
_HUNG_TICKS = 20  # without a sign of life: 5 s, in which the supervisor itself ran
_STARTED = 2.0  # who lives as long has started
_MOST_TRIES = 5
_FIRST_PAUSE = 0.1
_GRACE = 2.0
_STATUS_EACH = 10.0
_ENDED = -1  # the group of those whose leader has come to its end
_PR_SET_PDEATHSIG = 1
_SIGNALS = [*ALL, signal.SIGCHLD]


class Kind(enum.Enum):
    """How a child takes part in stopping: a leader ends by itself, then the others are ended."""

    LEADER = "leader"
    FOLLOWER = "follower"


class Child:
    """`run` is called in the child, with the board and its slot of it, and ends with it."""

    def __init__(
        self, name: str, kind: Kind, group: int, run: Callable[[Board, int], None]
    ) -> None:
        self.name = name
        self.kind = kind
        self.group = group
        self.run = run
        self.pid = 0
        self.restarts = 0
        self.tries = 0  # in a row that ended before they had started
        self.begun = 0.0
        self.again_at: Optional[float] = None
        self.beats = 0
        self.silent_ticks = 0


class Supervisor:
    """Runs children until SIGTERM or SIGINT. On SIGHUP `reload` says whether they should follow.

    SIGTERM asks the leaders to come to an end, which they have `drain` seconds for. A second
    one, and SIGINT, end all at once. What else ends them has them write down what they know.
    """

    def __init__(
        self,
        children: Sequence[Child],
        notifier: Notifier,
        drain: float,
        reload: Callable[[], bool],
        may_leave: Callable[[Leaving], bool] = lambda leaving: True,
    ) -> None:
        self._children = list(children)
        self._board = Board([child.name for child in self._children])
        self._notifier = notifier
        self._drain = drain
        self._reload = reload
        self._may_leave = may_leave
        self._pid = os.getpid()
        self._signals = SignalQueue(_SIGNALS)
        self._poll = select.poll()
        self._poll.register(self._signals.reader, select.POLLIN)
        self._ready = False
        self._draining = False
        self._stopping = False
        self._told_at = 0.0
        self._next_tick = 0.0
        self._kill_at: Optional[float] = None
        self._failure: Optional[CommandError] = None
        self._leaving = Leaving.FOR_GOOD
        self._asked_to_leave: Optional[Tuple[int, float]] = None  # the signal, and until when

    def run(self) -> Leaving:
        """Why it ended. Raises CommandError when a child can't be kept running."""
        for child in self._children:
            self._start(child)
        while any(child.pid or child.again_at is not None for child in self._children):
            self._poll.poll(_TICK * 1000)
            for number in self._signals.take():
                self._act(number)
            self._reap()
            self._look_after()
        hold_signals()
        if any(number in ENDING for number in self._signals.take()):
            self._leaving = Leaving.FOR_GOOD
        if self._leaving is not Leaving.TO_RETURN:
            self._notifier.tell(STOPPING="1")
        if self._failure is not None:
            raise self._failure
        return self._leaving

    def _start(self, child: Child) -> None:
        slot = self._children.index(child)
        self._board.clear(slot)
        child.begun = time.monotonic()
        child.again_at = None
        child.beats = child.silent_ticks = 0
        _flush()
        hold_signals()  # the child's wait until it has handlers of its own
        try:
            child.pid = os.fork()
        except OSError as error:
            release_signals()
            self._bury(child, f"was not started ({error.strerror})")
            return
        if not child.pid:
            self._become(child, slot)
        release_signals()
        self._board.enter(slot, child.pid, child.restarts)

    def _become(self, child: Child, slot: int) -> None:
        """The new process; it never returns to where the supervisor was."""
        status = EX_SOFTWARE
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            # Its socket is all that a worker leaves; a leader has something to clear away.
            end_with_parent(
                self._pid, signal.SIGINT if child.kind is Kind.LEADER else signal.SIGKILL
            )
            self._board.enter(slot, os.getpid(), child.restarts)
            child.run(self._board, slot)
            status = 0
        except BaseException as error:
            status = logs.report(error)
        finally:
            _flush()
            os._exit(status)

    def _act(self, number: int) -> None:
        if number == signal.SIGHUP:
            if self._reload():
                for child in self._children:
                    self._send(child, signal.SIGHUP)
        elif number == signal.SIGUSR1:
            say_state(self._status())
        elif number == signal.SIGTERM and not self._draining:
            self._asked_to_leave = None
            self._notifier.tell(STOPPING="1", STATUS="draining")
            self._begin_drain(signal.SIGTERM, self._drain)
        elif number in HANDING_OVER and not self._draining and self._asked_to_leave is None:
            if self._may_leave(HANDING_OVER[number]):
                self._asked_to_leave = number, time.monotonic() + _GRACE
        elif number in ENDING:
            self._leaving = Leaving.FOR_GOOD
            self._asked_to_leave = None
            event(log, logging.INFO, "stopping", f"{signal.Signals(number).name}: stopping")
            self._stop()

    def _leave(self, now: float) -> None:
        """As soon as nobody is just being replaced, who could not write down what he knows."""
        if self._asked_to_leave is None:
            return
        number, until = self._asked_to_leave
        there = (child for child in self._children if child.group != _ENDED)
        alive = all(child.pid and child.beats for child in there)
        if alive or now >= until:
            self._asked_to_leave = None
            self._leaving = HANDING_OVER[number]
            event(log, logging.INFO, "handing-over", "handing over to a new process")
            self._begin_drain(TOLD[self._leaving], _GRACE)

    def _leave_later(self, child: Child, status: int) -> None:
        """It ended before it had written down what it knows: who replaces it will."""
        (number,) = (n for n, leaving in HANDING_OVER.items() if leaving is self._leaving)
        self._asked_to_leave = number, time.monotonic() + _GRACE
        self._draining, self._kill_at = False, None
        self._leaving = Leaving.FOR_GOOD
        self._bury(child, _how_it_ended(status))

    def _begin_drain(self, number: int, drain: float) -> None:
        self._draining = True
        self._kill_at = time.monotonic() + drain + _GRACE
        for child in self._children:
            child.again_at = None
            if child.kind is Kind.LEADER and child.pid:
                self._send(child, number)
            elif child.kind is Kind.LEADER:
                self._end_group(child.group)

    def _stop(self) -> None:
        """Ends all children, those that don't heed it after a while by force."""
        self._draining = self._stopping = True
        self._kill_at = time.monotonic() + _GRACE
        for child in self._children:
            child.again_at = None
            self._send(child, signal.SIGINT)

    def _reap(self) -> None:
        for child in self._children:
            if not child.pid:
                continue
            pid, status = os.waitpid(child.pid, os.WNOHANG)
            if not pid:
                continue
            child.pid = 0
            if self._draining and child.kind is Kind.LEADER:
                if status and self._leaving is not Leaving.FOR_GOOD and not self._stopping:
                    self._leave_later(child, status)
                else:
                    self._end_group(child.group)
            elif not self._stopping and child.group != _ENDED:
                self._bury(child, _how_it_ended(status))

    def _end_group(self, group: int) -> None:
        """Its leader has come to its end, and so do the others."""
        for child in self._children:
            if child.group == group:
                child.group = _ENDED
                child.again_at = None
                self._send(child, TOLD.get(self._leaving, signal.SIGINT))

    def _bury(self, child: Child, how: str) -> None:
        """It was not to end: tries again, soon if it had been running."""
        now = time.monotonic()
        if now - child.begun >= _STARTED:
            child.tries = 0
        child.tries += 1
        child.restarts += 1
        if child.tries >= _MOST_TRIES:
            text = f"{child.name} {how} {child.tries} times in a row while it started: giving up"
            self._failure = CommandError(text, EX_SOFTWARE)
            self._stop()
            return
        pause = 0.0 if child.tries == 1 else _FIRST_PAUSE * 2 ** (child.tries - 2)
        when = f"again in {pause:g} s" if pause else "started again"
        text = f"{child.name} {how}: {when}"
        event(log, logging.WARNING, "restart", text, process=child.name, restarts=child.restarts)
        if pause:
            child.again_at = now + pause
        else:
            self._start(child)

    def _look_after(self) -> None:
        now = time.monotonic()
        self._leave(now)
        for child in self._children:
            if child.again_at is not None and now >= child.again_at:
                self._start(child)
        if self._kill_at is not None and now >= self._kill_at:
            self._stopping = True
            for child in self._children:
                self._send(child, signal.SIGKILL)
        if now >= self._next_tick:  # and not whenever a signal came
            self._next_tick = now + _TICK
            alive = [self._watch(slot, child) for slot, child in enumerate(self._children)]
            if all(alive) and not self._draining:
                self._notify(now)

    def _watch(self, slot: int, child: Child) -> bool:
        """Whether the child has shown life; one that shows none for long is ended.

        Counted in turns of the supervisor and not in time: after a stop of the whole machine
        nobody is late.
        """
        if not child.pid:
            return False
        beats = self._board.beats(slot)
        if beats != child.beats:
            child.beats = beats
            child.silent_ticks = 0
            return True
        child.silent_ticks += 1
        if child.silent_ticks == _HUNG_TICKS:
            log.warning("%s shows no sign of life: ending it", child.name)
            self._send(child, signal.SIGKILL)
        return beats > 0

    def _notify(self, now: float) -> None:
        if self._ready and now < self._told_at + (self._notifier.watchdog or _STATUS_EACH):
            return
        self._told_at = now
        told = {"STATUS": self._status()}
        if not self._ready:
            self._ready = True
            told["READY"] = "1"
        if self._notifier.watchdog is not None:
            told["WATCHDOG"] = "1"
        self._notifier.tell(**told)

    def _status(self) -> str:
        status = [self._board.status(slot) for slot in range(len(self._children))]
        return "; ".join(text for text in status if text)

    def _send(self, child: Child, number: int) -> None:
        if child.pid:
            os.kill(child.pid, number)


def _flush() -> None:
    """So that nothing is written twice, or lost."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            with contextlib.suppress(OSError, ValueError):
                stream.flush()


def end_with_parent(parent: int, number: int) -> None:
    """Makes the kernel send the signal when the parent is gone, as it may be already."""
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)
    except AttributeError:
        pass  # Linux has it; elsewhere a killed supervisor leaves its children behind
    if os.getppid() != parent:
        os._exit(0)


def _how_it_ended(status: int) -> str:
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        try:
            return f"was killed by {signal.Signals(number).name}"
        except ValueError:
            return f"was killed by signal {number}"
    return f"ended with status {os.WEXITSTATUS(status)}"
