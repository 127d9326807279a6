"""Opening a UDP socket for an endpoint, and what a loop keeps about an open one."""

from __future__ import annotations

import socket
from typing import Callable, Optional, Tuple

from udppunch.address import Address, is_wildcard, with_port
from udppunch.contract import Batch, Endpoint, Role, Route
from udppunch.net import offload, sockaddr
from udppunch.net.arena import LARGEST_DATAGRAM

BUFFER = 4 << 20


def open_socket(endpoint: Endpoint) -> socket.socket:
    """Binds, and connects where there is a remote. Raises OSError.

    Never SO_REUSEADDR, which lets a second process take a UDP port silently, and never
    IP_RECVERR, by which one dead peer's errors cost the live ones their datagrams.
    """
    family = sockaddr.family(endpoint.bind)
    sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(sockaddr.to_tuple(endpoint.bind, family))
        if endpoint.remote is not None:
            sock.connect(sockaddr.to_tuple(endpoint.remote, family))
    except BaseException:
        sock.close()
        raise
    return sock


def is_local(address: Address) -> bool:
    """Whether the IP address is one of this host: whether a socket can be bound to it."""
    family = sockaddr.family(address)
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.bind(sockaddr.to_tuple(with_port(address, 0), family))
    except OSError:
        return False
    return True


class Prepared:
    """A route made ready for the kernel; `Route.prepared` holds it."""

    __slots__ = (
        "udp", "destination", "source", "name", "target", "ancillary", "control", "largest",
        "train_segment", "train_ancillary",
    )  # fmt: skip

    def __init__(self, udp: UdpSocket, route: Route) -> None:
        self.udp = udp
        self.destination = route.destination
        self.source = route.source
        self.name = b""
        self.target: Optional[Tuple[str, int]] = None
        if route.destination is not None:
            self.name = sockaddr.to_kernel(route.destination, udp.family)
            self.target = sockaddr.to_tuple(route.destination, udp.family)
        self.ancillary = offload.leave_from(route.source, udp.family)
        self.control: Optional[bytes] = None  # `ancillary` as the batch sender wrote it
        self.largest = LARGEST_DATAGRAM  # datagram that segmented sends may carry
        self.train_segment = 0  # of the last lone train, and
        self.train_ancillary: offload.Ancillary = []  # what was sent with it

    def prepare_train(self, segment: int) -> None:
        """Makes ready for trains of that segment size, of which a flow has few."""
        self.train_segment = segment
        self.train_ancillary = [offload.segments_of(segment), *self.ancillary]


class UdpSocket:
    """An open endpoint. `segments` and `coalesces` say which offloads its kernel has."""

    __slots__ = (
        "endpoint", "role", "sock", "descriptor", "family", "connected", "closing",
        "closed", "segments", "coalesces", "name_size", "receive_batch",
    )  # fmt: skip

    def __init__(
        self,
        endpoint: Endpoint,
        role: Role,
        sock: socket.socket,
        use_offload: bool,
        buffers: Tuple[int, int] = (BUFFER, BUFFER),
    ) -> None:
        self.endpoint = endpoint
        self.role = role
        self.receive_batch: Optional[Callable[[Batch, float], None]] = getattr(
            role, "receive_batch", None
        )
        self.sock = sock
        self.descriptor = sock.fileno()
        self.family = socket.AddressFamily(sock.family)
        ipv4 = self.family == socket.AF_INET
        self.name_size = sockaddr.IPV4_SIZE if ipv4 else sockaddr.IPV6_SIZE
        self.connected = endpoint.remote is not None
        self.closing = False  # no more bursts; what waits still goes out
        self.closed = False
        sock.setblocking(False)
        offload.size_buffers(sock, *buffers)
        offload.ignore_path_mtu(sock)
        self.coalesces = offload.receive_coalesced(sock, use_offload)
        self.segments = use_offload and offload.send_segmented(sock)
        if endpoint.asked_address and is_wildcard(endpoint.bind):
            offload.tell_asked_address(sock)
        endpoint.local = sockaddr.from_tuple(sock.getsockname())

    def close(self, keep: bool = False) -> None:
        """With `keep` the socket itself stays open, for somebody else."""
        self.closed = True
        if not keep:
            self.sock.close()

    def send_one(
        self, data: memoryview, target: Optional[Tuple[str, int]], ancillary: offload.Ancillary
    ) -> None:
        """One datagram by an ordinary call. Raises OSError."""
        if ancillary:
            if target is None:
                self.sock.sendmsg([data], ancillary)
            else:
                self.sock.sendmsg([data], ancillary, 0, target)
        elif target is None:
            self.sock.send(data)
        else:
            self.sock.sendto(data, target)
