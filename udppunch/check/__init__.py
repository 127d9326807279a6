"""`udppunch check`: whether what udppunch does for others works, for cron and monitoring.

Each role has a probe of its own; output, exit statuses and most options are the same for all.
What can't be checked because of ourselves is UNKNOWN; a service that gives no answer, or whose
name has no address, is CRITICAL.
"""

from __future__ import annotations

from typing import Any, Callable, Dict, Mapping

from udppunch.check import helper, output, relay
from udppunch.check.output import Outcome, Report, Status
from udppunch.check.thresholds import parse_limits
from udppunch.config.parse import Invalid, parse_time
from udppunch.config.settings import Setting, parse_all
from udppunch.errors import CommandError, explained

_SETTINGS = {
    "warning": Setting(parse_limits, "200ms,20%"),
    "critical": Setting(parse_limits, "500ms,60%"),
    "timeout": Setting(parse_time, "10s"),
}
# What options that one check has and another has not say when they are left out.
_NOT_GIVEN = (None, "none", "60s")
SETTINGS: Dict[str, Dict[str, Setting]] = {
    "relay": {**_SETTINGS, **relay.SETTINGS},
    "helper": {**_SETTINGS, **helper.SETTINGS},
}
_PROBES: Dict[str, Callable[[Mapping[str, Any], Mapping[str, str]], Outcome]] = {
    "relay": relay.check,
    "helper": helper.check,
}


def run(role: str, parsed: Mapping[str, Any], environment: Mapping[str, str]) -> int:
    """Check a role and tell what was found; the exit status. Raises Invalid."""
    for name in {**relay.SETTINGS, **helper.SETTINGS}:
        if name not in SETTINGS[role] and parsed[name] not in _NOT_GIVEN:
            raise Invalid(f"--{name} is not for a {role}")
    limits = parse_all(_SETTINGS, {name: parsed[name] for name in _SETTINGS})
    outcome = _outcome(role, parsed, environment)
    report = Report(role, parsed["address"], outcome, limits["warning"], limits["critical"])
    if not (parsed["quiet"] and report.status is Status.OK):
        output.write(report.document() if parsed["json"] else report.line())
    return int(report.status)


def _outcome(role: str, parsed: Mapping[str, Any], environment: Mapping[str, str]) -> Outcome:
    settings = SETTINGS[role]
    given = {name: value for name, value in parsed.items() if name in settings and value != "none"}
    try:
        return _PROBES[role](parse_all(settings, given), environment)
    except Invalid:
        raise
    except CommandError as error:
        return Outcome(Status.UNKNOWN, str(error))
    except OSError as error:
        return Outcome(Status.UNKNOWN, error.strerror or type(error).__name__)
    except Exception as error:
        return Outcome(Status.UNKNOWN, explained(error)[0])
