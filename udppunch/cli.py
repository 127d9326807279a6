"""The command line: calls what it asks for, and turns errors to exit statuses."""

from __future__ import annotations

import logging
import os
import sys
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

from udppunch import __version__, config, logs, originals, usage
from udppunch.config import Invalid, ProcessConfig
from udppunch.errors import EX_USAGE, UsageError
from udppunch.words import before_dashes, not_given, words_of

log = logging.getLogger(__name__)


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run the command; the exit status (sysexits.h)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        return _command(arguments, os.environ)
    except Exception as error:
        if isinstance(error, UsageError) and arguments[0] == "check":
            from udppunch import check

            # Monitoring shows what is on standard output, and takes statuses for its own.
            return check.refuse(arguments[1:], str(error))
        if "--log-json" in before_dashes(arguments):  # whether the log is set up by now or not
            logs.set_up("error", True, os.environ)
        return logs.report(error)


def _command(arguments: List[str], environment: Mapping[str, str]) -> int:
    if not arguments:
        print(usage.TOP, end="", file=sys.stderr)
        return EX_USAGE
    first, rest = arguments[0], arguments[1:]
    if first in ("-h", "--help", "help"):
        print(usage.TOP, end="")
        return 0
    if first in ("-V", "--version"):
        print(f"udppunch {__version__}")
        return 0
    if first == "udpexposer":
        first, rest, environment = originals.udpexposer(rest, environment)
        if not first:
            print(usage.UDPEXPOSER, end="")
            return 0
    name = config.ALIASES.get(first, first)
    if name not in usage.COMMANDS:
        known = {**usage.COMMANDS, **config.ALIASES}
        kind = "option" if first.startswith("-") else "command"
        hint = "" if kind == "option" else config.nearest(first, known)
        raise UsageError(f"unknown {kind} {first}{hint or '; see udppunch --help'}")
    if any(word in ("-h", "--help") for word in before_dashes(rest)):
        print(usage.COMMANDS[name], end="")
        return 0
    if name == "relay":
        rest = originals.relay_words(rest)
    if name == "check":
        _refuse_what_is_no_check(rest)
    try:
        return _run(name, _parse(name, rest), environment)
    except Invalid as error:
        raise UsageError(f"{error}; see udppunch {name} --help") from None


def _refuse_what_is_no_check(words: Sequence[str]) -> None:
    if words and not words[0].startswith("-"):
        if words[0] not in usage.CHECKS:
            raise UsageError(f"unknown check {words[0]}{config.nearest(words[0], usage.CHECKS)}")
    elif not any(word.startswith("--f") for word in words) and not usage.CHECKS.keys() & {*words}:
        known = ", ".join(usage.CHECKS)
        raise UsageError(f"nothing to check: write one of {known}, or --file FILE")


def _run(name: str, parsed: Dict[str, Any], environment: Mapping[str, str]) -> int:
    if name == "demo":
        from udppunch import demo

        return demo.run(parsed, environment)
    if name == "check":
        from udppunch import check

        named = [role for role in usage.CHECKS if parsed.pop(role)]
        return check.run(named[0] if named else "", parsed, environment)
    if name == "stats":
        from udppunch import stats

        return stats.run(parsed, environment)
    if name in config.TALKS:
        return _talk(name, parsed, environment)
    from udppunch.proc import daemon

    roles, process = _configuration(name, parsed, environment)
    if parsed.get("check"):
        print(f"{parsed['file']}: {', '.join(role for role, _ in roles)}")
        return 0
    logs.set_up(process.log_level, process.log_json, environment)
    for warning in _warnings(name, parsed, environment):
        log.warning("%s", warning)
    daemon.run(roles, process, environment, lambda: _reread(name, parsed, environment))
    return 0


def _talk(name: str, parsed: Mapping[str, Any], environment: Mapping[str, str]) -> int:
    """What people do themselves, at a terminal or in a script."""
    raw, settings = _apart(parsed)
    talk = config.talk_config(name, raw)
    if name == "chat" and not environment.get("UDPPUNCH_LOG"):
        settings.setdefault("log-level", "error")  # what there is to be said is on the screen
    process = config.process_config(settings, environment)
    logs.set_up(process.log_level, process.log_json, environment)
    if name == "peer":
        from udppunch.proc import pipe

        return pipe.run(talk, process)
    from udppunch.proc import chat

    return chat.run(talk, process, environment)


def _apart(parsed: Mapping[str, Any]) -> Tuple[Dict[str, Any], Dict[str, Any]]:
    """The settings of the command, and those of the process as far as they are given."""
    raw = dict(parsed)
    settings = {key: raw.pop(key) for key in config.PROCESS if key in raw}
    return raw, {key: value for key, value in settings.items() if value not in (None, False)}


def _configuration(
    name: str, parsed: Mapping[str, Any], environment: Mapping[str, str]
) -> Tuple[List[Tuple[str, Any]], ProcessConfig]:
    """The roles, each with its configuration, and the process's."""
    raw, settings = _apart(parsed)
    if name == "run":
        roles, of_file = config.load_file(raw["file"], environment)
        settings = {**of_file, **settings}
    else:
        roles = config.parts(name, config.role_config(name, raw, environment))
    return roles, config.process_config(settings, environment)


def _reread(
    name: str, parsed: Mapping[str, Any], environment: Mapping[str, str]
) -> Tuple[List[Tuple[str, Any]], ProcessConfig]:
    try:
        return _configuration(name, parsed, environment)
    except Invalid as error:
        raise UsageError(str(error)) from None


def _warnings(
    name: str, parsed: Mapping[str, Any], environment: Mapping[str, str]
) -> Iterator[str]:
    if name == "run":
        file = parsed["file"]
        if config.is_exposed(file, environment) and config.holds_key(file):
            yield f"{file} holds a key and others may read it: chmod 600"
    if environment is not os.environ:
        yield "a password on the command line can be seen by others: better UDPPUNCH_PASSWORD"
    if parsed.get("key") is not None:
        yield "a key on the command line can be seen by others: better --key-file FILE"
    for kind in ("key", "secret", "password"):
        file = parsed.get(f"{kind}-file")
        if file is not None and config.is_exposed(file, environment):
            yield f"{kind} file {file} may be read by others: chmod 600"


def _parse(name: str, words: List[str]) -> Dict[str, Any]:
    """Settings by name, None for what is not given. Raises UsageError."""
    text = usage.COMMANDS[name]
    found = words_of(text, name, words)
    parsed = {}
    for word, value in found.items():
        if word not in (name, "--help"):
            parsed[word.lstrip("-").lower()] = value
    # A default that says in words what happens is for people; the setting has its own.
    settings = {*config.ROLES.get(name, {}), *config.TALKS.get(name, {}), *config.PROCESS}
    if name == "check":
        from udppunch import check

        settings.update(*check.SETTINGS.values())
    for option in not_given(text, words):
        if option in settings:
            parsed[option] = None
    return parsed
