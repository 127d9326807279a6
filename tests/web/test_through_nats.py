"""Two people, each with a browser behind a NAT of their own, who talk with each other.

browser ─ chat --web ─ [NAT a] ─ core ─ [NAT b] ─ chat --web ─ browser
                                  │
                              rendezvous
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from typing import Tuple

import pytest

from tests.lab import talking
from tests.lab.fixtures import BuildLab
from tests.web.browser import PROGRAM, Browser, Tab
from udppunch.lab import Host

pytest.importorskip("cryptography")
pytestmark = pytest.mark.skipif(PROGRAM is None, reason="needs Chromium (Debian's chromium)")


def page(stack: ExitStack, host: Host, name: str, folder: Path) -> Tab:
    """The page of a chat on that host, in a browser on the same."""
    chat = stack.enter_context(
        talking.Talker(
            "chat", "--web", "--name", name, f"{talking.CORE}:{talking.CHAT_PORT}",
            popen=host.popen,
        )
    )  # fmt: skip
    chat.wait(lambda: b"\n" in chat.heard, "the address of the page")
    with host.inside():
        browser = stack.enter_context(Browser(folder / name))
    tab = browser.tab()
    tab.resize(1000, 700)
    tab.open(chat.heard.decode().split()[0])
    tab.until("header", "udppunch chat")
    return tab


def test_a_sentence_each_way(build_lab: BuildLab, tmp_path: Path) -> None:
    lab = build_lab("prc", "prc")
    artefacts = Path(os.environ.get("UDPPUNCH_ARTEFACTS") or tmp_path)
    with ExitStack() as stack:
        stack.enter_context(talking.server(talking.CORE, popen=lab.rendezvous.popen))
        alice, bob = (page(stack, host, name, tmp_path) for host, name in
                      ((lab.a, "alice"), (lab.b, "bob")))  # fmt: skip
        bob.until("#own-id", "")
        bob.browser.until(lambda: len(bob.text("#own-id")) == 64)
        alice.browser.until(lambda: len(alice.text("#own-id")) == 64)
        alice.evaluate("document.querySelector('#peer-id').focus()")
        alice.type(bob.text("#own-id"))
        alice.press("Enter")
        say(alice, "Can you hear me?")
        bob.until("#log", "Can you hear me?")
        say(bob, "<b>Loud & clear</b>")
        alice.until("#log", "<b>Loud & clear</b>")
        assert proof(alice) == proof(bob)[::-1]
        for tab, name in ((alice, "alice"), (bob, "bob")):
            tab.screenshot(artefacts / f"through-nats-{name}.png")
            assert tab.troubles == []


def say(tab: Tab, text: str) -> None:
    """As soon as there is somebody to hear it."""
    tab.browser.until(lambda: tab.evaluate("document.body.dataset.state") == "direct")
    tab.evaluate("document.querySelector('#text').focus()")
    tab.type(text)
    tab.press("Enter")


def proof(tab: Tab) -> Tuple[str, str]:
    """The fingerprints that two people compare."""
    return tab.text("#own-fingerprint"), tab.text("#peer-fingerprint")
