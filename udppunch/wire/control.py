"""Control datagrams of a path between two of our own ends, told apart from payload by a token.

The ends share HMAC-SHA-256(key, server's mark ‖ client's mark), marks as in `marks`. Its first
half is the token that each control datagram of the path starts with; its second half never
leaves the host, and proves that the sender knows the key.

    token(16) ‖ kind(1) ‖ transaction(8) ‖ address(4) port(2) ‖ mac(16)      47 bytes

    kind         01 check, 02 answer, 03 close, 04 closed; 80 is added when the client sends it
    transaction  chosen by who asks, repeated by who answers
    address      in an answer, where the question came from (IPv4); in a close 0.0.0.0:1 from who
                 has got all that there was to get; else zeros
    mac          first half of HMAC-SHA-256(second half of the shared secret, all before it)

A check asks whether the path carries datagrams both ways (RFC 8445, 2.2) and whether the peer
still wants them (RFC 7675). What starts with the token and is not as above is dropped, never
payload.
"""

from __future__ import annotations

import enum
import hmac
from dataclasses import dataclass

from udppunch.address import ANY_IPV4, Address, with_port
from udppunch.wire import marks
from udppunch.wire.malformed import Malformed
from udppunch.wire.puncher import HANDSHAKE_FIRST_BYTE

TOKEN_LENGTH = 16
TRANSACTION_LENGTH = 8
_KIND = TOKEN_LENGTH
_TRANSACTION = slice(_KIND + 1, _KIND + 1 + TRANSACTION_LENGTH)
_ADDRESS = slice(_TRANSACTION.stop, _TRANSACTION.stop + 6)
_MAC = slice(_ADDRESS.stop, _ADDRESS.stop + 16)
CONTROL_LENGTH = _MAC.stop
_FROM_CLIENT = 0x80
CONTENT = with_port(ANY_IPV4, 1)  # the address in a close
_HANDSHAKE_LENGTH = 2 + marks.LENGTH


def may_be_control(view: memoryview, segment: int) -> bool:
    """Whether a burst, cut each `segment` bytes, has a datagram as long as control is."""
    return CONTROL_LENGTH in (segment, len(view) % segment if segment else 0)


class Kind(enum.IntEnum):
    CHECK = 1
    ANSWER = 2
    CLOSE = 3
    CLOSED = 4


@dataclass(frozen=True)
class Control:
    kind: Kind
    transaction: bytes
    address: Address = ANY_IPV4


class Pairing:
    """What two marked ends of one key have in common; one object for each end of a path."""

    __slots__ = ("token", "peer_mark", "_mac_key", "_sent_by", "_heard_from", "_first_bytes")

    def __init__(self, key: bytes, server_mark: bytes, client_mark: bytes, client: bool) -> None:
        shared = hmac.digest(key, server_mark + client_mark, "sha256")
        self.token = shared[:TOKEN_LENGTH]
        self.peer_mark = server_mark if client else client_mark
        self._mac_key = shared[TOKEN_LENGTH:]
        self._sent_by = _FROM_CLIENT if client else 0
        self._heard_from = _FROM_CLIENT - self._sent_by
        self._first_bytes = (self.token[0], HANDSHAKE_FIRST_BYTE)

    def encode(self, control: Control) -> bytes:
        """The datagram that this end sends."""
        body = self.token + bytes([control.kind | self._sent_by])
        body += control.transaction + control.address
        return body + self._mac(body)

    def decode(self, data: bytes) -> Control:
        """What the other end sent. Raises Malformed, also for a forged or a mirrored one."""
        if len(data) != CONTROL_LENGTH:
            raise Malformed("not the length of a control datagram")
        if not hmac.compare_digest(self._mac(data[: _MAC.start]), data[_MAC]):
            raise Malformed("control datagram with a wrong mac")
        kind = data[_KIND] - self._heard_from
        if kind not in Kind.__members__.values():
            raise Malformed("unknown kind of control datagram")
        return Control(Kind(kind), data[_TRANSACTION], Address(data[_ADDRESS]))

    def carries_control(self, view: memoryview, segment: int) -> bool:
        """Whether any datagram of a burst, cut each `segment` bytes, is not payload.

        The first bytes of all datagrams are looked at together, since nearly every burst is
        payload and this stands on its way.
        """
        firsts = bytes(view[::segment]) if segment else b""
        token, handshake = self._first_bytes
        if token not in firsts and handshake not in firsts:
            return False
        return any(
            self.is_control(view[start : start + segment]) for start in range(0, len(view), segment)
        )

    def is_control(self, datagram: memoryview) -> bool:
        """Whether it starts with the token, or is a late handshake of the peer's."""
        if datagram[:TOKEN_LENGTH] == self.token:
            return True
        return len(datagram) == _HANDSHAKE_LENGTH and datagram[2:] == self.peer_mark

    def _mac(self, body: bytes) -> bytes:
        return hmac.digest(self._mac_key, body, "sha256")[: _MAC.stop - _MAC.start]
