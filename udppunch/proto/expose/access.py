"""Access lines: which connectee used which service, for how long and how much.

They go through a logger of their own, so that they may be written elsewhere. Whoever was never
answered may be a forged address: of those there are only so many lines a second.
"""

from __future__ import annotations

import logging
from typing import Optional

from udppunch import address
from udppunch.notices import access_logger, event
from udppunch.proto.expose.tags import Holder
from udppunch.proto.limiter import Limiter

_LINES = 10.0  # a second, and ten times that in a burst
_ANYBODY = b""


class AccessLog:
    """`place` as in `access_logger`; None where no lines are wanted."""

    def __init__(self, place: Optional[str]) -> None:
        self._wanted = place is not None
        self._log = access_logger(place or "")
        self._limiter = Limiter(_LINES, 10 * _LINES)

    def came(self, service: str, holder: Holder, now: float) -> None:
        if self._wanted and self._limiter.allows(_ANYBODY, now):
            who = address.text(holder.connectee.address)
            sentence = f"{who} came to {service}, tag {holder.tag}"
            event(self._log, logging.INFO, "came", sentence, connectee=who, tag=holder.tag)

    def left(self, service: str, holder: Holder, now: float) -> None:
        """`holder` has lost its tag, or the helper ends."""
        if not self._wanted or not (holder.answered or self._limiter.allows(_ANYBODY, now)):
            return
        who = address.text(holder.connectee.address)
        seconds = round(holder.active - holder.since, 1)
        datagrams, octets = holder.returned
        event(
            self._log,
            logging.INFO,
            "left",
            f"{who} left {service}, tag {holder.tag}, after {seconds} s:"
            f" {holder.octets} bytes in {holder.datagrams} datagrams from it,"
            f" {octets} in {datagrams} to it",
            connectee=who,
            tag=holder.tag,
            seconds=seconds,
            from_octets=holder.octets,
            from_datagrams=holder.datagrams,
            to_octets=octets,
            to_datagrams=datagrams,
        )
