"""The addresses of a name, within a time: the system's resolver may block for longer."""

from __future__ import annotations

import select
import time

from udppunch.contract import Lookup
from udppunch.net import resolve

_LONGEST_WAIT = 86400.0  # poll() takes no more than 24 times that


def addresses_of(lookup: Lookup, deadline: float) -> resolve.Answer:
    """What the name stands for; if nothing, why. `deadline` is in time.monotonic()'s seconds."""
    known = resolve.numeric(lookup)
    if known is not None:
        return known
    began = time.monotonic()
    resolution = resolve.Resolution(lookup, began)
    poll = select.poll()
    poll.register(resolution.pipe, select.POLLIN)
    if poll.poll(min(max(0.0, deadline - began), _LONGEST_WAIT) * 1000):
        return resolution.answer()
    resolution.end()
    return [], f"no name server answered for {lookup.host} in {deadline - began:.1f} s"
