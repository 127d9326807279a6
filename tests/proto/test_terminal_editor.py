"""The line editor by its keys: what is entered, and what is seen of it."""

from __future__ import annotations

import re
from typing import List

import pytest
from hypothesis import given
from hypothesis import strategies as st

from udppunch.proto.terminal.editor import Editor
from udppunch.proto.terminal.lines import Lines
from udppunch.proto.terminal.text import is_shown, width

LEFT, RIGHT, UP, DOWN = "\x1b[D", "\x1b[C", "\x1b[A", "\x1b[B"
HOME, END, DELETE = "\x1b[H", "\x1b[F", "\x1b[3~"


def typed(keys: str, editor: Editor) -> List[str]:
    entered = []
    for line in editor.feed(keys.encode()):
        editor.remember(line)
        entered.append(line)
    return entered


def seen(drawing: str) -> str:
    """The row that is drawn, with a bar for the cursor."""
    match = re.fullmatch(r"\r([^\x1b\r]*)\x1b\[K(?:\x1b\[(\d+)D)?", drawing)
    assert match is not None, repr(drawing)
    row, back = match[1], int(match[2] or 0)
    at = len(row)
    while back > 0:
        at -= 1
        back -= width(row[at])
    return f"{row[:at]}|{row[at:]}"


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        ("hello", "hello"),
        ("helo" + LEFT + "l", "hello"),
        ("ello" + HOME + "h" + END + "!", "hello!"),
        ("ello\x01h\x05!", "hello!"),
        ("ello\x1b[1~h\x1b[4~!", "hello!"),
        ("ello\x1bOHh\x1bOF!", "hello!"),
        ("hellx\x7fo", "hello"),
        ("\x7f\x08hello", "hello"),
        ("hxello" + HOME + RIGHT + DELETE, "hello"),
        ("hxello\x01\x06\x04", "hello"),
        ("hello" + RIGHT + DELETE, "hello"),
        ("nonsense\x15hello", "hello"),
        ("hello you" + LEFT * 4 + "\x0b", "hello"),
        ("hello dear  \x17you", "hello you"),
        ("\x17hello", "hello"),
        ("he\tl\x00l\x07o", "hello"),
        ("e\u0301x" + LEFT + "\x7fe", "ex"),
        ("漢字" + LEFT + "x", "漢x字"),
        ("a\x1b[99;5ub\x1b[1;5Cc\x1bOPd\x1bxe\x1b[<0;1;1Mf", "abcdef"),
        ("a\x1b\x1b" + LEFT + "b", "ba"),
        ("a\u202eb\x9bc", "abc"),
    ],
)
def test_keys(keys: str, line: str) -> None:
    assert typed(keys + "\r", Editor()) == [line]


def test_each_way_to_end_a_line_enters_it_once() -> None:
    assert typed("a\rb\nc\r\nd\r\re\n\n", Editor()) == ["a", "b", "c", "d", "", "e", ""]


def test_a_split_character_and_a_split_sequence_are_put_together() -> None:
    editor = Editor()
    keys = ("é漢👍x" + LEFT + DELETE + "\x1b[1~>\r").encode()
    assert [line for octet in keys for line in editor.feed(bytes([octet]))] == [">é漢👍"]


def test_octets_that_are_no_text_are_seen_as_such() -> None:
    assert list(Editor().feed(b"a\xff\xc3(\r")) == ["a\ufffd\ufffd("]


def test_what_was_said_is_recalled_and_the_draft_is_kept() -> None:
    editor = Editor()
    typed("one\rtwo\rtwo\r", editor)
    assert typed("dra" + UP + UP + UP + "\r", editor) == ["one"]
    assert typed("dra" + UP + DOWN + "ft" + DOWN + "\r", editor) == ["draft"]
    assert typed(UP + UP + UP + DOWN + "!\r", editor) == ["one!"]


def test_what_is_recalled_is_bounded() -> None:
    editor = Editor()
    typed("".join(f"{number}\r" for number in range(1000)), editor)
    assert typed(UP * 2000 + "\r", editor) == ["800"]


def test_a_line_is_bounded() -> None:
    assert typed("x" * 5000 + "\r", Editor()) == ["x" * 4096]
    assert typed("x" + "\u0301" * 5000 + "\r", Editor()) == ["x" + "\u0301" * 15]


def test_each_pasted_line_is_entered_and_keys_among_them_are_none() -> None:
    editor = Editor()
    pasted = "one\r\ntwo\tcolumns\x04\x15\x1b[A\nthr"
    entered = typed(f"> \x1b[200~{pasted}\x1b[201~ee\x7f\r", editor)
    assert entered == ["> one", "two columns", "thre"]
    assert not editor.left


def test_a_paste_that_never_ends_can_be_left() -> None:
    editor = Editor()
    assert typed("\x1b[200~lost\x03\x15found\r", editor) == ["found"]
    typed("\x03", editor)
    assert editor.left


def test_leaving() -> None:
    for keys in ("\x03", "typed\x03", "\x04", "x\x7f\x04", "\x1b\x03"):
        editor = Editor()
        assert typed(keys + "not seen\r", editor) == []
        assert editor.left
    editor = Editor()
    typed("x\x04", editor)
    assert not editor.left


@pytest.mark.parametrize(
    ("keys", "columns", "row"),
    [
        ("", 20, "> |"),
        ("hello", 20, "> hello|"),
        ("hello" + LEFT * 2, 20, "> hel|lo"),
        ("漢字" + LEFT, 20, "> 漢|字"),
        ("0123456789", 13, "> 0123456789|"),
        ("0123456789a", 13, "> 6789a|"),
        ("0123456789abcdef" + HOME, 13, "> |0123456789"),
        ("0123456789abcdef" + LEFT * 2, 13, "> abcd|ef"),
        ("0123456789abcdef" + HOME + RIGHT * 10, 13, "> 6789|abcdef"),
        ("0123456789abcdef\x15xyz", 13, "> xyz|"),
        ("漢漢漢漢漢漢", 13, ">  漢漢|"),  # half a character is a space
    ],
)
def test_the_row_scrolls_with_the_cursor(keys: str, columns: int, row: str) -> None:
    editor = Editor()
    typed(keys, editor)
    assert seen(editor.drawing("> ", columns)) == row


@given(st.lists(st.binary(max_size=40)), st.integers(0, 100))
def test_any_octets_are_taken_and_the_row_fits(chunks: List[bytes], columns: int) -> None:
    editor = Editor()
    for chunk in chunks:
        for line in editor.feed(chunk):
            assert all(map(is_shown, line))
            editor.remember(line)
        row = seen(editor.drawing("prompt> ", columns)).replace("|", "")
        assert width(row) < columns or columns < 12


KEYS = st.sampled_from(
    [*"abc 漢é\u0301\r\n\t\x01\x02\x03\x04\x05\x08\x0b\x15\x17\x1b[~", UP, DOWN, LEFT, RIGHT, HOME]
    + [END, DELETE, "\x1b[200~", "\x1b[201~", "a long word that scrolls"]
)


@given(st.lists(KEYS, max_size=60), st.integers(12, 30))
def test_any_keys_are_taken_and_the_row_fits(keys: List[str], columns: int) -> None:
    editor = Editor()
    for key in keys:
        typed(key, editor)
        row = seen(editor.drawing("> ", columns)).replace("|", "")
        assert width(row) < columns


@given(st.lists(st.text().map(lambda text: "".join(filter(is_shown, text))), max_size=5))
def test_what_is_typed_is_entered(lines: List[str]) -> None:
    assert typed("".join(f"{line}\r" for line in lines), Editor()) == lines


@given(st.lists(st.text(max_size=50).map(lambda text: text.replace("\n", "").rstrip("\r"))))
def test_lines_of_a_pipe(lines: List[str]) -> None:
    whole = "\n".join(lines).encode("utf-8", "replace")
    pipe = Lines()
    got = [line for at in range(len(whole)) for line in pipe.feed(whole[at : at + 1])]
    got += pipe.finish()
    expected = [line.encode("utf-8", "replace").decode() for line in lines]
    assert got == (expected if lines and lines[-1] else expected[:-1])


def test_lines_of_a_pipe_are_bounded_and_of_any_octets() -> None:
    pipe = Lines()
    for _ in range(100):
        assert list(pipe.feed(b"x" * 4096)) == []
    assert [len(line) for line in pipe.feed(b"\n\xff\r\n")] == [65536, 1]
    assert list(pipe.finish()) == []
