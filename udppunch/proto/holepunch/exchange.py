"""What passes between two peers once they have a path: each one's input is the other's output.

Between our own ends it is a stream of bytes that arrives whole and in order, and each is told
when the other's input is over; or, if so wanted, datagrams as they are. A peer of hole-punch
takes lines of text, each a Message of its own, and says nothing of what it got.
"""

from __future__ import annotations

from typing import List, Optional, Sequence

from udppunch.proto.reliability import WINDOW, Incoming, Outgoing
from udppunch.wire import holepunch, stretch

_MOST_INPUT = 65_536


class Exchange:
    """`raw`: each piece of input is a datagram, sent once."""

    def __init__(self, raw: bool) -> None:
        self.heard_end = False
        self._raw = raw
        self._input: List[bytes] = []
        self._octets = 0
        self._fresh = False  # something may have become due
        self._ended = False
        self._end_said = False
        self._outgoing: Outgoing[Optional[bytes]] = Outgoing()
        self._incoming: Incoming[Optional[bytes]] = Incoming()
        self._answers: List[bytes] = []

    # This end's input

    @property
    def wants_input(self) -> bool:
        return self._octets < _MOST_INPUT

    def take(self, data: bytes) -> None:
        """A piece of the input."""
        self._keep(data)
        self._fresh = True

    def end(self) -> None:
        """That was all."""
        self._ended = self._fresh = True

    @property
    def said_all(self) -> bool:
        """Whether the input is over, and the other end has it and knows."""
        return self._end_said and not len(self._outgoing)

    @property
    def undelivered(self) -> bool:
        """Whether some of the input may not have arrived; that it is over need not."""
        return bool(self._input) or len(self._outgoing) > int(self._end_said)

    def is_over(self, content: bool) -> bool:
        """Whether all is said and heard, as the other end goes. One that is `content` has got all
        there was to get if it also said its end, even if its last words are lost."""
        if self.heard_end:
            return content or self.said_all
        return content and not self.undelivered

    # To the other end

    def due(self, ours: bool, now: float) -> Sequence[bytes]:
        """The datagrams to be sent now, to an end that is ours or not."""
        said, self._answers = self._answers, []
        self._fresh = False
        if not ours:
            return [*said, *self._lines()]
        if self._raw:
            pieces = [piece for data in self._take_all() for piece in _cut(data)]
            said += [stretch.encode(stretch.Raw(piece)) for piece in pieces]
        else:
            self._fill()
        if self._ended and not self._input and not self._end_said:
            self._end_said = True
            self._outgoing.add(None)
        for number, data in self._outgoing.due(now):
            word = stretch.End(number) if data is None else stretch.Stretch(number, data)
            said.append(stretch.encode(word))
        return said

    def deadline(self, ours: bool) -> Optional[float]:
        if self._answers or self._fresh:
            return float("-inf")
        return self._outgoing.deadline() if ours else None

    def hurry(self, now: float) -> None:
        """The path is up, or up again."""
        self._fresh = True
        self._outgoing.hurry(now)

    # From the other end

    def hear(self, datagram: bytes, room: bool, now: float) -> Sequence[bytes]:
        """What is to be put out of a datagram of the other end's. Without `room` nothing of the
        stream is taken, and so sent again. Raises Malformed."""
        if datagram[:1] == b"\0":
            message = holepunch.decode(datagram)
            assert isinstance(message, holepunch.Message)
            # With a mark it is a greeting from before the path was up, late or doubled.
            return [] if message.mark else [message.text.encode() + b"\n"]
        word = stretch.decode(datagram)
        if isinstance(word, stretch.Raw):
            return [word.data]
        if isinstance(word, stretch.Ack):
            self._fresh |= self._outgoing.acknowledged(word.number, now)
            return []
        data = word.data if isinstance(word, stretch.Stretch) else None
        if not room or not self._incoming.heard(word.number, data):
            return []
        self._answers.append(stretch.encode(stretch.Ack(word.number)))
        ready = self._incoming.ready()
        if None in ready:
            self.heard_end = True
        return [one for one in ready if one is not None]

    def _keep(self, data: bytes) -> None:
        self._input.append(data)
        self._octets += len(data)

    def _take_all(self) -> List[bytes]:
        taken, self._input, self._octets = self._input, [], 0
        return taken

    def _fill(self) -> None:
        """Number as much of the input as may be on its way at once."""
        data, start = b"".join(self._take_all()), 0
        while start < len(data) and len(self._outgoing) < WINDOW:
            self._outgoing.add(data[start : start + stretch.MOST])
            start += stretch.MOST
        if data[start:]:
            self._keep(data[start:])

    def _lines(self) -> List[bytes]:
        """The lines that are whole, each in as many Messages as it takes."""
        *lines, rest = b"".join(self._take_all()).split(b"\n")
        if rest and self._ended:
            lines, rest = [*lines, rest], b""
        if rest:
            self._keep(rest)
        said = []
        for line in lines:
            text = line.decode(errors="replace")
            while True:
                head, text = holepunch.split(text)
                said.append(holepunch.encode(holepunch.Message(head)))
                if not text:
                    break
        return said


def _cut(data: bytes) -> List[bytes]:
    starts = range(0, len(data), stretch.MOST)
    return [data[start : start + stretch.MOST] for start in starts] or [b""]
