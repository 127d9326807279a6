"""Asks a helper, ours or udpexposer's, for its statistics: it answers to whoever has the password.

Each question is the same datagram, so that one is asked at a time.
"""

from __future__ import annotations

import errno
import select
import socket
import time
from typing import Dict, Iterator, NamedTuple, Optional, Sequence

from udppunch import address
from udppunch.address import Address
from udppunch.contract import Lookup
from udppunch.net import sockaddr
from udppunch.probe.lookup import addresses_of
from udppunch.wire import expose
from udppunch.wire.malformed import Malformed

# Who waits longer for an answer would not have it any more.
PATIENCE = 1.0
# Our helper answers one network no more often, but for a few at once.
_INTERVAL = 0.1
_LARGEST = 2048


class Answer(NamedTuple):
    """`statistics` None: there was none within the time; `trouble` says what there was, and
    `refused` that to ask again is of no use."""

    statistics: Optional[Dict[str, int]]
    seconds: float = 0.0
    trouble: str = ""
    refused: bool = False


def ask(target: Lookup, key: bytes, deadline: float) -> Answer:
    """Asks again and again until there is an answer, each of the name's addresses in turn.

    `deadline` is in time.monotonic()'s seconds.
    """
    found, reason = addresses_of(target, deadline)
    answer = Answer(None, trouble=reason)
    while found and time.monotonic() < deadline:
        refused = True
        for at in found:
            answer = next(ask_each(at, key, 1, deadline))
            if answer.statistics is not None:
                return answer
            refused = refused and answer.refused
        if refused:
            break
        time.sleep(_INTERVAL)
    return answer


def ask_each(at: Address, key: bytes, count: int, deadline: float) -> Iterator[Answer]:
    """So many questions, one after the other, as far as there is time; and what came of each."""
    family = sockaddr.family(at)
    question = expose.encode(expose.Keepalive(expose.ASKS_STATISTICS), key)
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        for number in range(count):
            began = time.monotonic()
            try:
                sock.connect(sockaddr.to_tuple(at, family))
                sock.send(question)
                yield _await(sock, at, began, min(deadline, began + PATIENCE))
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE):
                    raise
                yield Answer(None, trouble=_trouble(at, error), refused=True)
            if time.monotonic() + _INTERVAL >= deadline:
                break
            if number + 1 < count:
                time.sleep(max(0.0, began + _INTERVAL - time.monotonic()))


def average(answers: Sequence[Answer]) -> float:
    """Of the seconds that those took which came."""
    times = [answer.seconds for answer in answers if answer.statistics is not None]
    return sum(times) / len(times) if times else 0.0


def _await(sock: socket.socket, at: Address, began: float, until: float) -> Answer:
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    while poll.poll(max(0.0, until - time.monotonic()) * 1000):
        datagram = sock.recv(_LARGEST)
        try:
            return Answer(expose.decode_statistics(datagram), time.monotonic() - began)
        except Malformed:
            continue  # it takes us for a connectee, or for something else
    return Answer(None, trouble=f"{address.text(at)} gives no answer (right password?)")


def _trouble(at: Address, error: OSError) -> str:
    if error.errno == errno.ECONNREFUSED:
        return f"nothing listens at {address.text(at)}"
    return f"cannot send to {address.text(at)}: {error.strerror}"
