"""A NAT that loses its mappings, or gets another public address, in the midst of things.

Neither end is told. What was sent by the application goes unanswered, or the path's own checks
do, and the path is found again without a person.
"""

from __future__ import annotations

import time
from typing import Callable, NamedTuple

import pytest

from tests.faults.traffic import Source, Traffic, both_ways, to_client, to_service
from tests.lab.whole_program import Punched, answered_within, eventually, missing_since
from tests.standin.application import Application, Echo
from udppunch.lab import Lab, Router

pytestmark = pytest.mark.usefixtures("lab_permitted")

QUICK = ("--keepalive", "1s")
# Noticed when ten checks, 0.4 s apart, went unanswered: 6 s after the first loss when both
# ends are as quick as this; then come the punches. Twice that, for busy machines.
RECOVERS = 20.0


class Case(NamedTuple):
    service: Callable[..., Application]
    start: Callable[[Punched], Traffic]


TRAFFIC = {
    "both-ways": Case(Echo, both_ways),
    "to-service": Case(Application, to_service),
    "to-client": Case(Source, to_client),
}


def forget(router: Router) -> None:
    router.forget()


def renumber(router: Router) -> None:
    router.renumber("203.0.113.199")


@pytest.mark.parametrize("traffic", TRAFFIC)
@pytest.mark.parametrize("router", ["nat_a", "nat_b"])
@pytest.mark.parametrize("fault", [forget, renumber])
def test_traffic_flows_again(fault: Callable[[Router], None], router: str, traffic: str) -> None:
    case = TRAFFIC[traffic]
    with (
        Lab("prc", "prc") as lab,
        Punched(lab, serve_options=QUICK, connect_options=QUICK, service=case.service) as punched,
    ):
        flow = case.start(punched)
        assert flow.flows(20.0), punched.story()
        fault(getattr(lab, router))
        assert flow.flows(RECOVERS), punched.story()
        flow.stop()
        assert not flow.foreign()
        punched.assert_sane()


@pytest.mark.parametrize("router", ["nat_a", "nat_b"])
@pytest.mark.parametrize(
    "a,b", [("prc-open", "prc"), ("prc", "prc-open"), ("sym", "full"), ("full", "sym"),
            ("arc", "sym"), ("cgn-prc", "prc")]
)  # fmt: skip
def test_whatever_the_nats_are(a: str, b: str, router: str) -> None:
    """Some take what still comes for their own, some give the same socket another port."""
    with Lab(a, b) as lab, Punched(lab, serve_options=QUICK, connect_options=QUICK) as punched:
        flow = both_ways(punched)
        assert flow.flows(20.0), punched.story()
        getattr(lab, router).forget()
        assert flow.flows(RECOVERS), punched.story()
        flow.stop()
        punched.assert_clean(flow.sender)


@pytest.mark.parametrize("router", ["nat_a", "nat_b"])
@pytest.mark.parametrize("fault", [forget, renumber])
def test_an_idle_path_mends_before_it_is_needed(
    fault: Callable[[Router], None], router: str
) -> None:
    with (
        Lab("prc", "prc") as lab,
        Punched(lab, serve_options=QUICK, connect_options=QUICK) as punched,
    ):
        application = punched.application()
        assert answered_within(application, 20.0), punched.story()
        fault(getattr(lab, router))
        if fault is renumber:
            punched.client.wait_event("path-lost", RECOVERS)
            punched.client.wait_event("path-up", RECOVERS, count=2)
        else:
            # The next check of the end behind it opens it again, to the same port.
            time.sleep(3.0)
            assert not punched.client.count("path-lost")
        first = application.sent
        application.send(20, per_second=100)
        assert eventually(lambda: not missing_since(application, first), 5.0), punched.story()
        punched.assert_clean(application)


def test_default_times() -> None:
    """What the man page promises: an application that sends gets its path back in 10 s."""
    with Lab("prc", "prc") as lab, Punched(lab) as punched:
        application = punched.application()
        assert answered_within(application, 20.0), punched.story()
        lab.nat_a.renumber("203.0.113.199")
        assert answered_within(application, RECOVERS), punched.story()
        punched.assert_clean(application)
