"""The tables: what they say, and that nothing a daemon says breaks them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.stats.daemons import document
from udppunch.stats.table import Earlier, show

SHOWN = """\
relay on [::]:6060
/run/udppunch/relay.sock, pid 12, version 0.1.0, up 12.3s

process    pid  memory  CPU s  CPU %  restarts
registrar   13   12.3M    1.2    3.1         0
worker 1    14    9.9M  700.2   99.0         2

relay: 12 channels, 3 half-open
  channels                      12
  half-open                      3
  datagrams                   1000
  octets                   1200000
  dropped: unknown source        4

channel: from      age  idle  datagrams  octets
192.0.2.1:5      12.5s  0.2s         10    1.2k
[2001:db8::1]:6                  123.5k      15"""


def test_all_of_it() -> None:
    assert "\n".join(show("/run/udppunch/relay.sock", document())) == SHOWN


def counters(**counted: int) -> Any:
    return document(roles=[{"name": "relay", "counters": counted}])


def test_rates() -> None:
    before = counters(datagrams=1000, octets=10)
    lines = show("s", counters(datagrams=1500, octets=10, joined=3), Earlier(before, 2.0))
    assert "  datagrams  1500  250.0/s" in lines
    assert "  octets       10    0.0/s" in lines
    assert "  joined        3    1.5/s" in lines


def test_no_rate_of_what_was_set_back() -> None:
    lines = show("s", counters(datagrams=5), Earlier(counters(datagrams=1000), 2.0))
    assert "  datagrams  5" in lines


def test_rates_of_several_roles_of_one_name() -> None:
    def twice(first: int, second: int) -> Any:
        return document(
            roles=[{"name": "serve", "counters": {"paths": n}} for n in (first, second)]
        )

    lines = show("s", twice(10, 30), Earlier(twice(0, 10), 10.0))
    assert [line for line in lines if "paths" in line] == [
        "  paths  10  1.0/s",
        "  paths  30  2.0/s",
    ]


@pytest.mark.parametrize(
    "uptime,said",
    [(0, "0.0s"), (59.9, "59.9s"), (90, "2min"), (7200, "2.0h"), (864000, "10.0d"), ("x", "-")],
)
def test_times(uptime: Any, said: str) -> None:
    assert show("s", document(uptime=uptime))[1].endswith(f", up {said}")


@pytest.mark.parametrize(
    "memory,said",
    [(0, "0"), (999, "999"), (1000, "1.0k"), (999_960, "1.0M"), (10**15, "1.0P"), (None, "-")],
)
def test_sizes(memory: Any, said: str) -> None:
    lines = show("s", document(processes=[{"name": "worker", "pid": 1, "memory": memory}]))
    assert lines[4].split()[2] == said


def test_longest_addresses_fit() -> None:
    peer = "[2001:db8:1111:2222:3333:4444:5555:6666]:65535"
    channel = {"peers": [peer, peer], "age": 86000, "idle": 3599, "datagrams": [10**9, 1],
               "octets": [10**12, 10**12]}  # fmt: skip
    lines = show("s", document(channels=[channel]))
    assert lines[-2].split() == [peer, "23.9h", "60min", "1.0G", "1.0T"]
    assert lines[-1].split() == [peer, "1", "1.0T"]


def test_end_of_a_long_path_is_what_is_shown() -> None:
    line = show("/" + "a" * 90 + "/relay.sock", document())[1]
    assert line.startswith("...aaa") and len(line) == 80
    assert line.endswith("aaa/relay.sock, pid 12, version 0.1.0, up 12.3s")


def test_an_empty_document() -> None:
    assert show("/a/b", {}) == ["udppunch", "/a/b"]


def test_what_a_daemon_says_moves_no_cursor() -> None:
    said = document(name="a\x1b[2Jb\nc\u202ed", listen=["\x07"])
    assert show("s", said)[0] == "a\\x1b[2Jb\\nc\\u202ed on \\x07"


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
KEYS = ("name", "status", "counters", "gauges", "pid", "memory", "peers", "age", "datagrams")
records = st.lists(st.dictionaries(st.sampled_from(KEYS), anything) | anything, max_size=3)
documents = st.fixed_dictionaries(
    {},
    optional={
        **{key: anything for key in ("version", "pid", "uptime", "name", "listen")},
        **{key: records | anything for key in ("processes", "roles", "channels")},
    },
)


@given(before=documents, now=documents, seconds=st.floats(0, 100))
def test_whatever_a_daemon_says_fits(before: Any, now: Any, seconds: float) -> None:
    for line in show("s", now, Earlier(before, seconds)):
        assert len(line) <= 80 and all(" " <= c <= "~" for c in line)
