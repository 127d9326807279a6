"""A chat as a process: the role on a loop, with a terminal, pipes or a web page for its screen."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import time
from collections import Counter
from typing import TYPE_CHECKING, Callable, Iterator, List, Mapping, Optional, Union

import psutil

from udppunch import address, web
from udppunch.address import Address
from udppunch.config.people import ChatConfig
from udppunch.config.process import ProcessConfig
from udppunch.errors import UsageError, complain, missing_library
from udppunch.net import tcp
from udppunch.net.clock import boot_time
from udppunch.net.loop import Loop
from udppunch.net.terminal import Manner, Terminal, descriptor, manner
from udppunch.proc.history import History
from udppunch.proc.signals import act_on_signals
from udppunch.proc.ticker import Endpointless
from udppunch.proto.chat.view import Line, Mark, Refused, State, Status
from udppunch.proto.terminal.dialogue import Dialogue
from udppunch.proto.terminal.editor import Editor
from udppunch.proto.terminal.lines import Lines
from udppunch.proto.terminal.page import Page
from udppunch.proto.terminal.pipe import Pipe
from udppunch.proto.terminal.text import clean

if TYPE_CHECKING:
    from udppunch.proto.web.site import Site
    from udppunch.role.chat import Chat

# A line that is new, and not one that has another mark now.
_NEW = (Mark.SENT, Mark.UNCONFIRMED, Mark.RECEIVED, Mark.PLAIN)
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class _Terminal(Terminal, Endpointless):
    pass


def run(config: ChatConfig, process: ProcessConfig, environment: Mapping[str, str]) -> int:
    """Runs until the person leaves; the exit status."""
    loop = Loop(boot_time, process.offload)
    act_on_signals(loop, {number: loop.stop for number in _SIGNALS})
    if config.web_listen is not None:
        return _in_browser(config, config.web_listen, loop)
    return _at_terminal(config, loop, environment)


def _at_terminal(config: ChatConfig, loop: Loop, environment: Mapping[str, str]) -> int:
    stdin, stdout, stderr = map(descriptor, (sys.stdin, sys.stdout, sys.stderr))
    how = manner(environment, stdin, stdout)
    if not how.interactive and not config.name:
        raise UsageError("input or output is not a terminal: give --name NAME")
    screen = _Terminal(
        loop, Editor() if how.editing else Lines(),
        editing=how.editing, stdin=stdin, stdout=stdout, stderr=stderr, clock=boot_time,
    )  # fmt: skip
    with _history(config, lambda text: screen.tell(f"{text}\n")) as history:
        chat = _join(config, loop)
        keep = history.keep if history is not None else None
        dialogue: Union[Dialogue, Pipe]
        if how.interactive:
            dialogue = Dialogue(
                chat, _page(screen, how), _stamp, name=config.name, peer=config.peer, keep=keep
            )
        else:
            dialogue = Pipe(
                chat, screen.write, screen.tell, name=config.name, peer=config.peer, keep=keep
            )
        chat.join(dialogue)
        screen.join(dialogue)
        loop.add(screen, loop.outbox())
        with screen:
            loop.run()
    return screen.exit_status


def _page(screen: Terminal, how: Manner) -> Page:
    return Page(screen.write, screen.columns, colour=how.colour, editing=how.editing)


def _stamp(at: Optional[float]) -> str:
    return time.strftime("%H:%M", time.localtime(at))


def _in_browser(config: ChatConfig, at: Address, loop: Loop) -> int:
    try:
        from udppunch.net.duplex import DuplexServer
        from udppunch.proto.web.site import Site
    except ImportError as error:
        raise missing_library(error, "the page", "web", "python3-wsproto") from None
    chat = _join(config, loop)
    with tcp.listen("page", at) as listener, _history(config, complain) as history:
        site = Site(chat, web.files(), _hosts(listener), os.urandom, _announce)
        page = _Page(site, chat, config, history)
        chat.join(page)
        DuplexServer(loop, listener, site.converse, boot_time)
        loop.add(_Turns(page), loop.outbox())
        _announce(site.url)
        loop.run()
    return 0


class _Page:
    """The page as a screen: with a history, and with what the command line says already."""

    def __init__(
        self, site: Site, chat: Chat, config: ChatConfig, history: Optional[History]
    ) -> None:
        self._site = site
        self._chat = chat
        self._name = config.name
        self._peer = config.peer
        self._history = history
        self._status = Status(State.UNNAMED, "")

    # A screen

    def status(self, status: Status) -> None:
        self._status = status
        self._site.status(status)

    def line(self, line: Line) -> None:
        self._site.line(line)
        if self._history is not None and line.mark in _NEW:
            peer = self._status.peer
            who = "you" if line.mine else (peer.name if peer is not None else "peer")
            self._history.keep(line.at, clean(f"{who}: {line.text}"))

    def cleared(self) -> None:
        self._site.cleared()

    def notice(self, text: str) -> None:
        self._site.notice(text)

    # What its turns are for

    def deadline(self) -> Optional[float]:
        return 0.0 if self._due() else self._site.deadline()

    def expire(self, now: float) -> None:
        if self._due():
            self._proceed(now)
        self._site.expire(now)

    def _due(self) -> bool:
        state = self._status.state
        return bool(
            (state is State.UNNAMED and self._name) or (state is State.READY and self._peer)
        )

    def _proceed(self, now: float) -> None:
        name, peer = self._name, self._peer
        try:
            if self._status.state is State.UNNAMED:
                self._name = ""
                self._chat.rename(name, now)
            else:
                self._peer = ""
                self._chat.connect(peer, now)
        except Refused as refusal:
            self._site.notice(str(refusal))


class _Turns(Endpointless):
    """What gives a page its turns on the loop."""

    def __init__(self, page: _Page) -> None:
        self.counters: "Counter[str]" = Counter()
        self._page = page

    def start(self, now: float) -> None: ...

    def deadline(self) -> Optional[float]:
        return self._page.deadline()

    def expire(self, now: float) -> None:
        self._page.expire(now)

    def stop(self, now: float) -> None: ...

    def status(self) -> str:
        return ""


def _announce(url: str) -> None:
    """The address, which is good for one browser."""
    with contextlib.suppress(OSError):
        print(url, flush=True)


def _hosts(listener: socket.socket) -> List[str]:
    """What browsers may call the page: where it listens, and this machine's names for that."""
    ip, port = listener.getsockname()[:2]
    at = address.pack(ip.partition("%")[0], port)
    if not address.is_wildcard(at):
        names = [address.text(at)]
        return [*names, f"localhost:{port}"] if address.ip(at).is_loopback else names
    ips = [one.address for found in psutil.net_if_addrs().values() for one in found]
    usable = [ip.partition("%")[0] for ip in ips if _is_ip(ip.partition("%")[0])]
    told = [address.text(address.pack(ip, port)) for ip in usable]
    return [f"localhost:{port}", f"{socket.gethostname()}:{port}", *told]


def _is_ip(text: str) -> bool:
    try:
        address.pack(text, 0)
    except ValueError:
        return False
    return True


@contextlib.contextmanager
def _history(config: ChatConfig, complain: Callable[[str], None]) -> Iterator[Optional[History]]:
    if config.history is None:
        yield None
        return
    history = History(config.history, complain)
    try:
        yield history
    finally:
        history.close()


def _join(config: ChatConfig, loop: Loop) -> Chat:
    try:
        from udppunch.role.chat import Chat
    except ImportError as error:
        raise missing_library(error, "a chat", "chat", "python3-cryptography") from None
    outbox = loop.outbox()
    chat = Chat(config, outbox, os.urandom, time.time)
    loop.add(chat, outbox)
    return chat
