"""The holepunch protocol: how a server introduces two peers that know each other's name.

Messages are bincode enums (see `bincode`). IPv4 only.

    00 string           Message(text)            peer to peer
    01 string           Register(name)           peer to server
    02                  RegisterAck              server to peer
    03 string           Request(name)            peer to server: introduce me to that one
    04                  Unknown                  server to peer: nobody has that name
    05 string string    Initiate(name, address)  server to both: who and where the other one is

An address is text, `198.51.100.7:40000`. A peer of hole-punch, whose protocol this is, reads 128
bytes, ignores what stands behind a message and ends on anything it cannot read.

Our own ends put a mark there (see `marks`); the server copies each one's into the other's
Initiate, and adds at which address it saw the receiver. A marked request is filled up with zeros
to `PADDED`, so that no answer is longer. A marked RegisterAck without an address means that
another of our peers keeps the name; a marked Unknown from a peer, that it leaves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional, Tuple, Union

from udppunch import address
from udppunch.address import Address
from udppunch.wire import bincode, marks
from udppunch.wire.malformed import Malformed

BUFFER = 128  # bytes that a peer of hole-punch reads
NAME_MAXIMUM = 104  # bytes, or its Initiate would not fit in there
TEXT_MAXIMUM = BUFFER - 2  # bytes
_ADDRESS_MAXIMUM = len("255.255.255.255:65535")
PADDED = 3 + NAME_MAXIMUM + _ADDRESS_MAXIMUM + marks.LONGEST  # the longest Initiate
_MESSAGE, _REGISTER, _ACK, _REQUEST, _UNKNOWN, _INITIATE = range(6)


@dataclass(frozen=True)
class Message:
    text: str
    mark: bytes = b""


@dataclass(frozen=True)
class Register:
    name: str
    mark: bytes = b""


@dataclass(frozen=True)
class RegisterAck:
    """`mark` is the server's; `seen` where it saw the receiver, if the name is now his."""

    mark: bytes = b""
    seen: Optional[Address] = None


@dataclass(frozen=True)
class Request:
    name: str
    mark: bytes = b""


@dataclass(frozen=True)
class Unknown:
    mark: bytes = b""


@dataclass(frozen=True)
class Initiate:
    """`mark` is the other peer's, `seen` where the server saw the receiver."""

    name: str
    peer: Address
    mark: bytes = b""
    seen: Optional[Address] = None


Datagram = Union[Message, Register, RegisterAck, Request, Unknown, Initiate]


def encode(datagram: Datagram) -> bytes:
    """Raises ValueError for a name, a text or an address that the wire can't carry."""
    body = _encode_body(datagram)
    if isinstance(datagram, (RegisterAck, Initiate)):
        return body + marks.encode(marks.Marked(datagram.mark, datagram.seen))
    if datagram.mark and isinstance(datagram, (Register, Request)):
        return (body + datagram.mark).ljust(PADDED, b"\0")
    return body + datagram.mark


def decode(data: bytes) -> Datagram:
    """The message at the start of a datagram. Raises Malformed."""
    variant, start = bincode.decode_number(data, 0)
    if variant in (_MESSAGE, _REGISTER, _REQUEST):
        text, end = bincode.decode_string(data, start)
        mark = marks.decode(data, end).mark
        if variant == _MESSAGE:
            return Message(text, mark)
        if not 0 < len(text.encode()) <= NAME_MAXIMUM:
            raise Malformed("name is empty or too long")
        return Register(text, mark) if variant == _REGISTER else Request(text, mark)
    if variant == _ACK:
        behind = marks.decode(data, start)
        return RegisterAck(behind.mark, behind.seen)
    if variant == _UNKNOWN:
        return Unknown(marks.decode(data, start).mark)
    if variant == _INITIATE:
        return _decode_initiate(data, start)
    raise Malformed("unknown message")


def check_name(name: str) -> None:
    """Raises ValueError for a name that nobody can be introduced by."""
    octets = len(name.encode())
    if not 0 < octets <= NAME_MAXIMUM:
        raise ValueError(f"a name is 1 to {NAME_MAXIMUM} bytes of UTF-8, not {octets}")


def split(text: str) -> Tuple[str, str]:
    """What one Message can carry of a text, and what is left of it."""
    encoded = text.encode()
    if len(encoded) <= TEXT_MAXIMUM:
        return text, ""
    head = encoded[:TEXT_MAXIMUM].decode(errors="ignore")
    return head, text[len(head) :]


def _encode_body(datagram: Datagram) -> bytes:
    if isinstance(datagram, Message):
        if len(datagram.text.encode()) > TEXT_MAXIMUM:
            raise ValueError(f"a message has at most {TEXT_MAXIMUM} bytes")
        return bytes([_MESSAGE]) + bincode.encode_string(datagram.text)
    if isinstance(datagram, (Register, Request)):
        check_name(datagram.name)
        variant = _REGISTER if isinstance(datagram, Register) else _REQUEST
        return bytes([variant]) + bincode.encode_string(datagram.name)
    if isinstance(datagram, Initiate):
        check_name(datagram.name)
        if not address.is_ipv4(datagram.peer):
            raise ValueError("this protocol carries IPv4 addresses only")
        where = bincode.encode_string(address.text(datagram.peer))
        return bytes([_INITIATE]) + bincode.encode_string(datagram.name) + where
    return bytes([_ACK if isinstance(datagram, RegisterAck) else _UNKNOWN])


def _decode_initiate(data: bytes, start: int) -> Initiate:
    name, start = bincode.decode_string(data, start)
    where, end = bincode.decode_string(data, start)
    ip, colon, port = where.rpartition(":")
    if not (name and colon and ip.isascii() and port.isascii() and port.isdigit()):
        raise Malformed("not an address")
    try:
        peer = address.pack(ip, int(port))
    except ValueError:
        raise Malformed("not an address") from None
    if not address.is_ipv4(peer):
        raise Malformed("not an IPv4 address")
    behind = marks.decode(data, end)
    return Initiate(name, peer, behind.mark, behind.seen)
