"""What kind of NAT a client is behind: its mapping and its filtering (RFC 4787, RFC 5780).

Mapping is seen from where servers at different addresses see one socket. Filtering is seen from
which answers come back that a server was asked to send from another of its addresses; they are
asked for by a second socket, which says nothing to those addresses itself. Which server has a
second address, its OTHER-ADDRESS says.

    socket    asks                               for
    0         each server given                  where it sees the socket; its other address
    0         the other IP, the same port        mapping: by IP?
    0         the other IP, the other port       mapping: by port?
    1         the server                         whether silence on this socket means anything
    1         it, to answer from the other IP    filtering: of IP addresses?
    1         it, to answer from the other port  filtering: of ports?

Where no server has a second address, filtering stays unknown, and mapping is judged as far as
the servers given differ. An answer proves something, silence only where the same way is known to
work, and after several requests. All tests of filtering go out at once: it takes five and a half
seconds to be sure of a filter, two round trips where there is none, and longer only if what has
to be answered is not.
"""

from __future__ import annotations

import enum
import itertools
from dataclasses import dataclass
from typing import Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

from udppunch import address
from udppunch.address import ANSWERING_PORTS, Address
from udppunch.proto.stun.transactions import Outgoing, Response, Transaction, Transactions
from udppunch.wire.stun import Change

MAPPING_SOCKET, FILTERING_SOCKET = 0, 1
# Four requests, and two seconds for the last one's answer.
_SILENCE = 5.5
# With fewer, silence may as well be loss.
_FEWEST_SENT = 3
_ONE_SERVER = "the server has no second address, and no other server answers"
_SILENT_OTHER = "the server's other address gives no answer"


class Dependence(enum.Enum):
    """On what of the peer's address a mapping, or a filter, depends."""

    NO_NAT = "no NAT"
    ENDPOINT_INDEPENDENT = "endpoint-independent"
    ADDRESS_DEPENDENT = "address-dependent"
    ADDRESS_AND_PORT_DEPENDENT = "address-and-port-dependent"
    # As far as servers tell that have no second address.
    ON_ADDRESS = "address-dependent or address-and-port-dependent"
    NOT_ON_PORT = "endpoint-independent or address-dependent"
    BLOCKED = "blocked"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Behaviour:
    """What was found out; the reasons say why a part of it was not.

    `local` and `mapped` are one socket, as itself and as the servers in `seen` see it: pairs of
    the server's address and the reflexive one, of which `mapped` is the first.
    """

    mapping: Dependence
    filtering: Dependence
    local: Address
    mapped: Optional[Address] = None
    port_preserved: Optional[bool] = None
    round_trip: Optional[float] = None
    seen: Tuple[Tuple[Address, Address], ...] = ()
    mapping_reason: str = ""
    filtering_reason: str = ""


_NOT_TESTED = Dependence.UNKNOWN, "no server answers from a second address"


class _Tests(NamedTuple):
    """What is asked of a server that has a second address."""

    other: Tuple[Transaction, Transaction]  # of its other IP, at either port
    plain: Transaction
    from_other_ip: Transaction
    from_other_port: Transaction


class Discovery:
    """Asks `servers`, all of one family; the first that has a second address is tested with.

    MAPPING_SOCKET is bound to `local`, whose IP address is the one that datagrams to the servers
    leave from, and no wildcard; FILTERING_SOCKET to any other port. Neither is connected, nor
    was used before. `outcome` is there `timeout` seconds after the start, or sooner.
    """

    def __init__(
        self,
        servers: Sequence[Address],
        local: Address,
        timeout: float,
        random: Callable[[int], bytes],
    ) -> None:
        self.outcome: Optional[Behaviour] = None
        self._servers = tuple(dict.fromkeys(servers))
        self._local = local
        self._timeout = timeout
        self._transactions = Transactions(random)
        self._ends = self._enough = 0.0
        self._asked: List[Transaction] = []
        self._tests: Optional[_Tests] = None

    def start(self, now: float) -> List[Outgoing]:
        """What is to be sent now, as `receive` and `expire` tell it, too."""
        self._ends = now + self._timeout
        self._enough = min(self._ends, now + _SILENCE)
        self._asked = [
            self._transactions.begin(MAPPING_SOCKET, server, now, self._ends)
            for server in self._servers
        ]
        return self._transactions.due(now)

    def receive(self, data: bytes, source: Address, socket: int, now: float) -> List[Outgoing]:
        """A datagram came to that socket."""
        self._transactions.receive(data, source, socket, now)
        return self.expire(now)

    def expire(self, now: float) -> List[Outgoing]:
        if self.outcome is None:
            self._advance(now)
        return self._transactions.due(now)

    def deadline(self) -> Optional[float]:
        return self._transactions.deadline()

    def _advance(self, now: float) -> None:
        if self._tests is None:
            self._choose(now)
        if self._over(now):
            self.outcome = self._judge()
            self._transactions.drop()

    def _choose(self, now: float) -> None:
        """Test with a server that has a second address, or wait for one, but not for long."""
        for transaction in self._asked:
            if transaction.response is not None:
                other = _second_address(transaction)
                if other is not None:
                    self._tests = self._begin_tests(transaction.outgoing.destination, other, now)
                    return
        if any(transaction.response for transaction in self._asked):
            for transaction in self._asked:
                transaction.until = self._enough

    def _begin_tests(self, server: Address, other: Address, now: float) -> _Tests:
        silent = min(self._ends, now + _SILENCE)
        begin = self._transactions.begin
        other_ip = address.with_port(other, address.port(server))
        return _Tests(
            (
                begin(MAPPING_SOCKET, other_ip, now, self._ends),
                begin(MAPPING_SOCKET, other, now, self._ends),
            ),
            begin(FILTERING_SOCKET, server, now, self._ends),
            begin(FILTERING_SOCKET, server, now, silent, change=Change(ip=True, port=True)),
            begin(FILTERING_SOCKET, server, now, silent, change=Change(ip=False, port=True)),
        )

    def _over(self, now: float) -> bool:
        if self._tests is None:
            return all(transaction.over(now) for transaction in self._asked)
        other, *filtering = self._tests
        if not all(transaction.over(now) for transaction in other):
            return False
        return _is_from_other_ip(self._tests.from_other_ip) or all(
            transaction.over(now) for transaction in filtering
        )

    def _judge(self) -> Behaviour:
        responses = [asked.response for asked in self._asked if asked.response is not None]
        if not responses:
            reason = f"no answer in {self._timeout:g} s"
            blocked = Dependence.BLOCKED
            return Behaviour(
                blocked, blocked, self._local, mapping_reason=reason, filtering_reason=reason
            )
        seen = self._seen()
        if not seen:
            return self._told_nothing(responses[0])
        mapping = mapping_of(seen, self._local)
        reason = ""
        if mapping is Dependence.UNKNOWN:
            reason = _SILENT_OTHER if self._tests else _ONE_SERVER
        mapped = seen[0][1]
        filtering, why = _NOT_TESTED if self._tests is None else _filtering_of(self._tests)
        return Behaviour(
            mapping,
            filtering,
            self._local,
            mapped,
            address.port(mapped) == address.port(self._local),
            min((r.round_trip for r in responses if r.round_trip is not None), default=None),
            seen,
            reason,
            why,
        )

    def _told_nothing(self, response: Response) -> Behaviour:
        error = response.message.error
        told = f"error {error.code}" if error else "no address"
        reason = f"{address.text(response.source)} answers with {told}"
        unknown = Dependence.UNKNOWN
        return Behaviour(
            unknown, unknown, self._local, mapping_reason=reason, filtering_reason=reason
        )

    def _seen(self) -> Tuple[Tuple[Address, Address], ...]:
        """Servers that answered, and where they see the first socket."""
        transactions = [*self._asked, *(self._tests.other if self._tests else ())]
        seen: Dict[Address, Address] = {}
        for transaction in transactions:
            response = transaction.response
            if response is not None and response.mapped is not None:
                seen.setdefault(response.source, response.mapped)
        return tuple(seen.items())


def mapping_of(seen: Sequence[Tuple[Address, Address]], local: Address) -> Dependence:
    """What the reflexive addresses of one socket, as servers see them, say of the mapping."""
    if seen and all(mapped == local for _, mapped in seen):
        return Dependence.NO_NAT
    same_ip: List[bool] = []
    other_ip: List[bool] = []
    for (one, mapped), (other, mapped_too) in itertools.combinations(seen, 2):
        group = same_ip if address.same_ip(one, other) else other_ip
        group.append(mapped == mapped_too)
    if not all(same_ip):
        return Dependence.ADDRESS_AND_PORT_DEPENDENT
    if not all(other_ip):
        return Dependence.ADDRESS_DEPENDENT if same_ip else Dependence.ON_ADDRESS
    if other_ip:
        return Dependence.ENDPOINT_INDEPENDENT
    return Dependence.NOT_ON_PORT if same_ip else Dependence.UNKNOWN


def _filtering_of(tests: _Tests) -> Tuple[Dependence, str]:
    """What the filter lets in; if that can't be told, why."""
    if _is_from_other_ip(tests.from_other_ip):
        return Dependence.ENDPOINT_INDEPENDENT, ""
    wrong = _why_not_as_asked(tests)
    if wrong:
        return Dependence.UNKNOWN, wrong
    if tests.plain.response is None:
        return Dependence.UNKNOWN, "a second socket gets no answer"
    if tests.other[1].response is None:
        return Dependence.UNKNOWN, _SILENT_OTHER
    if tests.from_other_ip.sent < _FEWEST_SENT:
        return Dependence.UNKNOWN, "too little time to tell a filter from loss"
    if tests.from_other_port.response is not None:
        return Dependence.ADDRESS_DEPENDENT, ""
    return Dependence.ADDRESS_AND_PORT_DEPENDENT, ""


def _is_from_other_ip(transaction: Transaction) -> bool:
    response, asked = transaction.response, transaction.outgoing.destination
    return (
        response is not None
        and response.mapped is not None
        and not address.same_ip(response.source, asked)
    )


def _why_not_as_asked(tests: _Tests) -> str:
    """What a server did that was to answer from its other addresses; nothing, if it did so."""
    for transaction in (tests.from_other_ip, tests.from_other_port):
        response, asked = transaction.response, transaction.outgoing.destination
        if response is None:
            continue
        if response.message.error is not None:
            code = response.message.error.code
            return f"the server refuses to answer from its other address (error {code})"
        if transaction is tests.from_other_ip or response.source == asked:
            return "the server does not answer from its other address"
    return ""


def _second_address(transaction: Transaction) -> Optional[Address]:
    """The server's OTHER-ADDRESS, if another one in truth, and one that a server may have.

    A server names it, and this end sends there: a few requests, and to no port or network where
    it would never send by itself.
    """
    response, server = transaction.response, transaction.outgoing.destination
    other = response.message.other_address if response is not None else None
    if other is None or len(other) != len(server):
        return None
    if address.same_ip(other, server) or other[-2:] == server[-2:]:
        return None
    if address.port(other) in ANSWERING_PORTS:
        return None
    ip = address.ip(other)
    if ip.is_multicast or ip.is_unspecified or ip.is_loopback != address.ip(server).is_loopback:
        return None
    return other if address.is_global(other) or not address.is_global(server) else None
