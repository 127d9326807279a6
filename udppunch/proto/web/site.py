"""The chat's web page: one conversation, shown in all tabs that are open, and driven by each."""

from __future__ import annotations

import json
from typing import Callable, List, Mapping, Optional, Sequence, Tuple

from udppunch.proto.chat.view import Commands, Line, Refused, Status
from udppunch.proto.web.connection import Connection
from udppunch.proto.web.gate import Gate
from udppunch.proto.web.record import Record
from udppunch.proto.web.stream import Stream

Files = Mapping[str, Tuple[str, bytes]]  # by name: content type and content


class Site:
    """A `Screen` whose people sit before browsers.

    `hosts`, each as `host:port`, are what browsers may call it, and `url` names the first of
    them. Whenever that URL has been used, `announce` is told the next one. `random` gives as
    many random bytes as it is asked for.
    """

    def __init__(
        self,
        commands: Commands,
        files: Files,
        hosts: Sequence[str],
        random: Callable[[int], bytes],
        announce: Callable[[str], None],
    ) -> None:
        self.files = files
        self.gate = Gate(hosts, random)
        self._commands = commands
        self._announce = announce
        self._record = Record()
        self._connections: List[Connection] = []

    @property
    def url(self) -> str:
        """What people are to open; it works once."""
        return self.gate.url

    # --- a Screen -------------------------------------------------------------------------

    def status(self, status: Status) -> None:
        self._tell_all(self._record.status(status))

    def line(self, line: Line) -> None:
        self._tell_all(self._record.line(line))

    def cleared(self) -> None:
        self._tell_all(self._record.clear())

    def notice(self, text: str) -> None:
        self._tell_all(self._record.notice(text))

    # --- what the loop calls --------------------------------------------------------------

    def converse(self, stream: Stream, now: float) -> Connection:
        """Somebody has connected."""
        self._connections = [one for one in self._connections if not one.stream.closed]
        connection = Connection(self, stream, now)
        self._connections.append(connection)
        return connection

    def deadline(self) -> Optional[float]:
        """When `expire` is wanted next; None for never."""
        open_ones = (one for one in self._connections if not one.stream.closed)
        return min((one.due for one in open_ones), default=None)

    def expire(self, now: float) -> None:
        for connection in self._connections:
            if connection.due <= now and not connection.stream.closed:
                connection.expire(now)

    # --- what connections call ------------------------------------------------------------

    def admit(self, token: str) -> bool:
        """Whether it was the token that is good; it is spent then."""
        admitted = self.gate.spend(token)
        if admitted:
            self._announce(self.gate.url)
        return admitted

    def whole(self) -> str:
        """All that there is to be told to a new tab."""
        return self._record.whole()

    def asked(self, message: str, now: float) -> str:
        """Do what a tab asks for; the answer, or nothing. Raises ValueError for nonsense."""
        do, argument = _parse(message)
        try:
            if do == "rename":
                self._commands.rename(argument, now)
            elif do == "connect":
                self._commands.connect(argument, now)
            elif do == "say":
                self._commands.say(argument, now)
            else:
                self._commands.reset(now)
        except Refused as refusal:
            return json.dumps({"refused": str(refusal), "do": do})
        return ""

    def _tell_all(self, message: Optional[str]) -> None:
        if message is not None:
            for connection in self._connections:
                connection.tell(message)


_ARGUMENTS = {"rename": "name", "connect": "id", "say": "text", "reset": None}


def _parse(message: str) -> Tuple[str, str]:
    try:
        asked = json.loads(message)
        do = asked["do"]
        key = _ARGUMENTS[do]
        argument = "" if key is None else asked[key]
    except (LookupError, TypeError, RecursionError):
        raise ValueError("not a command") from None
    if not isinstance(argument, str):
        raise ValueError("not a command")
    # JSON can write halves of characters, which nothing else can.
    return do, argument.encode("utf-8", "replace").decode()
