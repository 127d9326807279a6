"""iperf3's UDP test through a path: its own count of what was lost.

iperf3 wants TCP to the same port besides; that goes through the test, not through udppunch.
"""

from __future__ import annotations

import json
import selectors
import shutil
import socket
import subprocess
import threading

import pytest

from tests.lab.whole_program import FRONT, SERVICE, Punched, eventually
from udppunch.lab import Host, Lab

SECONDS = 3
RATE = "20M"


@pytest.mark.usefixtures("lab_permitted")
@pytest.mark.parametrize("reverse", [False, True], ids=["to-service", "to-client"])
def test_udp(reverse: bool) -> None:
    if shutil.which("iperf3") is None:
        pytest.skip("no iperf3: install the package iperf3")
    with Lab("prc", "prc") as lab, Punched(lab) as punched:
        punched.echo.close()
        lab.a.popen(
            ["iperf3", "--server", "--bind", SERVICE[0], "--port", str(SERVICE[1])],
            stdout=subprocess.DEVNULL,
        )
        listening = ["ss", "-ltnH", f"sport = :{SERVICE[1]}"]
        assert eventually(lambda: bool(lab.a.run(listening).stdout), 10.0)
        carry_tcp(lab.b, lab.a)
        told = lab.b.run(
            [
                "iperf3", "--client", FRONT[0], "--port", str(FRONT[1]), "--udp", "--json",
                "--bitrate", RATE, "--length", "1200", "--time", str(SECONDS),
                "--window", "1M",
                *(["--reverse"] if reverse else []),
            ],
            timeout=60.0,
        )  # fmt: skip
        total = json.loads(told.stdout)["end"]["sum"]
        assert total["packets"] > 1000
        assert total["lost_packets"] <= 0.01 * total["packets"], total
        punched.assert_sane()


def carry_tcp(inside: Host, outside: Host) -> None:
    """Connections to FRONT at one host end at SERVICE of the other, until the lab closes."""
    listener = inside.socket(kind=socket.SOCK_STREAM)
    listener.bind(FRONT)
    listener.listen()
    threading.Thread(target=_accept, args=(listener, outside), daemon=True).start()


def _accept(listener: socket.socket, outside: Host) -> None:
    while True:
        try:
            one, _ = listener.accept()
            other = outside.socket(kind=socket.SOCK_STREAM)
            other.connect(SERVICE)
        except OSError:  # closed with the lab
            return
        threading.Thread(target=_join, args=(one, other), daemon=True).start()


def _join(one: socket.socket, other: socket.socket) -> None:
    with one, other, selectors.DefaultSelector() as selector:
        selector.register(one, selectors.EVENT_READ, other)
        selector.register(other, selectors.EVENT_READ, one)
        while True:
            for key, _ in selector.select():
                assert isinstance(key.fileobj, socket.socket)
                try:
                    data = key.fileobj.recv(1 << 16)
                    if not data:
                        return
                    key.data.sendall(data)
                except OSError:
                    return
