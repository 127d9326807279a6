"""The names of an exposer's sockets, by which the exposer that takes its place knows them.

A name says of a helper's socket where the helper and the service were, for their names may have
several addresses, or none just now; of a connectee's it says the tag.
"""

from __future__ import annotations

import re
from typing import NamedTuple, Optional

from udppunch.address import Address
from udppunch.proto.handover import socket_name
from udppunch.wire.expose import TAGS

_ADDRESS = r"([0-9a-f]{12}|[0-9a-f]{36})"


class Whereabouts(NamedTuple):
    helper: Address
    service: Address


class SocketNames:
    """Of the sockets for one helper of an exposer of certain places, and for its connectees."""

    def __init__(self, *places: object) -> None:
        self._prefix = socket_name("expose", *places)

    def to_helper(self, helper: Address, service: Address) -> str:
        return f"{self._prefix}-helper-{helper.hex()}-{service.hex()}"

    def to_service(self, tag: int) -> str:
        return f"{self._prefix}-{tag}"

    def whereabouts(self, name: str) -> Optional[Whereabouts]:
        """What the name of a helper's socket says; None if it is another's."""
        match = re.fullmatch(f"{self._prefix}-helper-{_ADDRESS}-{_ADDRESS}", name)
        if match is None:
            return None
        return Whereabouts(*(Address(bytes.fromhex(each)) for each in match.groups()))

    def tag(self, name: str) -> Optional[int]:
        """What the name of a connectee's socket says; None if it is another's."""
        match = re.fullmatch(f"{self._prefix}-([0-9]{{1,5}})", name)
        return int(match[1]) if match is not None and int(match[1]) < TAGS else None
