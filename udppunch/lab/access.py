"""Whether this process may make namespaces, and how an ordinary user comes to."""

from __future__ import annotations

import fcntl
import os
import socket
import struct

from udppunch.lab.namespace import CLONE_NEWNET, CLONE_NEWUSER, LabError, unshare

_CAP_NET_ADMIN = 12
_CAP_SYS_ADMIN = 21

_SIOCSIFFLAGS = 0x8914
_IFF_UP = 1


def capable() -> bool:
    """Whether this process already holds what a lab needs."""
    held = int(_status_field("CapEff"), 16)
    return all(held >> bit & 1 for bit in (_CAP_NET_ADMIN, _CAP_SYS_ADMIN))


def enter_user_namespace() -> None:
    """Let an ordinary user build labs: become root of a new user namespace, for good.

    The whole process goes there, and loses the host's network for an empty one of its own. Does
    nothing for a process that is capable already. Raises LabError where the system forbids it.
    """
    if capable():
        return
    if int(_status_field("Threads")) > 1:
        raise LabError(
            "a process with several threads can't enter a user namespace: start it in one, "
            "with `unshare -Urn`"
        )
    user, group = os.geteuid(), os.getegid()
    try:
        unshare(CLONE_NEWUSER | CLONE_NEWNET)
        _write("setgroups", "deny")
        _write("uid_map", f"0 {user} 1")
        _write("gid_map", f"0 {group} 1")
    except (LabError, OSError) as error:
        raise LabError(
            f"the lab needs root or user namespaces, which the system forbids ({error})"
        ) from None
    _raise_loopback()


def _raise_loopback() -> None:
    """What the caller does on the loopback address goes on working."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = struct.pack("16sH14x", b"lo", _IFF_UP)
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, request)


def _write(name: str, text: str) -> None:
    with open(f"/proc/self/{name}", "w", encoding="utf-8") as file:
        file.write(text)


def _status_field(name: str) -> str:
    with open("/proc/self/status", encoding="utf-8") as file:
        for line in file:
            key, _, value = line.partition(":")
            if key == name:
                return value.strip()
    raise LabError(f"/proc/self/status has no {name}")
