"""A stand-in for the service manager: hears a daemon, keeps its files, and starts it with them.

It does what systemd does. The daemon tells it things by a datagram socket (sd_notify(3)). What it
is to keep it keeps under the names given, in no particular order, for all starts to come. A barrier
is the end of a pipe, which it closes once it heard all before. The files of a start stand from 3
on (sd_listen_fds(3)): those of the socket unit, then those that were kept.

    service_manager.py NUMBERS NAMES COMMAND ...

As a program it makes these descriptors stand so, as those of this very process, and becomes the
command.
"""

from __future__ import annotations

import array
import fcntl
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, Dict, List, Mapping, NamedTuple, NoReturn, Sequence, Tuple

FIRST = 3
_LONGEST = 4096
_MOST_FILES = 253  # SCM_MAX_FD of Linux


class Told(NamedTuple):
    """One message: its assignments, and how many files came with it."""

    assignments: Dict[str, str]
    files: int


class ServiceManager:
    """One service. `sockets` are those of its socket unit, each with its name."""

    def __init__(self, folder: Path, sockets: Sequence[Tuple[str, socket.socket]] = ()) -> None:
        self.path = str(folder / "notify")
        self.stored: List[Tuple[str, int]] = []
        self._sockets = [(name, sock.fileno()) for name, sock in sockets]
        self._told: List[Told] = []
        self._arrived = threading.Condition()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.path)
        self._thread = threading.Thread(target=self._hear, daemon=True)
        self._thread.start()

    def __enter__(self) -> ServiceManager:
        return self

    def __exit__(self, *_: object) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as own:
            own.sendto(b"", self.path)
        self._thread.join()
        self._socket.close()
        self.forget()

    @property
    def told(self) -> List[Told]:
        with self._arrived:
            return list(self._told)

    def values(self, name: str) -> List[str]:
        """All that was assigned to it, in order."""
        return [told.assignments[name] for told in self.told if name in told.assignments]

    def wait_told(self, name: str, count: int = 1, timeout: float = 20.0) -> str:
        """The value that it was given the `count`th time, from the start or still to come."""
        with self._arrived:
            assert self._arrived.wait_for(lambda: len(self._values(name)) >= count, timeout), (
                f"{count}. {name} did not come: {self._told}"
            )
            return self._values(name)[count - 1]

    def forget(self) -> None:
        """Closes what it keeps."""
        for _, number in self.stored:
            os.close(number)
        self.stored.clear()

    def popen(
        self, arguments: Sequence[str], *, env: Mapping[str, str] = os.environ, **more: Any
    ) -> "subprocess.Popen[str]":
        """Starts the service, with what its socket unit and its former process have open."""
        files = [*self._sockets, *self.stored]
        numbers = [number for _, number in files]
        names = ":".join(name for name, _ in files)
        command = [sys.executable, "-I", "-S", __file__, ",".join(map(str, numbers)), names]
        return subprocess.Popen(
            [*command, *arguments],
            env={**env, "NOTIFY_SOCKET": self.path},
            pass_fds=numbers,
            **more,
        )

    def _values(self, name: str) -> List[str]:
        return [told.assignments[name] for told in self._told if name in told.assignments]

    def _store(self, name: str, number: int) -> None:
        """Before all others, unless it is there already: it stays from start to start."""
        if any(os.path.sameopenfile(number, kept) for _, kept in self.stored):
            os.close(number)
        else:
            self.stored.insert(0, (name, number))

    def _remove(self, name: str) -> None:
        for _, number in (each for each in self.stored if each[0] == name):
            os.close(number)
        self.stored = [each for each in self.stored if each[0] != name]

    def _hear(self) -> None:
        room = socket.CMSG_SPACE(_MOST_FILES * array.array("i").itemsize)
        while True:
            text, ancillary, _, _ = self._socket.recvmsg(_LONGEST, room)
            if not text:
                return
            files = array.array("i")
            for level, kind, data in ancillary:
                if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                    files.frombytes(data[: len(data) - len(data) % files.itemsize])
            assignments = dict(line.split("=", 1) for line in text.decode().split("\n"))
            name = assignments.get("FDNAME", "stored")
            if assignments.get("FDSTORE") == "1":
                for number in files:
                    self._store(name, number)
            else:
                for number in files:
                    os.close(number)
            if assignments.get("FDSTOREREMOVE") == "1":
                self._remove(name)
            with self._arrived:
                self._told.append(Told(assignments, len(files)))
                self._arrived.notify_all()


def main(numbers: str, names: str, *command: str) -> NoReturn:
    given = [int(number) for number in numbers.split(",") if number]
    beyond = FIRST + len(given)
    # Out of the way first: one of them may be where another one is to be.
    moved = [fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, beyond) for number in given]
    for number in given:
        os.set_inheritable(number, False)
    for at, number in enumerate(moved, FIRST):
        os.dup2(number, at)
    listen = {
        "LISTEN_PID": str(os.getpid()),
        "LISTEN_FDS": str(len(given)),
        "LISTEN_FDNAMES": names,
    }
    os.execve(command[0], command, {**os.environ, **(listen if given else {})})


if __name__ == "__main__":
    main(*sys.argv[1:])
