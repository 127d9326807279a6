"""What the service manager is told over its datagram socket: sd_notify(3)."""

from __future__ import annotations

import array
import os
import select
import socket
from typing import Mapping, Optional, Sequence

# The first of the files that it hands over: sd_listen_fds(3).
FIRST_DESCRIPTOR = 3
_BARRIER = 5.0  # seconds that it may take to come to what it was told
_PATIENCE = 1.0  # and to make room for what is not to be lost


class Notifier:
    """Tells nothing, and fails never, where there is no service manager."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        path = environment.get("NOTIFY_SOCKET", "")
        # A leading @ stands for the abstract name space.
        self._path = "\0" + path[1:] if path.startswith("@") else path
        self.watchdog = _watchdog(environment)

    def tell(self, **assignments: str) -> None:
        """Send assignments such as READY="1" or STATUS="..."."""
        self._send(assignments, ())

    def store(self, name: str, number: int) -> bool:
        """Have the file kept, and handed to the next process of this service under that name;
        whether that was told."""
        return self._send({"FDSTORE": "1", "FDNAME": name}, (number,), _PATIENCE)

    def forget(self, name: str) -> bool:
        """Have what is kept under that name kept no more: it is in use, and will be stored anew;
        whether nobody keeps it now."""
        return not self._path or self._send({"FDSTOREREMOVE": "1", "FDNAME": name}, (), _PATIENCE)

    def wait(self) -> bool:
        """Wait until all that was told before has been heard; whether it was."""
        reader, writer = os.pipe()
        try:
            told = self._send({"BARRIER": "1"}, (writer,), _PATIENCE)
            os.close(writer)
            closed = select.poll()  # a daemon may have more files open than select() can tell of
            closed.register(reader)
            return told and bool(closed.poll(_BARRIER * 1000))
        finally:
            os.close(reader)

    def _send(
        self, assignments: Mapping[str, str], numbers: Sequence[int], patience: float = 0.0
    ) -> bool:
        if not self._path:
            return False
        text = "\n".join(f"{name}={value}" for name, value in assignments.items())
        files = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", numbers))]
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
                sock.settimeout(patience)
                sock.sendmsg([text.encode()], files if numbers else [], 0, self._path)
        except OSError:
            return False
        return True


def _watchdog(environment: Mapping[str, str]) -> Optional[float]:
    """How often to feed the watchdog, in seconds: twice as often as it asks for."""
    try:
        return int(environment.get("WATCHDOG_USEC", "")) / 2e6 or None
    except ValueError:
        return None
