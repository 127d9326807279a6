"""The page in a browser, with a chat that has no network: what people see, and what they do."""

from __future__ import annotations

import json
from typing import Any, Callable, List

import pytest

from tests.web.browser import Browser, Tab
from tests.web.stage import OWN_ID, PEER_ID, Stage
from udppunch.proto.chat.view import Mark, Peer, State

Picture = Callable[[Tab, str], None]
HOSTILE = '<b>&"<script>document.title="x"</script><img src=x onerror=alert(1)>&lt;'


def lines(tab: Tab) -> List[List[str]]:
    """Whose they are, their text and what is said below; notices have a text alone."""
    found: List[List[str]] = tab.evaluate(
        """[...document.querySelectorAll("#log > *")].map((item) =>
            [item.className, (item.querySelector(".text") || item).textContent])"""
    )
    return found


def until(tab: Tab, condition: Callable[[], Any]) -> None:
    tab.browser.until(condition)


def tab_to(tab: Tab, wanted: str, shift: bool = False) -> None:
    """With the tabulator, as people without a mouse."""
    for _ in range(20):
        if tab.focused() == wanted:
            return
        tab.press("Tab", shift)
    raise AssertionError(f"{wanted} is not to be reached")


# --- a conversation --------------------------------------------------------------------------


def test_from_a_name_to_a_talk_by_keyboard_alone(tab: Tab, stage: Stage, picture: Picture) -> None:
    assert tab.focused() == "name"
    picture(tab, "unnamed")
    tab.type("Ada")
    tab.press("Enter")
    tab.until("#state-text", "Ready")
    assert tab.text("#own-id") == OWN_ID
    assert tab.focused() == "peer-id"
    tab.type(PEER_ID)
    tab.press("Enter")
    tab.until("#state-text", "Punching")
    picture(tab, "punching")
    stage.chat.meet()
    tab.until("#state-text", "Direct")
    assert tab.focused() == "text"
    tab.type("Good day!")
    tab.press("Enter")
    until(tab, lambda: lines(tab) == [["mine", "Good day!"]])
    assert stage.chat.said == ["Good day!"]
    tab_to(tab, "reset", shift=True)
    tab.press("Enter")
    assert tab.focused() == "keep"
    tab.press("Escape")
    assert tab.focused() == "reset" and lines(tab)
    tab.press(" ")
    tab_to(tab, "forget")
    tab.press("Enter")
    tab.until("#state-text", "Ready")
    assert lines(tab) == [] and tab.focused() == "peer-id"


def test_everything_is_to_be_reached_and_seen_to_be(tab: Tab, stage: Stage) -> None:
    stage.chat.rename("Ada", 0)
    stage.chat.meet()
    stage.chat.put("Hello", Mark.RECEIVED)
    tab.until("#log", "Hello")
    order = []
    for _ in range(8):
        tab.press("Tab")
        order.append(tab.focused())
        outline = "getComputedStyle(document.activeElement).outlineStyle"
        assert tab.focused() == "" or tab.evaluate(outline) == "solid"
    tab.evaluate("document.activeElement.blur(), document.getSelection().empty()")
    assert {"rename", "copy", "reset", "log", "text"} <= set(order)
    ring = order[order.index("rename") :] + order[: order.index("rename")]
    assert [one for one in ring if one][:5] == ["rename", "copy", "reset", "log", "text"]


def test_marks_in_words(tab: Tab, stage: Stage, picture: Picture) -> None:
    stage.chat.rename("Ada", 0)
    stage.chat.meet()
    for mark in (Mark.RECEIVED, Mark.PLAIN, Mark.DELIVERED, Mark.UNCONFIRMED, Mark.LOST, Mark.SENT):
        number = stage.chat.put(f"It is {mark.value}.", mark)
    stage.site.notice("Somebody else sought you.")
    tab.until("#log", "Somebody else")
    said = tab.evaluate('[...document.querySelectorAll(".mark")].map((mark) => mark.textContent)')
    words = ["", "unencrypted", "delivered", "unconfirmed", "lost", "sent"]
    assert all(word in mark for word, mark in zip(words, said)) and said[0] == ""
    spoken = tab.evaluate(
        '[...document.querySelectorAll("#log .unseen")].map((e) => e.textContent)'
    )
    assert ["Bob" in who for who in spoken] == [True, True, False, False, False, False]
    assert spoken[2] == "You: "
    picture(tab, "marks")
    tab.prefer("dark")
    picture(tab, "marks-dark")
    stage.chat.mark(number, Mark.LOST)
    tab.until("#spoken", "Not delivered: It is sent.")
    assert len(lines(tab)) == 7


def test_states_in_words(tab: Tab, stage: Stage) -> None:
    stage.chat.rename("Ada", 0)
    bob = Peer(PEER_ID, "Bob")
    cases = [
        (State.REGISTERING, None, "", "Registering at chat.example.org:9001"),
        (State.READY, None, "", "Ready"),
        (State.ESTABLISHING, Peer(PEER_ID), "", "Asking chat.example.org:9001 for your peer"),
        (State.PUNCHING, bob, "3 tries so far.", "3 tries so far."),
        (State.DIRECT, bob, "", "Direct"),
        (State.GONE, bob, "", "does not answer"),
        (State.FAILED, bob, "Nobody has this id.", "Failed: Nobody has this id."),
    ]
    for state, peer, reason, words in cases:
        stage.chat.become(state, peer=peer, reason=reason)
        tab.until("#state-text", words)
        assert bool(tab.text("#peer-name")) == (peer is bob)
    assert tab.text("#peer-form"), "who has failed may try another"


def test_text_is_text(tab: Tab, stage: Stage, picture: Picture) -> None:
    stage.chat.rename(HOSTILE[:32], 0)
    stage.chat.meet(HOSTILE)
    stage.chat.put(HOSTILE, Mark.RECEIVED)
    stage.site.notice(HOSTILE)
    tab.until("#peer-name", HOSTILE)
    tab.until("#log .notice", HOSTILE)
    tab.evaluate("document.getElementById('text').focus()")
    tab.type(HOSTILE)
    tab.press("Enter")
    until(tab, lambda: [text for _, text in lines(tab)] == [HOSTILE] * 3)
    stage.chat.become(State.FAILED, reason=HOSTILE)
    tab.until("#state-text", HOSTILE)
    assert tab.text("#own-name") == HOSTILE[:32]
    assert tab.evaluate("document.querySelectorAll('img, b, body script').length") == 0
    picture(tab, "hostile-text")


def test_refusals_stand_by_their_field(tab: Tab, stage: Stage) -> None:
    tab.type("x" * 33)
    tab.press("Enter")
    tab.until("#name-error", "1 to 32 characters")
    assert tab.evaluate("document.getElementById('name').getAttribute('aria-invalid')") == "true"
    tab.evaluate("document.getElementById('name').select()")
    tab.type("Ada")
    tab.press("Enter")
    tab.until("#state-text", "Ready")
    tab.type(OWN_ID)
    tab.press("Enter")
    tab.until("#peer-error", "your own id")
    stage.chat.meet()
    tab.until("#state-text", "Direct")
    stage.chat.become(State.GONE)
    tab.until("#state-text", "Gone")
    tab.type("Are you there?")
    tab.press("Enter")
    tab.until("#text-error", "nobody")
    assert tab.evaluate("document.getElementById('text').value") == "Are you there?"


def test_another_name(tab: Tab, stage: Stage) -> None:
    stage.chat.rename("Ada", 0)
    tab.until("#own-name", "Ada")
    tab_to(tab, "rename", shift=True)
    tab.press("Enter")
    assert tab.focused() == "name"
    tab.press("Escape")
    assert tab.focused() == "rename" and tab.text("#own-name") == "Ada"
    tab.press("Enter")
    tab.type("Ada L.")
    tab.press("Enter")
    tab.until("#own-name", "Ada L.")
    assert stage.chat.status.name == "Ada L."


@pytest.mark.parametrize("clipboard", [True, False])
def test_id_is_copied(tab: Tab, stage: Stage, clipboard: bool) -> None:
    """Also where the page may not use the clipboard."""
    stage.chat.rename("Ada", 0)
    tab.until("#own-id", OWN_ID)
    if not clipboard:
        tab.evaluate("Object.defineProperty(navigator, 'clipboard', {value: undefined})")
    tab_to(tab, "copy", shift=True)
    tab.press("Enter")
    tab.until("#copied", "Copied")
    tab_to(tab, "peer-id")
    tab.press("v", command="paste")
    assert tab.evaluate("document.getElementById('peer-id').value") == OWN_ID


def test_lines_that_are_pasted_stay_apart(tab: Tab, stage: Stage) -> None:
    stage.chat.rename("Ada", 0)
    stage.chat.meet()
    tab.until("#state-text", "Direct")
    tab.evaluate(
        """{const data = new DataTransfer();
        data.setData("text/plain", "one\\n  two\\r\\nthree\\n");
        document.getElementById("text").dispatchEvent(
            new ClipboardEvent("paste", {clipboardData: data, cancelable: true}));}"""
    )
    assert tab.evaluate("document.getElementById('text').value") == "one two three"


def test_new_lines_while_reading_old_ones(tab: Tab, stage: Stage) -> None:
    stage.chat.rename("Ada", 0)
    stage.chat.meet()
    for number in range(40):
        stage.chat.put(f"Line {number}", Mark.RECEIVED)
    tab.until("#log", "Line 39")
    assert tab.evaluate("log = document.getElementById('log'), log.scrollTop > 100")
    tab.evaluate("log.scrollTop = 0")
    until(tab, lambda: tab.evaluate("log.scrollTop") == 0)
    stage.chat.put("The newest", Mark.RECEIVED)
    tab.until("#below", "New lines")
    assert tab.evaluate("log.scrollTop") == 0
    tab.evaluate("document.getElementById('below').click()")
    until(tab, lambda: tab.text("#below") == "" and tab.evaluate("log.scrollTop") > 100)


# --- several tabs, and none for a while ------------------------------------------------------


def test_two_tabs_see_one_conversation(open_tab: Callable[[], Tab], stage: Stage) -> None:
    one, other = open_tab(), open_tab()
    one.type("Ada")
    one.press("Enter")
    other.until("#own-name", "Ada")
    stage.chat.meet()
    stage.chat.put("Hello", Mark.RECEIVED)
    one.until("#state-text", "Direct")
    one.type("Good day")
    one.press("Enter")
    until(other, lambda: lines(one) == lines(other) == [["theirs", "Hello"], ["mine", "Good day"]])
    other.until("#state-text", "Direct")
    other.evaluate("document.getElementById('text').focus()")
    other.type("And you?")
    other.press("Enter")
    until(one, lambda: lines(one)[-1:] == [["mine", "And you?"]])
    other.evaluate("document.getElementById('reset').click()")
    other.evaluate("document.getElementById('forget').click()")
    until(one, lambda: lines(one) == [])
    one.until("#state-text", "Ready")


def test_reload_keeps_it(tab: Tab, stage: Stage) -> None:
    stage.chat.rename("Ada", 0)
    stage.chat.meet()
    stage.chat.put("Hello", Mark.RECEIVED)
    number = stage.chat.put("Good day", Mark.SENT)
    tab.until("#log", "Good day")
    before = lines(tab)
    tab.reload()
    tab.until("#log", "Good day")
    assert lines(tab) == before and tab.text("#own-name") == "Ada"
    stage.chat.mark(number, Mark.DELIVERED)
    tab.until("#log", "delivered")


def test_out_of_touch_and_back(tab: Tab, stage: Stage, picture: Picture) -> None:
    """As when the computer slept: what was shown stays, and what was missed is added."""
    stage.chat.rename("Ada", 0)
    stage.chat.meet()
    stage.chat.put("Before", Mark.RECEIVED)
    tab.until("#log", "Before")
    tab.evaluate("document.querySelector('#log > *').marked = true")
    stage.vanish()
    tab.until("#trouble", "does not answer")
    assert "Direct" not in tab.text("#state-text")
    picture(tab, "out-of-touch")
    tab.type("Anybody?")
    tab.press("Enter")
    tab.until("#text-error", "nothing was sent")
    stage.chat.put("Meanwhile", Mark.RECEIVED)
    stage.come_back()
    tab.until("#state-text", "Direct")
    assert lines(tab) == [["theirs", "Before"], ["theirs", "Meanwhile"]]
    assert tab.evaluate("document.querySelector('#log > *').marked"), "it was not made anew"
    assert tab.text("#trouble") == ""
    tab.press("Enter")
    until(tab, lambda: stage.chat.said == ["Anybody?"])


def test_started_anew(tab: Tab, stage: Stage, browser: Browser, person: str) -> None:
    """The page of another run is of no use any more, and says so."""
    tab.until("#state-text", "Say who")
    stage.close()
    successor = Stage(stage.port)
    try:
        successor.loop.watch(browser.output, browser.read)
        browser.turn = successor.loop.turn
        tab.until("#trouble", "Open the link")
        tab.open(successor.site.url)
        tab.until("#state-text", "Say who")
    finally:
        browser.turn = browser.sleep
        successor.close()


# --- shapes ----------------------------------------------------------------------------------


def test_narrow(tab: Tab, stage: Stage, picture: Picture) -> None:
    tab.resize(320, 640)
    for name, step in [
        ("unnamed", lambda: None),
        ("ready", lambda: stage.chat.rename("A" * 32, 0)),
        ("direct", lambda: stage.chat.meet("B" * 32)),
        ("lines", lambda: [stage.chat.put("x" * 300, mark) for mark in Mark]),
        ("notice", lambda: stage.site.notice("y" * 200)),
        ("failed", lambda: stage.chat.become(State.FAILED, reason="z" * 200)),
    ]:
        step()
        shown = json.dumps(stage.chat.status.state.value)
        until(tab, lambda shown=shown: tab.evaluate(f"document.body.dataset.state === {shown}"))
        assert tab.evaluate("document.documentElement.scrollWidth") <= 320, name
        picture(tab, f"narrow-{name}")
    assert tab.text("#peer-form"), "another may be tried at once"
    stage.chat.become(State.DIRECT)
    tab.until("#state-text", "Direct")
    assert tab.text("#own-id") == "", "the conversation has all the room"
    within = "document.getElementById('text').getBoundingClientRect().bottom <= 640"
    assert tab.evaluate(within)
    tab.evaluate("document.getElementById('details').click()")
    assert tab.text("#own-id") == OWN_ID
    assert tab.evaluate("document.documentElement.scrollWidth") <= 320


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_letters_are_to_be_read(tab: Tab, stage: Stage, scheme: str) -> None:
    """Contrast as WCAG AA has it, of every text on what is behind it."""
    tab.prefer(scheme)
    stage.chat.rename("Ada", 0)
    stage.chat.meet()
    for mark in Mark:
        stage.chat.put("Hello", mark)
    stage.site.notice("Hm.")
    tab.until("#log .notice", "Hm.")
    faint = tab.evaluate(CONTRAST)
    assert faint == []


CONTRAST = """
(() => {
  const parse = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = (colour) => parse(colour).slice(0, 3)
    .map((c) => c / 255)
    .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (element) => {
    for (; element; element = element.parentElement) {
      const colour = getComputedStyle(element).backgroundColor;
      if ((parse(colour)[3] ?? 1) > 0) return colour;
    }
  };
  const faint = [];
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    if (!own || element.getClientRects().length === 0) continue;
    const [a, b] = [light(getComputedStyle(element).color), light(behind(element))];
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (contrast < 4.5) faint.push([element.textContent.trim(), contrast]);
  }
  return faint;
})()
"""
