"""The processes of a role that has several workers: each worker, and their registrar."""

from __future__ import annotations

import logging
import os
import signal
import socket
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, List, Sequence

from udppunch import address
from udppunch.net.clock import boot_time
from udppunch.net.loop import Loop
from udppunch.net.packets import Packets
from udppunch.proc import control
from udppunch.proc.board import Board, Process
from udppunch.proc.estate import Estate
from udppunch.proc.kinds import KINDS, AnyRegistrar, SharedRole
from udppunch.proc.registrar import RegistrarRole
from udppunch.proc.scene import BEAT_EACH, Scene, nothing
from udppunch.proc.signals import HANDING_OVER, TOLD, act_on_signals
from udppunch.proc.statistics import Statistics, describe_role
from udppunch.proc.ticker import Ticker
from udppunch.wire import registrar as wire
from udppunch.wire.malformed import Malformed

log = logging.getLogger(__name__)

_CHANNELS = 10  # told of a role that another one's registrar tells of
_CHANNELS_EACH = 10  # beats


@dataclass(frozen=True)
class Seat:
    """A worker's place: for which role, its sockets and memory, and its way to the registrar."""

    name: str
    group: int
    index: int
    sockets: Sequence[socket.socket]
    registrar: socket.socket
    memory: Any


def run_worker(seat: Seat, scene: Scene, board: Board, slot: int) -> None:
    """One of several workers of a role."""
    config = scene.current[seat.group - 1]
    loop = scene.loop([config], dict(zip(config.binds, seat.sockets)))
    outbox = loop.outbox()
    lost: "Counter[str]" = Counter()
    role: SharedRole

    def heard(packet: bytes) -> None:
        now = boot_time()
        for message in _decode(packet):
            role.told(message, now)

    def ask(message: wire.Message, now: float) -> None:
        if not packets.say(wire.encode(message)):
            lost["dropped: registrar does not listen"] += 1

    packets = Packets(loop, seat.registrar, heard)
    make = KINDS[seat.name].role
    role = make(config, outbox, ask, packets.hear, seat.memory, seat.index, os.getpid())
    loop.add(role, outbox)

    def beat(now: float) -> None:
        board.beat(slot, "")
        ask(wire.Counted(dict(role.counters + loop.counters + lost)), now)

    def reload() -> None:
        if scene.read_again():
            role.configure(scene.current[seat.group - 1])

    loop.add(Ticker(BEAT_EACH, beat), loop.outbox())

    # What asks for an end is the registrar's to hear; it comes to workers by the supervisor.
    def keep() -> None:
        role.keep()
        loop.stop()

    theirs = (signal.SIGTERM, signal.SIGUSR1, *HANDING_OVER)
    actions: Dict[int, Callable[[], None]] = dict.fromkeys(theirs, nothing)
    actions.update(dict.fromkeys(TOLD.values(), keep))
    act_on_signals(loop, {**actions, signal.SIGINT: loop.stop, signal.SIGHUP: reload})
    loop.run()


def run_registrar(
    estate: Estate,
    ends: Sequence[socket.socket],
    memory: Any,
    scene: Scene,
    board: Board,
    slot: int,
) -> None:
    """The registrar of a role's workers; that of the first such role also tells how all are."""
    name, group = estate.role, estate.group
    config, kind = scene.current[group - 1], KINDS[name]
    loop = scene.loop()
    links: List[Packets] = []

    def tell(worker: int, message: wire.Message, now: float) -> None:
        links[worker].say(wire.encode(message))

    again = board.processes()[board.names[slot]].restarts > 0
    before = (board.told(slot) or {}).get("lasting", {}) if again else None
    registrar = kind.registrar(config, len(ends), tell, memory, before)
    if not again and estate.inherited:
        registrar.inherit(estate.inherited, boot_time())
    for worker, end in enumerate(ends):
        links.append(Packets(loop, end, _hear(registrar, worker)))
    desk = RegistrarRole(registrar, loop.stop)
    loop.add(desk, loop.outbox())
    account = _Account(name, config, desk, board, slot)
    loop.add(Ticker(BEAT_EACH, account.beat), loop.outbox())

    bequeath = _heed_signals(loop, desk, estate, scene)
    if group == 1:
        scene.tell(loop, _statistics(scene, board, slot, account))
    loop.run(bequeath)
    scene.say_stopped(registrar.tally.all())
    if scene.control is not None and os.getppid() != scene.main_pid:
        # The supervisor was killed, and can't clear it away.
        control.remove(Path(scene.control.getsockname()))


def _heed_signals(
    loop: Loop, desk: RegistrarRole, estate: Estate, scene: Scene
) -> Callable[[], None]:
    """What is to be done at the very end, for until then a registrar may promise more."""
    registrar = desk.registrar
    handing_over = False

    def reload() -> None:
        if scene.read_again():
            KINDS[estate.role].configure(registrar, scene.current[estate.group - 1])

    def drain() -> None:
        desk.drain(estate.config.drain_timeout)

    def leave() -> None:
        nonlocal handing_over
        handing_over = True
        loop.stop()

    def hand_over() -> None:
        desk.leave(leave)

    def bequeath() -> None:
        if handing_over:
            estate.write(registrar.estate())

    act_on_signals(
        loop,
        {
            signal.SIGTERM: drain,
            signal.SIGINT: loop.stop,
            signal.SIGHUP: reload,
            signal.SIGUSR1: nothing,
            **dict.fromkeys(HANDING_OVER, nothing),
            **dict.fromkeys(TOLD.values(), hand_over),
        },
    )
    return bequeath


class _Account:
    """What a registrar's process tells on the board, of itself and of its workers."""

    def __init__(
        self, name: str, config: Any, desk: RegistrarRole, board: Board, slot: int
    ) -> None:
        self._name = name
        self._listen = [address.text(listen) for listen in config.binds]
        self._desk = desk
        self._board = board
        self._slot = slot
        self._beats = 0
        self._channels: List[Any] = []

    def beat(self, now: float) -> None:
        self._board.beat(self._slot, f"{self._name}: {self._desk.status()}")
        if self._beats % _CHANNELS_EACH == 0:  # to find them takes a while
            self._channels = self.channels(_CHANNELS, now)
        self._beats += 1
        self.tell()

    def channels(self, most: int, now: float) -> List[Any]:
        return self._desk.registrar.busiest(most, now)

    def tell(self) -> None:
        registrar = self._desk.registrar
        role = describe_role(self._name, self._desk, registrar.tally.all(), registrar.gauges())
        told = {"roles": [role], "listen": self._listen, "channels": self._channels}
        self._board.tell(self._slot, {**told, "lasting": registrar.tally.lasting()})


def _hear(registrar: AnyRegistrar, worker: int) -> Callable[[bytes], None]:
    def heard(packet: bytes) -> None:
        now = boot_time()
        for message in _decode(packet):
            registrar.hear(worker, message, now)

    return heard


def _statistics(scene: Scene, board: Board, slot: int, account: _Account) -> Statistics:
    """Of the whole daemon, as all of its processes tell, this one by its account."""
    main = {"main": Process(scene.main_pid, 0)}

    def told(key: str, *, of_others: bool = False) -> List[Any]:
        account.tell()
        slots = (at for at in range(len(board.names)) if not (of_others and at == slot))
        each = (board.told(at) for at in slots)
        return [item for one in each if one is not None for item in one.get(key, ())]

    def roles() -> List[Dict[str, Any]]:
        left, ordered = told("roles"), []
        for name in scene.roles:
            index = next((i for i, role in enumerate(left) if role["name"] == name), None)
            if index is not None:
                ordered.append(left.pop(index))
        return ordered

    def busiest(most: int) -> List[Dict[str, Any]]:
        channels = account.channels(most, boot_time()) + told("channels", of_others=True)
        return sorted(channels, key=lambda one: sum(one["octets"]), reverse=True)[:most]

    return Statistics(
        scene.name,
        scene.main_pid,
        lambda: {**main, **board.processes()},
        roles,
        lambda: told("listen"),
        busiest,
    )


def _decode(packet: bytes) -> List[wire.Message]:
    try:
        return list(wire.decode(packet))
    except Malformed as error:
        log.error("%s", error)  # its sender runs the same program: never seen
        return []
