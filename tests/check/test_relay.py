"""`udppunch check relay` against relays that work, half work, or don't."""

from __future__ import annotations

import base64
import os
import resource
import socket
import subprocess
from pathlib import Path
from typing import Iterator, List

import pytest

from tests import program
from tests.check.command import COMMAND, CRON, PATIENT, check, line, refused
from tests.check.relays import EveryThird, FaultyRelay, is_payload, is_probe
from tests.ports import free_port
from tests.standin.relay import HEALTH_CHECK_MARK, OriginalRelay
from udppunch import cli

SECRET = b"the secret of the tests"
IN_ENVIRONMENT = {"UDP_RELAY_SECRET_KEY": base64.b64encode(SECRET).decode()}
NOTHING = "rtt=U;60000;60000;0 loss=100%;20;60;0;100"

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can have another /etc/hosts")


@pytest.fixture
def relay() -> Iterator[FaultyRelay]:
    with FaultyRelay() as running:
        yield running


@pytest.fixture
def silent() -> Iterator[str]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as bound:
        bound.bind(("127.0.0.1", 0))
        yield program.text(bound.getsockname())


# A relay that works


def test_it_works(relay: FaultyRelay) -> None:
    ran = check(relay.address, *PATIENT)
    assert ran.status == 0
    text, _, figures = line(ran).partition(" | ")
    assert text.startswith("UDPPUNCH RELAY OK - rtt ") and text.endswith(
        f" ms, loss 0 % to {relay.address}"
    )
    assert figures.startswith("rtt=") and figures.endswith(" loss=0%;20;60;0;100")
    assert relay.probes == 5


def test_it_works_over_ipv6() -> None:
    with FaultyRelay(ip="::1") as relay:
        assert check(relay.address, *PATIENT).status == 0


def test_guids_are_those_of_health_checks(relay: FaultyRelay) -> None:
    for _ in range(2):
        assert check(relay.address).status in (0, 1, 2)
    assert len(relay.guids) == 2
    assert all(guid.endswith(HEALTH_CHECK_MARK) for guid in relay.guids)


def test_several_at_once(relay: FaultyRelay) -> None:
    command = [*COMMAND, relay.address, *PATIENT]
    running = [subprocess.Popen(command, cwd=program.ROOT, env=CRON) for _ in range(3)]
    assert [each.wait(60) for each in running] == [0, 0, 0]


@pytest.mark.parametrize("secret", [None, SECRET])
@pytest.mark.parametrize("ipv6", [False, True])
def test_relay_of_the_original(secret: "bytes | None", ipv6: bool) -> None:
    environment = IN_ENVIRONMENT if secret else {}
    with OriginalRelay(free_port(), secret=secret, ipv6=ipv6) as relay:
        ran = check(f"127.0.0.1:{relay.port}", *PATIENT, environment=environment)
        assert ran.status == 0, ran
        relay.assert_alive_and_sane()


@pytest.mark.parametrize("workers", [1, 2])
def test_relay_of_ours(workers: int) -> None:
    """Peers that meet different workers, too: each run has two other ports."""
    where = f"127.0.0.1:{free_port()}"
    with program.Program(
        "relay", where, "--workers", str(workers), "--drain-timeout", "10ms"
    ) as relay:
        relay.wait_event("listening")
        for _ in range(6):
            ran = check(where, *PATIENT)
            assert ran.status == 0 and " loss=0%;" in line(ran), ran
        relay.assert_alive_and_sane()


def test_json(relay: FaultyRelay) -> None:
    ran = check(relay.address, "--json", *PATIENT)
    document = ran.document
    assert (ran.status, document["exit_status"], document["status"]) == (0, 0, "OK")
    assert document["target"] == relay.address
    assert document["rtt"]["value"] > 0
    assert document["loss"] == {"value": 0, "unit": "%", "warning": "20", "critical": "60"}


def test_quiet_says_nothing_but_of_trouble(relay: FaultyRelay, silent: str) -> None:
    assert check(relay.address, "--quiet", *PATIENT) == (0, "", "")
    assert check(relay.address, "-q", "--json", *PATIENT) == (0, "", "")
    ran = check(silent, "-q", "-t", "200ms")
    assert ran.status == 2 and "CRITICAL" in line(ran)


# One that is slow, or loses datagrams


def test_slower_than_the_limits(relay: FaultyRelay) -> None:
    ran = check(relay.address, "-w", "0.001ms", "-c", "60s")
    assert ran.status == 1 and " RELAY WARNING - rtt " in line(ran)
    ran = check(relay.address, "-w", "0.001ms", "-c", "0.001ms")
    assert ran.status == 2 and " RELAY CRITICAL - rtt " in line(ran)


@pytest.mark.parametrize(
    "limits,status",
    [
        (("-w", "50%", "-c", "60%"), 0),
        (("-w", "20%", "-c", "60%"), 1),
        (("-w", "20%", "-c", "33%"), 2),
    ],
)
def test_every_third_is_lost(limits: "List[str]", status: int) -> None:
    with FaultyRelay(EveryThird()) as relay:
        ran = check(relay.address, "--probes", "9", *limits)
    assert ran.status == status
    assert " loss=33.333%;" in line(ran) and ", loss 33 % " in line(ran)


def test_handshakes_are_said_again() -> None:
    lost = []

    def first_seven(datagram: bytes, peer: int) -> bool:
        lost.append(datagram)
        return len(lost) <= 7

    with FaultyRelay(first_seven) as relay:
        ran = check(relay.address, *PATIENT)
    assert ran.status == 0 and " loss=0%;" in line(ran)


# One that does not work


def test_silent_relay(silent: str) -> None:
    ran = check(silent, "--timeout", "1s", *PATIENT)
    assert ran.status == 2
    text, _, figures = line(ran).partition(" | ")
    assert text == f"UDPPUNCH RELAY CRITICAL - no answer in 0.5 s from {silent}"
    assert figures == NOTHING


def test_nobody_listens() -> None:
    where = f"127.0.0.1:{free_port()}"
    ran = check(where, *PATIENT)
    assert ran.status == 2
    assert line(ran) == f"UDPPUNCH RELAY CRITICAL - nothing listens at {where} | {NOTHING}"


def test_no_way_there() -> None:
    ran = check("127.0.0.1", *PATIENT, through=("unshare", "--net", "--map-root-user"))
    if "unshare" in ran.errors:
        pytest.skip("no network namespaces here")
    assert ran.status == 2
    assert " cannot send to 127.0.0.1:6060: Network is unreachable" in line(ran)


def test_relay_that_takes_handshakes_alone() -> None:
    with FaultyRelay(lambda datagram, peer: is_payload(datagram)) as relay:
        ran = check(relay.address, "-t", "1s", *PATIENT)
    assert ran.status == 2
    said = f"carries nothing but handshakes: {relay.address}"
    assert line(ran) == f"UDPPUNCH RELAY CRITICAL - {said} | {NOTHING}"


@pytest.mark.parametrize("mute", [0, 1])
def test_relay_that_carries_one_way(mute: int) -> None:
    """The first of each peer's handshakes open the channel, which proves nothing yet."""
    seen = []

    def fault(datagram: bytes, peer: int) -> bool:
        seen.append(peer)
        return peer == mute and seen.count(peer) > 1

    with FaultyRelay(fault) as relay:
        ran = check(relay.address, "-t", "1s", *PATIENT)
    assert ran.status == 2
    assert f" carries one way only: {relay.address} | " in line(ran)


def test_relay_that_dies_meanwhile() -> None:
    with FaultyRelay(lambda datagram, peer: is_probe(datagram)) as relay:
        ran = check(relay.address, "-t", "2s", "-w", "60s", "-c", "60s")
    assert ran.status == 2 and f" no probe came through {relay.address} | " in line(ran)
    assert relay.probes == 5


# Secrets


def test_secret_of_the_environment_or_a_file(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text(IN_ENVIRONMENT["UDP_RELAY_SECRET_KEY"] + "\n")
    other = {"UDP_RELAY_SECRET_KEY": base64.b64encode(b"another").decode()}
    with FaultyRelay(secret=SECRET) as relay:
        assert check(relay.address, *PATIENT, environment=IN_ENVIRONMENT).status == 0
        options = (relay.address, *PATIENT, "--secret-file", str(file))
        assert check(*options).status == 0
        assert check(*options, environment=other).status == 0


@pytest.mark.parametrize("environment", [{}, IN_ENVIRONMENT, {"UDP_RELAY_SECRET_KEY": ""}])
def test_wrong_secret(environment: "dict[str, str]") -> None:
    with FaultyRelay(secret=b"another") as relay:
        ran = check(relay.address, "-t", "800ms", environment=environment)
    assert ran.status == 2 and " no answer in 0.4 s from " in line(ran)


def test_published_secret_is_used_for_an_empty_one(relay: FaultyRelay) -> None:
    environment = {"UDP_RELAY_SECRET_KEY": ""}
    assert check(relay.address, *PATIENT, environment=environment).status == 0


def test_secret_file_that_cannot_be_read(relay: FaultyRelay, tmp_path: Path) -> None:
    ran = check(relay.address, "--secret-file", str(tmp_path / "none"))
    assert ran.status == 3
    assert " RELAY UNKNOWN - secret file " in line(ran) and "No such file" in line(ran)
    assert " | " not in line(ran)
    ran = check(relay.address, "--json", "--secret-file", str(tmp_path / "none"))
    assert ran.status == 3 and ran.document["status"] == "UNKNOWN"


@pytest.mark.parametrize("where", ["file", "environment"])
def test_bad_secret_is_not_quoted(tmp_path: Path, where: str) -> None:
    secret = "not-base-64!"
    (tmp_path / "secret").write_text(secret)
    options = ("--secret-file", str(tmp_path / "secret")) if where == "file" else ()
    environment = {"UDP_RELAY_SECRET_KEY": secret} if where == "environment" else {}
    ran = check("127.0.0.1", *options, environment=environment)
    assert "is not base64" in refused(ran)
    assert secret not in ran.output + ran.errors


# Names


def test_name_that_does_not_exist() -> None:
    ran = check("relay.invalid", "-t", "20s")
    assert ran.status == 2
    assert "relay.invalid" in line(ran) and "loss=100%" in line(ran)


@pytest.mark.parametrize("name", ["a..b", "a|b", "rélay.invalid", "a" * 300, "x\ny"])
def test_name_that_is_none(name: str) -> None:
    ran = check(name, environment={"LC_ALL": "C"})
    assert ran.status == 2 and line(ran).count("|") == 1


def with_file(path: str, content: Path) -> "List[str]":
    """A command that gives its arguments a mount namespace where the file is another."""
    script = 'mount --bind "$1" "$2" && shift 2 && exec "$@"'
    return ["unshare", "--mount", "sh", "-c", script, "sh", str(content), path]


@as_root
def test_name_server_that_is_silent(tmp_path: Path) -> None:
    """Its 5 seconds, twice, are not waited for."""
    (tmp_path / "resolv.conf").write_text("nameserver 127.77.77.77\n")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as mute:
        mute.bind(("127.77.77.77", 53))
        through = with_file("/etc/resolv.conf", tmp_path / "resolv.conf")
        ran = check("relay.example.org", "-t", "1s", through=through, timeout=8.0)
    assert ran.status == 2
    assert " no name server answered for relay.example.org in 1.0 s | " in line(ran)


@as_root
def test_name_with_an_address_that_does_not_answer(relay: FaultyRelay, tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text("127.0.0.2 relay.test\n::1 relay.test\n127.0.0.1 relay.test\n")
    port = relay.address.rpartition(":")[2]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as mute:
        mute.bind(("127.0.0.2", int(port)))
        through = with_file("/etc/hosts", tmp_path / "hosts")
        ran = check(f"relay.test:{port}", "-t", "3s", *PATIENT, through=through)
    assert ran.status == 0 and line(ran).partition(" | ")[0].endswith(f" to relay.test:{port}")


# What a person got wrong


@pytest.mark.parametrize(
    "arguments,said",
    [
        (["127.0.0.1", "--warning", "200"], "warning: '200' is not a limit with its unit"),
        (["127.0.0.1", "--critical", "fast"], "critical: 'fast'"),
        (["127.0.0.1", "--timeout", "soon"], "timeout: 'soon' is not a time"),
        (["127.0.0.1", "--probes", "101"], "1 to 100"),
        (["127.0.0.1", "--probes", "0"], "probes: '0'"),
        (["127.0.0.1:70000"], "70000"),
        (["2001:db8::1"], "[v6]:port"),
        (["127.0.0.1", "--fast"], "unknown option --fast"),
        (["127.0.0.1", "--probes"], "requires argument"),
        ([], "ADDRESS is missing"),
    ],
)
def test_usage_errors_are_unknown(arguments: List[str], said: str) -> None:
    ran = check(*arguments)
    assert said in refused(ran)


# Where it runs


@pytest.mark.parametrize("output", [">&-", ">/dev/full", "<&-", "<&- >&- 2>&-"])
def test_closed_output_does_not_change_the_status(relay: FaultyRelay, output: str) -> None:
    through = ("sh", "-c", f'exec "$@" {output}', "sh")
    assert check(relay.address, *PATIENT, through=through).status == 0
    ran = check(relay.address, "-w", "0.001ms", "-c", "60s", through=through)
    assert ran.status == 1 and not ran.errors


def test_output_that_nobody_reads_does_not_change_the_status(relay: FaultyRelay) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [*COMMAND, relay.address, "-w", "0.001ms", "-c", "60s"]
    ran = subprocess.run(
        command, stdout=writing, stderr=subprocess.PIPE, cwd=program.ROOT, env=CRON, timeout=60
    )
    os.close(writing)
    assert (ran.returncode, ran.stderr) == (1, b"")


def test_too_many_open_files(relay: FaultyRelay, capsys: pytest.CaptureFixture[str]) -> None:
    """Our own trouble; in this process, for no other would get so far."""
    assert cli.main(["check", "relay", relay.address, *PATIENT]) == 0
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    with open(os.devnull) as lowest_free:
        number = lowest_free.fileno()
    resource.setrlimit(resource.RLIMIT_NOFILE, (number + 1, before[1]))
    try:
        status = cli.main(["check", "relay", relay.address])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert status == 3
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == "UDPPUNCH RELAY UNKNOWN - Too many open files"
