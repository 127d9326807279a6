"""A YAML file: texts as they are written, each name once, and clean refusals of all else."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from udppunch.config.document import read
from udppunch.config.parse import Invalid


@pytest.mark.parametrize(
    "text",
    ["0123", "12:30", "1_000", "0x1F", "1.10", "yes", "on", "True", "2026-02-31", "00:01", ".inf"],
)
def test_a_text_is_what_is_written(text: str) -> None:
    assert read(f"key: {text}") == {"key": text}
    assert read(f"[{text}, '{text}']") == [text, text]


@pytest.mark.parametrize("text", ["key:", "key: ~", "key: null"])
def test_no_value_is_none(text: str) -> None:
    assert read(text) == {"key": None}


def test_a_table_may_be_taken_over_and_changed() -> None:
    assert read("one: &one {a: 1, b: 2}\ntwo: {<<: *one, b: 3}")["two"] == {"a": "1", "b": "3"}


@pytest.mark.parametrize(
    "text,said",
    [
        ("a: 1\nb: 2\na: 3", ":3: a is given twice"),
        ("- relay: {}\n- helper:\n    idle: 1\n    idle: 2", ":4: idle is given twice"),
        ("{'a': 1, a: 2}", ":1: a is given twice"),
        ("a: [", ":1: not YAML: "),
        ("a: 1\n\tb: 2", ":2: not YAML: "),
        ("a: !!python/object:os.system x", ":1: could not determine a constructor"),
        ("a: !!int many", ": a value in it cannot be read: put it in quotes"),
        ("a: !!timestamp never", ": a value in it cannot be read"),
        ("[" * 2000, ": a value in it cannot be read"),
        ("? [a]\n: b", ":1: found unhashable key"),
        ("\x00", ": not YAML: cannot be read"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(text: str, said: str) -> None:
    with pytest.raises(Invalid) as caught:
        read(text)
    assert str(caught.value).startswith(said)


@given(st.text())
def test_any_text_gives_a_value_or_a_clean_refusal(text: str) -> None:
    try:
        read(text)
    except Invalid:
        pass


values: "st.SearchStrategy[Any]" = st.recursive(
    st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abc"), inner, max_size=4),
)


@given(values)
def test_what_is_quoted_comes_back(value: Any) -> None:
    assert read(yaml.safe_dump(value, default_style='"')) == value
