"""The part of the bincode serialisation (version 2, standard configuration) that is used here.

    number    0 to 250 in one byte; FB and two bytes, FC and four, FD and eight, least
              significant first
    string    number of bytes, then that many bytes of UTF-8
    enum      number of the variant, then the variant's fields

A decoder takes longer forms of a number than needed, as bincode does. Bytes that are none of it
raise Malformed.
"""

from __future__ import annotations

from typing import Tuple

from udppunch.wire.malformed import Malformed

_ONE_BYTE = 250
_WIDTHS = {0xFB: 2, 0xFC: 4, 0xFD: 8}


def encode_number(value: int) -> bytes:
    """A number of 0 to 2^64 - 1. Raises ValueError outside of that."""
    if 0 <= value <= _ONE_BYTE:
        return bytes([value])
    for first, width in _WIDTHS.items():
        if 0 < value < 1 << (8 * width):
            return bytes([first]) + value.to_bytes(width, "little")
    raise ValueError(f"{value} does not fit in 64 bits")


def decode_number(data: bytes, start: int) -> Tuple[int, int]:
    """The number at `start` and the index behind it. Raises Malformed."""
    if start >= len(data):
        raise Malformed("number is cut short")
    first = data[start]
    start += 1
    if first <= _ONE_BYTE:
        return first, start
    width = _WIDTHS.get(first)
    if width is None:
        raise Malformed("not a number")
    if start + width > len(data):
        raise Malformed("number is cut short")
    return int.from_bytes(data[start : start + width], "little"), start + width


def encode_string(value: str) -> bytes:
    """Raises UnicodeEncodeError for what UTF-8 has no form of."""
    encoded = value.encode()
    return encode_number(len(encoded)) + encoded


def decode_string(data: bytes, start: int) -> Tuple[str, int]:
    """The string at `start` and the index behind it. Raises Malformed."""
    length, start = decode_number(data, start)
    value = bytes(data[start : start + length])
    if len(value) != length:
        raise Malformed("string is cut short")
    try:
        return value.decode(), start + length
    except UnicodeDecodeError:
        raise Malformed("string is not UTF-8") from None
