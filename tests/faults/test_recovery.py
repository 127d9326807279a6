"""What breaks under a path, and that it is found again without a person.

The bounds are those of the manual page: ten seconds for a path in use, fifteen for a
registration; what is waited for here is twice that, for the machine may be busy.
"""

from __future__ import annotations

import signal
import time
from typing import Iterator

import pytest

from tests.lab.whole_program import Punched
from tests.standin.application import NumberedClient
from udppunch.lab import Lab

pytestmark = pytest.mark.usefixtures("lab_permitted")

PATIENCE = 20.0


@pytest.fixture
def punched() -> Iterator[Punched]:
    with Lab("prc", "prc") as lab, Punched(lab) as punched:
        yield punched


def answered_again(punched: Punched, application: NumberedClient) -> None:
    """A datagram sent from now on is answered in time."""
    first, due = application.sent, time.monotonic() + PATIENCE
    while not any(number >= first for number in application.echoed()):
        assert time.monotonic() < due, punched.story()
        application.send(1)
        time.sleep(0.1)


def connected(punched: Punched) -> NumberedClient:
    application = punched.application()
    application.send(5)
    assert application.wait_echoed(), punched.story()
    return application


@pytest.mark.parametrize("which", ["a", "b", "ab"])
def test_a_nat_that_forgets(punched: Punched, which: str) -> None:
    application = connected(punched)
    if "a" in which:
        punched.lab.nat_a.forget()
    if "b" in which:
        punched.lab.nat_b.forget()
    answered_again(punched, application)
    punched.assert_clean(application)
    sources = {datagram.source for datagram in punched.echo.received}
    assert len(sources) == 1, "the service took one client for several"


@pytest.mark.parametrize("which", ["a", "b"])
def test_a_public_address_that_changes(punched: Punched, which: str) -> None:
    application = connected(punched)
    router = punched.lab.nat_a if which == "a" else punched.lab.nat_b
    router.renumber("203.0.113.150")
    answered_again(punched, application)
    punched.assert_clean(application)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_restarted_server(punched: Punched, number: int) -> None:
    application = connected(punched)
    punched.server.stop(number)
    punched.server = punched.start_server()
    answered_again(punched, application)
    punched.assert_clean(application)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_restarted_client(punched: Punched, number: int) -> None:
    application = connected(punched)
    punched.client.stop(number)
    punched.client = punched.start_client()
    answered_again(punched, application)
    punched.assert_clean(application)


def test_a_restarted_rendezvous(punched: Punched) -> None:
    application = connected(punched)
    punched.rendezvous.stop(signal.SIGKILL)
    application.send(5)
    assert application.wait_echoed(), "a path needs no rendezvous"
    punched.rendezvous = punched.start_rendezvous()
    punched.server.wait_event("registered", 30.0, count=2)
    newcomer = punched.application()
    newcomer.send(1)
    assert newcomer.wait_echoed(), punched.story()
    punched.assert_clean(application, newcomer)


def test_an_end_that_was_stopped_for_a_while(punched: Punched) -> None:
    application = connected(punched)
    punched.client.process.send_signal(signal.SIGSTOP)
    time.sleep(8)
    punched.client.process.send_signal(signal.SIGCONT)
    answered_again(punched, application)
    punched.assert_clean(application)


def test_an_own_firewall_that_refuses_for_a_while(punched: Punched) -> None:
    """The kernel answers each send with EPERM meanwhile, as with a full conntrack table."""
    application = connected(punched)
    punched.lab.b.namespace.nft(
        "table inet refusing { chain output { type filter hook output priority 0\n"
        "meta l4proto udp oifname != lo drop\n}\n}\n"
    )
    application.send(20, per_second=20)
    punched.lab.b.namespace.nft("delete table inet refusing\n")
    answered_again(punched, application)
    punched.assert_clean(application)


@pytest.mark.parametrize("keepalive,lives", [("1s", True), ("60s", False)])
def test_keepalives_hold_bindings_that_live_three_seconds(keepalive: str, lives: bool) -> None:
    """Without them the server's next word to the client would be lost in the NATs."""
    options = ("--keepalive", keepalive)
    with Lab("prc", "prc") as lab:
        for router in (lab.nat_a, lab.nat_b):
            router.timeouts(udp=3, stream=8)
        with Punched(lab, serve_options=options, connect_options=options) as punched:
            application = connected(punched)
            time.sleep(12)
            before = len(application.received)
            to_client = punched.echo.received[-1].source
            punched.echo.socket.sendto(application.received[0].data, to_client)
            came = application.wait_received(before + 1, 1.0)
            assert came == lives, punched.story()
            punched.assert_clean(application)


def test_an_idle_path_closes_at_both_ends_and_opens_anew() -> None:
    options = ("--idle", "2s")
    with (
        Lab("prc", "prc") as lab,
        Punched(lab, serve_options=options, connect_options=options) as punched,
    ):
        application = connected(punched)
        punched.client.wait_event("path-closed")
        punched.server.wait_event("path-closed")
        answered_again(punched, application)
        punched.assert_clean(application)
