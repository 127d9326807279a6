"""Metrics over HTTP: what Prometheus reads, and what those get who ask for something else."""

from __future__ import annotations

import base64
import contextlib
import http.client
import os
import socket
from pathlib import Path
from typing import Any, Dict, Iterator, List, Tuple

import pytest
import yaml

from tests import program
from tests.faults.relay_traffic import PATIENCE, SECRET, Load, RelayProgram, join, new_guid, pair_at
from tests.lab.whole_program import eventually
from tests.ports import free_port
from tests.program import Program
from tests.standin.relay import Peer, handshake

pytest.importorskip("h11")
parser = pytest.importorskip("prometheus_client.parser")

of_any_size = pytest.mark.parametrize("workers", [1, 2])

Sample = Tuple[str, Tuple[Tuple[str, str], ...]]


class Measured(RelayProgram):
    """A relay with metrics."""

    def __init__(self, *options: str, **more: Any) -> None:
        self.metrics = ("127.0.0.1", free_port())
        super().__init__("--metrics", program.text(self.metrics), *options, **more)

    def get(self, path: str = "/metrics", method: str = "GET") -> http.client.HTTPResponse:
        """With its body read, where it has one."""
        connection = http.client.HTTPConnection(*self.metrics, timeout=PATIENCE)
        with contextlib.closing(connection):
            connection.request(method, path)
            response = connection.getresponse()
            response.body = response.read()  # type: ignore[attr-defined]
            return response

    def samples(self) -> Dict[Sample, float]:
        """By name and labels. Fails for what is not Prometheus's text format."""
        return parsed(self.get().body.decode())  # type: ignore[attr-defined]

    def say(self, said: bytes) -> bytes:
        """All that is answered to it."""
        with self.connected() as asking, asking.makefile("rb") as answer:
            with contextlib.suppress(OSError):
                asking.sendall(said)
                asking.shutdown(socket.SHUT_WR)
            try:
                return answer.read()
            except ConnectionError:
                return b""

    def connected(self) -> socket.socket:
        return socket.create_connection(self.metrics, PATIENCE)


def parsed(text: str) -> Dict[Sample, float]:
    samples: Dict[Sample, float] = {}
    families = list(parser.text_string_to_metric_families(text))
    assert len({family.name for family in families}) == len(families), "a family comes twice"
    for family in families:
        assert family.documentation and family.type in ("counter", "gauge"), family
        for sample in family.samples:
            key = sample.name, tuple(sorted(sample.labels.items()))
            assert key not in samples, f"{key} comes twice"
            samples[key] = sample.value
    assert text.endswith("\n")
    return samples


def of_relay(name: str, **labels: str) -> Sample:
    return f"udppunch_{name}", tuple(sorted({"role": "relay", **labels}.items()))


@pytest.fixture(scope="module", params=[1, 2], ids=["1 worker", "2 workers"])
def relay(request: pytest.FixtureRequest) -> Iterator[Measured]:
    with Measured(workers=request.param) as running:
        yield running
        running.assert_alive_and_sane()
        assert not running.count("restart"), running


# --- what Prometheus reads ---------------------------------------------------------------


def test_what_is_counted(relay: Measured) -> None:
    before = relay.samples()
    one, other = pair_at(relay)
    for _ in range(10):
        said = one.send(bytes(100))
        assert other.receive() == said
    with Peer(relay.address) as stranger:
        for _ in range(7):
            stranger.send(b"payload")
            stranger.handshake(new_guid(), b"another secret")
        wrong_macs = of_relay("dropped_total", reason="wrong mac")

        def all_told() -> bool:
            after = relay.samples()
            return after.get(wrong_macs, 0.0) == before.get(wrong_macs, 0.0) + 7

        assert eventually(all_told, PATIENCE), relay.samples()
    assert eventually(lambda: grown(relay, before, "octets_total") >= 1000, PATIENCE)
    assert grown(relay, before, "datagrams_total") >= 10
    assert grown(relay, before, "channels_opened_total") == 1
    assert grown(relay, before, "dropped_total", reason="unknown source") == 7
    assert grown(relay, before, "handshakes_total", result="joined") == 1
    after = relay.samples()
    assert after[of_relay("channels")] == before[of_relay("channels")] + 1


def grown(relay: Measured, before: Dict[Sample, float], name: str, **labels: str) -> float:
    key = of_relay(name, **labels)
    return relay.samples().get(key, 0.0) - before.get(key, 0.0)


def test_each_process(relay: Measured) -> None:
    samples = relay.samples()
    for name in relay.pids():
        label = (("process", name),)
        assert samples["udppunch_process_resident_memory_bytes", label] > 1 << 20
        assert samples["udppunch_process_cpu_seconds_total", label] >= 0


def test_nothing_that_is_secret_or_personal(relay: Measured) -> None:
    """No guid, no secret, no address of a peer, in whatever form."""
    guid = new_guid()
    with Peer(relay.address) as one, Peer(relay.address) as other:
        for peer in (one, other):
            peer.handshake(guid, SECRET)
        assert eventually(lambda: relay.gauges()["channels"] > 0, PATIENCE)
        text = relay.get().body.decode()  # type: ignore[attr-defined]
        ports = [str(peer.socket.getsockname()[1]) for peer in (one, other)]
    for secret in (guid, SECRET):
        assert secret.hex() not in text.lower()
        assert base64.b64encode(secret).decode().strip("=") not in text
    assert not any(port in text for port in ports) and "127.0.0.1" not in text


@of_any_size
def test_several_relays(workers: int, tmp_path: Path) -> None:
    """Of one daemon: no series comes twice, and no relay's channels are left out."""
    ports = [free_port(), free_port()]
    roles = [{"relay": {"listen": f"127.0.0.1:{port}", "workers": workers}} for port in ports]
    file = tmp_path / "relays.yaml"
    file.write_text(yaml.safe_dump({"roles": roles}))
    with Measured(workers=workers, secret=None, command=("run", str(file))) as relay:
        for port in (ports[0], ports[1], ports[1]):
            join(relay.open_peer(port), relay.open_peer(port), new_guid())
        assert eventually(lambda: summed(relay.samples(), "udppunch_channels") == 3, PATIENCE)
        samples = relay.samples()
        assert summed(samples, "udppunch_channels_opened_total") == 3


def summed(samples: Dict[Sample, float], name: str) -> float:
    return sum(value for key, value in samples.items() if key[0] == name)


# --- what others get ---------------------------------------------------------------------


def test_answers(relay: Measured) -> None:
    found = relay.get()
    assert found.status == 200
    assert found.getheader("Content-Type") == "text/plain; version=0.0.4; charset=utf-8"
    assert relay.get("/metrics?format=text").status == 200
    head = relay.get(method="HEAD")
    assert head.status == 200 and head.body == b""  # type: ignore[attr-defined]
    assert int(head.getheader("Content-Length", "0")) > 100
    for path in ("/", "/metrics/", "/metricsandmore", "/../metrics", "*", "/%6d"):
        assert relay.get(path).status == 404
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH", "LOCK"):
        assert relay.get(method=method).status == 405


def test_old_and_terse_clients(relay: Measured) -> None:
    for request in (b"GET /metrics HTTP/1.0\r\n\r\n", b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"):
        head, _, body = relay.say(request).partition(b"\r\n\r\n")
        assert b" 200 " in head.split(b"\r\n")[0]
        assert parsed(body.decode())


GARBAGE = {
    "nothing": b"",
    "noise": bytes(range(128, 256)) * 4,
    "nul": bytes(1000),
    "a newline": b"\n",
    "many newlines": b"\r\n" * 500,
    "half a request": b"GET /met",
    "no version": b"GET /metrics\r\n\r\n",
    "no host": b"GET /metrics HTTP/1.1\r\n\r\n",
    "no path": b"GET  HTTP/1.1\r\nHost: x\r\n\r\n",
    "a bad header": b"GET /metrics HTTP/1.1\r\nHost: x\r\nno colon\r\n\r\n",
    "two lengths": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
    "a bad length": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
    "a bad coding": b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n",
    "long header": b"GET /metrics HTTP/1.1\r\nHost: " + b"x" * 17_000 + b"\r\n\r\n",
    "endless header": b"GET /metrics HTTP/1.1\r\nX: " + b"x" * 200_000,
    "tls": bytes.fromhex("16030100c8010000c40303") + bytes(200),
    "control socket's": b'{"want": "stats"}\n',
    "http/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
}


@pytest.mark.parametrize("said", GARBAGE.values(), ids=GARBAGE)
def test_garbage(relay: Measured, said: bytes) -> None:
    answer = relay.say(said)
    assert not answer or answer.startswith(b"HTTP/1.1 4") or answer.startswith(b"HTTP/1.1 5")
    assert b"udppunch_" not in answer
    assert relay.get().status == 200
    relay.assert_alive_and_sane()
    assert not relay.count("restart")


def test_a_request_in_pieces(relay: Measured) -> None:
    with relay.connected() as asking, asking.makefile("rb") as answer:
        for octet in b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n":
            asking.send(bytes((octet,)))
        assert answer.readline().startswith(b"HTTP/1.1 200 ")


def test_slow_and_idle_clients_hold_up_nobody(relay: Measured) -> None:
    """Nor does it keep more of them than it may."""
    pids = relay.pids()
    files = f"/proc/{pids.get('registrar', pids['main'])}/fd"
    before = len(os.listdir(files))
    with contextlib.ExitStack() as idle:
        for number in range(100):
            asking = idle.enter_context(contextlib.closing(relay.connected()))
            with contextlib.suppress(ConnectionError):
                asking.sendall(b"GET /metrics HTTP/1.1\r\n"[: number % 20])
            assert relay.get().status == 200
        assert len(os.listdir(files)) <= before + 32
    assert eventually(lambda: len(os.listdir(files)) <= before, PATIENCE)


def test_clients_that_leave(relay: Measured) -> None:
    for said in (b"", b"GET /met", b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"):
        for _ in range(20):
            with relay.connected() as asking:
                asking.sendall(said)
    assert relay.get().status == 200
    relay.assert_alive_and_sane()


def test_channels_do_not_feel_it(relay: Measured) -> None:
    said: List[bytes] = list(GARBAGE.values())
    with Load(relay.address, 4, 1000) as load:
        load.wait_sent(200)
        for number in range(200):
            relay.say(said[number % len(said)])
            assert relay.get().status == 200
        load.finish()
        assert load.lost <= load.sent // 100, f"{load.lost} of {load.sent}"


# --- where it is -------------------------------------------------------------------------


def test_successor_of_a_registrar_serves_on() -> None:
    with Measured() as relay:
        pair_at(relay)
        os.kill(relay.pids()["registrar"], 9)
        assert eventually(lambda: relay.samples()[of_relay("channels")] == 1, PATIENCE)


@of_any_size
def test_a_port_that_another_has(workers: int) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        where = program.text(taken.getsockname())
        listen = f"127.0.0.1:{free_port()}"
        words = ("relay", listen, "--workers", str(workers), "--metrics", where)
        with Program(*words) as second:
            assert second.process.wait(PATIENCE) == 73
            second.stop()
            (line,) = second.output
            assert line.startswith("udppunch: ") and where in line


def test_closed_with_the_daemon() -> None:
    with Measured() as relay:
        assert relay.get().status == 200
        relay.process.terminate()
        assert relay.process.wait(PATIENCE) == 0
        with pytest.raises(ConnectionRefusedError):
            relay.connected()


def test_replayed_guids_do_not_show_in_log_or_metrics() -> None:
    """The log neither tells guids, at whatever level."""
    guid = new_guid()
    with Measured(level="trace") as relay:
        with Peer(relay.address) as one, Peer(relay.address) as other:
            for peer in (one, other, one):
                peer.send(handshake(guid, SECRET))
            relay.wait_event("joined")
            one.handshake(guid, b"another secret")
        assert guid.hex() not in str(relay).lower()
        assert base64.b64encode(SECRET).decode() not in str(relay)
        assert SECRET.decode() not in str(relay)
