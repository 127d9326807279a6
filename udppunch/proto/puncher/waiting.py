"""Datagrams that wait for their path: a queue bounded in number and in bytes."""

from __future__ import annotations

from typing import Iterator, List, Sequence

_DATAGRAMS = 1024
_OCTETS = 1 << 20


class Waiting:
    """Keeps the first ones: they hold the application's opening, which the rest builds on."""

    __slots__ = ("_held", "_octets", "dropped")

    def __init__(self) -> None:
        self._held: List[bytes] = []
        self._octets = 0
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._held)

    def add(self, datagrams: Sequence[memoryview]) -> None:
        """Copy the datagrams; what goes over the bound is dropped and counted."""
        for datagram in datagrams:
            if len(self._held) >= _DATAGRAMS or self._octets + len(datagram) > _OCTETS:
                self.dropped += 1
                continue
            self._held.append(bytes(datagram))
            self._octets += len(datagram)

    def take(self) -> Iterator[bytes]:
        """All that waited, in the order in which it came; nothing waits any more."""
        held, self._held, self._octets = self._held, [], 0
        return iter(held)
