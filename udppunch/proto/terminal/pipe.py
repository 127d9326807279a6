"""The chat as a pipe: each line that comes in is said, each that the peer says goes out.

What is to be said waits, a bounded number of lines, until there is a path, and no more is said
than can be under way. At the end of the input the pipe waits until it knows how every line fared.
"""

from __future__ import annotations

from collections import deque
from typing import Callable, Deque, Optional, Set

from udppunch.proto.chat.view import LEFT, SILENT, Commands, Line, Mark, Refused, State, Status
from udppunch.proto.terminal import sentences
from udppunch.proto.terminal.dialogue import Keep
from udppunch.proto.terminal.text import clean

_MOST_WAITING = 64  # lines, of those that are not said yet
_MOST_UNDER_WAY = 16  # lines


class Pipe:
    """A `view.Screen` of a program.

    `write` takes what the peer says, `tell` what is said about it, both in lines. Without `peer`
    one is waited for. `over` is the exit status, once all is done: 1 if a line was lost or there
    is nobody to talk to.
    """

    prompt = ""

    def __init__(
        self,
        commands: Commands,
        write: Callable[[str], None],
        tell: Callable[[str], None],
        *,
        name: str,
        peer: str = "",
        keep: Optional[Keep] = None,
    ) -> None:
        self.over: Optional[int] = None
        self._commands = commands
        self._write = write
        self._tell = tell
        self._name = name
        self._peer = peer
        self._named = bool(peer)  # otherwise another one may come
        self._keep: Keep = keep or (lambda at, line: None)
        self._status = Status(State.UNNAMED, "")
        self._waiting: Deque[str] = deque()
        self._under_way: Set[int] = set()
        self._latest = 0  # number of a line
        self._plain = False
        self._entered = False
        self._ended = False
        self._lost = False

    @property
    def wants_input(self) -> bool:
        return len(self._waiting) < _MOST_WAITING

    def entered(self, line: str, now: float) -> bool:
        """A line came; an empty one can't be said."""
        if line.strip():
            self._waiting.append(line)
            self._entered = True
        return False

    def ended(self, now: float) -> None:
        """No more is to be said."""
        self._ended = True

    def due(self) -> bool:
        """Whether `proceed` is wanted."""
        if self.over is not None:
            return False
        state = self._status.state
        return bool(
            (state is State.UNNAMED and self._name)
            or (state is State.READY and self._peer)
            or self._may_say()
            or self._done()
        )

    def proceed(self, now: float) -> None:
        """Does what no screen may do as it is told of a status."""
        state = self._status.state
        try:
            if self._done():
                self.over = int(self._lost)
            elif state is State.UNNAMED and self._name:
                name, self._name = self._name, ""
                self._commands.rename(name, now)
            elif state is State.READY and self._peer:
                peer, self._peer = self._peer, ""
                self._commands.connect(peer, now)
        except Refused as refusal:
            self._give_up(str(refusal))
        while self._may_say():
            try:
                self._commands.say(self._waiting.popleft(), now)
            except Refused as refusal:
                self._lost = True
                self._tell(f"not sent: {clean(str(refusal))}\n")

    def disturbed(self) -> None:
        pass

    # What happens

    def status(self, status: Status) -> None:
        before, self._status = self._status, status
        for sentence in sentences.news(before, status, len(self._under_way)):
            self._tell(f"{sentence}\n")
        if status.id and status.id != before.id:
            self._tell(f"your id: {clean(status.id)}\n")
            self._tell(f"your fingerprint: {clean(status.fingerprint)}\n")
        if status.peer is not None and status.peer.fingerprint:
            if before.peer is None or before.peer.fingerprint != status.peer.fingerprint:
                name, fingerprint = sentences.called(status.peer), clean(status.peer.fingerprint)
                self._tell(f"fingerprint of {name}: {fingerprint}\n")
        if status.state is State.GONE and status.reason in (LEFT, SILENT):
            self._leave_unsaid()
        if status.state is State.FAILED and (self._named or before.state is State.REGISTERING):
            self.over = 1

    def _leave_unsaid(self) -> None:
        """The peer has gone for good, and nobody else comes to this pipe."""
        for text in self._waiting:
            self._tell(f"not sent: {clean(text)}\n")
        self.over = int(self._lost or bool(self._waiting))
        self._waiting.clear()

    def line(self, line: Line) -> None:
        new = line.number > self._latest
        self._latest = max(self._latest, line.number)
        if line.mark is Mark.SENT:
            self._under_way.add(line.number)
        else:
            self._under_way.discard(line.number)
        if line.mark is Mark.LOST:
            self._lost = True
            self._tell(f"not delivered: {clean(line.text)}\n")
        if not new:
            return
        who = "you" if line.mine else sentences.called(self._status.peer)
        self._keep(line.at, f"{who}: {clean(line.text)}")
        if line.mark is Mark.PLAIN and not self._plain:
            self._plain = True
            self._tell(f"what {who} says comes unencrypted\n")
        if not line.mine:
            self._write(clean(line.text, keep="\t") + "\n")

    def cleared(self) -> None:
        self._lost = self._lost or bool(self._under_way)
        self._under_way.clear()
        self._latest = 0

    def notice(self, text: str) -> None:
        self._tell(f"{clean(text)}\n")

    def _may_say(self) -> bool:
        return (
            bool(self._waiting)
            and self._status.state is State.DIRECT
            and len(self._under_way) < _MOST_UNDER_WAY
        )

    def _done(self) -> bool:
        """Who waits and has nothing to say listens, until the peer leaves."""
        spoken = self._named or self._entered
        return self._ended and spoken and not self._waiting and not self._under_way

    def _give_up(self, reason: str) -> None:
        self._tell(f"{clean(reason)}\n")
        self.over = 1
