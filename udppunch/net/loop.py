"""The loop that runs roles: sleeps until something comes or is due, and sees to it.

Each wake-up reads the clock once, receives a batch from every socket that is ready, calls
what is due and then sends everything together, so that datagrams for one destination leave
in few system calls. Only then are sockets opened and closed and outcomes told, as calls of
their own: no role is ever called from within a call to its outbox.
"""

from __future__ import annotations

import selectors
import socket
from typing import Any, Callable, Dict, List, Optional, Protocol, Tuple

from udppunch.address import Address
from udppunch.contract import Endpoint, Lookup, Role
from udppunch.net import clock as clocks
from udppunch.net import mmsg, portable, resolve, socketerrors, udp
from udppunch.net.arena import Arena
from udppunch.net.mmsg_receiver import MmsgReceiver
from udppunch.net.mmsg_sender import MmsgSender
from udppunch.net.outbox import Dispatch, LoopOutbox, Sender
from udppunch.net.resolve import Answer, Resolution
from udppunch.net.troubles import Troubles
from udppunch.net.udp import UdpSocket

# Hundreds of flows that take turns still have several datagrams each in a batch this deep.
_SLOTS = 1024
_PORTABLE_SLOTS = 64
# Outcomes may lead to requests and these to outcomes; after so many turns the sockets have
# theirs, lest a role that asks forever starve them.
_MOST_TURNS = 16
_NEVER = float("inf")


class Receiver(Protocol):
    def receive(self, udp: UdpSocket, now: float) -> None: ...

    def full(self) -> bool: ...

    def is_deep(self) -> bool: ...

    def rewind(self) -> None: ...


class Loop:
    """Runs roles until `stop`. Raises CommandError if an essential endpoint can't be opened.

    `offload` permits UDP_GRO and UDP_SEGMENT; `batched` chooses the batch calls, by default
    where the platform has them. `open_socket` may hand out sockets that exist already, as
    those a supervisor bound. `coalesce`, in seconds, lets datagrams wait so long for more of
    their kind after a batch that was worth waiting for. `buffers` are the sockets', in bytes,
    to receive and to send. A loop is made after the last fork: selectors do not survive it.
    """

    def __init__(
        self,
        clock: Callable[[], float] = clocks.monotonic,
        offload: bool = True,
        *,
        batched: bool = mmsg.available(),
        open_socket: Callable[[Endpoint], socket.socket] = udp.open_socket,
        slots: int = 0,
        coalesce: float = 0.0,
        buffers: Tuple[int, int] = (udp.BUFFER, udp.BUFFER),
    ) -> None:
        self._clock = clock
        self._coalesce = coalesce
        self._buffers = buffers
        self._offload = offload and batched
        self._open_socket = open_socket
        self._troubles = Troubles(clock)
        self.counters = self._troubles.counters
        arena = Arena(slots or (_SLOTS if batched else _PORTABLE_SLOTS))
        self._receiver: Receiver
        sender: Sender
        if batched:
            arena.origin = mmsg.address_of(arena.memory)
            self._receiver = MmsgReceiver(arena, self._troubles)
            sender = MmsgSender(arena, self._troubles)
        else:
            self._receiver = portable.PortableReceiver(arena, self._troubles)
            sender = portable.PortableSender(arena, self._troubles)
        self._dispatch = Dispatch(arena, sender, self._troubles)
        self._selector = selectors.DefaultSelector()
        self._outboxes: List[LoopOutbox] = []
        self._starting: List[LoopOutbox] = []
        self._resolutions: List[Tuple[LoopOutbox, Resolution]] = []
        self._due = _NEVER  # when the next role wants to be called, as of this turn's start
        self._told_all = True
        self._stopping = False
        self._handed_over: Dict[Endpoint, socket.socket] = {}

    def outbox(self) -> LoopOutbox:
        """An outbox to make one role with."""
        return LoopOutbox(self._dispatch)

    def add(self, role: Role, outbox: LoopOutbox) -> None:
        """Runs the role, whose `start` is called at the next turn."""
        outbox.role = role
        self._starting.append(outbox)

    def watch(
        self,
        fileobj: Any,
        callback: Callable[[], None],
        *,
        readable: bool = True,
        writable: bool = False,
    ) -> None:
        """Calls back whenever `fileobj` is readable or writable, as far as that is wanted.

        Called again for the same file it changes what is watched for.
        """
        events = selectors.EVENT_READ if readable else 0
        events |= selectors.EVENT_WRITE if writable else 0
        if fileobj in self._selector.get_map():
            self._selector.modify(fileobj, events, callback)
        else:
            self._selector.register(fileobj, events, callback)

    def unwatch(self, fileobj: Any) -> None:
        self._selector.unregister(fileobj)

    def listening(self) -> List[Address]:
        """Where the roles' essential endpoints are."""
        endpoints = [endpoint for endpoint in self._dispatch.sockets if endpoint.essential]
        return [endpoint.local for endpoint in endpoints if endpoint.local is not None]

    def hand_over(self, wanted: Callable[[Endpoint], bool]) -> Dict[Endpoint, socket.socket]:
        """The sockets of endpoints that are wanted: they are the caller's, and left open from
        now on."""
        self._handed_over = {
            endpoint: udp_socket.sock
            for endpoint, udp_socket in self._dispatch.sockets.items()
            if wanted(endpoint)
        }
        return self._handed_over

    def stop(self) -> None:
        """Ends `run` after this turn. For roles and readers; a sleeping loop is not woken."""
        self._stopping = True

    def run(self, before_closing: Callable[[], None] = lambda: None) -> None:
        """Until `stop`. Then roles say goodbye; `before_closing` may yet `hand_over` sockets."""
        try:
            while not self._stopping:
                self.turn()
            now = self._clock()
            for outbox in self._outboxes:
                outbox.role.stop(now)
            self._dispatch.flush()
            before_closing()
        finally:
            self.close()

    def turn(self) -> None:
        """Starts what was added, sleeps until something is to do, and does it."""
        while self._starting:
            outbox = self._starting.pop(0)
            self._outboxes.append(outbox)
            outbox.role.start(self._clock())
            self._settle(self._clock())
        ready = self._selector.select(self._patience())
        now = self._clock()
        for key, _ in ready:
            data = key.data
            if type(data) is UdpSocket:
                self._receive(data, now)
            else:
                data()
        if self._due <= now:
            self._expire(now)
        worth_waiting = self._coalesce and self._receiver.is_deep()
        self._settle(now)
        if worth_waiting:
            clocks.sleep(self._coalesce)

    def close(self) -> None:
        """Closes every socket and ends lookups, without a word to the roles."""
        for udp_socket in list(self._dispatch.sockets.values()):
            self._close(udp_socket)
        for _, resolution in self._resolutions:
            self._selector.unregister(resolution.pipe)
            resolution.end()
        self._resolutions.clear()
        self._selector.close()

    def _patience(self) -> Optional[float]:
        if not self._told_all or self._stopping or self._starting:
            self._due = 0.0
            return 0.0
        due = _NEVER
        for outbox in self._outboxes:
            deadline = outbox.role.deadline()
            if deadline is not None and deadline < due:
                due = deadline
        for _, resolution in self._resolutions:
            due = min(due, resolution.deadline)
        self._due = due
        return None if due == _NEVER else max(0.0, due - self._clock())

    def _receive(self, udp_socket: UdpSocket, now: float) -> None:
        if udp_socket.closing:
            return
        if self._receiver.full():
            self._flush()
        self._receiver.receive(udp_socket, now)

    def _flush(self) -> None:
        self._dispatch.flush()
        self._receiver.rewind()

    def _expire(self, now: float) -> None:
        for outbox in self._outboxes:
            deadline = outbox.role.deadline()
            if deadline is not None and deadline <= now:
                outbox.role.expire(now)
        for entry in self._resolutions[:]:
            outbox, resolution = entry
            if resolution.deadline <= now:
                self._answer(entry, resolution.too_late, now)

    def _settle(self, now: float) -> None:
        """Flushes, does what roles asked for and tells them, until nothing is left."""
        for _ in range(_MOST_TURNS):
            self._flush()
            self._told_all = not self._tell(now)
            if self._told_all:
                return

    def _tell(self, now: float) -> bool:
        """Whether there was anything to do or to tell."""
        requests, refused = self._dispatch.requests, self._troubles.refused
        if not requests and not refused:
            return False
        while refused:
            udp_socket = refused.pop()
            if not udp_socket.closing:
                udp_socket.role.refused(udp_socket.endpoint, now)
        self._dispatch.flush()
        # One by one: what a role is told may make it withdraw a later request.
        for _ in range(len(requests)):
            if requests:
                outbox, verb, subject = requests.pop(0)
                self._do(outbox, verb, subject, now)
        return True

    def _do(self, outbox: LoopOutbox, verb: str, subject: Any, now: float) -> None:
        if verb == "open":
            self._open(outbox, subject, now)
        elif verb == "close":
            self._dispatch.flush()
            self._close(self._dispatch.sockets[subject])
        else:
            self._resolve(outbox, subject, now)

    def _open(self, outbox: LoopOutbox, endpoint: Endpoint, now: float) -> None:
        try:
            sock = self._open_socket(endpoint)
            udp_socket = UdpSocket(endpoint, outbox.role, sock, self._offload, self._buffers)
        except (OSError, ValueError) as error:
            failure = socketerrors.explain(endpoint, error)
            if endpoint.essential:
                raise failure from error
            outbox.role.failed(endpoint, str(failure), now)
            return
        self._dispatch.sockets[endpoint] = udp_socket
        self._selector.register(udp_socket.descriptor, selectors.EVENT_READ, udp_socket)
        outbox.role.opened(endpoint, now)

    def _close(self, udp_socket: UdpSocket) -> None:
        del self._dispatch.sockets[udp_socket.endpoint]
        self._selector.unregister(udp_socket.descriptor)
        udp_socket.close(keep=udp_socket.endpoint in self._handed_over)

    def _resolve(self, outbox: LoopOutbox, lookup: Lookup, now: float) -> None:
        answer = resolve.numeric(lookup)
        if answer is None:
            try:
                resolution = Resolution(lookup, now)
            except OSError as error:
                answer = [], f"cannot resolve {lookup.host}: {error.strerror}"
        if answer is not None:
            outbox.role.resolved(lookup, *answer, now)
            return
        entry = outbox, resolution
        self._resolutions.append(entry)
        self.watch(resolution.pipe, lambda: self._answer(entry, resolution.answer, self._clock()))

    def _answer(
        self,
        entry: Tuple[LoopOutbox, Resolution],
        answer: Callable[[], Answer],
        now: float,
    ) -> None:
        outbox, resolution = entry
        self._resolutions.remove(entry)
        self._selector.unregister(resolution.pipe)
        found, reason = answer()
        outbox.role.resolved(resolution.lookup, found, reason, now)
