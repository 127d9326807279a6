"""What stands before every rendezvous on the open Internet: which datagrams are not looked at."""

from __future__ import annotations

import logging
from collections import Counter
from typing import List

from udppunch import address
from udppunch.address import Address
from udppunch.contract import Burst
from udppunch.notices import TRACE, Notices
from udppunch.proto.limiter import Limiter

# What a network is told without having asked, a second and at once.
_UNASKED_RATE = 20.0
_UNASKED_BURST = 100.0


class Gate:
    """`rate` datagrams a second of a network prefix, twice that in a burst. `own` are the
    addresses that the role itself listens on; most protocols carry IPv4 alone."""

    def __init__(
        self,
        rate: float,
        longest: int,
        counters: "Counter[str]",
        log: logging.Logger,
        *,
        ipv4_only: bool = True,
    ) -> None:
        self.own: List[Address] = []
        self._longest = longest
        self._ipv4_only = ipv4_only
        self._counters = counters
        self._limiter = Limiter(rate, 2 * rate)
        self._unasked = Limiter(_UNASKED_RATE, _UNASKED_BURST)
        self._notices = Notices(log)

    def refuses(self, burst: Burst, datagram: memoryview, known: bool, now: float) -> bool:
        """Whether a datagram is passed over: for length, family, source or rate. One who is
        `known` has a share of his own, which a flood from next door does not use up."""
        reason = self._reason(burst.source, len(datagram), known, now)
        if reason:
            self.drop(reason, burst.source, now)
        return bool(reason)

    def _reason(self, source: Address, octets: int, known: bool, now: float) -> str:
        if not 0 < octets <= self._longest:
            return "length"
        if self._ipv4_only and not address.is_ipv4(source):
            return "not IPv4"
        if address.port(source) in address.ANSWERING_PORTS or source in self.own:
            return "source port"
        party = bytes(source) if known else address.prefix(source)
        return "" if self._limiter.allows(party, now) else "rate"

    def may_tell(self, receiver: Address, now: float) -> bool:
        """Whether something may be said to an address that did not ask for it: anybody may have
        registered another's, and who asks is limited elsewhere."""
        return self._unasked.allows(address.prefix(receiver), now)

    def drop(self, reason: str, source: Address, now: float) -> None:
        self._counters[f"dropped: {reason}"] += 1
        about = f"dropped a datagram of {address.text(source)}: {reason}"
        self._notices.say(now, TRACE, "dropped", about, about=reason)
