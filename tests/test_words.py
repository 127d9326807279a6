"""The words of a command line: what each command makes of them, and what it says of those that it
does not take."""

from __future__ import annotations

import contextlib
from typing import Any, Dict, List, Optional, Sequence

import docopt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from udppunch import usage
from udppunch.errors import UsageError
from udppunch.words import words_of

SECRET = "TopSecret"
# What makes these commands complete but for an option.
COMPLETE: Dict[str, List[str]] = {
    "rendezvous": [],
    "serve": [":1", "host"],
    "connect": [":1", "host"],
    "relay": [],
    "helper": [":1"],
    "expose": [":1", "host:1"],
    "peer": ["host", "me"],
    "chat": ["host"],
    "run": ["file"],
    "check": ["relay", "host"],  # which --file stands for
    "stats": [],
    "demo": [],
}


def options_of(name: str) -> List[Any]:
    text = usage.COMMANDS[name]
    return [option for option in docopt.parse_defaults(text) if option.long]  # type: ignore[attr-defined]


WITH_VALUE = [
    (name, word)
    for name in COMPLETE
    for option in options_of(name)
    if option.argcount
    for word in (option.short, option.long)
    if word
]
WITHOUT_VALUE = [
    (name, option.long)
    for name in COMPLETE
    for option in options_of(name)
    if not option.argcount and option.long != "--help"
]


def words_with(name: str, *words: str) -> List[str]:
    return [*([] if words[0].startswith("--f") else COMPLETE[name]), *words]


def parse(name: str, *words: str) -> Dict[str, Any]:
    return words_of(usage.COMMANDS[name], name, words)


def complaint(name: str, *words: str) -> str:
    with pytest.raises(UsageError) as caught:
        parse(name, *words)
    return str(caught.value)


def test_each_command_is_tried() -> None:
    assert {*COMPLETE} == {*usage.COMMANDS} - {"udpexposer"}


@pytest.mark.parametrize("name, option", WITH_VALUE)
def test_a_value_that_is_missing(name: str, option: str) -> None:
    said = complaint(name, *COMPLETE[name], option)
    assert said == f"{option} requires argument; see udppunch {name} --help"


@pytest.mark.parametrize("name, option", WITH_VALUE)
def test_a_value_as_it_is(name: str, option: str) -> None:
    """Beside the option, or in one word with it."""
    long = next(each.long for each in options_of(name) if option in (each.short, each.long))
    equals = "=" if option == long else ""
    for value in ("x", "a b", "=", "x=y", "\u00fc", "\n", "0"):
        assert parse(name, *words_with(name, f"{long}={value}"))[long] == value
        assert parse(name, *words_with(name, option, value))[long] == value
        assert parse(name, *words_with(name, option + equals + value))[long] == value
    assert parse(name, *words_with(name, f"{long}="))[long] == ""
    assert parse(name, *words_with(name, f"{long}=-1"))[long] == "-1"


@pytest.mark.parametrize("name, option", WITHOUT_VALUE)
def test_a_value_that_is_not_wanted(name: str, option: str) -> None:
    assert "must not have an argument" in complaint(name, *COMPLETE[name], f"{option}=x")


@pytest.mark.parametrize("name", COMPLETE)
def test_an_option_may_be_shortened(name: str) -> None:
    """As far as it is still one option's."""
    longs = [option.long for option in options_of(name)]
    for option in (each for each in options_of(name) if each.long != "--help"):
        shorter = (option.long[:end] for end in range(3, len(option.long)))
        unique = (word for word in shorter if sum(long.startswith(word) for long in longs) == 1)
        short = next(unique, option.long)
        value = ["5s"] if option.argcount else []
        found = parse(name, *words_with(name, short, *value))
        assert found[option.long] == ("5s" if option.argcount else True)


def test_short_options_in_one_word() -> None:
    assert parse("peer", "host", "me", "-w5s", "-q", "1s")["--wait"] == "5s"
    assert parse("peer", "host", "me", "-q1s")["--quit-after"] == "1s"


@pytest.mark.parametrize(
    "name, words, key",
    [
        ("connect", (":1", "host", "--", "-key"), "-key"),
        ("connect", ("--", ":1", "host", "--key"), "--key"),
        ("connect", (":1", "--", "host", "--help"), "--help"),
        ("connect", (":1", "host", "--", "--"), "--"),
        ("connect", (":1", "host", "--"), None),
        ("serve", ("--idle", "5s", ":1", "host", "--", "-"), "-"),
        ("serve", (":1", "host", "--", ""), ""),
        ("serve", (":1", "host", "key", "--"), "key"),
    ],
)
def test_what_is_behind_two_dashes_is_no_option(
    name: str, words: Sequence[str], key: Optional[str]
) -> None:
    found = parse(name, *words)
    assert (found["RENDEZVOUS"], found["KEY"]) == ("host", key)


@pytest.mark.parametrize("name", COMPLETE)
def test_two_dashes_are_no_argument(name: str) -> None:
    assert parse(name, *COMPLETE[name], "--") == parse(name, *COMPLETE[name])


@pytest.mark.parametrize("name, option", WITH_VALUE)
def test_an_option_given_twice(name: str, option: str) -> None:
    assert "twice" in complaint(name, *COMPLETE[name], option, "1s", option, "2s")


@pytest.mark.parametrize(
    "words",
    [
        ("-" + SECRET,),
        ("--" + SECRET,),
        ("--", "-" + SECRET, "more"),
        (SECRET, "more"),
        ("more", SECRET),
        (SECRET, "--log-json=x"),
        (SECRET, "--idle"),
        (SECRET, "--bogus"),
        ("--idle", "5s", SECRET, "--idle", "6s"),
    ],
)
@pytest.mark.parametrize("name", ["serve", "connect"])
def test_a_key_is_not_said_back(name: str, words: Sequence[str]) -> None:
    assert SECRET not in complaint(name, ":1", "host", *words)


ODD = ["--", "-", "", "--=", "---", "-=", "=", "-1", "-0.5", "x", ":1", "-w5s", "-qt", "a b", "\n"]


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_words_are_taken_or_refused(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from([*COMPLETE]))
    longs = [option.long for option in options_of(name)]
    known = st.sampled_from([*ODD, *longs, *(f"{w}=" for w in longs), *(w[:4] for w in longs)])
    word = known | st.text(st.characters(min_codepoint=1), max_size=4)
    words = data.draw(st.lists(word, max_size=6))
    with contextlib.suppress(UsageError):
        assert {*parse(name, *words)} >= {*longs}
