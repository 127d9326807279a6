"""Whether a helper answers, and whether an exposer stands behind it.

It is asked for its statistics, since a keepalive would take the service over. One whose exposer
has not been heard for long publishes nothing, however well it answers.
"""

from __future__ import annotations

import time
from typing import Any, Callable, Mapping, Optional

from udppunch.check.output import Measure, Outcome, Status, rtt_and_loss
from udppunch.config.parse import Invalid
from udppunch.config.roles import password_key
from udppunch.probe import questions, statistics
from udppunch.probe.lookup import addresses_of


def prepare(values: Mapping[str, Any], environment: Mapping[str, str]) -> Callable[[], Outcome]:
    """The check of the helper that the settings name. Raises Invalid and CommandError."""
    key = password_key(values["password-file"], environment)
    if not key:
        raise Invalid("no password: give --password-file FILE or UDPPUNCH_PASSWORD")
    return lambda: _check(key, values)


def _check(key: bytes, values: Mapping[str, Any]) -> Outcome:
    deadline = time.monotonic() + values["timeout"]
    found, reason = addresses_of(values["address"], deadline)
    answers = questions.ask_any(found, statistics.inquiry(key), values["probes"], deadline)
    rtt, loss = questions.average(answers), questions.loss(answers)
    if rtt is None:
        trouble = answers[-1].trouble if answers else reason
        return Outcome(Status.CRITICAL, trouble, rtt_and_loss(rtt, loss))
    told = next(answer.said for answer in reversed(answers) if answer.said is not None)
    heard = told["last_ka_s"]
    age = max(0, int(time.time()) - heard) if heard else None  # by the helper's clock, or 0
    return _judge(rtt, loss, age, values["silent"])


def _judge(rtt: float, loss: float, age: Optional[int], patience: float) -> Outcome:
    measures = (*rtt_and_loss(rtt, loss), Measure("keepalive", age, "s"))
    if age is None:
        return Outcome(Status.CRITICAL, "no exposer has come yet", measures)
    if age > patience:
        return Outcome(Status.CRITICAL, f"no exposer heard for {age} s", measures)
    text = f"rtt {1000 * rtt:.1f} ms, loss {loss:.0f} %, exposer heard {age} s ago"
    return Outcome(Status.OK, text, measures)
