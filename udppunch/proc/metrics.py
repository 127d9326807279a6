"""Metrics for Prometheus, over HTTP: what `udppunch stats` shows, without peers and channels."""

from __future__ import annotations

import contextlib
import re
import socket
from typing import Any, Dict, Iterable, Iterator, Optional, Tuple

from udppunch.address import Address
from udppunch.errors import missing_library
from udppunch.net import tcp
from udppunch.net.loop import Loop
from udppunch.net.stream import StreamServer
from udppunch.proc.statistics import Statistics

_MOST_ASKED = 16384
_LABELS = {"dropped": "reason", "handshakes": "result"}


@contextlib.contextmanager
def listen(at: Optional[Address]) -> Iterator[Optional[socket.socket]]:
    """The listening TCP socket, where one is wanted. Raises CommandError."""
    if at is None:
        yield None
        return
    _require_libraries()
    with tcp.listen("metrics", at) as sock:
        yield sock


def serve(loop: Loop, listener: socket.socket, statistics: Statistics) -> None:
    StreamServer(loop, listener, lambda: _Request(statistics), _MOST_ASKED)


class _Request:
    """One HTTP request; h11 knows HTTP, this what is to be had."""

    def __init__(self, statistics: Statistics) -> None:
        import h11

        self._statistics = statistics
        self._h11 = h11
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=_MOST_ASKED)

    def received(self, data: bytes) -> bytes:
        h11 = self._h11
        try:
            self._http.receive_data(data)
            event = self._http.next_event()
        except h11.RemoteProtocolError as error:
            return self._answer(error.error_status_hint, b"not HTTP\n")
        if not isinstance(event, h11.Request):
            return b""
        if event.method not in (b"GET", b"HEAD"):
            return self._answer(405, b"GET alone\n")
        if event.target.split(b"?")[0] != b"/metrics":
            return self._answer(404, b"see /metrics\n")
        body = exposition(self._statistics.document())
        return self._answer(200, body, head_only=event.method == b"HEAD")

    def _answer(self, status: int, body: bytes, head_only: bool = False) -> bytes:
        h11 = self._h11
        headers = [
            ("Content-Type", "text/plain; version=0.0.4; charset=utf-8"),
            ("Content-Length", str(len(body))),
            ("Connection", "close"),
        ]
        head = h11.Response(status_code=status, headers=headers)
        said: bytes = self._http.send(head) or b""
        return said if head_only else said + body


def exposition(document: Dict[str, Any]) -> bytes:
    """The document as Prometheus reads it (text format 0.0.4)."""
    from prometheus_client import CollectorRegistry, generate_latest

    registry = CollectorRegistry()
    registry.register(_Collector(document))
    return bytes(generate_latest(registry))


class _Collector:
    def __init__(self, document: Dict[str, Any]) -> None:
        self._document = document

    def collect(self) -> Iterable[Any]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        families: Dict[str, Any] = {}
        for label_of_role, role in self._named_roles():
            for key, count in role["counters"].items():
                kind, _, detail = key.partition(": ")
                label = _LABELS.get(kind, "kind")
                labels = ["role", label] if detail else ["role"]
                name = _name(kind)
                family = families.setdefault(
                    f"{name} {len(labels)}",
                    CounterMetricFamily(f"{name}_total", f"{kind} so far", labels=labels),
                )
                family.add_metric([label_of_role, *([detail] if detail else [])], count)
            for key, value in role.get("gauges", {}).items():
                gauge = GaugeMetricFamily(_name(key), f"{key} now", labels=["role"])
                families.setdefault(key, gauge).add_metric([label_of_role], value)
        yield from families.values()
        cpu = CounterMetricFamily(
            "udppunch_process_cpu_seconds_total", "CPU time used", labels=["process"]
        )
        memory = GaugeMetricFamily(
            "udppunch_process_resident_memory_bytes", "memory in use", labels=["process"]
        )
        for process in self._document["processes"]:
            cpu.add_metric([process["name"]], process["cpu_seconds"])
            memory.add_metric([process["name"]], process["memory"])
        yield cpu
        yield memory

    def _named_roles(self) -> Iterator[Tuple[str, Dict[str, Any]]]:
        """With a number where there are several of a name."""
        roles = self._document["roles"]
        names = [role["name"] for role in roles]
        for index, role in enumerate(roles):
            name = role["name"]
            several = names.count(name) > 1
            yield f"{name} {names[: index + 1].count(name)}" if several else name, role


def _name(key: str) -> str:
    return "udppunch_" + re.sub(r"\W+", "_", key.lower())


def _require_libraries() -> None:
    try:
        import h11  # noqa: F401
        import prometheus_client  # noqa: F401
    except ImportError as error:
        debian = "python3-h11 and python3-prometheus-client"
        raise missing_library(error, "--metrics", "metrics", debian) from None
