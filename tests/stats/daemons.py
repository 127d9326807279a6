"""Control sockets with somebody behind them who answers, or does not, as a test wants it."""

from __future__ import annotations

import json
import socket
import threading
from pathlib import Path
from typing import Any, Dict, List, Sequence

Document = Dict[str, Any]


def document(**changed: Any) -> Document:
    """What a relay's daemon says of itself."""
    return {
        "version": "0.1.0",
        "pid": 12,
        "uptime": 12.3,
        "name": "relay",
        "listen": ["[::]:6060"],
        "processes": [
            {"name": "registrar", "pid": 13, "cpu_seconds": 1.2, "cpu_percent": 3.1,
             "memory": 12_345_678, "restarts": 0},
            {"name": "worker 1", "pid": 14, "cpu_seconds": 700.25, "cpu_percent": 99.0,
             "memory": 9_876_543, "restarts": 2},
        ],
        "roles": [
            {
                "name": "relay",
                "status": "12 channels, 3 half-open",
                "counters": {"datagrams": 1000, "octets": 1_200_000, "dropped: unknown source": 4},
                "gauges": {"channels": 12, "half-open": 3},
            }
        ],
        "channels": [
            {"peers": ["192.0.2.1:5", "[2001:db8::1]:6"], "age": 12.5, "idle": 0.2,
             "datagrams": [10, 123_456], "octets": [1200, 15]},
        ],
        **changed,
    }  # fmt: skip


class Daemon:
    """Answers one question after the other with the documents (or bytes), the last one again
    and again, and closes."""

    def __init__(self, path: Path, answers: Sequence[Any]) -> None:
        self.path = str(path)
        self.asked: List[Document] = []
        self._answers = [a if isinstance(a, bytes) else json.dumps(a).encode() for a in answers]
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.bind(self.path)
        self._socket.listen()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def __enter__(self) -> Daemon:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()

    def _run(self) -> None:
        while True:
            try:
                asking = self._socket.accept()[0]
            except OSError:
                return
            with asking, asking.makefile("rb") as lines:
                self.asked.append(json.loads(lines.readline()))
                try:
                    asking.sendall(self._answers[0])
                except OSError:
                    pass  # whoever asked has gone
            if len(self._answers) > 1:
                del self._answers[0]
