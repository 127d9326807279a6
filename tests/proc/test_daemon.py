"""How a relay starts: into how many processes, together with which roles, or not at all and why."""

from __future__ import annotations

import base64
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, List, Sequence, Set

import psutil
import pytest
import yaml

from tests import program
from tests.faults.relay_traffic import PATIENCE, SECRET, RelayProgram, join, new_guid, pair_at
from tests.lab.whole_program import eventually
from tests.ports import free_port
from tests.standin.relay import SECRET_VARIABLE, Peer

of_any_size = pytest.mark.parametrize("workers", [1, 2])


WITH_SECRET = {SECRET_VARIABLE: base64.b64encode(SECRET).decode()}


def complaint(
    *arguments: str,
    status: int,
    environment: Dict[str, str] = WITH_SECRET,
    before: Sequence[str] = (),
) -> str:
    """The one line that a daemon ends with which can't start; `before` starts it."""
    found = subprocess.run(
        [*before, sys.executable, "-m", "udppunch", *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        cwd=program.ROOT,
        env={"PATH": os.environ["PATH"], **environment},
    )
    assert found.returncode == status, found.stderr
    (line,) = found.stderr.splitlines()
    assert line.startswith("udppunch: ") and not found.stdout
    return line


def relay_words(workers: int, *listen: str) -> List[str]:
    return ["relay", *listen, "--workers", str(workers), "--control", "none"]


# --- processes ---------------------------------------------------------------------------


def on_processors(processors: Set[int]) -> Any:
    """Starts a program there alone, as taskset does."""

    def popen(arguments: List[str], **more: Any) -> "subprocess.Popen[str]":
        def move() -> None:
            os.sched_setaffinity(0, processors)

        return subprocess.Popen(arguments, preexec_fn=move, **more)

    return popen


@pytest.mark.parametrize("count", [1, 2])
def test_one_worker_for_each_processor_that_it_may_use(count: int) -> None:
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < count:
        pytest.skip(f"{len(allowed)} processors")
    listen = f"127.0.0.1:{free_port()}"
    popen = on_processors(set(allowed[:count]))
    with RelayProgram(workers=count, command=("relay", listen), popen=popen) as relay:
        names = [name for name in relay.pids() if name.startswith("worker")]
        assert len(names) == (count if count > 1 else 0)
        assert len(relay.children()) == (count + 1 if count > 1 else 0)
        pair_at(relay)


def test_a_relay_of_one_worker_is_one_process() -> None:
    with RelayProgram(workers=1) as relay:
        assert relay.children() == []
        assert psutil.Process(relay.process.pid).num_threads() == 1


def test_processes_of_one_thread_with_no_more_files_than_they_need() -> None:
    """And none of what the supervisor's parent had open."""
    reader, writer = os.pipe()
    os.set_inheritable(reader, True)
    try:
        with RelayProgram(workers=4) as relay:
            assert len(relay.children()) == 5
            for child in relay.children():
                assert child.num_threads() == 1
                # Four sockets to share a port, as many pairs, two listeners and the loop's own.
                assert child.num_fds() < 40
            pair_at(relay)
    finally:
        os.close(reader)
        os.close(writer)


# --- with other roles --------------------------------------------------------------------


def write_roles(file: Path, workers: int) -> "tuple[str, str]":
    relay, rendezvous = (f"127.0.0.1:{free_port()}" for _ in range(2))
    roles = [
        {"relay": {"listen": relay, "workers": workers, "idle": "2s"}},
        {"rendezvous": {"listen": rendezvous}},
    ]
    file.write_text(yaml.safe_dump({"roles": roles}))
    return relay, rendezvous


@of_any_size
def test_a_relay_and_a_rendezvous(workers: int, tmp_path: Path) -> None:
    file = tmp_path / "both.yaml"
    relay_at, rendezvous_at = write_roles(file, workers)
    with RelayProgram(workers=workers, secret=SECRET, command=("run", str(file))) as both:
        both.wait_event("listening", address=rendezvous_at)
        ip, _, port = relay_at.rpartition(":")
        with Peer((ip, int(port))) as one, Peer((ip, int(port))) as other:
            join(one, other, new_guid())
        meeting = ("127.0.0.1", int(rendezvous_at.rpartition(":")[2]))
        with program.serve(("127.0.0.1", 9), meeting) as server:
            server.wait_event("registered")
            if workers > 1:
                os.kill(both.pids()["others"], 9)
                both.wait_event("restart", process="others")
                server.wait_event("registered", PATIENCE, count=2)
        both.process.terminate()
        assert both.process.wait(PATIENCE) == 0
        assert eventually(lambda: not both.children(), PATIENCE)
        assert not both.output


@of_any_size
def test_a_name_without_an_address_ends_no_other_role(workers: int, tmp_path: Path) -> None:
    file = tmp_path / "several.yaml"
    relay_at, nowhere = f"127.0.0.1:{free_port()}", "no-such-host.invalid"
    secrets = {"rendezvous": nowhere, "key": "k"}
    roles: List[Any] = [
        {"relay": {"listen": relay_at, "workers": workers}},
        {"expose": {"local": "127.0.0.1:9", "helper": f"{nowhere}:9"}},
        {"serve": {"forward": "127.0.0.1:9", **secrets}},
        {"connect": {"listen": f"127.0.0.1:{free_port()}", **secrets}},
    ]
    file.write_text(yaml.safe_dump({"roles": roles}))
    with RelayProgram(workers=workers, secret=SECRET, command=("run", str(file))) as daemon:
        daemon.wait_event("unresolved", count=3)
        daemon.wait_event("listening", address=relay_at)
        at = ("127.0.0.1", int(relay_at.rpartition(":")[2]))
        with Peer(at) as one, Peer(at) as other:
            join(one, other, new_guid())
        assert not daemon.count("restart") and not daemon.output
        daemon.assert_alive_and_sane()


@of_any_size
def test_all_roles_tell_what_they_do(workers: int, tmp_path: Path) -> None:
    file = tmp_path / "both.yaml"
    listen = write_roles(file, workers)
    with RelayProgram(workers=workers, secret=SECRET, command=("run", str(file))) as both:
        # Those beside workers tell of themselves twice a second, from when they have begun.
        assert eventually(lambda: both.document()["listen"] == list(listen), PATIENCE), both
        names = [role["name"] for role in both.document()["roles"]]
        assert names == ["relay", "rendezvous"]


# --- what can't start --------------------------------------------------------------------


@of_any_size
@pytest.mark.parametrize("shared", [False, True], ids=["plain", "reuseport"])
def test_a_port_that_another_has(workers: int, shared: bool) -> None:
    """Also one that would share it, which would get half of the other's datagrams."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        if shared:
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        taken.bind(("127.0.0.1", 0))
        where = program.text(taken.getsockname())
        assert where in complaint(*relay_words(workers, where), status=73)


@of_any_size
def test_the_port_of_another_relay(workers: int) -> None:
    with RelayProgram(workers=2) as relay:
        where = program.text(relay.address)
        assert where in complaint(*relay_words(workers, where), status=73)
        both = (f"127.0.0.1:{free_port()}", where)
        assert where in complaint(*relay_words(workers, *both), status=73)
        pair_at(relay)


@of_any_size
def test_an_address_that_is_not_there(workers: int) -> None:
    assert "192.0.2.1:6060" in complaint(*relay_words(workers, "192.0.2.1:6060"), status=73)


@of_any_size
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a capability up")
def test_a_port_that_takes_permission(workers: int) -> None:
    with open("/proc/sys/net/ipv4/ip_unprivileged_port_start") as file:
        if int(file.read()) <= 53:
            pytest.skip("every port is free for all here")
    words = relay_words(workers, "127.0.0.1:53")
    line = complaint(*words, status=77, before=["setpriv", "--bounding-set", "-net_bind_service"])
    assert "127.0.0.1:53" in line and "permission" in line.lower()


BAD_SECRETS = {
    "no base64": b"hush-hush, not base64!",
    "cut short": b"aHVzaGh1c2hodXNoaHVzaA",
    "empty": b"",
    "blank": b" \n",
    "binary": b"\xff\xfehushhush",
}


@pytest.mark.parametrize("secret", BAD_SECRETS.values(), ids=BAD_SECRETS)
def test_a_bad_secret_file(secret: bytes, tmp_path: Path) -> None:
    """The line says what is wrong with it, and not what is in it."""
    file = tmp_path / "file"
    file.write_bytes(secret)
    file.chmod(0o600)
    words = relay_words(2, "127.0.0.1:6060")
    line = complaint(*words, "--secret-file", str(file), status=78, environment={})
    assert f"secret file {file}: " in line
    assert not any(part in line.lower() for part in ("hush", "ahvz", "base64!"))


def test_a_secret_file_that_is_not_there(tmp_path: Path) -> None:
    words = relay_words(2, "127.0.0.1:6060")
    missing = str(tmp_path / "missing")
    assert missing in complaint(*words, "--secret-file", missing, status=66)


@pytest.mark.parametrize("secret", ["not base64!", "====", "aHVzaA"])
def test_a_bad_secret_in_the_environment(secret: str) -> None:
    words = relay_words(2, "127.0.0.1:6060")
    line = complaint(*words, status=64, environment={SECRET_VARIABLE: secret})
    assert SECRET_VARIABLE in line and secret not in line


def test_a_secret_file_that_others_may_read_is_warned_of(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(base64.b64encode(SECRET))
    file.chmod(0o644)
    with RelayProgram("--secret-file", str(file), secret=None) as relay:
        warned = [e["message"] for e in relay.events if e["level"] == "warning"]
        assert len(warned) == 1 and "chmod 600" in warned[0]
        pair_at(relay)


def test_no_secret_is_warned_of_once() -> None:
    with RelayProgram(secret=None) as relay:
        warned = [e["message"] for e in relay.events if e["level"] == "warning"]
        assert len(warned) == 1 and "--secret-file" in warned[0]


def test_more_sockets_than_there_may_be() -> None:
    """Better none than a part of them."""
    words = relay_words(64, f"127.0.0.1:{free_port()}")
    assert "too many open files" in complaint(*words, status=71, before=["prlimit", "--nofile=64"])
