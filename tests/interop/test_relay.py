"""The relay of ours, and udp-relay's, as clients meet them: most tests run against each.

What runs against the stand-in (and udp-relay itself, where it is installed) shows that the
test expects what the original does; what runs with two workers, that clients cannot tell.
There the peers of one channel may belong to different workers: such tests make so many
channels that every combination occurs.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Set, Tuple, Union

import pytest
import yaml

from tests import program
from tests.ports import free_port
from tests.standin.relay import (
    DEFAULT_SECRET,
    HEADER,
    HEALTH_CHECK_MARK,
    LARGEST,
    STAND_IN,
    ZERO_GUID,
    OriginalRelay,
    Peer,
    SocketAddress,
    guid_of,
    handshake,
    health_check,
    old_handshake,
    popen_with,
    wait_readable,
)

VECTORS = yaml.safe_load(Path(__file__).parents[1].joinpath("vectors.yaml").read_text())["relay"]

SECRET = b"the secret of the tests"
WRONG = b"the secret of others"
GRACE = 0.5  # for what must not come, where nothing else tells that it was dealt with
PATIENCE = 20.0

OURS = ("ours", "ours-2-workers")
UDP_RELAY = pytest.param(
    "udp-relay",
    marks=pytest.mark.skipif(not shutil.which("udp-relay"), reason="udp-relay is not on PATH"),
)
of_ours = pytest.mark.parametrize("kind", OURS)
of_originals = pytest.mark.parametrize("kind", ["stand-in", UDP_RELAY])
of_all = pytest.mark.parametrize("kind", [*OURS, "stand-in", UDP_RELAY])
# Two workers may hear the two peers of a channel in either order.
of_all_in_order = pytest.mark.parametrize("kind", ["ours", "stand-in", UDP_RELAY])

UDPPUNCH = (sys.executable, "-m", "udppunch")
START_LIKE_THE_ORIGINAL = {
    "ours": (*UDPPUNCH, "relay"),
    "stand-in": STAND_IN,
    "udp-relay": ("udp-relay",),
}


class Relay:
    """A running relay of some kind, and the peers that a test opens at it."""

    def __init__(
        self, kind: str, process: Union[program.Program, OriginalRelay], port: int
    ) -> None:
        self.address: SocketAddress = ("127.0.0.1", port)
        self.address_ipv6: SocketAddress = ("::1", port)
        self._ends_with_0 = kind in OURS
        self._process = process
        self._has_ended = False
        self._peers: List[Peer] = []

    def open(self, count: int) -> List[Peer]:
        return [self.open_at(self.address) for _ in range(count)]

    def open_at(self, address: SocketAddress) -> Peer:
        self._peers.append(Peer(address))
        return self._peers[-1]

    def send_signal(self, number: signal.Signals) -> None:
        self._process.process.send_signal(number)

    def wait_end(self, number: signal.Signals) -> None:
        """That it ends by itself, with the status due after that signal."""
        status = self._process.process.wait(PATIENCE)
        assert status == (0 if self._ends_with_0 else 128 + number), self._process
        self._has_ended = True

    def close(self) -> None:
        for peer in self._peers:
            peer.close()
        try:
            if not self._has_ended:
                self._process.assert_alive_and_sane()
        finally:
            self._process.stop(signal.SIGINT)


OpenRelay = Callable[..., Relay]


@pytest.fixture
def open_relay() -> Iterator[OpenRelay]:
    opened: List[Relay] = []

    def open_one(
        kind: str,
        *options: str,
        secret: Optional[bytes] = None,
        inactive_after: int = 30_000,
        ipv6: bool = False,
    ) -> Relay:
        port = free_port()
        if kind in OURS:
            workers = "2" if kind == "ours-2-workers" else "1"
            running = program.Program(
                *("relay", f"[::]:{port}" if ipv6 else f"127.0.0.1:{port}"),
                *("--workers", workers, "--idle", f"{inactive_after}ms", *options),
                popen=popen_with(secret),
            )
            opened.append(Relay(kind, running, port))
            running.wait_event("listening")
        else:
            original = OriginalRelay(
                port,
                *options,
                secret=secret,
                inactive_after=inactive_after,
                ipv6=ipv6,
                program=START_LIKE_THE_ORIGINAL[kind],
            )
            opened.append(Relay(kind, original, port))
        return opened[-1]

    yield open_one
    for relay in opened:
        relay.close()


def new_guid() -> bytes:
    return os.urandom(16)


def pair(one: Peer, other: Peer, guid: bytes, secret: bytes = DEFAULT_SECRET) -> None:
    """Both shake hands, and are joined."""
    assert_joined(one, other, one.handshake(guid, secret), other.handshake(guid, secret))


def assert_joined(one: Peer, other: Peer, of_one: bytes, of_other: bytes) -> None:
    """The handshake that completed the channel reached the other peer, and payload does."""
    reached = wait_readable(one, other, timeout=PATIENCE)
    assert len(reached) == 1, f"{len(reached)} of 2 handshakes were relayed"
    if reached[0] is one:
        assert one.receive() == of_other
        exchange(one, other)
    else:
        assert other.receive() == of_one
        exchange(other, one)


def exchange(one: Peer, other: Peer) -> None:
    """Payload both ways; nothing else came to either before."""
    for sender, receiver in ((one, other), (other, one)):
        datagram = sender.send(os.urandom(100))
        assert receiver.receive() == datagram


def have_nothing(*peers: Peer, timeout: float = 0.0) -> bool:
    return not wait_readable(*peers, timeout=timeout)


# --- the stand-in's wire -----------------------------------------------------------------


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["origin"])
def test_golden_handshakes(vector: Dict[str, Any]) -> None:
    datagram = bytes.fromhex(vector["hex"])
    guid = bytes.fromhex(vector["value"]["guid"])
    secret = base64.b64decode(vector["secret"])
    assert handshake(guid, secret) == datagram
    assert guid_of(datagram, secret) == guid
    for position in range(len(datagram)):
        altered = bytearray(datagram)
        altered[position] ^= 1
        assert guid_of(bytes(altered), secret) is None


# --- handshakes --------------------------------------------------------------------------


@of_all
@pytest.mark.parametrize("padding", [0, 1, LARGEST - HEADER])
@pytest.mark.parametrize("secret", [None, SECRET], ids=["no-secret", "secret"])
def test_two_that_say_the_same_guid_are_joined(
    kind: str, secret: Optional[bytes], padding: int, open_relay: OpenRelay
) -> None:
    one, other = open_relay(kind, secret=secret).open(2)
    said = handshake(new_guid(), secret or DEFAULT_SECRET, os.urandom(padding))
    assert_joined(one, other, one.send(said), other.send(said))
    for sender, receiver in ((one, other), (other, one)):
        sender.send(said)
        assert receiver.receive() == said


@of_all_in_order
def test_the_first_hears_the_handshake_that_completes(kind: str, open_relay: OpenRelay) -> None:
    first, second = open_relay(kind).open(2)
    guid = new_guid()
    for _ in range(3):  # a peer is no partner of its own
        first.handshake(guid)
    first.send(b"too early")
    completing = second.handshake(guid, padding=b"the second's")
    assert first.receive() == completing
    exchange(first, second)


@of_all
def test_many_channels_at_once(kind: str, open_relay: OpenRelay) -> None:
    peers = open_relay(kind, secret=SECRET).open(128)
    guids = [new_guid() for _ in range(64)]
    said = [peer.handshake(guid, SECRET) for peer, guid in zip(peers, guids * 2)]
    pairs = list(zip(peers[:64], peers[64:], said[:64], said[64:]))
    for one, other, of_one, of_other in pairs:
        assert_joined(one, other, of_one, of_other)
    for sender, receiver, *_ in pairs:
        sender.send(guids[0])
        assert receiver.receive() == guids[0]
    assert have_nothing(*peers)


@of_all
def test_a_wrong_length_field_does_no_harm(kind: str, open_relay: OpenRelay) -> None:
    one, other = open_relay(kind, secret=SECRET).open(2)
    said = handshake(new_guid(), SECRET, b"padding", length=9999)
    assert_joined(one, other, one.send(said), other.send(said))


def _altered_guid(guid: bytes) -> bytes:
    signed = bytearray(handshake(guid[:-1] + bytes([guid[-1] ^ 1]), SECRET))
    signed[8:24] = guid
    return bytes(signed)


FORGERIES: Dict[str, Callable[[bytes], bytes]] = {
    "other-secret": lambda guid: handshake(guid, WRONG),
    "published-secret": lambda guid: handshake(guid, DEFAULT_SECRET),
    "no-mac": lambda guid: old_handshake(guid) + bytes(32),
    "old-form": old_handshake,
    "other-guid": _altered_guid,
    "other-padding": lambda guid: handshake(guid, SECRET, b"one")[:-3] + b"two",
    "more-padding": lambda guid: handshake(guid, SECRET) + b"\0",
    "cut-short": lambda guid: handshake(guid, SECRET)[:-1],
    "after-a-byte": lambda guid: b"\0" + handshake(guid, SECRET),
    "zero-guid": lambda guid: handshake(ZERO_GUID, SECRET),
}


@of_all
def test_a_forged_handshake_is_none(kind: str, open_relay: OpenRelay) -> None:
    relay = open_relay(kind, secret=SECRET)
    for forge in FORGERIES.values():
        impostor, accomplice, one, other = relay.open(4)
        guid = new_guid()
        for _ in range(2):
            impostor.send(forge(guid))
            accomplice.send(forge(guid))
        # Joined by another guid, they tell that what they sent before was dealt with.
        pair(impostor, accomplice, new_guid(), SECRET)
        pair(one, other, guid, SECRET)
        exchange(impostor, accomplice)


@of_ours
@pytest.mark.parametrize("line", ["{}", "{}\n"], ids=["bare", "line"])
def test_secret_file(kind: str, line: str, tmp_path: Path, open_relay: OpenRelay) -> None:
    file = tmp_path / "secret"
    file.write_text(line.format(base64.b64encode(SECRET).decode()))
    file.chmod(0o600)
    impostor, accomplice, one, other = open_relay(kind, "--secret-file", str(file)).open(4)
    guid = new_guid()
    impostor.handshake(guid, WRONG)
    accomplice.handshake(guid, WRONG)
    pair(one, other, new_guid(), SECRET)
    assert have_nothing(impostor, accomplice, timeout=GRACE)


@of_ours
def test_without_a_secret_any_mac_and_the_old_form_will_do(
    kind: str, open_relay: OpenRelay
) -> None:
    relay = open_relay(kind)
    guid_only: Sequence[Callable[[bytes], bytes]] = (
        old_handshake,
        lambda guid: old_handshake(guid) + b"payload",
        lambda guid: old_handshake(guid) + os.urandom(32),
        lambda guid: handshake(guid, WRONG),
    )
    for of_one in guid_only:
        for of_other in guid_only:
            one, other = relay.open(2)
            guid = new_guid()
            assert_joined(one, other, one.send(of_one(guid)), other.send(of_other(guid)))


@of_originals
def test_the_original_takes_its_published_secret_alone(kind: str, open_relay: OpenRelay) -> None:
    impostor, accomplice, one, other = open_relay(kind).open(4)
    for peer in (impostor, accomplice):
        peer.old_handshake(b"a guid of 0.5.0 ")
        peer.handshake(b"a guid of 0.8.2 ", WRONG)
    pair(one, other, new_guid(), DEFAULT_SECRET)
    assert have_nothing(impostor, accomplice, timeout=GRACE)


# --- third parties -----------------------------------------------------------------------


@of_all
@pytest.mark.parametrize("says", ["replay", "handshake", "payload"])
def test_a_third_is_ignored(kind: str, says: str, open_relay: OpenRelay) -> None:
    relay = open_relay(kind, secret=SECRET)
    for _ in range(16):
        one, other, third, friend = relay.open(4)
        guid = new_guid()
        recorded = one.handshake(guid, SECRET)
        assert_joined(one, other, recorded, other.handshake(guid, SECRET))
        for _ in range(3):
            third.send(
                {
                    "replay": recorded,
                    "handshake": handshake(guid, SECRET, b"a padding of its own"),
                    "payload": b"payload",
                }[says]
            )
            exchange(one, other)
        pair(third, friend, new_guid(), SECRET)
        exchange(one, other)
        exchange(third, friend)


# --- another guid ------------------------------------------------------------------------


@of_all
def test_a_peer_moves_once_its_new_channel_is_complete(kind: str, open_relay: OpenRelay) -> None:
    relay = open_relay(kind, secret=SECRET)
    trios = [relay.open(3) for _ in range(48)]
    guids = [new_guid() for _ in trios]
    for guid, (mover, left, _) in zip(guids, trios):
        pair(mover, left, new_guid(), SECRET)
        asking = mover.handshake(guid, SECRET)
        assert left.receive() == asking
        exchange(mover, left)
    # Of two workers each tells the registrar for itself: who asked first is to be heard first.
    time.sleep(1.0)
    for guid, (mover, _, joined) in zip(guids, trios):
        completing = joined.handshake(guid, SECRET)
        assert mover.receive() == completing
        exchange(mover, joined)
    for _, left, _ in trios:
        left.send(b"from the one who was left")
    assert have_nothing(*(joined for *_, joined in trios), timeout=GRACE)
    assert have_nothing(*(left for _, left, _ in trios))


@of_all
def test_both_peers_of_a_channel_move_to_another(kind: str, open_relay: OpenRelay) -> None:
    relay = open_relay(kind, secret=SECRET)
    for _ in range(16):
        one, other = relay.open(2)
        pair(one, other, new_guid(), SECRET)
        guid = new_guid()
        for sender, receiver in ((one, other), (other, one)):
            said = sender.handshake(guid, SECRET)
            assert receiver.receive() == said
        exchange(one, other)


# --- time --------------------------------------------------------------------------------


@of_all
def test_a_silent_channel_closes_and_its_guid_serves_others(
    kind: str, open_relay: OpenRelay
) -> None:
    one, other, third, fourth = open_relay(kind, inactive_after=3000).open(4)
    guid = new_guid()
    pair(one, other, guid)
    due = time.monotonic() + PATIENCE
    while have_nothing(third, fourth, timeout=0.2):
        assert time.monotonic() < due, "the channel did not close"
        third.handshake(guid)
        fourth.handshake(guid)
    while reached := wait_readable(third, fourth, timeout=GRACE):
        reached[0].receive()
    exchange(third, fourth)
    one.send(b"to a channel that is closed")
    assert have_nothing(other, third, fourth, timeout=GRACE)
    assert have_nothing(one)


@of_all
def test_traffic_one_way_keeps_a_channel(kind: str, open_relay: OpenRelay) -> None:
    relay = open_relay(kind, inactive_after=3000)
    channels = [relay.open(2) for _ in range(16)]
    for speaker, listener in channels:
        pair(speaker, listener, new_guid())
    silent_until = time.monotonic() + 7.0
    while time.monotonic() < silent_until:
        for speaker, listener in channels:
            datagram = speaker.send(os.urandom(10))
            assert listener.receive() == datagram
        time.sleep(0.2)
    for speaker, listener in channels:
        exchange(listener, speaker)


@of_all
def test_repeats_do_not_keep_a_half_open_channel(kind: str, open_relay: OpenRelay) -> None:
    early, late = open_relay(kind, inactive_after=3000).open(2)
    guid = new_guid()
    begun = time.monotonic()
    while time.monotonic() < begun + 2.2:
        early.handshake(guid)
        time.sleep(0.2)
    # It is due to close at 3 s; if the repeats counted, after 5 s.
    time.sleep(max(0.0, begun + 4.5 - time.monotonic()))
    late.handshake(guid)
    assert early.has_nothing(timeout=GRACE)
    repeat = early.handshake(guid)
    assert late.receive() == repeat
    exchange(late, early)


# --- payload -----------------------------------------------------------------------------


@of_all
def test_ipv4_and_ipv6_peers_share_a_channel(kind: str, open_relay: OpenRelay) -> None:
    relay = open_relay(kind, ipv6=True, secret=SECRET)
    families = (relay.address, relay.address_ipv6)
    for _ in range(8):
        for of_one in families:
            for of_other in families:
                pair(relay.open_at(of_one), relay.open_at(of_other), new_guid(), SECRET)


@of_ours
@pytest.mark.parametrize("ipv6", [False, True], ids=["ipv4", "ipv6"])
def test_datagrams_of_every_size_pass_unchanged(
    kind: str, ipv6: bool, open_relay: OpenRelay
) -> None:
    relay = open_relay(kind, ipv6=ipv6)
    address = relay.address_ipv6 if ipv6 else relay.address
    one, other = relay.open_at(address), relay.open_at(address)
    pair(one, other, new_guid())
    for size in (0, 1, 23, 24, 56, 1472, 1473, 9000, 65507):
        for sender, receiver in ((one, other), (other, one)):
            datagram = sender.send(os.urandom(size))
            assert receiver.receive() == datagram


@of_originals
def test_the_original_drops_what_is_longer_than_1472(kind: str, open_relay: OpenRelay) -> None:
    one, other = open_relay(kind).open(2)
    pair(one, other, new_guid())
    for size in (0, 1, LARGEST):
        datagram = one.send(os.urandom(size))
        assert other.receive() == datagram
    for size in (LARGEST + 1, 9000):
        one.send(os.urandom(size))
        exchange(one, other)


@of_all
@pytest.mark.parametrize("size,count", [(1, 64), (200, 64), (1200, 40), (1472, 44)])
def test_trains_pass_unchanged_and_in_order(
    kind: str, size: int, count: int, open_relay: OpenRelay
) -> None:
    relay = open_relay(kind)
    channels = [relay.open(2) for _ in range(4)]
    for one, other in channels:
        pair(one, other, new_guid())
    train = [bytes([number]) + os.urandom(size - 1) for number in range(count - 1)]
    train.append(os.urandom(size // 2 + 1))
    for one, other in channels:
        for sender, receiver in ((one, other), (other, one)):
            sender.send_train(train)
            assert [receiver.receive() for _ in train] == train


def train_with(said: bytes) -> List[bytes]:
    assert len(said) == 1200
    return [os.urandom(1200), os.urandom(1200), said, os.urandom(1200), os.urandom(700)]


@of_all
def test_a_new_guid_within_a_train(kind: str, open_relay: OpenRelay) -> None:
    relay = open_relay(kind, secret=SECRET)
    for _ in range(16):
        mover, left, joined = relay.open(3)
        pair(mover, left, new_guid(), SECRET)
        guid = new_guid()
        said = handshake(guid, SECRET, os.urandom(1200 - HEADER))
        train = train_with(said)
        mover.send_train(train)
        assert [left.receive() for _ in train] == train
        assert_joined(mover, joined, said, joined.handshake(guid, SECRET))


@of_all
def test_a_handshake_within_a_train_completes_a_channel(kind: str, open_relay: OpenRelay) -> None:
    relay = open_relay(kind, secret=SECRET)
    for _ in range(8):
        mover, left, joined = relay.open(3)
        pair(mover, left, new_guid(), SECRET)
        guid = new_guid()
        joined.handshake(guid, SECRET)
        assert have_nothing(joined, timeout=GRACE)  # by when it is known to every worker
        said = handshake(guid, SECRET, os.urandom(1200 - HEADER))
        train = train_with(said)
        mover.send_train(train)
        at_left, at_joined = arrivals(left, joined)
        if kind != "ours-2-workers":
            assert (at_left, at_joined) == (train[:2], train[2:])
        else:
            # Until its worker hears of the new channel, a peer's datagrams go the old way.
            assert at_left[:2] == train[:2] and at_joined[0] == said
            on_time = [each for each in at_left if each != said]
            assert on_time + at_joined[1:] == [each for each in train if each != said]
        exchange(mover, joined)


def arrivals(one: Peer, other: Peer) -> Tuple[List[bytes], List[bytes]]:
    """What comes to each of them, until nothing does for a while."""
    came: Dict[Peer, List[bytes]] = {one: [], other: []}
    while reached := wait_readable(one, other, timeout=GRACE):
        for peer in reached:
            came[peer].append(peer.receive())
    return came[one], came[other]


# --- checks ------------------------------------------------------------------------------


@of_all
@pytest.mark.parametrize("ipv6", [False, True], ids=["ipv4", "ipv6"])
def test_the_health_check_of_the_original(kind: str, ipv6: bool, open_relay: OpenRelay) -> None:
    relay = open_relay(kind, secret=SECRET, ipv6=ipv6)
    address = relay.address_ipv6 if ipv6 else relay.address
    assert health_check(address, SECRET) == 0
    assert health_check(address, WRONG, probes=2, wait=GRACE) == 1


def check(address: SocketAddress, secret: Optional[bytes]) -> "subprocess.CompletedProcess[str]":
    """`udppunch check relay`: it says one line, and nothing goes wrong."""
    process = popen_with(secret)(
        [*UDPPUNCH, "check", "relay", program.text((address[0], address[1]))],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=program.ROOT,
    )
    output, errors = process.communicate(timeout=60)
    assert not errors and output.endswith("\n") and output.count("\n") == 1, (output, errors)
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


@of_all
@pytest.mark.parametrize("secret", [None, SECRET], ids=["no-secret", "secret"])
def test_our_check_of_a_relay_that_is_well(
    kind: str, secret: Optional[bytes], open_relay: OpenRelay
) -> None:
    found = check(open_relay(kind, secret=secret).address, secret)
    assert found.returncode == 0, found


@of_all
def test_our_check_with_a_wrong_secret(kind: str, open_relay: OpenRelay) -> None:
    found = check(open_relay(kind, secret=SECRET).address, WRONG)
    assert found.returncode == 2, found


def test_our_check_says_what_the_health_check_says() -> None:
    said: Dict[bytes, Set[SocketAddress]] = {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        found = check(silent.getsockname(), SECRET)
        silent.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                datagram, source = silent.recvfrom(4096)
                said.setdefault(datagram, set()).add(source)
    assert found.returncode == 2, found
    assert any(len(sources) == 2 for sources in said.values())
    for datagram in said:
        guid = guid_of(datagram, SECRET)
        assert len(datagram) == HEADER and guid and guid.endswith(HEALTH_CHECK_MARK)


# --- signals and options -----------------------------------------------------------------


def takes_channels(relay: Relay) -> bool:
    one, other = relay.open(2)
    guid = new_guid()
    one.handshake(guid)
    other.handshake(guid)
    return not have_nothing(one, other, timeout=GRACE)


@of_all
def test_sigterm_lets_channels_go_on_and_takes_no_more(kind: str, open_relay: OpenRelay) -> None:
    relay = open_relay(kind, inactive_after=4000)
    channels = [relay.open(2) for _ in range(8)]
    for one, other in channels:
        pair(one, other, new_guid())
    relay.send_signal(signal.SIGTERM)
    due = time.monotonic() + PATIENCE
    refused = 0
    while refused < 3:
        assert time.monotonic() < due, "channels are still taken"
        refused = 0 if takes_channels(relay) else refused + 1
        for one, other in channels:
            exchange(one, other)
    relay.wait_end(signal.SIGTERM)


@of_all
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_relay_without_channels_ends_at_once(
    kind: str, number: signal.Signals, open_relay: OpenRelay
) -> None:
    relay = open_relay(kind)
    relay.send_signal(number)
    relay.wait_end(number)


@of_all
def test_sigint_does_not_wait_for_channels(kind: str, open_relay: OpenRelay) -> None:
    relay = open_relay(kind)
    one, other = relay.open(2)
    pair(one, other, new_guid())
    relay.send_signal(signal.SIGINT)
    relay.wait_end(signal.SIGINT)


@of_all_in_order
def test_options_of_the_original(kind: str) -> None:
    port = free_port()
    original = OriginalRelay(
        port,
        *("--log-level", "3"),
        *("--socketRecvBufferSize", "1000000", "--socketSendBufferSize", "1000000"),
        cleanup=500,
        inactive_after=1000,
        ipv6=True,
        program=START_LIKE_THE_ORIGINAL[kind],
        popen=functools.partial(subprocess.Popen, cwd=program.ROOT),
    )
    with original, Peer(("127.0.0.1", port)) as one, Peer(("::1", port)) as other:
        pair(one, other, new_guid())
        original.assert_alive_and_sane()
        original.process.send_signal(signal.SIGTERM)
        # Far sooner than after the 30 seconds of the default.
        original.process.wait(PATIENCE)
