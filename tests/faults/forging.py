"""Datagrams with a source that is not the sender's, and datagrams overheard on the wire."""

from __future__ import annotations

import socket
import struct
import time
from typing import Callable, Iterable, List, NamedTuple

from tests.standin.application import SocketAddress
from udppunch.lab import Host

_ETH_P_ALL = 3  # what leaves is shown to nobody who asks for less
_IP = struct.Struct("!BBHHHBBH4s4s")
_UDP = struct.Struct("!HHHH")
_PACED = 200  # datagrams after which the others get the processor


class Overheard(NamedTuple):
    source: SocketAddress
    destination: SocketAddress
    data: bytes


class Forger:
    """Sends as whoever it likes, from a host of the lab whose network lets it."""

    def __init__(self, host: Host) -> None:
        self._raw = host.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)

    def send(self, source: SocketAddress, destination: SocketAddress, data: bytes) -> None:
        """The kernel fills in length and header checksum; IPv4 lets UDP go without one."""
        ends = (socket.inet_aton(source[0]), socket.inet_aton(destination[0]))
        header = _IP.pack(0x45, 0, 0, 0, 0, 64, socket.IPPROTO_UDP, 0, *ends)
        udp = _UDP.pack(source[1], destination[1], _UDP.size + len(data), 0)
        self._raw.sendto(header + udp + data, (destination[0], 0))

    def flood(
        self, source: SocketAddress, destination: SocketAddress, data: Iterable[bytes]
    ) -> int:
        """How many were sent; those too long for one packet are left out."""
        sent = 0
        for datagram in data:
            if len(datagram) <= 1400:
                self.send(source, destination, datagram)
                sent += 1
                if sent % _PACED == 0:
                    time.sleep(0.01)
        return sent


class Listener:
    """Overhears the UDP datagrams that come and go on a host's link."""

    def __init__(self, host: Host, device: str = "eth0") -> None:
        self._packet = host.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ETH_P_ALL))
        self._packet.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        self._packet.bind((device, _ETH_P_ALL))

    def wait_for(
        self, wanted: Callable[[Overheard], bool], count: int, seconds: float = 10.0
    ) -> List[Overheard]:
        """The next `count` that are wanted. Fails if they don't come."""
        found: List[Overheard] = []
        due = time.monotonic() + seconds
        while len(found) < count:
            self._packet.settimeout(max(0.001, due - time.monotonic()))
            found += [each for each in [_parsed(self._packet.recv(65535))] if wanted(each)]
        return found

    def all_for(self, seconds: float) -> List[Overheard]:
        """Whatever passes in that time."""
        found: List[Overheard] = []
        due = time.monotonic() + seconds
        while (left := due - time.monotonic()) > 0:
            self._packet.settimeout(left)
            try:
                found.append(_parsed(self._packet.recv(65535)))
            except socket.timeout:
                break
        return found


def _parsed(packet: bytes) -> Overheard:
    start = (packet[0] & 15) * 4
    if packet[0] >> 4 != 4 or packet[9] != socket.IPPROTO_UDP:
        return Overheard(("", 0), ("", 0), b"")
    source, destination, length, _ = _UDP.unpack_from(packet, start)
    return Overheard(
        (socket.inet_ntoa(packet[12:16]), source),
        (socket.inet_ntoa(packet[16:20]), destination),
        packet[start + _UDP.size : start + length],
    )
