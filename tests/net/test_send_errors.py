"""Errors cost the datagrams they concern, are counted, and never end a loop.

Those that the kernel raises on request are raised by it, in a network namespace of the test's
own where that takes a firewall or another MTU. The others are injected in place of the call.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import subprocess
from typing import Any, Callable, Dict, Iterator, List

import pytest

from udppunch.address import pack
from udppunch.contract import Endpoint, Route
from udppunch.net import socketerrors, udp
from udppunch.net.socketerrors import Action

from .conftest import Bench, receive, route_to

CLONE_NEWNET = 0x40000000
ERRNOS = [
    "EINTR", "ECONNREFUSED", "EHOSTUNREACH", "EHOSTDOWN", "ENOPROTOOPT", "EIO", "EINVAL",
    "EMSGSIZE", "EAGAIN", "ENOBUFS", "ENOMEM", "EPERM", "EACCES", "ENETUNREACH", "ENETDOWN",
    "EADDRNOTAVAIL", "EPIPE", "ENODEV",
]  # fmt: skip


class FailingSocket(socket.socket):
    """A socket whose next calls fail with the errnos in `failures`."""

    failures: List[int]

    def _fail(self) -> None:
        if self.failures:
            number = self.failures.pop(0)
            raise OSError(number, os.strerror(number))

    def sendto(self, *arguments: Any) -> int:
        self._fail()
        return super().sendto(*arguments)

    def recvmsg_into(self, *arguments: Any) -> Any:
        self._fail()
        return super().recvmsg_into(*arguments)


def open_failing(endpoint: Endpoint) -> socket.socket:
    sock = FailingSocket(fileno=udp.open_socket(endpoint).detach())
    sock.failures = []
    return sock


class FailingCall:
    """In place of sendmmsg or recvmmsg: fails where told to, else calls the real one."""

    def __init__(self, real: Callable[..., int]) -> None:
        self.real = real
        self.at: Dict[int, int] = {}  # number of the call -> errno
        self.calls = 0
        self.most = 1 << 16  # messages that one call takes

    def __call__(self, descriptor: int, at: Any, count: int, *more: Any) -> int:
        self.calls += 1
        if self.calls in self.at:
            ctypes.set_errno(self.at[self.calls])
            return -1
        return self.real(descriptor, at, min(count, self.most), *more)


def fail_sends(bench: Bench) -> FailingCall:
    sender: Any = bench.loop._dispatch._sender
    sender._sendmmsg = FailingCall(sender._sendmmsg)
    return sender._sendmmsg  # type: ignore[no-any-return]


def fail_receives(bench: Bench) -> FailingCall:
    receiver: Any = bench.loop._receiver
    receiver._recvmmsg = FailingCall(receiver._recvmmsg)
    return receiver._recvmmsg  # type: ignore[no-any-return]


def sock_of(bench: Bench, endpoint: Endpoint) -> FailingSocket:
    sock = bench.loop._dispatch.sockets[endpoint].sock
    assert isinstance(sock, FailingSocket)
    return sock


@pytest.mark.parametrize("name", ERRNOS)
def test_each_errno_of_one_send(make_bench: Callable[..., Bench], name: str) -> None:
    number = getattr(errno, name)
    for batched in (True, False):
        bench = make_bench(batched=batched, open_socket=open_failing)
        endpoint = bench.open()
        sink = bench.peer()
        route = route_to(endpoint, sink)
        sock_of(bench, endpoint).failures[:] = [number, number]
        bench.outbox.send(route, b"lost")
        bench.turn()
        sock_of(bench, endpoint).failures.clear()
        bench.outbox.send(route, b"kept")
        bench.turn()
        assert sink.recv(99) == b"kept"
        assert bench.loop.counters[f"send_{name}"] == 1
        assert bench.loop.counters["send_dropped"] == 1
        assert (route.datagrams, route.octets) == (1, 4)


@pytest.mark.parametrize("name", ERRNOS)
def test_each_errno_in_the_midst_of_a_batch(batched: Bench, name: str) -> None:
    endpoint = batched.open()
    sinks = [batched.peer() for _ in range(3)]
    routes = [route_to(endpoint, sink) for sink in sinks]
    failing = fail_sends(batched)
    failing.most = 1
    failing.at = {2: getattr(errno, name), 3: getattr(errno, name)}
    for route in routes:
        batched.outbox.send(route, b"x")
    batched.turn()
    once_more = socketerrors.action(getattr(errno, name)) in (Action.RETRY, Action.REFUSED)
    lost = 1 if once_more else 2
    assert batched.loop.counters["send_dropped"] == lost
    assert [route.datagrams for route in routes] == [1, 0, 1] if lost == 1 else [1, 0, 0]
    assert sinks[0].recv(99) == b"x"
    if lost == 1:
        assert sinks[2].recv(99) == b"x"


@pytest.mark.parametrize("name", ERRNOS)
def test_each_errno_of_a_receive(make_bench: Callable[..., Bench], name: str) -> None:
    number = getattr(errno, name)
    for batched in (True, False):
        bench = make_bench(batched=batched, open_socket=open_failing)
        peer = bench.peer(to=bench.open())
        if batched:
            fail_receives(bench).at = {1: number}
        else:
            sock_of(bench, bench.role.named("opened")[0][1]).failures.append(number)
        peer.send(b"kept")
        assert bench.hears(1) == [b"kept"]


@pytest.mark.parametrize("name", ["EBADF", "ENOTSOCK"])
def test_what_is_no_socket_ends_the_process(make_bench: Callable[..., Bench], name: str) -> None:
    bench = make_bench(open_socket=open_failing)
    endpoint = bench.open()
    sock_of(bench, endpoint).failures.append(getattr(errno, name))
    bench.outbox.send(route_to(endpoint, bench.peer()), b"x")
    with pytest.raises(OSError, match=name):
        bench.turn()


def test_a_call_that_sends_some_is_followed_by_another(batched: Bench) -> None:
    endpoint = batched.open()
    sinks = [batched.peer() for _ in range(9)]
    failing = fail_sends(batched)
    failing.most = 2
    for sink in sinks:
        batched.outbox.send(route_to(endpoint, sink), b"x")
    batched.turn()
    assert [sink.recv(9) for sink in sinks] == [b"x"] * 9
    assert failing.calls == 5


def train(bench: Bench, route: Route, count: int = 4, size: int = 1600) -> List[bytes]:
    sent = [b"%d" % number * size for number in range(count)]
    for each in sent:
        bench.outbox.send(route, each)
    bench.turn()
    return sent


@pytest.mark.parametrize("name", ["EIO", "EINVAL", "EMSGSIZE"])
def test_a_refused_train_goes_singly(batched: Bench, name: str) -> None:
    endpoint = batched.open()
    sink = batched.peer()
    route = route_to(endpoint, sink)
    failing = fail_sends(batched)
    failing.at = {1: getattr(errno, name)}
    assert train(batched, route) == receive(sink, 4)
    assert route.datagrams == 4
    assert batched.loop.counters["send_dropped"] == 0
    # And it was learnt: the next train is not tried as one.
    sink.setsockopt(17, 104, 1)
    train(batched, route)
    assert len(sink.recv(1 << 16)) == 1600


def test_a_kernel_without_segmentation_is_said_once(
    batched: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    endpoint = batched.open()
    sink, other = batched.peer(), batched.peer()
    failing = fail_sends(batched)
    failing.at = {1: errno.EIO}
    assert train(batched, route_to(endpoint, sink)) == receive(sink, 4)
    assert train(batched, route_to(endpoint, other)) == receive(other, 4)
    assert failing.calls == 2
    said = [each for each in caplog.messages if "segmented" in each]
    assert said == ["local: the kernel refuses segmented sends; going without"]


def test_an_invalid_destination_teaches_nothing(batched: Bench) -> None:
    endpoint = batched.open()
    route = Route(endpoint, pack("127.0.0.1", 0))
    train(batched, route, size=100)
    assert batched.loop.counters["send_EINVAL"] == 4
    assert route.datagrams == 0
    assert route.prepared.largest >= 1000


def test_refused_is_told_and_the_datagram_sent_all_the_same(bench: Bench) -> None:
    gone = bench.peer()
    name = gone.getsockname()
    endpoint = bench.open(remote=pack(*name))
    route = Route(endpoint)
    gone.close()
    bench.outbox.send(route, b"to nobody")
    bench.turn()
    # The kernel holds the error; the datagram that meets it is sent again, and arrives.
    returned = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    bench.sockets.append(returned)
    returned.settimeout(2)
    returned.bind(name)
    bench.outbox.send(route, b"to somebody")
    bench.until(lambda: bool(bench.role.named("refused")))
    assert returned.recv(99) == b"to somebody"
    assert bench.role.named("refused") == [("refused", endpoint)]
    assert bench.loop.counters["refused_ECONNREFUSED"] >= 1
    assert bench.loop.counters["send_dropped"] == 0


def test_an_unconnected_endpoint_hears_of_no_refusal(bench: Bench) -> None:
    endpoint = bench.open()
    gone = bench.peer()
    route = route_to(endpoint, gone)
    gone.close()
    for _ in range(3):
        bench.outbox.send(route, b"x")
        bench.turn()
    assert bench.role.named("refused") == []
    assert route.datagrams == 3


def test_repeated_trouble_is_logged_once_a_minute(
    make_bench: Callable[..., Bench], caplog: pytest.LogCaptureFixture
) -> None:
    clock = [100.0]
    bench = make_bench(clock=lambda: clock[0])
    bench.role.guard = lambda: clock[0]
    route = Route(bench.open("relay"), pack("127.0.0.1", 0))

    def fail(times: int) -> List[str]:
        for _ in range(times):
            bench.outbox.send(route, b"x")
            bench.turn()
        return [each for each in caplog.messages if "EINVAL" in each]

    assert fail(5) == ["relay: cannot send (EINVAL)"]
    clock[0] += 61
    assert fail(1)[1:] == ["relay: cannot send (EINVAL) (5 times)"]


def run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True, timeout=10)


def enter(name: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = os.open(name, os.O_RDONLY)
    try:
        if libc.setns(descriptor, CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")
    finally:
        os.close(descriptor)


class Namespace:
    """A network of the test's own. A socket stays in the one it was made in."""

    def __init__(self) -> None:
        self.name = f"udppunch-net-{os.getpid()}"

    def __enter__(self) -> Namespace:
        run("ip", "netns", "add", self.name)
        return self

    def __exit__(self, *_: Any) -> None:
        run("ip", "netns", "del", self.name)

    def run(self, *words: str) -> None:
        run("ip", "netns", "exec", self.name, *words)

    def make(self, socket_maker: Callable[..., Any], *arguments: Any) -> Any:
        home = f"/proc/self/task/{os.getpid()}/ns/net"
        with open(home, "rb") as here:
            enter(f"/run/netns/{self.name}")
            try:
                return socket_maker(*arguments)
            finally:
                enter(f"/proc/self/fd/{here.fileno()}")


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        pytest.skip("needs root for a network namespace")
    with Namespace() as made:
        yield made


def test_segments_above_the_mtu(namespace: Namespace, make_bench: Callable[..., Bench]) -> None:
    namespace.run("ip", "link", "set", "lo", "up", "mtu", "1500")
    bench = make_bench(open_socket=lambda each: namespace.make(udp.open_socket, each))
    endpoint = bench.open()
    sink = namespace.make(bench.peer)
    route = route_to(endpoint, sink)
    assert train(bench, route, size=1600) == receive(sink, 4)
    assert bench.loop.counters["send_dropped"] == 0
    assert route.prepared.largest == 1599
    assert train(bench, route, size=1400) == receive(sink, 4)
    assert route.prepared.largest == 1599


def test_own_firewall(namespace: Namespace, make_bench: Callable[..., Bench]) -> None:
    namespace.run("ip", "link", "set", "lo", "up")
    namespace.run("nft", "add table inet t")
    namespace.run("nft", "add chain inet t o { type filter hook output priority 0 ; }")
    namespace.run("nft", "add rule inet t o udp dport 7 drop")
    bench = make_bench(open_socket=lambda each: namespace.make(udp.open_socket, each))
    endpoint = bench.open()
    sink = namespace.make(bench.peer)
    forbidden, allowed = Route(endpoint, pack("127.0.0.1", 7)), route_to(endpoint, sink)
    for number in range(5):
        bench.outbox.send(forbidden, b"x")
        bench.outbox.send(allowed, b"%d" % number)
    bench.turn()
    assert receive(sink, 5) == [b"0", b"1", b"2", b"3", b"4"]
    assert bench.loop.counters["send_EPERM"] == 5
    assert (forbidden.datagrams, allowed.datagrams) == (0, 5)


def test_no_route(namespace: Namespace, make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(open_socket=lambda each: namespace.make(udp.open_socket, each))
    endpoint = bench.open(ip="0.0.0.0")
    bench.outbox.send(Route(endpoint, pack("192.0.2.1", 9)), b"x")
    bench.turn()
    assert bench.loop.counters["send_ENETUNREACH"] == 1
