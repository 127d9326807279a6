"""Whether a rendezvous answers, ours or the original's of one of the protocols that ours speaks.

Each question is one that both answer and neither keeps anything of: who offers a key, or has a
name, that nobody can guess; of a chat's server, something that it does not know. A keepalive
with a mark, as our ends ask, would get no answer from p2p_udp_puncher's.
"""

from __future__ import annotations

import os
import time
from typing import Any, Callable, Dict, Mapping

from udppunch.check.output import Outcome, Status, rtt_and_loss
from udppunch.check.settings import PROTOCOLS
from udppunch.config.parse import Invalid
from udppunch.contract import Lookup
from udppunch.probe import questions
from udppunch.probe.lookup import addresses_of
from udppunch.probe.questions import Inquiry, Question
from udppunch.wire import chat, holepunch, puncher, stun
from udppunch.wire.malformed import Malformed

# Our ends ask again after a third of that.
_PATIENCE = 1.0
# As long as the answer to it, which tells of it in words.
_REFUSAL = 200


def _guess() -> str:
    return "udppunch check " + os.urandom(16).hex()


def _puncher_question() -> Question:
    def read(datagram: bytes) -> puncher.Message:
        message = puncher.decode(datagram)
        if message != puncher.Error(puncher.Refusal.NO_SERVER):
            raise Malformed("no answer to this")
        return message

    return Question(puncher.encode(puncher.Client(_guess().encode())), read)


def _holepunch_question() -> Question:
    def read(datagram: bytes) -> holepunch.Datagram:
        message = holepunch.decode(datagram)
        if message != holepunch.Unknown():
            raise Malformed("no answer to this")
        return message

    return Question(holepunch.encode(holepunch.Request(_guess())), read)


def _chat_question() -> Question:
    kind = _guess()

    def read(datagram: bytes) -> chat.Message:
        message = chat.decode(datagram)
        if message.type != kind or not message.error:
            raise Malformed("no answer to this")
        return message

    return Question(chat.encode(chat.Message(kind), _REFUSAL), read)


def _stun_question() -> Question:
    transaction = os.urandom(stun.TRANSACTION_LENGTH)

    def read(datagram: bytes) -> stun.Message:
        message = stun.decode(datagram)
        if message.transaction != transaction or message.kind is not stun.Kind.SUCCESS:
            raise Malformed("no answer to this")
        return message

    request = stun.Message(stun.Kind.REQUEST, transaction, software="udppunch")
    return Question(stun.encode(request), read)


_QUESTIONS: Dict[str, Callable[[], Question]] = {
    "puncher": _puncher_question,
    "holepunch": _holepunch_question,
    "chat": _chat_question,
    "stun": _stun_question,
}


def prepare(values: Mapping[str, Any], environment: Mapping[str, str]) -> Callable[[], Outcome]:
    """The check of the rendezvous that the settings name. Raises Invalid."""
    try:
        target = PROTOCOLS[values["protocol"]](values["address"])
    except Invalid as error:
        raise Invalid(f"address: {error}") from None
    return lambda: _check(target, values)


def _check(target: Lookup, values: Mapping[str, Any]) -> Outcome:
    protocol = values["protocol"]
    inquiry = Inquiry(
        _QUESTIONS[protocol],
        _PATIENCE,
        lambda where: f"no {protocol} answer from {where}",
    )
    deadline = time.monotonic() + values["timeout"]
    found, reason = addresses_of(target, deadline)
    answers = questions.ask_any(found, inquiry, values["probes"], deadline)
    rtt, loss = questions.average(answers), questions.loss(answers)
    measures = rtt_and_loss(rtt, loss)
    if rtt is None:
        return Outcome(Status.CRITICAL, answers[-1].trouble if answers else reason, measures)
    text = f"rtt {1000 * rtt:.1f} ms, loss {loss:.0f} % to {target}"
    return Outcome(Status.OK, text, measures)
