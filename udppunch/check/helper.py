"""Whether a helper answers, and whether an exposer stands behind it.

It is asked for its statistics, since a keepalive would take the service over. One whose exposer
has not been heard for long publishes nothing, however well it answers.
"""

from __future__ import annotations

import time
from typing import Any, List, Mapping, Optional, Sequence

from udppunch.address import Address
from udppunch.check.output import Measure, Outcome, Status
from udppunch.check.thresholds import MILLISECONDS, PERCENT
from udppunch.config.parse import (
    Invalid,
    parse_probes,
    parse_time,
    read_password_file,
    split_address,
)
from udppunch.config.roles import password_key
from udppunch.config.settings import Setting
from udppunch.contract import Lookup
from udppunch.probe import statistics
from udppunch.probe.lookup import addresses_of
from udppunch.probe.statistics import Answer


def _parse_helper(text: str) -> Lookup:
    host, port = split_address(text)
    return Lookup(host or "127.0.0.1", port)


SETTINGS = {
    "address": Setting(_parse_helper),
    "probes": Setting(parse_probes, "5"),
    "password-file": Setting(read_password_file, optional=True),
    "silent": Setting(parse_time, "60s"),
}


def check(values: Mapping[str, Any], environment: Mapping[str, str]) -> Outcome:
    """Check the helper that the settings name. Raises Invalid."""
    key = password_key(values["password-file"], environment)
    if not key:
        raise Invalid("no password: give --password-file FILE or UDPPUNCH_PASSWORD")
    target, count = values["address"], values["probes"]
    deadline = time.monotonic() + values["timeout"]
    found, reason = addresses_of(target, deadline)
    answers = _ask(found, key, count, deadline)
    told = [answer.statistics for answer in answers if answer.statistics is not None]
    loss = 100.0 * (1 - len(told) / max(1, len(answers)))
    if not told:
        measures = (Measure("rtt", None, MILLISECONDS), Measure("loss", loss, PERCENT))
        return Outcome(Status.CRITICAL, answers[-1].trouble if answers else reason, measures)
    heard = told[-1]["last_ka_s"]  # by the helper's clock, or 0
    age = max(0, int(time.time()) - heard) if heard else None
    return _judge(1000 * statistics.average(answers), loss, age, values)


def _ask(found: Sequence[Address], key: bytes, count: int, deadline: float) -> List[Answer]:
    """What came of the questions at the first address that answers any."""
    answers: List[Answer] = []
    for index, at in enumerate(found):
        now = time.monotonic()
        answers = []
        for answer in statistics.ask_each(
            at, key, count, now + (deadline - now) / (len(found) - index)
        ):
            answers.append(answer)
            if answer.statistics is not None:
                return [*answers, *statistics.ask_each(at, key, count - len(answers), deadline)]
            if answer.refused:
                break
    return answers


def _judge(rtt: float, loss: float, age: Optional[int], values: Mapping[str, Any]) -> Outcome:
    measures = (
        Measure("rtt", rtt, MILLISECONDS),
        Measure("loss", loss, PERCENT),
        Measure("keepalive", age, "s"),
    )
    if age is None:
        return Outcome(Status.CRITICAL, "no exposer has come yet", measures)
    if age > values["silent"]:
        return Outcome(Status.CRITICAL, f"no exposer heard for {age} s", measures)
    text = f"rtt {rtt:.1f} ms, loss {loss:.0f} %, exposer heard {age} s ago"
    return Outcome(Status.OK, text, measures)
