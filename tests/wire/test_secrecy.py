"""What the chat is sealed with: a known answer, both ends alike, and whatever else is refused."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.standin import chat as standin
from udppunch.wire import chat, secrecy
from udppunch.wire.malformed import Malformed

ALICE = secrecy.KeyPair(b"a" * 32)
BOB = secrecy.KeyPair(b"b" * 32)
SECRET = ALICE.secret(BOB.public)

nonces = st.binary(min_size=12, max_size=12)


def test_the_known_answer_of_rfc_7748() -> None:
    """Section 6.1."""
    alice = secrecy.KeyPair(
        bytes.fromhex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a")
    )
    bob = secrecy.KeyPair(
        bytes.fromhex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb")
    )
    assert alice.public.hex() == "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a"
    shared = "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742"
    assert alice.secret(bob.public).hex() == bob.secret(alice.public).hex() == shared


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32))
def test_both_ends_have_the_same_secret(one: bytes, other: bytes) -> None:
    a, b = secrecy.KeyPair(one), secrecy.KeyPair(other)
    assert a.secret(b.public) == b.secret(a.public)


@given(nonces, st.binary(max_size=chat.LARGEST - chat.SEAL))
def test_what_is_sealed_is_opened_by_the_other_end(nonce: bytes, message: bytes) -> None:
    sealed = secrecy.seal(SECRET, nonce, message)
    assert secrecy.unseal(BOB.secret(ALICE.public), sealed) == message
    assert len(sealed) == len(message) + chat.SEAL and sealed.startswith(nonce)


@given(nonces, st.binary(max_size=50), st.data())
def test_a_flipped_bit_is_refused(nonce: bytes, message: bytes, data: st.DataObject) -> None:
    sealed = bytearray(secrecy.seal(SECRET, nonce, message))
    bit = data.draw(st.integers(0, 8 * len(sealed) - 1))
    sealed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(Malformed):
        secrecy.unseal(SECRET, bytes(sealed))


@given(nonces, st.binary(max_size=50), st.data())
def test_what_is_cut_short_is_refused(nonce: bytes, message: bytes, data: st.DataObject) -> None:
    sealed = secrecy.seal(SECRET, nonce, message)
    with pytest.raises(Malformed):
        secrecy.unseal(SECRET, sealed[: data.draw(st.integers(0, len(sealed) - 1))])


@given(st.binary(max_size=100))
def test_any_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(Malformed):
        secrecy.unseal(SECRET, data)


def test_another_key_opens_nothing() -> None:
    eve = secrecy.KeyPair(b"e" * 32)
    sealed = secrecy.seal(SECRET, bytes(12), b"hello")
    for secret in (eve.secret(BOB.public), eve.secret(ALICE.public), ALICE.secret(eve.public)):
        with pytest.raises(Malformed):
            secrecy.unseal(secret, sealed)


@pytest.mark.parametrize(
    "public",
    [
        b"",
        bytes(31),
        bytes(33),
        bytes(32),  # of small order, as the next two: whoever named it would know the secret
        b"\x01" + bytes(31),
        bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    ],
)
def test_keys_that_are_none(public: bytes) -> None:
    with pytest.raises(Malformed):
        ALICE.secret(public)


def test_an_original_and_we_open_what_the_other_sealed() -> None:
    theirs = standin.Keys()
    ours = ALICE.secret(base64.b64decode(theirs.public))
    secret = theirs.secret_with(base64.b64encode(ALICE.public).decode())
    message = chat.Message("message", chat.peer_id(ALICE.public), data="héllo")
    read = standin.unseal(secrecy.seal(ours, bytes(12), chat.encode(message)), secret)
    assert read == standin.Payload("message", chat.peer_id(ALICE.public), data="héllo")
    answer = standin.seal(standin.Payload("message", theirs.id, data="ŵell"), secret)
    assert chat.decode(secrecy.unseal(ours, answer)).data == "ŵell"
