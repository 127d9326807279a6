"""What services, and whoever runs a helper, are told of connectees; and services by their name."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import signal
import socket
import struct
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Tuple

import pytest

from tests.faults.expose_ends import (
    KEY,
    WRONG,
    PlayedExposer,
    Spoofer,
    loopback_addresses,
    send_train,
    wait_published,
)
from tests.faults.expose_traffic import PASSWORD, ExposerProgram, FarEnd, HelperProgram, Load
from tests.faults.relay_traffic import PATIENCE
from tests.lab.whole_program import eventually
from tests.ports import free_port
from tests.program import SocketAddress, text
from tests.standin.expose import Connectee, Endpoint

Asking = Callable[[Connectee, int], None]

of_any_size = pytest.mark.parametrize("workers", [1, 2])

LIVE = 8


# --- who used it -------------------------------------------------------------------------


def _records(file: Path, event: str) -> List[Dict[str, Any]]:
    """The lines of an access log that are of that event. No line is anything else."""
    said = file.read_text() if file.exists() else ""
    assert said.isascii() and said.replace("\n", "").isprintable()
    records = [json.loads(line) for line in said.splitlines()]
    assert {record["event"] for record in records} <= {"came", "left"}
    return [record for record in records if record["event"] == event]


@contextlib.contextmanager
def _echoing(*options: str, workers: int = 2) -> Iterator[Tuple[HelperProgram, Asking]]:
    """A helper, and how a connectee asks once and is answered, twice as much."""
    with (
        HelperProgram(*options, workers=workers) as helper,
        Endpoint() as service,
        ExposerProgram(service.address, helper.address),
    ):

        def ask(connectee: Connectee, length: int) -> None:
            said = connectee.send(os.urandom(length))
            datagram, source = service.receive_from()
            assert datagram == said
            service.send_to(source, said * 2)
            assert connectee.receive() == said * 2

        wait_published(helper.address, service)
        yield helper, ask


@of_any_size
def test_access_log(workers: int, tmp_path: Path) -> None:
    """Who came, and with how much he left; in a new file when the old one was moved away."""
    file, moved = tmp_path / "access.log", tmp_path / "access.log.1"
    with contextlib.ExitStack() as opened:
        echoing = _echoing("--transparent-log", str(file), workers=workers)
        helper, ask = opened.enter_context(echoing)
        before = helper.wait_counted("datagrams", 8)
        connectees = [opened.enter_context(Connectee(helper.address)) for _ in range(20)]
        names = [text(connectee.address) for connectee in connectees]
        for number, connectee in enumerate(connectees, 1):
            for length in range(1, number + 1):
                ask(connectee, length)
            if number == 10:
                file.rename(moved)
        # Once a second each worker tells the others what it has sent to their connectees.
        helper.wait_counted("datagrams", before + 2 * 210)
        helper.process.send_signal(signal.SIGTERM)
        assert helper.wait_exit() == 0 and not helper.output
        came = {record["connectee"]: record for record in _records(moved, "came")}
        assert came.keys() & set(names) == set(names[:10])
        later = {record["connectee"]: record for record in _records(file, "came")}
        assert list(later) == names[10:]
        left = {record["connectee"]: record for record in _records(file, "left")}
        for number, name in enumerate(names, 1):
            told, octets = left[name], number * (number + 1) // 2
            assert told["tag"] == {**came, **later}[name]["tag"] and 0 <= told["seconds"] < 60
            assert (told["from_datagrams"], told["from_octets"]) == (number, octets)
            assert (told["to_datagrams"], told["to_octets"]) == (number, 2 * octets)
            assert f"{octets} bytes in {number} datagrams from it" in told["message"]


def test_strangers_do_not_fill_an_access_log(tmp_path: Path) -> None:
    file = tmp_path / "access.log"
    with _echoing("--transparent-log", str(file)) as (helper, ask):
        with Connectee(helper.address) as connectee, Spoofer(helper.address) as spoofer:
            ask(connectee, 5)
            begun = time.monotonic()
            spoofer.flood(loopback_addresses(10_000), itertools.repeat(b"hello"), 8000)
            helper.wait_counted("connectees new", 9000)
            helper.process.send_signal(signal.SIGTERM)
            assert helper.wait_exit() == 0
            lines = len(file.read_text().splitlines())
            assert lines <= 2 * (100 + 10 * (time.monotonic() - begun)) + 2
            (record,) = (r for r in _records(file, "left") if r["to_octets"])
            assert record["connectee"] == text(connectee.address)


@pytest.mark.parametrize("workers, trouble", [(1, "gone"), (2, "full")])
def test_an_access_log_that_cannot_be_written(workers: int, trouble: str, tmp_path: Path) -> None:
    """Whoever comes is served; and told of, once it can be."""
    folder = tmp_path / "log"
    folder.mkdir()
    file = folder / "access.log"
    if trouble == "full":
        file.symlink_to("/dev/full")
    with contextlib.ExitStack() as opened:
        options = ("--transparent-log", str(file), "--idle", "1s")
        helper, ask = opened.enter_context(_echoing(*options, workers=workers))
        if trouble == "gone":
            folder.rename(tmp_path / "elsewhere")
        connectees = [opened.enter_context(Connectee(helper.address)) for _ in range(16)]
        for connectee in connectees[:8]:
            ask(connectee, 5)
        assert eventually(lambda: helper.gauges()["connectees"] == 0, PATIENCE), helper
        said = helper.wait_event("transparent-log")["message"]
        assert str(file) in said and "cannot be written: No " in said
        if trouble == "gone":
            folder.mkdir()
        else:
            file.unlink()
        for connectee in connectees[8:]:
            ask(connectee, 5)
        # A worker whose file cannot be closed for what is left to be written loses a line more.
        lost = workers if trouble == "full" else 0
        assert 8 - lost <= len(_records(file, "came")) <= 8, helper
        again = helper.wait_event("transparent-log", count=helper.count("transparent-log"))
        assert "is written again" in again["message"], helper
        assert helper.count("transparent-log") <= 2 * workers
        assert not helper.counters().get("role_errors") and not helper.count("restart"), helper
        helper.assert_alive_and_sane()
        shutil.rmtree(folder)
        helper.process.send_signal(signal.SIGTERM)
        assert helper.wait_exit() == 0 and not helper.output


# --- what the service is told ------------------------------------------------------------


@pytest.mark.parametrize(
    "listen, asked",
    [
        ("127.0.0.1", "127.0.0.1"),
        ("[::1]", "::1"),
        ("[::]", "::1"),
        ("[::]", "127.0.0.1"),
        ("0.0.0.0", "127.0.0.5"),
    ],
)
def test_proxy_protocol(listen: str, asked: str) -> None:
    """In front of each datagram, of a train too; the answers have none."""
    port = free_port()
    near = "[::1]" if "::" in listen else "127.0.0.1"
    loopback = "::1" if ":" in asked else "127.0.0.1"
    options = ("--proxy-protocol", "v2")
    with (
        HelperProgram(*options, listen=f"{listen}:{port}", password=PASSWORD),
        Endpoint() as service,
        ExposerProgram(service.address, f"{near}:{port}", password=PASSWORD),
        Connectee((asked, port), (loopback, 0)) as connectee,
    ):
        wait_published((asked, port), service)
        said = [b"first", b"", *[os.urandom(100) for _ in range(5)]]
        for datagram in said[:2]:
            connectee.send(datagram)
        send_train(connectee.socket, (asked, port), said[2:])
        heard = [service.receive_from() for _ in said]
        assert len({source for _, source in heard}) == 1
        head = _proxy_header(connectee.address, (asked, port))
        assert [datagram for datagram, _ in heard] == [head + datagram for datagram in said]
        service.send_to(heard[0][1], b"answer")
        assert connectee.receive() == b"answer"


def _proxy_header(source: SocketAddress, destination: SocketAddress) -> bytes:
    """As the PROXY protocol's specification has it, version 2, for datagrams."""
    family = socket.AF_INET6 if ":" in source[0] else socket.AF_INET
    ends = [socket.inet_pton(family, end[0]) for end in (source, destination)]
    ports = struct.pack(">HH", source[1], destination[1])
    body = b"".join(ends) + ports
    kind = 0x22 if family == socket.AF_INET6 else 0x12
    signature = b"\r\n\r\n\0\r\nQUIT\n"
    return signature + struct.pack(">BBH", 0x21, kind, len(body)) + body


# --- several services --------------------------------------------------------------------


def test_services_by_name() -> None:
    """Each has its port, its exposer and its connectees; who claims another is refused."""
    ports = {"": free_port(), "web": free_port(), "game": free_port()}
    default = f"127.0.0.1:{ports['']}"
    names = ",".join(f"{name}=127.0.0.1:{ports[name]}" for name in ("web", "game"))
    with contextlib.ExitStack() as opened:
        program = HelperProgram("--name", names, password=PASSWORD, listen=default)
        helper = opened.enter_context(program)
        for name, port in ports.items():
            named = ("--name", name) if name else ()
            service = opened.enter_context(FarEnd())
            exposer = ExposerProgram(service.address, default, *named, password=PASSWORD)
            opened.enter_context(exposer)
            load = opened.enter_context(Load(("127.0.0.1", port), service, LIVE, 200))
            load.finish()
            assert load.lost == 0 and len(load.ends()) == LIVE
        assert helper.gauges() == {"exposers": 3, "connectees": 3 * LIVE}
        with Endpoint() as nobodys, PlayedExposer(("127.0.0.1", ports["web"])) as astray:
            wrong = (nobodys.address, default, "--keepalive", "1s")
            other = ExposerProgram(*wrong, "--name", "other", unanswered=PASSWORD)
            stranger = ExposerProgram(*wrong, "--name", "web", unanswered=WRONG)
            with other, stranger:
                astray.say(None, KEY, "web")
                for refused in (other, stranger):
                    refused.wait_event("silent")
                    refused.wait_counted("keepalives", 5)
                    assert refused.count("silent") == 1 and not refused.count("registered")
            assert astray.has_nothing() and nobodys.has_nothing()
        assert helper.count("unknown-name") == 1
        assert helper.counters()["exposers changed"] == 3
        helper.assert_alive_and_sane()
