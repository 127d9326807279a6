"""A NAT that loses its mappings, or gets another public address, in the midst of things.

Neither end is told. What was sent by the application goes unanswered, or the path's own checks
do, and the path is found again without a person.
"""

from __future__ import annotations

import time
from typing import Callable, NamedTuple

import pytest

from tests.faults.traffic import Source, Traffic, both_ways, to_client, to_service
from tests.lab.whole_program import Punched, all_answered, answered_within
from tests.standin.application import Application, Echo
from udppunch.lab import Lab, Router

pytestmark = pytest.mark.usefixtures("lab_permitted")

QUICK = ("--keepalive", "1s")
# The manual promises 10 s for a path in use; half as long again for busy machines.
RECOVERS = 15.0


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
    assert_recovers("prc", "prc", router, fault, traffic)


@pytest.mark.parametrize("router", ["nat_a", "nat_b"])
@pytest.mark.parametrize(
    "a,b,traffic",
    [
        ("prc-open", "prc", "both-ways"),  # takes what still comes for its own
        ("prc-open", "prc", "to-service"),
        ("prc", "prc-open", "both-ways"),
        ("sym", "full", "both-ways"),  # gives the same socket another port
        ("full", "sym", "to-client"),
        ("arc", "sym", "both-ways"),
        ("cgn-prc", "prc", "both-ways"),
    ],
)
def test_whatever_the_nats_are(a: str, b: str, router: str, traffic: str) -> None:
    assert_recovers(a, b, router, forget, traffic)


def assert_recovers(
    a: str, b: str, router: str, fault: Callable[[Router], None], traffic: str
) -> None:
    case = TRAFFIC[traffic]
    with Lab(a, b) as lab, Punched(lab, service=case.service) as punched:
        flow = case.start(punched)
        assert flow.flows(20.0), punched.story()
        fault(getattr(lab, router))
        assert flow.flows(RECOVERS), punched.story()
        flow.stop()
        assert not flow.foreign()
        punched.assert_sane()


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
        assert all_answered(application, 20, per_second=100), punched.story()
        punched.assert_clean(application)
