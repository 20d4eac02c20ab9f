"""Emulated Feetech servos behind a pseudo-terminal, for LeRobot's own driver to talk to as to an arm's serial port."""

from __future__ import annotations

import contextlib
import os
import select
import threading
import time
import tty
from collections.abc import Callable, Mapping, Sequence
from enum import IntEnum
from pathlib import Path
from typing import Self

from roborl.testing.servo import Servo

_HEADER = b"\xff\xff"
_EVERYBODY = 0xFE
_LOOK_S = 0.002


class Instruction(IntEnum):
    """What a packet asks; by Feetech's protocol 0."""

    PING = 1
    READ = 2
    WRITE = 3
    REG_WRITE = 4
    ACTION = 5
    SYNC_READ = 0x82
    SYNC_WRITE = 0x83


class ServoChain:
    """Servos on one bus. Answers in a thread of its own, from :meth:`plug_in` to :meth:`unplug`.

    Args:
        port: Where its serial port is to appear, a path that is free; it may be plugged in again under the same.
        names: The servos' names, by which tests ask for them; their numbers count from 1.
        now_s: The clock that the servos move by.
        byte_s: How long a byte takes on the wire; 10 µs at 1 Mbaud. 0: no time.
        speed_per_s: Steps that a servo turns in a second; 0: they turn only as they are placed.

    Attributes:
        servos: By name.
        lose_every: Each so many-th status packet is lost; 0: none.
        garble_every: Each so many-th status packet arrives with a wrong checksum; 0: none.
        late_s: How late the next answer comes, seconds; the ones after it are in time again.
        awake_s: How long the servos have had nothing to do, or taken their time: a driver that waits by this clock is as
            patient as the computer is busy.
        asked: How many packets came, by instruction.
        broken: How many packets came with a wrong checksum.
    """

    def __init__(
        self,
        port: Path,
        names: Sequence[str],
        *,
        now_s: Callable[[], float] = time.monotonic,
        byte_s: float = 0.0,
        speed_per_s: float = 3000.0,
    ) -> None:
        self.port, self.now_s, self._byte_s = port, now_s, byte_s
        numbered = enumerate(names, start=1)
        self.servos = {name: Servo(number, now_s, speed_per_s) for number, name in numbered}
        self.lose_every = self.garble_every = self.broken = self._said = 0
        self.late_s = self.awake_s = 0.0
        self.asked = dict.fromkeys(Instruction, 0)
        self._planned: dict[int, tuple[int, bytes]] = {}
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self._ends: tuple[int, int] = (-1, -1)

    def __enter__(self) -> Self:
        self.plug_in()
        return self

    def __exit__(self, *_: object) -> None:
        self.unplug()

    def plug_in(self) -> None:
        """Let the port appear."""
        self._ends = ours, theirs = os.openpty()
        tty.setraw(theirs)
        self.port.unlink(missing_ok=True)
        self.port.symlink_to(os.ttyname(theirs))
        self._over.clear()
        self._thread = threading.Thread(target=self._serve, args=(ours,), name="servo-chain", daemon=True)
        self._thread.start()

    def unplug(self) -> None:
        """Pull the plug: the port is gone, and whoever has it open finds it dead. The servos keep their power."""
        if self._thread is None:
            return
        self._over.set()
        self._thread.join()
        self._thread = None
        for end in self._ends:
            os.close(end)
        self.port.unlink(missing_ok=True)

    def power(self, on: bool) -> None:
        """Cut the power of all servos, or give it back; the USB adapter lives off its own plug."""
        for servo in self.servos.values():
            servo.power(on)

    def positions(self) -> Mapping[str, int]:
        """Return where the servos are, in steps as the bus reports them."""
        return {name: servo["Present_Position"] for name, servo in self.servos.items()}

    def _serve(self, ours: int) -> None:
        heard = bytearray()
        while not self._over.is_set():
            if not select.select([ours], [], [], _LOOK_S)[0]:
                self.awake_s += _LOOK_S
                continue
            heard += os.read(ours, 4096)
            while (packet := self._next_packet(heard)) is not None:
                answer = self._answer(*packet)
                if answer:
                    self._take_time(self.late_s + len(answer) * self._byte_s)
                    self.late_s = 0.0
                    with contextlib.suppress(OSError):
                        os.write(ours, answer)

    def _next_packet(self, heard: bytearray) -> tuple[int, int, bytes] | None:
        """Take the next whole packet off what was heard: whom it asks, what, and its parameters."""
        while True:
            start = heard.find(_HEADER)
            if start < 0:
                return None
            del heard[:start]
            if len(heard) < 4 or len(heard) < heard[3] + 4:
                return None
            packet = bytes(heard[: heard[3] + 4])
            del heard[: len(packet)]
            self._take_time(len(packet) * self._byte_s)
            if packet[-1] == _checksum(packet[2:-1]):
                return packet[2], packet[4], packet[5:-1]
            self.broken += 1

    def _answer(self, number: int, instruction: int, given: bytes) -> bytes:
        self.asked[Instruction(instruction)] += 1
        present = {servo.id: servo for servo in self.servos.values() if servo.answers}
        match instruction:
            case Instruction.SYNC_READ:
                asked = [present[n] for n in given[2:] if n in present]
                return b"".join(self._status(s, s.read(given[0], given[1])) for s in asked)
            case Instruction.SYNC_WRITE:
                size = given[1] + 1
                for at in range(2, len(given), size):
                    if given[at] in present:
                        present[given[at]].write(given[0], given[at + 1 : at + size])
                return b""
            case Instruction.PING if number == _EVERYBODY:
                return b"".join(self._status(servo, b"") for servo in present.values())
            case Instruction.ACTION:
                for n, (address, data) in self._planned.items():
                    if n in present:
                        present[n].write(address, data)
                self._planned.clear()
                return b""
        servo = present.get(number)
        if servo is None:
            return b""
        match instruction:
            case Instruction.READ:
                return self._status(servo, servo.read(given[0], given[1]))
            case Instruction.WRITE:
                servo.write(given[0], given[1:])
            case Instruction.REG_WRITE:
                self._planned[number] = (given[0], given[1:])
        # A servo that was given another number answers with its old one.
        return self._status(servo, b"", number)

    def _status(self, servo: Servo, data: bytes, number: int | None = None) -> bytes:
        self._said += 1
        if self.lose_every and self._said % self.lose_every == 0:
            return b""
        body = bytes([servo.id if number is None else number, len(data) + 2, int(servo.fault)]) + data
        garbled = self.garble_every and self._said % self.garble_every == 0
        return _HEADER + body + bytes([_checksum(body) ^ bool(garbled)])

    def _take_time(self, seconds: float) -> None:
        if seconds:
            time.sleep(seconds)
            self.awake_s += seconds


def _checksum(body: bytes) -> int:
    return ~sum(body) & 0xFF
