"""The whole program in a lab: a rendezvous, a server at site A and a client at site B.

service ─ serve ─ [NAT a] ─ core ─ [NAT b] ─ connect ─ application
                             │
                         rendezvous
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import Any, Callable, ContextManager, Optional, Sequence, TypeVar

from tests import program
from tests.program import Program, SocketAddress
from tests.standin.application import Application, Echo, NumberedClient
from udppunch.lab import Host, Lab

MEETING = ("203.0.113.10", 39737)
SERVICE = ("127.0.0.1", 7000)
FRONT = ("127.0.0.1", 7001)

Entered = TypeVar("Entered")


class Punched:
    """Everything started; entering it waits for the registration alone.

    `service` makes the application behind the server. The rendezvous listens on `meeting` if
    `listen` doesn't say otherwise.
    """

    def __init__(
        self,
        lab: Lab,
        *,
        serve_options: Sequence[str] = (),
        connect_options: Sequence[str] = (),
        service: Callable[..., Application] = Echo,
        meeting: SocketAddress = MEETING,
        listen: Optional[SocketAddress] = None,
    ) -> None:
        self.lab = lab
        self._stack = ExitStack()
        self._serve_options = serve_options
        self._connect_options = connect_options
        self._make_service = service
        self._meeting = meeting
        self._listen = listen or meeting

    def __enter__(self) -> Punched:
        try:
            self.rendezvous = self.start_rendezvous()
            self.rendezvous.wait_event("listening")
            self.echo = self.start_service()
            self.server = self.start_server()
            self.client = self.start_client()
            self.server.wait_event("registered")
            self.client.wait_event("listening")
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def enter(self, context: ContextManager[Entered]) -> Entered:
        return self._stack.enter_context(context)

    def start_rendezvous(self) -> Program:
        return self.enter(program.rendezvous(self._listen, popen=self.lab.rendezvous.popen))

    def start_service(self) -> Any:
        return self.enter(self._make_service(SERVICE, open_socket=self.lab.a.socket))

    def start_server(self) -> Program:
        return self.enter(
            program.serve(SERVICE, self._meeting, *self._serve_options, popen=self.lab.a.popen)
        )

    def start_client(self, host: Optional[Host] = None) -> Program:
        """At site B, or on another host of the lab."""
        popen = (host or self.lab.b).popen
        return self.enter(
            program.connect(self._meeting, *self._connect_options, listen=FRONT, popen=popen)
        )

    def application(
        self, *, sizes: Sequence[int] = (64,), host: Optional[Host] = None
    ) -> NumberedClient:
        """In front of the client at site B, or of one on another host."""
        open_socket = (host or self.lab.b).socket
        return self.enter(NumberedClient(FRONT, sizes=sizes, open_socket=open_socket))

    def assert_clean(self, *applications: NumberedClient) -> None:
        """Nothing but what applications sent reached applications; all processes are sane."""
        for end, foreign in (
            (self.echo, self.echo.foreign(applications)),
            *((application, application.foreign()) for application in applications),
        ):
            assert not foreign, (end, foreign, self.story())
        self.assert_sane()

    def assert_sane(self) -> None:
        for process in (self.rendezvous, self.server, self.client):
            process.assert_alive_and_sane()

    def story(self, note: Optional[str] = None) -> str:
        return "\n".join(map(str, (note or "", self.rendezvous, self.server, self.client)))


def eventually(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether it comes true in time."""
    due = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > due:
            return False
        time.sleep(0.02)
    return True


def answered_within(application: NumberedClient, seconds: float) -> bool:
    """Whether any of the datagrams that it sends from now on, five a second, comes back."""
    first = application.sent
    due = time.monotonic() + seconds
    while time.monotonic() < due:
        application.send()
        if eventually(lambda: not all_missing_since(application, first), 0.2):
            return True
    return False


def all_answered(
    application: NumberedClient, count: int, *, per_second: Optional[float] = None
) -> bool:
    """Whether each of the next `count` datagrams comes back, within 10 s."""
    first = application.sent
    application.send(count, per_second=per_second)
    return eventually(lambda: not missing_since(application, first), 10.0)


def all_missing_since(application: NumberedClient, first: int) -> bool:
    return len(missing_since(application, first)) == application.sent - first


def missing_since(application: NumberedClient, first: int) -> "list[int]":
    return [number for number in application.missing() if number >= first]
