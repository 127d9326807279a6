"""Listening for TCP connections."""

from __future__ import annotations

import socket

from udppunch.address import Address
from udppunch.contract import Endpoint
from udppunch.net import sockaddr, socketerrors

_BACKLOG = 16


def listen(label: str, at: Address) -> socket.socket:
    """A socket that listens there; raises CommandError, which names the address."""
    family = sockaddr.family(at)
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(sockaddr.to_tuple(at, family))
        sock.listen(_BACKLOG)
    except OSError as error:
        sock.close()
        raise socketerrors.explain(Endpoint(label, at), error) from None
    return sock
