"""An exposer in memory, between a helper and a service that the tests play."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any, Dict, List, Optional, Sequence, Tuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.virtual.memory_loop import Arrived, MemoryLoop, split, train
from udppunch import address
from udppunch.address import Address
from udppunch.config.roles import ExposeConfig, role_config
from udppunch.contract import Endpoint, Lookup
from udppunch.errors import CommandError
from udppunch.notices import TRACE
from udppunch.proto.expose.eviction import PROTECTED
from udppunch.role.expose import Expose
from udppunch.wire import expose

KEY = bytes(range(32))
HELPER = address.pack("203.0.113.10", 6000)
OTHER = address.pack("203.0.113.11", 6000)
SERVICE = address.pack("127.0.0.1", 7000)
MOST_WAITING = 32
RAW = {"local": "127.0.0.1:7000", "helper": ["203.0.113.10:6000"]}
CONFIG: ExposeConfig = role_config("expose", RAW, {})
SIGNED_CONFIG = replace(CONFIG, key=KEY)
REGISTERED = expose.encode(expose.Registered(), KEY)


def retry(nonce: int = 7, key: bytes = KEY) -> bytes:
    return expose.encode(expose.Retry(nonce), key)


def tagged(tag: int, payload: bytes) -> bytes:
    return expose.TAG.pack(tag) + payload


class Site:
    """An exposer of one or several helpers. `names` are those that can be resolved."""

    def __init__(
        self,
        config: ExposeConfig = CONFIG,
        *,
        batch: bool = False,
        slow: bool = False,
        names: Optional[Dict[str, List[str]]] = None,
        inherited: Sequence[str] = (),
    ) -> None:
        self.now = 1000.0
        self.batch = batch
        self.full = False
        self.slow = slow  # sockets are not opened yet
        self.names = names or {}
        self.loop = MemoryLoop()
        self.role = self.loop.role = Expose(config, self.loop.outbox, lambda count: bytes(count))
        self.endpoints: List[Endpoint] = []  # all that were ever opened
        self.resolved: List[str] = []
        self.not_inherited = self.role.inherit(inherited)
        self.call(self.role.start, self.now)

    def call(self, method: Any, *arguments: Any) -> None:
        self.loop.call(method, *arguments)
        waiting, postponed = self.loop.requests(), []
        while waiting:
            verb, subject = waiting.pop(0)
            if verb == "open" and self.slow:
                postponed.append(subject)
                continue
            self._do(verb, subject)
            waiting += self.loop.requests()
        for endpoint in postponed:
            self.loop.outbox.open(endpoint)

    def _do(self, verb: str, subject: Any) -> None:
        if verb == "resolve":
            self.resolved.append(subject.host)
            found = [
                address.pack(ip, subject.port)
                for ip in self.names.get(subject.host, [subject.host])
            ]
            self.loop.call(self.role.resolved, subject, found, "no such name", self.now)
        elif verb == "close":
            self.loop.close(subject)
        elif self.full:
            self.loop.call(self.role.failed, subject, "too many open files", self.now)
        else:
            self.endpoints.append(subject)
            self.loop.open(subject, address.with_port(subject.bind, 40000 + len(self.endpoints)))
            self.loop.call(self.role.opened, subject, self.now)

    def open_now(self) -> None:
        """The sockets that were asked for while it was slow."""
        self.slow = False
        self.call(lambda: None)

    def endpoints_of(self, label: str) -> List[Endpoint]:
        return [e for e in self.endpoints if e.label == label and self.loop.is_open(e)]

    @property
    def helper(self) -> Endpoint:
        return self.endpoints_of("helper")[0]

    def sent(self) -> List[Tuple[Address, bytes]]:
        sent = [(one.destination, one.data) for one in self.loop.sent]
        self.loop.sent.clear()
        return sent

    def deliver(
        self, endpoint: Endpoint, *arrived: Arrived, batch: Optional[bool] = None
    ) -> List[Tuple[Endpoint, bytes]]:
        """By which endpoint what was sent for what came in one wake-up."""
        self.loop.sent.clear()
        batch = self.batch if batch is None else batch
        self.call(self.loop.deliver, endpoint, arrived, self.now, batch)
        sent = [(one.endpoint, one.data) for one in self.loop.sent]
        self.loop.sent.clear()
        return sent

    def tell(
        self, *datagrams: bytes, source: Address = HELPER, endpoint: Optional[Endpoint] = None
    ) -> List[Tuple[Endpoint, bytes]]:
        """What comes from the helper."""
        arrived = [Arrived(source, data, len(data)) for data in datagrams]
        return self.deliver(endpoint or self.helper, *arrived)

    def answer(self, endpoint: Endpoint, *datagrams: bytes) -> List[Tuple[Endpoint, bytes]]:
        """What comes from the service."""
        arrived = [Arrived(SERVICE, data, len(data)) for data in datagrams]
        return self.deliver(endpoint, *arrived)

    def meet(self, tag: int, **more: Any) -> Endpoint:
        """The socket of a connectee, which says something for it."""
        ((endpoint, data),) = self.tell(tagged(tag, b"hello"), **more)
        assert (endpoint.label, data) == ("connectee", b"hello")
        return endpoint

    def pass_time(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end:
            self.now = min(end, max(self.now, self.role.deadline() or end))
            if (self.role.deadline() or end) <= self.now:
                self.call(self.role.expire, self.now)

    def register(self) -> None:
        self.tell(REGISTERED)
        assert self.role.status().startswith("registered with 1 of 1")


both = pytest.mark.parametrize("batch", [False, True], ids=["singly", "batched"])
guarded = pytest.mark.parametrize("config", [CONFIG, SIGNED_CONFIG], ids=["open", "password"])


# --- payload ---------------------------------------------------------------------------------


@both
@guarded
@given(data=st.binary(min_size=1, max_size=3000), segment=st.integers(1, 1500))
def test_payload_passes_both_ways_as_it_is(
    batch: bool, config: ExposeConfig, data: bytes, segment: int
) -> None:
    site = Site(config, batch=batch)
    segment = min(segment, len(data))
    there = b"".join(tagged(0x4142, each) for each in split(data, segment))
    for most in (MOST_WAITING, len(data)):  # of a newcomer, then of a known one
        sent = site.deliver(site.helper, Arrived(HELPER, there, segment + 2))
        (endpoint,) = site.endpoints_of("connectee")
        assert endpoint.remote == SERVICE
        assert sent == [(endpoint, each) for each in split(data, segment)[:most]]
    sent = site.deliver(endpoint, *[Arrived(SERVICE, data, segment)] * 3)
    assert sent == [(site.helper, tagged(0x4142, each)) for each in split(data, segment)] * 3


@both
def test_each_tag_has_a_socket_of_its_own(batch: bool) -> None:
    site = Site(batch=batch)
    tags = [0, 1, 0x0100, 0x6579, 0xFFFF]
    found = {tag: site.meet(tag) for tag in tags}
    assert len(set(found.values())) == len(tags)
    mixed = [tagged(tag, b"%05d" % tag) for tag in tags * 3]
    expected = [(found[tag], b"%05d" % tag) for tag in tags * 3]
    for some in ([Arrived(HELPER, data, 7) for data in mixed], [Arrived(HELPER, *train(*mixed))]):
        assert sorted(site.deliver(site.helper, *some), key=str) == sorted(expected, key=str)
    for tag, endpoint in found.items():
        assert site.answer(endpoint, b"x", b"") == [
            (site.helper, tagged(tag, b"x")), (site.helper, tagged(tag, b"")),
        ]  # fmt: skip


@both
def test_empty_payload_and_what_is_no_payload_at_all(batch: bool) -> None:
    site = Site(batch=batch)
    endpoint = site.meet(5)
    assert site.tell(tagged(5, b""), tagged(5, b"")) == [(endpoint, b"")] * 2
    assert site.tell(b"", b"\0", tagged(5, b"x")) == [(endpoint, b"x")]
    data = train(tagged(5, b"ab"), tagged(5, b"cd"), tagged(5, b""))
    assert site.deliver(site.helper, Arrived(HELPER, *data)) == [
        (endpoint, b"ab"), (endpoint, b"cd"), (endpoint, b""),
    ]  # fmt: skip
    data = train(tagged(5, b"ab"), tagged(5, b"cd"), b"\5")
    assert site.deliver(site.helper, Arrived(HELPER, *data)) == [
        (endpoint, b"ab"), (endpoint, b"cd"),
    ]  # fmt: skip
    assert site.role.counters["dropped: no tag"] == 3
    back = train(b"ab", b"cd", b"e")
    assert site.deliver(endpoint, Arrived(SERVICE, *back)) == [
        (site.helper, tagged(5, each)) for each in (b"ab", b"cd", b"e")
    ]


@both
def test_what_comes_before_a_socket_is_open_waits_in_order(batch: bool) -> None:
    site = Site(batch=batch)
    site.slow = True
    first = [tagged(5, b"%d" % number) for number in range(5)]
    more = train(*(tagged(5, b"%02d" % number) for number in range(10, 50)))
    assert site.tell(*first) == []
    assert site.deliver(site.helper, Arrived(HELPER, *more)) == []
    assert site.tell(tagged(6, b"another")) == []
    site.open_now()
    five, six = site.endpoints_of("connectee")
    sent = [(one.endpoint, one.data) for one in site.loop.sent]
    expected = [b"%d" % number for number in range(5)] + [b"%02d" % n for n in range(10, 50)]
    assert sent == [(five, data) for data in expected[:MOST_WAITING]] + [(six, b"another")]
    assert site.role.counters["dropped: waited too long"] == 45 - MOST_WAITING
    assert site.tell(tagged(5, b"x")) == [(five, b"x")]


@both
def test_only_the_helper_is_listened_to(batch: bool) -> None:
    site = Site(SIGNED_CONFIG, batch=batch)
    endpoint = site.meet(5)
    for source in (OTHER, address.with_port(HELPER, 6001), SERVICE):
        assert site.tell(tagged(5, b"x"), tagged(6, b"x"), REGISTERED, source=source) == []
        data = train(tagged(5, b"x"), tagged(5, b"y"))
        assert site.deliver(site.helper, Arrived(source, *data)) == []
    assert site.endpoints_of("connectee") == [endpoint]
    assert site.role.counters["dropped: not the helper's"] > 0
    assert site.role.status() == "registered with 0 of 1 helpers, 1 connectees"


@both
def test_a_helpers_signed_answers_are_never_payload(batch: bool) -> None:
    """Not even where udpexposer's has issued the tag that they begin with."""
    site = Site(SIGNED_CONFIG, batch=batch)
    endpoint = site.meet(expose.NEVER_A_TAG)
    assert site.tell(b"ey" + b"payload", b"eyJhbGciOiJIUzI1NiJ8.") == [
        (endpoint, b"payload"), (endpoint, b"JhbGciOiJIUzI1NiJ8."),
    ]  # fmt: skip
    ((back, keepalive),) = site.tell(retry(77))
    assert back is site.helper and expose.decode(keepalive) == expose.Keepalive(77)
    other = site.meet(5)
    assert site.tell(b"ey0", tagged(5, b"x"), REGISTERED, b"ey1") == [
        (endpoint, b"0"), (endpoint, b"1"), (other, b"x"),
    ]  # fmt: skip
    assert site.role.status().startswith("registered with 1 of 1")
    site.pass_time(CONFIG.keepalive)
    before = b"ey" + bytes(len(retry(88)) - 2)
    sent = site.deliver(site.helper, Arrived(HELPER, *train(before, before, retry(88), b"ey2")))
    assert [data for by, data in sent if by is endpoint] == [before[2:]] * 2 + [b"2"]
    (keepalive,) = [data for by, data in sent if by is site.helper]
    assert expose.decode(keepalive) == expose.Keepalive(88)


@both
def test_without_a_password_nothing_is_an_answer(batch: bool) -> None:
    site = Site(batch=batch)
    endpoint = site.meet(expose.NEVER_A_TAG)
    for _ in range(2):
        sent = site.tell(REGISTERED, retry())
        assert sent == [(endpoint, REGISTERED[2:]), (endpoint, retry()[2:])]


# --- keepalives ------------------------------------------------------------------------------


def keepalives(site: Site, seconds: float) -> List[float]:
    """How long from now they are said."""
    begun, found = site.now, []
    site.loop.sent.clear()
    while site.now < begun + seconds:
        site.pass_time(min(0.5, begun + seconds - site.now))
        found += [site.now - begun for destination, data in site.sent() if destination == HELPER]
    return found


def test_keepalives_without_a_password_are_empty_and_regular() -> None:
    site = Site(replace(CONFIG, keepalive=20.0))
    assert site.sent() == [(HELPER, b"")]
    keepalives(site, 60.0)
    gaps = keepalives(site, 200.0)
    assert len(gaps) == 10 and {later - sooner for sooner, later in zip(gaps, gaps[1:])} == {20.0}


def test_a_helper_that_asks_for_proof_gets_it_at_once_and_then_rest() -> None:
    site = Site(replace(SIGNED_CONFIG, name="dns", keepalive=20.0))
    ((_, data),) = site.sent()
    assert expose.decode(data) == expose.Keepalive(None, "dns") and expose.is_signed(data, KEY)
    ((_, data),) = site.tell(retry(12345))
    assert expose.decode(data) == expose.Keepalive(12345, "dns") and expose.is_signed(data, KEY)
    assert site.tell(REGISTERED) == []
    assert site.role.status() == "registered with 1 of 1 helpers, 0 connectees"
    assert keepalives(site, 19.5) == [] and keepalives(site, 0.5) == [0.5]


def test_what_has_a_wrong_mac_is_no_answer() -> None:
    site = Site(SIGNED_CONFIG)
    other = bytes(32)
    assert site.tell(retry(key=other), expose.encode(expose.Registered(), other)) == []
    assert site.tell(REGISTERED + b"x", REGISTERED[:-1], expose.SIGNED) == []
    assert site.role.status() == "registered with 0 of 1 helpers, 0 connectees"


def test_a_silent_helper_is_looked_up_again_and_that_is_said_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "udppunch")
    config = replace(SIGNED_CONFIG, helper=(Lookup("helper.example", 6000),))
    site = Site(config, names={"helper.example": ["203.0.113.10"]})
    site.register()
    former = site.helper
    site.names["helper.example"] = ["203.0.113.11"]
    site.pass_time(CONFIG.keepalive + 2.0)
    assert site.helper is former
    site.sent()
    site.pass_time(2.0)
    assert site.helper is not former and not site.loop.is_open(former)
    assert OTHER in [destination for destination, _ in site.sent()], "and asked at once"
    assert site.role.status().startswith("registered with 0 of 1")
    site.tell(REGISTERED, source=OTHER)
    assert site.role.status().startswith("registered with 1 of 1")
    site.pass_time(CONFIG.keepalive + 300.0)
    site.tell(REGISTERED, source=OTHER)
    said = [record.event for record in caplog.records]  # type: ignore[attr-defined]
    assert said == ["registered", "silent", "registered", "silent", "registered"]


def test_a_helper_elsewhere_is_asked_at_once() -> None:
    config = replace(SIGNED_CONFIG, helper=(Lookup("helper.example", 6000),))
    site = Site(config, names={"helper.example": ["203.0.113.10"]})
    site.register()
    lookup = config.helper[0]
    site.sent()
    site.call(site.role.resolved, lookup, [OTHER], "", site.now)
    ((destination, keepalive),) = site.sent()
    assert destination == OTHER and expose.decode(keepalive) == expose.Keepalive(None)
    assert site.role.status().startswith("registered with 0 of 1"), "which it has to say anew"
    site.tell(REGISTERED, retry(), source=HELPER)
    assert site.role.status().startswith("registered with 0 of 1")
    site.call(site.role.resolved, lookup, [OTHER], "", site.now)
    assert site.sent() == [], "it is where it was"


def test_names_that_are_unknown() -> None:
    with pytest.raises(CommandError, match="no such name"):
        Site(replace(CONFIG, helper=(Lookup("nowhere", 6000),)), names={"nowhere": []})
    with pytest.raises(CommandError, match="no such name"):
        Site(replace(CONFIG, local=Lookup("nowhere", 6000)), names={"nowhere": []})
    two = (Lookup("nowhere", 6000), Lookup("203.0.113.11", 6000))
    site = Site(replace(CONFIG, helper=two), names={"nowhere": []})
    assert site.sent() == [(OTHER, b"")], "the others are served"
    site.names["nowhere"] = ["203.0.113.10"]
    site.pass_time(60.0)
    assert {destination for destination, _ in site.sent()} == {HELPER, OTHER}


def test_several_helpers_are_apart() -> None:
    site = Site(replace(SIGNED_CONFIG, helper=(*CONFIG.helper, Lookup("203.0.113.11", 6000))))
    one, other = site.endpoints_of("helper")
    first = site.meet(5, endpoint=one)
    second = site.meet(5, source=OTHER, endpoint=other)
    assert first is not second
    assert site.answer(first, b"x") == [(one, tagged(5, b"x"))]
    assert site.answer(second, b"x") == [(other, tagged(5, b"x"))]
    assert site.tell(tagged(5, b"x"), source=OTHER, endpoint=one) == []
    site.tell(REGISTERED, source=OTHER, endpoint=other)
    assert site.role.status() == "registered with 1 of 2 helpers, 2 connectees"
    assert site.role.gauges() == {"connectees": 2}


def test_a_socket_towards_the_helper_that_cannot_be_had_is_tried_for_again() -> None:
    site = Site(SIGNED_CONFIG)
    site.full = True
    former = site.helper
    site.names["203.0.113.10"] = ["203.0.113.11"]
    site.pass_time(30.0)
    assert not site.loop.is_open(former) and site.endpoints_of("helper") == []
    site.full = False
    site.sent()
    site.pass_time(2.0)
    assert OTHER in [destination for destination, _ in site.sent()]


# --- connectees ------------------------------------------------------------------------------


@both
def test_the_idle_are_forgotten_and_who_is_heard_on_either_side_is_not(batch: bool) -> None:
    site = Site(replace(CONFIG, idle=30.0), batch=batch)
    asks, answers, quiet = (site.meet(tag) for tag in (1, 2, 3))
    for _ in range(5):
        site.pass_time(20.0)
        site.tell(tagged(1, b"x"), tagged(1, b"x"))
        site.answer(answers, b"x", b"y")
    assert site.endpoints_of("connectee") == [asks, answers]
    assert site.role.counters["connectees idle"] == 1
    assert site.meet(3) is not quiet
    site.pass_time(29.0)
    assert len(site.endpoints_of("connectee")) == 3
    site.pass_time(3.0)
    assert site.endpoints_of("connectee") == [] and site.role.gauges() == {"connectees": 0}
    data = train(tagged(1, b"ab"), tagged(2, b"cd"), tagged(1, b"ef"))
    sent = site.deliver(site.helper, Arrived(HELPER, *data))
    assert [each for _, each in sent] == [b"ab", b"ef", b"cd"]
    assert len({endpoint for endpoint, _ in sent}) == 2, "as newcomers"


def test_whom_the_service_never_answered_makes_room() -> None:
    site = Site(replace(CONFIG, max_clients=8))
    talkers = {tag: site.meet(tag) for tag in range(1, 5)}
    for number in range(1000):
        if number % 40 == 0:
            for endpoint in talkers.values():
                site.answer(endpoint, b"x")
            site.pass_time(1.0)
        site.meet(100 + number)
    assert set(site.endpoints_of("connectee")) > set(talkers.values())
    assert site.role.gauges() == {"connectees": 8}
    for tag, endpoint in talkers.items():
        assert site.tell(tagged(tag, b"x")) == [(endpoint, b"x")]
    assert site.role.counters["connectees evicted"] == 1000 - 4


@both
def test_where_all_talk_a_newcomer_waits(batch: bool) -> None:
    site = Site(replace(CONFIG, max_clients=2), batch=batch)
    one, other = site.meet(1), site.meet(2)
    for endpoint in (one, other):
        site.answer(endpoint, b"x")
    assert site.tell(tagged(3, b"x"), tagged(3, b"y")) == []
    assert site.role.counters["dropped: no room for a connectee"] == 2
    site.pass_time(PROTECTED / 2)
    site.answer(one, b"x")
    site.pass_time(PROTECTED / 2 + 1.0)
    site.meet(3)
    assert one in site.endpoints_of("connectee") and other not in site.endpoints_of("connectee")


def test_who_has_gone_before_its_socket_was_open_gets_none() -> None:
    site = Site(replace(CONFIG, max_clients=1))
    site.slow = True
    site.tell(tagged(1, b"x"), tagged(2, b"y"))
    site.open_now()
    (endpoint,) = site.endpoints_of("connectee")
    assert [(one.endpoint, one.data) for one in site.loop.sent] == [(endpoint, b"y")]


def test_a_connectee_for_whom_there_is_no_socket_is_a_newcomer_the_next_time() -> None:
    site = Site(replace(CONFIG, max_clients=2))
    site.full = True
    for number in range(100):
        assert site.tell(tagged(number, b"x"), tagged(1, b"y")) == []
    assert site.role.gauges() == {"connectees": 0}
    site.full = False
    assert site.answer(site.meet(1), b"x") == [(site.helper, tagged(1, b"x"))]


def test_a_service_that_refuses_is_looked_up_again_and_goes_on() -> None:
    config = replace(CONFIG, local=Lookup("service.example", 7000))
    site = Site(config, names={"service.example": ["127.0.0.1"]})
    endpoint = site.meet(1)
    site.pass_time(20.0)
    site.call(site.role.refused, endpoint, site.now)
    assert site.tell(tagged(1, b"x")) == [(endpoint, b"x")]
    assert site.role.counters["refused by the service"] == 1
    site.names["service.example"] = ["127.0.0.2"]
    site.pass_time(20.0)
    site.call(site.role.refused, endpoint, site.now)
    elsewhere = site.meet(1)
    assert elsewhere.remote == address.pack("127.0.0.2", 7000)


def test_a_service_of_ipv6_and_a_helper_of_ipv6() -> None:
    raw = {"local": "[::1]:7000", "helper": ["[2001:db8::10]:6000"]}
    site = Site(role_config("expose", raw, {}))
    helper = address.pack("2001:db8::10", 6000)
    assert site.sent() == [(helper, b"")]
    endpoint = site.meet(1, source=helper)
    assert endpoint.remote == address.pack("::1", 7000) and len(endpoint.bind) == 18


# --- any course ------------------------------------------------------------------------------

TAGS = (b"\0\1", b"\0\2", b"\0\3", b"ey", b"\0", b"")
LENGTHS = (1, 2, 3, 20, len(REGISTERED), len(retry()))
heads = st.sampled_from([*TAGS, expose.SIGNED, REGISTERED, retry(), retry(key=bytes(32))])


@st.composite
def bursts(draw: st.DrawFn) -> Tuple[int, Arrived]:
    """Of the helper's at 0, or of the service's to one of the sockets."""
    where = draw(st.sampled_from((0, 0, 0, 1, 2)))
    source = draw(st.sampled_from((HELPER, HELPER, HELPER, OTHER))) if not where else SERVICE
    if not draw(st.integers(0, 9)):
        return where, Arrived(source, b"", 0)
    size = draw(st.sampled_from(LENGTHS))
    filler = draw(st.integers(0, 255).map(lambda n: bytes([n]) * size))
    datagrams = draw(
        st.lists(heads.map(lambda head: (head + filler)[:size]), min_size=1, max_size=5)
    )
    tail = draw(st.integers(1, size))
    return where, Arrived(source, *train(*datagrams[:-1], datagrams[-1][:tail]))


courses = st.lists(
    st.tuples(st.lists(bursts(), max_size=8), st.sampled_from((0.0, 0.3, 12.0, 40.0))),
    max_size=12,
)


def run(site: Site, wake_up: Sequence[Tuple[int, Arrived]]) -> List[List[Tuple[int, bytes]]]:
    """What was sent, socket by socket, each by the number of its endpoint."""
    found = []
    for where in range(3):
        some = [one for number, one in wake_up if number == where]
        open_ = [site.helper, *site.endpoints_of("connectee")]
        if some and where < len(open_):
            sent = site.deliver(open_[where], *some)
            found.append([(site.endpoints.index(endpoint), data) for endpoint, data in sent])
    return [sorted(one) for one in found]


@guarded
@settings(max_examples=60)
@given(course=courses)
def test_batches_and_bursts_are_two_ways_to_say_the_same(
    config: ExposeConfig, course: Sequence[Tuple[List[Tuple[int, Arrived]], float]]
) -> None:
    config = replace(config, max_clients=2, idle=30.0)
    sites = [Site(config, batch=batch) for batch in (False, True)]
    for wake_up, pause in course:
        one, other = (run(site, wake_up) for site in sites)
        assert one == other
        for site in sites:
            site.pass_time(pause)
    assert sites[0].role.counters == sites[1].role.counters
    assert sites[0].role.status() == sites[1].role.status()


def test_no_log_line_has_a_password_or_payload(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(TRACE, "udppunch")
    site = Site(SIGNED_CONFIG)
    site.tell(tagged(1, b"hunter2"), source=OTHER)
    site.call(site.role.refused, site.meet(1), site.now)
    site.register()
    site.full = True
    site.tell(tagged(2, b"hunter2"))
    site.pass_time(60.0)
    assert {record.levelno for record in caplog.records} >= {TRACE, logging.INFO, logging.WARNING}
    lines = "".join(str(vars(record)).lower() for record in caplog.records)
    for secret in ("hunter2", KEY.hex(), repr(KEY), "eyj"):
        assert secret.lower() not in lines
    assert repr(KEY) not in repr(SIGNED_CONFIG)


# --- sockets that outlive it ------------------------------------------------------------


def one(source: Address, data: bytes) -> Arrived:
    return Arrived(source, data, len(data))


def handed_over(site: Site) -> List[str]:
    return [e.handed_over_as for e in site.endpoints if site.loop.is_open(e)]


def site_of_two(config: ExposeConfig = CONFIG) -> Site:
    site = Site(config)
    for tag in (5, 60000):
        site.deliver(site.helper, one(HELPER, tagged(tag, b"hello")))
    return site


def test_all_its_sockets_have_names_of_their_own() -> None:
    helpers = (*CONFIG.helper, Lookup("203.0.113.11", 6000))
    names = handed_over(site_of_two(replace(CONFIG, helper=helpers)))
    assert len(names) == len(set(names)) == 4 and "" not in names
    assert all(name.replace("-", "").isalnum() for name in names)


def test_connectees_go_on_by_the_sockets_they_had() -> None:
    names = handed_over(site_of_two())
    site = Site(inherited=names)
    assert site.not_inherited == [] and sorted(handed_over(site)) == sorted(names)
    by_name = {endpoint.handed_over_as: endpoint for endpoint in site.endpoints}
    former = {e.handed_over_as: tag for e, tag in zip(site_of_two().endpoints[1:], (5, 60000))}
    for name, tag in former.items():
        sent = site.deliver(site.helper, one(HELPER, tagged(tag, b"to")))
        assert sent == [(by_name[name], b"to")]
        sent = site.deliver(by_name[name], one(SERVICE, b"fro"))
        assert sent == [(site.helper, tagged(tag, b"fro"))]
    assert site.role.counters["connectees new"] == 0 and site.role.gauges() == {"connectees": 2}


def test_no_more_connectees_go_on_than_there_may_be() -> None:
    site = Site(replace(CONFIG, max_clients=1), inherited=handed_over(site_of_two()))
    assert site.role.gauges() == {"connectees": 1}


@pytest.mark.parametrize(
    "other",
    [
        replace(CONFIG, local=Lookup("127.0.0.1", 7001)),
        replace(CONFIG, helper=(Lookup("203.0.113.11", 6000),)),
        replace(CONFIG, name="web"),
        replace(CONFIG, bind=address.pack("127.0.0.1", 0)),
    ],
    ids=["service", "helper", "name", "bind"],
)
def test_an_exposer_of_other_places_takes_none_of_them(other: ExposeConfig) -> None:
    names = handed_over(site_of_two())
    site = Site(other, inherited=names)
    assert site.not_inherited == names and not set(handed_over(site)) & set(names)


def test_sockets_of_others_are_left_to_them() -> None:
    names = ["serve-0a1b2c3d", "expose-", "expose-00000000-5"]
    assert Site(inherited=names).not_inherited == names


def test_the_first_keepalive_waits_for_its_socket_and_no_longer() -> None:
    site = Site(slow=True)
    for _ in range(3):
        site.call(site.role.expire, site.now)
        assert site.sent() == []
        site.now += 0.01
    site.open_now()
    assert site.sent() == [(HELPER, b"")]
