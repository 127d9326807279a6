"""`udppunch stats`: what running daemons do now, once or again and again.

Each is asked through its control socket; what it answers is shown as tables, or as it is. A helper
on another host is asked by its own protocol.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from typing import Any, Dict, List, Mapping, NamedTuple, Optional

from udppunch.config.parse import (
    Invalid,
    parse_optional_count,
    parse_time,
    read_password_file,
    split_address,
)
from udppunch.config.roles import password_key
from udppunch.config.settings import Setting, parse_all
from udppunch.contract import Lookup
from udppunch.errors import EX_UNAVAILABLE, CommandError, UsageError, abandon, complain
from udppunch.probe import statistics
from udppunch.stats import client, table
from udppunch.stats.client import Answer, Document

_SHORTEST_PAUSE = 0.1
_REMOTE_PATIENCE = 5.0
_CLEAR = "\x1b[H\x1b[2J"


def _parse_every(text: str) -> float:
    seconds = parse_time(text)
    if seconds < _SHORTEST_PAUSE:
        raise Invalid(f"{text!r} is out of range: at least {_SHORTEST_PAUSE * 1000:g}ms")
    return seconds


SETTINGS: Dict[str, Setting] = {
    "every": Setting(_parse_every, "2s"),
    "channels": Setting(parse_optional_count, "10"),
    "password-file": Setting(read_password_file, optional=True),
}


def run(parsed: Mapping[str, Any], environment: Mapping[str, str]) -> int:
    """Show them; the exit status. Raises Invalid, and CommandError when none answers."""
    # Ctrl-C is how a watch ends, and no failure.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        _run(parsed, environment)
    except KeyboardInterrupt:
        pass
    return 0


def _run(parsed: Mapping[str, Any], environment: Mapping[str, str]) -> None:
    given = {name: parsed[name] for name in SETTINGS if parsed[name] != "none"}
    values = parse_all(SETTINGS, {"channels": parsed["channels"], **given})
    where = parsed["where"]
    if where is not None and "/" not in where:
        _run_remote(where, values, parsed["watch"], environment)
        return
    if values["password-file"] is not None:
        raise UsageError("--password-file is for a helper, given as host:port")
    display = _Display(parsed["json"], parsed["watch"])
    answers = _ask(where, environment, values["channels"])
    _raise_if_none_answers(answers)
    display.show(answers)
    while parsed["watch"]:
        time.sleep(values["every"])
        try:
            answers = _ask(where, environment, values["channels"])
        except CommandError as error:
            answers = [Answer("", error)]
        display.show(answers)


def _run_remote(
    where: str, values: Mapping[str, Any], watch: bool, environment: Mapping[str, str]
) -> None:
    """Of a helper somewhere else: what the original's client prints."""
    if ":" not in where:
        raise UsageError(
            f"{where!r} is not a control socket: write its path with a /, as ./{where}, "
            "or nothing for all there are"
        )
    host, port = split_address(where)
    key = password_key(values["password-file"], environment)
    if not key:
        raise UsageError(
            "a helper tells its statistics for its password: --password-file FILE or"
            f" UDPPUNCH_PASSWORD (a control socket has a / in its path: ./{where})"
        )
    target = Lookup(host or "127.0.0.1", port)
    while True:
        answer = statistics.ask(target, key, time.monotonic() + _REMOTE_PATIENCE)
        if answer.statistics is None:
            raise CommandError(answer.trouble, EX_UNAVAILABLE)
        _print(json.dumps(answer.statistics, indent=None if watch else 2))
        if not watch:
            return
        time.sleep(values["every"])


def _ask(where: Optional[str], environment: Mapping[str, str], channels: int) -> List[Answer]:
    paths = client.find(environment) if where is None else [where]
    return [client.ask(path, channels) for path in paths]


def _raise_if_none_answers(answers: List[Answer]) -> None:
    errors = [said for _, said in answers if isinstance(said, CommandError)]
    if len(errors) == len(answers):
        for error in errors[1:]:
            _complain(error)
        raise errors[0]


class _Seen(NamedTuple):
    document: Document
    at: float


class _Display:
    """Shows answers; those of a watch with what has changed since the last ones."""

    def __init__(self, as_json: bool, watching: bool) -> None:
        self._as_json = as_json
        self._watching = watching
        on_terminal = sys.stdout is not None and sys.stdout.isatty()
        self._clearing = watching and not as_json and on_terminal
        self._seen: Dict[str, _Seen] = {}

    def show(self, answers: List[Answer]) -> None:
        answered = [(path, said) for path, said in answers if not isinstance(said, CommandError)]
        errors = [said for _, said in answers if isinstance(said, CommandError)]
        tables = [self._table(path, document) for path, document in answered]
        if self._clearing:
            # On standard error they would be cleared away before anybody has read them.
            _print(_CLEAR + "\n\n".join([*tables, *(table.visible(str(e)) for e in errors)]))
            return
        for error in errors:
            _complain(error)
        if self._as_json:
            documents = [document for _, document in answered]
            shown: Any = documents[0] if len(documents) == 1 else documents
            _print(json.dumps(shown, indent=None if self._watching else 2))
        elif tables:
            _print("\n\n".join(tables) + ("\n" if self._watching else ""))

    def _table(self, path: str, document: Document) -> str:
        seen = _Seen(document, time.monotonic())
        before, self._seen[path] = self._seen.get(path), seen
        earlier = None
        if before is not None and _is_same_run(before.document, document):
            earlier = table.Earlier(before.document, seen.at - before.at)
        return "\n".join(table.show(path, document, earlier))


def _is_same_run(one: Document, other: Document) -> bool:
    """Whether the daemon was not restarted between the two, and counts on."""
    then, now = (document.get("uptime") for document in (one, other))
    if isinstance(then, (int, float)) and isinstance(now, (int, float)) and now < then:
        return False
    return one.get("pid") == other.get("pid")


def _complain(error: CommandError) -> None:
    complain(table.visible(str(error)))


def _print(text: str) -> None:
    try:
        print(text, flush=True)
    except OSError:
        abandon(sys.stdout)
        raise
