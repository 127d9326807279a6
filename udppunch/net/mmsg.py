"""Receiving and sending in batches on Linux: recvmmsg and sendmmsg through ctypes.

One call moves hundreds of messages, each of which may be a train of datagrams (UDP_GRO,
UDP_SEGMENT). The headers stay laid out in memory between calls: a receive reads back only
the columns it needs, each in one stroke, and restores the headers from a pristine copy, for
the kernel overwrites the lengths of names and of control data with what it found.
"""

from __future__ import annotations

import array
import ctypes
import mmap
import socket
import struct
from typing import Dict, List, Sequence, Tuple

from udppunch.address import Address
from udppunch.contract import Burst, Route
from udppunch.errors import CommandError
from udppunch.net import offload, sockaddr, socketerrors
from udppunch.net.arena import Arena
from udppunch.net.grouping import MOST_OCTETS, MOST_SEGMENTS, Group, Piece, group
from udppunch.net.portable import WORTH_WAITING, Parcel, send_datagram, send_train
from udppunch.net.socketerrors import Action
from udppunch.net.troubles import Troubles
from udppunch.net.udp import Prepared, UdpSocket

# struct mmsghdr: name, its size, I/O vector, its size, control data, its size, flags, and
# (aligned like a pointer, as the inner struct msghdr ends there) the message's length.
HEADER = struct.Struct("@PIPNPNi0PI0P")
_NAME_SIZE_AT = struct.calcsize("@P")
_CONTROL_SIZE_AT = struct.calcsize("@PIPNP")
_FLAGS_AT = struct.calcsize("@PIPNPN")
_LENGTH_AT = struct.calcsize("@PIPNPNi0P")
_IOVEC = struct.calcsize("@PN")
_WORD = struct.calcsize("@N")
_CMSG = struct.Struct("@Nii")  # cmsg_len, level, type

_NAME = 32  # room for one socket address
_CONTROL = 128  # room for one message's control data
_MOST_MESSAGES = 1024  # of one sendmmsg; the kernel takes no more at once
_MOST_SPANS = 64 * _MOST_MESSAGES

_MOST_NAMES = 1 << 14
_MOST_CONTROLS = 4096
_TRIES = 3
_DAMAGED = int(socket.MSG_TRUNC | socket.MSG_CTRUNC)  # enumerations are slow
_DONTWAIT = int(socket.MSG_DONTWAIT)


def available() -> bool:
    """Whether this platform has both calls in the form that the layout above describes."""
    return offload.LINUX and hasattr(_LIBC, "recvmmsg") and hasattr(_LIBC, "sendmmsg")


# Declared argument types would cost more than the rest of the call's preparation; without
# them an integer passes as a C int, and pointers must be c_void_p, of which there is one made
# for each header that a call may start at.
_LIBC = ctypes.CDLL(None, use_errno=True)


def _pointers(start: int, count: int) -> List[ctypes.c_void_p]:
    return [ctypes.c_void_p(start + index * HEADER.size) for index in range(count)]


def _anonymous(size: int) -> mmap.mmap:
    return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


def address_of(memory: mmap.mmap) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))


def _aligned(length: int) -> int:
    return -(-length // _WORD) * _WORD


def control_message(level: int, kind: int, data: bytes) -> bytes:
    head = _CMSG.pack(_CMSG.size + len(data), level, kind)
    return (head + data).ljust(_aligned(len(head) + len(data)), b"\0")


def control_messages(raw: bytes) -> offload.Ancillary:
    """Reads control data back; stops at a length that cannot be."""
    found: offload.Ancillary = []
    at = 0
    while at + _CMSG.size <= len(raw):
        length, level, kind = _CMSG.unpack_from(raw, at)
        if length < _CMSG.size or at + length > len(raw):
            break
        found.append((level, kind, raw[at + _CMSG.size : at + length]))
        at += _aligned(length)
    return found


class MmsgReceiver:
    def __init__(self, arena: Arena, troubles: Troubles) -> None:
        self._arena = arena
        self._troubles = troubles
        self._burst = Burst()
        self._next = 0
        self._sources: Dict[bytes, Address] = {}
        self._told: Dict[bytes, Tuple[int, bytes]] = {}
        self._recvmmsg = _LIBC.recvmmsg
        self._lay_out(arena.slots)

    def _lay_out(self, slots: int) -> None:
        """One header, name, control area and I/O vector for each slot."""
        names = slots * HEADER.size
        controls = names + slots * _NAME
        vectors = controls + slots * _CONTROL
        self._memory = memory = _anonymous(vectors + slots * _IOVEC)
        origin = address_of(memory)
        self._pointers = _pointers(origin, slots)
        self._names_at, self._controls_at = names, controls
        for slot in range(slots):
            vector = vectors + slot * _IOVEC
            data = self._arena.origin + slot * self._arena.stride
            struct.pack_into("@PN", memory, vector, data, self._arena.slot_size)
            HEADER.pack_into(
                memory, slot * HEADER.size,
                origin + names + slot * _NAME, _NAME, origin + vector, 1,
                origin + controls + slot * _CONTROL, _CONTROL, 0, 0,
            )  # fmt: skip
        self._headers = memoryview(memory)[:names]
        self._pristine = bytes(self._headers)
        # Each column of the headers, as a view that strides over the rest.
        words, integers = self._headers.cast("L"), self._headers.cast("i")
        step, half_step = HEADER.size // words.itemsize, HEADER.size // integers.itemsize
        self._name_sizes = integers[_NAME_SIZE_AT // integers.itemsize :: half_step]
        self._control_sizes = words[_CONTROL_SIZE_AT // words.itemsize :: step]
        self._flags = integers[_FLAGS_AT // integers.itemsize :: half_step]
        self._lengths = integers[_LENGTH_AT // integers.itemsize :: half_step]

    def full(self) -> bool:
        # A quarter left still makes a batch worth its call.
        return self._next * 4 > self._arena.slots * 3

    def is_deep(self) -> bool:
        """Whether so much came that more is likely to come, but not more than fits."""
        return WORTH_WAITING <= self._next and not self.full()

    def rewind(self) -> None:
        self._next = 0

    def receive(self, udp: UdpSocket, now: float) -> None:
        """Gives the role what waits, as far as there are slots."""
        first = self._next
        for _ in range(_TRIES):
            got: int = self._recvmmsg(
                udp.descriptor,
                self._pointers[first],
                self._arena.slots - first,
                _DONTWAIT,
                None,
            )
            if got > 0:
                self._next = first + got
                if got == 1:
                    self._deliver_one(udp, now, first)
                else:
                    self._deliver(udp, now, first, first + got)
                return
            number = ctypes.get_errno()
            if socketerrors.nothing_to_read(number):
                return
            if self._troubles.receiving(udp, number) not in (Action.RETRY, Action.REFUSED):
                return

    def _deliver_one(self, udp: UdpSocket, now: float, slot: int) -> None:
        """The short way of a message that comes alone: what a slow flow costs is this."""
        length, size = self._lengths[slot], self._control_sizes[slot]
        self._name_sizes[slot], self._control_sizes[slot] = _NAME, _CONTROL
        if self._flags[slot] & _DAMAGED:
            self._troubles.malformed(udp, "truncated")
            return
        burst = self._burst
        burst.endpoint = udp.endpoint
        name_at = self._names_at + slot * _NAME
        name = self._memory[name_at : name_at + udp.name_size]
        burst.source = self._sources.get(name) or self._source(name)
        burst.segment = length
        burst.local = b""
        if size:
            control_at = self._controls_at + slot * _CONTROL
            control = self._memory[control_at : control_at + size]
            segment, burst.local = self._told.get(control) or self._tell(control)
            if 0 < segment < length:
                burst.segment = segment
        start = slot * self._arena.stride
        burst.view = self._arena.view[start : start + length]
        burst.position = self._arena.origin + start
        try:
            udp.role.receive(burst, now)
        except CommandError:
            raise
        except Exception as error:
            self._troubles.bug(udp, error)

    def _deliver(self, udp: UdpSocket, now: float, first: int, last: int) -> None:
        lengths = self._lengths[first:last].tolist()
        control_sizes = self._control_sizes[first:last].tolist()
        flags = self._flags[first:last].tolist()
        used = slice(first * HEADER.size, last * HEADER.size)
        self._headers[used] = self._pristine[used]
        damaged = any(flags)

        deliver = udp.role.receive
        burst, sources, told, view = self._burst, self._sources, self._told, self._arena.view
        memory, stride, origin = self._memory, self._arena.stride, self._arena.origin
        name_size = udp.name_size
        name_at = self._names_at + first * _NAME
        control_at = self._controls_at + first * _CONTROL
        start = first * stride
        burst.endpoint = udp.endpoint
        previous = b""
        for index, length in enumerate(lengths):
            name = memory[name_at : name_at + name_size]
            if name != previous:
                burst.source = sources.get(name) or self._source(name)
                previous = name
            burst.segment = length
            burst.local = b""
            size = control_sizes[index]
            if size:
                control = memory[control_at : control_at + size]
                segment, burst.local = told.get(control) or self._tell(control)
                if 0 < segment < length:
                    burst.segment = segment
            burst.view = view[start : start + length]
            burst.position = origin + start
            name_at += _NAME
            control_at += _CONTROL
            start += stride
            if damaged and flags[index] & _DAMAGED:
                self._troubles.malformed(udp, "truncated")
                continue
            try:
                deliver(burst, now)
            except CommandError:
                raise
            except Exception as error:
                self._troubles.bug(udp, error)
            if udp.closing:
                return

    def _source(self, name: bytes) -> Address:
        if len(self._sources) >= _MOST_NAMES:
            self._sources.clear()
        source = self._sources[name] = sockaddr.from_kernel(name)
        return source

    def _tell(self, control: bytes) -> Tuple[int, bytes]:
        """The segment size (0 if not told) and the address asked."""
        segment = 0
        messages = control_messages(control)
        for level, kind, data in messages:
            if level == offload.SOL_UDP and kind == offload.UDP_GRO and len(data) >= 4:
                (segment,) = struct.unpack_from("@i", data)
        if len(self._told) >= _MOST_CONTROLS:
            self._told.clear()
        told = self._told[control] = segment, offload.asked_address(messages)
        return told


class MmsgSender:
    def __init__(self, arena: Arena, troubles: Troubles) -> None:
        self._arena = arena
        self._troubles = troubles
        self._segment_controls: Dict[int, bytes] = {}  # bounded by the sizes there are
        self._messages: List[Tuple[Route, Prepared, Group]] = []
        self._spans: List[int] = []
        self._sendmmsg = _LIBC.sendmmsg
        headers = _MOST_MESSAGES * HEADER.size
        names = _MOST_MESSAGES * _NAME
        controls = _MOST_MESSAGES * _CONTROL
        self._memory = memory = _anonymous(headers + names + controls + _MOST_SPANS * _IOVEC)
        self._origin = address_of(memory)
        self._pointers = _pointers(self._origin, _MOST_MESSAGES)
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
            for message in group(pieces, largest):
                if len(self._messages) == _MOST_MESSAGES:
                    self._transmit(udp)
                self._add(route, prepared, message)
        self._transmit(udp)

    def _add(self, route: Route, prepared: Prepared, message: Group) -> None:
        number = len(self._messages)
        origin = self._origin
        name = prepared.name
        name_at = self._names_at + number * _NAME
        self._memory[name_at : name_at + len(name)] = name
        control = prepared.control
        if control is None:
            messages = [control_message(*each) for each in prepared.ancillary]
            control = prepared.control = b"".join(messages)
        if message.datagrams > 1:
            control = self._segment_control(message.segment) + control
        control_at = self._controls_at + number * _CONTROL
        if control:
            self._memory[control_at : control_at + len(control)] = control
        HEADER.pack_into(
            self._memory, number * HEADER.size,
            origin + name_at if name else 0, len(name),
            origin + self._vectors_at + len(self._spans) * _WORD, len(message.spans) // 2,
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
            sent: int = self._sendmmsg(udp.descriptor, at, total - done, _DONTWAIT)
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
        for position, length in zip(message.spans[::2], message.spans[1::2]):
            data = self._arena.cut(position, length)
            accepted += send_train(udp, route, prepared, data, message.segment, self._troubles)
        if accepted:
            prepared.largest = min(prepared.largest, message.segment - 1)
