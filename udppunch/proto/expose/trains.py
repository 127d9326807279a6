"""Tagged datagrams that came in a train: each goes its own way, without the tag."""

from __future__ import annotations

from typing import Mapping, Sequence

from udppunch.contract import Burst, Outbox, Route, word
from udppunch.wire.expose import SIGNED, TAG, TAG_LENGTH

# How a signed datagram starts, as `Batch.words` has it.
SIGNED_WORD = word(SIGNED[:TAG_LENGTH])


def untag(outbox: Outbox, burst: Burst, words: Sequence[int], routes: Mapping[int, Route]) -> None:
    """`words` are the burst's, and `routes` has one for each that is among them."""
    if len(routes) == 1:
        outbox.strip(routes[words[0]], burst.piece, TAG_LENGTH)
        return
    position, length, segment = burst.piece
    end = position + length
    for start in words:
        size = min(segment, end - position)
        outbox.strip(routes[start], (position, size, size), TAG_LENGTH)
        position += segment


def head_of(tag: int) -> bytes:
    """The tag on the wire, of its number as `Batch.words` has it."""
    return TAG.pack(tag) if word(b"\0\1") == 1 else TAG.pack(tag)[::-1]
