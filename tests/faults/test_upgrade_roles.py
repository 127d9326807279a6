"""Daemons replaced with another configuration, with several roles, and without any workers."""

from __future__ import annotations

import contextlib
import functools
import os
import resource
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence

import psutil
import pytest
import yaml

from tests import program
from tests.faults.expose_ends import KEY, PlayedExposer, false_helper, reaches, tagged
from tests.faults.expose_traffic import (
    PASSWORD,
    PASSWORD_VARIABLE,
    ExposerProgram,
    FarEnd,
    HelperProgram,
    few_descriptors,
)
from tests.faults.relay_traffic import PATIENCE, RelayProgram, carries, join, new_guid, pair_at
from tests.faults.upgrading import FLOWS, ExposeLoad, assert_short, of_any_size, upgrade
from tests.lab.whole_program import eventually
from tests.ports import free_port
from tests.program import Popen, Program, SocketAddress, text
from tests.standin.application import Echo, NumberedClient
from tests.standin.expose import SIGNED, TAG, Connectee, Endpoint, sign
from tests.standin.relay import Peer
from tests.standin.service_manager import ServiceManager

STUN_REQUEST = bytes.fromhex("000100002112a442") + b"udppunchtest"
A, B = (f"127.0.0.1:{free_port()}" for _ in range(2))


# --- with another configuration ----------------------------------------------------------


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


@pytest.mark.parametrize(
    "workers, change",
    [(number % 2 + 1, change) for number, change in enumerate(CHANGES.values())],
    ids=CHANGES,
)
def test_a_relays_configuration_changed(workers: int, change: Change, tmp_path: Path) -> None:
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


def test_a_helpers_services_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It begins anew; exposers make themselves known again."""
    monkeypatch.setenv(PASSWORD_VARIABLE, PASSWORD)
    file = tmp_path / "helper.yaml"

    def write(*names: str) -> Dict[str, SocketAddress]:
        found: Dict[str, SocketAddress] = {name: ("127.0.0.1", free_port()) for name in names}
        named = [f"{name}={text(address)}" for name, address in found.items()]
        helper = {"listen": A, "workers": 2, "name": named}
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


def test_an_access_log_says_who_left_when_he_left(tmp_path: Path) -> None:
    """Which nobody does for an upgrade."""
    file = tmp_path / "access.log"
    options = ("--transparent-log", str(file))
    with HelperProgram(*options) as helper, contextlib.ExitStack() as stack:
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
    meeting = ("127.0.0.1", free_port())
    published = ("127.0.0.1", free_port())
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
    """Neither the helper nor the service notices, and what comes meanwhile waits."""
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
        assert load.silent() == load.lost == 0
        assert {len(ends) for ends in service.seen.values()} == {1}
        counted = helper.counters()
        assert counted["connectees new"] == FLOWS and not counted.get("connectees gone")
        exposer.assert_alive_and_sane()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_an_exposer_whose_service_has_a_name(host: str) -> None:
    """What waits for it goes on waiting until the name is resolved again."""
    with (
        HelperProgram() as helper,
        FarEnd() as service,
        ExposerProgram((host, service.address[1]), helper.address) as exposer,
        ExposeLoad(helper.address, service) as load,
    ):
        for times in range(1, 4):
            load.wait_answered()
            exposer.process.send_signal(signal.SIGUSR2)
            exposer.wait_event("replaced", count=times)
        load.wait_answered()
        load.finish()
        assert load.silent() == load.lost == load.moved() == 0
        exposer.assert_alive_and_sane()


def test_an_exposer_with_as_many_sockets_as_it_may_have() -> None:
    """What is handed over takes no second descriptor."""
    tags = range(1, 61)
    with false_helper("--max-clients", "60", popen=few_descriptors(96)) as helper:
        sockets = helper.ask(*tags)
        for times in range(1, 3):
            helper.exposer.process.send_signal(signal.SIGUSR2)
            helper.exposer.wait_event("replaced", count=times)
            assert helper.ask(*tags) == sockets
        helper.exposer.assert_alive_and_sane()


class ExposerOfFile:
    """`udppunch run` of a file with an exposer, whose helper and service the test plays, and
    perhaps with a relay of several workers, beside which it has a process of its own."""

    def __init__(
        self, folder: Path, popen: Popen = subprocess.Popen, relay_workers: int = 0
    ) -> None:
        self.file = folder / "exposer.yaml"
        self._beside: List[Dict[str, Any]] = []
        self._relay_workers = relay_workers
        if relay_workers:
            listen = f"127.0.0.1:{free_port()}"
            self._beside.append({"relay": {"listen": listen, "workers": relay_workers}})
        self.helper, self.service = Endpoint(), Endpoint()
        self.seen: SocketAddress = ("", 0)
        self._popen = popen

    def __enter__(self) -> ExposerOfFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.helper.close()
        self.service.close()

    def write(self, **settings: Any) -> None:
        places = {"local": text(self.service.address), "helper": text(self.helper.address)}
        expose = {**places, "keepalive": "1s", **settings}
        self.file.write_text(yaml.safe_dump({"roles": [{"expose": expose}, *self._beside]}))

    def start(self) -> Program:
        return Program("run", str(self.file), "--control", "none", popen=self._popen)

    def register(self) -> SocketAddress:
        """Where it comes from that says next that it is there."""
        while True:
            said, self.seen = self.helper.receive_from()
            if said.startswith(SIGNED):
                self.helper.send_to(self.seen, sign("Registered", KEY))
                return self.seen

    def wait_registered(self, exposer: Program, count: int) -> None:
        """Until each of so many programs, one after the other, has been registered."""
        while exposer.count("registered") < count:
            self.register()

    def replace(self, exposer: Program) -> None:
        """Until the next one is registered; the former one may have been so more than once."""
        replaced = exposer.count("replaced")
        exposer.wait_event("registered")
        exposer.process.send_signal(signal.SIGUSR2)
        exposer.wait_event("replaced", count=replaced + 1)
        self.wait_registered(exposer, exposer.count("registered") + 1)

    def ask(self, *tags: int) -> Dict[int, SocketAddress]:
        """Whence the service is asked for each of the tags."""
        asked = {}
        for tag in tags:
            said = os.urandom(16)
            self.helper.send_to(self.seen, tagged(tag, said))
            heard, asked[tag] = self.service.receive_from()
            assert heard == said
        return asked

    def comes_to_have(self, sockets: int, exposer: Program) -> bool:
        """Whether it has so many of UDP at last, and none in vain."""
        expected = sockets + self._relay_workers
        return eventually(lambda: udp_sockets(exposer.process.pid) == expected, PATIENCE)


def udp_sockets(process: int) -> int:
    """How many it has together with its children."""
    main = psutil.Process(process)
    links = {link for each in (main, *main.children()) for link in descriptors(each.pid)}
    with open(f"/proc/{process}/net/udp") as ipv4, open(f"/proc/{process}/net/udp6") as ipv6:
        lines = [line.split() for line in (*ipv4, *ipv6) if ":" in line]
    return sum(f"socket:[{columns[9]}]" in links for columns in lines)


def descriptors(process: int) -> List[str]:
    """What they lead to; some may be gone meanwhile."""
    folder, found = f"/proc/{process}/fd", []
    with contextlib.suppress(FileNotFoundError):
        for number in os.listdir(folder):
            with contextlib.suppress(FileNotFoundError):
                found.append(os.readlink(f"{folder}/{number}"))
    return found


beside_workers = pytest.mark.parametrize("relay_workers", [0, 2], ids=["alone", "beside-workers"])


@pytest.fixture
def relay_workers() -> int:
    return 0


@pytest.fixture
def exposing(relay_workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ExposerOfFile:
    monkeypatch.setenv(PASSWORD_VARIABLE, PASSWORD)
    return ExposerOfFile(tmp_path, relay_workers=relay_workers)


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[ServiceManager]:
    with ServiceManager(tmp_path) as manager:
        yield manager


@pytest.fixture
def managed(
    manager: ServiceManager, relay_workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ExposerOfFile]:
    """An exposer whose sockets a service manager keeps."""
    monkeypatch.setenv(PASSWORD_VARIABLE, PASSWORD)
    with ExposerOfFile(tmp_path, manager.popen, relay_workers) as exposing:
        yield exposing


CONNECTEES = range(1, 41)
FD_SETSIZE = 1024  # select(2)


@beside_workers
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_an_exposer_asked_again_and_again(host: str, exposing: ExposerOfFile) -> None:
    """Before it has come to anything, too: what it has not taken yet is handed on."""
    with exposing:
        places = (f"{host}:{end.address[1]}" for end in (exposing.service, exposing.helper))
        exposing.write(**dict(zip(("local", "helper"), places)))
        with exposing.start() as exposer:
            before = exposing.register()
            sockets = exposing.ask(*CONNECTEES)
            open_before = len(os.listdir(f"/proc/{exposer.process.pid}/fd"))
            for number in range(40):
                exposer.process.send_signal(signal.SIGUSR2)
                time.sleep(number % 4 / 50)
            assert exposing.ask(*CONNECTEES) == sockets and exposing.seen == before
            exposing.wait_registered(exposer, 2)
            assert exposing.seen == before
            # While a name is looked up there is a pipe more.
            assert eventually(
                lambda: len(os.listdir(f"/proc/{exposer.process.pid}/fd")) == open_before, PATIENCE
            )
            exposer.assert_alive_and_sane()


@beside_workers
def test_an_exposer_by_both_ways_in_turn(
    relay_workers: int, manager: ServiceManager, managed: ExposerOfFile
) -> None:
    """The service manager keeps nothing of what is in use, and so hands over nothing stale."""
    managed.write(idle="2s")
    of_relay = relay_workers + 2 if relay_workers else 0  # and what its workers share
    with contextlib.ExitStack() as stack:
        exposer = stack.enter_context(managed.start())
        before = managed.register()
        for _ in range(3):
            sockets = managed.ask(*CONNECTEES)
            exposer.process.send_signal(signal.SIGUSR2)
            exposer.wait_event("replaced")
            assert managed.ask(*CONNECTEES) == sockets
            exposer.process.send_signal(signal.SIGQUIT)
            assert exposer.process.wait(PATIENCE) == 0
            assert len(manager.stored) == len(sockets) + 1 + of_relay
            exposer = stack.enter_context(managed.start())
            assert managed.register() == before
            assert managed.ask(*CONNECTEES) == sockets
            assert eventually(lambda: not manager.stored, PATIENCE)
            assert managed.comes_to_have(1, exposer)
        exposer.assert_alive_and_sane()


@pytest.mark.skipif(
    0 <= resource.getrlimit(resource.RLIMIT_NOFILE)[1] < 4 * FD_SETSIZE,
    reason="no process may open as many files",
)
@beside_workers
def test_more_sockets_than_select_could_wait_for(
    manager: ServiceManager, managed: ExposerOfFile
) -> None:
    """By both ways in turn."""
    managed.write(**{"max-clients": 2 * FD_SETSIZE})
    with contextlib.ExitStack() as stack:
        exposer = stack.enter_context(managed.start())
        managed.register()
        sockets = managed.ask(*range(1, FD_SETSIZE + 10))
        managed.replace(exposer)
        exposer.process.send_signal(signal.SIGQUIT)
        assert exposer.process.wait(PATIENCE) == 0 and not exposer.output, exposer
        assert len(manager.stored) > FD_SETSIZE
        exposer = stack.enter_context(managed.start())
        managed.register()
        assert managed.ask(*sockets) == sockets
        exposer.assert_alive_and_sane()


def test_an_exposer_asked_by_both_ways_at_once(managed: ExposerOfFile) -> None:
    """It does the one or the other."""
    managed.write()
    with contextlib.ExitStack() as stack:
        exposer = stack.enter_context(managed.start())
        before = managed.register()
        sockets = managed.ask(1, 2, 3)
        for number in (signal.SIGSTOP, signal.SIGQUIT, signal.SIGUSR2, signal.SIGCONT):
            exposer.process.send_signal(number)
        exposer.wait_event("stopped")
        assert eventually(
            lambda: exposer.count("replaced") == 1 or exposer.process.poll() is not None,
            PATIENCE,
        )
        if not exposer.count("replaced"):
            assert exposer.process.poll() == 0
            exposer = stack.enter_context(managed.start())
        assert managed.register() == before and managed.ask(1, 2, 3) == sockets
        exposer.assert_alive_and_sane()


@beside_workers
def test_fewer_connectees_than_were_handed_over(exposing: ExposerOfFile) -> None:
    with exposing:
        exposing.write()
        with exposing.start() as exposer:
            exposing.register()
            sockets = exposing.ask(1, 2, 3, 4, 5)
            exposing.write(**{"max-clients": 2})
            exposing.replace(exposer)
            assert exposing.comes_to_have(1 + 2, exposer)
            ports = {port for _, port in sockets.values()}
            kept = {port for port in ports if is_bound(port)}
            assert len(kept) == 2


def is_bound(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False


@beside_workers
@pytest.mark.parametrize("what", ["local", "helper", "bind", "name"])
def test_an_exposer_of_something_else_begins_anew(what: str, exposing: ExposerOfFile) -> None:
    """What waits in the former sockets is for nobody."""
    with exposing, Endpoint() as other:
        exposing.write()
        with exposing.start() as exposer:
            before = exposing.register()
            sockets = exposing.ask(1, 2, 3)
            changed = {"name": "other", "bind": f"127.0.0.1:{free_port()}"}
            exposing.write(**{what: changed.get(what, text(other.address))})
            if what == "local":
                exposing.service, former = other, exposing.service
            elif what == "helper":
                exposing.helper, former = other, exposing.helper
            exposing.replace(exposer)
            assert exposing.seen != before and exposing.comes_to_have(1, exposer)
            again = exposing.ask(1, 2, 3)
            assert not {*again.values()} & {*sockets.values()}
            if what == "local":
                assert former.has_nothing()
                former.close()
            elif what == "helper":
                former.close()
            exposer.assert_alive_and_sane()


@pytest.mark.parametrize("relay_workers", [2])
def test_an_exposer_whose_process_was_killed(exposing: ExposerOfFile) -> None:
    """What it was handed is gone with it; what its successor has is handed over."""
    with exposing:
        exposing.write()
        with exposing.start() as exposer:
            for _ in range(2):
                before = exposing.register()
                exposing.ask(*CONNECTEES)
                exposing.replace(exposer)
                assert exposing.seen == before
                children = psutil.Process(exposer.process.pid).children()
                max(children, key=lambda child: len(descriptors(child.pid))).kill()
                exposing.wait_registered(exposer, exposer.count("registered") + 1)
                assert exposing.seen != before
                before, sockets = exposing.seen, exposing.ask(1, 2, 3)
                exposing.replace(exposer)
                assert exposing.seen == before and exposing.ask(1, 2, 3) == sockets
                assert exposing.comes_to_have(1 + 3, exposer)
            exposer.assert_alive_and_sane()


@beside_workers
def test_helpers_in_another_order(exposing: ExposerOfFile) -> None:
    """Each keeps its socket and its connectees, whatever others there are."""
    with exposing, Endpoint() as second:
        first = exposing.helper
        exposing.write(helper=[text(first.address), text(second.address)])
        with exposing.start() as exposer:
            seen: Dict[SocketAddress, SocketAddress] = {}
            sockets: Dict[SocketAddress, Dict[int, SocketAddress]] = {}
            for times, helpers in enumerate(((first, second), (second, first), (first, second))):
                exposing.write(helper=[text(each.address) for each in helpers])
                if times:
                    exposer.process.send_signal(signal.SIGUSR2)
                    exposer.wait_event("replaced", count=times)
                for exposing.helper in (first, second):
                    exposing.wait_registered(exposer, exposer.count("registered") + 1)
                    at = exposing.helper.address
                    assert seen.setdefault(at, exposing.seen) == exposing.seen
                    asked = exposing.ask(1, 2)
                    assert sockets.setdefault(at, asked) == asked
            assert not {*sockets[first.address].values()} & {*sockets[second.address].values()}
            assert exposing.comes_to_have(2 + 4, exposer)
            exposer.assert_alive_and_sane()


def with_hosts(file: Path) -> Popen:
    """Starts a process that knows the hosts of that file, as it is then and later, and no name
    server."""

    def start(arguments: Sequence[str], **more: Any) -> "subprocess.Popen[str]":
        mount = f"mount --bind {file} /etc/hosts && mount --bind /dev/null /etc/resolv.conf"
        own = ["unshare", "--mount", "sh", "-c", f'{mount} && exec "$@"', "sh"]
        return subprocess.Popen([*own, *arguments], **more)

    return start


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has a file of hosts of its own")
@pytest.mark.parametrize("whose", ["local", "helper"])
def test_a_name_that_cannot_be_resolved_just_then(
    whose: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The exposer goes on with the address that was handed over, and need not ask."""
    monkeypatch.setenv(PASSWORD_VARIABLE, PASSWORD)
    hosts = tmp_path / "hosts"
    hosts.write_text("127.0.0.1 there\n")
    with ExposerOfFile(tmp_path, with_hosts(hosts)) as exposing:
        end = exposing.service if whose == "local" else exposing.helper
        exposing.write(**{whose: f"there:{end.address[1]}"})
        with exposing.start() as exposer:
            before = exposing.register()
            exposer.wait_event("registered")
            sockets = exposing.ask(1, 2, 3)
            hosts.write_text("")
            exposing.replace(exposer)
            assert not exposer.count("unresolved")
            assert exposing.seen == before and exposing.ask(1, 2, 3) == sockets
            exposer.assert_alive_and_sane()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has a file of hosts of its own")
def test_a_helper_that_is_of_the_other_family_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PASSWORD_VARIABLE, PASSWORD)
    hosts = tmp_path / "hosts"
    hosts.write_text("127.0.0.1 there\n")
    with ExposerOfFile(tmp_path, with_hosts(hosts)) as exposing:
        port = exposing.helper.address[1]
        exposing.write(helper=f"there:{port}")
        with exposing.start() as exposer, Endpoint(("::1", port)) as moved:
            exposing.register()
            exposer.wait_event("registered")
            sockets = exposing.ask(1, 2, 3)
            hosts.write_text("::1 there\n")
            exposer.process.send_signal(signal.SIGUSR2)
            exposing.helper.close()
            exposing.helper = moved
            exposing.wait_registered(exposer, 2)
            assert exposing.ask(1, 2, 3) == sockets
            exposer.assert_alive_and_sane()


@pytest.mark.parametrize("of", ["a service manager", "the program"])
def test_a_server_keeps_its_place(of: str, tmp_path: Path) -> None:
    """The rendezvous knows it by its socket, and it need not wait for its key."""
    with contextlib.ExitStack() as stack:
        manager = stack.enter_context(ServiceManager(tmp_path))
        rendezvous = stack.enter_context(program.rendezvous())
        service = stack.enter_context(Echo())
        meeting = rendezvous.address

        def start() -> Program:
            return program.serve(service.address, meeting, popen=manager.popen)

        server = stack.enter_context(start())
        before = server.wait_event("registered")["local"]
        client = stack.enter_context(program.connect(meeting))
        application = stack.enter_context(NumberedClient(client.address))
        application.send()
        assert application.wait_echoed(PATIENCE)
        if of == "the program":
            upgrade_one(server, "registered")
            found = server.wait_event("registered", count=2)
        else:
            server.process.send_signal(signal.SIGQUIT)
            assert server.process.wait(PATIENCE) == 0
            server = stack.enter_context(start())
            found = server.wait_event("registered")
        assert found["local"] == before and not server.count("key-taken"), server
        answered = len(application.received)

        def is_answered() -> bool:
            application.send()
            return application.wait_received(answered + 1, 0.1)

        assert eventually(is_answered, PATIENCE), client
        server.assert_alive_and_sane()


def upgrade_one(daemon: Program, until: str) -> None:
    count = daemon.count(until) + 1
    daemon.process.send_signal(signal.SIGUSR2)
    daemon.wait_event("replaced")
    daemon.wait_event(until, count=count)


@pytest.mark.parametrize("role", ["expose", "rendezvous", "serve", "connect"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_who_is_to_end_ends(role: str, number: signal.Signals, exposing: ExposerOfFile) -> None:
    """Whenever that is said: what is held back is heard by the program that comes next."""
    with exposing:
        exposing.write()
        made: Dict[str, Callable[[], Program]] = {
            "expose": exposing.start,
            "rendezvous": program.rendezvous,
            "serve": lambda: program.serve(exposing.service.address, exposing.helper.address),
            "connect": lambda: program.connect(exposing.helper.address),
        }
        for pause in (0.0, 0.001, 0.03, 0.1, 0.2):
            with made[role]() as daemon:
                assert eventually(lambda: caught(daemon.process.pid), PATIENCE), daemon
                daemon.process.send_signal(signal.SIGUSR2)
                time.sleep(pause)
                assert daemon.stop(number) == 0 and not daemon.output, daemon


def caught(process: int) -> bool:
    """Whether it acts on signals by now."""
    with open(f"/proc/{process}/status") as file:
        (found,) = (line.split()[1] for line in file if line.startswith("SigCgt:"))
    return bool(int(found, 16) >> (signal.SIGUSR2 - 1) & 1)


@pytest.mark.parametrize("role", ["connect", "rendezvous"])
def test_what_listens_never_ceases_to(role: str) -> None:
    """Whoever says something meanwhile is not told that nobody is there."""
    meeting = ("127.0.0.1", free_port())
    made = program.connect(meeting) if role == "connect" else program.rendezvous(meeting)
    with made as daemon, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(daemon.address)
        sock.settimeout(0.0)
        daemon.process.send_signal(signal.SIGUSR2)
        while daemon.count("listening") < 2:
            sock.send(b"anything")  # raises what an ICMP error has told
            time.sleep(0.001)
        daemon.assert_alive_and_sane()
