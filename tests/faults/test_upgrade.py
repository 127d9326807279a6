"""Daemons replaced while they carry: by the program installed now, or by a service manager.

The longest time in which a flow is silent is bounded by the second that an upgrade may take, and
on a slow machine by what the program takes to start there; what is said meanwhile waits in the
sockets, so nothing of it is lost.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Callable, ContextManager, Dict, Iterator, List, NamedTuple, Optional

import psutil
import pytest
import yaml

from tests import program
from tests.faults import expose_traffic, relay_traffic
from tests.faults.expose_ends import PlayedExposer, reaches
from tests.faults.expose_traffic import (
    PASSWORD,
    PASSWORD_VARIABLE,
    ExposerProgram,
    FarEnd,
    HelperProgram,
)
from tests.faults.relay_traffic import (
    PATIENCE,
    RelayProgram,
    carries,
    join,
    new_guid,
    pair_at,
    resident,
)
from tests.lab.whole_program import eventually
from tests.program import Program, SocketAddress, text
from tests.standin.expose import TAG, Connectee, Endpoint
from tests.standin.relay import Peer, wait_readable
from tests.standin.service_manager import ServiceManager

PER_SECOND = 1000
FLOWS = 16
LONGEST = 1.0  # that may be lost, or held up
FOREVER = ("--idle", "10min", "--drain-timeout", "10min")
STUN_REQUEST = bytes.fromhex("000100002112a442") + b"udppunchtest"

of_any_size = pytest.mark.parametrize("workers", [1, 2])


class Gaps:
    """The longest time in which nothing of a flow arrived, from `begin` on."""

    def __init__(self) -> None:
        self._last: Dict[int, float] = {}
        self._longest = 0.0

    def begin(self) -> None:
        self._last = dict.fromkeys(self._last, time.monotonic())
        self._longest = 0.0

    def note(self, flow: int) -> None:
        now = time.monotonic()
        self._longest = max(self._longest, now - self._last.get(flow, now))
        self._last[flow] = now

    def longest(self) -> float:
        now = time.monotonic()
        return max([self._longest, *(now - last for last in self._last.values())])


class RelayLoad(relay_traffic.Load):
    def __init__(self, relay: SocketAddress) -> None:
        super().__init__(relay, FLOWS, PER_SECOND)
        self.gaps = Gaps()

    def silent(self) -> int:
        return self.silent_flows()

    def moved(self) -> int:
        return 0

    def _take(self, receiver: Peer, datagram: bytes) -> None:
        super()._take(receiver, datagram)
        self.gaps.note(receiver.socket.fileno())


class ExposeLoad(expose_traffic.Load):
    def __init__(self, helper: SocketAddress, service: FarEnd) -> None:
        super().__init__(helper, service, FLOWS, PER_SECOND)
        self.gaps = Gaps()

    def _hear_answers(self, flow: Any) -> None:
        before = len(flow.answered)
        super()._hear_answers(flow)
        if len(flow.answered) > before:
            self.gaps.note(flow.index)


class Carrying(NamedTuple):
    """A daemon under load, and what it took to start."""

    daemon: RelayProgram
    load: Any
    start_up: float

    def finish(self, lost: int = 0) -> None:
        self.load.finish()
        assert self.load.lost <= lost, f"{self.load.lost} of {self.load.sent}; {self.daemon}"
        assert self.load.silent() == 0 and self.load.moved() == 0, self.daemon
        self.daemon.assert_alive_and_sane()


Kind = Callable[..., ContextManager[Carrying]]


@contextlib.contextmanager
def relayed(workers: int, **more: Any) -> Iterator[Carrying]:
    began = time.monotonic()
    with RelayProgram(*FOREVER, workers=workers, **more) as relay:
        start_up = time.monotonic() - began
        with RelayLoad(relay.address) as load:
            yield Carrying(relay, load, start_up)


@contextlib.contextmanager
def exposed(workers: int, **more: Any) -> Iterator[Carrying]:
    began = time.monotonic()
    with HelperProgram(workers=workers, **more) as helper:
        start_up = time.monotonic() - began
        with (
            FarEnd() as service,
            ExposerProgram(service.address, helper.address),
            ExposeLoad(helper.address, service) as load,
        ):
            yield Carrying(helper, load, start_up)


of_any_kind = pytest.mark.parametrize("kind", [relayed, exposed], ids=["relay", "helper"])


def has_returned(daemon: Program, times: int = 1) -> bool:
    """Whether it listens again, having been replaced so often."""
    names = [event["event"] for event in daemon.events]
    if names.count("replaced") < times:
        return False
    return "listening" in names[len(names) - 1 - names[::-1].index("replaced") :]


def wait_return(daemon: Program, times: int = 1) -> None:
    """Until it listens again, and tells so of all its processes."""
    assert eventually(lambda: has_returned(daemon, times), PATIENCE), daemon
    if isinstance(daemon, RelayProgram):
        expected = daemon.workers + 2 if daemon.workers > 1 else 1
        assert eventually(lambda: len(daemon.pids()) >= expected, PATIENCE), daemon


def upgrade(daemon: Program) -> None:
    times = daemon.count("replaced") + 1
    daemon.process.send_signal(signal.SIGUSR2)
    wait_return(daemon, times)


def new_starts(daemon: Program) -> List[float]:
    """What each program took that has replaced another one, until it listened."""
    taken, since = [], 0.0
    for event in daemon.events:
        if event["event"] == "replaced":
            since = event["time"]
        elif event["event"] == "listening" and since:
            taken.append(event["time"] - since)
            since = 0.0
    return taken


def assert_short(gaps: List[float], started: List[float]) -> None:
    """The best of them shows what an upgrade takes, the others what the machine did besides."""
    told = f"silent for {gaps} s, where to start took {started} s"
    assert min(gaps) <= max(LONGEST, 3 * min(started)), told
    assert max(gaps) <= LONGEST + 2 * max(started), told


def gauges(daemon: RelayProgram) -> int:
    """Of channels or connectees, as many as there are of the load."""
    told = daemon.gauges()
    return told["channels"] if "channels" in told else told["connectees"]


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


@of_any_kind
@of_any_size
def test_upgrades_that_fall_over_each_other(kind: Kind, workers: int) -> None:
    with kind(workers) as carrying:
        daemon, load, _ = carrying
        load.wait_sent(PER_SECOND // 4)
        for _ in range(10):
            daemon.process.send_signal(signal.SIGUSR2)
            time.sleep(0.03)
        wait_return(daemon)
        load.wait_sent(PER_SECOND // 2)
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


# --- with another configuration ----------------------------------------------------------

A, B = (f"127.0.0.1:{program.free_port()}" for _ in range(2))


class Change(NamedTuple):
    """From which settings to which, and whether channels outlive it."""

    before: Dict[str, Any]
    after: Dict[str, Any]
    kept: bool


CHANGES: Dict[str, Change] = {
    "one more address": Change({"listen": A}, {"listen": [A, B]}, False),
    "one less address": Change({"listen": [A, B]}, {"listen": A}, False),
    "another address": Change({"listen": A}, {"listen": B}, False),
    "more workers": Change({"listen": A}, {"listen": A, "workers": 5}, True),
    "other limits": Change({"listen": A}, {"listen": A, "max-channels": 10, "rate": 500}, True),
}


def write_relay(file: Path, settings: Dict[str, Any]) -> None:
    """The settings may have the number of workers."""
    file.write_text(yaml.safe_dump({"roles": [{"relay": {"idle": "10min", **settings}}]}))


def places(settings: Dict[str, Any]) -> List[str]:
    listen = settings["listen"]
    return [listen] if isinstance(listen, str) else listen


def port(place: str) -> int:
    return int(place.rpartition(":")[2])


@of_any_size
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_relays_configuration_changed(change: Change, workers: int, tmp_path: Path) -> None:
    file = tmp_path / "relay.yaml"
    write_relay(file, {"workers": workers, **change.before})
    with RelayProgram(workers=workers, command=("run", str(file))) as relay:
        one, other = relay.open_peer(port(A)), relay.open_peer(port(A))
        join(one, other, new_guid())
        write_relay(file, {"workers": workers, **change.after})
        upgrade(relay)
        now = places(change.after)
        assert eventually(lambda: relay.document()["listen"] == now, PATIENCE), relay
        assert relay.gauges()["channels"] == change.kept
        if change.kept:
            assert carries(one, other) and carries(other, one)
        for place in now:
            first, second = relay.open_peer(port(place)), relay.open_peer(port(place))
            join(first, second, new_guid())
        for place in set(places(change.before)) - set(now):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.bind(("127.0.0.1", port(place)))
        upgrade(relay)
        assert relay.gauges()["channels"] == change.kept + len(now)
        relay.assert_alive_and_sane()


@of_any_size
def test_a_wrong_file_replaces_nobody(workers: int, tmp_path: Path) -> None:
    file = tmp_path / "relay.yaml"
    write_relay(file, {"workers": workers, "listen": A})
    good = file.read_text()
    with RelayProgram(workers=workers, command=("run", str(file))) as relay:
        one, other = pair_at(relay)
        file.write_text("roles: [")
        relay.process.send_signal(signal.SIGUSR2)
        assert eventually(lambda: any(e["level"] == "error" for e in relay.events), PATIENCE)
        assert carries(one, other) and carries(other, one)
        assert not relay.count("replaced"), relay
        relay.assert_alive_and_sane()
        file.write_text(good)
        upgrade(relay)
        assert carries(one, other) and carries(other, one)


@of_any_size
def test_a_helpers_services_changed(
    workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It begins anew; exposers make themselves known again."""
    monkeypatch.setenv(PASSWORD_VARIABLE, PASSWORD)
    file = tmp_path / "helper.yaml"

    def write(*names: str) -> Dict[str, SocketAddress]:
        found: Dict[str, SocketAddress] = {
            name: ("127.0.0.1", program.free_port()) for name in names
        }
        named = [f"{name}={text(address)}" for name, address in found.items()]
        helper = {"listen": A, "workers": workers, "name": named}
        file.write_text(yaml.safe_dump({"roles": [{"helper": helper}]}))
        return found

    services = write("one", "two")
    with Program("run", str(file), "--control", "none") as helper:
        helper.wait_event("listening", count=3)
        for names in (("two", "three"), (), ("one",)):
            for name, address in {"": ("127.0.0.1", port(A)), **services}.items():
                with PlayedExposer(("127.0.0.1", port(A))) as exposer:
                    with Connectee(address) as connectee:
                        exposer.register(name=name)
                        come = functools.partial(reaches, connectee, exposer)
                        assert eventually(come, PATIENCE), f"{name}: {helper}"
            services = write(*names)
            upgrade(helper)
        helper.assert_alive_and_sane()


@of_any_size
def test_an_access_log_says_who_left_when_he_left(workers: int, tmp_path: Path) -> None:
    """Which nobody does for an upgrade."""
    file = tmp_path / "access.log"
    options = ("--transparent-log", str(file))
    with HelperProgram(*options, workers=workers) as helper, contextlib.ExitStack() as stack:
        exposer, *connectees = (stack.enter_context(Connectee(helper.address)) for _ in range(4))
        exposer.send(b"")
        for connectee in connectees:
            come = functools.partial(reaches, connectee, exposer)
            assert eventually(come, PATIENCE), helper
        upgrade(helper)
        assert all(reaches(connectee, exposer) for connectee in connectees)
        assert " left " not in file.read_text()
        helper.process.send_signal(signal.SIGINT)
        assert helper.wait_exit() == 0
        said = file.read_text()
        assert said.count(" came ") == said.count(" left ") == len(connectees), said


# --- several roles, and those without workers --------------------------------------------


def tag_of(connectee: Connectee, exposer: Connectee) -> bytes:
    said = connectee.send(os.urandom(16))
    while True:
        heard = exposer.receive()
        if heard[TAG:] == said:
            return heard[:TAG]


@of_any_size
def test_roles_side_by_side(workers: int, tmp_path: Path) -> None:
    file = tmp_path / "all.yaml"
    meeting = ("127.0.0.1", program.free_port())
    published = ("127.0.0.1", program.free_port())
    roles = [
        {"relay": {"listen": A, "workers": workers, "drain-timeout": "1ms"}},
        {"rendezvous": {"listen": text(meeting)}},
        {"relay": {"listen": B, "workers": 1, "drain-timeout": "1ms"}},
        {"helper": {"listen": text(published), "workers": workers}},
    ]
    file.write_text(yaml.safe_dump({"roles": roles}))
    with (
        Program("run", str(file), "--control", "none") as daemon,
        Endpoint() as asking,
        contextlib.ExitStack() as stack,
    ):
        daemon.wait_event("listening", count=4)
        pairs = []
        for place in (A, B):
            peers = [stack.enter_context(Peer(("127.0.0.1", port(place)))) for _ in range(2)]
            join(peers[0], peers[1], new_guid(), b"")
            pairs.append(peers)
        connectee = stack.enter_context(Connectee(published))
        exposer = stack.enter_context(Connectee(published))
        exposer.send(b"")
        assert eventually(lambda: reaches(connectee, exposer), PATIENCE), daemon
        tags = set()
        for times in range(3):
            daemon.wait_event("listening", count=4 * (times + 1))
            for one, other in pairs:
                assert carries(one, other) and carries(other, one)
            tags.add(tag_of(connectee, exposer))
            asking.send_to(meeting, STUN_REQUEST)
            assert asking.receive_from()[1] == meeting
            daemon.process.send_signal(signal.SIGUSR2)
        assert len(tags) == 1
        daemon.assert_alive_and_sane()


@pytest.mark.parametrize("password", [None, PASSWORD], ids=["no-password", "password"])
def test_an_exposer(password: Optional[str]) -> None:
    """Connectees keep their tags; only to the service they seem new."""
    began = time.monotonic()
    with (
        HelperProgram(password=password) as helper,
        FarEnd() as service,
        ExposerProgram(service.address, helper.address, password=password) as exposer,
        ExposeLoad(helper.address, service) as load,
    ):
        started = time.monotonic() - began  # all of them
        load.wait_answered()
        gaps = []
        for times in range(1, 3):
            load.gaps.begin()
            exposer.process.send_signal(signal.SIGUSR2)
            exposer.wait_event("replaced", count=times)
            load.wait_answered()
            gaps.append(load.gaps.longest())
        assert_short(gaps, [started])
        load.finish()
        assert load.silent() == 0
        assert {len(ends) for ends in service.seen.values()} == {3}
        counted = helper.counters()
        assert counted["connectees new"] == FLOWS and not counted.get("connectees gone")
        exposer.assert_alive_and_sane()


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


@of_any_kind
@of_any_size
@pytest.mark.parametrize("activated", [False, True], ids=["own-sockets", "socket-unit"])
def test_a_service_manager_keeps_it_for_the_next(
    kind: Kind, workers: int, activated: bool, tmp_path: Path
) -> None:
    with contextlib.ExitStack() as stack:
        unit = [stack.enter_context(sock) for sock in reuseport_sockets(workers)]
        where = text(unit[0].getsockname())
        if not activated:
            where = text(("127.0.0.1", program.free_port()))
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
        listen = text(("127.0.0.1", program.free_port()))

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
