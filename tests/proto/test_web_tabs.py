"""What tabs are told and what they may ask for, and how one that misbehaves goes."""

from __future__ import annotations

import json
from typing import Any, Dict, List

import pytest

pytest.importorskip("h11")
pytest.importorskip("wsproto")

from hypothesis import given
from hypothesis import strategies as st
from wsproto.events import BytesMessage, CloseConnection, Ping, Pong, TextMessage

from tests.proto.web_client import World
from udppunch.proto.chat.view import Line, Mark, Peer, State, Status
from udppunch.proto.web import record
from udppunch.proto.web.stream import HASTE
from udppunch.proto.web.tab import DEAD_AFTER, MOST_OF_MESSAGE, PING_EACH

STATUS = Status(State.UNNAMED, "chat.example.org:9001")


@pytest.fixture
def world() -> World:
    world = World()
    world.site.status(STATUS)
    return world


def line(number: int, text: str = "Hello", mark: Mark = Mark.SENT, mine: bool = True) -> Line:
    return Line(number, mine, text, mark, 1_700_000_000.0 + number)


def whole(world: World) -> Any:
    (message,) = world.tab().messages()
    return message


def texts(world: World) -> List[str]:
    return [entry.get("text", entry.get("notice")) for entry in whole(world)["log"]]


# --- what they are told ------------------------------------------------------------------------


def test_a_new_tab_gets_everything(world: World) -> None:
    peer = Peer("c3" * 32, "Bob", "1162d", "203.0.113.7:40123")
    world.site.status(Status(State.DIRECT, "server:9001", "Ada", "5f" * 32, "b1946", "", peer))
    world.site.line(line(1))
    world.site.line(line(2, "Good day", Mark.PLAIN, mine=False))
    world.site.notice("Somebody knocked.")
    assert whole(world) == {
        "status": {
            "state": "direct",
            "server": "server:9001",
            "name": "Ada",
            "id": "5f" * 32,
            "fingerprint": "b1946",
            "reason": "",
            "peer": {
                "id": "c3" * 32,
                "name": "Bob",
                "fingerprint": "1162d",
                "address": "203.0.113.7:40123",
            },
        },
        "log": [
            {"key": "line 1", "mine": True, "text": "Hello", "mark": "sent", "at": 1_700_000_001.0},
            {
                "key": "line 2",
                "mine": False,
                "text": "Good day",
                "mark": "plain",
                "at": 1_700_000_002.0,
            },
            {"key": "notice 1", "notice": "Somebody knocked."},
        ],
    }


def test_all_tabs_are_told_of_changes(world: World) -> None:
    tabs = [world.tab() for _ in range(3)]
    for tab in tabs:
        (first,) = tab.messages()
        assert first["log"] == [] and first["status"]["state"] == "unnamed"
    world.site.line(line(1))
    world.site.line(line(1, mark=Mark.DELIVERED))
    world.site.notice("Hm.")
    world.site.cleared()
    world.site.status(Status(State.READY, "server:9001", "Ada"))
    told = [tab.messages() for tab in tabs]
    assert told[0] == told[1] == told[2]
    marked, delivered, notice, cleared, status = told[0]
    assert marked["entry"]["key"] == delivered["entry"]["key"] == "line 1"
    assert (marked["entry"]["mark"], delivered["entry"]["mark"]) == ("sent", "delivered")
    assert notice == {"entry": {"key": "notice 1", "notice": "Hm."}}
    assert cleared == {"cleared": True}
    assert status["status"]["state"] == "ready"


def test_marks_change_where_the_line_is(world: World) -> None:
    for number in (1, 2, 3):
        world.site.line(line(number))
    world.site.line(line(2, mark=Mark.LOST))
    assert [entry["mark"] for entry in whole(world)["log"]] == ["sent", "lost", "sent"]


def test_numbers_may_start_again_after_all_is_cleared(world: World) -> None:
    world.site.line(line(1, "old"))
    world.site.line(line(2, "old"))
    world.site.cleared()
    world.site.line(line(1, "new"))
    assert texts(world) == ["new"]


@given(st.text(st.characters(), max_size=50))
def test_text_arrives_as_it_is(text: str) -> None:
    """Halves of characters too, which a peer's JSON may hold."""
    world = World()
    world.site.line(line(1, text))
    world.site.notice(text)
    assert texts(world) == [text, text]


# --- and how much of it --------------------------------------------------------------------------


def test_oldest_lines_go(world: World) -> None:
    for number in range(1, record.MOST_ENTRIES + 3):
        world.site.line(line(number, str(number)))
    kept = texts(world)
    assert (kept[0], len(kept)) == ("3", record.MOST_ENTRIES)
    tab = world.tab()
    tab.messages()
    world.site.line(line(2, "2", Mark.DELIVERED))
    assert tab.messages() == [], "a line that is not kept any more is not brought back"


def test_long_lines_go_sooner(world: World) -> None:
    long = "x" * record.LONGEST_TEXT
    for number in range(1, 40):
        world.site.line(line(number, long + long))
    kept = texts(world)
    assert all(text == long + "…" for text in kept)
    assert 10 < len(kept) and len(kept) * len(long) < record.MOST_OCTETS


def test_notices_do_not_push_lines_out(world: World) -> None:
    world.site.line(line(1, "kept"))
    for number in range(2 * record.MOST_ENTRIES):
        world.site.notice(str(number))
    kept = texts(world)
    assert kept[0] == "kept" and len(kept) == 1 + record.MOST_NOTICES


def test_octets_are_counted_right(world: World) -> None:
    """Lines that change and go leave room for as many others."""
    text = "x" * (record.LONGEST_TEXT // 2)
    for round_ in range(5):
        for number in range(1, 30):
            world.site.line(line(number, text))
            world.site.line(line(number, text[: number * round_]))
            world.site.notice(text)
        world.site.cleared()
    for number in range(1, 11):
        world.site.line(line(number, text))
    assert len(texts(world)) == 10


# --- what they ask for ---------------------------------------------------------------------------


def test_commands(world: World) -> None:
    tab = world.tab()
    tab.ask(do="rename", name="Ada")
    tab.ask(do="connect", id="c3" * 32)
    tab.ask(do="say", text='<b>&"é\U0001f600')
    tab.ask(do="reset")
    assert world.commands.asked == [
        ("rename", "Ada"),
        ("connect", "c3" * 32),
        ("say", '<b>&"é\U0001f600'),
        ("reset", ""),
    ]


def test_refusals_go_to_who_asked(world: World) -> None:
    asking, other = world.tab(), world.tab()
    for tab in (asking, other):
        tab.messages()
    world.commands.refusal = "A name has 1 to 32 characters."
    asking.ask(do="rename", name="")
    assert asking.messages() == [{"refused": "A name has 1 to 32 characters.", "do": "rename"}]
    assert other.messages() == []
    assert asking.closed_with() == 0


def test_a_command_in_pieces(world: World) -> None:
    tab = world.tab()
    said = json.dumps({"do": "say", "text": "Ä" * 100}, ensure_ascii=False)
    for start in range(0, len(said), 7):
        piece = said[start : start + 7]
        tab.say(TextMessage(data=piece, message_finished=start + 7 >= len(said)))
    assert world.commands.asked == [("say", "Ä" * 100)]


def test_a_command_octet_by_octet(world: World) -> None:
    tab = world.tab()
    said = tab._websocket.send(TextMessage(data='{"do": "reset"}'))
    for octet in said:
        tab.say_raw(bytes((octet,)))
    assert world.commands.asked == [("reset", "")]


def test_halves_of_characters_do_not_reach_the_chat(world: World) -> None:
    world.tab().say(TextMessage(data='{"do": "say", "text": "a\\ud800b"}'))
    ((_, text),) = world.commands.asked
    assert text.encode() == b"a?b"


NONSENSE = {
    "nothing": "",
    "no json": "hello",
    "half": '{"do": "say"',
    "a list": '["do"]',
    "a number": "7",
    "null": "null",
    "nothing to do": "{}",
    "unknown": '{"do": "format"}',
    "a list to do": '{"do": []}',
    "no text": '{"do": "say"}',
    "a number as text": '{"do": "say", "text": 7}',
    "deep": "[" * 60_000,
    "not even numbers": '{"do": "say", "text": Infinity}',
    "many digits": '{"do": "say", "text": ' + "9" * 60_000 + "}",
}


@pytest.mark.parametrize("said", NONSENSE.values(), ids=NONSENSE)
def test_nonsense_ends_a_tab(world: World, said: str) -> None:
    tab, other = world.tab(), world.tab()
    tab.say(TextMessage(data=said))
    assert tab.closed_with() == 1008
    tab.say(tab.events[-1].response())  # type: ignore[attr-defined]
    assert tab.pipe.ending
    other.ask(do="reset")
    assert world.commands.asked == [("reset", "")] and other.closed_with() == 0


def test_one_sent_away_is_not_obeyed_any_more(world: World) -> None:
    tab = world.tab()
    tab.say(TextMessage(data="hello"))
    tab.ask(do="reset")
    assert world.commands.asked == []
    world.site.notice("for others")
    assert tab.closed_with() == 1008
    world.pass_time(HASTE)
    assert tab.pipe.closed


def test_one_sent_away_may_go_on_with_noise(world: World) -> None:
    tab = world.tab()
    tab.say(TextMessage(data="hello"))
    tab.say_raw(bytes(range(256)))
    assert tab.closed_with() == 1008 and tab.pipe.ending


def test_too_long_messages_end_a_tab(world: World) -> None:
    fitting, too_long = world.tab(), world.tab()
    frame = '{"do": "say", "text": "%s"}'
    text = "x" * (MOST_OF_MESSAGE - len(frame % ""))
    fitting.say(TextMessage(data=frame % text))
    assert world.commands.asked == [("say", text)]
    too_long.say(TextMessage(data=frame % (text + "x")))
    assert too_long.closed_with() == 1009
    assert len(world.commands.asked) == 1


def test_endless_messages_end_a_tab(world: World) -> None:
    tab = world.tab()
    for _ in range(17):
        tab.say(TextMessage(data="x" * 4096, message_finished=False))
    assert tab.closed_with() == 1009


def test_frames_that_announce_too_much(world: World) -> None:
    """An exabyte is believed as far as it comes."""
    tab = world.tab()
    tab.say_raw(b"\x81\xff" + (1 << 60).to_bytes(8, "big") + bytes(4) + b"x" * (1 << 17))
    assert tab.closed_with() == 1009


FRAMES: Dict[str, Any] = {
    "binary": (BytesMessage(data=b"{}"), 1003),
    "unmasked": (b"\x81\x02{}", 1002),
    "reserved bits": (b"\xf1\x82" + bytes(4) + b"{}", 1002),
    "unknown opcode": (b"\x83\x80" + bytes(4), 1002),
    "continues nothing": (b"\x80\x80" + bytes(4), 1002),
    "no utf-8": (b"\x81\x82" + bytes(4) + b"\xff\xff", 1007),
    "long ping": (b"\x89\xfe\x00\xff" + bytes(4) + bytes(255), 1002),
}


@pytest.mark.parametrize("said, code", FRAMES.values(), ids=FRAMES)
def test_bad_frames_end_a_tab(world: World, said: Any, code: int) -> None:
    tab = world.tab()
    if isinstance(said, bytes):
        tab.say_raw(said)
    else:
        tab.say(said)
    assert tab.closed_with() == code
    assert world.commands.asked == []


@given(st.lists(st.binary(min_size=1, max_size=60), max_size=6))
def test_any_octets(pieces: List[bytes]) -> None:
    """At worst they end the tab."""
    world = World()
    tab, other = world.tab(), world.tab()
    for piece in pieces:
        if not tab.pipe.ending:
            tab.say_raw(piece)
    world.site.line(line(1))
    assert other.messages()[-1]["entry"]["key"] == "line 1"
    world.pass_time(DEAD_AFTER + PING_EACH)
    assert world.site.deadline() is not None or tab.pipe.closed


# --- time ------------------------------------------------------------------------------------


def test_a_tab_that_answers_stays(world: World) -> None:
    tab = world.tab()
    for _ in range(20):
        world.pass_time(PING_EACH)
        tab.messages()
    assert not tab.pipe.closed
    tab.ask(do="reset")
    assert world.commands.asked == [("reset", "")]


def test_a_dead_tab_goes(world: World) -> None:
    dead = world.tab()
    world.pass_time(DEAD_AFTER - 1)
    assert not dead.pipe.closed
    world.pass_time(1)
    assert dead.pipe.closed
    assert world.site.deadline() is None


def test_a_tab_may_ping_and_leave(world: World) -> None:
    tab = world.tab()
    tab.say(Ping(payload=b"there?"))
    tab.messages()
    assert [event.payload for event in tab.events if isinstance(event, Pong)] == [b"there?"]
    tab.say(CloseConnection(code=1001))
    assert tab.closed_with() == 1001
    assert tab.pipe.ending
    world.site.notice("to nobody")
    assert tab.heard() == []


def test_only_tabs_have_proved_anything(world: World) -> None:
    assert world.tab().established
    pipe = world.raw(b"GET ")
    assert not world.site.converse(pipe, world.now).established
