"""What an end knows of its own NAT (RFC 4787), so as to say why a path does not come up.

Seen at one address from two ports of the rendezvous, an end's NAT most likely uses one mapping
for all destinations. Seen at two, it makes a mapping for each (symmetric). A NAT that maps by
address alone can't be told from the first kind with the one address that a rendezvous has.
"""

from __future__ import annotations

import logging
from typing import Optional, Tuple

from udppunch import address
from udppunch.address import Address
from udppunch.contract import Endpoint, Outbox, Route
from udppunch.notices import event
from udppunch.wire import puncher

log = logging.getLogger(__name__)

_EXPLAIN_AFTER = 5.0


class Mapping:
    """`seen` is where the rendezvous sees this end's present socket."""

    def __init__(self) -> None:
        self.seen: Optional[Address] = None
        self.compared: Optional[Tuple[Address, Address]] = None  # one socket, seen twice
        self._other_port = 0
        self._asked: Optional[Tuple[Endpoint, Address]] = None

    def heard(self, seen: Optional[Address], other_port: int) -> None:
        """What came with an answer of the rendezvous's; nothing does if that is not ours."""
        if seen is not None:
            self.seen = seen
            self._other_port = other_port

    def ask(self, route: Route, mark: bytes, outbox: Outbox) -> None:
        """Ask the other port too, once; `route` leads to the rendezvous, and `seen` is its end."""
        if not self._other_port or self.seen is None or self.compared is not None:
            return
        assert route.destination is not None
        self._asked = route.endpoint, self.seen
        other = Route(route.endpoint, address.with_port(route.destination, self._other_port))
        outbox.send(other, puncher.encode(puncher.KeepAlive(mark)))

    def is_other_port(self, source: Address, rendezvous: Optional[Address]) -> bool:
        """Whether a datagram from `source` comes from the rendezvous's other port."""
        if rendezvous is None or not self._other_port:
            return False
        return source == address.with_port(rendezvous, self._other_port)

    def heard_other(self, datagram: bytes, endpoint: Endpoint) -> None:
        """The other port's answer. Raises Malformed."""
        message = puncher.decode(datagram)
        asked = self._asked
        if isinstance(message, puncher.Ok) and message.seen and asked and asked[0] is endpoint:
            self.compared = asked[1], message.seen

    @property
    def symmetric(self) -> Optional[bool]:
        """Whether the NAT maps each destination to another port; None: not known."""
        return None if self.compared is None else self.compared[0] != self.compared[1]


class Explanation:
    """Says once, when a path has not come up for a while, why that may be."""

    def __init__(self, whom: str) -> None:
        self._whom = whom
        self._at: Optional[float] = None
        self._said = False

    def expect(self, now: float) -> None:
        """A path is sought from now on, if it is not already."""
        if self._at is None and not self._said:
            self._at = now + _EXPLAIN_AFTER

    def settle(self) -> None:
        """The path is up; the next time is another matter."""
        self._at = None
        self._said = False

    def expire(self, mapping: Mapping, peer: Optional[Address], now: float) -> None:
        if self._at is None or now < self._at:
            return
        self._at = None
        self._said = True
        where = address.text(peer) if peer is not None else "unknown"
        reason = why_no_path(mapping, peer)
        event(
            log, logging.WARNING, "no-path",
            f"no direct path to the {self._whom} at {where}: {reason}; "
            "trying on, ever more slowly", peer=where, reason=reason,
        )  # fmt: skip

    def deadline(self) -> Optional[float]:
        return self._at


def why_no_path(mapping: Mapping, peer: Optional[Address]) -> str:
    """The likeliest reason that two ends which know of each other do not meet."""
    if mapping.seen and peer and address.same_ip(mapping.seen, peer):
        return "both ends are behind the same NAT, and it does not turn their datagrams back"
    if mapping.compared is not None and mapping.symmetric:
        one, other = map(address.text, mapping.compared)
        return (
            f"this end's NAT uses another port for each destination (symmetric: {one} and "
            f"{other}), and the other end's lets only known ports in"
        )
    if mapping.symmetric is False:
        return (
            "this end's NAT keeps its port for another destination; the other end's most likely "
            "uses another for each (symmetric), or a firewall drops UDP"
        )
    return (
        "nothing of the other end's arrives: one NAT uses another port for each destination "
        "(symmetric) and the other lets only known ports in, or a firewall drops UDP"
    )
