"""A person's terminal, or the pipes in its place, on the loop.

Keys and lines go to whom they are meant for, and what he writes goes out above the prompt, which
is drawn again together with what is typed so far. Nothing here blocks: what the terminal does not
take waits, up to a bound. However this ends or is suspended, the terminal is left as it was.
"""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from dataclasses import dataclass
from typing import Callable, Iterator, List, Mapping, Optional, Protocol, TextIO

from udppunch.net import clock as clocks
from udppunch.net.cbreak import Cbreak
from udppunch.net.input import Input
from udppunch.net.loop import Loop
from udppunch.net.output import Output

_MOST_WAITING = 1 << 20  # octets that are written and not taken
_COLUMNS = 80  # of a terminal that does not know its own

_DROPPED = "dropped: output is not read"

_ERASE = b"\r\x1b[K"
_PASTES_ON = b"\x1b[?2004h"
_PASTES_OFF = b"\x1b[?2004l"


class Dialogue(Protocol):
    """Whom the lines are for. `over` is the exit status, once he wants no more of them."""

    over: Optional[int]

    @property
    def prompt(self) -> str: ...

    @property
    def wants_input(self) -> bool: ...

    def entered(self, line: str, now: float) -> bool:
        """A line came. Whether it is worth being recalled."""

    def ended(self, now: float) -> None:
        """No more will come."""

    def due(self) -> bool:
        """Whether he has something to do."""

    def proceed(self, now: float) -> None:
        """Do it."""

    def disturbed(self) -> None:
        """Somebody else wrote on the terminal."""


class Typing(Protocol):
    """What makes lines of octets. `left` is True when the person asked to leave."""

    left: bool

    def feed(self, data: bytes) -> Iterator[str]: ...

    def finish(self) -> Iterator[str]: ...

    def remember(self, line: str) -> None: ...

    def drawing(self, prompt: str, columns: int) -> str: ...


@dataclass(frozen=True)
class Manner:
    """How to deal with who is at the other end of standard input and output."""

    interactive: bool  # somebody sits there
    editing: bool  # at a terminal that knows escape sequences
    colour: bool


def manner(environment: Mapping[str, str], stdin: Optional[int], stdout: Optional[int]) -> Manner:
    interactive = all(each is not None and os.isatty(each) for each in (stdin, stdout))
    editing = interactive and environment.get("TERM", "dumb") != "dumb"
    return Manner(interactive, editing, editing and not environment.get("NO_COLOR"))


def descriptor(stream: Optional[TextIO]) -> Optional[int]:
    """The standard stream's, unless it was closed before the program began: then the number
    is another's."""
    return stream.fileno() if stream is not None else None


class Terminal:
    """What is a role but for endpoints; for a `with` statement around the loop's run.

    With `editing` both `stdin` and `stdout` are a terminal that knows escape sequences, and gives
    each key at once. The loop ends when the dialogue is over and all is written, or when nothing
    can be written any more; `exit_status` is what comes of it.
    """

    def __init__(
        self,
        loop: Loop,
        typing: Typing,
        *,
        editing: bool,
        stdin: Optional[int],
        stdout: Optional[int],
        stderr: Optional[int] = None,
        clock: Callable[[], float] = clocks.monotonic,
    ) -> None:
        self.counters: "Counter[str]" = Counter()
        self.exit_status = 0
        self._loop = loop
        self._typing = typing
        self._stdout = stdout
        self._output = Output(loop, stdout)
        self._errors = Output(loop, stderr)
        self._clock = clock
        self._dialogue: Dialogue
        self._modes = Cbreak(stdin, self._clear_row) if editing and stdin is not None else None
        self._text: List[bytes] = []  # to be written above the prompt
        self._octets = 0  # of it
        self._shown = ""  # the prompt in the cursor's row
        self._dirty = True  # what is typed is not what is drawn
        self._input = Input(loop, stdin, self._received)
        self._input_ended = False

    def join(self, dialogue: Dialogue) -> None:
        """Once, before the loop runs."""
        self._dialogue = dialogue

    def write(self, text: str) -> None:
        """Whole lines, above the prompt."""
        data = _encoded(text)
        if self._octets + len(data) > _MOST_WAITING:
            self._dropped()
            return
        self._text.append(data)
        self._octets += len(data)

    def tell(self, text: str) -> None:
        """Whole lines, to where errors go."""
        if not self._errors.write(_encoded(text)):
            self._dropped()

    def columns(self) -> int:
        if self._stdout is not None:
            with contextlib.suppress(OSError):
                return os.get_terminal_size(self._stdout).columns or _COLUMNS
        return _COLUMNS

    def __enter__(self) -> Terminal:
        if self._modes is not None:
            self._modes.enter()
            self._output.write(_PASTES_ON)
        return self

    def __exit__(self, *_: object) -> None:
        if self._modes is not None:
            self._modes.leave()
        self._output.close()
        self._errors.close()

    # What the loop calls

    def start(self, now: float) -> None:
        if self._modes is not None:
            self._loop.watch(self._modes.resumed, self._resume)

    def deadline(self) -> Optional[float]:
        busy = (
            self._may_draw()
            or self._dialogue.due()
            or self._wants_input() is not self._input.wanted
            or self._input.due
            or self._is_over()
        )
        return 0.0 if busy else None

    def expire(self, now: float) -> None:
        if self._dialogue.due():
            self._dialogue.proceed(now)
        self._input.want(self._wants_input())
        if self._input.due:
            self._input.read()
        if self._may_draw():
            self._draw()
        if self._is_over():
            self.exit_status = int(self._output.broken) or self._dialogue.over or 0
            self._loop.stop()

    def stop(self, now: float) -> None:
        self._draw()

    def status(self) -> str:
        return ""

    # Input

    def _wants_input(self) -> bool:
        dialogue = self._dialogue
        return dialogue.over is None and dialogue.wants_input and not self._input_ended

    def _received(self, data: bytes) -> None:
        now = self._clock()
        self._dirty = True
        for line in self._typing.feed(data) if data else self._typing.finish():
            self._shown = ""
            if self._dialogue.entered(line, now):
                self._typing.remember(line)
            if self._dialogue.over is not None:
                return
        if not data or self._typing.left:
            self._end_input(now)

    def _end_input(self, now: float) -> None:
        self._input_ended = True
        self._dialogue.ended(now)

    # Output

    def _prompt(self) -> str:
        return self._dialogue.prompt if self._dialogue.over is None else ""

    def _may_draw(self) -> bool:
        """Not before what was drawn the last time is taken."""
        changed = self._dirty or self._text or self._prompt() != self._shown
        return bool(changed) and not self._output.waits

    def _draw(self) -> None:
        """Writes what is to be written, and the prompt below it."""
        text, prompt = b"".join(self._text), self._prompt()
        self._text.clear()
        self._octets = 0
        if self._modes is not None:
            row = _encoded(self._typing.drawing(prompt, self.columns()))
            self._output.write((_ERASE + text if text else b"") + row)
        elif text or prompt != self._shown:
            self._output.write((b"\n" if self._shown else b"") + text + _encoded(prompt))
        self._shown = prompt
        self._dirty = False

    def _dropped(self) -> None:
        self.counters[_DROPPED] += 1
        if self.counters[_DROPPED] == 1:
            self.tell("what is written is not read: some of it is dropped\n")

    def _is_over(self) -> bool:
        over = self._dialogue.over is not None and not self._text
        return self._output.broken or (over and not self._output.waits and not self._errors.waits)

    def _resume(self) -> None:
        assert self._modes is not None
        self._modes.take_note()
        self._output.write(_PASTES_ON)
        self._dialogue.disturbed()
        self._dirty = True

    def _clear_row(self) -> None:
        self._output.write_now(_ERASE + _PASTES_OFF)


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "replace")
