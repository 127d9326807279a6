"""The story: what is started, what happened and when, the drawing, and the figures.

Addresses and times are those that the programs logged, and the applications measured.
"""

from __future__ import annotations

import statistics
import time

from udppunch.demo.drawing import Side, draw
from udppunch.demo.stage import Event, Loopback, Program, Stage, free_port
from udppunch.demo.terminal import Terminal
from udppunch.demo.traffic import SIZE, Traffic
from udppunch.errors import EX_SOFTWARE, EX_UNAVAILABLE, CommandError
from udppunch.lab import NAT_CLASSES, SITES

_PORT = 39737
_FRONT_PORT = 7001
_START_SECONDS = 10.0
_PATH_SECONDS = 12.0
_QUESTIONS = 100
_QUESTION_SECONDS = 2.0
_BURST_SECONDS = 1.0
_NOTHING_ELSE = "nothing: the applications got each other's datagrams alone"
_GIVEN_UP = ("no-path", "rendezvous-silent")


class Story:
    def __init__(self, stage: Stage, terminal: Terminal) -> None:
        self._stage = stage
        self._terminal = terminal
        self._began = time.time()
        self._first_answer = 0.0
        stage.listener = self._happened
        self._rendezvous: Program
        self._serve: Program
        self._connect: Program

    def tell(self) -> int:
        """Tell it from the first line to the last; the exit status."""
        self._introduce()
        traffic = Traffic(self._stage)
        if not self._start(traffic) or not self._punch(traffic):
            return self._give_up()
        self._draw(traffic)
        self._measure(traffic)
        self._close()
        return EX_SOFTWARE if traffic.foreign else 0

    # Before

    def _introduce(self) -> None:
        line, entry = self._terminal.line, self._terminal.entry
        if isinstance(self._stage.ground, Loopback):
            line("udppunch on this machine's loopback, without NATs", "bold")
            entry("why", self._stage.reason or "--loopback was given", 5)
        else:
            line("udppunch between two private networks of this machine", "bold")
            for name, nat in zip("AB", self._stage.nats):
                entry(name, _nature(nat), 3)
        line()

    def _start(self, traffic: Traffic) -> bool:
        """Whether the server is registered, and a client listens."""
        ground, start = self._stage.ground, self._stage.start
        looped = isinstance(ground, Loopback)
        meeting = f"{ground.rendezvous.address}:{free_port() if looped else _PORT}"
        front = "127.0.0.1", free_port() if looped else _FRONT_PORT
        service = "{}:{}".format(*traffic.service)
        self._rendezvous = start(ground.rendezvous, "rendezvous", meeting)
        self._require(self._rendezvous, "listening")
        self._serve = start(ground.a, "serve", service, meeting)
        self._connect = start(ground.b, "connect", "{}:{}".format(*front), meeting)
        traffic.open_application(ground.b, front)
        self._require(self._connect, "listening")
        self._require(self._serve, "registered", *_GIVEN_UP)
        return self._serve.last("registered") is not None

    def _require(self, program: Program, *events: str) -> None:
        if not self._stage.until(lambda: program.last(*events), _START_SECONDS):
            raise CommandError(f"{program.name} does not start: is this machine busy?", EX_SOFTWARE)

    # The path

    def _punch(self, traffic: Traffic) -> bool:
        """Whether the application's first datagram was answered."""
        self._step("application", "sends its first datagram")
        number = traffic.ask()
        ends = (self._serve, self._connect)
        self._stage.until(
            lambda: (
                traffic.has_answer(number)
                and all(end.last("path-up") for end in ends)
                or all(end.last(*_GIVEN_UP) for end in ends)
                or self._connect.last("rendezvous-silent")
            ),
            _PATH_SECONDS,
        )
        if not traffic.has_answer(number):
            return False
        self._first_answer = traffic.took(number)
        self._step("application", "has its answer", "path")
        return True

    def _give_up(self) -> int:
        said = any(end.last(*_GIVEN_UP) for end in (self._serve, self._connect))
        why = "the reason is above" if said else "nor a reason, in good time"
        self._terminal.line()
        self._terminal.line(f"No direct path between these two: {why}.", "bold")
        return EX_UNAVAILABLE

    # What the path is and does

    def _draw(self, traffic: Traffic) -> None:
        registered = self._latest(self._serve, "registered")
        at_serve, at_connect = (
            self._latest(end, "path-up") for end in (self._serve, self._connect)
        )
        # Behind a symmetric NAT an end's address is another for the other end than for the
        # rendezvous: what counts is where the other end's datagrams go.
        a, b = at_connect["peer"], at_serve["peer"]
        nats = [None if nat == "public" else nat for nat in self._stage.nats]
        seen = self._latest(self._rendezvous, "introduced")["server"], at_connect["seen"]
        inside = self._inside("serve", registered), self._inside("connect", at_connect)
        if seen[0] != registered["seen"]:
            # A path that stalled gave the server a fresh socket, which it logs no port of.
            inside = self._stage.ground.a.address, inside[1]
        applications = (
            "echo {}:{}".format(*traffic.service),
            "app {}:{}".format(*traffic.application),
        )
        one = Side("serve", nats[0], inside[0], a, applications[0])
        other = Side("connect", nats[1], inside[1], b, applications[1])
        meeting = self._latest(self._rendezvous, "listening")["address"]
        self._terminal.line()
        self._terminal.drawing(draw(one, other, meeting))
        for name, shown, used in zip("AB", seen, (a, b)):
            if shown != used:
                self._terminal.line(f"  NAT {name} showed the rendezvous {shown}.")
        self._terminal.line()

    def _measure(self, traffic: Traffic) -> None:
        def figure(name: str, text: str) -> None:
            self._terminal.entry(name, text, 14)

        punched = self._latest(self._connect, "path-up")["seconds"]
        answered = f"the application's first answer after {_ms(self._first_answer)}"
        figure("punched in", f"{_ms(punched)}; {answered}")
        trips = traffic.round_trips(_QUESTIONS, _QUESTION_SECONDS)
        if trips:
            spread = f"{_ms(trips[0])} to {_ms(trips[-1])}"
            figure(
                "round trip", f"{_ms(statistics.median(trips))}, median of {len(trips)}: {spread}"
            )
        burst = traffic.throughput(_BURST_SECONDS)
        traffic.settle()
        lost = burst.sent - burst.arrived
        figure(
            "throughput",
            f"{_rate(burst.bits_per_second)}, {burst.sent:,} datagrams of {SIZE:,} bytes, "
            f"{lost or 'none'} lost",
        )
        foreign = f"{traffic.foreign:,} datagrams that no application sent"
        figure("unexpected", foreign if traffic.foreign else _NOTHING_ELSE)

    def _close(self) -> None:
        line, entry = self._terminal.line, self._terminal.entry
        line()
        line("On real machines, with one key in FILE on both sides:", "bold")
        entry("a public HOST", "udppunch rendezvous", 17)
        entry("at the service", "udppunch serve --key-file FILE 127.0.0.1:PORT HOST", 17)
        entry("at its users", "udppunch connect --key-file FILE 127.0.0.1:PORT HOST", 17)

    # Each event as it happens

    def _happened(self, program: str, event: Event) -> None:
        name, style = event["event"], ""
        text = str(event["message"])
        if name == "registered":
            text = _translated(self._inside(program, event), event["seen"])
        elif name == "introduced":
            text = f"introduces {event['client']} to {event['server']}"
        elif name == "path-up":
            text, style = f"has a direct path to {event['peer']}", "path"
        elif event["level"] in ("warning", "error"):
            style = "warning"
        elif name == "listening":
            text = f"listens on {event['address']}"
        else:
            return
        self._terminal.step(event["time"] - self._began, program, text, style)

    def _step(self, actor: str, text: str, style: str = "") -> None:
        self._terminal.step(time.time() - self._began, actor, text, style)

    def _inside(self, program: str, event: Event) -> str:
        """The local address of an event; the socket is bound to any, the host has but one."""
        ground = self._stage.ground
        host = ground.a if program == "serve" else ground.b
        return f"{host.address}:{event['local'].rpartition(':')[2]}"

    @staticmethod
    def _latest(program: Program, name: str) -> Event:
        found = program.last(name)
        assert found is not None
        return found


def _nature(site: str) -> str:
    """What stands between a site and the public network, as RFC 4787 puts it."""
    if site == "public":
        return "public: no NAT"
    if site == "udp-blocked":
        return f"{site}: lets no UDP out"
    home, carrier = SITES[site]
    nat = NAT_CLASSES[carrier or home]
    twice = "the carrier's NAT behind the home's; " if carrier else ""
    if nat.mapping == nat.filtering:
        return f"{site}: {twice}{nat.mapping} mapping and filtering"
    return f"{site}: {twice}{nat.mapping} mapping, {nat.filtering} filtering"


def _translated(inside: str, seen: str) -> str:
    return f"{inside} is seen as {seen}" if seen != inside else f"{inside} is not translated"


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.{0 if seconds >= 0.01 else 2}f} ms"


def _rate(bits: float) -> str:
    return f"{bits / 1e9:.1f} Gbit/s" if bits >= 1e9 else f"{bits / 1e6:.0f} Mbit/s"
