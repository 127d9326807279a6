"""The roles that several workers may share, and what each of them needs: a registrar, memory.

A role of these asks its registrar through a function, and is told through its method `told`;
where the registrar is matters to neither.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Protocol, Sequence

from udppunch.config.roles import HelperConfig, RelayConfig
from udppunch.contract import Outbox, Role
from udppunch.net.area import Area
from udppunch.net.clock import boot_time
from udppunch.proto import cookie
from udppunch.proto.expose import connectees, figures, tags
from udppunch.proto.expose.publishing import Publishing
from udppunch.proto.expose.service import Memory
from udppunch.proto.relay.pairing import Limits
from udppunch.proto.relay.registrar import Registrar
from udppunch.proto.tally import Counts, Tally
from udppunch.role.helper import Helper
from udppunch.role.relay import Relay
from udppunch.wire.registrar import Message

Ask = Callable[[Message, float], None]
Hear = Callable[[], None]
Tell = Callable[[int, Message, float], None]


class SharedRole(Role, Protocol):
    """A worker's role."""

    def told(self, message: Message, now: float) -> None: ...

    def configure(self, config: Any) -> None: ...

    def keep(self) -> None: ...


class AnyRegistrar(Protocol):
    """What decides for all workers of a role."""

    counters: "Counter[str]"
    tally: Tally

    def inherit(self, known: Sequence[Message], now: float) -> None: ...

    def estate(self) -> List[Message]: ...

    @property
    def settled(self) -> bool: ...

    def start(self, now: float) -> None: ...

    def hear(self, worker: int, message: Message, now: float) -> None: ...

    def expire(self, now: float) -> None: ...

    def deadline(self) -> Optional[float]: ...

    def drain(self) -> None: ...

    @property
    def drained(self) -> bool: ...

    def gauges(self) -> Dict[str, int]: ...

    def status(self) -> str: ...

    def busiest(self, most: int, now: float) -> List[Dict[str, Any]]: ...


class Kind(NamedTuple):
    """How to make what a role consists of. `memory` is made once, before the first fork, out of
    what workers share."""

    memory: Callable[[Any, int, Area], Any]
    role: Callable[[Any, Outbox, Ask, Hear, Any, int, int], SharedRole]
    registrar: Callable[[Any, int, Tell, Any, Optional[Counts]], AnyRegistrar]
    configure: Callable[[Any, Any], None]


def _relay(
    config: RelayConfig, outbox: Outbox, ask: Ask, hear: Hear, memory: Any, worker: int, pid: int
) -> SharedRole:
    return Relay(config, outbox, ask, hear, worker, pid)


def _relay_registrar(
    config: RelayConfig, workers: int, tell: Tell, memory: Any, before: Optional[Counts]
) -> AnyRegistrar:
    return Registrar(_limits(config), workers, tell, before)


def _configure_relay_registrar(registrar: Registrar, config: RelayConfig) -> None:
    registrar.configure(_limits(config))


def _limits(config: RelayConfig) -> Limits:
    return Limits(config.idle, config.max_channels, config.half_open, config.half_open_prefix)


def _helper_memory(config: HelperConfig, workers: int, area: Area) -> Memory:
    services = 1 + len({name for name, _ in config.name})
    return Memory(
        workers,
        [area.take(tags.SHARED_OCTETS) for _ in range(services)],
        [area.take(4 * workers * connectees.COUNTS).cast("I") for _ in range(services)],
        area.take(figures.OCTETS * workers),
        os.urandom(cookie.SECRET),
        lambda: time.time() - boot_time(),
    )


def _helper(
    config: HelperConfig,
    outbox: Outbox,
    ask: Ask,
    hear: Hear,
    memory: Memory,
    worker: int,
    pid: int,
) -> SharedRole:
    return Helper(config, outbox, ask, memory, worker, pid, hear)


def _helper_registrar(
    config: HelperConfig, workers: int, tell: Tell, memory: Memory, before: Optional[Counts]
) -> AnyRegistrar:
    names = ["", *dict.fromkeys(name for name, _ in config.name)]
    return Publishing(names, workers, tell, memory.counts, before)


KINDS: Dict[str, Kind] = {
    "relay": Kind(
        lambda config, workers, area: None, _relay, _relay_registrar, _configure_relay_registrar
    ),
    "helper": Kind(_helper_memory, _helper, _helper_registrar, lambda registrar, config: None),
}
