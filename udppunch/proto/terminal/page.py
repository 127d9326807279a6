"""What the chat writes into a terminal: rows below each other, never a screen.

The page wraps by itself and indents what does not fit the first row, so that nothing but a new
line of the conversation can look like one. All that comes here is clean.
"""

from __future__ import annotations

from typing import Callable, Optional, Tuple

from udppunch.proto.terminal.text import width, wrap

_STYLES = {"own": "36", "peer": "1;32", "aside": "2", "trouble": "33"}
_LEAST = 20  # columns; a terminal that claims fewer wraps by itself


class Page:
    """`editing` says that the terminal knows escape sequences, and that the row below the last
    one is a prompt's, which is not there while this writes."""

    def __init__(
        self,
        write: Callable[[str], None],
        columns: Callable[[], int],
        *,
        colour: bool,
        editing: bool,
    ) -> None:
        self._write = write
        self._columns = columns
        self._colour = colour
        self.editing = editing
        # The line that was put last, where it ends, and how wide the terminal was.
        self._last: Optional[Tuple[int, int, int]] = None

    def put(
        self, text: str, *, stamp: str = "", head: str = "", style: str = "", number: int = 0
    ) -> None:
        """Rows of their own: the stamp stands out to the left, and the head has the style, or
        everything if there is no head. A `number` lets the line be amended."""
        columns = max(_LEAST, self._columns())
        margin = width(stamp)
        rows = wrap(head + text, columns - 1 - margin)
        self._last = (number, margin + width(rows[-1]), columns) if number else None
        if not head:
            rows = [self._paint(row, style) for row in rows]
        elif rows[0].startswith(head):
            rows[0] = self._paint(head, style) + rows[0][len(head) :]
        self._write(f"{self._paint(stamp, 'aside')}" + f"\n{' ' * margin}".join(rows) + "\n")

    def amend(self, number: int, note: str, style: str) -> bool:
        """Adds a note to the line in its place, if nothing was written since and there is room."""
        if self._last is None or not self.editing:
            return False
        last, column, columns = self._last
        if number != last or columns != self._columns() or column + len(note) >= columns:
            return False
        self._last = None
        self._write(f"\x1b[A\x1b[{column}C{self._paint(note, style)}\n")
        return True

    def disturbed(self) -> None:
        """Somebody else wrote."""
        self._last = None

    def _paint(self, text: str, style: str) -> str:
        return f"\x1b[{_STYLES[style]}m{text}\x1b[0m" if self._colour and style else text
