"""A named peer as a process: the role on a loop, with the process's input and output."""

from __future__ import annotations

import errno
import functools
import logging
import os
import signal
import sys
from collections import Counter
from typing import List, Optional

from udppunch.config.people import PeerConfig
from udppunch.config.process import ProcessConfig
from udppunch.net.clock import boot_time
from udppunch.net.input import Input
from udppunch.net.loop import Loop
from udppunch.net.output import Output
from udppunch.notices import event
from udppunch.proc.signals import act_on_signals
from udppunch.proc.ticker import Endpointless
from udppunch.role.peer import Peer

log = logging.getLogger(__name__)

_FAILED = 1
_BY_SIGNAL = 128


class _Pipe(Endpointless):
    """A role beside the peer's, whose turns are for what the selector does not see."""

    def __init__(self, loop: Loop) -> None:
        self.counters: "Counter[str]" = Counter()
        self.status_of_exit: Optional[int] = None
        self.peer: Peer
        self._loop = loop
        self._output = Output(loop, sys.stdout.fileno() if sys.stdout is not None else None)
        descriptor = sys.stdin.fileno() if sys.stdin is not None else None
        self._input = Input(loop, descriptor, self._received)

    # What the peer asks for

    def write(self, data: bytes) -> None:
        if not self._output.write(data):
            self.counters["dropped: output is not read"] += 1

    @property
    def has_room(self) -> bool:
        return self._output.has_room

    def want(self, more: bool) -> None:
        self._input.want(more)

    def finish(self, status: int) -> None:
        self._input.want(False)
        self.status_of_exit = status

    def _received(self, data: bytes) -> None:
        now = boot_time()
        if data:
            self.peer.typed(data, now)
        else:
            self.peer.ended(now)

    # What the loop asks for

    def start(self, now: float) -> None: ...

    def expire(self, now: float) -> None:
        if self._output.broken and self.status_of_exit is None:
            self._say_broken(self._output.trouble)
            self.finish(_FAILED)
        if self.status_of_exit is not None:
            if not self._output.waits:
                self._loop.stop()
        elif self._input.due:
            self._input.read()

    def _say_broken(self, trouble: int) -> None:
        """Who reads of a pipe may stop when he has enough: that is no error to be told."""
        if trouble != errno.EPIPE:
            event(log, logging.ERROR, "output", f"cannot write what comes: {os.strerror(trouble)}")

    def deadline(self) -> Optional[float]:
        over = self.status_of_exit is not None and not self._output.waits
        return 0.0 if over or self._input.due or self._output.broken else None

    def stop(self, now: float) -> None:
        self._output.close()

    def status(self) -> str:
        return ""


def run(config: PeerConfig, process: ProcessConfig) -> int:
    """Runs until both ends are done, or a signal ends it; the exit status."""
    loop = Loop(boot_time, process.offload)
    pipe = _Pipe(loop)
    outbox = loop.outbox()
    pipe.peer = Peer(config, outbox, os.urandom, pipe)
    loop.add(pipe.peer, outbox)
    loop.add(pipe, loop.outbox())
    killed_by: List[int] = []

    def end(number: int) -> None:
        killed_by.append(number)
        loop.stop()

    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    act_on_signals(loop, {number: functools.partial(end, number) for number in numbers})
    loop.run()
    if pipe.status_of_exit is None and killed_by:
        return _BY_SIGNAL + killed_by[0]  # as a shell tells of it
    return pipe.status_of_exit or 0
