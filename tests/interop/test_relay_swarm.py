"""A relay under udp-relay's load test, with fewer clients than `tests.bench.swarm` has."""

from __future__ import annotations

import contextlib
import functools
import shutil
import signal
from pathlib import Path
from typing import Any, Callable, ContextManager, Dict, Iterator

import pytest

from tests import program
from tests.ports import free_port
from tests.standin.relay import DEFAULT_SECRET, OriginalRelay, popen_with
from tests.standin.swarm import PER_SECOND, compile_swarm, run_swarm

SECRET = b"the secret of the swarm"
CLIENTS = 128
SECONDS = 8

pytestmark = pytest.mark.skipif(not shutil.which("cc"), reason="no C compiler (cc)")


@pytest.fixture(scope="module")
def swarm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_swarm(tmp_path_factory.mktemp("swarm"))


def assert_served(counted: Dict[str, Any], clients: int, seconds: float) -> None:
    """Answered are all but what a busy machine drops, of at least half as many as the swarm sends
    when it has its way."""
    assert counted["unpaired"] == counted["foreign"] == 0, counted
    assert counted["sent"] > clients * seconds * PER_SECOND / 2, counted
    assert counted["answered"] >= 0.97 * counted["sent"], counted


@pytest.fixture
def stand_in() -> Iterator[OriginalRelay]:
    with OriginalRelay(free_port(), secret=SECRET) as relay:
        yield relay


def test_the_swarm_counts_what_is_answered(swarm: Path, stand_in: OriginalRelay) -> None:
    counted = run_swarm(swarm, stand_in.port, clients=64, seconds=2, secret=SECRET)
    assert_served(counted, clients=64, seconds=2)
    assert counted["answered"] == counted["sent"]


def test_the_swarm_counts_what_is_not(swarm: Path, stand_in: OriginalRelay) -> None:
    counted = run_swarm(swarm, stand_in.port, clients=64, seconds=1, secret=DEFAULT_SECRET)
    assert (counted["unpaired"], counted["sent"], counted["answered"]) == (64, 0, 0)


@contextlib.contextmanager
def ours(workers: int) -> Iterator[int]:
    port = free_port()
    relay = program.Program(
        *("relay", f"127.0.0.1:{port}", "--workers", str(workers)), popen=popen_with(SECRET)
    )
    try:
        relay.wait_event("listening")
        yield port
        relay.assert_alive_and_sane()
    finally:
        relay.stop(signal.SIGINT)


@contextlib.contextmanager
def udp_relay() -> Iterator[int]:
    with OriginalRelay(free_port(), secret=SECRET, program=("udp-relay",)) as relay:
        yield relay.port
        relay.assert_alive_and_sane()


UDP_RELAY = pytest.param(
    udp_relay,
    marks=pytest.mark.skipif(not shutil.which("udp-relay"), reason="udp-relay is not on PATH"),
    id="udp-relay",
)
ONE_WORKER = pytest.param(functools.partial(ours, 1), id="ours")
TWO_WORKERS = pytest.param(functools.partial(ours, 2), id="ours-2-workers")


@pytest.mark.parametrize("open_relay", [ONE_WORKER, TWO_WORKERS, UDP_RELAY])
def test_a_relay_serves_the_whole_swarm(
    swarm: Path, open_relay: Callable[[], ContextManager[int]]
) -> None:
    """In its best run of three: what else the machine does can but make the others worse."""
    for runs_left in (2, 1, 0):
        with open_relay() as port:
            counted = run_swarm(swarm, port, clients=CLIENTS, seconds=SECONDS, secret=SECRET)
        print(counted)
        with contextlib.nullcontext() if not runs_left else contextlib.suppress(AssertionError):
            return assert_served(counted, CLIENTS, SECONDS)
