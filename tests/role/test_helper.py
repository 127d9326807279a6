"""A helper in memory, of one worker or several: what it publishes, to whom, and what it refuses."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import replace
from typing import Dict, Iterator, List, Optional, Sequence, Tuple

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.virtual.memory_loop import Arrived, MemoryLoop, split, train
from udppunch import address
from udppunch.address import Address
from udppunch.config.roles import HelperConfig, role_config
from udppunch.notices import TRACE, access_logger
from udppunch.proto.expose import connectees, figures, tags
from udppunch.proto.expose.eviction import PROTECTED
from udppunch.proto.expose.publishing import Publishing
from udppunch.proto.expose.service import Memory
from udppunch.role.helper import Helper
from udppunch.wire import expose, proxy
from udppunch.wire import registrar as wire

KEY = bytes(range(32))
START = 0x4142
SECRET = START.to_bytes(2, "big") + b"the secret of the tests"[:14]
HOST = address.pack("203.0.113.10", 6000)
HOST_V6 = address.pack("2001:db8::10", 6000)
NAMED = address.pack("203.0.113.10", 6053)
AHEAD = 1_700_000_000.0
CONFIG: HelperConfig = replace(
    role_config("helper", {"listen": ["203.0.113.10:6000"]}, {}), rate=100_000
)
Datagrams = List[Tuple[Address, bytes]]


def memory(workers: int = 1, services: int = 1, secret: bytes = SECRET) -> Memory:
    return Memory(
        workers,
        [memoryview(bytearray(tags.SHARED_OCTETS)) for _ in range(services)],
        [memoryview(bytearray(4 * workers * connectees.COUNTS)).cast("I") for _ in range(services)],
        memoryview(bytearray(figures.OCTETS * workers)),
        secret,
        lambda: AHEAD,
    )


def at(number: int, ip: str = "198.51.100.7") -> Address:
    return address.pack(ip, number)


def signed(nonce: Optional[int] = None, name: str = "", key: bytes = KEY) -> bytes:
    return expose.encode(expose.Keepalive(nonce, name), key)


def tagged(tag: int, payload: bytes) -> bytes:
    return expose.TAG.pack(tag) + payload


def said(datagrams: Sequence[Tuple[Address, bytes]]) -> "Dict[Address, List[bytes]]":
    """To whom what was said, each in order."""
    of_each: "Dict[Address, List[bytes]]" = {}
    for destination, data in datagrams:
        of_each.setdefault(destination, []).append(data)
    return of_each


class Site:
    """A helper's workers and their registrar, which hears of them at once unless it is deaf."""

    def __init__(
        self,
        config: HelperConfig = CONFIG,
        *,
        batch: bool = False,
        workers: int = 1,
        secret: bytes = SECRET,
    ) -> None:
        self.now = 1000.0
        self.batch = batch
        self.deaf = False
        self.config = config
        names = ["", *dict.fromkeys(name for name, _ in config.name)]
        self.memory = memory(workers, len(names), secret)
        self.registrar = Publishing(names, workers, self._tell, self.memory.counts)
        self.loops = [MemoryLoop() for _ in range(workers)]
        self.asked: List[wire.Message] = []
        for worker in range(workers):
            self.begin(worker)

    def begin(self, worker: int, pid: int = 0) -> None:
        """A process is that worker from now on."""
        loop = self.loops[worker] = MemoryLoop()
        loop.role = Helper(
            self.config, loop.outbox, lambda message, now: self._ask(worker, message, now),
            self.memory, worker, pid,
        )  # fmt: skip
        loop.role.start(self.now)
        self.endpoints = [subject for verb, subject in loop.requests() if verb == "open"]
        for endpoint in self.endpoints:
            loop.open(endpoint)
            loop.role.opened(endpoint, self.now)

    @property
    def helper(self) -> Helper:
        role: Helper = self.loops[0].role
        return role

    def _tell(self, worker: int, message: wire.Message, now: float) -> None:
        self.loops[worker].role.told(message, now)

    def _ask(self, worker: int, message: wire.Message, now: float) -> None:
        self.asked.append(message)
        if not self.deaf:
            self.registrar.hear(worker, message, now)

    def deliver(
        self, *arrived: Arrived, worker: int = 0, listener: int = 0, batch: Optional[bool] = None
    ) -> Datagrams:
        """What is sent for what came in one wake-up."""
        loop = self.loops[worker]
        loop.sent.clear()
        endpoints = [e for e in loop._dispatch.sockets if e.essential]
        loop.deliver(endpoints[listener], arrived, self.now, self.batch if batch is None else batch)
        return [(sent.destination, sent.data) for sent in loop.sent]

    def tell(
        self, source: Address, *datagrams: bytes, worker: int = 0, listener: int = 0
    ) -> Datagrams:
        arrived = [Arrived(source, data, len(data)) for data in datagrams]
        return self.deliver(*arrived, worker=worker, listener=listener)

    def register(self, exposer: Address, name: str = "", worker: int = 0) -> None:
        """As an exposer does it, with the password if there is one."""
        if not self.config.key:
            assert self.tell(exposer, b"", worker=worker) == []
            return
        ((destination, answer),) = self.tell(exposer, signed(None, name), worker=worker)
        retry = expose.decode(answer)
        assert destination == exposer and isinstance(retry, expose.Retry)
        ((_, answer),) = self.tell(exposer, signed(retry.nonce, name), worker=worker)
        assert expose.decode(answer) == expose.Registered()

    def tag_of(self, source: Address, worker: int = 0, listener: int = 0) -> int:
        """That of a connectee, which says something for it."""
        ((_, data),) = self.tell(source, b"which", worker=worker, listener=listener)
        assert data.endswith(b"which")
        return int.from_bytes(data[:2], "big")

    def pass_time(self, seconds: float) -> None:
        """As the loop does it, which calls each worker when it wants to be."""
        end = self.now + seconds
        while self.now < end:
            due = min(loop.role.deadline() for loop in self.loops)
            self.now = min(end, due)
            for loop in self.loops:
                if loop.role.deadline() <= self.now:
                    loop.call(loop.role.expire, self.now)

    def statistics(self, asker: Address, worker: int = 0) -> Dict[str, int]:
        """As they are told over the wire."""
        ((destination, answer),) = self.tell(asker, signed(expose.ASKS_STATISTICS), worker=worker)
        assert destination == asker
        return expose.decode_statistics(answer)

    def counted(self) -> "Counter[str]":
        total: "Counter[str]" = Counter()
        for loop in self.loops:
            loop.role.expire(self.now)
            total += loop.role.counters
        return total


E, E2 = at(5000, "192.0.2.9"), at(5001, "192.0.2.9")
C, D = at(4000), at(4000, "198.51.100.8")
SIGNED_CONFIG = replace(CONFIG, key=KEY)
both = pytest.mark.parametrize("batch", [False, True], ids=["singly", "batched"])
guarded = pytest.mark.parametrize("config", [CONFIG, SIGNED_CONFIG], ids=["open", "password"])


# --- payload ---------------------------------------------------------------------------------


@both
@guarded
@given(data=st.binary(min_size=1, max_size=3000), segment=st.integers(1, 1500))
def test_payload_passes_both_ways_as_it_is(
    batch: bool, config: HelperConfig, data: bytes, segment: int
) -> None:
    segment = min(segment, len(data))
    assume(not any(expose.looks_signed(each) for each in split(data, segment)))
    site = Site(config, batch=batch)
    site.register(E)
    for _ in range(2):  # of a newcomer, then of a known one
        sent = site.deliver(*[Arrived(C, data, segment)] * 3)
        assert sent == [(E, tagged(START, each)) for each in split(data, segment) * 3]
    back = b"".join(tagged(START, each) for each in split(data, segment))
    sent = site.deliver(*[Arrived(E, back, segment + 2)] * 3)
    assert sent == [(C, each) for each in split(data, segment) * 3]
    assert site.counted()["datagrams"] == 9 * len(split(data, segment))


@both
@guarded
def test_connectees_are_kept_apart_by_their_tags(batch: bool, config: HelperConfig) -> None:
    site = Site(config, batch=batch)
    site.register(E)
    those = [at(4000 + number) for number in range(20)] + [at(4000, "198.51.100.8")]
    found = {site.tag_of(one): one for one in those}
    assert sorted(found.values()) == sorted(those), "each has one of its own"
    sent = site.deliver(*[Arrived(E, tagged(tag, b"%d" % tag), 7) for tag in found])
    assert sorted(sent) == sorted((one, b"%d" % tag) for tag, one in found.items())


@both
def test_a_train_for_many_is_taken_apart_and_each_ones_datagrams_are_in_order(batch: bool) -> None:
    site = Site(batch=batch)
    site.register(E)
    c, d = site.tag_of(C), site.tag_of(D)
    train_ = train(*(tagged((c, d)[n % 3 == 1], b"%04d" % n) for n in range(30)), tagged(d, b"end"))
    for _ in range(2):
        expected = said([((C, D)[n % 3 == 1], b"%04d" % n) for n in range(30)] + [(D, b"end")])
        assert said(site.deliver(Arrived(E, *train_))) == expected


@both
def test_a_train_whose_tail_is_no_more_than_a_tag_or_not_even_that(batch: bool) -> None:
    site = Site(batch=batch)
    site.register(E)
    tag = site.tag_of(C)
    whole = [tagged(tag, b"payload")] * 3
    assert site.deliver(Arrived(E, *train(*whole, tagged(tag, b"")))) == [
        (C, b"payload"), (C, b"payload"), (C, b"payload"), (C, b""),
    ]  # fmt: skip
    assert site.deliver(Arrived(E, *train(*whole, b"\x41"))) == [(C, b"payload")] * 3
    assert site.tell(E, tagged(tag, b"x"), tagged(tag, b"y")) == [(C, b"x"), (C, b"y")]
    assert site.tell(E, b"\x41", b"\x41") == [], "wherever there was a tag before"
    assert site.counted()["dropped"] == 0
    dwarfs = figures.Figures(site.memory.figures, 0, 1).totals(0.0)["dwarfs"]
    assert dwarfs == 3


@both
def test_a_train_with_tags_that_nobody_has_loses_but_these(batch: bool) -> None:
    site = Site(batch=batch)
    site.register(E)
    tag = site.tag_of(C)
    data = train(tagged(tag, b"1"), tagged(7, b"x"), tagged(tag, b"2"), tagged(START - 1, b"x"))
    for _ in range(2):
        assert site.deliver(Arrived(E, *data)) == [(C, b"1"), (C, b"2")]
    assert site.tell(E, tagged(9, b"x"), tagged(tag, b"3")) == [(C, b"3")]
    totals = figures.Figures(site.memory.figures, 0, 1).totals(0.0)
    assert totals["ch_not_founds"] == 5


@both
def test_empty_payload(batch: bool) -> None:
    """To a connectee always; from one where a password tells keepalives apart."""
    site = Site(SIGNED_CONFIG, batch=batch)
    site.register(E)
    tag = site.tag_of(C)
    assert site.tell(C, b"", b"x", b"") == [(E, tagged(tag, each)) for each in (b"", b"x", b"")]
    assert site.tell(E, tagged(tag, b"")) == [(C, b"")]
    assert site.tell(D, b"") == [(E, tagged(tag + 1, b""))], "of a newcomer, too"
    site = Site(batch=batch)
    site.register(E)
    tag = site.tag_of(C)
    assert site.tell(E, tagged(tag, b"")) == [(C, b"")]
    assert site.tell(D, b"") == [], "which makes it the exposer"
    assert site.tell(C, b"x") == [(D, tagged(tag, b"x"))]


@both
def test_before_there_is_an_exposer_payload_is_dropped_and_counted(batch: bool) -> None:
    site = Site(SIGNED_CONFIG, batch=batch)
    assert site.tell(C, b"x", b"y") == []
    assert site.deliver(Arrived(C, *train(b"abc", b"d"))) == []
    site.register(E)
    assert site.statistics(E)["dropped_no_client_address"] == 4
    assert site.tag_of(C) == START, "and it had no tag from that"


@both
@pytest.mark.parametrize("start,expected", [
    (expose.NEVER_A_TAG - 1, [0x6578, 0x657A, 0x657B]),
    (0xFFFF, [0xFFFF, 0x0001, 0x0002]),
])  # fmt: skip
def test_a_tag_is_never_that_which_signed_datagrams_begin_with(
    batch: bool, start: int, expected: List[int]
) -> None:
    site = Site(SIGNED_CONFIG, batch=batch, secret=start.to_bytes(2, "big") + SECRET[2:])
    site.register(E)
    assert [site.tag_of(at(4000 + number)) for number in range(3)] == expected


def test_of_all_tags_none_is_taken_for_a_signature() -> None:
    site = Site(replace(SIGNED_CONFIG, max_clients=65_535))
    site.register(E)
    issued = set()
    for first in range(0, 65_536, 128):
        arrived = [
            Arrived(address.pack(f"10.{number >> 8}.{number & 255}.1", 4000), b"x", 1)
            for number in range(first, first + 128)
        ]
        issued |= {data[:2] for _, data in site.deliver(*arrived, batch=True)}
    assert len(issued) == 65_534 and site.helper.gauges() == {"connectees": 65_534}
    assert not {b"ey", b"\0\0"} & issued
    assert site.counted()["dropped: all tags in use"] == 0, "the last two took another one's"


@both
def test_a_known_connectees_tag_is_kept_for_as_long_as_either_speaks(batch: bool) -> None:
    site = Site(replace(CONFIG, idle=30.0), batch=batch)
    site.register(E)
    c, d = site.tag_of(C), site.tag_of(D)
    for _ in range(5):
        site.pass_time(20.0)
        assert site.tell(C, b"x") == [(E, tagged(c, b"x"))]
        assert site.tell(E, tagged(d, b"x"), tagged(d, b"y")) == [(D, b"x"), (D, b"y")]
    site.pass_time(31.0)
    assert site.helper.gauges() == {"connectees": 0} and site.registrar.gauges()["connectees"] == 0
    assert site.tell(E, tagged(c, b"x"), tagged(d, b"y")) == []
    assert site.deliver(Arrived(E, *train(tagged(c, b"x"), tagged(d, b"y")))) == []
    assert site.tag_of(C) not in (c, d), "another one, so that the exposer has it for another"


@both
def test_a_tag_that_is_issued_anew_leads_to_its_new_holder_alone(batch: bool) -> None:
    site = Site(replace(CONFIG, idle=30.0), batch=batch)
    site.register(E)
    shared = site.helper._services[0].shared
    tag = site.tag_of(C)
    for holder in (D, C, D):
        back = train(tagged(tag, b"one"), tagged(tag, b"two"))
        assert site.deliver(Arrived(E, *back), Arrived(E, tagged(tag, b"x"), 3))
        shared.write(tag, None)
        for _ in range(2):
            assert site.deliver(Arrived(E, *back)) == []
            assert site.tell(E, tagged(tag, b"x"), tagged(tag, b"y")) == []
        shared.give(tag, tags.Connectee(holder, b""))
        for _ in range(2):
            assert site.deliver(Arrived(E, *back)) == [(holder, b"one"), (holder, b"two")]
            assert site.tell(E, tagged(tag, b"x"), b"y") == [(holder, b"x")]


# --- exposers --------------------------------------------------------------------------------


def test_the_last_exposer_has_the_service_and_the_former_is_anybody() -> None:
    site = Site()
    site.register(E)
    tag = site.tag_of(C)
    site.register(E2)
    assert site.tell(C, b"x") == [(E2, tagged(tag, b"x"))]
    assert site.tell(E2, tagged(tag, b"x")) == [(C, b"x")]
    assert site.tell(E, tagged(tag, b"x")) == [(E2, tagged(tag + 1, tagged(tag, b"x")))]
    site.register(E)
    assert site.tell(E, tagged(tag, b"x")) == [(C, b"x")]


def test_an_exposer_proves_its_address_before_it_is_one() -> None:
    site = Site(SIGNED_CONFIG)
    site.register(E)
    tag = site.tag_of(C)
    ((_, answer),) = site.tell(E2, signed())
    retry = expose.decode(answer)
    assert isinstance(retry, expose.Retry)
    assert site.tell(C, b"x") == [(E, tagged(tag, b"x"))], "not yet"
    for wrong in (signed(retry.nonce, key=bytes(32)), signed(retry.nonce ^ 1), signed(0)):
        for _, answer in site.tell(E2, wrong):
            assert expose.decode(answer) != expose.Registered()
    ((_, answer),) = site.tell(D, signed(retry.nonce))
    assert isinstance(expose.decode(answer), expose.Retry), "another's nonce proves nothing"
    assert site.tell(C, b"x") == [(E, tagged(tag, b"x"))]
    ((destination, answer),) = site.tell(E2, signed(retry.nonce))
    assert (destination, expose.decode(answer)) == (E2, expose.Registered())
    assert site.tell(C, b"x") == [(E2, tagged(tag, b"x"))]
    assert site.tell(E2, signed()) == [(E2, answer)], "it is known now"
    assert site.counted()["exposers changed"] == 0 and site.registrar.counters == {
        "exposers changed": 2
    }


def test_with_a_password_nothing_that_is_not_signed_makes_an_exposer() -> None:
    site = Site(SIGNED_CONFIG)
    site.register(E)
    tag = site.tag_of(C)
    for data in (b"", expose.SIGNED, signed(key=bytes(32)), signed() + b"x", signed()[:-1]):
        for _, answer in site.tell(D, data):
            assert answer[:2] == expose.TAG.pack(tag + 1), "payload"
    for claims in (expose.Registered(), expose.Retry(5)):
        assert site.tell(D, expose.encode(claims, KEY)) == []
        assert site.tell(E, expose.encode(claims, KEY)) == [], "nor are answers ever answered"
    assert site.tell(C, b"x") == [(E, tagged(tag, b"x"))]
    assert site.statistics(E)["invalid_auths"] == 8


def test_it_is_registered_once_the_registrar_has_told_so() -> None:
    site = Site(SIGNED_CONFIG)
    ((_, answer),) = site.tell(E, signed())
    retry = expose.decode(answer)
    assert isinstance(retry, expose.Retry)
    site.deaf = True
    assert site.tell(E, signed(retry.nonce)) == []
    assert site.tell(C, b"x") == []
    claim = site.asked[-1]
    loop = site.loops[0]
    loop.sent.clear()
    loop.call(site.registrar.hear, 0, claim, site.now)
    assert [sent.destination for sent in loop.sent] == [E]
    assert expose.decode(loop.sent[0].data) == expose.Registered()
    assert len(site.tell(C, b"x")) == 1


@both
@pytest.mark.parametrize("in_train", [False, True])
def test_a_keepalive_is_heard_behind_payload_and_between(batch: bool, in_train: bool) -> None:
    """An exposer that moves leaves with the payload which its helper does not know it by."""
    site = Site(SIGNED_CONFIG, batch=batch)
    site.register(E)
    tag = site.tag_of(C)

    def say(keepalive: bytes) -> List[bytes]:
        """The answers, with payload of its length or a longer or the shortest one around it."""
        p = tagged(tag, b"p" * (len(keepalive) - 2))
        answers = []
        for some in ([p, keepalive, p], [p + b"p", p + b"p", keepalive], [p, keepalive, b"p"]):
            if in_train:
                sent = site.deliver(Arrived(E2, *train(*some)))
            else:
                sent = site.tell(E2, *some)
            (answer,) = said(sent)[E2]
            answers.append(answer)
            payload = [each for each in some if each is not keepalive and len(each) > 1]
            assert len(sent) > len(payload), "nothing of it is lost"
        return answers

    for _ in range(2):  # of an unknown one, then of a connectee
        retries = [expose.decode(answer) for answer in say(signed())]
    retry = retries[0]
    assert isinstance(retry, expose.Retry)
    ((destination, answer),) = site.tell(E2, signed(retry.nonce))
    assert (destination, expose.decode(answer)) == (E2, expose.Registered())
    assert site.tell(E2, tagged(tag, b"x")) == [(C, b"x")]
    assert {expose.decode(answer) for answer in say(signed())} == {expose.Registered()}


def test_who_proved_its_address_is_told_nothing_if_another_one_was_faster() -> None:
    site = Site(SIGNED_CONFIG, workers=2)
    ((_, answer),) = site.tell(E, signed())
    retry = expose.decode(answer)
    assert isinstance(retry, expose.Retry)
    site.deaf = True
    assert site.tell(E, signed(retry.nonce)) == []
    site.deaf = False
    site.register(E2, worker=1)
    assert site.tell(E2, b"") == []


def test_services_with_names_have_exposers_of_their_own() -> None:
    config = replace(SIGNED_CONFIG, name=(("dns", NAMED),))
    site = Site(config)
    site.register(E)
    assert site.tell(C, b"x", listener=1) == [], "of dns there is none yet"
    site.register(E2, "dns")
    default, dns = site.tag_of(C), site.tag_of(C, listener=1)
    assert site.tell(C, b"x") == [(E, tagged(default, b"x"))]
    assert site.tell(C, b"x", listener=1) == [(E2, tagged(dns, b"x"))]
    assert site.tell(E, tagged(default, b"x")) == [(C, b"x")]
    assert site.loops[0].sent[0].endpoint is site.endpoints[0]
    assert site.tell(E2, tagged(dns, b"x")) == [(C, b"x")]
    assert site.loops[0].sent[0].endpoint is site.endpoints[1], "whence it was asked"
    assert site.tell(at(1), signed(None, "no such")) == []
    ((to, data),) = site.tell(at(2), signed(), listener=1)
    assert to == E2 and data[2:] == signed(), "no exposer speaks there"
    assert site.counted()["dropped: unknown name"] == 1


@both
def test_an_exposer_is_a_connectee_of_another_service_as_anybody(batch: bool) -> None:
    site = Site(replace(SIGNED_CONFIG, name=(("dns", NAMED),)), batch=batch)
    site.register(E)
    site.register(E2, "dns")
    default = site.tag_of(C)
    own = site.tag_of(E, listener=1)
    assert site.tell(E, tagged(default, b"x")) == [(C, b"x")], "a way that is known"
    datagrams = [tagged(default, b"one"), tagged(default, b"two"), tagged(default, b"3")]
    expected = [(E2, tagged(own, data)) for data in datagrams]
    assert site.tell(E, *datagrams, listener=1) == expected
    assert site.deliver(Arrived(E, *train(*datagrams)), listener=1) == expected
    assert site.tell(E, tagged(default, b"x")) == [(C, b"x")]


def test_an_address_speaks_for_the_service_that_it_named_last() -> None:
    site = Site(replace(SIGNED_CONFIG, name=(("dns", NAMED),)))
    site.register(E)
    site.register(E, "dns")
    dns = site.tag_of(C, listener=1)
    assert site.tell(C, b"x") == [], "the default service has none now"
    assert site.tell(E, tagged(dns, b"x")) == [(C, b"x")]
    site.register(E2)
    default = site.tag_of(C)
    assert site.tell(E, tagged(dns, b"x")) == [(C, b"x")], "and still has"
    assert site.tell(E2, tagged(default, b"x")) == [(C, b"x")]


def test_a_new_password_is_in_force_at_once_and_ends_nothing() -> None:
    site = Site(SIGNED_CONFIG)
    site.register(E)
    tag = site.tag_of(C)
    other = bytes(reversed(KEY))
    site.helper.configure(replace(SIGNED_CONFIG, key=other, max_clients=1))
    assert site.tell(C, b"x") == [(E, tagged(tag, b"x"))]
    assert site.tell(E, signed()) == []
    ((_, answer),) = site.tell(E, signed(key=other))
    assert expose.is_signed(answer, other) and expose.decode(answer) == expose.Registered()
    assert site.tag_of(D) == tag + 1 and site.helper.gauges() == {"connectees": 1}


# --- who is a connectee, and how many -----------------------------------------------------------


@both
@pytest.mark.parametrize("port", [0, 7, 13, 17, 19, 53, 69, 123])
def test_services_that_answer_anything_are_no_connectees(batch: bool, port: int) -> None:
    site = Site(batch=batch)
    site.register(E)
    assert site.tell(at(port), b"x", b"y") == []
    assert site.deliver(Arrived(at(port, "2001:db8::7"), *train(b"ab", b"cd"))) == []
    assert site.counted()["dropped: source never a connectee"] == 4
    assert site.tell(at(port + 1), b"x") == [(E, tagged(START, b"x"))]


@pytest.mark.parametrize("neighbour,stranger", [
    ("198.51.100.{}", "198.51.101.1"), ("2001:db8:0:aa{:02x}::1", "2001:db8:0:ab00::1"),
])  # fmt: skip
def test_each_network_has_its_rate_of_newcomers(neighbour: str, stranger: str) -> None:
    site = Site(replace(CONFIG, rate=10, max_clients=1000))
    site.register(E)
    sent = [site.tell(at(4000, neighbour.format(n)), b"x") for n in range(100)]
    assert sum(map(len, sent)) == 20
    assert len(site.tell(at(4000, stranger), b"x")) == 1
    known = at(4000, neighbour.format(0))
    assert len(site.tell(known, *[b"x"] * 100)) == 100, "who is known is not slowed"
    site.pass_time(1.0)
    sent = [site.tell(at(4001, neighbour.format(n)), b"x") for n in range(100)]
    assert sum(map(len, sent)) == 10
    assert site.counted()["dropped: newcomers over their rate"] == 170


def test_simple_keepalives_of_those_unknown_have_a_rate() -> None:
    site = Site(replace(CONFIG, rate=5))
    for number in range(100):
        site.tell(at(4000 + number), b"")
    assert site.registrar.counters["exposers changed"] == 10
    site.tell(at(4009), *[b""] * 100)
    assert site.counted()["dropped: keepalives over their rate"] == 90, "but not the known"


@both
def test_the_unanswered_make_room_and_who_talks_is_kept(batch: bool) -> None:
    site = Site(replace(CONFIG, max_clients=8), batch=batch)
    site.register(E)
    talkers = {site.tag_of(at(4000 + number)): at(4000 + number) for number in range(4)}
    strangers = iter(range(10_000))
    for _ in range(30):
        site.tell(E, *(tagged(tag, b"x") for tag in talkers))
        site.deliver(*(Arrived(one, b"x", 1) for one in talkers.values()))
        for _ in range(40):
            number = next(strangers)
            where = address.pack(f"10.{number >> 8}.{number & 255}.1", 4000)
            assert len(site.tell(where, b"x")) == 1, "there is room for each, for a while"
        site.pass_time(1.0)
    for tag, one in talkers.items():
        assert site.tell(E, tagged(tag, b"x"), tagged(tag, b"y")) == [(one, b"x"), (one, b"y")]
    assert site.helper.gauges() == {"connectees": 8}
    assert site.counted()["connectees gone"] == 1200 - 4


def test_where_all_talk_a_newcomer_waits() -> None:
    site = Site(replace(CONFIG, max_clients=2))
    site.register(E)
    for one in (C, D):
        site.tell(E, tagged(site.tag_of(one), b"x"))
    newcomer = at(4002)
    assert site.tell(newcomer, b"x") == []
    assert site.counted()["dropped: all tags in use"] == 1
    site.pass_time(PROTECTED / 2)
    site.tell(C, b"x")
    site.pass_time(PROTECTED / 2)
    assert len(site.tell(newcomer, b"x")) == 1
    assert site.tell(C, b"x")[0][1] == tagged(START, b"x"), "the quieter one went"


# --- several workers -------------------------------------------------------------------------


@both
@guarded
def test_connectees_of_all_workers_are_answered_by_the_one_that_hears_the_exposer(
    batch: bool, config: HelperConfig
) -> None:
    site = Site(config, batch=batch, workers=3)
    site.register(E, worker=1)
    those = {(worker, number): at(4000 + 100 * worker + number)
             for worker in range(3) for number in range(5)}  # fmt: skip
    found = {site.tag_of(one, worker): one for (worker, _), one in those.items()}
    assert len(found) == 15
    assert {tag % 3 for tag in found} == {0, 1, 2}
    mixed = train(*(tagged(tag, b"%05d" % tag) for tag in found))
    expected = sorted((one, b"%05d" % tag) for tag, one in found.items())
    for _ in range(2):
        assert sorted(site.deliver(Arrived(E, *mixed), worker=1)) == expected
    assert site.registrar.gauges() == {"exposers": 1, "connectees": 15}


@both
def test_what_another_worker_issued_anew_is_another_ones(batch: bool) -> None:
    site = Site(replace(CONFIG, max_clients=1), batch=batch, workers=2)
    site.register(E, worker=0)
    tag = site.tag_of(C, 1)
    assert site.tell(E, tagged(tag, b"1"), tagged(tag, b"2")) == [(C, b"1"), (C, b"2")]
    site.pass_time(PROTECTED + 1.0)
    other = site.tag_of(D, 1)
    assert other != tag
    assert site.tell(E, tagged(tag, b"1"), tagged(other, b"2")) == [(D, b"2")]
    assert site.tell(E, tagged(tag, b"1"), tagged(other, b"2")) == [(D, b"2")]


def test_an_answer_keeps_a_connectee_that_another_worker_issued() -> None:
    site = Site(replace(CONFIG, idle=30.0), workers=2)
    site.register(E, worker=0)
    tag = site.tag_of(C, 1)
    for _ in range(5):
        site.pass_time(20.0)
        assert site.deliver(Arrived(E, *train(tagged(tag, b"x"), tagged(tag, b"y")))) == [
            (C, b"x"), (C, b"y"),
        ]  # fmt: skip
    site.pass_time(31.0)
    assert site.tell(E, tagged(tag, b"x")) == []


@guarded
def test_a_worker_that_takes_the_place_of_a_killed_one_goes_on(config: HelperConfig) -> None:
    site = Site(config, workers=2)
    site.register(E, worker=0)
    tags_ = {one: site.tag_of(one, worker) for worker, one in enumerate((C, D))}
    for worker in range(2):
        site.begin(worker, pid=7 + worker)
        for number, one in enumerate((C, D)):
            assert site.tell(one, b"x", worker=number) == [(E, tagged(tags_[one], b"x"))]
            assert site.tell(E, tagged(tags_[one], b"y")) == [(one, b"y")]
    newcomer = at(4002)
    assert site.tag_of(newcomer) not in tags_.values()


def test_a_registrar_that_begins_anew_learns_whose_the_services_are() -> None:
    site = Site(replace(SIGNED_CONFIG, name=(("dns", NAMED),)), workers=2)
    site.register(E, worker=0)
    site.register(E2, "dns", worker=1)
    counted = dict(site.registrar.tally.lasting())
    site.registrar = Publishing(["", "dns"], 2, site._tell, site.memory.counts, counted)
    site.registrar.start(site.now)
    assert site.registrar.gauges()["exposers"] == 2
    assert site.tell(C, b"x", listener=1, worker=0)[0][0] == E2
    site.begin(0, pid=5)
    assert site.tell(C, b"x")[0][0] == E and site.tell(C, b"x", listener=1)[0][0] == E2


# --- what is written and counted ----------------------------------------------------------------


@both
@guarded
def test_figures_are_of_both_directions_and_of_payload(batch: bool, config: HelperConfig) -> None:
    site = Site(config, batch=batch, workers=2)
    site.register(E, worker=0)
    tag = site.tag_of(C, 1)
    site.pass_time(0.25)
    first = site.now
    site.deliver(Arrived(C, *train(*[b"x" * 100] * 5, b"y" * 20)), Arrived(C, b"z", 1), worker=1)
    site.pass_time(5.0)
    then = site.now
    back = train(*[tagged(tag, b"x" * 50)] * 7, tagged(tag, b""))
    site.deliver(Arrived(E, *back), Arrived(E, *back), Arrived(E, tagged(tag, b"abc"), 5))
    site.pass_time(2.0)
    totals = site.statistics(E) if config.key else figures.Figures(
        site.memory.figures, 1, 2).totals(AHEAD)  # fmt: skip
    assert (totals["from_connectee_msgs"], totals["from_connectee_bytes"]) == (8, 526)
    assert (totals["from_client_msgs"], totals["from_client_bytes"]) == (17, 703)
    assert totals["new_connectees"] == 1
    # Counted once a second.
    assert first <= totals["last_connectee_s"] - AHEAD <= first + 1.0
    assert then <= totals["last_client_s"] - AHEAD <= then + 1.0
    assert totals["last_ka_s"] == AHEAD + 1000
    if config.key:
        assert totals["signed_looking"] == 3 and totals["stats_requests"] == 1
        assert totals["auth_in_progress"] == totals["auth_completeds"] == 1
    else:
        assert totals["simple_keepalives"] == totals["simple_address_switches"] == 1
    counted = site.counted()
    assert (counted["datagrams"], counted["octets"]) == (8 + 17, 526 + 703)


def test_whoever_has_the_password_may_ask_for_statistics_and_becomes_nothing_by_it() -> None:
    site = Site(SIGNED_CONFIG)
    assert site.statistics(D)["last_ka_s"] == 0, "never"
    site.register(E)
    tag = site.tag_of(C)
    assert site.statistics(D)["stats_requests"] == 2
    assert site.tell(C, b"x") == [(E, tagged(tag, b"x"))]
    assert site.statistics(D)["from_connectee_msgs"] == 2, "until now"
    assert site.tell(at(1), signed(expose.ASKS_STATISTICS, key=bytes(32))) == []


@both
@pytest.mark.parametrize("workers", [1, 2])
def test_a_visit_is_written_with_what_went_both_ways(workers: int, batch: bool) -> None:
    lines: List[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logger = access_logger("")
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        config = replace(CONFIG, transparent_log="", idle=30.0)
        site = Site(config, workers=workers, batch=batch)
        site.register(E, worker=0)
        issuer = workers - 1
        tag = site.tag_of(C, issuer)
        assert lines == [f"198.51.100.7:4000 came to the service, tag {tag}"]
        site.pass_time(12.0)
        site.deliver(Arrived(C, *train(b"x" * 10, b"y")), Arrived(C, b"z", 1), worker=issuer)
        site.deliver(Arrived(E, *train(tagged(tag, b"1234"), tagged(tag, b"5"))))
        site.pass_time(5.0)
        site.tell(E, tagged(tag, b"678"))
        site.pass_time(40.0)
        assert lines[1:] == [
            f"198.51.100.7:4000 left the service, tag {tag}, after 12.0 s:"
            " 17 bytes in 4 datagrams from it, 8 in 3 to it"
        ]
        tag = site.tag_of(D, issuer)
        site.tell(E, tagged(tag, b"90"))
        for loop in site.loops:
            loop.role.stop(site.now)
        assert lines[3:] == [
            f"198.51.100.8:4000 left the service, tag {tag}, after 0.0 s:"
            " 5 bytes in 1 datagrams from it, 2 in 1 to it"
        ]
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def test_no_log_line_has_a_password_or_payload(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(TRACE, "udppunch")
    site = Site(replace(SIGNED_CONFIG, name=(("dns", NAMED),), rate=10))
    site.tell(C, b"hunter2 payload")
    site.register(E)
    site.register(E2, "dns")
    for number in range(30):
        site.tell(at(4000 + number), b"hunter2 payload", signed(key=bytes(32)))
    site.tell(at(9), signed(None, "hunter2"))
    site.pass_time(5.0)
    assert {record.levelno for record in caplog.records} >= {TRACE, logging.INFO, logging.WARNING}
    lines = "".join(str(vars(record)).lower() for record in caplog.records)
    for secret in ("hunter2", KEY.hex(), repr(KEY), SECRET.hex(), "eyj"):
        assert secret.lower() not in lines
    assert KEY.hex() not in repr(SIGNED_CONFIG) and repr(KEY) not in repr(SIGNED_CONFIG)


# --- the PROXY protocol, and several addresses -----------------------------------------------


@both
@guarded
@pytest.mark.parametrize("local", [b"", bytes([203, 0, 113, 99])])
def test_a_proxy_head_is_before_each_datagram_once(
    batch: bool, config: HelperConfig, local: bytes
) -> None:
    site = Site(replace(config, proxy_protocol=True), batch=batch)
    site.register(E)
    asked = Address(local + HOST[-2:]) if local else HOST
    head = expose.TAG.pack(START) + proxy.header(C, asked)
    assert len(head) == 30
    whole = [bytes([number]) * 40 for number in range(6)]
    bursts = [Arrived(C, *train(*whole, tail), local) for tail in (b"end", b"\1", whole[0])]
    bursts += [Arrived(C, b"lone", 4, local)] * 2
    if config.key:
        bursts.append(Arrived(C, b"", 0, local))
    expected = [each for one in bursts for each in split(one.data, one.segment)]
    for _ in range(2):
        assert site.deliver(*bursts) == [(E, head + each) for each in expected]
    assert site.tell(E, tagged(START, b"x"), tagged(START, b"y")) == [(C, b"x"), (C, b"y")]


def test_a_proxy_head_of_ipv6_has_both_addresses_so() -> None:
    site = Site(replace(CONFIG, listen=(HOST_V6,), proxy_protocol=True))
    exposer, connectee = at(5000, "2001:db8::9"), at(4000, "2001:db8::7")
    site.register(exposer)
    ((_, data),) = site.tell(connectee, b"x")
    assert data == expose.TAG.pack(START) + proxy.header(connectee, HOST_V6) + b"x"


@both
def test_answers_leave_by_the_listener_and_address_that_were_asked(batch: bool) -> None:
    site = Site(replace(CONFIG, listen=(HOST, HOST_V6)), batch=batch)
    v6, one, other = at(4000, "2001:db8::7"), bytes([203, 0, 113, 1]), bytes([203, 0, 113, 2])
    site.deliver(Arrived(E, b"", 0, other))
    found = {}
    for who, local, listener in ((C, one, 0), (C, other, 0), (v6, b"", 1)):
        ((to, data),) = site.deliver(Arrived(who, b"x", 1, local), listener=listener)
        (sent,) = site.loops[0].sent
        assert (to, sent.endpoint, sent.source) == (E, site.endpoints[0], other)
        found[int.from_bytes(data[:2], "big")] = who, local, site.endpoints[listener]
    assert len(found) == 3, "one that asked two addresses is two"
    for tag, (who, local, endpoint) in found.items():
        site.deliver(*[Arrived(E, tagged(tag, b"x"), 3, other)] * 2)
        assert {sent for sent in site.loops[0].sent} == {(endpoint, who, b"x", local)}


# --- any course ------------------------------------------------------------------------------

SOURCES = (C, D, E, E2, at(4001), at(7, "192.0.2.1"))
LENGTHS = (1, 2, 3, 20, len(signed()))
heads = st.sampled_from(
    [tagged(START + n, b"") for n in range(-1, 4)] + [b"ey", expose.SIGNED, signed(), b"", b"\0"]
)


@st.composite
def bursts(draw: st.DrawFn) -> Arrived:
    source, size = draw(st.sampled_from(SOURCES)), draw(st.sampled_from(LENGTHS))
    if not draw(st.integers(0, 9)):
        return Arrived(source, b"", 0)
    filler = draw(st.integers(0, 255).map(lambda n: bytes([n]) * size))
    datagrams = draw(st.lists(heads.map(lambda head: (head + filler)[:size]), min_size=1,
                              max_size=5))  # fmt: skip
    tail = draw(st.integers(1, size))
    return Arrived(source, *train(*datagrams[:-1], datagrams[-1][:tail]))


courses = st.lists(
    st.tuples(st.lists(bursts(), max_size=8), st.sampled_from((0.0, 0.3, 12.0, 40.0))),
    max_size=12,
)


def cut(wake_up: Sequence[Arrived]) -> Iterator[List[Arrived]]:
    """After each empty datagram, which may be another exposer's: who is sent what came in the same
    wake-up behind it, the former or the new one, is all the same."""
    some: List[Arrived] = []
    for one in wake_up:
        some.append(one)
        if not one.data:
            yield some
            some = []
    yield some


@guarded
@pytest.mark.parametrize("proxied", [False, True])
@settings(max_examples=40)
@given(course=courses)
def test_batches_and_bursts_are_two_ways_to_say_the_same(
    config: HelperConfig, proxied: bool, course: Sequence[Tuple[List[Arrived], float]]
) -> None:
    config = replace(config, proxy_protocol=proxied, max_clients=2, rate=40, idle=30.0)
    sites = [Site(config, batch=batch) for batch in (False, True)]
    for site in sites:
        site.register(E)
    for wake_up, pause in course:
        for some in cut(wake_up):
            one, other = (said(site.deliver(*some)) for site in sites)
            assert one == other
        for site in sites:
            site.pass_time(pause)
    assert bytes(sites[0].memory.figures) == bytes(sites[1].memory.figures)
    assert sites[0].counted() == sites[1].counted()
    assert sites[0].asked == sites[1].asked


@guarded
@both
@settings(max_examples=40)
@given(course=courses)
def test_each_datagram_is_passed_or_answered_or_counted(
    config: HelperConfig, batch: bool, course: Sequence[Tuple[List[Arrived], float]]
) -> None:
    site = Site(replace(config, max_clients=2, rate=40, idle=30.0), batch=batch)
    site.register(E)
    before = figures.Figures(site.memory.figures, 0, 1).totals(0.0)
    said_before = site.counted()
    for wake_up, pause in course:
        site.deliver(*wake_up)
        site.pass_time(pause)
    site.pass_time(2.0)
    came = sum(len(split(one.data, one.segment)) for wake_up, _ in course for one in wake_up)
    after = figures.Figures(site.memory.figures, 0, 1).totals(0.0)
    counted = site.counted() - said_before
    told = Counter({name: after[name] - before[name] for name in after if name[-2:] != "_s"})
    keepalives = told["signed_looking"] + told["simple_keepalives"]
    dropped = sum(
        count for name, count in counted.items()
        if name.startswith("dropped: ") and "keepalives" not in name
        and name not in ("dropped: unknown name", "dropped: wrong signature")
    )  # fmt: skip
    lost = told["dwarfs"] + told["ch_not_founds"] + told["dropped_no_client_address"]
    carried = told["from_connectee_msgs"] + told["from_client_msgs"]
    assert came == carried + keepalives + dropped + lost
    assert counted["datagrams"] == carried
    assert site.loops[0].troubles == 0
