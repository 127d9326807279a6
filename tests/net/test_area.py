"""Memory that processes share: what one writes all see, and so does the process that comes next."""

from __future__ import annotations

import mmap
import os
from typing import Callable, Iterator, List, Optional

import pytest

from udppunch.net.area import Area

PAGE = mmap.PAGESIZE
SIZES = (1, PAGE - 1, PAGE, PAGE + 1, 5 * PAGE)


@pytest.fixture
def area() -> Iterator[Callable[..., Area]]:
    made: List[Area] = []

    def make(descriptor: Optional[int] = None) -> Area:
        made.append(Area("tests", descriptor))
        return made[-1]

    yield make
    for each in made:
        if each.descriptor is not None:
            os.close(each.descriptor)


def in_child(act: Callable[[], None]) -> None:
    """Fails if it raises there."""
    child = os.fork()
    if not child:
        status = 1
        try:
            act()
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0


def heir_of(area: Area) -> int:
    """A descriptor of the same file, as the next process has it: of its own, seen by no child."""
    assert area.descriptor is not None
    return os.dup(area.descriptor)


@pytest.mark.parametrize("octets", SIZES)
def test_so_many_bytes_of_zero(area: Callable[..., Area], octets: int) -> None:
    taken = area().take(octets)
    assert len(taken) == octets and not any(taken)
    taken[-1] = 1
    assert taken[octets - 1] == 1


def test_each_has_its_own(area: Callable[..., Area]) -> None:
    shared = area()
    taken = [shared.take(octets) for octets in SIZES]
    for number, each in enumerate(taken, 1):
        each[:] = bytes([number]) * len(each)
    for number, each in enumerate(taken, 1):
        assert bytes(each) == bytes([number]) * len(each)


@pytest.mark.parametrize("named", [True, False], ids=["memfd", "no memfd"])
def test_children_share_it(
    area: Callable[..., Area], named: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where files without a name are not to be had, as on the BSDs."""
    if not named:
        monkeypatch.delattr(os, "memfd_create", raising=False)
    shared = area()
    assert named == (shared.descriptor is not None)
    first, second = shared.take(100), shared.take(2 * PAGE).cast("I")

    def write() -> None:
        first[99] = 7
        second[len(second) - 1] = 0xDEADBEEF

    in_child(write)
    assert first[99] == 7 and not any(first[:99])
    assert second[len(second) - 1] == 0xDEADBEEF


def test_an_heir_finds_what_was_there(area: Callable[..., Area]) -> None:
    before = area()
    for number, octets in enumerate(SIZES, 1):
        before.take(octets)[:] = bytes([number]) * octets
    after = area(heir_of(before))
    for number, octets in enumerate(SIZES, 1):
        assert bytes(after.take(octets)) == bytes([number]) * octets


def test_an_heir_that_takes_more_gets_zeros(area: Callable[..., Area]) -> None:
    before = area()
    before.take(10)[:] = b"0123456789"
    after = area(heir_of(before))
    assert bytes(after.take(10)) == b"0123456789"
    assert not any(after.take(PAGE + 1))


def test_an_heir_leaves_what_it_does_not_take(area: Callable[..., Area]) -> None:
    before = area()
    first, second = before.take(10), before.take(10)
    first[:], second[:] = b"0123456789", b"abcdefghij"
    between = area(heir_of(before))
    between.take(10)
    after = area(heir_of(between))
    assert bytes(after.take(10)) == b"0123456789"
    assert bytes(after.take(10)) == b"abcdefghij"


def test_no_program_that_is_started_gets_it_by_chance(area: Callable[..., Area]) -> None:
    shared = area()
    shared.take(1)
    assert shared.descriptor is not None and not os.get_inheritable(shared.descriptor)
