"""Transport addresses as values: one immutable `bytes` each, fit for a dictionary key.

    IPv4   address(4) ‖ port(2)      6 bytes
    IPv6   address(16) ‖ port(2)    18 bytes

Both fields are in network order. The form is the same on every platform; `net` alone knows
the kernel's own. Bytes, and not tuples, because a table keyed by what strangers send wants
Python's salted hash. Scope identifiers of link-local IPv6 addresses are not kept.
"""

from __future__ import annotations

import ipaddress
from typing import NewType, Union

Address = NewType("Address", bytes)

ANY_IPV4 = Address(bytes(6))
ANY_IPV6 = Address(bytes(18))

_IPV4_LENGTH = 6
_IPV4_PREFIX = 3  # /24
_IPV6_PREFIX = 7  # /56

IPAddress = Union[ipaddress.IPv4Address, ipaddress.IPv6Address]


def pack(ip: str, port: int) -> Address:
    """The address of a numeric `ip` and a `port` of 0 to 65,535. Raises ValueError."""
    if not 0 <= port <= 65535:
        raise ValueError(f"port {port} is not between 0 and 65535")
    return Address(ipaddress.ip_address(ip).packed + port.to_bytes(2, "big"))


def is_ipv4(address: Address) -> bool:
    return len(address) == _IPV4_LENGTH


def ip(address: Address) -> IPAddress:
    return ipaddress.ip_address(bytes(address[:-2]))


def port(address: Address) -> int:
    return int.from_bytes(address[-2:], "big")


def with_port(address: Address, number: int) -> Address:
    return Address(address[:-2] + number.to_bytes(2, "big"))


def same_ip(one: Address, other: Address) -> bool:
    return one[:-2] == other[:-2]


# Ports of services that answer anything (Loop DoS, CVE-2024-2169): whoever sends from one of them
# is nobody to talk with.
ANSWERING_PORTS = frozenset({0, 7, 13, 17, 19, 53, 69, 123})


def is_wildcard(address: Address) -> bool:
    return not any(address[:-2])


def text(address: Address) -> str:
    """As people write it: `203.0.113.7:5678`, `[2001:db8::7]:5678`."""
    number = port(address)
    return f"{ip(address)}:{number}" if is_ipv4(address) else f"[{ip(address)}]:{number}"


def prefix(address: Address) -> bytes:
    """The part of the network that one party commonly holds: /24 of IPv4, /56 of IPv6."""
    return bytes(address[: _IPV4_PREFIX if is_ipv4(address) else _IPV6_PREFIX])


def is_global(address: Address) -> bool:
    """Whether the address may be reached over the public Internet (IANA special registries)."""
    return ip(address).is_global


def any_of(like: Address) -> Address:
    """The wildcard address, with port 0, of the same family."""
    return ANY_IPV4 if is_ipv4(like) else ANY_IPV6
