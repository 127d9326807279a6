"""Token buckets: so many at once, so many a second, for each of a bounded number of parties."""

from __future__ import annotations

from collections import OrderedDict

_UNLIMITED = 1e18
_AT_ONCE = 0.25  # seconds
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
    """What a flow may carry: so many datagrams and so many octets a second, 0 for no limit.

    A quarter of a second's worth may come at once. Time is looked at only when that is used up,
    so that a datagram within the limits costs two subtractions.
    """

    __slots__ = ("_rates", "_bursts", "_datagrams", "_octets", "_at")

    def __init__(self, datagrams: float, octets: float, now: float) -> None:
        self._rates = (datagrams or _UNLIMITED, octets or _UNLIMITED)
        self._bursts = (
            max(self._rates[0] * _AT_ONCE, _LEAST_DATAGRAMS),
            max(self._rates[1] * _AT_ONCE, _LEAST_OCTETS),
        )
        self._datagrams, self._octets = self._bursts
        self._at = now

    def spend(self, datagrams: int, octets: int, now: float) -> bool:
        """Whether so much may pass now; if so, it is taken off."""
        self._datagrams -= datagrams
        self._octets -= octets
        if self._datagrams >= 0.0 and self._octets >= 0.0:
            return True
        passed, self._at = max(0.0, now - self._at), max(now, self._at)
        self._datagrams = min(self._bursts[0], self._datagrams + passed * self._rates[0])
        self._octets = min(self._bursts[1], self._octets + passed * self._rates[1])
        if self._datagrams >= 0.0 and self._octets >= 0.0:
            return True
        self._datagrams += datagrams
        self._octets += octets
        return False
