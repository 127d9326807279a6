"""The expose protocol: a helper publishes a firewalled service, tag by tag (udpexposer).

Between the helper and the exposer, which stands beside the service:

    tag(2) ‖ payload      payload of the connectee that has the tag; big-endian
    (nothing)             the exposer's keepalive where there is no password
    claims                the exposer's keepalive, and what it is answered, where there is one
    statistics            23 integers of 8 bytes, big-endian, asked for by a nonce of 2^64-1

Claims are JWS compact with HMAC-SHA-256 (RFC 7515, 7.1) and the header {"alg":"HS256"}, nothing
more. The exposer's are {"nonce":null} or {"nonce":n}, ours with "name" where it is not the
default service; the helper's "Registered" or {"Retry":n}. The key is Argon2i of the password.
"""

from __future__ import annotations

import base64
import binascii
import functools
import hmac
import json
import re
import struct
from dataclasses import dataclass
from typing import Dict, Optional, Union

from udppunch.wire.malformed import Malformed

TAG = struct.Struct(">H")
TAG_LENGTH = TAG.size
# Every signed datagram starts with these bytes, which a tagged one must not be taken for.
SIGNED = b"eyJhbGciOiJIUzI1NiJ9."
NEVER_A_TAG = int.from_bytes(SIGNED[:TAG_LENGTH], "big")
TAGS = 1 << 16

NAME_MAXIMUM = 64
LONGEST_CLAIMS = 512
NONCE_MAXIMUM = 2**64 - 1
ASKS_STATISTICS = NONCE_MAXIMUM
_LONGEST_INTEGER = 20  # digits; Python itself would take thousands

# In the order in which they are sent; the names are the ones its client prints.
STATISTICS = (
    "err1", "signed_looking", "refresh_address", "invalid_auths", "auth_in_progress",
    "auth_completeds", "err2", "simple_keepalives", "simple_address_switches", "dwarfs",
    "ch_not_founds", "err3", "dropped_no_client_address", "new_connectees", "err4",
    "from_connectee_bytes", "from_connectee_msgs", "from_client_bytes", "from_client_msgs",
    "stats_requests", "last_ka_s", "last_client_s", "last_connectee_s",
)  # fmt: skip
_STATISTICS = struct.Struct(f">{len(STATISTICS)}Q")
STATISTICS_LENGTH = _STATISTICS.size

_SALT = b"udpexposer"
_PASSES, _KIB, _LANES, _KEY_LENGTH, _VERSION = 2, 256, 2, 32, 0x13
_MAC_LENGTH = 43  # of 32 bytes, as base64url without padding


@dataclass(frozen=True)
class Keepalive:
    """The exposer is there; `nonce` is what it was told to say, None the first time."""

    nonce: Optional[int] = None
    name: str = ""


@dataclass(frozen=True)
class Registered:
    """The helper takes the address that this went to for the exposer's."""


@dataclass(frozen=True)
class Retry:
    """Say it again with this nonce, to prove that the address is yours."""

    nonce: int


Claims = Union[Keepalive, Registered, Retry]


@functools.lru_cache(maxsize=8)
def derive_key(password: bytes) -> bytes:
    """The key of a password. Takes about a millisecond."""
    from argon2.low_level import Type, hash_secret_raw

    return hash_secret_raw(
        password, _SALT, _PASSES, _KIB, _LANES, _KEY_LENGTH, Type.I, version=_VERSION
    )


def encode(claims: Claims, key: bytes) -> bytes:
    if isinstance(claims, Keepalive):
        value: object = {"nonce": claims.nonce}
        if claims.name:
            value = {"nonce": claims.nonce, "name": claims.name}
    else:
        value = "Registered" if isinstance(claims, Registered) else {"Retry": claims.nonce}
    return _sign(json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode(), key)


def looks_signed(datagram: Union[bytes, memoryview]) -> bool:
    return bytes(datagram[: len(SIGNED)]) == SIGNED


def is_signed(datagram: bytes, key: bytes) -> bool:
    """Whether its mac is the one that the key gives, compared in constant time."""
    if not len(SIGNED) <= len(datagram) <= LONGEST_CLAIMS:
        return False
    signed, dot, mac = datagram.rpartition(b".")
    if not dot or len(mac) != _MAC_LENGTH:
        return False
    return hmac.compare_digest(mac, _base64(hmac.digest(key, signed, "sha256")))


def decode(datagram: bytes) -> Claims:
    """The claims of a datagram whose mac was found right. Raises Malformed."""
    if not datagram.startswith(SIGNED) or len(datagram) > LONGEST_CLAIMS:
        raise Malformed("not claims")
    payload = datagram[len(SIGNED) :].partition(b".")[0]
    if not re.fullmatch(rb"[A-Za-z0-9_-]*", payload):
        raise Malformed("claims are not base64url")
    try:
        raw = base64.urlsafe_b64decode(payload + b"=" * (-len(payload) % 4))
        value = json.loads(raw, parse_int=_integer)
    except (binascii.Error, ValueError, RecursionError) as error:
        raise Malformed("claims are not JSON") from error
    return _claims(value)


def encode_statistics(counts: Dict[str, int]) -> bytes:
    """The statistics by name; those that are missing are 0."""
    return _STATISTICS.pack(*(counts.get(name, 0) & NONCE_MAXIMUM for name in STATISTICS))


def decode_statistics(datagram: bytes) -> Dict[str, int]:
    """Raises Malformed."""
    if len(datagram) != STATISTICS_LENGTH:
        raise Malformed("not statistics")
    return dict(zip(STATISTICS, _STATISTICS.unpack(datagram)))


def _sign(payload: bytes, key: bytes) -> bytes:
    signed = SIGNED + _base64(payload)
    return signed + b"." + _base64(hmac.digest(key, signed, "sha256"))


def _base64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def _integer(digits: str) -> int:
    if len(digits) > _LONGEST_INTEGER:
        raise Malformed("an integer is too long")
    return int(digits)


def _claims(value: object) -> Claims:
    if value == "Registered":
        return Registered()
    if not isinstance(value, dict):
        raise Malformed("claims of no known kind")
    if "Retry" in value:
        return Retry(_nonce(value["Retry"]))
    if "nonce" not in value:
        raise Malformed("claims of no known kind")
    nonce, name = value["nonce"], value.get("name", "")
    if not isinstance(name, str) or len(name.encode("utf-8", "replace")) > NAME_MAXIMUM:
        raise Malformed("the name is none")
    return Keepalive(None if nonce is None else _nonce(nonce), name)


def _nonce(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= NONCE_MAXIMUM:
        raise Malformed("the nonce is none")
    return value
