"""Each role once ours and once p2p_udp_puncher's, in every combination, through real NATs.

Twice in a row: after a silence the originals have forgotten the path, and the next datagram
punches it anew.
"""

from __future__ import annotations

import itertools
import time
from contextlib import ExitStack
from typing import Union

import pytest

from tests import program
from tests.lab.fixtures import lab_permitted  # noqa: F401
from tests.lab.whole_program import (
    FRONT,
    MEETING,
    SERVICE,
    all_answered,
    answered_within,
)
from tests.standin import process as original
from tests.standin.application import Echo, NumberedClient
from udppunch.lab import Lab

pytestmark = pytest.mark.usefixtures("lab_permitted")

Process = Union[program.Program, original.StandIn]

OURS_OR_ORIGINAL = ("ours", "original")
FORGOTTEN_AFTER = 6.0


@pytest.mark.parametrize("sites", [("prc", "prc"), ("full", "prc")], ids="-".join)
@pytest.mark.parametrize(
    "meeting,server,client", list(itertools.product(OURS_OR_ORIGINAL, repeat=3))
)
def test_applications_talk(
    meeting: str, server: str, client: str, sites: "tuple[str, str]"
) -> None:
    with Lab(*sites) as lab, ExitStack() as stack:
        at_rendezvous, at_a, at_b = (host.popen for host in (lab.rendezvous, lab.a, lab.b))
        turn: Process = (
            program.rendezvous(MEETING, popen=at_rendezvous)
            if meeting == "ours"
            else original.turn(MEETING, popen=at_rendezvous)
        )
        stack.enter_context(turn)
        turn.wait_event("listening")
        echo = stack.enter_context(Echo(SERVICE, open_socket=lab.a.socket))
        end: Process = (
            program.serve(SERVICE, MEETING, popen=at_a)
            if server == "ours"
            else original.server(SERVICE, MEETING, program.KEY, popen=at_a)
        )
        stack.enter_context(end)
        end.wait_event("registered")
        front: Process = (
            program.connect(MEETING, listen=FRONT, popen=at_b)
            if client == "ours"
            else original.client(MEETING, program.KEY, FRONT, popen=at_b)
        )
        stack.enter_context(front)
        front.wait_event("listening")
        application = stack.enter_context(
            NumberedClient(FRONT, sizes=(12, 200, 1400), open_socket=lab.b.socket)
        )
        for silence in (0.0, FORGOTTEN_AFTER):
            time.sleep(silence)
            assert answered_within(application, 20.0), f"{turn}\n{end}\n{front}"
            assert all_answered(application, 200, per_second=1000)
        for process in (turn, end, front):
            process.assert_alive_and_sane()
        assert not echo.foreign([application])
        assert not application.foreign() and not application.out_of_order()
