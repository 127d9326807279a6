"""When a loop calls its roles, and what their errors cost."""

from __future__ import annotations

import logging
import os
from typing import Any, Callable, List

import pytest

from udppunch.address import pack
from udppunch.contract import Burst, Endpoint, Route
from udppunch.errors import CommandError
from udppunch.net import clock

from .conftest import Bench, Recorder, receive, route_to


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clocked(make_bench: Callable[..., Bench]) -> Bench:
    """A loop by a clock that stands still; turns do not sleep, for `guard` is always due."""
    bench = make_bench(clock=Clock())
    bench.role.guard = lambda: None
    wake, awake = os.pipe()
    os.write(awake, b"x")
    bench.loop.watch(wake, lambda: None)
    return bench


def pass_time(bench: Bench, seconds: float) -> None:
    bench.now.now += seconds  # type: ignore[attr-defined]


def test_expire_comes_when_due_and_once(clocked: Bench) -> None:
    clocked.turn()
    clocked.role.due = 1005.0
    pass_time(clocked, 4.9)
    clocked.turn()
    assert clocked.role.named("expire") == []
    pass_time(clocked, 0.1)
    clocked.turn()
    clocked.turn()
    assert clocked.role.named("expire") == [("expire", 1005.0)]


def test_sleep_lasts_until_the_nearest_deadline(clocked: Bench) -> None:
    clocked.turn()
    other = Recorder(clocked.loop.outbox())
    clocked.loop.add(other, other.outbox)  # type: ignore[arg-type]
    clocked.turn()
    assert clocked.loop._patience() is None
    clocked.role.due, other.due = 1009.0, 1004.0
    assert clocked.loop._patience() == 4.0
    pass_time(clocked, 30)
    assert clocked.loop._patience() == 0.0


def test_what_expire_sends_goes_out_in_the_same_turn(bench: Bench) -> None:
    endpoint = bench.open()
    sink = bench.peer()

    class Sender(Recorder):
        def expire(self, now: float) -> None:
            super().expire(now)
            self.outbox.send(route_to(endpoint, sink), b"tick")

    outbox = bench.loop.outbox()
    sender = Sender(outbox)
    sender.due = 0.0
    bench.loop.add(sender, outbox)
    bench.turn()
    assert sink.recv(9) == b"tick"


def test_each_role_hears_of_its_own_endpoints(bench: Bench) -> None:
    mine = bench.open("mine")
    outbox = bench.loop.outbox()
    theirs = Endpoint("theirs", pack("127.0.0.1", 0))
    other = Recorder(outbox, [theirs])
    bench.loop.add(other, outbox)
    bench.until(lambda: theirs.local is not None)
    bench.peer(to=mine).send(b"for me")
    bench.peer(to=theirs).send(b"for them")
    bench.until(lambda: bool(bench.role.bursts) and bool(other.bursts))
    assert bench.role.datagrams() == [b"for me"]
    assert other.datagrams() == [b"for them"]
    assert other.told == [("start",), ("opened", theirs)]


def test_requests_are_answered_after_the_call_that_made_them(bench: Bench) -> None:
    inside: List[bool] = []

    class Asking(Recorder):
        def start(self, now: float) -> None:
            inside.append(True)
            self.outbox.open(Endpoint("asked", pack("127.0.0.1", 0)))
            inside.pop()

        def opened(self, endpoint: Endpoint, now: float) -> None:
            super().opened(endpoint, now)
            assert not inside

    outbox = bench.loop.outbox()
    asking = Asking(outbox)
    bench.loop.add(asking, outbox)
    bench.until(lambda: bool(asking.named("opened")))


def test_a_role_that_asks_for_ever_leaves_the_others_their_turn(bench: Bench) -> None:
    taken = bench.peer().getsockname()[1]

    class Stubborn(Recorder):
        def failed(self, endpoint: Endpoint, reason: str, now: float) -> None:
            self.outbox.open(endpoint)

    outbox = bench.loop.outbox()
    bench.loop.add(Stubborn(outbox, [Endpoint("taken", pack("127.0.0.1", taken))]), outbox)
    bench.peer(to=bench.open()).send(b"still served")
    assert bench.hears(1) == [b"still served"]


def fail_on(bench: Bench, bad: bytes, error: Exception) -> None:
    def fail(burst: Burst) -> None:
        if bytes(burst.view) == bad:
            raise error

    bench.role.on_burst = fail


def test_an_error_of_ours_costs_one_datagram(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "udppunch.net")
    peer = bench.peer(to=bench.open("relay"))
    fail_on(bench, b"bad", KeyError("secret"))
    for data in (b"1", b"bad", b"2", b"bad", b"3"):
        peer.send(data)
    assert bench.hears(5)[-1] == b"3"
    assert bench.loop.counters["role_errors"] == 2
    (record,) = [each for each in caplog.records if each.name == "udppunch.net"]
    assert record.levelno == logging.ERROR
    assert "KeyError" in record.getMessage()
    assert "secret" not in record.getMessage()
    assert record.exc_info is None


def test_the_traceback_is_for_debugging(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "udppunch.net")
    peer = bench.peer(to=bench.open("relay"))
    fail_on(bench, b"bad", KeyError("x"))
    peer.send(b"bad")
    bench.hears(1)
    assert [each.levelname for each in caplog.records if each.exc_info] == ["DEBUG"]


def test_a_role_may_end_the_command(bench: Bench) -> None:
    peer = bench.peer(to=bench.open())
    fail_on(bench, b"bad", CommandError("the key is wrong", 77))
    peer.send(b"bad")
    with pytest.raises(CommandError, match="the key is wrong"):
        bench.hears(1)


def test_readers_are_called(bench: Bench) -> None:
    heard, end = os.pipe()
    called: List[bytes] = []
    bench.loop.watch(heard, lambda: called.append(os.read(heard, 9)))
    os.write(end, b"SIG")
    bench.until(lambda: bool(called))
    bench.loop.unwatch(heard)
    os.write(end, b"more")
    bench.turn()
    assert called == [b"SIG"]
    os.close(heard)
    os.close(end)


def test_stopping_says_goodbye_and_closes(bench: Bench) -> None:
    endpoint = bench.open()
    sink = bench.peer()

    class Polite(Recorder):
        def stop(self, now: float) -> None:
            super().stop(now)
            self.outbox.send(route_to(endpoint, sink), b"goodbye")

    outbox = bench.loop.outbox()
    polite = Polite(outbox)
    bench.loop.add(polite, outbox)
    wake, end = os.pipe()
    bench.loop.watch(wake, bench.loop.stop)
    os.write(end, b"x")
    bench.loop.run()
    assert sink.recv(99) == b"goodbye"
    assert bench.role.named("stop") == polite.named("stop") == [("stop",)]
    assert bench.loop._dispatch.sockets == {}
    os.close(wake)
    os.close(end)


def test_a_flush_within_a_batch_loses_nothing(bench: Bench) -> None:
    """Own datagrams beyond the scratch area make it flush while bursts are still to come."""
    endpoint = bench.open()
    peer = bench.peer(to=endpoint)
    route = route_to(endpoint, peer)

    def answer_at_length(burst: Burst) -> None:
        bench.outbox.forward(route, burst)
        bench.outbox.send(route, bytes(burst.view) * 6000)

    bench.role.on_burst = answer_at_length
    sent = [b"%08d" % number for number in range(40)]
    for start in range(0, 40, 10):
        for each in sent[start : start + 10]:
            peer.send(each)
        bench.hears(start + 10)
        heard = receive(peer, 20)
        assert heard[::2] == sent[start : start + 10]
        assert heard[1::2] == [each * 6000 for each in sent[start : start + 10]]


def test_clocks_advance() -> None:
    for each in (clock.monotonic, clock.boot_time):
        first: Any = each()
        assert each() >= first > 0


def test_routes_are_shared_by_no_two_flushes(bench: Bench) -> None:
    """A route is left clean by a flush, whether or not anything was sent."""
    unopened = Endpoint("unopened", pack("127.0.0.1", 0))
    route = Route(unopened, pack("127.0.0.1", 9))
    bench.outbox.send(route, b"x")
    bench.turn()
    assert route.pending is None
