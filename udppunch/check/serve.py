"""Whether there is a path to the server of a key, and what answers at the end of it.

A path is made as `udppunch connect` makes one, and closed so that the server knows it is over.
"""

from __future__ import annotations

import errno
import os
from typing import Any, Callable, Counter, Dict, List, Mapping, Optional

from udppunch import address
from udppunch.address import Address
from udppunch.check import farewell
from udppunch.check.output import Measure, Outcome, Status, rtt_and_loss
from udppunch.check.path import Finding, PathCheck, Plan
from udppunch.check.thresholds import MILLISECONDS
from udppunch.config.parse import Invalid
from udppunch.config.roles import choose_key
from udppunch.net import clock
from udppunch.net.loop import Loop


def prepare(values: Mapping[str, Any], environment: Mapping[str, str]) -> Callable[[], Outcome]:
    """The check of the server that the settings name. Raises Invalid."""
    if values["echo"] is not None and values["echo-hex"] is not None:
        raise Invalid("echo and echo-hex are both given: keep one")
    say = values["echo"] if values["echo"] is not None else values["echo-hex"]
    if values["expect"] is not None and say is None:
        raise Invalid("expect needs echo or echo-hex, for nothing is said to the service")
    key = choose_key(values["key"], values["key-file"], environment)
    plan = Plan(values["address"], key, values["probes"], values["timeout"], say, values["expect"])
    return lambda: _check(plan)


def _check(plan: Plan) -> Outcome:
    loop = Loop(offload=False, batched=False)
    outbox = loop.outbox()
    role = PathCheck(plan, outbox, os.urandom, loop.stop)
    loop.add(role, outbox)
    with farewell.on_signals(loop, lambda: role.close(clock.monotonic())):
        loop.run()
    return _judge(role.finding, plan, loop.counters)


def _judge(found: Finding, plan: Plan, counters: Counter[str]) -> Outcome:
    rtt, loss = _figures(found)
    if found.peer is None:
        unsent = "" if found.reached else _cannot_send(counters, plan)
        return Outcome(Status.CRITICAL, unsent or found.trouble, rtt_and_loss(None, 100.0))
    measures = (*rtt_and_loss(rtt, loss), Measure("path", found.up_after, "s"))
    details = _details(found)
    kind = "direct path" if found.ours else "direct path (not udppunch)"
    told: List[str] = []
    if found.ours:
        if rtt is None:
            where = address.text(found.peer)
            said = f"the path to {where} came up, but no probe came back"
            return Outcome(Status.CRITICAL, said, measures, details)
        told = [f"rtt {1000 * rtt:.1f} ms, loss {loss:.0f} %"]
    told.append(f"{kind} to {address.text(found.peer)}")
    if plan.say is None:
        return Outcome(Status.OK, ", ".join(told), measures, details)
    measures += (_echo(found),)
    if found.answered is None:
        said = f"{_no_answer(found)}; {', '.join(told)}"
        return Outcome(Status.CRITICAL, said, measures, details)
    told.append(f"the service answers in {1000 * found.answered:.1f} ms")
    return Outcome(Status.OK, ", ".join(told), measures, details)


def _figures(found: Finding) -> "tuple[Optional[float], Optional[float]]":
    """Mean round trip and loss in percent, as far as there were probes."""
    if not found.sent:
        return None, None
    came = len(found.round_trips)
    loss = 100.0 * (1 - min(1.0, came / found.sent))
    return (sum(found.round_trips) / came if came else None), loss


def _echo(found: Finding) -> Measure:
    answered = None if found.answered is None else 1000 * found.answered
    return Measure("echo", answered, MILLISECONDS)


def _no_answer(found: Finding) -> str:
    if found.other is not None:
        return f"the service answers with something else ({found.other} bytes)"
    return "the service gives no answer"


def _details(found: Finding) -> Dict[str, Any]:
    def text(where: Optional[Address]) -> Optional[str]:
        return None if where is None else address.text(where)

    return {
        "peer": text(found.peer),
        "local": text(found.local),
        "seen": text(found.seen),
        "udppunch": found.ours,
    }


def _cannot_send(counters: Counter[str], plan: Plan) -> str:
    """What the system said of sending anything at all, if it did."""
    for name in ("ENETUNREACH", "EHOSTUNREACH", "EPERM", "EACCES", "EINVAL"):
        if counters[f"send_{name}"]:
            reason = os.strerror(getattr(errno, name))
            return f"cannot send to {plan.rendezvous}: {reason}"
    return ""
