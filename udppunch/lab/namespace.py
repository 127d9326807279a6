"""A network namespace without a name, held by a descriptor, and what configures it.

The calling thread steps inside for a moment (setns) to open a socket, to start a process or to
write a sysctl, and steps back; `ip` and `nft` are started inside and fed by their standard
input, so that a whole machine costs one process of each.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence

from udppunch.errors import EX_UNAVAILABLE, CommandError

CLONE_NEWUSER = 0x10000000
CLONE_NEWNET = 0x40000000

_OWN = "/proc/thread-self/ns/net"
_PACKAGES = {"ip": "iproute2", "nft": "nftables", "conntrack": "conntrack"}
_PATH = "/usr/sbin:/sbin:/usr/bin:/bin"  # an ordinary user's often lacks the first two
_TOOL_TIMEOUT = 30.0


class LabError(CommandError):
    """The lab can't be built or changed; one line says why and what to do."""

    def __init__(self, message: str) -> None:
        super().__init__(message, EX_UNAVAILABLE)


class Namespace:
    """A new, empty network namespace. `close` gives it up."""

    def __init__(self) -> None:
        home = os.open(_OWN, os.O_RDONLY)
        try:
            unshare(CLONE_NEWNET)
            try:
                self.fd = os.open(_OWN, os.O_RDONLY)
            finally:
                _setns(home)
        finally:
            os.close(home)

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """The calling thread, and what it starts or opens, is in the namespace."""
        home = os.open(_OWN, os.O_RDONLY)
        try:
            _setns(self.fd)
            try:
                yield
            finally:
                _setns(home)
        finally:
            os.close(home)

    def sysctl(self, values: Sequence[tuple[str, int]]) -> None:
        """Write `net.` sysctls, the names given as paths; those the kernel lacks are left out."""
        with self.inside():
            for name, value in values:
                try:
                    with open(f"/proc/sys/net/{name}", "w", encoding="utf-8") as file:
                        file.write(str(value))
                except FileNotFoundError:
                    pass
                except OSError as error:
                    reason = f"cannot write sysctl net/{name}: {error.strerror}"
                    raise LabError(reason) from None

    def ip(self, commands: Sequence[str], others: Sequence[Namespace] = ()) -> None:
        """Run `ip` commands; they may name `others` by `path`."""
        self.tool(["ip", "-batch", "-"], "\n".join(commands) + "\n", others)

    def nft(self, text: str) -> None:
        """Load rules, all or none."""
        self.tool(["nft", "-f", "-"], text)

    def tool(self, argv: Sequence[str], text: str = "", others: Sequence[Namespace] = ()) -> str:
        """Run one of the tools inside, feed it `text`, and return what it prints."""
        path = find_tool(argv[0])
        with self.inside():
            process = subprocess.Popen(
                [path, *argv[1:]],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                pass_fds=[namespace.fd for namespace in others],
            )
        with process:
            try:
                output, errors = process.communicate(text, timeout=_TOOL_TIMEOUT)
            except subprocess.TimeoutExpired:
                process.kill()
                raise LabError(f"{' '.join(argv)} did not end") from None
        if process.returncode:
            lines = errors.strip().splitlines() or [f"exit status {process.returncode}"]
            raise LabError(f"{' '.join(argv)}: {lines[0]}")
        return output

    @property
    def path(self) -> str:
        """What `ip` takes for `netns`, in a tool that was given this namespace."""
        return f"/proc/self/fd/{self.fd}"

    @property
    def inode(self) -> int:
        """The kernel's number for the namespace, unique while it exists."""
        return os.fstat(self.fd).st_ino

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def find_tool(name: str) -> str:
    """Where the tool is. Raises LabError naming the package that brings it."""
    found = shutil.which(name) or shutil.which(name, path=_PATH)
    if found is None:
        raise LabError(f"the lab needs `{name}`: install the package {_PACKAGES[name]}")
    return found


def require_tools() -> None:
    for name in _PACKAGES:
        find_tool(name)


def unshare(flags: int) -> None:
    _call("unshare", flags)


def _setns(fd: int) -> None:
    _call("setns", fd, CLONE_NEWNET)


def _call(name: str, *arguments: int) -> None:
    """Call the C library (`os` has these from Python 3.12 on only)."""
    function = getattr(ctypes.CDLL(None, use_errno=True), name, None)
    if function is None:
        raise LabError("the lab needs Linux")
    if function(*arguments):
        number = ctypes.get_errno()
        raise LabError(f"{name}: {os.strerror(number)}")
