"""Asks a server the same thing again and again, one question at a time: what it says, how soon."""

from __future__ import annotations

import contextlib
import errno
import select
import socket
import time
from typing import Any, Callable, Iterator, List, NamedTuple, Optional, Sequence

from udppunch import address
from udppunch.address import Address
from udppunch.net import sockaddr
from udppunch.wire.malformed import Malformed

# Our servers answer one network no more often, but for a few at once.
INTERVAL = 0.1
_LARGEST = 2048
_MOST_COPIES = 64
_OURS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS)


class Question(NamedTuple):
    """`read` gives what an answer says, and raises Malformed for what is none."""

    datagram: bytes
    read: Callable[[bytes], Any]


class Inquiry(NamedTuple):
    """`question` makes the next one. An answer that takes longer than `patience`, in seconds,
    is none; `silence` says so of an address."""

    question: Callable[[], Question]
    patience: float
    silence: Callable[[str], str]


class Answer(NamedTuple):
    """`said` None: there was none within the time; `trouble` says what there was, and `refused`
    that to ask again is of no use."""

    said: Any
    seconds: float = 0.0
    trouble: str = ""
    refused: bool = False


def ask_any(
    found: Sequence[Address], inquiry: Inquiry, count: int, deadline: float
) -> List[Answer]:
    """What came of so many questions at the first of the addresses that answers any.

    Deadlines are in time.monotonic()'s seconds.
    """
    answers: List[Answer] = []
    for index, at in enumerate(found):
        now = time.monotonic()
        until = now + (deadline - now) / (len(found) - index)
        answers = []
        for answer in ask_each(at, inquiry, count, until):
            answers.append(answer)
            if answer.said is not None:
                return [*answers, *ask_each(at, inquiry, count - len(answers), deadline)]
            if answer.refused:
                break
    return answers


def ask_each(at: Address, inquiry: Inquiry, count: int, deadline: float) -> Iterator[Answer]:
    """So many questions, one after the other, as far as there is time; and what came of each."""
    sock: Optional[socket.socket] = None
    try:
        for number in range(count):
            began = time.monotonic()
            try:
                sock = sock or _open(at)
                _forget_waiting(sock)
                answer = _ask(sock, at, inquiry, began, min(deadline, began + inquiry.patience))
            except OSError as error:
                if error.errno in _OURS:
                    raise
                answer = Answer(None, trouble=_trouble(at, error), refused=True)
            if answer.said is None and sock is not None:
                # What comes late is not to be taken for the next one's.
                sock.close()
                sock = None
            yield answer
            begins = max(time.monotonic(), began + INTERVAL)
            # An answer for which there is no time is not lost: it may take longer than the last.
            if number + 1 == count or begins + max(INTERVAL, 2 * answer.seconds) > deadline:
                break
            time.sleep(max(0.0, begins - time.monotonic()))
    finally:
        if sock is not None:
            sock.close()


def average(answers: Sequence[Answer]) -> Optional[float]:
    """Of the seconds that those took which came; None if none did."""
    times = [answer.seconds for answer in answers if answer.said is not None]
    return sum(times) / len(times) if times else None


def loss(answers: Sequence[Answer]) -> float:
    """The share that did not come, in percent; all of them where nothing could be asked."""
    came = sum(answer.said is not None for answer in answers)
    return 100.0 * (1 - came / max(1, len(answers)))


def _open(at: Address) -> socket.socket:
    family = sockaddr.family(at)
    sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        sock.connect(sockaddr.to_tuple(at, family))
    except OSError:
        sock.close()
        raise
    return sock


def _ask(sock: socket.socket, at: Address, inquiry: Inquiry, began: float, until: float) -> Answer:
    question = inquiry.question()
    sock.send(question.datagram)
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    while True:
        left = until - time.monotonic()
        if left <= 0.0 or not poll.poll(left * 1000):
            return Answer(None, trouble=inquiry.silence(address.text(at)))
        try:
            return Answer(question.read(sock.recv(_LARGEST)), time.monotonic() - began)
        except (Malformed, BlockingIOError):
            continue  # no answer to this: it may take us for somebody else


def _forget_waiting(sock: socket.socket) -> None:
    """A second copy of an answer is not to be taken for the next one's."""
    with contextlib.suppress(BlockingIOError):
        for _ in range(_MOST_COPIES):
            sock.recv(_LARGEST)


def _trouble(at: Address, error: OSError) -> str:
    if error.errno == errno.ECONNREFUSED:
        return f"nothing listens at {address.text(at)}"
    return f"cannot send to {address.text(at)}: {error.strerror}"
