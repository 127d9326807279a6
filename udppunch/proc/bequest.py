"""Sockets that one process of a daemon leaves to another, or to whoever replaces it.

They wait between the two, who need not run at the same time: what a supervisor leaves before it
starts a child is found even by the one that replaces a child killed meanwhile, and what a child
leaves last is found when it is gone.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import zlib
from typing import List, Mapping, Optional, Tuple

from udppunch.net.packets import packet_pair

log = logging.getLogger(__name__)

CANNOT_BE_HANDED_OVER = "sockets that cannot be handed over: %s (%s)"

_AT_ONCE = 250  # files in one packet, of which the kernel takes 253
_LONGEST = 1 << 16


class Bequest:
    """What waits. All processes that are forked later share it. Raises OSError."""

    def __init__(self) -> None:
        self._found, self._left = packet_pair()

    def leave(self, files: Mapping[str, int]) -> None:
        """They stay the caller's as well, who may close them. What finds no room is lost, which
        is logged: with what the kernel allows unless told otherwise, 25,000 of them find it."""
        left = list(files.items())
        while left:
            names, numbers = zip(*left[:_AT_ONCE])
            packet = zlib.compress(json.dumps([os.getpid(), names]).encode())
            try:
                socket.send_fds(self._left, [packet], numbers)
            except OSError as error:
                log.warning(CANNOT_BE_HANDED_OVER, len(left), error.strerror)
                return
            del left[:_AT_ONCE]

    def found(self) -> List[Tuple[str, int]]:
        """What was left last, to be the caller's."""
        found: List[Tuple[str, int]] = []
        last: Optional[int] = None
        while True:
            try:
                packet, numbers, _, _ = socket.recv_fds(self._found, _LONGEST, _AT_ONCE)
            except (BlockingIOError, ConnectionError):
                return found
            if not packet:
                return found
            giver, names = json.loads(zlib.decompress(packet))
            if giver != last:  # who came before him was killed while he wrote
                for _, number in found:
                    os.close(number)
                found, last = [], giver
            found += zip(names, numbers)
            if len(numbers) < len(names):
                log.warning(CANNOT_BE_HANDED_OVER, len(names) - len(numbers), "too many open files")
