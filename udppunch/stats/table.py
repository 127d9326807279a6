"""A daemon's document as tables for people: 80 columns of ASCII, with rates if asked twice.

Whatever the document lacks, or has in another form, is left out or shown as a dash.
"""

from __future__ import annotations

from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence

Document = Mapping[str, Any]
Row = Sequence[str]

WIDTH = 80

_GAP = "  "
_CUT = "..."
_SHORTEST_PATH = 20
_INDENT = "  "
_NOTHING = "-"
_LARGEST = 1e18
_PREFIXES = ("", "k", "M", "G", "T", "P")


class Earlier(NamedTuple):
    """The same daemon's document, `seconds` before."""

    document: Document
    seconds: float


def show(path: str, document: Document, earlier: Optional[Earlier] = None) -> List[str]:
    """The lines of all that the daemon behind the socket at `path` said."""
    before, seconds = earlier or Earlier({}, 0.0)
    lines = _heading(path, document)
    lines += _section(_processes(document))
    old_roles = _objects(before, "roles")
    for index, role in enumerate(_objects(document, "roles")):
        old = old_roles[index] if index < len(old_roles) else {}
        counters = _counters(_object(role, "counters"), _object(old, "counters"), seconds)
        gauges = [[visible(name), _text(value)] for name, value in _object(role, "gauges").items()]
        title = ": ".join(_text(role[key]) for key in ("name", "status") if role.get(key))
        lines += _section([*gauges, *counters], title)
    lines += _section(_channels(document))
    return [_clipped(line, WIDTH) for line in lines]


def visible(text: str) -> str:
    """ASCII without control characters: no daemon moves the cursor, or writes lines of ours."""
    return "".join(c if " " <= c <= "~" else ascii(c)[1:-1] for c in text)


# The parts


def _heading(path: str, document: Document) -> List[str]:
    listen = document.get("listen")
    where = " on " + ", ".join(map(_text, listen)) if isinstance(listen, list) and listen else ""
    facts = [f"{key} {_text(document[key])}" for key in ("pid", "version") if key in document]
    if "uptime" in document:
        facts.append(f"up {_duration(document['uptime'])}")
    told = "".join(f", {fact}" for fact in facts)
    place, left = visible(path), max(_SHORTEST_PATH, WIDTH - len(told))
    if len(place) > left:
        place = _CUT + place[len(_CUT) - left :]
    return [_text(document.get("name", "udppunch")) + where, place + told]


def _processes(document: Document) -> List[Row]:
    rows = [
        [
            _text(process.get("name")),
            _text(process.get("pid")),
            _scaled(process.get("memory")),
            _text(process.get("cpu_seconds")),
            _text(process.get("cpu_percent")),
            _text(process.get("restarts")),
        ]
        for process in _objects(document, "processes")
    ]
    return [["process", "pid", "memory", "CPU s", "CPU %", "restarts"], *rows] if rows else []


def _counters(counters: Document, old: Document, seconds: float) -> List[Row]:
    rows: List[Row] = []
    for name, value in counters.items():
        row = [visible(name), _text(value)]
        now, then = _number(value), _number(old.get(name, 0))
        if seconds > 0 and now is not None and then is not None and now >= then:
            row.append(f"{(now - then) / seconds:.1f}/s")
        rows.append(row)
    return rows


def _channels(document: Document) -> List[Row]:
    """Two lines each: what came from the one peer, and from the other."""
    rows: List[Row] = []
    for channel in _objects(document, "channels"):
        times = [_duration(channel.get("age")), _duration(channel.get("idle"))]
        columns = [_pair(channel, key) for key in ("peers", "datagrams", "octets")]
        for peer, datagrams, octets in zip(*columns):
            rows.append([_text(peer), *times, _scaled(datagrams), _scaled(octets)])
            times = ["", ""]
    return [["channel: from", "age", "idle", "datagrams", "octets"], *rows] if rows else []


# Their form


def _section(rows: Sequence[Row], title: str = "") -> List[str]:
    if not rows and not title:
        return []
    if not title:
        return ["", *_aligned(rows, WIDTH)]
    return ["", title, *(_INDENT + line for line in _aligned(rows, WIDTH - len(_INDENT)))]


def _aligned(rows: Sequence[Row], width: int) -> List[str]:
    """In columns, the first to the left, and narrower if need be; the others to the right."""
    count = max(map(len, rows), default=0)
    full = [[*row, *[""] * (count - len(row))] for row in rows]
    widths = [max(map(len, column)) for column in zip(*full)]
    others = sum(widths[1:]) + len(_GAP) * (count - 1)
    lines = []
    for first, *rest in full:
        most = max(len(_CUT) + 1, min(widths[0], width - others))
        cells = [cell.rjust(size) for cell, size in zip(rest, widths[1:])]
        lines.append(_GAP.join([_clipped(first, most).ljust(most), *cells]).rstrip())
    return lines


def _clipped(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - len(_CUT)] + _CUT


# Values of which nothing is known


def _object(document: Document, key: str) -> Dict[str, Any]:
    value = document.get(key)
    return value if isinstance(value, dict) else {}


def _objects(document: Document, key: str) -> List[Dict[str, Any]]:
    values = document.get(key)
    return (
        [value for value in values if isinstance(value, dict)] if isinstance(values, list) else []
    )


def _pair(channel: Document, key: str) -> List[Any]:
    values = channel.get(key)
    return [*(values if isinstance(values, list) else []), None, None][:2]


def _number(value: Any) -> Optional[float]:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if -_LARGEST < value < _LARGEST else None


def _text(value: Any) -> str:
    if isinstance(value, str):
        return visible(value)
    number = _number(value)
    if number is None:
        return _NOTHING
    return f"{number:.1f}" if isinstance(value, float) else str(value)


def _scaled(value: Any) -> str:
    """With at most four digits, and a decimal prefix."""
    number = _number(value)
    if number is None:
        return _NOTHING
    power = 0
    while abs(number) >= 999.95 and power < len(_PREFIXES) - 1:
        number /= 1000
        power += 1
    return f"{number:.1f}{_PREFIXES[power]}" if power else f"{number:.0f}"


def _duration(value: Any) -> str:
    seconds = _number(value)
    if seconds is None:
        return _NOTHING
    for length, form in ((86400, "{:.1f}d"), (3600, "{:.1f}h"), (60, "{:.0f}min")):
        if seconds >= length:
            return form.format(seconds / length)
    return f"{seconds:.1f}s"
