"""A relay of several processes, and many channels of it under a steady load of numbered datagrams.

with RelayProgram() as relay, Load(relay.address, channels=16, per_second=20_000) as load:
    load.wait_sent(10_000)
    os.kill(relay.pids()["worker 1"], signal.SIGKILL)
    load.wait_sent(10_000)
    load.finish()
    assert load.lost <= 4_000
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import select
import signal
import socket
import struct
import subprocess
import tempfile
import threading
import time
from typing import Any, Dict, List, Optional, Sequence, Tuple

import psutil

from tests.lab.whole_program import eventually
from tests.ports import free_port
from tests.program import Popen, Program, SocketAddress
from tests.standin.relay import Peer, popen_with, wait_readable

PATIENCE = 20.0
SECRET = b"the secret of the tests"

_TICK = 0.005
_LATE = 0.1  # beyond it, what was not sent in time is not made up for
_QUIET = 1.0
_NUMBERED = struct.Struct(">4sII")
_MARK = b"load"


def new_guid() -> bytes:
    return os.urandom(16)


class RelayProgram(Program):
    """`udppunch relay` (or `command`), with a control socket that tests ask. `level` None leaves
    the level of its log lines to its own settings."""

    def __init__(
        self,
        *options: str,
        workers: int = 2,
        secret: Optional[bytes] = SECRET,
        listen: Optional[str] = None,
        level: Optional[str] = "debug",
        command: Sequence[str] = (),
        popen: Popen = subprocess.Popen,
    ) -> None:
        self.workers = workers
        self._folder = tempfile.TemporaryDirectory(prefix="udppunch-")
        self.control = f"{self._folder.name}/control.sock"
        self._children: Dict[int, psutil.Process] = {}
        self._peers: List[Peer] = []
        listen = listen or f"127.0.0.1:{free_port()}"
        words = command or ("relay", listen, "--workers", str(workers))
        start = popen_with(secret, _at_level(level, popen))
        super().__init__(*words, "--control", self.control, *options, popen=start)

    def __enter__(self) -> RelayProgram:
        try:
            self.wait_event("listening")
            assert eventually(lambda: self._is_complete(), PATIENCE), self
        except BaseException:
            self.stop()
            raise
        return self

    def open_peer(self, port: Optional[int] = None) -> Peer:
        """One that is closed with the relay; of that port, if it has several."""
        self._peers.append(Peer(("127.0.0.1", port) if port else self.address))
        return self._peers[-1]

    def document(self, channels: int = 0) -> Dict[str, Any]:
        """What it says of itself; a registrar that is killed over it is asked again."""
        due = time.monotonic() + PATIENCE
        question = json.dumps({"want": "stats", "channels": channels}).encode() + b"\n"
        while time.monotonic() < due:
            with contextlib.suppress(OSError, ValueError):
                document: Dict[str, Any] = json.loads(ask(self.control, question))
                return document
            time.sleep(0.05)
        raise AssertionError(f"it does not tell what it does: {self}")

    def pids(self) -> Dict[str, int]:
        """Of each process by its name: main, registrar, worker 1 and so on."""
        self.children()
        return {each["name"]: each["pid"] for each in self.document()["processes"]}

    def children(self) -> List[psutil.Process]:
        """The processes that it has started and that run."""
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in psutil.Process(self.process.pid).children(recursive=True):
                self._children[child.pid] = child
        return [child for child in self._children.values() if is_running(child)]

    def counters(self) -> Dict[str, int]:
        """Those of the relay; workers tell theirs twice a second."""
        counters: Dict[str, int] = self._of_relay()["counters"]
        return counters

    def gauges(self) -> Dict[str, int]:
        gauges: Dict[str, int] = self._of_relay().get("gauges", {})
        return gauges

    def wait_counted(self, name: str, count: int) -> int:
        """What that counter is as soon as it is `count`, or more."""
        counted = [0]

        def reached() -> bool:
            counted[0] = self.counters().get(name, 0)
            return counted[0] >= count

        assert eventually(reached, PATIENCE), f"{name}: {counted[0]} and not {count}; {self}"
        return counted[0]

    def logged(self) -> Dict[str, int]:
        """How many lines there are of each event."""
        names = [event["event"] for event in self.events]
        return {name: names.count(name) for name in names}

    def wait_exit(self) -> int:
        """The status that it ends with, of itself."""
        try:
            status = self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"did not end: {self}") from None
        self.stop()
        return status

    def stop(self, number: int = signal.SIGINT, timeout: float = 10.0) -> int:
        """Ends it, and what should have ended with it."""
        self.children()
        status = super().stop(number, timeout)
        for left in self.children():
            left.kill()
        for peer in self._peers:
            peer.close()
        self._folder.cleanup()
        return status

    def _of_relay(self) -> Dict[str, Any]:
        roles: List[Dict[str, Any]] = self.document()["roles"]
        return next(role for role in roles if role["name"] == "relay")

    def _is_complete(self) -> bool:
        expected = self.workers + 2 if self.workers > 1 else 1
        return len(self.pids()) >= expected


def _at_level(level: Optional[str], popen: Popen) -> Popen:
    def start(arguments: Sequence[str], **more: Any) -> subprocess.Popen[str]:
        words = list(arguments)
        at = words.index("--log-level")
        words[at : at + 2] = [] if level is None else ["--log-level", level]
        return popen(words, **more)

    return start


def is_running(process: psutil.Process) -> bool:
    """Also when it is a zombie that its parent forgot, it has ended."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def connected(path: str) -> socket.socket:
    """To a control socket; as long as too many others wait there, the kernel says to try again."""
    asking = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    asking.settimeout(PATIENCE)
    due = time.monotonic() + PATIENCE
    while True:
        try:
            asking.connect(path)
            return asking
        except BlockingIOError:
            if time.monotonic() > due:
                raise
            time.sleep(0.01)


def ask(path: str, question: bytes) -> bytes:
    """What is answered on a control socket. Raises OSError."""
    with connected(path) as asking:
        asking.sendall(question)
        with asking.makefile("rb") as answer:
            return answer.read()


def resident(pid: int) -> int:
    """KiB of memory in use."""
    return int(psutil.Process(pid).memory_info().rss) >> 10


# --- channels ----------------------------------------------------------------------------


def join(one: Peer, other: Peer, guid: bytes, secret: bytes = SECRET) -> None:
    """Both shake hands, and whoever the relay took for the first hears the other's."""
    said = {one: other.handshake(guid, secret), other: one.handshake(guid, secret)}
    reached = wait_readable(one, other, timeout=PATIENCE)
    assert len(reached) == 1, f"{len(reached)} of 2 handshakes were relayed"
    assert reached[0].receive() == said[reached[0]]


def carries(sender: Peer, receiver: Peer) -> bool:
    """Whether the next that the receiver hears is what the sender says now."""
    said = sender.send(os.urandom(64))
    return receiver.receive() == said


def pair_at(relay: RelayProgram, secret: bytes = SECRET) -> Tuple[Peer, Peer]:
    """Two new peers, joined."""
    one, other = relay.open_peer(), relay.open_peer()
    join(one, other, new_guid(), secret)
    return one, other


def says_in_vain(relay: RelayProgram, secret: bytes = SECRET) -> bool:
    """Whether two new peers that say the same guid are not joined."""
    with Peer(relay.address) as one, Peer(relay.address) as other:
        guid = new_guid()
        for peer in (one, other, one):
            peer.handshake(guid, secret)
        return not wait_readable(one, other, timeout=0.5)


class _Flow:
    def __init__(self, index: int, sender: Peer) -> None:
        self.index = index
        self.sender = sender
        self.sent = 0
        self.arrived: List[int] = []


class Load:
    """Channels whose peers both send, from a thread of its own; the load is that of all."""

    def __init__(
        self,
        relay: SocketAddress,
        channels: int,
        per_second: int,
        *,
        secret: bytes = SECRET,
        length: int = 100,
    ) -> None:
        self.guids = [new_guid() for _ in range(channels)]
        self.foreign: List[bytes] = []
        self._relay = relay
        self._secret = secret
        self._each_tick = max(1, round(per_second * _TICK))
        self._tick = self._each_tick / per_second
        self._padding = bytes(length - _NUMBERED.size)
        self._peers: List[Peer] = []
        self._flows: List[_Flow] = []
        self._poll = select.poll()
        self._receivers: Dict[int, Peer] = {}
        self._stopped = threading.Event()
        self._failure: Optional[BaseException] = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Load:
        try:
            for guid in self.guids:
                one, other = Peer(self._relay), Peer(self._relay)
                self._peers += (one, other)
                join(one, other, guid, self._secret)
        except BaseException:
            self._close()
            raise
        for index, peer in enumerate(self._peers):
            self._flows.append(_Flow(index, peer))
            self._receivers[peer.socket.fileno()] = peer
            self._poll.register(peer.socket, select.POLLIN)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()
        self._close()

    @property
    def sent(self) -> int:
        return sum(flow.sent for flow in self._flows)

    @property
    def arrived(self) -> int:
        return sum(len(flow.arrived) for flow in self._flows)

    @property
    def lost(self) -> int:
        return self.sent - sum(len(set(flow.arrived)) for flow in self._flows)

    def wait_sent(self, count: int) -> None:
        """Until so many more are sent."""
        wanted = self.sent + count
        sent = eventually(lambda: self.sent >= wanted or self._failure is not None, 60.0)
        if self._failure is not None:
            raise self._failure
        assert sent, f"{self.sent} of {wanted} sent"

    def finish(self) -> None:
        """Sends no more, and hears what is under way. Fails for what no peer should hear."""
        self._stopped.set()
        self._thread.join()
        self._hear_the_rest()
        assert not self.foreign, f"{len(self.foreign)} foreign, one of them {self.foreign[0]!r}"
        for flow in self._flows:
            assert len(set(flow.arrived)) == len(flow.arrived), "some came twice"

    def is_in_order(self) -> bool:
        return all(flow.arrived == sorted(flow.arrived) for flow in self._flows)

    def silent_flows(self) -> int:
        """After `finish`: of how many a datagram that is sent now does not arrive."""
        before = [len(flow.arrived) for flow in self._flows]
        for flow in self._flows:
            self._send(flow)
        self._hear_the_rest()
        return sum(len(flow.arrived) == count for flow, count in zip(self._flows, before))

    def _run(self) -> None:
        due = time.monotonic()
        turns = itertools.cycle(self._flows)
        try:
            while not self._stopped.is_set():
                for flow in itertools.islice(turns, self._each_tick):
                    self._send(flow)
                self._hear(0)
                due += self._tick
                left = due - time.monotonic()
                if left > 0:
                    time.sleep(left)
                elif left < -_LATE:
                    due = time.monotonic()
        except BaseException as error:
            self._failure = error

    def _send(self, flow: _Flow) -> None:
        flow.sender.send(_NUMBERED.pack(_MARK, flow.index, flow.sent) + self._padding)
        flow.sent += 1

    def _hear(self, timeout: float) -> None:
        for descriptor, _ in self._poll.poll(timeout * 1000):
            receiver = self._receivers[descriptor]
            with contextlib.suppress(BlockingIOError):
                while True:
                    self._take(receiver, receiver.socket.recv(2048, socket.MSG_DONTWAIT))

    def _take(self, receiver: Peer, datagram: bytes) -> None:
        if datagram.startswith(_MARK):
            _, index, number = _NUMBERED.unpack_from(datagram)
            # Peers stand next to each other: 0 and 1 are a channel, 2 and 3 the next.
            if index < len(self._flows) and self._peers[index ^ 1] is receiver:
                self._flows[index].arrived.append(number)
                return
        self.foreign.append(datagram)

    def _hear_the_rest(self) -> None:
        """Until all has arrived, or nothing more does."""
        due = time.monotonic() + PATIENCE
        quiet_since = time.monotonic()
        while self.arrived < self.sent and time.monotonic() < due:
            before = self.arrived
            self._hear(0.05)
            if self.arrived > before:
                quiet_since = time.monotonic()
            elif time.monotonic() - quiet_since > _QUIET:
                return

    def _close(self) -> None:
        for peer in self._peers:
            peer.close()
