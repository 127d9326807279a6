"""The control socket: a UNIX socket on which a daemon tells what it does, to its owner alone.

One line of JSON is asked, {"want": "stats", "channels": 10}; one JSON object is answered.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import socket
from pathlib import Path
from typing import Iterator, Mapping, Optional

from udppunch.errors import EX_CANTCREAT, CommandError
from udppunch.net.loop import Loop
from udppunch.net.stream import StreamServer
from udppunch.proc.statistics import Statistics

log = logging.getLogger(__name__)

_MOST_ASKED = 4096
_MOST_CHANNELS = 100_000
FOLDER = "/run/udppunch"


class _Question:
    def __init__(self, statistics: Statistics) -> None:
        self._statistics = statistics
        self._said = b""

    def received(self, data: bytes) -> bytes:
        self._said += data
        if data and b"\n" not in self._said:
            return b""
        try:
            question = json.loads(self._said)
            if question["want"] != "stats":
                raise ValueError
            channels = min(max(0, int(question.get("channels", 0))), _MOST_CHANNELS)
        except (
            ValueError,
            TypeError,
            LookupError,
            AttributeError,
            ArithmeticError,
            RecursionError,
        ):
            return b'{"error": "ask {\\"want\\": \\"stats\\"}"}\n'
        return json.dumps(self._statistics.document(channels)).encode() + b"\n"


@contextlib.contextmanager
def listen(
    path: Optional[str], name: str, environment: Mapping[str, str]
) -> Iterator[Optional[socket.socket]]:
    """The listening socket; None where none is wanted (an empty path).

    With no path given it is made at the usual place, if that can be. Raises CommandError for a
    given one that can't be. Whoever made it removes it at the end.
    """
    wanted = path is not None
    place = Path(path) if path else _usual_place(name, environment)
    if path == "" or place is None:
        yield None
        return
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if not wanted:
            place.parent.mkdir(mode=0o755, exist_ok=True)
            for other in place.parent.glob("*-*.sock"):
                _remove_if_dead(other)
        _remove_if_dead(place)
        previous = os.umask(0o177)
        try:
            sock.bind(str(place))
        finally:
            os.umask(previous)
        sock.listen(16)
    except OSError as error:
        sock.close()
        if wanted:
            reason = error.strerror or str(error)
            if error.errno == errno.EADDRINUSE:
                reason = "another daemon answers there" if place.is_socket() else "it is no socket"
                reason += ": give another path"
            raise CommandError(f"control socket {place}: {reason}", EX_CANTCREAT) from None
        log.debug("no control socket at %s: %s", place, error.strerror)
        yield None
        return
    owner = os.getpid()
    try:
        yield sock
    finally:
        sock.close()
        if os.getpid() == owner:
            remove(place)


def remove(place: Path) -> None:
    try:
        place.unlink()
    except OSError:
        pass


def serve(loop: Loop, listener: socket.socket, statistics: Statistics) -> None:
    StreamServer(loop, listener, lambda: _Question(statistics), _MOST_ASKED)


def _usual_place(name: str, environment: Mapping[str, str]) -> Optional[Path]:
    """`name.sock` where the service manager, root or the user has such things."""
    file = f"{name}-{os.getpid()}.sock"
    if environment.get("RUNTIME_DIRECTORY"):
        return Path(environment["RUNTIME_DIRECTORY"].split(":")[0]) / file
    if os.access("/run", os.W_OK):
        return Path(FOLDER) / file
    if environment.get("XDG_RUNTIME_DIR"):
        return Path(environment["XDG_RUNTIME_DIR"]) / "udppunch" / file
    return None


def _remove_if_dead(path: Path) -> None:
    """A daemon that was killed leaves its socket, on which nobody answers."""
    if not path.is_socket():
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(0.2)
        try:
            sock.connect(str(path))
        except ConnectionRefusedError:
            remove(path)
        except OSError:
            pass
