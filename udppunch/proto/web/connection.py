"""One connection of a browser: it asks for a part of the page, or becomes a tab's WebSocket."""

from __future__ import annotations

from typing import Mapping, Optional, Protocol, Tuple
from urllib.parse import parse_qs

import h11
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection
from wsproto.utilities import RemoteProtocolError

from udppunch.proto.web import answers, tab
from udppunch.proto.web.answers import Answer
from udppunch.proto.web.gate import Gate
from udppunch.proto.web.stream import HASTE, Stream
from udppunch.proto.web.tab import Tab

MOST_OF_REQUEST = 16384
_INDEX = "index.html"
_LIVE = "live"

_NO_SESSION = "Open the link that udppunch shows in its terminal."
_SPENT = (
    "This link does not work any more: each works once."
    " Look at the terminal that udppunch runs in; it shows a fresh one."
)


class Site(tab.Conversation, Protocol):
    """What a connection knows of the page."""

    gate: Gate
    files: Mapping[str, Tuple[str, bytes]]

    def admit(self, token: str) -> bool: ...


class Connection:
    """`due` is when `expire` is wanted next."""

    def __init__(self, site: Site, stream: Stream, now: float) -> None:
        self.stream = stream
        self._site = site
        self._due = now + HASTE
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MOST_OF_REQUEST)
        self._answered = False
        self._tab: Optional[Tab] = None

    @property
    def established(self) -> bool:
        """Whether it has proved that it belongs to the user: others go first."""
        return self._tab is not None

    @property
    def due(self) -> float:
        return self._due if self._tab is None else self._tab.due

    def received(self, data: bytes, now: float) -> None:
        if self._tab is not None:
            self._tab.received(data, now)
        elif not self._answered:
            self._request(data, now)

    def expire(self, now: float) -> None:
        if self._tab is not None:
            self._tab.expire(now)
        else:
            self.stream.abort()

    def tell(self, message: str) -> None:
        if self._tab is not None:
            self._tab.tell(message)

    def _request(self, data: bytes, now: float) -> None:
        head_only = False
        try:
            self._http.receive_data(data)
            event = self._http.next_event()
            if not isinstance(event, h11.Request):
                return
            head_only = event.method == b"HEAD"
            answer = self._answer(event, now)
        except h11.RemoteProtocolError as error:
            answer = answers.sentence(error.error_status_hint, "This is no request of a browser.")
        if answer is not None:
            self._answered = True
            self._due = now + HASTE
            self.stream.send(answers.written(self._http, answer, head_only))
            self.stream.close()

    def _answer(self, request: h11.Request, now: float) -> Optional[Answer]:
        """Nothing when it has become a tab."""
        headers = {name: value.decode("latin-1") for name, value in request.headers}
        gate = self._site.gate
        host, origin = headers.get(b"host", ""), headers.get(b"origin")
        if not gate.is_ours(host):
            return answers.sentence(403, "The chat's page has another address.")
        if origin is not None and not gate.is_own_origin(origin, host):
            return answers.sentence(403, "The chat's page is for itself alone.")
        if request.method not in (b"GET", b"HEAD"):
            return answers.sentence(405, "There is nothing to be had but pages.")
        path, _, query = request.target.decode("ascii").partition("?")
        if path == "/" and query and request.method == b"GET":
            return self._enter(query)
        name = gate.inside(path)
        if name is None or not gate.knows(headers.get(b"cookie", "")):
            return answers.sentence(403, _NO_SESSION)
        if name == _LIVE and origin is not None:
            return self._become_tab(request, now)
        file = self._site.files.get(name or _INDEX)
        if file is None:
            return answers.sentence(404, "The chat's page has no such part.")
        return answers.content(host, *file)

    def _enter(self, query: str) -> Answer:
        token = parse_qs(query).get("token", [""])[0]
        if not self._site.admit(token):
            return answers.sentence(403, _SPENT)
        return answers.welcome(self._site.gate.cookie, self._site.gate.home)

    def _become_tab(self, request: h11.Request, now: float) -> Optional[Answer]:
        websocket = WSConnection(ConnectionType.SERVER)
        try:
            websocket.initiate_upgrade_connection(list(request.headers), request.target)
        except (RemoteProtocolError, ValueError):
            return answers.sentence(400, "This is no handshake of a WebSocket.")
        for _ in websocket.events():
            self.stream.send(websocket.send(AcceptConnection()))
        self._tab = Tab(self._site, self.stream, websocket, now)
        early, _ = self._http.trailing_data
        if early:
            self._tab.received(early, now)
        return None
