"""One text to one value: what the command line and the file give becomes what roles work with.

It loads nothing that a short command would have to wait for.
"""

from __future__ import annotations

import difflib
import os
import re
import socket
import stat
from typing import Any, Callable, Mapping, Optional, Tuple

from udppunch import address
from udppunch.address import Address
from udppunch.contract import Lookup
from udppunch.errors import EX_NOHOST, EX_NOINPUT, EX_NOPERM, CommandError, ConfigError
from udppunch.wire import chat, holepunch, relay
from udppunch.wire.expose import NAME_MAXIMUM, TAGS
from udppunch.wire.puncher import KEY_MAXIMUM

RENDEZVOUS_PORT = 39737
HOLEPUNCH_PORT = 39738
CHAT_PORT = 9001
RELAY_PORT = 6060
MOST_PROBES = 100
MOST_WORKERS = 64
LOG_LEVELS = ("trace", "debug", "info", "warning", "error")
_ON, _OFF = ("true", "yes", "on"), ("false", "no", "off")
_UNITS = {"us": 1e-6, "ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_LONGEST_TIME = 365 * 86400.0
_SHORTEST_KEEPALIVE = 0.1
_LONGEST_PAUSE = 0.01
_THOUSANDS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9}
_LARGEST_BUFFER = 1 << 30
_NO_ORIGINAL = "is the file there that the unit's LoadCredential= names?"
_LONGEST_SOCKET_PATH = 107  # unix(7)


class Invalid(ValueError):
    """A value is wrong; the text says how and what would be right."""


def parse_time(text: str) -> float:
    """Seconds of `25s`, `200ms`, `5min`, `1h`; a bare number is seconds."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(us|ms|s|min|h|d)?", text.strip())
    if not match:
        raise Invalid(f"{text!r} is not a time: write 25s, 200ms, 5min or 1h")
    seconds = float(match.group(1)) * _UNITS[match.group(2) or "s"]
    if not 0 < seconds <= _LONGEST_TIME:
        raise Invalid(f"{text!r} is out of range: more than 0 and at most 365d")
    return seconds


def parse_keepalive(text: str) -> float:
    """Seconds: often enough for every NAT, and no flood."""
    seconds = parse_time(text)
    if seconds < _SHORTEST_KEEPALIVE:
        raise Invalid(f"{text!r} is out of range: at least {_SHORTEST_KEEPALIVE * 1000:g}ms")
    return seconds


def parse_optional_time(text: str) -> Optional[float]:
    """Seconds, or None for `none`."""
    return None if text.strip() == "none" else parse_time(text)


def parse_count(text: str, most: int = 999999999) -> int:
    if not re.fullmatch(r"\d{1,9}", text.strip()) or not 1 <= int(text) <= most:
        raise Invalid(f"{text!r} is not a number from 1 to {most}")
    return int(text)


def parse_optional_count(text: str) -> int:
    """A number, or 0 for `none`."""
    return 0 if text.strip() == "none" else parse_count(text)


def parse_workers(text: str) -> int:
    return parse_count(text, MOST_WORKERS)


def parse_pause(text: str) -> float:
    """Seconds, 0 to 10 ms."""
    seconds = 0.0 if text.strip() == "0" else parse_time(text)
    if seconds > _LONGEST_PAUSE:
        raise Invalid(f"{text!r} is out of range: 0 to {_LONGEST_PAUSE * 1000:g}ms")
    return seconds


def parse_bandwidth(text: str) -> float:
    """Bits a second of `500k`, `10M`, `1G`; 0 for `none`."""
    if text.strip() == "none":
        return 0.0
    match = re.fullmatch(r"(\d{1,12}(?:\.\d+)?)([kMG]?)", text.strip())
    if not match or not float(match.group(1)):
        raise Invalid(f"{text!r} is not a number of bits a second: write 500k, 10M, 1G or none")
    return float(match.group(1)) * _THOUSANDS[match.group(2)]


def parse_buffer(text: str) -> int:
    """Bytes of `262144`, `256K`, `4M`."""
    match = re.fullmatch(r"(\d{1,10})([KM]?)", text.strip())
    size = int(match.group(1)) << {"": 0, "K": 10, "M": 20}[match.group(2)] if match else 0
    if not 0 < size <= _LARGEST_BUFFER:
        raise Invalid(f"{text!r} is not a number of bytes: write 262144, 256K or 4M, at most 1024M")
    return size


def parse_control(text: str) -> str:
    """The path of a UNIX socket; empty for `none`."""
    if not text:
        raise Invalid("no path is given: write one, or none")
    path = "" if text.strip() == "none" else text
    if len(os.fsencode(path)) > _LONGEST_SOCKET_PATH:
        raise Invalid(f"{text!r} is too long for a socket: {_LONGEST_SOCKET_PATH} bytes at most")
    return path


def split_address(text: str, default_port: Optional[int] = None) -> Tuple[str, int]:
    """Host (empty if only `:port` is given) and port."""
    match = re.fullmatch(r"(?:\[([^\]]*)\]|([^:\[\]]*))(?::(\d*))?", text.strip())
    if not match:
        raise Invalid(f"{text!r} is not an address: write host:port, [v6]:port or :port")
    host = match.group(1) if match.group(1) is not None else match.group(2)
    if match.group(3) is None and default_port is not None and host:
        return host, default_port
    if not match.group(3):
        raise Invalid(f"{text!r} has no port: write host:port, [v6]:port or :port")
    port = int(match.group(3))
    if not 0 < port <= 65535:
        raise Invalid(f"port {port} in {text!r} is out of range: 1 to 65535")
    return host, port


def parse_destination(text: str) -> Lookup:
    """Where datagrams are sent: `:port` is this machine."""
    host, port = split_address(text)
    return Lookup(host or "127.0.0.1", port)


def parse_rendezvous(text: str, default_port: int = RENDEZVOUS_PORT) -> Lookup:
    host, port = split_address(text, default_port)
    if ":" in host:
        raise Invalid(
            f"{text!r} is an IPv6 address, and this protocol carries IPv4 alone: "
            "name the rendezvous by its IPv4 address or by a name that has one"
        )
    return Lookup(host or "127.0.0.1", port, ipv4_only=True)


def parse_holepunch_server(text: str) -> Lookup:
    return parse_rendezvous(text, HOLEPUNCH_PORT)


def parse_chat_server(text: str) -> Lookup:
    return parse_rendezvous(text, CHAT_PORT)


def parse_listen(text: str) -> Tuple[Address, ...]:
    """Where to listen: `:port` is every IPv4 address, a name each of its addresses, IPv4 first."""
    host, port = split_address(text)
    if not host:
        return (address.with_port(address.ANY_IPV4, port),)
    if host == "*":
        raise Invalid(f"{text!r} is not an address: write :{port} for every one")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "not a host name"
        raise CommandError(f"cannot listen on {text!r}: {reason}", EX_NOHOST) from None
    ips = [str(at[0]).split("%")[0] for _, _, _, _, at in found]
    packed = [address.pack(ip, port) for ip in ips]
    return tuple(sorted(dict.fromkeys(packed), key=len))


def parse_listen_or_none(text: str) -> Tuple[Address, ...]:
    return () if text.strip() == "none" else parse_listen(text)


def parse_listen_dual_stack(text: str) -> Tuple[Address, ...]:
    """Where to listen: `:port` is every address, of IPv6 as of IPv4."""
    host, port = split_address(text)
    return parse_listen(text) if host else (address.with_port(address.ANY_IPV6, port),)


def parse_destinations(text: str) -> Tuple[Lookup, ...]:
    return (parse_destination(text),)


def parse_name(text: str) -> str:
    """The name of a service; empty for `none`."""
    name = "" if text == "none" else text
    if len(name.encode()) > NAME_MAXIMUM or not name.isprintable() or set(name) & set("=,"):
        raise Invalid(f"{text!r} is not a name: at most {NAME_MAXIMUM} bytes, without = and comma")
    return name


def parse_peer_name(text: str) -> str:
    """The name of a peer, as the holepunch protocol carries it."""
    try:
        holepunch.check_name(text)
    except UnicodeEncodeError:
        raise Invalid(f"{text!r} is not UTF-8 text") from None
    except ValueError as error:
        raise Invalid(f"{text!r}: {error}") from None
    return text


def parse_chat_name(text: str) -> str:
    """What a chat's peer is called by."""
    try:
        chat.check_name(text)
    except ValueError as error:
        raise Invalid(f"{text!r}: {error}") from None
    return text


def parse_peer_id(text: str) -> str:
    """A chat's peer's id."""
    try:
        return chat.check_id(text)
    except ValueError as error:
        raise Invalid(f"{text!r}: {error}") from None


def parse_names(text: str) -> Tuple[Tuple[str, Address], ...]:
    """`NAME=ADDRESS`, several with commas between them, or `none`."""
    if text == "none":
        return ()
    names = []
    for one in text.split(","):
        name, equals, where = one.partition("=")
        if not equals or not parse_name(name.strip()):
            raise Invalid(f"{one!r} is not NAME=ADDRESS, as web=:5353")
        names += [(name.strip(), at) for at in parse_listen_dual_stack(where)]
    return tuple(names)


def parse_tags(text: str) -> int:
    return parse_count(text, TAGS - 1)


def parse_probes(text: str) -> int:
    """How often to ask."""
    return parse_count(text, MOST_PROBES)


def parse_proxy_protocol(text: str) -> bool:
    if text not in ("v2", "none"):
        raise Invalid(f"{text!r} is not a version of the PROXY protocol: write v2 or none")
    return text == "v2"


def parse_log_place(text: str) -> Optional[str]:
    """A file; - for standard error, which is empty here, or none."""
    if text == "none":
        return None
    return "" if text == "-" else text


def parse_bind_any(text: str) -> Address:
    """A local IP address, with a port or without."""
    match = re.fullmatch(r"\[([^\]]*)\](?::(\d+))?|([^:]*)(?::(\d+))?", text)
    try:
        if match is None:
            return address.pack(text, 0)
        host = match[1] or match[3] or "0.0.0.0"
        return address.pack(host, int(match[2] or match[4] or 0))
    except ValueError:
        raise Invalid(f"{text!r} is not a local IP address: write 192.0.2.1 or [v6]:port") from None


def read_password_file(path: str) -> bytes:
    return _read_secret("password file", path, _parse_password)


def _parse_password(text: str) -> bytes:
    if not text:
        raise Invalid("the password is empty")
    if "\n" in text or text.startswith("\ufeff"):
        raise Invalid("more than one line, or a byte order mark")
    return text.encode()


def parse_metrics(text: str) -> Address:
    """Where metrics are served over TCP: `:port` is this machine alone."""
    host, _ = split_address(text)
    return parse_listen(text if host else f"127.0.0.1{text.strip()}")[0]


def parse_bind(text: str) -> Address:
    """A local IPv4 address to send from."""
    match = re.fullmatch(r"([\d.]*)(?::(\d+))?", text.strip())
    try:
        if match is None:
            raise ValueError
        return address.pack(match.group(1) or "0.0.0.0", int(match.group(2) or 0))
    except ValueError:
        raise Invalid(f"{text!r} is not a local IPv4 address: write 192.0.2.1 or :port") from None


def parse_key(text: str) -> bytes:
    """What both sides share, as the wire carries it."""
    try:
        key = text.encode()
    except UnicodeEncodeError:
        raise Invalid("the key is not valid UTF-8") from None
    if not key:
        raise Invalid(f"the key is empty: it takes 1 to {KEY_MAXIMUM} bytes")
    if len(key) > KEY_MAXIMUM:
        raise Invalid(
            f"the key has {len(key)} bytes, and the puncher protocol carries {KEY_MAXIMUM} at most"
        )
    return key


def read_key_file(path: str) -> bytes:
    return _read_secret("key file", path, parse_key)


def read_secret_file(path: str) -> bytes:
    return _read_secret("secret file", path, parse_secret)


def _read_secret(what: str, path: str, parse: Callable[[str], bytes]) -> bytes:
    """What a file has in it, whose last line may end. Raises CommandError, which names the file."""
    text = read_text(path, what)
    try:
        return parse(text[:-1] if text.endswith("\n") else text)
    except Invalid as error:
        raise ConfigError(f"{what} {path}: {error}{origin(path)}") from None


def parse_secret(text: str) -> bytes:
    try:
        return relay.parse_secret(text)
    except ValueError as error:
        raise Invalid(str(error)) from None


def parse_level(text: str) -> str:
    if text not in LOG_LEVELS:
        raise Invalid(f"{text!r} is not a log level: write {', '.join(LOG_LEVELS)}")
    return text


def parse_switch(text: str) -> bool:
    if text.lower() not in (*_ON, *_OFF):
        raise Invalid(f"{text!r} is not a switch: write true or false")
    return text.lower() in _ON


def nearest(name: str, known: Mapping[str, Any]) -> str:
    """What may have been meant, as the end of an error message."""
    bare = {each.lstrip("-"): each for each in known}  # or all options would be alike
    close = difflib.get_close_matches(name.lstrip("-"), list(bare), 1)
    return f": did you mean {bare[close[0]]}?" if close else f": known are {', '.join(known)}"


def is_exposed(path: str, environment: Mapping[str, str]) -> bool:
    """Whether others than the owner may read the file.

    A credential of systemd's is shown as the group's, but its directory lets nobody else in.
    """
    credentials = environment.get("CREDENTIALS_DIRECTORY")
    if credentials and os.path.dirname(os.path.abspath(path)) == os.path.abspath(credentials):
        return False
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    return bool(stat.S_ISREG(mode) and mode & (stat.S_IRGRP | stat.S_IROTH))


def origin(path: str) -> str:
    """Of a credential of systemd's, what may be amiss with the file that it is a copy of: the end
    of an error message. A copy of a file that is not there is as good as empty."""
    is_copy = os.path.abspath(path).startswith("/run/credentials/")
    return f"; {_NO_ORIGINAL}" if is_copy else ""


def read_text(path: str, what: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except PermissionError:
        raise CommandError(f"{what} {path}: permission denied", EX_NOPERM) from None
    except OSError as error:
        raise CommandError(f"{what} {path}: {error.strerror}", EX_NOINPUT) from None
    except UnicodeDecodeError:
        raise ConfigError(f"{what} {path}: not UTF-8 text") from None
