"""All roles of a daemon in one process, a relay with its only worker among them."""

from __future__ import annotations

import logging
import os
import signal
import socket
from collections import Counter
from typing import Any, Callable, Dict, List, Sequence, Tuple

from udppunch import address
from udppunch.address import Address
from udppunch.config.roles import RelayConfig
from udppunch.contract import Outbox, Role
from udppunch.net import reuseport
from udppunch.net.clock import boot_time
from udppunch.net.loop import Loop
from udppunch.notices import event
from udppunch.proc.board import Board, Process
from udppunch.proc.registrar import RegistrarRole, limits_of
from udppunch.proc.scene import BEAT_EACH, Roles, Scene, nothing
from udppunch.proc.signals import act_on_signals
from udppunch.proc.statistics import Statistics, describe_role
from udppunch.proc.systemd import Notifier
from udppunch.proc.ticker import Ticker
from udppunch.proto.registrar import Registrar
from udppunch.role.connect import Connect
from udppunch.role.relay import Relay
from udppunch.role.rendezvous import Rendezvous
from udppunch.role.serve import Serve
from udppunch.wire import registrar as wire

log = logging.getLogger(__name__)

_STATUS_EACH = 10.0
_ROLES: Dict[str, Callable[[Any, Outbox, Callable[[int], bytes]], Role]] = {
    "rendezvous": Rendezvous,
    "serve": Serve,
    "connect": Connect,
}


class _Crew:
    """The roles of one process, each with its name."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.roles: List[Tuple[str, Role]] = []
        self.desks: List[RegistrarRole] = []
        self.relays: List[Tuple[Relay, RelayConfig]] = []

    def add(self, name: str, config: Any) -> None:
        outbox = self.loop.outbox()
        if name == "relay":
            role: Role = self._relay(config, outbox)
        else:
            role = _ROLES[name](config, outbox, os.urandom)
        self.roles.append((name, role))
        self.loop.add(role, outbox)

    def status(self) -> str:
        """The registrar's word is a relay's, whose worker knows less."""
        told = [role.status() for name, role in self.roles if name != "relay"]
        return "; ".join(told + [f"relay: {desk.status()}" for desk in self.desks])

    def describe(self) -> List[Dict[str, Any]]:
        described = []
        desks = iter(self.desks)
        for name, role in self.roles:
            if isinstance(role, Relay):
                desk = next(desks)
                counters = role.counters + desk.registrar.all_counters()
                described.append(describe_role(name, desk, counters, desk.registrar.gauges()))
            else:
                described.append(describe_role(name, role, role.counters))
        described[0]["counters"].update(self.loop.counters)
        return described

    def counted(self) -> "Counter[str]":
        of_roles = [role.counters for _, role in self.roles]
        of_desks = [desk.counters for desk in self.desks]
        return sum([*of_roles, *of_desks], Counter(self.loop.counters))

    def _relay(self, config: RelayConfig, outbox: Outbox) -> Relay:
        """With its registrar beside it, which it calls and is called by."""
        relay: Relay

        def tell(worker: int, message: wire.Message, now: float) -> None:
            relay.told(message, now)

        registrar = Registrar(limits_of(config), 1, tell)
        relay = Relay(config, outbox, lambda message, now: registrar.hear(0, message, now))
        desk = RegistrarRole(registrar, self._drained)
        self.desks.append(desk)
        self.relays.append((relay, config))
        self.loop.add(desk, self.loop.outbox())
        return relay

    def _drained(self) -> None:
        if all(desk.over for desk in self.desks):
            self.loop.stop()

    def terminate(self) -> None:
        """SIGTERM: relays come to an end first, unless it is said twice."""
        if not self.desks or any(desk.draining for desk in self.desks):
            self.stop()
        for desk, (_, config) in zip(self.desks, self.relays):
            desk.drain(config.drain_timeout)

    def stop(self) -> None:
        event(log, logging.INFO, "stopping", "stopping")
        self.loop.stop()

    def configure(self, configs: Sequence[RelayConfig]) -> None:
        """The relays' configurations, read anew."""
        for (relay, _), desk, config in zip(self.relays, self.desks, configs):
            relay.configure(config)
            desk.registrar.configure(limits_of(config))

    def busiest(self, most: int) -> List[Dict[str, Any]]:
        """Channels of the first relay."""
        return self.desks[0].registrar.busiest(most, boot_time()) if self.desks else []


def run_all(roles: Roles, scene: Scene) -> None:
    """The only process of a daemon."""
    configs: List[RelayConfig] = [config for name, config in roles if name == "relay"]
    sockets: Dict[Address, socket.socket] = {}
    for config in configs:
        groups = reuseport.bind_groups(config.listen, 1, "relay")
        sockets.update(zip(config.listen, (group[0] for group in groups)))
    loop = scene.loop(configs, sockets)
    crew = _Crew(loop)
    for name, role_config in roles:
        crew.add(name, role_config)

    def hang_up() -> None:
        if configs:
            crew.configure(scene.reread_relays())
        else:
            crew.stop()  # the terminal is gone; not without a goodbye

    act_on_signals(
        loop, {signal.SIGTERM: crew.terminate, signal.SIGINT: crew.stop, signal.SIGHUP: hang_up}
    )
    _tell_service_manager(crew, scene)
    statistics = Statistics(
        scene.name,
        scene.main_pid,
        lambda: {"main": Process(scene.main_pid, 0)},
        crew.describe,
        lambda: [address.text(listen) for listen in loop.listening()],
        crew.busiest if configs else None,
    )
    scene.tell(loop, statistics)
    loop.run()
    scene.say_stopped(crew.counted())


def run_others(roles: Roles, scene: Scene, board: Board, slot: int) -> None:
    """The roles that a daemon has beside a relay of several workers."""
    loop = scene.loop()
    crew = _Crew(loop)
    for name, config in roles:
        crew.add(name, config)
    # A reload concerns relays alone.
    act_on_signals(
        loop, {signal.SIGTERM: loop.stop, signal.SIGINT: loop.stop, signal.SIGHUP: nothing}
    )
    beat = Ticker(BEAT_EACH, lambda now: board.beat(slot, crew.status()))
    loop.add(beat, loop.outbox())
    loop.run()


def _tell_service_manager(crew: _Crew, scene: Scene) -> None:
    notifier = Notifier(scene.environment)
    ready = [{"READY": "1"}]

    def tick(now: float) -> None:
        # The first time, all sockets are open: what can't be opened has ended the process.
        told = {"STATUS": crew.status(), **(ready.pop() if ready else {})}
        if notifier.watchdog is not None:
            told["WATCHDOG"] = "1"
        notifier.tell(**told)

    each = min(_STATUS_EACH, notifier.watchdog or _STATUS_EACH)
    ticker = Ticker(each, tick, lambda now: notifier.tell(STOPPING="1"))
    crew.loop.add(ticker, crew.loop.outbox())
