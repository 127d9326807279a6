"""The sentences in which a terminal or a pipe tells how the chat does."""

from __future__ import annotations

from typing import Iterator, Optional

from udppunch.proto.chat.view import Peer, State, Status
from udppunch.proto.terminal.text import clean

_MOST_NAME = 32
HELP = """\
/connect ID  talk to the peer with this id    /status  who is who, and how
/reset       leave the peer, forget all       /quit    leave
//...        says a line that begins with /   Ctrl-C   leaves too
(delivered) holds for all lines above as well; what did not arrive is told."""
MENU = """\
1  connect to a peer by its id
2  wait for a peer
3  exit"""
ADVICE = "Compare both with what the peer sees, by another way than this chat."


def called(peer: Optional[Peer]) -> str:
    """What the peer is called here: harmless, on one line, and never as we are."""
    if peer is None:
        return "peer"
    name = " ".join(clean(peer.name).split())[:_MOST_NAME].rstrip()
    if not name:
        return clean(peer.id)[:8] or "peer"
    if name.casefold() == "you" or name[0] in "*!/":
        return f"peer {name}"
    return name


def news(before: Status, status: Status, waiting: int = 0) -> Iterator[str]:
    """What people should hear of, now that the status is another; `waiting` lines are under way."""
    state, peer = status.state, called(status.peer)
    reason = clean(status.reason)
    if state is before.state:
        if reason and reason != clean(before.reason):
            yield reason
        elif state is State.DIRECT and _moved(before.peer, status.peer):
            yield f"the path to {peer} is now {_address(status)}"
        return
    sentence = {
        State.UNNAMED: "",
        State.REGISTERING: f"registering as {clean(status.name)} at {clean(status.server)}",
        State.READY: "",
        State.ESTABLISHING: f"asking {clean(status.server)} for the peer",
        State.PUNCHING: f"seeking a path to {peer}" + _at(status),
        State.DIRECT: f"the path to {peer} is up" + _at(status),
        State.GONE: f"{peer} is gone" + ("" if reason else ", and is sought on"),
        State.FAILED: "" if reason else "the peer can't be had",
    }[state]
    if state is State.DIRECT and before.state is State.GONE:
        sentence = f"{peer} is back"
    told = ": ".join(part for part in (sentence, reason) if part)
    if state is State.GONE and waiting:
        told += f"; {count(waiting)} not delivered yet"
    if told:
        yield told


def summary(status: Status, waiting: int) -> Iterator[str]:
    """All there is to know."""
    yield f"{clean(status.state.value)}, server {clean(status.server)}"
    if status.reason:
        yield clean(status.reason)
    yield f"you: {clean(status.name)}"
    yield clean(status.id)
    yield f"your fingerprint: {clean(status.fingerprint)}"
    if status.peer is not None:
        yield f"peer: {called(status.peer)}{_at(status)}"
        yield clean(status.peer.id)
        yield f"the peer's fingerprint: {clean(status.peer.fingerprint) or 'not known yet'}"
    if waiting:
        yield f"{count(waiting)} not delivered yet"


def count(lines: int) -> str:
    return "1 line is" if lines == 1 else f"{lines} lines are"


def _moved(before: Optional[Peer], peer: Optional[Peer]) -> bool:
    return (
        before is not None
        and peer is not None
        and before.id == peer.id
        and before.address != peer.address != ""
        and before.address != ""
    )


def _address(status: Status) -> str:
    return clean(status.peer.address) if status.peer is not None else ""


def _at(status: Status) -> str:
    address = _address(status)
    return f" ({address})" if address else ""
