"""One browser for a module's tests, and for each a chat of its own with its page."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Callable, Iterator, List

import pytest

pytest.importorskip("h11")
pytest.importorskip("wsproto")

from tests.lab.fixtures import *  # noqa: F403
from tests.web.browser import PROGRAM, Browser, Tab
from tests.web.stage import Stage


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if PROGRAM is None:
        pytest.skip("needs Chromium (Debian's package chromium)")
    with Browser(tmp_path_factory.mktemp("chromium")) as running:
        yield running


@pytest.fixture
def stage() -> Iterator[Stage]:
    made = Stage()
    yield made
    made.close()


@pytest.fixture
def person(browser: Browser, stage: Stage) -> Iterator[str]:
    """Whose browser it is; the chat's loop turns while it is waited for."""
    stage.loop.watch(browser.output, browser.read)
    browser.turn = stage.loop.turn
    yield browser.person()
    browser.turn = browser.sleep


@pytest.fixture
def open_tab(browser: Browser, stage: Stage, person: str) -> Iterator[Callable[[], Tab]]:
    """Tabs of one person, which show the page; none of them may have had trouble with it."""
    tabs: List[Tab] = []

    def open_one() -> Tab:
        tab = browser.tab(person)
        tab.resize(1000, 700)
        tab.open(str(tabs[0].evaluate("location.href")) if tabs else stage.site.url)
        tabs.append(tab)
        tab.until("header", "udppunch chat")
        browser.until(lambda: tab.evaluate("document.body.dataset.state") != "loading")
        return tab

    yield open_one
    for tab in tabs:
        assert tab.troubles == []
        tab.close()


@pytest.fixture
def tab(open_tab: Callable[[], Tab]) -> Tab:
    return open_tab()


@pytest.fixture
def picture(tmp_path: Path) -> Callable[[Tab, str], None]:
    folder = Path(os.environ.get("UDPPUNCH_ARTEFACTS") or tmp_path)
    return lambda tab, name: tab.screenshot(folder / f"{name}.png")
