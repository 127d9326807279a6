"""A published service as one worker knows it: its exposer, the ways back, and what passed."""

from __future__ import annotations

from collections import Counter
from typing import Dict, List

from udppunch import address
from udppunch.address import Address
from udppunch.contract import Endpoint, Route, word
from udppunch.proto.expose.connectees import COUNTS, Connectees
from udppunch.proto.expose.figures import OCTETS, Figures
from udppunch.proto.expose.service import Service, WayBack, proxy_head
from udppunch.proto.expose.tags import SHARED_OCTETS, Connectee, Shared
from udppunch.wire.registrar import Peer

V4, V6 = address.pack("203.0.113.10", 6000), address.pack("2001:db8::10", 6001)
EXPOSER = Peer(address.pack("192.0.2.9", 5000), 0, 0, bytes([203, 0, 113, 10]))
C = Connectee(address.pack("198.51.100.7", 4000), bytes([203, 0, 113, 10]))
D = Connectee(address.pack("2001:db8::7", 4000), b"")
TAG = 0x0102
START = word(b"\x01\x02")


def endpoint(bind: Address) -> Endpoint:
    made = Endpoint("helper", bind)
    made.local = bind
    return made


def service(*binds: Address) -> Service:
    shared = Shared(memoryview(bytearray(SHARED_OCTETS)))
    counts = memoryview(bytearray(4 * COUNTS)).cast("I")
    connectees = Connectees(shared, counts, 0, 64, 1, lambda who: b"", 0.0)
    made = Service(0, "", shared, connectees)
    made.endpoints += [endpoint(bind) for bind in binds or (V4,)]
    return made


def way(subject: Service) -> WayBack:
    found = subject.way_back(START, TAG)
    assert found is not None and found.tag == TAG
    assert subject.ways_back[START] is found
    return found


def where(route: Route) -> "tuple[Address | None, bytes]":
    return route.destination, route.source


def carry(route: Route, datagrams: int, octets: int) -> None:
    """As the loop counts what was accepted."""
    route.datagrams += datagrams
    route.octets += octets


def test_it_is_the_exposers_who_is_reached_as_it_reached_us() -> None:
    subject = service(V4, V6)
    assert subject.exposer is None and subject.to_exposer is None
    for number in (1, 0):
        subject.publish(EXPOSER, subject.endpoints[number])
        assert subject.exposer == EXPOSER and subject.to_exposer is not None
        assert where(subject.to_exposer) == (EXPOSER.address, EXPOSER.local)
        assert subject.to_exposer.endpoint is subject.endpoints[number]
    subject.retire()
    assert subject.exposer is None and subject.to_exposer is None


def test_it_has_a_name_for_people() -> None:
    assert str(service()) == "the service"
    named = service()
    named.name = "dns"
    assert str(named) == "service dns"


def test_the_way_back_is_made_once_and_for_as_long_as_the_slot_stays() -> None:
    subject = service()
    assert subject.way_back(START, TAG) is None and not subject.ways_back
    subject.shared.give(TAG, C)
    found = way(subject)
    assert where(found.route) == C and found.route.endpoint is subject.endpoints[0]
    assert way(subject) is found
    subject.shared.give(TAG + 1, D)
    assert way(subject) is found, "another slot's matter"


def test_who_has_the_tag_next_gets_a_way_of_its_own() -> None:
    subject = service(V4, V6)
    subject.shared.give(TAG, C)
    former = way(subject)
    subject.shared.write(TAG, None)
    assert subject.way_back(START, TAG) is None
    subject.shared.give(TAG, D)
    latter = way(subject)
    assert latter is not former and where(latter.route) == D
    assert where(former.route) == C, "what is to be sent by it goes to whom it was meant for"
    subject.shared.give(TAG, D)
    assert way(subject) is not latter, "the same address, later, is another connectee"


def test_the_way_back_is_by_the_endpoint_of_the_connectees_family() -> None:
    subject = service(V4, V6)
    found: Dict[int, List[Endpoint]] = {}
    for number, connectee in enumerate((C, D), 5):
        subject.shared.give(number, connectee)
        made = subject.way_back(word(bytes([0, number])), number)
        assert made is not None
        found[number] = [made.route.endpoint]
    assert found == {5: [subject.endpoints[0]], 6: [subject.endpoints[1]]}


def test_what_was_sent_back_is_the_holders_account_and_no_later_ones() -> None:
    subject = service()
    figures, counters = Figures(memoryview(bytearray(OCTETS)), 0, 1), Counter[str]()
    subject.shared.give(TAG, C)
    carry(way(subject).route, 2, 100)
    subject.count(figures, counters, 1.0)
    assert subject.shared.returned(TAG) == (2, 100)
    subject.count(figures, counters, 2.0)
    assert subject.shared.returned(TAG) == (2, 100), "once"
    former = way(subject)
    carry(former.route, 1, 7)
    subject.shared.write(TAG, None)
    subject.shared.give(TAG, D)
    assert way(subject) is not former
    assert subject.shared.returned(TAG) == (0, 0)
    carry(way(subject).route, 3, 30)
    subject.count(figures, counters, 3.0)
    assert subject.shared.returned(TAG) == (3, 30)
    carry(way(subject).route, 4, 40)
    subject.shared.give(TAG, C)
    subject.count(figures, counters, 4.0)
    assert subject.shared.returned(TAG) == (0, 0), "what was for the one before"


def test_what_passed_is_counted_once_and_moments_are_of_what_passed() -> None:
    subject = service()
    figures, counters = Figures(memoryview(bytearray(OCTETS)), 0, 1), Counter[str]()
    subject.count(figures, counters, 1.0)
    assert not any(figures.totals(0.0).values()) and not counters
    subject.from_connectees[:] = 3, 300
    subject.count(figures, counters, 5.0)
    subject.from_connectees[0] += 1  # an empty one
    subject.from_exposer[:] = 2, 50
    subject.count(figures, counters, 9.0)
    subject.count(figures, counters, 20.0)
    totals = {name: count for name, count in figures.totals(0.0).items() if count}
    assert totals == {
        "from_connectee_msgs": 4, "from_connectee_bytes": 300, "from_client_msgs": 2,
        "from_client_bytes": 50, "last_connectee_s": 9, "last_client_s": 9,
    }  # fmt: skip
    assert counters == {"datagrams": 6, "octets": 350}


def test_golden_proxy_heads() -> None:
    signature = "0d0a0d0a000d0a515549540a"
    host = "cb00710a"  # 203.0.113.10
    asked = "cb007163"  # 203.0.113.99
    one = Connectee(C.address, b"")
    assert proxy_head(False, endpoint(V4), one) == b""
    assert proxy_head(True, endpoint(V4), one).hex() == (
        signature + "2112000c" + "c6336407" + host + "0fa0" + "1770"
    )
    other = Connectee(C.address, bytes.fromhex(asked))
    assert proxy_head(True, endpoint(address.pack("0.0.0.0", 6000)), other).hex() == (
        signature + "2112000c" + "c6336407" + asked + "0fa0" + "1770"
    )
    assert proxy_head(True, endpoint(V6), D).hex() == (
        signature + "21220024" + D.address[:-2].hex() + V6[:-2].hex() + "0fa0" + "1771"
    )
