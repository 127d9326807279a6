"""Ports for the programs that tests start: such as stay free until the program takes them.

What the kernel chooses for sockets without a port of their own (ip(7), ip_local_port_range) is
never among them, and of several processes of tests each has ports of its own.
"""

from __future__ import annotations

import os
import random
import socket
from typing import Iterator

_FIRST, _END = 10_000, 32_768  # the kernel's own begin here

_ANYWHERE = (
    (socket.AF_INET6, "::") if os.path.exists("/proc/net/if_inet6") else (socket.AF_INET, "")
)


def _own_ports() -> Iterator[int]:
    """One after the other, from somewhere among them: another run of the tests may be there."""
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[len("gw") :])
    count = (_END - _FIRST) // processes
    first = _FIRST + number * count
    start = random.randrange(count)
    while True:
        yield first + start
        start = (start + 1) % count


_ports = _own_ports()


def free_port() -> int:
    """A port that nobody has, neither for UDP nor for TCP; another one each time."""
    for port in _ports:
        if _is_free(socket.SOCK_DGRAM, port) and _is_free(socket.SOCK_STREAM, port):
            return port
    raise AssertionError("the ports have no end")


def _is_free(kind: int, port: int) -> bool:
    family, anywhere = _ANYWHERE
    with socket.socket(family, kind) as sock:
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        try:
            sock.bind((anywhere, port))
        except OSError:
            return False
    return True
