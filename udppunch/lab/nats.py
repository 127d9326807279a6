"""The NAT classes of the lab, each as the nft rules that make the kernel behave so.

Mapping and filtering are named as in RFC 4787. Every class but two drops what the inside did
not ask for, in `input` as well as in `forward`: a router that let a stranger's datagram up to
itself would keep a conntrack entry for it, which takes the port away from the inside host's own
flow to that peer. `prc-open` is that router.

The rules are templates: $WAN is the router's outer address, $HOST the first inside host's, $UDP
the lifetime of an unanswered mapping in seconds. `mapping` is keyed by the inside port, so with
the classes that use it each inside host must use ports of its own.
"""

from __future__ import annotations

from string import Template
from typing import NamedTuple

EI = "endpoint-independent"
AD = "address-dependent"
APD = "address- and port-dependent"
NONE = "none"


class NatClass(NamedTuple):
    """What stands between a site and the public network."""

    name: str
    mapping: str  # EI, AD, APD, or NONE: addresses are not translated
    filtering: str  # EI, AD or APD; NONE: not even answers come in
    rules: str
    hairpin: bool = False  # inside hosts reach each other by their outer addresses

    def ruleset(self, *, wan: str, host: str, udp_timeout: int) -> str:
        """The rules for one router, to be loaded in place of those it has."""
        text = Template(self.rules).substitute(WAN=wan, HOST=host, UDP=udp_timeout)
        # nft has no "delete if it exists" that all its versions know: make sure it does exist.
        tables = ("inet filter", "ip nat")
        return "".join(f"table {table}\ndelete table {table}\n" for table in tables) + text


def _filter(input_end: str = "", forward_start: str = "") -> str:
    return f"""
table inet filter {{
    chain input {{
        type filter hook input priority filter; policy drop;
        ct state established,related accept
        iifname {{ "lan", "lo" }} accept
        meta l4proto {{ icmp, ipv6-icmp }} accept
        {input_end}
    }}
    {_forward(forward_start)}
}}
"""


def _forward(start: str = "") -> str:
    return f"""chain forward {{
        type filter hook forward priority filter; policy drop;
        {start}
        ct state established,related accept
        iifname "lan" accept
        ct status dnat accept
    }}"""


def _nat(postrouting: str, prerouting: str = "", extra: str = "") -> str:
    return f"""
table ip nat {{
    {extra}
    chain prerouting {{
        type nat hook prerouting priority dstnat;
        {prerouting}
    }}
    chain postrouting {{
        type nat hook postrouting priority srcnat;
        {postrouting}
    }}
}}
"""


_MASQUERADE = 'oifname "wan" masquerade'
_RANDOM = 'oifname "wan" meta l4proto udp masquerade'
_INBOUND = 'iifname "wan" ip daddr $WAN'
_TO_MAPPED = "dnat ip to udp dport map @mapping"

# Remembers who is inside behind each port. In a filter chain, which sees every datagram (a nat
# chain sees a flow's first one only), and before the source is translated.
_MAPPING = """map mapping {
        type inet_service : ipv4_addr . inet_service
        flags dynamic,timeout; timeout ${UDP}s
    }
    chain remember {
        type filter hook postrouting priority mangle;
        oifname "wan" meta l4proto udp update @mapping { udp sport : ip saddr . udp sport }
    }"""

_CONTACTED = """set contacted {
        type ipv4_addr . inet_service
        flags dynamic,timeout; timeout ${UDP}s
    }
    chain contact {
        type filter hook postrouting priority mangle;
        oifname "wan" meta l4proto udp update @contacted { ip daddr . udp sport }
    }"""

_BY_ADDRESS = """oifname "wan" ip daddr 203.0.113.10 meta l4proto udp snat to $WAN:20000-20999
        oifname "wan" ip daddr 203.0.113.11 meta l4proto udp snat to $WAN:30000-30999
        oifname "wan" ip daddr 203.0.113.100-203.0.113.109 meta l4proto udp \
snat to $WAN:40000-40999
        oifname "wan" meta l4proto udp snat to $WAN:50000-50999
        oifname "wan" masquerade"""

_HAIRPIN = f"""iifname "lan" ip daddr $WAN {_TO_MAPPED}"""

_ALL = (
    NatClass("public", NONE, EI, ""),
    NatClass("full", EI, EI, _filter() + _nat(_MASQUERADE, f"{_INBOUND} {_TO_MAPPED}", _MAPPING)),
    NatClass(
        "full-static",
        EI,
        EI,
        _filter() + _nat(_MASQUERADE, f"{_INBOUND} udp dport 1024-65535 dnat to $HOST"),
    ),
    NatClass(
        "arc",
        EI,
        AD,
        _filter()
        + _nat(
            _MASQUERADE,
            f"{_INBOUND} ip saddr . udp dport @contacted {_TO_MAPPED}",
            _MAPPING + "\n    " + _CONTACTED,
        ),
    ),
    NatClass("prc", EI, APD, _filter() + _nat(_MASQUERADE)),
    NatClass("prc-reject", EI, APD, _filter(input_end="reject") + _nat(_MASQUERADE)),
    NatClass(
        "prc-open", EI, APD, "table inet filter {\n    " + _forward() + "\n}\n" + _nat(_MASQUERADE)
    ),
    NatClass(
        "prc-hairpin",
        EI,
        APD,
        _filter()
        + _nat(
            _MASQUERADE + '\n        iifname "lan" oifname "lan" ct status dnat snat to $WAN',
            _HAIRPIN,
            _MAPPING,
        ),
        hairpin=True,
    ),
    NatClass(
        "sym",
        APD,
        APD,
        _filter() + _nat(f"{_RANDOM} to :1024-65535 fully-random\n        {_MASQUERADE}"),
    ),
    NatClass("sym-random", APD, APD, _filter() + _nat(f"{_RANDOM} random\n        {_MASQUERADE}")),
    NatClass(
        "sym-range",
        APD,
        APD,
        _filter() + _nat(f"{_RANDOM} to :40000-40063 fully-random\n        {_MASQUERADE}"),
    ),
    NatClass("sym-adm", AD, APD, _filter() + _nat(_BY_ADDRESS)),
    NatClass(
        "udp-blocked",
        NONE,
        NONE,
        _filter(forward_start='iifname "lan" meta l4proto udp drop') + _nat(_MASQUERADE),
    ),
    NatClass("fw", NONE, APD, _filter()),
)

NAT_CLASSES: dict[str, NatClass] = {nat.name: nat for nat in _ALL}
