"""What goes wrong on an end's own host: its firewall, its link, its limits, its log."""

from __future__ import annotations

import functools
import os
import resource
import subprocess
import sys
import time
from contextlib import ExitStack
from typing import Callable, Dict, List

import pytest

from tests import program
from tests.faults.traffic import both_ways
from tests.lab.whole_program import Punched, answered_within
from tests.ports import free_port
from tests.standin.application import Echo, NumberedClient
from udppunch.lab import Host, Lab

RECOVERS = 25.0
_FIREWALL = """
table inet own {
    chain output { type filter hook output priority filter; oifname "eth0" meta l4proto udp drop; }
}
"""


@pytest.mark.usefixtures("lab_permitted")
@pytest.mark.parametrize("site", ["a", "b"])
def test_own_firewall_drops_for_a_moment(site: str) -> None:
    """EPERM for each datagram sent: what a full conntrack table gives as well."""
    with Lab("prc", "prc") as lab, Punched(lab) as punched:
        flow = both_ways(punched)
        assert flow.flows(20.0), punched.story()
        host: Host = getattr(lab, site)
        host.namespace.nft(_FIREWALL)
        time.sleep(2.0)
        host.namespace.nft("delete table inet own\n")
        assert flow.flows(RECOVERS), punched.story()
        flow.stop()
        punched.assert_clean(flow.sender)
        assert len(punched.server.events) + len(punched.client.events) < 40, punched.story()


@pytest.mark.usefixtures("lab_permitted")
@pytest.mark.parametrize("site", ["a", "b"])
def test_own_link_goes_down_and_up(site: str) -> None:
    """ENETUNREACH meanwhile, since the routes go with the link."""
    with Lab("prc", "prc") as lab, Punched(lab) as punched:
        flow = both_ways(punched)
        assert flow.flows(20.0), punched.story()
        host: Host = getattr(lab, site)
        host.namespace.ip(["link set dev eth0 down"])
        time.sleep(2.0)
        host.namespace.ip(["link set dev eth0 up", "route add default via 192.168.1.1"])
        assert flow.flows(RECOVERS), punched.story()
        flow.stop()
        punched.assert_clean(flow.sender)
        assert len(punched.server.events) + len(punched.client.events) < 40, punched.story()


@pytest.mark.usefixtures("lab_permitted")
@pytest.mark.parametrize("site", ["a", "b"])
def test_own_address_changes(site: str) -> None:
    """Another lease: the sockets go on with the new one."""
    with Lab("prc", "prc") as lab, Punched(lab) as punched:
        flow = both_ways(punched)
        assert flow.flows(20.0), punched.story()
        host: Host = getattr(lab, site)
        host.namespace.ip(
            [
                "addr del 192.168.1.2/24 dev eth0",
                "addr add 192.168.1.77/24 dev eth0",
                "route add default via 192.168.1.1",
            ]
        )
        assert flow.flows(RECOVERS), punched.story()
        flow.stop()
        punched.assert_clean(flow.sender)


@pytest.mark.usefixtures("lab_permitted")
@pytest.mark.parametrize("address", ["203.0.113.10", "203.0.113.11"])
def test_rendezvous_answers_from_the_address_that_was_asked(address: str) -> None:
    """Bound to the wildcard on a host with two addresses; else the NATs drop its answers."""
    meeting = (address, 39737)
    with (
        Lab("prc", "prc") as lab,
        Punched(lab, meeting=meeting, listen=("0.0.0.0", 39737)) as punched,
    ):
        application = punched.application()
        application.send(3)
        assert application.wait_echoed(20.0), punched.story()
        punched.assert_clean(application)


@pytest.mark.usefixtures("lab_permitted")
def test_clocks_that_agree_on_nothing() -> None:
    """One end believes to be up for a year, another for a month; no time crosses the wire."""
    probe = [sys.executable, "-c", ""]
    unshare = ["unshare", "--time", "--boottime", "31536000"]
    try:
        subprocess.run([*unshare, *probe], check=True, stderr=subprocess.PIPE)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no time namespaces: {error}")

    def shifted(host: Host, seconds: str) -> Callable[..., "subprocess.Popen[str]"]:
        def popen(argv: List[str], **options: object) -> "subprocess.Popen[str]":
            return host.popen([*unshare[:-1], seconds, *argv], **options)

        return popen

    with Lab("prc", "prc") as lab:
        punched = Punched(lab)
        punched.start_server = lambda: punched.enter(  # type: ignore[method-assign]
            program.serve(
                ("127.0.0.1", 7000), ("203.0.113.10", 39737), popen=shifted(lab.a, "31536000")
            )
        )
        with punched:
            application = punched.application()
            assert answered_within(application, 20.0), punched.story()
            punched.assert_clean(application)


# On loopback: what the process is given to live with.


def _limited(descriptors: int) -> Callable[..., "subprocess.Popen[str]"]:
    def lower() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))

    return functools.partial(subprocess.Popen, preexec_fn=lower)


@pytest.mark.parametrize("end", ["serve", "connect"])
def test_more_clients_than_descriptors(end: str) -> None:
    """Those that came first are served on; the process refuses the others and says so once."""
    limits: Dict[str, Callable[..., "subprocess.Popen[str]"]] = {
        "serve": subprocess.Popen, "connect": subprocess.Popen, end: _limited(64)
    }  # fmt: skip
    with ExitStack() as stack:
        meeting = stack.enter_context(program.rendezvous())
        echo = stack.enter_context(Echo())
        server = program.serve(echo.address, meeting.address, popen=limits["serve"])
        stack.enter_context(server).wait_event("registered")
        client = program.connect(meeting.address, popen=limits["connect"])
        front = stack.enter_context(client).address
        old = [stack.enter_context(NumberedClient(front)) for _ in range(10)]
        for application in old:
            application.send(3)
            assert application.wait_echoed(20.0), f"{server}\n{client}"
        new = [stack.enter_context(NumberedClient(front)) for _ in range(200)]
        for application in new:
            application.send(3)
        limited = server if end == "serve" else client
        assert "too many open files" in limited.wait_event("no-socket")["message"]
        for application in old:
            application.send(100, per_second=1000)
            assert application.wait_echoed(20.0), f"{server}\n{client}"
        served = sum(application.wait_echoed(0.1) for application in new)
        assert 5 < served < 64
        assert limited.count("no-socket") == 1
        for process in (meeting, server, client):
            process.assert_alive_and_sane()


@pytest.mark.parametrize("target", ["full disk", "closed", "broken pipe"])
def test_log_that_cannot_be_written(target: str) -> None:
    with ExitStack() as stack:
        start = functools.partial(_start_unheard, stack, target)
        meeting = ("127.0.0.1", free_port())
        front = ("127.0.0.1", free_port())
        echo = stack.enter_context(Echo())
        started = [
            start("rendezvous", program.text(meeting)),
            start("serve", program.text(echo.address), program.text(meeting)),
            start("connect", program.text(front), program.text(meeting)),
        ]
        application = stack.enter_context(NumberedClient(front))
        assert answered_within(application, 20.0)
        for process in started:
            assert process.poll() is None
            process.terminate()
            assert process.wait(10.0) == 0


def _start_unheard(stack: ExitStack, target: str, *arguments: str) -> "subprocess.Popen[bytes]":
    """A program that logs all it can, to where nothing can be written."""
    redirection = {"full disk": "2>/dev/full", "closed": "2>&-", "broken pipe": ""}[target]
    command = ["sh", "-c", f'exec "$@" {redirection}', "sh"]
    command += [sys.executable, "-m", "udppunch", *arguments, "--log-level", "trace"]
    reader, writer = os.pipe()
    os.close(reader)
    environment = {**os.environ, "UDPPUNCH_KEY": program.KEY, "PYTHONPATH": str(program.ROOT)}
    process = subprocess.Popen(command, stderr=writer, env=environment)
    os.close(writer)
    stack.callback(process.wait)
    stack.callback(process.kill)
    return process
