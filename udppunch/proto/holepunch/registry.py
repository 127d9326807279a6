"""The server's memory of the holepunch protocol: which name is at which address.

The wire has neither a proof nor a refusal, so the last to register has the name; but one that
its holder keeps registering, as ours do, is kept against all others for as long as that lasts.
A holder is known again by its mark, by its address, or by its host.
"""

from __future__ import annotations

from dataclasses import dataclass

from udppunch import address
from udppunch.address import Address
from udppunch.contract import Route
from udppunch.proto.register import Register

EXPIRES = 3600.0
# Ours register each 15 s: after two that were lost another one may have the name.
GIVES_WAY = 40.0


@dataclass(frozen=True)
class Registration:
    name: str
    route: Route
    address: Address
    mark: bytes
    heard: float


class Registry(Register[Registration]):
    def register(self, name: str, mark: bytes, route: Route, source: Address, now: float) -> bool:
        """Note that `name` is at `source`; whether it may have it."""
        holder = self.named(name)
        if holder is not None and not _is_same(holder, mark, source):
            if holder.mark and now - holder.heard < GIVES_WAY:
                return False
        former = self.at(source)
        if former is not None and mark and former.name != name:
            self.remove(former)  # one of ours has one name
        self.enter(Registration(name, route, source, mark, now))
        return True

    def leave(self, source: Address, mark: bytes) -> None:
        """The holder says that it goes."""
        holder = self.at(source)
        if holder is not None and mark and holder.mark == mark:
            self.remove(holder)


def _is_same(holder: Registration, mark: bytes, source: Address) -> bool:
    if mark and holder.mark == mark:
        return True
    return address.same_ip(holder.address, source)
