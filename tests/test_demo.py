"""`udppunch demo`, run for real: what it tells, on what ground, and that it leaves nothing."""

from __future__ import annotations

import importlib.util
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Set, Tuple

import pytest

from udppunch.demo import CLASSES
from udppunch.lab import can_build

ROOT = Path(__file__).parents[1]
ADDRESS = r"\d+\.\d+\.\d+\.\d+:\d+"
NOBODY = "65534"
TIMEOUT = 60.0
STORY = "udppunch"  # how the first line begins

reason_for_no_lab = can_build()
needs_lab = pytest.mark.skipif(bool(reason_for_no_lab), reason=str(reason_for_no_lab))
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def start(*options: str, prefix: Tuple[str, ...] = (), **keywords: Any) -> "subprocess.Popen[str]":
    keywords.setdefault("env", {**os.environ, "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8"})
    return subprocess.Popen(
        [*prefix, sys.executable, "-m", "udppunch", "demo", *options],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        **keywords,
    )


def tell(*options: str, **keywords: Any) -> Tuple[int, str]:
    """The exit status and the whole story, which kept its manners."""
    with start(*options, **keywords) as process:
        output, errors = process.communicate(timeout=TIMEOUT)
    assert not errors
    assert all(len(line) <= 78 for line in output.splitlines()), output
    assert not session(process.pid), output
    return process.returncode, output


def session(leader: int) -> Set[int]:
    """The processes, zombies aside, of the session that a demo was started in."""
    found = set()
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            fields = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[3]) == leader and fields[0] != "Z":
            found.add(int(name))
    return found


def children(parent: int) -> List[int]:
    try:
        return list(map(int, Path(f"/proc/{parent}/task/{parent}/children").read_text().split()))
    except FileNotFoundError:
        return []


def namespace(pid: int) -> Optional[int]:
    try:
        return os.stat(f"/proc/{pid}/ns/net").st_ino
    except OSError:
        return None


def watch(process: "subprocess.Popen[str]") -> Tuple[Set[int], Set[int]]:
    """The children of a demo at this moment, and the network namespaces they are in."""
    pids = set(children(process.pid))
    found = {inode for inode in map(namespace, {process.pid, *pids}) if inode is not None}
    return pids, found - {namespace(os.getpid())}


def assert_gone(pids: Set[int], namespaces: Set[int]) -> None:
    """Nothing of a demo is left: not its children, and nobody in its namespaces."""
    assert not [pid for pid in pids if os.path.exists(f"/proc/{pid}")]
    everywhere = {namespace(int(pid)) for pid in os.listdir("/proc") if pid.isdigit()}
    assert not namespaces & everywhere


def assert_carried(output: str) -> None:
    assert "application has its answer" in output
    assert re.search(r"throughput .*, [\d,]+ datagrams of 1,200 bytes", output)
    assert "unexpected    nothing" in output
    assert "udppunch connect --key-file FILE" in output


# What it tells


@needs_lab
def test_two_port_restricted_nats() -> None:
    status, output = tell()
    assert status == 0, output
    assert output.startswith(f"{STORY} between two private networks")
    assert "┌" in output and "◄" in output and "\033" not in output
    assert_carried(output)


@needs_lab
@pytest.mark.parametrize("a,b", [("public", "sym"), ("arc", "cgn-prc"), ("full", "public")])
def test_other_pairs(a: str, b: str) -> None:
    status, output = tell("--nat-a", a, "--nat-b", b)
    assert status == 0, output
    for nat, boxes in ((a, output.count(f"NAT: {a}")), (b, output.count(f"NAT: {b}"))):
        assert boxes == (nat != "public")
    assert_carried(output)


@needs_lab
@pytest.mark.parametrize(
    "a,b,reason",
    [
        ("sym", "sym", "uses another port for each"),
        ("udp-blocked", "prc", "does not answer"),
        ("prc", "udp-blocked", "does not answer"),
    ],
)
def test_what_cannot_be_punched_ends_with_the_programs_own_reason(
    a: str, b: str, reason: str
) -> None:
    status, output = tell("--nat-a", a, "--nat-b", b)
    assert status == 69, output
    assert reason in " ".join(output.split())
    assert "┌" not in output and "throughput" not in output


@needs_lab
def test_drawn_addresses_are_those_observed() -> None:
    """Compared with the sockets that the kernel shows, and with what the rendezvous saw."""
    with start() as process:
        assert process.stdout is not None
        lines: List[str] = []
        while not any("punched in" in line for line in lines):
            lines.append(process.stdout.readline())
            assert lines[-1], lines
        ports = {}
        for pid in children(process.pid):
            words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
            if "udppunch" in words:
                ports[words[words.index("udppunch") + 1]] = udp_ports(pid)
        process.communicate(timeout=TIMEOUT)
    story, drawing = "".join(lines).split("┌", 1)
    serve, connect = re.findall(r"192\.168\.1\.2:(\d+) +(?=│)", drawing)
    assert int(serve) in ports["serve"] and int(connect) in ports["connect"]
    (introduced,) = re.findall(rf"introduces ({ADDRESS}) to ({ADDRESS})", story)
    outside = re.search(rf"│ +({ADDRESS}) +◄═+► +({ADDRESS}) +│", drawing)
    assert outside is not None and outside.groups() == introduced[::-1]


def udp_ports(pid: int) -> Set[int]:
    """The local UDP ports in the network namespace of a process."""
    lines = Path(f"/proc/{pid}/net/udp").read_text().splitlines()[1:]
    return {int(line.split()[1].rpartition(":")[2], 16) for line in lines}


@pytest.mark.parametrize("name", ["fw", "symmetric"])
@pytest.mark.parametrize("option", ["--nat-a", "--nat-b"])
def test_unknown_class_names_the_known(option: str, name: str) -> None:
    with start(option, name) as process:
        output, errors = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 64 and not output
    assert errors.count("\n") == 1 and option in errors
    assert all(known in errors for known in CLASSES)


# On what ground


def test_loopback() -> None:
    status, output = tell("--loopback")
    assert status == 0, output
    assert "--loopback was given" in output and "NAT:" not in output
    assert_carried(output)


def test_in_the_c_locale_and_without_a_home() -> None:
    status, output = tell("--loopback", env={"LANG": "C", "PATH": os.environ["PATH"]})
    assert status == 0, output
    assert output.isascii() and "<====" in output
    assert_carried(output)


@needs_lab
@needs_root
def test_without_nft_it_names_the_package_and_takes_loopback() -> None:
    nft = os.path.realpath(shutil.which("nft") or "/usr/sbin/nft")
    hidden = ("unshare", "--mount", "sh", "-c", f'mount --bind /dev/null {nft}; exec "$@"', "sh")
    status, output = tell(prefix=hidden)
    assert status == 0, output
    assert "why  the lab needs `nft`: install the package nftables" in output
    assert_carried(output)


@pytest.fixture
def anybodys() -> Iterator[Tuple[str, Dict[str, str]]]:
    """An interpreter, and an environment with the program, that any user may read."""
    python = shutil.which("python3", path="/usr/bin:/usr/local/bin")
    if python is None:
        pytest.skip("no interpreter that any user may run")
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        shutil.copytree(ROOT / "udppunch", f"{name}/udppunch")
        for package in ("docopt", "psutil", "yaml"):
            spec = importlib.util.find_spec(package)
            assert spec is not None and spec.origin is not None
            source = Path(spec.origin)
            if source.name == "__init__.py":
                shutil.copytree(source.parent, f"{name}/{package}")
            else:
                shutil.copy(source, name)
        yield python, {"PYTHONPATH": name, "PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}


@needs_root
def test_as_an_ordinary_user(anybodys: Tuple[str, Dict[str, str]]) -> None:
    python, environment = anybodys
    user = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")
    refused = subprocess.run([*user, "unshare", "--user", "--net", "true"], capture_output=True)
    if refused.returncode:
        pytest.skip(f"no user namespaces: {refused.stderr.decode().strip()}")
    found = subprocess.run(
        [*user, python, "-m", "udppunch", "demo"],
        env=environment, cwd="/", capture_output=True, text=True, timeout=TIMEOUT,
    )  # fmt: skip
    assert (found.returncode, found.stderr) == (0, ""), found.stdout
    assert found.stdout.startswith(f"{STORY} between two private networks")
    assert_carried(found.stdout)


# That it ends at once and leaves nothing


@pytest.mark.parametrize("ground", ["lab", "loopback"])
@pytest.mark.parametrize("moment", [0.0, 0.1, 0.3, 0.8])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_at_any_time_leaves_nothing(
    number: signal.Signals, moment: float, ground: str
) -> None:
    """Counted from the first line on: before that there is nothing that could be left."""
    with start(*["--loopback"] * (ground == "loopback")) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith(STORY)
        time.sleep(moment)
        pids, namespaces = watch(process)
        process.send_signal(number)
        _, errors = process.communicate(timeout=TIMEOUT)
    assert (process.returncode, errors) == (128 + number, "")
    assert not session(process.pid)
    assert_gone(pids, namespaces)


@needs_lab
def test_control_c_reaches_the_whole_group() -> None:
    """As a terminal sends it: to the programs that the demo started, too."""
    with start() as process:
        assert process.stdout is not None
        while "has its answer" not in process.stdout.readline():
            pass
        pids, namespaces = watch(process)
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=TIMEOUT)
    assert (process.returncode, errors) == (130, "")
    assert_gone(pids, namespaces)


@pytest.mark.parametrize("lines", [1, 5, 10])
def test_a_closed_pipe_ends_it(lines: int) -> None:
    with start("--nat-a", "sym", "--nat-b", "sym") as process:
        assert process.stdout is not None and process.stderr is not None
        for _ in range(lines):
            process.stdout.readline()
        pids, namespaces = watch(process)
        process.stdout.close()
        assert process.wait(TIMEOUT) == 0
        assert process.stderr.read() == ""
    assert_gone(pids, namespaces)


@pytest.mark.parametrize("options", [[], ["--loopback"]], ids=["lab", "loopback"])
def test_killed_it_takes_its_programs_along(options: List[str]) -> None:
    with start(*options) as process:
        assert process.stdout is not None
        while "has its answer" not in process.stdout.readline():
            pass
        pids, namespaces = watch(process)
        assert len(pids) >= 3
        process.kill()
        process.wait()
    for pid in pids:
        wait_gone(pid)
    assert_gone(set(), namespaces)


def wait_gone(pid: int) -> None:
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    ended = poll.poll(10_000)
    os.close(pidfd)
    assert ended, f"process {pid} goes on"


# On a terminal


@pytest.mark.parametrize("plain", ["", "NO_COLOR", "--no-color", "TERM=dumb"])
def test_color_on_a_terminal_alone(plain: str) -> None:
    environment = {**os.environ, "TERM": "xterm", "LC_ALL": "C.UTF-8"}
    environment.pop("NO_COLOR", None)
    if plain == "NO_COLOR":
        environment["NO_COLOR"] = "1"
    if plain == "TERM=dumb":
        environment["TERM"] = "dumb"
    options = ["--loopback", *(["--no-color"] if plain == "--no-color" else [])]
    reader, writer = os.openpty()
    output = b""
    with subprocess.Popen(
        [sys.executable, "-m", "udppunch", "demo", *options],
        cwd=ROOT, env=environment, stdin=writer, stdout=writer, stderr=writer,
    ) as process:  # fmt: skip
        os.close(writer)
        try:
            while data := os.read(reader, 4096):
                output += data
        except OSError:  # EIO: the terminal has no more users
            pass
    os.close(reader)
    assert process.returncode == 0
    assert (b"\033[" in output) is not bool(plain)
    assert "direct path" in output.decode()
