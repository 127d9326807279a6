"""`udppunch demo`: the whole program at work on this machine, told on the terminal.

Two private networks behind kernel NATs (see `udppunch.lab`), a rendezvous on the public network
between them, and real processes of this very program: `serve` with an echo service in one
network, `connect` with an application in the other. Where no lab can be built all of it runs on
loopback, without the NATs. Exit statuses:

    0       the path came up and carried the application's datagrams, and nothing else came
    64      an unknown NAT class
    69      there is no direct path between such NATs (or one lets no UDP out); the ends said why
    70      a program of ours ended, or something arrived that the application had not sent
    128+n   signal n (SIGINT, SIGTERM, SIGHUP) ended it; processes and namespaces are gone
"""

from __future__ import annotations

import sys
from typing import Any, Mapping

from udppunch.demo.stage import Interrupted, Stage
from udppunch.demo.story import Story
from udppunch.demo.terminal import Terminal
from udppunch.errors import UsageError, abandon
from udppunch.lab import SITES

# `fw` is IPv6 alone, and the puncher protocol carries IPv4.
USUAL = "prc"
CLASSES = tuple(name for name in SITES if name != "fw")


def run(parsed: Mapping[str, Any], environment: Mapping[str, str]) -> int:
    """Tell the story; the exit status."""
    for option in ("nat-a", "nat-b"):
        if parsed[option] not in CLASSES:
            known = ", ".join(CLASSES)
            raise UsageError(f"--{option}: unknown NAT class {parsed[option]!r}: one of {known}")
        if parsed["loopback"] and parsed[option] != USUAL:
            raise UsageError(f"--{option} needs NATs, and --loopback does without them: keep one")
    terminal = Terminal(environment, plain=parsed["no-color"])
    try:
        with Stage(parsed["nat-a"], parsed["nat-b"], loopback=parsed["loopback"]) as stage:
            return Story(stage, terminal).tell()
    except Interrupted as interruption:
        return 128 + interruption.number
    except BrokenPipeError:
        abandon(sys.stdout)
        raise
