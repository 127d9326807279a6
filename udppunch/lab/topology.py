"""Builds a lab: which machines there are and where they stand."""

from __future__ import annotations

import os
import time
from types import TracebackType
from typing import NamedTuple, Optional, TypeVar

from udppunch.lab import processes
from udppunch.lab.access import enter_user_namespace
from udppunch.lab.cabling import Cabling
from udppunch.lab.machines import Host, Machine, Router
from udppunch.lab.namespace import LabError, require_tools
from udppunch.lab.nats import NAT_CLASSES
from udppunch.lab.wire import Wire

_RENDEZVOUS = ("203.0.113.10", "203.0.113.11")
_RENDEZVOUS_V6 = ("2001:db8::10", "2001:db8::11")
_FIRST_OTHER = 20
_SITE_ADDRESS = {"a": "203.0.113.101", "b": "203.0.113.102"}
_HOME = "192.168.1."
_CARRIER = "100.64.0."

_GRACE = 2.0  # seconds from SIGTERM to SIGKILL for what runs in a lab that closes

_AnyMachine = TypeVar("_AnyMachine", bound=Machine)


class Site(NamedTuple):
    """The NAT class of a home, and of its carrier if that has one."""

    home: str
    carrier: Optional[str] = None


SITES: dict[str, Site] = {
    **{name: Site(name) for name in NAT_CLASSES},
    "cgn-prc": Site("prc", "prc"),
    "cgn-sym": Site("prc", "sym"),
}


class Lab:
    """Two sites and a rendezvous, ready when the constructor returns; a context manager.

    `site_a` and `site_b` name `SITES`; `cgn_a` and `cgn_b` put a carrier of that NAT class before
    a home of any. `delay_a` and `delay_b` are the one-way seconds between a site and the core,
    `delay_rendezvous` between that and the core; `jitter`, `loss`, `duplicate` and `reorder`
    are what the links of both sites do besides (see `wire.Wire`), the same for the same `seed`.
    """

    def __init__(
        self,
        site_a: str = "prc",
        site_b: str = "prc",
        *,
        cgn_a: Optional[str] = None,
        cgn_b: Optional[str] = None,
        core: str = "routed",
        delay_a: float = 0.0,
        delay_b: float = 0.0,
        delay_rendezvous: float = 0.0,
        jitter: float = 0.0,
        loss: float = 0.0,
        duplicate: float = 0.0,
        reorder: float = 0.0,
        seed: int = 0,
    ) -> None:
        require_tools()
        sites = {"a": _site(site_a, cgn_a), "b": _site(site_b, cgn_b)}
        wires = {
            "a": Wire(delay_a, jitter, loss, duplicate, reorder),
            "b": Wire(delay_b, jitter, loss, duplicate, reorder),
            "rendezvous": Wire(delay_rendezvous),
        }
        wires = {name: wire for name, wire in wires.items() if any(wire)}
        self._ipv6 = any(site.home == "fw" for site in sites.values())
        bridged = _is_bridge(core, wanted_routed=bool(wires) or self._ipv6)
        self._machines: list[Machine] = []
        self._routers: dict[str, Router] = {}
        self._hosts_at: dict[str, int] = {}
        self._pump = 0
        self._guard = 0
        centre = Machine("core", routes=True)
        self._cabling = Cabling(centre, bridged=bridged, ipv6=self._ipv6, wires=wires)
        try:
            self._add(centre)
            self._build(sites)
            self._renew_guard()
            self._pump = self._cabling.start_wires(seed)
        except BaseException:
            self.close()
            raise

    @property
    def nat_a(self) -> Router:
        """The router of A's home."""
        return self._router("nat_a")

    @property
    def nat_b(self) -> Router:
        return self._router("nat_b")

    @property
    def carrier_a(self) -> Router:
        """The router of A's carrier."""
        return self._router("carrier_a")

    @property
    def carrier_b(self) -> Router:
        return self._router("carrier_b")

    def add_host(self, place: str) -> Host:
        """Another host: on the LAN of site "a" or "b", or on the public network ("core")."""
        if place == "core":
            number = self._hosts_at["core"] = self._hosts_at.get("core", _FIRST_OTHER - 1) + 1
            addresses = (f"203.0.113.{number}", f"2001:db8::{number}")
            host = self._public_host(f"other{number}", addresses if self._ipv6 else addresses[:1])
        elif f"nat_{place}" in self._routers:
            host = self._lan_host(place, self._routers[f"nat_{place}"])
        else:
            raise LabError(f"no network {place!r} to add a host to")
        self._cabling.carry_out(self._machines)
        self._renew_guard()
        return host

    def close(self) -> None:
        """End what runs in the lab and give it up. May be called again."""
        for machine in self._machines:
            machine.terminate()
        deadline = time.monotonic() + _GRACE
        for machine in self._machines:
            machine.wait(deadline)
        if self._pump:
            processes.end_child(self._pump)
        processes.end_all_inside({machine.namespace.inode for machine in self._machines})
        if self._guard:
            processes.end_child(self._guard)
        self._cabling.close()
        for machine in self._machines:
            machine.close()
        self._pump = self._guard = 0
        self._machines.clear()

    def __enter__(self) -> Lab:
        return self

    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        self.close()

    def _router(self, name: str) -> Router:
        if name not in self._routers:
            raise LabError(f"this lab has no {name}")
        return self._routers[name]

    def _build(self, sites: dict[str, Site]) -> None:
        addresses = _RENDEZVOUS + (_RENDEZVOUS_V6 if self._ipv6 else ())
        self.rendezvous = self._public_host("rendezvous", addresses)
        self.a = self._build_site("a", sites["a"])
        self.b = self._build_site("b", sites["b"])
        self._cabling.carry_out(self._machines)
        for router in self._routers.values():
            router.load_rules()

    def _build_site(self, name: str, site: Site) -> Host:
        public = _SITE_ADDRESS[name]
        if site.home == "public":
            return self._public_host(name, (public,))
        if site.home == "fw":
            prefix = f"2001:db8:{name}::"
            home = self._add_router(f"nat_{name}", "fw", wan=f"{prefix}ffff", network=prefix)
            self._cabling.to_core(home, "wan", name, (home.wan,), prefix=f"{prefix}/64")
            self._cabling.give_lan(home, 64)
            return self._lan_host(name, home)
        if site.carrier is None:
            home = self._add_router(f"nat_{name}", site.home, wan=public, network=_HOME)
            self._cabling.to_core(home, "wan", name, (public,))
            home.routed_by = self._cabling.routing_core(name)
        else:
            carrier = self._add_router(
                f"carrier_{name}", site.carrier, wan=public, network=_CARRIER
            )
            self._cabling.to_core(carrier, "wan", name, (public,))
            self._cabling.give_lan(carrier, 24)
            home = self._add_router(f"nat_{name}", site.home, wan=f"{_CARRIER}2", network=_HOME)
            self._cabling.to_lan(home, "wan", carrier, f"{home.wan}/24")
        self._cabling.give_lan(home, 24)
        return self._lan_host(name, home)

    def _add_router(self, name: str, nat: str, *, wan: str, network: str) -> Router:
        router = self._add(Router(name, NAT_CLASSES[nat], wan=wan, network=network))
        self._routers[name] = router
        return router

    def _public_host(self, name: str, addresses: tuple[str, ...]) -> Host:
        host = self._add(Host(name, addresses))
        self._cabling.to_core(host, "eth0", name, addresses)
        return host

    def _lan_host(self, place: str, router: Router) -> Host:
        number = self._hosts_at[place] = self._hosts_at.get(place, 1) + 1
        address = f"{router.network}{number}"
        host = self._add(Host(place if number == 2 else f"{place}{number}", (address,)))
        self._cabling.to_lan(host, "eth0", router, f"{address}/{64 if ':' in address else 24}")
        return host

    def _add(self, machine: _AnyMachine) -> _AnyMachine:
        self._machines.append(machine)
        if not self._ipv6:
            # Else each device announces its multicast groups, and a wire's first choices are
            # spent on that. The loopback device exists already and keeps ::1.
            machine.namespace.sysctl([("ipv6/conf/default/disable_ipv6", 1)])
        return machine

    def _renew_guard(self) -> None:
        former = self._guard
        self._guard = processes.guard([machine.namespace for machine in self._machines])
        if former:
            processes.end_child(former)


def can_build() -> Optional[str]:
    """Why no lab can be built here, in one line; None if one can, by an ordinary user after
    `enter_user_namespace`. Tries it in a child, with a router and a wire."""
    reader, writer = os.pipe()

    def attempt() -> None:
        try:
            enter_user_namespace()
            Lab("full", "public", delay_a=0.001).close()
        except LabError as error:
            os.write(writer, str(error).encode())

    try:
        require_tools()
        child = processes.fork(attempt, [writer])
    except LabError as error:
        return str(error)
    finally:
        os.close(writer)
    with open(reader, encoding="utf-8") as pipe:
        reason = pipe.read()
    _, status = os.waitpid(child, 0)
    return reason or ("building a lab failed" if status else None)


def _is_bridge(core: str, *, wanted_routed: bool) -> bool:
    if core not in ("routed", "bridge"):
        raise LabError(f"core {core!r} is neither 'routed' nor 'bridge'")
    if core == "bridge" and wanted_routed:
        raise LabError("wires and IPv6 need the routed core")
    return core == "bridge"


def _site(name: str, carrier: Optional[str]) -> Site:
    if name not in SITES:
        raise LabError(f"unknown NAT class {name!r}: one of {', '.join(SITES)}")
    site = SITES[name]
    if carrier is None:
        return site
    if carrier not in NAT_CLASSES:
        raise LabError(f"unknown NAT class {carrier!r}")
    if site.home in ("public", "fw") or site.carrier or carrier in ("public", "fw"):
        raise LabError(f"no carrier of class {carrier!r} before a site of class {name!r}")
    return Site(site.home, carrier)
