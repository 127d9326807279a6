"""A YAML file as people who configure programs take it: texts in tables and lists.

YAML 1.1 would guess what a text means: 0123 is 83 to it, 12:30 is 750, and `on` is true. Here all
that is written without quotes is what was written; what a setting makes of it, the setting knows.
A name that stands twice in one table is a mistake, of which the one or the other would be lost.
"""

from __future__ import annotations

import re
from typing import Any, Dict, List, Tuple

import yaml

from udppunch.config.parse import Invalid

_NO_TEXT = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")
_MERGE = "tag:yaml.org,2002:merge"
# A setting without a value is as if it were not there.
_KEPT = (_MERGE, "tag:yaml.org,2002:null")


def read(text: str) -> Any:
    """What it says. Raises Invalid, whose text begins with the line, if that is known."""
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f":{mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "cannot be read"
        kind = "" if isinstance(error, yaml.constructor.ConstructorError) else "not YAML: "
        raise Invalid(f"{where}: {kind}{problem}") from None
    except (ValueError, ArithmeticError, LookupError, TypeError, AttributeError, RecursionError):
        # Nested too deeply, or not what a tag as !!int says it is.
        raise Invalid(": a value in it cannot be read: put it in quotes") from None


def _without_guesses() -> Dict[str, List[Tuple[str, Any]]]:
    """By a text's first character, what it may mean."""
    return {
        first: [each for each in meanings if each[0] in _KEPT]
        for first, meanings in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = _without_guesses()

    def construct_scalar(self, node: Any) -> Any:
        value = super().construct_scalar(node)
        if isinstance(value, str) and _NO_TEXT.search(value):
            raise yaml.constructor.ConstructorError(
                None, None, "control characters are no text", node.start_mark
            )
        return value

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> Dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == _MERGE:
                continue
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{key.value} is given twice", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)
