"""The commands that people talk with: their configurations, and the settings they come from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable, Dict, Mapping, Optional

from udppunch.address import Address
from udppunch.config import parse
from udppunch.config.parse import Invalid
from udppunch.config.settings import Setting, parse_all
from udppunch.contract import Lookup


@dataclass(frozen=True)
class PeerConfig:
    """`remote` empty: wait for whoever asks. Times in seconds; `wait` and `quit_after` None for
    ever."""

    server: Lookup
    name: str
    remote: str
    bind: Optional[Address]
    raw: bool
    hello: bool
    wait: Optional[float]
    quit_after: Optional[float]
    keepalive: float


@dataclass(frozen=True)
class ChatConfig:
    """`name` and `peer` empty: to be asked for. `web_listen` None: in the terminal."""

    server: Lookup
    name: str
    peer: str
    bind: Optional[Address]
    history: Optional[str]
    web_listen: Optional[Address]
    keepalive: float


TALKS: Dict[str, Dict[str, Setting]] = {
    "peer": {
        "server": Setting(parse.parse_holepunch_server),
        "name": Setting(parse.parse_peer_name),
        "remote": Setting(parse.parse_peer_name, optional=True),
        "bind": Setting(parse.parse_bind, optional=True),
        "raw": Setting(parse.parse_switch, "False"),
        "hello": Setting(parse.parse_switch, "False"),
        "wait": Setting(parse.parse_optional_time, "none"),
        "quit-after": Setting(parse.parse_optional_time, "none"),
        "keepalive": Setting(parse.parse_keepalive, "15s"),
    },
    "chat": {
        "server": Setting(parse.parse_chat_server),
        "name": Setting(parse.parse_chat_name, optional=True),
        "peer": Setting(parse.parse_peer_id, optional=True),
        "bind": Setting(parse.parse_bind, optional=True),
        "history": Setting(str, optional=True),
        "web": Setting(parse.parse_switch, "False"),
        "web-listen": Setting(parse.parse_metrics, "127.0.0.1:8000"),
        "keepalive": Setting(parse.parse_keepalive, "15s"),
    },
}

_CONFIGS: Dict[str, Callable[..., Any]] = {"peer": PeerConfig, "chat": ChatConfig}


def talk_config(command: str, raw: Mapping[str, Any]) -> Any:
    """The command's configuration. Raises Invalid, which names the setting, and CommandError."""
    values = parse_all(TALKS[command], raw)
    for name in ("remote", "name", "peer"):
        if name in values:
            values[name] = values[name] or ""
    if command == "chat" and not values.pop("web"):
        values["web-listen"] = None
    if command == "peer":
        _judge_peer(values)
    return _CONFIGS[command](**{name.replace("-", "_"): value for name, value in values.items()})


def _judge_peer(values: Dict[str, Any]) -> None:
    if values["raw"] and values["hello"]:
        raise Invalid("raw and hello are both given: keep one")
    if values["remote"] == values["name"]:
        raise Invalid("name and remote are the same: no peer is introduced to itself")
