"""A rendezvous that lies: it names whom it likes, and the ends are not to become its cannon."""

from __future__ import annotations

import threading
from typing import Callable, List, Sequence

import pytest

from tests import program
from tests.faults.forging import Listener
from tests.lab.whole_program import FRONT, MEETING, SERVICE
from tests.standin.application import NumberedClient
from udppunch import address
from udppunch.lab import Host, Lab
from udppunch.proto.puncher.path import CHECK_BURST, CHECK_RATE
from udppunch.wire import marks, puncher
from udppunch.wire.malformed import Malformed

pytestmark = pytest.mark.usefixtures("lab_permitted")

NAMES = 100
WATCHED = 10.0
# For all that one client is told: 20 checks to each of 8 addresses.
PROBES, OCTETS, LONGEST = 160, 10_000, 64

Tell = Callable[[puncher.Message], Sequence[puncher.Message]]


class Liar:
    """Answers every request with all that `tell` makes of it."""

    def __init__(self, host: Host, tell: Tell) -> None:
        self._socket = host.socket()
        self._socket.bind(MEETING)
        self._tell = tell
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            try:
                data, source = self._socket.recvfrom(2048)
                for message in self._tell(puncher.decode(data)):
                    self._socket.sendto(puncher.encode(message), source)
            except Malformed:
                continue
            except OSError:  # closed with the lab
                return


def names(victim: Host, *, marked: bool) -> List[puncher.Message]:
    """A hundred ports of the victim, each as if it were another peer of ours."""
    return [
        puncher.Punch(
            address.pack(victim.address, 9000 + number),
            marks.new(number.to_bytes(16, "big")) if marked else b"",
        )
        for number in range(NAMES)
    ]


@pytest.mark.parametrize("marked", [True, False], ids=["ours", "original"])
def test_client_spares_a_victim(marked: bool) -> None:
    with Lab("prc", "prc") as lab:
        victim = lab.add_host("core")
        lies = names(victim, marked=marked)
        Liar(lab.rendezvous, lambda message: lies)
        listener = Listener(victim)
        with program.connect(MEETING, listen=FRONT, popen=lab.b.popen) as client:
            client.wait_event("listening")
            with NumberedClient(FRONT, open_socket=lab.b.socket) as application:
                application.send(5, per_second=2)
                heard = [each.data for each in listener.all_for(WATCHED) if each.data]
            assert 0 < len(heard) <= PROBES, len(heard)
            assert sum(map(len, heard)) <= OCTETS and max(map(len, heard)) <= LONGEST
            client.assert_alive_and_sane()


@pytest.mark.parametrize("marked", [True, False], ids=["ours", "original"])
def test_server_spares_a_victim(marked: bool) -> None:
    """It may be told of a hundred clients at once in earnest: all of them share one budget."""
    with Lab("prc", "prc") as lab:
        victim = lab.add_host("core")
        lies = names(victim, marked=marked)
        own = marks.new(bytes(16)) if marked else b""

        def tell(message: puncher.Message) -> Sequence[puncher.Message]:
            told, lies[:] = [puncher.Ok(own), *lies], []
            return told

        Liar(lab.rendezvous, tell)
        listener = Listener(victim)
        with program.serve(SERVICE, MEETING, popen=lab.a.popen) as server:
            server.wait_event("registered")
            heard = [each.data for each in listener.all_for(WATCHED) if each.data]
            assert 0 < len(heard) <= CHECK_BURST + CHECK_RATE * WATCHED, len(heard)
            assert max(map(len, heard)) <= LONGEST
            server.assert_alive_and_sane()
