"""How datagrams for one destination are laid together into segmented sends (UDP_SEGMENT).

One segmented message carries datagrams of one size, the last of which may be shorter, and
the kernel cuts it into them again. The pieces need not be neighbours in memory: each message
gathers them by an I/O vector. A shorter one closes the group, or else datagrams would swap.
"""

from __future__ import annotations

from typing import List, NamedTuple, Sequence, Union

from udppunch.contract import Piece

# 64 is what every kernel with UDP_SEGMENT takes (128 only newer ones); an IP packet of 65,535
# bytes less the longest headers is the other bound.
MOST_SEGMENTS = 64
MOST_OCTETS = 65_000


class Group(NamedTuple):
    """One message: `spans` is position, length, position, length and so on.

    `headed`: each datagram is two spans, of which the first is what was put in front of it.
    """

    segment: int
    datagrams: int
    octets: int
    spans: List[int]
    headed: bool = False


def group(pieces: Sequence[Piece], largest: int) -> List[Group]:
    """Lays pieces, in order, into messages; datagrams longer than `largest` go alone."""
    largest = min(largest, MOST_OCTETS // 2)  # beyond it no two fit one message
    groups = _alike(pieces, largest)
    if groups:
        return groups
    size = count = octets = limit = 0  # of the open group; count == limit: none is open
    spans: List[int] = []
    for position, length, segment in pieces:
        if segment == size and count < limit:
            if length == size:
                spans += (position, length)
                count += 1
                octets += length
                continue
            more = -(-length // size)
            if count + more <= limit:
                spans += (position, length)
                count = count + more if length % size == 0 else limit
                octets += length
                continue
        elif length == segment < size and count < limit and length:
            spans += (position, length)
            octets += length
            count = limit
            continue
        if spans:
            groups.append(Group(size, -(-octets // size), octets, spans))
            spans = []
        if segment > largest or not length:
            _singly(groups, position, length, segment)
            size = count = limit = 0
            continue
        size, limit = segment, min(MOST_SEGMENTS, MOST_OCTETS // segment)
        whole = limit * size
        while length > whole:
            groups.append(Group(size, limit, whole, [position, whole]))
            position += whole
            length -= whole
        spans = [position, length]
        octets = length
        count = length // size if length % size == 0 else limit
    if spans:
        groups.append(Group(size, -(-octets // size), octets, spans))
    return groups


def lay(pieces: Sequence[Union[Piece, Group]], largest: int) -> List[Group]:
    """As `group`, where among the pieces there are messages that are laid already."""
    groups: List[Group] = []
    plain: List[Piece] = []
    for piece in pieces:
        if isinstance(piece, Group):
            groups += group(plain, largest)
            plain = []
            groups += [piece] if piece.segment <= largest else _apart(piece)
        else:
            plain.append(piece)
    return groups + group(plain, largest)


def headed(piece: Piece, head_at: int, head: int) -> List[Group]:
    """A train with `head` bytes from `head_at` in front of each of its datagrams."""
    position, length, segment = piece
    size = head + segment
    whole = min(MOST_SEGMENTS, MOST_OCTETS // size) * segment
    groups = []
    for start in range(0, length, whole):
        spans: List[int] = []
        end = min(start + whole, length)
        for at in range(start, end, segment):
            spans += (head_at, head, position + at, min(segment, end - at))
        datagrams = len(spans) // 4
        groups.append(Group(size, datagrams, end - start + datagrams * head, spans, True))
    return groups


def _apart(message: Group) -> List[Group]:
    """A headed message as one for each datagram."""
    spans = message.spans
    each = (spans[at : at + 4] for at in range(0, len(spans), 4))
    return [Group(s[1] + s[3], 1, s[1] + s[3], s, True) for s in each]


def _alike(pieces: Sequence[Piece], largest: int) -> List[Group]:
    """Datagrams of one size, none of which came in a train: what one flow mostly has.

    Nothing if they are not so.
    """
    groups: List[Group] = []
    _, size, segment = pieces[0] if pieces else (0, 0, 0)
    if len(pieces) < 2 or not 0 < size == segment <= largest:
        return groups
    positions, lengths, segments = zip(*pieces)
    if not lengths.count(size) == segments.count(size) == len(pieces):
        return groups
    most = min(MOST_SEGMENTS, MOST_OCTETS // size)
    for start in range(0, len(pieces), most):
        some = positions[start : start + most]
        spans = [size] * (2 * len(some))
        spans[::2] = some
        groups.append(Group(size, len(some), size * len(some), spans))
    return groups


def _singly(groups: List[Group], position: int, length: int, segment: int) -> None:
    if length <= segment:
        groups.append(Group(length, 1, length, [position, length]))
        return
    for start in range(0, length, segment):
        part = min(segment, length - start)
        groups.append(Group(part, 1, part, [position + start, part]))
