"""The errors that end a command: one clear line for the person, one exit status (sysexits.h)."""

from __future__ import annotations

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
