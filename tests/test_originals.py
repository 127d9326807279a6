"""`udppunch udpexposer`, with that program's options, and our own of `helper` and `expose`.

That an option takes effect is seen from outside: by whoever plays the other end.
"""

from __future__ import annotations

import functools
import json
import os
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Dict, List, Optional, Sequence

import pytest

from tests import program
from tests.ports import free_port
from tests.standin.expose import (
    STAND_IN,
    STATISTICS,
    TAG,
    Connectee,
    Endpoint,
    Original,
    OriginalExposer,
    OriginalHelper,
    SocketAddress,
    text,
)
from tests.test_command_line import complaint, run
from udppunch import usage

PASSWORD = "correct horse battery staple"
ON_COMMAND_LINE = "a password on the command line can be seen by others: better UDPPUNCH_PASSWORD"
MANY = 8  # connectees, of which some are kept
NOBODY = "127.0.0.1:9"

OURS = (sys.executable, "-m", "udppunch")
UDPEXPOSER = (*OURS, "udpexposer")
# A helper has a worker for each processor that it may use, and one alone evicts exactly.
ON_ONE_PROCESSOR = ("taskset", "--cpu-list", str(min(os.sched_getaffinity(0))))


def start(
    *words: object, through: Sequence[str] = (), environment: Optional[Dict[str, str]] = None
) -> Original:
    """`udppunch` with these words, as a process."""
    popen = functools.partial(
        subprocess.Popen, cwd=program.ROOT, env={"PATH": os.environ["PATH"], **(environment or {})}
    )
    return Original(*words, password=None, program=(*through, *OURS), popen=popen)


def original_helper(
    where: SocketAddress, password: Optional[str], made: Sequence[str]
) -> OriginalHelper:
    popen = functools.partial(subprocess.Popen, cwd=program.ROOT)
    return OriginalHelper(where, password=password, program=made, popen=popen)


def original_exposer(
    helper: SocketAddress, service: SocketAddress, password: Optional[str], made: Sequence[str]
) -> OriginalExposer:
    popen = functools.partial(subprocess.Popen, cwd=program.ROOT)
    return OriginalExposer(helper, service, password=password, program=made, popen=popen)


def logged(running: Original, part: str) -> str:
    """The first line with that in it, said or still to be said."""
    due = time.monotonic() + 15
    while True:
        found = [line for line in running.lines() if part in line]
        if found:
            return found[0]
        assert running.process.poll() is None and time.monotonic() < due, running
        time.sleep(0.01)


@pytest.fixture
def where() -> SocketAddress:
    return "127.0.0.1", free_port()


def exchange(helper: SocketAddress, service: Endpoint) -> None:
    """As soon as the service is published a connectee asks it, and is answered."""
    with Connectee(helper) as connectee:
        due = time.monotonic() + 15
        while service.has_nothing(0.05):
            assert time.monotonic() < due, "it is not published"
            connectee.send(b"question")
        question, source = service.receive_from()
        service.send_to(source, b"answer to " + question)
        assert connectee.receive() == b"answer to question"


# Both ends, with the original's options


@pytest.mark.parametrize("password", [None, PASSWORD], ids=["no-password", "password"])
@pytest.mark.parametrize(
    "of_helper,of_exposer",
    [(UDPEXPOSER, STAND_IN), (STAND_IN, UDPEXPOSER), (UDPEXPOSER, UDPEXPOSER)],
    ids=["helper", "exposer", "both"],
)
def test_short_options(
    where: SocketAddress,
    of_helper: Sequence[str],
    of_exposer: Sequence[str],
    password: Optional[str],
) -> None:
    with Endpoint() as service, original_helper(where, password, of_helper) as helper:
        with original_exposer(where, service.address, password, of_exposer) as exposer:
            exchange(where, service)
            for running, made in ((helper, of_helper), (exposer, of_exposer)):
                running.assert_alive_and_sane()
                is_warned = ON_COMMAND_LINE in str(running.lines())
                assert is_warned == (password is not None and made is UDPEXPOSER)
                assert PASSWORD not in str(running.lines())


@pytest.mark.parametrize("password", [None, PASSWORD], ids=["no-password", "password"])
def test_long_options_and_the_password_of_the_environment(
    where: SocketAddress, password: Optional[str]
) -> None:
    environment = {"UDPPUNCH_PASSWORD": password} if password else {}
    listen = ["--server-mode", f"--max-clients={MANY}", text(where)]
    with Endpoint() as service, start("udpexposer", *listen, environment=environment) as helper:
        ends = ["--server-addr", text(where), "--local-connect-addr", text(service.address)]
        more = ["--ping-interval-ms", 1000, "127.0.0.1:0"]
        with start("udpexposer", *ends, *more, environment=environment) as exposer:
            exchange(where, service)
            for running in (helper, exposer):
                running.assert_alive_and_sane()
                assert ON_COMMAND_LINE not in str(running.lines())


def test_password_of_the_option_goes_before_the_environment(where: SocketAddress) -> None:
    environment = {"UDPPUNCH_PASSWORD": "another"}
    with Endpoint() as service, OriginalHelper(where, password=PASSWORD):
        words = ("-a", text(where), "-c", text(service.address), "127.0.0.1:0")
        with start("udpexposer", *words, f"-P{PASSWORD}", environment=environment) as exposer:
            logged(exposer, "registered with helper")
            exchange(where, service)


def test_listen_is_where_the_exposer_speaks_from() -> None:
    local = ("127.0.0.1", free_port())
    with Endpoint() as helper:
        with start("udpexposer", "-a", text(helper.address), "-c", NOBODY, text(local)):
            assert helper.receive_from() == (b"", local)


@pytest.mark.parametrize("listen", ["[::]:0", "0.0.0.0:0"])
@pytest.mark.parametrize("ip", ["127.0.0.1", "::1"])
def test_listen_that_is_any_address(listen: str, ip: str) -> None:
    """As [::]:0 is for a helper of IPv4, too."""
    with Endpoint((ip, 0)) as helper:
        with start("udpexposer", "-a", text(helper.address), "-c", NOBODY, listen) as exposer:
            assert helper.receive_from()[0] == b"", exposer


@pytest.mark.parametrize("make", ["original", "ours"])
@pytest.mark.parametrize(
    "words",
    [["-a", "HELPER", "-S", "-P", PASSWORD, "127.0.0.1:0"],
     ["0.0.0.0:0", "--dump-stats", f"--password={PASSWORD}", "--server-addr=HELPER"],
     [f"-SP{PASSWORD}", "127.0.0.1:0", "-aHELPER"]],
)  # fmt: skip
def test_statistics(where: SocketAddress, make: str, words: List[str]) -> None:
    with original_helper(where, PASSWORD, STAND_IN if make == "original" else UDPEXPOSER):
        asking = [word.replace("HELPER", text(where)) for word in words]
        status, output, errors = run("udpexposer", *asking)
    assert (status, errors) == (0, "")
    assert list(json.loads(output)) == STATISTICS
    assert json.loads(output)["stats_requests"] == 1


@pytest.mark.parametrize("words", [["-h"], ["--help"], ["-s", "--help"]])
def test_help(words: List[str]) -> None:
    assert run("udpexposer", *words) == (0, usage.UDPEXPOSER, "")


@pytest.mark.parametrize(
    "words,said",
    [
        ([], "LISTEN is missing; see udppunch udpexposer --help"),
        (["-s", "127.0.0.1:7600", "127.0.0.1:7601"], "too many arguments"),
        (["-s", "127.0.0.1:7600", "--workers", "2"], "unknown option --workers"),
        (["-s", "127.0.0.1:7600", "-x"], "unknown option -x"),
        (["-s", "127.0.0.1:7600", "-n"], "-n requires argument"),
        (["127.0.0.1:0", "-c", NOBODY], "-a SERVER is missing"),
        (["127.0.0.1:0", "-a", NOBODY], "-c LOCAL is missing"),
        (["127.0.0.1:0", "-S", "-P", PASSWORD], "-a SERVER is missing"),
        (["127.0.0.1:0", "-S", "-a", NOBODY], "UDPPUNCH_PASSWORD"),
        (["127.0.0.1:0", "-S", "-a", "helper.example.org", "-P", PASSWORD], "helper.example.org"),
        (["-s", "127.0.0.1"], "'127.0.0.1' has no port"),
        (["-s", "127.0.0.1:0"], "port 0"),
        (["-s", "127.0.0.1:7600", "-n", "0"], "'0'"),
        (["-s", "127.0.0.1:7600", "-n", "65536"], "1 to 65535"),
        (["-s", "127.0.0.1:7600", "-n", "many"], "'many' is not a number"),
        (["-s", "127.0.0.1:7600", "-n-1"], "'-1'"),
        (["127.0.0.1:0", "-c", NOBODY, "-a", NOBODY, "-i", "25s"], "'25s' is not a number"),
        (["127.0.0.1:0", "-c", NOBODY, "-a", NOBODY, "-i", "0"], "out of range"),
        (["127.0.0.1:0", "-c", NOBODY, "-a", NOBODY, "-i", "1.5"], "'1.5' is not a number"),
        (["127.0.0.1:0", "-c", NOBODY, "-a", ":"], "':' has no port"),
        (["localhost:0", "-c", NOBODY, "-a", NOBODY], "'localhost:0' is not a local IP address"),
    ],
)
def test_wrong_arguments_get_one_line(words: List[str], said: str) -> None:
    found = complaint("udpexposer", *words)
    assert said in found and PASSWORD not in found


def test_address_that_is_not_ours() -> None:
    assert "192.0.2.1:7600" in complaint("udpexposer", "-s", "192.0.2.1:7600", status=73)


def test_password_that_is_not_text() -> None:
    found = complaint("udpexposer", "-s", "127.0.0.1:7600", "-P", "top\udcffsecret")
    assert "UTF-8" in found and "secret" not in found


# -n and -i, of both spellings, take effect


def kept_by_helper(helper: SocketAddress) -> int:
    """How many of many connectees have a tag in the end; the exposer is played, without a
    password. That the last one is answered tells that all were who are."""
    connectees: List[Connectee] = []
    with Connectee(helper) as exposer:
        exposer.send(b"")
        for _ in range(MANY):
            connectees.append(Connectee(helper))
            connectees[-1].send(b"question")
        questions = [exposer.receive() for _ in range(MANY)]
        for question in questions:
            exposer.send(question[:TAG] + b"answer")
        assert connectees[-1].receive() == b"answer"
        kept = 1 + sum(not connectee.has_nothing() for connectee in connectees[:-1])
    for connectee in connectees:
        connectee.close()
    return kept


@pytest.mark.parametrize(
    "words,most",
    [
        (("helper",), MANY),
        (("helper", "-n", 3), 3),
        (("helper", "-n3"), 3),
        (("helper", "--max-clients=3"), 3),
        (("helper", "--max", 3), 3),
        (("udpexposer", "-s"), 4),
        (("udpexposer", "-s", "-n", 3), 3),
        (("udpexposer", "-sn3"), 3),
        (("udpexposer", "--server-mode", "--max-clients=3"), 3),
    ],
)
def test_connectees_of_a_helper(where: SocketAddress, words: Sequence[object], most: int) -> None:
    with start(*words, text(where), through=ON_ONE_PROCESSOR) as helper:
        logged(helper, "is published at")
        assert kept_by_helper(where) == most
        helper.assert_alive_and_sane()


def expose_words(command: str, helper: Endpoint, service: Endpoint) -> List[str]:
    ends = [text(service.address), text(helper.address)]
    if command == "expose":
        return [command, *ends]
    return [command, "-c", ends[0], "-a", ends[1], "127.0.0.1:0"]


@pytest.mark.parametrize(
    "command,words,most",
    [
        ("expose", (), MANY),
        ("expose", ("-n", 3), 3),
        ("expose", ("-n3",), 3),
        ("expose", ("--max-clients=3",), 3),
        ("udpexposer", (), 4),
        ("udpexposer", ("-n", 3), 3),
        ("udpexposer", ("--max-clients", 3), 3),
    ],
)
def test_connectees_of_an_exposer(command: str, words: Sequence[object], most: int) -> None:
    with Endpoint() as helper, Endpoint() as service:
        with start(*expose_words(command, helper, service), *words) as exposer:
            exposer_address = helper.receive_from()[1]
            sources = []
            for tag in range(1, MANY + 1):
                helper.send_to(exposer_address, tag.to_bytes(TAG, "big") + b"question")
                sources.append(service.receive_from()[1])
            for source in sources:
                service.send_to(source, b"answer")
            answers = {helper.receive_from()[0] for _ in range(most)}
            assert len(answers) == most and helper.has_nothing(0.2)
            exposer.assert_alive_and_sane()


@pytest.mark.parametrize(
    "command,words",
    [
        ("expose", ("-i", "100ms")),
        ("expose", ("-i100ms",)),
        ("expose", ("--keepalive=100ms",)),
        ("expose", ("-i100ms", "-n", "8")),
        ("udpexposer", ("-i", "100")),
        ("udpexposer", ("-i100",)),
        ("udpexposer", ("--ping-interval-ms", "100")),
    ],
)
def test_keepalives(command: str, words: Sequence[str]) -> None:
    """The third would come after 50 seconds without the option."""
    with Endpoint() as helper, Endpoint() as service:
        with start(*expose_words(command, helper, service), *words):
            assert [helper.receive_from()[0] for _ in range(3)] == [b"", b"", b""]


# --bind


@pytest.mark.parametrize(
    "bind,helper_ip,source_ip",
    [
        ("127.0.0.2", "127.0.0.1", "127.0.0.2"),
        ("127.0.0.2:PORT", "127.0.0.1", "127.0.0.2"),
        (":PORT", "127.0.0.1", "127.0.0.1"),
        ("0.0.0.0", "127.0.0.1", "127.0.0.1"),
        ("::1", "::1", "::1"),
        ("[::1]", "::1", "::1"),
        ("[::1]:PORT", "::1", "::1"),
        ("[::]:PORT", "::1", "::1"),
        ("[::]:PORT", "127.0.0.1", "127.0.0.1"),
    ],
)
def test_bind(bind: str, helper_ip: str, source_ip: str) -> None:
    port = free_port()
    option = bind.replace("PORT", str(port))
    with Endpoint((helper_ip, 0)) as helper:
        with start("expose", "--bind", option, NOBODY, text(helper.address)) as exposer:
            source = helper.receive_from()[1]
            exposer.assert_alive_and_sane()
    assert source[0] == source_ip
    assert (source[1] == port) == ("PORT" in bind)


def test_bind_without_a_port_is_for_several_helpers() -> None:
    with Endpoint() as one, Endpoint() as other:
        helpers = (text(one.address), text(other.address))
        with start("expose", "--bind", "127.0.0.2", NOBODY, *helpers):
            assert {end.receive_from()[1][0] for end in (one, other)} == {"127.0.0.2"}


@pytest.mark.parametrize("bind", [":7601", "127.0.0.1:7601", "[::1]:7601", "[::]:7601"])
def test_bind_with_a_port_is_for_one_helper(bind: str) -> None:
    words = ("expose", "--bind", bind, NOBODY, "127.0.0.1:7600", "127.0.0.1:7602")
    assert "bind has a port, which only one helper's socket can have" in complaint(*words)


@pytest.mark.parametrize("bind", ["127.0.0.1", "192.0.2.1:7601"])
def test_bind_of_ipv4_with_a_helper_of_ipv6(bind: str) -> None:
    found = complaint("expose", "--bind", bind, NOBODY, "[::1]:7600", status=68)
    assert "::1 is not an IPv4 address" in found


def test_bind_of_ipv6_with_a_helper_of_ipv4() -> None:
    """It would never send."""
    status, output, errors = run("expose", "--bind", "::1", NOBODY, "127.0.0.1:7600")
    assert status in (64, 68) and not output and errors.count("\n") == 1
    assert "127.0.0.1" in errors


@pytest.mark.parametrize(
    "bind",
    ["localhost", ":", "127.0.0.1:", "127.0.0.1:70000", "127.0.0.1:http", "*:0", "[::1", "1:2:3",
     "127.0.0.1/8"],
)  # fmt: skip
def test_bind_that_is_no_address(bind: str) -> None:
    found = complaint("expose", "--bind", bind, NOBODY, "127.0.0.1:7600")
    assert f"bind: {bind!r} is not a local IP address: write 192.0.2.1 or [v6]:port" in found


def test_bind_in_use() -> None:
    """By another program, which may end: it is said, and tried again."""
    with Endpoint() as taken, Endpoint() as helper:
        bind = text(taken.address)
        words = ("expose", "--bind", bind, NOBODY, text(helper.address))
        with start(*words) as exposer:
            assert bind in logged(exposer, "no socket")
            exposer.assert_alive_and_sane()
            taken.close()
            assert helper.receive_from()[1] == taken.address


# What a person got wrong with our own options


def helper(*more: str) -> List[str]:
    return ["helper", f"127.0.0.1:{free_port()}", *more]


def expose(*more: str) -> List[str]:
    return ["expose", NOBODY, "127.0.0.1:7600", *more]


@pytest.mark.parametrize(
    "words,said",
    [
        (helper("-n0"), "max-clients: '0'"),
        (helper("-n", "65536"), "1 to 65535"),
        (helper("-n8x"), "max-clients: '8x'"),
        (helper("-n"), "-n requires argument"),
        (helper("-i1s"), "unknown option -i1s"),
        (helper("-P", PASSWORD), "unknown option -P"),
        (helper("--password", "none-such"), "password file none-such"),
        (helper("--max-client", "many"), "max-clients: 'many'"),
        (helper("--max-cleints", "8"), "did you mean --max-clients?"),
        (helper("--name", "web=:7601"), "name needs a password"),
        (helper("--name", "web"), "'web' is not NAME=ADDRESS"),
        (helper("--name", "=:7601"), "is not NAME=ADDRESS"),
        (helper("--name", "web=:7601,"), "is not NAME=ADDRESS"),
        (helper("--name", f"{'w' * 65}=:7601"), "at most 64 bytes"),
        (helper("--proxy-protocol", "v1"), "write v2 or none"),
        (helper("--workers", "65"), "1 to 64"),
        (helper("127.0.0.1:7601"), "too many arguments"),
        (expose("-i", "0"), "keepalive: '0' is out of range"),
        (expose("-i", "1 parsec"), "keepalive: '1 parsec' is not a time"),
        (expose("-isoon"), "keepalive: 'soon' is not a time"),
        (expose("-a", "127.0.0.1:7600"), "unknown option -a"),
        (["helper"], "LISTEN is missing"),
        (["expose", NOBODY], "HELPER is missing"),
        (expose("--name", "web"), "name needs a password"),
        (expose("--name", "a=b"), "'a=b' is not a name"),
        (expose("127.0.0.1"), "'127.0.0.1' has no port"),
        (expose("2001:db8::1"), "[v6]:port"),
        (["expose", "127.0.0.1", "127.0.0.1:7600"], "'127.0.0.1' has no port"),
        (["expose", "127.0.0.1:0", "127.0.0.1:7600"], "port 0"),
        (["exposer", NOBODY, "127.0.0.1:7600"], "did you mean expose?"),
    ],
)
def test_the_wrong_thing_gets_one_line_that_names_it(words: List[str], said: str) -> None:
    found = complaint(*words, status=66 if "file" in said else 64)
    assert said in found and PASSWORD not in found


@pytest.mark.parametrize("words", [helper(), expose()], ids=["helper", "expose"])
@pytest.mark.parametrize(
    "content,status,said",
    [
        (None, 66, "No such file or directory"),
        ("directory", 66, "Is a directory"),
        (b"\xff\xfe", 78, "not UTF-8 text"),
        (b"\n", 78, "is empty"),
        (b"two\nlines\n", 78, "more than one line"),
    ],
)
def test_password_file_that_is_none(
    tmp_path: Path, words: List[str], content: "None | str | bytes", status: int, said: str
) -> None:
    file = tmp_path / "password"
    if content == "directory":
        file.mkdir()
    elif isinstance(content, bytes):
        file.write_bytes(content)
    found = complaint(*words, "--password-file", str(file), status=status)
    assert f"password file {file}" in found and said in found


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o604])
@pytest.mark.parametrize("command", ["helper", "expose"])
def test_password_file_that_others_may_read(tmp_path: Path, command: str, mode: int) -> None:
    file = tmp_path / "password"
    file.write_text(PASSWORD)
    file.chmod(mode)
    options = ("--password-file", file, "--log-level", "trace")
    with Endpoint() as far:
        words = helper() if command == "helper" else ["expose", NOBODY, text(far.address)]
        with start(*words, *options) as running:
            if command == "helper":
                logged(running, "is published at")
            else:
                far.receive_from()
            said = str(running.lines())
    is_warned = f"password file {file} may be read by others: chmod 600" in said
    assert is_warned == bool(mode & (stat.S_IRGRP | stat.S_IROTH))
    assert PASSWORD not in said


@pytest.mark.parametrize("words", [helper(), expose()], ids=["helper", "expose"])
def test_password_without_its_library(tmp_path: Path, words: List[str]) -> None:
    (tmp_path / "argon2.py").write_text('raise ImportError("none", name="argon2")\n')
    environment = {"UDPPUNCH_PASSWORD": PASSWORD, "PYTHONPATH": str(tmp_path)}
    found = complaint(*words, status=69, environment=environment)
    assert "needs the Python library argon2 (pip install 'udppunch[password]'" in found
