"""Opening, closing, and the addresses and hop limits that datagrams leave with."""

from __future__ import annotations

import errno
import os
import socket
from typing import Callable

import pytest

from udppunch.address import pack, port
from udppunch.contract import Burst, Endpoint, Route
from udppunch.errors import EX_CANTCREAT, EX_NOPERM, EX_OSERR, EX_UNAVAILABLE, CommandError
from udppunch.net import socketerrors

from .conftest import Bench, receive, route_to

IP_RECVTTL = 12


def test_the_role_learns_the_port(bench: Bench) -> None:
    endpoint = bench.open()
    assert endpoint.local is not None
    assert endpoint.local[:4] == bytes([127, 0, 0, 1])
    assert port(endpoint.local) > 0
    assert bench.role.told == [("start",), ("opened", endpoint)]


def test_a_port_in_use(bench: Bench) -> None:
    taken = bench.peer().getsockname()[1]
    endpoint = bench.open(port=taken)
    reason = (
        f"cannot use 127.0.0.1:{taken}: another process has this port"
        f" ('ss -lunp sport = :{taken}' names it)"
    )
    assert bench.role.named("failed") == [("failed", endpoint, reason)]


def test_an_essential_endpoint_that_fails_ends_the_run(bench: Bench) -> None:
    taken = bench.peer().getsockname()[1]
    bench.outbox.open(Endpoint("main", pack("127.0.0.1", taken), essential=True))
    with pytest.raises(CommandError, match="another process") as caught:
        bench.loop.run()
    assert caught.value.status == EX_CANTCREAT


@pytest.mark.parametrize(
    ("number", "bind", "status", "words"),
    [
        (errno.EACCES, pack("0.0.0.0", 53), EX_NOPERM, "CAP_NET_BIND_SERVICE"),
        (errno.EACCES, pack("0.0.0.0", 5353), EX_NOPERM, "security policy"),
        (errno.EADDRNOTAVAIL, pack("192.0.2.1", 9), EX_CANTCREAT, "192.0.2.1:9: this host has no"),
        (errno.EAFNOSUPPORT, pack("::", 9), EX_CANTCREAT, "no IPv6"),
        (errno.EMFILE, pack("0.0.0.0", 9), EX_OSERR, "LimitNOFILE"),
        (errno.ENETUNREACH, pack("0.0.0.0", 0), EX_UNAVAILABLE, "no route to 192.0.2.9:7"),
        (errno.ENODEV, pack("0.0.0.0", 9), EX_CANTCREAT, "No such device"),
    ],
)
def test_reasons_name_the_thing_and_the_remedy(
    number: int, bind: bytes, status: int, words: str
) -> None:
    endpoint = Endpoint("main", bind, remote=pack("192.0.2.9", 7))  # type: ignore[arg-type]
    error = socketerrors.explain(endpoint, OSError(number, os.strerror(number)))
    assert words in str(error)
    assert error.status == status


def test_what_was_sent_goes_out_before_the_close(bench: Bench) -> None:
    endpoint = bench.open()
    sink = bench.peer()
    bench.outbox.send(route_to(endpoint, sink), b"goodbye")
    bench.outbox.close(endpoint)
    bench.turn()
    assert sink.recv(99) == b"goodbye"
    assert bench.loop._dispatch.sockets == {}


def test_no_burst_comes_of_an_endpoint_once_closed(bench: Bench) -> None:
    endpoint = bench.open()
    peer = bench.peer(to=endpoint)

    def close(burst: Burst) -> None:
        bench.outbox.send(Route(endpoint, burst.source), b"bye")
        bench.outbox.close(endpoint)

    bench.role.on_burst = close
    for number in range(5):
        peer.send(b"%d" % number)
    bench.until(lambda: not bench.loop._dispatch.sockets)
    assert bench.role.datagrams() == [b"0"]
    assert peer.recv(99) == b"bye"


def test_an_endpoint_opens_again_and_routes_follow(bench: Bench) -> None:
    endpoint = bench.open()
    sink = bench.peer()
    route = route_to(endpoint, sink)
    bench.outbox.send(route, b"one")
    bench.outbox.close(endpoint)
    bench.outbox.open(endpoint)
    bench.turn()
    bench.outbox.send(route, b"two")
    bench.turn()
    assert receive(sink, 2) == [b"one", b"two"]
    assert bench.role.named("opened") == [("opened", endpoint)] * 2


def test_closing_withdraws_an_opening(bench: Bench) -> None:
    endpoint = Endpoint("short-lived", pack("127.0.0.1", 0))
    bench.outbox.open(endpoint)
    bench.outbox.close(endpoint)
    bench.turn()
    assert bench.role.named("opened") == []


def test_closing_twice_is_closing_once(bench: Bench) -> None:
    endpoint = bench.open()
    bench.outbox.close(endpoint)
    bench.outbox.close(endpoint)
    bench.turn()
    bench.outbox.close(endpoint)
    bench.turn()
    assert bench.loop._dispatch.sockets == {}


def test_a_connected_endpoint_hears_its_remote_alone(bench: Bench) -> None:
    friend, stranger = bench.peer(), bench.peer()
    endpoint = bench.open(remote=pack(*friend.getsockname()))
    assert endpoint.local is not None
    name = "127.0.0.1", port(endpoint.local)
    stranger.sendto(b"stranger", name)
    friend.sendto(b"friend", name)
    assert bench.hears(1) == [b"friend"]
    bench.outbox.send(Route(endpoint), b"hello")
    bench.turn()
    assert friend.recv(99) == b"hello"


@pytest.mark.parametrize(
    ("wildcard", "asked"), [("0.0.0.0", "127.0.0.2"), ("0.0.0.0", "127.0.0.1"), ("::", "::1")]
)
def test_answers_leave_from_the_address_asked(bench: Bench, wildcard: str, asked: str) -> None:
    bench.echo()
    endpoint = bench.open(ip=wildcard, asked_address=True)
    assert endpoint.local is not None
    peer = bench.peer("::1" if ":" in asked else "127.0.0.1")
    name = asked, port(endpoint.local)
    for number in range(3):
        peer.sendto(b"%d" % number * 500, name)
    bench.hears(3)
    assert {each[3] for each in bench.role.bursts} == {pack(asked, 0)[:-2]}
    for number in range(3):
        data, source = peer.recvfrom(999)
        assert (data, source[:2]) == (b"%d" % number * 500, name)


def test_a_source_address_this_host_lacks_is_counted(bench: Bench) -> None:
    endpoint = bench.open(ip="0.0.0.0", asked_address=True)
    name = bench.peer().getsockname()
    bench.outbox.send(Route(endpoint, pack(*name), source=bytes([192, 0, 2, 77])), b"x")
    bench.turn()
    assert bench.loop.counters["send_dropped"] == 1


@pytest.mark.parametrize("ip", ["127.0.0.1", "::1"])
def test_hop_limit_of_one_datagram(bench: Bench, ip: str) -> None:
    endpoint = bench.open(ip=ip)
    sink = bench.peer(ip)
    if ":" in ip:
        sink.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVHOPLIMIT, 1)
    else:
        sink.setsockopt(socket.IPPROTO_IP, IP_RECVTTL, 1)
    route = route_to(endpoint, sink)
    bench.outbox.send(route, b"before")
    bench.outbox.send(route, b"limited", ttl=3)
    bench.outbox.send(route, b"after")
    bench.turn()
    heard = [sink.recvmsg(99, 64) for _ in range(3)]
    assert [each[0] for each in heard] == [b"before", b"limited", b"after"]
    hops = [int.from_bytes(each[1][0][2][:4], "little") for each in heard]
    assert hops[1] == 3
    assert hops[0] == hops[2] > 3
    assert route.datagrams == 3


def test_ipv6_sockets_take_no_ipv4(bench: Bench) -> None:
    """So that an IPv4 and an IPv6 endpoint can share a port number."""
    first = bench.open(ip="0.0.0.0")
    assert first.local is not None
    second = bench.open("second", ip="::", port=port(first.local))
    assert bench.role.named("opened")[1:] == [("opened", second)]


def test_socket_handed_in(make_bench: Callable[..., Bench]) -> None:
    ready = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    ready.bind(("127.0.0.1", 0))
    bench = make_bench(open_socket=lambda endpoint: ready)
    endpoint = bench.open(ip="0.0.0.0")
    assert endpoint.local == pack(*ready.getsockname())
    bench.peer(to=endpoint).send(b"x")
    assert bench.hears(1) == [b"x"]


def test_a_remote_of_the_other_ip_version(bench: Bench) -> None:
    bench.open(remote=pack("::1", 9))
    ((_, _, reason),) = bench.role.named("failed")
    assert reason.endswith("an IPv4 socket cannot reach an IPv6 address")
