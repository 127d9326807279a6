"""Many clients at once, slow ones among them, several servers, and neighbours on one NAT."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from tests import program
from tests.lab.whole_program import FRONT, MEETING, SERVICE, Punched
from tests.standin.application import Echo, NumberedClient
from udppunch.lab import Lab
from udppunch.wire import marks, puncher

pytestmark = pytest.mark.usefixtures("lab_permitted")

MANY = 100


def test_a_hundred_that_start_in_the_same_second() -> None:
    """All get a path, and to the service each is a client of its own."""
    with Lab("prc", "prc") as lab, Punched(lab) as punched:
        applications = [punched.application() for _ in range(MANY)]
        for application in applications:
            application.send(5)
        for application in applications:
            assert application.wait_echoed(30.0), punched.story()
            assert not application.out_of_order()
        ports = {
            application.run: {
                each.source for each in punched.echo.received if application.number(each.data)
            }
            for application in applications
        }
        assert all(len(sources) == 1 for sources in ports.values())
        assert len(set.union(*ports.values())) == MANY
        punched.assert_clean(*applications)


def test_a_hundred_clients_behind_as_many_ports_of_a_symmetric_nat() -> None:
    with Lab("full", "sym") as lab, Punched(lab) as punched:
        applications = [punched.application() for _ in range(MANY)]
        for application in applications:
            application.send(2)
        for application in applications:
            assert application.wait_echoed(30.0), punched.story()
        punched.assert_clean(*applications)


def test_clients_whose_nat_has_one_port_for_several_of_them() -> None:
    """For one towards the rendezvous, for another towards the server: each hears but its own."""
    with Lab("full", "sym-range") as lab, Punched(lab) as punched:
        applications = [punched.application() for _ in range(40)]
        for application in applications:
            application.send(2)
        for application in applications:
            assert application.wait_echoed(30.0), punched.story()
        late = [punched.application() for _ in range(10)]
        for application in (*late, *applications):
            application.send(10)
        for application in (*late, *applications):
            assert application.wait_echoed(30.0), punched.story()
        punched.assert_clean(*applications, *late)


def test_a_slow_client_holds_up_nobody() -> None:
    with Lab("prc", "prc", delay_b=0.6) as lab, Punched(lab) as punched:
        near = lab.add_host("core")
        nearby = punched.start_client(near)
        nearby.wait_event("listening")
        slow, fast = punched.application(), punched.application(host=near)
        slow.send(3)
        punched.rendezvous.wait_event("introduced")
        fast.send(3)
        assert fast.wait_echoed(10.0), punched.story(str(nearby))
        assert slow.missing(), "the slow one was no slower"
        assert slow.wait_echoed(20.0), punched.story()
        assert not punched.echo.foreign([slow, fast]) and not fast.foreign()


@pytest.mark.parametrize("mark", [b"", marks.new(bytes(16))], ids=["original", "ours"])
def test_clients_that_never_come_hold_up_nobody(mark: bytes) -> None:
    """Introduced, and then silent: as many as there are places at the server."""
    with Lab("prc", "prc") as lab, Punched(lab, serve_options=("--max-paths", "20")) as punched:
        stranger = lab.add_host("core")
        for number in range(20):
            own_mark = mark[:-1] + bytes([number]) if mark else b""
            question = puncher.encode(puncher.Client(program.KEY.encode(), own_mark))
            stranger.socket().sendto(question, MEETING)
        punched.rendezvous.wait_event("introduced", count=20)
        application = punched.application()
        application.send(3)
        assert application.wait_echoed(10.0), punched.story()
        punched.assert_clean(application)


def test_what_was_sent_before_the_path_was_up_arrives_in_order() -> None:
    with Lab("prc", "prc", delay_a=0.3, delay_b=0.3) as lab, Punched(lab) as punched:
        application = punched.application(sizes=(64, 500, 12))
        application.send(500, per_second=2000)
        assert not application.received, "the path was up too soon to tell"
        assert application.wait_echoed(20.0), punched.story()
        arrived = [application.number(each.data) for each in punched.echo.received]
        assert arrived == list(range(500))
        punched.assert_clean(application)


def test_servers_with_different_keys() -> None:
    keys = ("the one", "the other")
    with Lab("prc", "prc") as lab, ExitStack() as stack:
        meeting = program.rendezvous(MEETING, popen=lab.rendezvous.popen)
        stack.enter_context(meeting).wait_event("listening")
        pairs = []
        for number, key in enumerate(keys):
            service, front = (SERVICE[0], 7100 + number), (FRONT[0], 7200 + number)
            echo = stack.enter_context(Echo(service, open_socket=lab.a.socket))
            server = program.serve(service, MEETING, key=key, popen=lab.a.popen)
            stack.enter_context(server).wait_event("registered")
            client = program.connect(MEETING, listen=front, key=key, popen=lab.b.popen)
            stack.enter_context(client).wait_event("listening")
            application = NumberedClient(front, open_socket=lab.b.socket)
            pairs.append((echo, stack.enter_context(application)))
        for _, application in pairs:
            application.send(10)
        for echo, application in pairs:
            assert application.wait_echoed(10.0), str(meeting)
            assert not echo.foreign([application]) and not application.foreign()


def test_clients_on_two_hosts_behind_one_nat() -> None:
    with Lab("prc", "prc") as lab, Punched(lab) as punched:
        neighbour = lab.add_host("b")
        other = punched.start_client(neighbour)
        other.wait_event("listening")
        applications = [punched.application(), punched.application(host=neighbour)]
        for application in applications:
            application.send(10)
        for application in applications:
            assert application.wait_echoed(10.0), punched.story(str(other))
        punched.assert_clean(*applications)


def test_client_and_server_behind_one_nat_that_does_not_turn_datagrams_back() -> None:
    with Lab("prc", "prc") as lab, Punched(lab) as punched:
        neighbour = lab.add_host("a")
        with punched.start_client(neighbour) as client:
            client.wait_event("listening")
            punched.application(host=neighbour).send(3)
            for end in (client, punched.server):
                assert "behind the same NAT" in end.wait_event("no-path")["message"]
                end.assert_alive_and_sane()


def test_client_and_server_behind_one_nat_that_turns_datagrams_back() -> None:
    with Lab("prc-hairpin", "prc") as lab, Punched(lab) as punched:
        neighbour = lab.add_host("a")
        with punched.start_client(neighbour) as client:
            client.wait_event("listening")
            application = punched.application(host=neighbour)
            application.send(3)
            assert application.wait_echoed(20.0), punched.story(str(client))
            punched.assert_clean(application)
