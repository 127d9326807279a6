"""The chat with somebody at a terminal: name, menu, conversation, one row after the other.

Questions come as prompts. In the conversation a line is said, unless it begins with a slash. A
line of one's own is shown at once; that it arrived is noted behind it as long as nothing else was
written, and otherwise told once for all that were under way. What did not arrive is always told.
"""

from __future__ import annotations

import enum
from typing import Callable, Dict, Optional, Tuple

from udppunch.proto.chat.view import Commands, Line, Mark, Refused, State, Status
from udppunch.proto.terminal import sentences
from udppunch.proto.terminal.page import Page
from udppunch.proto.terminal.text import clean, width

Keep = Callable[[Optional[float], str], None]

_NOTES = {
    Mark.DELIVERED: "  (delivered)",
    Mark.UNCONFIRMED: "  (unconfirmed)",
    Mark.LOST: "  (not delivered)",
    Mark.PLAIN: "  (unencrypted)",
}
_QUOTED = 40  # columns


class Choice(enum.Enum):
    """What somebody is asked who has a name and no peer."""

    MENU = "Choose 1, 2 or 3: "
    PEER = "The peer's id: "
    WAIT = "Waiting; Return shows the menu. "


class Dialogue:
    """A `view.Screen` of somebody who types.

    `name` and `peer` answer the first questions in advance. `stamp` gives a moment, in seconds
    since 1970 and None for now, as HH:MM. `keep` is given what is worth keeping, a moment and a
    line, and may not raise. `over` is the exit status, once the person wants to leave.
    """

    wants_input = True

    def __init__(
        self,
        commands: Commands,
        page: Page,
        stamp: Callable[[Optional[float]], str],
        *,
        name: str = "",
        peer: str = "",
        keep: Optional[Keep] = None,
    ) -> None:
        self.over: Optional[int] = None
        self._commands = commands
        self._page = page
        self._stamp = stamp
        self._name = name
        self._peer = peer
        self._keep: Keep = keep or (lambda at, line: None)
        self._status = Status(State.UNNAMED, "")
        self._choice = Choice.MENU
        self._identified = False  # own id and fingerprint were shown
        self._introduced: Tuple[str, str] = ("", "")  # whose id and fingerprint were
        self._latest = 0  # number of a line
        self._under_way: Dict[int, str] = {}  # own lines whose fate is open

    @property
    def prompt(self) -> str:
        state = self._status.state
        if state is State.UNNAMED:
            return "" if self._name else "Your name: "
        if state is State.REGISTERING:
            return ""
        return self._choice.value if self._asked() else "> "

    # What is typed

    def entered(self, line: str, now: float) -> bool:
        """A line was entered. Whether it is worth being recalled."""
        slashed = line.startswith("/") and not line.startswith("//")
        text = line[1:] if line.startswith("//") else line
        state = self._status.state
        if not text.strip():
            self._show_menu(Choice.WAIT)
            return False
        try:
            if slashed:
                self._command(line, now)
            elif state is State.UNNAMED:
                self._echo(line)
                self._commands.rename(text.strip(), now)
            elif state is State.REGISTERING:
                raise Refused("the server has not answered yet")
            elif self._asked():
                self._echo(line)
                self._choose(text.strip(), now)
                return False
            else:
                self._commands.say(text, now)
        except Refused as refusal:
            self._refuse(refusal)
        return slashed or state not in (State.UNNAMED, State.REGISTERING)

    def ended(self, now: float) -> None:
        """The person is gone, or wants to go."""
        if self._under_way and self.over is None:
            self._aside(f"{sentences.count(len(self._under_way))} not delivered yet")
        self.over = 0

    def due(self) -> bool:
        """Whether `proceed` is wanted."""
        state = self._status.state
        return bool(state is State.UNNAMED and self._name or state is State.READY and self._peer)

    def proceed(self, now: float) -> None:
        """Does what no screen may do as it is told of a status."""
        try:
            if self._status.state is State.UNNAMED and self._name:
                name, self._name = self._name, ""
                self._commands.rename(name, now)
            elif self._status.state is State.READY and self._peer:
                peer, self._peer = self._peer, ""
                self._commands.connect(peer, now)
        except Refused as refusal:
            self._refuse(refusal)
            self._show_menu(self._choice)

    def disturbed(self) -> None:
        """Somebody else wrote on the terminal."""
        self._page.disturbed()

    # What happens

    def status(self, status: Status) -> None:
        before, self._status = self._status, status
        for sentence in sentences.news(before, status, len(self._under_way)):
            self._aside(sentence, trouble=status.state in (State.GONE, State.FAILED))
        if status.state is State.READY and not self._identified:
            self._identified = True
            self._page.put("Your id, by which a peer finds you:")
            self._page.put(clean(status.id))
            self._page.put(f"Your fingerprint: {clean(status.fingerprint)}")
        if status.state is State.DIRECT:
            self._introduce(status)
        if self._asked() and status.state is not before.state:
            self._choice = Choice.MENU
            if not self.due():
                self._show_menu(Choice.MENU)

    def line(self, line: Line) -> None:
        new = line.number > self._latest
        self._latest = max(self._latest, line.number)
        if new:
            if line.mark is Mark.SENT:
                self._under_way[line.number] = line.text
            who, style = ("you", "own") if line.mine else (self._called(), "peer")
            text = clean(line.text, keep="\n") + _NOTES.get(line.mark, "")
            number = line.number if line.mark is Mark.SENT else 0
            self._page.put(
                text, stamp=self._stamp(line.at) + " ", head=f"{who}: ", style=style, number=number
            )
            self._keep(line.at, f"{who}: {clean(text)}")
        elif line.number in self._under_way and line.mark is not Mark.SENT:
            self._settle(line.number, self._under_way.pop(line.number), line.mark)

    def cleared(self) -> None:
        self._latest = 0
        self._under_way.clear()
        self._introduced = ("", "")
        self._aside("the conversation is over")

    def notice(self, text: str) -> None:
        self._aside(clean(text))

    def _settle(self, number: int, text: str, mark: Mark) -> None:
        if mark is Mark.DELIVERED and self._under_way:
            return  # what is noted of one line holds for all before it
        style = "aside" if mark is Mark.DELIVERED else "trouble"
        told = _NOTES[mark].strip(" ()")
        if mark is not Mark.DELIVERED:
            told += f": {_quoted(clean(text))}"
        if mark is Mark.LOST:
            self._keep(None, f"* {told}")
        if not self._page.amend(number, _NOTES[mark], style):
            self._aside(told, trouble=mark is not Mark.DELIVERED)

    def _introduce(self, status: Status) -> None:
        peer = status.peer
        if peer is None or not peer.fingerprint:
            return
        if self._introduced == (peer.id, peer.fingerprint):
            return
        self._introduced = (peer.id, peer.fingerprint)
        name = self._called()
        self._page.put(f"Fingerprint of {name}: {clean(peer.fingerprint)}")
        self._page.put(f"Your fingerprint: {clean(status.fingerprint)}")
        self._page.put(sentences.ADVICE)
        self._page.put("/help tells what can be typed besides what you say.")
        self._keep(None, f"* {name}, id {clean(peer.id)}, fingerprint {clean(peer.fingerprint)}")

    # Questions and commands

    def _asked(self) -> bool:
        return self._status.state in (State.READY, State.FAILED)

    def _choose(self, answer: str, now: float) -> None:
        if self._choice is Choice.PEER:
            self._choice = Choice.MENU
            self._commands.connect(answer, now)
        elif answer == "1":
            self._choice = Choice.PEER
        elif answer == "2":
            self._choice = Choice.WAIT
        elif answer == "3":
            self.ended(now)
        else:
            raise Refused("1, 2 or 3 is what can be chosen")

    def _command(self, line: str, now: float) -> None:
        word, _, rest = line.strip().partition(" ")
        if word == "/help":
            self._page.put(sentences.HELP)
        elif word == "/status":
            for sentence in sentences.summary(self._status, len(self._under_way)):
                self._page.put(sentence)
        elif word == "/connect":
            if not rest.strip():
                raise Refused("/connect wants the peer's id: /connect ID")
            self._commands.connect(rest.strip(), now)
        elif word == "/reset":
            self._commands.reset(now)
        elif word == "/quit":
            self.ended(now)
        else:
            raise Refused(f"{word} is no command; /help lists them, /{word} says it")

    def _show_menu(self, choice: Choice) -> None:
        """Where that choice was offered, from now on the menu is."""
        if self._asked() and self._choice is choice:
            self._choice = Choice.MENU
            self._page.put(sentences.MENU)

    # What is written

    def _called(self) -> str:
        return sentences.called(self._status.peer)

    def _echo(self, line: str) -> None:
        """An answer stays below its question; the editor took both away."""
        if self._page.editing:
            self._page.put(clean(line), head=self.prompt)

    def _aside(self, text: str, *, trouble: bool = False) -> None:
        style = "trouble" if trouble else "aside"
        self._page.put(f"* {text}", stamp=self._stamp(None) + " ", style=style)

    def _refuse(self, refusal: Refused) -> None:
        self._page.put(f"! {clean(str(refusal))}", style="trouble")


def _quoted(text: str) -> str:
    if width(text) <= _QUOTED:
        return f'"{text}"'
    return f'"{text[:_QUOTED]}..."'
