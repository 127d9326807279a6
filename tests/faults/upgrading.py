"""What is upgraded under load, and for how long nothing of its flows arrives.

with relayed(workers=2) as (relay, load, start_up):
    load.gaps.begin()
    upgrade(relay)
    load.wait_sent(100)
    assert_short([load.gaps.longest()], [start_up, *new_starts(relay)])
"""

from __future__ import annotations

import contextlib
import signal
import statistics
import time
from typing import Any, Callable, ContextManager, Dict, Iterator, List, NamedTuple

import pytest

from tests.faults import expose_traffic, relay_traffic
from tests.faults.expose_traffic import ExposerProgram, FarEnd, HelperProgram
from tests.faults.relay_traffic import PATIENCE, RelayProgram
from tests.lab.whole_program import eventually
from tests.program import Program, SocketAddress
from tests.standin.relay import Peer

PER_SECOND = 1000
FLOWS = 16
LONGEST = 1.0  # that may be lost, or held up
FOREVER = ("--idle", "10min", "--drain-timeout", "10min")

of_any_size = pytest.mark.parametrize("workers", [1, 2])


class Gaps:
    """The longest time in which nothing of a flow arrived, from `begin` on."""

    def __init__(self) -> None:
        self._last: Dict[int, float] = {}
        self._longest = 0.0

    def begin(self) -> None:
        self._last = dict.fromkeys(list(self._last), time.monotonic())
        self._longest = 0.0

    def note(self, flow: int) -> None:
        now = time.monotonic()
        self._longest = max(self._longest, now - self._last.get(flow, now))
        self._last[flow] = now

    def longest(self) -> float:
        now = time.monotonic()
        return max([self._longest, *(now - last for last in list(self._last.values()))])


class RelayLoad(relay_traffic.Load):
    def __init__(self, relay: SocketAddress) -> None:
        super().__init__(relay, FLOWS, PER_SECOND)
        self.gaps = Gaps()

    def silent(self) -> int:
        return self.silent_flows()

    def moved(self) -> int:
        return 0

    def _take(self, receiver: Peer, datagram: bytes) -> None:
        super()._take(receiver, datagram)
        self.gaps.note(receiver.socket.fileno())


class ExposeLoad(expose_traffic.Load):
    def __init__(self, helper: SocketAddress, service: FarEnd) -> None:
        super().__init__(helper, service, FLOWS, PER_SECOND)
        self.gaps = Gaps()

    def _hear_answers(self, flow: Any) -> None:
        before = len(flow.answered)
        super()._hear_answers(flow)
        if len(flow.answered) > before:
            self.gaps.note(flow.index)


class Carrying(NamedTuple):
    """A daemon under load, and what it took to start."""

    daemon: RelayProgram
    load: Any
    start_up: float

    def finish(self, lost: int = 0) -> None:
        self.load.finish()
        assert self.load.lost <= lost, f"{self.load.lost} of {self.load.sent}; {self.daemon}"
        assert self.load.silent() == 0 and self.load.moved() == 0, self.daemon
        self.daemon.assert_alive_and_sane()


Kind = Callable[..., ContextManager[Carrying]]


@contextlib.contextmanager
def relayed(workers: int, **more: Any) -> Iterator[Carrying]:
    began = time.monotonic()
    with RelayProgram(*FOREVER, workers=workers, **more) as relay:
        start_up = time.monotonic() - began
        with RelayLoad(relay.address) as load:
            yield Carrying(relay, load, start_up)


@contextlib.contextmanager
def exposed(workers: int, **more: Any) -> Iterator[Carrying]:
    began = time.monotonic()
    with HelperProgram(workers=workers, **more) as helper:
        start_up = time.monotonic() - began
        with (
            FarEnd() as service,
            ExposerProgram(service.address, helper.address),
            ExposeLoad(helper.address, service) as load,
        ):
            yield Carrying(helper, load, start_up)


of_any_kind = pytest.mark.parametrize("kind", [relayed, exposed], ids=["relay", "helper"])
of_two_kinds = pytest.mark.parametrize(
    "kind, workers", [(relayed, 1), (exposed, 2)], ids=["relay-1", "helper-2"]
)


def has_returned(daemon: Program, times: int = 1) -> bool:
    """Whether it listens again, having been replaced so often."""
    names = [event["event"] for event in daemon.events]
    if names.count("replaced") < times:
        return False
    return "listening" in names[len(names) - 1 - names[::-1].index("replaced") :]


def wait_return(daemon: Program, times: int = 1) -> None:
    """Until it listens again, and tells so of all its processes."""
    assert eventually(lambda: has_returned(daemon, times), PATIENCE), daemon
    if isinstance(daemon, RelayProgram):
        expected = daemon.workers + 2 if daemon.workers > 1 else 1
        assert eventually(lambda: len(daemon.pids()) >= expected, PATIENCE), daemon


def upgrade(daemon: Program) -> None:
    times = daemon.count("replaced") + 1
    daemon.process.send_signal(signal.SIGUSR2)
    wait_return(daemon, times)


def new_starts(daemon: Program) -> List[float]:
    """What each program took that has replaced another one, until it listened."""
    taken, since = [], 0.0
    for event in daemon.events:
        if event["event"] == "replaced":
            since = event["time"]
        elif event["event"] == "listening" and since:
            taken.append(event["time"] - since)
            since = 0.0
    return taken


def assert_short(gaps: List[float], started: List[float]) -> None:
    """The best of them shows what an upgrade takes, the others what the machine did besides."""
    told = f"silent for {gaps} s, where to start took {started} s"
    assert min(gaps) <= max(LONGEST, 3 * statistics.median_high(started)), told
    assert max(gaps) <= LONGEST + 2 * max(started), told


def gauges(daemon: RelayProgram) -> int:
    """Of channels or connectees, as many as there are of the load."""
    told = daemon.gauges()
    return told["channels"] if "channels" in told else told["connectees"]
