"""The one line that monitors read, and the JSON that says the same."""

from __future__ import annotations

import json
import re
from typing import List

import pytest
from hypothesis import given
from hypothesis import strategies as st

from udppunch.check import refuse
from udppunch.check.output import Measure, Outcome, Report, Status
from udppunch.check.thresholds import parse_limits

RTT = Measure("rtt", 31.2049, "ms")
LOSS = Measure("loss", 20.0, "%")


def report(outcome: Outcome, warning: str = "200ms,20%", critical: str = "500ms,60%") -> Report:
    return Report("relay", "h:1", outcome, parse_limits(warning), parse_limits(critical))


def test_line() -> None:
    assert report(Outcome(Status.OK, "rtt 31.2 ms", (RTT, LOSS))).line() == (
        "UDPPUNCH RELAY OK - rtt 31.2 ms | rtt=31.205ms;200;500;0 loss=20%;20;60;0;100"
    )


def test_line_without_figures() -> None:
    assert report(Outcome(Status.UNKNOWN, "why")).line() == "UDPPUNCH RELAY UNKNOWN - why"


def test_figure_that_could_not_be_measured() -> None:
    found = report(Outcome(Status.CRITICAL, "silent", (Measure("rtt", None, "ms"),)), "5%", "9%")
    assert found.line().endswith(" | rtt=U;;;0")
    assert found.status is Status.CRITICAL
    assert json.loads(found.document())["rtt"]["value"] is None


@pytest.mark.parametrize(
    "warning,critical,status",
    [
        ("200ms,20%", "500ms,60%", Status.OK),
        ("31.2ms", "500ms", Status.WARNING),
        ("200ms,19%", "500ms,60%", Status.WARNING),
        ("200ms", "31.2ms", Status.CRITICAL),
        ("31.2ms,19%", "500ms,19.9%", Status.CRITICAL),
        ("@20%:30%", "60%", Status.WARNING),
        ("100ms:", "500ms", Status.WARNING),
    ],
)
def test_limits_make_the_status(warning: str, critical: str, status: Status) -> None:
    found = report(Outcome(Status.OK, "", (RTT, LOSS)), warning, critical)
    assert found.status is status
    assert json.loads(found.document())["exit_status"] == status
    assert f" {status.name} - " in found.line()


def test_no_limit_makes_a_status_better() -> None:
    outcome = Outcome(Status.CRITICAL, "", (RTT, LOSS))
    assert report(outcome, "31ms", "1s,100%").status is Status.CRITICAL


def test_limit_tells_more_than_what_is_unknown() -> None:
    """As of several checks: what is known to be bad is not hidden by what is not known."""
    outcome = Outcome(Status.UNKNOWN, "", (RTT,))
    assert report(outcome, "10ms", "1s").status is Status.UNKNOWN
    assert report(outcome, "10ms", "31ms").status is Status.CRITICAL


def test_document() -> None:
    assert json.loads(
        report(Outcome(Status.OK, "well", (RTT,)), "10ms:200ms", "60%").document()
    ) == {
        "check": "relay",
        "target": "h:1",
        "status": "OK",
        "exit_status": 0,
        "text": "well",
        "rtt": {"value": 31.205, "unit": "ms", "warning": "10:200", "critical": None},
    }


@given(text=st.text(max_size=300), status=st.sampled_from(Status))
def test_line_fits_every_display(text: str, status: Status) -> None:
    line = report(Outcome(status, text, (LOSS,)), "100%", "100%").line()
    said, bar, figures = line.partition(" | ")
    assert len(said) <= (240 if status is Status.UNKNOWN else 80) and bar
    assert re.fullmatch(r"[ -{}~]*", said)
    assert figures == "loss=20%;100;100;0;100"


def test_file_that_is_to_be_mended_is_named_in_full() -> None:
    said = f"secret file /etc/udppunch/{60 * 'a'}/secret: No such file or directory"
    assert report(Outcome(Status.UNKNOWN, said)).line() == f"UDPPUNCH RELAY UNKNOWN - {said}"


def test_long_text_keeps_both_ends() -> None:
    name = "a" * 63 + ".example.org"
    line = report(Outcome(Status.CRITICAL, f"the name {name} does not exist")).line()
    assert line.startswith("UDPPUNCH RELAY CRITICAL - the name aaa")
    assert line.endswith("xample.org does not exist") and "..." in line and len(line) == 80


@pytest.mark.parametrize(
    "words,role",
    [(["relay", "a", "b"], "RELAY"), (["-q", "nat"], "NAT"), (["--file"], "CHECK"), ([], "CHECK")],
)
def test_command_line_that_is_wrong(
    words: List[str], role: str, capsys: pytest.CaptureFixture[str]
) -> None:
    remedy = "too many " + 20 * "words, "
    assert refuse(words, remedy) == Status.UNKNOWN
    assert capsys.readouterr() == (f"UDPPUNCH {role} UNKNOWN - {remedy}\n", "")


@pytest.mark.parametrize("option", ["--json", "--js"])
def test_command_line_that_is_wrong_as_json(
    option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refuse(["-q", "relay", option], "why") == Status.UNKNOWN
    document = json.loads(capsys.readouterr().out)
    assert (document["check"], document["text"], document["exit_status"]) == ("relay", "why", 3)
