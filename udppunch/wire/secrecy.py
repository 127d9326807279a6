"""How the chat protocol keeps things secret: X25519 for a key, AES-256-GCM for what it seals.

    nonce(12) ‖ ciphertext ‖ tag(16)

The key is the raw 32-byte X25519 secret of both ends' keys (RFC 7748), without a derivation, and
there are no associated data. Both ends and both directions have the same one: what else keeps a
sealed message from being sent again, or back, is for the caller.
"""

from __future__ import annotations

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from udppunch.wire.malformed import Malformed

PRIVATE_LENGTH = 32
NONCE_LENGTH = 12
_TAG_LENGTH = 16


class KeyPair:
    """One end's own key, made of 32 random bytes."""

    def __init__(self, private: bytes) -> None:
        self._private = X25519PrivateKey.from_private_bytes(private)
        self.public = self._private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)

    def secret(self, public: bytes) -> bytes:
        """What both ends have in common. Raises Malformed for a key that is none."""
        try:
            return self._private.exchange(X25519PublicKey.from_public_bytes(public))
        except ValueError:
            raise Malformed("not a public key") from None


def seal(secret: bytes, nonce: bytes, message: bytes) -> bytes:
    return nonce + AESGCM(secret).encrypt(nonce, message, None)


def unseal(secret: bytes, datagram: bytes) -> bytes:
    """Raises Malformed for what was not sealed with that secret."""
    if len(datagram) < NONCE_LENGTH + _TAG_LENGTH:
        raise Malformed("too short to be sealed")
    try:
        return AESGCM(secret).decrypt(datagram[:NONCE_LENGTH], datagram[NONCE_LENGTH:], None)
    except InvalidTag:
        raise Malformed("sealed with another key") from None
