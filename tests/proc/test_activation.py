"""Sockets that a service manager opened: any role takes its own by the address, and no others."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional

import pytest
import yaml

from tests import program
from tests.faults.expose_ends import PlayedExposer, reaches
from tests.faults.expose_traffic import PASSWORD, HelperProgram
from tests.faults.relay_traffic import PATIENCE, RelayProgram, carries, join, new_guid, pair_at
from tests.lab.whole_program import eventually
from tests.ports import free_port
from tests.program import LOOPBACK, Program, SocketAddress, text
from tests.standin.expose import Connectee, Endpoint
from tests.standin.relay import Peer, wait_readable
from tests.standin.service_manager import ServiceManager

Start = Callable[..., ServiceManager]

PRIVILEGED = 79
NOT_PRIVILEGED = ["setpriv", "--bounding-set", "-net_bind_service"]
STUN_REQUEST = bytes.fromhex("000100002112a442") + b"udppunchtest"


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as entered:
        yield entered


@pytest.fixture
def managing(tmp_path: Path, stack: ExitStack) -> Start:
    """Makes a service manager whose socket unit has these sockets open; it keeps them so."""

    def make(*sockets: socket.socket) -> ServiceManager:
        named = [("unit", stack.enter_context(sock)) for sock in sockets]
        return stack.enter_context(ServiceManager(tmp_path, named))

    return make


def udp_sockets(count: int = 1, address: SocketAddress = LOOPBACK) -> List[socket.socket]:
    """At one address, as several lines of ListenDatagram= with ReusePort= make them."""
    opened: List[socket.socket] = []
    for _ in range(count):
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_DGRAM)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, count > 1)
        sock.bind(address)
        address = sock.getsockname()[:2]
        opened.append(sock)
    return opened


def inodes(pid: int) -> List[str]:
    """Of the sockets that the process has open."""
    links = []
    for each in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            links.append(os.readlink(f"/proc/{pid}/fd/{each}"))
    return [link for link in links if link.startswith("socket:")]


def inode(sock: socket.socket) -> str:
    return f"socket:[{os.fstat(sock.fileno()).st_ino}]"


def warnings(daemon: Program) -> List[str]:
    return [event["message"] for event in daemon.events if event["level"] == "warning"]


# --- each role ---------------------------------------------------------------------------


def test_a_rendezvous_answers_what_was_asked_before_it_began(managing: Start) -> None:
    (sock,) = udp_sockets()
    manager = managing(sock)
    with Endpoint() as asking:
        asking.send_to(sock.getsockname(), STUN_REQUEST)
        with program.rendezvous(sock.getsockname(), popen=manager.popen) as rendezvous:
            answer, source = asking.receive_from()
            assert source == sock.getsockname()
            assert answer[:2] == b"\1\1" and answer[8:20] == STUN_REQUEST[8:]
            assert rendezvous.address == sock.getsockname() and not warnings(rendezvous)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_relay_has_a_worker_for_each_socket(count: int, managing: Start) -> None:
    """And joins peers who spoke before it began."""
    sockets = udp_sockets(count)
    manager = managing(*sockets)
    listen = text(sockets[0].getsockname())
    with Peer(sockets[0].getsockname()) as one, Peer(sockets[0].getsockname()) as other:
        guid = new_guid()
        one.old_handshake(guid)
        other.old_handshake(guid)
        words = ("relay", listen, "--workers", str(count))
        with RelayProgram(command=words, workers=count, secret=None, popen=manager.popen) as relay:
            assert wait_readable(one, other, timeout=PATIENCE)
            workers = [pid for name, pid in relay.pids().items() if name.startswith("worker")]
            assert len(workers) == (count if count > 1 else 0)
            assert {inode(sock) for sock in sockets} <= set(inodes(relay.process.pid))
            assert not any("handed over" in line for line in warnings(relay))
            for _ in range(8):
                join(relay.open_peer(), relay.open_peer(), new_guid(), b"")


@pytest.mark.parametrize("workers", [1, 4])
def test_other_workers_than_sockets(workers: int, managing: Start) -> None:
    """The sockets are what there is, and somebody is told."""
    sockets = udp_sockets(2)
    manager = managing(*sockets)
    listen = text(sockets[0].getsockname())
    command = ("relay", listen, "--workers", str(workers))
    with RelayProgram(command=command, workers=2, popen=manager.popen) as relay:
        assert len(relay.children()) == 3
        (said,) = (line for line in warnings(relay) if "handed over" in line)
        assert said.endswith(": 2")
        for _ in range(4):
            pair_at(relay)


def test_a_relay_at_two_addresses(managing: Start) -> None:
    first, second = udp_sockets(2), udp_sockets(2)
    manager = managing(first[0], second[0], second[1], first[1])
    addresses = [group[0].getsockname() for group in (first, second)]
    command = ("relay", *map(text, addresses), "--workers", "2")
    with RelayProgram(command=command, popen=manager.popen) as relay:
        relay.wait_event("listening", count=2)
        assert relay.document()["listen"] == [text(address) for address in addresses]
        for _ in range(8):
            one, other = (relay.open_peer(address[1]) for address in addresses)
            join(one, other, new_guid())
            assert carries(one, other) and carries(other, one)


def test_one_of_two_addresses_is_given(managing: Start) -> None:
    """The other is opened."""
    (given,) = udp_sockets()
    manager = managing(given)
    own = text(("127.0.0.1", free_port()))
    command = ("relay", text(given.getsockname()), own, "--workers", "1")
    with RelayProgram(command=command, workers=1, popen=manager.popen) as relay:
        relay.wait_event("listening", address=own)
        one, other = relay.open_peer(given.getsockname()[1]), relay.open_peer(int(own[10:]))
        join(one, other, new_guid())


@pytest.mark.parametrize("count", [1, 2])
def test_every_address_of_both_families(count: int, managing: Start) -> None:
    sockets = udp_sockets(count, ("::", 0))
    manager = managing(*sockets)
    port = sockets[0].getsockname()[1]
    command = ("relay", f":{port}", "--workers", str(count))
    with RelayProgram(command=command, workers=count, popen=manager.popen) as relay:
        assert relay.document()["listen"] == [f"[::]:{port}"]
        with Peer(("127.0.0.1", port)) as one, Peer(("::1", port)) as other:
            join(one, other, new_guid())
            assert carries(one, other) and carries(other, one)


@pytest.mark.parametrize("count", [1, 2])
def test_a_helper_with_two_services(count: int, managing: Start) -> None:
    service, named = udp_sockets(count), udp_sockets(count)
    manager = managing(*named, *service)
    address, of_name = service[0].getsockname(), named[0].getsockname()
    options = ("--name", f"other={text(of_name)}")
    with HelperProgram(
        *options,
        listen=text(address),
        workers=count,
        password=PASSWORD,
        popen=manager.popen,
    ) as helper:
        assert helper.document()["listen"] == [text(address), text(of_name)]
        with PlayedExposer(address) as exposer, Connectee(of_name) as connectee:
            exposer.register(name="other")
            assert eventually(lambda: reaches(connectee, exposer), PATIENCE), helper
        assert not any("handed over" in line for line in warnings(helper))


def test_a_client_of_a_path(managing: Start) -> None:
    (sock,) = udp_sockets()
    manager = managing(sock)
    with program.rendezvous() as rendezvous:
        client = program.connect(rendezvous.address, listen=sock.getsockname(), popen=manager.popen)
        with client:
            assert client.address == sock.getsockname()
            assert inode(sock) in inodes(client.process.pid)


def test_a_relay_beside_a_rendezvous(managing: Start, tmp_path: Path) -> None:
    """Whose successor takes the socket too."""
    relayed, (meeting,) = udp_sockets(2), udp_sockets()
    manager = managing(meeting, *relayed)
    file = tmp_path / "both.yaml"
    roles = [
        {"rendezvous": {"listen": text(meeting.getsockname())}},
        {"relay": {"listen": text(relayed[0].getsockname()), "workers": 2}},
    ]
    file.write_text(yaml.safe_dump({"roles": roles}))
    command = ("run", str(file))
    with RelayProgram(command=command, popen=manager.popen) as both, Endpoint() as asking:
        both.wait_event("listening", address=text(meeting.getsockname()))
        os.kill(both.pids()["others"], signal.SIGKILL)
        both.wait_event("listening", address=text(meeting.getsockname()), count=2)
        asking.send_to(meeting.getsockname(), STUN_REQUEST)
        assert asking.receive_from()[1] == meeting.getsockname()
        with Peer(relayed[0].getsockname()) as one, Peer(relayed[0].getsockname()) as other:
            join(one, other, new_guid())
        assert not any("handed over" in line for line in warnings(both))


# --- ports that take permission ----------------------------------------------------------


def without_permission(manager: ServiceManager) -> program.Popen:
    def popen(arguments: List[str], **more: Any) -> Any:
        return manager.popen(["/usr/bin/env", *NOT_PRIVILEGED, *arguments], **more)

    return popen


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can open such a port")
def test_a_port_that_takes_permission_is_kept_over_an_upgrade(managing: Start) -> None:
    (sock,) = udp_sockets(address=("127.0.0.1", PRIVILEGED))
    popen = without_permission(managing(sock))
    with program.rendezvous(sock.getsockname(), popen=popen) as rendezvous:
        for count in (1, 2, 3):
            rendezvous.wait_event("listening", count=count)
            with Endpoint() as asking:
                asking.send_to(sock.getsockname(), STUN_REQUEST)
                assert asking.receive_from()[1] == sock.getsockname()
            rendezvous.process.send_signal(signal.SIGUSR2)


# --- what nobody wants -------------------------------------------------------------------


def stream_socket() -> socket.socket:
    return socket.create_server(LOOPBACK)


def local_socket() -> socket.socket:
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)[0]


def another_port() -> socket.socket:
    return udp_sockets()[0]


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("unwanted", [stream_socket, local_socket, another_port])
def test_what_no_role_wants_is_told_and_closed(
    unwanted: Callable[[], socket.socket], workers: int, managing: Start
) -> None:
    wanted, useless = udp_sockets(workers), unwanted()
    manager = managing(useless, *wanted)
    command = ("relay", text(wanted[0].getsockname()), "--workers", str(workers))
    with RelayProgram(command=command, workers=workers, popen=manager.popen) as relay:
        (said,) = (line for line in warnings(relay) if "handed over" in line)
        if unwanted is another_port:
            assert str(useless.getsockname()[1]) in said
        pids = [relay.process.pid, *(child.pid for child in relay.children())]
        assert not any(inode(useless) in inodes(pid) for pid in pids)
        pair_at(relay)
        relay.assert_alive_and_sane()


def test_a_second_socket_of_a_role_without_workers(managing: Start) -> None:
    """It reads the first one alone, and half of the datagrams would wait in the other."""
    sockets = udp_sockets(2)
    manager = managing(*sockets)
    with program.rendezvous(sockets[0].getsockname(), popen=manager.popen) as rendezvous:
        rendezvous.wait_event("listening")
        open_ = inodes(rendezvous.process.pid)
        assert sum(inode(sock) in open_ for sock in sockets) == 1


# --- what is meant for others ------------------------------------------------------------


def saying(manager: ServiceManager, **variables: Optional[str]) -> program.Popen:
    """Starts it by that manager, the variables changed on the way."""
    changes = [f"{name}={value}" for name, value in variables.items() if value is not None]
    removed = [word for name, value in variables.items() if value is None for word in ("-u", name)]

    def popen(arguments: List[str], **more: Any) -> Any:
        return manager.popen(["/usr/bin/env", *removed, *changes, *arguments], **more)

    return popen


FOR_OTHERS: Dict[str, Dict[str, Optional[str]]] = {
    "another process": {"LISTEN_PID": "1"},
    "no process": {"LISTEN_PID": None},
    "no number": {"LISTEN_PID": "self"},
    "no count": {"LISTEN_FDS": None},
    "a strange count": {"LISTEN_FDS": "many"},
    "a negative count": {"LISTEN_FDS": "-1"},
}


@pytest.mark.parametrize("variables", FOR_OTHERS.values(), ids=FOR_OTHERS)
def test_what_is_for_others_is_left_alone(
    variables: Dict[str, Optional[str]], managing: Start
) -> None:
    """So the port is one that another process has."""
    (sock,) = udp_sockets()
    popen = saying(managing(sock), **variables)
    with program.rendezvous(sock.getsockname(), popen=popen) as rendezvous:
        assert rendezvous.process.wait(PATIENCE) == 73
        rendezvous.stop()
        assert text(sock.getsockname()) in rendezvous.output[-1]


@pytest.mark.parametrize("names", [None, "", "one:two:three"])
def test_names_are_not_needed(names: Optional[str], managing: Start) -> None:
    """Nor are they believed to be as many as the files."""
    (sock,) = udp_sockets()
    popen = saying(managing(sock), LISTEN_FDNAMES=names)
    with program.rendezvous(sock.getsockname(), popen=popen) as rendezvous:
        assert rendezvous.address == sock.getsockname()


CHILD = """
import os, subprocess
from udppunch.proc.estate import Inheritance
Inheritance(os.environ)
print(subprocess.run(["/usr/bin/env"], capture_output=True, text=True).stdout)
"""


@pytest.mark.parametrize("pid", [None, "1"], ids=["for it", "for another"])
def test_who_is_started_by_the_daemon_is_told_nothing(pid: Optional[str], managing: Start) -> None:
    (sock,) = udp_sockets()
    manager = managing(sock)
    popen = manager.popen if pid is None else saying(manager, LISTEN_PID=pid)
    started = popen([sys.executable, "-c", CHILD], stdout=subprocess.PIPE, text=True)
    said, _ = started.communicate(timeout=PATIENCE)
    assert started.returncode == 0 and "PATH=" in said and "LISTEN_" not in said
