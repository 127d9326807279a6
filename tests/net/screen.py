"""A small terminal: what is seen of what a program writes to it, lines that scrolled off included.

It knows the sequences that the chat uses, and raises ValueError at any other.
"""

from __future__ import annotations

import codecs
import re
from typing import List

_SEQUENCE = re.compile(r"\x1b\[([?0-9;]*)([A-Za-z])")
_UNFINISHED = re.compile(r"\x1b(\[[?0-9;]*)?")


class Screen:
    def __init__(self, columns: int = 80) -> None:
        self.rows: List[List[str]] = [[]]
        self.column = 0
        self.row = 0
        self.pastes = False  # are bracketed
        self.coloured = False  # something was
        self._columns = columns
        self._coming = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")()

    def feed(self, data: bytes) -> None:
        text = self._coming + self._decoder.decode(data)
        self._coming = ""
        at = 0
        while at < len(text):
            if text[at] == "\x1b":
                if _UNFINISHED.fullmatch(text, at):
                    self._coming = text[at:]
                    return
                match = _SEQUENCE.match(text, at)
                if match is None:
                    raise ValueError(f"unknown: {text[at : at + 10]!r}")
                self._sequence(match[1], match[2])
                at = match.end()
            else:
                self._character(text[at])
                at += 1

    def text(self) -> List[str]:
        return ["".join(row).rstrip() for row in self.rows]

    def _character(self, char: str) -> None:
        if char == "\r":
            self.column = 0
        elif char == "\n":
            self.row += 1
            if self.row == len(self.rows):
                self.rows.append([])
        elif char.isprintable():
            if self.column == self._columns:
                self._character("\r")
                self._character("\n")
            row = self.rows[self.row]
            row.extend(" " * (self.column + 1 - len(row)))
            row[self.column] = char
            self.column += 1
        else:
            raise ValueError(f"unknown: {char!r}")

    def _sequence(self, numbers: str, what: str) -> None:
        if what == "m":
            self.coloured = self.coloured or numbers != "0"
        elif what in "hl" and numbers == "?2004":
            self.pastes = what == "h"
        elif what == "K" and not numbers:
            del self.rows[self.row][self.column :]
        elif what == "A":
            self.row -= int(numbers or 1)
        elif what == "C":
            self.column = min(self._columns - 1, self.column + int(numbers or 1))
        elif what == "D":
            self.column = max(0, self.column - int(numbers or 1))
        else:
            raise ValueError(f"unknown: {numbers}{what}")
