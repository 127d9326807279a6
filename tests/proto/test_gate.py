"""The gate of a rendezvous: lengths, families, services, loops and floods, by the rule of each."""

from __future__ import annotations

import logging
from collections import Counter
from typing import List

import pytest
from hypothesis import given
from hypothesis import strategies as st

from udppunch import address
from udppunch.address import Address
from udppunch.contract import Burst
from udppunch.proto.gate import Gate

RATE = 10.0
LONGEST = 300
HERE = address.pack("203.0.113.10", 9001)
NEIGHBOURS = [address.pack(f"198.51.100.{number}", 4000) for number in range(1, 200)]
FAR = address.pack("192.0.2.9", 4000)


def gate() -> Gate:
    made = Gate(RATE, LONGEST, Counter(), logging.getLogger(__name__))
    made.own.append(HERE)
    return made


def refuses(
    subject: Gate, source: Address, octets: int = 20, known: bool = False, now: float = 0.0
) -> bool:
    burst = Burst()
    burst.source = source
    return subject.refuses(burst, memoryview(bytes(octets)), known, now)


@pytest.mark.parametrize(
    "source,octets,reason",
    [
        (FAR, 0, "length"),
        (FAR, LONGEST + 1, "length"),
        (address.pack("2001:db8::1", 4000), 20, "not IPv4"),
        (HERE, 20, "source port"),
        *[(address.with_port(FAR, port), 20, "source port") for port in (0, 7, 19, 53, 123)],
    ],
)
def test_what_is_not_looked_at(source: Address, octets: int, reason: str) -> None:
    subject = gate()
    for known in (False, True):
        assert refuses(subject, source, octets, known)
    assert subject._counters == {f"dropped: {reason}": 2}


def test_a_protocol_that_carries_ipv6_has_it_let_in_by_its_network() -> None:
    subject = Gate(RATE, LONGEST, Counter(), logging.getLogger(__name__), ipv4_only=False)
    sources = [address.pack(f"2001:db8:0:{number:x}::1", 4000) for number in range(200)]
    assert [refuses(subject, source) for source in sources].count(False) == 2 * RATE
    assert not refuses(subject, address.pack("2001:db8:1::1", 4000))


@pytest.mark.parametrize("octets", [1, LONGEST])
def test_what_is(octets: int) -> None:
    subject = gate()
    assert not refuses(subject, FAR, octets)
    assert not refuses(subject, address.with_port(HERE, 4000), octets)
    assert not subject._counters


def test_a_network_has_its_rate_and_the_next_another() -> None:
    subject = gate()
    let_in = [source for source in NEIGHBOURS if not refuses(subject, source)]
    assert len(let_in) == 2 * RATE
    assert not refuses(subject, FAR)
    later = [source for source in NEIGHBOURS if not refuses(subject, source, now=1.0)]
    assert len(later) == RATE


def test_a_flood_from_next_door_leaves_the_known_their_own_share() -> None:
    subject = gate()
    for source in NEIGHBOURS:
        refuses(subject, source)
    assert refuses(subject, NEIGHBOURS[0])
    known = [refuses(subject, NEIGHBOURS[0], known=True) for _ in range(40)]
    assert known.count(False) == 2 * RATE
    assert not refuses(subject, NEIGHBOURS[1], known=True)


@given(
    st.lists(
        st.tuples(st.sampled_from([FAR, *NEIGHBOURS[:3]]), st.floats(0, 0.5)),
        max_size=300,
    )
)
def test_no_network_gets_more_than_its_rate(steps: "List[tuple[Address, float]]") -> None:
    subject, now = gate(), 0.0
    let_in: "Counter[bytes]" = Counter()
    for source, pause in steps:
        now += pause
        let_in[address.prefix(source)] += not refuses(subject, source, now=now)
    assert all(count <= 2 * RATE + RATE * now + 1e-6 for count in let_in.values())
