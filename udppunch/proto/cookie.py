"""Nonces that prove an address without a word being kept: time and a mac of it and the address.

    time(2) ‖ mac(6)      seconds, the highest bit clear; HMAC-SHA-256 of time and address

Who is asked for it takes the eight bytes for a number and says it again. Good for ten seconds,
for any worker that has the same secret, and for that address alone. The mac is of the whole
time, of which the wire has the last bits.
"""

from __future__ import annotations

import hmac

from udppunch.address import Address

_LASTS = 10
_CLOCK = 1 << 15  # so that no nonce is 2^64-1, which asks for statistics
SECRET = 32


def issue(secret: bytes, address: Address, now: float) -> int:
    return _nonce(secret, address, int(now))


def is_good(secret: bytes, nonce: int, address: Address, now: float) -> bool:
    """Whether it was issued to that address, not long ago."""
    age = (int(now) + 1 - (nonce >> 48)) % _CLOCK - 1  # one ahead: workers' clocks are read apart
    if age > _LASTS:
        return False
    right = _nonce(secret, address, int(now) - age)
    return hmac.compare_digest(nonce.to_bytes(8, "big"), right.to_bytes(8, "big"))


def _nonce(secret: bytes, address: Address, then: int) -> int:
    mac = hmac.digest(secret, then.to_bytes(8, "big", signed=True) + address, "sha256")
    return int.from_bytes((then % _CLOCK).to_bytes(2, "big") + mac[:6], "big")
