"""A DNS server behind `serve`, asked by `dig` through `connect`."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from tests import program
from tests.lab.whole_program import MEETING
from udppunch.lab import Lab

pytestmark = pytest.mark.usefixtures("lab_permitted")

PORT = 5353
FRONT = ("127.0.0.1", 5300)
LONG = 1800  # octets of TXT record: more than fit one packet

missing = [tool for tool in ("dnsmasq", "dig") if shutil.which(tool) is None]
if missing:
    pytest.skip(f"not installed: {' '.join(missing)}", allow_module_level=True)


def test_queries_through_two_nats() -> None:
    texts = ",".join(f'"{index:02d}{"x" * 180}"' for index in range(LONG // 180))
    with Lab("prc", "full") as lab, program.rendezvous(MEETING, popen=lab.rendezvous.popen) as turn:
        turn.wait_event("listening")
        lab.a.popen(
            ["dnsmasq", "--no-daemon", "--no-resolv", "--no-hosts", f"--port={PORT}",
             "--listen-address=127.0.0.1", "--bind-interfaces", "--user=root",
             "--conf-file=/dev/null", "--edns-packet-max=4096", "--pid-file=",
             "--address=/host.example/192.0.2.7", f"--txt-record=long.example,{texts}"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        with (
            program.serve(("127.0.0.1", PORT), MEETING, popen=lab.a.popen) as server,
            program.connect(MEETING, listen=FRONT, popen=lab.b.popen) as client,
        ):
            server.wait_event("registered")
            client.wait_event("listening")
            ask = ["dig", f"@{FRONT[0]}", "-p", str(FRONT[1]), "+short", "+tries=5", "+time=2"]
            for _ in range(20):
                answer = lab.b.run([*ask, "host.example", "A"]).stdout
                assert answer.strip() == "192.0.2.7"
            # A datagram of this size comes in fragments, and is one again at the other end.
            answer = lab.b.run([*ask, "+bufsize=4096", "+ignore", "long.example", "TXT"]).stdout
            assert answer.count("x") == LONG // 180 * 180
            client.assert_alive_and_sane()
            server.assert_alive_and_sane()
