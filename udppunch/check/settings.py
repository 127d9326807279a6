"""What each check takes, from the command line or a file alike."""

from __future__ import annotations

import os
import re
from typing import Callable, Dict, Optional

from udppunch.check.thresholds import parse_limits
from udppunch.config.parse import (
    RELAY_PORT,
    RENDEZVOUS_PORT,
    Invalid,
    nearest,
    parse_chat_server,
    parse_holepunch_server,
    parse_key,
    parse_optional_time,
    parse_probes,
    parse_rendezvous,
    parse_switch,
    parse_time,
    read_key_file,
    read_password_file,
    read_secret_file,
    split_address,
)
from udppunch.config.settings import Setting
from udppunch.contract import Lookup
from udppunch.wire.stun import PORT as STUN_PORT

MOST_SAID = 1200  # bytes, which every path carries


def _parse_helper(text: str) -> Lookup:
    host, port = split_address(text)
    return Lookup(host or "127.0.0.1", port)


def _parse_with(default_port: int) -> Callable[[str], Lookup]:
    def parse(text: str) -> Lookup:
        host, port = split_address(text, default_port)
        return Lookup(host or "127.0.0.1", port)

    return parse


# How the address of a rendezvous is read by those who speak that protocol with it.
PROTOCOLS: Dict[str, Callable[[str], Lookup]] = {
    "puncher": parse_rendezvous,
    "holepunch": parse_holepunch_server,
    "chat": parse_chat_server,
    "stun": _parse_with(RENDEZVOUS_PORT),
}


def _parse_protocol(text: str) -> str:
    if text not in PROTOCOLS:
        raise Invalid(f"{text!r} is not a protocol{nearest(text, PROTOCOLS)}")
    return text


def _parse_text(text: str) -> bytes:
    return _bounded(os.fsencode(text))


def _parse_hex(text: str) -> bytes:
    digits = re.sub(r"[\s:]", "", text)
    if not re.fullmatch(r"([0-9A-Fa-f]{2})*", digits):
        raise Invalid(f"{text!r} is not hexadecimal: write pairs of digits, as 0a1b2c")
    return _bounded(bytes.fromhex(digits))


def _parse_optional_file(text: str) -> Optional[str]:
    """A path, or None for `none`."""
    return None if text == "none" else text


def _bounded(payload: bytes) -> bytes:
    if len(payload) > MOST_SAID:
        raise Invalid(f"{len(payload)} bytes are too many: at most {MOST_SAID}")
    return payload


LIMITS = {
    "warning": Setting(parse_limits, "200ms,20%"),
    "critical": Setting(parse_limits, "500ms,60%"),
    "timeout": Setting(parse_time, "10s"),
}
# What the command line can say for all checks of a file.
FOR_ALL = {**LIMITS, "probes": Setting(parse_probes, "5")}
CHECKS: Dict[str, Dict[str, Setting]] = {
    "relay": {
        **FOR_ALL,
        "address": Setting(_parse_with(RELAY_PORT)),
        "secret-file": Setting(read_secret_file, optional=True),
    },
    "helper": {
        **FOR_ALL,
        "address": Setting(_parse_helper),
        "password-file": Setting(read_password_file, optional=True),
        "silent": Setting(parse_time, "60s"),
    },
    "rendezvous": {
        **FOR_ALL,
        "address": Setting(str),
        "protocol": Setting(_parse_protocol, "puncher"),
    },
    "serve": {
        **FOR_ALL,
        "address": Setting(parse_rendezvous),
        "key": Setting(parse_key, optional=True),
        "key-file": Setting(read_key_file, optional=True),
        "echo": Setting(_parse_text, optional=True),
        "echo-hex": Setting(_parse_hex, optional=True),
        "expect": Setting(_parse_text, optional=True),
    },
    "nat": {
        **LIMITS,
        "address": Setting(_parse_with(STUN_PORT)),
        "second": Setting(_parse_with(STUN_PORT), optional=True),
        "lifetime": Setting(parse_switch, "False"),
        "longest": Setting(parse_time, "3min"),
    },
}
# What is said of a run, whatever it checks.
RUN = {
    "file": Setting(str, optional=True),
    "lock": Setting(_parse_optional_file, "none"),
    "splay": Setting(parse_optional_time, "none"),
}
