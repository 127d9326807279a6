"""`udppunch stats HOST:PORT` as a process: what helpers, ours or the original's, tell."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Sequence, Union

import pytest

from tests import program
from tests.check.helpers import PASSWORD, WITH_PASSWORD, FaultyHelper, Silent
from tests.check.test_relay import with_file
from tests.ports import free_port
from tests.standin.expose import (
    STATISTICS,
    Connectee,
    Endpoint,
    OriginalExposer,
    OriginalHelper,
    SocketAddress,
    statistics,
    text,
)

COMMAND = (sys.executable, "-m", "udppunch", "stats")
MOMENTS = STATISTICS[-3:]
ANSWERED = 5  # datagrams to the service, and as many back
LONG = 100  # bytes


class Ran(NamedTuple):
    status: int
    output: str
    errors: str


def start(
    *arguments: str,
    environment: Optional[Dict[str, str]] = None,
    through: Sequence[str] = (),
) -> "subprocess.Popen[str]":
    own = {"PATH": os.environ["PATH"], "PYTHONPATH": str(program.ROOT)}
    return subprocess.Popen(
        [*through, *COMMAND, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**own, **(WITH_PASSWORD if environment is None else environment)},
    )


def finish(started: "subprocess.Popen[str]") -> Ran:
    output, errors = started.communicate(timeout=60)
    assert "Traceback" not in errors, errors
    assert PASSWORD not in output + errors
    return Ran(started.returncode, output, errors)


def stats(
    *arguments: str,
    environment: Optional[Dict[str, str]] = None,
    through: Sequence[str] = (),
) -> Ran:
    """What comes of it; the password is given if no environment is."""
    return finish(start(*arguments, environment=environment, through=through))


def told(ran: Ran) -> Dict[str, int]:
    """The one object that it printed."""
    assert (ran.status, ran.errors) == (0, ""), ran
    found = json.loads(ran.output)
    assert isinstance(found, dict)
    return found


def complaint(ran: Ran, status: int) -> str:
    assert (ran.status, ran.output, ran.errors.count("\n")) == (status, "", 1), ran
    return ran.errors


# A helper that answers


AHelper = Union[OriginalHelper, program.Program]


def helper_of(make: str, where: SocketAddress, password_file: Path) -> AHelper:
    if make == "original":
        return OriginalHelper(where, password=PASSWORD)
    options = ("--password-file", str(password_file), "--workers", make)
    ours = program.Program("helper", text(where), *options)
    ours.wait_event("listening")
    return ours


@pytest.fixture
def password_file(tmp_path: Path) -> Path:
    file = tmp_path / "password"
    file.write_text(PASSWORD + "\n")
    file.chmod(0o600)
    return file


def exchange(helper: SocketAddress, service: Endpoint) -> None:
    """A new connectee asks the service, which answers."""
    with Connectee(helper) as connectee:
        connectee.send(bytes(LONG))
        question, source = service.receive_from()
        service.send_to(source, question)
        assert connectee.receive() == question


def settled(helper: SocketAddress) -> Dict[str, int]:
    """When all of the helper's workers have counted: they do each second."""
    due = time.monotonic() + 15
    while True:
        found = statistics(helper, PASSWORD)
        if found["from_client_msgs"] == found["from_connectee_msgs"] == ANSWERED:
            return found
        assert time.monotonic() < due, found
        time.sleep(0.25)


@pytest.mark.parametrize("make", ["original", "1", "2"])
def test_figures_of_traffic(make: str, password_file: Path) -> None:
    """Of the original, and of ours with so many workers, which all count."""
    where = ("127.0.0.1", free_port())
    with Endpoint() as service, helper_of(make, where, password_file) as helper:
        ends = (where, service.address)
        with OriginalExposer(*ends, most=64, password=PASSWORD) as exposer:
            exposer.wait_line("Authenticated")
            for _ in range(ANSWERED):
                exchange(where, service)
            before = settled(where)["stats_requests"]
            found = told(stats(text(where)))
            as_original = statistics(where, PASSWORD)
        helper.assert_alive_and_sane()
    assert list(found) == STATISTICS
    assert found["new_connectees"] == ANSWERED
    for way in ("connectee", "client"):
        assert found[f"from_{way}_msgs"] == ANSWERED
        assert found[f"from_{way}_bytes"] == ANSWERED * LONG
    assert found["stats_requests"] == before + 1
    assert all(found[moment] > 1.6e9 for moment in MOMENTS)
    changed = {name for name in STATISTICS if as_original[name] != found[name]}
    assert changed == {"stats_requests", "signed_looking"}


@pytest.mark.parametrize("make", ["original", "2"])
def test_figures_of_one_that_has_just_started(make: str, password_file: Path) -> None:
    where = ("127.0.0.1", free_port())
    with helper_of(make, where, password_file):
        found = told(stats(text(where)))
    assert {name: count for name, count in found.items() if count} == {
        "signed_looking": 1,
        "stats_requests": 1,
    }


def test_figures_are_as_told() -> None:
    with FaultyHelper() as helper:
        for index, name in enumerate(STATISTICS):
            helper.counts[name] = 2**64 - 1 - index
        del helper.counts["stats_requests"], helper.counts["signed_looking"]
        helper.counts.update(signed_looking=7, stats_requests=3)
        ran = stats(helper.address)
        # The two, deleted and put back, stand at the end of what it tells.
        expected = dict(zip(STATISTICS, helper.counts.values()))
    assert told(ran) == expected


@pytest.mark.parametrize("option", [(), ("--json",), ("--channels", "3"), ("--every=1s",)])
def test_json_whatever_is_wanted(option: Sequence[str]) -> None:
    with FaultyHelper() as helper:
        ran = stats(*option, helper.address)
        assert list(told(ran)) == STATISTICS and helper.asked == 1
        assert ran.output.count("\n") == len(STATISTICS) + 2


def test_forms_of_an_address(password_file: Path) -> None:
    with FaultyHelper() as helper, FaultyHelper(ip="::1") as helper6:
        for where in (f":{helper.port}", f"localhost:{helper.port}", helper6.address):
            assert list(told(stats(where))) == STATISTICS


def test_password_of_a_file_goes_before_the_environment(password_file: Path) -> None:
    option = ("--password-file", str(password_file))
    with FaultyHelper() as helper:
        for environment in ({}, {"UDPPUNCH_PASSWORD": "another"}):
            assert told(stats(helper.address, *option, environment=environment))


def test_lost_answer_is_asked_for_again() -> None:
    lost: List[bytes] = []

    def first(answer: bytes) -> List[bytes]:
        lost.append(answer)
        return [answer] if len(lost) > 1 else []

    with FaultyHelper(first) as helper:
        assert told(stats(helper.address))["stats_requests"] == 2


def test_what_comes_before_the_answer_is_passed_over() -> None:
    with FaultyHelper(lambda answer: [b"", b"other", answer[:-1], answer]) as helper:
        assert told(stats(helper.address))["stats_requests"] == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can have another /etc/hosts")
def test_name_with_several_addresses(tmp_path: Path) -> None:
    """The system's resolver puts the nearest first; another is asked if that one is silent."""
    hosts = tmp_path / "hosts"
    hosts.write_text("127.0.0.1 helper.test\n127.0.0.2 helper.test\n")
    through = with_file("/etc/hosts", hosts)
    for good, silent in (("127.0.0.1", "127.0.0.2"), ("127.0.0.2", "127.0.0.1")):
        with FaultyHelper(ip=good) as helper, Silent(silent, helper.port) as other:
            found = told(stats(f"helper.test:{helper.port}", through=through))
            assert found["stats_requests"] == 1
            assert other.count() == (silent == "127.0.0.1")


# Again and again


def watch(where: str) -> "subprocess.Popen[str]":
    return start("--watch", "--every", "100ms", where)


def test_watch_is_a_line_each() -> None:
    with FaultyHelper() as helper, watch(helper.address) as watching:
        assert watching.stdout is not None
        for number in (1, 2, 3):
            assert json.loads(watching.stdout.readline())["stats_requests"] == number
        watching.send_signal(signal.SIGINT)
        ran = finish(watching)
    assert (ran.status, ran.errors) == (0, "")


def test_reader_that_has_gone() -> None:
    with FaultyHelper() as helper, watch(helper.address) as watching:
        assert watching.stdout is not None and watching.stderr is not None
        watching.stdout.readline()
        watching.stdout.close()
        assert watching.wait(30) == 0
        assert watching.stderr.read() == ""


def test_ctrl_c_while_the_helper_is_silent() -> None:
    with Silent() as silent, start(silent.address) as asking:
        silent.wait()
        asking.send_signal(signal.SIGINT)
        assert finish(asking) == (0, "", "")


# One that does not answer


def test_no_answer() -> None:
    """All at once, for each is waited for."""
    port = free_port()
    with (
        Silent() as silent,
        FaultyHelper(password="another") as wrong,
        FaultyHelper(
            lambda answer: [answer[:-8], answer + b"\0", b"\0\1" + answer, b"", b"not ready"]
        ) as other,
        OriginalHelper(("127.0.0.1", port)) as without_password,
    ):
        addresses = (silent.address, wrong.address, other.address, f"127.0.0.1:{port}")
        asking = {where: start(where) for where in addresses}
        for where, started in asking.items():
            said = complaint(finish(started), 69)
            assert said == f"udppunch: {where} gives no answer (right password?)\n"
        without_password.assert_alive_and_sane()
        assert 2 <= silent.count() <= 10


IN_NAMESPACE = ("unshare", "--net", "--map-root-user", "sh", "-c")
COUNTING = 'ip link set lo up || exit 99; "$@"; status=$?; cat /proc/net/snmp; exit $status'


def test_nobody_listens() -> None:
    """Refused at once, it is not asked as fast as can be."""
    ran = stats("127.0.0.1:6061", through=(*IN_NAMESPACE, COUNTING, "sh"))
    if ran.status == 99 or "unshare" in ran.errors:
        pytest.skip("no network namespaces here")
    assert (ran.status, ran.errors) == (69, "udppunch: nothing listens at 127.0.0.1:6061\n")
    names, counts = re.findall(r"^Udp: (.*)$", ran.output, re.MULTILINE)
    sent = dict(zip(names.split(), map(int, counts.split())))["OutDatagrams"]
    assert 1 <= sent <= 60


def test_no_way_there() -> None:
    """Nor does it try as fast as can be, which would take seconds of CPU time: it takes about as
    much as to be refused."""

    def used() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    times = [used()]
    ran = stats("127.0.0.1:6061", through=(*IN_NAMESPACE, 'exec "$@"', "sh"))
    if "unshare" in ran.errors:
        pytest.skip("no network namespaces here")
    times.append(used())
    said = complaint(ran, 69)
    assert said == "udppunch: cannot send to 127.0.0.1:6061: Network is unreachable\n"
    stats("127.0.0.1:6061", through=(*IN_NAMESPACE, COUNTING, "sh"))
    times.append(used())
    unreachable, refused = (after - before for before, after in zip(times, times[1:]))
    assert unreachable < 5 * refused


def test_name_that_does_not_exist() -> None:
    said = complaint(stats("helper.invalid:6061"), 69)
    assert "helper.invalid" in said


# What a person got wrong


@pytest.mark.parametrize("environment", [{}, {"UDPPUNCH_PASSWORD": ""}])
def test_no_password(environment: Dict[str, str]) -> None:
    said = complaint(stats("127.0.0.1:6061", environment=environment), 64)
    assert "--password-file FILE or UDPPUNCH_PASSWORD" in said


def test_password_that_is_not_text() -> None:
    ran = stats("127.0.0.1:6061", environment={"UDPPUNCH_PASSWORD": "top\udcffsecret"})
    assert ran.status in (64, 78) and ran.errors.count("\n") == 1, ran
    assert "UTF-8" in ran.errors and "secret" not in ran.errors


def test_password_without_its_library(tmp_path: Path) -> None:
    (tmp_path / "argon2.py").write_text('raise ImportError("none", name="argon2")\n')
    places = f"{tmp_path}:{program.ROOT}"
    environment = {**WITH_PASSWORD, "PYTHONPATH": places}
    said = complaint(stats("127.0.0.1:6061", environment=environment), 69)
    assert "needs the Python library argon2 (pip install 'udppunch[password]'" in said


@pytest.mark.parametrize(
    "content,status,said",
    [(None, 66, "No such file"), (b"\xff\xfe", 78, "not UTF-8 text"), (b"\n", 78, "is empty")],
)
def test_password_file_that_is_none(
    tmp_path: Path, content: Optional[bytes], status: int, said: str
) -> None:
    file = tmp_path / "password"
    if content is not None:
        file.write_bytes(content)
    ran = stats("127.0.0.1:6061", "--password-file", str(file))
    assert said in complaint(ran, status) and str(file) in ran.errors


@pytest.mark.parametrize(
    "arguments,said",
    [
        (["helper.example.org"], "'helper.example.org' is not a control socket"),
        (["helper.example.org:"], "has no port"),
        (["helper.example.org:0"], "port 0"),
        (["helper.example.org:70000"], "70000"),
        (["helper.example.org:expose"], "is not an address"),
        (["2001:db8::1"], "[v6]:port"),
        (["127.0.0.1:1", "127.0.0.1:2"], "too many arguments"),
        (["127.0.0.1:1", "--password", PASSWORD[:3]], "No such file"),
        (["127.0.0.1:1", "--passwd", "x"], "did you mean --password-file?"),
        (["127.0.0.1:1", "--every", "1ms", "--watch"], "at least 100ms"),
    ],
)
def test_usage_errors(arguments: List[str], said: str) -> None:
    ran = stats(*arguments)
    assert ran.status in (64, 66) and said in complaint(ran, ran.status)


def test_control_socket_takes_no_password(tmp_path: Path, password_file: Path) -> None:
    ran = stats(str(tmp_path / "relay.sock"), "--password-file", str(password_file))
    assert "--password-file is for a helper, given as host:port" in complaint(ran, 64)


# Where it runs


@pytest.mark.parametrize("output", [">&-", "<&-"])
def test_closed_output(output: str) -> None:
    with FaultyHelper() as helper:
        ran = stats(helper.address, through=("sh", "-c", f'exec "$@" {output}', "sh"))
    assert (ran.status, ran.errors) == (0, "")


def test_full_disk() -> None:
    with FaultyHelper() as helper:
        ran = stats(helper.address, through=("sh", "-c", 'exec "$@" >/dev/full', "sh"))
    assert complaint(ran, 71) == "udppunch: No space left on device\n"
