"""NATs that forget soon: an idle path outlives them, unseen by the applications."""

from __future__ import annotations

import time

import pytest

from tests.lab.whole_program import Punched, answered_within
from udppunch.lab import Lab

pytestmark = pytest.mark.usefixtures("lab_permitted")

# The defaults are 30 and 120 s with a check each 15: here all is a tenth and less.
UNANSWERED, ANSWERED = 3, 8
IDLE = 25.0


def service_reaches_client(keepalive: str) -> bool:
    """Whether a datagram that the service sends after a long silence gets through."""
    options = ("--keepalive", keepalive)
    with Lab("prc", "prc") as lab:
        for router in (lab.nat_a, lab.nat_b):
            router.timeouts(udp=UNANSWERED, stream=ANSWERED)
        with Punched(lab, serve_options=options, connect_options=options) as punched:
            application = punched.application()
            application.send(20, per_second=10)
            assert application.wait_echoed(20.0), punched.story()
            heard = len(application.received), len(punched.echo.received)
            time.sleep(IDLE)
            assert heard == (len(application.received), len(punched.echo.received))
            source = punched.echo.received[0].source
            punched.echo.socket.sendto(application.received[0].data, source)
            through = application.wait_received(heard[0] + 1, 3.0)
            assert answered_within(application, 20.0), punched.story()
            punched.assert_clean(application)
            return through


def test_kept_open_by_checks() -> None:
    assert service_reaches_client("1s")


def test_would_have_closed_without() -> None:
    assert not service_reaches_client("60s")
