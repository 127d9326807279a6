"""`udppunch check`: whether what udppunch does for others works, for cron and monitoring.

Each check has a module of its own; output, exit statuses and most options are the same for all.
What can't be checked because of ourselves is UNKNOWN; a service that gives no answer, or whose
name has no address, is CRITICAL.
"""

from __future__ import annotations

import logging
from typing import Any, Dict, List, Mapping, Sequence

from udppunch.check import alone, checks, file, output
from udppunch.check.checks import Check
from udppunch.check.output import Outcome, Report, Status, worst
from udppunch.check.settings import CHECKS, FOR_ALL, RUN
from udppunch.config.parse import Invalid
from udppunch.config.settings import Setting, parse_all
from udppunch.errors import explained

# By what is checked; empty for what a file lists.
SETTINGS: Dict[str, Dict[str, Setting]] = {**CHECKS, "": {**FOR_ALL, **RUN}}


def run(role: str, parsed: Mapping[str, Any], environment: Mapping[str, str]) -> int:
    """Check a role, or, if that is empty, what a file says; and tell what was found.

    The exit status. Raises Invalid.
    """
    _refuse_what_is_for_others(role, parsed)
    # What is worth a line of a daemon's log is told in the outcome.
    logging.getLogger("udppunch").addHandler(logging.NullHandler())
    given = {name: value for name, value in parsed.items() if value is not None}
    values = parse_all(RUN, _of(RUN, given))
    try:
        ready = _ready(role, given, environment)
        with alone.lock(values["lock"]) as is_alone:
            if not is_alone:
                said = f"not checked: another check holds {values['lock']}"
                return int(_tell_run(role, parsed, Outcome(Status.OK, said)))
            alone.wait(values["splay"])
            return int(worst([_tell(each.run(), parsed) for each in ready]))
    except Invalid:
        raise
    except Exception as error:
        return int(_tell_run(role, parsed, Outcome(Status.UNKNOWN, explained(error)[0])))


def refuse(words: Sequence[str], text: str) -> int:
    """Tell, as the outcome of a check, that the words of the command line are wrong."""
    role = next((word for word in words if word in CHECKS), "check")
    report = Report(role, "", Outcome(Status.UNKNOWN, text), {}, {})
    as_json = any(word.startswith("--j") and "--json".startswith(word) for word in words)
    output.write(report.document() if as_json else report.line())
    return int(report.status)


def _refuse_what_is_for_others(role: str, parsed: Mapping[str, Any]) -> None:
    for settings in SETTINGS.values():
        for name in settings:
            is_given = parsed[name] not in (None, False)
            if is_given and name not in SETTINGS[role] and name not in RUN:
                where = f"check {role}" if role else "the command line: write it in the file"
                raise Invalid(f"--{name} is not for {where}")


def _ready(role: str, given: Mapping[str, Any], environment: Mapping[str, str]) -> List[Check]:
    """Raises Invalid, and what else keeps the file from being read."""
    if role:
        return [checks.prepare(role, _of(CHECKS[role], given), environment)]
    defaults = _of(FOR_ALL, given)
    parse_all(FOR_ALL, defaults)  # for what is wrong in them is not the file's fault
    return file.load(given["file"], defaults, environment)


def _of(settings: Mapping[str, Setting], given: Mapping[str, Any]) -> Dict[str, Any]:
    return {name: value for name, value in given.items() if name in settings}


def _tell(report: Report, parsed: Mapping[str, Any]) -> Status:
    if not (parsed["quiet"] and report.status is Status.OK):
        output.write(report.document() if parsed["json"] else report.line())
    return report.status


def _tell_run(role: str, parsed: Mapping[str, Any], outcome: Outcome) -> Status:
    """Of a run that came to no check."""
    target = parsed["address"] if role else parsed["file"]
    return _tell(Report(role or "file", target, outcome, {}, {}), parsed)
