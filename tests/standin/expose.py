"""A stand-in for udpexposer 0.3.0: its helper, its exposer, and what asks for the statistics.

    expose.py LISTEN -s [-n MAX] [-P PASSWORD]
    expose.py LISTEN -a HELPER -c SERVICE [-n MAX] [-i MS] [-P PASSWORD]
    expose.py LISTEN -a HELPER -P PASSWORD -S

As a program it has the original's options, says what the original says, and chokes on what
chokes the original. As a module it has what tests put around: `OriginalHelper` and
`OriginalExposer` start this one, or any program that takes the same options, as a process of
its own; an `Endpoint` is a connectee, a service, or whichever end a test plays itself. It is
one file, so that a lab host can run it by its path alone.

    tag(2) ‖ payload    between helper and exposer; no password: empty is the exposer's keepalive
    header.claims.mac   JWS compact, HS256: the keepalive and its answers where there is one
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import hashlib
import hmac
import json
import re
import selectors
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections import OrderedDict
from pathlib import Path
from typing import Any, Callable, NamedTuple, NoReturn, Optional, Sequence, TypeVar

SocketAddress = tuple[Any, ...]  # (host, port), with IPv6 flow and scope after them
Popen = Callable[..., "subprocess.Popen[str]"]
AnOriginal = TypeVar("AnOriginal", bound="Original")
AnEndpoint = TypeVar("AnEndpoint", bound="Endpoint")

TAG = 2
BUFFER = 2048
# The helper leaves room for a tag before whatever it gets, which may have one already.
LONGEST_QUESTION = BUFFER - TAG
LONGEST_ANSWER = BUFFER - TAG - TAG

ASKS_STATISTICS = 2**64 - 1
STATISTICS = """
    err1 signed_looking refresh_address invalid_auths auth_in_progress auth_completeds err2
    simple_keepalives simple_address_switches dwarfs ch_not_founds err3
    dropped_no_client_address new_connectees err4 from_connectee_bytes from_connectee_msgs
    from_client_bytes from_client_msgs stats_requests last_ka_s last_client_s last_connectee_s
""".split()

NONCE_PAST = 10  # seconds
NONCE_FUTURE = 1

STAND_IN = (sys.executable, str(Path(__file__).resolve()))
LOOPBACK: SocketAddress = ("127.0.0.1", 0)

_LARGEST_OF_ALL = 65535
_QUEUE = 1 << 22


# --- the wire ----------------------------------------------------------------------------


def derive_key(password: str) -> bytes:
    from argon2.low_level import Type, hash_secret_raw

    return hash_secret_raw(password.encode(), b"udpexposer", 2, 256, 2, 32, Type.I, version=0x13)


def _base64url(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


SIGNED = _base64url(b'{"alg":"HS256"}') + b"."


def sign(claims: object, key: bytes) -> bytes:
    signed = SIGNED + _base64url(json.dumps(claims, separators=(",", ":")).encode())
    return signed + b"." + _base64url(hmac.new(key, signed, "sha256").digest())


def keepalive(nonce: Optional[int], key: bytes) -> bytes:
    return sign({"nonce": nonce}, key)


def claims_of(datagram: bytes, key: bytes) -> Any:
    """Raises ValueError when it is not signed with the key."""
    signed, _, mac = datagram.rpartition(b".")
    right = _base64url(hmac.new(key, signed, "sha256").digest())
    if not signed.startswith(SIGNED) or not hmac.compare_digest(mac, right):
        raise ValueError("badly signed")
    claims = signed[len(SIGNED) :]
    return json.loads(base64.urlsafe_b64decode(claims + b"=" * (-len(claims) % 4)))


def nonce_of(claims: Any) -> Optional[int]:
    """Raises ValueError when they are not a keepalive's."""
    if not isinstance(claims, dict):
        raise ValueError("not a keepalive")
    return None if claims.get("nonce") is None else _u64(claims["nonce"])


def retry_of(claims: Any) -> Optional[int]:
    """The nonce to repeat the keepalive with, None if it was taken. Raises ValueError."""
    if claims == "Registered":
        return None
    if not isinstance(claims, dict) or claims.keys() != {"Retry"}:
        raise ValueError("not an answer")
    return _u64(claims["Retry"])


def _u64(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**64:
        raise ValueError("not a nonce")
    return value


def text(address: SocketAddress) -> str:
    return f"[{address[0]}]:{address[1]}" if ":" in address[0] else f"{address[0]}:{address[1]}"


def open_socket(local: SocketAddress = LOOPBACK) -> socket.socket:
    family = socket.AF_INET6 if ":" in local[0] else socket.AF_INET
    opened = socket.socket(family, socket.SOCK_DGRAM)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _QUEUE)
    opened.bind(local)
    return opened


def _say(line: str) -> None:
    print(line, flush=True)


# --- the helper --------------------------------------------------------------------------


class Sending(NamedTuple):
    datagram: bytes
    destination: SocketAddress
    failure: str = ""  # the count of those that cannot be sent


class Helper:
    """The client, as the original calls the exposer, and the connectees by tag."""

    def __init__(self, most: int, key: Optional[bytes]) -> None:
        self.counts = dict.fromkeys(STATISTICS, 0)
        self._key = key
        self._most = most
        self._client: SocketAddress = ()
        self._last_tag = 0
        self._tags: OrderedDict[SocketAddress, int] = OrderedDict()  # the last used at the end
        # The last inserted at the end, whatever was used: a busy connectee, whose tag stays,
        # gets no answers after so many newcomers.
        self._connectees: OrderedDict[int, SocketAddress] = OrderedDict()

    def receive(self, datagram: bytes, source: SocketAddress, now: int) -> Optional[Sending]:
        """What to send, if anything. `now` is in seconds since 1970."""
        forged = False
        if self._key is None and not datagram:
            self._keepalive(source, now)
            return None
        if self._key is not None and datagram.startswith(SIGNED):
            self._count("signed_looking")
            if source == self._client:
                self._count("refresh_address")
                self.counts["last_ka_s"] = now
            try:
                nonce = nonce_of(claims_of(datagram, self._key))
            except ValueError:
                self._count("invalid_auths")
                _say(f"A client from {text(source)} failed to authenticate")
                forged = True  # and is payload
            else:
                return self._authenticate(nonce, source, now, self._key)
        if source == self._client:
            return self._to_connectee(datagram, now, forged)
        return self._to_client(datagram, source, now)

    def count_failure(self, name: str) -> None:
        if name:
            self._count(name)
        _say("Error on the main socket")

    def _count(self, name: str, more: int = 1) -> None:
        self.counts[name] += more

    def _keepalive(self, source: SocketAddress, now: int) -> None:
        self._count("simple_keepalives")
        self.counts["last_ka_s"] = now
        if source != self._client:
            self._count("simple_address_switches")
            self._switch(source)

    def _switch(self, client: SocketAddress) -> None:
        _say(f"New client address: {text(client)}")
        self._client = client

    def _authenticate(
        self, nonce: Optional[int], source: SocketAddress, now: int, key: bytes
    ) -> Sending:
        if nonce == ASKS_STATISTICS:
            self._count("stats_requests")
            return Sending(struct.pack(">23Q", *self.counts.values()), source)
        of_source = hashlib.blake2b(text(source).encode(), digest_size=8, key=key).digest()
        mask = int.from_bytes(of_source, "big")
        is_good = nonce is not None and now - NONCE_PAST <= nonce ^ mask <= now + NONCE_FUTURE
        if not is_good and source != self._client:
            self._count("auth_in_progress")
            _say(f"Authenticating: {text(source)}")
            return Sending(sign({"Retry": now ^ mask}, key), source)
        self._count("auth_completeds")
        self.counts["last_ka_s"] = now
        if source != self._client:
            self._switch(source)
        return Sending(sign("Registered", key), source, "err2")

    def _to_connectee(self, datagram: bytes, now: int, forged: bool) -> Optional[Sending]:
        if len(datagram) < TAG:
            self._count("dwarfs")
            _say("Too short datagram from client")
            return None
        tag = int.from_bytes(datagram[:TAG], "big")
        if tag not in self._connectees:
            if not forged:
                self._count("ch_not_founds")
                _say(f"Failed to find channel {tag}")
            return None
        self._count("from_client_msgs")
        self._count("from_client_bytes", len(datagram) - TAG)
        self.counts["last_client_s"] = now
        return Sending(datagram[TAG:], self._connectees[tag], "err3")

    def _to_client(self, datagram: bytes, source: SocketAddress, now: int) -> Optional[Sending]:
        if not self._client:
            self._count("dropped_no_client_address")
            return None
        if source not in self._tags:
            self._admit(source)
        self._tags.move_to_end(source)
        self._count("from_connectee_msgs")
        self._count("from_connectee_bytes", len(datagram))
        self.counts["last_connectee_s"] = now
        return Sending(self._tags[source].to_bytes(TAG, "big") + datagram, self._client, "err4")

    def _admit(self, source: SocketAddress) -> None:
        self._last_tag = (self._last_tag + 1) % 2**16
        self._count("new_connectees")
        _say(f"Connectee seqn {self._last_tag} from {text(source)}")
        self._tags[source] = self._last_tag
        self._connectees[self._last_tag] = source
        for entries in (self._tags, self._connectees):
            if len(entries) > self._most:
                entries.popitem(last=False)


def run_helper(listen: SocketAddress, most: int, key: Optional[bytes]) -> NoReturn:
    helper = Helper(most, key)
    opened = open_socket(listen)
    while True:
        try:
            datagram, source = opened.recvfrom(BUFFER - TAG)
        except OSError:
            helper.count_failure("err1")
            continue
        sending = helper.receive(datagram, source, int(time.time()))
        if sending:
            try:
                opened.sendto(sending.datagram, sending.destination)
            except OSError:
                helper.count_failure(sending.failure)


# --- the exposer -------------------------------------------------------------------------


class Exposer:
    """A local socket for each tag, towards the service; the least recently used goes."""

    def __init__(
        self,
        opened: socket.socket,
        helper: SocketAddress,
        service: SocketAddress,
        most: int,
        key: Optional[bytes],
    ) -> None:
        self._socket = opened
        self._helper = helper
        self._service = service
        self._most = most
        self._key = key
        self._announced = False
        self._locals: OrderedDict[int, socket.socket] = OrderedDict()
        self._selector = selectors.DefaultSelector()
        self._selector.register(opened, selectors.EVENT_READ)

    def run(self, interval: float) -> NoReturn:
        """Raises OSError when there is no descriptor for a local socket."""
        due = time.monotonic()
        while True:
            if time.monotonic() >= due:
                due = time.monotonic() + interval
                self._to_helper(b"" if self._key is None else keepalive(None, self._key))
            for ready, _ in self._selector.select(max(due - time.monotonic(), 0)):
                if ready.data is None:
                    self._from_helper(self._socket.recv(BUFFER))
                elif ready.data in self._locals:
                    self._from_local(ready.data)

    def _to_helper(self, datagram: bytes) -> None:
        try:
            self._socket.sendto(datagram, self._helper)
        except OSError:
            _say(f"Error sending to server addr {text(self._helper)}")

    def _from_helper(self, datagram: bytes) -> None:
        """From whomever: the original does not look at the source."""
        if len(datagram) <= TAG:
            _say("Datagram from server is too small")
            return
        if self._key is not None and datagram.startswith(SIGNED):
            with contextlib.suppress(ValueError):  # and is payload
                self._answered(retry_of(claims_of(datagram, self._key)), self._key)
                return
        local = self._local(int.from_bytes(datagram[:TAG], "big"))
        try:
            local.sendto(datagram[TAG:], self._service)
        except OSError:
            _say("Error sending to local addr")

    def _answered(self, nonce: Optional[int], key: bytes) -> None:
        if nonce is not None:
            self._to_helper(keepalive(nonce, key))
        elif not self._announced:
            _say("Authenticated")
            self._announced = True

    def _local(self, tag: int) -> socket.socket:
        if tag not in self._locals:
            _say(f"New incoming channel {tag}")
            if len(self._locals) == self._most:
                self._close(*self._locals.popitem(last=False))
            anywhere = "::" if ":" in self._service[0] else "0.0.0.0"
            self._locals[tag] = open_socket((anywhere, 0))
            self._selector.register(self._locals[tag], selectors.EVENT_READ, tag)
        self._locals.move_to_end(tag)
        return self._locals[tag]

    def _close(self, tag: int, local: socket.socket) -> None:
        self._selector.unregister(local)
        local.close()
        _say(f"Finished serving channel {tag}")

    def _from_local(self, tag: int) -> None:
        datagram, source = self._locals[tag].recvfrom(BUFFER - TAG)
        if source[:2] != self._service[:2]:
            _say(f"Foreign incoming address on worker socket: {text(source)}")
            return
        self._to_helper(tag.to_bytes(TAG, "big") + datagram)


# --- the command line --------------------------------------------------------------------


def address(argument: str) -> SocketAddress:
    host, colon, port = argument.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65535:
        raise argparse.ArgumentTypeError(f"{argument!r} is not IP:PORT")
    return host.strip("[]"), int(port)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="stand-in for udpexposer 0.3.0")
    parser.add_argument("listen", type=address)
    parser.add_argument("-c", "--local-connect-addr", dest="service", type=address)
    parser.add_argument("-a", "--server-addr", dest="helper", type=address)
    parser.add_argument("-s", "--server-mode", dest="is_helper", action="store_true")
    parser.add_argument("-n", "--max-clients", dest="most", type=int, default=4)
    parser.add_argument("-i", "--ping-interval-ms", dest="interval", type=int, default=25_000)
    parser.add_argument("-P", "--password")
    parser.add_argument("-S", "--dump-stats", dest="is_statistics", action="store_true")
    options = parser.parse_args()
    if options.is_statistics and not (options.helper and options.password is not None):
        parser.error("-S needs -a and -P")
    if not (options.is_helper or options.helper and (options.service or options.is_statistics)):
        parser.error("either -s, or both -c and -a")
    return options


def main() -> NoReturn:
    options = _options()
    key = None if options.password is None else derive_key(options.password)
    if options.is_helper:
        run_helper(options.listen, options.most, key)
    if options.is_statistics:
        counts = statistics(options.helper, options.password, options.listen)
        print(json.dumps(counts), end="")
        sys.exit()
    opened = open_socket(options.listen)
    exposer = Exposer(opened, options.helper, options.service, options.most, key)
    try:
        exposer.run(options.interval / 1000)
    except OSError as error:
        sys.exit(f"Error: {error}")


# --- the two as processes ----------------------------------------------------------------

_COMPLAINT = re.compile(
    "Error|Failed|Foreign|Too short|failed to authenticate|too small|incoming channel 25977"
)


class Original:
    """A running program that was started as udpexposer is; `program` is the one to start."""

    def __init__(
        self, *words: object, password: Optional[str], program: Sequence[str], popen: Popen
    ) -> None:
        self._log = tempfile.TemporaryFile("w+")
        secret = () if password is None else ("-P", password)
        self.process = popen(
            [*program, *map(str, words), *secret],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def __enter__(self: AnOriginal) -> AnOriginal:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def lines(self) -> list[str]:
        self._log.seek(0)
        return self._log.read().splitlines()

    def complaints(self) -> list[str]:
        """What it said of datagrams that no sound peer sends, and of errors."""
        return [line for line in self.lines() if _COMPLAINT.search(line)]

    def wait_line(self, beginning: str, *, count: int = 1, timeout: float = 15.0) -> str:
        """What follows this in the `count`th line that begins so, said or still to be said."""
        due = time.monotonic() + timeout
        while True:
            is_over = self.process.poll() is not None or time.monotonic() > due
            found = [line for line in self.lines() if line.startswith(beginning)]
            if len(found) >= count:
                return found[count - 1][len(beginning) :]
            if is_over:
                raise AssertionError(f"{count}. {beginning!r} did not come: {self}")
            time.sleep(0.01)

    def assert_alive_and_sane(self) -> None:
        said = str(self)
        is_sane = "Traceback" not in said and "panicked" not in said
        assert self.process.poll() is None and is_sane, said

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
        self.process.wait(10)

    def __str__(self) -> str:
        said = "\n  ".join(self.lines())
        return f"{self.process.args!r} (exit status {self.process.poll()})\n  {said}"


class OriginalHelper(Original):
    """Its `address` is bound when this returns."""

    def __init__(
        self,
        address: SocketAddress,
        *,
        most: int = 4,
        password: Optional[str] = None,
        program: Sequence[str] = STAND_IN,
        popen: Popen = subprocess.Popen,
    ) -> None:
        self.address = address
        words = (text(address), "-s", "-n", most)
        super().__init__(*words, password=password, program=program, popen=popen)
        due = time.monotonic() + 20
        while not _is_bound(self.process.pid, address[1]):
            if self.process.poll() is not None or time.monotonic() > due:
                self.stop()
                raise AssertionError(f"does not listen: {self}")
            time.sleep(0.01)

    def wait_exposer(self, *, count: int = 1) -> SocketAddress:
        """The address of the `count`th exposer that it took for its client."""
        return address(self.wait_line("New client address: ", count=count))


class OriginalExposer(Original):
    """Registered some time after this returns: the helper tells."""

    def __init__(
        self,
        helper: SocketAddress,
        service: SocketAddress,
        *,
        listen: SocketAddress = LOOPBACK,
        most: int = 4,
        interval: int = 25_000,
        password: Optional[str] = None,
        program: Sequence[str] = STAND_IN,
        popen: Popen = subprocess.Popen,
    ) -> None:
        ends = (text(listen), "-a", text(helper), "-c", text(service))
        words = (*ends, "-n", most, "-i", interval)
        super().__init__(*words, password=password, program=program, popen=popen)


def _is_bound(pid: int, port: int) -> bool:
    """Whether any UDP socket of the process's network namespace has that port."""
    tables = [Path(f"/proc/{pid}/net/{name}").read_text() for name in ("udp", "udp6")]
    lines = [line for table in tables for line in table.splitlines()[1:]]
    return any(line.split()[1].endswith(f":{port:04X}") for line in lines)


# --- what tests put around them ----------------------------------------------------------


class Endpoint:
    """A bare socket: a service, or the end of the protocol that the test plays."""

    def __init__(self, local: SocketAddress = LOOPBACK) -> None:
        self.socket = open_socket(local)
        self.socket.settimeout(15)
        self.address: SocketAddress = self.socket.getsockname()

    def __enter__(self: AnEndpoint) -> AnEndpoint:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.socket.close()

    def send_to(self, destination: SocketAddress, datagram: bytes) -> None:
        self.socket.sendto(datagram, destination)

    def receive_from(self) -> tuple[bytes, SocketAddress]:
        return self.socket.recvfrom(_LARGEST_OF_ALL)

    def has_nothing(self, timeout: float = 0.0) -> bool:
        with selectors.DefaultSelector() as selector:
            selector.register(self.socket, selectors.EVENT_READ)
            return not selector.select(timeout)


class Connectee(Endpoint):
    """Whoever sends to the helper; what others send it fails the test."""

    def __init__(self, helper: SocketAddress, local: SocketAddress = LOOPBACK) -> None:
        super().__init__(local)
        self.helper = helper

    def send(self, datagram: bytes) -> bytes:
        self.send_to(self.helper, datagram)
        return datagram

    def receive(self) -> bytes:
        datagram, source = self.receive_from()
        assert source[:2] == self.helper[:2], f"{source} is not the helper"
        return datagram


def statistics(
    helper: SocketAddress, password: str, local: SocketAddress = LOOPBACK
) -> dict[str, int]:
    """What the original's -S prints."""
    with Connectee(helper, local) as asking:
        asking.send(keepalive(ASKS_STATISTICS, derive_key(password)))
        return dict(zip(STATISTICS, struct.unpack(">23Q", asking.receive())))


if __name__ == "__main__":
    main()
