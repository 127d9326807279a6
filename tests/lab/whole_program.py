"""The whole program in a lab: a rendezvous, a server at site A and a client at site B.

echo ─ serve ─ [NAT a] ─ core ─ [NAT b] ─ connect ─ application
                          │
                      rendezvous
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any, Optional, Sequence

from tests import program
from tests.standin.application import Echo, NumberedClient
from udppunch.lab import Lab

MEETING = ("203.0.113.10", 39737)
SERVICE = ("127.0.0.1", 7000)
FRONT = ("127.0.0.1", 7001)


class Punched:
    """Everything started; entering it waits for the registration alone."""

    def __init__(
        self,
        lab: Lab,
        *,
        serve_options: Sequence[str] = (),
        connect_options: Sequence[str] = (),
    ) -> None:
        self.lab = lab
        self._stack = ExitStack()
        self._serve_options = serve_options
        self._connect_options = connect_options

    def __enter__(self) -> Punched:
        try:
            self.rendezvous = self.start_rendezvous()
            self.rendezvous.wait_event("listening")
            self.echo = self.enter(Echo(SERVICE, open_socket=self.lab.a.socket))
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

    def enter(self, context: Any) -> Any:
        return self._stack.enter_context(context)

    def start_rendezvous(self) -> program.Program:
        return self.enter(program.rendezvous(MEETING, popen=self.lab.rendezvous.popen))

    def start_server(self) -> program.Program:
        return self.enter(
            program.serve(SERVICE, MEETING, *self._serve_options, popen=self.lab.a.popen)
        )

    def start_client(self) -> program.Program:
        return self.enter(
            program.connect(MEETING, *self._connect_options, listen=FRONT, popen=self.lab.b.popen)
        )

    def application(self, *, sizes: Sequence[int] = (64,)) -> NumberedClient:
        return self.enter(NumberedClient(FRONT, sizes=sizes, open_socket=self.lab.b.socket))

    def assert_clean(self, *applications: NumberedClient) -> None:
        """Nothing but what applications sent reached applications; all processes are sane."""
        assert not self.echo.foreign(applications)
        for application in applications:
            assert not application.foreign()
        for process in (self.rendezvous, self.server, self.client):
            process.assert_alive_and_sane()

    def story(self, note: Optional[str] = None) -> str:
        return "\n".join(map(str, (note or "", self.rendezvous, self.server, self.client)))
