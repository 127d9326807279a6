"""Other sites, other users of the machine, other browsers: what they get of the page, for real."""

from __future__ import annotations

import contextlib
import socket
from typing import Callable, Dict, Iterator

import pytest

from tests.web.browser import Browser, Tab
from tests.web.stage import Stage


@pytest.fixture
def other_site(stage: Stage) -> Iterator[Callable[[str], str]]:
    """Serves a page of somebody else, on the same host; its URL."""
    with contextlib.closing(socket.create_server(("127.0.0.1", 0), backlog=16)) as listener:
        page = b""
        heard = bytearray()

        def serve() -> None:
            sock, _ = listener.accept()
            with sock:
                heard.extend(sock.recv(1 << 16))
                head = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nConnection: close\r\n"
                sock.sendall(head + b"Content-Length: %d\r\n\r\n" % len(page) + page)

        def publish(content: str) -> str:
            nonlocal page
            page = content.encode()
            return f"http://127.0.0.1:{listener.getsockname()[1]}/"

        stage.loop.watch(listener, serve)
        yield publish
        assert b"udppunch" not in heard, "it was told the cookie"
        stage.loop.unwatch(listener)


def test_token_is_for_one_browser(
    browser: Browser, stage: Stage, open_tab: Callable[[], Tab]
) -> None:
    url = stage.site.url
    tab = open_tab()
    thief = browser.tab(browser.person())
    thief.open(url)
    thief.until("body", "Look at the terminal")
    thief.open(str(tab.evaluate("location.href")))
    thief.until("body", "Open the link that udppunch shows")
    (fresh,) = stage.urls
    thief.open(fresh)
    thief.until("#state-text", "Say who")
    thief.close()


def test_token_is_not_left_in_the_history(open_tab: Callable[[], Tab]) -> None:
    tab = open_tab()
    history = tab.call("Page.getNavigationHistory")
    urls = [entry["url"] for entry in history["entries"]]
    assert not any("token" in url for url in urls), urls


def test_link_on_another_site_opens_the_page(
    browser: Browser, stage: Stage, person: str, other_site: Callable[[str], str]
) -> None:
    """As from a terminal in a browser, which hands a link on."""
    tab = browser.tab(person)
    place = other_site(f'<a href="{stage.site.url}">here</a>').replace("127.0.0.1", "localhost")
    tab.open(place)
    tab.evaluate("document.querySelector('a').click()")
    tab.until("#state-text", "Say who")
    tab.close()


def test_other_site_can_do_nothing(
    browser: Browser, stage: Stage, open_tab: Callable[[], Tab], other_site: Callable[[str], str]
) -> None:
    """Not even one of the same host, to which browsers would send a cookie of all paths."""
    home = str(open_tab().evaluate("location.href"))
    evil = open_tab()
    evil.open(other_site("<title>evil</title>"))
    live = home.replace("http", "ws") + "live"
    script = """new Promise((done) => {
        const socket = new WebSocket("%s");
        socket.onopen = () => done("open");
        socket.onclose = (event) => done(event.code);
    })"""
    assert evil.evaluate(script % live) == 1006
    for how in ("{}", '{credentials: "include"}', '{method: "POST", body: "x"}'):
        script = f'fetch("{home}", {how}).then((a) => a.text(), () => "refused")'
        assert evil.evaluate(script) == "refused"
    framed = """new Promise((done) => {
        const frame = document.createElement("iframe");
        frame.onload = () => { try { done(frame.contentDocument !== null); }
                               catch { done(false); } };
        frame.src = "%s";
        document.body.append(frame);
    })"""
    assert evil.evaluate(framed % home) is False
    evil.troubles.clear()
    assert stage.chat.status.name == ""


@pytest.mark.parametrize(
    "headers",
    [{"Host": "evil.example"}, {"Host": "localhost"}, {"Origin": "http://evil.example"}, {}],
)
def test_without_a_browser(stage: Stage, headers: Dict[str, str]) -> None:
    named = {"Host": stage.host, **headers}
    head = "".join(f"{name}: {value}\r\n" for name, value in named.items())
    for target in ("/", stage.site.gate.home, f"{stage.site.gate.home}live"):
        answer = stage.exchange(f"GET {target} HTTP/1.1\r\n{head}\r\n".encode())
        assert answer.split()[1] == b"403"


def test_silence_and_slowness_end(stage: Stage) -> None:
    with stage.connect() as silent, stage.connect() as slow:
        slow.send(b"GET / HTTP/1.1\r\n")
        stage.until(lambda: len(stage.server.streams) == 2)
        stage.skip(5)
        slow.send(b"X: y\r\n")
        stage.skip(6)
        for sock in (silent, slow):
            assert stage.drain(sock) == b""
