"""Nonces: good for one address and ten seconds, for every worker, and not to be made up."""

from __future__ import annotations

import hmac
from typing import Any, List, Tuple

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from udppunch import address
from udppunch.address import Address
from udppunch.proto import cookie
from udppunch.wire import expose

SECRET = bytes(range(cookie.SECRET))
LASTS = 10
EXPOSER = address.pack("198.51.100.2", 40000)

ips = st.ip_addresses().map(str)
addresses = st.builds(address.pack, ips, st.integers(0, 65535))
secrets = st.binary(min_size=cookie.SECRET, max_size=cookie.SECRET)
# The clock of the loop, from a start of the host on, for some thirty years.
times = st.floats(0, 1e9)
nonces = st.integers(0, expose.NONCE_MAXIMUM)


@given(secrets, addresses, times, st.floats(0, LASTS - 0.001))
def test_it_is_good_for_ten_seconds(
    secret: bytes, source: Address, now: float, later: float
) -> None:
    nonce = cookie.issue(secret, source, now)
    assert cookie.is_good(secret, nonce, source, now)
    assert cookie.is_good(secret, nonce, source, now + later)


@given(times)
def test_it_may_have_been_issued_a_second_ahead(now: float) -> None:
    """By a worker that read the clock a moment later."""
    nonce = cookie.issue(SECRET, EXPOSER, now + 1)
    assert cookie.is_good(SECRET, nonce, EXPOSER, now)
    nonce = cookie.issue(SECRET, EXPOSER, now + 2.001)
    assert not cookie.is_good(SECRET, nonce, EXPOSER, now)


@given(times, st.floats(LASTS + 1.001, 1e9))
@example(0.0, LASTS + 1.0)
@example(100.0, 2.0**15)
@example(100.0, 2.0**15 - 1)
@example(100.0, 2.0**15 + LASTS)
@example(100.0, 2.0**16)
@example(100.0, 2.0**31)
def test_it_expires_for_good(now: float, later: float) -> None:
    assert not cookie.is_good(SECRET, cookie.issue(SECRET, EXPOSER, now), EXPOSER, now + later)


@given(addresses, addresses, times)
def test_it_is_for_one_address(source: Address, other: Address, now: float) -> None:
    nonce = cookie.issue(SECRET, source, now)
    assert cookie.is_good(SECRET, nonce, other, now) is (source == other)


@given(addresses, st.integers(1, 65535), times)
def test_it_is_for_one_port(source: Address, distance: int, now: float) -> None:
    other = address.with_port(source, (address.port(source) + distance) % 65536)
    assert not cookie.is_good(SECRET, cookie.issue(SECRET, source, now), other, now)


@given(secrets, secrets, times)
def test_another_helpers_is_refused(secret: bytes, other: bytes, now: float) -> None:
    assume(secret != other)
    assert not cookie.is_good(other, cookie.issue(secret, EXPOSER, now), EXPOSER, now)


@given(addresses, times)
def test_no_bit_of_it_can_be_changed(source: Address, now: float) -> None:
    nonce = cookie.issue(SECRET, source, now)
    for bit in range(64):
        assert not cookie.is_good(SECRET, nonce ^ 1 << bit, source, now), f"bit {bit}"


@given(nonces, times)
@example(0, 0.0)
@example(expose.NONCE_MAXIMUM, 1.0)
def test_any_number_is_refused(nonce: int, now: float) -> None:
    assert not cookie.is_good(SECRET, nonce, EXPOSER, now)


@given(nonces.map(lambda nonce: nonce & (1 << 48) - 1), times)
def test_the_right_time_alone_is_not_enough(mac: int, now: float) -> None:
    right = cookie.issue(SECRET, EXPOSER, now)
    forged = right >> 48 << 48 | mac
    assert cookie.is_good(SECRET, forged, EXPOSER, now) is (forged == right)


@given(secrets, addresses, times)
def test_it_has_eight_bytes_and_never_asks_for_statistics(
    secret: bytes, source: Address, now: float
) -> None:
    nonce = cookie.issue(secret, source, now)
    assert 0 <= nonce < 2**63 < expose.ASKS_STATISTICS
    assert nonce >> 48 == int(now) % 2**15, "which says when"


def test_macs_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: List[Tuple[bytes, bytes]] = []
    real = hmac.compare_digest

    def compare(one: Any, other: Any) -> bool:
        compared.append((bytes(one), bytes(other)))
        return real(one, other)

    monkeypatch.setattr(hmac, "compare_digest", compare)
    right = cookie.issue(SECRET, EXPOSER, 5.0)
    forged = right ^ 1
    assert cookie.is_good(SECRET, right, EXPOSER, 5.0)
    assert not cookie.is_good(SECRET, forged, EXPOSER, 5.0)
    said = [nonce.to_bytes(8, "big") for nonce in (right, forged)]
    assert [{said[0], *pair} for pair in compared] == [{said[0]}, set(said)]
