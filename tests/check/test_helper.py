"""`udppunch check helper` against helpers that work, half work, or don't."""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
import time
from pathlib import Path
from typing import Callable, Dict, Iterator, List

import pytest

from tests import program
from tests.check.command import CRON, PATIENT, Ran, line, refused, run
from tests.check.helpers import (
    COMMAND,
    PASSWORD,
    WITH_PASSWORD,
    EveryThird,
    Fault,
    FaultyHelper,
    Silent,
    check,
)
from tests.check.test_relay import with_file
from tests.ports import free_port
from tests.standin.expose import OriginalExposer, OriginalHelper, statistics, text
from udppunch import cli

ONCE = (*PATIENT, "--probes", "1")
NOTHING = "rtt=U;60000;60000;0 loss=100%;20;60;0;100"
SERVICE = ("127.0.0.1", 9)

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can have another /etc/hosts")


@pytest.fixture
def helper() -> Iterator[FaultyHelper]:
    with FaultyHelper() as running:
        yield running


@pytest.fixture
def silent() -> Iterator[Silent]:
    with Silent() as bound:
        yield bound


@pytest.fixture
def password_file(tmp_path: Path) -> Path:
    file = tmp_path / "password"
    file.write_text(PASSWORD + "\n")
    file.chmod(0o600)
    return file


# A helper that works


def assert_works(ran: Ran) -> None:
    assert ran.status == 0, ran
    said, _, figures = line(ran).partition(" | ")
    assert said.startswith("UDPPUNCH HELPER OK - rtt ") and said.endswith(" s ago"), ran
    assert " ms, loss 0 %, exposer heard " in said
    rtt, loss, keepalive = figures.split(" ")
    assert rtt.startswith("rtt=") and rtt.endswith("ms;60000;60000;0")
    assert loss == "loss=0%;20;60;0;100"
    assert keepalive.startswith("keepalive=") and keepalive.endswith("s;;;0")


def test_it_works(helper: FaultyHelper) -> None:
    assert_works(check(helper.address, *PATIENT))
    assert helper.asked == 5


def test_it_works_over_ipv6() -> None:
    with FaultyHelper(ip="::1") as helper:
        assert_works(check(helper.address, *ONCE))


def test_port_alone_is_this_machine(helper: FaultyHelper) -> None:
    assert_works(check(f":{helper.port}", *ONCE))


def test_several_at_once(helper: FaultyHelper) -> None:
    command = [*COMMAND, helper.address, *ONCE]
    environment = {**CRON, **WITH_PASSWORD}
    running = [
        subprocess.Popen(command, cwd=program.ROOT, env=environment, stdout=subprocess.DEVNULL)
        for _ in range(3)
    ]
    assert [each.wait(60) for each in running] == [0, 0, 0]


@contextlib.contextmanager
def original() -> Iterator[str]:
    where = ("127.0.0.1", free_port())
    with OriginalHelper(where, password=PASSWORD) as helper:
        yield text(where)
        helper.assert_alive_and_sane()


@contextlib.contextmanager
def ours(workers: str, password_file: Path) -> Iterator[str]:
    where = f"127.0.0.1:{free_port()}"
    options = ("--password-file", str(password_file), "--workers", workers)
    with program.Program("helper", where, *options) as helper:
        helper.wait_event("listening")
        yield where
        helper.assert_alive_and_sane()


@pytest.mark.parametrize("make", ["original", "1", "2"])
def test_with_an_exposer_and_without(make: str, password_file: Path) -> None:
    """Of the original, and of ours with so many workers, one of which alone is asked."""
    with original() if make == "original" else ours(make, password_file) as where:
        ran = check(where, *ONCE)
        assert ran.status == 2
        said, _, figures = line(ran).partition(" | ")
        assert said == "UDPPUNCH HELPER CRITICAL - no exposer has come yet"
        assert " loss=0%;" in figures and figures.endswith(" keepalive=U;;;0")

        ip, _, port = where.rpartition(":")
        with OriginalExposer((ip, int(port)), SERVICE, password=PASSWORD) as exposer:
            exposer.wait_line("Authenticated")
            assert_works(check(where, *PATIENT))
            exposer.assert_alive_and_sane()


def test_it_does_not_take_the_service_over(password_file: Path) -> None:
    with ours("1", password_file) as where:
        ip, _, port = where.rpartition(":")
        address = (ip, int(port))
        with OriginalExposer(address, SERVICE, password=PASSWORD) as exposer:
            exposer.wait_line("Authenticated")
            before = statistics(address, PASSWORD)
            assert check(where, *PATIENT, "--probes", "3").status == 0
            after = statistics(address, PASSWORD)
    changed = {name for name in after if after[name] != before[name]}
    assert changed == {"signed_looking", "stats_requests"}
    assert after["stats_requests"] - before["stats_requests"] == 4


def test_json(helper: FaultyHelper) -> None:
    ran = check(helper.address, "--json", *ONCE)
    document = ran.document
    assert (ran.status, document["exit_status"], document["status"]) == (0, 0, "OK")
    assert (document["check"], document["target"]) == ("helper", helper.address)
    assert document["rtt"]["value"] > 0
    assert document["loss"] == {"value": 0, "unit": "%", "warning": "20", "critical": "60"}
    assert document["keepalive"]["value"] < 60 and document["keepalive"]["unit"] == "s"


def test_quiet_says_nothing_but_of_trouble(helper: FaultyHelper, silent: Silent) -> None:
    assert check(helper.address, "--quiet", *ONCE) == (0, "", "")
    assert check(helper.address, "-q", "--json", *ONCE) == (0, "", "")
    ran = check(silent.address, "-q", "-t", "200ms", "--probes", "1")
    assert ran.status == 2 and "CRITICAL" in line(ran)


# One that is slow, or loses datagrams


def test_slower_than_the_limits(helper: FaultyHelper) -> None:
    ran = check(helper.address, "-w", "0.001ms", "-c", "60s", "--probes", "1")
    assert ran.status == 1 and " HELPER WARNING - rtt " in line(ran)
    ran = check(helper.address, "-w0.001ms", "-c0.001ms", "--probes", "1")
    assert ran.status == 2 and " HELPER CRITICAL - rtt " in line(ran)


def slow(answer: bytes) -> List[bytes]:
    time.sleep(0.05)
    return [answer]


def test_slow_helper() -> None:
    with FaultyHelper(slow) as helper:
        ran = check(helper.address, *PATIENT, "--json", "--probes", "2")
    assert ran.status == 0 and ran.document["rtt"]["value"] >= 50


@pytest.mark.parametrize(
    "limits,status",
    [
        (("-w", "20%", "-c", "60%"), 1),
        (("-w", "20%", "-c", "33%"), 2),
    ],
)
def test_every_third_is_lost(limits: "List[str]", status: int) -> None:
    with FaultyHelper(EveryThird()) as helper:
        ran = check(helper.address, "--probes", "3", *limits)
    assert ran.status == status
    assert " loss=33.333%;" in line(ran) and ", loss 33 %, " in line(ran)


def test_probes_for_which_there_is_no_time_are_not_lost(helper: FaultyHelper) -> None:
    ran = check(helper.address, "--probes", "20", "-t", "1s", *PATIENT)
    assert ran.status == 0 and " loss=0%;" in line(ran), ran


def test_nothing_is_asked_after_the_time(silent: Silent) -> None:
    ran = check(silent.address, "--probes", "50", "-t", "300ms")
    assert ran.status == 2 and " gives no answer " in line(ran)
    assert 1 <= silent.count() <= 10


# One that does not answer


def test_silent_helper(silent: Silent) -> None:
    ran = check(silent.address, "--timeout", "300ms", "--probes", "1", *PATIENT)
    assert ran.status == 2
    said, _, figures = line(ran).partition(" | ")
    complaint = f"{silent.address} gives no answer (right password?)"
    assert (said, figures) == (f"UDPPUNCH HELPER CRITICAL - {complaint}", NOTHING)


def test_nobody_listens() -> None:
    where = f"127.0.0.1:{free_port()}"
    ran = check(where, *PATIENT)
    assert ran.status == 2
    assert line(ran) == f"UDPPUNCH HELPER CRITICAL - nothing listens at {where} | {NOTHING}"


def test_no_way_there() -> None:
    through = ("unshare", "--net", "--map-root-user")
    ran = check("127.0.0.1:6061", *PATIENT, through=through)
    if "unshare" in ran.errors:
        pytest.skip("no network namespaces here")
    assert ran.status == 2
    assert " cannot send to 127.0.0.1:6061: Network is unreachable" in line(ran)


@pytest.mark.parametrize(
    "fault",
    [
        lambda answer: [answer[:-1]],
        lambda answer: [answer + b"\0"],
        lambda answer: [b""],
        lambda answer: [b"\0\1" + answer],
        lambda answer: [b"HTTP/1.1 400 Bad Request\r\n\r\n"],
        lambda answer: [bytes(4000)],
    ],
    ids=["a byte less", "a byte more", "empty", "with a tag", "HTTP", "longer"],
)
def test_what_is_no_answer(fault: Fault) -> None:
    with FaultyHelper(fault) as helper:
        ran = check(helper.address, "-t", "200ms", "--probes", "1")
        assert helper.asked == 1
    assert ran.status == 2 and " gives no answer (right password?) | " in line(ran)


def test_an_answer_counts_whatever_came_before() -> None:
    with FaultyHelper(lambda answer: [b"", b"other", answer[:-1], answer]) as helper:
        assert_works(check(helper.address, *PATIENT, "--probes", "2"))


@pytest.mark.parametrize("make", ["original", "ours"])
def test_wrong_password(make: str, password_file: Path) -> None:
    with original() if make == "original" else ours("1", password_file) as where:
        other = {"UDPPUNCH_PASSWORD": "another"}
        ran = check(where, "-t", "300ms", "--probes", "1", environment=other)
    assert ran.status == 2 and " gives no answer (right password?) | " in line(ran)
    assert "another" not in ran.output


def test_helper_without_a_password() -> None:
    """Who asks it is a connectee; so it may be for its service, which answers anything."""
    with OriginalHelper(("127.0.0.1", free_port())) as helper:
        ran = check(text(helper.address), "-t", "300ms", "--probes", "1")
        helper.assert_alive_and_sane()
    assert ran.status == 2 and " gives no answer (right password?) | " in line(ran)


# What its statistics say


def test_exposer_that_is_gone() -> None:
    with FaultyHelper(heard=100) as helper:
        ran = check(helper.address, *ONCE)
        assert ran.status == 2 and " HELPER CRITICAL - no exposer heard for 10" in line(ran)
        assert " keepalive=10" in line(ran)
        assert check(helper.address, *ONCE, "--silent", "1h").status == 0
        assert check(helper.address, *ONCE, "--silent=99s").status == 2


def test_exposer_that_never_came() -> None:
    with FaultyHelper(heard=None) as helper:
        ran = check(helper.address, *PATIENT, "--json", "--probes", "1")
    assert (ran.status, ran.document["text"]) == (2, "no exposer has come yet")
    assert ran.document["keepalive"]["value"] is None
    assert ran.document["loss"]["value"] == 0


@pytest.mark.parametrize("ahead", [5, 10**6, 2**63, 2**64 - 1])
def test_clock_that_is_ahead(ahead: int) -> None:
    """It was heard after now: as well as just now."""
    with FaultyHelper() as helper:
        helper.counts["last_ka_s"] = min(int(time.time()) + ahead, 2**64 - 1)
        ran = check(helper.address, *ONCE)
    assert ran.status == 0 and ", exposer heard 0 s ago" in line(ran)


def test_clock_that_was_never_set() -> None:
    with FaultyHelper() as helper:
        helper.counts["last_ka_s"] = 1
        ran = check(helper.address, *ONCE)
    assert ran.status == 2 and " no exposer heard for " in line(ran)


def test_figures_of_the_largest() -> None:
    with FaultyHelper(lambda answer: [b"\xff" * len(answer)]) as helper:
        assert_works(check(helper.address, *ONCE))


# Passwords


def test_password_of_the_environment_or_a_file(helper: FaultyHelper, password_file: Path) -> None:
    options = (helper.address, *ONCE)
    from_file = (*options, "--password-file", str(password_file))
    assert check(*options, environment=WITH_PASSWORD).status == 0
    assert check(*from_file, environment={}).status == 0
    assert check(*from_file, environment={"UDPPUNCH_PASSWORD": "another"}).status == 0


@pytest.mark.parametrize("environment", [{}, {"UDPPUNCH_PASSWORD": ""}])
def test_no_password(environment: Dict[str, str]) -> None:
    ran = check("127.0.0.1:9", environment=environment)
    assert "no password: give --password-file FILE or UDPPUNCH_PASSWORD" in refused(ran)


@pytest.mark.parametrize(
    "write,said",
    [
        (lambda path: None, "No such file"),
        (lambda path: path.mkdir(), "Is a directory"),
        (lambda path: path.write_bytes(b"\xff\xfe"), "not UTF-8 text"),
        (lambda path: path.write_bytes(b""), "is empty"),
        (lambda path: path.write_bytes(b"\n"), "is empty"),
    ],
    ids=["none", "directory", "not text", "empty", "empty line"],
)
def test_password_file_that_is_none(
    tmp_path: Path, write: Callable[[Path], object], said: str
) -> None:
    write(tmp_path / "password")
    ran = check("127.0.0.1:9", "--password-file", str(tmp_path / "password"), environment={})
    assert said in refused(ran)


def test_password_that_is_not_text() -> None:
    ran = check("127.0.0.1:9", environment={"UDPPUNCH_PASSWORD": "top\udcffsecret"})
    assert "UTF-8" in refused(ran) and "secret" not in ran.output


# Names


def test_name_that_does_not_exist() -> None:
    ran = check("helper.invalid:6061", "-t", "20s")
    assert ran.status == 2
    assert "helper.invalid" in line(ran) and "loss=100%" in line(ran)


@pytest.mark.parametrize("name", ["a..b", "a|b", "hélper.invalid", "a" * 300, "x\ny"])
def test_name_that_is_none(name: str) -> None:
    ran = check(f"{name}:6061", environment={**WITH_PASSWORD, "LC_ALL": "C"})
    assert ran.status == 2 and line(ran).count("|") == 1


@as_root
def test_name_with_an_address_that_does_not_answer(tmp_path: Path) -> None:
    """It comes first: the system's resolver puts the nearest there."""
    hosts = tmp_path / "hosts"
    hosts.write_text("127.0.0.1 helper.test\n::1 helper.test\n127.0.0.2 helper.test\n")
    options = ("-t", "3s", *PATIENT)
    with FaultyHelper(ip="127.0.0.2") as helper, Silent("127.0.0.1", helper.port) as dead:
        ran = check(f"helper.test:{helper.port}", *options, through=with_file("/etc/hosts", hosts))
        assert dead.count() >= 1
    assert_works(ran)


# What a person got wrong


@pytest.mark.parametrize(
    "arguments,said",
    [
        (["127.0.0.1:9", "--warning", "200"], "warning: '200' is not a limit with its unit"),
        (["127.0.0.1:9", "-cfast"], "critical: 'fast'"),
        (["127.0.0.1:9", "--timeout", "soon"], "timeout: 'soon' is not a time"),
        (["127.0.0.1:9", "-t", "0"], "timeout: '0' is out of range"),
        (["127.0.0.1:9", "--silent", "soon"], "silent: 'soon' is not a time"),
        (["127.0.0.1:9", "--silent", "-1s"], "-1s"),
        (["127.0.0.1:9", "--probes", "101"], "1 to 100"),
        (["127.0.0.1:9", "--probes", "0"], "probes: '0'"),
        (["127.0.0.1:9", "--probes"], "requires argument"),
        (["127.0.0.1:9", "--secret-file", "/dev/null"], "--secret-file is not for check helper"),
        (["127.0.0.1:9", "--fast"], "unknown option --fast"),
        (["127.0.0.1:9", "-x"], "unknown option -x"),
        (["127.0.0.1:9", "--password", "x"], "No such file"),  # it is --password-file's beginning
        (["127.0.0.1:9", "127.0.0.1:10"], "too many arguments"),
        (["127.0.0.1"], "'127.0.0.1' has no port"),
        (["127.0.0.1:0"], "port 0"),
        (["127.0.0.1:70000"], "70000"),
        (["2001:db8::1"], "[v6]:port"),
        ([""], "has no port"),
    ],
)
def test_usage_errors_are_unknown(arguments: List[str], said: str) -> None:
    ran = check(*arguments)
    assert said in refused(ran)


def test_without_an_address() -> None:
    ran = check()
    assert "ADDRESS is missing" in refused(ran)


@pytest.mark.parametrize(
    "arguments,said",
    [
        (["helpr", "127.0.0.1:9"], "did you mean helper?"),
        (["exposer", "127.0.0.1:9"], "unknown check exposer"),
        (["relay", "127.0.0.1:9", "--silent", "30s"], "--silent is not for check relay"),
        (
            ["relay", "127.0.0.1:9", "--password-file", "x"],
            "--password-file is not for check relay",
        ),
    ],
)
def test_what_is_not_for_another_check(arguments: List[str], said: str) -> None:
    assert said in refused(run(*arguments))


# Where it runs


@pytest.mark.parametrize("output", [">/dev/full", "<&- >&- 2>&-"])
def test_closed_output_does_not_change_the_status(helper: FaultyHelper, output: str) -> None:
    through = ("sh", "-c", f'exec "$@" {output}', "sh")
    options = (helper.address, "--probes", "1")
    assert check(*options, *PATIENT, through=through).status == 0
    ran = check(*options, "-w", "0.001ms", "-c", "60s", through=through)
    assert ran.status == 1 and not ran.errors


def test_too_many_open_files(
    helper: FaultyHelper, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Our own trouble; in this process, for no other would get so far."""
    monkeypatch.setenv("UDPPUNCH_PASSWORD", PASSWORD)
    command = ["check", "helper", helper.address, *ONCE]
    assert cli.main(command) == 0
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    with open(os.devnull) as lowest_free:
        number = lowest_free.fileno()
    resource.setrlimit(resource.RLIMIT_NOFILE, (number, before[1]))
    try:
        status = cli.main(command)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert status == 3
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == "UDPPUNCH HELPER UNKNOWN - Too many open files"
