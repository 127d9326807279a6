"""Named peers together with their server in the virtual network: a pipe that holds."""

from __future__ import annotations

from typing import Any, Callable, Dict, List, Tuple

import pytest

from tests.virtual.network import Link, Nat
from tests.virtual.talks import OriginalHolepunchServer, OriginalPeer, PeerProcess, Talks
from udppunch import address
from udppunch.address import Address
from udppunch.wire import holepunch, marks

CHAOS = Link(0.02, jitter=0.05, loss=0.05, duplicate=0.2)


def nat(number: int, mapping: str = "endpoint", filtering: str = "port", **more: Any) -> Nat:
    return Nat(f"203.0.113.{number}", mapping, filtering, **more)


def both_end(*processes: PeerProcess) -> Callable[[], bool]:
    return lambda: all(process.status is not None for process in processes)


def text(length: int) -> bytes:
    return b"".join(b"line %d of many\n" % number for number in range(length // 16))[:length]


def converse(talks: Talks, alice: PeerProcess, bob: PeerProcess, within: float = 60.0) -> None:
    """Each says something and is done; it arrives, and both end well."""
    alice.give(b"from alice\n")
    bob.give(b"from bob\n")
    for process in (alice, bob):
        process.end()
    assert talks.run(within, both_end(alice, bob))
    assert (alice.status, bob.status) == (0, 0)
    assert (alice.output, bob.output) == (b"from bob\n", b"from alice\n")


def up(talks: Talks, *processes: PeerProcess, within: float = 20.0) -> bool:
    return talks.run(within, lambda: all(process.up for process in processes))


# A pipe


@pytest.mark.parametrize("original", [False, True])
def test_what_each_says_arrives_and_both_end(original: bool) -> None:
    talks = Talks(original=original)
    converse(talks, *talks.peers())


def test_each_may_ask_for_the_other() -> None:
    for original in (False, True):
        talks = Talks(original=original)
        bob = PeerProcess(talks.b, "bob", "alice")
        converse(talks, PeerProcess(talks.a, "alice", "bob"), bob)


def test_who_asks_first_waits_for_the_other_to_come() -> None:
    talks = Talks()
    alice = PeerProcess(talks.a, "alice", "bob")
    talks.run(30.0)
    converse(talks, alice, PeerProcess(talks.b, "bob"))


@pytest.mark.parametrize("seed", range(5))
def test_a_long_input_arrives_whole_over_a_bad_path(seed: int) -> None:
    talks = Talks(seed, link=CHAOS)
    alice, bob = talks.peers()
    data = text(100_000)
    for start in range(0, len(data), 30_000):
        alice.give(data[start : start + 30_000])
    alice.end()
    bob.end()
    assert talks.run(300.0, both_end(alice, bob))
    assert bob.output == data and alice.output == b""
    assert (alice.status, bob.status) == (0, 0)


@pytest.mark.parametrize("seed", range(20))
def test_both_end_well_however_the_last_words_are_lost(seed: int) -> None:
    talks = Talks(seed, link=Link(0.02, jitter=0.03, loss=0.2, duplicate=0.1))
    alice, bob = talks.peers()
    assert up(talks, alice, bob, within=60.0)
    converse(talks, alice, bob, within=120.0)


def test_who_heard_the_end_and_got_everything_out_ends_well_alone() -> None:
    """All that the other could still say is goodbye, and that may be lost."""
    talks = Talks()
    alice, bob = talks.peers()
    assert up(talks, alice, bob)
    alice.give(b"from alice\n")
    talks.run(1.0)
    bob.end()
    talks.run(1.0)
    alice.end()
    talks.network.watch = lambda host, destination, data: (
        setattr(talks.b, "link", Link(0.01, loss=1.0)) if host is talks.b else None
    )
    assert talks.run(120.0, both_end(alice, bob))
    assert (alice.status, bob.status) == (0, 0) and bob.output == b"from alice\n"


def test_the_first_line_arrives_within_three_round_trips() -> None:
    talks = Talks(link=Link(0.05))
    alice, bob = talks.peers()
    talks.run(2.0)  # bob is registered; alice began at the same time, which takes a while
    start = talks.network.now
    carol = PeerProcess(talks.network.host("c", "198.51.100.9", [], Link(0.05)), "carol", "dora")
    dora = PeerProcess(talks.network.host("d", "198.51.100.10", [], Link(0.05)), "dora")
    carol.give(b"hello\n")
    assert talks.run(5.0, lambda: dora.output == b"hello\n")
    assert talks.network.now - start <= 1.5
    assert alice.up and bob.up


def test_input_that_nobody_takes_yet_is_not_read_for_ever() -> None:
    talks = Talks()
    alice = PeerProcess(talks.a, "alice", "bob")
    for _ in range(100):
        alice.give(bytes(10_000))
    talks.run(10.0)
    assert len(alice.pipe._waiting) > 90


def test_an_output_that_is_not_read_holds_the_other_end_up() -> None:
    talks = Talks()
    alice, bob = talks.peers()
    assert up(talks, alice, bob)
    bob.pipe.has_room = False
    data = text(600_000)
    for start in range(0, len(data), 20_000):
        alice.give(data[start : start + 20_000])
    alice.end()
    talks.run(60.0)
    assert bob.output == b"" and alice.pipe._waiting
    bob.pipe.has_room = True
    assert talks.run(120.0, lambda: bob.output == data)
    bob.end()
    assert talks.run(10.0, both_end(alice, bob))
    assert (alice.status, bob.status) == (0, 0)


def test_a_pipe_that_is_idle_for_hours_still_carries() -> None:
    talks = Talks()
    alice, bob = talks.peers()
    assert up(talks, alice, bob)
    talks.run(3 * 3600.0)
    converse(talks, alice, bob, within=5.0)


def test_with_an_end_of_time_for_the_last_words_it_ends_alone() -> None:
    talks = Talks()
    alice, bob = talks.peers(quit_after=2.0)
    assert up(talks, alice, bob)
    alice.give(b"last words\n")
    alice.end()
    assert talks.run(2.5, both_end(alice))
    assert alice.status == 0 and bob.output == b"last words\n"
    assert talks.run(10.0, both_end(bob))


def test_when_nobody_takes_them_in_time_that_is_a_failure() -> None:
    talks = Talks()
    alice = PeerProcess(talks.a, "alice", "bob", quit_after=2.0)
    alice.give(b"last words\n")
    alice.end()
    assert talks.run(3.0, both_end(alice)) and alice.status == 1


def test_with_a_limit_on_waiting_it_ends_when_nobody_comes() -> None:
    talks = Talks()
    alice = PeerProcess(talks.a, "alice", "bob", wait=5.0)
    assert talks.run(6.0, both_end(alice)) and alice.status == 1


def test_who_is_stopped_breaks_the_others_pipe_at_once() -> None:
    talks = Talks()
    alice, bob = talks.peers()
    assert up(talks, alice, bob)
    bob.stop()
    assert talks.run(1.0, both_end(alice)) and alice.status == 1


def test_who_is_killed_breaks_it_when_it_was_sought_in_vain() -> None:
    talks = Talks()
    alice, bob = talks.peers()
    assert up(talks, alice, bob)
    bob.kill()
    assert not talks.run(60.0, both_end(alice))
    assert talks.run(60.0, both_end(alice)) and alice.status == 1


def test_who_is_started_anew_is_another() -> None:
    """What came before can't be made whole."""
    talks = Talks()
    alice, bob = talks.peers()
    alice.give(b"before\n")
    assert talks.run(10.0, lambda: bob.output == b"before\n")
    bob.kill()
    PeerProcess(talks.b, "bob")
    assert talks.run(60.0, both_end(alice)) and alice.status == 1


# Datagrams


def test_raw_input_is_datagrams() -> None:
    talks = Talks()
    alice, bob = talks.peers(raw=True)
    assert up(talks, alice, bob)
    pieces = [b"", b"\x00", b"one", bytes(range(256)), b"\xff" * 1200]
    alice.give(*pieces)
    assert talks.run(5.0, lambda: len(bob.pipe.output) == len(pieces))
    assert bob.pipe.output == pieces


def test_raw_datagrams_that_are_lost_are_lost_and_both_end_well() -> None:
    talks = Talks(3, link=Link(0.02, loss=0.1, duplicate=0.1))
    alice, bob = talks.peers(raw=True)
    assert up(talks, alice, bob)
    for number in range(100):
        alice.give(b"%d" % number)
        talks.run(0.05)
    alice.end()
    bob.end()
    assert talks.run(60.0, both_end(alice, bob))
    assert (alice.status, bob.status) == (0, 0)
    assert 50 <= len(set(bob.pipe.output)) < 100


# Greetings


@pytest.mark.parametrize("original", [False, True])
def test_hello_greets_each_second_and_shows_what_it_hears(original: bool) -> None:
    talks = Talks(original=original)
    alice, bob = talks.peers(hello=True)
    assert up(talks, alice, bob)
    before = len(alice.pipe.output)
    talks.run(10.0)
    assert 9 <= len(alice.pipe.output) - before <= 11
    assert set(alice.pipe.output) == {b"Hello from bob\n"}
    assert set(bob.pipe.output) == {b"Hello from alice\n"}


@pytest.mark.parametrize("leave", [PeerProcess.stop, PeerProcess.kill])
def test_hello_goes_on_when_the_other_leaves_and_comes_back(
    leave: Callable[[PeerProcess], None],
) -> None:
    talks = Talks()
    alice, bob = talks.peers(hello=True)
    for _ in range(3):
        assert up(talks, alice, bob, within=40.0)
        leave(bob)
        talks.run(20.0)
        assert alice.status is None and not alice.up
        bob = PeerProcess(talks.b, "bob", hello=True)


def test_greetings_never_get_into_a_pipe() -> None:
    """By a server that is not ours two of ours know each other from their greetings, and these
    may come late or twice."""
    for seed in range(20):
        talks = Talks(seed, original=True, link=Link(0.02, jitter=1.5, duplicate=0.5))
        alice, bob = talks.peers()
        up(talks, alice, bob)
        converse(talks, alice, bob)


# NATs


@pytest.mark.parametrize("original", [False, True])
@pytest.mark.parametrize("b", ["endpoint", "address", "port"])
@pytest.mark.parametrize("a", ["endpoint", "address", "port"])
@pytest.mark.parametrize("filtering", ["endpoint", "address", "port"])
def test_mappings_and_filterings(a: str, b: str, filtering: str, original: bool) -> None:
    """The filter of a's is as given, b's lets only known ports in."""
    talks = Talks(nat_a=nat(101, a, filtering), nat_b=nat(102, b), original=original)
    alice, bob = talks.peers()
    met = up(talks, alice, bob, within=10.0)
    b_is_seen = b == "endpoint" or filtering in ("endpoint", "address")
    assert met == (b_is_seen and a == "endpoint")


@pytest.mark.parametrize("seed", range(4))  # other marks: the other one leads
@pytest.mark.parametrize("asker", ["a", "b"])
@pytest.mark.parametrize("symmetric", ["a", "b"])
def test_one_symmetric_nat_whoever_asks_and_whoever_leads(
    symmetric: str, asker: str, seed: int
) -> None:
    kinds = {"a": ("port", "port"), "b": ("endpoint", "address")}
    if symmetric == "b":
        kinds = {"b": kinds["a"], "a": kinds["b"]}
    talks = Talks(seed, nat_a=nat(101, *kinds["a"]), nat_b=nat(102, *kinds["b"]))
    first, second = (talks.a, talks.b) if asker == "a" else (talks.b, talks.a)
    bob = PeerProcess(second, "bob")
    converse(talks, PeerProcess(first, "alice", "bob"), bob)


@pytest.mark.parametrize("delays", [(0.0, 0.0), (0.0, 0.2), (0.2, 0.0), (0.3, 0.3)])
@pytest.mark.parametrize("clashing", ["a", "b", "ab"])
@pytest.mark.parametrize("seed", range(2))
def test_routers_that_take_strangers_datagrams(
    clashing: str, delays: "Tuple[float, float]", seed: int
) -> None:
    talks = Talks(
        seed,
        nat_a=nat(101, takes_strangers="a" in clashing),
        nat_b=nat(102, takes_strangers="b" in clashing),
    )
    talks.a.link, talks.b.link = Link(delays[0]), Link(delays[1])
    alice, bob = talks.peers()
    assert up(talks, alice, bob, within=12.0)


@pytest.mark.parametrize("loss,enough", [(0.1, 20), (0.3, 18)])
def test_loss_on_each_access_link(loss: float, enough: int) -> None:
    """Of twenty pairs so many meet in 15 s."""
    met = 0
    for seed in range(20):
        talks = Talks(seed, link=Link(0.03, loss=loss))
        met += up(talks, *talks.peers(), within=15.0)
    assert met >= enough


# What happens to a path


def one_port(talks: Talks) -> "Tuple[PeerProcess, PeerProcess]":
    """Each with a port that its person chose, so that there are no fresh ones."""
    bind = address.pack("0.0.0.0", 5555)
    return talks.peers(bind=bind)


EVENTS: Dict[str, Callable[[Talks], None]] = {
    "a's NAT forgets": lambda talks: talks.nat_a.forget(),
    "b's NAT forgets": lambda talks: talks.nat_b.forget(),
    "both NATs forget": lambda talks: (talks.nat_a.forget(), talks.nat_b.forget()),
    "a's address changes": lambda talks: talks.nat_a.renumber("203.0.113.111"),
    "b's address changes": lambda talks: talks.nat_b.renumber("203.0.113.112"),
    "the server is started anew": lambda talks: talks.restart_servers(),
    "all of it": lambda talks: (
        talks.nat_a.renumber("203.0.113.111"),
        talks.nat_b.renumber("203.0.113.112"),
        talks.restart_servers(),
    ),
    "the machines sleep": lambda talks: setattr(talks.network, "now", talks.network.now + 600.0),
}


@pytest.mark.parametrize("name", EVENTS)
@pytest.mark.parametrize("make", [Talks.peers, one_port])
def test_a_path_in_use_is_found_again(name: str, make: Callable[[Talks], Any]) -> None:
    talks = Talks(nat_a=nat(101, filtering="address"), nat_b=nat(102))
    alice, bob = make(talks)
    assert up(talks, alice, bob)
    said = 0
    for step in range(400):
        alice.give(b"%d\n" % step)
        said += 1
        if step == 20:
            EVENTS[name](talks)
        talks.run(0.1)
    assert talks.run(20.0, lambda: bob.output.count(b"\n") == said)
    assert bob.output == b"".join(b"%d\n" % step for step in range(said))
    converse_end(talks, alice, bob)


@pytest.mark.parametrize("when", [3.0, 30.0])
@pytest.mark.parametrize("name", ["both NATs forget", "a's address changes", "b's address changes"])
def test_a_path_is_found_again_by_another_server(name: str, when: float) -> None:
    talks = Talks(nat_a=nat(101, filtering="address"), link=Link(0.02), original=True)
    alice, bob = talks.peers()
    talks.run(when)
    EVENTS[name](talks)
    converse(talks, alice, bob, within=60.0)


def converse_end(talks: Talks, *processes: PeerProcess) -> None:
    for process in processes:
        process.end()
    assert talks.run(30.0, both_end(*processes))
    assert [process.status for process in processes] == [0, 0]


def test_a_path_that_is_cut_for_a_while_is_found_again() -> None:
    talks = Talks()
    alice, bob = talks.peers()
    assert up(talks, alice, bob)
    alice.give(b"before\n")
    talks.run(1.0)
    talks.a.link = Link(0.01, loss=1.0)
    alice.give(b"meanwhile\n")
    talks.run(30.0)
    assert not alice.up and not bob.up
    talks.a.link = Link(0.01)
    assert talks.run(30.0, lambda: bob.output == b"before\nmeanwhile\n")
    converse_end(talks, alice, bob)


def test_a_server_that_comes_late_is_waited_for() -> None:
    talks = Talks()
    talks.stop_servers()
    alice, bob = talks.peers()
    talks.run(30.0)
    talks.start_servers()
    converse(talks, alice, bob, within=10.0)


def test_a_waiting_peer_is_still_known_after_the_server_is_started_anew() -> None:
    talks = Talks()
    bob = PeerProcess(talks.b, "bob")
    talks.run(5.0)
    talks.restart_servers()
    talks.run(16.0)
    converse(talks, PeerProcess(talks.a, "alice", "bob"), bob, within=5.0)


@pytest.mark.parametrize(
    "seconds",
    [
        3.0,
        120.0,
    ],
)
def test_one_lost_introduction_of_another_server_is_made_good(seconds: float) -> None:
    talks = Talks(original=True)
    bob = PeerProcess(talks.b, "bob")
    talks.run(3.0)
    alice = PeerProcess(talks.a, "alice", "bob")
    for host, lasts in ((talks.b, seconds), (talks.a, seconds / 8)):
        host.link = Link(0.01, loss=1.0)
        talks.run(lasts)
    talks.a.link = talks.b.link = Link(0.01)
    converse(talks, alice, bob, within=60.0)


def test_an_introduction_that_comes_during_the_goodbye_changes_nothing() -> None:
    talks = Talks()
    alice, bob = talks.peers()
    assert up(talks, alice, bob)
    bob.end()
    alice.end()
    seen: List[bool] = []

    def introduce(host: Any, destination: Address, data: bytes) -> None:
        """As soon as one of them is closing: the server's late word."""
        for one, other in ((alice, bob), (bob, alice)):
            if one.role.status().startswith("closing") and one.lives:
                seen.append(True)
                path = one.role._meeting.path
                name = "bob" if one is alice else "alice"
                mark = other.role._mark
                data = holepunch.encode(holepunch.Initiate(name, path.peer.destination, mark))
                server = address.pack("203.0.113.10", 39738)
                one.runner.burst(path.peer.endpoint, server, data, len(data))

    talks.network.watch = introduce
    assert talks.run(30.0, both_end(alice, bob))
    assert (alice.status, bob.status) == (0, 0) and seen


# Whose word counts


def test_another_that_asks_meanwhile_is_passed_over() -> None:
    talks = Talks()
    alice, bob = talks.peers()
    assert up(talks, alice, bob)
    carol = PeerProcess(talks.network.host("c", "198.51.100.9"), "carol", "bob")
    talks.run(20.0)
    assert not carol.up and alice.up and bob.up
    converse(talks, alice, bob)


def test_one_that_asked_and_never_came_does_not_keep_the_others_away() -> None:
    talks = Talks()
    bob = PeerProcess(talks.b, "bob")
    stranger = talks.network.host("stranger", "198.51.100.66")
    server = address.pack("203.0.113.10", 39738)
    stranger.bind(7777, lambda source, data: None)
    for mark in (b"", marks.new(b"s" * 16)):
        for message in (holepunch.Register("eve", mark), holepunch.Request("bob", mark)):
            talks.run(2.0)
            talks.network.send(stranger, 7777, server, holepunch.encode(message), 0)
    talks.run(5.0)
    converse(talks, PeerProcess(talks.a, "alice", "bob"), bob, within=20.0)


def test_a_name_that_another_keeps_is_had_when_it_goes() -> None:
    talks = Talks()
    first = PeerProcess(talks.network.host("c", "198.51.100.9"), "bob")
    talks.run(2.0)
    bob = PeerProcess(talks.b, "bob")
    talks.run(30.0)
    alice = PeerProcess(talks.a, "alice", "bob")
    assert up(talks, alice, first) and not bob.up
    alice.stop()
    first.stop()
    talks.run(5.0)
    converse(talks, PeerProcess(talks.a, "alice", "bob"), bob, within=20.0)


def hostile(talks: Talks, answer: Callable[[holepunch.Datagram, Address], List[Any]]) -> None:
    """A server that answers as it is told to."""
    talks.holepunch.kill()
    host = talks.server

    def receive(source: Address, data: bytes) -> None:
        for message in answer(holepunch.decode(data), source):
            datagram = message if isinstance(message, bytes) else holepunch.encode(message)
            talks.network.send(host, 39738, source, datagram, 0)

    host.bind(39738, receive)


@pytest.mark.parametrize("victim", ["203.0.113.10:39738", "224.0.0.1:5000", "0.0.0.0:1"])
def test_nothing_goes_where_a_hostile_server_must_not_send_it(victim: str) -> None:
    talks = Talks()
    ip, _, port = victim.rpartition(":")
    there = address.pack(ip, int(port))

    def answer(message: holepunch.Datagram, source: Address) -> List[Any]:
        if isinstance(message, holepunch.Register):
            return [holepunch.RegisterAck(), holepunch.Initiate("bob", there)]
        return [holepunch.Initiate("bob", there, marks.new(b"v" * 16))]

    hostile(talks, answer)
    sent: List[bytes] = []

    def watch(host: Any, destination: Address, data: bytes) -> None:
        if host is talks.a and destination == there:
            sent.append(data)

    talks.network.watch = watch
    alice = PeerProcess(talks.a, "alice", "bob")
    talks.run(60.0)
    assert not alice.up and alice.status is None
    for data in sent:
        assert isinstance(holepunch.decode(data), (holepunch.Register, holepunch.Request))


def test_a_victim_of_a_hostile_server_gets_little() -> None:
    victim = address.pack("198.51.100.80", 5000)
    for mark in (b"", marks.new(b"v" * 16), marks.new(bytes(16))):
        talks = Talks()

        def answer(message: holepunch.Datagram, source: Address, mark: bytes = mark) -> List[Any]:
            initiate = holepunch.Initiate("bob", victim, mark)
            return [holepunch.RegisterAck(), initiate] + [initiate] * 20

        hostile(talks, answer)
        sent: List[int] = []
        talks.network.watch = lambda _, destination, data: (
            sent.append(len(data)) if destination == victim else None  # noqa: B023
        )
        PeerProcess(talks.a, "alice", "bob")
        talks.run(60.0)
        assert len(sent) <= 300 and max(sent) <= 64


# Peers that are not ours


@pytest.mark.parametrize("original", [False, True])
@pytest.mark.parametrize("asks", [False, True])
def test_with_an_original_lines_go_both_ways(original: bool, asks: bool) -> None:
    talks = Talks(original=original)
    if asks:
        alice = PeerProcess(talks.a, "alice")
        talks.run(1.0)
        theirs = OriginalPeer(talks.b, "bob", "alice")
    else:
        theirs = OriginalPeer(talks.b, "bob")
        talks.run(1.0)
        alice = PeerProcess(talks.a, "alice", "bob")
    alice.give(b"first\nsecond\n")
    assert talks.run(20.0, lambda: "second" in theirs.received)
    assert [line for line in theirs.received if line != "Hello from alice"] == ["first", "second"]
    assert set(alice.pipe.output) == {b"Hello from bob\n"} and not theirs.ended
    assert not talks_ended(talks)


def talks_ended(talks: Talks) -> str:
    holepunch_server = talks.holepunch
    return holepunch_server.ended if isinstance(holepunch_server, OriginalHolepunchServer) else ""


@pytest.mark.parametrize("original", [False, True])
def test_an_original_that_asks_while_nobody_is_there_lives(original: bool) -> None:
    talks = Talks(original=original)
    theirs = OriginalPeer(talks.b, "bob", "alice")
    talks.run(10.0)
    alice = PeerProcess(talks.a, "alice", hello=True)
    assert talks.run(20.0, lambda: alice.up and "Hello from alice" in theirs.received)
    assert not theirs.ended


def test_long_lines_reach_an_original_in_pieces_that_it_can_read() -> None:
    talks = Talks()
    theirs = OriginalPeer(talks.b, "bob")
    talks.run(1.0)
    alice = PeerProcess(talks.a, "alice", "bob")
    line = "é" * 1000
    alice.give(line.encode() + b"\n" + b"\xff\xfe\n")
    assert talks.run(120.0, lambda: "\ufffd\ufffd" in theirs.received)
    said = [one for one in theirs.received if one != "Hello from alice"]
    assert "".join(said) == line + "\ufffd\ufffd" and not theirs.ended


def test_an_original_that_was_silent_for_a_while_is_heard_again() -> None:
    talks = Talks()
    theirs = OriginalPeer(talks.b, "bob")
    talks.run(1.0)
    alice = PeerProcess(talks.a, "alice", "bob")
    alice.give(b"first\n")
    assert talks.run(20.0, lambda: "first" in theirs.received)
    talks.b.link = Link(0.01, loss=1.0)
    talks.run(20.0)
    assert not alice.up
    talks.b.link = Link(0.01)
    alice.give(b"second\n")
    assert talks.run(40.0, lambda: "second" in theirs.received)
    assert alice.status is None and not theirs.ended


def test_two_originals_meet_by_our_server() -> None:
    talks = Talks()
    bob = OriginalPeer(talks.b, "bob")
    talks.run(1.0)
    alice = OriginalPeer(talks.a, "alice", "bob")
    assert talks.run(10.0, lambda: bool(alice.received and bob.received))
    assert alice.received[0] == "Hello from bob" and not alice.ended and not bob.ended
