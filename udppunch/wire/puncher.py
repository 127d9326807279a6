"""The puncher protocol: how a rendezvous introduces a client to the server of a key.

Messages are postcard enums (see `postcard`). IPv4 only.

    00 string             Client(key)             client to rendezvous
    01 string             Server(key)             server to rendezvous
    02 00 | 02 01         Error                   key is taken | key has no server
    03 00 | 03 01 | 03 02 Handshake(1 | 2 | 3)    between the peers
    03 03 a b c d u16     Punch(peer)             rendezvous to both: where the other one is
    04                    KeepAlive               server to rendezvous
    05                    Ok                      rendezvous to server: registered

Bytes behind a message mean nothing to p2p_udp_puncher, whose protocol this is. Our own ends
put a mark there (see `marks`), and the rendezvous behind its Ok and Punch what it has to add.
A KeepAlive with a mark is a question, and Ok the answer. Asked at the rendezvous's other port,
it tells an end whether its NAT uses one port for all destinations.

A server keeps its mark for as long as its process lives, a client keeps one for each path, over
all attempts at it. A marked request is filled up with zeros to `PADDED`, so that no answer is
longer than what asked for it.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Optional, Tuple, Union

from udppunch.address import Address, is_ipv4
from udppunch.wire import marks, postcard
from udppunch.wire.malformed import Malformed

KEY_MAXIMUM = 126  # bytes; the peers' control buffer is 128
PADDED = 9 + marks.LONGEST  # the longest Punch

_CLIENT, _SERVER, _ERROR, _PUNCH, _KEEPALIVE, _OK = range(6)
_PUNCH_TURN = 3
HANDSHAKE_FIRST_BYTE = _PUNCH
_IPV4_LENGTH = 4


class Refusal(enum.Enum):
    DUPLICATE_KEY = 0
    NO_SERVER = 1


@dataclass(frozen=True)
class Client:
    key: bytes
    mark: bytes = b""


@dataclass(frozen=True)
class Server:
    key: bytes
    mark: bytes = b""


@dataclass(frozen=True)
class Error:
    refusal: Refusal
    mark: bytes = b""


@dataclass(frozen=True)
class Handshake:
    step: int  # 1, 2 or 3
    mark: bytes = b""


@dataclass(frozen=True)
class Punch:
    """`mark` is the other peer's; `seen` the receiver's own address, as the rendezvous saw it.

    `other_port` is another port of the rendezvous's, 0 if it has none.
    """

    peer: Address
    mark: bytes = b""
    seen: Optional[Address] = None
    other_port: int = 0


@dataclass(frozen=True)
class KeepAlive:
    mark: bytes = b""


@dataclass(frozen=True)
class Ok:
    mark: bytes = b""
    seen: Optional[Address] = None
    other_port: int = 0


Message = Union[Client, Server, Error, Handshake, Punch, KeepAlive, Ok]


def encode(message: Message) -> bytes:
    """The datagram. Raises ValueError for a key or an address that the wire can't carry."""
    body = _encode_body(message)
    if not message.mark:
        return body
    if isinstance(message, (Punch, Ok)):
        return body + marks.encode(marks.Marked(message.mark, message.seen, message.other_port))
    body += message.mark
    return body.ljust(PADDED, b"\0") if isinstance(message, (Client, Server, KeepAlive)) else body


def decode(data: bytes) -> Message:
    """The message at the start of a datagram. Raises Malformed."""
    message, end = _decode_body(data)
    mark, seen, other_port = marks.decode(data, end)
    if not mark:
        return message
    if isinstance(message, Punch):
        return Punch(message.peer, mark, seen, other_port)
    if isinstance(message, Ok):
        return Ok(mark, seen, other_port)
    if isinstance(message, (Client, Server)):
        return type(message)(message.key, mark)
    if isinstance(message, Handshake):
        return Handshake(message.step, mark)
    if isinstance(message, Error):
        return Error(message.refusal, mark)
    return KeepAlive(mark)


def _encode_body(message: Message) -> bytes:
    if isinstance(message, (Client, Server)):
        if not 0 < len(message.key) <= KEY_MAXIMUM:
            raise ValueError(f"a key is 1 to {KEY_MAXIMUM} bytes, not {len(message.key)}")
        variant = _CLIENT if isinstance(message, Client) else _SERVER
        return bytes([variant]) + postcard.encode_string(message.key)
    if isinstance(message, Error):
        return bytes([_ERROR, message.refusal.value])
    if isinstance(message, Handshake):
        if message.step not in (1, 2, 3):
            raise ValueError(f"there is no handshake {message.step}")
        return bytes([_PUNCH, message.step - 1])
    if isinstance(message, Punch):
        if not is_ipv4(message.peer):
            raise ValueError("this protocol carries IPv4 addresses only")
        port = int.from_bytes(message.peer[_IPV4_LENGTH:], "big")
        head = bytes([_PUNCH, _PUNCH_TURN])
        return head + message.peer[:_IPV4_LENGTH] + postcard.encode_u16(port)
    return bytes([_KEEPALIVE if isinstance(message, KeepAlive) else _OK])


def _decode_body(data: bytes) -> Tuple[Message, int]:
    if not data:
        raise Malformed("empty")
    variant = data[0]
    if variant in (_CLIENT, _SERVER):
        key, end = postcard.decode_string(data, 1)
        if not 0 < len(key) <= KEY_MAXIMUM:
            raise Malformed("key is empty or too long")
        return (Client(key) if variant == _CLIENT else Server(key)), end
    if variant == _ERROR:
        number, end = postcard.decode_u16(data, 1)
        if number > max(refusal.value for refusal in Refusal):
            raise Malformed("unknown error")
        return Error(Refusal(number)), end
    if variant == _PUNCH:
        return _decode_punch(data)
    if variant == _KEEPALIVE:
        return KeepAlive(), 1
    if variant == _OK:
        return Ok(), 1
    raise Malformed("unknown message")


def _decode_punch(data: bytes) -> Tuple[Message, int]:
    kind, start = postcard.decode_u16(data, 1)
    if kind < _PUNCH_TURN:
        return Handshake(kind + 1), start
    if kind != _PUNCH_TURN:
        raise Malformed("unknown punch")
    ip = bytes(data[start : start + _IPV4_LENGTH])
    if len(ip) != _IPV4_LENGTH:
        raise Malformed("address is cut short")
    port, end = postcard.decode_u16(data, start + _IPV4_LENGTH)
    return Punch(Address(ip + port.to_bytes(2, "big"))), end
