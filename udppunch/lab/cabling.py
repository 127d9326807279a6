"""What `ip` is told so that machines are linked and addressed: collected first, then carried out
with one process for all the links and one for each machine."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Optional

from udppunch.lab.machines import Machine, Router
from udppunch.lab.wire import Wire, open_tun, start_pump

CORE_ADDRESS = "203.0.113.1"
CORE_ADDRESS_V6 = "2001:db8::1"

# Both ends of a routed link have this address and none asks for the other's: no datagram waits
# for ARP.
_LINK_ADDRESS = "02:00:00:00:00:01"
# A bridge without an address of its own takes one of its ports', and changes it with them.
_BRIDGE_ADDRESS = "02:00:00:00:00:02"
_QUEUE = 8192  # packets a device holds while the pump is not scheduled


class Cabling:
    """The links of one lab. Nothing happens before `carry_out`."""

    def __init__(
        self, core: Machine, *, bridged: bool, ipv6: bool, wires: Mapping[str, Wire]
    ) -> None:
        self._core = core
        self._bridged = bridged
        self._wires = wires
        self._veths: list[tuple[Machine, str, Machine, str, str]] = []
        self._tuns: list[tuple[int, int, Wire]] = []
        self._commands: dict[Machine, list[str]] = {}
        self._ports: dict[Machine, int] = {}
        if bridged:
            self._bridge(core, "core", f"{CORE_ADDRESS}/24")
        else:
            self._tell(core, f"addr add {CORE_ADDRESS}/32 dev lo")
        if ipv6:
            self._tell(core, f"addr add {CORE_ADDRESS_V6}/128 dev lo")

    def to_core(
        self,
        machine: Machine,
        device: str,
        port: str,
        addresses: Sequence[str],
        prefix: str = "",
    ) -> None:
        """Link `device` of the machine to `port` of the core, which is to find the addresses
        there, or the whole `prefix`."""
        if self._bridged:
            self._veth(machine, device, self._core, port)
            self._tell(self._core, f"link set dev {port} master core up")
            self._tell(machine, f"link set dev {device} up")
            self._tell(machine, *(f"addr add {each}/24 dev {device}" for each in addresses))
            return
        up = self._routed_link(machine, device, port)
        self._tell(machine, f"link set dev {device} {up}")
        self._tell(machine, *(f"addr add {_whole(each)} dev {device}" for each in addresses))
        everywhere = sorted({_everywhere(each) for each in addresses})
        self._tell(machine, *(f"route add {each} dev {device}" for each in everywhere))
        found_here = [prefix] if prefix else addresses
        self._tell(self._core, f"link set dev {port} {up}")
        self._tell(self._core, *(f"route add {each} dev {port}" for each in found_here))

    def to_lan(self, machine: Machine, device: str, router: Router, address: str) -> None:
        """Link `device` to the router's LAN; `address` has its prefix length."""
        number = self._ports[router] = self._ports.get(router, -1) + 1
        self._veth(machine, device, router, f"lan{number}")
        self._tell(router, f"link set dev lan{number} master lan up")
        self._tell(machine, f"link set dev {device} up", f"addr add {address} dev {device}")
        self._tell(machine, f"route add {_everywhere(address)} via {router.lan}")

    def give_lan(self, router: Router, length: int) -> None:
        self._bridge(router, "lan", f"{router.lan}/{length}")

    def routing_core(self, port: str) -> Optional[tuple[Machine, str]]:
        """Who has to be told when addresses behind the port change."""
        return None if self._bridged else (self._core, port)

    def carry_out(self, machines: Sequence[Machine]) -> None:
        """Make the links, then configure what was told; `machines` are all there are."""
        if self._veths:
            self._core.namespace.ip(
                [
                    f"link add name {name} netns {one.namespace.path} {extra} "
                    f"type veth peer name {peer} netns {other.namespace.path} {extra}"
                    for one, name, other, peer, extra in self._veths
                ],
                [machine.namespace for machine in machines],
            )
        for machine, commands in self._commands.items():
            machine.namespace.ip(commands)
        self._veths.clear()
        self._commands.clear()

    def start_wires(self, seed: int) -> int:
        """Start the process that is the wires; 0 if there are none."""
        if not self._tuns:
            return 0
        pump = start_pump(self._tuns, self._core.namespace, seed)
        self.close()
        return pump

    def close(self) -> None:
        """Let go of the devices (the pump has them)."""
        for one, other, _ in self._tuns:
            os.close(one)
            os.close(other)
        self._tuns.clear()

    def _routed_link(self, machine: Machine, device: str, port: str) -> str:
        """A wire where one is wanted, else a veth; returns how its ends are set up."""
        if port not in self._wires:
            self._veth(machine, device, self._core, port, f"address {_LINK_ADDRESS}")
            return "arp off up"
        ends = open_tun(machine.namespace, device), open_tun(self._core.namespace, port)
        self._tuns.append((*ends, self._wires[port]))
        return f"txqueuelen {_QUEUE} up"

    def _veth(
        self, machine: Machine, device: str, other: Machine, port: str, extra: str = ""
    ) -> None:
        self._veths.append((machine, device, other, port, extra))

    def _bridge(self, machine: Machine, name: str, address: str) -> None:
        self._tell(
            machine,
            f"link add name {name} address {_BRIDGE_ADDRESS} type bridge mcast_snooping 0",
            f"link set dev {name} up",
            f"addr add {address} dev {name}",
        )

    def _tell(self, machine: Machine, *commands: str) -> None:
        self._commands.setdefault(machine, ["link set lo up"]).extend(commands)


def _whole(address: str) -> str:
    return f"{address}/128 nodad" if ":" in address else f"{address}/32"


def _everywhere(address: str) -> str:
    return "::/0" if ":" in address else "0.0.0.0/0"
