"""Which NATs can be punched: every pair of classes, with the whole program.

A cell says whether the server behind the row's NAT and the client behind the column's get a
direct path. Where they can't, both say so and go on trying.
"""

from __future__ import annotations

import signal
import time

import pytest

from tests.lab.whole_program import Punched
from udppunch.lab import Lab

pytestmark = pytest.mark.usefixtures("lab_permitted")

CLASSES = (
    "public", "full", "arc", "prc", "prc-open", "prc-reject", "sym-adm", "sym",
    "cgn-prc", "cgn-sym",
)  # fmt: skip
SYMMETRIC = {"sym-adm", "sym", "cgn-sym"}
# The filters of these let in what comes from an address that was sent to, on any port.
OPEN = {"public", "full", "arc"}


def expected(a: str, b: str) -> bool:
    """RFC 4787 in two lines: one symmetric NAT needs a peer whose filter ignores ports."""
    if a in SYMMETRIC:
        return b in OPEN
    return b not in SYMMETRIC or a in OPEN


@pytest.mark.parametrize("b", CLASSES)
@pytest.mark.parametrize("a", CLASSES)
def test_cell(a: str, b: str) -> None:
    with Lab(a, b) as lab, Punched(lab) as punched:
        application = punched.application()
        application.send(3)
        if expected(a, b):
            assert application.wait_echoed(20.0), punched.story()
        else:
            for end, nat in ((punched.server, a), (punched.client, b)):
                said = end.wait_event("no-path")["message"]
                tells_ports = nat in SYMMETRIC - {"sym-adm"}
                own = "uses another port for each" if tells_ports else "keeps its port"
                assert f"this end's NAT {own}" in said
            assert not application.wait_echoed(0.1), punched.story("connected against all odds")
        punched.assert_clean(application)


@pytest.mark.parametrize("a,b", [("udp-blocked", "public"), ("public", "udp-blocked")])
def test_blocked_udp_is_said(a: str, b: str) -> None:
    with Lab(a, b) as lab:
        punched = Punched(lab)
        punched.rendezvous = punched.start_rendezvous()
        punched.rendezvous.wait_event("listening")
        if a == "udp-blocked":
            with punched.start_server() as blocked:
                blocked.wait_event("rendezvous-silent")
        else:
            with punched.start_client() as blocked:
                blocked.wait_event("listening")
                application = punched.application()
                application.send(1)
                blocked.wait_event("rendezvous-silent")
        punched.__exit__()


@pytest.mark.parametrize("delays", [(0.0, 0.15), (0.15, 0.0), (0.05, 0.05)])
@pytest.mark.parametrize(
    "a,b", [("prc-open", "prc-open"), ("prc", "prc-open"), ("prc-open", "prc")]
)
def test_linux_routers_that_take_early_datagrams_for_their_own(
    a: str, b: str, delays: "tuple[float, float]"
) -> None:
    with Lab(a, b, delay_a=delays[0], delay_b=delays[1]) as lab, Punched(lab) as punched:
        application = punched.application()
        application.send(3)
        assert application.wait_echoed(20.0), punched.story()
        punched.assert_clean(application)


@pytest.mark.parametrize("late", ["server", "client"])
def test_an_end_that_hears_of_the_other_too_late(late: str) -> None:
    """Its router has by then taken the other's opener for its own: only fresh ports help."""
    a, b = ("prc-open", "prc") if late == "server" else ("prc", "prc-open")
    with Lab(a, b, core="bridge") as lab, Punched(lab) as punched:
        process = getattr(punched, late).process
        application = punched.application()
        if late == "client":
            # Stopped between its question and the answer, which is on its way meanwhile.
            punched.server.process.send_signal(signal.SIGSTOP)
            application.send(1)
            punched.rendezvous.wait_event("introduced")
            process.send_signal(signal.SIGSTOP)
            punched.server.process.send_signal(signal.SIGCONT)
        else:
            process.send_signal(signal.SIGSTOP)
            application.send(1)
            punched.rendezvous.wait_event("introduced")
        time.sleep(0.1)
        process.send_signal(signal.SIGCONT)
        assert application.wait_echoed(30.0), punched.story()
        punched.assert_clean(application)


@pytest.mark.parametrize("a,b", [("prc-open", "prc"), ("prc", "prc-open")])
def test_on_a_flat_public_network(a: str, b: str) -> None:
    """Two NATs next to each other, where the opener reaches the far one."""
    with Lab(a, b, core="bridge") as lab, Punched(lab) as punched:
        application = punched.application()
        application.send(3)
        assert application.wait_echoed(30.0), punched.story()
        punched.assert_clean(application)
