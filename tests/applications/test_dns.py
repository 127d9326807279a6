"""A name server (dnsmasq) behind two NATs, asked with dig."""

from __future__ import annotations

import shutil
import subprocess
from typing import List

import pytest

from tests.lab.whole_program import FRONT, SERVICE, Punched, eventually
from udppunch.lab import Lab

ADDRESS = "192.0.2.7"
QUERIES = 100
DRAWN_AGAIN = 5  # of 28,000 ports: in one run of six there is one, and hardly ever are there two
TEXT = ["x" * 250] * 8  # more than fits into one packet of a usual link

DIG = ["dig", f"@{FRONT[0]}", "-p", str(FRONT[1]), "+notcp", "+ignore", "+tries=3", "+time=5"]


@pytest.fixture(scope="module")
def tools() -> None:
    for tool, package in (("dnsmasq", "dnsmasq-base"), ("dig", "bind9-dnsutils")):
        if shutil.which(tool) is None:
            pytest.skip(f"no {tool}: install the package {package}")


def name_server(lab: Lab) -> "subprocess.Popen[bytes]":
    return lab.a.popen(
        [
            "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv",
            "--no-hosts", "--no-poll", "--user=", "--group=", "--pid-file=",
            "--log-facility=-", f"--port={SERVICE[1]}", f"--listen-address={SERVICE[0]}",
            "--bind-interfaces", "--edns-packet-max=4096", f"--address=/service.test/{ADDRESS}",
            f"--txt-record=long.test,{','.join(TEXT)}",
        ],
        stderr=subprocess.DEVNULL,
    )  # fmt: skip


def answers(printed: str) -> List[str]:
    return [line for line in printed.splitlines() if line and not line.startswith(";")]


@pytest.mark.usefixtures("lab_permitted", "tools")
def test_many_questions_and_a_long_answer() -> None:
    """dig asks each question from a port drawn anew, so that nearly each has a path of its own."""
    with Lab("prc", "prc") as lab, Punched(lab) as punched:
        punched.echo.close()
        dnsmasq = name_server(lab)
        assert eventually(lambda: bool(lab.a.run(["ss", "-lunH", "sport = :7000"]).stdout), 10.0)
        questions = "".join(f"host{number}.service.test A\n" for number in range(QUERIES))
        told = lab.b.run([*DIG, "+short", "-f", "/dev/stdin"], input=questions, timeout=60.0)
        assert answers(told.stdout) == [ADDRESS] * QUERIES, punched.story(told.stdout[-500:])
        assert punched.client.count("path-up") >= QUERIES - DRAWN_AGAIN
        long = lab.b.run([*DIG, "+bufsize=4096", "+short", "long.test", "TXT"], timeout=30.0)
        assert answers(long.stdout) == [" ".join(f'"{part}"' for part in TEXT)], long.stdout
        assert dnsmasq.poll() is None
        punched.assert_sane()
