"""Addresses as the kernel and as Python's socket module write them, to and from `Address`.

The kernel's form is Linux's, for the batch calls alone; all other platforms go through the
tuples of `socket`. An IPv4 address that an IPv6 socket shows mapped (::ffff:192.0.2.1) is
always told as IPv4, so that one peer has one `Address` whatever the socket it came by.
"""

from __future__ import annotations

import socket
import struct
from typing import Any, Tuple

from udppunch.address import Address, is_ipv4

IPV4_SIZE = 8  # of the 16 bytes, the rest being zeros
IPV6_SIZE = 28

_MAPPED = bytes(10) + b"\xff\xff"
_FAMILY = struct.Struct("=H")
_IPV6_HEAD = struct.Struct("=H2s4x")


def family(address: Address) -> socket.AddressFamily:
    return socket.AF_INET if is_ipv4(address) else socket.AF_INET6


def unmapped(ip: bytes) -> bytes:
    """The IP address proper: 4 bytes for an IPv4 address that came mapped."""
    return ip[12:] if len(ip) == 16 and ip.startswith(_MAPPED) else ip


def mapped(ip: bytes) -> bytes:
    """The IP address as an IPv6 socket takes it."""
    return ip if len(ip) == 16 else _MAPPED + ip


def from_kernel(name: bytes) -> Address:
    """Reads a `struct sockaddr_in` or `sockaddr_in6`. Raises ValueError for another family."""
    (number,) = _FAMILY.unpack_from(name)
    if number == socket.AF_INET:
        return Address(name[4:8] + name[2:4])
    if number == socket.AF_INET6 and len(name) >= 24:
        return Address(unmapped(name[8:24]) + name[2:4])
    raise ValueError(f"address family {number} is neither IPv4 nor IPv6")


def to_kernel(address: Address, to: socket.AddressFamily) -> bytes:
    """`struct sockaddr_in` or `sockaddr_in6` for a socket of the family `to`."""
    ip, port = address[:-2], address[-2:]
    if to == socket.AF_INET6:
        return _IPV6_HEAD.pack(to, port) + mapped(ip) + bytes(4)
    if len(ip) != 4:
        raise ValueError("an IPv4 socket cannot reach an IPv6 address")
    return _FAMILY.pack(to) + port + ip + bytes(8)


def from_tuple(name: Any) -> Address:
    """Reads what `getsockname`, `recvmsg` and `getaddrinfo` give."""
    host, port = name[0], name[1]
    if ":" in host:
        ip = unmapped(socket.inet_pton(socket.AF_INET6, host.partition("%")[0]))
    else:
        ip = socket.inet_pton(socket.AF_INET, host)
    return Address(ip + int(port).to_bytes(2, "big"))


def to_tuple(address: Address, to: socket.AddressFamily) -> Tuple[str, int]:
    """What `bind`, `connect` and `sendto` take for a socket of the family `to`."""
    ip, port = address[:-2], int.from_bytes(address[-2:], "big")
    if to == socket.AF_INET6:
        return socket.inet_ntop(to, mapped(ip)), port
    if len(ip) != 4:
        raise ValueError("an IPv4 socket cannot reach an IPv6 address")
    return socket.inet_ntop(to, ip), port
