"""What a chat shows to people, and what they may ask of it: the nouns of every user interface.

state          meaning                                          left when
UNNAMED        nobody has said a name yet                       a name is said
REGISTERING    the server is greeted and told the name          it has answered: READY
READY          a peer may be named, or may come by itself       either: ESTABLISHING, PUNCHING
ESTABLISHING   the server is asked for the peer                 it has named his address
PUNCHING       a direct path to him is sought                   it is found: DIRECT
DIRECT         lines go to the peer                             he is silent: GONE
GONE           he does not answer; sought on all the while      he is heard again: DIRECT
FAILED         the peer can't be had; `reason` says why         another is named
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Callable, Optional, Protocol


class State(enum.Enum):
    UNNAMED = "unnamed"
    REGISTERING = "registering"
    READY = "ready"
    ESTABLISHING = "establishing"
    PUNCHING = "punching"
    DIRECT = "direct"
    GONE = "gone"
    FAILED = "failed"


class Mark(enum.Enum):
    """How a line fares. The first four are of one's own, the last two of the peer's."""

    SENT = "sent"
    DELIVERED = "delivered"
    UNCONFIRMED = "unconfirmed"  # the peer's program can't say whether it came
    LOST = "lost"
    RECEIVED = "received"
    PLAIN = "plain"  # it came unencrypted


@dataclass(frozen=True)
class Line:
    """Numbers count from 1; `at` is seconds since 1970."""

    number: int
    mine: bool
    text: str
    mark: Mark
    at: float


@dataclass(frozen=True)
class Peer:
    """`address` is empty until it is known; `name` is what he calls himself."""

    id: str
    name: str = ""
    fingerprint: str = ""
    address: str = ""


@dataclass(frozen=True)
class Status:
    """`reason` says more of the state, in a sentence for people, and may be empty."""

    state: State
    server: str
    name: str = ""
    id: str = ""
    fingerprint: str = ""
    reason: str = ""
    peer: Optional[Peer] = None


# The reason of GONE when the peer has said goodbye, and won't come back.
LEFT = "has left"
# And when nothing was heard of the peer for so long that it is hardly worth waiting.
SILENT = "no answer for a minute; seeking on"


class Refused(ValueError):
    """What was asked for can't be done; the text, one line for people, says why."""


def checked(check: Callable[[str], str], text: str) -> str:
    """The text as `check` gives it, which raises ValueError. Raises Refused."""
    try:
        return check(text)
    except ValueError as error:
        raise Refused(str(error)) from None


class Screen(Protocol):
    """A user interface. Nothing here may raise or call back."""

    def status(self, status: Status) -> None:
        """The status is now this."""

    def line(self, line: Line) -> None:
        """A line is new, or one of that number has another mark now."""

    def cleared(self) -> None:
        """The conversation is over and all its lines are gone."""

    def notice(self, text: str) -> None:
        """Something that people should know of, in one line."""


class Commands(Protocol):
    """What people may ask for. Each raises Refused."""

    def rename(self, name: str, now: float) -> None:
        """Be known under this name, 1 to 32 characters, from the state UNNAMED on."""

    def connect(self, peer_id: str, now: float) -> None:
        """Seek a path to the peer with this id."""

    def say(self, text: str, now: float) -> None:
        """Send a line to the peer."""

    def reset(self, now: float) -> None:
        """Leave the peer and forget the conversation; the name and the id stay."""
