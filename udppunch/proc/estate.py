"""What a daemon leaves to the one that takes its place, so that an upgrade drops no path.

These are open files: the sockets of a role that workers share, with what the kernel queues in
them meanwhile; the memory that its workers share; and a file without a name in which its
registrar writes down what it knows. They come by as files do from a service manager
(sd_listen_fds(3)), whether this program was started anew or has replaced itself. Sockets that
were opened by a service manager are taken the same way, for any role, by their address.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import socket
import stat
from typing import Any, Dict, List, Mapping, Optional, Sequence

from udppunch.address import Address
from udppunch.net import reuseport, sockaddr
from udppunch.net.area import Area
from udppunch.proc.systemd import FIRST_DESCRIPTOR, Notifier
from udppunch.wire import registrar as wire
from udppunch.wire.malformed import Malformed

log = logging.getLogger(__name__)

_FORMAT = 1
_MEMORY, _WILL = "memory", "will"
_VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")


class Inheritance:
    """What came by. Each socket is given once; `close` lets go of what nobody wanted."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._sockets: Dict[Address, List[socket.socket]] = {}
        self._files: Dict[str, int] = {}
        for number, name in _described(environment):
            os.set_inheritable(number, False)
            if stat.S_ISSOCK(os.fstat(number).st_mode):
                self._note_socket(socket.socket(fileno=number))
            else:
                self._files[name] = number
        for variable in _VARIABLES:
            os.environ.pop(variable, None)

    def sockets(self, bind: Address) -> List[socket.socket]:
        """Those at that address."""
        return self._sockets.pop(bind, [])

    def count(self, bind: Address) -> int:
        """How many there are at that address."""
        return len(self._sockets.get(bind, ()))

    def file(self, name: str) -> Optional[int]:
        return self._files.pop(name, None)

    def close(self) -> None:
        for sockets in self._sockets.values():
            for sock in sockets:
                where = sock.getsockname()
                log.warning("no role wants the socket at %s that was handed over", where)
                sock.close()
        for number in self._files.values():
            os.close(number)
        self._sockets.clear()
        self._files.clear()

    def _note_socket(self, sock: socket.socket) -> None:
        if sock.type != socket.SOCK_DGRAM or sock.family not in (socket.AF_INET, socket.AF_INET6):
            log.warning("a socket was handed over that is not of UDP: closed")
            sock.close()
            return
        sock.setblocking(False)
        where = sockaddr.from_tuple(sock.getsockname())
        self._sockets.setdefault(where, []).append(sock)


class Estate:
    """What a role with workers has, from its predecessor where there was one."""

    def __init__(
        self, role: str, group: int, config: Any, workers: int, inheritance: Inheritance
    ) -> None:
        self.role = role
        self.group = group
        self.config = config
        inherited = [inheritance.count(bind) for bind in config.binds]
        self.workers = inherited[0] if inherited[0] else workers
        if all(count == self.workers for count in inherited):
            if self.workers != workers:
                log.warning(
                    "%s: as many workers as sockets were handed over: %s", role, self.workers
                )
            self.sockets = [inheritance.sockets(bind) for bind in config.binds]
        else:
            self.workers = workers
            self.sockets = reuseport.bind_groups(config.binds, workers, role)
        self._prefix = f"{role}-{group}"
        self.inherited = self._read(inheritance.file(f"{self._prefix}-{_WILL}"))
        memory = inheritance.file(f"{self._prefix}-{_MEMORY}")
        self.area = Area(role, memory if self.inherited is not None else None)
        self._will = Area(role)

    def write(self, known: Sequence[wire.Message]) -> None:
        """What the registrar knows, for who comes next."""
        if self._will.descriptor is not None:
            records = b"".join(map(wire.encode, known))
            os.pwrite(self._will.descriptor, self._header() + records, 0)

    def files(self) -> Dict[str, List[int]]:
        """What there is to hand over, by name."""
        numbers = {"sockets": [sock.fileno() for group in self.sockets for sock in group]}
        for name, area in ((_MEMORY, self.area), (_WILL, self._will)):
            if area.descriptor is not None:
                numbers[name] = [area.descriptor]
        return {f"{self._prefix}-{name}": listed for name, listed in numbers.items()}

    def _header(self) -> bytes:
        """Whoever would write another one cannot read what comes behind it."""
        places = [bind.hex() for bind in self.config.binds]
        names = [name for name, _ in getattr(self.config, "name", ())]
        header = {
            "format": _FORMAT, "role": self.role, "workers": self.workers, "listen": places,
            "names": names,
        }  # fmt: skip
        return json.dumps(header).encode() + b"\n"

    def _read(self, number: Optional[int]) -> Optional[List[wire.Message]]:
        if number is None:
            return None
        with os.fdopen(number, "rb") as file:
            content = file.read()
        header = self._header()
        if not content.startswith(header):
            log.warning("%s: handed over by another configuration: begun anew", self.role)
            return None
        try:
            return list(wire.decode(content[len(header) :]))
        except Malformed:
            log.warning("%s: what was handed over cannot be read: begun anew", self.role)
            return None


def leave_to_manager(estates: Sequence[Estate], notifier: Notifier) -> bool:
    """Have the service manager keep it for the next process; whether it does."""
    kept = [
        notifier.store(name, numbers)
        for estate in estates
        for name, numbers in estate.files().items()
    ]
    return all(kept) and notifier.wait()


def replace_self(estates: Sequence[Estate], command: Sequence[str]) -> None:
    """Become the program that is installed now. Raises OSError if that can't be; else it does
    not return."""
    names: List[str] = []
    numbers: List[int] = []
    for estate in estates:
        for name, listed in estate.files().items():
            names += [name] * len(listed)
            numbers += listed
    # Out of the way first: one of them may be where another one is to be.
    beyond = FIRST_DESCRIPTOR + len(numbers)
    moved = [_moved(number, beyond) for number in numbers]
    for at, number in enumerate(moved, FIRST_DESCRIPTOR):
        os.dup2(number, at, inheritable=True)
    environment = {
        **os.environ,
        "LISTEN_PID": str(os.getpid()),
        "LISTEN_FDS": str(len(moved)),
        "LISTEN_FDNAMES": ":".join(names),
    }
    os.execve(command[0], list(command), environment)


def _moved(number: int, beyond: int) -> int:
    return fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, beyond)


def _described(environment: Mapping[str, str]) -> "list[tuple[int, str]]":
    """The numbers and names of the files that were handed to this very process."""
    try:
        if int(environment.get("LISTEN_PID", "0")) != os.getpid():
            return []
        count = int(environment.get("LISTEN_FDS", "0"))
    except ValueError:
        return []
    names = environment.get("LISTEN_FDNAMES", "").split(":")
    names += [""] * (count - len(names))
    numbers = range(FIRST_DESCRIPTOR, FIRST_DESCRIPTOR + count)
    described = []
    for number, name in zip(numbers, names):
        with contextlib.suppress(OSError):
            os.fstat(number)
            described.append((number, name))
    return described
