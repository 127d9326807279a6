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
from udppunch.net.packets import Packets
from udppunch.proc import control
from udppunch.proc.board import Board, Process
from udppunch.proc.kinds import KINDS, AnyRegistrar, SharedRole
from udppunch.proc.registrar import RegistrarRole
from udppunch.proc.scene import BEAT_EACH, Scene, nothing
from udppunch.proc.signals import act_on_signals
from udppunch.proc.statistics import Statistics, describe_role
from udppunch.proc.ticker import Ticker
from udppunch.wire import registrar as wire
from udppunch.wire.malformed import Malformed

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Seat:
    """A worker's place: for which role, its sockets and memory, and its way to the registrar."""

    name: str
    group: int
    index: int
    sockets: Sequence[socket.socket]
    registrar: socket.socket
    memory: Any


def run_worker(config: Any, seat: Seat, scene: Scene, board: Board, slot: int) -> None:
    """One of several workers of a role."""
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
    role = make(config, outbox, ask, seat.memory, seat.index, os.getpid())
    loop.add(role, outbox)

    def beat(now: float) -> None:
        board.beat(slot, "")
        ask(wire.Counted(dict(role.counters + loop.counters + lost)), now)

    def reload() -> None:
        for new in scene.reread_shared()[seat.group - 1 : seat.group]:
            role.configure(new)

    loop.add(Ticker(BEAT_EACH, beat), loop.outbox())
    # What asks for an end is the registrar's to hear; it comes to workers by the supervisor.
    act_on_signals(loop, {signal.SIGTERM: nothing, signal.SIGINT: loop.stop, signal.SIGHUP: reload})
    loop.run()


def run_registrar(
    name: str,
    config: Any,
    group: int,
    ends: Sequence[socket.socket],
    memory: Any,
    scene: Scene,
    board: Board,
    slot: int,
) -> None:
    """The registrar of a role's workers; that of the first such role also tells how all are."""
    loop = scene.loop()
    links: List[Packets] = []

    def tell(worker: int, message: wire.Message, now: float) -> None:
        links[worker].say(wire.encode(message))

    again = board.processes()[board.names[slot]].restarts > 0
    kind = KINDS[name]
    registrar = kind.registrar(config, len(ends), tell, memory, again)
    for worker, end in enumerate(ends):
        links.append(Packets(loop, end, _hear(registrar, worker)))
    desk = RegistrarRole(registrar, loop.stop)
    loop.add(desk, loop.outbox())

    def tell_all() -> None:
        role = describe_role(name, desk, registrar.all_counters(), registrar.gauges())
        board.tell(slot, {"roles": [role], "listen": [address.text(at) for at in config.binds]})

    def beat(now: float) -> None:
        board.beat(slot, f"{name}: {desk.status()}")
        tell_all()

    loop.add(Ticker(BEAT_EACH, beat), loop.outbox())

    def reload() -> None:
        for new in scene.reread_shared()[group - 1 : group]:
            kind.configure(registrar, new)

    def drain() -> None:
        desk.drain(config.drain_timeout)

    act_on_signals(loop, {signal.SIGTERM: drain, signal.SIGINT: loop.stop, signal.SIGHUP: reload})
    if group == 1:
        scene.tell(loop, _statistics(registrar, scene, board, tell_all))
    loop.run()
    scene.say_stopped(registrar.all_counters())
    if scene.control is not None and os.getppid() != scene.main_pid:
        # The supervisor was killed, and can't clear it away.
        control.remove(Path(scene.control.getsockname()))


def _hear(registrar: AnyRegistrar, worker: int) -> Callable[[bytes], None]:
    def heard(packet: bytes) -> None:
        now = boot_time()
        for message in _decode(packet):
            registrar.hear(worker, message, now)

    return heard


def _statistics(
    registrar: AnyRegistrar, scene: Scene, board: Board, tell_all: Callable[[], None]
) -> Statistics:
    """Of the whole daemon, as all of its processes tell; `tell_all` makes this one do so now."""
    main = {"main": Process(scene.main_pid, 0)}

    def told(key: str) -> List[Any]:
        tell_all()
        each = (board.told(slot) for slot in range(len(board.names)))
        return [item for one in each if one is not None for item in one[key]]

    def roles() -> List[Dict[str, Any]]:
        left, ordered = told("roles"), []
        for name in scene.roles:
            index = next((i for i, role in enumerate(left) if role["name"] == name), None)
            if index is not None:
                ordered.append(left.pop(index))
        return ordered

    return Statistics(
        scene.name,
        scene.main_pid,
        lambda: {**main, **board.processes()},
        roles,
        lambda: told("listen"),
        lambda most: registrar.busiest(most, boot_time()),
    )


def _decode(packet: bytes) -> List[wire.Message]:
    try:
        return list(wire.decode(packet))
    except Malformed as error:
        log.error("%s", error)  # its sender runs the same program: never seen
        return []
