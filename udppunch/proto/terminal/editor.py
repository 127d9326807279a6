"""A line editor: what comes from a terminal in cbreak mode, made into lines.

It knows the keys that everybody's fingers know, Emacs's and the arrows, and a paste, whose every
line is entered. Other keys and escape sequences do nothing. It draws one row: the prompt and the
text, which scrolls sideways when it is longer than the row.
"""

from __future__ import annotations

import codecs
import re
from typing import Callable, Dict, Iterator, List

from udppunch.proto.terminal.text import clusters, is_shown, width

_MOST = 4096  # clusters in a line
_MOST_MARKS = 16  # characters in a cluster
_REMEMBERED = 200  # lines

_INTERRUPT = "\x03"
_END = "\x04"
_PASTE = "\x1b[200~"
_PASTED = "\x1b[201~"

# A whole escape sequence; and what may become one when more comes.
_SEQUENCE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|O[ -~]|[ -NP-Z\\-~\x7f])")
_UNFINISHED = re.compile(r"\x1b(?:\[[0-?]{0,30}[ -/]{0,4}|O)?")


class Editor:
    """`left` is True once the person wants to go: by Ctrl-C, or Ctrl-D on an empty line."""

    def __init__(self) -> None:
        self.left = False
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._coming = ""  # an escape sequence that is not whole yet
        self._pasting = False
        self._returned = False  # the last key was Return, of which a line feed may be part
        # What is typed, before the cursor and, backwards, behind it.
        self._before: List[str] = []
        self._behind: List[str] = []
        self._scrolled = 0  # the text's column that the row begins with
        self._remembered: List[str] = []
        self._recalled = 0  # which of them is shown; their number if none is
        self._draft = ""  # what was typed when the first was recalled
        self._keys = self._bindings()

    def feed(self, data: bytes) -> Iterator[str]:
        """Keys were typed. Yields each line as it is entered."""
        text = self._coming + self._decoder.decode(data)
        self._coming = ""
        at = 0
        while at < len(text) and not self.left:
            if text[at] != "\x1b":
                yield from self._key(text[at])
                at += 1
            elif _UNFINISHED.fullmatch(text, at):
                self._coming = text[at:]
                return
            else:
                at = self._escape(text, at)

    def finish(self) -> Iterator[str]:
        """The terminal is gone, and with it what was not entered."""
        return iter(())

    def remember(self, line: str) -> None:
        """Lets the line be recalled by the arrow up."""
        if line and self._remembered[-1:] != [line]:
            self._remembered.append(line)
            del self._remembered[:-_REMEMBERED]
        self._recalled = len(self._remembered)

    def drawing(self, prompt: str, columns: int) -> str:
        """What draws the row anew and leaves the cursor in its place."""
        prompt = _cut(prompt, 0, max(0, columns - 10))
        room = max(2, columns - width(prompt) - 1)  # the cursor may stand behind the last
        text = "".join(self._before) + "".join(reversed(self._behind))
        cursor = width("".join(self._before))
        under = cursor + width("".join(self._behind[-1:]))
        if width(text) <= room:
            self._scrolled = 0
        elif not self._scrolled <= cursor <= under <= self._scrolled + room:
            self._scrolled = max(0, under - max(2, room // 2))
        shown = _cut(text, self._scrolled, room)
        back = width(_cut(text, cursor, self._scrolled + room - cursor))
        return f"\r{prompt}{shown}\x1b[K" + (f"\x1b[{back}D" if back else "")

    def _key(self, char: str) -> Iterator[str]:
        returned, self._returned = self._returned, char == "\r"
        if char in "\r\n":
            if not (returned and char == "\n"):
                yield self._enter()
        elif self._pasting:
            # Whoever is left alone in a paste, whose end got lost, gets out by Ctrl-C.
            self._pasting = char != _INTERRUPT
            self._insert(" " if char == "\t" else char)
        elif char in self._keys:
            self._keys[char]()
        else:
            self._insert(char)

    def _escape(self, text: str, at: int) -> int:
        """Takes a sequence from the text; says where this goes on."""
        self._returned = False
        match = _SEQUENCE.match(text, at)
        if match is None:
            return at + 1
        if self._pasting:
            self._pasting = match[0] != _PASTED
        elif match[0] == _PASTE:
            self._pasting = True
        elif match[0] in self._keys:
            self._keys[match[0]]()
        return match.end()

    def _enter(self) -> str:
        line = self._text()
        self._show("")
        self._recalled = len(self._remembered)
        return line

    def _insert(self, char: str) -> None:
        if not is_shown(char):
            return
        if self._before and not width(char):
            if len(self._before[-1]) < _MOST_MARKS:
                self._before[-1] += char
        elif len(self._before) + len(self._behind) < _MOST:
            self._before.append(char)

    def _text(self) -> str:
        return "".join(self._before) + "".join(reversed(self._behind))

    def _show(self, text: str) -> None:
        self._before[:] = clusters(text)
        self._behind.clear()

    # What keys do

    def _bindings(self) -> Dict[str, Callable[[], None]]:
        bindings = [
            (self._left, ["\x02", "\x1b[D", "\x1bOD"]),
            (self._right, ["\x06", "\x1b[C", "\x1bOC"]),
            (self._home, ["\x01", "\x1b[H", "\x1bOH", "\x1b[1~", "\x1b[7~"]),
            (self._to_end, ["\x05", "\x1b[F", "\x1bOF", "\x1b[4~", "\x1b[8~"]),
            (self._up, ["\x10", "\x1b[A", "\x1bOA"]),
            (self._down, ["\x0e", "\x1b[B", "\x1bOB"]),
            (self._backspace, ["\x08", "\x7f"]),
            (self._delete, ["\x1b[3~"]),
            (self._before.clear, ["\x15"]),
            (self._behind.clear, ["\x0b"]),
            (self._delete_word, ["\x17", "\x1b\x7f"]),
            (self._delete_or_leave, [_END]),
            (self._leave, [_INTERRUPT]),
        ]
        return {key: does for does, keys in bindings for key in keys}

    def _left(self) -> None:
        if self._before:
            self._behind.append(self._before.pop())

    def _right(self) -> None:
        if self._behind:
            self._before.append(self._behind.pop())

    def _home(self) -> None:
        while self._before:
            self._left()

    def _to_end(self) -> None:
        while self._behind:
            self._right()

    def _backspace(self) -> None:
        if self._before:
            self._before.pop()

    def _delete(self) -> None:
        if self._behind:
            self._behind.pop()

    def _delete_word(self) -> None:
        while self._before and self._before[-1].isspace():
            self._before.pop()
        while self._before and not self._before[-1].isspace():
            self._before.pop()

    def _delete_or_leave(self) -> None:
        if self._before or self._behind:
            self._delete()
        else:
            self._leave()

    def _leave(self) -> None:
        self.left = True

    def _up(self) -> None:
        if self._recalled == len(self._remembered):
            self._draft = self._text()
        self._recall(self._recalled - 1)

    def _down(self) -> None:
        self._recall(self._recalled + 1)

    def _recall(self, which: int) -> None:
        if 0 <= which <= len(self._remembered):
            self._recalled = which
            self._show([*self._remembered, self._draft][which])


def _cut(text: str, first: int, room: int) -> str:
    """What is in so many columns of the text from the first; half a character is a space."""
    shown: List[str] = []
    at = 0
    for cluster in clusters(text):
        wide = width(cluster)
        if at >= first + room or at + wide > first + room:
            break
        if at >= first:
            shown.append(cluster)
        elif at + wide > first:
            shown.append(" ")
        at += wide
    return "".join(shown)
