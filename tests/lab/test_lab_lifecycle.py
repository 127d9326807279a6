"""A lab is built as drawn, its wires do what they were told, and nothing of it is left behind."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Callable

import pytest

from tests.lab.fixtures import ARRIVAL, PORT, BuildLab, heard, reflexive, udp
from udppunch.lab import Lab, LabError, can_build, enter_user_namespace, namespace

REPOSITORY = Path(__file__).parents[2]
NOBODY = 65534
UDP_SEGMENT = 103
PR_SET_DUMPABLE = 4

# Starts, in A, one program that ignores SIGTERM and has a child in a session of its own; says
# when both are there.
STUBBORN = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = os.fork()
if not child:
    os.setsid()
else:
    print(os.getpid(), child, flush=True)
time.sleep(600)
"""
MAKER = f"""
import sys, time
from udppunch.lab import Lab
lab = Lab("prc", "sym", delay_a=0.001)
program = lab.a.popen([sys.executable, "-c", {STUBBORN!r}])
print(*(machine.namespace.inode for machine in (lab.a, lab.nat_a, lab.b)), flush=True)
time.sleep(600)
"""


def wait_until(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + ARRIVAL
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def processes_in(inodes: set[int]) -> list[int]:
    """The processes in these network namespaces."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if os.stat(f"/proc/{name}/ns/net").st_ino in inodes:
                found.append(int(name))
    return found


def children() -> set[int]:
    text = Path(f"/proc/self/task/{os.getpid()}/children").read_text()
    return {int(pid) for pid in text.split()}


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def links_of_this_host() -> set[str]:
    return {name for _, name in socket.if_nameindex()}


# -- as drawn ----------------------------------------------------------------------------------


@pytest.mark.parametrize("core", ["routed", "bridge"])
def test_the_homes_have_the_same_private_addresses(build_lab: BuildLab, core: str) -> None:
    lab = build_lab("prc", "prc", core=core)
    assert lab.a.address == lab.b.address == "192.168.1.2"
    server = udp(lab.rendezvous, 3478, "203.0.113.11")
    assert reflexive(udp(lab.a), server) == ("203.0.113.101", PORT)
    assert reflexive(udp(lab.b), server) == ("203.0.113.102", PORT)


def test_a_datagram_with_a_ttl_of_two_opens_the_own_nat_and_dies_in_the_core(
    build_lab: BuildLab,
) -> None:
    lab = build_lab("full-static", "full-static")
    a, b = udp(lab.a), udp(lab.b)
    for ttl in (2, 3, 4):
        a.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, ttl)
        a.sendto(b"ttl %d" % ttl, (lab.nat_b.wan, PORT))
        if ttl == 2:
            assert "dst=203.0.113.102" in lab.nat_a.run(["conntrack", "-L"]).stdout
            assert "src=203.0.113.101" not in lab.nat_b.run(["conntrack", "-L"]).stdout
    assert heard(b) == [b"ttl 4"]


def test_a_carrier_is_one_more_hop(build_lab: BuildLab) -> None:
    lab = build_lab("cgn-prc", "full-static")
    a, b = udp(lab.a), udp(lab.b)
    for ttl in (4, 5):
        a.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, ttl)
        a.sendto(b"ttl %d" % ttl, (lab.nat_b.wan, PORT))
    assert heard(b) == [b"ttl 5"]


def test_ipv6_homes_punch_through_their_firewalls(build_lab: BuildLab) -> None:
    lab = build_lab("fw", "fw")
    a, b = udp(lab.a), udp(lab.b)
    a.sendto(b"first", (lab.b.address, PORT))
    b.sendto(b"second", (lab.a.address, PORT))
    assert heard(b) == []
    assert heard(a) == [b"second"]
    a.sendto(b"third", (lab.b.address, PORT))
    assert heard(b) == [b"third"]


def test_programs_run_inside_and_the_caller_stays_outside(build_lab: BuildLab) -> None:
    home = os.stat("/proc/thread-self/ns/net").st_ino
    lab = build_lab("prc", "public")
    assert "192.168.1.2/24" in lab.a.run(["ip", "address"]).stdout
    with pytest.raises(subprocess.CalledProcessError):
        lab.a.run(["false"])
    with pytest.raises(FileNotFoundError):
        lab.a.run(["/no/such/program"])
    assert os.stat("/proc/thread-self/ns/net").st_ino == home


def test_labs_side_by_side_do_not_meet(build_lab: BuildLab) -> None:
    labs = [build_lab("full-static", "public") for _ in range(4)]
    receivers = [udp(lab.a) for lab in labs]
    for number, lab in enumerate(labs):
        udp(lab.b).sendto(b"%d" % number, (lab.nat_a.wan, PORT))
    assert [heard(each) for each in receivers] == [[b"0"], [b"1"], [b"2"], [b"3"]]


def test_the_host_itself_is_left_alone(build_lab: BuildLab) -> None:
    before = links_of_this_host()
    lab = build_lab("prc", "cgn-sym", delay_a=0.001)
    lab.add_host("a")
    assert links_of_this_host() == before


# -- wires -------------------------------------------------------------------------------------


def through_a_wire(lab: Lab, count: int) -> list[int]:
    """The numbers that arrive at B, in their order, of `count` datagrams sent by A."""
    a, b = udp(lab.a), udp(lab.b)
    for number in range(count):
        a.sendto(b"%d" % number, (lab.b.address, PORT))
    return [int(data) for data in heard(b)]


def test_a_constant_delay_is_kept(build_lab: BuildLab) -> None:
    lab = build_lab("public", "public", delay_a=0.015, delay_b=0.010)
    a, b = udp(lab.a), udp(lab.b)
    delays = []
    for _ in range(20):
        start = time.monotonic()
        a.sendto(b"datagram", (lab.b.address, PORT))
        b.recv(100)
        delays.append(time.monotonic() - start)
    # A busy machine makes some of them later; nothing makes one earlier.
    assert 0.025 <= min(delays) < 0.030


def test_a_constant_delay_keeps_the_order(build_lab: BuildLab) -> None:
    lab = build_lab("public", "public", delay_a=0.005, delay_b=0.005)
    assert through_a_wire(lab, 200) == list(range(200))


def test_a_wire_to_the_rendezvous_delays_both_ways(build_lab: BuildLab) -> None:
    lab = build_lab("public", "public", delay_rendezvous=0.020)
    client, server = udp(lab.a), udp(lab.rendezvous, 3478, "203.0.113.10")
    start = time.monotonic()
    target = reflexive(client, server)
    server.sendto(b"answer", target)
    client.recv(100)
    assert time.monotonic() - start >= 0.040


def test_the_same_seed_loses_the_same_datagrams(build_lab: BuildLab) -> None:
    runs = [
        through_a_wire(build_lab("public", "public", loss=0.2, seed=seed), 200)
        for seed in (1, 1, 2)
    ]
    assert runs[0] == runs[1] == sorted(runs[0])
    assert 0 < len(runs[0]) < 200
    assert runs[0] != runs[2]


def test_everything_is_doubled_by_each_of_the_two_wires(build_lab: BuildLab) -> None:
    lab = build_lab("public", "public", duplicate=1.0)
    assert through_a_wire(lab, 5) == [number for number in range(5) for _ in range(4)]


@pytest.mark.parametrize("option", [{"reorder": 0.1}, {"jitter": 0.02}])
def test_reordering_loses_nothing(build_lab: BuildLab, option: dict[str, float]) -> None:
    arrived = through_a_wire(build_lab("public", "public", delay_a=0.01, **option), 200)
    assert arrived != sorted(arrived) == list(range(200))


def test_a_coalesced_send_comes_out_as_single_datagrams(build_lab: BuildLab) -> None:
    lab = build_lab("prc", "public", delay_a=0.001)
    b = udp(lab.b)
    payload = os.urandom(10 * 1200)
    a = udp(lab.a)
    a.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, 1200)
    a.sendto(payload, (lab.b.address, PORT))
    assert heard(b) == [payload[start : start + 1200] for start in range(0, len(payload), 1200)]


def test_a_wire_carries_thousands_in_order(build_lab: BuildLab) -> None:
    lab = build_lab("prc", "public", delay_a=0.005)
    a, b = udp(lab.a), udp(lab.b)
    arrived: list[bytes] = []
    for number in range(3000):
        a.sendto(b"%d" % number, (lab.b.address, PORT))
        # Meanwhile read what is out, for the socket's buffer holds a few hundred.
        with contextlib.suppress(BlockingIOError):
            arrived.append(b.recv(100, socket.MSG_DONTWAIT))
    arrived += heard(b)
    assert [int(data) for data in arrived] == list(range(3000))


# -- nothing is left ---------------------------------------------------------------------------


def test_closing_ends_what_runs_inside_even_unwilling_grandchildren(
    lab_permitted: None,
) -> None:
    children_before, open_before = children(), descriptors()
    with Lab("prc", "sym", delay_a=0.001) as lab:
        program = lab.a.popen([sys.executable, "-c", STUBBORN], stdout=subprocess.PIPE, text=True)
        assert program.stdout is not None
        pids = [int(pid) for pid in program.stdout.readline().split()]
        inodes = {lab.a.namespace.inode}
        assert sorted(processes_in(inodes)) == sorted(pids)
        kept = lab.a.socket()
        lab.add_host("a")
    program.stdout.close()
    assert not any(map(alive, pids))
    assert processes_in(inodes) == []
    assert children() == children_before
    assert kept.fileno() == -1
    assert descriptors() == open_before
    lab.close()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_nothing_outlives_a_maker_that_is_killed(lab_permitted: None, number: int) -> None:
    maker = subprocess.Popen(
        [sys.executable, "-c", MAKER], stdout=subprocess.PIPE, text=True, cwd=REPOSITORY
    )
    assert maker.stdout is not None
    with maker:
        lines = [maker.stdout.readline().split() for _ in range(2)]
        pids, inodes = (set(map(int, line)) for line in sorted(lines, key=len))
        offspring = {*pids, *children_of(maker.pid)}
        assert len(offspring) == 4, "the program, its child, the pump and the guard"
        assert all(map(alive, offspring))
        maker.send_signal(number)
        maker.wait(ARRIVAL)
        assert wait_until(lambda: not any(map(alive, offspring)))
        assert processes_in(inodes) == []


def children_of(pid: int) -> set[int]:
    return set(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


def test_a_lab_that_cannot_be_built_leaves_nothing(
    lab_permitted: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = children(), descriptors()

    def fail(self: namespace.Namespace, text: str) -> None:
        raise LabError("no rules today")

    monkeypatch.setattr(namespace.Namespace, "nft", fail)
    with pytest.raises(LabError, match="no rules today"):
        Lab("prc", "prc", delay_a=0.001)
    assert (children(), descriptors()) == before


# -- what is refused, and who may ---------------------------------------------------------------


@pytest.mark.parametrize(
    "sites, options, reason",
    [
        (("tight", "prc"), {}, "unknown NAT class 'tight'"),
        (("prc", "prc"), {"cgn_a": "tight"}, "unknown NAT class 'tight'"),
        (("public", "prc"), {"cgn_a": "prc"}, "no carrier"),
        (("cgn-prc", "prc"), {"cgn_a": "prc"}, "no carrier"),
        (("prc", "prc"), {"core": "ring"}, "neither 'routed' nor 'bridge'"),
        (("prc", "prc"), {"core": "bridge", "delay_a": 0.1}, "routed core"),
    ],
)
def test_what_makes_no_sense_is_refused(
    sites: tuple[str, str], options: dict[str, object], reason: str
) -> None:
    with pytest.raises(LabError, match=reason):
        Lab(*sites, **options)  # type: ignore[arg-type]


def test_a_lab_says_which_router_or_network_it_has_not(build_lab: BuildLab) -> None:
    lab = build_lab("public", "prc")
    with pytest.raises(LabError, match="no nat_a"):
        _ = lab.nat_a
    with pytest.raises(LabError, match="no carrier_b"):
        _ = lab.carrier_b
    with pytest.raises(LabError, match="no network 'a'"):
        lab.add_host("a")


@pytest.mark.parametrize(
    "missing, package", [("ip", "iproute2"), ("nft", "nftables"), ("conntrack", "conntrack")]
)
def test_a_missing_tool_is_named_with_its_package(
    missing: str, package: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for tool in {"ip", "nft", "conntrack"} - {missing}:
        (tmp_path / tool).symlink_to("/bin/true")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(namespace, "_PATH", str(tmp_path))
    reason = can_build()
    assert reason is not None
    assert f"`{missing}`" in reason and package in reason
    with pytest.raises(LabError, match=package):
        Lab()


def test_who_may_not_have_a_user_namespace_is_told_in_one_line() -> None:
    forbid = "echo 0 > /proc/sys/user/max_user_namespaces && exec setpriv --bounding-set=-all"
    ask = "from udppunch.lab import can_build; print(can_build())"
    asked = subprocess.run(
        ["unshare", "-Ur", "sh", "-c", f'{forbid} "$@"', "sh", sys.executable, "-c", ask],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
    )
    if asked.returncode:
        pytest.skip(asked.stderr)
    assert asked.stdout.startswith("the lab needs root or user namespaces")
    assert asked.stdout.count("\n") == 1


def test_an_ordinary_user_has_the_lab_in_a_user_namespace() -> None:
    """As nobody, in a fork (which needs no interpreter that nobody may run)."""
    if os.geteuid() != 0 or Path("/proc/self/setgroups").read_text() == "deny\n":
        pytest.skip("only root becomes another user; an ordinary user's own run shows the same")
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writer, seen_by_nobody().encode())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, encoding="utf-8") as pipe:
        report = pipe.read()
    os.waitpid(child, 0)
    if report.startswith("the lab needs root or user namespaces"):
        pytest.skip(report)
    assert report == "('203.0.113.101', 5000)"


def seen_by_nobody() -> str:
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)
    # A process that changed its user may not even write its own uid_map, unless it execs or:
    ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)
    reason = can_build()
    if reason is not None:
        return reason
    try:
        enter_user_namespace()
        with Lab("prc", "cgn-sym", delay_a=0.001) as lab:
            lab.nat_a.lose_every(2)
            lab.nat_a.timeouts(udp=10, stream=20)
            lab.nat_a.forget()
            lab.nat_a.lose_every(0)
            return str(reflexive(udp(lab.a), udp(lab.rendezvous, 3478, "203.0.113.10")))
    except LabError as error:
        return f"{type(error).__name__}: {error}"
