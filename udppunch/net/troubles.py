"""What goes wrong on a datagram's way: counted always, logged seldom, told to the role if due.

Whoever can send us datagrams, or make the kernel refuse ours, could otherwise fill the log:
each kind of trouble has one line a minute, which says how many it stands for.
"""

from __future__ import annotations

import collections
import logging
from typing import Callable, Counter, Dict, Iterable, List, Tuple

from udppunch.contract import Piece
from udppunch.net import socketerrors
from udppunch.net.socketerrors import Action
from udppunch.net.udp import UdpSocket
from udppunch.notices import event

log = logging.getLogger("udppunch.net")

_SILENCE = 60.0
_MOST_KINDS = 1024


class Troubles:
    def __init__(self, clock: Callable[[], float]) -> None:
        self.counters: Counter[str] = collections.Counter()
        self.refused: List[UdpSocket] = []  # to be told to their roles
        self._clock = clock
        self._logged: Dict[Tuple[str, str], Tuple[float, int]] = {}

    def sending(self, udp: UdpSocket, number: int, datagrams: int) -> None:
        """So many datagrams were dropped."""
        name = socketerrors.name(number)
        self.counters["send_dropped"] += datagrams
        self.counters[f"send_{name}"] += datagrams
        self._say(f"cannot send ({name})", udp.endpoint.label)

    def unsendable(self, pieces: Iterable[Piece]) -> None:
        """Dropped because the route's endpoint is not open, or of the other IP version."""
        dropped = sum(-(-length // segment) if length else 1 for _, length, segment in pieces)
        self.counters["send_dropped"] += dropped
        self.counters["send_unopened"] += dropped

    def receiving(self, udp: UdpSocket, number: int) -> Action:
        """A receive failed; the answer says whether to try again."""
        action = self.met(udp, number)
        if action is Action.DROP or action is Action.SPLIT:
            name = socketerrors.name(number)
            self.counters[f"receive_{name}"] += 1
            self._say(f"cannot receive ({name})", udp.endpoint.label)
        return action

    def met(self, udp: UdpSocket, number: int) -> Action:
        """What to do about the error. Raises OSError for one that ends the process."""
        action = socketerrors.action(number)
        if action is Action.FATAL:
            raise OSError(number, f"{udp.endpoint.label}: {socketerrors.name(number)}")
        if action is Action.REFUSED:
            self.counters[f"refused_{socketerrors.name(number)}"] += 1
            if udp.connected and udp not in self.refused:
                self.refused.append(udp)
        return action

    def malformed(self, udp: UdpSocket, what: str) -> None:
        """The kernel gave a datagram with something amiss; it was dropped."""
        self.counters[f"receive_{what}"] += 1
        self._say(f"dropped datagrams ({what})", udp.endpoint.label)

    def bug(self, udp: UdpSocket, error: Exception) -> None:
        """A role raised over a datagram. That costs the datagram, never the process."""
        self.counters["role_errors"] += 1
        trace = error.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        line = 0 if trace is None else trace.tb_lineno
        kind = f"datagrams dropped by an error of udppunch: {type(error).__name__}, line {line}"
        if (kind, udp.endpoint.label) not in self._logged:
            log.debug("%s", kind, exc_info=error)
        self._say(kind, udp.endpoint.label, logging.ERROR)

    def no_segmentation(self, udp: UdpSocket) -> None:
        log.warning("%s: the kernel refuses segmented sends; going without", udp.endpoint.label)

    def _say(self, what: str, label: str, level: int = logging.WARNING) -> None:
        now = self._clock()
        since, unsaid = self._logged.get((what, label), (now - _SILENCE, 0))
        if now - since < _SILENCE:
            self._logged[what, label] = since, unsaid + 1
            return
        if len(self._logged) >= _MOST_KINDS:
            self._logged.clear()
        self._logged[what, label] = now, 0
        times = f" ({unsaid + 1} times)" if unsaid else ""
        event(log, level, "socket", f"{label}: {what}{times}")
