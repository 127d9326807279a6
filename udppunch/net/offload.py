"""Kernel features that make UDP cheaper or more exact, each probed where it is used.

The numbers are Linux's, which Python's socket module does not all name. They are applied
under `LINUX` alone, and a kernel that refuses one merely goes without it.
"""

from __future__ import annotations

import socket
import struct
import sys
from typing import Iterable, List, Tuple

from udppunch.net.sockaddr import mapped, unmapped

LINUX = sys.platform.startswith("linux")

SOL_UDP = 17
UDP_SEGMENT = 103
UDP_GRO = 104
SO_SNDBUFFORCE = 32
SO_RCVBUFFORCE = 33
IP_PKTINFO = 8
IP_MTU_DISCOVER = 10
IP_PMTUDISC_OMIT = 5
IPV6_MTU_DISCOVER = 23
IPV6_RECVPKTINFO = 49
IPV6_PKTINFO = 50

IN_PKTINFO = struct.Struct("=I4s4s")  # interface, the address to answer from, header's address
IN6_PKTINFO = struct.Struct("=16sI")

Ancillary = List[Tuple[int, int, bytes]]


def _accepts(sock: socket.socket, level: int, option: int, value: int) -> bool:
    try:
        sock.setsockopt(level, option, value)
    except OSError:
        return False
    return True


def receive_coalesced(sock: socket.socket, wanted: bool) -> bool:
    """Lets the kernel hand over trains of datagrams in one piece (UDP_GRO), or has it cease to."""
    return LINUX and _accepts(sock, SOL_UDP, UDP_GRO, int(wanted)) and wanted


def send_segmented(sock: socket.socket) -> bool:
    """Whether the kernel knows UDP_SEGMENT; 0 leaves the socket itself as it is."""
    return LINUX and _accepts(sock, SOL_UDP, UDP_SEGMENT, 0)


def size_buffers(sock: socket.socket, receive: int, send: int) -> None:
    """Asks for so many bytes each way; over the administrator's limit only where allowed."""
    for forced, option, size in (
        (SO_RCVBUFFORCE, socket.SO_RCVBUF, receive),
        (SO_SNDBUFFORCE, socket.SO_SNDBUF, send),
    ):
        if not (LINUX and _accepts(sock, socket.SOL_SOCKET, forced, size)):
            _accepts(sock, socket.SOL_SOCKET, option, size)


def ignore_path_mtu(sock: socket.socket) -> None:
    """Fragments rather than believes "fragmentation needed", which anybody can forge."""
    if not LINUX:
        return
    if sock.family == socket.AF_INET6:
        _accepts(sock, socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER, IP_PMTUDISC_OMIT)
    else:
        _accepts(sock, socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_OMIT)


def tell_asked_address(sock: socket.socket) -> bool:
    """Makes each receive tell which local address it was sent to."""
    if not LINUX:
        return False
    if sock.family == socket.AF_INET6:
        return _accepts(sock, socket.IPPROTO_IPV6, IPV6_RECVPKTINFO, 1)
    return _accepts(sock, socket.IPPROTO_IP, IP_PKTINFO, 1)


def asked_address(told: Iterable[Tuple[int, int, bytes]]) -> bytes:
    """The local IP address that control messages tell; empty if none does."""
    for level, kind, data in told:
        if level == socket.IPPROTO_IP and kind == IP_PKTINFO:
            # The header's own address would be the broadcast address, where one was asked.
            return data[4:8]
        if level == socket.IPPROTO_IPV6 and kind == IPV6_PKTINFO:
            return unmapped(data[:16])
    return b""


def segments_of(size: int) -> Tuple[int, int, bytes]:
    """The control message that makes the kernel cut what is sent into datagrams of `size`."""
    return SOL_UDP, UDP_SEGMENT, struct.pack("@H", size)


def leave_from(source: bytes, family: socket.AddressFamily) -> Ancillary:
    """The control message that makes a datagram leave from the IP address `source`."""
    if not source or not LINUX:
        return []
    if family == socket.AF_INET6:
        return [(socket.IPPROTO_IPV6, IPV6_PKTINFO, IN6_PKTINFO.pack(mapped(source), 0))]
    return [(socket.IPPROTO_IP, IP_PKTINFO, IN_PKTINFO.pack(0, source, bytes(4)))]
