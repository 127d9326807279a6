"""Named peers and chats with their servers in the virtual network, ours and the originals'.

    a ── Nat ── Link ──┬── Link ── server: holepunch and chat
    b ── Nat ── Link ──┘

A peer's input and output, and a chat's screen, are objects that a test writes to and looks at.
"""

from __future__ import annotations

import itertools
from collections import deque
from typing import Any, Callable, Deque, Dict, List, Optional, Tuple

from tests.standin import chat as chat_standin
from tests.standin import holepunch as holepunch_standin
from tests.virtual.network import Host, Link, Nat, Network, Outbox, Runner
from tests.virtual.original import Socket
from udppunch import address
from udppunch.address import Address
from udppunch.config.people import ChatConfig, PeerConfig
from udppunch.config.roles import ChatServerConfig, HolepunchConfig
from udppunch.contract import Lookup
from udppunch.proto.chat.view import Line, Mark, State, Status
from udppunch.role.chat import Chat
from udppunch.role.chat_server import ChatServer
from udppunch.role.holepunch import Holepunch
from udppunch.role.peer import Peer

SERVER = "203.0.113.10"
HOLEPUNCH_PORT = 39738
CHAT_PORT = 9001
GREETING_WAIT = GREETING_PAUSE = 1.0
ASKING_PAUSE = 2.0

Random = Callable[[int], bytes]


def new_holepunch(outbox: Any, random: Random, most: int = 1000, rate: float = 500.0) -> Holepunch:
    listen = (address.pack("0.0.0.0", HOLEPUNCH_PORT),)
    return Holepunch(HolepunchConfig(listen, most, rate), outbox, random)


def new_chat_server(
    outbox: Any, random: Random, most: int = 1000, rate: float = 500.0
) -> ChatServer:
    listen = (address.pack("0.0.0.0", CHAT_PORT),)
    return ChatServer(ChatServerConfig(listen, most, rate), outbox, random)


class Alone:
    """One server, and hosts that write to it by hand."""

    def __init__(
        self, make: Callable[..., Any], most: int = 1000, rate: float = 500.0, ip: str = SERVER
    ) -> None:
        self.network = Network()
        self.heard: List[Tuple[Address, bytes]] = []
        host = self.network.host("server", ip)
        self.runner = Runner(host, lambda outbox, random: make(outbox, random, most, rate))
        self.role: Any = self.runner.role
        self.network.watch = lambda _, destination, data: self.heard.append((destination, data))
        self.endpoint = self.role._endpoints[0]

    def tell(self, source: Address, data: bytes) -> List[Tuple[Address, bytes]]:
        """What it sends at once for a datagram from `source`."""
        del self.heard[:]
        self.runner.burst(self.endpoint, source, data, len(data))
        self.network.run(0.0)
        return list(self.heard)


# A peer and what it is a pipe of


class Pipe:
    """Input that is given when it is wanted, and output that may be full."""

    def __init__(self, process: "PeerProcess") -> None:
        self.output: List[bytes] = []
        self.has_room = True
        self.status: Optional[int] = None
        self._process = process
        self._wanted = False
        self._waiting: Deque[Optional[bytes]] = deque()

    def write(self, data: bytes) -> None:
        self.output.append(data)

    def want(self, more: bool) -> None:
        self._wanted = more
        if more and self._waiting:
            self._process.later(self._read)

    def finish(self, status: int) -> None:
        assert self.status is None, "it ends once"
        self.status = status
        self._process.later(self._process.stop)

    def give(self, data: Optional[bytes]) -> None:
        """A piece of input; None: that was all."""
        self._waiting.append(data)
        self.want(self._wanted)

    def _read(self) -> None:
        if self._waiting and self._wanted and self._process.lives:
            data = self._waiting.popleft()
            role = self._process.role
            if data is None:
                self._process.runner.call(role.ended)
            else:
                self._process.runner.call(role.typed, data)
            self.want(self._wanted)


class PeerProcess:
    def __init__(self, host: Host, name: str, remote: str = "", **options: Any) -> None:
        self.network = host.network
        self.pipe = Pipe(self)
        self.lives = True
        settings: Dict[str, Any] = {
            "bind": None, "raw": False, "hello": False, "wait": None, "quit_after": None,
            "keepalive": 15.0, **options,
        }  # fmt: skip
        config = PeerConfig(
            server=Lookup(SERVER, HOLEPUNCH_PORT), name=name, remote=remote, **settings
        )

        def make(outbox: Outbox, random: Random) -> Peer:
            return Peer(config, outbox, random, self.pipe)  # type: ignore[arg-type]

        self.runner = Runner(host, make)
        self.role: Any = self.runner.role

    def later(self, action: Callable[[], None]) -> None:
        self.network.at(self.network.now, action)

    @property
    def output(self) -> bytes:
        return b"".join(self.pipe.output)

    @property
    def status(self) -> Optional[int]:
        """Of its exit."""
        return self.pipe.status

    @property
    def up(self) -> bool:
        return bool(self.role.gauges()["paths up"])

    def give(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.pipe.give(piece)

    def end(self) -> None:
        self.pipe.give(None)

    def stop(self) -> None:
        """As when a signal ends it, with its goodbye."""
        if self.lives:
            self.lives = False
            self.runner.call(self.role.stop)
            # What was sent leaves first.
            self.later(self.runner.kill)

    def kill(self) -> None:
        if self.lives:
            self.lives = False
            self.runner.kill()


# A chat and who looks at it


class Chatter:
    """A chat with the screen that it shows itself on."""

    def __init__(self, host: Host, name: str = "", **options: Any) -> None:
        self.network = host.network
        self.now_is: Status
        self.states: List[State] = []
        self.reasons: List[str] = []
        self.lines: Dict[int, Line] = {}
        self.notices: List[str] = []
        self.lives = True
        settings: Dict[str, Any] = {"bind": None, "keepalive": 15.0, **options}
        config = ChatConfig(
            server=Lookup(SERVER, CHAT_PORT), name=name, peer="", history=None, web_listen=None,
            **settings,
        )  # fmt: skip

        def make(outbox: Outbox, random: Random) -> Chat:
            chat = Chat(config, outbox, random, lambda: 1e9 + self.network.now)
            chat.join(self)
            return chat

        self.runner = Runner(host, make)
        self.role: Any = self.runner.role
        if name:
            self.rename(name)

    # The screen

    def status(self, status: Status) -> None:
        self.now_is = status
        self.states.append(status.state)
        self.reasons.append(status.reason)

    def line(self, line: Line) -> None:
        assert line.number in self.lines or line.number == len(self.lines) + 1
        self.lines[line.number] = line

    def cleared(self) -> None:
        self.lines.clear()

    def notice(self, text: str) -> None:
        assert "\n" not in text
        self.notices.append(text)

    # What its person asks for. Each raises Refused.

    def rename(self, name: str) -> None:
        self.runner.call(self.role.rename, name)

    def connect(self, other: "Chatter | str") -> None:
        self.runner.call(self.role.connect, other if isinstance(other, str) else other.id)

    def say(self, *texts: str) -> None:
        for text in texts:
            self.runner.call(self.role.say, text)

    def reset(self) -> None:
        self.runner.call(self.role.reset)

    # What its person sees

    @property
    def id(self) -> str:
        return self.now_is.id

    @property
    def state(self) -> State:
        return self.now_is.state

    @property
    def direct(self) -> bool:
        return self.state is State.DIRECT

    def said(self) -> "List[Tuple[str, Mark]]":
        return [(line.text, line.mark) for line in self.lines.values() if line.mine]

    def heard(self) -> List[str]:
        return [line.text for line in self.lines.values() if not line.mine]

    def kill(self) -> None:
        if self.lives:
            self.lives = False
            self.runner.kill()

    def stop(self) -> None:
        if self.lives:
            self.lives = False
            self.runner.stop()


# The originals


def _pair(where: Address) -> "Tuple[str, int]":
    return str(address.ip(where)), address.port(where)


class _Buffer:
    """Nobody clears an original's: stale bytes stay behind a shorter datagram."""

    def __init__(self) -> None:
        self._bytes = bytearray(holepunch_standin.BUFFER)

    def decode(self, data: bytes) -> holepunch_standin.Message:
        """Raises ValueError, where the original would end."""
        self._bytes[: len(data)] = data[: len(self._bytes)]
        del self._bytes[holepunch_standin.BUFFER :]
        return holepunch_standin.decode(bytes(self._bytes))


class OriginalHolepunchServer:
    def __init__(self, host: Host) -> None:
        self.ended = ""
        self._server = holepunch_standin.Server(lambda kind, **_: None)
        self._buffer = _Buffer()
        self._socket = Socket(host, HOLEPUNCH_PORT)
        self._socket.read(self._receive)

    def _receive(self, source: Address, data: bytes) -> None:
        try:
            message = self._buffer.decode(data)
        except ValueError as error:
            self.ended = str(error)
            return
        for answer, to in self._server.receive(message, _pair(source)):
            self._socket.send(address.pack(*to), holepunch_standin.encode(answer))
        self._socket.read(self._receive)


class OriginalPeer:
    """Registers, asks or waits, then greets and reads one datagram a round.

    What would end its process is kept in `ended`. It waits for an answer to what it said once
    for as long as it takes, as the original does.
    """

    def __init__(self, host: Host, name: str, other: str = "") -> None:
        self.ended = ""
        self.received: List[str] = []
        self._network = host.network
        self._name, self._other = name, other
        self._server = address.pack(SERVER, HOLEPUNCH_PORT)
        self._peer = self._server
        self._buffer = _Buffer()
        self._socket = Socket(host)
        self._rounds = itertools.count()
        self._round = -1
        self._say(holepunch_standin.Kind.REGISTER, name)
        self._socket.read(self._registered)

    def kill(self) -> None:
        self.ended = "killed"
        self._socket.close()

    def _say(self, kind: holepunch_standin.Kind, text: str = "") -> None:
        message = holepunch_standin.Message(kind, text)
        self._socket.send(self._peer, holepunch_standin.encode(message))

    def _decode(self, data: bytes) -> Optional[holepunch_standin.Message]:
        try:
            return self._buffer.decode(data)
        except ValueError as error:
            self.ended = f"undecodable: {error}"
            return None

    def _registered(self, source: Address, data: bytes) -> None:
        message = self._decode(data)
        if message is None:
            return
        if message.kind is not holepunch_standin.Kind.REGISTER_ACK:
            self.ended = f"{message.kind.name} while it registers"
        elif self._other:
            self._ask()
        else:
            self._socket.read(self._introduced)

    def _ask(self) -> None:
        if not self.ended:
            self._say(holepunch_standin.Kind.REQUEST, self._other)
            self._socket.read(self._introduced)

    def _introduced(self, source: Address, data: bytes) -> None:
        message = self._decode(data)
        if message is None:
            return
        if message.kind is holepunch_standin.Kind.INITIATE:
            ip, _, port = message.address.rpartition(":")
            self._peer = address.pack(ip, int(port))
            self._greet()
        elif not self._other:
            self._socket.read(self._introduced)
        elif message.kind is holepunch_standin.Kind.UNKNOWN:
            self._network.at(self._network.now + ASKING_PAUSE, self._ask)
        else:
            self.ended = f"{message.kind.name} while it asks"

    def _greet(self) -> None:
        if self.ended:
            return
        self._say(holepunch_standin.Kind.MESSAGE, f"Hello from {self._name}")
        current = self._round = next(self._rounds)

        def silence() -> None:
            if self._round == current:
                self._pause()

        self._network.at(self._network.now + GREETING_WAIT, silence)
        self._socket.read(self._heard)

    def _heard(self, source: Address, data: bytes) -> None:
        message = self._decode(data)
        if message is not None:
            if message.kind is holepunch_standin.Kind.MESSAGE:
                self.received.append(message.text)
            self._pause()

    def _pause(self) -> None:
        self._round = -1
        self._socket.read(None)
        self._network.at(self._network.now + GREETING_PAUSE, self._greet)


class OriginalChatServer:
    def __init__(self, host: Host) -> None:
        self._server = chat_standin.Server(lambda kind, **_: None)
        self._socket = Socket(host, CHAT_PORT)
        self._socket.read(self._receive)

    def _receive(self, source: Address, data: bytes) -> None:
        for datagram, to in self._server.receive(data[: chat_standin.BUFFER], _pair(source)):
            self._socket.send(address.pack(*to), datagram)
        self._socket.read(self._receive)


class OriginalChat:
    """`events` are what it tells its user; `ended` is why it ended, if it did."""

    def __init__(self, host: Host, name: str) -> None:
        self.ended = ""
        self.events: List[Tuple[str, Dict[str, Any]]] = []
        self._network = host.network
        self._client = chat_standin.Client((SERVER, CHAT_PORT), name, self._tell)
        self._socket = Socket(host)
        self._send(self._client.greet())
        self._socket.read(self._receive)

    @property
    def id(self) -> str:
        return self._client.keys.id

    def connect(self, other: Any) -> None:
        self._send(self._client.establish(other.id))

    def say(self, text: str, *, encrypted: bool = False) -> None:
        self._send(self._client.say(text, encrypted=encrypted))

    def messages(self) -> "List[Tuple[str, bool]]":
        """What it heard, and whether that was encrypted."""
        return [
            (fields["data"], fields["encrypted"])
            for kind, fields in self.events
            if kind == "message"
        ]

    def told(self, kind: str) -> bool:
        return any(kind == told for told, _ in self.events)

    def kill(self) -> None:
        self.ended = "killed"
        self._socket.close()

    def _tell(self, kind: str, **fields: Any) -> None:
        self.events.append((kind, fields))

    def _send(self, sendings: List[chat_standin.Sending]) -> None:
        for datagram, to in sendings:
            self._socket.send(address.pack(*to), datagram)
        if self._client.due is not None:
            self._network.at(self._client.due, self._wake)

    def _wake(self) -> None:
        due = self._client.due
        if not self.ended and due is not None and due <= self._network.now:
            self._send(self._client.wake(self._network.now))

    def _receive(self, source: Address, data: bytes) -> None:
        try:
            self._send(self._client.receive(data, _pair(source), self._network.now))
        except chat_standin.Ended as end:
            self.ended = str(end)
        else:
            self._socket.read(self._receive)


# All of it


class Talks:
    """Who talks is made by each test. `original`: the servers are the originals'."""

    def __init__(
        self,
        seed: int = 0,
        *,
        nat_a: Optional[Nat] = None,
        nat_b: Optional[Nat] = None,
        link: Optional[Link] = None,
        original: bool = False,
    ) -> None:
        self.network = Network(seed)
        self.nat_a = nat_a or Nat("203.0.113.101")
        self.nat_b = nat_b or Nat("203.0.113.102")
        self.server = self.network.host("server", SERVER)
        link = link or Link(0.01)
        self.a = self.network.host("a", "192.168.1.2", [self.nat_a], link)
        self.b = self.network.host("b", "192.168.1.2", [self.nat_b], link)
        self.holepunch: Any
        self.chat: Any
        if original:
            self.holepunch = OriginalHolepunchServer(self.server)
            self.chat = OriginalChatServer(self.server)
        else:
            self.start_servers()
        self._beat()

    def _beat(self) -> None:
        """Time passes also while nobody waits for anything."""
        self.network.at(self.network.now + 60.0, self._beat)

    def start_servers(self) -> None:
        self.holepunch = Runner(self.server, new_holepunch)
        self.chat = Runner(self.server, new_chat_server)

    def stop_servers(self) -> None:
        for runner in (self.holepunch, self.chat):
            runner.kill()

    def restart_servers(self) -> None:
        self.stop_servers()
        self.start_servers()

    def run(self, seconds: float, until: Callable[[], bool] = lambda: False) -> bool:
        return self.network.run(seconds, until)

    def peers(self, **options: Any) -> "Tuple[PeerProcess, PeerProcess]":
        """Bob waits, and Alice asks for him."""
        bob = PeerProcess(self.b, "bob", **options)
        return PeerProcess(self.a, "alice", "bob", **options), bob

    def chats(self) -> "Tuple[Chatter, Chatter]":
        """Both registered, neither asking."""
        found = Chatter(self.a, "alice"), Chatter(self.b, "bob")
        assert self.run(10.0, lambda: all(one.state is State.READY for one in found))
        return found

    def direct_chats(self) -> "Tuple[Chatter, Chatter]":
        alice, bob = self.chats()
        alice.connect(bob)
        assert self.run(10.0, lambda: alice.direct and bob.direct)
        return alice, bob
