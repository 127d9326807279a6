"""The machines of a lab: hosts, which run programs and open sockets, and routers, which NAT."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import time
import weakref
from collections.abc import Sequence
from typing import Any, Optional

from udppunch.lab.namespace import LabError, Namespace
from udppunch.lab.nats import NatClass

_QUIET = (  # before any device is made, for `default` is what devices start from
    ("ipv4/conf/all/rp_filter", 0),
    ("ipv4/conf/default/rp_filter", 0),
    ("ipv4/icmp_ratelimit", 0),
    ("ipv4/icmp_ratemask", 0),
    ("ipv6/conf/default/accept_dad", 0),
    ("ipv6/conf/default/addr_gen_mode", 1),
    ("ipv6/conf/default/router_solicitations", 0),
)
_ROUTING = (
    ("ipv4/ip_forward", 1),
    ("ipv6/conf/all/forwarding", 1),
    ("ipv4/conf/all/send_redirects", 0),
    ("ipv4/conf/default/send_redirects", 0),
    ("ipv4/conf/all/promote_secondaries", 1),
    ("bridge/bridge-nf-call-iptables", 0),
    ("bridge/bridge-nf-call-ip6tables", 0),
    ("bridge/bridge-nf-call-arptables", 0),
)


class Machine:
    """A namespace as a computer: programs run in it, sockets are opened in it."""

    def __init__(self, name: str, *, routes: bool = False) -> None:
        self.name = name
        self.namespace = Namespace()
        try:
            self.namespace.sysctl(_QUIET + _ROUTING if routes else _QUIET)
        except LabError:
            self.namespace.close()
            raise
        self._processes: list[subprocess.Popen[Any]] = []
        self._sockets: weakref.WeakSet[socket.socket] = weakref.WeakSet()

    def inside(self) -> contextlib.AbstractContextManager[None]:
        """What the calling thread opens or starts meanwhile belongs to this machine."""
        return self.namespace.inside()

    def popen(self, argv: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
        """Start a program here; the lab ends it when it closes."""
        with self.inside():
            process = subprocess.Popen(argv, **options)
        self._processes.append(process)
        return process

    def run(
        self,
        argv: Sequence[str],
        *,
        input: Optional[str] = None,
        timeout: float = 30.0,
        check: bool = True,
        **options: Any,
    ) -> subprocess.CompletedProcess[str]:
        """Run a program to its end and collect what it prints, as text."""
        for stream in ("stdin", "stdout", "stderr"):
            options.setdefault(stream, subprocess.PIPE)
        with self.popen(argv, text=True, **options) as process:
            try:
                output, errors = process.communicate(input, timeout=timeout)
            except BaseException:
                process.kill()
                raise
            finally:
                self._processes.remove(process)
        if check and process.returncode:
            raise subprocess.CalledProcessError(process.returncode, argv, output, errors)
        return subprocess.CompletedProcess(argv, process.returncode, output, errors)

    def socket(
        self, family: int = socket.AF_INET, kind: int = socket.SOCK_DGRAM, protocol: int = 0
    ) -> socket.socket:
        """A socket of this machine in the calling process; closed with the lab at the latest."""
        with self.inside():
            opened = socket.socket(family, kind, protocol)
        self._sockets.add(opened)
        return opened

    def terminate(self) -> None:
        """Ask the programs to end."""
        for process in self._processes:
            if process.poll() is None:
                process.terminate()

    def wait(self, deadline: float) -> None:
        """Wait for the programs' end; enforce it when the deadline (monotonic) comes."""
        for process in self._processes:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._processes.clear()

    def close_sockets(self) -> None:
        """Close every socket that was opened here by `socket`."""
        for opened in list(self._sockets):
            opened.close()

    def close(self) -> None:
        """Close the sockets and give the namespace up."""
        self.close_sockets()
        self.namespace.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"


class Host(Machine):
    """A host with its addresses, the first of them its main one."""

    def __init__(self, name: str, addresses: tuple[str, ...]) -> None:
        super().__init__(name)
        self.addresses = addresses

    @property
    def address(self) -> str:
        return self.addresses[0]


class Router(Machine):
    """A NAT or firewall with the devices `wan` and `lan`.

    `network` is the inside network's prefix as text; the router is its host 1. `routed_by` is the
    core and its device towards this router, where the core holds a route for the outer address.
    """

    def __init__(self, name: str, nat: NatClass, *, wan: str, network: str) -> None:
        super().__init__(name, routes=True)
        self.nat = nat
        self.wan = wan
        self.network = network
        self.lan = f"{network}1"
        self.routed_by: Optional[tuple[Machine, str]] = None
        self._udp_timeout = 30

    def load_rules(self) -> None:
        """Load the class's rules, with empty maps."""
        self.namespace.nft(
            self.nat.ruleset(wan=self.wan, host=f"{self.network}2", udp_timeout=self._udp_timeout)
        )

    def forget(self) -> None:
        """Lose every mapping and every filter entry, as a NAT that restarts does."""
        self.load_rules()
        self.namespace.tool(["conntrack", "-F"])

    def renumber(self, wan: str) -> None:
        """Change the outer address; the core's route follows, the mappings are gone."""
        old, self.wan = self.wan, wan
        length = 24 if self.routed_by is None else 32
        # The new one first: with its last address a device loses its routes.
        self.namespace.ip([f"addr add {wan}/{length} dev wan", f"addr del {old}/{length} dev wan"])
        if self.routed_by is not None:
            core, device = self.routed_by
            core.namespace.ip([f"route del {old} dev {device}", f"route add {wan} dev {device}"])
        self.forget()

    def timeouts(self, *, udp: int, stream: int) -> None:
        """Lifetimes of mappings in seconds: unanswered ones, and those used both ways for a while.

        Full and address-restricted cones keep `udp` for strangers, and start with empty maps.
        """
        self.namespace.sysctl(
            [
                ("netfilter/nf_conntrack_udp_timeout", udp),
                ("netfilter/nf_conntrack_udp_timeout_stream", stream),
            ]
        )
        self._udp_timeout = udp
        self.load_rules()

    def lose(self, percent: float) -> None:
        """Drop this share of forwarded UDP, either direction, by chance. 0 ends it."""
        if percent >= 100:
            self._drop("drop")
        else:
            self._drop(f"numgen random mod 10000 < {round(percent * 100)} drop" if percent else "")

    def lose_every(self, nth: int) -> None:
        """Drop exactly one of `nth` forwarded UDP datagrams, both directions counted together.
        0 ends it."""
        self._drop(f"numgen inc mod {nth} == 0 drop" if nth else "")

    def _drop(self, statement: str) -> None:
        rule = f"meta l4proto udp {statement}" if statement else ""
        self.namespace.nft(
            f"""
table inet loss
delete table inet loss
table inet loss {{
    chain forward {{
        type filter hook forward priority filter - 10;
        {rule}
    }}
}}
"""
        )
