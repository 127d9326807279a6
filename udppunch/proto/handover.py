"""What the sockets are called that a program hands over to the one that takes its place."""

from __future__ import annotations

import zlib


def socket_name(role: str, *places: object) -> str:
    """For `Endpoint.handed_over_as`: the same for a role of the same places, and of no more than
    letters, digits and dashes."""
    return f"{role}-{zlib.crc32(' '.join(map(str, places)).encode()):08x}"
