"""The control socket: where it is, who may ask there, and what no channel ever feels of it."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import stat
import time
from pathlib import Path
from typing import Iterator, List

import pytest

from tests.faults.relay_traffic import (
    PATIENCE,
    Load,
    RelayProgram,
    ask,
    connected,
    join,
    new_guid,
    pair_at,
)
from tests.lab.whole_program import eventually
from tests.ports import free_port
from tests.program import Program
from tests.standin.relay import Peer
from udppunch.errors import CommandError
from udppunch.proc import control

QUESTION = b'{"want": "stats"}\n'

GARBAGE = {
    "nothing": b"\n",
    "noise": os.urandom(64) + b"\n",
    "nul": bytes(100) + b"\n",
    "http": b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n",
    "list": b"[1, 2, 3]\n",
    "text": b'"stats"\n',
    "number": b"1\n",
    "null": b"null\n",
    "nothing wanted": b"{}\n",
    "else wanted": b'{"want": "secrets"}\n',
    "list wanted": b'{"want": ["stats"]}\n',
    "text for a number": b'{"want": "stats", "channels": "many"}\n',
    "null for a number": b'{"want": "stats", "channels": null}\n',
    "list for a number": b'{"want": "stats", "channels": [1]}\n',
    "infinite": b'{"want": "stats", "channels": 1e999}\n',
    "infinity": b'{"want": "stats", "channels": -Infinity}\n',
    "no number": b'{"want": "stats", "channels": NaN}\n',
    "deep": b"[" * 4000 + b"\n",
    "half a question": b'{"want": "st\n',
    "not text": b'{"want": "\xff\xfe"}\n',
    "a surrogate": b'{"want": "\\ud800"}\n',
}

of_any_size = pytest.mark.parametrize("workers", [1, 2])


@pytest.fixture(scope="module", params=[1, 2], ids=["1 worker", "2 workers"])
def relay(request: pytest.FixtureRequest) -> Iterator[RelayProgram]:
    with RelayProgram(workers=request.param) as running:
        yield running
        running.assert_alive_and_sane()
        assert not running.count("restart"), running


# --- what is answered --------------------------------------------------------------------


def test_document(relay: RelayProgram) -> None:
    one, other = pair_at(relay)
    document = relay.document(10)
    names = ["main"] if relay.workers == 1 else ["main", "registrar", "worker 1", "worker 2"]
    assert [process["name"] for process in document["processes"]] == names
    assert document["pid"] == document["processes"][0]["pid"] == relay.process.pid
    assert document["listen"] == [f"127.0.0.1:{relay.address[1]}"]
    assert [role["name"] for role in document["roles"]] == ["relay"]
    peers = {f"127.0.0.1:{peer.socket.getsockname()[1]}" for peer in (one, other)}
    assert peers in [set(channel["peers"]) for channel in document["channels"]]
    assert relay.document(0)["channels"] == []
    assert len(relay.document(1)["channels"]) == 1


def test_questions_that_end_otherwise(relay: RelayProgram) -> None:
    """Without a newline but with the end of what is said; in pieces; with more behind."""
    with connected(relay.control) as asking, asking.makefile("rb") as answer:
        asking.sendall(QUESTION.strip())
        asking.shutdown(socket.SHUT_WR)
        assert json.loads(answer.read())["name"] == "relay"
    with connected(relay.control) as asking, asking.makefile("rb") as answer:
        for octet in QUESTION:
            asking.send(bytes((octet,)))
        assert json.loads(answer.read())["name"] == "relay"


@pytest.mark.parametrize("channels", ["-5", "0", "1.5", "true", "1e300", "9" * 4000])
def test_odd_numbers_of_channels(relay: RelayProgram, channels: str) -> None:
    question = f'{{"want": "stats", "channels": {channels}}}\n'
    assert "channels" in json.loads(ask(relay.control, question.encode()))


@pytest.mark.parametrize("said", GARBAGE.values(), ids=GARBAGE)
def test_garbage(relay: RelayProgram, said: bytes) -> None:
    assert "error" in json.loads(ask(relay.control, said))
    assert not relay.count("restart"), relay
    relay.assert_alive_and_sane()


def test_too_much_is_said(relay: RelayProgram) -> None:
    """The stream is closed, without an answer."""
    with connected(relay.control) as asking, contextlib.suppress(ConnectionError):
        for _ in range(10):
            asking.sendall(b"x" * 1000)
        assert asking.recv(100) == b""
    assert json.loads(ask(relay.control, QUESTION))


def test_clients_that_leave(relay: RelayProgram) -> None:
    for said in (b"", b'{"want"', QUESTION):
        for _ in range(50):
            with connected(relay.control) as asking:
                asking.sendall(said)
    assert json.loads(ask(relay.control, QUESTION))
    relay.assert_alive_and_sane()


def test_many_clients_at_once(relay: RelayProgram) -> None:
    """Those who say nothing hold up nobody, and there are no more of them than there may be."""
    before = len(os.listdir(f"/proc/{_teller(relay)}/fd"))
    with contextlib.ExitStack() as idle:
        for _ in range(100):
            idle.enter_context(contextlib.closing(connected(relay.control)))
            assert json.loads(ask(relay.control, QUESTION))["name"] == "relay"
        assert len(os.listdir(f"/proc/{_teller(relay)}/fd")) <= before + 32
    assert eventually(lambda: len(os.listdir(f"/proc/{_teller(relay)}/fd")) <= before, PATIENCE)


def test_channels_do_not_feel_it(relay: RelayProgram) -> None:
    with Load(relay.address, 4, 1000) as load, contextlib.ExitStack() as idle:
        load.wait_sent(200)
        said: List[bytes] = [QUESTION, *GARBAGE.values()]
        for number in range(500):
            ask(relay.control, said[number % 2 and number % len(said)])
            if number % 10 == 0:
                idle.enter_context(contextlib.closing(connected(relay.control)))
        load.finish()
        assert load.lost <= load.sent // 100, f"{load.lost} of {load.sent}"


def test_a_client_that_does_not_read_costs_nothing(relay: RelayProgram) -> None:
    """Not even one that goes on talking while its answer waits; others are answered."""
    for _ in range(3000):  # whose peers leave at once: there is more to tell than is taken
        with Peer(relay.address) as one, Peer(relay.address) as other:
            join(one, other, new_guid())
    teller = _teller(relay)
    with connected(relay.control) as asking:
        asking.sendall(b'{"want": "stats", "channels": 100000}\n')
        assert eventually(lambda: asking.recv(1, socket.MSG_PEEK) == b"{", PATIENCE)
        asking.sendall(b"and another thing")
        used = _cpu_seconds(teller)
        time.sleep(2.0)
        assert json.loads(ask(relay.control, QUESTION))["name"] == "relay"
        assert _cpu_seconds(teller) - used < 1.0, "it spins"
        with asking.makefile("rb") as answer:
            assert len(json.loads(answer.read())["channels"]) > 2000


def _teller(relay: RelayProgram) -> int:
    """The process that answers."""
    pids = relay.pids()
    return pids.get("registrar", pids["main"])


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# --- where it is -------------------------------------------------------------------------


def test_for_its_owner_alone(relay: RelayProgram) -> None:
    mode = os.stat(relay.control).st_mode
    assert stat.S_ISSOCK(mode) and stat.S_IMODE(mode) == 0o600


@of_any_size
def test_gone_with_the_daemon(workers: int) -> None:
    with RelayProgram(workers=workers) as relay:
        assert os.path.exists(relay.control)
        folder = os.path.dirname(relay.control)
        relay.process.terminate()
        assert relay.process.wait(PATIENCE) == 0
        assert os.listdir(folder) == []


@of_any_size
def test_a_path_that_another_daemon_uses(workers: int, relay: RelayProgram) -> None:
    listen = f"127.0.0.1:{free_port()}"
    words = ("relay", listen, "--workers", str(workers), "--control", relay.control)
    with Program(*words) as second:
        assert second.process.wait(PATIENCE) == 73
        second.stop()
        said = [line for line in second.output if line.startswith("udppunch: ")]
        why = "another daemon answers there: give another path"
        assert said == [f"udppunch: control socket {relay.control}: {why}"]
        assert second.output == said
    assert json.loads(ask(relay.control, QUESTION))["pid"] == relay.process.pid


def test_a_path_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("content")
    with pytest.raises(CommandError) as raised, control.listen(str(path), "relay", {}):
        pass
    assert raised.value.status == 73 and str(path) in str(raised.value)
    assert path.read_text() == "content"


@pytest.mark.parametrize("path", ["missing/control.sock", "precious/control.sock"])
def test_a_path_where_nothing_can_be(tmp_path: Path, path: str) -> None:
    (tmp_path / "precious").write_text("")
    with pytest.raises(CommandError) as raised, control.listen(f"{tmp_path}/{path}", "relay", {}):
        pass
    assert raised.value.status == 73 and path in str(raised.value)


def abandoned(path: Path) -> None:
    """As a daemon leaves it that was killed."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.bind(str(path))


def test_what_a_killed_daemon_left_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    abandoned(path)
    umask = os.umask(0o022)
    try:
        with control.listen(str(path), "relay", {}) as listener:
            assert listener is not None
            connected(str(path)).close()
            assert os.umask(0o022) == 0o022
    finally:
        os.umask(umask)
    assert not path.exists()


def test_none_is_wanted(tmp_path: Path) -> None:
    environment = {"RUNTIME_DIRECTORY": str(tmp_path)}
    with control.listen("", "relay", environment) as listener:
        assert listener is None and not list(tmp_path.iterdir())


def test_the_usual_place_is_the_service_managers(tmp_path: Path) -> None:
    """Where several daemons may be; what killed ones left there is removed."""
    environment = {"RUNTIME_DIRECTORY": f"{tmp_path}:{tmp_path}/other"}
    abandoned(tmp_path / "relay-999999999.sock")
    abandoned(tmp_path / "somebodys.sock")
    with control.listen(None, "relay", environment) as first:
        assert first is not None
        with control.listen(None, "rendezvous", environment) as second:
            assert second is not None
            names = {path.name for path in tmp_path.iterdir()}
            own = {f"{name}-{os.getpid()}.sock" for name in ("relay", "rendezvous")}
            assert names == {*own, "somebodys.sock"}
    assert [path.name for path in tmp_path.iterdir()] == ["somebodys.sock"]


@pytest.mark.parametrize("folder", ["/proc/1/nowhere", "/dev/null", "/run/" + "x" * 120])
def test_an_unusable_usual_place_ends_no_daemon(folder: str) -> None:
    with control.listen(None, "relay", {"RUNTIME_DIRECTORY": f"{folder}/below"}) as listener:
        assert listener is None
