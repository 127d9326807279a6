"""Log lines on standard error: for a terminal, for the journal, or JSON for machines."""

from __future__ import annotations

import json
import logging
import logging.handlers
import sys
import time
from typing import Mapping

from udppunch.errors import complain, explained, one_line, under_journal
from udppunch.notices import TRACE, access_logger, event, state_logger

_LEVELS = {
    "trace": TRACE,
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
# syslog(3) priorities
_PRIORITIES = {TRACE: 7, logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3}


class _Terminal(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        at = time.strftime("%H:%M:%S", time.localtime(record.created))
        name = record.levelname.lower()
        return f"{at}.{int(record.msecs):03d} {name:7} {one_line(super().format(record))}"


class _Journal(logging.Formatter):
    """The journal has a clock of its own, and takes the priority from the start of a line."""

    def format(self, record: logging.LogRecord) -> str:
        return f"<{_PRIORITIES.get(record.levelno, 3)}>{one_line(super().format(record))}"


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": round(record.created, 3),
            "level": record.levelname.lower(),
            "event": getattr(record, "event", "notice"),
            "message": super().format(record),
            **getattr(record, "fields", {}),
        }
        return json.dumps(line)


class _Access(logging.Formatter):
    """As other tools that keep such files write it: the whole time first, in UTC."""

    def format(self, record: logging.LogRecord) -> str:
        at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        return f"{at}Z {one_line(super().format(record))}"


class _File(logging.handlers.WatchedFileHandler):
    """A file that may be moved away, and then is made anew; as unshakable as `_Stream`. When it
    can't be written, the log says so once, and how often when it can be again."""

    _lost = 0

    def emit(self, record: logging.LogRecord) -> None:
        before = self._lost
        try:
            super().emit(record)
        except OSError:
            # It can't be closed, for what is left to be written, or not be opened again.
            self.stream = None
            try:
                super().emit(record)
            except OSError:
                self.handleError(record)
        if self._lost == before > 0:
            self._lost = 0
            self._say(f"is written again; {before} lines came too late or are lost")

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        self._lost += 1
        if self._lost == 1:
            error = sys.exc_info()[1]
            self._say(f"cannot be written: {getattr(error, 'strerror', None) or error}")

    def _say(self, what: str) -> None:
        text = f"transparent-log {self.baseFilename} {what}"
        event(logging.getLogger("udppunch"), logging.WARNING, "transparent-log", text)


class _Stream(logging.StreamHandler):  # type: ignore[type-arg]
    """Goes on without a log when the log can't be written: a full disk ends no path."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        pass


def set_up(level: str, as_json: bool, environment: Mapping[str, str]) -> None:
    """Make the `udppunch` loggers write to standard error."""
    logging.addLevelName(TRACE, "TRACE")
    handler = _Stream(sys.stderr)
    if as_json:
        handler.setFormatter(_Json())
    else:
        handler.setFormatter(_Journal() if under_journal(environment) else _Terminal())
    logger = logging.getLogger("udppunch")
    logger.handlers[:] = [handler]
    logger.propagate = False
    state_logger().setLevel(logging.INFO)
    set_level(level)


def report(error: BaseException) -> int:
    """Say what ended a process as all else was said, for machines too; the exit status."""
    text, status = explained(error)
    logger = logging.getLogger("udppunch")
    if any(isinstance(handler.formatter, _Json) for handler in logger.handlers):
        if text:
            event(logger, logging.ERROR, "failed", text, status=status)
    elif text:
        complain(text)
    return status


def set_level(level: str) -> None:
    """The least level that is written from now on."""
    logging.getLogger("udppunch").setLevel(_LEVELS[level])


def open_access(place: str, as_json: bool) -> None:
    """Make access lines go to a file, or to standard error if `place` is empty. Raises OSError."""
    logger = access_logger(place)
    logger.setLevel(logging.INFO)  # whatever the log's own level is
    if place:
        handler = _File(place)
        handler.setFormatter(_Json() if as_json else _Access())
        logger.handlers[:] = [handler]
        logger.propagate = False
