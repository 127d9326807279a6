"""What a process leaves is what the next one finds: sockets in their order, memory, and knowledge.

Each heir is a program that another one has become: this file, which tells what it found.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import resource
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, NoReturn, Sequence, Tuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import program
from tests.ports import free_port
from tests.program import text
from tests.standin.service_manager import ServiceManager
from udppunch import address, config
from udppunch.contract import Endpoint
from udppunch.proc.estate import Estate, Inheritance, leave_to_manager, replace_self
from udppunch.proc.systemd import Notifier
from udppunch.wire import registrar as wire

PASSWORD_VARIABLE = "UDPPUNCH_PASSWORD"
PASSWORD = "the password of the tests"
DATAGRAMS = 20  # from as many sources, so that each socket of a group has some
OCTETS = 5000
MEMORY = [bytes([65 + group]) * OCTETS for group in range(4)]

Role = Tuple[str, int, Dict[str, Any]]  # with the number of its workers, and settings


def peer(number: int) -> wire.Peer:
    return wire.Peer(address.pack("192.0.2.1", number), number % 2, 0, b"")


def flow(number: int) -> wire.Flow:
    guid = bytes([number % 256]) * 16
    return wire.Flow(number, number % 2, guid, 0.5, peer(number), peer(number + 1))


KNOWN: List[wire.Message] = [
    wire.Claim(0, peer(7)),
    *(wire.Holding(flow(number), 2**40, 2**50) for number in range(1, 1000)),
]


# --- the programs ------------------------------------------------------------------------


def ancestor(before: str, after: str, odd: str) -> NoReturn:
    inheritance = Inheritance(os.environ)
    estates = estates_of(before, inheritance)
    for estate in estates:
        estate.area.take(OCTETS)[:] = MEMORY[estate.group]
        estate.write(KNOWN)
        (will,) = (number for name, number in estate.files().items() if name.endswith("will"))
        damage(will, odd)
    tell({"sockets": [inodes(estate) for estate in estates]})
    sys.stdin.readline()
    command = [sys.executable, "-m", "tests.proc.test_estate", "heir", after]
    if odd == "no such program":
        command[0] += "-that-was-removed"
    # In another order than they were opened in: some stand where others are to be.
    replace_self(estates[::-1], inheritance, command)
    raise AssertionError("it came back")


def damage(will: int, odd: str) -> None:
    size = os.fstat(will).st_size
    if odd == "cut short":
        os.ftruncate(will, size - 1)
    elif odd == "cut at its head":
        os.ftruncate(will, 10)
    elif odd == "unwritten":
        os.ftruncate(will, 0)
    elif odd == "more behind it":
        os.pwrite(will, b"\0\5\xffwhat?", size)


def heir(settings: str) -> NoReturn:
    given = sorted(name for name in os.environ if name.startswith("LISTEN_"))
    found = []
    for estate in estates_of(settings, Inheritance(os.environ)):
        memory = bytes(estate.area.take(OCTETS))
        found.append({
            "sockets": inodes(estate),
            "queued": sum(map(queued, estate.sockets)),
            "known": estate.inherited is not None and estate.inherited == KNOWN,
            "anew": estate.inherited is None,
            "memory": memory == MEMORY[estate.group],
            "zeros": not any(memory),
        })  # fmt: skip
    left = [name for name in os.environ if name.startswith("LISTEN_")]
    tell({"found": found, "given": given, "left": left})
    sys.exit()


def tell(what: Any) -> None:
    print(json.dumps(what), flush=True)


def estates_of(settings: str, inheritance: Inheritance) -> List[Estate]:
    estates = []
    for group, (role, workers, raw) in enumerate(json.loads(settings), 1):
        found = config.role_config(role, raw, {PASSWORD_VARIABLE: PASSWORD})
        estates.append(Estate(role, group, found, workers, inheritance))
    return estates


def inodes(estate: Estate) -> List[List[int]]:
    return [[os.fstat(sock.fileno()).st_ino for sock in group] for group in estate.sockets]


def queued(group: Sequence[socket.socket]) -> int:
    count = 0
    for sock in group:
        with contextlib.suppress(BlockingIOError):
            while sock.recv(100, socket.MSG_DONTWAIT):
                count += 1
    return count


# --- the tests ---------------------------------------------------------------------------


class Inherited(NamedTuple):
    """The sockets of the ancestor, and what its heir tells."""

    sockets: List[Any]
    found: List[Dict[str, Any]]
    given: List[str]
    left: List[str]
    complaints: str


def inherit(before: List[Role], after: List[Role], odd: str = "") -> Inherited:
    words = ("ancestor", json.dumps(before), json.dumps(after), odd)
    with subprocess.Popen(
        [sys.executable, "-m", "tests.proc.test_estate", *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=program.ROOT,
        text=True,
    ) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        assert first, process.communicate()
        for _, _, raw in before:
            say_to(raw["listen"])
        said, complaints = process.communicate("go on\n", timeout=60)
        assert process.returncode == 0, complaints
    return Inherited(json.loads(first)["sockets"], **json.loads(said), complaints=complaints)


def say_to(listen: List[str]) -> None:
    for place in listen:
        ip, _, port = place.rpartition(":")
        for _ in range(DATAGRAMS):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.sendto(b"said meanwhile", (ip, int(port)))


def places(count: int = 1) -> List[str]:
    return [text(("127.0.0.1", free_port())) for _ in range(count)]


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_an_heir_has_all(workers: int) -> None:
    """The very sockets, each in its place, with what waits in them."""
    roles: List[Role] = [
        ("relay", workers, {"listen": places(2)}),
        ("helper", workers, {"listen": places(1), "name": [f"other={places()[0]}"]}),
        ("relay", workers, {"listen": places(1)}),
    ]
    inherited = inherit(roles, roles)
    assert [each["sockets"] for each in inherited.found] == inherited.sockets
    assert [each["queued"] for each in inherited.found] == [2 * DATAGRAMS, DATAGRAMS, DATAGRAMS]
    assert all(each["known"] and each["memory"] for each in inherited.found)
    assert inherited.given == ["LISTEN_FDNAMES", "LISTEN_FDS", "LISTEN_PID"]
    assert not inherited.left and not inherited.complaints


ODD = ("cut short", "cut at its head", "unwritten", "more behind it")


@pytest.mark.parametrize("odd", ODD)
def test_what_is_badly_written_is_not_believed(odd: str) -> None:
    """The sockets are there all the same; the memory may be what nobody knows of: it is new."""
    roles: List[Role] = [("relay", 2, {"listen": places()})]
    inherited = inherit(roles, roles, odd)
    (found,) = inherited.found
    assert found["anew"] and found["zeros"]
    assert [found["sockets"]] == inherited.sockets and found["queued"] == DATAGRAMS
    assert "Traceback" not in inherited.complaints


ONE, TWO = (f"{name}={place}" for name, place in zip(("one", "two"), places(2)))
OTHERS: Dict[str, Tuple[Dict[str, Any], Dict[str, Any], bool]] = {
    "names": ({"name": [ONE]}, {"name": [TWO]}, False),
    "order of names": ({"name": [ONE, TWO]}, {"name": [TWO, ONE]}, False),
    "one name more": ({"name": [ONE]}, {"name": [ONE, TWO]}, False),
    "limits": ({"name": [ONE]}, {"name": [ONE], "max-clients": 9, "idle": "5s"}, True),
}


@pytest.mark.parametrize("before, after, kept", OTHERS.values(), ids=OTHERS)
def test_another_configuration(before: Dict[str, Any], after: Dict[str, Any], kept: bool) -> None:
    """What is known of services is of these very services."""
    listen = places()
    inherited = inherit(
        [("helper", 2, {"listen": listen, **before})], [("helper", 2, {"listen": listen, **after})]
    )
    (found,) = inherited.found
    assert found["known"] == found["memory"] == kept
    assert found["anew"] == found["zeros"] == (not kept)
    assert found["queued"] == DATAGRAMS


def test_another_role() -> None:
    listen = places()
    inherited = inherit([("relay", 2, {"listen": listen})], [("helper", 2, {"listen": listen})])
    (found,) = inherited.found
    assert found["anew"] and found["zeros"] and found["queued"] == DATAGRAMS


def test_a_program_that_is_not_there() -> None:
    """That is told to whoever asked."""
    roles: List[Role] = [("relay", 1, {"listen": places()})]
    with pytest.raises(AssertionError, match="FileNotFoundError"):
        inherit(roles, roles, "no such program")


FIRST = 3
TELLING = """
import json, os
count, names = int(os.environ["LISTEN_FDS"]), os.environ["LISTEN_FDNAMES"].split(":")
found = [os.fstat(3 + at).st_ino for at in range(count)]
print(json.dumps([os.environ["LISTEN_PID"] == str(os.getpid()), names, found]))
"""


class HandedOver(NamedTuple):
    """What a program finds, and what its predecessor logged that replaced itself by it."""

    names: List[str]
    numbers: List[int]  # of the sockets before
    logged: List[str]


def handed_over(numbers: Sequence[int], names: Sequence[str]) -> HandedOver:
    """Of sockets that stood at these numbers."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket(type=socket.SOCK_DGRAM)) for _ in numbers]
        before = [os.fstat(sock.fileno()).st_ino for sock in sockets]
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            try:
                become_who_tells(sockets, numbers, names, writer)
            finally:
                os._exit(1)
        os.close(writer)
        with os.fdopen(reader) as output:
            said = output.read()
        assert os.waitpid(child, 0)[1] == 0
    *logged, told = said.splitlines()
    is_for_it, found_names, found = json.loads(told)
    assert is_for_it
    return HandedOver(found_names, [before.index(inode) for inode in found], logged)


def become_who_tells(
    sockets: Sequence[socket.socket], numbers: Sequence[int], names: Sequence[str], output: int
) -> None:
    beyond = max(numbers) + 1
    os.dup2(output, 1)
    logging.basicConfig(stream=open(1, "w", closefd=False), format="%(message)s", force=True)
    away = [fcntl.fcntl(sock.fileno(), fcntl.F_DUPFD, beyond) for sock in sockets]
    os.closerange(FIRST, beyond)
    for number, at in zip(away, numbers):
        os.dup2(number, at, inheritable=False)
    os.closerange(beyond, max(away) + 1)
    inheritance = Inheritance({})
    inheritance.hold({
        Endpoint("connectee", address.ANY_IPV4, handed_over_as=name): socket.socket(fileno=at)
        for name, at in zip(names, numbers)
    })  # fmt: skip
    resource.setrlimit(resource.RLIMIT_NOFILE, (beyond + 20, beyond + 20))
    replace_self([], inheritance, [sys.executable, "-I", "-S", "-c", TELLING])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(FIRST, FIRST + 12), unique=True, min_size=1))
def test_sockets_may_stand_anywhere(numbers: List[int]) -> None:
    """Also where others are to be: rings of them, and rows."""
    names = [f"n{number}" for number in range(len(numbers))]
    found = handed_over(numbers, names)
    assert found.names == [f"outliving-{name}" for name in names]
    assert found.numbers == list(range(len(numbers))) and not found.logged


def test_names_beyond_what_a_variable_holds() -> None:
    """The kernel would not start a program with them: some sockets are let go, of no others."""
    names = [f"{number:05}" + "x" * 1000 for number in range(200)]
    found = handed_over(range(FIRST, FIRST + 200), names)
    count = len(found.numbers)
    assert found.numbers == list(range(count)) and 100 < count < 131
    assert found.logged == [
        f"sockets that cannot be handed over: {200 - count} (their names are too long together)"
    ]


def test_a_manager_is_given_all_of_several_roles(tmp_path: Path) -> None:
    """Under names that no two share."""
    roles = [("relay", 3, {"listen": places(2)}), ("relay", 2, {"listen": places(1)})]
    estates = estates_of(json.dumps(roles), Inheritance({}))
    with contextlib.ExitStack() as stack:
        for estate in estates:
            stack.callback(close, estate)
        manager = stack.enter_context(ServiceManager(tmp_path))
        notifier = Notifier({"NOTIFY_SOCKET": manager.path})
        assert leave_to_manager(estates, Inheritance({}), notifier)
        names = [name for name, _ in manager.stored]
        assert len(set(names)) == len(names) == 6 + 2 + 2 * 2
        kept = {os.fstat(number).st_ino for _, number in manager.stored}
        for estate in estates:
            assert {inode for group in inodes(estate) for inode in group} < kept


def test_nobody_is_given_anything_without_a_manager() -> None:
    estates = estates_of(json.dumps([("relay", 1, {"listen": places()})]), Inheritance({}))
    assert not leave_to_manager(estates, Inheritance({}), Notifier({}))
    close(estates[0])


def close(estate: Estate) -> None:
    for number in estate.files().values():
        if number not in [sock.fileno() for group in estate.sockets for sock in group]:
            os.close(number)
    for group in estate.sockets:
        for sock in group:
            sock.close()


if __name__ == "__main__":
    {"ancestor": ancestor, "heir": heir}[sys.argv[1]](*sys.argv[2:])
