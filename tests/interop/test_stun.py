"""A STUN client of the distribution's asks our rendezvous (coturn's turnutils_natdiscovery)."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from tests import program
from tests.ports import free_port
from tests.program import Program

CLIENT = shutil.which("turnutils_natdiscovery")
FIRST, SECOND = "127.0.0.1", "127.0.0.2"

pytestmark = pytest.mark.skipif(CLIENT is None, reason="turnutils_natdiscovery is not on PATH")


def discover(port: int, *tests: str) -> str:
    assert CLIENT is not None
    asked = [CLIENT, *tests, "-p", str(port), FIRST]
    done = subprocess.run(asked, capture_output=True, text=True, timeout=60)
    return done.stdout + done.stderr


def test_two_addresses_tell_mapping_and_filtering() -> None:
    port, other = free_port(), free_port()
    with Program("rendezvous", f"{FIRST}:{port}", f"{SECOND}:{other}") as rendezvous:
        rendezvous.wait_event("listening", count=2)
        told = discover(port, "-m", "-f")
        assert f"Other addr: : {SECOND}:{other}" in told
        assert f"Response origin: : {SECOND}:{other}" in told
        assert "UDP reflexive addr: 127.0.0.1" in told
        assert "Endpoint Independent Mapping" in told
        assert "Endpoint Independent Filtering" in told
        rendezvous.assert_alive_and_sane()


def test_one_address_tells_the_reflexive_one() -> None:
    with program.rendezvous() as rendezvous:
        told = discover(rendezvous.address[1], "-m")
        assert "UDP reflexive addr: 127.0.0.1" in told and "Other addr" not in told


def test_what_is_switched_off_is_silent() -> None:
    with Program("rendezvous", f"{FIRST}:{free_port()}", "--no-stun") as rendezvous:
        told = discover(rendezvous.address[1], "-m")
        assert "UDP reflexive addr" not in told
        rendezvous.assert_alive_and_sane()
