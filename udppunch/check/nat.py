"""What kind of NAT this host is behind, as STUN servers see it (RFC 4787, RFC 5780).

The status says what that means for direct paths: OK where they are likely with most peers,
WARNING where the NAT uses another port for each destination, so that only peers with an open
filter are reached, CRITICAL where UDP gets no answer at all.
"""

from __future__ import annotations

import os
import socket
import time
from dataclasses import replace
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple

from udppunch import address
from udppunch.address import Address
from udppunch.check.discovery import Discovery, StunClient
from udppunch.check.output import Measure, Outcome, Status
from udppunch.check.thresholds import MILLISECONDS
from udppunch.contract import Lookup
from udppunch.net import sockaddr
from udppunch.net.loop import Loop
from udppunch.probe.lookup import addresses_of
from udppunch.proto.stun import behaviour, lifetime
from udppunch.proto.stun.behaviour import Behaviour, Dependence
from udppunch.proto.stun.lifetime import Lifetime

_MOST_SERVERS = 4
# Of the longest lifetime that is sought: where to begin, how exact to be, when to give up.
_SHORTEST = 1 / 18
_RESOLUTION = 1 / 36
_MOST_ROUNDS = 8
_LEAST_PATIENCE = 60.0


def prepare(values: Mapping[str, Any], environment: Mapping[str, str]) -> Callable[[], Outcome]:
    """The check of this host's NAT by the servers that the settings name."""
    return lambda: _check(values)


def _check(values: Mapping[str, Any]) -> Outcome:
    deadline = time.monotonic() + values["timeout"]
    targets = [target for target in (values["address"], values["second"]) if target is not None]
    servers, reason = _servers(targets, deadline)
    if not reason:
        local, reason = _local_address(servers[0])
    if reason:
        return Outcome(Status.CRITICAL, reason, (Measure("rtt", None, MILLISECONDS),))
    found = _behaviour(servers, local, max(0.1, round(deadline - time.monotonic(), 1)))
    if not values["lifetime"] or not found.seen:
        return _judge(found, servers, None)
    return _judge(found, servers, _lifetime(found.seen[0][0], local, values["longest"]))


def _servers(targets: Sequence[Lookup], deadline: float) -> Tuple[List[Address], str]:
    """The addresses to ask, all of one family, IPv4 where there is a choice; if none, why."""
    known: List[Sequence[Address]] = []
    for target in targets:
        found, reason = addresses_of(target, deadline)
        if not found:
            return [], reason
        known.append(found)
    of_ipv4, of_ipv6 = (
        [[at for at in found if address.is_ipv4(at) is wanted] for found in known]
        for wanted in (True, False)
    )
    for family in (of_ipv4, of_ipv6):
        if all(family):
            share = _MOST_SERVERS // len(family)
            return [at for found in family for at in found[:share]], ""
    return [], "one server has no address but IPv4, the other none but IPv6"


def _local_address(server: Address) -> Tuple[Address, str]:
    """Where datagrams to the server leave from, with port 0; if from nowhere, why."""
    family = sockaddr.family(server)
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.connect(sockaddr.to_tuple(server, family))
            return address.with_port(sockaddr.from_tuple(sock.getsockname()), 0), ""
    except OSError as error:
        return server, f"cannot send to {address.text(server)}: {error.strerror}"


def _run(local: Address, begin: Callable[[Address], Discovery], patience: float) -> Any:
    loop = Loop(offload=False, batched=False)
    outbox = loop.outbox()
    client = StunClient(local, begin, patience, outbox, loop.stop)
    loop.add(client, outbox)
    loop.run()
    return client.discovery


def _behaviour(servers: Sequence[Address], local: Address, timeout: float) -> Behaviour:
    def begin(at: Address) -> Discovery:
        return behaviour.Discovery(servers, at, timeout, os.urandom)

    found: Behaviour = _run(local, begin, timeout + 1.0).outcome
    return found


def _lifetime(server: Address, local: Address, longest: float) -> Lifetime:
    def begin(at: Address) -> Discovery:
        shortest, resolution = _SHORTEST * longest, _RESOLUTION * longest
        return lifetime.Discovery(server, shortest, longest, resolution, os.urandom)

    discovery: lifetime.Discovery = _run(local, begin, _MOST_ROUNDS * longest + _LEAST_PATIENCE)
    return discovery.outcome or replace(discovery.found, reason="not found out in time")


# What it means


def _judge(found: Behaviour, servers: Sequence[Address], kept: Optional[Lifetime]) -> Outcome:
    rtt = None if found.round_trip is None else 1000 * found.round_trip
    measures: Tuple[Measure, ...] = (Measure("rtt", rtt, MILLISECONDS),)
    details = _details(found)
    text = _text(found, servers)
    if kept is not None:
        measures += (Measure("lifetime", kept.kept or None, "s"),)
        details["lifetime_method"] = kept.method.value if kept.method else None
        details["lifetime_reason"] = kept.reason
        text += f", {_lifetime_text(kept)}"
    return Outcome(_status(found), text, measures, details)


def _status(found: Behaviour) -> Status:
    if found.mapped is None:
        return Status.CRITICAL
    if found.mapping is Dependence.UNKNOWN:
        return Status.UNKNOWN
    good = (Dependence.NO_NAT, Dependence.ENDPOINT_INDEPENDENT, Dependence.NOT_ON_PORT)
    return Status.OK if found.mapping in good else Status.WARNING


def _text(found: Behaviour, servers: Sequence[Address]) -> str:
    if found.mapping is Dependence.BLOCKED:
        asked = ", ".join(map(address.text, servers))
        return f"{found.mapping_reason} from {asked}: UDP is blocked, or there is no STUN server"
    if found.mapped is None:
        return found.mapping_reason
    told = [f"{found.mapping.value} mapping"]
    if found.mapping is Dependence.NO_NAT:
        told = ["no NAT"]
    elif found.mapping is Dependence.UNKNOWN:
        told = [f"mapping unknown ({found.mapping_reason})"]
    if found.filtering is Dependence.UNKNOWN:
        told.append(f"filtering unknown ({found.filtering_reason})")
    else:
        told.append(f"{found.filtering.value} filtering")
    told.append(f"seen at {address.text(found.mapped)}")
    return ", ".join(told)


def _lifetime_text(found: Lifetime) -> str:
    reason = f" ({found.reason})" if found.reason else ""
    kept, gone = (_seconds(each) if each else "" for each in (found.kept, found.gone))
    if kept and gone:
        return f"idle bindings last {kept} to {gone} s{reason}"
    if kept:
        return f"idle bindings last {kept} s and longer{reason}"
    if gone:
        return f"idle bindings last less than {gone} s{reason}"
    return f"lifetime unknown{reason}"


def _seconds(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _details(found: Behaviour) -> Dict[str, Any]:
    return {
        "mapping": found.mapping.value,
        "mapping_reason": found.mapping_reason,
        "filtering": found.filtering.value,
        "filtering_reason": found.filtering_reason,
        "local": address.text(found.local),
        "mapped": address.text(found.mapped) if found.mapped is not None else None,
        "port_preserved": found.port_preserved,
        "seen": {address.text(server): address.text(at) for server, at in found.seen},
    }
