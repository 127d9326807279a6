"""The errors that end a command: one clear line for the person, one exit status (sysexits.h)."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import sys
import traceback
from pathlib import PurePath
from typing import Mapping, Optional, TextIO, Tuple

EX_USAGE = 64
EX_DATAERR = 65
EX_NOINPUT = 66
EX_NOHOST = 68
EX_UNAVAILABLE = 69
EX_SOFTWARE = 70
EX_OSERR = 71
EX_CANTCREAT = 73
EX_TEMPFAIL = 75
EX_NOPERM = 77
EX_CONFIG = 78

# What to do when there are too many open files.
DESCRIPTORS = " (raise 'ulimit -n', or LimitNOFILE= in the unit)"


class CommandError(Exception):
    """Something the person must mend; `str()` names the thing and the remedy in one line."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class UsageError(CommandError):
    """The command line is wrong."""

    def __init__(self, message: str) -> None:
        super().__init__(message, EX_USAGE)


class ConfigError(CommandError):
    """A configuration file is wrong."""

    def __init__(self, message: str) -> None:
        super().__init__(message, EX_CONFIG)


def missing_library(error: ImportError, who: str, extra: str, packages: str) -> CommandError:
    """`who` needs a library that is not installed, and how to have it."""
    library = (error.name or "").partition(".")[0]
    needed = f"{who} needs the Python library {library}"
    remedy = f"pip install 'udppunch[{extra}]', or Debian's {packages}"
    return CommandError(f"{needed} ({remedy})", EX_UNAVAILABLE)


def report(error: BaseException) -> int:
    """Say on standard error what ended a process; the exit status. Never a traceback."""
    text, status = explained(error)
    if text:
        complain(text)
    return status


def explained(error: BaseException) -> Tuple[str, int]:
    """The line that says it to a person, and the exit status."""
    if isinstance(error, CommandError):
        return str(error), error.status
    if isinstance(error, BrokenPipeError):
        return "", 0
    if isinstance(error, ImportError) and (error.name or "udppunch").split(".")[0] != "udppunch":
        needed = f"udppunch needs the Python library {error.name}"
        return f"{needed}: pip install it, or the package of your distribution", EX_UNAVAILABLE
    if isinstance(error, OSError):
        remedy = DESCRIPTORS if error.errno in (errno.EMFILE, errno.ENFILE) else ""
        return f"{error.strerror or error}{remedy}", EX_OSERR
    # Its text may quote what it was given, a key for one.
    logging.getLogger(__name__).debug("internal error", exc_info=error)
    where = traceback.extract_tb(error.__traceback__)[-1]
    kind = f"{type(error).__name__}, {PurePath(where.filename).name}:{where.lineno}"
    return f"internal error ({kind}); please report it", EX_SOFTWARE


def complain(text: str) -> None:
    """A line on standard error, as far as there is one; the journal takes it for an error."""
    priority = "<3>" if under_journal(os.environ) else ""
    print_as_far_as_possible(f"{priority}udppunch: {one_line(text)}", sys.stderr)


def print_as_far_as_possible(text: str, stream: Optional[TextIO]) -> None:
    """A line on standard output or standard error. Where that is closed or full, nobody reads it,
    and the exit status still tells."""
    if stream is None:  # it was closed before we started
        return
    try:
        print(text, file=stream, flush=True)
    except OSError:
        abandon(stream)


def abandon(stream: TextIO) -> None:
    """It can't be written: what is left in its buffer would be tried again at the end of the
    process, and change the exit status."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def under_journal(environment: Mapping[str, str]) -> bool:
    """Whether standard error is the very stream that the service manager set up (systemd.exec)."""
    try:
        status = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError, AttributeError):
        return False
    return environment.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def one_line(text: str) -> str:
    """Control characters made visible: what strangers send is never taken for a line of ours."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
