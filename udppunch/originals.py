"""The original programs' own options, put in our words, so that a unit file goes on working."""

from __future__ import annotations

from typing import Callable, Dict, List, Mapping, Sequence, Tuple

from udppunch import usage
from udppunch.errors import UsageError
from udppunch.words import words_of

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


def udpexposer(
    words: Sequence[str], environment: Mapping[str, str]
) -> Tuple[str, List[str], Mapping[str, str]]:
    """The arguments of udpexposer 0.3.0 as a command of ours, with its arguments and environment;
    no command if help is wanted. Raises UsageError."""
    if {"-h", "--help"} & set(words):
        return "", [], environment
    given = words_of(usage.UDPEXPOSER, "udpexposer", words)
    if given["--password"] is not None:
        environment = {**environment, "UDPPUNCH_PASSWORD": given["--password"]}
    listen, helper = given["LISTEN"], given["--server-addr"]
    for option, value in (("-n", given["--max-clients"]), ("-i", given["--ping-interval-ms"])):
        if not value.isdigit():
            raise UsageError(f"{option} {value!r} is not a number; see udppunch udpexposer -h")
    if given["--dump-stats"] and helper is not None:
        return "stats", [helper], environment
    if given["--server-mode"] and not given["--dump-stats"]:
        return "helper", ["-n", given["--max-clients"], listen], environment
    if helper is None or given["--local-connect-addr"] is None:
        missing = "-a SERVER" if helper is None else "-c LOCAL"
        hint = "(or -s, to be the helper); see udppunch udpexposer -h"
        raise UsageError(f"{missing} is missing {hint}")
    options = [
        "--bind",
        listen,
        "-n",
        given["--max-clients"],
        "-i",
        f"{given['--ping-interval-ms']}ms",
    ]
    return "expose", [*options, given["--local-connect-addr"], helper], environment
