"""What concerns the process and not a role."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, Mapping, Optional

from udppunch.address import Address
from udppunch.config.parse import Invalid, parse_control, parse_level, parse_metrics, parse_switch
from udppunch.config.settings import Setting, parse_all

_LOG_VARIABLE = "UDPPUNCH_LOG"


@dataclass(frozen=True)
class ProcessConfig:
    """What concerns the process and not a role."""

    log_level: str
    log_json: bool
    offload: bool
    control: Optional[str]  # path of a socket; empty for none, None for the usual place
    metrics: Optional[Address]


PROCESS: Dict[str, Setting] = {
    "log-level": Setting(parse_level, "info"),
    "log-json": Setting(parse_switch, "False"),
    "no-offload": Setting(parse_switch, "False"),
    "control": Setting(parse_control, optional=True),
    "metrics": Setting(parse_metrics, optional=True),
}


def process_config(raw: Mapping[str, Any], environment: Mapping[str, str]) -> ProcessConfig:
    """What concerns the process. Raises Invalid."""
    named = dict(raw)
    if named.get("log-level") is None and environment.get(_LOG_VARIABLE):
        try:
            named["log-level"] = parse_level(environment[_LOG_VARIABLE])
        except Invalid as error:
            raise Invalid(f"{_LOG_VARIABLE}: {error}") from None
    values = parse_all(PROCESS, named)
    return ProcessConfig(
        values["log-level"],
        values["log-json"],
        not values["no-offload"],
        values["control"],
        values["metrics"],
    )
