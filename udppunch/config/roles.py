"""The roles' configurations, and the settings they come from."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, Iterable, List, Mapping, Optional, Tuple

from udppunch import address
from udppunch.address import Address
from udppunch.config import parse
from udppunch.config.parse import RELAY_PORT, RENDEZVOUS_PORT, Invalid
from udppunch.config.settings import Setting, parse_all
from udppunch.contract import Lookup
from udppunch.errors import missing_library
from udppunch.wire.expose import derive_key

# Named as the original has it, so that an existing unit keeps its environment file.
SECRET_VARIABLE = "UDP_RELAY_SECRET_KEY"
KEY_VARIABLE = "UDPPUNCH_KEY"
PASSWORD_VARIABLE = "UDPPUNCH_PASSWORD"


@dataclass(frozen=True)
class RendezvousConfig:
    """`holepunch` and `chat`: where these protocols are spoken, if at all."""

    listen: Tuple[Address, ...]
    max_keys: int
    rate: float
    holepunch: Tuple[Address, ...] = ()
    chat: Tuple[Address, ...] = ()
    stun: bool = True

    @property
    def binds(self) -> Tuple[Address, ...]:
        return (*self.listen, *self.holepunch, *self.chat)


@dataclass(frozen=True)
class HolepunchConfig:
    listen: Tuple[Address, ...]
    max_names: int
    rate: float


@dataclass(frozen=True)
class ChatServerConfig:
    listen: Tuple[Address, ...]
    max_ids: int
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
class RelayConfig:
    """`secret` empty: any handshake is taken. `workers`, `rate` and `bandwidth` 0: as many as
    there are processors, and no limit. Times in seconds, `bandwidth` in bits a second."""

    listen: Tuple[Address, ...]
    secret: bytes = field(repr=False)
    workers: int
    idle: float
    max_channels: int
    half_open: int
    half_open_prefix: int
    handshake_rate: int
    rate: int
    bandwidth: float
    coalesce: float
    recv_buffer: int
    send_buffer: int
    drain_timeout: float

    @property
    def binds(self) -> Tuple[Address, ...]:
        return self.listen


@dataclass(frozen=True)
class HelperConfig:
    """`name` are further services, each with its public addresses. `key` as in ExposeConfig.
    `transparent_log` is where access lines go: None nowhere, empty for standard error."""

    listen: Tuple[Address, ...]
    name: Tuple[Tuple[str, Address], ...]
    key: bytes = field(repr=False)
    max_clients: int
    workers: int
    idle: float
    rate: int
    proxy_protocol: bool
    transparent_log: Optional[str]
    coalesce: float
    recv_buffer: int
    send_buffer: int

    @property
    def drain_timeout(self) -> float:
        """There is nothing to wait for: nothing on this wire ends by itself."""
        return 0.0

    @property
    def binds(self) -> Tuple[Address, ...]:
        return (*self.listen, *(bind for _, bind in self.name))


@dataclass(frozen=True)
class ExposeConfig:
    """`key` of the password, empty for none; `bind` None for any address."""

    local: Lookup
    helper: Tuple[Lookup, ...]
    key: bytes = field(repr=False)
    bind: Optional[Address]
    name: str
    max_clients: int
    keepalive: float
    idle: float
    coalesce: float


_PATH_SETTINGS = {
    "rendezvous": Setting(parse.parse_rendezvous),
    "key": Setting(parse.parse_key, optional=True),
    "key-file": Setting(parse.read_key_file, optional=True),
    "keepalive": Setting(parse.parse_keepalive, "15s"),
    "idle": Setting(parse.parse_time, "5min"),
    "max-paths": Setting(parse.parse_count, "1024"),
}

ROLES: Dict[str, Dict[str, Setting]] = {
    "rendezvous": {
        "listen": Setting(parse.parse_listen, f"0.0.0.0:{RENDEZVOUS_PORT}", plural=True),
        "holepunch": Setting(parse.parse_listen_or_none, "none", plural=True),
        "chat": Setting(parse.parse_listen_or_none, "none", plural=True),
        "max-keys": Setting(parse.parse_count, "10000"),
        "rate": Setting(parse.parse_count, "500"),
        "no-stun": Setting(parse.parse_switch, "False"),
    },
    "serve": {
        "forward": Setting(parse.parse_destination),
        **_PATH_SETTINGS,
        "bind": Setting(parse.parse_bind, optional=True),
    },
    "connect": {
        "listen": Setting(parse.parse_listen, plural=True),
        **_PATH_SETTINGS,
    },
    "relay": {
        "listen": Setting(parse.parse_listen_dual_stack, f"[::]:{RELAY_PORT}", plural=True),
        "secret-file": Setting(parse.read_secret_file, optional=True),
        "workers": Setting(parse.parse_workers, optional=True),
        "idle": Setting(parse.parse_time, "30s"),
        "max-channels": Setting(parse.parse_count, "100000"),
        "half-open": Setting(parse.parse_count, "8192"),
        "half-open-prefix": Setting(parse.parse_count, "1024"),
        "handshake-rate": Setting(parse.parse_count, "2000"),
        "rate": Setting(parse.parse_optional_count, "none"),
        "bandwidth": Setting(parse.parse_bandwidth, "none"),
        "coalesce": Setting(parse.parse_pause, "0"),
        "recv-buffer": Setting(parse.parse_buffer, "4M"),
        "send-buffer": Setting(parse.parse_buffer, "4M"),
        "drain-timeout": Setting(parse.parse_time, "10s"),
    },
    "helper": {
        "listen": Setting(parse.parse_listen_dual_stack, plural=True),
        "password-file": Setting(parse.read_password_file, optional=True),
        "name": Setting(parse.parse_names, "none", plural=True, mapping=True),
        "max-clients": Setting(parse.parse_tags, "64"),
        "workers": Setting(parse.parse_workers, optional=True),
        "idle": Setting(parse.parse_time, "5min"),
        "rate": Setting(parse.parse_count, "100"),
        "proxy-protocol": Setting(parse.parse_proxy_protocol, "none"),
        "transparent-log": Setting(parse.parse_log_place, optional=True),
        "coalesce": Setting(parse.parse_pause, "0"),
        "recv-buffer": Setting(parse.parse_buffer, "4M"),
        "send-buffer": Setting(parse.parse_buffer, "4M"),
    },
    "expose": {
        "local": Setting(parse.parse_destination),
        "helper": Setting(parse.parse_destinations, plural=True),
        "password-file": Setting(parse.read_password_file, optional=True),
        "name": Setting(parse.parse_name, "none"),
        "bind": Setting(parse.parse_bind_any, optional=True),
        "max-clients": Setting(parse.parse_tags, "64"),
        "keepalive": Setting(parse.parse_keepalive, "25s"),
        "idle": Setting(parse.parse_time, "5min"),
        "coalesce": Setting(parse.parse_pause, "0"),
    },
}

ALIASES = {"turn": "rendezvous", "server": "serve", "client": "connect"}


_CONFIGS: Dict[str, Callable[..., Any]] = {
    "rendezvous": RendezvousConfig,
    "serve": ServeConfig,
    "connect": ConnectConfig,
    "relay": RelayConfig,
    "helper": HelperConfig,
    "expose": ExposeConfig,
}


def role_config(role: str, raw: Mapping[str, Any], environment: Mapping[str, str]) -> Any:
    """The role's configuration. Raises Invalid, which names the setting, and CommandError."""
    values = parse_all(ROLES[role], raw)
    if role == "rendezvous" and not raw.get("listen") and (values["holepunch"] or values["chat"]):
        values["listen"] = ()
    if "no-stun" in values:
        values["stun"] = not values.pop("no-stun")
    if "key-file" in values:
        from_file = values.pop("key-file")
        values["key"] = choose_key(values["key"], from_file, environment)
    if "secret-file" in values:
        values["secret"] = relay_secret(values.pop("secret-file"), environment)
    if "password-file" in values:
        values["key"] = password_key(values.pop("password-file"), environment)
    if role == "helper":
        _judge_places(values)
    if role == "expose":
        _judge_helpers(values)
    if "workers" in values and values["workers"] is None:
        values["workers"] = 0
    config = _CONFIGS[role](**{name.replace("-", "_"): value for name, value in values.items()})
    refuse_shared_places([config])
    return config


def binds(config: Any) -> Tuple[Address, ...]:
    """Where a role listens, as far as that is configured."""
    found: Tuple[Address, ...] = getattr(config, "binds", getattr(config, "listen", ()))
    return found


def refuse_shared_places(configs: Iterable[Any]) -> None:
    """No two listen on one address. Raises Invalid, which names it."""
    places = [address.text(bind) for config in configs for bind in binds(config)]
    _refuse_twice(places, "is to be listened on")


def _refuse_twice(places: Iterable[str], what: str) -> None:
    """Raises Invalid, which names the place."""
    for place, count in Counter(places).items():
        if count > 1:
            raise Invalid(f"{place} {what} twice: once is enough")


def parts(role: str, config: Any) -> List[Tuple[str, Any]]:
    """The roles that a configuration asks for: a rendezvous speaks up to three protocols."""
    if not isinstance(config, RendezvousConfig):
        return [(role, config)]
    most, rate = config.max_keys, config.rate
    named: List[Tuple[str, Any]] = []
    if config.listen:
        named.append((role, config))
    if config.holepunch:
        named.append(("holepunch", HolepunchConfig(config.holepunch, most, rate)))
    if config.chat:
        named.append(("chat", ChatServerConfig(config.chat, most, rate)))
    return named


def _judge_places(values: Dict[str, Any]) -> None:
    """A name needs a password, and a service one address of a family to answer from."""
    if values["name"] and not values["key"]:
        raise Invalid("name needs a password, since only signed keepalives carry one")
    places = [("", bind) for bind in values["listen"]] + list(values["name"])
    families = [(name, len(bind)) for name, bind in places]
    if len(set(families)) < len(families):
        raise Invalid("a service has two addresses of one family: write :PORT for all there are")


def _judge_helpers(values: Dict[str, Any]) -> None:
    if values["name"] and not values["key"]:
        raise Invalid("name needs a password, since only signed keepalives carry one")
    _refuse_twice(map(str, values["helper"]), "is given as a helper")
    if values["bind"] is not None:
        _fit_bind(values)


def _fit_bind(values: Dict[str, Any]) -> None:
    """One socket has a port, and speaks to helpers of its own family."""
    bind, helpers = values["bind"], values["helper"]
    if address.port(bind) and len(helpers) > 1:
        raise Invalid("bind has a port, which only one helper's socket can have: leave it out")
    if address.is_wildcard(bind):
        return
    for helper in helpers:
        if not address.is_ipv4(bind) and re.fullmatch(r"[\d.]+", helper.host):
            raise Invalid(f"bind is an IPv6 address, from which there is no way to {helper}")
    if address.is_ipv4(bind):
        values["helper"] = tuple(Lookup(h.host, h.port, ipv4_only=True) for h in helpers)


def choose_key(
    key: Optional[bytes], from_file: Optional[bytes], environment: Mapping[str, str]
) -> bytes:
    """The key that was given, or read from a file, else the environment's. Raises Invalid."""
    if key is not None and from_file is not None:
        raise Invalid("key and key-file are both given: keep one")
    chosen = key if from_file is None else from_file
    if chosen is None and KEY_VARIABLE in environment:
        try:
            chosen = parse.parse_key(environment[KEY_VARIABLE])
        except Invalid as error:
            raise Invalid(f"{KEY_VARIABLE}: {error}") from None
    if chosen is None:
        raise Invalid(f"key is missing: give KEY, --key-file FILE or {KEY_VARIABLE}")
    return chosen


def relay_secret(secret: Optional[bytes], environment: Mapping[str, str]) -> bytes:
    """The secret that was read from a file, else the environment's; empty if there is none."""
    if secret is None and environment.get(SECRET_VARIABLE):
        try:
            secret = parse.parse_secret(environment[SECRET_VARIABLE])
        except Invalid as error:
            raise Invalid(f"{SECRET_VARIABLE}: {error}") from None
    return secret or b""


def password_key(password: Optional[bytes], environment: Mapping[str, str]) -> bytes:
    """The key of the password that was read from a file, else of the environment's; empty if
    there is none. Raises CommandError."""
    if password is None:
        try:
            password = environment.get(PASSWORD_VARIABLE, "").encode()
        except UnicodeEncodeError:
            raise Invalid(f"{PASSWORD_VARIABLE} is not UTF-8 text") from None
    if not password:
        return b""
    try:
        return derive_key(password)
    except ImportError as error:
        raise missing_library(error, "a password", "password", "python3-argon2") from None
