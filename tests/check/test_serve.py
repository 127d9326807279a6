"""`udppunch check serve`: whole paths on loopback, to servers of ours and of the original's."""

from __future__ import annotations

import contextlib
import signal
import subprocess
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional

import pytest

from tests import program
from tests.check.answering import Answering
from tests.check.command import CHECK, CRON, PATIENT, Ran, line, refused, run
from tests.program import KEY, Program
from tests.standin import process
from tests.standin.application import Echo

WITH_KEY = {"UDPPUNCH_KEY": KEY}
NOTHING = "rtt=U;60000;60000;0 loss=100%;20;60;0;100"
LONGEST = 240


def check(*arguments: str, environment: Optional[Dict[str, str]] = None, **more: Any) -> Ran:
    given = WITH_KEY if environment is None else environment
    ran = run("serve", *arguments, environment=given, **more)
    assert KEY not in ran.output + ran.errors
    return ran


def text(ran: Ran) -> str:
    return line(ran, LONGEST).partition(" | ")[0]


def figures(ran: Ran) -> Dict[str, str]:
    told = line(ran, LONGEST).partition(" | ")[2]
    return dict(figure.split("=") for figure in told.split(" "))


@pytest.fixture(scope="module")
def meeting() -> Iterator[Program]:
    with program.rendezvous() as running:
        running.wait_event("listening")
        yield running
        running.assert_alive_and_sane()


@pytest.fixture(scope="module")
def where(meeting: Program) -> str:
    return program.text(meeting.address)


@pytest.fixture(scope="module")
def server(meeting: Program) -> Iterator[Program]:
    """With an echo behind it."""
    with Echo() as echo, program.serve(echo.address, meeting.address) as running:
        running.wait_event("registered")
        yield running
        running.assert_alive_and_sane()


# A path that there is


def test_path(server: Program, where: str) -> None:
    before = server.count("path-up")
    ran = check(where, *PATIENT)
    assert ran.status == 0, ran
    peer = server.wait_event("registered")["message"].rpartition(" ")[2]
    said = text(ran)
    assert said.startswith("UDPPUNCH SERVE OK - rtt "), ran
    assert said.endswith(f" ms, loss 0 %, direct path to {peer}"), ran
    told = figures(ran)
    assert list(told) == ["rtt", "loss", "path"]
    assert told["rtt"].endswith("ms;60000;60000;0") and told["loss"] == "0%;20;60;0;100"
    assert told["path"].endswith("s;;;0")
    server.wait_event("path-closed", count=before + 1)
    assert server.count("path-up") == before + 1


def test_several_at_once(server: Program, where: str) -> None:
    before = server.count("path-closed")
    command = [*CHECK, "serve", where, *PATIENT]
    environment = {**CRON, **WITH_KEY}
    running = [
        subprocess.Popen(command, cwd=program.ROOT, env=environment, stdout=subprocess.DEVNULL)
        for _ in range(3)
    ]
    assert [each.wait(60) for each in running] == [0, 0, 0]
    server.wait_event("path-closed", count=before + 3)


def test_path_is_closed_before_the_next_one(server: Program, where: str) -> None:
    """It ends when the server has heard so, and does not leave that to chance."""
    before = len(server.events)
    for _ in range(3):
        assert check(where, *PATIENT).status == 0
    events = [event["event"] for event in server.events[before:]]
    paths = [name for name in events if name.startswith("path-")]
    assert paths[:5] == ["path-up", "path-closed"] * 2 + ["path-up"]


def test_json(server: Program, where: str) -> None:
    document = check(where, "--json", "--echo", "ping", *PATIENT).document
    assert (document["check"], document["status"], document["target"]) == ("serve", "OK", where)
    assert document["udppunch"] is True
    assert document["peer"] in server.wait_event("registered")["message"]
    assert document["seen"].rpartition(":")[2] == document["local"].rpartition(":")[2]
    assert document["rtt"]["value"] > 0 and document["loss"]["value"] == 0
    assert document["path"]["value"] > 0 and document["path"]["warning"] is None
    assert document["echo"]["value"] > 0 and document["echo"]["warning"] == "60000"


def test_slower_than_the_limits(server: Program, where: str) -> None:
    ran = check(where, "-w", "0.001ms", "-c", "60s")
    assert ran.status == 1 and " SERVE WARNING - rtt " in text(ran)
    ran = check(where, "-w", "0.001ms", "-c", "0.001ms")
    assert ran.status == 2 and " SERVE CRITICAL - rtt " in text(ran)


def test_quiet_says_nothing_but_of_trouble(server: Program, where: str) -> None:
    assert check(where, "-q", *PATIENT) == (0, "", "")
    ran = check(where, "-q", "another key", "-t", "1s", environment={})
    assert ran.status == 2 and "CRITICAL" in text(ran)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_one_that_is_ended_closes_its_path(meeting: Program, where: str, number: int) -> None:
    with Answering() as mute, serving(meeting, mute, f"ended by {number}") as server:
        command = [*CHECK, "serve", where, f"ended by {number}", "--echo", "ping", "-t", "60s"]
        running = subprocess.Popen(
            command,
            cwd=program.ROOT,
            env=CRON,
            stdout=subprocess.PIPE,
            # Whoever runs the tests may ignore it.
            preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),
        )
        assert mute.wait_received(1)
        running.send_signal(number)
        said, _ = running.communicate(timeout=30)
        assert (running.returncode, said) == (-number, b"")
        server.wait_event("path-closed")
        assert not server.count("path-lost")


def test_signal_that_is_ignored_ends_nothing(meeting: Program, where: str) -> None:
    with Answering() as mute, serving(meeting, mute, "nohup") as server:
        command = ["nohup", *CHECK, "serve", where, "nohup", "--echo", "ping", "-t", "5s"]
        running = subprocess.Popen(
            command, cwd=program.ROOT, env=CRON, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        assert mute.wait_received(1)
        running.send_signal(signal.SIGHUP)
        said, _ = running.communicate(timeout=30)
        assert running.returncode == 2 and b" the service gives no answer" in said
        server.wait_event("path-closed")


# What answers behind it


def test_service_that_answers(server: Program, where: str) -> None:
    ran = check(where, "--echo", "ping", "--expect", "ping", *PATIENT)
    assert ran.status == 0 and ", the service answers in " in text(ran), ran
    assert figures(ran)["echo"].endswith("ms;60000;60000;0")


@contextlib.contextmanager
def serving(meeting: Program, service: Answering, key: str) -> Iterator[Program]:
    with program.serve(service.address, meeting.address, key=key) as running:
        running.wait_event("registered")
        yield running


def test_any_answer_will_do_unless_one_is_expected(meeting: Program, where: str) -> None:
    with Answering(lambda said: [said[::-1]]) as service, serving(meeting, service, "any"):
        arguments = (where, "any", "--echo", "abc", *PATIENT)
        assert check(*arguments, environment={}).status == 0
        assert check(*arguments, "--expect", "cba", environment={}).status == 0
        ran = check(*arguments, "--expect", "abc", "-t", "2s", environment={})
    assert ran.status == 2 and "answers with something else (3 bytes); rtt " in text(ran)
    assert figures(ran)["echo"].startswith("U;") and figures(ran)["loss"].startswith("0%")


def test_answer_that_is_expected_may_come_behind_another(meeting: Program, where: str) -> None:
    with Answering(lambda said: [b"hello", said]) as service, serving(meeting, service, "two"):
        ran = check(where, "two", "--echo", "a", "--expect", "a", *PATIENT, environment={})
    assert ran.status == 0, ran


def test_service_hears_what_is_given(meeting: Program, where: str) -> None:
    with Answering(lambda said: [said]) as service, serving(meeting, service, "hex"):
        arguments = (where, "hex", *PATIENT)
        assert check(*arguments, "--echo-hex", "00 ff:0A", environment={}).status == 0
        assert check(*arguments, "--echo", "pïng", environment={"LC_ALL": "C.UTF-8"}).status == 0
        assert check(*arguments, "--echo-hex", "", environment={}).status == 0
        assert check(*arguments, environment={}).status == 0
        assert [datagram for datagram, _ in service.received] == [
            b"\x00\xff\x0a",
            "pïng".encode(),
            b"",
        ]


def test_service_is_asked_again(meeting: Program, where: str) -> None:
    heard: List[bytes] = []

    def third(said: bytes) -> List[bytes]:
        heard.append(said)
        return [said] if len(heard) == 3 else []

    with Answering(third) as service, serving(meeting, service, "again"):
        ran = check(where, "again", "--echo", "ping", *PATIENT, environment={})
    assert ran.status == 0 and heard == [b"ping"] * 3


def test_silent_service(meeting: Program, where: str) -> None:
    with Answering() as service, serving(meeting, service, "mute") as server:
        ran = check(where, "mute", "--echo", "ping", "-t", "2s", *PATIENT, environment={})
        assert service.received
        server.wait_event("path-closed")
    assert ran.status == 2
    assert text(ran).startswith("UDPPUNCH SERVE CRITICAL - the service gives no answer; rtt ")
    assert figures(ran)["echo"] == "U;60000;60000;0"


# No path


def test_no_server_of_this_key(server: Program, where: str) -> None:
    ran = check(where, "another", "-t", "1s", *PATIENT, environment={})
    said = f"UDPPUNCH SERVE CRITICAL - no server of this key at {where}"
    assert ran.status == 2 and line(ran, LONGEST) == f"{said} | {NOTHING}"


def test_silent_rendezvous() -> None:
    with Answering() as silent:
        ran = check(silent.where, "-t", "1s", *PATIENT)
        assert silent.received
    said = f"UDPPUNCH SERVE CRITICAL - rendezvous {silent.where} does not answer"
    assert ran.status == 2 and line(ran, LONGEST) == f"{said} | {NOTHING}"


def test_server_that_is_gone(meeting: Program, where: str) -> None:
    """The rendezvous does not know yet."""
    with Answering() as service, serving(meeting, service, "gone") as server:
        server.process.kill()
        server.process.wait()
        ran = check(where, "gone", "-t", "2s", *PATIENT, environment={})
    said = "UDPPUNCH SERVE CRITICAL - no direct path to the server at 127.0.0.1:"
    assert ran.status == 2 and text(ran).startswith(said)
    # Both are on one host, which is all that can be known.
    assert text(ran).endswith(
        ": both ends are behind the same NAT, and it does not turn their datagrams back"
    )


def test_no_way_there() -> None:
    through = ("unshare", "--net", "--map-root-user")
    ran = check("127.0.0.1", "-t", "1s", *PATIENT, through=through)
    if "unshare" in ran.errors:
        pytest.skip("no network namespaces here")
    said = "UDPPUNCH SERVE CRITICAL - cannot send to 127.0.0.1:39737: Network is unreachable"
    assert ran.status == 2 and text(ran) == said


def test_name_that_does_not_exist() -> None:
    ran = check("meet.invalid", "-t", "20s")
    assert ran.status == 2 and "meet.invalid" in text(ran)
    assert figures(ran)["loss"].startswith("100%")


# The original's


def test_original_server_at_an_original_rendezvous() -> None:
    with process.turn() as meeting, Echo() as echo:
        with process.server(echo.address, meeting.address, KEY) as server:
            server.wait_event("registered")
            ran = check(program.text(meeting.address), "--echo", "ping", *PATIENT)
            assert ran.status == 0, ran
            assert " SERVE OK - direct path (not udppunch) to 127.0.0.1:" in text(ran)
            assert figures(ran)["rtt"].startswith("U;") and figures(ran)["loss"].startswith("U;")
            server.wait_event("registered", count=2)
            server.assert_alive_and_sane()
            meeting.assert_alive_and_sane()


def test_server_of_ours_at_an_original_rendezvous() -> None:
    with process.turn() as meeting, Echo() as echo:
        with program.serve(echo.address, meeting.address) as server:
            server.wait_event("registered")
            ran = check(program.text(meeting.address), "--echo", "ping", *PATIENT)
            assert ran.status == 0 and "loss 0 %, direct path to 127.0.0.1:" in text(ran), ran
            server.wait_event("path-closed")
            server.assert_alive_and_sane()


# Keys, and what a person got wrong


def test_key_of_the_environment_a_file_or_an_argument(
    server: Program, where: str, tmp_path: Path
) -> None:
    file = tmp_path / "key"
    file.write_text(KEY + "\n")
    from_file = (where, "--key-file", str(file), *PATIENT)
    assert check(*from_file, environment={}).status == 0
    assert check(*from_file, environment={"UDPPUNCH_KEY": "another"}).status == 0
    ran = run("serve", where, KEY, *PATIENT, environment={"UDPPUNCH_KEY": "another"})
    assert ran.status == 0


def test_key_file_that_is_empty() -> None:
    ran = check("127.0.0.1", "k", "--key-file", "/dev/null", environment={})
    assert ran.status == 3 and "key file /dev/null: the key is empty" in text(ran)


def test_key_that_reads_none() -> None:
    ran = check("127.0.0.1:9", "none", "-t", "100ms", environment={})
    assert ran.status == 2 and " SERVE CRITICAL - " in text(ran)


def test_key_file_that_cannot_be_read(tmp_path: Path) -> None:
    ran = check("127.0.0.1", "--key-file", str(tmp_path / "none"), environment={})
    assert ran.status == 3 and "SERVE UNKNOWN - key file " in text(ran)
    assert "No such file" in text(ran)


@pytest.mark.parametrize(
    "arguments,environment,said",
    [
        (["127.0.0.1"], {}, "key is missing: give KEY, --key-file FILE or UDPPUNCH_KEY"),
        (["127.0.0.1"], {"UDPPUNCH_KEY": ""}, "UDPPUNCH_KEY: the key is empty"),
        (["127.0.0.1", "--expect", "a"], WITH_KEY, "expect needs echo or echo-hex"),
        (["127.0.0.1", "--echo", "a", "--echo-hex", "0a"], WITH_KEY, "both given: keep one"),
        (["127.0.0.1", "--echo-hex", "0"], WITH_KEY, "echo-hex: '0' is not hexadecimal"),
        (["127.0.0.1", "--echo", "a" * 1201], WITH_KEY, "1201 bytes are too many"),
        (["[::1]"], WITH_KEY, "is an IPv6 address"),
        (["127.0.0.1", "--protocol", "chat"], WITH_KEY, "--protocol is not for check serve"),
        ([], WITH_KEY, "ADDRESS is missing"),
    ],
)
def test_usage_errors_are_unknown(
    arguments: List[str], environment: Dict[str, str], said: str
) -> None:
    ran = check(*arguments, environment=environment)
    assert said in refused(ran)


def test_key_and_key_file(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("a")
    ran = check("127.0.0.1", "b", "--key-file", str(tmp_path / "key"), environment={})
    assert "key and key-file are both given: keep one" in refused(ran)


@pytest.mark.parametrize("output", [">/dev/full", "<&- >&- 2>&-"])
def test_closed_output_does_not_change_the_status(server: Program, where: str, output: str) -> None:
    through = ("sh", "-c", f'exec "$@" {output}', "sh")
    assert check(where, *PATIENT, through=through).status == 0
    ran = check(where, "-w", "0.001ms", "-c", "60s", through=through)
    assert ran.status == 1 and not ran.errors
