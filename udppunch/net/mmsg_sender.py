"""Sending in batches on Linux (sendmmsg), each message a train where that can be (UDP_SEGMENT)."""

from __future__ import annotations

import array
import ctypes
from typing import Dict, List, Sequence, Tuple

from udppunch.contract import Piece, Route
from udppunch.net import offload, socketerrors
from udppunch.net.arena import Arena
from udppunch.net.grouping import MOST_OCTETS, MOST_SEGMENTS, Group, group, lay
from udppunch.net.mmsg import (
    CONTROL,
    DONTWAIT,
    HEADER,
    IOVEC,
    LIBC,
    NAME,
    WORD,
    address_of,
    anonymous,
    control_message,
    pointers,
)
from udppunch.net.portable import Parcel, datagrams_of, send_datagram, send_train
from udppunch.net.socketerrors import Action
from udppunch.net.troubles import Troubles
from udppunch.net.udp import Prepared, UdpSocket

_MOST_MESSAGES = 1024  # of one sendmmsg; the kernel takes no more at once
_MOST_SPANS = 64 * _MOST_MESSAGES


class MmsgSender:
    def __init__(self, arena: Arena, troubles: Troubles) -> None:
        self._arena = arena
        self._troubles = troubles
        self._segment_controls: Dict[int, bytes] = {}  # bounded by the sizes there are
        self._messages: List[Tuple[Route, Prepared, Group]] = []
        self._spans: List[int] = []
        self._sendmmsg = LIBC.sendmmsg
        headers = _MOST_MESSAGES * HEADER.size
        names = _MOST_MESSAGES * NAME
        controls = _MOST_MESSAGES * CONTROL
        self._memory = memory = anonymous(headers + names + controls + _MOST_SPANS * IOVEC)
        self._origin = address_of(memory)
        self._pointers = pointers(self._origin, _MOST_MESSAGES)
        self._names_at = headers
        self._controls_at = headers + names
        self._vectors_at = headers + names + controls
        self._vectors = memoryview(memory)[self._vectors_at :].cast("L")

    def send_lone(self, udp: UdpSocket, route: Route, prepared: Prepared, piece: Piece) -> None:
        """The short way of a piece that goes alone; a train that fails goes the long one."""
        position, length, segment = piece
        data = self._arena.cut(position, length)
        if length <= segment:
            send_datagram(udp, route, prepared, data, self._troubles)
            return
        datagrams = -(-length // segment)
        fits = datagrams <= MOST_SEGMENTS and length <= MOST_OCTETS
        if not (fits and udp.segments and segment <= prepared.largest):
            self.send(udp, [(route, prepared, [piece])])
            return
        if segment != prepared.train_segment:
            prepared.prepare_train(segment)
        try:
            udp.send_one(data, prepared.target, prepared.train_ancillary)
        except OSError as error:
            number = error.errno or 0
            if self._troubles.met(udp, number) is Action.DROP:
                self._troubles.sending(udp, number, datagrams)
            else:
                self.send(udp, [(route, prepared, [piece])])
            return
        route.datagrams += datagrams
        route.octets += length

    def send(self, udp: UdpSocket, parcels: Sequence[Parcel]) -> None:
        for route, prepared, pieces in parcels:
            largest = prepared.largest if udp.segments else 0
            groups = lay(pieces, largest) if route.laid else group(pieces, largest)
            route.laid = False
            for message in groups:
                full = len(self._messages) == _MOST_MESSAGES
                if full or len(self._spans) + len(message.spans) > 2 * _MOST_SPANS:
                    self._transmit(udp)
                self._add(route, prepared, message)
        self._transmit(udp)

    def _add(self, route: Route, prepared: Prepared, message: Group) -> None:
        number = len(self._messages)
        origin = self._origin
        name = prepared.name
        name_at = self._names_at + number * NAME
        self._memory[name_at : name_at + len(name)] = name
        control = prepared.control
        if control is None:
            messages = [control_message(*each) for each in prepared.ancillary]
            control = prepared.control = b"".join(messages)
        if message.datagrams > 1:
            control = self._segment_control(message.segment) + control
        control_at = self._controls_at + number * CONTROL
        if control:
            self._memory[control_at : control_at + len(control)] = control
        HEADER.pack_into(
            self._memory, number * HEADER.size,
            origin + name_at if name else 0, len(name),
            origin + self._vectors_at + len(self._spans) * WORD, len(message.spans) // 2,
            origin + control_at if control else 0, len(control), 0, 0,
        )  # fmt: skip
        self._spans += message.spans
        self._messages.append((route, prepared, message))
        route.datagrams += message.datagrams
        route.octets += message.octets

    def _segment_control(self, segment: int) -> bytes:
        control = self._segment_controls.get(segment)
        if control is None:
            control = control_message(*offload.segments_of(segment))
            self._segment_controls[segment] = control
        return control

    def _transmit(self, udp: UdpSocket) -> None:
        """Sends what was added. Of a call that sends some, the next one tells the error."""
        messages, spans = self._messages, self._spans
        self._vectors[: len(spans)] = array.array("L", spans)
        done, total, tried = 0, len(messages), -1
        while done < total:
            at = self._pointers[done]
            sent: int = self._sendmmsg(udp.descriptor, at, total - done, DONTWAIT)
            if sent > 0:
                done += sent
                continue
            number = ctypes.get_errno()
            action = self._troubles.met(udp, number)
            again = action in (Action.RETRY, Action.REFUSED) or udp.connected
            if again and action is not Action.DROP and tried != done:
                tried = done
                continue
            self._lost(udp, *messages[done], number)
            done += 1
        messages.clear()
        spans.clear()

    def _lost(
        self, udp: UdpSocket, route: Route, prepared: Prepared, message: Group, number: int
    ) -> None:
        """The kernel did not take a message: its datagrams go singly, or not at all."""
        route.datagrams -= message.datagrams
        route.octets -= message.octets
        if message.datagrams == 1 or socketerrors.action(number) is not Action.SPLIT:
            self._troubles.sending(udp, number, message.datagrams)
            return
        if number == socketerrors.SEGMENTATION_UNSUPPORTED:
            if udp.segments:
                self._troubles.no_segmentation(udp)
            udp.segments = False
        accepted = 0
        for data in datagrams_of(self._arena, message):
            accepted += send_train(udp, route, prepared, data, message.segment, self._troubles)
        if accepted:
            prepared.largest = min(prepared.largest, message.segment - 1)
