"""The registrar in a loop: beside its only worker, or in a process of its own for several."""

from __future__ import annotations

import logging
from typing import Callable, Optional

from udppunch.notices import event
from udppunch.proc.kinds import AnyRegistrar
from udppunch.proc.ticker import Endpointless

log = logging.getLogger(__name__)


class RegistrarRole(Endpointless):
    """`drained` is called when it was told to drain and the last channel ended, or time is up."""

    def __init__(self, registrar: AnyRegistrar, drained: Callable[[], None]) -> None:
        self.registrar = registrar
        self.counters = registrar.counters
        self._drained = drained
        self.over = False
        self._drain_until: Optional[float] = None
        self._drain_for: Optional[float] = None
        self._leave: Optional[Callable[[], None]] = None

    def start(self, now: float) -> None:
        self.registrar.start(now)

    def expire(self, now: float) -> None:
        self.registrar.expire(now)
        if self._leave is not None and self.registrar.settled:
            self._leave()
            self._leave = None
        if self._drain_for is not None and self._drain_until is None:
            self._drain_until = now + self._drain_for
        if self._drain_until is None:
            return
        if self.registrar.drained or now >= self._drain_until:
            self.over = True
            self._drained()

    def deadline(self) -> Optional[float]:
        if self._drain_for is not None and self._drain_until is None:
            return 0.0
        if self._leave is not None and self.registrar.settled:
            return 0.0
        due = self.registrar.deadline()
        if self._drain_until is None or due is None:
            return due
        return min(due, self._drain_until)

    def stop(self, now: float) -> None: ...

    def status(self) -> str:
        return self.registrar.status()

    def drain(self, seconds: float) -> None:
        """Takes no new channels; to be over by itself, or after so many seconds."""
        if self._drain_for is None:
            self._drain_for = seconds
            self.registrar.drain()
            if not seconds:
                return
            text = f"stopping when the last channel ends, or after {seconds:g} s"
            event(log, logging.INFO, "draining", text)

    def leave(self, written: Callable[[], None]) -> None:
        """Call `written` once the registrar knows all that it is to leave behind."""
        self._leave = written

    @property
    def draining(self) -> bool:
        return self._drain_for is not None
