"""What a setting is, and how all those of one table are read: each named when it is wrong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable, Dict, Mapping, Optional

from udppunch.config.parse import Invalid, nearest


@dataclass(frozen=True)
class Setting:
    """`default` None: must be given, unless `optional`. `plural` takes a list, and `mapping`
    a table of names and addresses too."""

    parse: Callable[[str], Any]
    default: Optional[str] = None
    optional: bool = False
    plural: bool = False
    mapping: bool = False


def parse_all(settings: Mapping[str, Setting], raw: Mapping[str, Any]) -> Dict[str, Any]:
    for name in raw:
        if name not in settings:
            raise Invalid(f"{name} is not known{nearest(str(name), settings)}")
    return {name: _parse_one(name, setting, raw.get(name)) for name, setting in settings.items()}


def _parse_one(name: str, setting: Setting, given: Any) -> Any:
    if given is None or given == []:
        if setting.default is None:
            if setting.optional:
                return None
            raise Invalid(f"{name} is missing")
        given = setting.default
    if setting.mapping and isinstance(given, dict):
        # A bare number is a port.
        given = [f"{key}={':' if str(at).isdigit() else ''}{at}" for key, at in given.items()]
    texts = given if isinstance(given, list) else [given]
    if any(isinstance(text, (dict, list)) or text is None for text in texts):
        raise Invalid(f"{name} takes a plain value{' or a list' if setting.plural else ''}")
    if len(texts) != 1 and not setting.plural:
        raise Invalid(f"{name} takes one value, not {len(texts)}")
    try:
        parsed = [setting.parse(str(text)) for text in texts]
    except Invalid as error:
        raise Invalid(f"{name}: {error}") from None
    return tuple(one for many in parsed for one in many) if setting.plural else parsed[0]
