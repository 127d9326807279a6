"""The original programs' own options, put in our words, so that a unit file goes on working."""

from __future__ import annotations

from typing import Callable, Dict, List, Sequence

from udppunch.errors import UsageError

_RELAY_LEVELS = {"0": "error", "1": "error", "2": "warning", "3": "info", "4": "debug"}


def _milliseconds(option: str) -> Callable[[str], List[str]]:
    return lambda value: [option, f"{value}ms"]


# What udp-relay takes and we name otherwise; each has a value.
_RELAY: Dict[str, Callable[[str], List[str]]] = {
    "--port": lambda value: [f":{value}"],
    "--socketRecvBufferSize": lambda value: ["--recv-buffer", value],
    "--socketSendBufferSize": lambda value: ["--send-buffer", value],
    "--cleanupInactiveAfterTime": _milliseconds("--idle"),
    # Channels end when they are due, and both IP versions are served anyway.
    "--cleanupTime": lambda value: [],
    "--ipv6": lambda value: [],
}


def relay_words(words: Sequence[str]) -> List[str]:
    """The arguments of udp-relay 0.8.2 as those of `udppunch relay`. Raises UsageError."""
    translated: List[str] = []
    left = list(words)
    while left:
        if left[0] == "--":
            return translated + left
        option, equals, value = left.pop(0).partition("=")
        translate = _RELAY.get(option)
        if translate is None and not (option == "--log-level" and (equals or left)):
            translated.append(option + equals + value)
            continue
        if not equals:
            if not left:
                raise UsageError(f"{option} requires argument; see udppunch relay --help")
            value = left.pop(0)
        if translate is None:
            translated += [option, _RELAY_LEVELS.get(value, value)]
        else:
            translated += translate(value)
    return translated
