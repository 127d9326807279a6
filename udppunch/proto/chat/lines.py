"""The lines of a conversation as a screen shows them: numbered, with how each fares."""

from __future__ import annotations

import dataclasses
from typing import Callable, Dict

from udppunch.proto.chat.view import Line, Mark, Screen


class Lines:
    """`wall` gives seconds since 1970."""

    def __init__(self, screen: Screen, wall: Callable[[], float]) -> None:
        self._screen = screen
        self._wall = wall
        self._last = 0
        self._under_way: Dict[int, Line] = {}  # by their number in the conversation

    def say(self, number: int, text: str) -> None:
        """A line of one's own, which is to be acknowledged."""
        self._under_way[number] = self._show(True, text, Mark.SENT)

    def say_unconfirmed(self, text: str) -> None:
        self._show(True, text, Mark.UNCONFIRMED)

    def heard(self, text: str, plain: bool = False) -> None:
        self._show(False, text, Mark.PLAIN if plain else Mark.RECEIVED)

    def delivered(self, number: int) -> None:
        """The line of one's own with that number has arrived; 0: none."""
        line = self._under_way.pop(number, None)
        if line is not None:
            self._screen.line(dataclasses.replace(line, mark=Mark.DELIVERED))

    def lose(self) -> None:
        """What is under way won't arrive any more."""
        for line in self._under_way.values():
            self._screen.line(dataclasses.replace(line, mark=Mark.LOST))
        self._under_way.clear()

    def clear(self) -> None:
        """The conversation is over."""
        self._last = 0
        self._under_way.clear()
        self._screen.cleared()

    def _show(self, mine: bool, text: str, mark: Mark) -> Line:
        self._last += 1
        line = Line(self._last, mine, text, mark, self._wall())
        self._screen.line(line)
        return line
