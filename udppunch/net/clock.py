"""The clocks a loop may run by; wall time appears in logs alone.

A client counts the time its host was suspended, for the NAT's mapping and the server's table
went on ageing meanwhile. A server's clock need not.
"""

from __future__ import annotations

import time

monotonic = time.monotonic
sleep = time.sleep


def boot_time() -> float:
    """Seconds since the host started, sleep included where the platform can tell."""
    return time.clock_gettime(_BOOT)


# Linux's monotonic clock stops in suspend and has a sibling that does not; elsewhere the
# monotonic clock is the best there is.
_BOOT: int = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
