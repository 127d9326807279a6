"""Applications that go on sending while something is done to the network or the processes."""

from __future__ import annotations

import threading
from typing import List

from tests.lab.whole_program import FRONT, Punched
from tests.standin.application import (
    Application,
    NumberedClient,
    OpenSocket,
    Received,
    SocketAddress,
    udp_socket,
)

PER_SECOND = 50


class Traffic:
    """`sender` sends steadily in the background; `receiver` is where its datagrams end."""

    def __init__(self, sender: NumberedClient, receiver: Application) -> None:
        self.sender = sender
        self.receiver = receiver
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._send, daemon=True)

    def __enter__(self) -> Traffic:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()

    def flows(self, seconds: float) -> bool:
        """Whether datagrams arrive, or do so again: more than what may still be under way."""
        return self.receiver.wait_received(len(self.receiver.received) + PER_SECOND, seconds)

    def foreign(self) -> List[Received]:
        return [each for each in self.receiver.received if self.sender.number(each.data) is None]

    def _send(self) -> None:
        while not self._stopped.wait(1 / PER_SECOND):
            self.sender.send()


class Source(NumberedClient):
    """A service that talks to the first who opens a path to it, and is not answered."""

    def __init__(self, bind: SocketAddress, *, open_socket: OpenSocket = udp_socket) -> None:
        super().__init__(("0.0.0.0", 0), bind=bind, open_socket=open_socket)

    def arrived(self, data: bytes, source: SocketAddress) -> None:
        self.destination = source


def both_ways(punched: Punched) -> Traffic:
    """Needs the service `Echo`, and is the application's own."""
    application = punched.application()
    return punched.enter(Traffic(application, application))


def to_service(punched: Punched) -> Traffic:
    """Needs the service `Application`, which only listens."""
    return punched.enter(Traffic(punched.application(), punched.echo))


def to_client(punched: Punched) -> Traffic:
    """Needs the service `Source`. One datagram opens the path; the client sends no more."""
    listener = punched.enter(Application(open_socket=punched.lab.b.socket))
    listener.socket.sendto(b"open", FRONT)
    assert punched.echo.wait_received(1, 20.0), punched.story()
    return punched.enter(Traffic(punched.echo, listener))
