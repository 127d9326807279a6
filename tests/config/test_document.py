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


@pytest.mark.parametrize(
    "text",
    [
        "\ufeffa: 1\nb: [2]",
        "a: 1\r\nb:\r\n- 2\r\n",
        "%YAML 1.1\n---\na: 1\nb: [2]\n...\n",
        "# first\na: &one 1 # and\n\nb: ['2']\n",
        "{a: !!str 1, b: [2]}",
    ],
)
def test_however_an_editor_leaves_it(text: str) -> None:
    assert read(text) == {"a": "1", "b": ["2"]}


def test_texts_of_several_lines() -> None:
    assert read("a: |\n  x\n  y\nb: >\n  x\n  y\nc: x\n  y\nd: 'x\n\n  y'") == {
        "a": "x\ny\n", "b": "x y\n", "c": "x y", "d": "x\ny",
    }  # fmt: skip


def test_what_grows_as_it_is_read() -> None:
    """A list of lists of lists is one that is named often, not one that is there often."""
    tables = [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 100)]
    assert len(read("\n".join(["a0: &a0 [x]", *tables]))) == 100


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
        ("---\na: 1\n---\nb: 1", ":3: not YAML: but found another document"),
        ("a:\tb", ":1: not YAML: "),
        ("a: *b", ":1: not YAML: found undefined alias"),
        ("~: 1\n~: 2", ":2: ~ is given twice"),
        ("'a': 1\n\"a\": 2", ":2: a is given twice"),
        ('a: 1\nb: "x\\0"', ":2: "),
        ('a: 1\n"b\\e": x', ":2: "),
        ('- a\n- "\\ud800"', ":2: "),
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
