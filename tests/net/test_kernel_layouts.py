"""The byte layouts written by hand are those that a C compiler would choose here."""

from __future__ import annotations

import ctypes
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from udppunch.address import Address, pack
from udppunch.net import mmsg, offload, sockaddr


class Message(ctypes.Structure):
    _fields_ = [
        ("name", ctypes.c_void_p),
        ("name_size", ctypes.c_uint),
        ("vector", ctypes.c_void_p),
        ("vector_size", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_size", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    ]


class Header(ctypes.Structure):
    _fields_ = [("message", Message), ("length", ctypes.c_uint)]


def test_message_header() -> None:
    header = Header.from_buffer_copy(mmsg.HEADER.pack(1, 2, 3, 4, 5, 6, 7, 8))
    message = header.message
    assert ctypes.sizeof(Header) == mmsg.HEADER.size
    assert (message.name, message.name_size, message.vector, message.vector_size) == (1, 2, 3, 4)
    assert (message.control, message.control_size, message.flags) == (5, 6, 7)
    assert header.length == 8


@pytest.mark.parametrize("size", [1, 2, 4, 12, 20])
def test_control_message_is_as_long_as_the_platform_says(size: int) -> None:
    assert len(mmsg.control_message(17, 103, bytes(size))) == socket.CMSG_SPACE(size)


@given(st.lists(st.tuples(st.integers(0, 99), st.integers(0, 99), st.binary(max_size=40))))
def test_control_messages_read_back(messages: offload.Ancillary) -> None:
    raw = b"".join(mmsg.control_message(*each) for each in messages)
    assert mmsg.control_messages(raw) == messages


@given(st.binary(max_size=128))
def test_no_control_data_is_too_odd_to_read(raw: bytes) -> None:
    for _, _, data in mmsg.control_messages(raw):
        assert data in raw


ipv4 = st.binary(min_size=6, max_size=6).map(Address)
# A mapped address is told as IPv4, so it does not come back as it went.
ipv6 = (
    st.binary(min_size=18, max_size=18)
    .map(Address)
    .filter(lambda each: not each.startswith(bytes(10) + b"\xff\xff"))
)


@given(ipv4)
def test_ipv4_names(address: Address) -> None:
    raw = sockaddr.to_kernel(address, socket.AF_INET)
    assert len(raw) == 16
    assert sockaddr.from_kernel(raw[: sockaddr.IPV4_SIZE]) == address
    assert sockaddr.from_tuple(sockaddr.to_tuple(address, socket.AF_INET)) == address


@given(ipv6)
def test_ipv6_names(address: Address) -> None:
    raw = sockaddr.to_kernel(address, socket.AF_INET6)
    assert len(raw) == sockaddr.IPV6_SIZE
    assert sockaddr.from_kernel(raw) == address
    assert sockaddr.from_tuple(sockaddr.to_tuple(address, socket.AF_INET6)) == address


@given(ipv4)
def test_ipv4_through_an_ipv6_socket(address: Address) -> None:
    assert sockaddr.from_kernel(sockaddr.to_kernel(address, socket.AF_INET6)) == address
    assert sockaddr.from_tuple(sockaddr.to_tuple(address, socket.AF_INET6)) == address


def test_ipv6_never_goes_through_an_ipv4_socket() -> None:
    with pytest.raises(ValueError, match="IPv4 socket"):
        sockaddr.to_kernel(pack("::1", 9), socket.AF_INET)
    with pytest.raises(ValueError, match="IPv4 socket"):
        sockaddr.to_tuple(pack("::1", 9), socket.AF_INET)


def test_other_families_are_not_addresses() -> None:
    with pytest.raises(ValueError, match="family 1 "):
        sockaddr.from_kernel(b"\x01\x00" + bytes(26))


def test_scope_is_not_kept() -> None:
    assert sockaddr.from_tuple(("fe80::1%lo", 9, 0, 1)) == pack("fe80::1", 9)
