"""Lines as they come from a pipe, or from a terminal that knows no more than lines.

It stands where the editor stands in a better terminal, and draws nothing but the prompt.
"""

from __future__ import annotations

from typing import Iterator

_MOST = 65536  # octets; what a line has beyond them is dropped


class Lines:
    left = False  # the end of the input says as much

    def __init__(self) -> None:
        self._begun = b""

    def feed(self, data: bytes) -> Iterator[str]:
        """More has come. Yields each line that is whole."""
        *whole, self._begun = (self._begun + data).split(b"\n")
        self._begun = self._begun[:_MOST]
        for line in whole:
            yield _decoded(line)

    def finish(self) -> Iterator[str]:
        """That was all: yields the last line, if nothing ended it."""
        if self._begun:
            yield _decoded(self._begun)
            self._begun = b""

    def remember(self, line: str) -> None:
        pass

    def drawing(self, prompt: str, columns: int) -> str:
        return prompt


def _decoded(line: bytes) -> str:
    return line[:_MOST].decode("utf-8", "replace").rstrip("\r")
