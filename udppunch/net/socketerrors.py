"""What to do about each error that a UDP socket can raise: the one place that knows errnos.

UDP may lose any datagram, so most errors mean no more than one datagram lost and counted.
Two kinds need thought. An ICMP error that reached a *connected* socket waits there and is
told to the next call, whatever that call wanted: so that call is made once more. And a
segmented send can fail where plain ones pass (the segment exceeds the MTU, the route is
transformed by IPsec): its datagrams are sent again singly. An errno this table lacks is a
drop; only a descriptor that is no socket, which is our own mistake, ends the process.
"""

from __future__ import annotations

import enum
import errno
import os
from typing import Dict

from udppunch import address
from udppunch.contract import Endpoint
from udppunch.errors import (
    DESCRIPTORS,
    EX_CANTCREAT,
    EX_NOPERM,
    EX_OSERR,
    EX_UNAVAILABLE,
    CommandError,
)


class Action(enum.Enum):
    DROP = "drop"  # this datagram is lost; count it
    RETRY = "retry"  # call again
    REFUSED = "refused"  # as an ICMP error tells it; a hint, and call again
    SPLIT = "split"  # if it was segmented, send its datagrams singly; else drop
    FATAL = "fatal"


_ACTIONS: Dict[int, Action] = {
    errno.EINTR: Action.RETRY,
    errno.ECONNREFUSED: Action.REFUSED,
    errno.EHOSTUNREACH: Action.REFUSED,
    errno.EHOSTDOWN: Action.REFUSED,
    errno.ENOPROTOOPT: Action.REFUSED,
    errno.EIO: Action.SPLIT,
    errno.EINVAL: Action.SPLIT,
    errno.EMSGSIZE: Action.SPLIT,
    errno.EAGAIN: Action.DROP,  # the send buffer is full; a queue of our own would only age
    errno.ENOBUFS: Action.DROP,
    errno.ENOMEM: Action.DROP,
    errno.EPERM: Action.DROP,  # our own firewall, or a full conntrack table
    errno.EACCES: Action.DROP,  # a broadcast address
    errno.ENETUNREACH: Action.DROP,
    errno.ENETDOWN: Action.DROP,
    errno.EADDRNOTAVAIL: Action.DROP,  # the source address has left this host
    errno.EBADF: Action.FATAL,
    errno.ENOTSOCK: Action.FATAL,
}

# A kernel or driver that refuses all segmented sends says so by this; the others concern
# one destination or size.
SEGMENTATION_UNSUPPORTED = errno.EIO

TOO_LONG = errno.EMSGSIZE


def action(number: int) -> Action:
    return _ACTIONS.get(number, Action.DROP)


def name(number: int) -> str:
    """The errno's symbol, which is what counters are named by."""
    return errno.errorcode.get(number, f"E{number}")


def nothing_to_read(number: int) -> bool:
    return number in (errno.EAGAIN, errno.EWOULDBLOCK)


def explain(endpoint: Endpoint, error: Exception) -> CommandError:
    """Why the endpoint's socket could not be opened and what helps, in one line."""
    number = (error.errno or 0) if isinstance(error, OSError) else 0
    where = address.text(endpoint.bind)
    port = address.port(endpoint.bind)
    if number == errno.EADDRINUSE:
        ask = f"ss -l{'t' if endpoint.label == 'metrics' else 'u'}np sport = :{port}"
        return CommandError(
            f"cannot use {where}: another process has this port ('{ask}' names it)", EX_CANTCREAT
        )
    if number in (errno.EACCES, errno.EPERM):
        remedy = "choose a port from 1024 up, use a socket unit, or run with CAP_NET_BIND_SERVICE"
        if not 0 < port < 1024:
            remedy = "a security policy or sandbox forbids it"
        return CommandError(f"cannot use {where}: permission denied; {remedy}", EX_NOPERM)
    if number == errno.EADDRNOTAVAIL:
        return CommandError(f"cannot use {where}: this host has no such address", EX_CANTCREAT)
    if number == errno.EAFNOSUPPORT:
        kind = "IPv4" if address.is_ipv4(endpoint.bind) else "IPv6"
        return CommandError(f"cannot use {where}: this host has no {kind}", EX_CANTCREAT)
    if number in (errno.EMFILE, errno.ENFILE):
        return CommandError(
            f"cannot open a socket for {endpoint.label}: too many open files{DESCRIPTORS}",
            EX_OSERR,
        )
    if endpoint.remote is not None and number in (errno.ENETUNREACH, errno.EHOSTUNREACH):
        return CommandError(f"no route to {address.text(endpoint.remote)}", EX_UNAVAILABLE)
    reason = os.strerror(number) if number else str(error)
    return CommandError(f"cannot use {where} for {endpoint.label}: {reason}", EX_CANTCREAT)
