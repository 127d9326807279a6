"""Starts a stand-in as a process of its own and collects the events it tells of itself.

    with turn() as rendezvous, server(echo.address, rendezvous.address, "key") as end:
        end.wait_event("registered")
        ...
        end.assert_alive_and_sane()

`popen` takes what `subprocess.Popen` takes; a lab passes one that starts in its host.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Callable, Optional, cast

SocketAddress = tuple[str, int]
Event = dict[str, Any]
Popen = Callable[..., "subprocess.Popen[str]"]

PUNCHER = Path(__file__).with_name("puncher.py")
LOOPBACK: SocketAddress = ("127.0.0.1", 0)

_INSANE = ("exit", "gave-up")


class StandIn:
    """A running stand-in. What it prints that is no event (a traceback) is in `output`."""

    def __init__(self, *arguments: str, popen: Popen = subprocess.Popen) -> None:
        self.name = " ".join(arguments)
        self.events: list[Event] = []
        self.output: list[str] = []
        self._arrived = threading.Condition()
        self._ended = False
        self.process = popen(
            [sys.executable, str(PUNCHER), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._collector = threading.Thread(target=self._collect, daemon=True)
        self._collector.start()

    def __enter__(self) -> StandIn:
        return self

    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        self.stop()

    @property
    def address(self) -> SocketAddress:
        """Where a rendezvous or a client listens."""
        ip, _, port = self.wait_event("listening")["address"].rpartition(":")
        return ip, int(port)

    def wait_event(
        self, name: str, timeout: float = 10.0, *, count: int = 1, **fields: object
    ) -> Event:
        """The `count`th event of that name with these fields, from the start or still to come.

        Fails when the process ends without it.
        """
        due = time.monotonic() + timeout
        with self._arrived:
            while True:
                found = [event for event in self.events if _matches(event, name, fields)]
                if len(found) >= count:
                    return found[count - 1]
                left = due - time.monotonic()
                if self._ended or left <= 0:
                    raise AssertionError(f"{count}. {name!r} {fields} did not come: {self}")
                self._arrived.wait(left)

    def wait_exit(self, timeout: float = 10.0) -> int:
        """The status that the stand-in ends with, of itself."""
        try:
            status = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"did not end: {self}") from None
        self._collector.join()
        return status

    def assert_alive_and_sane(self) -> None:
        """Fails if the original would have ended, or given up a path, by now."""
        with self._arrived:
            insane = [event for event in self.events if event["event"] in _INSANE]
            ended = self._ended or self.process.poll() is not None
        assert not (insane or ended or self.output), str(self)

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.terminate()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
        status = self.process.wait()
        self._collector.join()
        return status

    def __str__(self) -> str:
        state = self.process.poll()
        told = "\n  ".join([*map(json.dumps, self.events), *self.output])
        return f"stand-in {self.name} (exit status {state})\n  {told}"

    def _collect(self) -> None:
        with cast("IO[str]", self.process.stdout) as lines:
            for line in lines:
                with self._arrived:
                    self._sort(line.rstrip("\n"))
                    self._arrived.notify_all()
        with self._arrived:
            self._ended = True
            self._arrived.notify_all()

    def _sort(self, line: str) -> None:
        if line.startswith('{"event": '):
            self.events.append(json.loads(line))
        else:
            self.output.append(line)


def _matches(event: Event, name: str, fields: dict[str, object]) -> bool:
    return event["event"] == name and fields.items() <= event.items()


def turn(listen: SocketAddress = LOOPBACK, *, popen: Popen = subprocess.Popen) -> StandIn:
    return StandIn("turn", _text(listen), popen=popen)


def server(
    forward: SocketAddress,
    rendezvous: SocketAddress,
    key: str,
    *,
    popen: Popen = subprocess.Popen,
) -> StandIn:
    return StandIn("server", _text(forward), _text(rendezvous), key, popen=popen)


def client(
    rendezvous: SocketAddress,
    key: str,
    listen: SocketAddress = LOOPBACK,
    *,
    popen: Popen = subprocess.Popen,
) -> StandIn:
    return StandIn("client", _text(listen), _text(rendezvous), key, popen=popen)


def _text(address: SocketAddress) -> str:
    return f"{address[0]}:{address[1]}"
