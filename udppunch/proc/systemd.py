"""What the service manager is told over its datagram socket: sd_notify(3)."""

from __future__ import annotations

import socket
from typing import Mapping, Optional


class Notifier:
    """Tells nothing, and fails never, where there is no service manager."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        path = environment.get("NOTIFY_SOCKET", "")
        # A leading @ stands for the abstract name space.
        self._path = "\0" + path[1:] if path.startswith("@") else path
        self.watchdog = _watchdog(environment)

    def tell(self, **assignments: str) -> None:
        """Send assignments such as READY="1" or STATUS="..."."""
        if not self._path:
            return
        text = "\n".join(f"{name}={value}" for name, value in assignments.items())
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
                sock.setblocking(False)
                sock.sendto(text.encode(), self._path)
        except OSError:
            pass


def _watchdog(environment: Mapping[str, str]) -> Optional[float]:
    """How often to feed the watchdog, in seconds: twice as often as it asks for."""
    try:
        return int(environment.get("WATCHDOG_USEC", "")) / 2e6 or None
    except ValueError:
        return None
