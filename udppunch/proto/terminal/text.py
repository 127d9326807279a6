"""Text as a terminal shows it: what strangers sent made harmless, how wide it is, where it breaks.

Whatever could move the cursor, change the terminal's state or reorder a line is taken out, so
that nobody can make his words look like another's. Widths are in columns, and a base character
stays together with the marks that combine with it.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Iterator, List

_SEQUENCES = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"  # control sequences
    r"|(?:\x1b[PX\]^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)?"  # strings
    r"|\x1b[ -/]*[0-~]"
)
# Of the format characters, which are bidi controls and the like, the joiners shape words of some
# scripts and reorder nothing.
_JOINERS = "\u200c\u200d"
_UNSEEN = ("Cc", "Cf", "Cs", "Zl", "Zp")
_BREAKS = re.compile(r"\r\n|[\n\r\v\f\x85\u2028\u2029]")


def clean(text: str, *, keep: str = "") -> str:
    """The text on one line without control sequences or characters other than those of `keep`;
    a line break or a tab among them becomes a space."""
    if text.isascii() and text.isprintable():
        return text
    text = _BREAKS.sub(lambda match: match[0] if match[0] in keep else " ", text)
    if "\t" not in keep:
        text = text.replace("\t", " ")
    text = _SEQUENCES.sub("", text)
    return "".join(char for char in text if char in keep or is_shown(char))


def is_shown(char: str) -> bool:
    return unicodedata.category(char) not in _UNSEEN or char in _JOINERS


def width(text: str) -> int:
    if text.isascii():
        return len(text)
    return sum(map(_columns, text))


def clusters(text: str) -> Iterator[str]:
    """The characters, each with those that take no column of their own."""
    start = 0
    for at in range(1, len(text)):
        if _columns(text[at]):
            yield text[start:at]
            start = at
    if text:
        yield text[start:]


def wrap(text: str, columns: int) -> List[str]:
    """The text in rows of 4 columns or more, broken at a space where one is near enough and at
    each newline."""
    return [row for part in text.split("\n") for row in _rows(part, max(4, columns))]


def _rows(text: str, columns: int) -> List[str]:
    rows: List[str] = []
    row = ""
    used = 0
    for cluster in clusters(text):
        wide = width(cluster)
        if used + wide > columns:
            kept, space, rest = row.rpartition(" ")
            if cluster == " ":
                kept, rest, cluster, wide = row, "", "", 0
            elif not space or width(rest) > columns // 2:
                kept, rest = row, ""
            rows.append(kept)
            row, used = rest, width(rest)
        row += cluster
        used += wide
    return [*rows, row]


def _columns(char: str) -> int:
    if char < "\u0300":
        return 1
    if unicodedata.category(char) in ("Mn", "Me", "Cf") or "\u1160" <= char <= "\u11ff":
        return 0  # the latter are vowels and finals of a Hangul syllable
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1
