"""What a daemon leaves to the one that takes its place, so that an upgrade drops no path.

These are open files: the sockets of a role that workers share, with what the kernel queues in
them meanwhile; the memory that its workers share; and a file without a name in which its
registrar writes down what it knows. Other roles have sockets that outlive them, whose names say
what they are for. They come by as files do from a service manager
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
from typing import Any, Dict, Iterable, Iterator, List, Mapping, Optional, Sequence, Set, Tuple

from udppunch import address
from udppunch.address import Address
from udppunch.contract import Endpoint
from udppunch.net import reuseport, sockaddr
from udppunch.net.area import Area
from udppunch.proc.bequest import CANNOT_BE_HANDED_OVER, Bequest
from udppunch.proc.kinds import KINDS
from udppunch.proc.systemd import FIRST_DESCRIPTOR, Notifier
from udppunch.wire import registrar as wire
from udppunch.wire.malformed import Malformed

log = logging.getLogger(__name__)

_FORMAT = 1
_MEMORY, _WILL, _SOCKET = "memory", "will", "socket"
_OUTLIVING = "outliving-"
_IP = (socket.AF_INET, socket.AF_INET6)
# Of a variable; the kernel takes 128 KiB of one. That is enough for 3,800 connectees.
_LONGEST_NAMES = 128000
_VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")


class Inheritance:
    """What came by, sockets by their address and other files by their name."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._sockets: Dict[Address, List[socket.socket]] = {}
        self._outliving: Dict[str, socket.socket] = {}
        self._files: Dict[str, int] = {}
        described = _described(environment)
        self.names = {name for name, _ in described if name}
        for variable in _VARIABLES:
            os.environ.pop(variable, None)
        self.receive(described)

    def receive(self, described: Iterable[Tuple[str, int]]) -> None:
        """More files, with their names."""
        outliving: Dict[str, List[socket.socket]] = {}
        for name, sock in self._udp_sockets(described):
            sock.setblocking(False)
            if name.startswith(_OUTLIVING):
                outliving.setdefault(name[len(_OUTLIVING) :], []).append(sock)
            else:
                where = sockaddr.from_tuple(sock.getsockname())
                self._sockets.setdefault(where, []).append(sock)
        for name, found in outliving.items():
            self._note_outliving(name, found)

    def sockets(self, bind: Address) -> List[socket.socket]:
        """Those at that address, to be the caller's."""
        return self._sockets.pop(bind, [])

    def count(self, bind: Address) -> int:
        """How many there are at that address."""
        return len(self._sockets.get(bind, ()))

    def lend(self, bind: Address) -> Optional[socket.socket]:
        """One at that address, which is kept for who comes next as well."""
        kept = self._sockets.get(bind)
        if not kept:
            return None
        for sock in kept[1:]:
            log.warning("%s: one socket is enough, the others are closed", address.text(bind))
            sock.close()
        del kept[1:]
        return kept[0].dup()

    def file(self, name: str) -> Optional[int]:
        """To be the caller's."""
        return self._files.pop(name, None)

    def outliving(self) -> List[str]:
        """The names of the sockets that outlived their roles."""
        return list(self._outliving)

    def pass_on(self, bequest: Bequest) -> None:
        """Let go of the sockets that outlived their roles to who has those roles now."""
        bequest.leave(self._files_of_outliving())
        self.let_go(self.outliving())

    def take(self, endpoint: Endpoint) -> Optional[socket.socket]:
        """The socket that outlived its role, if it leads to where the endpoint does."""
        sock = self._outliving.pop(endpoint.handed_over_as, None)
        if sock is None:
            return None
        if sock.family == sockaddr.family(endpoint.bind) and _remote(sock) == endpoint.remote:
            return sock
        sock.close()
        return None

    def wants(self, endpoint: Endpoint) -> bool:
        """Whether its socket is to outlive its role: what has a name, and what listens."""
        if endpoint.handed_over_as:
            return endpoint.handed_over_as not in self._outliving
        listens = endpoint.essential and address.port(endpoint.bind) != 0
        return listens and endpoint.label not in KINDS and endpoint.bind not in self._sockets

    def hold(self, sockets: Mapping[Endpoint, socket.socket]) -> None:
        """Those that are to outlive their roles, beside those that a role has yet to take."""
        for endpoint, sock in sockets.items():
            if endpoint.handed_over_as:
                self._outliving[endpoint.handed_over_as] = sock
            else:
                self._sockets[endpoint.bind] = [sock]

    def let_go(self, names: Iterable[str]) -> None:
        """Nobody is going to take these."""
        for name in names:
            self._outliving.pop(name).close()

    def keep(self, binds: Sequence[Address]) -> None:
        """Let go of the sockets that are at none of these."""
        for bind in [bind for bind in self._sockets if bind not in _with_ipv4(binds)]:
            where = address.text(bind)
            log.warning("no role listens on %s, whose socket was handed over: closed", where)
            for sock in self._sockets.pop(bind):
                sock.close()

    def files(self) -> Dict[str, int]:
        """The sockets that are kept, by name."""
        kept = [sock for sockets in self._sockets.values() for sock in sockets]
        return {
            **{f"lent-{_SOCKET}-{at:03}": sock.fileno() for at, sock in enumerate(kept)},
            **self._files_of_outliving(),
        }

    def _files_of_outliving(self) -> Dict[str, int]:
        return {f"{_OUTLIVING}{name}": sock.fileno() for name, sock in self._outliving.items()}

    def _udp_sockets(
        self, described: Iterable[Tuple[str, int]]
    ) -> Iterator[Tuple[str, socket.socket]]:
        """Each once. Files that are no sockets are noted on the way, other sockets closed."""
        # Our own names tell their order, which a service manager need not keep; and what it keeps
        # it may have opened itself, and hand over twice.
        seen = {os.fstat(number).st_ino for number in self.files().values()}
        for name, number in sorted(described, key=lambda one: (_SOCKET not in one[0], one[0])):
            os.set_inheritable(number, False)
            status = os.fstat(number)
            if not stat.S_ISSOCK(status.st_mode):
                if name in self._files:
                    os.close(number)
                self._files.setdefault(name, number)
            elif status.st_ino in seen:
                os.close(number)
            else:
                seen.add(status.st_ino)
                sock = socket.socket(fileno=number)
                if sock.type == socket.SOCK_DGRAM and sock.family in _IP:
                    yield name, sock
                else:
                    log.warning("a socket was handed over that is not of UDP: closed")
                    sock.close()

    def _note_outliving(self, name: str, found: List[socket.socket]) -> None:
        """Of several that have one name nobody knows which is the right one."""
        if name in self._outliving:
            found.append(self._outliving.pop(name))
        if len(found) == 1:
            (self._outliving[name],) = found
            return
        for sock in found:
            sock.close()


class Estate:
    """What a role with workers has, from its predecessor where there was one."""

    def __init__(
        self, role: str, group: int, config: Any, workers: int, inheritance: Inheritance
    ) -> None:
        self.role = role
        self.group = group
        self.config = config
        self._prefix = f"{role}-{group}"
        self.workers = max(map(inheritance.count, _with_ipv4(config.binds))) or workers
        if self.workers != workers:
            said = "%s: as many workers as sockets were handed over: %s"
            log.warning(said, role, self.workers)
        self.sockets = [self._group(bind, inheritance) for bind in config.binds]
        self.inherited = self._read(inheritance.file(f"{self._prefix}-{_WILL}"))
        memory = inheritance.file(f"{self._prefix}-{_MEMORY}")
        if memory is not None and self.inherited is None:
            os.close(memory)
            memory = None
        self.area = Area(role, memory)
        self._will = Area(role)

    def _group(self, bind: Address, inheritance: Inheritance) -> List[socket.socket]:
        """A socket for each worker at that address."""
        binds = self.config.binds
        for at in (bind, _ipv4_of(bind)) if _ipv4_of(bind) not in binds else (bind,):
            found = inheritance.sockets(at)
            if len(found) == self.workers:
                return found
            for sock in found:  # opened by a manager for fewer workers, or for more
                sock.close()
        return reuseport.bind_groups([bind], self.workers, self.role, among=binds)[0]

    def write(self, known: Sequence[wire.Message]) -> None:
        """What the registrar knows, for who comes next."""
        if self._will.descriptor is not None:
            records = b"".join(map(wire.encode, known))
            os.pwrite(self._will.descriptor, self._header() + records, 0)

    def files(self) -> Dict[str, int]:
        """What there is to hand over, by name; sockets in the order of the names."""
        numbers = {
            f"{_SOCKET}-{place:03}-{worker:03}": sock.fileno()
            for place, group in enumerate(self.sockets)
            for worker, sock in enumerate(group)
        }
        for name, area in ((_MEMORY, self.area), (_WILL, self._will)):
            if area.descriptor is not None:
                numbers[name] = area.descriptor
        return {f"{self._prefix}-{name}": number for name, number in numbers.items()}

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
            file.seek(0)  # the place may be where who wrote it was
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


def leave_to_manager(
    estates: Sequence[Estate], inheritance: Inheritance, notifier: Notifier
) -> bool:
    """Have the service manager keep it for the next process; whether it does."""
    files = [one for estate in estates for one in estate.files().items()]
    files += inheritance.files().items()
    return all(notifier.store(name, number) for name, number in files) and notifier.wait()


def replace_self(
    estates: Sequence[Estate], inheritance: Inheritance, command: Sequence[str]
) -> None:
    """Become the program that is installed now. Raises OSError if that can't be; else it does
    not return."""
    files: Dict[str, int] = {}
    for estate in estates:
        files.update(estate.files())
    length = sum(len(name) + 1 for name in files)
    inherited = inheritance.files()
    for name, number in inherited.items():
        length += len(name) + 1
        if length <= _LONGEST_NAMES:
            files[name] = number
    left_out = len(inherited.keys() - files.keys())
    if left_out:
        log.warning(CANNOT_BE_HANDED_OVER, left_out, "their names are too long together")
    _put_in_order(list(files.values()))
    environment = {
        **os.environ,
        "LISTEN_PID": str(os.getpid()),
        "LISTEN_FDS": str(len(files)),
        "LISTEN_FDNAMES": ":".join(files),
    }
    os.execve(command[0], list(command), environment)


def _remote(sock: socket.socket) -> Optional[Address]:
    try:
        return sockaddr.from_tuple(sock.getpeername())
    except OSError:
        return None


def _ipv4_of(bind: Address) -> Address:
    """Where the IPv6 wildcard is on a host without IPv6; any other address as it is."""
    wildcard = address.is_wildcard(bind)
    return address.with_port(address.ANY_IPV4, address.port(bind)) if wildcard else bind


def _with_ipv4(binds: Sequence[Address]) -> Set[Address]:
    return {*binds, *map(_ipv4_of, binds)}


def _put_in_order(numbers: List[int]) -> None:
    """Make these files the first ones, inheritable, with one descriptor to spare at the most: a
    daemon may have almost all that it is allowed to."""
    places = {number: at for at, number in enumerate(numbers)}
    for at, target in enumerate(range(FIRST_DESCRIPTOR, FIRST_DESCRIPTOR + len(numbers))):
        number = numbers[at]
        del places[number]
        if number == target:
            os.set_inheritable(number, True)
            continue
        displaced = places.pop(target, None)
        if displaced is not None:  # its turn is to come
            numbers[displaced] = fcntl.fcntl(target, fcntl.F_DUPFD_CLOEXEC, target)
            places[numbers[displaced]] = displaced
        os.dup2(number, target, inheritable=True)
        os.close(number)


def _described(environment: Mapping[str, str]) -> List[Tuple[str, int]]:
    """The names and numbers of the files that were handed to this very process."""
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
            described.append((name, number))
    return described
