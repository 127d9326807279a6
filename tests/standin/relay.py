"""A stand-in for udp-relay 0.8.2: its relay, its clients old and new, and its health check.

    relay.py [--port N] [--ipv6 0|1] [--cleanupTime MS] [--cleanupInactiveAfterTime MS] ...

As a program it is the relay, with the original's options, limits and exit statuses: one
thread, which drops what is longer than 1,472 bytes. As a module it has what tests put around
a relay: `OriginalRelay` starts this one, or any program that takes the same options, as a
process of its own; a `Peer` is a client of any relay; `health_check` is the original's.

    handshake   magic(4) ‖ length(2) ‖ flags(2) ‖ guid(16) ‖ mac(32) ‖ padding
    until 0.7   magic(4) ‖ reserved(4) ‖ guid(16)
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import hmac
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Callable, Mapping, NoReturn, Optional, Sequence

SocketAddress = tuple[Any, ...]  # (host, port), with IPv6 flow and scope after them
Popen = Callable[..., "subprocess.Popen[str]"]

MAGIC = bytes.fromhex("04b28000")
HEADER = 56
GUID_AT = 8
MAC_AT = 24
LARGEST = 1472
ZERO_GUID = bytes(16)
HEALTH_CHECK_MARK = bytes.fromhex("ffff0123456798ab")

SECRET_VARIABLE = "UDP_RELAY_SECRET_KEY"
DEFAULT_SECRET = base64.b64decode("Zkw2SThGM2VndjZBcEMxNWZrSk85VTd4S2VERDZYdXI=")

STAND_IN = (sys.executable, str(Path(__file__).resolve()))

_LARGEST_OF_ALL = 65535
_BUFFER = 1 << 22
_UDP_SEGMENT = 103
_TICK = 0.015  # the longest that a signal or a cleanup waits for


# --- the wire ----------------------------------------------------------------------------


def handshake(
    guid: bytes, secret: bytes, padding: bytes = b"", *, length: Optional[int] = None
) -> bytes:
    """A signed handshake. `length` is that of the padding unless the sender lies."""
    head = MAGIC + struct.pack(">HH", len(padding) if length is None else length, 0) + guid
    return head + _mac(head + bytes(32) + padding, secret) + padding


def old_handshake(guid: bytes) -> bytes:
    """That of 0.5 to 0.7."""
    return MAGIC + bytes(4) + guid


def guid_of(datagram: bytes, secret: bytes) -> Optional[bytes]:
    """The guid of a handshake with the right mac; None for whatever else."""
    if len(datagram) < HEADER or not datagram.startswith(MAGIC):
        return None
    guid = datagram[GUID_AT:MAC_AT]
    unsigned = datagram[:MAC_AT] + bytes(32) + datagram[HEADER:]
    if guid == ZERO_GUID or _mac(unsigned, secret) != datagram[MAC_AT:HEADER]:
        return None
    return guid


def _mac(unsigned: bytes, secret: bytes) -> bytes:
    return hmac.new(secret, unsigned, "sha256").digest()


# --- the relay ---------------------------------------------------------------------------


@dataclass
class Channel:
    first: SocketAddress
    used: float
    second: Optional[SocketAddress] = None


class Relay:
    """Channels by their guid, and to which of them an address belongs."""

    def __init__(self, secret: bytes, inactive_after: float) -> None:
        self.channels: dict[bytes, Channel] = {}
        self.draining = False
        self._secret = secret
        self._inactive_after = inactive_after
        self._guids: dict[SocketAddress, bytes] = {}

    def receive(self, datagram: bytes, source: SocketAddress, now: float) -> SocketAddress:
        """Where the datagram goes, as it is; empty for nowhere."""
        if len(datagram) > LARGEST:
            return ()
        guid = guid_of(datagram, self._secret)
        if guid is not None and not self.draining:
            self._join(guid, source, now)
        channel = self.channels.get(self._guids.get(source, ZERO_GUID))
        if channel is None or channel.second is None:
            return ()
        channel.used = now
        return channel.second if source == channel.first else channel.first

    def close_inactive(self, now: float) -> None:
        self.channels = {
            guid: channel
            for guid, channel in self.channels.items()
            if now - channel.used <= self._inactive_after
        }
        self._guids = {
            address: guid for address, guid in self._guids.items() if guid in self.channels
        }

    def _join(self, guid: bytes, source: SocketAddress, now: float) -> None:
        channel = self.channels.setdefault(guid, Channel(source, now))
        if channel.second is None and source != channel.first:
            channel.second = source
            channel.used = now
            # Only now do both leave the channels they were in.
            self._guids[channel.first] = self._guids[source] = guid


def _open(options: argparse.Namespace) -> socket.socket:
    opened = socket.socket(socket.AF_INET6 if options.ipv6 else socket.AF_INET, socket.SOCK_DGRAM)
    if options.ipv6:
        opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    if options.socketRecvBufferSize:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, options.socketRecvBufferSize)
    if options.socketSendBufferSize:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, options.socketSendBufferSize)
    opened.bind(("::" if options.ipv6 else "0.0.0.0", options.port))
    opened.settimeout(_TICK)
    return opened


def run(options: argparse.Namespace, secret: bytes) -> int:
    """Relay until a signal; the exit status."""
    relay = Relay(secret, options.cleanupInactiveAfterTime / 1000)
    signals: list[int] = []

    def note(number: int, frame: Optional[FrameType]) -> None:
        signals.append(number)

    signal.signal(signal.SIGINT, note)
    signal.signal(signal.SIGTERM, note)
    cleanup_due = time.monotonic()
    with _open(options) as opened:
        while signal.SIGINT not in signals and not (relay.draining and not relay.channels):
            with contextlib.suppress(OSError):  # a timeout, or what ICMP told of a peer
                datagram, source = opened.recvfrom(_LARGEST_OF_ALL)
                destination = relay.receive(datagram, source, time.monotonic())
                if destination:
                    opened.sendto(datagram, destination)
            relay.draining = signal.SIGTERM in signals
            if time.monotonic() >= cleanup_due:
                relay.close_inactive(time.monotonic())
                cleanup_due = time.monotonic() + options.cleanupTime / 1000
    return 128 + signals[-1]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="stand-in for udp-relay 0.8.2")
    parser.add_argument("--port", type=int, default=6060)
    parser.add_argument("--log-level", type=int, choices=range(5), default=3)
    parser.add_argument("--socketRecvBufferSize", type=int, default=0)
    parser.add_argument("--socketSendBufferSize", type=int, default=0)
    parser.add_argument("--cleanupTime", type=int, default=1_800)
    parser.add_argument("--cleanupInactiveAfterTime", type=int, default=30_000)
    parser.add_argument("--ipv6", type=int, choices=(0, 1), default=0)
    return parser.parse_args()


def main() -> NoReturn:
    secret = base64.b64decode(os.environ.get(SECRET_VARIABLE, "")) or DEFAULT_SECRET
    sys.exit(run(_options(), secret))


# --- the relay as a process --------------------------------------------------------------


def popen_with(secret: Optional[bytes], popen: Popen = subprocess.Popen) -> Popen:
    """Starts a process in whose environment that secret is, or none."""

    def start(
        arguments: Sequence[str], *, env: Mapping[str, str] = os.environ, **more: Any
    ) -> subprocess.Popen[str]:
        environment = {name: value for name, value in env.items() if name != SECRET_VARIABLE}
        if secret is not None:
            environment[SECRET_VARIABLE] = base64.b64encode(secret).decode()
        return popen(arguments, env=environment, **more)

    return start


class OriginalRelay:
    """A running relay that was started as udp-relay is; `program` is the one to start."""

    def __init__(
        self,
        port: int,
        *options: str,
        secret: Optional[bytes] = None,
        inactive_after: int = 30_000,
        cleanup: int = 200,
        ipv6: bool = False,
        program: Sequence[str] = STAND_IN,
        popen: Popen = subprocess.Popen,
    ) -> None:
        self.port = port
        self._log = tempfile.TemporaryFile("w+")
        times = ("--cleanupTime", cleanup, "--cleanupInactiveAfterTime", inactive_after)
        words = ("--port", port, "--ipv6", int(ipv6), *times, *options)
        self.process = popen_with(secret, popen)(
            [*program, *map(str, words)],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._await_listening()

    def __enter__(self) -> OriginalRelay:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def assert_alive_and_sane(self) -> None:
        assert self.process.poll() is None and "Traceback" not in str(self), str(self)

    def stop(self, number: int = signal.SIGINT, timeout: float = 10.0) -> int:
        """The exit status. SIGTERM is for who knows that the channels close in time."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
        return self.process.wait()

    def __str__(self) -> str:
        self._log.seek(0)
        return f"{self.process.args!r} (exit status {self.process.poll()})\n{self._log.read()}"

    def _await_listening(self, timeout: float = 20.0) -> None:
        due = time.monotonic() + timeout
        while self.process.poll() is None and time.monotonic() < due:
            if _is_bound(self.process.pid, self.port):
                return
            time.sleep(0.01)
        self.stop(signal.SIGKILL)
        raise AssertionError(f"does not listen on port {self.port}: {self}")


def _is_bound(pid: int, port: int) -> bool:
    """Whether any UDP socket of the process's network namespace has that port."""
    locals_ = [
        line.split()[1]
        for table in ("udp", "udp6")
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]
    ]
    return any(int(local.rpartition(":")[2], 16) == port for local in locals_)


# --- clients -----------------------------------------------------------------------------


class Peer:
    """A client of the relay at that address; what others send it fails the test."""

    def __init__(self, relay: SocketAddress) -> None:
        self.relay = relay
        family = socket.AF_INET6 if ":" in relay[0] else socket.AF_INET
        self.socket = socket.socket(family, socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
        self.socket.bind(("", 0))

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.socket.close()

    def send(self, datagram: bytes) -> bytes:
        self.socket.sendto(datagram, self.relay)
        return datagram

    def send_train(self, datagrams: Sequence[bytes]) -> None:
        """All in one system call (UDP_SEGMENT): of one length, but for a shorter last one."""
        segment = [(socket.IPPROTO_UDP, _UDP_SEGMENT, struct.pack("=H", len(datagrams[0])))]
        self.socket.sendmsg([b"".join(datagrams)], segment, 0, self.relay)

    def handshake(self, guid: bytes, secret: bytes = DEFAULT_SECRET, padding: bytes = b"") -> bytes:
        return self.send(handshake(guid, secret, padding))

    def old_handshake(self, guid: bytes) -> bytes:
        return self.send(old_handshake(guid))

    def receive(self, timeout: float = 15.0) -> bytes:
        assert wait_readable(self, timeout=timeout), "nothing came"
        datagram, source = self.socket.recvfrom(_LARGEST_OF_ALL)
        assert source[:2] == self.relay[:2], f"{source} is not the relay"
        return datagram

    def has_nothing(self, timeout: float = 0.0) -> bool:
        return not wait_readable(self, timeout=timeout)


def wait_readable(*peers: Peer, timeout: float = 15.0) -> Sequence[Peer]:
    """Those to which something came, as soon as something did."""
    poll = select.poll()
    for peer in peers:
        poll.register(peer.socket, select.POLLIN)
    ready = {descriptor for descriptor, _ in poll.poll(timeout * 1000)}
    return [peer for peer in peers if peer.socket.fileno() in ready]


def health_check(
    address: SocketAddress,
    secret: bytes = DEFAULT_SECRET,
    probes: int = 5,
    wait: float = 1.0,
) -> int:
    """The exit status of the original's health check: 0 when one of its probes came through."""
    for _ in range(probes):
        with Peer(address) as one, Peer(address) as other:
            probe = one.handshake(os.urandom(8) + HEALTH_CHECK_MARK, secret)
            other.send(probe)
            for peer in wait_readable(one, other, timeout=wait):
                if peer.receive() == probe:
                    return 0
    return 1


if __name__ == "__main__":
    main()
