"""What is said to people: events with fields for machines, and repetition kept down.

A log line is an event: a sentence for people, and under `--log-json` its name and fields. A
line that strangers can cause goes through `Notices`, which lets each kind through once a
while and counts the rest, so that no flood fills a disk.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from typing import Any, Tuple

TRACE = 5

_QUIET = 60.0  # seconds between two lines of one kind
_KINDS = 256


def event(logger: logging.Logger, level: int, name: str, sentence: str, **fields: Any) -> None:
    """Log `sentence`; `name` and `fields` say the same to a machine."""
    if logger.isEnabledFor(level):
        logger.log(level, "%s", sentence, extra={"event": name, "fields": fields})


def access_logger(place: str) -> logging.Logger:
    """What access lines go through that are wanted at `place`, a file or nothing for the log."""
    return logging.getLogger("udppunch.access" + (":" + place.replace(".", "_") if place else ""))


def state_logger() -> logging.Logger:
    """What somebody asks for by a signal goes through this, whatever the log's own level is."""
    return logging.getLogger("udppunch.state")


def say_state(state: str) -> None:
    event(state_logger(), logging.INFO, "state", state)


class Notices:
    """Says each kind of thing once a minute at most, and then how often it was held back."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._said: "OrderedDict[str, Tuple[float, int]]" = OrderedDict()

    def say(self, now: float, level: int, name: str, sentence: str, *, about: str = "") -> None:
        """Log the event unless the same `name` (and `about`) was said a short while ago."""
        former = self._said.get(f"{name} {about}")
        if self.may_say(now, name, about=about):
            if former is not None and former[1]:
                sentence = f"{sentence} ({former[1]} more of this kind in between)"
            event(self._logger, level, name, sentence)

    def may_say(self, now: float, name: str, *, about: str = "") -> bool:
        """Whether it was not said a short while ago; counts it as said, or as held back."""
        kind = f"{name} {about}"
        said = self._said.get(kind)
        if said is not None and now - said[0] < _QUIET:
            self._said[kind] = (said[0], said[1] + 1)
            return False
        if said is None and len(self._said) >= _KINDS:
            self._said.popitem(last=False)
        self._said[kind] = (now, 0)
        return True

    def forget(self, name: str, *, about: str = "") -> None:
        """The matter is settled: the next time is worth a line again."""
        self._said.pop(f"{name} {about}", None)
