"""Each role once ours and once p2p_udp_puncher's, in every combination, on loopback.

    application ── client ── server ── echo        client, server, rendezvous: ours | original
                      └─ rendezvous ─┘

An original ends its process on any datagram that it did not expect, and what reaches an
application that no application sent is a control datagram gone astray: both fail the test.
"""

from __future__ import annotations

import itertools
from contextlib import ExitStack

import pytest

from tests import program
from tests.standin import process as original
from tests.standin.application import Echo, NumberedClient

OURS_OR_ORIGINAL = ("ours", "original")
COMBINATIONS = list(itertools.product(OURS_OR_ORIGINAL, repeat=3))


@pytest.mark.parametrize("meeting,server,client", COMBINATIONS)
def test_applications_talk(meeting: str, server: str, client: str) -> None:
    with ExitStack() as stack:
        turn = stack.enter_context(program.rendezvous() if meeting == "ours" else original.turn())
        echo = stack.enter_context(Echo())
        address = turn.address
        end = stack.enter_context(
            program.serve(echo.address, address)
            if server == "ours"
            else original.server(echo.address, address, program.KEY)
        )
        end.wait_event("registered")
        front = stack.enter_context(
            program.connect(address) if client == "ours" else original.client(address, program.KEY)
        )
        applications = [
            stack.enter_context(NumberedClient(front.address, sizes=(12, 200, 1400)))
            for _ in range(2)
        ]
        for application in applications:
            application.send(20)
            assert application.wait_echoed(20.0), f"{end}\n{front}\n{turn}"
            application.send(200, per_second=2000)
            assert application.wait_echoed(10.0), f"{end}\n{front}\n{turn}"
        for process in (turn, end, front):
            process.assert_alive_and_sane()
        assert not echo.foreign(applications)
        for application in applications:
            assert not application.foreign() and not application.missing()
            assert not application.out_of_order()
