"""Nonces that prove an address without a word being kept: time and a mac of it and the address.

    time(2) ‖ mac(6)      seconds, the highest bit clear; HMAC-SHA-256 of time and address

An exposer takes the eight bytes for a number and says it again. Good for ten seconds, for any
worker of the helper that made it, and for that address alone.
"""

from __future__ import annotations

import hmac

from udppunch.address import Address

_LASTS = 10
_CLOCK = 1 << 15  # so that no nonce is 2^64-1, which asks for statistics
SECRET = 32


def issue(secret: bytes, address: Address, now: float) -> int:
    return _nonce(secret, address, int(now) % _CLOCK)


def is_good(secret: bytes, nonce: int, address: Address, now: float) -> bool:
    """Whether it was issued to that address, not long ago."""
    then = nonce >> 48
    age = (int(now) - then) % _CLOCK
    if then >= _CLOCK or _LASTS < age < _CLOCK - 1:
        return False
    said, right = nonce.to_bytes(8, "big"), _nonce(secret, address, then).to_bytes(8, "big")
    return hmac.compare_digest(said, right)


def _nonce(secret: bytes, address: Address, then: int) -> int:
    head = then.to_bytes(2, "big")
    return int.from_bytes(head + hmac.digest(secret, head + address, "sha256")[:6], "big")
