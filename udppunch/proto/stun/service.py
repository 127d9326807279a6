"""STUN beside another protocol, on that one's sockets: which of them answers what (RFC 5780)."""

from __future__ import annotations

from typing import Dict, List, Sequence, Tuple

from udppunch import address
from udppunch.address import Address
from udppunch.contract import Burst, Endpoint, Outbox, Route
from udppunch.proto.gate import Gate
from udppunch.proto.stun import server
from udppunch.wire.stun import PORT

LONGEST = 2048  # bytes: who pads a request does so up to what the path carries, or just beyond


class StunService:
    """`endpoints` are the sockets that are there anyway. With two of them, of two IP addresses,
    it asks for two more (`wanted`), so that clients can be answered from elsewhere."""

    def __init__(self, endpoints: Sequence[Endpoint], outbox: Outbox, gate: Gate) -> None:
        self._outbox = outbox
        self._gate = gate
        self._alone = server.Server()
        self._both = server.Server()
        self._numbers: Dict[Endpoint, int] = {}
        self._sockets: List[Endpoint] = []
        self.wanted: List[Endpoint] = []
        places = _places([endpoint.bind for endpoint in endpoints])
        if places:
            here, there = endpoints
            # The second has the second port already, unless both were given the same one.
            is_last = there.bind == places[3]
            one, other = (_more(place) for place in (places[1], places[2 if is_last else 3]))
            self.wanted = [one, other]
            self._sockets = [here, one, other, there] if is_last else [here, one, there, other]
            self._numbers = {endpoint: at for at, endpoint in enumerate(self._sockets)}
            self._both = server.Server(places)

    def failed(self, endpoint: Endpoint) -> bool:
        """Whether it is one of the sockets wanted; without it there is no second address."""
        if endpoint not in self.wanted:
            return False
        self._numbers.clear()
        return True

    def receive(self, burst: Burst, datagram: memoryview, now: float) -> bool:
        """Answers a request as far as the gate lets it; whether it is answered."""
        if self._gate.refuses(burst, datagram, False, now):
            return False
        number = self._numbers.get(burst.endpoint)
        if number is None:
            answer = self._alone.answer(datagram, burst.source)
        else:
            answer = self._both.answer(datagram, burst.source, number)
        if answer is None:
            self._gate.drop("not a STUN request", burst.source, now)
            return False
        endpoint, local = burst.endpoint, burst.local
        if number is not None and answer.socket != number:
            endpoint, local = self._sockets[answer.socket], b""
        self._outbox.send(Route(endpoint, answer.destination, local), answer.data)
        return True


def _places(binds: Sequence[Address]) -> Tuple[Address, ...]:
    """The four addresses to answer from, if there are two to make them of."""
    if len(binds) != 2 or any(map(address.is_wildcard, binds)):
        return ()
    first, second = binds
    if first[-2:] == second[-2:]:
        second = address.with_port(second, PORT if address.port(second) != PORT else PORT + 1)
    try:
        return server.sockets(first, second)
    except ValueError:
        return ()


def _more(bind: Address) -> Endpoint:
    return Endpoint("stun", bind, asked_address=True)
