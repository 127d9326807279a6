"""All roles of a daemon in one process, those with workers having one beside its registrar."""

from __future__ import annotations

import logging
import os
import signal
import socket
from collections import Counter
from typing import Any, Callable, Dict, List, Sequence, Tuple

from udppunch import address
from udppunch.address import Address
from udppunch.contract import Outbox, Role
from udppunch.net import reuseport
from udppunch.net.clock import boot_time
from udppunch.net.loop import Loop
from udppunch.notices import event
from udppunch.proc.board import Board, Process
from udppunch.proc.kinds import KINDS, SharedRole
from udppunch.proc.registrar import RegistrarRole
from udppunch.proc.scene import BEAT_EACH, Roles, Scene, nothing
from udppunch.proc.signals import act_on_signals
from udppunch.proc.statistics import Statistics, describe_role
from udppunch.proc.systemd import Notifier
from udppunch.proc.ticker import Ticker
from udppunch.role.connect import Connect
from udppunch.role.expose import Expose
from udppunch.role.holepunch import Holepunch
from udppunch.role.rendezvous import Rendezvous
from udppunch.role.serve import Serve
from udppunch.wire import registrar as wire

log = logging.getLogger(__name__)

_STATUS_EACH = 10.0


def _chat_server(config: Any, outbox: Outbox, random: Callable[[int], bytes]) -> Role:
    from udppunch.role.chat_server import ChatServer  # its library is not everybody's

    return ChatServer(config, outbox, random)


_ROLES: Dict[str, Callable[[Any, Outbox, Callable[[int], bytes]], Role]] = {
    "rendezvous": Rendezvous,
    "serve": Serve,
    "connect": Connect,
    "expose": Expose,
    "holepunch": Holepunch,
    "chat": _chat_server,
}


class _Crew:
    """The roles of one process, each with its name."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.roles: List[Tuple[str, Role]] = []
        self.desks: List[RegistrarRole] = []
        self.shared: List[Tuple[SharedRole, Any]] = []  # whose registrars those are

    def add(self, name: str, config: Any) -> None:
        outbox = self.loop.outbox()
        if name in KINDS:
            role: Role = self._with_registrar(name, config, outbox)
        else:
            role = _ROLES[name](config, outbox, os.urandom)
        self.roles.append((name, role))
        self.loop.add(role, outbox)

    def status(self) -> str:
        """A registrar's word is its role's, whose worker knows less."""
        told = [role.status() for name, role in self.roles if name not in KINDS]
        names = [name for name, _ in self.roles if name in KINDS]
        told += [f"{name}: {desk.status()}" for name, desk in zip(names, self.desks)]
        return "; ".join(told)

    def describe(self) -> List[Dict[str, Any]]:
        described = []
        desks = iter(self.desks)
        for name, role in self.roles:
            if name in KINDS:
                desk = next(desks)
                counters = role.counters + desk.registrar.tally.all()
                described.append(describe_role(name, desk, counters, desk.registrar.gauges()))
            else:
                described.append(describe_role(name, role, role.counters, role.gauges()))
        described[0]["counters"].update(self.loop.counters)
        return described

    def counted(self) -> "Counter[str]":
        of_roles = [role.counters for _, role in self.roles]
        of_desks = [desk.counters for desk in self.desks]
        return sum([*of_roles, *of_desks], Counter(self.loop.counters))

    def _with_registrar(self, name: str, config: Any, outbox: Outbox) -> SharedRole:
        """A role with its registrar beside it, which it calls and is called by."""
        role: SharedRole

        def tell(worker: int, message: wire.Message, now: float) -> None:
            role.told(message, now)

        kind = KINDS[name]
        memory = kind.memory(config, 1)
        registrar = kind.registrar(config, 1, tell, memory, None)

        def ask(message: wire.Message, now: float) -> None:
            registrar.hear(0, message, now)

        role = kind.role(config, outbox, ask, lambda: None, memory, 0, os.getpid())
        desk = RegistrarRole(registrar, self._drained)
        self.desks.append(desk)
        self.shared.append((role, config))
        self.loop.add(desk, self.loop.outbox())
        return role

    def _drained(self) -> None:
        if all(desk.over for desk in self.desks):
            self.loop.stop()

    def terminate(self) -> None:
        """SIGTERM: channels come to an end first, unless it is said twice."""
        if not self.desks or any(desk.draining for desk in self.desks):
            self.stop()
        for desk, (_, config) in zip(self.desks, self.shared):
            desk.drain(config.drain_timeout)

    def stop(self) -> None:
        event(log, logging.INFO, "stopping", "stopping")
        self.loop.stop()

    def configure(self, configs: Sequence[Any]) -> None:
        """The configurations of the roles with registrars, read anew."""
        kinds = [KINDS[name] for name, _ in self.roles if name in KINDS]
        for kind, (role, _), desk, config in zip(kinds, self.shared, self.desks, configs):
            role.configure(config)
            kind.configure(desk.registrar, config)

    def busiest(self, most: int) -> List[Dict[str, Any]]:
        now = boot_time()
        every = [one for desk in self.desks for one in desk.registrar.busiest(most, now)]
        return sorted(every, key=lambda one: sum(one["octets"]), reverse=True)[:most]


def run_all(roles: Roles, scene: Scene) -> None:
    """The only process of a daemon."""
    sockets: Dict[Address, socket.socket] = {}
    for name, config in roles:
        if name in KINDS:
            groups = reuseport.bind_groups(config.binds, 1, name)
            sockets.update(zip(config.binds, (group[0] for group in groups)))
    loop = scene.loop([config for _, config in roles], sockets)
    crew = _Crew(loop)
    for name, config in roles:
        crew.add(name, config)

    def hang_up() -> None:
        if crew.shared:
            if scene.read_again():
                crew.configure(scene.current)
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
        crew.busiest if crew.shared else None,
    )
    scene.tell(loop, statistics)
    loop.run()
    scene.say_stopped(crew.counted())


def run_others(roles: Roles, scene: Scene, board: Board, slot: int) -> None:
    """The roles that a daemon has beside those with several workers."""
    loop = scene.loop()
    crew = _Crew(loop)
    for name, config in roles:
        crew.add(name, config)
    # A reload concerns the others alone.
    act_on_signals(
        loop, {signal.SIGTERM: loop.stop, signal.SIGINT: loop.stop, signal.SIGHUP: nothing}
    )

    def beat(now: float) -> None:
        board.beat(slot, crew.status())
        listen = [address.text(at) for at in loop.listening()]
        board.tell(slot, {"roles": crew.describe(), "listen": listen})

    loop.add(Ticker(BEAT_EACH, beat), loop.outbox())
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
