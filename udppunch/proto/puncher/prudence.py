"""Which addresses an end lets a rendezvous send it to.

A rendezvous that lies could have both ends of a key send datagrams wherever it likes. What is
sent is little (see `checks`); where it may go is bounded here. Private and other special
addresses are fine as long as the rendezvous is in such a network itself.
"""

from __future__ import annotations

from udppunch import address
from udppunch.address import Address


def refusal(peer: Address, rendezvous: Address) -> str:
    """Why nothing is sent to `peer`; empty when it may be."""
    ip = address.ip(peer)
    if not address.port(peer):
        return "port 0"
    if ip.is_unspecified or ip.is_multicast or str(ip) == "255.255.255.255":
        return "not the address of a host"
    if peer == rendezvous:
        return "the rendezvous itself"
    if address.is_global(rendezvous) and not address.is_global(peer):
        return "a private address, named by a public rendezvous"
    return ""
