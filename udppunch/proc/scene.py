"""What the processes of a daemon are given when they begin, and what they all do with it."""

from __future__ import annotations

import logging
import os
import socket
from collections import Counter
from dataclasses import dataclass
from typing import Any, Callable, List, Mapping, Optional, Sequence, Tuple

from udppunch import address, logs
from udppunch.address import Address
from udppunch.config.process import ProcessConfig
from udppunch.contract import Endpoint
from udppunch.errors import ConfigError, explained
from udppunch.net import udp
from udppunch.net.clock import boot_time
from udppunch.net.loop import Loop
from udppunch.notices import event
from udppunch.proc import control, metrics
from udppunch.proc.estate import Inheritance
from udppunch.proc.kinds import KINDS
from udppunch.proc.signals import Leaving
from udppunch.proc.statistics import Statistics

log = logging.getLogger(__name__)

Roles = Sequence[Tuple[str, Any]]
# Reads the files that the command line names once more. Raises CommandError.
Reread = Callable[[], Tuple[Roles, ProcessConfig]]

BEAT_EACH = 0.5  # seconds between two signs of life to the supervisor


@dataclass(frozen=True)
class Scene:
    """What all of them have in common; the two sockets listen, where they are wanted.

    `roles` are their names, in the order of the file, some perhaps several times; `current` are
    the configurations of those that workers share, as they are in force now.
    """

    name: str
    roles: Sequence[str]
    current: List[Any]
    process: ProcessConfig
    environment: Mapping[str, str]
    reread: Reread
    control: Optional[socket.socket]
    metrics: Optional[socket.socket]
    main_pid: int
    inheritance: Inheritance

    def loop(
        self,
        configs: Sequence[Any] = (),
        sockets: Optional[Mapping[Address, socket.socket]] = None,
    ) -> Loop:
        """A loop for roles with these configurations, some of whose sockets are there already."""
        given = sockets or {}

        def open_socket(endpoint: Endpoint) -> socket.socket:
            sock = given.get(endpoint.bind) if endpoint.label in KINDS else None
            if sock is None and endpoint.handed_over_as:
                sock = self.inheritance.take(endpoint)
            if sock is None and address.port(endpoint.bind) and endpoint.remote is None:
                sock = self.inheritance.lend(endpoint.bind)
            return udp.open_socket(endpoint) if sock is None else sock

        def largest(setting: str, default: Any) -> Any:
            return max((getattr(config, setting, default) for config in configs), default=default)

        return Loop(
            boot_time,
            self.process.offload,
            open_socket=open_socket,
            coalesce=largest("coalesce", 0.0),
            buffers=(
                largest("recv_buffer", 0) or udp.BUFFER,
                largest("send_buffer", 0) or udp.BUFFER,
            ),
        )

    @property
    def is_service(self) -> bool:
        """Whether a service manager started it, and a hang-up is not a terminal's."""
        return "NOTIFY_SOCKET" in self.environment or "INVOCATION_ID" in self.environment

    def read_again(self) -> bool:
        """Makes `current` what the files say now, and the log level too; no, if they are wrong,
        which is logged."""
        try:
            roles, process = self.reread()
            configs = shared(roles)
            if list(map(_places, configs)) != list(map(_places, self.current)):
                raise ConfigError("other roles or addresses than before: restart for these")
        except Exception as error:
            log.error("reload: %s; all stays as it was", explained(error)[0])
            return False
        self.current[:] = configs
        logs.set_level(process.log_level)
        if os.getpid() == self.main_pid:
            said = "SIGHUP: files read again, the log level too"
            event(log, logging.INFO, "reloaded", said)
        return True

    def may_leave(self, leaving: Leaving) -> bool:
        """Whether who comes next could begin: not with a file that is wrong, which is logged."""
        if leaving is Leaving.TO_RETURN:
            try:
                self.reread()
            except Exception as error:
                log.error("not begun anew: %s; all stays as it was", explained(error)[0])
                return False
        return True

    def say_stopped(self, counters: "Counter[str]") -> None:
        """The last line of the log."""
        counted = ", ".join(f"{name} {count}" for name, count in sorted(counters.items()) if count)
        sentence = f"stopped; {counted or 'nothing to count'}"
        event(log, logging.INFO, "stopped", sentence, **counters)

    def tell(self, loop: Loop, statistics: Statistics) -> None:
        """Answers who asks by the control socket and for metrics."""
        if self.control is not None:
            control.serve(loop, self.control, statistics)
        if self.metrics is not None:
            metrics.serve(loop, self.metrics, statistics)


def _places(config: Any) -> Any:
    """What only a restart changes: where it listens, and for which services."""
    return type(config), config.binds, getattr(config, "name", ())


def shared(roles: Roles) -> List[Any]:
    """The configurations of the roles that several workers may share."""
    return [config for name, config in roles if name in KINDS]


def nothing() -> None:
    """For signals that are another process's to act on."""
