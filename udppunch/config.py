"""Configuration: frozen values, validated once, from the command line or a YAML file alike.

`ROLES` holds each role's settings: how a text or a YAML value becomes what the role works with.
The command line's options, the keys of the file and the manual pages are the same names; a
test holds them to each other.
"""

from __future__ import annotations

import difflib
import os
import re
import socket
import stat
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, List, Mapping, Optional, Tuple

import yaml

from udppunch import address
from udppunch.address import Address
from udppunch.contract import Lookup
from udppunch.errors import EX_NOHOST, EX_NOINPUT, EX_NOPERM, CommandError, ConfigError
from udppunch.wire.puncher import KEY_MAXIMUM

RENDEZVOUS_PORT = 39737
LOG_LEVELS = ("trace", "debug", "info", "warning", "error")
_UNITS = {"ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_LONGEST_TIME = 365 * 86400.0


class Invalid(ValueError):
    """A value is wrong; the text says how and what would be right."""


@dataclass(frozen=True)
class RendezvousConfig:
    listen: Tuple[Address, ...]
    max_keys: int
    rate: float


@dataclass(frozen=True)
class ServeConfig:
    forward: Lookup
    rendezvous: Lookup
    key: bytes = field(repr=False)
    bind: Optional[Address]
    keepalive: float
    idle: float
    max_paths: int


@dataclass(frozen=True)
class ConnectConfig:
    listen: Tuple[Address, ...]
    rendezvous: Lookup
    key: bytes = field(repr=False)
    keepalive: float
    idle: float
    max_paths: int


@dataclass(frozen=True)
class ProcessConfig:
    """What concerns the process and not a role."""

    log_level: str
    log_json: bool
    offload: bool


@dataclass(frozen=True)
class Setting:
    """`default` None: must be given, unless `optional`. `plural` takes a list."""

    parse: Callable[[str], Any]
    default: Optional[str] = None
    optional: bool = False
    plural: bool = False


# One text to one value


def parse_time(text: str) -> float:
    """Seconds of `25s`, `200ms`, `5min`, `1h`; a bare number is seconds."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(ms|s|min|h|d)?", text.strip())
    if not match:
        raise Invalid(f"{text!r} is not a time: write 25s, 200ms, 5min or 1h")
    seconds = float(match.group(1)) * _UNITS[match.group(2) or "s"]
    if not 0 < seconds <= _LONGEST_TIME:
        raise Invalid(f"{text!r} is out of range: more than 0 and at most 365d")
    return seconds


def parse_count(text: str) -> int:
    if not re.fullmatch(r"\d{1,9}", text.strip()) or int(text) < 1:
        raise Invalid(f"{text!r} is not a number from 1 to 999999999")
    return int(text)


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


def parse_rendezvous(text: str) -> Lookup:
    host, port = split_address(text, RENDEZVOUS_PORT)
    if ":" in host:
        raise Invalid(
            f"{text!r} is an IPv6 address, and the puncher protocol carries IPv4 alone: "
            "name the rendezvous by its IPv4 address or by a name that has one"
        )
    return Lookup(host or "127.0.0.1", port, ipv4_only=True)


def parse_listen(text: str) -> Tuple[Address, ...]:
    """Where to listen: `:port` is every IPv4 address, a name each of its addresses, IPv4 first."""
    host, port = split_address(text)
    if not host:
        return (address.with_port(address.ANY_IPV4, port),)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "not a host name"
        raise CommandError(f"cannot listen on {text!r}: {reason}", EX_NOHOST) from None
    ips = [str(at[0]).split("%")[0] for _, _, _, _, at in found]
    packed = [address.pack(ip, port) for ip in ips]
    return tuple(sorted(dict.fromkeys(packed), key=len))


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
    text = _read(path, "key file")
    return parse_key(text[:-1] if text.endswith("\n") else text)


_PATH_SETTINGS = {
    "rendezvous": Setting(parse_rendezvous),
    "key": Setting(parse_key, optional=True),
    "key-file": Setting(read_key_file, optional=True),
    "keepalive": Setting(parse_time, "15s"),
    "idle": Setting(parse_time, "5min"),
    "max-paths": Setting(parse_count, "1024"),
}

ROLES: Dict[str, Dict[str, Setting]] = {
    "rendezvous": {
        "listen": Setting(parse_listen, f"0.0.0.0:{RENDEZVOUS_PORT}", plural=True),
        "max-keys": Setting(parse_count, "10000"),
        "rate": Setting(parse_count, "500"),
    },
    "serve": {
        "forward": Setting(parse_destination),
        **_PATH_SETTINGS,
        "bind": Setting(parse_bind, optional=True),
    },
    "connect": {
        "listen": Setting(parse_listen, plural=True),
        **_PATH_SETTINGS,
    },
}

ALIASES = {"turn": "rendezvous", "server": "serve", "client": "connect"}


def _parse_level(text: str) -> str:
    if text not in LOG_LEVELS:
        raise Invalid(f"{text!r} is not a log level: write {', '.join(LOG_LEVELS)}")
    return text


def _parse_switch(text: str) -> bool:
    if text not in ("True", "False"):
        raise Invalid(f"{text!r} is not a switch: write true or false")
    return text == "True"


PROCESS: Dict[str, Setting] = {
    "log-level": Setting(_parse_level, "info"),
    "log-json": Setting(_parse_switch, "False"),
    "no-offload": Setting(_parse_switch, "False"),
}


# All settings of a role


def role_config(role: str, raw: Mapping[str, Any], environment: Mapping[str, str]) -> Any:
    """The role's configuration. Raises Invalid, which names the setting, and CommandError."""
    values = _parse_all(ROLES[role], raw)
    if "key" in values:
        _choose_key(values, environment)
    values = {name.replace("-", "_"): value for name, value in values.items()}
    if role == "rendezvous":
        return RendezvousConfig(**values)
    return ServeConfig(**values) if role == "serve" else ConnectConfig(**values)


def process_config(raw: Mapping[str, Any], environment: Mapping[str, str]) -> ProcessConfig:
    """What concerns the process. Raises Invalid."""
    named = dict(raw)
    if named.get("log-level") is None and environment.get("UDPPUNCH_LOG"):
        named["log-level"] = environment["UDPPUNCH_LOG"]
    values = _parse_all(PROCESS, named)
    return ProcessConfig(values["log-level"], values["log-json"], not values["no-offload"])


def _parse_all(settings: Mapping[str, Setting], raw: Mapping[str, Any]) -> Dict[str, Any]:
    for name in raw:
        if name not in settings:
            raise Invalid(f"{name} is not known{nearest(str(name), settings)}")
    return {name: _parse_one(name, setting, raw.get(name)) for name, setting in settings.items()}


def _parse_one(name: str, setting: Setting, given: Any) -> Any:
    if given is None or given == []:
        if setting.default is None:
            if setting.optional:
                return None
            raise Invalid(f"{name} is missing")
        given = setting.default
    texts = given if isinstance(given, list) else [given]
    if any(isinstance(text, (dict, list)) or text is None for text in texts):
        raise Invalid(f"{name} takes a plain value{' or a list' if setting.plural else ''}")
    if len(texts) != 1 and not setting.plural:
        raise Invalid(f"{name} takes one value, not {len(texts)}")
    try:
        parsed = [setting.parse(str(text)) for text in texts]
    except Invalid as error:
        raise Invalid(f"{name}: {error}") from None
    return tuple(one for many in parsed for one in many) if setting.plural else parsed[0]


def _choose_key(values: Dict[str, Any], environment: Mapping[str, str]) -> None:
    from_file = values.pop("key-file")
    if values["key"] is not None and from_file is not None:
        raise Invalid("key and key-file are both given: keep one")
    if from_file is not None:
        values["key"] = from_file
    if values["key"] is None and "UDPPUNCH_KEY" in environment:
        try:
            values["key"] = parse_key(environment["UDPPUNCH_KEY"])
        except Invalid as error:
            raise Invalid(f"UDPPUNCH_KEY: {error}") from None
    if values["key"] is None:
        raise Invalid("key is missing: give KEY, --key-file FILE or UDPPUNCH_KEY")


def nearest(name: str, known: Mapping[str, Any]) -> str:
    """What may have been meant, as the end of an error message."""
    close = difflib.get_close_matches(name, list(known), 1)
    return f": did you mean {close[0]}?" if close else f": known are {', '.join(known)}"


# The file


def load_file(
    path: str, environment: Mapping[str, str]
) -> Tuple[List[Tuple[str, Any]], Dict[str, Any]]:
    """The roles, each with its configuration, and the raw settings of the process.

    Raises ConfigError or another CommandError, which name the file and what is wrong.
    """
    try:
        content = yaml.safe_load(_read(path, "configuration"))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f":{mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "cannot be read"
        raise ConfigError(f"{path}{where}: not YAML: {problem}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: no settings: write `roles:` and a list, see udppunch.yaml(5)")
    entries = content.pop("roles", None)
    for name in content:
        if name not in PROCESS:
            raise ConfigError(
                f"{path}: {name} is not known{nearest(str(name), {'roles': None, **PROCESS})}"
            )
    if not isinstance(entries, list) or not entries:
        raise ConfigError(f"{path}: roles is not a list of roles, see udppunch.yaml(5)")
    numbered = enumerate(entries, 1)
    return [_load_role(path, number, entry, environment) for number, entry in numbered], content


def _load_role(
    path: str, number: int, entry: Any, environment: Mapping[str, str]
) -> Tuple[str, Any]:
    where = f"{path}: role {number}"
    if not isinstance(entry, dict) or len(entry) != 1:
        raise ConfigError(f"{where}: not a name with settings, as `- serve: {{...}}`")
    name, raw = next(iter(entry.items()))
    role = ALIASES.get(name, name)
    if role not in ROLES:
        raise ConfigError(f"{where}: {name} is not a role{nearest(str(name), ROLES)}")
    if raw is not None and not isinstance(raw, dict):
        raise ConfigError(f"{where} ({role}): not a table of settings")
    try:
        return role, role_config(role, raw or {}, environment)
    except Invalid as error:
        raise ConfigError(f"{where} ({role}): {error}") from None


def holds_key(path: str) -> bool:
    """Whether a configuration file has a key in itself."""
    try:
        content = yaml.safe_load(_read(path, "configuration"))
        return any("key" in (s or {}) for entry in content["roles"] for s in entry.values())
    except (CommandError, yaml.YAMLError, TypeError, KeyError, AttributeError):
        return False


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


def _read(path: str, what: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except PermissionError:
        raise CommandError(f"{what} {path}: permission denied", EX_NOPERM) from None
    except OSError as error:
        raise CommandError(f"{what} {path}: {error.strerror}", EX_NOINPUT) from None
    except UnicodeDecodeError:
        raise ConfigError(f"{what} {path}: not UTF-8 text") from None
