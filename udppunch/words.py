"""The words of a command line, read by docopt; and, where it takes them not, why, in one line."""

from __future__ import annotations

from typing import Any, Container, Dict, Iterator, List, Sequence

import docopt

from udppunch.config import nearest
from udppunch.errors import UsageError

# No word of a command line has a NUL. One stands before what is no option, two stand for an
# argument that is missing.
_NO_OPTION = "\0"
_ANYTHING = "\0\0"
_MOST_MISSING = 3


def words_of(text: str, name: str, words: Sequence[str]) -> Dict[str, Any]:
    """What the words of a command give each name of its usage text. What stands behind `--` is
    no option, whatever it begins with. Raises UsageError."""
    before = before_dashes(words)
    behind = [_NO_OPTION + word for word in words[len(before) + 1 :]]
    words = [*before, *behind]
    _refuse_unknown_options(text, name, words)
    try:
        return {key: _bare(value) for key, value in _docopt(text, name, words).items()}
    except docopt.DocoptExit as error:
        complaint = str(error).split("\n")[0].strip()
        if not complaint or complaint.lower().startswith("usage"):
            complaint = _what_is_wrong(text, name, words)
        raise UsageError(f"{complaint}; see udppunch {name} --help") from None


def _bare(value: Any) -> Any:
    if isinstance(value, list):
        return [_bare(each) for each in value]
    return value[1:] if isinstance(value, str) and value.startswith(_NO_OPTION) else value


def not_given(text: str, words: Sequence[str]) -> Iterator[str]:
    """The options that have a default in the usage text and no value in the words."""
    given = [word.split("=")[0] for word in before_dashes(words) if word.startswith("-")]
    options = _options(text)
    names = {option.long for option in options}
    for option in options:
        if not any(_is_of(option, word, names) for word in given):
            yield str(option.name).lstrip("-")


def before_dashes(words: Sequence[str]) -> Sequence[str]:
    return words[: words.index("--")] if "--" in words else words


def _docopt(text: str, name: str, words: Sequence[str]) -> Dict[str, Any]:
    found: Dict[str, Any] = docopt.docopt(text, [name, *words], help=False)
    return found


def _options(text: str) -> List[Any]:
    """The options that a usage text describes: each with `name`, `short`, `long`, `value`."""
    return list(docopt.parse_defaults(text))  # type: ignore[attr-defined]


def _is_of(option: Any, word: str, names: Container[str]) -> bool:
    """Whether a word of the command line is the option, shortened perhaps."""
    if word.startswith("--"):
        return bool(option.name == word or word not in names and option.name.startswith(word))
    return option.short is not None and option.short[1:] in word


def _refuse_unknown_options(text: str, name: str, words: Sequence[str]) -> None:
    options = _options(text)
    known = {word: None for each in options for word in (each.short, each.long) if word}
    for at, word in enumerate(words):
        former, bare = words[at - 1] if at else "", word.split("=")[0]
        if any(each.argcount and former in (each.short, each.long) for each in options):
            continue  # the value of that one
        if words.count(word) > 1 and word in known:
            raise UsageError(f"{word} is given twice: once is enough")
        if bare[:1] == "-" and bare[1:2] != "-" and bare[:2] in known:
            continue  # a short one, its value behind it perhaps
        if len(bare) > 1 and bare.startswith("-") and not any(k.startswith(bare) for k in known):
            hint = nearest(bare, known)
            if "did you mean" not in hint and _may_be_key(text, name, words, at):
                raise UsageError(
                    f"unknown option of udppunch {name}: a key that begins with a dash stands "
                    "behind --"
                )
            raise UsageError(f"unknown option {bare} of udppunch {name}{hint}")


def _may_be_key(text: str, name: str, words: Sequence[str], at: int) -> bool:
    """Whether a key would be expected there: one is not to be seen in an error."""
    try:
        found = _docopt(text, name, [*words[:at], _ANYTHING, *words[at + 1 :]])
    except docopt.DocoptExit:
        return False
    return found.get("KEY") == _ANYTHING


def _what_is_wrong(text: str, name: str, words: Sequence[str]) -> str:
    missing = _missing(text, name, words)
    if missing:
        return f"{' and '.join(missing)} {'are' if missing[1:] else 'is'} missing"
    if _too_many(text, name, words):
        return "too many arguments"  # without naming one, which may be a key
    option = _superfluous_option(text, name, words)
    if option:
        return f"{option} does not go with the other arguments"
    return "these arguments do not go together"


def _missing(text: str, name: str, words: Sequence[str]) -> List[str]:
    """The names of what would have to follow."""
    for count in range(1, _MOST_MISSING + 1):
        try:
            found = _docopt(text, name, [*words, *[_ANYTHING] * count])
        except docopt.DocoptExit:
            continue
        return [key for key, value in found.items() if value in (_ANYTHING, [_ANYTHING])]
    return []


def _too_many(text: str, name: str, words: Sequence[str]) -> bool:
    """Whether some words less would have been right."""
    left = list(words)
    for at in reversed(range(len(words))):
        if not words[at].startswith("-"):
            del left[at]
            if _is_right(text, name, left):
                return True
    return False


def _superfluous_option(text: str, name: str, words: Sequence[str]) -> str:
    """The option without which, and its value, the others would do; empty if there is none."""
    for at, word in enumerate(words):
        if word.startswith("-"):
            for width in (1, 2):
                if _is_right(text, name, [*words[:at], *words[at + width :]]):
                    return word.split("=")[0]
    return ""


def _is_right(text: str, name: str, words: Sequence[str]) -> bool:
    try:
        _docopt(text, name, words)
    except docopt.DocoptExit:
        return False
    return True
