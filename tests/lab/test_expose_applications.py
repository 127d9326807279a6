"""`udppunch helper` and `udppunch expose` as whole programs, and what people put around them.

                              helper 203.0.113.10, .11             other20
                                         |                            |
    ----------------------+--------------+--- core ---+---------------+------
                          |                           |
                  203.0.113.101                203.0.113.102
                       [NAT a]                     [NAT b]
                          |                       |       |
         service ─ expose, host a                 b       b3

NAT a (nft masquerade) lets nothing in that was not asked for, so that the service is reached
through the helper or not at all. Connectees, on b, b3 and other20, know the helper's address
alone.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Callable, Dict

import pytest

from tests.applications.test_dns import ADDRESS, TEXT, answers, name_server
from tests.applications.test_wireguard import FETCH, Tunnel
from tests.lab.expose_lab import (
    HELPER,
    LONGEST,
    OTHER_HELPER,
    PORT,
    RECOVERS,
    STARTS,
    Eightfold,
    Exposed,
    Generous,
    answers_with,
    connectees_everywhere,
    lead_tcp_past_the_helper,
    send_train,
    wait_all_came,
    wait_answered,
    wait_listening,
)
from tests.lab.whole_program import SERVICE, all_answered, answered_within, eventually
from tests.standin.application import HEADER, Application
from udppunch.lab import Lab

pytestmark = pytest.mark.usefixtures("lab_permitted")

SIZES = (12, 64, 1200, 1472, 1473, 4000, 16_000, LONGEST)
EITHER = pytest.mark.parametrize("password", [True, False], ids=["password", "no-password"])

FILE_SIZE = 8_000_000
HTTP_PORT = 8080

QUESTIONS = 30
DIG = [
    "dig", f"@{HELPER[0]}", "-p", str(PORT), "+notcp", "+ignore", "+tries=3", "+time=5",
    "+bufsize=4096", "+short",
]  # fmt: skip


def require(packages: Dict[str, str]) -> None:
    """Programs, each with the package that has it."""
    for program, package in packages.items():
        if shutil.which(program) is None:
            pytest.skip(f"no {program}: install the package {package}")


# Applications


def test_a_file_through_wireguard(tmp_path: Path) -> None:
    require({"wireguard-go": "wireguard-go", "wg": "wireguard-tools"})
    if os.geteuid():
        pytest.skip("wireguard-go keeps its control socket where root alone may write")
    content = random.Random(0).randbytes(FILE_SIZE)
    tmp_path.joinpath("file").write_bytes(content)
    with Lab("prc", "prc") as lab, Exposed(lab, service=None) as exposed, ExitStack() as stack:
        server, client = (
            stack.enter_context(Tunnel(getattr(lab, site), site)) for site in ("a", "b")
        )
        server.configure(client, SERVICE[1])
        endpoint = "endpoint", f"{HELPER[0]}:{PORT}"
        client.configure(server, 0, *endpoint, "persistent-keepalive", "5")
        assert eventually(client.handshake_done, STARTS), exposed.story()
        lab.a.popen(
            [
                sys.executable, "-m", "http.server", str(HTTP_PORT),
                "--bind", server.inside, "--directory", str(tmp_path),
            ],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        wait_listening(lab.a, HTTP_PORT, tcp=True)
        url = f"http://{server.inside}:{HTTP_PORT}/file"
        fetched = lab.b.run([sys.executable, "-c", FETCH, url], timeout=120.0)
        assert fetched.stdout.strip() == hashlib.sha256(content).hexdigest()
        exposed.assert_sane()


def test_three_that_ask_a_name_server(tmp_path: Path) -> None:
    """All at once, each question from another port, every third answer in several fragments."""
    require({"dnsmasq": "dnsmasq-base", "dig": "bind9-dnsutils"})
    many = ("--max-clients", "1000")
    questions, expected = "", []
    for number in range(QUESTIONS):
        questions += f"host{number}.service.test A\n"
        expected.append(ADDRESS)
        if number % 2:
            questions += "long.test TXT\n"
            expected.append(" ".join(f'"{part}"' for part in TEXT))
    asked = tmp_path / "questions"
    asked.write_text(questions)
    with (
        Lab("prc", "prc") as lab,
        Exposed(lab, service=None, helper_options=many, expose_options=many) as exposed,
    ):
        dnsmasq = name_server(lab)
        wait_listening(lab.a, SERVICE[1])
        hosts = (lab.b, lab.add_host("b"), lab.add_host("core"))
        digs = [
            host.popen([*DIG, "-f", str(asked)], stdout=subprocess.PIPE, text=True)
            for host in hosts
        ]
        for dig in digs:
            told, _ = dig.communicate(timeout=60.0)
            assert answers(told) == expected, exposed.story(told)
        assert dnsmasq.poll() is None
        exposed.assert_sane()


@pytest.mark.parametrize("reverse", [False, True], ids=["to-service", "to-connectee"])
def test_iperf3_loses_nothing(reverse: bool) -> None:
    require({"iperf3": "iperf3"})
    with Lab("prc", "prc") as lab, Exposed(lab, service=None) as exposed:
        lab.a.popen(["iperf3", "--server", "--port", str(SERVICE[1])], stdout=subprocess.DEVNULL)
        wait_listening(lab.a, SERVICE[1], tcp=True)
        lead_tcp_past_the_helper(lab)
        told = lab.b.run(
            [
                "iperf3", "--client", HELPER[0], "--port", str(PORT), "--udp", "--json",
                "--bitrate", "4M", "--length", "1000", "--time", "4", "--window", "1M",
                *(["--reverse"] if reverse else []),
            ],
            timeout=60.0,
        )  # fmt: skip
        total = json.loads(told.stdout)["end"]["sum"]
        assert total["packets"] > 1000
        assert total["lost_packets"] * 1000 < total["packets"], exposed.story(total)
        exposed.assert_sane()


# Datagrams


@EITHER
@pytest.mark.parametrize("workers", [1, 2])
def test_answers_are_never_crossed(workers: int, password: bool) -> None:
    """To the service each connectee is a client of its own; links of 1,500 bytes between all."""
    with (
        Lab("prc", "prc") as lab,
        Exposed(lab, workers=workers, password=password) as exposed,
    ):
        connectees = connectees_everywhere(exposed, sizes=SIZES)
        for _ in range(10):
            firsts = [connectee.sent for connectee in connectees]
            for connectee in connectees:
                connectee.send(len(SIZES))
            for connectee, first in zip(connectees, firsts):
                assert wait_answered(connectee, first), exposed.story(connectee.missing())
        sources = [exposed.sources(connectee) for connectee in connectees]
        assert all(len(each) == 1 for each in sources), sources
        assert len(set.union(*sources)) == len(connectees), sources
        exposed.assert_clean(*connectees)


def test_datagrams_of_no_length_and_of_one_byte() -> None:
    """Both ways. Where no password is shared an empty one would be taken for a keepalive."""
    with Lab("prc", "prc") as lab, Exposed(lab) as exposed:
        connectees = [exposed.connectee(host) for host in (lab.b, lab.add_host("core"))]
        for data in (b"", b"\0", b"e", b"ey", b"\0\1"):
            for connectee in connectees:
                heard = len(connectee.received)
                connectee.socket.sendto(data, HELPER)
                assert connectee.wait_received(heard + 1, STARTS), exposed.story(data)
                assert connectee.received[-1] == (data, HELPER)
        assert all(all_answered(connectee, 5) for connectee in connectees), exposed.story()
        exposed.assert_sane()


@pytest.mark.parametrize("size", [HEADER, 1200])
@pytest.mark.parametrize("workers", [1, 2])
def test_trains_keep_their_tags(workers: int, size: int) -> None:
    """What applications hand over in one piece goes through the NATs in one piece."""
    with (
        Lab("prc", "prc") as lab,
        Exposed(lab, service=Eightfold, workers=workers) as exposed,
    ):
        public = lab.add_host("core")
        connectees = [exposed.connectee(host, sizes=[size]) for host in (lab.b, lab.b, public)]
        firsts = [connectee.sent for connectee in connectees]
        for _ in range(20):
            begun = [connectee.sent for connectee in connectees]
            for connectee in connectees:
                numbers = range(connectee.sent, connectee.sent + 16)
                connectee.sent += len(numbers)
                train = [connectee.datagram(number) for number in numbers]
                send_train(connectee.socket, train, HELPER)
            for connectee, first in zip(connectees, begun):
                assert wait_answered(connectee, first), exposed.story(connectee.missing())
        for connectee, first in zip(connectees, firsts):
            assert wait_all_came(connectee, first, times=8), exposed.story()
            assert not connectee.out_of_order()
        exposed.assert_clean(*connectees)


def test_what_is_too_long_with_a_tag_harms_nothing_else() -> None:
    """A datagram can have 65,507 bytes; between helper and exposer two of them are the tag."""
    with Lab("prc", "prc") as lab, Exposed(lab, service=Generous) as exposed:
        asking = exposed.enter(Application(("0.0.0.0", 0), open_socket=lab.b.socket))
        assert answers_with(asking, b"00001", bytes(1)), exposed.story()
        for size in (LONGEST + 1, LONGEST + 2):
            asking.socket.sendto(b"00002".rjust(size), HELPER)
            asking.socket.sendto(b"%d" % size, HELPER)
        for end in (exposed.helpers[0], exposed.exposer):
            assert "EMSGSIZE" in end.wait_event("socket")["message"]
        assert answers_with(asking, b"65505".rjust(LONGEST), bytes(LONGEST)), exposed.story()
        assert {len(each.data) for each in asking.received} == {1, LONGEST}
        exposed.assert_sane()


@pytest.mark.parametrize("workers", [1, 2])
def test_answers_come_from_the_address_that_was_asked(workers: int) -> None:
    """A helper of two addresses of each family; the exposer behind the NAT has IPv4 alone, the
    connectee behind the firewall IPv6."""
    addresses: Any = [
        *((f"203.0.113.{last}", PORT) for last in (10, 11)),
        *((f"2001:db8::{last}", PORT, 0, 0) for last in (10, 11)),
    ]
    with (
        Lab("prc", "fw") as lab,
        Exposed(lab, listen=f":{PORT}", workers=workers) as exposed,
    ):
        public = lab.add_host("core")
        connectees = [exposed.connectee(public, address) for address in addresses]
        connectees += [exposed.connectee(lab.b, address) for address in addresses[2:]]
        for connectee in connectees:
            assert all_answered(connectee, 20), exposed.story(connectee.destination)
        assert len(set.union(*map(exposed.sources, connectees))) == len(connectees)
        exposed.assert_clean(*connectees)


# Faults


def forget(exposed: Exposed) -> None:
    exposed.lab.nat_a.forget()


def renumber(exposed: Exposed) -> None:
    exposed.lab.nat_a.renumber("203.0.113.199")


def kill_helper(exposed: Exposed) -> None:
    exposed.kill_helper()
    exposed.restart_helper()


def kill_exposer(exposed: Exposed) -> None:
    exposed.exposer.stop(signal.SIGKILL)
    exposed.exposer = exposed.start_exposer()


@EITHER
@pytest.mark.parametrize("fault", [forget, renumber, kill_helper, kill_exposer])
def test_back_with_a_keepalive(fault: Callable[[Exposed], None], password: bool) -> None:
    """The service says nothing of itself and nobody is told: only a keepalive can mend it."""
    with Lab("prc", "prc") as lab, Exposed(lab, password=password) as exposed:
        connectees = [exposed.connectee(host) for host in (lab.b, lab.add_host("core"))]
        before = set.union(*map(exposed.sources, connectees))
        fault(exposed)
        for connectee in connectees:
            assert answered_within(connectee, RECOVERS), exposed.story()
            assert all_answered(connectee, 20, per_second=100), exposed.story()
        after = set.union(*map(exposed.sources, connectees))
        if fault in (forget, renumber):
            assert after == before, "the tags, and the sockets for them, were the same"
        exposed.assert_clean(*connectees)


def test_nothing_else_mends_it() -> None:
    """NAT a is as it is drawn, and the tests above would fail without keepalives."""
    with (
        Lab("prc", "prc") as lab,
        Exposed(lab, expose_options=("--keepalive", "1h")) as exposed,
    ):
        connectee = exposed.connectee(lab.b)
        lab.nat_a.forget()
        assert not answered_within(connectee, 3.0), exposed.story()
        exposed.assert_clean(connectee)


@EITHER
def test_a_helper_that_is_gone_for_a_while(password: bool) -> None:
    """Said once each time, where there is a password that makes helpers answer."""
    with Lab("prc", "prc") as lab, Exposed(lab, password=password) as exposed:
        connectee = exposed.connectee(lab.b)
        for times in (1, 2):
            exposed.kill_helper()
            if password:
                exposed.exposer.wait_event("silent", count=times)
            else:
                time.sleep(3.0)
            exposed.restart_helper()
            assert answered_within(connectee, RECOVERS), exposed.story()
            if password:
                exposed.exposer.wait_event("registered", count=times + 1)
        assert exposed.exposer.count("silent") == (2 if password else 0)
        assert exposed.exposer.count("registered") == (3 if password else 0)
        exposed.assert_clean(connectee)


def test_a_service_that_comes_and_goes() -> None:
    """Refused by ICMP: said once, and answered as soon as somebody listens again."""
    with Lab("prc", "prc") as lab, Exposed(lab) as exposed:
        connectee = exposed.connectee(lab.b)
        before = exposed.sources(connectee)
        for _ in range(2):
            exposed.service.close()
            connectee.send(20, per_second=20)
            assert "nothing listens" in exposed.exposer.wait_event("refused")["message"]
            exposed.service = exposed.start_service()
            assert answered_within(connectee, STARTS), exposed.story()
            assert all_answered(connectee, 20), exposed.story()
            assert exposed.sources(connectee) == before
            assert not exposed.service.foreign([connectee])
        assert exposed.exposer.count("refused") == 1
        exposed.assert_clean(connectee)


def test_a_service_that_is_not_there_yet() -> None:
    with Lab("prc", "prc") as lab, Exposed(lab, service=None) as exposed:
        asking = exposed.enter(Application(("0.0.0.0", 0), open_socket=lab.b.socket))

        def refused() -> bool:
            asking.socket.sendto(b"8", HELPER)
            return exposed.exposer.count("refused") == 1

        assert eventually(refused, STARTS), exposed.story()
        exposed.enter(Generous(SERVICE, open_socket=lab.a.socket))
        assert answers_with(asking, b"7", bytes(7)), exposed.story()
        exposed.assert_sane()


def test_one_helper_goes_on_when_the_other_is_killed() -> None:
    with Lab("prc", "prc") as lab, Exposed(lab, helpers=(HELPER, OTHER_HELPER)) as exposed:
        hosts = (lab.b, lab.add_host("core"))
        ones = [exposed.connectee(host) for host in hosts]
        others = [exposed.connectee(host, OTHER_HELPER) for host in hosts]
        firsts = [other.sent for other in others]
        for moment in range(60):
            if moment == 20:
                exposed.kill_helper()
            for other in others:
                other.send(5, per_second=500)
        for other, first in zip(others, firsts):
            assert wait_answered(other, first), exposed.story(other.missing())
            assert not other.out_of_order() and not other.duplicated()
        exposed.exposer.wait_event("silent")
        lab.nat_a.forget()  # and the one that is left is still told each second
        for other in others:
            assert answered_within(other, RECOVERS), exposed.story()
        exposed.restart_helper()
        for connectee in (*ones, *others):
            assert answered_within(connectee, RECOVERS), exposed.story()
            assert all_answered(connectee, 20), exposed.story()
        assert exposed.exposer.count("silent") == 1
        exposed.assert_clean(*ones, *others)
