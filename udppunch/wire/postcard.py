"""The part of the postcard serialisation that the puncher protocol uses.

    varint    LEB128: groups of 7 bits, least significant first, bit 7 set on all but the last
    u16       a varint of 1 to 3 bytes, at most 65,535
    string    varint count of bytes, then that many bytes of UTF-8
    enum      varint index of the variant, then the variant's fields

Bytes that are none of it raise Malformed.
"""

from __future__ import annotations

from typing import Tuple

from udppunch.wire.malformed import Malformed

_U16_MAXIMUM = 0xFFFF
_U16_MAXIMUM_BYTES = 3


def encode_u16(value: int) -> bytes:
    """A varint of `value`, 0 to 65,535. Raises ValueError outside of that."""
    if not 0 <= value <= _U16_MAXIMUM:
        raise ValueError(f"{value} does not fit in 16 bits")
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def decode_u16(data: bytes, start: int) -> Tuple[int, int]:
    """The number at `start` and the index behind it. Raises Malformed."""
    value = 0
    for index in range(_U16_MAXIMUM_BYTES):
        if start + index >= len(data):
            raise Malformed("number is cut short")
        byte = data[start + index]
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            if value > _U16_MAXIMUM:
                break
            return value, start + index + 1
    raise Malformed("number exceeds 16 bits")


def encode_string(value: bytes) -> bytes:
    """A string given as its UTF-8 bytes."""
    return encode_u16(len(value)) + value


def decode_string(data: bytes, start: int) -> Tuple[bytes, int]:
    """The UTF-8 bytes of the string at `start` and the index behind it. Raises Malformed."""
    length, start = decode_u16(data, start)
    value = bytes(data[start : start + length])
    if len(value) != length:
        raise Malformed("string is cut short")
    try:
        value.decode("utf-8")
    except UnicodeDecodeError:
        raise Malformed("string is not UTF-8") from None
    return value, start + length
