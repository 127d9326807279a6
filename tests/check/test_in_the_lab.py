"""`udppunch check serve` and `check nat` behind real NATs, and what other STUN programs say."""

from __future__ import annotations

import shutil
import subprocess
import sys
from typing import Iterator

import pytest

from tests import program
from tests.check.command import CRON, PATIENT, Ran, line
from tests.lab.whole_program import MEETING, SERVICE, eventually
from tests.program import KEY, ROOT, Program
from tests.standin.application import Echo
from udppunch.lab import Host, Lab

pytestmark = pytest.mark.usefixtures("lab_permitted")

FIRST, SECOND = "203.0.113.10", "203.0.113.11"
EI, AD = "endpoint-independent", "address-dependent"
APD = "address-and-port-dependent"
LONGEST = 240


def check(host: Host, *arguments: str) -> Ran:
    command = [sys.executable, "-m", "udppunch", "check", *arguments, *PATIENT]
    environment = {**CRON, "UDPPUNCH_KEY": KEY}
    ran = host.run(command, cwd=ROOT, env=environment, check=False, timeout=200.0)
    return Ran(ran.returncode, ran.stdout, ran.stderr)


def stun(lab: Lab, *places: str) -> Program:
    return Program("rendezvous", *places, "--control", "none", popen=lab.rendezvous.popen)


# NATs


@pytest.mark.parametrize(
    "nat,status,told",
    [
        ("public", 0, f"no NAT, {EI} filtering"),
        ("full", 0, f"{EI} mapping, {EI} filtering"),
        ("arc", 0, f"{EI} mapping, {AD} filtering"),
        ("prc", 0, f"{EI} mapping, {APD} filtering"),
        ("cgn-prc", 0, f"{EI} mapping, {APD} filtering"),
        ("sym", 1, f"{APD} mapping, {APD} filtering"),
        ("sym-range", 1, f"{APD} mapping, {APD} filtering"),
        ("sym-adm", 1, f"{AD} mapping, {APD} filtering"),
        ("cgn-sym", 1, f"{APD} mapping, {APD} filtering"),
    ],
)
def test_class(nat: str, status: int, told: str) -> None:
    with Lab(nat, "public") as lab, stun(lab, f"{FIRST}:3478", f"{SECOND}:3479") as server:
        server.wait_event("listening", count=2)
        ran = check(lab.a, "nat", FIRST)
        server.assert_alive_and_sane()
    assert ran.status == status, ran
    assert f" - {told}, seen at 203.0.113.101:" in line(ran, LONGEST), ran


def test_blocked() -> None:
    with Lab("udp-blocked", "public") as lab, stun(lab, f"{FIRST}:3478") as server:
        server.wait_event("listening")
        ran = check(lab.a, "nat", FIRST, "-t", "2s")
    assert ran.status == 2 and f"no answer in 2 s from {FIRST}:3478: UDP is blocked" in ran.output


@pytest.mark.parametrize("nat,mapping", [("prc", EI), ("sym-adm", f"{AD} or {APD}")])
def test_two_servers_that_have_one_address_each(nat: str, mapping: str) -> None:
    """What can be told without a second address: the mapping alone, and it says so."""
    with Lab(nat, "public") as lab:
        with stun(lab, f"{FIRST}:39737") as one, stun(lab, f"{SECOND}:39737") as other:
            one.wait_event("listening")
            other.wait_event("listening")
            ran = check(lab.a, "nat", f"{FIRST}:39737", f"{SECOND}:39737")
    unknown = "filtering unknown (no server answers from a second address)"
    assert f" - {mapping} mapping, {unknown}, seen at " in line(ran, LONGEST), ran
    assert ran.status == (0 if nat == "prc" else 1)


def test_ipv6_firewall() -> None:
    places = ("[2001:db8::10]:3478", "[2001:db8::11]:3479")
    with Lab("fw", "public") as lab, stun(lab, *places) as server:
        server.wait_event("listening", count=2)
        ran = check(lab.a, "nat", "[2001:db8::10]")
    assert ran.status == 0 and f" - no NAT, {APD} filtering, seen at [2001:db8:a::" in ran.output


def test_loss_is_not_taken_for_a_filter() -> None:
    with Lab("full", "public") as lab, stun(lab, f"{FIRST}:3478", f"{SECOND}:3479") as server:
        server.wait_event("listening", count=2)
        lab.nat_a.lose(5)
        ran = check(lab.a, "nat", FIRST, "-t", "20s")
    assert ran.status == 0 and f" - {EI} mapping, {EI} filtering, " in line(ran, LONGEST), ran


@pytest.mark.parametrize("nat", ["prc", "sym"])
def test_lifetime(nat: str) -> None:
    """By our server alone: its answer comes to the idle port as long as the binding lives."""
    with Lab(nat, "public") as lab, stun(lab, f"{FIRST}:3478") as server:
        server.wait_event("listening")
        lab.nat_a.timeouts(udp=3, stream=8)
        ran = check(lab.a, "nat", FIRST, "--lifetime", "--longest", "9s", "--json", "-t", "2s")
    assert 2.0 <= ran.document["lifetime"]["value"] <= 3.5, ran
    assert ran.document["lifetime_method"] == "RESPONSE-PORT"


# Other programs


@pytest.fixture
def lab_of_coturn() -> Iterator[Lab]:
    """Whose STUN server has two addresses, and RESPONSE-PORT."""
    if shutil.which("turnserver") is None:
        pytest.skip("coturn is not installed")
    options = ("-n", "-L", FIRST, "-L", SECOND, "--no-tls", "--no-dtls", "--no-cli", "--no-tcp")
    files = ("--log-file", "/dev/null", "--pidfile", "/dev/null")
    with Lab("prc", "public") as lab:
        lab.rendezvous.popen(
            ["turnserver", *options, *files],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        asking = ("rendezvous", f"{FIRST}:3478", "--protocol", "stun", "-t", "1s")
        assert eventually(lambda: check(lab.a, *asking).status == 0, 20.0)
        yield lab


def test_coturn(lab_of_coturn: Lab) -> None:
    lab = lab_of_coturn
    lab.nat_a.timeouts(udp=3, stream=8)
    ran = check(lab.a, "nat", FIRST, "--lifetime", "--longest", "9s", "--json")
    document = ran.document
    assert (document["mapping"], document["filtering"]) == (EI, APD), ran
    assert document["lifetime_method"] == "RESPONSE-PORT"
    assert 2.0 <= document["lifetime"]["value"] <= 3.5


@pytest.mark.parametrize("nat", ["full", "arc", "prc", "sym"])
def test_natdiscovery_agrees(nat: str) -> None:
    """What coturn's client finds out with our server."""
    if shutil.which("turnutils_natdiscovery") is None:
        pytest.skip("coturn is not installed")
    with Lab(nat, "public") as lab, stun(lab, f"{FIRST}:3478", f"{SECOND}:3479") as server:
        server.wait_event("listening", count=2)
        ours = check(lab.a, "nat", FIRST, "--json").document
        told = lab.a.run(["turnutils_natdiscovery", "-m", "-f", FIRST], timeout=60.0)
    words = {EI: "Endpoint Independent", AD: "Address Dependent", APD: "Address and Port Dependent"}
    for kind in ("mapping", "filtering"):
        wanted = f"{words[ours[kind]]} {kind}".lower()
        assert wanted in told.stdout.lower(), (ours, told.stdout)


# Paths


class Stage:
    """A rendezvous, and a server at site A."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.rendezvous = program.rendezvous(MEETING, popen=lab.rendezvous.popen)
        self.rendezvous.wait_event("listening")
        self.echo = Echo(SERVICE, open_socket=lab.a.socket)
        self.server = program.serve(SERVICE, MEETING, popen=lab.a.popen)
        self.server.wait_event("registered")

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *_: object) -> None:
        self.server.stop()
        self.echo.close()
        self.rendezvous.stop()

    def check(self, *options: str) -> Ran:
        echo = ("--echo", "ping", "--expect", "ping")
        return check(self.lab.b, "serve", MEETING[0], *echo, *options)


@pytest.mark.parametrize(
    "a,b",
    [("prc", "prc"), ("full", "sym"), ("sym", "full"), ("prc", "prc-open"), ("cgn-prc", "prc")],
)
def test_path(a: str, b: str) -> None:
    with Lab(a, b) as lab, Stage(lab) as stage:
        ran = stage.check()
        assert ran.status == 0 and "loss 0 %, direct path to 203.0.113.101:" in ran.output, ran
        stage.server.wait_event("path-closed")
        stage.server.assert_alive_and_sane()


@pytest.mark.parametrize(
    "a,b,reason",
    [
        ("prc", "sym", "this end's NAT uses another port for each destination (symmetric: "),
        ("sym", "prc", "this end's NAT keeps its port for another destination; the other end's"),
    ],
)
def test_no_path(a: str, b: str, reason: str) -> None:
    with Lab(a, b) as lab, Stage(lab) as stage:
        ran = stage.check("-t", "5s")
    assert ran.status == 2
    start = "UDPPUNCH SERVE CRITICAL - no direct path to the server at 203.0.113.101:"
    said = line(ran, LONGEST)
    assert said.startswith(start) and f": {reason}" in said and "..." not in said


def test_path_of_lossy_links() -> None:
    with Lab("prc", "prc") as lab, Stage(lab) as stage:
        lab.nat_a.lose_every(5)
        ran = stage.check("--probes", "20")
    assert ran.status in (0, 1) and " loss=0%;" not in line(ran, LONGEST), ran
    assert "direct path to 203.0.113.101:" in ran.output


def test_path_of_far_hosts() -> None:
    with Lab("prc", "prc", delay_a=0.06, delay_b=0.04) as lab, Stage(lab) as stage:
        ran = stage.check("--json")
        stage.server.wait_event("path-closed")
    assert ran.status == 0 and 200 <= ran.document["rtt"]["value"] < 60000
    assert ran.document["echo"]["value"] >= 200
