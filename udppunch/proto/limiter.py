"""Token buckets: so many at once, so many a second, for each of a bounded number of parties."""

from __future__ import annotations

from collections import OrderedDict
from typing import Tuple

_UNLIMITED = 1e18
_AT_ONCE = 0.125  # seconds
# One train that the kernel coalesced always fits.
_LEAST_DATAGRAMS = 64.0
_LEAST_OCTETS = 65_536.0


class TokenBucket:
    """`burst` tokens at first and at most, `rate` more each second."""

    __slots__ = ("rate", "burst", "_tokens", "_at")

    def __init__(self, rate: float, burst: float) -> None:
        self.rate = rate
        self.burst = burst
        self._tokens = 0.0
        self._at = float("-inf")

    def take(self, now: float) -> bool:
        """Take a token, if there is one."""
        if now > self._at:
            self._tokens = min(self.burst, self._tokens + (now - self._at) * self.rate)
            self._at = now
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True


class Limiter:
    """A bucket a party. The party that was quiet for longest is forgotten when all are in use.

    Forgetting gives a party its burst back, so `capacity` bounds memory, not the sum of all
    rates: a flood from more parties than that is bounded at the next table it reaches.
    """

    def __init__(self, rate: float, burst: float, capacity: int = 16384) -> None:
        self._rate = rate
        self._burst = burst
        self._capacity = capacity
        self._buckets: "OrderedDict[bytes, TokenBucket]" = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def allows(self, party: bytes, now: float) -> bool:
        """Take a token of the party's, if there is one."""
        bucket = self._buckets.get(party)
        if bucket is None:
            if len(self._buckets) >= self._capacity:
                self._buckets.popitem(last=False)
            bucket = self._buckets[party] = TokenBucket(self._rate, self._burst)
        else:
            self._buckets.move_to_end(party)
        return bucket.take(now)


class Allowance:
    """How much a flow may carry: so many datagrams and octets a second, 0 for no limit.

    It is the same for many flows. Each keeps itself what it has left and since when, so that a
    datagram within the limits costs two subtractions; `refill` is for when either is used up.
    `most` is what a flow may have left: an eighth of a second's worth, and one train that the
    kernel coalesced in any case. After a pause that much may pass twice, since only then time
    is looked at.
    """

    def __init__(self, datagrams: float, octets: float) -> None:
        self._rates = (datagrams or _UNLIMITED, octets or _UNLIMITED)
        self.most = (
            max(self._rates[0] * _AT_ONCE, _LEAST_DATAGRAMS),
            max(self._rates[1] * _AT_ONCE, _LEAST_OCTETS),
        )

    def refill(self, datagrams: float, octets: float, passed: float) -> Tuple[float, float]:
        """What is left after so many more seconds."""
        return (
            min(self.most[0], datagrams + passed * self._rates[0]),
            min(self.most[1], octets + passed * self._rates[1]),
        )
