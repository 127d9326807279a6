"""The kernel's batch calls through ctypes, and the structures they take: recvmmsg and sendmmsg."""

from __future__ import annotations

import ctypes
import mmap
import socket
import struct
from typing import List

from udppunch.net import offload

# struct mmsghdr: name, its size, I/O vector, its size, control data, its size, flags, and
# (aligned like a pointer, as the inner struct msghdr ends there) the message's length.
HEADER = struct.Struct("@PIPNPNi0PI0P")
NAME_SIZE_AT = struct.calcsize("@P")
CONTROL_SIZE_AT = struct.calcsize("@PIPNP")
FLAGS_AT = struct.calcsize("@PIPNPN")
LENGTH_AT = struct.calcsize("@PIPNPNi0P")
IOVEC = struct.calcsize("@PN")
WORD = struct.calcsize("@N")
_CMSG = struct.Struct("@Nii")  # cmsg_len, level, type

NAME = 32  # room for one socket address
CONTROL = 128  # room for one message's control data

DONTWAIT = int(socket.MSG_DONTWAIT)


def available() -> bool:
    """Whether this platform has both calls in the form that the layout above describes."""
    return offload.LINUX and hasattr(LIBC, "recvmmsg") and hasattr(LIBC, "sendmmsg")


# Declared argument types would cost more than the rest of the call's preparation; without
# them an integer passes as a C int, and pointers must be c_void_p, of which there is one made
# for each header that a call may start at.
LIBC = ctypes.CDLL(None, use_errno=True)


def pointers(start: int, count: int) -> List[ctypes.c_void_p]:
    return [ctypes.c_void_p(start + index * HEADER.size) for index in range(count)]


def anonymous(size: int) -> mmap.mmap:
    return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


def address_of(memory: mmap.mmap) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))


def _aligned(length: int) -> int:
    return -(-length // WORD) * WORD


def control_message(level: int, kind: int, data: bytes) -> bytes:
    head = _CMSG.pack(_CMSG.size + len(data), level, kind)
    return (head + data).ljust(_aligned(len(head) + len(data)), b"\0")


def control_messages(raw: bytes) -> offload.Ancillary:
    """Reads control data back; stops at a length that cannot be."""
    found: offload.Ancillary = []
    at = 0
    while at + _CMSG.size <= len(raw):
        length, level, kind = _CMSG.unpack_from(raw, at)
        if length < _CMSG.size or at + length > len(raw):
            break
        found.append((level, kind, raw[at + _CMSG.size : at + length]))
        at += _aligned(length)
    return found
