"""One check made ready to run, and run."""

from __future__ import annotations

import functools
import importlib
from typing import Any, Callable, Mapping, NamedTuple

from udppunch.check.output import Outcome, Report, Status
from udppunch.check.settings import CHECKS, LIMITS
from udppunch.check.thresholds import Limits
from udppunch.config.parse import Invalid
from udppunch.config.settings import parse_all
from udppunch.errors import CommandError, explained

Probe = Callable[[], Outcome]


class Check(NamedTuple):
    """`name` tells it from others that run with it."""

    role: str
    target: str
    name: str
    warning: Limits
    critical: Limits
    probe: Probe

    def run(self) -> Report:
        try:
            outcome = self.probe()
        except CommandError as error:
            outcome = Outcome(Status.UNKNOWN, str(error))
        except OSError as error:
            outcome = Outcome(Status.UNKNOWN, error.strerror or type(error).__name__)
        except Exception as error:
            outcome = Outcome(Status.UNKNOWN, explained(error)[0])
        return Report(self.role, self.target, outcome, self.warning, self.critical, self.name)


def prepare(
    role: str, raw: Mapping[str, Any], environment: Mapping[str, str], name: str = ""
) -> Check:
    """The check that the settings, given as text, ask for. Raises Invalid.

    A secret that can't be read is told when it runs: nothing is known then of what it checks.
    """
    limits = parse_all(LIMITS, {each: raw.get(each) for each in LIMITS})
    # Its module has the name of what it checks, and is loaded alone: this may run each minute.
    module = importlib.import_module(f"udppunch.check.{role}")
    probe: Probe
    try:
        probe = module.prepare(parse_all(CHECKS[role], raw), environment)
    except Invalid:
        raise
    except (CommandError, OSError) as error:
        probe = functools.partial(Outcome, Status.UNKNOWN, explained(error)[0])
    return Check(role, str(raw["address"]), name, limits["warning"], limits["critical"], probe)
