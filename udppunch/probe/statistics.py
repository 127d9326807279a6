"""Asks a helper, ours or udpexposer's, for its statistics: it answers to whoever has the password.

Each question is the same datagram, so that one is asked at a time.
"""

from __future__ import annotations

import time
from typing import Dict, NamedTuple, Optional

from udppunch.contract import Lookup
from udppunch.probe import questions
from udppunch.probe.lookup import addresses_of
from udppunch.probe.questions import Inquiry, Question
from udppunch.wire import expose

# Who waits longer for an answer would not have it any more.
PATIENCE = 1.0


class Answer(NamedTuple):
    """`statistics` None: there was none within the time, and `trouble` says what there was."""

    statistics: Optional[Dict[str, int]]
    trouble: str = ""


def inquiry(key: bytes) -> Inquiry:
    """The question for the statistics of a helper with the password of that key."""
    datagram = expose.encode(expose.Keepalive(expose.ASKS_STATISTICS), key)
    question = Question(datagram, expose.decode_statistics)
    return Inquiry(
        lambda: question, PATIENCE, lambda where: f"{where} gives no answer (right password?)"
    )


def ask(target: Lookup, key: bytes, deadline: float) -> Answer:
    """Asks again and again until there is an answer, each of the name's addresses in turn.

    `deadline` is in time.monotonic()'s seconds.
    """
    found, reason = addresses_of(target, deadline)
    asking = inquiry(key)
    while found and time.monotonic() < deadline:
        refused = True
        for at in found:
            answer = next(questions.ask_each(at, asking, 1, deadline))
            if answer.said is not None:
                return Answer(answer.said)
            reason, refused = answer.trouble, refused and answer.refused
        if refused:
            break
        time.sleep(questions.INTERVAL)
    return Answer(None, reason)
