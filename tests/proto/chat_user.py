"""A chat that does as a test says, for what people see and ask of one."""

from __future__ import annotations

import dataclasses
from typing import Any, List, Optional, Tuple

from udppunch.proto.chat.view import Line, Mark, Peer, Refused, Screen, State, Status

ID = "3f" * 32
BOB = Peer("b0" * 32, "bob", "aaaa bbbb", "198.51.100.7:4000")


class ScriptedChat:
    """Commands that are noted, and move the state as a chat with a willing server would."""

    def __init__(self) -> None:
        self.asked: List[Tuple[str, str]] = []
        self.refusing = ""  # why everything is refused
        self.screen: Screen
        self.now_is = Status(State.UNNAMED, "chat.example:9001", "", ID, "cccc dddd")
        self.number = 0

    def join(self, screen: Screen) -> None:
        self.screen = screen
        screen.status(self.now_is)

    # Commands

    def rename(self, name: str, now: float) -> None:
        self._ask("rename", name)
        if len(name) > 32:
            raise Refused("a name has at most 32 characters")
        self.to(State.REGISTERING, name=name)

    def connect(self, peer_id: str, now: float) -> None:
        self._ask("connect", peer_id)
        self.to(State.ESTABLISHING, peer=Peer(peer_id))

    def say(self, text: str, now: float) -> None:
        self._ask("say", text)
        self.add(text, Mark.SENT, mine=True)

    def reset(self, now: float) -> None:
        self._ask("reset", "")
        self.number = 0
        self.screen.cleared()
        self.to(State.READY, peer=None)

    def _ask(self, what: str, text: str) -> None:
        if self.refusing:
            raise Refused(self.refusing)
        self.asked.append((what, text))

    # What happens

    def to(self, state: State, **more: Any) -> None:
        self.now_is = dataclasses.replace(self.now_is, state=state, **{"reason": "", **more})
        self.screen.status(self.now_is)

    def ready(self) -> None:
        self.to(State.READY)

    def direct(self, peer: Optional[Peer] = BOB) -> None:
        self.to(State.PUNCHING, peer=peer)
        self.to(State.DIRECT, peer=peer)

    def add(self, text: str, mark: Mark, *, mine: bool = False) -> int:
        self.number += 1
        self.mark(self.number, mark, text, mine=mine)
        return self.number

    def mark(self, number: int, mark: Mark, text: str = "", *, mine: bool = True) -> None:
        self.screen.line(Line(number, mine, text, mark, 0.0))
