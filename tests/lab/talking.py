"""Those who talk, as processes with pipes for input and output, and the server that they meet at.

    with server() as meeting, peer(meeting.holepunch, "bob") as bob:
        with peer(meeting.holepunch, "alice", "bob") as alice:
            alice.write(b"a line\\n")
            bob.wait_heard(b"a line\\n")

`popen` takes what `subprocess.Popen` takes; a lab passes one that starts in its host.
"""

from __future__ import annotations

import os
import select
import subprocess
import threading
import time
from typing import Any, Callable, Optional, Sequence

from tests.ports import free_port
from tests.program import Popen, Program, SocketAddress, text

LOOPBACK = "127.0.0.1"
CORE = "203.0.113.10"  # of a lab
HOLEPUNCH_PORT = 39738
CHAT_PORT = 9001

# So long something may take that takes a moment: the machine may be busy with something else.
PATIENCE = 60.0

_CHUNK = 65536


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Until it comes true, for reasons that nobody tells of."""
    due = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < due, f"{what} did not come"
        time.sleep(0.02)


class Talker(Program):
    """`heard` is what it put out so far. `redirected` is for the shell, as `</dev/null`."""

    def __init__(
        self, *arguments: str, redirected: str = "", popen: Popen = subprocess.Popen
    ) -> None:
        def start(words: Sequence[str], **options: Any) -> "subprocess.Popen[str]":
            if redirected:
                words = ["sh", "-c", f'exec "$@" {redirected}', "sh", *words]
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
            return popen(words, **{**options, **pipes})

        super().__init__(*arguments, popen=start)
        assert self.process.stdin is not None and self.process.stdout is not None
        self._stdin = self.process.stdin.fileno()
        self._stdout = self.process.stdout.fileno()
        os.set_blocking(self._stdin, False)
        self._octets = bytearray()
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def __enter__(self) -> Talker:
        return self

    @property
    def heard(self) -> bytes:
        with self._arrived:
            return bytes(self._octets)

    def write(self, data: bytes) -> None:
        """Puts it in, as fast as it is read; fails when it is not."""
        left = memoryview(data)
        while left:
            assert select.select([], [self._stdin], [], PATIENCE)[1], f"reads no more: {self}"
            left = left[os.write(self._stdin, left[:_CHUNK]) :]

    def say(self, *lines: str) -> None:
        self.write("".join(f"{line}\n" for line in lines).encode())

    def end_input(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        """Until that comes true by something that the process writes, to wherever it does."""
        due = time.monotonic() + PATIENCE
        with self._arrived:
            while not condition():
                left = due - time.monotonic()
                over = self._ended and not self._listener.is_alive()
                assert left > 0 and not over, f"{what} did not come: {self}"
                self._arrived.wait(min(left, 0.1 if self._ended else left))

    def wait_heard(self, part: bytes, count: int = 1) -> None:
        self.wait(lambda: self._octets.count(part) >= count, f"{count}. {part!r}")

    def wait_told(self, part: str, count: int = 1) -> str:
        """The `count`th line on standard error, but for the log's, with that in it."""
        self.wait(lambda: len(self._told(part)) >= count, f"{count}. {part!r}")
        with self._arrived:
            return self._told(part)[count - 1]

    def told(self, part: str) -> int:
        """How many such lines there are."""
        with self._arrived:
            return len(self._told(part))

    def wait_exit(self, patience: float = PATIENCE) -> int:
        """The status that it ends with by itself."""
        try:
            status = self.process.wait(patience)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"did not end: {self}") from None
        self._listener.join()
        self._collector.join()
        assert not self._insane(), str(self)
        return status

    def assert_alive_and_sane(self) -> None:
        assert self.process.poll() is None and not self._insane(), str(self)

    def stop(self, *arguments: Any) -> int:
        status = super().stop(*arguments)
        self._listener.join()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()
        return status

    def __str__(self) -> str:
        return f"{super().__str__()}\n  heard {len(self._octets)}: {bytes(self._octets[-500:])!r}"

    def _told(self, part: str) -> "list[str]":
        return [line for line in self.output if part in line]

    def _insane(self) -> bool:
        """Whether there is a line that no command may end with."""
        with self._arrived:
            return bool(self._told("internal error") + self._told("Traceback"))

    def _listen(self) -> None:
        while True:
            data = os.read(self._stdout, _CHUNK)
            with self._arrived:
                self._octets += data
                self._arrived.notify_all()
            if not data:
                return


class Chatter(Talker):
    def __enter__(self) -> Chatter:
        return self

    @property
    def id(self) -> str:
        return self.wait_told("your id: ").removeprefix("your id: ")

    @property
    def fingerprint(self) -> str:
        return self.wait_told("your fingerprint: ").removeprefix("your fingerprint: ")


class Meeting(Program):
    """Our server, of both protocols."""

    def __init__(
        self,
        holepunch: SocketAddress,
        chat: SocketAddress,
        *options: str,
        popen: Popen = subprocess.Popen,
    ) -> None:
        self.holepunch = holepunch
        self.chat = chat
        addresses = ("--holepunch", text(holepunch), "--chat", text(chat))
        super().__init__("rendezvous", *addresses, "--control", "none", *options, popen=popen)

    def __enter__(self) -> Meeting:
        self.wait_event("listening", count=2)
        return self


def server(ip: Optional[str] = None, **keywords: Any) -> Meeting:
    """On the usual ports of that address, or on free ones of this machine."""
    if ip is not None:
        return Meeting((ip, HOLEPUNCH_PORT), (ip, CHAT_PORT), **keywords)
    return Meeting((LOOPBACK, free_port()), (LOOPBACK, free_port()), **keywords)


def peer(
    meeting: SocketAddress, name: str, remote: str = "", *options: str, **keywords: Any
) -> Talker:
    names = (name, remote) if remote else (name,)
    return Talker("peer", *options, text(meeting), *names, **keywords)


def chat(
    meeting: SocketAddress, name: str, peer_id: str = "", *options: str, **keywords: Any
) -> Chatter:
    sought = ("--peer", peer_id) if peer_id else ()
    return Chatter("chat", *options, "--name", name, *sought, text(meeting), **keywords)
