"""WireGuard in user space between two hosts behind two NATs, and a file through it.

http.server ─ wg ─ serve ─ [NAT a] ─ core ─ [NAT b] ─ connect ─ wg ─ urllib
   10.9.0.1                                                       10.9.0.2
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Iterator

import pytest

from tests import program
from tests.lab.whole_program import FRONT, MEETING
from udppunch.lab import Host, Lab

pytestmark = pytest.mark.usefixtures("lab_permitted")

WIREGUARD_PORT = 51820
FILE_OCTETS = 50 * 1000 * 1000

needed = ("wireguard-go", "wg", "ip")
missing = [tool for tool in needed if shutil.which(tool) is None]
if missing or not os.path.exists("/dev/net/tun"):
    pytest.skip(f"WireGuard needs {missing or '/dev/net/tun'}", allow_module_level=True)


class Peer:
    """One end of the tunnel."""

    def __init__(self, host: Host, folder: Path, address: str, listen: int) -> None:
        self.host = host
        self.address = address
        self._folder = folder
        self._listen = listen
        # The control socket of wireguard-go is named after the device: one name a peer.
        self.device = f"wg{os.getpid() % 100000}{address[-1]}"
        self.private = subprocess.check_output(["wg", "genkey"], text=True).strip()
        self.public = subprocess.check_output(
            ["wg", "pubkey"], input=self.private, text=True
        ).strip()

    def start(self, other: Peer, endpoint: str = "") -> None:
        environment = {**os.environ, "LOG_LEVEL": "error", "WG_PROCESS_FOREGROUND": "1"}
        log = open(self._folder / f"{self.device}.log", "w")
        self.host.popen(
            ["wireguard-go", "--foreground", self.device], env=environment, stdout=log, stderr=log
        )
        control = Path(f"/var/run/wireguard/{self.device}.sock")
        wait = f"for i in $(seq 100); do test -S {control} && exit; sleep .1; done; exit 1"
        self.host.run(["sh", "-c", wait])
        text = f"[Interface]\nPrivateKey = {self.private}\nListenPort = {self._listen}\n"
        text += f"[Peer]\nPublicKey = {other.public}\nAllowedIPs = {other.address}/32\n"
        text += f"Endpoint = {endpoint}\nPersistentKeepalive = 5\n" if endpoint else ""
        path = self._folder / f"{self.device}.conf"
        path.write_text(text)
        self.host.run(["wg", "setconf", self.device, str(path)])
        self.host.run(["ip", "addr", "add", f"{self.address}/24", "dev", self.device])
        self.host.run(["ip", "link", "set", self.device, "mtu", "1420", "up"])


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab("prc", "prc") as lab:
        yield lab


@pytest.mark.timeout(300)
def test_a_file_through_two_nats(lab: Lab, tmp_path: Path) -> None:
    served = tmp_path / "served"
    served.mkdir()
    content = os.urandom(1 << 20) * 48
    content = content[:FILE_OCTETS].ljust(FILE_OCTETS, b"\0")
    (served / "file").write_bytes(content)
    a = Peer(lab.a, tmp_path, "10.9.0.1", WIREGUARD_PORT)
    b = Peer(lab.b, tmp_path, "10.9.0.2", 0)
    forward = ("127.0.0.1", WIREGUARD_PORT)
    with program.rendezvous(MEETING, popen=lab.rendezvous.popen) as turn:
        turn.wait_event("listening")
        with (
            program.serve(forward, MEETING, popen=lab.a.popen) as server,
            program.connect(MEETING, listen=FRONT, popen=lab.b.popen) as client,
        ):
            server.wait_event("registered")
            client.wait_event("listening")
            a.start(b)
            b.start(a, program.text(FRONT))
            http = [sys.executable, "-m", "http.server", "8000", "--bind", a.address]
            lab.a.popen(
                [*http, "--directory", str(served)],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            fetched = tmp_path / "fetched"
            lab.b.run(
                ["curl", "-sS", "--retry", "20", "--retry-all-errors", "--retry-delay", "1",
                 "-o", str(fetched), "--max-time", "200", f"http://{a.address}:8000/file"],
                timeout=240,
            )  # fmt: skip
            assert _digest(fetched.read_bytes()) == _digest(content)
            assert client.count("path-lost") == server.count("path-lost") == 0
            for process in (turn, server, client):
                process.assert_alive_and_sane()


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
