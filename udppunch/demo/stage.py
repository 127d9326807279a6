"""Where the demo takes place: machines, the programs started on them, and the one place to wait.

Signals are only noted when they come, and raised from `Stage.turn` as `Interrupted`: so nothing
is ever half made when it ends, and leaving the stage ends all processes and namespaces.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Protocol, Sequence, Tuple

from udppunch.errors import EX_SOFTWARE, CommandError
from udppunch.lab import Lab, LabError, can_build, enter_user_namespace

Event = Dict[str, Any]

_GRACE = 2.0  # seconds from SIGTERM to SIGKILL
_PR_SET_PDEATHSIG = 1


class Interrupted(Exception):
    """A signal asked the demo to end."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Host(Protocol):
    """A machine of the lab, or this one."""

    @property
    def address(self) -> str: ...

    def popen(self, argv: Sequence[str], **options: Any) -> "subprocess.Popen[Any]": ...

    def socket(self) -> socket.socket: ...


class Ground(Protocol):
    """The machines together."""

    @property
    def a(self) -> Host: ...

    @property
    def b(self) -> Host: ...

    @property
    def rendezvous(self) -> Host: ...

    def close(self) -> None: ...


class Loopback:
    """This machine in place of a lab's: a host that is `a`, `b` and the rendezvous at once."""

    address = "127.0.0.1"

    def __init__(self) -> None:
        self.a = self.b = self.rendezvous = self
        self._processes: "List[subprocess.Popen[Any]]" = []

    def popen(self, argv: Sequence[str], **options: Any) -> "subprocess.Popen[Any]":
        process = subprocess.Popen(argv, preexec_fn=_end_with_parent, **options)
        self._processes.append(process)
        return process

    def socket(self) -> socket.socket:
        return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

    def close(self) -> None:
        for process in self._processes:
            process.terminate()
        deadline = time.monotonic() + _GRACE
        for process in self._processes:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


class Program:
    """A running udppunch and the events that it logged."""

    def __init__(self, name: str, process: "subprocess.Popen[Any]") -> None:
        self.name = name
        self.events: List[Event] = []
        self.stderr = process.stderr
        self._last_line = b""
        self._unread = b""

    def read(self) -> List[Event]:
        """The events that came. Raises CommandError if the program has ended."""
        assert self.stderr is not None
        data = os.read(self.stderr.fileno(), 65536)
        if not data:
            last = self._last_line.decode(errors="replace") or "without a word"
            raise CommandError(f"{self.name} ended: {last}", EX_SOFTWARE)
        *lines, self._unread = (self._unread + data).split(b"\n")
        came = []
        for self._last_line in lines:
            with contextlib.suppress(ValueError):  # what is no event may be last words
                came.append(json.loads(self._last_line))
        self.events += came
        return came

    def last(self, *names: str) -> Optional[Event]:
        """The latest event of one of these names."""
        return next((e for e in reversed(self.events) if e["event"] in names), None)


class Stage:
    """`loopback` does without a lab; so does a system where none can be built: see `reason`.

    `listener`, once set, is told of each program's events in the order in which they happened.
    """

    reason: Optional[str] = None  # why there are no NATs

    def __init__(self, nat_a: str, nat_b: str, *, loopback: bool) -> None:
        self.nats = (nat_a, nat_b)
        self.listener: Callable[[str, Event], None] = lambda program, event: None
        self.ground: Ground
        self._loopback = loopback
        self._key = os.urandom(16).hex()
        self._signals: List[int] = []
        self._poll = select.poll()
        self._watched: Dict[int, Callable[[], None]] = {}
        self._happened: List[Tuple[str, Event]] = []
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Stage:
        with self._stack as stack:
            self._note_signals()
            if sys.stdout is not None:
                # Asked for nothing, poll tells of errors alone: the reader is gone.
                self._watch(sys.stdout.fileno(), self._lost_reader, 0)
            self.ground = Loopback() if self._loopback else self._build()
            stack.callback(self.ground.close)
            if isinstance(self.ground, Loopback):
                self.nats = ("public", "public")
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def start(self, host: Host, name: str, *arguments: str) -> Program:
        """Start `udppunch NAME ARGUMENTS...` on the host."""
        # The very same code, whatever the working directory holds.
        home = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join(filter(None, [home, os.environ.get("PYTHONPATH")]))
        process = host.popen(
            [sys.executable, "-m", "udppunch", name, *arguments]
            + ["--log-json", "--log-level", "info"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            cwd="/",
            env={**os.environ, "UDPPUNCH_KEY": self._key, "PYTHONPATH": path},
        )
        program = Program(name, process)
        assert program.stderr is not None
        self._stack.enter_context(program.stderr)
        self._watch(program.stderr.fileno(), lambda: self._read(program))
        return program

    def udp(self, host: Host, arrived: Callable[[socket.socket], None]) -> socket.socket:
        """A socket of an application on the host; `arrived` is called when it can be read."""
        opened = self._stack.enter_context(host.socket())
        opened.setblocking(False)
        opened.bind(("127.0.0.1", 0))
        self._watch(opened.fileno(), lambda: arrived(opened))
        return opened

    def turn(self, seconds: float) -> bool:
        """Wait so long at most and handle what comes; whether anything did.

        Raises Interrupted, BrokenPipeError when nobody reads the output any more, and
        CommandError when a program has ended.
        """
        ready = self._poll.poll(1000 * max(0.0, seconds))
        if self._signals:
            raise Interrupted(self._signals[0])
        for fd, _ in ready:
            self._watched[fd]()
        # Several programs may have spoken before we looked.
        happened = sorted(self._happened, key=lambda each: float(each[1]["time"]))
        self._happened.clear()
        for program, event in happened:
            self.listener(program, event)
        return bool(ready)

    def until(self, condition: Callable[[], object], seconds: float) -> bool:
        """Whether the condition came true in time."""
        deadline = time.monotonic() + seconds
        while not condition():
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            self.turn(left)
        return True

    def _build(self) -> Ground:
        self.reason = can_build()
        try:
            if self.reason is None:
                enter_user_namespace()
                return Lab(*self.nats)
        except LabError as error:
            self.reason = str(error)
        return Loopback()

    def _note_signals(self) -> None:
        reader, writer = os.pipe()
        for end in (reader, writer):
            os.set_blocking(end, False)
            self._stack.callback(os.close, end)
        self._watch(reader, lambda: None)
        self._stack.callback(signal.set_wakeup_fd, signal.set_wakeup_fd(writer))
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            former = signal.getsignal(number)
            if former is signal.SIG_IGN:  # nohup, or in a script's background
                continue
            signal.signal(number, lambda number, frame: self._signals.append(number))
            self._stack.callback(signal.signal, number, former)

    def _watch(self, fd: int, ready: Callable[[], None], mask: int = select.POLLIN) -> None:
        self._poll.register(fd, mask)
        self._watched[fd] = ready

    def _read(self, program: Program) -> None:
        self._happened += [(program.name, event) for event in program.read()]

    def _lost_reader(self) -> None:
        raise BrokenPipeError


def free_port() -> int:
    """A UDP port of loopback that nobody had a moment ago."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        any_socket.bind((Loopback.address, 0))
        return int(any_socket.getsockname()[1])


def _end_with_parent() -> None:
    """Also when the demo is killed; a lab's processes have its guard for that."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
