"""A browser's end of the chat's page, in memory: h11 and wsproto against the machines of ours."""

from __future__ import annotations

import json
from typing import Any, Dict, List, Optional, Tuple

import h11
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, CloseConnection, Event, Ping, Request, TextMessage

from udppunch.proto.chat.view import Refused
from udppunch.proto.web.site import Site

HOST = "127.0.0.1:8000"
ORIGIN = f"http://{HOST}"
FILES = {
    "index.html": ("text/html; charset=utf-8", b"<p>The page</p>"),
    "chat.js": ("text/javascript; charset=utf-8", b"connect();"),
}


class Commanded:
    """What was asked for, as it came."""

    def __init__(self) -> None:
        self.asked: List[Tuple[str, str]] = []
        self.refusal = ""

    def _take(self, what: str, argument: str) -> None:
        if self.refusal:
            raise Refused(self.refusal)
        self.asked.append((what, argument))

    def rename(self, name: str, now: float) -> None:
        self._take("rename", name)

    def connect(self, peer_id: str, now: float) -> None:
        self._take("connect", peer_id)

    def say(self, text: str, now: float) -> None:
        self._take("say", text)

    def reset(self, now: float) -> None:
        self._take("reset", "")


class Pipe:
    """The way of bytes to a browser, which reads them when it likes."""

    def __init__(self) -> None:
        self.sent = bytearray()
        self.ending = False
        self.closed = False

    def send(self, data: bytes) -> None:
        if not self.ending and not self.closed:
            self.sent += data

    def close(self) -> None:
        self.ending = True

    def abort(self) -> None:
        self.closed = True

    def take(self) -> bytes:
        taken = bytes(self.sent)
        self.sent.clear()
        return taken


class World:
    def __init__(self, hosts: Tuple[str, ...] = (HOST,)) -> None:
        self.now = 100.0
        self.commands = Commanded()
        self.urls: List[str] = []
        self._drawn = 0
        self.site = Site(self.commands, FILES, hosts, self._random, self.urls.append)
        self.cookie = ""
        self.home = ""

    def _random(self, octets: int) -> bytes:
        self._drawn += 1
        return self._drawn.to_bytes(octets, "big")

    def pass_time(self, seconds: float) -> None:
        """With each deadline met when it comes."""
        end = self.now + seconds
        due = self.site.deadline()
        while due is not None and due <= end:
            self.now = max(self.now, due)
            self.site.expire(self.now)
            due = self.site.deadline()
        self.now = end

    def raw(self, said: bytes) -> Pipe:
        pipe = Pipe()
        self.site.converse(pipe, self.now).received(said, self.now)
        return pipe

    def get(self, target: str, method: str = "GET", host: str = HOST, **headers: str) -> "Received":
        named = [("Host", host)] + [(name, value) for name, value in headers.items() if value]
        client = h11.Connection(h11.CLIENT)
        said = client.send(h11.Request(method=method, target=target, headers=named))
        assert said is not None
        return Received(client, self.raw(said))

    def enter(self) -> None:
        """As a person does who opens the URL that is shown."""
        answer = self.get(self.site.url[len(ORIGIN) :])
        assert answer.status == 200
        self.cookie = answer.headers["set-cookie"].split(";")[0]
        self.home = answer.headers["refresh"].partition("url=")[2]

    def tab(self) -> "Client":
        if not self.home:
            self.enter()
        return Client(self, self.cookie)


class Received:
    """An answer, which must be whole and the last one."""

    def __init__(self, client: h11.Connection, pipe: Pipe) -> None:
        assert pipe.ending
        client.receive_data(pipe.take())
        response = client.next_event()
        assert isinstance(response, h11.Response), response
        self.status = response.status_code
        self.headers: Dict[str, str] = {
            name.decode(): value.decode() for name, value in response.headers
        }
        assert self.headers["connection"] == "close"
        self.body = b""
        event = client.next_event()
        while isinstance(event, h11.Data):
            self.body += bytes(event.data)
            event = client.next_event()
        assert isinstance(event, h11.EndOfMessage), event


class Client:
    """A tab. `refusal` is the status of an answer that was no WebSocket's."""

    def __init__(
        self, world: World, cookie: str = "", origin: Optional[str] = ORIGIN, host: str = HOST
    ) -> None:
        self.pipe = Pipe()
        self.events: List[Event] = []
        self._world = world
        self._connection = world.site.converse(self.pipe, world.now)
        self._websocket = WSConnection(ConnectionType.CLIENT)
        extra = [(b"Cookie", cookie.encode())] if cookie else []
        extra += [(b"Origin", origin.encode())] if origin is not None else []
        request = Request(host=host, target=f"{world.home}live", extra_headers=extra)
        self.say_raw(self._websocket.send(request))
        events = self.heard()
        self.accepted = isinstance(events[0], AcceptConnection)
        self.refusal = 0 if self.accepted else events[0].status_code  # type: ignore[attr-defined]
        self._messages = [event for event in events[1:] if isinstance(event, TextMessage)]

    @property
    def established(self) -> bool:
        return self._connection.established

    def say_raw(self, octets: bytes) -> None:
        self._connection.received(octets, self._world.now)

    def say(self, event: Event) -> None:
        self.say_raw(self._websocket.send(event))

    def ask(self, **command: Any) -> None:
        self.say(TextMessage(data=json.dumps(command)))

    def heard(self) -> List[Event]:
        data = self.pipe.take()
        if data:
            self._websocket.receive_data(data)
        return list(self._websocket.events())

    def messages(self) -> List[Any]:
        """What it was told since it was asked last. A browser answers pings by itself."""
        told = list(self._messages)
        self._messages.clear()
        for event in self.heard():
            if isinstance(event, Ping):
                self.say(event.response())
            elif isinstance(event, TextMessage):
                told.append(event)
            else:
                self.events.append(event)
        return json_of(told)

    def closed_with(self) -> int:
        self.messages()
        codes = [event.code for event in self.events if isinstance(event, CloseConnection)]
        return codes[0] if codes else 0


def json_of(events: List[TextMessage]) -> List[Any]:
    whole = "".join(event.data + ("\n" if event.message_finished else "") for event in events)
    return [json.loads(line) for line in whole.splitlines()]
