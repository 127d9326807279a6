"""A daemon: its roles in one process, or a role's workers in several under a supervisor."""

from __future__ import annotations

import dataclasses
import functools
import logging
import os
import resource
import socket
import sys
from typing import Any, Callable, List, Mapping, Optional, Sequence, Set

from udppunch import logs
from udppunch.config.process import ProcessConfig
from udppunch.config.roles import ExposeConfig, binds
from udppunch.errors import DESCRIPTORS, EX_CANTCREAT, EX_OSERR, CommandError
from udppunch.net import mmsg
from udppunch.net.packets import packet_pair
from udppunch.notices import event
from udppunch.proc import control, crew, metrics, worker
from udppunch.proc.bequest import Bequest
from udppunch.proc.estate import Estate, Inheritance, leave_to_manager, replace_self
from udppunch.proc.kinds import KINDS
from udppunch.proc.scene import Reread, Roles, Scene, shared
from udppunch.proc.signals import Leaving, hold_signals, ignore_signals
from udppunch.proc.supervisor import Child, Kind, Supervisor
from udppunch.proc.systemd import Notifier

log = logging.getLogger(__name__)

_OTHER_DESCRIPTORS = 32
_HELPER_RISKS = (
    "anybody may take the service's place, or have traffic sent to an address that is not his"
)


def run(
    roles: Roles, process: ProcessConfig, environment: Mapping[str, str], reread: Reread
) -> None:
    """Runs the roles, each with its configuration, until a signal ends them.

    Raises CommandError when an address can't be listened on, a name does not exist, or a
    process of the daemon can't be kept running.
    """
    hold_signals()  # until those who act on them are there
    inheritance = Inheritance(environment)
    limit = _raise_descriptor_limit()
    roles = [(role, _fit(config, limit) if role == "expose" else config) for role, config in roles]
    name = "-".join(dict.fromkeys(role for role, _ in roles))
    with (
        metrics.listen(process.metrics) as metrics_socket,
        control.listen(process.control, name, environment) as control_socket,
    ):
        scene = Scene(
            name,
            [role for role, _ in roles],
            shared(roles),
            process,
            environment,
            reread,
            control_socket,
            metrics_socket,
            os.getpid(),
            inheritance,
        )
        _open_access_logs(roles, process)
        _warn_of_open_doors(roles)
        if not all(map(Notifier(environment).forget, inheritance.names)):
            log.warning("the service manager goes on keeping what it has handed over")
        inheritance.keep([bind for _, config in roles for bind in binds(config)])
        named = [(role, config) for role, config in roles if role in KINDS]
        estates = [
            Estate(role, group, config, _workers(config), inheritance)
            for group, (role, config) in enumerate(named, 1)
        ]
        if any(estate.workers > 1 for estate in estates):
            leaving = _supervise(roles, estates, scene)
        else:
            leaving = crew.run_all(roles, estates, scene)
        if leaving is Leaving.FOR_GOOD:
            ignore_signals()
    _take_leave(leaving, estates, inheritance, environment)


def _take_leave(
    leaving: Leaving,
    estates: Sequence[Estate],
    inheritance: Inheritance,
    environment: Mapping[str, str],
) -> None:
    """Hand over what there is, if somebody is to come next."""
    if leaving is Leaving.FOR_ANOTHER:
        if not leave_to_manager(estates, inheritance, Notifier(environment)):
            log.warning("no service manager keeps the sockets: what comes next begins anew")
    elif leaving is Leaving.TO_RETURN:
        event(log, logging.INFO, "replaced", "begun anew, with all that is open")
        command = _own_command()
        try:
            replace_self(estates, inheritance, command)
        except OSError as error:
            text = f"cannot start {command[0]} anew: {error.strerror}"
            raise CommandError(text, EX_OSERR) from None


def _own_command() -> List[str]:
    """How this program was started: by its script, or as a module of the interpreter."""
    script, words = sys.argv[0], sys.argv[1:]
    if script.endswith(".py") or not os.access(script, os.X_OK):
        return [sys.executable, "-m", "udppunch", *words]
    return [script, *words]


def _warn_of_open_doors(roles: Roles) -> None:
    for role, config in roles:
        if role == "relay" and not config.secret:
            log.warning("relay without a secret: anybody may be relayed (--secret-file)")
        if role == "helper" and not config.key:
            log.warning("helper without a password: %s (--password-file)", _HELPER_RISKS)


def _open_access_logs(roles: Roles, process: ProcessConfig) -> None:
    for _, config in roles:
        place = getattr(config, "transparent_log", None)
        if place is None:
            continue
        try:
            logs.open_access(place, process.log_json)
        except OSError as error:
            text = f"transparent-log {place}: {error.strerror}"
            raise CommandError(text, EX_CANTCREAT) from None


def _supervise(roles: Roles, estates: Sequence[Estate], scene: Scene) -> Leaving:
    inheritance = scene.inheritance
    bequest = Bequest()
    children: List[Child] = []
    drain = 0.0
    others = [(role, config) for role, config in roles if role not in KINDS]
    for estate in estates:
        drain = max(drain, estate.config.drain_timeout)
        label = f"{estate.role} {estate.group} " if len(estates) > 1 else ""
        children += _group(estate, label, scene)
    if others:
        inheritance.pass_on(bequest)
        run_others = functools.partial(crew.run_others, others, scene, bequest)
        children.append(Child("others", Kind.LEADER, 0, run_others))
    inheritance.let_go(inheritance.outliving())  # what nobody is there for
    notifier = Notifier(scene.environment)
    leaving = Supervisor(children, notifier, drain, scene.read_again, scene.may_leave).run()
    inheritance.receive(bequest.found())
    return leaving


def _group(estate: Estate, label: str, scene: Scene) -> List[Child]:
    """The registrar of a role and its workers."""
    role, group, count = estate.role, estate.group, estate.workers
    memory = KINDS[role].memory(estate.config, count, estate.area)
    pairs = [packet_pair() for _ in range(count)]
    ends = [pair[0] for pair in pairs]
    registrar = functools.partial(worker.run_registrar, estate, ends, memory, scene)
    children = [Child(f"{label}registrar", Kind.LEADER, group, registrar)]
    for index in range(count):
        own = [of_one[index] for of_one in estate.sockets]
        seat = worker.Seat(role, group, index, own, pairs[index][1], memory)
        run_worker = functools.partial(worker.run_worker, seat, scene)
        children.append(Child(f"{label}worker {index + 1}", Kind.FOLLOWER, group, run_worker))
    return children


def _workers(config: Any) -> int:
    """As many as asked for, or as there are processors that the process may use."""
    if not mmsg.available() or not hasattr(socket, "SO_REUSEPORT"):
        return 1
    if config.workers:
        return int(config.workers)
    affinity: Optional[Callable[[int], Set[int]]] = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1


def _raise_descriptor_limit() -> int:
    """Each path is a socket or two, and the customary 1,024 descriptors are soon used up."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):
        return soft
    return hard


def _fit(config: ExposeConfig, descriptors: int) -> ExposeConfig:
    """Each connectee is a socket: no more of them than leave some for everything else."""
    most = max(1, (descriptors - _OTHER_DESCRIPTORS) // len(config.helper))
    if descriptors < 0 or config.max_clients <= most:
        return config
    log.warning(
        "%s connectees at once and not %s: too few descriptors%s",
        most,
        config.max_clients,
        DESCRIPTORS,
    )
    return dataclasses.replace(config, max_clients=most)
