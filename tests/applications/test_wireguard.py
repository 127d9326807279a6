"""WireGuard between two hosts behind two NATs: a file over HTTP through its tunnel.

http.server ─ wireguard-go ─ serve ─ [NAT a] ─ [NAT b] ─ connect ─ wireguard-go ─ urllib
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Tuple

import pytest

from tests.lab.whole_program import FRONT, SERVICE, Punched, eventually
from udppunch.lab import Host, Lab

pytestmark = pytest.mark.usefixtures("lab_permitted")

SIZE = 50_000_000
INSIDE = {"a": "10.99.0.1", "b": "10.99.0.2"}
HTTP_PORT = 8080
CONTROL = Path("/var/run/wireguard")
FETCH = """
import hashlib, sys, urllib.request
digest = hashlib.sha256()
with urllib.request.urlopen(sys.argv[1], timeout=30) as answer:
    for piece in iter(lambda: answer.read(1 << 16), b""):
        digest.update(piece)
print(digest.hexdigest())
"""


class Tunnel:
    """One end of a tunnel: a wireguard-go process of a host, with its device."""

    def __init__(self, host: Host, site: str) -> None:
        self._host = host
        self.device = f"wg{os.getpid()}{site}"  # its control socket is in the file system
        self.inside = INSIDE[site]
        self.key = subprocess.run(["wg", "genkey"], stdout=subprocess.PIPE, check=True).stdout
        self.public = self._wg("pubkey").strip()
        self.process = host.popen(
            ["wireguard-go", self.device],
            env={**os.environ, "WG_PROCESS_FOREGROUND": "1", "LOG_LEVEL": "error"},
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def __enter__(self) -> Tunnel:
        assert eventually((CONTROL / f"{self.device}.sock").exists, 10.0)
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait()

    def configure(self, peer: Tunnel, port: int, *peer_settings: str) -> None:
        self._wg(
            "set", self.device, "private-key", "/dev/stdin", "listen-port", str(port),
            "peer", peer.public, "allowed-ips", f"{peer.inside}/32", *peer_settings,
        )  # fmt: skip
        self._host.namespace.ip(
            [
                f"addr add {self.inside}/24 dev {self.device}",
                f"link set dev {self.device} mtu 1420 up",
            ]
        )

    def handshake_done(self) -> bool:
        latest = self._wg("show", self.device, "latest-handshakes").split()
        return int(latest[-1]) > 0

    def _wg(self, *arguments: str) -> str:
        process = self._host.run(["wg", *arguments], input=self.key.decode())
        return process.stdout


@pytest.fixture(scope="module")
def wireguard() -> None:
    for tool, package in (("wireguard-go", "wireguard-go"), ("wg", "wireguard-tools")):
        if shutil.which(tool) is None:
            pytest.skip(f"no {tool}: install the package {package}")
    if os.geteuid():
        pytest.skip("wireguard-go keeps its control socket where root alone may write")


@pytest.mark.usefixtures("wireguard")
def test_a_file_through_the_tunnel(tmp_path: Path) -> None:
    path, checksum = a_file(tmp_path)
    with Lab("prc", "prc") as lab, Punched(lab) as punched, ExitStack() as stack:
        punched.echo.close()  # WireGuard takes its place
        server, client = (
            stack.enter_context(Tunnel(getattr(lab, site), site)) for site in ("a", "b")
        )
        server.configure(client, SERVICE[1])
        endpoint = "endpoint", f"{FRONT[0]}:{FRONT[1]}"
        client.configure(server, 0, *endpoint, "persistent-keepalive", "5")
        assert eventually(client.handshake_done, 20.0), punched.story()
        lab.a.popen(
            [
                sys.executable, "-m", "http.server", str(HTTP_PORT),
                "--bind", server.inside, "--directory", str(path.parent),
            ],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        assert eventually(lambda: _listens(lab.a), 10.0)
        url = f"http://{server.inside}:{HTTP_PORT}/{path.name}"
        fetched = lab.b.run([sys.executable, "-c", FETCH, url], timeout=120.0)
        assert fetched.stdout.strip() == checksum
        assert punched.client.count("path-up") == 1, punched.story()
        punched.assert_sane()


def a_file(folder: Path) -> Tuple[Path, str]:
    content = random.Random(0).randbytes(SIZE)
    path = folder / "file"
    path.write_bytes(content)
    return path, hashlib.sha256(content).hexdigest()


def _listens(host: Host) -> bool:
    listeners = host.run(["ss", "-ltnH", f"sport = :{HTTP_PORT}"]).stdout
    return bool(listeners.strip())
