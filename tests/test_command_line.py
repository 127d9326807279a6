"""What a person meets who types the right thing, or the wrong one: real processes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Dict, List, Optional, Tuple

import pytest

from tests import program
from tests.ports import free_port
from tests.standin.application import Echo, NumberedClient
from udppunch import __version__, config, usage

KEY = "correct horse battery staple"


def run(*arguments: str, environment: Optional[Dict[str, str]] = None) -> Tuple[int, str, str]:
    """Exit status, standard output and standard error of a command that ends by itself."""
    found = subprocess.run(
        [sys.executable, "-m", "udppunch", *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        cwd=program.ROOT,
        env={"PATH": os.environ["PATH"], **(environment or {})},
    )
    assert "Traceback" not in found.stderr
    return found.returncode, found.stdout, found.stderr


def complaint(*arguments: str, status: int = 64, **more: "Dict[str, str]") -> str:
    """The one line that a command ends with."""
    returned, output, errors = run(*arguments, **more)  # type: ignore[arg-type]
    lines = [line for line in errors.splitlines() if line.startswith("udppunch: ")]
    assert returned == status and not output and len(lines) == 1, (returned, output, errors)
    assert errors.splitlines()[-1] == lines[0]
    return lines[0]


def connect(*more: str, listen: str = "127.0.0.1:7001") -> List[str]:
    return ["connect", listen, "127.0.0.1", *more]


@pytest.fixture
def with_key() -> "Dict[str, Dict[str, str]]":
    return {"environment": {"UDPPUNCH_KEY": KEY}}


def test_help_and_version() -> None:
    assert run("--help") == (0, usage.TOP, "")
    assert run("--version") == (0, f"udppunch {__version__}\n", "")
    assert run() == (64, "", usage.TOP)


@pytest.mark.parametrize("name", [*usage.COMMANDS, *config.ALIASES])
def test_help_of_each_command(name: str) -> None:
    text = usage.COMMANDS[config.ALIASES.get(name, name)]
    assert run(name, "--help") == (0, text, "")


@pytest.mark.parametrize(
    "words,said",
    [
        (["serv"], "did you mean serve?"),
        (["--fast"], "unknown option --fast"),
        (["serve"], "FORWARD and RENDEZVOUS are missing; see udppunch serve --help"),
        (["serve", ":1"], "RENDEZVOUS is missing"),
        (["connect", "--idle", "5s", ":1"], "RENDEZVOUS is missing"),
        (["run"], "FILE is missing"),
        (["demo", "here"], "too many arguments"),
        (["relay", ":6060", ":6060"], "[::]:6060 is to be listened on twice: once is enough"),
        (["rendezvous", ":5", "--holepunch", ":5"], "0.0.0.0:5 is to be listened on twice"),
        (["expose", ":5", "h:5", "h:5"], "h:5 is given as a helper twice"),
        (["demo", "--loopback", "--nat-b", "sym"], "--nat-b needs NATs"),
        (["relay", "--workers", "0"], "workers: '0' is not a number from 1 to 64"),
        (["relay", "--bogus"], "known are --secret-file"),
        (connect("--idel", "3"), "did you mean --idle?"),
        (connect("--idle"), "requires argument"),
        (connect("k", "too", "many"), "too many arguments"),
        (connect("k", listen="127.0.0.1:70000"), "70000"),
        (connect("k", listen="127.0.0.1"), "no port"),
        (connect("k", listen="[::1"), "not an address"),
        (connect("k", "--idle", "5 parsecs"), "write 25s, 200ms, 5min or 1h"),
        (connect("k", "--idle", "0"), "out of range"),
        (connect("k", "--max-paths", "-1"), "max-paths"),
        (connect("k", "--log-level", "loud"), "trace, debug, info"),
        (["connect", ":1", "[2001:db8::1]:5", "k"], "IPv4 alone"),
        (connect(""), "empty"),
        (connect("k" * 127), "126 at most"),
        (connect("ü" * 64), "128 bytes"),
        (connect(), "UDPPUNCH_KEY"),
    ],
)
def test_the_wrong_thing_gets_one_line_that_names_it(words: List[str], said: str) -> None:
    assert said in complaint(*words)


def test_a_key_of_the_longest_is_taken() -> None:
    parsed = {"listen": ":1", "rendezvous": "127.0.0.1", "key": "k" * 126}
    assert len(config.role_config("connect", parsed, {}).key) == 126


def test_an_address_in_use() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        where = program.text(taken.getsockname())
        assert where in complaint("rendezvous", where, status=73)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a capability up")
def test_a_port_that_takes_permission() -> None:
    with open("/proc/sys/net/ipv4/ip_unprivileged_port_start") as file:
        if int(file.read()) <= 53:
            pytest.skip("every port is free for all here")
    command = ["setpriv", "--bounding-set", "-net_bind_service", sys.executable, "-m", "udppunch"]
    found = subprocess.run(
        [*command, "rendezvous", "127.0.0.1:53"], capture_output=True, text=True, cwd=program.ROOT
    )
    assert found.returncode == 77
    assert "127.0.0.1:53" in found.stderr and "permission" in found.stderr.lower()
    assert found.stderr.count("\n") == 1


def test_a_host_that_does_not_exist(with_key: "Dict[str, Dict[str, str]]") -> None:
    where = "127.0.0.1:" + str(free_port())
    said = complaint("connect", where, "host.invalid", status=68, **with_key)
    assert "host.invalid" in said
    assert KEY not in said


def test_key_files(tmp_path: Path) -> None:
    path = tmp_path / "key"
    said = complaint(*connect("--key-file", str(path)), status=66)
    assert str(path) in said and "No such file" in said
    path.write_text(KEY + "\n")
    raw = {"listen": ":1", "rendezvous": "h", "key-file": str(path)}
    assert config.role_config("connect", raw, {}).key == KEY.encode()
    path.write_bytes(b"\xff\xfe")
    assert "UTF-8" in complaint(*connect("--key-file", str(path)), status=78)


@pytest.mark.parametrize("mode,warned", [(0o600, False), (0o640, True), (0o604, True)])
def test_a_key_file_that_others_may_read(tmp_path: Path, mode: int, warned: bool) -> None:
    path = tmp_path / "key"
    path.write_text(KEY)
    path.chmod(mode)
    where = f"127.0.0.1:{free_port()}"
    errors = run_briefly("connect", where, "127.0.0.1:9", "--key-file", str(path))
    assert ("chmod 600" in errors) is warned
    assert KEY not in errors


def test_a_key_on_the_command_line_is_warned_of() -> None:
    where = f"127.0.0.1:{free_port()}"
    errors = run_briefly("connect", where, "127.0.0.1:9", KEY, "--log-level", "trace")
    assert "can be seen by others" in errors and KEY not in errors


def run_briefly(*arguments: str, signal_number: int = signal.SIGTERM) -> str:
    """What a daemon says that is stopped as soon as it listens."""
    process = subprocess.Popen(
        [sys.executable, "-m", "udppunch", *arguments],
        stderr=subprocess.PIPE,
        text=True,
        cwd=program.ROOT,
    )
    assert process.stderr is not None
    said = []
    for line in process.stderr:
        said.append(line)
        if "listen" in line:
            process.send_signal(signal_number)
    assert process.wait(10) == 0, said
    return "".join(said)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_stops_it_cleanly(number: int) -> None:
    where = f"127.0.0.1:{free_port()}"
    assert "stopped" in run_briefly("rendezvous", where, signal_number=number)


@pytest.mark.parametrize(
    "content,status,said",
    [
        ("roles:\n - serve: {forwrd: ':1'}\n", 78, "did you mean forward?"),
        ("roels: []\n", 78, "did you mean roles?"),
        ("roles:\n - sreve: {}\n", 78, "did you mean serve?"),
        ("roles: [\n", 78, ":2: not YAML"),
        ("roles: {}\n", 78, "not a list"),
        ("", 78, "no settings"),
        ("roles:\n - serve: {forward: ':1', rendezvous: h}\n", 78, "key is missing"),
        ("roles:\n - serve: {forward: [a, b], rendezvous: h, key: k}\n", 78, "one value"),
        ("roles:\n - rendezvous: {rate: many}\n", 78, "not a number"),
        ("log-level: loud\nroles:\n - rendezvous: {}\n", 64, "not a log level"),
    ],
)
def test_a_file_that_is_wrong(tmp_path: Path, content: str, status: int, said: str) -> None:
    path = tmp_path / "udppunch.yaml"
    path.write_text(content)
    assert said in complaint("run", str(path), status=status)


def test_several_roles_from_one_file(tmp_path: Path) -> None:
    turn, front = free_port(), free_port()
    with Echo() as echo:
        path = tmp_path / "udppunch.yaml"
        path.write_text(
            "log-level: debug\n"
            "roles:\n"
            f" - rendezvous: {{listen: '127.0.0.1:{turn}'}}\n"
            f" - server: {{forward: '{program.text(echo.address)}',"
            f" rendezvous: '127.0.0.1:{turn}', key: k}}\n"
            f" - client: {{listen: '127.0.0.1:{front}', rendezvous: '127.0.0.1:{turn}',"
            " key: k, idle: 20min}\n"
        )
        path.chmod(0o600)
        with program.Program("run", str(path)) as running:
            running.wait_event("registered")
            with NumberedClient(("127.0.0.1", front)) as application:
                application.send(5)
                assert application.wait_echoed()
            assert running.stop() == 0


def test_log_levels_and_json(with_key: "Dict[str, Dict[str, str]]") -> None:
    with program.rendezvous() as turn:
        turn.wait_event("listening")
        turn.stop()
        for event in turn.events:
            assert {"time", "level", "event", "message"} <= set(event)
    assert not turn.output
    assert "UDPPUNCH" not in complaint("rendezvous", "1.2.3.4:5", status=73)
    environment = {"UDPPUNCH_LOG": "loud"}
    assert "not a log level" in complaint("rendezvous", ":5", environment=environment)


def test_a_rendezvous_that_does_not_answer_is_said_and_asked_on() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        silent.settimeout(10)
        with program.serve(("127.0.0.1", 9), silent.getsockname()) as server:
            server.wait_event("rendezvous-silent", 10.0)
            while silent.getsockname():
                data, _ = silent.recvfrom(1000)
                if data[0] == 1 and server.count("rendezvous-silent") == 1:
                    break
            server.assert_alive_and_sane()


def test_the_service_manager_is_told(tmp_path: Path) -> None:
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(path)
        manager.settimeout(10)
        environment = {**os.environ, "NOTIFY_SOCKET": path, "WATCHDOG_USEC": "400000"}
        where = f"127.0.0.1:{free_port()}"
        process = subprocess.Popen(
            [sys.executable, "-m", "udppunch", "rendezvous", where],
            cwd=program.ROOT,
            env=environment,
            stderr=subprocess.DEVNULL,
        )
        try:
            first = manager.recv(1000).decode().splitlines()
            assert "READY=1" in first and any(line.startswith("STATUS=") for line in first)
            assert "WATCHDOG=1" in manager.recv(1000).decode()
            process.terminate()
            while "STOPPING=1" not in manager.recv(1000).decode():
                time.sleep(0)
        finally:
            process.terminate()
        assert process.wait(10) == 0


def test_a_closed_pipe_is_no_error() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "udppunch", "--help"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=program.ROOT,
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert b"Traceback" not in process.stderr.read()
    process.wait(10)


def test_json_is_one_object_a_line() -> None:
    where = f"127.0.0.1:{free_port()}"
    for line in run_briefly("rendezvous", where, "--log-json").splitlines():
        assert isinstance(json.loads(line), dict)


def test_a_file_can_be_tried_before_a_daemon_is_restarted_for_it(tmp_path: Path) -> None:
    file = tmp_path / "two.yaml"
    file.write_text("roles: [{relay: {}}, {rendezvous: {}}]")
    assert run("run", "--check", str(file)) == (0, f"{file}: relay, rendezvous\n", "")
    file.write_text("roles: [{relay: {secret-file: nowhere}}]")
    assert "secret file nowhere: " in complaint("run", "--check", str(file), status=66)


@pytest.mark.parametrize(
    "words,status,said",
    [
        (["rendezvous", "127.0.0.1", "--log-json"], 64, "'127.0.0.1' has no port"),
        (["relay", "--log-json", "--secret-file", "/no/such"], 66, "secret file /no/such: "),
        (["serve", ":1", "no-such-host.invalid", "k", "--log-json"], 68, "no-such-host.invalid"),
    ],
)
def test_for_a_machine_the_last_line_is_json_like_all_others(
    words: List[str], status: int, said: str
) -> None:
    returned, output, errors = run(*words)
    last = json.loads(errors.splitlines()[-1])
    assert (returned, output, last["level"], last["event"]) == (status, "", "error", "failed")
    assert last["status"] == status and said in last["message"]


def test_a_full_disk_does_not_change_the_exit_status() -> None:
    with open("/dev/full", "w") as full:
        ran = subprocess.run(
            [sys.executable, "-m", "udppunch", "serve"], stderr=full, cwd=program.ROOT
        )
    assert ran.returncode == 64
