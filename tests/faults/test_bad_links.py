"""Links that lose, duplicate and reorder."""

from __future__ import annotations

import time

import pytest

from tests.lab.whole_program import Punched, all_answered, answered_within, eventually
from udppunch.lab import Lab

pytestmark = pytest.mark.usefixtures("lab_permitted")

PATHS = 20


@pytest.mark.parametrize("loss,least", [(0.1, 20), (0.3, 18)])
def test_paths_come_up_over_lossy_links(loss: float, least: int) -> None:
    """That many of twenty within 10 s, each of them from an application of its own."""
    with Lab("prc", "prc", loss=loss, seed=1) as lab, Punched(lab) as punched:
        applications = [punched.application() for _ in range(PATHS)]
        for application in applications:
            application.send()
        eventually(lambda: punched.client.count("path-up") >= PATHS, 10.0)
        assert punched.client.count("path-up") >= least, punched.story()
        assert eventually(lambda: punched.client.count("path-up") >= PATHS, 30.0)
        punched.assert_clean(*applications)


def test_lossy_path_stays_up() -> None:
    """Lost datagrams are no lost path: checks are repeated before it is given up."""
    quick = ("--keepalive", "500ms")
    with (
        Lab("prc", "prc", loss=0.1, seed=2) as lab,
        Punched(lab, serve_options=quick, connect_options=quick) as punched,
    ):
        application = punched.application()
        assert answered_within(application, 20.0), punched.story()
        for _ in range(4):
            application.send(50, per_second=100)
            time.sleep(2.5)
        assert not punched.client.count("path-lost") + punched.server.count("path-lost")
        punched.assert_clean(application)


@pytest.mark.parametrize("sites", [("prc", "prc"), ("public", "sym")], ids="-".join)
def test_duplicates_and_reordering_are_harmless(sites: "tuple[str, str]") -> None:
    with (
        Lab(*sites, duplicate=0.3, reorder=0.3, jitter=0.02, seed=3) as lab,
        Punched(lab, serve_options=("--idle", "2s"), connect_options=("--idle", "2s")) as punched,
    ):
        application = punched.application(sizes=(12, 64, 1400))
        for times in (1, 2, 3):
            assert all_answered(application, 20), punched.story()
            assert all_answered(application, 300, per_second=500), punched.story()
            punched.client.wait_event("path-closed", 15.0, count=times)
        # A close that comes twice, or late, closes nothing else.
        assert punched.client.count("path-up") == 3
        # At the server a handshake that comes late may open one more, which nobody uses.
        assert 3 <= punched.server.count("path-up") <= 4
        punched.assert_clean(application)


def test_order_is_kept_where_the_network_keeps_it() -> None:
    with (
        Lab("prc", "prc", duplicate=0.2, delay_a=0.01, delay_b=0.01) as lab,
        Punched(lab) as punched,
    ):
        application = punched.application(sizes=(64, 64, 64, 1200, 12))
        application.send(200)  # most of them before the path is up
        assert application.wait_echoed(20.0), punched.story()
        application.send(2000, per_second=4000)
        assert application.wait_echoed(10.0), len(application.missing())
        assert not application.out_of_order()
        punched.assert_clean(application)


def test_after_an_outage() -> None:
    """Nothing at all passes for a while: all is back soon after the network is."""
    with Lab("prc", "prc") as lab, Punched(lab) as punched:
        application = punched.application()
        assert answered_within(application, 20.0), punched.story()
        lab.nat_a.lose(100)
        assert not answered_within(application, 25.0)
        lab.nat_a.lose(0)
        assert answered_within(application, 15.0), punched.story()
        punched.assert_clean(application)
