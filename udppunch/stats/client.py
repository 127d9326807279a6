"""Asks running daemons what they do, each through its control socket.

A control socket is a UNIX stream socket. It takes one line of JSON, answers with one JSON
object, and closes.
"""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Union

from udppunch.errors import EX_NOPERM, EX_UNAVAILABLE, CommandError

Document = Dict[str, Any]

SYSTEM_FOLDER = "/run/udppunch"

_PATIENCE = 5.0  # seconds, for one daemon
_PAUSE = 0.05
_LARGEST = 16 << 20


class Answer(NamedTuple):
    """What the daemon behind the socket at `path` said, or why it said nothing."""

    path: str
    said: Union[Document, CommandError]


def folders(environment: Mapping[str, str]) -> List[str]:
    """Where daemons have their control sockets."""
    own = environment.get("XDG_RUNTIME_DIR")
    return [SYSTEM_FOLDER, *([os.path.join(own, "udppunch")] if own else [])]


def find(environment: Mapping[str, str]) -> List[str]:
    """The control sockets that are there. Raises CommandError if there is none."""
    found: List[str] = []
    refused: Optional[PermissionError] = None
    searched = folders(environment)
    for folder in searched:
        try:
            names = sorted(os.listdir(folder))
        except PermissionError as error:
            refused = error
        except OSError:
            continue
        else:
            found += [os.path.join(folder, name) for name in names if name.endswith(".sock")]
    if not found and refused is not None:
        raise _not_permitted(str(refused.filename))
    if not found:
        raise CommandError(
            f"no control socket in {' or '.join(searched)}: "
            "start a daemon, or give the path of its control socket",
            EX_UNAVAILABLE,
        )
    return found


def ask(path: str, channels: int) -> Answer:
    """The daemon's own document, with so many of its channels."""
    question = json.dumps({"want": "stats", "channels": channels}) + "\n"
    deadline = time.monotonic() + _PATIENCE
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
            _connect(asking, path, deadline)
            asking.sendall(question.encode())
            return Answer(path, _document(path, _read(asking, deadline)))
    except CommandError as error:
        return Answer(path, error)
    except OSError as error:
        return Answer(path, _explained(path, error))


def _connect(asking: socket.socket, path: str, deadline: float) -> None:
    """With a daemon that has too many waiting, there is no waiting in the kernel."""
    while True:
        asking.settimeout(_left(deadline))
        try:
            asking.connect(path)
            return
        except BlockingIOError:
            time.sleep(_PAUSE)


def _read(asking: socket.socket, deadline: float) -> bytes:
    read = bytearray()
    while len(read) <= _LARGEST:
        asking.settimeout(_left(deadline))
        part = asking.recv(1 << 16)
        if not part:
            break
        read += part
    return bytes(read)


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise socket.timeout
    return left


def _document(path: str, read: bytes) -> Document:
    try:
        document = json.loads(read)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict) or "error" in document:
        what = "says something else" if read else "says nothing"
        raise CommandError(
            f"asked for statistics, what listens at {path} {what}: is it udppunch?", EX_UNAVAILABLE
        )
    return document


def _explained(path: str, error: OSError) -> CommandError:
    if isinstance(error, PermissionError):
        return _not_permitted(path)
    if isinstance(error, FileNotFoundError):
        reason = f"no control socket {path}: does the daemon run?"
    elif isinstance(error, ConnectionRefusedError) and not Path(path).is_socket():
        reason = f"{path} is no control socket: give the one that the daemon was given"
    elif isinstance(error, ConnectionRefusedError):
        reason = f"nobody listens at {path}: its daemon has ended, start it again"
    elif isinstance(error, socket.timeout):
        reason = f"the daemon at {path} does not answer"
    else:
        reason = f"cannot ask at {path}: {error.strerror or error}"
    return CommandError(reason, EX_UNAVAILABLE)


def _not_permitted(path: str) -> CommandError:
    return CommandError(f"no permission for {path}: ask as root or as the daemon's user", EX_NOPERM)
