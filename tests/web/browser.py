"""Headless Chromium, driven by its DevTools protocol over a pair of pipes."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from collections import deque
from pathlib import Path
from typing import Any, Callable, Deque, Dict, List, Optional

PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser")
PATIENCE = 30.0

_QUIET = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
    "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-default-apps", "--disable-extensions", "--disable-sync", "--hide-scrollbars=false",
    "--no-default-browser-check", "--metrics-recording-only", "--mute-audio",
    "--remote-debugging-pipe", "--lang=en-GB",
)  # fmt: skip
_KEYS = {"Enter": 13, "Tab": 9, "Escape": 27, " ": 32}
_TEXTS = {"Enter": "\r", " ": " "}
_SHIFT = 8


class Navigated(AssertionError):
    """The page went while it was asked."""


class Browser:
    """A process of Chromium with nothing of other sessions; `folder` is for its profile.

    While an answer is waited for `turn` is called: what the browser is to talk with may live in
    this process.
    """

    def __init__(self, folder: Path) -> None:
        assert PROGRAM is not None
        to_browser, self._write = os.pipe()
        self.output, from_browser = os.pipe()
        os.set_blocking(self.output, False)
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (to_browser, from_browser)]

        def place() -> None:
            os.dup2(ends[0], 3)
            os.dup2(ends[1], 4)

        self._process = subprocess.Popen(
            [PROGRAM, *_QUIET, f"--user-data-dir={folder}", "about:blank"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            close_fds=False,
            preexec_fn=place,
        )
        for end in (to_browser, from_browser, *ends):
            os.close(end)
        self._number = 0
        self._buffer = b""
        self._answers: Dict[int, Dict[str, Any]] = {}
        self.tabs: Dict[str, Tab] = {}
        self.turn: Callable[[], None] = self.sleep

    def __enter__(self) -> "Browser":
        self.call("Browser.getVersion")
        return self

    def __exit__(self, *_: object) -> None:
        self.turn = self.sleep
        with contextlib.suppress(AssertionError, OSError):
            self.call("Browser.close")
        os.close(self._write)
        os.close(self.output)
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def sleep(self) -> None:
        """Until it says something."""
        select.select([self.output], [], [], 0.1)
        self.read()

    def read(self) -> None:
        """Take what it has said."""
        with contextlib.suppress(BlockingIOError):
            self._buffer += os.read(self.output, 1 << 20)
        *messages, self._buffer = self._buffer.split(b"\0")
        for message in map(json.loads, messages):
            if "id" in message:
                self._answers[message["id"]] = message
            elif message.get("sessionId") in self.tabs:
                self.tabs[message["sessionId"]].happened(message["method"], message["params"])

    def call(self, method: str, session: Optional[str] = None, **params: Any) -> Dict[str, Any]:
        self._number += 1
        number = self._number
        message: Dict[str, Any] = {"id": number, "method": method, "params": params}
        if session is not None:
            message["sessionId"] = session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        self.until(lambda: number in self._answers, method)
        answer = self._answers.pop(number)
        error = answer.get("error", {}).get("message", "")
        if "navigated" in error or "context" in error:
            raise Navigated(error)
        assert not error, f"{method}: {error}"
        result: Dict[str, Any] = answer["result"]
        return result

    def until(self, condition: Callable[[], Any], what: str = "") -> None:
        due = time.monotonic() + PATIENCE
        while not condition():
            assert self._process.poll() is None, "the browser has ended"
            assert time.monotonic() < due, f"in vain: {what}"
            self.turn()

    def person(self) -> str:
        """Somebody with cookies of his own."""
        return str(self.call("Target.createBrowserContext")["browserContextId"])

    def tab(self, person: Optional[str] = None) -> "Tab":
        of = {} if person is None else {"browserContextId": person}
        target = self.call("Target.createTarget", url="about:blank", **of)["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        tab = Tab(self, target, session)
        self.tabs[session] = tab
        for domain in ("Page", "Runtime", "Log"):
            tab.call(f"{domain}.enable")
        tab.call("Emulation.setFocusEmulationEnabled", enabled=True)
        return tab


class Tab:
    """`troubles` are errors that the page caused: scripts', and what its policy forbade."""

    def __init__(self, browser: Browser, target: str, session: str) -> None:
        self.browser = browser
        self.troubles: List[str] = []
        self._target = target
        self._session = session
        self._events: Deque[str] = deque(maxlen=1000)

    def call(self, method: str, **params: Any) -> Dict[str, Any]:
        return self.browser.call(method, self._session, **params)

    def happened(self, method: str, params: Dict[str, Any]) -> None:
        self._events.append(method)
        if method == "Runtime.exceptionThrown":
            self.troubles.append(str(params["exceptionDetails"]))
        elif method == "Log.entryAdded" and params["entry"]["source"] != "network":
            self.troubles.append(str(params["entry"]))

    def close(self) -> None:
        self.browser.call("Target.closeTarget", targetId=self._target)

    def open(self, url: str) -> None:
        self._loading(lambda: self.call("Page.navigate", url=url))

    def reload(self) -> None:
        self._loading(lambda: self.call("Page.reload"))

    def _loading(self, act: Callable[[], Any]) -> None:
        self._events.clear()
        act()
        self.browser.until(lambda: "Page.loadEventFired" in self._events, "the page")

    def evaluate(self, script: str) -> Any:
        """What it is, or what it promised."""
        answer = self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in answer, f"{script}: {answer['exceptionDetails']}"
        return answer["result"].get("value")

    def text(self, selector: str) -> str:
        """As people see it: nothing of what is hidden."""
        script = "((e) => e && e.getClientRects().length ? e.innerText.trim() : '')"
        return str(self.evaluate(f"{script}(document.querySelector({json.dumps(selector)}))"))

    def focused(self) -> str:
        return str(self.evaluate("document.activeElement.id"))

    def until(self, selector: str, text: str) -> None:
        """That text stands there, on this page or one that it leads to."""

        def stands() -> bool:
            try:
                return text in self.text(selector)
            except Navigated:
                return False

        self.browser.until(stands, f"{text!r} in {selector}")

    def type(self, text: str) -> None:
        self.call("Input.insertText", text=text)

    def press(self, key: str, shift: bool = False, command: str = "") -> None:
        about = {
            "key": key,
            "code": "Space" if key == " " else key,
            "windowsVirtualKeyCode": _KEYS.get(key, 0),
            "modifiers": _SHIFT if shift else 0,
        }
        commands = {"commands": [command]} if command else {}
        self.call(
            "Input.dispatchKeyEvent", type="keyDown", text=_TEXTS.get(key, ""), **about, **commands
        )
        self.call("Input.dispatchKeyEvent", type="keyUp", **about)

    def resize(self, width: int, height: int) -> None:
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    def prefer(self, scheme: str) -> None:
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", features=features)

    def screenshot(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))
