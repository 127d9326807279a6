"""The chat protocol: JSON objects of which those between peers, and some of a server's, are sealed.

    {"type": ..., "peerID": ..., "error": ..., "data": ...}      all but the type left out if empty

    greeting   data: public key, base64                          both ways, plain
    register   peerID; data: {username, publicKey}               client to server; answered sealed
    establish  peerID; data: the other's id                      client to server
    establish  data: {id, username, endpoint: {ip, port}}        server to both, sealed: the other
    connect    peerID                                            peer to peer, plain
    key        peerID; data: public key, base64                  its answer, plain
    message    data: text                                        peer to peer

A server refuses in plain, with the type of what it refuses and an error. Sealed is a datagram
that is not JSON (see `secrecy`). A peer's id is the hash of its public key, so that nobody can
have another's. Datagrams are at most 2,048 bytes; unknown types and fields mean nothing.

Our own ends add fields by which they know each other:

    v      1, in greeting, register, connect and key; the message is ours
    mark   of the sender, base64 (see `marks`): in register, connect, key; in establish's data
           of the other peer
    nonce  in the server's greeting, for the client to repeat in register, which is sealed then
    seq    in message and ack, which is what answers a message: its number
    pad    nothing, so that no answer is longer than its request

The server's establish has the other's publicKey too, and where it saw the receiver as `you`.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import re
from dataclasses import dataclass
from typing import Any, Dict, Mapping, Optional

from udppunch import address
from udppunch.address import Address
from udppunch.wire import marks
from udppunch.wire.malformed import Malformed

LARGEST = 2048  # bytes of a datagram
SEAL = 28  # bytes that sealing adds
NAME_MAXIMUM = 32  # characters
TEXT_MAXIMUM = 1800  # bytes, as JSON has them
KEY_LENGTH = 32  # bytes of a public key
VERSION = 1
PADDED = 640  # the longest establish of ours, sealed
_ID = re.compile(r"[0-9a-f]{64}")
_ID_KEY = b"hashing client public key for client id"
_MOST_SEQ = 1 << 53


@dataclass(frozen=True)
class Message:
    """`data` is text or a table of what JSON has. A number 0: not given."""

    type: str
    peer_id: str = ""
    error: str = ""
    data: Any = None
    version: int = 0
    mark: bytes = b""
    nonce: str = ""
    seq: int = 0


@dataclass(frozen=True)
class Established:
    """What the server says of the other peer; `public_key` and `mark` empty if it does not."""

    id: str
    name: str
    peer: Address
    public_key: bytes = b""
    mark: bytes = b""
    seen: Optional[Address] = None


def encode(message: Message, padded: int = 0) -> bytes:
    """The object, unsealed, filled up to so many bytes. Raises ValueError beyond the limits."""
    table: Dict[str, Any] = {"type": message.type}
    fields = {
        "peerID": message.peer_id,
        "error": message.error,
        "data": message.data,
        "v": message.version,
        "mark": to_base64(message.mark),
        "nonce": message.nonce,
        "seq": message.seq,
    }
    table.update({name: value for name, value in fields.items() if value})
    encoded = _dump(table)
    short = padded - len(encoded) - len(',"pad":""')
    if short >= 0:
        encoded = encoded[:-1] + b',"pad":"' + b" " * short + b'"}'
    if len(encoded) > LARGEST - SEAL:
        raise ValueError(f"a message of {len(encoded)} bytes does not fit in a datagram")
    return encoded


def decode(datagram: bytes) -> Message:
    """Raises Malformed."""
    if len(datagram) > LARGEST:
        raise Malformed("longer than a datagram may be")
    try:
        table = json.loads(datagram)
    except (ValueError, RecursionError):
        raise Malformed("not JSON") from None
    if not isinstance(table, dict) or not isinstance(table.get("type"), str):
        raise Malformed("not an object with a type")
    data = table.get("data")
    return Message(
        _text(table["type"]),
        _text(table.get("peerID")),
        _text(table.get("error")),
        _text(data) if isinstance(data, str) else data,
        _number(table.get("v")),
        _mark(table.get("mark")),
        _text(table.get("nonce")),
        _number(table.get("seq")),
    )


def peer_id(public_key: bytes) -> str:
    """The id of who has that key: 64 hexadecimal digits."""
    return hmac.new(_ID_KEY, public_key, "sha512_256").hexdigest()


def fingerprint(public_key: bytes) -> str:
    """What two people can compare, in groups of five digits: 66 bits of the key's hash."""
    number = int.from_bytes(hashlib.sha256(b"fingerprint" + public_key).digest()[:16], "big")
    digits = f"{number % 10**20:020}"
    return " ".join(digits[start : start + 5] for start in range(0, 20, 5))


def public_key_of(message: Message) -> bytes:
    """That in the data of a greeting or a key. Raises Malformed."""
    return public_key(message.data)


def public_key(text: Any) -> bytes:
    """Raises Malformed."""
    key = _from_base64(text)
    if len(key) != KEY_LENGTH:
        raise Malformed("not a public key")
    return key


def established(message: Message) -> Established:
    """What the server's establish says. Raises Malformed."""
    data = message.data
    if not isinstance(data, dict):
        raise Malformed("no peer in it")
    identity, name, key = data.get("id"), data.get("username"), data.get("publicKey")
    if not isinstance(identity, str) or not _ID.fullmatch(identity):
        raise Malformed("not a peer's id")
    peer = _endpoint(data.get("endpoint"))
    if peer is None:
        raise Malformed("no address in it")
    return Established(
        identity,
        _text(name)[:NAME_MAXIMUM],
        peer,
        public_key(key) if key else b"",
        _mark(data.get("mark")),
        _endpoint(data.get("you")),
    )


def of_established(of: Established) -> Message:
    """The same as the server says it."""
    data: Dict[str, Any] = {"id": of.id, "username": of.name, "endpoint": _table(of.peer)}
    if of.public_key:
        data["publicKey"] = to_base64(of.public_key)
    if of.mark:
        data["mark"] = to_base64(of.mark)
    if of.seen is not None:
        data["you"] = _table(of.seen)
    return Message("establish", data=data)


def to_base64(octets: bytes) -> str:
    return base64.b64encode(octets).decode()


def check_name(name: str) -> str:
    """The name as it goes over the wire. Raises ValueError."""
    name = name.strip()
    if not name or not name.isprintable():
        raise ValueError("a name has letters that can be seen")
    if len(name) > NAME_MAXIMUM or len(name.encode("utf-8", "replace")) > 4 * NAME_MAXIMUM:
        raise ValueError(f"a name has at most {NAME_MAXIMUM} characters, not {len(name)}")
    return name


def check_id(text: str) -> str:
    """The id as it goes over the wire. Raises ValueError."""
    identity = text.strip().lower()
    if not _ID.fullmatch(identity):
        raise ValueError("a peer's id has 64 hexadecimal digits")
    return identity


def check_text(text: str) -> str:
    """What can be said in one message. Raises ValueError."""
    text = text.encode("utf-8", "replace").decode()
    if not text:
        raise ValueError("there is nothing in it")
    octets = len(_dump(text)) - 2
    if octets > TEXT_MAXIMUM:
        raise ValueError(f"a message has at most {TEXT_MAXIMUM} bytes, and this has {octets}")
    return text


def _dump(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def _text(value: Any) -> str:
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else ""


def _number(value: Any) -> int:
    return value if type(value) is int and 0 < value < _MOST_SEQ else 0


def _from_base64(text: Any) -> bytes:
    if not isinstance(text, str):
        raise Malformed("not base64")
    try:
        return base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error):
        raise Malformed("not base64") from None


def _mark(text: Any) -> bytes:
    """A mark; anything that is none means nothing."""
    try:
        return marks.decode(_from_base64(text), 0).mark
    except Malformed:
        return b""


def _endpoint(table: Any) -> Optional[Address]:
    if not isinstance(table, Mapping):
        return None
    ip, port = table.get("ip"), table.get("port")
    if not isinstance(ip, str) or type(port) is not int:
        return None
    try:
        where = address.pack(ip, port)
    except ValueError:
        return None
    return where if address.is_ipv4(where) else None


def _table(where: Address) -> Dict[str, Any]:
    return {"ip": str(address.ip(where)), "port": address.port(where)}
