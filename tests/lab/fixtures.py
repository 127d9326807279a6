"""A lab for each test that asks for one, and what tests do in it with plain sockets.

`build_lab` takes what `Lab` takes and closes every lab it built when the test ends. Where no
lab can be built the tests that want one are skipped, with the reason.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from typing import Any, Callable

import pytest

from udppunch.lab import Host, Lab, LabError, can_build, enter_user_namespace

BuildLab = Callable[..., Lab]
SocketAddress = tuple[str, int]

PORT = 5000
ARRIVAL = 5.0  # seconds for what must arrive; what must not is given SILENCE
SILENCE = 0.1


@pytest.fixture(scope="session")
def lab_permitted() -> None:
    """This process may build labs from now on; an ordinary user's enters a user namespace."""
    reason = can_build()
    if reason is None:
        try:
            enter_user_namespace()
        except LabError as error:
            reason = str(error)
    if reason is not None:
        pytest.skip(reason)


@pytest.fixture
def build_lab(lab_permitted: None) -> Iterator[BuildLab]:
    with contextlib.ExitStack() as labs:

        def build(*sites: str, **options: Any) -> Lab:
            return labs.enter_context(Lab(*sites, **options))

        yield build


def udp(host: Host, port: int = PORT, address: str = "") -> socket.socket:
    """A UDP socket of the host, bound; IPv6 if the address, or the host's own, is."""
    family = socket.AF_INET6 if ":" in (address or host.address) else socket.AF_INET
    opened = host.socket(family)
    opened.bind((address, port))
    opened.settimeout(ARRIVAL)
    return opened


def reflexive(client: socket.socket, server: socket.socket) -> SocketAddress:
    """The address that the server sees when the client sends to it."""
    client.sendto(b"request", server.getsockname())
    data, source = server.recvfrom(2048)
    assert data == b"request"
    return source[0], source[1]


def heard(receiver: socket.socket) -> list[bytes]:
    """What has arrived, until nothing more does for a moment."""
    return [data for data, _ in heard_from(receiver)]


def heard_from(receiver: socket.socket) -> list[tuple[bytes, SocketAddress]]:
    """What has arrived and from where, until nothing more does for a moment."""
    arrived = []
    receiver.settimeout(SILENCE)
    with contextlib.suppress(socket.timeout):
        while True:
            data, source = receiver.recvfrom(2048)
            arrived.append((data, (source[0], source[1])))
    receiver.settimeout(ARRIVAL)
    return arrived
