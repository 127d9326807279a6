"""Resolving names without stopping the loop: each lookup in a short-lived child process.

The system's resolver blocks for as long as a name server is silent. The child asks it and
writes what it found to a pipe that the loop watches; one that takes too long is killed.
"""

from __future__ import annotations

import ipaddress
import os
import resource
import signal
import socket
from typing import List, Optional, Tuple

from udppunch.address import Address
from udppunch.contract import Lookup
from udppunch.net import sockaddr

PATIENCE = 10.0  # seconds

_MOST_FOUND = 16
_MOST_READ = 4096  # what a pipe takes whole
_REASON = 0  # in place of an address's length: the rest is text

Answer = Tuple[List[Address], str]


def numeric(lookup: Lookup) -> Optional[Answer]:
    """The answer for a numeric address, for which nobody need be asked."""
    try:
        ip = sockaddr.unmapped(ipaddress.ip_address(lookup.host.partition("%")[0]).packed)
    except ValueError:
        return None
    if lookup.ipv4_only and len(ip) != 4:
        return [], f"{lookup.host} is not an IPv4 address"
    return [Address(ip + lookup.port.to_bytes(2, "big"))], ""


def ask(lookup: Lookup) -> Answer:
    """Asks the system's resolver, which may take long."""
    family = socket.AF_INET if lookup.ipv4_only else socket.AF_UNSPEC
    try:
        known = socket.getaddrinfo(lookup.host, lookup.port, family, socket.SOCK_DGRAM)
    except socket.gaierror as error:
        return [], _reason(lookup, error)
    except (UnicodeError, ValueError):
        return [], f"{lookup.host!r} is not a host name"
    found = [sockaddr.from_tuple(entry[4]) for entry in known]
    return list(dict.fromkeys(found))[:_MOST_FOUND], ""


def _reason(lookup: Lookup, error: socket.gaierror) -> str:
    number = error.errno
    if number == socket.EAI_NONAME:
        return f"the name {lookup.host} does not exist"
    if number == socket.EAI_AGAIN:
        return f"the name server does not answer for {lookup.host}"
    if number == socket.EAI_FAIL:
        return f"the name server cannot answer for {lookup.host}"
    if number in (getattr(socket, "EAI_NODATA", None), getattr(socket, "EAI_ADDRFAMILY", None)):
        return f"the name {lookup.host} has no {'IPv4 ' if lookup.ipv4_only else ''}address"
    return f"cannot resolve {lookup.host}: {error.strerror}"


class Resolution:
    """A lookup under way; `pipe` becomes readable when `answer` may be called."""

    def __init__(self, lookup: Lookup, now: float) -> None:
        self.lookup = lookup
        self.deadline = now + PATIENCE
        self.pipe, theirs = os.pipe()
        try:
            self._child = os.fork()
        except OSError:
            os.close(self.pipe)
            os.close(theirs)
            raise
        if not self._child:
            _run_child(lookup, theirs)
        os.close(theirs)

    def answer(self) -> Answer:
        try:
            answer = _unpack(os.read(self.pipe, _MOST_READ))
        finally:
            self.end()
        if not any(answer):
            return [], f"cannot resolve {self.lookup.host}: the helper process failed"
        return answer

    def too_late(self) -> Answer:
        self.end()
        return [], f"no answer for {self.lookup.host} within {PATIENCE:.0f} seconds"

    def end(self) -> None:
        """Kills the child if it still runs, and buries it."""
        os.close(self.pipe)
        try:
            os.kill(self._child, signal.SIGKILL)
            os.waitpid(self._child, 0)
        except (ProcessLookupError, ChildProcessError):
            pass  # whoever handles SIGCHLD here was first


def _run_child(lookup: Lookup, pipe: int) -> None:
    """Never returns: the parent's stack, sockets and handlers are not the child's to use."""
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        os.closerange(3, pipe)
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        os.closerange(pipe + 1, limit if limit != resource.RLIM_INFINITY else 1 << 16)
        os.write(pipe, _pack(ask(lookup)))
    finally:
        os._exit(0)


def _pack(answer: Answer) -> bytes:
    found, reason = answer
    if reason:
        return bytes([_REASON]) + reason.encode()[: _MOST_READ - 1]
    return b"".join(bytes([len(each)]) + each for each in found)


def _unpack(data: bytes) -> Answer:
    if data[:1] == bytes([_REASON]):
        return [], data[1:].decode(errors="replace")
    found: List[Address] = []
    at = 0
    while at < len(data):
        end = at + 1 + data[at]
        found.append(Address(data[at + 1 : end]))
        at = end
    return found, ""
