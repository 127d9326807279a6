"""A relay in the test's own process, with faults: its channels are those of the stand-in."""

from __future__ import annotations

import socket
import threading
import time
from typing import Callable, List, Tuple

from tests.standin.relay import DEFAULT_SECRET, Relay, SocketAddress, guid_of

# Whether a datagram from that peer of a channel (0: who came first) is dropped.
Fault = Callable[[bytes, int], bool]


def no_fault(datagram: bytes, peer: int) -> bool:
    return False


def is_payload(datagram: bytes) -> bool:
    return datagram.startswith(b"udppunch check ")


def is_probe(datagram: bytes) -> bool:
    """Payload with a number at its end."""
    return is_payload(datagram) and len(datagram) == len(b"udppunch check ") + 8 + 2


class EveryThird:
    """Drops every third handshake, and every third datagram of payload."""

    def __init__(self) -> None:
        self._seen = [0, 0]

    def __call__(self, datagram: bytes, peer: int) -> bool:
        self._seen[is_payload(datagram)] += 1
        return self._seen[is_payload(datagram)] % 3 == 0


class FaultyRelay:
    """Relays on 127.0.0.1 or ::1 from its start to its end, but what `fault` drops."""

    def __init__(
        self, fault: Fault = no_fault, *, secret: bytes = DEFAULT_SECRET, ip: str = "127.0.0.1"
    ) -> None:
        self.guids: List[bytes] = []
        self.probes = 0
        self._fault = fault
        self._secret = secret
        self._relay = Relay(secret, inactive_after=30.0)
        family = socket.AF_INET6 if ":" in ip else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_DGRAM)
        self._socket.bind((ip, 0))
        self._socket.settimeout(0.02)
        port = self._socket.getsockname()[1]
        self.address = f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"
        self._ending = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def __enter__(self) -> FaultyRelay:
        return self

    def __exit__(self, *_: object) -> None:
        self._ending = True
        self._thread.join()
        self._socket.close()

    def _run(self) -> None:
        sources: List[SocketAddress] = []
        while not self._ending:
            try:
                datagram, source = self._socket.recvfrom(4096)
            except OSError:
                continue  # nothing came, or ICMP said that a peer has gone
            if source not in sources:
                sources.append(source)
            self._relay_one(datagram, source, sources.index(source) % 2)

    def _relay_one(self, datagram: bytes, source: Tuple[object, ...], peer: int) -> None:
        guid = guid_of(datagram, self._secret)
        if guid is not None and guid not in self.guids:
            self.guids.append(guid)
        self.probes += is_probe(datagram)
        if not self._fault(datagram, peer):
            destination = self._relay.receive(datagram, source, time.monotonic())
            if destination:
                self._socket.sendto(datagram, destination)
