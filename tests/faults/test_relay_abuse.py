"""What strangers send to a relay: it answers nothing, keeps little, and serves its channels on.

Floods are bounded in number and rate; what they may cost is stated in memory, in log lines and
in the share of datagrams that the channels lose meanwhile.
"""

from __future__ import annotations

import itertools
import os
import random
import time
from typing import Optional

import pytest

from tests.faults.forging import Forger
from tests.faults.relay_traffic import (
    PATIENCE,
    SECRET,
    Load,
    RelayProgram,
    carries,
    join,
    new_guid,
)
from tests.faults.strangers import (
    GROWTH,
    LONGEST,
    STRANGE,
    Bounds,
    flood,
    handshakes,
    octets_heard,
    signed,
    strange,
    strangers,
    trains,
)
from tests.lab.fixtures import udp
from tests.lab.whole_program import eventually
from tests.standin.relay import Peer, handshake, wait_readable
from udppunch.lab import Lab

of_any_size = pytest.mark.parametrize("workers", [1, 2])

LOSS = 0.01
GRACE = 0.5

# --- no answers --------------------------------------------------------------------------


@of_any_size
def test_a_stranger_gets_no_answer_and_leaves_nothing(workers: int) -> None:
    """Of whatever kind and length. Not one octet is sent to who has no partner."""
    with RelayProgram(workers=workers) as relay, strangers(4) as sources:
        flood(sources, relay.address, strange(20_000), 20_000)  # touches most pages for once
        relay.wait_counted("dropped: unknown source", 1)
        bounds = Bounds(relay)
        for say in STRANGE.values():
            flood(sources, relay.address, map(say, range(LONGEST + 1)), 10_000)
        flood(sources, relay.address, strange(20_000, seed=2), 20_000)
        with Peer(relay.address) as one, Peer(relay.address) as other:
            join(one, other, new_guid())  # so all that was said before has been heard
        assert octets_heard(sources) == 0
        assert relay.gauges() == {"channels": 1, "half-open": 0}
        # A longer burst than all before it touches the rest of the 4 MiB to receive in.
        bounds.hold(growth=6 << 10)


@of_any_size
def test_a_half_open_guid_gets_no_answer_and_does_not_last(workers: int) -> None:
    with RelayProgram("--idle", "2s", workers=workers) as relay, strangers(4) as sources:
        said = [signed(new_guid(), length) for length in range(LONGEST + 1)]
        flood(sources, relay.address, said, 10_000)
        flood(sources, relay.address, said[::-1], 10_000)  # who says which changes with the turn
        time.sleep(GRACE)
        out = octets_heard(sources)
        assert out <= 2 * sum(map(len, said))
        assert eventually(lambda: relay.gauges() == {"channels": 0, "half-open": 0}, PATIENCE)


def test_what_a_channel_completes_with_is_no_amplifier() -> None:
    """A short handshake and a long one: what comes out never exceeds what went in."""
    with RelayProgram() as relay, strangers(8, each=32) as sources:
        went_in = 0
        for first, second in zip(sources[::2], sources[1::2]):
            guid = new_guid()
            for source, length in ((first, 56), (second, LONGEST), (first, 100), (second, 0)):
                went_in += source.sendto(signed(guid, length), relay.address)
        relay.wait_counted("handshakes: joined", len(sources) // 2)
        time.sleep(GRACE)
        came_out = octets_heard(sources)
        assert 0 < came_out <= went_in


# --- floods of guids ---------------------------------------------------------------------


@pytest.mark.parametrize("secret, workers", [(SECRET, 2), (None, 1)], ids=["secret", "no-secret"])
def test_flood_of_guids(secret: Optional[bytes], workers: int) -> None:
    """By those who may: from 200 networks, so that no network's limit holds them up."""
    count, per_second = 100_000 * workers, 12_000 * workers
    with (
        RelayProgram(workers=workers, secret=secret) as relay,
        Load(relay.address, 8, 1000) as load,
        strangers(200, each=4) as sources,
    ):
        load.wait_sent(500)
        bounds = Bounds(relay)
        said = handshakes(count, secret)
        assert flood(sources, relay.address, said, per_second) > count * 0.9
        gauges = relay.gauges()
        load.finish()
        assert gauges["channels"] == 8 and gauges["half-open"] <= 8192
        assert load.lost <= load.sent * LOSS, f"{load.lost} of {load.sent}"
        assert load.silent_flows() == 0
        assert octets_heard(sources) == 0
        bounds.hold()


@of_any_size
def test_flood_of_wrong_macs(workers: int) -> None:
    with (
        RelayProgram(workers=workers) as relay,
        Load(relay.address, 8, 1000) as load,
        strangers(200, each=4) as sources,
    ):
        load.wait_sent(500)
        bounds = Bounds(relay)
        flood(sources, relay.address, handshakes(100_000, b"another secret"), 30_000)
        load.finish()
        assert load.lost <= load.sent * LOSS, f"{load.lost} of {load.sent}"
        assert relay.wait_counted("dropped: wrong mac", 90_000)
        assert relay.gauges() == {"channels": 8, "half-open": 0}
        bounds.hold()


# --- limits of a network -----------------------------------------------------------------


def test_half_open_guids_of_a_network_are_bounded() -> None:
    with RelayProgram("--half-open-prefix", "4") as relay, strangers(2, each=50) as sources:
        flood(sources[:50], relay.address, handshakes(500, SECRET), 10_000)
        assert eventually(lambda: relay.gauges()["half-open"] == 4, PATIENCE), relay
        assert "--half-open-prefix" in relay.wait_event("full")["message"]
        with Peer(relay.address) as one, Peer(relay.address) as other:
            join(one, other, new_guid())
        flood(sources[50:], relay.address, handshakes(500, SECRET), 10_000)
        assert eventually(lambda: relay.gauges()["half-open"] == 8, PATIENCE), relay
        assert relay.count("full") == 1


def test_half_open_guids_in_all_are_bounded_and_the_newest_stay() -> None:
    with RelayProgram("--half-open", "16") as relay, strangers(20) as sources:
        flood(sources, relay.address, handshakes(400, SECRET), 2000)
        assert relay.wait_counted("half-open evicted", 384)
        assert relay.gauges()["half-open"] == 16
        with Peer(relay.address) as one, Peer(relay.address) as other:
            join(one, other, new_guid())


@of_any_size
def test_handshakes_of_a_network_are_bounded(workers: int) -> None:
    """A network next door does not feel it."""
    options = ("--handshake-rate", "10")
    with (
        RelayProgram(*options, workers=workers) as relay,
        strangers(1, each=8) as sources,
        Peer(relay.address) as one,
        Peer(relay.address) as other,
    ):
        flood(sources, relay.address, handshakes(5000, SECRET), 5000)
        join(one, other, new_guid())
        relay.wait_counted("dropped: handshakes over their rate", 4000)
        assert relay.gauges()["half-open"] < 1000


def test_channels_are_bounded() -> None:
    """Who is there stays; who comes too late is served when somebody left."""
    with RelayProgram("--max-channels", "2", "--idle", "3s") as relay:
        with Load(relay.address, 2, 200) as load:
            with Peer(relay.address) as one, Peer(relay.address) as other:
                guid = new_guid()
                for peer in (one, other) * 20:
                    peer.handshake(guid, SECRET)
                assert not wait_readable(one, other, timeout=GRACE)
                assert "--max-channels" in relay.wait_event("full")["message"]
                assert relay.gauges()["channels"] == 2
                load.finish()
                assert load.lost == 0

                def joined() -> bool:
                    one.handshake(guid, SECRET)
                    other.handshake(guid, SECRET)
                    return bool(wait_readable(one, other, timeout=0.2))

                assert eventually(joined, PATIENCE), relay
        assert relay.count("full") == 1


# --- third parties -----------------------------------------------------------------------


@of_any_size
def test_replayed_handshakes_take_nothing_over(workers: int) -> None:
    """Said by hundreds of strangers, exactly as the peers said them."""
    with (
        RelayProgram(workers=workers) as relay,
        Load(relay.address, 8, 2000) as load,
        strangers(16, each=16) as sources,
    ):
        load.wait_sent(1000)
        recorded = [handshake(guid, SECRET) for guid in load.guids]
        flood(sources, relay.address, recorded * 4000, 10_000)
        load.finish()
        assert load.lost <= load.sent * LOSS, f"{load.lost} of {load.sent}"
        assert load.silent_flows() == 0
        assert octets_heard(sources) == 0
        assert relay.counters()["handshakes: third party"] > 1000
        assert relay.gauges() == {"channels": 8, "half-open": 0}


def test_replays_do_not_keep_a_silent_channel() -> None:
    """Nor does anything else that a stranger says; afterwards the guid is for whoever comes."""
    with RelayProgram("--idle", "2s") as relay, strangers(1) as (stranger,):
        with Peer(relay.address) as one, Peer(relay.address) as other:
            guid = new_guid()
            join(one, other, guid)

            def replayed() -> bool:
                stranger.sendto(handshake(guid, SECRET), relay.address)
                stranger.sendto(b"payload", relay.address)
                return relay.gauges() == {"channels": 0, "half-open": 1}

            assert eventually(replayed, PATIENCE), relay
            assert octets_heard([stranger]) == 0
            assert not wait_readable(one, other, timeout=0)
            one.handshake(guid, SECRET)
            assert eventually(lambda: octets_heard([stranger]) > 0, PATIENCE)


# --- malformed ---------------------------------------------------------------------------


@of_any_size
def test_nothing_malformed_ends_a_process(workers: int) -> None:
    with (
        RelayProgram(workers=workers, level="trace") as relay,
        Load(relay.address, 8, 1000) as load,
        strangers(8, each=8) as sources,
    ):
        load.wait_sent(500)
        bounds = Bounds(relay)
        flood(sources, relay.address, strange(20_000, seed=3), 10_000)
        for length in (1501, 8972, 9001, 40_000, 65_507):
            for say in STRANGE.values():
                flood(sources, relay.address, [say(length)] * 3, 100)
        with Peer(relay.address) as unknown, Peer(relay.address) as one, Peer(relay.address) as two:
            join(one, two, new_guid())
            for number, train in enumerate(trains(600, seed=4)):
                (unknown, one, two)[number % 3].send_train(train)
                time.sleep(0.001)
        load.finish()
        assert load.lost <= load.sent * LOSS, f"{load.lost} of {load.sent}"
        assert load.silent_flows() == 0
        # Each of the longest takes 16 pages of the memory that datagrams are received in.
        bounds.hold(growth=GROWTH + (8 << 10))


@of_any_size
def test_floods_do_not_fill_a_log(workers: int) -> None:
    """Of each bad kind, one after the other, at the level that shows most."""
    options = ("--half-open-prefix", "100", "--half-open", "500", "--handshake-rate", "1000")
    bad = {**STRANGE, "signed": lambda length: signed(new_guid(), length)}
    with (
        RelayProgram(*options, workers=workers, level="trace") as relay,
        strangers(16, each=8) as sources,
    ):
        bounds = Bounds(relay)
        chance = random.Random(19)
        for say in bad.values():
            lengths = (chance.randrange(1473) for _ in range(8000))
            flood(sources, relay.address, map(say, lengths), 15_000)
        with Peer(relay.address) as one, Peer(relay.address) as other:
            join(one, other, new_guid())
        bounds.hold(lines=50)


# --- loops -------------------------------------------------------------------------------


def forwarded(relay: RelayProgram) -> int:
    return relay.counters().get("datagrams", 0)


def falls_silent(*relays: RelayProgram) -> bool:
    """Whether they come to forward nothing, for longer than their counts are late."""

    def was_silent() -> bool:
        before = [forwarded(relay) for relay in relays]
        time.sleep(2.0)
        return [forwarded(relay) for relay in relays] == before

    return eventually(was_silent, 5.0)


def test_an_echo_as_a_peer_answers_each_datagram_once() -> None:
    with (
        RelayProgram() as relay,
        Peer(relay.address) as one,
        Peer(relay.address) as echo,
    ):
        join(one, echo, new_guid())
        for _ in range(50):
            said = one.send(os.urandom(100))
            assert echo.receive() == said
            echo.send(said)
            assert one.receive() == said
        assert not wait_readable(one, echo, timeout=GRACE)
        assert falls_silent(relay)


def test_services_that_answer_anything_are_never_peers(lab_permitted: None) -> None:
    """Forged in their name, two handshakes would set two of them talking for ever."""
    listen = ("203.0.113.10", 6060)
    ports = [7, 13, 17, 19, 53, 69, 123]
    with Lab("public", "public") as lab:
        relay = RelayProgram(listen="203.0.113.10:6060", popen=lab.rendezvous.popen)
        with relay:
            forger = Forger(lab.add_host("core"))
            victims = []
            for port in ports:
                said = handshake(new_guid(), SECRET)
                for host in (lab.a, lab.b):
                    victims.append(udp(host, port))
                    forger.send((host.address, port), listen, said)
                    victims[-1].sendto(said, listen)
            refused = relay.wait_counted("dropped: source never a peer", 2 * len(victims))
            assert refused == 2 * len(victims)
            assert octets_heard(victims) == 0
            assert relay.gauges() == {"channels": 0, "half-open": 0}


@pytest.mark.parametrize("bind", ["203.0.113.10", "0.0.0.0", "[::]"])
def test_a_relay_is_no_peer_of_itself(bind: str, lab_permitted: None) -> None:
    """Forged from each of its own addresses to each of them, by a program on its own host."""
    own = [(ip, 6060) for ip in ("127.0.0.1", "127.0.0.2", "203.0.113.10", "203.0.113.11")]
    with Lab("public", "public") as lab:
        relay = RelayProgram(listen=f"{bind}:6060", popen=lab.rendezvous.popen)
        with relay:
            forger = Forger(lab.rendezvous)
            for source, asked in itertools.product(own, own):
                said = handshake(new_guid(), SECRET)
                forger.send(source, asked, said)
                forger.send(asked, source, said)
            time.sleep(GRACE)
            assert falls_silent(relay), relay.document(10)


def test_two_relays_do_not_keep_each_other_busy(lab_permitted: None) -> None:
    """One is forged to be the other's peer, both ways, with a stranger between them."""
    with Lab("public", "public") as lab:
        addresses = [("203.0.113.10", 6060), ("203.0.113.101", 6060)]
        hosts = [lab.rendezvous, lab.a]
        relays = [
            RelayProgram(listen=f"{ip}:{port}", workers=1, popen=host.popen)
            for (ip, port), host in zip(addresses, hosts)
        ]
        with relays[0], relays[1]:
            forger = Forger(lab.add_host("core"))
            stranger = lab.b.socket()
            guid = new_guid()
            said = handshake(guid, SECRET)
            for one, other in (addresses, addresses[::-1]):
                forger.send(one, other, said)
                stranger.sendto(said, other)
                forger.send(one, other, b"payload")
                stranger.sendto(b"payload", other)
            time.sleep(GRACE)
            assert falls_silent(*relays)
            assert sum(map(forwarded, relays)) <= 20
            stranger.close()


def test_sources_that_nobody_can_answer(lab_permitted: None) -> None:
    """Port 0 and addresses that are no host's, forged: no channel, no trouble."""
    listen = ("203.0.113.10", 6060)
    odd = [("203.0.113.77", 0), ("0.0.0.0", 5), ("255.255.255.255", 5), ("224.0.0.1", 5)]
    with Lab("public", "public") as lab:
        relay = RelayProgram(listen="0.0.0.0:6060", popen=lab.rendezvous.popen)
        with relay:
            forger = Forger(lab.add_host("core"))
            for source in odd:
                guid = new_guid()
                for ending in odd:
                    forger.send(source, listen, handshake(guid, SECRET))
                    forger.send(ending, listen, handshake(guid, SECRET))
                forger.flood(source, listen, strange(500, seed=5))
            with lab.b.inside():
                one, other = Peer(listen), Peer(listen)
            with one, other:
                join(one, other, new_guid())
                assert carries(one, other) and carries(other, one)
            relay.assert_alive_and_sane()
            assert not relay.count("restart")
