"""`udppunch check --file`: several checks in one run, and files that are wrong."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Dict, Iterator, List

import pytest

from tests import program
from tests.check.answering import Answering
from tests.check.command import PATIENT, Ran, line, refused, run
from tests.check.relays import FaultyRelay
from tests.ports import free_port
from udppunch.check.file import load
from udppunch.check.output import Status, worst

NO_SERVER = b"\x02\x01"


@pytest.fixture
def rendezvous() -> Iterator[Answering]:
    with Answering(lambda datagram: [NO_SERVER]) as running:
        yield running


@pytest.fixture
def relay() -> Iterator[FaultyRelay]:
    with FaultyRelay() as running:
        yield running


class File:
    def __init__(self, path: Path) -> None:
        self.path = path

    def check(self, content: Any, *options: str, **keywords: Any) -> Ran:
        """JSON is YAML, too."""
        text = content if isinstance(content, str) else json.dumps(content)
        self.path.write_text(text)
        return run("--file", str(self.path), *options, **keywords)


@pytest.fixture
def file(tmp_path: Path) -> File:
    return File(tmp_path / "checks.yaml")


def checks(*entries: Dict[str, Any]) -> Dict[str, Any]:
    return {"checks": list(entries)}


def nobody() -> str:
    return f"127.0.0.1:{free_port()}"


# Files that are right


def test_each_has_its_line(file: File, rendezvous: Answering, relay: FaultyRelay) -> None:
    named = {"address": rendezvous.where, "name": "frankfurt"}
    ran = file.check(checks({"rendezvous": named}, {"relay": {"address": relay.address}}), *PATIENT)
    assert ran.status == 0 and not ran.errors, ran
    first, second = ran.output.splitlines()
    assert first.startswith("UDPPUNCH RENDEZVOUS OK - frankfurt: rtt ")
    assert second.startswith(f"UDPPUNCH RELAY OK - {relay.address}: rtt ")
    assert all(" loss=0%;20;60;0;100" in each for each in (first, second))


def test_yaml_as_people_write_it(file: File, rendezvous: Answering) -> None:
    text = f"""\
# What the house depends on.
checks:
  - rendezvous:
      address: {rendezvous.where}
      name: 7
      timeout: 3
      probes: 2
      warning: 60s
  - rendezvous: {{address: "{rendezvous.where}", probes: 1, critical: "60s,100%"}}
"""
    ran = file.check(text, *PATIENT)
    first, second = ran.output.splitlines()
    assert ran.status == 0 and " OK - 7: rtt " in first, ran
    assert first.endswith(";60000;60000;0 loss=0%;;60;0;100")
    assert second.endswith(" loss=0%;20;100;0;100")
    assert len(rendezvous.received) == 3


def test_name_that_is_left_empty(file: File) -> None:
    dead = nobody()
    ran = file.check(checks({"relay": {"address": dead, "name": None}}))
    assert line(ran).startswith(f"UDPPUNCH RELAY CRITICAL - {dead}: nothing listens at "), ran


def test_command_line_says_what_the_file_leaves_open(file: File, rendezvous: Answering) -> None:
    settings = {"address": rendezvous.where}
    content = checks({"rendezvous": settings}, {"rendezvous": {**settings, "probes": 2}})
    ran = file.check(content, "--probes", "1", "-w", "50s", "-c", "60s")
    assert ran.status == 0 and len(rendezvous.received) == 3
    for each in ran.output.splitlines():
        assert each.endswith("ms;50000;60000;0 loss=0%;;;0;100")


def test_quiet_tells_of_what_is_wrong(file: File, rendezvous: Answering) -> None:
    content = checks({"rendezvous": {"address": rendezvous.where}})
    assert file.check(content, "-q", *PATIENT) == (0, "", "")
    dead = nobody()
    content["checks"].append({"relay": {"address": dead, "name": "cellar"}})
    ran = file.check(content, "-q", *PATIENT)
    assert ran.status == 2
    assert line(ran).startswith(f"UDPPUNCH RELAY CRITICAL - cellar: nothing listens at {dead} |")


def test_json_is_an_object_a_line(file: File, rendezvous: Answering) -> None:
    settings = {"address": rendezvous.where, "name": "a|b"}
    content = checks({"rendezvous": settings}, {"relay": {"address": nobody()}})
    ran = file.check(content, "--json", *PATIENT)
    first, second = map(json.loads, ran.output.splitlines())
    assert (first["check"], first["name"], first["status"]) == ("rendezvous", "a|b", "OK")
    assert (second["check"], second["name"]) == ("relay", second["target"])
    assert (ran.status, second["exit_status"]) == (2, 2)


@pytest.mark.parametrize(
    "found,expected",
    [
        ([0, 0], 0),
        ([0, 1, 0], 1),
        ([1, 3], 3),
        ([3, 2, 1, 0], 2),
        ([2, 3], 2),
    ],
)
def test_worst(found: List[int], expected: int) -> None:
    """A service that is down is never hidden by a file that can't be read."""
    assert worst(map(Status, found)) == expected


def test_one_that_is_unknown_does_not_keep_from_the_others(
    file: File, rendezvous: Answering, tmp_path: Path
) -> None:
    secret = {"address": "127.0.0.1", "secret-file": str(tmp_path / "none")}
    content = checks({"relay": secret}, {"rendezvous": {"address": rendezvous.where}})
    ran = file.check(content, *PATIENT)
    first, second = ran.output.splitlines()
    assert ran.status == 3 and rendezvous.received
    assert first.startswith("UDPPUNCH RELAY UNKNOWN - 127.0.0.1: secret file ")
    assert " RENDEZVOUS OK - " in second


def test_each_has_its_time(file: File) -> None:
    with Answering() as silent:
        settings = {"address": silent.where, "probes": 1}
        content = checks({"rendezvous": settings}, {"rendezvous": {**settings, "timeout": "0.1s"}})
        ran = file.check(content, "-t", "300ms", *PATIENT)
        assert len(silent.received) == 2
    assert ran.status == 2 and ran.output.count(" no puncher answer from ") == 2


def test_switches_of_a_file(file: File) -> None:
    """Read, though nobody answers."""
    settings = {"address": nobody(), "lifetime": True, "longest": "9s", "timeout": "200ms"}
    ran = file.check(checks({"nat": settings}))
    assert ran.status == 2 and " NAT CRITICAL - " in ran.output


def test_example_of_the_page_loads(tmp_path: Path) -> None:
    page = (program.ROOT / "man" / "udppunch-check.1").read_text().replace("\\-", "-")
    examples = re.findall(r"^\.Bd -literal.*?\n(.*?)\.Ed", page, re.MULTILINE | re.DOTALL)
    [example] = (text for text in examples if text.startswith("checks:"))
    (tmp_path / "key").write_text("a key\n")
    (tmp_path / "password").write_text("a password\n")
    (tmp_path / "checks.yaml").write_text(example.replace("/etc/udppunch", str(tmp_path)))
    meeting, server, helper = load(str(tmp_path / "checks.yaml"), {"timeout": "1s"}, {})
    assert [each.role for each in (meeting, server, helper)] == ["rendezvous", "serve", "helper"]
    assert [each.name for each in (meeting, server)] == ["meeting point", "meet.example.org"]
    assert {unit: str(limit) for unit, limit in server.critical.items()} == {
        "ms": "1000",
        "%": "80",
    }


# Files that are wrong


RELAY = "relay: {address: a}"


@pytest.mark.parametrize(
    "content,said",
    [
        ("", ": no checks: write `checks:` and a list, see udppunch-check(1)"),
        ("[]", ": no checks: "),
        ("{}", ": no checks: "),
        ("checks: []", ": checks is not a list of checks"),
        ("checks: {relay: {}}", ": checks is not a list of checks"),
        (f"checks: [{{{RELAY}}}]\nroles: []", ": roles is not known: "),
        ("checks: [relay]", ": check 1: not one check with its settings"),
        (f"checks: [{{{RELAY}, nat: {{}}}}]", ": check 1: not one check with its settings"),
        ("checks: [{rely: {address: a}}]", ": check 1: rely is not a check: did you mean relay?"),
        ("checks: [{relay: a}]", ": check 1 (relay): not a table of settings"),
        ("checks: [{relay: }]", ": check 1 (relay): not a table of settings"),
        ("checks: [{relay: {}}]", ": check 1 (relay): address is missing"),
        (
            f"checks: [{{{RELAY}}}, {{relay: {{address: a, prob: 1}}}}]",
            ": check 2 (relay): prob is",
        ),
        ("checks: [{relay: {address: a, probes: [1, 2]}}]", "(relay): probes takes one value"),
        ("checks: [{relay: {address: a, name: [1]}}]", "(relay): name takes a plain value"),
        ("checks: [{relay: {address: a, warning: 200}}]", "(relay): warning: '200' is not a limit"),
        ("checks: [{relay: {address: a, silent: 1s}}]", "(relay): silent is not known"),
        ("checks: [{relay: {address: a, lock: b}}]", "(relay): lock is not known"),
        ("checks: [{serve: {address: a}}]", "(serve): key is missing"),
        ("checks: [{helper: {address: a}}]", "(helper): address: 'a' has no port"),
        ("checks: [{nat: {address: a, lifetime: 9}}]", "(nat): lifetime: '9' is not a switch"),
        ("checks:\n  - relay: {address: [}", ":2: not YAML: "),
        ("checks:\n\t- relay", ":2: not YAML: "),
        ("checks: [{relay: {address: a, address: b}}]", ":1: address is given twice"),
        ("checks: " + "[" * 2000, ": a value in it cannot be read"),
        ("\x00", "not YAML"),
    ],
)
def test_file_that_is_wrong(file: File, content: str, said: str) -> None:
    ran = file.check(content)
    assert ran.status == 3, ran
    told = line(ran, 240)
    assert told.startswith(f"UDPPUNCH FILE UNKNOWN - {file.path}") and said in told


def test_file_that_is_wrong_is_told_when_quiet_and_as_json(file: File) -> None:
    assert " FILE UNKNOWN - " in line(file.check("checks: 1", "-q"), 240)
    document = file.check("checks: 1", "--json").document
    assert (document["check"], document["target"]) == ("file", str(file.path))
    assert (document["status"], document["exit_status"]) == ("UNKNOWN", 3)


@pytest.mark.parametrize("make", ["nothing", "a folder", "not text"])
def test_file_that_cannot_be_read(tmp_path: Path, make: str) -> None:
    path = tmp_path / "checks.yaml"
    if make == "a folder":
        path.mkdir()
    elif make == "not text":
        path.write_bytes(b"\xff\xfe")
    ran = run("--file", str(path))
    assert ran.status == 3 and line(ran, 240).startswith(
        f"UDPPUNCH FILE UNKNOWN - file of checks {path}: "
    )


def test_file_called_none(tmp_path: Path) -> None:
    (tmp_path / "none").write_text("checks: 1")
    through = ("env", "--chdir", str(tmp_path), f"PYTHONPATH={program.ROOT}")
    ran = run("--file", "none", through=through)
    assert ran.status == 3 and "none: checks is not a list of checks" in line(ran, 240)


def test_failure_of_our_own_is_unknown(file: File, tmp_path: Path) -> None:
    (tmp_path / "yaml.py").write_text("raise RuntimeError\n")
    ran = file.check("checks: 1", environment={"PYTHONPATH": str(tmp_path)})
    assert ran.status == 3 and " FILE UNKNOWN - internal error (RuntimeError" in line(ran, 240)


def test_nothing_runs_of_a_file_that_is_wrong(file: File, rendezvous: Answering) -> None:
    content = checks({"rendezvous": {"address": rendezvous.where}}, {"relay": {}})
    assert file.check(content).status == 3
    assert not rendezvous.received


@pytest.mark.parametrize(
    "options,said",
    [
        (["--secret-file", "a"], "--secret-file is not for the command line: write it in the file"),
        (["--echo", "a"], "--echo is not for the command line"),
        (["--lifetime"], "--lifetime is not for the command line"),
        (["-w", "fast"], "warning: 'fast'"),
        (["--probes", "0"], "probes: '0'"),
    ],
)
def test_usage_errors(file: File, options: List[str], said: str) -> None:
    ran = file.check(checks({"relay": {"address": "a"}}), *options)
    assert said in refused(ran)
