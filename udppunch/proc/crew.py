"""All roles of a daemon in one process, those with workers having one beside its registrar."""

from __future__ import annotations

import functools
import logging
import os
import signal
from collections import Counter
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

from udppunch import address
from udppunch.contract import Outbox, Role
from udppunch.errors import missing_library
from udppunch.net.clock import boot_time
from udppunch.net.loop import Loop
from udppunch.notices import event, say_state
from udppunch.proc.bequest import Bequest
from udppunch.proc.board import Board, Process
from udppunch.proc.estate import Estate, Inheritance
from udppunch.proc.kinds import KINDS, SharedRole
from udppunch.proc.registrar import RegistrarRole
from udppunch.proc.scene import BEAT_EACH, Roles, Scene, nothing
from udppunch.proc.signals import (
    ENDING,
    HANDING_OVER,
    TOLD,
    Leaving,
    SignalQueue,
    act_on_signals,
    hold_signals,
)
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
    try:
        from udppunch.role.chat_server import ChatServer
    except ImportError as error:
        raise missing_library(error, "--chat", "chat", "python3-cryptography") from None
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

    def __init__(self, loop: Loop, scene: Scene) -> None:
        self.loop = loop
        # One role's name that has no address just now is no reason to end the others.
        self._several = len(scene.roles) > 1
        self.leaving = Leaving.FOR_GOOD
        self._stopping = False
        self.roles: List[Tuple[str, Role]] = []
        self.desks: List[RegistrarRole] = []
        self.shared: List[Tuple[SharedRole, Any]] = []  # whose registrars those are

    def add(self, name: str, config: Any, estate: Optional[Estate] = None) -> None:
        """A role with a registrar has an estate."""
        outbox = self.loop.outbox()
        if name in KINDS:
            assert estate is not None
            role: Role = self._with_registrar(estate, outbox)
        else:
            role = _ROLES[name](config, outbox, os.urandom)
            if isinstance(role, (Connect, Expose, Serve)):
                role.patient = role.patient or self._several
        self.roles.append((name, role))
        self.loop.add(role, outbox)

    def inherit(self, inheritance: Inheritance) -> None:
        """Roles without a registrar take over the sockets that outlived theirs."""
        names = inheritance.outliving()
        for _, role in self.roles:
            if isinstance(role, (Expose, Serve)):
                names = role.inherit(names)
        inheritance.let_go(names)

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

    def _with_registrar(self, estate: Estate, outbox: Outbox) -> SharedRole:
        """A role with its registrar beside it, which it calls and is called by."""
        role: SharedRole
        name, config = estate.role, estate.config

        def tell(worker: int, message: wire.Message, now: float) -> None:
            role.told(message, now)

        kind = KINDS[name]
        memory = kind.memory(config, 1, estate.area)
        registrar = kind.registrar(config, 1, tell, memory, None)
        registrar.inherit(estate.inherited or (), boot_time())

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
        self.leaving = Leaving.FOR_GOOD
        if not self.desks or any(desk.draining for desk in self.desks):
            self.stop()
        for desk, (_, config) in zip(self.desks, self.shared):
            desk.drain(config.drain_timeout)

    def stop(self) -> None:
        event(log, logging.INFO, "stopping", "stopping")
        self.leaving = Leaving.FOR_GOOD
        self._stopping = True
        self.loop.stop()

    def hand_over(self, leaving: Leaving, scene: Scene) -> None:
        """Let who comes next go on with what there is."""
        if self._stopping or self.leaving is not Leaving.FOR_GOOD:
            return
        if any(desk.draining for desk in self.desks):
            return
        if not scene.may_leave(leaving):
            return
        event(log, logging.INFO, "handing-over", "handing over to a new process")
        self.leave(leaving)

    def leave(self, leaving: Leaving) -> None:
        """For who comes next, at the end of this turn."""
        self.leaving = leaving
        for role, _ in self.shared:
            role.keep()
        self.loop.stop()

    def bequeath(self, estates: Sequence[Estate], inheritance: Inheritance) -> None:
        """What registrars know, and sockets: at the very end, for until then both may change."""
        if self.leaving is not Leaving.FOR_GOOD:
            for desk, estate in zip(self.desks, estates):
                estate.write(desk.registrar.estate())
            inheritance.hold(self.loop.hand_over(inheritance.wants))

    def say_state(self) -> None:
        say_state(self.status())

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


def run_all(roles: Roles, estates: Sequence[Estate], scene: Scene) -> Leaving:
    """The only process of a daemon; why it ended."""
    # Closed with the loop, unlike those that are kept.
    sockets = {
        bind: group[0].dup()
        for estate in estates
        for bind, group in zip(estate.config.binds, estate.sockets)
    }
    loop = scene.loop([config for _, config in roles], sockets)
    crew = _Crew(loop, scene)
    waiting = iter(estates)  # in the order of their roles
    for name, config in roles:
        crew.add(name, config, next(waiting) if name in KINDS else None)
    crew.inherit(scene.inheritance)

    queue = _heed_signals(crew, scene)
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
    loop.run(lambda: crew.bequeath(estates, scene.inheritance))
    hold_signals()
    if any(number in ENDING for number in queue.take()):
        crew.leaving = Leaving.FOR_GOOD
    scene.say_stopped(crew.counted())
    return crew.leaving


def _heed_signals(crew: _Crew, scene: Scene) -> SignalQueue:
    def hang_up() -> None:
        if crew.shared or scene.is_service:
            if scene.read_again():
                crew.configure(scene.current)
        else:
            crew.stop()  # the terminal is gone; not without a goodbye

    return act_on_signals(
        crew.loop,
        {
            signal.SIGTERM: crew.terminate,
            signal.SIGINT: crew.stop,
            signal.SIGHUP: hang_up,
            signal.SIGUSR1: crew.say_state,
            **{
                number: functools.partial(crew.hand_over, leaving, scene)
                for number, leaving in HANDING_OVER.items()
            },
        },
    )


def run_others(roles: Roles, scene: Scene, bequest: Bequest, board: Board, slot: int) -> None:
    """The roles that a daemon has beside those with several workers."""
    scene.inheritance.receive(bequest.found())
    loop = scene.loop()
    crew = _Crew(loop, scene)
    for name, config in roles:
        crew.add(name, config)
    crew.inherit(scene.inheritance)
    # A reload concerns the others alone.
    actions: Dict[int, Callable[[], None]] = dict.fromkeys(ENDING, loop.stop)
    actions.update(dict.fromkeys((signal.SIGHUP, signal.SIGUSR1, *HANDING_OVER), nothing))
    for leaving, number in TOLD.items():
        actions[number] = functools.partial(crew.leave, leaving)
    act_on_signals(loop, actions)

    def beat(now: float) -> None:
        board.beat(slot, crew.status())
        listen = [address.text(at) for at in loop.listening()]
        board.tell(slot, {"roles": crew.describe(), "listen": listen})

    loop.add(Ticker(BEAT_EACH, beat), loop.outbox())
    loop.run(lambda: crew.bequeath((), scene.inheritance))
    if crew.leaving is not Leaving.FOR_GOOD:
        bequest.leave(scene.inheritance.files())


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

    def goodbye(now: float) -> None:
        if crew.leaving is not Leaving.TO_RETURN:
            notifier.tell(STOPPING="1")

    ticker = Ticker(each, tick, goodbye)
    crew.loop.add(ticker, crew.loop.outbox())
