"""One process that runs roles until it is told to stop."""

from __future__ import annotations

import logging
import os
import resource
import signal
import socket
from collections import Counter
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple

from udppunch.address import Address
from udppunch.config import ProcessConfig
from udppunch.contract import Burst, Endpoint, Lookup, Outbox, Role
from udppunch.net.clock import boot_time
from udppunch.net.loop import Loop
from udppunch.notices import event
from udppunch.proc.systemd import Notifier
from udppunch.role.connect import Connect
from udppunch.role.rendezvous import Rendezvous
from udppunch.role.serve import Serve

log = logging.getLogger(__name__)

_STATUS_EACH = 10.0
_ROLES: Dict[str, Callable[[Any, Outbox, Callable[[int], bytes]], Role]] = {
    "rendezvous": Rendezvous,
    "serve": Serve,
    "connect": Connect,
}


class Housekeeping:
    """What the service manager hears, in the form of a role: the loop feeds the watchdog."""

    def __init__(self, roles: Sequence[Role], notifier: Notifier) -> None:
        self.counters: "Counter[str]" = Counter()
        self._roles = roles
        self._notifier = notifier
        self._ready = False
        self._each = min(_STATUS_EACH, notifier.watchdog or _STATUS_EACH)
        self._next: Optional[float] = None

    def start(self, now: float) -> None:
        self._next = now

    def expire(self, now: float) -> None:
        # The first time, all sockets are open: what can't be opened has ended the process.
        told = {"STATUS": "; ".join(role.status() for role in self._roles)}
        if not self._ready:
            told["READY"] = "1"
            self._ready = True
        if self._notifier.watchdog is not None:
            told["WATCHDOG"] = "1"
        self._notifier.tell(**told)
        self._next = now + self._each

    def deadline(self) -> Optional[float]:
        return self._next

    def stop(self, now: float) -> None:
        self._notifier.tell(STOPPING="1")

    def status(self) -> str:
        return ""

    def opened(self, endpoint: Endpoint, now: float) -> None: ...

    def failed(self, endpoint: Endpoint, reason: str, now: float) -> None: ...

    def resolved(
        self, lookup: Lookup, found: Sequence[Address], reason: str, now: float
    ) -> None: ...

    def refused(self, endpoint: Endpoint, now: float) -> None: ...

    def receive(self, burst: Burst, now: float) -> None: ...


class Signals:
    """Handlers only note the signal; the loop is woken through a pair of sockets and acts."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._noted: List[int] = []
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._note)
        # SIGHUP of a closed terminal must not end a daemon without its goodbye.
        signal.signal(signal.SIGHUP, self._note)
        loop.add_reader(self._reader, self._act)

    def _note(self, number: int, frame: object) -> None:
        self._noted.append(number)

    def _act(self) -> None:
        try:
            self._reader.recv(256)
        except BlockingIOError:
            pass
        while self._noted:
            name = signal.Signals(self._noted.pop(0)).name
            event(log, logging.INFO, "stopping", f"{name}: stopping", signal=name)
            self._loop.stop()


def run(
    roles: Sequence[Tuple[str, Any]], process: ProcessConfig, environment: Mapping[str, str]
) -> None:
    """Run roles, each with its configuration, until SIGTERM, SIGINT or SIGHUP.

    Raises CommandError when an address can't be listened on or a name does not exist.
    """
    _raise_descriptor_limit()
    loop = Loop(clock=boot_time, offload=process.offload)
    running: List[Role] = []
    Signals(loop)
    for name, config in roles:
        outbox = loop.outbox()
        role = _ROLES[name](config, outbox, os.urandom)
        running.append(role)
        loop.add(role, outbox)
    loop.add(Housekeeping(running, Notifier(environment)), loop.outbox())
    loop.run()
    counters = sum((role.counters for role in running), Counter(loop.counters))
    counted = ", ".join(f"{name} {count}" for name, count in sorted(counters.items()))
    event(log, logging.INFO, "stopped", f"stopped; {counted or 'nothing to count'}", **counters)


def _raise_descriptor_limit() -> None:
    """Each path is a socket or two, and the customary 1,024 descriptors are soon used up."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):
        pass
