"""udppunch itself as a process of its own, with the events that it logs (--log-json).

    with serve(echo.address, rendezvous.address) as server:
        server.wait_event("registered")

`popen` takes what `subprocess.Popen` takes; a lab passes one that starts in its host.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Tuple

from tests.ports import free_port

SocketAddress = Tuple[str, int]
Event = Dict[str, Any]
Popen = Callable[..., "subprocess.Popen[str]"]

ROOT = Path(__file__).parents[1]
KEY = "the key of the tests"
LOOPBACK: SocketAddress = ("127.0.0.1", 0)


class Program:
    """A running udppunch. Whatever it prints that is no event is kept in `output`."""

    def __init__(self, *arguments: str, key: str = KEY, popen: Popen = subprocess.Popen) -> None:
        self.name = " ".join(arguments)
        self.events: List[Event] = []
        self.output: List[str] = []
        self._arrived = threading.Condition()
        self._ended = False
        environment = {**os.environ, "UDPPUNCH_KEY": key, "PYTHONPATH": str(ROOT)}
        self.process = popen(
            [sys.executable, "-m", "udppunch", *arguments, "--log-json", "--log-level", "debug"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self._collector = threading.Thread(target=self._collect, daemon=True)
        self._collector.start()

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def address(self) -> SocketAddress:
        ip, _, port = self.wait_event("listening")["address"].rpartition(":")
        return ip, int(port)

    def wait_event(
        self, name: str, timeout: float = 15.0, *, count: int = 1, **fields: object
    ) -> Event:
        """The `count`th event of that name, from the start or still to come."""
        due = time.monotonic() + timeout
        with self._arrived:
            while True:
                found = [
                    event
                    for event in self.events
                    if event["event"] == name and fields.items() <= event.items()
                ]
                if len(found) >= count:
                    return found[count - 1]
                left = due - time.monotonic()
                if self._ended or left <= 0:
                    raise AssertionError(f"{count}. {name!r} {fields} did not come: {self}")
                self._arrived.wait(left)

    def count(self, name: str) -> int:
        with self._arrived:
            return sum(event["event"] == name for event in self.events)

    def assert_alive_and_sane(self) -> None:
        """Fails if it ended, or wrote anything that is not a log line of ours."""
        assert self.process.poll() is None and not self.output, str(self)

    def stop(self, number: int = signal.SIGTERM, timeout: float = 10.0) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
        status = self.process.wait()
        self._collector.join()
        return status

    def __str__(self) -> str:
        told = "\n  ".join([*map(json.dumps, self.events), *self.output])
        return f"udppunch {self.name} (exit status {self.process.poll()})\n  {told}"

    def _collect(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as lines:
            for line in lines:
                with self._arrived:
                    self._take(line.rstrip("\n"))
                    self._arrived.notify_all()
        with self._arrived:
            self._ended = True
            self._arrived.notify_all()

    def _take(self, line: str) -> None:
        try:
            event = json.loads(line)
        except ValueError:
            self.output.append(line)
            return
        self.events.append(event)
        if event["event"] == "failed":  # as it would be said to a person
            self.output.append(f"udppunch: {event['message']}")


def text(address: SocketAddress) -> str:
    return f"{address[0]}:{address[1]}"


def rendezvous(listen: Optional[SocketAddress] = None, **keywords: Any) -> Program:
    listen = listen or ("127.0.0.1", free_port())
    return Program("rendezvous", text(listen), **keywords)


def serve(
    forward: SocketAddress, meeting: SocketAddress, *options: str, **keywords: Any
) -> Program:
    return Program("serve", text(forward), text(meeting), *options, **keywords)


def connect(
    meeting: SocketAddress,
    *options: str,
    listen: Optional[SocketAddress] = None,
    **keywords: Any,
) -> Program:
    listen = listen or ("127.0.0.1", free_port())
    return Program("connect", text(listen), text(meeting), *options, **keywords)
