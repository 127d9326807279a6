"""Helpers and exposers as whole programs, and connectees under a steady load of numbered questions.

with (
    HelperProgram() as helper,
    FarEnd() as service,
    ExposerProgram(service.address, helper.address),
    Load(helper.address, service, connectees=16, per_second=4000) as load,
):
    load.wait_sent(2000)
    os.kill(helper.pids()["worker 1"], signal.SIGKILL)
    load.wait_sent(2000)
    load.finish()
    assert load.lost <= 800 and load.moved() == 0
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import select
import socket
import struct
import subprocess
import threading
import time
from typing import Any, Callable, Dict, List, Optional, Sequence, Set, Tuple

from tests.faults.relay_traffic import PATIENCE, RelayProgram
from tests.lab.whole_program import eventually
from tests.ports import free_port
from tests.program import Popen, SocketAddress, text
from tests.standin.expose import (
    LOOPBACK,
    TAG,
    open_socket,
)

PASSWORD = "the password of the tests"
PASSWORD_VARIABLE = "UDPPUNCH_PASSWORD"
QUICK = ("--keepalive", "1s")

_TICK = 0.005
_LATE = 0.1  # beyond it, what was not sent in time is not made up for
_QUIET = 0.5
_NUMBERED = struct.Struct(">4sII")
_MARK = b"load"
_PROBE = 0xFFFFFFFF


def _with_password(password: Optional[str], popen: Popen) -> Popen:
    def start(arguments: Sequence[str], **more: Any) -> "subprocess.Popen[str]":
        environment = {**more.pop("env")}
        environment.pop(PASSWORD_VARIABLE, None)
        if password is not None:
            environment[PASSWORD_VARIABLE] = password
        return popen(arguments, env=environment, **more)

    return start


class HelperProgram(RelayProgram):
    """`udppunch helper`: several processes with a control socket, as the relay is. Started again
    with `listen`, it is its own successor."""

    role = "helper"

    def __init__(
        self,
        *options: str,
        workers: int = 2,
        password: Optional[str] = None,
        listen: Optional[str] = None,
        level: Optional[str] = "debug",
        popen: Popen = subprocess.Popen,
    ) -> None:
        listen = listen or f"127.0.0.1:{free_port()}"
        super().__init__(
            *options,
            workers=workers,
            secret=None,
            level=level,
            command=(self.role, listen, "--workers", str(workers)),
            popen=_with_password(password, popen),
        )

    def __enter__(self) -> HelperProgram:
        super().__enter__()
        return self

    def _of_relay(self) -> Dict[str, Any]:
        roles: List[Dict[str, Any]] = self.document()["roles"]
        return next(role for role in roles if role["name"] == self.role)


class ExposerProgram(RelayProgram):
    """`udppunch expose`, a single process, registered where helpers tell: with a password, unless
    it is one that is `unanswered`."""

    def __init__(
        self,
        service: SocketAddress,
        *helpers_and_options: object,
        password: Optional[str] = None,
        unanswered: Optional[str] = None,
        level: Optional[str] = "debug",
        popen: Popen = subprocess.Popen,
    ) -> None:
        words = [
            text(word) if isinstance(word, tuple) else str(word) for word in helpers_and_options
        ]
        super().__init__(
            workers=1,
            secret=None,
            level=level,
            command=("expose", text(service), *words),
            popen=_with_password(password or unanswered, popen),
        )
        self._password = password

    def __enter__(self) -> ExposerProgram:
        try:
            assert eventually(lambda: os.path.exists(self.control), PATIENCE), self
            self.document()
            if self._password is not None:
                self.wait_event("registered")
        except BaseException:
            self.stop()
            raise
        return self

    def _of_relay(self) -> Dict[str, Any]:
        roles: List[Dict[str, Any]] = self.document()["roles"]
        return next(role for role in roles if role["name"] == "expose")

    def connectees(self) -> int:
        """For how many it has a socket."""
        told = re.search(r"(\d+) connectees", self._of_relay()["status"])
        assert told is not None
        return int(told.group(1))


# --- the ends that tests play ------------------------------------------------------------


class FarEnd:
    """Answers what it gets with the same: a service, or an exposer that asks no service.

    By what a connectee's datagrams have in front (an exposer sees the tag), and by whom they
    come from, it knows the connectees apart.
    """

    def __init__(self, local: SocketAddress = LOOPBACK) -> None:
        self.socket = open_socket(local)
        self.address: SocketAddress = self.socket.getsockname()
        # Of each connectee under load, and of all others together.
        self.seen: Dict[int, Set[Tuple[SocketAddress, bytes]]] = {}
        self.strangers: Set[Tuple[SocketAddress, bytes]] = set()

    def __enter__(self) -> FarEnd:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def serve(self) -> None:
        """Answers the connectees under load, and nobody else."""
        with contextlib.suppress(BlockingIOError):
            while True:
                datagram, source = self.socket.recvfrom(65535, socket.MSG_DONTWAIT)
                head, mark, _ = datagram.partition(_MARK)
                if mark:
                    _, index, _ = _NUMBERED.unpack_from(datagram, len(head))
                    self.seen.setdefault(index, set()).add((source, head))
                    self.socket.sendto(datagram, source)
                else:
                    self.strangers.add((source, datagram[:TAG]))


class EchoingExposer(FarEnd):
    """An exposer without a password, and without a service: each tag is told what it said."""

    def __init__(self, helper: SocketAddress) -> None:
        super().__init__()
        self.socket.sendto(b"", helper)


def few_descriptors(limit: int) -> Popen:
    """Starts a process that may open no more than that."""

    def start(arguments: Sequence[str], **more: Any) -> "subprocess.Popen[str]":
        return subprocess.Popen(["prlimit", f"--nofile={limit}:{limit}", *arguments], **more)

    return start


# --- a load ------------------------------------------------------------------------------


class _Flow:
    def __init__(self, index: int, helper: SocketAddress) -> None:
        self.index = index
        self.socket = open_socket()
        self.socket.connect(helper)  # so it hears nobody else
        self.sent = 0
        self.answered: List[int] = []
        self.refused = 0
        self.is_known = False


class Load:
    """Connectees that all ask the far end, from a thread of its own in which that answers too.

    Several at one far end are told apart by the number of their `first` connectee.
    """

    def __init__(
        self,
        helper: SocketAddress,
        far_end: FarEnd,
        connectees: int,
        per_second: int,
        *,
        length: int = 100,
        first: int = 0,
    ) -> None:
        self.foreign: List[bytes] = []
        self._far_end = far_end
        self._each_tick = max(1, round(per_second * _TICK))
        self._tick = self._each_tick / per_second
        self._padding = bytes(length - _NUMBERED.size)
        self._flows = [_Flow(first + index, helper) for index in range(connectees)]
        self._by_descriptor = {flow.socket.fileno(): flow for flow in self._flows}
        self._poll = select.poll()
        for descriptor in (*self._by_descriptor, far_end.socket.fileno()):
            self._poll.register(descriptor, select.POLLIN)
        self._stopped = threading.Event()
        self._failure: Optional[BaseException] = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Load:
        """Each was answered once."""
        try:
            due = time.monotonic() + PATIENCE
            while not all(flow.is_known for flow in self._flows):
                assert time.monotonic() < due, f"{self.unanswered()} are not answered"
                for flow in self._flows:
                    if not flow.is_known:
                        self._say(flow, _PROBE)
                self._hear(0.05)
                time.sleep(0.02)
        except BaseException:
            self._close()
            raise
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()
        self._close()

    @property
    def sent(self) -> int:
        return sum(flow.sent for flow in self._flows)

    @property
    def answered(self) -> int:
        return sum(len(flow.answered) for flow in self._flows)

    @property
    def lost(self) -> int:
        return self.sent - sum(len(set(flow.answered)) for flow in self._flows)

    def moved(self) -> int:
        """How many came under another tag, or from another socket of the exposer, than before."""
        return sum(len(ends) > 1 for ends in self._seen())

    def ends(self) -> Set[Tuple[SocketAddress, bytes]]:
        """What stands for the connectees at the far end."""
        return set().union(*self._seen())

    def unanswered(self) -> List[int]:
        return [flow.index for flow in self._flows if not flow.is_known]

    def wait_sent(self, count: int) -> None:
        """Until so many more are sent."""
        wanted = self.sent + count
        self._wait(lambda: self.sent >= wanted, f"{wanted} are not sent")

    def wait_answered(self, count: int = 1) -> None:
        """Until each has been answered so often from now on."""
        before = [len(flow.answered) for flow in self._flows]

        def have_been() -> bool:
            return all(len(f.answered) >= b + count for f, b in zip(self._flows, before))

        self._wait(have_been, "not all are answered")

    def finish(self) -> None:
        """Sends no more, and hears what is under way. Fails for what nobody should hear."""
        self._stopped.set()
        self._thread.join()
        if self._failure is not None:
            raise self._failure
        self._hear_the_rest(self.sent)
        assert not self.foreign, f"{len(self.foreign)} foreign, one of them {self.foreign[0]!r}"
        for flow in self._flows:
            assert len(set(flow.answered)) == len(flow.answered), "some came twice"

    def silent(self) -> int:
        """After `finish`: how many are not answered when they ask once more."""
        wanted = [(flow, len(flow.answered) + 1) for flow in self._flows]
        for flow in self._flows:
            self._ask(flow)
        self._hear_the_rest(self.answered + len(self._flows))
        return sum(len(flow.answered) < count for flow, count in wanted)

    def _seen(self) -> List[Set[Tuple[SocketAddress, bytes]]]:
        return [self._far_end.seen[flow.index] for flow in self._flows]

    def _wait(self, condition: Callable[[], bool], complaint: str) -> None:
        reached = eventually(lambda: condition() or self._failure is not None, PATIENCE)
        if self._failure is not None:
            raise self._failure
        assert reached, f"{complaint}: {self.answered} answers of {self.sent}"

    def _run(self) -> None:
        due = time.monotonic()
        turns = itertools.cycle(self._flows)
        try:
            while not self._stopped.is_set():
                for flow in itertools.islice(turns, self._each_tick):
                    self._ask(flow)
                self._hear(0)
                due += self._tick
                left = due - time.monotonic()
                if left > 0:
                    time.sleep(left)
                elif left < -_LATE:
                    due = time.monotonic()
        except BaseException as error:
            self._failure = error

    def _ask(self, flow: _Flow) -> None:
        if self._say(flow, flow.sent):
            flow.sent += 1

    def _say(self, flow: _Flow, number: int) -> bool:
        """Not to a helper that was seen not to be there: the kernel tells that once."""
        try:
            flow.socket.send(_NUMBERED.pack(_MARK, flow.index, number) + self._padding)
        except ConnectionRefusedError:
            flow.refused += 1
            return False
        return True

    def _hear(self, timeout: float) -> None:
        for descriptor, _ in self._poll.poll(timeout * 1000):
            flow = self._by_descriptor.get(descriptor)
            if flow is None:
                self._far_end.serve()
            else:
                self._hear_answers(flow)

    def _hear_answers(self, flow: _Flow) -> None:
        with contextlib.suppress(BlockingIOError, ConnectionRefusedError):
            while True:
                datagram = flow.socket.recv(65535, socket.MSG_DONTWAIT)
                if not datagram.startswith(_MARK):
                    self.foreign.append(datagram)
                    continue
                _, index, number = _NUMBERED.unpack_from(datagram)
                if index != flow.index:
                    self.foreign.append(datagram)
                elif number == _PROBE:
                    flow.is_known = True
                else:
                    flow.answered.append(number)

    def _hear_the_rest(self, wanted: int) -> None:
        """Until so many are answered, or nothing more comes."""
        due = time.monotonic() + PATIENCE
        quiet_since = time.monotonic()
        while self.answered < wanted and time.monotonic() < due:
            before = self.answered
            self._hear(0.05)
            if self.answered > before:
                quiet_since = time.monotonic()
            elif time.monotonic() - quiet_since > _QUIET:
                return

    def _close(self) -> None:
        for flow in self._flows:
            flow.socket.close()
