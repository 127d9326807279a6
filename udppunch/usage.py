"""What each command takes, as docopt reads it and `--help` prints it."""

from __future__ import annotations

from typing import Dict

TOP = """\
udppunch gets UDP through NATs and firewalls.

Usage:
  udppunch COMMAND [options] [ARGUMENTS...]
  udppunch --help | --version

Commands:
  rendezvous  introduce clients and servers, or peers, to each other; on a public host (alias:
              turn)
  serve       offer a UDP service behind a NAT to all who have the key (alias: server)
  connect     reach such a service through a local port (alias: client)
  peer        be a pipe to another peer, who is known by name
  chat        talk, encrypted, with somebody who is known by id
  relay       carry datagrams between two peers that say the same id
  helper      publish firewalled UDP services; on a public host
  expose      make a helper publish a UDP service that stands behind a firewall
  run         do one or several of these as a YAML file says
  check       probe a service and say how it is; for cron and monitoring
  stats       show what a running daemon does
  demo        show the whole thing on this machine

`udppunch COMMAND --help` tells what a command takes, `man udppunch` the rest.
`udppunch udpexposer` takes that program's own options.
"""

_LOG = """\
  --log-level LEVEL   trace, debug, info, warning or error; also UDPPUNCH_LOG [default: info]
  --log-json          log lines as JSON objects [default: off]
  --no-offload        do without UDP_GRO and UDP_SEGMENT [default: use them where they work]
"""

_PROCESS = f"""\
{_LOG}\
  --control SOCKET    answer udppunch stats there, or none [default: in /run/udppunch]
  --metrics ADDRESS   serve metrics for Prometheus there, over HTTP [default: none]
  -h --help           print this
"""

_PATHS = """\
  --key-file FILE     read the key from FILE; also UDPPUNCH_KEY [default: none]
  --keepalive TIME    on an idle path, ask each TIME whether it still holds [default: 15s]
  --idle TIME         close a path that carried nothing for TIME [default: 5min]
  --max-paths N       paths at once [default: 1024]
"""

_RENDEZVOUS = f"""\
Introduce clients and servers to each other, or peers; on a host that all of them can reach.

Usage:
  udppunch rendezvous [options] [LISTEN...]

LISTEN is host:port or :port, 0.0.0.0:39737 if none is given and neither --holepunch nor --chat.

Options:
  --holepunch ADDRESS  introduce peers by name there, usually :39738 [default: none]
  --chat ADDRESS      introduce those who chat there, usually :9001 [default: none]
  --no-stun           answer no STUN requests [default: answer them at LISTEN]
  --max-keys N        keys offered at once, and as many names and ids [default: 10000]
  --rate N            datagrams a second from one /24, twice that in a burst [default: 500]
{_PROCESS}"""

_SERVE = f"""\
Offer the UDP service at FORWARD to all who have the key.

Usage:
  udppunch serve [options] FORWARD RENDEZVOUS [KEY]

FORWARD and RENDEZVOUS are host:port; port 39737 of RENDEZVOUS may be left out.
KEY is what both sides share: better in a file, since others can see arguments.

Options:
  --bind ADDRESS      local IPv4 address, :port or both to punch from [default: any]
{_PATHS}{_PROCESS}"""

_CONNECT = f"""\
Listen on LISTEN, and carry what comes there to the service with the key.

Usage:
  udppunch connect [options] LISTEN RENDEZVOUS [KEY]

LISTEN is host:port, [v6]:port or :port. RENDEZVOUS is host:port; port 39737 may be left out.
KEY is what both sides share: better in a file, since others can see arguments.

Options:
{_PATHS}{_PROCESS}"""

_PEER = f"""\
Be a pipe to another peer: what is read here is written there. Both are known by name at SERVER.

Usage:
  udppunch peer [options] SERVER NAME [REMOTE]

SERVER is host:port; port 39738 may be left out. NAME is this peer's, REMOTE the other one's;
without it, this peer waits for whoever asks for it.

Options:
  --raw               each piece that is read is a datagram, sent once [default: a stream]
  --hello             greet each second, and print what comes [default: off]
  -w --wait TIME      give up when there was no path for TIME, or none [default: none]
  -q --quit-after TIME  end so long after the end of input, or none [default: none]
  --bind ADDRESS      local IPv4 address, :port or both to punch from [default: any]
  --keepalive TIME    on an idle path, ask each TIME whether it still holds [default: 15s]
{_LOG}  -h --help           print this
"""

_CHAT = """\
Talk with somebody, encrypted from end to end: in the terminal, or in the browser with --web.

Usage:
  udppunch chat [options] SERVER

SERVER is host:port; port 9001 may be left out. Without --name and --peer both are asked for; where
input is a pipe, it takes --name, and each line is said.

Options:
  --name NAME         what the other one calls you, 1 to 32 characters [default: asked]
  --peer ID           the other one's id: 64 hexadecimal digits [default: asked]
  --history FILE      add to FILE what is said [default: none]
  --web               a page for the browser, at the address that is printed [default: off]
  --web-listen ADDRESS  where the page is served [default: 127.0.0.1:8000]
  --bind ADDRESS      local IPv4 address, :port or both to punch from [default: any]
  --keepalive TIME    on an idle path, ask each TIME whether it still holds [default: 15s]
  --log-level LEVEL   trace, debug, info, warning or error; also UDPPUNCH_LOG [default: error]
  --log-json          log lines as JSON objects [default: off]
  --no-offload        do without UDP_GRO and UDP_SEGMENT [default: use them where they work]
  -h --help           print this
"""

_RELAY = f"""\
Carry datagrams, unchanged, between two peers that say the same 128-bit id (udp-relay's protocol).

Usage:
  udppunch relay [options] [LISTEN...]

LISTEN is host:port, [v6]:port or :port; [::]:6060, for IPv4 too, if none is given.

Options:
  --secret-file FILE     what peers sign with, base64; also UDP_RELAY_SECRET_KEY [default: none]
  --workers N            processes that forward [default: one a processor]
  --idle TIME            close a channel that carried nothing for TIME [default: 30s]
  --max-channels N       channels at once [default: 100000]
  --half-open N          ids that wait for their second peer, at once [default: 8192]
  --half-open-prefix N   of these from one /24 or /56 [default: 1024]
  --handshake-rate N     handshakes a second from one /24 or /56 [default: 2000]
  --rate N               datagrams a second of a channel, each way [default: none]
  --bandwidth BITS       bits a second of a channel, each way: 500k, 10M, 1G [default: none]
  --coalesce TIME        when many come, wait so long for more, at most 10ms [default: 0]
  --recv-buffer BYTES    of each socket: 262144, 256K, 4M [default: 4M]
  --send-buffer BYTES    the same, to send [default: 4M]
  --drain-timeout TIME   how long SIGTERM lets channels go on [default: 10s]
{_PROCESS}"""

_PASSWORD = """\
  --password-file FILE   what both sides share; also UDPPUNCH_PASSWORD [default: none]
"""

_HELPER = f"""\
Publish UDP services of firewalled hosts at public ports of this one (udpexposer's protocol).

Usage:
  udppunch helper [options] LISTEN

LISTEN is host:port, [v6]:port or :port, for the exposers as for the connectees.

Options:
{_PASSWORD}\
  --name NAME=ADDRESS    publish the service of that name there; several with commas [default: none]
  -n --max-clients N     connectees of a service at once, up to 65535 [default: 64]
  --workers N            processes that forward [default: one a processor]
  --idle TIME            forget a connectee that was silent for TIME [default: 5min]
  --rate N               newcomers and keepalives a second from one /24 or /56 [default: 100]
  --proxy-protocol V     put the connectee's address in front: v2, or none [default: none]
  --transparent-log FILE  write there who came and left, - for standard error [default: none]
  --coalesce TIME        when many come, wait so long for more, at most 10ms [default: 0]
  --recv-buffer BYTES    of each socket: 262144, 256K, 4M [default: 4M]
  --send-buffer BYTES    the same, to send [default: 4M]
{_PROCESS}"""

_EXPOSE = f"""\
Make each HELPER publish the UDP service at LOCAL (udpexposer's protocol).

Usage:
  udppunch expose [options] LOCAL HELPER...

LOCAL and HELPER are host:port.

Options:
{_PASSWORD}\
  --name NAME            of the service, where the helper publishes several [default: none]
  --bind ADDRESS         local IP address to speak to helpers from [default: any]
  -n --max-clients N     connectees at once, up to 65535 [default: 64]
  -i --keepalive TIME    tell the helper each TIME that this end is there [default: 25s]
  --idle TIME            forget a connectee that was silent for TIME [default: 5min]
  --coalesce TIME        when many come, wait so long for more, at most 10ms [default: 0]
{_PROCESS}"""

_RUN = f"""\
Do what FILE says: one or several roles in one process, see udppunch.yaml(5).

Usage:
  udppunch run [options] FILE

Options given here go before the file's.

Options:
  --check             only say whether FILE is right, and what it names [default: off]
{_PROCESS}"""

_DEMO = """\
Show the whole thing on this machine: two private networks behind real NATs, a rendezvous,
a path punched between them, and an application's datagrams on it.

Usage:
  udppunch demo [options]

Options:
  --nat-a CLASS       the server's NAT, as RFC 4787 tells them apart [default: prc]
  --nat-b CLASS       the client's NAT [default: prc]
  --loopback          do without the NATs, on loopback [default: only where they can't be had]
  --no-color          plain text; also NO_COLOR [default: color on a terminal]
  -h --help           print this

NAT classes: public (none), full, full-static, arc (address-restricted), prc (port-restricted),
prc-open, prc-reject, prc-hairpin, sym (symmetric), sym-random, sym-range, sym-adm, cgn-prc and
cgn-sym (behind a carrier's NAT too), udp-blocked.
"""

_CHECK = """\
Check whether a service works, or what kind of NAT this host is behind; for cron and monitoring.
One line, and exit status 0 (OK), 1 (WARNING), 2 (CRITICAL) or 3 (UNKNOWN).

Usage:
  udppunch check relay [options] ADDRESS
  udppunch check helper [options] ADDRESS
  udppunch check rendezvous [options] ADDRESS
  udppunch check serve [options] ADDRESS [KEY]
  udppunch check nat [options] ADDRESS [SECOND]
  udppunch check [options] --file FILE

ADDRESS is host:port, [v6]:port or :port: of the relay, helper or rendezvous, of the rendezvous
where a server offers KEY, or of a STUN server; SECOND of another one. All but a helper's port may
be left out. LIMITS is a time, a share of loss, or both: what is above it is bad.

Options:
  -w --warning LIMITS   when to warn [default: 200ms,20%]
  -c --critical LIMITS  when it is critical [default: 500ms,60%]
  -t --timeout TIME     for the whole check, resolving the name too [default: 10s]
  --probes N            round trips to measure, 1 to 100 [default: 5]
  --secret-file FILE    of a relay: its secret; also UDP_RELAY_SECRET_KEY [default: none]
  --password-file FILE  of a helper: its password; also UDPPUNCH_PASSWORD [default: none]
  --silent TIME         of a helper: critical if no exposer was heard for TIME [default: 60s]
  --protocol NAME       of a rendezvous: puncher, holepunch, chat or stun [default: puncher]
  --key-file FILE       of a server: read the key from FILE; also UDPPUNCH_KEY [default: none]
  --echo TEXT           of a server: the service behind it has to answer TEXT [default: none]
  --echo-hex BYTES      the same, in hexadecimal digits [default: none]
  --expect TEXT         with --echo: to answer exactly TEXT [default: none]
  --lifetime            of a NAT: seek how long it keeps an idle binding, too [default: off]
  --longest TIME        of lifetimes to seek; it takes up to 8 times that [default: 3min]
  --file FILE           run the checks that a YAML file lists [default: none]
  --lock FILE           do nothing while another check holds FILE [default: none]
  --splay TIME          wait first, for a random time up to TIME [default: none]
  --json                print the outcome as a JSON object [default: off]
  -q --quiet            print nothing when all is OK [default: off]
  -h --help             print this
"""

_STATS = """\
Show what running daemons do now.

Usage:
  udppunch stats [options] [WHERE]

WHERE, with a / in it, is the control socket of one; without it all are shown that are found in
/run/udppunch and $XDG_RUNTIME_DIR/udppunch. As host:port it is a helper, ours or udpexposer's,
which is asked over the network: a JSON object in any case.

Options:
  --password-file FILE  what the helper wants; also UDPPUNCH_PASSWORD [default: none]
  --json              print the document as the daemon gives it [default: off]
  --watch             go on until Ctrl-C, with what comes in a second [default: off]
  --every TIME        with --watch, ask each TIME [default: 2s]
  --channels N        channels to show, or none [default: 10]
  -h --help           print this
"""

# What can be checked.
CHECKS: Dict[str, None] = {
    "relay": None,
    "helper": None,
    "rendezvous": None,
    "serve": None,
    "nat": None,
}

UDPEXPOSER = """\
Do what udpexposer does, with its own options: for a unit file that names them.

Usage:
  udppunch udpexposer [options] LISTEN

LISTEN is the helper's address with -s, else the one to speak to the helper from.

Options:
  -s --server-mode               be the helper, at LISTEN
  -a --server-addr SERVER        the helper's address
  -c --local-connect-addr LOCAL  the service's address
  -n --max-clients MAX           connectees at once [default: 4]
  -i --ping-interval-ms MS       milliseconds between two keepalives [default: 25000]
  -P --password PASSWORD         what both sides share, for all to see: better UDPPUNCH_PASSWORD
  -S --dump-stats                print the statistics of the helper at SERVER
  -h --help                      print this
"""

COMMANDS: Dict[str, str] = {
    "rendezvous": _RENDEZVOUS,
    "serve": _SERVE,
    "connect": _CONNECT,
    "peer": _PEER,
    "chat": _CHAT,
    "relay": _RELAY,
    "helper": _HELPER,
    "expose": _EXPOSE,
    "run": _RUN,
    "check": _CHECK,
    "stats": _STATS,
    "demo": _DEMO,
}
