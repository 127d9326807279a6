"""udp-relay's load test, compiled: clients that shake hands each 24 ms and answer their partner's.

It prints a JSON object: how many were sent and answered, came where they should not have come, or
found no partner.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any, Dict

SOURCE = Path(__file__).with_name("relay_swarm.c")
PER_SECOND = 1 / 0.024


def compile_swarm(folder: Path) -> Path:
    compiled = folder / "relay_swarm"
    flags = ("-O2", "-std=gnu11", "-Wall", "-Wextra", "-Werror")
    subprocess.run(["cc", *flags, "-o", str(compiled), str(SOURCE)], check=True)
    return compiled


def run_swarm(
    swarm: Path, port: int, *, clients: int, seconds: float, secret: bytes
) -> Dict[str, Any]:
    words = (swarm, f"127.0.0.1:{port}", clients, seconds, secret.hex())
    told = subprocess.run(
        list(map(str, words)), stdout=subprocess.PIPE, check=True, timeout=seconds + 60
    )
    counted: Dict[str, Any] = json.loads(told.stdout)
    return counted
