"""Names are resolved in a child process; numeric addresses without one."""

from __future__ import annotations

import os
import signal
import socket
import time
from typing import Any, Callable, List, Tuple

import pytest

from udppunch.address import Address, pack
from udppunch.contract import Lookup
from udppunch.net import resolve
from udppunch.net.resolve import Resolution

from .conftest import Bench


def outcome(bench: Bench, lookup: Lookup) -> Tuple[List[Address], str]:
    bench.outbox.resolve(lookup)
    bench.until(lambda: bool(bench.role.named("resolved")))
    ((_, told, found, reason),) = bench.role.named("resolved")
    assert told is lookup
    return found, reason


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("192.0.2.7", pack("192.0.2.7", 5)),
        ("2001:db8::7", pack("2001:db8::7", 5)),
        ("::ffff:192.0.2.7", pack("192.0.2.7", 5)),
    ],
)
def test_numeric_addresses_need_no_child(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, host: str, expected: Address
) -> None:
    monkeypatch.delattr(os, "fork")
    assert outcome(bench, Lookup(host, 5)) == ([expected], "")


def test_ipv6_where_only_ipv4_will_do(bench: Bench) -> None:
    found = outcome(bench, Lookup("2001:db8::7", 5, ipv4_only=True))
    assert found == ([], "2001:db8::7 is not an IPv4 address")


def test_localhost(bench: Bench) -> None:
    found, reason = outcome(bench, Lookup("localhost", 5, ipv4_only=True))
    assert (found, reason) == ([pack("127.0.0.1", 5)], "")


@pytest.mark.parametrize("host", ["a..b", "x" * 70, "nul\0byte"])
def test_what_is_no_name_at_all(bench: Bench, host: str) -> None:
    found, reason = outcome(bench, Lookup(host, 5))
    assert found == []
    assert host[:10] in reason or repr(host) in reason


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (socket.EAI_NONAME, "the name example.invalid does not exist"),
        (socket.EAI_AGAIN, "the name server does not answer for example.invalid"),
        (socket.EAI_FAIL, "the name server cannot answer for example.invalid"),
        (socket.EAI_MEMORY, "cannot resolve example.invalid: words"),
    ],
)
def test_the_resolvers_errors_in_words(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, number: int, words: str
) -> None:
    """Which of them a host without a network gives depends on its configuration."""

    def fail(*_: Any) -> Any:
        raise socket.gaierror(number, "words")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    assert outcome(bench, Lookup("example.invalid", 5)) == ([], words)


def test_a_silent_name_server(make_bench: Callable[..., Bench], monkeypatch: Any) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: time.sleep(60))
    now = [50.0]
    bench = make_bench(clock=lambda: now[0])
    bench.role.guard = lambda: None
    bench.outbox.resolve(Lookup("slow.example", 5))
    bench.role.due = 0.0
    bench.turn()
    (child,) = [each._child for _, each in bench.loop._resolutions]
    assert bench.loop._patience() == resolve.PATIENCE
    now[0] += resolve.PATIENCE
    bench.turn()
    assert bench.role.named("resolved")[0][2:] == (
        [],
        "no answer for slow.example within 10 seconds",
    )
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


def test_a_child_that_dies(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*_: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(socket, "getaddrinfo", die)
    found = outcome(bench, Lookup("fatal.example", 5))
    assert found == ([], "cannot resolve fatal.example: the helper process failed")


def test_closing_the_loop_ends_its_children(bench: Bench, monkeypatch: Any) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: time.sleep(60))
    bench.turn()
    bench.outbox.resolve(Lookup("slow.example", 5))
    bench.turn()
    (child,) = [each._child for _, each in bench.loop._resolutions]
    bench.loop.close()
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


def test_the_child_keeps_none_of_our_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, other = socket.socketpair()
    with ours, other:

        def look(*_: Any) -> Any:
            try:
                os.fstat(ours.fileno())
            except OSError:
                return [(0, 0, 0, "", ("127.0.0.1", 1))]
            return []

        monkeypatch.setattr(socket, "getaddrinfo", look)
        found, _ = Resolution(Lookup("any", 1), 0.0).answer()
        assert found == [pack("127.0.0.1", 1)]
