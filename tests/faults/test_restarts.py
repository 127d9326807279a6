"""Each process killed and started again, or asked to go: the others find the new one."""

from __future__ import annotations

import signal
import time

import pytest

from tests.faults.traffic import Traffic, both_ways
from tests.lab.whole_program import FRONT, SERVICE, Punched, all_answered, answered_within
from tests.program import Program
from tests.standin.application import Application, Echo
from udppunch.lab import Lab

pytestmark = pytest.mark.usefixtures("lab_permitted")

RECOVERS = 25.0


def kill(process: Program) -> None:
    process.stop(signal.SIGKILL)


def test_rendezvous_comes_back() -> None:
    """Servers are there again within 15 s, and the paths that are up don't notice at all."""
    with Lab("prc", "prc") as lab, Punched(lab) as punched:
        flow = both_ways(punched)
        assert flow.flows(20.0), punched.story()
        kill(punched.rendezvous)
        time.sleep(2.0)
        punched.rendezvous = punched.start_rendezvous()
        punched.server.wait_event("registered", 15.0, count=2)
        assert flow.flows(5.0)
        flow.stop()
        assert flow.sender.wait_echoed(5.0), punched.story()
        assert answered_within(punched.application(), 10.0), punched.story("a new path")
        assert not punched.client.count("path-lost")
        punched.assert_sane()


def test_client_started_before_rendezvous_and_server() -> None:
    with Lab("prc", "prc") as lab:
        punched = Punched(lab)
        with (
            punched.start_client() as client,
            Echo(SERVICE, open_socket=lab.a.socket) as echo,
        ):
            client.wait_event("listening")
            application = punched.application()
            application.send(3)
            client.wait_event("rendezvous-silent")
            with punched.start_rendezvous() as rendezvous:
                client.wait_event("no-server")
                with punched.start_server() as server:
                    assert application.wait_echoed(20.0), f"{rendezvous}\n{server}\n{client}"
                    # What had waited all the time was kept, and in order.
                    assert not application.out_of_order() and not echo.foreign([application])
                    assert server.stop() == 0
        punched.__exit__()


@pytest.mark.parametrize("gentle", [False, True], ids=["killed", "terminated"])
def test_another_server(gentle: bool) -> None:
    """It gets the key of the one that is gone, and the clients come to it."""
    with Lab("prc", "prc") as lab, Punched(lab) as punched:
        flow = both_ways(punched)
        assert flow.flows(20.0), punched.story()
        status = punched.server.stop(signal.SIGTERM if gentle else signal.SIGKILL)
        assert status == (0 if gentle else -signal.SIGKILL)
        punched.server = punched.start_server()
        punched.server.wait_event("registered", 10.0)
        assert flow.flows(RECOVERS), punched.story()
        if gentle:
            assert punched.client.count("path-closed") and not punched.client.count("path-lost")
        flow.stop()
        punched.assert_clean(flow.sender)


def test_another_server_for_an_idle_client() -> None:
    """Nobody is sending when the server goes away: the next datagrams find the new one."""
    with Lab("prc", "prc") as lab, Punched(lab, connect_options=("--keepalive", "1s")) as punched:
        application = punched.application()
        assert answered_within(application, 20.0), punched.story()
        kill(punched.server)
        punched.server = punched.start_server()
        punched.client.wait_event("path-up", RECOVERS, count=2)
        assert all_answered(application, 5), punched.story()
        punched.assert_clean(application)


def test_second_server_waits_and_takes_over() -> None:
    with Lab("prc", "prc") as lab, Punched(lab) as punched:
        flow = both_ways(punched)
        assert flow.flows(20.0), punched.story()
        second = punched.start_server()
        assert "waiting" in second.wait_event("key-taken")["message"]
        assert flow.flows(5.0) and not second.count("registered")
        kill(punched.server)
        punched.server = second
        second.wait_event("registered", 15.0)
        assert flow.flows(RECOVERS), punched.story()
        flow.stop()
        punched.assert_clean(flow.sender)


@pytest.mark.parametrize("gentle", [False, True], ids=["killed", "terminated"])
def test_client_comes_back(gentle: bool) -> None:
    with Lab("prc", "prc") as lab, Punched(lab, serve_options=("--keepalive", "1s")) as punched:
        flow = both_ways(punched)
        assert flow.flows(20.0), punched.story()
        punched.client.stop(signal.SIGTERM if gentle else signal.SIGKILL)
        punched.client = punched.start_client()
        assert flow.flows(RECOVERS), punched.story()
        # What the former client left behind is cleared away.
        punched.server.wait_event("path-closed" if gentle else "path-lost", RECOVERS)
        flow.stop()
        punched.assert_clean(flow.sender)


def test_application_comes_back() -> None:
    """On another port, which is another application; and on the same, which is the same."""
    with Lab("prc", "prc") as lab, Punched(lab) as punched:
        for _ in range(2):
            with Traffic(application := punched.application(), application) as flow:
                assert flow.flows(20.0), punched.story()
        port = application.address[1]
        application.close()
        listener = lab.b.socket()
        listener.bind(("127.0.0.1", port))
        listener.settimeout(10.0)
        listener.sendto(b"the same port", FRONT)
        assert listener.recv(100) == b"the same port", punched.story()
        assert punched.client.count("path-up") == 2
        punched.assert_sane()


def test_service_that_is_not_there_yet() -> None:
    """Refused by ICMP: said once, served on, and answered as soon as somebody listens."""
    with Lab("prc", "prc") as lab, Punched(lab) as punched:
        punched.echo.close()
        application = punched.application()
        application.send(40, per_second=20)
        assert "nothing listens" in punched.server.wait_event("refused")["message"]
        for _ in range(2):
            with Echo(SERVICE, open_socket=lab.a.socket) as echo:
                assert answered_within(application, 10.0), punched.story()
                assert not echo.foreign([application])
            application.send(20, per_second=20)
        assert punched.server.count("refused") == 1
        assert punched.server.count("path-up") == 1
        assert not application.foreign()
        punched.assert_sane()


@pytest.mark.parametrize("end", ["server", "client"])
def test_stopped_for_a_while(end: str) -> None:
    """Longer than registrations and paths last (a laptop that slept), with traffic meanwhile."""
    with Lab("prc", "prc") as lab, Punched(lab) as punched:
        flow = both_ways(punched)
        assert flow.flows(20.0), punched.story()
        process = getattr(punched, end).process
        process.send_signal(signal.SIGSTOP)
        time.sleep(20.0)
        process.send_signal(signal.SIGCONT)
        assert flow.flows(RECOVERS), punched.story()
        flow.stop()
        punched.assert_clean(flow.sender)


def test_idle_paths_close_on_both_sides() -> None:
    """After --idle nothing is kept; the next datagram opens a path anew."""
    with (
        Lab("prc", "prc") as lab,
        Punched(lab, serve_options=("--idle", "3s"), connect_options=("--idle", "3s")) as punched,
    ):
        application = punched.application()
        for times in (1, 2):
            assert answered_within(application, 20.0), punched.story()
            for process in (punched.server, punched.client):
                process.wait_event("path-closed", 15.0, count=times)
        punched.assert_clean(application)


def test_one_way_traffic_is_not_idle() -> None:
    with (
        Lab("prc", "prc") as lab,
        Punched(
            lab,
            serve_options=("--idle", "3s", "--keepalive", "1s"),
            connect_options=("--idle", "3s", "--keepalive", "1s"),
            service=Application,
        ) as punched,
    ):
        application = punched.application()
        application.send(40, per_second=5)
        assert punched.echo.wait_received(40, 10.0), punched.story()
        assert not punched.client.count("path-closed") and not punched.client.count("path-lost")
        punched.assert_sane()
