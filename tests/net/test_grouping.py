"""Whatever pieces go in, the kernel's cutting of the groups gives the same datagrams again."""

from __future__ import annotations

from typing import List

from hypothesis import given
from hypothesis import strategies as st

from udppunch.net.grouping import MOST_OCTETS, MOST_SEGMENTS, Group, Piece, group

sizes = st.one_of(
    st.integers(0, 65_507), st.sampled_from([0, 1, 100, 1000, 1200, 1472, 32_500, 65_000])
)


@st.composite
def piece_lists(draw: st.DrawFn) -> List[Piece]:
    """Lone datagrams and trains, apart in memory, of sizes that often repeat."""
    pieces: List[Piece] = []
    position = 0
    palette = draw(st.lists(sizes, min_size=1, max_size=3))
    for _ in range(draw(st.integers(0, 150))):
        segment = draw(st.sampled_from(palette))
        length = segment
        if segment and draw(st.booleans()):
            most = min(128, 65_507 // segment)
            length = draw(st.integers(1, most)) * segment - draw(st.integers(0, segment - 1))
            segment = min(segment, length)
        pieces.append((position, length, segment))
        position += length + draw(st.integers(0, 5))
    return pieces


def datagrams_of_pieces(pieces: List[Piece]) -> List[List[int]]:
    """Each datagram as the start and the end of its bytes in memory."""
    found = []
    for position, length, segment in pieces:
        for start in range(0, length, segment) if length else [0]:
            found.append([position + start, position + min(length, start + segment)])
    return found


def cut_as_the_kernel_does(message: Group) -> List[List[List[int]]]:
    """Each datagram of a message as the runs of memory it is gathered from."""
    runs = [list(span) for span in zip(message.spans[::2], message.spans[1::2])]
    if message.octets == 0:
        return [[[runs[0][0], runs[0][0]]]]
    datagrams: List[List[List[int]]] = []
    while runs:
        missing = message.segment
        datagram: List[List[int]] = []
        while missing and runs:
            start, length = runs[0]
            taken = min(missing, length)
            datagram.append([start, start + taken])
            runs[0] = [start + taken, length - taken]
            missing -= taken
            if runs[0][1] == 0:
                runs.pop(0)
        datagrams.append(datagram)
    return datagrams


@given(piece_lists(), st.sampled_from([0, 999, 1200, 65_507]))
def test_groups_hold_the_same_datagrams_in_order(pieces: List[Piece], largest: int) -> None:
    groups = group(pieces, largest)
    cut = [datagram for each in groups for datagram in cut_as_the_kernel_does(each)]
    assert cut == [[datagram] for datagram in datagrams_of_pieces(pieces)]


@given(piece_lists(), st.sampled_from([0, 999, 1200, 65_507]))
def test_groups_are_what_the_kernel_takes(pieces: List[Piece], largest: int) -> None:
    for each in group(pieces, largest):
        assert each.octets == sum(each.spans[1::2])
        assert each.datagrams == len(cut_as_the_kernel_does(each))
        if each.datagrams > 1:
            assert 0 < each.segment <= largest
            assert each.datagrams <= MOST_SEGMENTS
            assert each.octets <= MOST_OCTETS


def test_equal_datagrams_from_all_over_make_one_message() -> None:
    pieces = [(slot * 65_536, 1000, 1000) for slot in range(64)]
    assert [each.datagrams for each in group(pieces, 65_507)] == [64]


def test_trains_of_one_size_are_joined() -> None:
    pieces = [(slot * 65_536, 16_000, 1000) for slot in range(8)]
    assert [each.datagrams for each in group(pieces, 65_507)] == [64, 64]


def test_a_shorter_datagram_closes_its_message() -> None:
    pieces = [(0, 1000, 1000), (5000, 400, 400), (9000, 1000, 1000), (12_000, 1000, 1000)]
    assert [each.datagrams for each in group(pieces, 65_507)] == [2, 2]
