"""The YAML file: which roles to run, and the settings of the process that runs them."""

from __future__ import annotations

from typing import Any, Dict, List, Mapping, Tuple

from udppunch.config.parse import Invalid, nearest, origin, read_text
from udppunch.config.process import PROCESS
from udppunch.config.roles import ALIASES, ROLES, parts, refuse_shared_places, role_config
from udppunch.errors import CommandError, ConfigError


def load_file(
    path: str, environment: Mapping[str, str]
) -> Tuple[List[Tuple[str, Any]], Dict[str, Any]]:
    """The roles, each with its configuration, and the raw settings of the process.

    Raises ConfigError or another CommandError, which name the file and what is wrong.
    """
    content = read_yaml(path, "configuration")
    if not isinstance(content, dict):
        said = "no settings: write `roles:` and a list, see udppunch.yaml(5)"
        raise ConfigError(f"{path}: {said}{origin(path)}")
    entries = content.pop("roles", None)
    for name in content:
        if name not in PROCESS:
            raise ConfigError(
                f"{path}: {name} is not known{nearest(str(name), {'roles': None, **PROCESS})}"
            )
    if not isinstance(entries, list) or not entries:
        raise ConfigError(f"{path}: roles is not a list of roles, see udppunch.yaml(5)")
    numbered = enumerate(entries, 1)
    loaded = [_load_role(path, number, entry, environment) for number, entry in numbered]
    try:
        refuse_shared_places(config for _, config in loaded)
    except Invalid as error:
        raise ConfigError(f"{path}: {error}") from None
    return [part for one in loaded for part in parts(*one)], content


def read_yaml(path: str, what: str) -> Any:
    """What a file says. Raises ConfigError or another CommandError, which name the file."""
    from udppunch.config import document  # here: commands that need no file do not wait for YAML

    try:
        return document.read(read_text(path, what))
    except Invalid as error:
        raise ConfigError(f"{path}{error}") from None


def _load_role(
    path: str, number: int, entry: Any, environment: Mapping[str, str]
) -> Tuple[str, Any]:
    where = f"{path}: role {number}"
    if not isinstance(entry, dict) or len(entry) != 1:
        raise ConfigError(f"{where}: not a name with settings, as `- serve: {{...}}`")
    name, raw = next(iter(entry.items()))
    role = ALIASES.get(name, name)
    if role not in ROLES:
        raise ConfigError(f"{where}: {name} is not a role{nearest(str(name), ROLES)}")
    if raw is not None and not isinstance(raw, dict):
        raise ConfigError(f"{where} ({role}): not a table of settings")
    try:
        return role, role_config(role, raw or {}, environment)
    except Invalid as error:
        raise ConfigError(f"{where} ({role}): {error}") from None


def holds_key(path: str) -> bool:
    """Whether a configuration file has a key in itself."""
    try:
        content = read_yaml(path, "configuration")
        return any("key" in (s or {}) for entry in content["roles"] for s in entry.values())
    except (CommandError, TypeError, LookupError, AttributeError):
        return False
