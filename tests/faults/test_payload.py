"""Payload of whatever look and size: it arrives as it was sent, in both directions."""

from __future__ import annotations

import time
from typing import List, Union

import pytest

from tests import program
from tests.lab.whole_program import FRONT, MEETING, SERVICE, Punched, all_answered
from tests.standin import process as original
from tests.standin.application import Application, Echo
from tests.standin.attacker import MALFORMED, MARK, ODD, well_formed
from udppunch.lab import Lab

pytestmark = pytest.mark.usefixtures("lab_permitted")

DOUBLED_WITHIN = 1.2
CONFUSING = [
    *well_formed(program.KEY),
    *MALFORMED,
    *ODD,
    *(b"\x03" + bytes([step]) + MARK + bytes(16) for step in range(3)),
    bytes(47),
]


def come_back(application: Application, payloads: List[bytes]) -> bool:
    """Sent one by one, for nobody else's order is at stake here."""
    for payload in payloads:
        before = len(application.received)
        application.socket.sendto(payload, FRONT)
        if not application.wait_received(before + 1, 5.0):
            raise AssertionError(f"{payload!r} did not come back")
        assert application.received[before].data == payload
    return True


def test_what_looks_like_control() -> None:
    with Lab("prc", "prc") as lab, Punched(lab) as punched:
        with Application(open_socket=lab.b.socket) as application:
            application.socket.sendto(b"the first", FRONT)
            assert application.wait_received(1, 20.0), punched.story()
            assert come_back(application, CONFUSING), punched.story()
            assert len(application.received) == len(punched.echo.received) == 1 + len(CONFUSING)
        punched.assert_sane()


def test_what_looks_like_control_as_the_very_first() -> None:
    """An application's first datagram may be anything as well."""
    with Lab("prc", "prc") as lab, Punched(lab) as punched:
        for payload in CONFUSING:
            with Application(open_socket=lab.b.socket) as application:
                assert come_back(application, [payload]), punched.story()
        assert len(punched.echo.received) == len(CONFUSING)
        punched.assert_sane()


@pytest.mark.parametrize("theirs", ["server", "client"])
def test_what_looks_like_control_towards_an_original(theirs: str) -> None:
    """All of it is payload, once the network can't have doubled the handshakes any more."""
    with (
        Lab("prc", "prc") as lab,
        program.rendezvous(MEETING, popen=lab.rendezvous.popen) as meeting,
        Echo(SERVICE, open_socket=lab.a.socket) as echo,
    ):
        meeting.wait_event("listening")
        server: Union[program.Program, original.StandIn] = (
            original.server(SERVICE, MEETING, program.KEY, popen=lab.a.popen)
            if theirs == "server"
            else program.serve(SERVICE, MEETING, popen=lab.a.popen)
        )
        client: Union[program.Program, original.StandIn] = (
            original.client(MEETING, program.KEY, FRONT, popen=lab.b.popen)
            if theirs == "client"
            else program.connect(MEETING, listen=FRONT, popen=lab.b.popen)
        )
        with server, client, Application(open_socket=lab.b.socket) as application:
            server.wait_event("registered")
            client.wait_event("listening")
            application.socket.sendto(b"the first", FRONT)
            assert application.wait_received(1, 20.0), f"{server}\n{client}"
            time.sleep(DOUBLED_WITHIN)
            payloads = [payload for payload in CONFUSING if payload]
            try:
                assert come_back(application, payloads)
            except AssertionError as error:
                raise AssertionError(f"{error}\n{server}\n{client}") from None
            assert len(application.received) == len(echo.received) == 1 + len(payloads)
            server.assert_alive_and_sane()
            client.assert_alive_and_sane()


def test_large_datagrams_and_empty_ones() -> None:
    """Fragments on the way, since they exceed what a link takes."""
    with Lab("prc", "prc") as lab, Punched(lab) as punched:
        application = punched.application(sizes=(12, 1472, 1473, 9000, 60_000, 65_507))
        assert all_answered(application, 60, per_second=100), punched.story()
        assert not application.out_of_order()
        punched.assert_clean(application)
