"""How long a NAT, or a firewall, keeps an idle UDP binding: a binary search (RFC 5780, 4.6).

Each trial has a socket of its own, which makes a binding by one request and its answer, and is
then silent. A binding that carried datagrams both ways for some seconds may be kept for longer;
whoever sends keepalives before this time is safe with either. What is still there after a while
is seen in one of two ways:

By RESPONSE-PORT, where the server has it. Another socket asks it to answer to the port of the
idle binding, from where that binding's own answer came: whatever the NAT filters, the answer
arrives as long as the binding lives, and nothing is sent that would renew it. Silence counts only
if that other socket is answered itself; and since all that was asked for one binding may be lost,
nothing is concluded from the silence of one alone: neither that the server lacks RESPONSE-PORT,
nor after what time a binding is gone.

By the reflexive address, with any other server. The idle socket asks again: another address than
before proves that the binding was gone. The same one proves nothing by itself, since most NATs
give a socket the same port again; and the question renews the binding. So the longest time is
tried first. If the address changes then, this NAT shows when it forgets, and a shorter time with
no change is one that it remembers for. If it does not, nothing is known, and that is the outcome.

No other message of an ordinary server tells more: inbound it sends only to where it was just
asked from, and outbound traffic renews what is to be measured.

The times found are of one course of events: a NAT that restarts, or is short of memory, forgets
sooner.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, replace
from typing import Callable, FrozenSet, List, Optional

from udppunch import address
from udppunch.address import Address
from udppunch.proto.stun.transactions import Outgoing, Transaction, Transactions

ASKING_SOCKET = 0
# Four requests, and two seconds for the last one's answer.
_SILENCE = 5.5
# Three requests at most: after two seconds both ways a binding is kept for longer by some.
_OPENS_WITHIN = 2.0
_MOST_ATTEMPTS = 5
_NOT_WITHOUT_RESPONSE_PORT = 2  # trials in a row
# Loss that deceives more often than this is none: the NAT keeps no time.
_MOST_DECEIVED = 3
# Of the resolution: a binding that is asked for later than this says nothing by its absence.
_LATE = 1 / 3


class Method(enum.Enum):
    """How a binding is seen to be there."""

    RESPONSE_PORT = "RESPONSE-PORT"
    REFLEXIVE_ADDRESS = "reflexive address"


class _Verdict(enum.Enum):
    KEPT = enum.auto()
    GONE = enum.auto()
    SILENT = enum.auto()
    UNCLEAR = enum.auto()


@dataclass(frozen=True)
class Lifetime:
    """A binding was still there after `kept` idle seconds, and gone after `gone`.

    `kept` 0: after none that were tried; `gone` None: never, or it is in doubt. `reason` says why
    nothing, or no more, was found out; `method` None: not even how to.
    """

    method: Optional[Method]
    kept: float = 0.0
    gone: Optional[float] = None
    reason: str = ""


@dataclass(eq=False)
class _Trial:
    """One binding: opened, idle for `wanted` seconds, then asked for. `idle` is for how long it
    was in truth, `witness` what tells silence of the binding's from silence of the server's."""

    socket: int
    wanted: float
    opening: Transaction
    idle_since: float = 0.0
    idle: float = 0.0
    asked: Optional[Transaction] = None
    witness: Optional[Transaction] = None

    @property
    def mapped(self) -> Optional[Address]:
        return self.opening.response.mapped if self.opening.response is not None else None


class Discovery:
    """Seeks the time between `shortest` and `longest`, in seconds, down to `resolution`.

    A socket is to be opened when a number is first used, at any port, not connected, and can be
    closed when `sockets` does not have it any more. `found` is what is known so far, `outcome`
    the same at the end. That takes about as long as `shortest`, about seven times as long as the
    lifetime, and `longest` if there is no RESPONSE-PORT. A server that answers only after one and
    a half seconds gives no sound answer: its bindings are used both ways for too long.
    """

    def __init__(
        self,
        server: Address,
        shortest: float,
        longest: float,
        resolution: float,
        random: Callable[[int], bytes],
    ) -> None:
        self.found = Lifetime(None)
        self.outcome: Optional[Lifetime] = None
        self._server = server
        self._shortest = shortest
        self._longest = longest
        self._resolution = resolution
        self._transactions = Transactions(random)
        self._socket = ASKING_SOCKET
        self._attempts = 0
        self._without_response_port = 0
        self._deceived = 0
        # After how many idle seconds there was silence that is not known to be loss.
        self._silent: List[float] = []
        self._trial: Optional[_Trial] = None

    @property
    def sockets(self) -> FrozenSet[int]:
        """Those still in use."""
        if self._trial is None:
            return frozenset()
        return frozenset({ASKING_SOCKET, self._trial.socket})

    def start(self, now: float) -> List[Outgoing]:
        """What is to be sent now, as `receive` and `expire` tell it, too."""
        self._begin(0.0, now)
        return self._transactions.due(now)

    def receive(self, data: bytes, source: Address, socket: int, now: float) -> List[Outgoing]:
        """A datagram came to that socket."""
        trial = self._trial
        if trial is not None and socket == trial.socket and source == self._server:
            trial.idle_since = now  # a belated one too: it may have renewed the binding
        self._transactions.receive(data, source, socket, now)
        return self.expire(now)

    def expire(self, now: float) -> List[Outgoing]:
        if self._trial is not None:
            self._advance(self._trial, now)
        return self._transactions.due(now)

    def deadline(self) -> Optional[float]:
        trial = self._trial
        if trial is not None and trial.mapped is not None and trial.asked is None:
            return trial.idle_since + trial.wanted
        return self._transactions.deadline()

    def _begin(self, wanted: float, now: float) -> None:
        self._transactions.drop()
        self._socket += 1
        opening = self._transactions.begin(self._socket, self._server, now, now + _OPENS_WITHIN)
        self._trial = _Trial(self._socket, wanted, opening)

    def _advance(self, trial: _Trial, now: float) -> None:
        if trial.asked is not None:
            verdict = self._verdict(trial, trial.asked, now)
            if verdict is not None:
                self._note(verdict, trial, now)
        elif trial.mapped is not None:
            if trial.idle_since >= trial.opening.until:
                self._again(trial, now, self._unsound)
            elif now >= trial.idle_since + trial.wanted:
                self._ask(trial, trial.mapped, now)
        elif trial.opening.over(now):
            self._again(trial, now, self._unsound)

    def _ask(self, trial: _Trial, mapped: Address, now: float) -> None:
        """See whether the binding is there; the first time, whether this way of asking works."""
        trial.idle = max(trial.wanted, now - trial.idle_since)  # but for the last bit of a float
        begin, until = self._transactions.begin, now + _SILENCE
        if self.found.method is Method.REFLEXIVE_ADDRESS:
            trial.asked = begin(trial.socket, self._server, now, until)
            return
        port = address.port(mapped)
        trial.asked = begin(ASKING_SOCKET, self._server, now, until, response_port=port)
        trial.witness = begin(ASKING_SOCKET, self._server, now, until)

    def _verdict(self, trial: _Trial, asked: Transaction, now: float) -> Optional[_Verdict]:
        """What the answer says, or its absence; None as long as it may come."""
        response = asked.response
        if response is None:
            if not asked.over(now):
                return None
            answered = trial.witness is not None and trial.witness.response is not None
            return _Verdict.SILENT if answered else _Verdict.UNCLEAR
        if self.found.method is Method.REFLEXIVE_ADDRESS:
            if response.mapped is None:
                return _Verdict.UNCLEAR
            return _Verdict.KEPT if response.mapped == trial.mapped else _Verdict.GONE
        if response.mapped is None and self.found.method is not None:
            return _Verdict.UNCLEAR
        # What comes to the other socket is from a server that does not know RESPONSE-PORT, or
        # from a NAT that gave the port of the binding to that socket.
        return _Verdict.KEPT if response.socket == trial.socket else _Verdict.GONE

    def _note(self, verdict: _Verdict, trial: _Trial, now: float) -> None:
        kept = verdict is _Verdict.KEPT
        if verdict is _Verdict.UNCLEAR:
            self._again(trial, now, self._unsound)
            return
        if not kept and trial.idle - trial.wanted > _LATE * self._resolution:
            self._again(trial, now, "this host wakes up too late")
            return
        self._attempts = 0
        if self.found.method is None:
            self._note_method(kept)
        elif kept and self.found.method is Method.REFLEXIVE_ADDRESS and self.found.gone is None:
            self._end("the reflexive address stays the same, and RESPONSE-PORT does not work")
            return
        else:
            self._learn(verdict, trial)
        if self.found.kept >= self._high:
            self._end("a binding was kept for longer than another one")
            return
        wanted = self._wanted()
        if wanted is not None:
            self._begin(wanted, now)
        else:
            self._end("")

    def _note_method(self, kept: bool) -> None:
        """Of a binding that was not idle, and so is there."""
        self._without_response_port += not kept
        if kept:
            self.found = replace(self.found, method=Method.RESPONSE_PORT)
        elif self._without_response_port == _NOT_WITHOUT_RESPONSE_PORT:
            self.found = replace(self.found, method=Method.REFLEXIVE_ADDRESS)

    def _learn(self, verdict: _Verdict, trial: _Trial) -> None:
        """What this trial says, and what it says of the silence before."""
        found = self.found
        if verdict is _Verdict.KEPT:
            self.found = replace(found, kept=max(found.kept, trial.idle))
            silent = [idle for idle in self._silent if idle > trial.idle]
            if len(silent) < len(self._silent) and self._deceived < _MOST_DECEIVED:
                self._deceived += 1
                self._silent = silent
        elif trial.wanted in self._silent:
            self.found = replace(found, gone=min(self._gone, trial.wanted))
        elif verdict is _Verdict.GONE:
            self.found = replace(found, gone=min(self._gone, trial.idle))
        else:
            self._silent.append(trial.idle)

    @property
    def _gone(self) -> float:
        return math.inf if self.found.gone is None else self.found.gone

    @property
    def _high(self) -> float:
        """After so long a binding was gone, or silent."""
        return min([self._gone, *self._silent])

    def _wanted(self) -> Optional[float]:
        """How long the next binding is to be idle; None: enough is known."""
        method, kept, high = self.found.method, self.found.kept, self._high
        if method is None:
            return 0.0
        if not kept and high == math.inf:
            return self._shortest if method is Method.RESPONSE_PORT else self._longest
        low, top = kept or self._shortest, self._longest if high == math.inf else high
        if top - low > self._resolution:
            # Lifetimes are spread as 30, 60, 120, 300 are: the middle of their logarithms.
            return math.sqrt(low * top)
        return high if high < self._gone else None

    @property
    def _unsound(self) -> str:
        return f"no sound answer from {address.text(self._server)}"

    def _again(self, trial: _Trial, now: float, why: str) -> None:
        self._attempts += 1
        if self._attempts < _MOST_ATTEMPTS:
            self._begin(trial.wanted, now)
        else:
            self._end(why)

    def _end(self, reason: str) -> None:
        self.found = self.outcome = replace(self.found, reason=reason)
        self._trial = None
        self._transactions.drop()
