"""The conversation as every tab is told it: in JSON, and bounded.

    {"status": {...}, "log": [entry, ...]}   all there is, to a tab that has just come
    {"status": {...}}                        the status is now this
    {"entry": {...}}                         new, or in the place of the one with the same key
    {"cleared": true}                        the log is empty
    {"refused": "why", "do": "say"}          what this tab asked for can't be done

An entry is a line, with `mine`, `text`, `mark` and `at`, or a notice, with `notice`.
"""

from __future__ import annotations

import dataclasses
import json
from collections import deque
from typing import Any, Deque, Dict, Optional

from udppunch.proto.chat.view import Line, Status

MOST_ENTRIES = 1000
MOST_NOTICES = 50
MOST_OCTETS = 1 << 20  # of all entries, in JSON
LONGEST_TEXT = 65536


class Record:
    """What is there to be told. Each method returns the message that tells the others of it."""

    def __init__(self) -> None:
        self._status = "null"
        self._entries: Dict[str, str] = {}
        self._octets = 0
        self._newest_line = 0
        self._notices: Deque[str] = deque()
        self._next_notice = 1

    def whole(self) -> str:
        return f'{{"status": {self._status}, "log": [{", ".join(self._entries.values())}]}}'

    def status(self, status: Status) -> str:
        shown = dataclasses.asdict(status)
        shown["state"] = status.state.value
        self._status = json.dumps(shown)
        return f'{{"status": {self._status}}}'

    def line(self, line: Line) -> Optional[str]:
        """Nothing for a line that was so long ago that it is not kept any more."""
        key = f"line {line.number}"
        if key not in self._entries and line.number <= self._newest_line:
            return None
        self._newest_line = max(self._newest_line, line.number)
        return self._put(
            key, mine=line.mine, text=_cut(line.text), mark=line.mark.value, at=line.at
        )

    def notice(self, text: str) -> str:
        key = f"notice {self._next_notice}"
        self._next_notice += 1
        self._notices.append(key)
        if len(self._notices) > MOST_NOTICES:
            self._drop(self._notices[0])
        return self._put(key, notice=_cut(text))

    def clear(self) -> str:
        self._entries.clear()
        self._notices.clear()
        self._octets = self._newest_line = 0
        return '{"cleared": true}'

    def _put(self, key: str, **fields: Any) -> str:
        entry = json.dumps({"key": key, **fields})
        self._octets += len(entry) - len(self._entries.get(key, ""))
        self._entries[key] = entry
        while len(self._entries) > MOST_ENTRIES or self._octets > MOST_OCTETS:
            self._drop(next(iter(self._entries)))
        return f'{{"entry": {entry}}}'

    def _drop(self, key: str) -> None:
        self._octets -= len(self._entries.pop(key))
        if key in self._notices:
            self._notices.remove(key)


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST_TEXT else text[:LONGEST_TEXT] + "…"
