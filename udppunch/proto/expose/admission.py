"""Which signed keepalives a helper believes, and what it answers to them.

The mac comes first, so that no stranger uses up what an exposer may say, by whatever address he
writes; how many of them a worker computes is bounded. Then the rate, the claims and the proof of
the address. Nothing is kept before the proof, and nobody is answered who does not have the
password. Two answers are longer than their question, by the wire's nature: a further limit is for
these.
"""

from __future__ import annotations

import enum
from typing import Callable, NamedTuple, Optional

from udppunch import address
from udppunch.address import Address
from udppunch.proto import cookie
from udppunch.proto.limiter import Limiter
from udppunch.wire import expose
from udppunch.wire.expose import Keepalive, Registered, Retry
from udppunch.wire.malformed import Malformed

MACS = 10_000.0  # a second: less than a tenth of a processor
_ANYBODY = b""
_LARGER_ANSWERS = 10.0  # a second for one /24 or /56, twice that in a burst


class Kind(enum.Enum):
    """What came of it; the values are udpexposer's names where it counts the same."""

    OVER_RATE = "keepalives over their rate"
    INVALID = "invalid_auths"
    UNKNOWN_NAME = "unknown name"
    PROVE = "auth_in_progress"
    PROVED = "auth_completeds"
    REFRESHED = "refresh_address"
    STATISTICS = "stats_requests"


# What people are told: an event, and a sentence about an address.
COMPLAINTS = {
    Kind.INVALID: ("wrong-signature", "a keepalive from %s is not signed with this password"),
    Kind.UNKNOWN_NAME: ("unknown-name", "an exposer at %s has a name that is not published"),
}


class Verdict(NamedTuple):
    """`answer` to be sent, if any; `name` of the service that it is about."""

    kind: Kind
    answer: bytes = b""
    name: str = ""


class Admission:
    """`key` of the password; `secret` for the nonces, the same for all workers of a helper."""

    def __init__(self, key: bytes, secret: bytes, rate: float) -> None:
        self._key = key
        self._secret = secret
        self._macs = Limiter(MACS, MACS)
        self._limiter = Limiter(rate, 2 * rate)
        self._larger = Limiter(_LARGER_ANSWERS, 2 * _LARGER_ANSWERS)

    def judge(
        self,
        datagram: bytes,
        source: Address,
        exposer_of: Callable[[str], Optional[Address]],
        known: bool,
        now: float,
    ) -> Verdict:
        """`exposer_of` gives the present exposer of a service, raising KeyError for a name that
        there is not; `known` sources have a share of their own of what may come."""
        if not self._macs.allows(_ANYBODY, now):
            return Verdict(Kind.OVER_RATE)
        if not expose.is_signed(datagram, self._key):
            return Verdict(Kind.INVALID)
        party = bytes(source) if known else address.prefix(source)
        if not self._limiter.allows(party, now):
            return Verdict(Kind.OVER_RATE)
        try:
            claims = expose.decode(datagram)
        except Malformed:
            return Verdict(Kind.INVALID)
        if not isinstance(claims, Keepalive):
            return Verdict(Kind.INVALID)  # an answer, which is never answered
        if claims.nonce == expose.ASKS_STATISTICS:
            allowed = self._larger.allows(party, now)
            return Verdict(Kind.STATISTICS if allowed else Kind.OVER_RATE)
        try:
            present = exposer_of(claims.name)
        except KeyError:
            return Verdict(Kind.UNKNOWN_NAME, name=claims.name)
        registered = expose.encode(Registered(), self._key)
        if present == source:
            return Verdict(Kind.REFRESHED, registered, claims.name)
        nonce = claims.nonce
        if nonce is not None and cookie.is_good(self._secret, nonce, source, now):
            return Verdict(Kind.PROVED, registered, claims.name)
        if not self._larger.allows(party, now):
            return Verdict(Kind.OVER_RATE)
        retry = Retry(cookie.issue(self._secret, source, now))
        return Verdict(Kind.PROVE, expose.encode(retry, self._key), claims.name)
