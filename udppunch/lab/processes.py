"""Ends what runs in a lab's namespaces, also when the maker was killed and could not.

Every lab has a guard: a child that waits for the maker's end and then kills each process found
in one of the lab's namespaces, so that workers whose supervisor is gone are ended as well.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
import warnings
from collections.abc import Collection, Iterable
from typing import Callable, NoReturn

from udppunch.lab.namespace import Namespace

_PERSISTENCE = 5.0  # seconds to go on killing what still appears


def fork(work: Callable[[], None], keep: Iterable[int]) -> int:
    """Run `work` in a child that has no descriptors but `keep`, nor the caller's terminal."""
    with warnings.catch_warnings():
        # The warning is about locks that other threads hold; the child takes none of theirs.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        _be_child(work, set(keep))
    return pid


def _be_child(work: Callable[[], None], keep: Collection[int]) -> NoReturn:
    status = 1
    try:
        os.setsid()
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        null = os.open(os.devnull, os.O_RDWR)
        for standard in (0, 1, 2):
            os.dup2(null, standard)
        for fd in [int(name) for name in os.listdir("/proc/self/fd")]:
            if fd > 2 and fd not in keep:
                with contextlib.suppress(OSError):
                    os.close(fd)
        work()
        status = 0
    finally:
        os._exit(status)


def end_child(pid: int) -> None:
    """Kill a child of ours and reap it."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, 0)


def guard(namespaces: Collection[Namespace]) -> int:
    """Start the guard of these namespaces and return its process identifier."""
    maker = os.pidfd_open(os.getpid())
    # The guard holds the namespaces open: their numbers can't come to mean others meanwhile.
    inodes = {namespace.inode for namespace in namespaces}

    def wait_and_end() -> None:
        poll = select.poll()
        poll.register(maker, select.POLLIN)
        poll.poll()
        end_all_inside(inodes)

    try:
        return fork(wait_and_end, [maker, *(namespace.fd for namespace in namespaces)])
    finally:
        os.close(maker)


def end_all_inside(inodes: Collection[int]) -> None:
    """Kill every process in the namespaces but the caller, and see them gone."""
    deadline = time.monotonic() + _PERSISTENCE
    while _kill_all_inside(inodes) and time.monotonic() < deadline:
        time.sleep(0.002)


def _kill_all_inside(inodes: Collection[int]) -> int:
    """Returns how many there were."""
    found = 0
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        # A process may end, and its number go to another, at any moment: look and kill through
        # one descriptor, which goes on meaning the same process.
        with contextlib.suppress(OSError):
            pidfd = os.pidfd_open(int(name))
            try:
                if os.stat(f"/proc/{name}/ns/net").st_ino in inodes:
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                    found += 1
            finally:
                os.close(pidfd)
    return found
