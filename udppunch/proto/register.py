"""A table of who registered as what, on the open Internet: bounded, the quietest goes first.

No network fills more than a part of it, so that a flood from one leaves the others' names alone.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Dict, Generic, List, Optional, Protocol, TypeVar

from udppunch import address
from udppunch.address import Address

_SHARE = 4


class Registered(Protocol):
    """`heard` when it registered last."""

    @property
    def name(self) -> str: ...

    @property
    def address(self) -> Address: ...

    @property
    def heard(self) -> float: ...


Entry = TypeVar("Entry", bound=Registered)


class Register(Generic[Entry]):
    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._share = max(1, capacity // _SHARE)
        self._by_name: "OrderedDict[str, Entry]" = OrderedDict()  # quietest first
        self._by_address: Dict[Address, Entry] = {}
        self._of_prefix: "Dict[bytes, OrderedDict[str, Entry]]" = {}

    def __len__(self) -> int:
        return len(self._by_name)

    def named(self, name: str) -> Optional[Entry]:
        return self._by_name.get(name)

    def at(self, source: Address) -> Optional[Entry]:
        """Who last registered from there."""
        return self._by_address.get(source)

    def enter(self, entry: Entry) -> List[Entry]:
        """Note it, in the place of what has its name; those that had to go for want of room."""
        holder = self._by_name.get(entry.name)
        if holder is not None:
            self.remove(holder)
        prefix = address.prefix(entry.address)
        neighbours = self._of_prefix.get(prefix)
        gone = []
        if neighbours and len(neighbours) >= self._share:
            gone.append(next(iter(neighbours.values())))
        elif len(self._by_name) >= self._capacity:
            gone.append(next(iter(self._by_name.values())))
        for one in gone:
            self.remove(one)
        self._by_name[entry.name] = self._by_address[entry.address] = entry
        self._of_prefix.setdefault(prefix, OrderedDict())[entry.name] = entry
        return gone

    def remove(self, entry: Entry) -> None:
        del self._by_name[entry.name]
        if self._by_address.get(entry.address) is entry:
            del self._by_address[entry.address]
        prefix = address.prefix(entry.address)
        neighbours = self._of_prefix[prefix]
        del neighbours[entry.name]
        if not neighbours:
            del self._of_prefix[prefix]

    def expire(self, before: float) -> List[Entry]:
        """Let go of who was not heard since then."""
        gone = []
        while self._by_name:
            quietest = next(iter(self._by_name.values()))
            if quietest.heard > before:
                break
            self.remove(quietest)
            gone.append(quietest)
        return gone
