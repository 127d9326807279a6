"""STUN Binding messages (RFC 8489), with the attributes of NAT behaviour discovery (RFC 5780).

    type          2   0001 request, 0011 indication, 0101 success, 0111 error
    length        2   of the attributes; a multiple of four
    magic cookie  4   21 12 A4 42
    transaction  12   chosen by who asks, repeated by who answers
    attributes        type(2) length(2) value, and zeros up to a multiple of four

    0001 MAPPED-ADDRESS       0(1) family(1) port(2) address; 1 is IPv4, 2 is IPv6
    0003 CHANGE-REQUEST       flags(4): 4 another address, 2 another port
    0009 ERROR-CODE           0(2) hundreds(1) rest(1) reason
    000A UNKNOWN-ATTRIBUTES   types
    0020 XOR-MAPPED-ADDRESS   as 0001, port and address combined with cookie ‖ transaction
    0026 PADDING              anything
    0027 RESPONSE-PORT        port(2) 0(2)
    8022 SOFTWARE             text
    8028 FINGERPRINT          CRC-32 of all before it, combined with "STUN"; the last one
    802B RESPONSE-ORIGIN      as 0001
    802C OTHER-ADDRESS        as 0001

An attribute that comes twice counts as it came first. What has to do with credentials is passed
over, neither checked nor made, and what follows a MESSAGE-INTEGRITY is not looked at. The
requests of RFC 3489, which have no magic cookie, are not STUN here.
"""

from __future__ import annotations

import enum
import struct
import zlib
from dataclasses import dataclass
from typing import Any, Callable, Dict, NamedTuple, Optional, Tuple, Union

from udppunch.address import Address, is_ipv4
from udppunch.wire.malformed import Malformed

PORT = 3478  # RFC 8489, 18.6: where clients ask that are told no port
COOKIE = b"\x21\x12\xa4\x42"
HEADER = 20
TRANSACTION_LENGTH = 12
CHANGE_REQUEST = 0x0003
PADDING = 0x0026
RESPONSE_PORT = 0x0027

_SOFTWARE = 0x8022
_FINGERPRINT = 0x8028
_INTEGRITY = (0x0008, 0x001C)
# USERNAME, REALM, NONCE, PASSWORD-ALGORITHM, USERHASH: for servers that ask who is there.
_CREDENTIALS = frozenset({0x0006, 0x0014, 0x0015, 0x001D, 0x001E, *_INTEGRITY})
_OPTIONAL = 0x8000
# Far more than anyone sends: what a datagram costs is bounded.
_MOST_ATTRIBUTES = 64

_HEAD = struct.Struct(">HH4s12s")
_ATTRIBUTE = struct.Struct(">HH")
_FINGERPRINT_SIZE = 8
_FINGERPRINT_MASK = 0x5354554E
_CHANGE_IP, _CHANGE_PORT = 4, 2
_FAMILIES = {1: 8, 2: 20}

Bytes = Union[bytes, memoryview]


class Kind(enum.IntEnum):
    """The class of a message, with the method Binding."""

    REQUEST = 0x0001
    INDICATION = 0x0011
    SUCCESS = 0x0101
    ERROR = 0x0111


class Change(NamedTuple):
    """From where a client wants its answer: another address, another port than it asked."""

    ip: bool
    port: bool


class Error(NamedTuple):
    code: int
    reason: str = ""


@dataclass(frozen=True)
class Message:
    """A Binding message and those of its attributes that are known here.

    `fingerprint`: it has one, which is right. `not_understood` are the types of attributes that
    the receiver would have to know and does not; they are only read, never written.
    """

    kind: Kind
    transaction: bytes
    mapped: Optional[Address] = None
    xor_mapped: Optional[Address] = None
    change: Optional[Change] = None
    response_port: Optional[int] = None
    padding: Optional[int] = None
    error: Optional[Error] = None
    unknown: Tuple[int, ...] = ()
    response_origin: Optional[Address] = None
    other_address: Optional[Address] = None
    software: str = ""
    fingerprint: bool = False
    not_understood: Tuple[int, ...] = ()


def is_stun(datagram: Bytes) -> bool:
    """Whether it has the header of a STUN message, of any method."""
    return (
        datagram[4:8] == COOKIE
        and len(datagram) >= HEADER
        and not len(datagram) & 3
        and datagram[0] < 0x40
        and (datagram[2] << 8) + datagram[3] == len(datagram) - HEADER
    )


def encode(message: Message) -> bytes:
    parts = []
    for number, field in _FIELDS.items():
        value = getattr(message, field.name)
        if value not in (None, "", ()):
            octets = field.write(value, message.transaction)
            parts += [_ATTRIBUTE.pack(number, len(octets)), octets, bytes(-len(octets) % 4)]
    body = b"".join(parts)
    data = _HEAD.pack(message.kind, len(body), COOKIE, message.transaction) + body
    return with_fingerprint(data) if message.fingerprint else data


def with_fingerprint(data: bytes) -> bytes:
    """The message with a FINGERPRINT added, which it must not have yet."""
    length = len(data) - HEADER + _FINGERPRINT_SIZE
    data = data[:2] + length.to_bytes(2, "big") + data[4:]
    return data + _ATTRIBUTE.pack(_FINGERPRINT, 4) + _checksum(data).to_bytes(4, "big")


def decode(data: Bytes) -> Message:
    """Raises Malformed, also for a FINGERPRINT that is wrong."""
    if not is_stun(data):
        raise Malformed("not a STUN message")
    data = bytes(data)
    kind, _, _, transaction = _HEAD.unpack_from(data)
    if kind not in Kind.__members__.values():
        raise Malformed("not a Binding message")
    found: Dict[str, Any] = {}
    not_understood: Dict[int, None] = {}
    sealed = False
    for number, start, end in _attributes(data):
        if number == _FINGERPRINT:
            found["fingerprint"] = _is_fingerprint(data, start, end)
        elif sealed:
            continue
        elif number in _FIELDS:
            field = _FIELDS[number]
            if field.name not in found:
                found[field.name] = field.read(data[start:end], transaction)
        elif number in _CREDENTIALS:
            sealed = number in _INTEGRITY
        elif number < _OPTIONAL:
            not_understood[number] = None
    return Message(Kind(kind), transaction, **found, not_understood=tuple(not_understood))


def _attributes(data: bytes) -> "list[tuple[int, int, int]]":
    """Type, and where the value starts and ends, of each. Raises Malformed."""
    attributes = []
    at = HEADER
    while at < len(data):
        number, length = _ATTRIBUTE.unpack_from(data, at)
        start = at + _ATTRIBUTE.size
        at = start + length + -length % 4
        if at > len(data):
            raise Malformed("an attribute is cut short")
        attributes.append((number, start, start + length))
        if len(attributes) > _MOST_ATTRIBUTES:
            raise Malformed("too many attributes")
    return attributes


def _is_fingerprint(data: bytes, start: int, end: int) -> bool:
    if end != len(data) or end - start != 4:
        raise Malformed("a FINGERPRINT is four bytes, the last ones")
    if int.from_bytes(data[start:], "big") != _checksum(data[: start - _ATTRIBUTE.size]):
        raise Malformed("wrong FINGERPRINT")
    return True


def _checksum(data: bytes) -> int:
    return zlib.crc32(data) ^ _FINGERPRINT_MASK


def _write_address(address: Address, transaction: bytes) -> bytes:
    return bytes((0, 1 if is_ipv4(address) else 2)) + address[-2:] + address[:-2]


def _read_address(value: bytes, transaction: bytes) -> Address:
    if len(value) < 2 or len(value) != _FAMILIES.get(value[1]):
        raise Malformed("neither an IPv4 nor an IPv6 address")
    return Address(value[4:] + value[2:4])


def _xor(address: Address, transaction: bytes) -> Address:
    """The address hidden from NATs that rewrite what looks like one, or the hidden one shown."""
    mask = (COOKIE + transaction)[: len(address) - 2] + COOKIE[:2]
    return Address(bytes(one ^ other for one, other in zip(address, mask)))


def _write_xor_address(address: Address, transaction: bytes) -> bytes:
    return _write_address(_xor(address, transaction), transaction)


def _read_xor_address(value: bytes, transaction: bytes) -> Address:
    return _xor(_read_address(value, transaction), transaction)


def _write_change(change: Change, transaction: bytes) -> bytes:
    return bytes((0, 0, 0, _CHANGE_IP * change.ip + _CHANGE_PORT * change.port))


def _read_change(value: bytes, transaction: bytes) -> Change:
    if len(value) != 4:
        raise Malformed("a CHANGE-REQUEST has four bytes")
    return Change(bool(value[3] & _CHANGE_IP), bool(value[3] & _CHANGE_PORT))


def _write_port(port: int, transaction: bytes) -> bytes:
    return struct.pack(">HH", port, 0)


def _read_port(value: bytes, transaction: bytes) -> int:
    if len(value) not in (2, 4):  # the padding counts for some
        raise Malformed("a RESPONSE-PORT has two bytes, or four")
    return int.from_bytes(value[:2], "big")


def _write_error(error: Error, transaction: bytes) -> bytes:
    return bytes((0, 0, *divmod(error.code, 100))) + error.reason.encode()


def _read_error(value: bytes, transaction: bytes) -> Error:
    if len(value) < 4 or not 3 <= value[2] & 7 <= 6 or value[3] > 99:
        raise Malformed("not an error code of 300 to 699")
    return Error(100 * (value[2] & 7) + value[3], _read_text(value[4:], transaction))


def _write_types(types: Tuple[int, ...], transaction: bytes) -> bytes:
    return struct.pack(f">{len(types)}H", *types)


def _read_types(value: bytes, transaction: bytes) -> Tuple[int, ...]:
    if len(value) % 2:
        raise Malformed("half an unknown attribute")
    return struct.unpack(f">{len(value) // 2}H", value)


def _write_text(text: str, transaction: bytes) -> bytes:
    return text.encode()


def _read_text(value: bytes, transaction: bytes) -> str:
    return value.decode(errors="replace")


class _Field(NamedTuple):
    """How an attribute is written and read; both are told the transaction, too."""

    name: str
    write: Callable[[Any, bytes], bytes]
    read: Callable[[bytes, bytes], Any]


# In the order in which they are written.
_FIELDS: Dict[int, _Field] = {
    0x0001: _Field("mapped", _write_address, _read_address),
    0x0020: _Field("xor_mapped", _write_xor_address, _read_xor_address),
    CHANGE_REQUEST: _Field("change", _write_change, _read_change),
    RESPONSE_PORT: _Field("response_port", _write_port, _read_port),
    PADDING: _Field("padding", lambda length, _: bytes(length), lambda value, _: len(value)),
    0x0009: _Field("error", _write_error, _read_error),
    0x000A: _Field("unknown", _write_types, _read_types),
    0x802B: _Field("response_origin", _write_address, _read_address),
    0x802C: _Field("other_address", _write_address, _read_address),
    _SOFTWARE: _Field("software", _write_text, _read_text),
}
