"""The ends of the expose protocol that tests play, and the odd things that they say."""

from __future__ import annotations

import base64
import contextlib
import functools
import hmac
import os
import random
import socket
import struct
import subprocess
from typing import Dict, Iterable, Iterator, List, NamedTuple, Optional, Sequence

from tests.faults.expose_traffic import PASSWORD, ExposerProgram
from tests.faults.pace import Pace
from tests.faults.relay_traffic import PATIENCE
from tests.lab.whole_program import eventually
from tests.program import Popen, SocketAddress
from tests.standin.expose import (
    ASKS_STATISTICS,
    LOOPBACK,
    SIGNED,
    TAG,
    Connectee,
    Endpoint,
    claims_of,
    derive_key,
    keepalive,
    open_socket,
    retry_of,
    sign,
)

WRONG = "the password of others"
KEY = derive_key(PASSWORD)
LONGEST = 1500
LONGEST_OF_ALL = 65_507

_UDP_SEGMENT = 103
_IP_PKTINFO = 8
_PKTINFO = struct.Struct("=i4s4s")


# --- exposers ----------------------------------------------------------------------------


class PlayedExposer(Connectee):
    """An exposer that a test plays at a helper with a password; `said` is what it has signed."""

    def __init__(self, helper: SocketAddress, local: SocketAddress = LOOPBACK) -> None:
        super().__init__(helper, local)
        self.said: List[bytes] = []

    def register(self, password: str = PASSWORD, name: str = "") -> None:
        """Fails if it is not told that it is registered."""
        key = derive_key(password)
        self.say(None, key, name)
        nonce = retry_of(claims_of(self.receive(), key))
        assert nonce is not None, "registered without proof"
        self.say(nonce, key, name)
        assert claims_of(self.receive(), key) == "Registered"

    def is_registered(self, name: str = "") -> bool:
        """Whether it needs no proof: so it is as soon as all workers were told."""
        self.say(None, derive_key(PASSWORD), name)
        while True:
            with contextlib.suppress(ValueError):  # payload that waited
                return bool(claims_of(self.receive(), derive_key(PASSWORD)) == "Registered")

    def say(self, nonce: Optional[int], key: bytes, name: str = "") -> bytes:
        said = named_keepalive(nonce, key, name) if name else keepalive(nonce, key)
        self.said.append(said)
        return self.send(said)


def named_keepalive(nonce: Optional[int], key: bytes, name: str) -> bytes:
    return sign({"nonce": nonce, "name": name}, key)


def sign_raw(claims: bytes, key: bytes) -> bytes:
    """Rightly, whatever they are."""
    signed = SIGNED + _base64url(claims)
    return signed + b"." + _base64url(hmac.digest(key, signed, "sha256"))


def _base64url(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def tagged(tag: int, payload: bytes) -> bytes:
    return tag.to_bytes(TAG, "big") + payload


def reaches(
    connectee: Connectee, exposer: Connectee, workers: Optional[List[List[Connectee]]] = None
) -> bool:
    """Whether the exposer hears it; if so, it is put to the worker that its tag is of."""
    said = connectee.send(os.urandom(16))
    while not exposer.has_nothing(0.2):
        heard = exposer.receive()
        if heard[TAG:] == said:
            if workers is not None:
                workers[heard[1] % 2].append(connectee)
            return True
    return False


# --- helpers -----------------------------------------------------------------------------


class FalseHelper(NamedTuple):
    """One that the test plays: the exposer that is registered with it, which it sees at
    `address`, its own socket, and the service."""

    exposer: ExposerProgram
    socket: Endpoint
    address: SocketAddress
    service: Endpoint

    def tell(self, datagram: bytes) -> None:
        self.socket.send_to(self.address, datagram)

    def wait_told(self, wanted: bytes) -> None:
        """Until the exposer says that, whatever else it says before."""
        while self.socket.receive_from()[0] != wanted:
            pass

    def ask(self, *tags: int) -> Dict[int, SocketAddress]:
        """Where, for each tag, a question came from that the service has answered."""
        return {tag: self._ask(tag) for tag in tags}

    def _ask(self, tag: int) -> SocketAddress:
        said = os.urandom(16)

        def is_heard() -> bool:
            self.tell(tagged(tag, said))
            return not self.service.has_nothing(1.0)

        assert eventually(is_heard, PATIENCE), self.exposer
        while True:
            datagram, source = self.service.receive_from()
            if datagram == said:
                break
        self.service.send_to(source, said)
        self.wait_told(tagged(tag, said))
        return source


@contextlib.contextmanager
def false_helper(*options: str, popen: Popen = subprocess.Popen) -> Iterator[FalseHelper]:
    with Endpoint() as helper, Endpoint() as service:
        ends = (service.address, helper.address)
        with ExposerProgram(*ends, *options, unanswered=PASSWORD, popen=popen) as exposer:
            _, address = helper.receive_from()
            helper.send_to(address, sign("Registered", KEY))
            exposer.wait_event("registered")
            yield FalseHelper(exposer, helper, address, service)


# --- connectees --------------------------------------------------------------------------


def _comes_through(connectee: Connectee, service: Endpoint) -> bool:
    """Whether the service hears it, as all those do who come after it to the same worker."""
    said = connectee.send(os.urandom(16))
    while not service.has_nothing(0.2):
        if service.receive_from()[0].endswith(said):
            return True
    return False


def wait_published(helper: SocketAddress, service: Endpoint) -> None:
    """Until all workers have been told of the exposer, as far as eight connectees find out."""
    near = ("::1" if ":" in helper[0] else "127.0.0.1", 0)
    for _ in range(8):
        with Connectee(helper, near) as connectee:
            come = functools.partial(_comes_through, connectee, service)
            assert eventually(come, PATIENCE), "nothing comes to the service"


def discard(endpoint: Endpoint) -> None:
    """What waits there."""
    while not endpoint.has_nothing():
        endpoint.receive_from()


class Spoofer:
    """Says one thing each from as many addresses as it likes; all of 127.0.0.0/8 is this host's."""

    def __init__(self, helper: SocketAddress) -> None:
        self.socket = open_socket(("0.0.0.0", 0))
        self._helper = helper

    def __enter__(self) -> Spoofer:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def say(self, source: str, datagram: bytes) -> None:
        chosen = _PKTINFO.pack(0, socket.inet_aton(source), bytes(4))
        ancillary = [(socket.IPPROTO_IP, _IP_PKTINFO, chosen)]
        self.socket.sendmsg([datagram], ancillary, socket.MSG_DONTWAIT, self._helper)

    def flood(self, sources: Iterable[str], datagrams: Iterable[bytes], per_second: int) -> int:
        """No faster than that; how many were sent."""
        sent = 0
        pace = Pace(self._helper, per_second)
        for source, datagram in zip(sources, datagrams):
            with contextlib.suppress(BlockingIOError):
                self.say(source, datagram)
                sent += 1
                pace.sent()
        return sent


def loopback_addresses(count: int) -> Iterator[str]:
    """Each in a /24 of its own as long as there are some, and none that a test uses."""
    return (f"127.{1 + n % 250}.{n // 250 % 250}.{1 + n // 62_500}" for n in range(count))


# --- odd things --------------------------------------------------------------------------

# What an exposer, an answer or a person may say, signed as it should be or nearly so. Not one
# is a keepalive, and none is answered.
FORGED: Dict[str, bytes] = {
    "another password's": keepalive(None, derive_key(WRONG)),
    "statistics, another password's": keepalive(ASKS_STATISTICS, derive_key(WRONG)),
    "no key's": keepalive(None, b""),
    "mac cut": keepalive(None, KEY)[:-1],
    "no mac": keepalive(None, KEY).rpartition(b".")[0] + b".",
    "mac altered": keepalive(None, KEY)[:-1] + b"!",
    "claims altered": keepalive(None, KEY).replace(b"6bnVs", b"6MTIz"),
    "more after it": keepalive(None, KEY) + b"A",
    "header alone": SIGNED,
    "an answer, said back": sign("Registered", KEY),
    "a question for proof, said back": sign({"Retry": 5}, KEY),
}

# Signed with the right key, and yet nothing that a sound end says.
ODD_CLAIMS: List[bytes] = [
    b"", b"null", b"true", b"0", b'""', b"[]", b"{}", b"NaN", b"-Infinity", b"\xff\xfe", b"\0",
    b"[" * 300, b'{"nonce":' * 30, b"9" * 300, b'"' + b"x" * 300 + b'"', b'"registered"',
    b'{"nonce":-1}', b'{"nonce":18446744073709551616}', b'{"nonce":1.5}', b'{"nonce":1e999}',
    b'{"nonce":true}', b'{"nonce":"1"}', b'{"nonce":[]}', b'{"nonce":' + b"1" * 300 + b"}",
    b'{"Retry":null}', b'{"Retry":-1}', b'{"Retry":1e400}', b'{"Retry":[1]}', b'{"Retry":{}}',
    b'{"nonce":null,"name":5}', b'{"nonce":null,"name":"' + b"n" * 200 + b'"}',
    b'{"nonce":null,"name":"\\ud800"}', b'{"nonce":null,"name":"\\u001b[31m\\n\\u0000"}',
    '{"nonce":null}'.encode("utf-16"), '{"nonce":null}'.encode("utf-32")[:-1],
]  # fmt: skip


def noise(count: int, seed: int) -> Iterator[bytes]:
    """Of any length; much of it begins as if it were signed."""
    chance = random.Random(seed)
    heads = [b"", b"\0", b"\0\1", SIGNED, SIGNED + b"e30.", b"ey", b"..", *FORGED.values()]
    odd = [sign_raw(claims, KEY) for claims in ODD_CLAIMS]
    for _ in range(count):
        if chance.random() < 0.3:
            yield chance.choice(odd)
        else:
            head = chance.choice(heads)
            yield (head + os.urandom(LONGEST))[: chance.randrange(LONGEST + 1)]


def trains(count: int, seed: int) -> Iterator[List[bytes]]:
    """With tags that somebody has, that nobody has, and that look signed."""
    chance = random.Random(seed)
    for _ in range(count):
        length = chance.randrange(1, LONGEST)
        heads = [bytes([0, chance.randrange(64)]), os.urandom(2), SIGNED, b"", keepalive(5, KEY)]
        train = [(chance.choice(heads) + os.urandom(length))[:length] for _ in range(40)]
        yield [*train, train[0][: chance.randrange(1, length + 1)]]


def send_train(sender: socket.socket, to: SocketAddress, datagrams: Sequence[bytes]) -> None:
    """All in one system call (UDP_SEGMENT): of one length, but for a shorter last one."""
    segment = [(socket.IPPROTO_UDP, _UDP_SEGMENT, struct.pack("=H", len(datagrams[0])))]
    sender.sendmsg([b"".join(datagrams)], segment, 0, to)
