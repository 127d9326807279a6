"""Receiving in batches on Linux (recvmmsg): hundreds of messages a call, trains among them.

The headers stay laid out in memory between calls: a receive reads back only the columns it
needs, each in one stroke, and restores the headers from a pristine copy, for the kernel
overwrites the lengths of names and of control data with what it found.
"""

from __future__ import annotations

import ctypes
import socket
import struct
from typing import Dict, List, Tuple

from udppunch.address import Address
from udppunch.contract import Batch, Burst
from udppunch.errors import CommandError
from udppunch.net import offload, sockaddr, socketerrors
from udppunch.net.arena import Arena
from udppunch.net.mmsg import (
    CONTROL,
    CONTROL_SIZE_AT,
    DONTWAIT,
    FLAGS_AT,
    HEADER,
    IOVEC,
    LENGTH_AT,
    LIBC,
    NAME,
    NAME_SIZE_AT,
    address_of,
    anonymous,
    control_messages,
    pointers,
)
from udppunch.net.portable import WORTH_WAITING
from udppunch.net.socketerrors import Action
from udppunch.net.troubles import Troubles
from udppunch.net.udp import UdpSocket

_MOST_NAMES = 1 << 14
_MOST_CONTROLS = 4096
_TRIES = 3
_DAMAGED = int(socket.MSG_TRUNC | socket.MSG_CTRUNC)  # enumerations are slow


class MmsgReceiver:
    def __init__(self, arena: Arena, troubles: Troubles) -> None:
        self._arena = arena
        self._troubles = troubles
        self._burst = Burst()
        self._batch = Batch()
        self._words = arena.view.cast("H")
        self._next = 0
        self._sources: Dict[bytes, Address] = {}
        self._told: Dict[bytes, Tuple[int, bytes]] = {}
        self._recvmmsg = LIBC.recvmmsg
        self._lay_out(arena.slots)

    def _lay_out(self, slots: int) -> None:
        """One header, name, control area and I/O vector for each slot."""
        names = slots * HEADER.size
        controls = names + slots * NAME
        vectors = controls + slots * CONTROL
        self._memory = memory = anonymous(vectors + slots * IOVEC)
        origin = address_of(memory)
        self._pointers = pointers(origin, slots)
        self._names_at, self._controls_at = names, controls
        for slot in range(slots):
            vector = vectors + slot * IOVEC
            data = self._arena.origin + self._arena.start_of(slot)
            struct.pack_into("@PN", memory, vector, data, self._arena.slot_size)
            HEADER.pack_into(
                memory, slot * HEADER.size,
                origin + names + slot * NAME, NAME, origin + vector, 1,
                origin + controls + slot * CONTROL, CONTROL, 0, 0,
            )  # fmt: skip
        self._headers = memoryview(memory)[:names]
        self._pristine = bytes(self._headers)
        # Each column of the headers, as a view that strides over the rest.
        words, integers = self._headers.cast("L"), self._headers.cast("i")
        step, half_step = HEADER.size // words.itemsize, HEADER.size // integers.itemsize
        self._name_sizes = integers[NAME_SIZE_AT // integers.itemsize :: half_step]
        self._control_sizes = words[CONTROL_SIZE_AT // words.itemsize :: step]
        self._flags = integers[FLAGS_AT // integers.itemsize :: half_step]
        self._lengths = integers[LENGTH_AT // integers.itemsize :: half_step]

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
                DONTWAIT,
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
        self._name_sizes[slot], self._control_sizes[slot] = NAME, CONTROL
        if self._flags[slot] & _DAMAGED:
            self._troubles.malformed(udp, "truncated")
            return
        self._hand_over(udp, now, slot, length, size)

    def _hand_over(self, udp: UdpSocket, now: float, slot: int, length: int, size: int) -> None:
        """Gives the role one message, with `size` bytes of control data, as a burst."""
        burst = self._burst
        burst.endpoint = udp.endpoint
        name_at = self._names_at + slot * NAME
        name = self._memory[name_at : name_at + udp.name_size]
        burst.source = self._sources.get(name) or self._source(name)
        burst.segment = length
        burst.local = b""
        if size:
            control_at = self._controls_at + slot * CONTROL
            control = self._memory[control_at : control_at + size]
            segment, burst.local = self._told.get(control) or self._tell(control)
            if 0 < segment < length:
                burst.segment = segment
        start = self._arena.start_of(slot)
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
        sizes = self._control_sizes[first:last].tolist()
        flags = self._flags[first:last].tolist()
        used = slice(first * HEADER.size, last * HEADER.size)
        self._headers[used] = self._pristine[used]
        damaged = any(flags) and any(flag & _DAMAGED for flag in flags)
        if udp.receive_batch is not None and not damaged:
            self._deliver_batch(udp, now, first, lengths, sizes)
            return
        for slot, length, size, flag in zip(range(first, last), lengths, sizes, flags):
            if flag & _DAMAGED:
                self._troubles.malformed(udp, "truncated")
                continue
            self._hand_over(udp, now, slot, length, size)
            if udp.closing:
                return

    def _deliver_batch(
        self, udp: UdpSocket, now: float, first: int, lengths: List[int], sizes: List[int]
    ) -> None:
        batch, sources, memory = self._batch, self._sources, self._memory
        count, stride = len(lengths), self._arena.stride
        names_at, name_size = self._names_at + first * NAME, udp.name_size
        names = [
            memory[at : at + name_size] for at in range(names_at, names_at + count * NAME, NAME)
        ]
        batch.endpoint = udp.endpoint
        batch.sources = [sources.get(name) or self._source(name) for name in names]
        segments, batch.locals = lengths, None
        if any(sizes):
            segments, batch.locals = self._told_of_each(first, lengths, sizes)
        start = self._arena.start_of(first)
        positions = range(
            self._arena.origin + start, self._arena.origin + start + count * stride, stride
        )
        batch.pieces = list(zip(positions, lengths, segments))
        words = self._words[start // 2 : (start + count * stride) // 2 : stride // 2]
        batch.words = words.tolist()
        batch.singly = lambda index: self._hand_over(
            udp, now, first + index, lengths[index], sizes[index]
        )
        assert udp.receive_batch is not None
        try:
            udp.receive_batch(batch, now)
        except CommandError:
            raise
        except Exception as error:
            self._troubles.bug(udp, error)

    def _told_of_each(
        self, first: int, lengths: List[int], sizes: List[int]
    ) -> Tuple[List[int], List[bytes]]:
        """The segment size of each message (its length, if it is no train), and who was asked."""
        memory, told, at = self._memory, self._told, self._controls_at + first * CONTROL
        segments, locals_ = [], []
        for length, size in zip(lengths, sizes):
            segment, local = 0, b""
            if size:
                control = memory[at : at + size]
                segment, local = told.get(control) or self._tell(control)
            segments.append(segment if 0 < segment < length else length)
            locals_.append(local)
            at += CONTROL
        return segments, locals_

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
