"""What a daemon tells about itself: one document for `udppunch stats` and for metrics alike."""

from __future__ import annotations

import os
from collections import Counter
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence

import psutil

from udppunch import __version__
from udppunch.contract import Role
from udppunch.proc.board import Process

# Who is running, by name.
Running = Callable[[], Mapping[str, Process]]


class Processes:
    """CPU time and memory of the daemon's processes, as psutil sees them."""

    def __init__(self, running: Running) -> None:
        self._running = running
        self._known: Dict[int, psutil.Process] = {}

    def describe(self) -> List[Dict[str, Any]]:
        running = self._running()
        pids = {process.pid for process in running.values()}
        self._known = {pid: known for pid, known in self._known.items() if pid in pids}
        described = ({"name": name, **self._one(process)} for name, process in running.items())
        return [one for one in described if "pid" in one]

    def _one(self, process: Process) -> Dict[str, Any]:
        pid = process.pid
        try:
            seen = self._known.get(pid) or psutil.Process(pid)
            self._known[pid] = seen
            with seen.oneshot():
                times = seen.cpu_times()
                return {
                    "pid": pid,
                    "cpu_seconds": round(times.user + times.system, 2),
                    "cpu_percent": seen.cpu_percent(),
                    "memory": seen.memory_info().rss,
                    "restarts": process.restarts,
                }
        except psutil.Error:
            return {}  # it has just ended


class Statistics:
    """`roles` are described one by one; `busiest` tells of a relay's channels."""

    def __init__(
        self,
        name: str,
        main_pid: int,
        running: Running,
        roles: Callable[[], Sequence[Dict[str, Any]]],
        listen: Callable[[], Sequence[str]],
        busiest: Optional[Callable[[int], List[Dict[str, Any]]]] = None,
    ) -> None:
        self._name = name
        self._main_pid = main_pid
        self._processes = Processes(running)
        self._roles = roles
        self._listen = listen
        self._busiest = busiest
        self._since = _uptime()

    def document(self, channels: int = 0) -> Dict[str, Any]:
        document: Dict[str, Any] = {
            "version": __version__,
            "name": self._name,
            "pid": self._main_pid,
            "uptime": round(_uptime() - self._since, 1),
            "listen": list(self._listen()),
            "processes": self._processes.describe(),
            "roles": list(self._roles()),
        }
        if self._busiest is not None:
            document["channels"] = self._busiest(channels)
        return document


def describe_role(
    name: str, role: Role, counters: "Counter[str]", gauges: Optional[Mapping[str, int]] = None
) -> Dict[str, Any]:
    shown = {key: count for key, count in sorted(counters.items()) if count}
    described: Dict[str, Any] = {"name": name, "status": role.status(), "counters": shown}
    if gauges:
        described["gauges"] = dict(gauges)
    return described


def _uptime() -> float:
    return os.times().elapsed
