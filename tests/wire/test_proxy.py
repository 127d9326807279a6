"""The PROXY header: bytes written out from HAProxy's specification, and any two addresses."""

from __future__ import annotations

import ipaddress
import struct
from typing import Tuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from udppunch import address
from udppunch.address import Address
from udppunch.wire import proxy

ports = st.integers(0, 65535)
ipv4 = st.builds(address.pack, st.ip_addresses(v=4).map(str), ports)
ipv6 = st.builds(address.pack, st.ip_addresses(v=6).map(str), ports)
addresses = ipv4 | ipv6

BEGINNING = "0d0a0d0a 000d0a51 5549540a 21"
GOLDEN = [
    (
        ("192.0.2.1", 51820),
        ("203.0.113.7", 53),
        f"{BEGINNING} 12 000c c0000201 cb007107 ca6c 0035",
    ),
    (
        ("2001:db8::1", 1),
        ("2001:db8:0:ff::2", 65535),
        f"{BEGINNING} 22 0024 20010db8000000000000000000000001"
        " 20010db8000000ff0000000000000002 0001 ffff",
    ),
    (
        ("192.0.2.1", 256),
        ("2001:db8::2", 255),
        f"{BEGINNING} 22 0024 00000000000000000000ffffc0000201"
        " 20010db8000000000000000000000002 0100 00ff",
    ),
    (
        ("2001:db8::2", 255),
        ("192.0.2.1", 256),
        f"{BEGINNING} 22 0024 20010db8000000000000000000000002"
        " 00000000000000000000ffffc0000201 00ff 0100",
    ),
]


@pytest.mark.parametrize(
    "source,destination,golden", GOLDEN, ids=["IPv4", "IPv6", "IPv4 to IPv6", "IPv6 to IPv4"]
)
def test_golden_bytes(source: Tuple[str, int], destination: Tuple[str, int], golden: str) -> None:
    made = proxy.header(address.pack(*source), address.pack(*destination))
    assert made.hex() == golden.replace(" ", "")


def read(header: bytes) -> Tuple[int, str, int, str, int]:
    """As section 2.2 of the specification tells a receiver, with none of the code in question."""
    assert header[:12] == b"\r\n\r\n\x00\r\nQUIT\n"
    version_and_command, family, length = struct.unpack_from(">BBH", header, 12)
    assert version_and_command == 0x20 | 0x1
    assert len(header) == 16 + length
    form = {0x12: ">4s4sHH", 0x22: ">16s16sHH"}[family]
    source, destination, source_port, destination_port = struct.unpack(form, header[16:])
    return (
        family,
        str(ipaddress.ip_address(source)),
        source_port,
        str(ipaddress.ip_address(destination)),
        destination_port,
    )


def as_ipv6(one: Address) -> ipaddress.IPv6Address:
    """RFC 4291, 2.5.5.2."""
    ip = address.ip(one)
    return ip if ip.version == 6 else ipaddress.IPv6Address(0xFFFF << 32 | int(ip))


@given(addresses, addresses)
def test_a_receiver_reads_what_was_said(source: Address, destination: Address) -> None:
    header = proxy.header(source, destination)
    assert len(header) <= proxy.LONGEST
    family = 0x12 if len(source) == len(destination) == 6 else 0x22
    told = address.ip if family == 0x12 else as_ipv6
    assert read(header) == (
        family,
        str(told(source)),
        address.port(source),
        str(told(destination)),
        address.port(destination),
    )


def test_the_longest_is_as_long_as_is_said() -> None:
    longest = proxy.header(address.ANY_IPV6, address.ANY_IPV6)
    assert len(longest) == proxy.LONGEST == 16 + 36
