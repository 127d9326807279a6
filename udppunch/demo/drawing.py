"""The drawing: both ends, their NATs, the rendezvous, and the path between, on 78 columns.

The addresses on a side stand from the inside out: of the program's socket, and behind its NAT
what the other end sees. A side without a NAT has the first alone.
"""

from __future__ import annotations

from typing import List, NamedTuple, Optional, Sequence

from udppunch.demo.terminal import WIDTH

_SIDE = 24  # columns of a box, frame included
_MIDDLE = 22
_LEFT = 1
_RIGHT = WIDTH - _SIDE
_CENTRE = (_LEFT + _RIGHT + _SIDE - _MIDDLE) // 2
_PATH_ROW = 7
_BOX_TOP = _PATH_ROW - 2


class Side(NamedTuple):
    """One end: `outside` is its address as the other end sees it."""

    program: str
    nat: Optional[str]
    inside: str
    outside: str
    application: str


def draw(a: Side, b: Side, rendezvous: str) -> str:
    canvas = _Canvas()
    canvas.box(_CENTRE, 0, _MIDDLE, ["rendezvous", rendezvous])
    for column, side in ((_LEFT, a), (_RIGHT, b)):
        centre = column + _SIDE // 2
        _introduction(canvas, centre)
        ends = [side.program, side.inside, side.application]
        if side.nat is None:
            canvas.box(column, _BOX_TOP, _SIDE, ends)
        else:
            canvas.box(column, _BOX_TOP, _SIDE, [f"NAT: {side.nat}", side.outside])
            below = _BOX_TOP + 4
            canvas.box(column, below, _SIDE, ends)
            canvas.put(centre, below - 1, "┬")
            canvas.put(centre, below, "┴")
    start, end = _LEFT + _SIDE - 1, _RIGHT
    canvas.put(start, _PATH_ROW, "◄" + "═" * (end - start - 1) + "►")
    canvas.put((start + end - len("direct path")) // 2 + 1, _PATH_ROW - 1, "direct path")
    return canvas.text()


def _introduction(canvas: _Canvas, centre: int) -> None:
    """The dots between the rendezvous and the top of a side."""
    row = 2
    leftwards = centre > _CENTRE
    edge = _CENTRE + _MIDDLE if leftwards else _CENTRE - 1
    for x in range(centre, edge, -2 if leftwards else 2):
        canvas.put(x, row, "·")
    for y in range(row + 1, _BOX_TOP):
        canvas.put(centre, y, "·")


class _Canvas:
    def __init__(self) -> None:
        self._rows: List[List[str]] = []

    def put(self, x: int, y: int, text: str) -> None:
        while len(self._rows) <= y:
            self._rows.append([" "] * WIDTH)
        self._rows[y][x : x + len(text)] = text

    def box(self, x: int, y: int, width: int, lines: Sequence[str]) -> None:
        inner = width - 2
        self.put(x, y, f"┌{'─' * inner}┐")
        for row, line in enumerate(lines, y + 1):
            self.put(x, row, f"│{line:^{inner}}│")
        self.put(x, y + len(lines) + 1, f"└{'─' * inner}┘")

    def text(self) -> str:
        return "\n".join("".join(row).rstrip() for row in self._rows)
