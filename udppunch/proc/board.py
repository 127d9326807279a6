"""Memory that the supervisor shares with its children: who they are and their signs of life.

    beats(8) ‖ pid(4) ‖ restarts(4) ‖ length(1) ‖ status(111)      a slot of 128 bytes for each
    length(4) ‖ what it tells of itself, as JSON                   and 16 KiB, behind all slots

The supervisor writes pid and restarts, the child the rest of its slot; a status that is read
half written is merely an odd line.
"""

from __future__ import annotations

import json
import mmap
import struct
from typing import Any, Dict, NamedTuple, Sequence

_SLOT = 128
_BEATS = struct.Struct("=Q")
_PROCESS = struct.Struct("=II")
_LENGTH_AT = _BEATS.size + _PROCESS.size
_STATUS_AT = _LENGTH_AT + 1
_TOLD = 16384
_TOLD_LENGTH = struct.Struct("=I")


class Process(NamedTuple):
    pid: int
    restarts: int


class Board:
    """A slot for each name, in their order. Made before the children are."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = list(names)
        self._told_at = len(self.names) * _SLOT
        self._memory = mmap.mmap(-1, max(1, len(self.names)) * (_SLOT + _TOLD))

    def beat(self, slot: int, status: str) -> None:
        """The child is alive, and does this."""
        at = slot * _SLOT
        text = status.encode("utf-8", "replace")[: _SLOT - _STATUS_AT]
        self._memory[at + _LENGTH_AT] = len(text)
        self._memory[at + _STATUS_AT : at + _STATUS_AT + len(text)] = text
        _BEATS.pack_into(self._memory, at, self.beats(slot) + 1)

    def beats(self, slot: int) -> int:
        (beats,) = _BEATS.unpack_from(self._memory, slot * _SLOT)
        return int(beats)

    def status(self, slot: int) -> str:
        at = slot * _SLOT
        length = self._memory[at + _LENGTH_AT]
        return self._memory[at + _STATUS_AT : at + _STATUS_AT + length].decode("utf-8", "replace")

    def tell(self, slot: int, told: Any) -> None:
        """What the child tells of itself; where it is too much, the last it told stays."""
        data = json.dumps(told).encode()
        if len(data) <= _TOLD - _TOLD_LENGTH.size:
            at = self._told_at + slot * _TOLD
            self._memory[at : at + _TOLD_LENGTH.size + len(data)] = (
                _TOLD_LENGTH.pack(len(data)) + data
            )

    def told(self, slot: int) -> Any:
        """None if there is nothing yet, or it is just being written."""
        at = self._told_at + slot * _TOLD
        (length,) = _TOLD_LENGTH.unpack_from(self._memory, at)
        at += _TOLD_LENGTH.size
        try:
            return json.loads(self._memory[at : at + length])
        except ValueError:
            return None

    def clear(self, slot: int) -> None:
        """A new child will have the slot."""
        self._memory[slot * _SLOT : (slot + 1) * _SLOT] = bytes(_SLOT)

    def enter(self, slot: int, pid: int, restarts: int) -> None:
        """The child of that slot runs, or (pid 0) does not."""
        _PROCESS.pack_into(self._memory, slot * _SLOT + _BEATS.size, pid, restarts)

    def processes(self) -> Dict[str, Process]:
        """Those that run, by name."""
        found = {}
        for slot, name in enumerate(self.names):
            pid, restarts = _PROCESS.unpack_from(self._memory, slot * _SLOT + _BEATS.size)
            if pid:
                found[name] = Process(pid, restarts)
        return found
