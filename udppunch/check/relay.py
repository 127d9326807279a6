"""Whether a relay carries datagrams: two peers of our own on one channel, through it.

Both say the same guid, marked as the health check of udp-relay marks its own, until the
handshake that completes the channel comes back to the one who was first. As relays make a case
of that datagram, both then say something else, until each has heard it of the other. At last
probes go from one to the other, in turns: the time that each takes is a round trip between this
host and the relay.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import time
from typing import Any, Callable, Dict, Iterator, List, Mapping, NamedTuple, Sequence, Set, Tuple

from udppunch import address
from udppunch.address import Address
from udppunch.check.output import Outcome, Status, rtt_and_loss
from udppunch.config.roles import relay_secret
from udppunch.contract import Lookup
from udppunch.net import sockaddr
from udppunch.probe.lookup import addresses_of
from udppunch.wire import relay

# By when of the time a channel has to be open, and to carry; the rest is for the probes.
_OPENS_BY = 0.5
_CARRIES_BY = 0.75
# Before what got no answer is said again: soon at first, later to no relay's annoyance.
_FIRST_PAUSE = 0.2
_LONGEST_PAUSE = 1.0
_LONGER = 1.5
_INTERVAL = 0.1
# A probe that takes longer is lost: no application would have waited.
_PATIENCE = 2.0

_PAYLOAD = b"udppunch check "
_LARGEST = 2048


class Finding(NamedTuple):
    """The round trips of those probes that arrived, in seconds; `trouble` if there were none."""

    round_trips: Sequence[float]
    trouble: str = ""


def prepare(values: Mapping[str, Any], environment: Mapping[str, str]) -> Callable[[], Outcome]:
    """The check of the relay that the settings name. Raises Invalid."""
    # Without any, what udp-relay publishes and takes.
    secret = relay_secret(values["secret-file"], environment) or relay.DEFAULT_SECRET
    return lambda: _check(secret, values)


def _check(secret: bytes, values: Mapping[str, Any]) -> Outcome:
    count, target = values["probes"], values["address"]
    found = probe(target, secret, count, values["timeout"])
    loss = 100.0 * (count - len(found.round_trips)) / count
    if not found.round_trips:
        return Outcome(Status.CRITICAL, found.trouble, rtt_and_loss(None, loss))
    rtt = sum(found.round_trips) / len(found.round_trips)
    text = f"rtt {1000 * rtt:.1f} ms, loss {loss:.0f} % to {target}"
    return Outcome(Status.OK, text, rtt_and_loss(rtt, loss))


def probe(target: Lookup, secret: bytes, count: int, timeout: float) -> Finding:
    """Send `count` probes through the relay; the first of its addresses that works is taken."""
    began = time.monotonic()
    deadline = began + timeout
    found, reason = addresses_of(target, deadline)
    if not found:
        return Finding((), reason)
    left = deadline - time.monotonic()
    open_by, carry_by = (deadline - left * (1 - share) for share in (_OPENS_BY, _CARRIES_BY))
    troubles = []
    for index, relay_address in enumerate(found):
        now = time.monotonic()
        if now >= open_by:
            break
        with _Peers(relay_address) as peers:
            token = os.urandom(8)
            trouble = _open(peers, token, secret, now + (open_by - now) / (len(found) - index))
            trouble = trouble or _prove(peers, token, carry_by)
            if not trouble:
                return _measure(peers, token, count, deadline)
        troubles.append(trouble)
    trouble = "; ".join(troubles) or f"no time to ask {target}: give --timeout more"
    return Finding((), trouble)


class _Peers:
    """Two sockets that know nobody but the relay.

    `trouble` is what the system said last of sending there, `hopeless` that it is of no use.
    """

    def __init__(self, relay_address: Address) -> None:
        self.name = address.text(relay_address)
        self.trouble = ""
        self.hopeless = False
        self._sockets: List[socket.socket] = []
        self._poll = select.poll()
        family = sockaddr.family(relay_address)
        try:
            for _ in range(2):
                opened = socket.socket(family, socket.SOCK_DGRAM)
                self._sockets.append(opened)
                opened.setblocking(False)
                opened.connect(sockaddr.to_tuple(relay_address, family))
                self._poll.register(opened, select.POLLIN)
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS):
                self.close()
                raise
            self._note(error)
            self.hopeless = True

    def __enter__(self) -> _Peers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for each in self._sockets:
            each.close()

    def send(self, sender: int, datagram: bytes) -> None:
        try:
            self._sockets[sender].send(datagram)
        except OSError as error:
            self._note(error)

    def receive(self, until: float) -> Iterator[Tuple[int, bytes]]:
        """Which of the two got which datagram: what is there at once, or comes first by then."""
        wait = max(0.0, until - time.monotonic())
        ready = {descriptor for descriptor, _ in self._poll.poll(wait * 1000)}
        for receiver, each in enumerate(self._sockets):
            if each.fileno() in ready:
                try:
                    yield receiver, each.recv(_LARGEST)
                except OSError as error:
                    self._note(error)

    def _note(self, error: OSError) -> None:
        if error.errno == errno.ECONNREFUSED:
            self.trouble = f"nothing listens at {self.name}"
            self.hopeless = True
        else:
            self.trouble = f"cannot send to {self.name}: {error.strerror}"


def _open(peers: _Peers, token: bytes, secret: bytes, deadline: float) -> str:
    """Open a channel. If there is none by then, why."""
    began = time.monotonic()
    said = relay.handshake(token + relay.CHECK_MARK, secret)
    if _say(peers, (said, said), 1, deadline):
        return ""
    return peers.trouble or f"no answer in {deadline - began:.1f} s from {peers.name}"


def _prove(peers: _Peers, token: bytes, deadline: float) -> str:
    """See that it carries both ways. If it does not by then, what it does."""
    heard = _say(peers, (_PAYLOAD + token + b"a", _PAYLOAD + token + b"b"), 2, deadline)
    if heard == 2:
        return ""
    carried = "one way only" if heard else "nothing but handshakes"
    return peers.trouble or f"carries {carried}: {peers.name}"


def _say(peers: _Peers, said: Tuple[bytes, bytes], wanted: int, deadline: float) -> int:
    """Let each say its own until so many have heard the other's; how many have."""
    heard: Set[int] = set()
    due = time.monotonic()
    pause = _FIRST_PAUSE
    while due < deadline and not peers.hopeless:
        for sender in (0, 1):
            peers.send(sender, said[sender])
        due = min(time.monotonic() + pause, deadline)
        pause = min(_LONGER * pause, _LONGEST_PAUSE)
        while time.monotonic() < due and not peers.hopeless:
            heard |= {at for at, datagram in peers.receive(due) if datagram == said[1 - at]}
            if len(heard) >= wanted:
                return len(heard)
    return len(heard)


def _measure(peers: _Peers, token: bytes, count: int, deadline: float) -> Finding:
    """Send the probes, evenly, and collect what comes of them."""
    awaited: Dict[Tuple[int, bytes], float] = {}
    round_trips: List[float] = []

    def collect(until: float) -> None:
        for arrived in peers.receive(until):
            sent = awaited.pop(arrived, None)
            if sent is not None:
                round_trips.append(time.monotonic() - sent)

    began = time.monotonic()
    # Half of the time at most, so that the last ones can arrive, too.
    interval = min(_INTERVAL, (deadline - began) / 2 / count)
    for number in range(count):
        due = began + number * interval
        while time.monotonic() < due:
            collect(due)
        sender, datagram = number % 2, _PAYLOAD + token + number.to_bytes(2, "big")
        awaited[1 - sender, datagram] = time.monotonic()
        peers.send(sender, datagram)
    due = min(deadline, time.monotonic() + _PATIENCE)
    while awaited and time.monotonic() < due:
        collect(due)
    trouble = peers.trouble or f"no probe came through {peers.name}"
    return Finding(round_trips, "" if round_trips else trouble)
