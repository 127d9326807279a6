"""The PROXY protocol, version 2, in front of a datagram: who sent it, and to whom (HAProxy).

signature(12)   0D 0A 0D 0A 00 0D 0A 51 55 49 54 0A
version         2 in the high half, command 1 (PROXY) in the low
family          1 (IPv4) or 2 (IPv6) in the high half, 2 (datagram) in the low
length(2)       of what follows
source address, destination address, source port(2), destination port(2)
"""

from __future__ import annotations

import struct

from udppunch.address import Address, is_ipv4

SIGNATURE = bytes.fromhex("0d0a0d0a000d0a515549540a")
LONGEST = 52
_HEAD = struct.Struct(">12sBBH")
_VERSION_AND_COMMAND = 0x21
_IPV4_DATAGRAM, _IPV6_DATAGRAM = 0x12, 0x22
_MAPPED = bytes(10) + b"\xff\xff"


def header(source: Address, destination: Address) -> bytes:
    """What tells a service the two addresses; both as IPv6 where one is."""
    family = _IPV4_DATAGRAM
    addresses = [source[:-2], destination[:-2]]
    if not (is_ipv4(source) and is_ipv4(destination)):
        family = _IPV6_DATAGRAM
        addresses = [ip if len(ip) == 16 else _MAPPED + ip for ip in addresses]
    body = b"".join(addresses) + source[-2:] + destination[-2:]
    return _HEAD.pack(SIGNATURE, _VERSION_AND_COMMAND, family, len(body)) + body
