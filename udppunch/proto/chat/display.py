"""What a chat has told its screen: the status, the lines, and notices that strangers can cause."""

from __future__ import annotations

import dataclasses
import logging
from collections import Counter
from typing import Callable, Optional

from udppunch import address
from udppunch.notices import Notices
from udppunch.proto.chat.lines import Lines
from udppunch.proto.chat.view import Peer, Screen, State, Status
from udppunch.proto.puncher.meeting import Introduction
from udppunch.wire import chat

log = logging.getLogger(__name__)


class Display:
    """`wall` gives seconds since 1970."""

    def __init__(
        self,
        screen: Screen,
        status: Status,
        counters: "Counter[str]",
        wall: Callable[[], float],
    ) -> None:
        self.status = status
        self.lines = Lines(screen, wall)
        self._screen = screen
        self._counters = counters
        self._notices = Notices(log)
        screen.status(status)

    def become(self, state: State, reason: str = "", *, peer: Optional[Peer] = None) -> None:
        """The state is another; so is the peer, if one is given. READY knows of none."""
        known = None if state is State.READY else peer or self.status.peer
        self._show(dataclasses.replace(self.status, state=state, reason=reason, peer=known))

    def name(self, name: str) -> None:
        """The name is said, and the server is to be told."""
        status = dataclasses.replace(self.status, state=State.REGISTERING, name=name)
        self._show(dataclasses.replace(status, reason="", peer=None))

    def know(self, fingerprint: str) -> None:
        """The peer's key came."""
        if self.status.peer is not None:
            peer = dataclasses.replace(self.status.peer, fingerprint=fingerprint)
            self._show(dataclasses.replace(self.status, peer=peer))

    def peer_of(self, word: Introduction) -> Peer:
        """Who was introduced, with what was known of that peer before."""
        before = self.status.peer
        known = chat.fingerprint(word.public_key) if word.public_key else ""
        if not known and before is not None and before.id == word.identity:
            known = before.fingerprint
        return Peer(word.identity, word.name, known, address.text(word.peer))

    def notice(self, text: str) -> None:
        self._screen.notice(text)

    def tell(self, kind: str, text: str, now: float) -> None:
        """What strangers can cause is said once a minute."""
        if self._notices.may_say(now, kind):
            self._screen.notice(text)

    def count(self, what: str, text: str, now: float) -> None:
        """Something that came was passed over."""
        self._counters[f"dropped: {what}"] += 1
        self.tell(what, text, now)

    def _show(self, status: Status) -> None:
        if status != self.status:
            self.status = status
            self._screen.status(status)
