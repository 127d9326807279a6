"""Private networks behind real kernel NATs, made of network namespaces: for `demo` and the tests.

    rendezvous 203.0.113.10, .11                     other hosts 203.0.113.20 ...
                   |                                          |
    ---------------+---------- core, 203.0.113.1 -------------+---------------
                   |                                          |
          wan 203.0.113.101                          wan 203.0.113.102
                 nat_a                                      nat_b
          lan 192.168.1.1/24                         lan 192.168.1.1/24
              |         |                                |         |
              a       others                             b       others
         192.168.1.2  .3 ...                        192.168.1.2  .3 ...

The core routes, so the path from `a` to `b` is three hops and a datagram sent with a TTL of 2
opens `nat_a` and dies in the core; `core="bridge"` makes the public network one flat Ethernet.
Both homes use the same private addresses, as homes do. A home behind a carrier's NAT:

    core --- wan 203.0.113.101 carrier_a lan 100.64.0.1/24 --- wan 100.64.0.2 nat_a lan --- a

A `public` site is a host on the core itself; an `fw` site has IPv6 alone, routed through a
stateful firewall (2001:db8:a::2, the rendezvous 2001:db8::10). The link between a site and the
core can delay, lose, duplicate and reorder (see `wire`).

    with Lab("prc", "sym", delay_a=0.025) as lab:
        server = lab.rendezvous.popen(["udppunch", "rendezvous", ...])
        socket = lab.a.socket()
        lab.nat_a.forget()

The namespaces have no names: each lives as long as its maker's descriptor or a process within.
So nothing outlives the maker, whatever ends it, labs cannot meet, /run is not touched, and an
ordinary user needs no more than a user namespace (`enter_user_namespace`). What runs inside is
ended with the lab by `processes`. The host's own network is never configured.
"""

from udppunch.lab.access import enter_user_namespace
from udppunch.lab.machines import Host, Router
from udppunch.lab.namespace import LabError
from udppunch.lab.nats import NAT_CLASSES, NatClass
from udppunch.lab.topology import SITES, Lab, can_build

__all__ = [
    "NAT_CLASSES",
    "SITES",
    "Host",
    "Lab",
    "LabError",
    "NatClass",
    "Router",
    "can_build",
    "enter_user_namespace",
]
