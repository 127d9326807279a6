"""Sockets that share a port: as many as wanted, and none where another program has it."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from typing import Iterator

import pytest

from tests.ports import free_port
from udppunch.address import ANY_IPV6, pack, with_port
from udppunch.errors import EX_CANTCREAT, CommandError
from udppunch.net.reuseport import bind_groups


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def test_kernel_shares_out_the_flows(stack: ExitStack) -> None:
    port = free_port()
    (group,) = bind_groups([pack("127.0.0.1", port)], 3, "test")
    for sock in group:
        stack.enter_context(sock).setblocking(False)
    for _ in range(200):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
            peer.sendto(b"x", ("127.0.0.1", port))
    got = []
    for sock in group:
        count = 0
        try:
            while sock.recv(10):
                count += 1
        except BlockingIOError:
            got.append(count)
    assert sum(got) == 200
    assert all(got), got


@pytest.mark.parametrize("copies", [1, 2])
@pytest.mark.parametrize("others", [1, 2])
def test_taken_port_is_refused(stack: ExitStack, copies: int, others: int) -> None:
    at = pack("127.0.0.1", free_port())
    for sock in bind_groups([at], others, "other")[0]:
        stack.enter_context(sock)
    with pytest.raises(CommandError, match="another process has this port") as raised:
        bind_groups([at], copies, "test")
    assert raised.value.status == EX_CANTCREAT


@pytest.mark.parametrize("copies", [1, 2])
def test_ipv6_wildcard_serves_both(stack: ExitStack, copies: int) -> None:
    if not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    port = free_port()
    (group,) = bind_groups([with_port(ANY_IPV6, port)], copies, "test")
    for sock in group:
        stack.enter_context(sock).settimeout(0.05)
    heard = 0
    for family, ip in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        peer = stack.enter_context(socket.socket(family, socket.SOCK_DGRAM))
        peer.sendto(b"x", (ip, port))
    for sock in group:
        try:
            while sock.recv(10):
                heard += 1
        except socket.timeout:
            pass
    assert heard == 2


def test_both_wildcards_of_one_port(stack: ExitStack) -> None:
    port = free_port()
    groups = bind_groups([with_port(ANY_IPV6, port), pack("0.0.0.0", port)], 1, "test")
    families = [stack.enter_context(group[0]).family for group in groups]
    assert families == [socket.AF_INET6, socket.AF_INET]


def test_nothing_stays_open_after_a_refusal(stack: ExitStack) -> None:
    taken = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    taken.bind(("127.0.0.1", 0))
    first = pack("127.0.0.1", free_port())
    second = pack("127.0.0.1", taken.getsockname()[1])
    with pytest.raises(CommandError):
        bind_groups([first, second], 2, "test")
    for sock in bind_groups([first], 1, "again")[0]:
        sock.close()
