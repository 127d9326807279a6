"""A chat with nobody, in a process of its own, whose every event comes from the test.

    python -m tests.net.terminal_child DESCRIPTOR [NAME [PEER]]

What is asked of the chat is told through the descriptor, a socket, a line each; what happens in
it comes the same way, as a name of a method of `Puppet` and perhaps a text.
"""

from __future__ import annotations

import os
import socket
import sys
from typing import Union

from tests.proto.chat_user import ID, ScriptedChat
from udppunch.net import terminal
from udppunch.net.loop import Loop
from udppunch.proc.ticker import Endpointless
from udppunch.proto.chat.view import Mark, State
from udppunch.proto.terminal.dialogue import Dialogue
from udppunch.proto.terminal.editor import Editor
from udppunch.proto.terminal.lines import Lines
from udppunch.proto.terminal.page import Page
from udppunch.proto.terminal.pipe import Pipe


class TerminalRole(terminal.Terminal, Endpointless):
    pass


class Puppet(ScriptedChat):
    def __init__(self, loop: Loop, strings: socket.socket) -> None:
        super().__init__()
        self._strings = strings
        self._heard = b""
        loop.watch(strings, self._pulled)

    def _pulled(self) -> None:
        *lines, self._heard = (self._heard + self._strings.recv(65536)).split(b"\n")
        for line in lines:
            what, _, text = line.decode().partition(" ")
            getattr(self, what)(*[text] if text else [])
            self._tell(f"done {what}")

    def _tell(self, line: str) -> None:
        self._strings.sendall(f"{line}\n".encode())

    def _ask(self, what: str, text: str) -> None:
        super()._ask(what, text)
        self._tell(f"{what} {text}")

    def peer(self, text: str) -> None:
        self.add(text, Mark.RECEIVED)

    def flood(self, lines: str) -> None:
        for _ in range(int(lines)):
            self.add("x" * 1000, Mark.RECEIVED)

    def delivered(self, number: str) -> None:
        self.mark(int(number), Mark.DELIVERED)

    def lost(self, number: str) -> None:
        self.mark(int(number), Mark.LOST)

    def gone(self) -> None:
        self.to(State.GONE)

    def crash(self) -> None:
        raise RuntimeError("as the test wants it")


def main(strings: str, name: str = "", peer: str = "") -> int:
    loop = Loop()
    puppet = Puppet(loop, socket.socket(fileno=int(strings)))
    stdin, stdout, stderr = map(terminal.descriptor, (sys.stdin, sys.stdout, sys.stderr))
    manner = terminal.manner(os.environ, stdin, stdout)
    screen = TerminalRole(
        loop,
        Editor() if manner.editing else Lines(),
        editing=manner.editing,
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
    )
    dialogue: Union[Dialogue, Pipe]
    if manner.interactive:
        page = Page(screen.write, screen.columns, colour=manner.colour, editing=manner.editing)
        dialogue = Dialogue(puppet, page, lambda at: "12:00", name=name, peer=peer)
    else:
        dialogue = Pipe(puppet, screen.write, screen.tell, name=name or "alice", peer=peer or ID)
    puppet.join(dialogue)
    screen.join(dialogue)
    loop.add(screen, loop.outbox())
    with screen:
        loop.run()
    return screen.exit_status


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
