"""The relay protocol: two peers that say the same 128-bit id are joined (udp-relay).

A peer's handshake is any datagram that starts so; whatever follows is padding:

    magic    4   04 B2 80 00
    length   2   of what follows this header; not checked, as udp-relay does not
    flags    2
    guid    16   of the channel; not all zeros
    mac     32   HMAC-SHA-256(secret, the whole datagram with the mac's bytes zero)

udp-relay 0.5 to 0.7 wrote four reserved bytes for length and flags, and no mac: 24 bytes in
all. Every other datagram is payload, and goes to the other peer as it is; so do handshakes,
the one that completes a channel included.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import struct
from typing import Union

MAGIC = b"\x04\xb2\x80\x00"
HEADER = 56
OLD_HEADER = 24
GUID = 16
MAC = 32
GUID_AT = 8
MAC_AT = 24

# What udp-relay signs with, and takes, where no secret is set; published with it.
DEFAULT_SECRET = base64.b64decode("Zkw2SThGM2VndjZBcEMxNWZrSk85VTd4S2VERDZYdXI=")
# The last half of the guids that health checks use, on the wire.
CHECK_MARK = bytes.fromhex("ffff0123456798ab")

_HEAD = struct.Struct(">4sHH16s")
_NO_GUID = bytes(GUID)
_NO_MAC = bytes(MAC)

Bytes = Union[bytes, memoryview]


def guid_of(datagram: Bytes) -> bytes:
    """The guid of a handshake, old or new, whatever its mac; empty for any other datagram."""
    if len(datagram) < OLD_HEADER or datagram[:4] != MAGIC:
        return b""
    guid = bytes(datagram[GUID_AT:MAC_AT])
    return b"" if guid == _NO_GUID else guid


def is_signed(datagram: Bytes, secret: bytes) -> bool:
    """Whether a handshake carries the mac that the secret gives, compared in constant time."""
    if len(datagram) < HEADER:
        return False
    return hmac.compare_digest(_mac(datagram, secret), datagram[MAC_AT:HEADER])


def handshake(guid: bytes, secret: bytes, padding: bytes = b"") -> bytes:
    """A handshake with that guid (16 bytes), signed. Raises ValueError for no guid."""
    if len(guid) != GUID or guid == _NO_GUID:
        raise ValueError("a guid has 16 bytes, not all of them zero")
    head = _HEAD.pack(MAGIC, len(padding), 0, guid)
    mac = _mac(head + _NO_MAC + padding, secret)
    return head + mac + padding


def old_handshake(guid: bytes) -> bytes:
    """What udp-relay 0.5 to 0.7 took: no mac. Raises ValueError for no guid."""
    if len(guid) != GUID or guid == _NO_GUID:
        raise ValueError("a guid has 16 bytes, not all of them zero")
    return _HEAD.pack(MAGIC, 0, 0, guid)


def parse_secret(text: str) -> bytes:
    """The secret of its base64 form. Raises ValueError, which does not quote it."""
    try:
        secret = base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("the secret is not base64") from None
    if not secret:
        raise ValueError("the secret is empty")
    return secret


def _mac(datagram: Bytes, secret: bytes) -> bytes:
    signed = b"".join((datagram[:MAC_AT], _NO_MAC, datagram[HEADER:]))
    return hmac.digest(secret, signed, "sha256")
