"""The whole program in a lab: helpers at the rendezvous, an exposer and its service at site A.

with Lab("prc", "prc") as lab, Exposed(lab) as exposed:
    connectee = exposed.connectee(lab.b)
"""

from __future__ import annotations

import functools
import signal
import socket
import struct
import tempfile
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Callable, ContextManager, List, Optional, Sequence, Set, Tuple, TypeVar

from tests.lab.whole_program import SERVICE, answered_within, eventually, missing_since
from tests.program import Program, SocketAddress, text
from tests.standin.application import Application, Echo, NumberedClient
from udppunch.lab import Host, Lab
from udppunch.net.offload import SOL_UDP, UDP_SEGMENT

PORT = 6060
HELPER = ("203.0.113.10", PORT)
OTHER_HELPER = ("203.0.113.11", PORT)
PASSWORD = "the password of the tests"

# As the manual advises for a NAT that is changed often; ten of them on machines that are busy.
QUICK = ("--keepalive", "1s")
RECOVERS = 10.0
STARTS = 20.0

# The tag goes in front of a datagram that would otherwise hold two bytes more.
LONGEST = 65_505

Entered = TypeVar("Entered")


class Exposed:
    """Everything started; entering it waits until each of `helpers` knows the exposer.

    `service` makes the application behind the exposer, None if the test brings one.
    """

    def __init__(
        self,
        lab: Lab,
        *,
        helpers: Sequence[SocketAddress] = (HELPER,),
        listen: str = "",
        helper_options: Sequence[str] = (),
        expose_options: Sequence[str] = QUICK,
        service: Optional[Callable[..., Application]] = Echo,
        workers: int = 2,
        password: bool = True,
    ) -> None:
        self.lab = lab
        self._stack = ExitStack()
        self._addresses = helpers
        self._listen = [listen] if listen else [text(address) for address in helpers]
        self._helper_options = ("--workers", str(workers), *helper_options)
        self._expose_options = tuple(expose_options)
        self._make_service = service
        self._password = password

    def __enter__(self) -> Exposed:
        try:
            self._common = ("--control", "none", *self._protection())
            self.helpers = [self.start_helper(listen) for listen in self._listen]
            for helper in self.helpers:
                helper.wait_event("listening")
            self.service: Any = self.start_service() if self._make_service else None
            self.exposer = self.start_exposer()
            for helper in self.helpers:
                helper.wait_event("exposer")
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def enter(self, context: ContextManager[Entered]) -> Entered:
        return self._stack.enter_context(context)

    def start_helper(self, listen: str) -> Program:
        words = ("helper", listen, *self._helper_options, *self._common)
        return self.enter(Program(*words, popen=self.lab.rendezvous.popen))

    def kill_helper(self) -> None:
        """The first one."""
        self.helpers[0].stop(signal.SIGKILL)

    def restart_helper(self) -> None:
        self.helpers[0] = self.start_helper(self._listen[0])
        self.helpers[0].wait_event("listening")

    def start_service(self) -> Any:
        assert self._make_service is not None
        return self.enter(self._make_service(SERVICE, open_socket=self.lab.a.socket))

    def start_exposer(self) -> Program:
        towards = [text(address) for address in self._addresses]
        words = ("expose", text(SERVICE), *towards, *self._expose_options, *self._common)
        return self.enter(Program(*words, popen=self.lab.a.popen))

    def connectee(
        self, host: Host, helper: SocketAddress = HELPER, *, sizes: Sequence[int] = (64,)
    ) -> NumberedClient:
        """On a socket of its own; it has been answered, so its tag is known at both ends.

        An exposer hears that it is registered, and this is logged, before every worker of the
        helper does: the very first datagram may find nobody behind the helper.
        """
        is_v6 = ":" in helper[0]
        family = socket.AF_INET6 if is_v6 else socket.AF_INET
        connectee = self.enter(
            NumberedClient(
                helper,
                sizes=sizes,
                bind=("::" if is_v6 else "0.0.0.0", 0),
                open_socket=functools.partial(host.socket, family),
            )
        )
        assert answered_within(connectee, STARTS), self.story()
        return connectee

    def sources(self, connectee: NumberedClient) -> Set[SocketAddress]:
        """Where, to the service, that connectee's datagrams came from."""
        received = list(self.service.received)
        return {each.source for each in received if connectee.number(each.data) is not None}

    def assert_clean(self, *connectees: NumberedClient) -> None:
        """Nothing but what connectees sent came to the service, and to each its own alone."""
        assert not self.service.foreign(connectees), self.story()
        for connectee in connectees:
            assert not connectee.foreign(), self.story()
        self.assert_sane()

    def assert_sane(self) -> None:
        for process in (*self.helpers, self.exposer):
            process.assert_alive_and_sane()

    def story(self, note: object = "") -> str:
        return "\n".join(map(str, (note, *self.helpers, self.exposer)))

    def _protection(self) -> Tuple[str, ...]:
        if not self._password:
            return ()
        file = Path(self.enter(tempfile.TemporaryDirectory(prefix="udppunch-"))) / "password"
        file.touch(0o600)
        file.write_text(PASSWORD)
        return ("--password-file", str(file))


class Generous(Application):
    """A service that answers with as many bytes as the end of the question says."""

    def arrived(self, data: bytes, source: SocketAddress) -> None:
        self.socket.sendto(bytes(int(data[-5:])), source)


class Eightfold(Echo):
    """A service that answers with eight times the same, in one train."""

    def arrived(self, data: bytes, source: SocketAddress) -> None:
        send_train(self.socket, [data] * 8, source)


def send_train(opened: socket.socket, datagrams: Sequence[bytes], to: SocketAddress) -> None:
    """Datagrams of one size, handed to the kernel in one piece (UDP_SEGMENT)."""
    size = struct.pack("@H", len(datagrams[0]))
    opened.sendmsg(datagrams, [(SOL_UDP, UDP_SEGMENT, size)], 0, to)


def connectees_everywhere(exposed: Exposed, *, sizes: Sequence[int]) -> List[NumberedClient]:
    """Two on a host behind NAT b, one on its neighbour there, two on the public network."""
    lab = exposed.lab
    neighbour, public = lab.add_host("b"), lab.add_host("core")
    hosts = (lab.b, lab.b, neighbour, public, public)
    return [exposed.connectee(host, sizes=sizes) for host in hosts]


def wait_listening(host: Host, port: int, *, tcp: bool = False) -> None:
    question = ["ss", "-ltnH" if tcp else "-lunH", f"sport = :{port}"]
    listens = eventually(lambda: bool(host.run(question).stdout.strip()), STARTS)
    assert listens, f"nothing listens on port {port} of {host}"


def wait_answered(connectee: NumberedClient, first: int) -> bool:
    """Whether all that it sent from that number on comes back in time."""
    return eventually(lambda: not missing_since(connectee, first), STARTS)


def wait_all_came(connectee: NumberedClient, first: int, *, times: int) -> bool:
    """Whether all that it sent from that number on comes back so many times each."""

    def came() -> bool:
        counts = Counter(connectee.number(each.data) for each in list(connectee.received))
        return all(counts[number] == times for number in range(first, connectee.sent))

    return eventually(came, STARTS)


def answers_with(asking: Application, question: bytes, answer: bytes) -> bool:
    """Whether this answer comes to a question that is repeated until one does."""

    def answered() -> bool:
        asking.socket.sendto(question, HELPER)
        return eventually(lambda: (answer, HELPER) in asking.received, 0.2)

    return eventually(answered, STARTS)


def lead_tcp_past_the_helper(lab: Lab) -> None:
    """iperf3 wants TCP to the port that it sends UDP to. Host b sends that to NAT a instead,
    which lets it in; UDP still has no way there but the helper."""
    lab.b.namespace.nft(
        f"""
table ip past {{
    chain output {{
        type nat hook output priority -100;
        ip daddr {HELPER[0]} tcp dport {PORT} dnat to {lab.nat_a.wan}:{SERVICE[1]}
    }}
}}
"""
    )
    lab.nat_a.namespace.nft(
        f"""
table ip nat {{
    chain prerouting {{
        iifname "wan" tcp dport {SERVICE[1]} dnat to {lab.a.address}
    }}
}}
"""
    )
