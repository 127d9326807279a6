"""What the demo prints: steps with their time, in color and with box characters where they show.

Nothing is wider than 78 columns. Every line is flushed, for it tells what happens now.
"""

from __future__ import annotations

import re
import sys
import textwrap
from typing import Mapping

WIDTH = 78
_STEP = 22  # the column in which a step's text begins

_STYLES = {"bold": "1", "dim": "2", "path": "1;32", "warning": "33", "actor": "36"}
_BOXES = "┌─┐│└┘┬┴═◄►·"
_ASCII = str.maketrans(_BOXES, "+-+|++++=<>.")


class Terminal:
    """Standard output. `plain` is the person's wish for no color."""

    def __init__(self, environment: Mapping[str, str], *, plain: bool) -> None:
        self._color = (
            not plain
            and not environment.get("NO_COLOR")
            and environment.get("TERM") != "dumb"
            and sys.stdout is not None
            and sys.stdout.isatty()
        )
        self._boxes = _shows_boxes(environment)

    def line(self, text: str = "", style: str = "") -> None:
        print(self._paint(text, style), flush=True)

    def step(self, seconds: float, actor: str, text: str, style: str = "") -> None:
        """What `actor` did, so many seconds after the start; wrapped if it is long."""
        first, *rest = textwrap.wrap(text, WIDTH - _STEP, break_on_hyphens=False)
        at = self._paint(f"{seconds:6.2f} s", "dim")
        who = self._paint(f"{actor:<11}", "actor")
        print(f"{at}  {who} {self._paint(first, style)}", flush=True)
        for part in rest:
            print(f"{'':{_STEP}}{self._paint(part, style)}", flush=True)

    def entry(self, name: str, text: str, width: int) -> None:
        """A text under its name, in columns; wrapped if it is long."""
        first, *rest = textwrap.wrap(text, WIDTH - width - 2, break_on_hyphens=False)
        print(f"  {self._paint(f'{name:<{width}}', 'bold')}{first}", flush=True)
        for part in rest:
            print(f"{'':{width + 2}}{part}", flush=True)

    def drawing(self, text: str) -> None:
        shown = text if self._boxes else text.translate(_ASCII)
        print(re.sub("[◄═►<=>]{2,}", lambda way: self._paint(way[0], "path"), shown), flush=True)

    def _paint(self, text: str, style: str) -> str:
        return f"\033[{_STYLES[style]}m{text}\033[0m" if self._color and style else text


def _shows_boxes(environment: Mapping[str, str]) -> bool:
    """Whether both Python and the person's own locale say that the terminal takes them.

    Python takes the C locale for UTF-8 (PEP 538, which sets LC_CTYPE, and PEP 540); a terminal
    may not.
    """
    names = [environment.get(name) for name in ("LC_ALL", "LC_CTYPE", "LANG")]
    if names[1] == "C.UTF-8" and names[2] in (None, "", "C", "POSIX"):
        names[1] = None
    locale = next((name for name in names if name), "C").lower().replace("-", "")
    try:
        _BOXES.encode(sys.stdout.encoding)
    except (AttributeError, UnicodeEncodeError):
        return False
    return locale.endswith("utf8")
