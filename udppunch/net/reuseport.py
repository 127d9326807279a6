"""Several sockets of one port (SO_REUSEPORT), among which the kernel shares out the flows.

The kernel's choice depends on how many there are and in which order they came: so they are all
opened here, before the first worker, and none is closed while a worker may still be replaced.
"""

from __future__ import annotations

import errno
import logging
import socket
from typing import List, Sequence

from udppunch import address
from udppunch.address import Address
from udppunch.contract import Endpoint
from udppunch.net import sockaddr, socketerrors
from udppunch.notices import event

log = logging.getLogger("udppunch.net")

_NO_IPV6 = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT)


def bind_groups(
    binds: Sequence[Address], copies: int, label: str, *, among: Sequence[Address] = ()
) -> List[List[socket.socket]]:
    """For each address so many sockets. Raises CommandError, with none left open. `among` are
    all addresses of the role, if these are only some of them.

    The IPv6 wildcard serves IPv4 too, unless that port's IPv4 wildcard is asked for as well;
    on a host without IPv6 it serves IPv4 alone.
    """
    every = among or binds
    groups: List[List[socket.socket]] = []
    try:
        for bind in binds:
            dual_stack = address.is_wildcard(bind) and not address.is_ipv4(bind)
            if address.with_port(address.ANY_IPV4, address.port(bind)) in every:
                dual_stack = False
            try:
                groups.append(_group(bind, copies, dual_stack))
            except OSError as error:
                if not (dual_stack and error.errno in _NO_IPV6):
                    raise socketerrors.explain(Endpoint(label, bind), error) from error
                bind = address.with_port(address.ANY_IPV4, address.port(bind))
                event(log, logging.INFO, "no ipv6", "this host has no IPv6: IPv4 alone")
                try:
                    groups.append(_group(bind, copies, False))
                except OSError as second:
                    raise socketerrors.explain(Endpoint(label, bind), second) from second
    except BaseException:
        for group in groups:
            _close(group)
        raise
    return groups


def _group(bind: Address, copies: int, dual_stack: bool) -> List[socket.socket]:
    # Without the option, so that a port which another daemon has is refused and not shared.
    first = _bound(bind, dual_stack, shared=False)
    if copies == 1:
        return [first]
    bind = sockaddr.from_tuple(first.getsockname())
    first.close()
    group: List[socket.socket] = []
    try:
        for _ in range(copies):
            group.append(_bound(bind, dual_stack, shared=True))
    except BaseException:
        _close(group)
        raise
    return group


def _bound(bind: Address, dual_stack: bool, shared: bool) -> socket.socket:
    family = sockaddr.family(bind)
    sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not dual_stack)
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(sockaddr.to_tuple(bind, family))
    except BaseException:
        sock.close()
        raise
    return sock


def _close(sockets: Sequence[socket.socket]) -> None:
    for sock in sockets:
        sock.close()
