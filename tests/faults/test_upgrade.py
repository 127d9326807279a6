"""Daemons replaced while they carry: by the program installed now, or by a service manager.

The longest time in which a flow is silent is bounded by the second that an upgrade may take, and
on a slow machine by what the program takes to start there; what is said meanwhile waits in the
sockets, so nothing of it is lost.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Dict, List

import psutil
import pytest

from tests.faults import relay_traffic
from tests.faults.relay_traffic import (
    PATIENCE,
    RelayProgram,
    carries,
    join,
    new_guid,
    pair_at,
    resident,
)
from tests.faults.upgrading import (
    FLOWS,
    FOREVER,
    PER_SECOND,
    Carrying,
    Kind,
    assert_short,
    exposed,
    gauges,
    has_returned,
    new_starts,
    of_any_kind,
    of_any_size,
    of_two_kinds,
    relayed,
    upgrade,
    wait_return,
)
from tests.lab.whole_program import eventually
from tests.ports import free_port
from tests.program import text
from tests.standin.relay import wait_readable
from tests.standin.service_manager import ServiceManager

# --- by the program that is installed now ------------------------------------------------


@of_any_kind
@of_any_size
def test_nothing_is_lost(kind: Kind, workers: int) -> None:
    """However often; and it goes on telling what it does, by the same socket."""
    with kind(workers) as carrying:
        daemon, load, _ = carrying
        names, pid = list(daemon.pids()), daemon.process.pid
        load.wait_sent(PER_SECOND // 4)
        gaps = []
        for _ in range(3):
            load.gaps.begin()
            upgrade(daemon)
            load.wait_sent(PER_SECOND // 4)
            gaps.append(load.gaps.longest())
            assert gauges(daemon) == FLOWS
        assert_short(gaps, [carrying.start_up, *new_starts(daemon)])
        document = daemon.document()
        assert document["pid"] == pid and list(daemon.pids()) == names
        assert document["listen"] == [text(daemon.address)]
        carrying.finish()
        assert not daemon.count("restart")
        daemon.process.send_signal(signal.SIGINT)
        assert daemon.wait_exit() == 0


INSTALLED = """#!{python}
import sys, time
time.sleep({pause})
import udppunch
udppunch.__version__ = {version!r}
from udppunch.__main__ import main
sys.exit(main())
"""


def install(script: Path, version: str, pause: float = 0.0) -> None:
    """As a package does it: the file is another one."""
    new = script.with_suffix(".new")
    new.write_text(INSTALLED.format(python=sys.executable, version=version, pause=pause))
    new.chmod(0o755)
    new.rename(script)


@of_any_size
def test_the_program_installed_now_hears_what_was_said_before(workers: int, tmp_path: Path) -> None:
    script = tmp_path / "udppunch"
    install(script, "1.2.3")

    def popen(arguments: List[str], **more: Any) -> "subprocess.Popen[str]":
        return subprocess.Popen([str(script), *arguments[3:]], **more)

    with RelayProgram(*FOREVER, workers=workers, popen=popen) as relay:
        assert relay.document()["version"] == "1.2.3"
        pairs = [pair_at(relay) for _ in range(8)]
        install(script, "1.2.4", pause=0.5)
        relay.process.send_signal(signal.SIGUSR2)
        relay.wait_event("replaced")
        said = [one.send(b"%d" % number) for number in range(50) for one, _ in pairs]
        early, late, guid = relay.open_peer(), relay.open_peer(), new_guid()
        handshakes = {peer: peer.handshake(guid, relay_traffic.SECRET) for peer in (late, early)}
        assert not has_returned(relay)
        for place, (_, other) in enumerate(pairs):
            assert [other.receive() for _ in range(50)] == said[place :: len(pairs)]
        (joined,) = wait_readable(early, late, timeout=PATIENCE)
        assert joined.receive() == handshakes[late if joined is early else early]
        assert relay.document()["version"] == "1.2.4"
        relay.assert_alive_and_sane()


@pytest.mark.parametrize("kind, workers", [(relayed, 1), (exposed, 2)], ids=["relay-1", "helper-2"])
def test_neither_memory_nor_descriptors_grow(kind: Kind, workers: int) -> None:
    with kind(workers) as carrying:
        daemon, load, _ = carrying
        load.finish()
        used: List[Dict[str, "tuple[int, int]"]] = []
        for _ in range(10):
            upgrade(daemon)
            assert eventually(lambda: gauges(daemon) == FLOWS, PATIENCE)
            pids = daemon.pids()
            used.append({name: (_descriptors(pid), resident(pid)) for name, pid in pids.items()})
        assert load.silent() == 0
        for name, (descriptors, memory) in used[-1].items():
            before = used[2][name]
            assert descriptors == before[0], used
            assert memory - before[1] < 2048, used


def _descriptors(pid: int) -> int:
    return psutil.Process(pid).num_fds()


@of_any_kind
@pytest.mark.parametrize("victim", ["worker 1", "registrar"])
def test_while_one_that_was_killed_is_replaced(kind: Kind, victim: str) -> None:
    """Sooner or later after its death: nothing that it knew is forgotten."""
    with kind(2) as carrying:
        daemon, load, _ = carrying
        load.wait_sent(PER_SECOND // 4)
        gaps: List[float] = []
        delays = (0.0, 0.005, 0.1)
        for times, delay in enumerate(delays, 1):
            load.gaps.begin()
            os.kill(daemon.pids()[victim], signal.SIGKILL)
            time.sleep(delay)
            daemon.process.send_signal(signal.SIGUSR2)
            wait_return(daemon, times)
            load.wait_sent(PER_SECOND // 4)
            gaps.append(load.gaps.longest())
        assert_short(gaps, [carrying.start_up, *new_starts(daemon)])
        # What the dead had in its hands.
        carrying.finish(lost=len(delays) * PER_SECOND // 50)
        assert gauges(daemon) == FLOWS


@of_any_kind
def test_all_processes_are_told(kind: Kind) -> None:
    """As `systemctl kill` does it."""
    with kind(2) as carrying:
        daemon, load, _ = carrying
        load.wait_sent(PER_SECOND // 4)
        for times in range(1, 3):
            for pid in daemon.pids().values():
                with contextlib.suppress(ProcessLookupError):  # the others may be faster
                    os.kill(pid, signal.SIGUSR2)
            wait_return(daemon, times)
        load.wait_sent(PER_SECOND // 4)
        carrying.finish()
        assert gauges(daemon) == FLOWS


@of_two_kinds
def test_upgrades_that_fall_over_each_other(kind: Kind, workers: int) -> None:
    with kind(workers) as carrying:
        daemon, load, _ = carrying
        load.wait_sent(PER_SECOND // 4)
        for _ in range(10):
            daemon.process.send_signal(signal.SIGUSR2)
            time.sleep(0.03)
        wait_return(daemon)
        load.wait_sent(2 * PER_SECOND)  # the last one may wait for its turn yet
        wait_return(daemon, daemon.count("handing-over"))
        carrying.finish()


# --- and other signals -------------------------------------------------------------------


@of_any_size
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda s: s.name)
def test_told_to_end_at_any_time_of_an_upgrade(workers: int, number: signal.Signals) -> None:
    """It ends, and is not begun anew. While modules load it may end of the signal itself."""
    for delay in (0.0, 0.02, 0.1):
        with RelayProgram(workers=workers) as relay:
            relay.children()
            relay.process.send_signal(signal.SIGUSR2)
            time.sleep(delay)
            relay.process.send_signal(number)
            assert relay.wait_exit() in (0, -number), f"{delay} s: {relay}"
            assert relay.count("replaced") <= 1, f"{delay} s: {relay}"
            assert not relay.children() and not relay.output, f"{delay} s: {relay}"


@of_any_size
@pytest.mark.parametrize("number", [signal.SIGUSR2, signal.SIGQUIT], ids=lambda s: s.name)
def test_who_drains_is_not_replaced(workers: int, number: signal.Signals) -> None:
    options = ("--idle", "10min", "--drain-timeout", "1s")
    with RelayProgram(*options, workers=workers) as relay:
        one, other = pair_at(relay)
        relay.process.send_signal(signal.SIGTERM)
        relay.wait_event("draining")
        relay.process.send_signal(number)
        assert carries(one, other)
        assert relay.wait_exit() == 0
        assert not relay.count("replaced") and not relay.count("handing-over")


# --- by a service manager ----------------------------------------------------------------


def reuseport_sockets(count: int) -> List[socket.socket]:
    opened: List[socket.socket] = []
    address = ("127.0.0.1", 0)
    for _ in range(count):
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, count > 1)
        sock.bind(address)
        address = sock.getsockname()
        opened.append(sock)
    return opened


@pytest.mark.parametrize("activated", [False, True], ids=["own-sockets", "socket-unit"])
@pytest.mark.parametrize(
    "kind, workers",
    [(relayed, 1), (relayed, 2), (exposed, 2)],
    ids=["relay-1", "relay-2", "helper-2"],
)
def test_a_service_manager_keeps_it_for_the_next(
    kind: Kind, workers: int, activated: bool, tmp_path: Path
) -> None:
    with contextlib.ExitStack() as stack:
        unit = [stack.enter_context(sock) for sock in reuseport_sockets(workers)]
        where = text(unit[0].getsockname())
        if not activated:
            where = text(("127.0.0.1", free_port()))
            unit.clear()
        manager = stack.enter_context(ServiceManager(tmp_path, [("unit", sock) for sock in unit]))
        more = {"listen": where, "popen": manager.popen}
        carrying = stack.enter_context(kind(workers, **more))
        load = carrying.load
        load.wait_sent(PER_SECOND // 4)
        gaps, started = [], [carrying.start_up]
        for _ in range(2):
            load.gaps.begin()
            carrying.daemon.process.send_signal(signal.SIGQUIT)
            assert carrying.daemon.process.wait(PATIENCE) == 0
            assert not carrying.daemon.output
            program_of = type(carrying.daemon)
            options = FOREVER if program_of is RelayProgram else ()
            began = time.monotonic()
            successor = stack.enter_context(program_of(*options, workers=workers, **more))
            started.append(time.monotonic() - began)
            carrying = Carrying(successor, load, started[-1])
            load.wait_sent(PER_SECOND // 4)
            gaps.append(load.gaps.longest())
            assert gauges(successor) == FLOWS, successor
        assert_short(gaps, started)
        told = [e["message"] for e in carrying.daemon.events if e["level"] == "warning"]
        assert not [line for line in told if "handed over" in line]
        carrying.finish()


def test_a_manager_that_keeps_nothing(tmp_path: Path) -> None:
    """It has been told to keep no files: the next one begins anew."""
    with ServiceManager(tmp_path) as manager, RelayProgram(popen=manager.popen) as relay:
        pair_at(relay)
        relay.process.send_signal(signal.SIGQUIT)
        assert relay.process.wait(PATIENCE) == 0
        manager.forget()
        with RelayProgram(listen=text(relay.address), popen=manager.popen) as successor:
            assert successor.gauges()["channels"] == 0
            pair_at(successor)
            successor.assert_alive_and_sane()


@of_any_size
def test_what_was_kept_is_not_believed_twice(workers: int, tmp_path: Path) -> None:
    """The next one is killed: what its predecessor knew is no longer so, but its port is there."""
    with contextlib.ExitStack() as stack:
        manager = stack.enter_context(ServiceManager(tmp_path))
        listen = text(("127.0.0.1", free_port()))

        def start() -> RelayProgram:
            relay = RelayProgram(*FOREVER, workers=workers, listen=listen, popen=manager.popen)
            return stack.enter_context(relay)

        relay = start()
        one, other = pair_at(relay)
        relay.process.send_signal(signal.SIGQUIT)
        assert relay.process.wait(PATIENCE) == 0
        relay = start()
        assert carries(one, other) and relay.gauges()["channels"] == 1
        relay.process.kill()
        relay.process.wait()
        assert eventually(lambda: not relay.children(), PATIENCE)
        relay = start()
        assert relay.gauges()["channels"] == 0
        join(one, other, new_guid())
        assert carries(one, other) and carries(other, one)
        relay.assert_alive_and_sane()
