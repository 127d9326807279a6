"""The YAML file of several checks, which are run one after the other.

checks:
  - relay: {name: frankfurt, address: relay.example.org, warning: "100ms,5%"}
  - serve: {address: meet.example.org, key-file: /etc/udppunch/key, echo: ping}
"""

from __future__ import annotations

from typing import Any, List, Mapping

from udppunch.check.checks import Check, prepare
from udppunch.check.settings import CHECKS
from udppunch.config.file import read_yaml
from udppunch.config.parse import Invalid, nearest
from udppunch.errors import ConfigError


def load(path: str, defaults: Mapping[str, Any], environment: Mapping[str, str]) -> List[Check]:
    """The checks; `defaults` hold for those that say nothing else.

    Raises ConfigError or another CommandError, which name the file and the place.
    """
    content = read_yaml(path, "file of checks")
    if not isinstance(content, dict) or set(content) != {"checks"}:
        others = [name for name in content if name != "checks"] if isinstance(content, dict) else []
        wrong = f"{others[0]} is not known" if others else "no checks"
        raise ConfigError(f"{path}: {wrong}: write `checks:` and a list, see udppunch-check(1)")
    entries = content["checks"]
    if not isinstance(entries, list) or not entries:
        raise ConfigError(f"{path}: checks is not a list of checks, see udppunch-check(1)")
    return [
        _load_check(f"{path}: check {number}", entry, defaults, environment)
        for number, entry in enumerate(entries, 1)
    ]


def _load_check(
    where: str, entry: Any, defaults: Mapping[str, Any], environment: Mapping[str, str]
) -> Check:
    if not isinstance(entry, dict) or len(entry) != 1:
        raise ConfigError(f"{where}: not one check with its settings, as `- relay: {{...}}`")
    role, raw = next(iter(entry.items()))
    if role not in CHECKS:
        raise ConfigError(f"{where}: {role} is not a check{nearest(str(role), CHECKS)}")
    if not isinstance(raw, dict):
        raise ConfigError(f"{where} ({role}): not a table of settings")
    settings = {**{name: each for name, each in defaults.items() if name in CHECKS[role]}, **raw}
    name = settings.pop("name", None)
    if name is None:
        name = settings.get("address")
    try:
        if isinstance(name, (dict, list)):
            raise Invalid("name takes a plain value")
        return prepare(role, settings, environment, str(name))
    except Invalid as error:
        raise ConfigError(f"{where} ({role}): {error}") from None
