"""What strangers send does nothing to a terminal, and widths and rows are right."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from udppunch.proto.terminal.text import clean, clusters, width, wrap

# Letters of all widths, marks, blanks and what is not to be shown.
MIXED = st.text(st.sampled_from("ab \t\n漢ｱé\u0301\u0e33한\u1161👍\u200d\u202e\x1b[m]\x07\x9b;1"))


@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        ("plain words", "plain words"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b[2J\x1b[Hgone", "gone"),
        ("\x1b]0;title\x07text", "text"),
        ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1bPq#0\x1b\\picture", "picture"),
        ("\x9b31mred", "red"),
        ("\x9d0;title\x9ctext", "text"),
        ("\x1bcreset", "reset"),
        ("\x1b(0lines", "lines"),
        ("bell\x07 and \x7f\x00", "bell and "),
        ("\u202egnp.exe\u202c", "gnp.exe"),
        ("\u2066a\u2069\u200f\ufeff", "a"),
        ("one\r\ntwo\nthree\u2028four", "one two three four"),
        ("a\tb", "a b"),
        ("naïve 漢字 👩\u200d👩", "naïve 漢字 👩\u200d👩"),
        ("half \ud800 a pair", "half  a pair"),
    ],
)
def test_what_strangers_send_is_made_harmless(sent: str, shown: str) -> None:
    assert clean(sent) == shown


def test_what_is_kept_is_not_touched() -> None:
    assert clean("a\tb\nc\x1b[m", keep="\t\n") == "a\tb\nc"
    assert clean("a\r\nb\nc", keep="\n") == "a b\nc"


@given(st.text() | MIXED)
def test_nothing_unseen_is_left(text: str) -> None:
    left = clean(text)
    assert not {char for char in left if unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp")}
    assert not {char for char in left if unicodedata.bidirectional(char) in ("RLO", "LRO", "RLI")}
    assert clean(left) == left


@pytest.mark.parametrize(
    ("text", "columns"),
    [("abc", 3), ("漢字", 4), ("e\u0301", 1), ("ｱ", 1), ("한\u1161", 2), ("👍", 2), ("", 0)],
)
def test_width(text: str, columns: int) -> None:
    assert width(text) == columns


@given(st.text() | MIXED)
def test_clusters_are_the_text_and_begin_with_a_character_that_is_seen(text: str) -> None:
    parts = list(clusters(text))
    assert "".join(parts) == text
    assert all(width(part) for part in parts[1:])


def test_rows_break_at_spaces_and_only_where_needed() -> None:
    assert wrap("one two three", 8) == ["one two", "three"]
    assert wrap("one two", 7) == ["one two"]
    assert wrap("incomprehensibilities", 8) == ["incompre", "hensibil", "ities"]
    assert wrap("漢字漢字", 5) == ["漢字", "漢字"]
    assert wrap("first\n\nlast", 20) == ["first", "", "last"]


@given(MIXED, st.integers(4, 30))
def test_rows_fit_and_nothing_but_a_blank_a_row_is_lost(text: str, columns: int) -> None:
    rows = wrap(text, columns)
    assert all(width(row) <= columns for row in rows)
    assert "".join("".join(rows).split()) == "".join(text.split())
    assert sum(map(len, rows)) >= len(text) - (len(rows) - 1)
