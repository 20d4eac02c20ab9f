"""What the actor's processes share: slots that hold the newest value, and a doorbell. Memory-mapped files.

One process writes each of them and never waits; the others read whole values or none. All of it survives SIGKILL of
either side at any instant, and a process that starts again attaches to what it finds.
"""

from __future__ import annotations

import contextlib
import math
import os
import select
import struct
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roborl.codec import Part, decode, encode, laid_out, split
from roborl.errors import ShapeError, WireError
from roborl.loops.actor.mapped_file import map_file
from roborl.types import EpisodeKey, Frame, Observation

_MAGIC = 0x31544F4C53425252
_HEADER = struct.Struct("<QQQ")  # magic, bytes per bank, sequence number of the newest value (0 for none)
_BANK = struct.Struct("<QQQ")  # sequence number before the value, after it, and the value's length
_U64 = struct.Struct("<Q")
_LATEST_AT = 16
_BANKS = 2
_READ_ATTEMPTS = 4

_lock = threading.Lock()


def _fence() -> None:
    """Keep the stores before this call before those after it, on processors that would reorder them.

    Taking a lock is an acquire and giving it back a release, so two rounds order everything on both sides.
    """
    with _lock:
        pass
    with _lock:
        pass


class Slot:
    """The newest value of one writer: two banks, written in turn, so that the last whole value stays readable.

    Args:
        path: The mapped file; made where it is missing or has another size.
        capacity_bytes: The largest value.
    """

    def __init__(self, path: Path, capacity_bytes: int) -> None:
        self._bank_bytes = _BANK.size + (capacity_bytes + 63) // 64 * 64
        self.capacity_bytes = self._bank_bytes - _BANK.size
        head = _HEADER.pack(_MAGIC, self._bank_bytes, 0)[:_LATEST_AT]
        self._map = map_file(path, _HEADER.size + _BANKS * self._bank_bytes, head)

    @classmethod
    def attach(cls, path: Path) -> Slot:
        """Open an existing slot with the size that it has.

        Raises:
            WireError: If the file is not a slot.
        """
        with path.open("rb") as file:
            magic, bank_bytes, _ = _HEADER.unpack(file.read(_HEADER.size).ljust(_HEADER.size, b"\0"))
        if magic != _MAGIC:
            raise WireError("This file is not a shared slot", seen=path, remedy="Delete it")
        return cls(path, bank_bytes - _BANK.size)

    @property
    def sequence(self) -> int:
        """Sequence number of the newest value, counted from 1; 0 for none."""
        return int(_U64.unpack_from(self._map, _LATEST_AT)[0])

    def write(self, parts: Sequence[Part]) -> int:
        """Publish a value and return its sequence number. Copies the parts once and never waits.

        Raises:
            ShapeError: If the value is larger than the slot; the one before stays.
        """
        length, pieces = laid_out(parts)
        if length > self.capacity_bytes:
            raise ShapeError(
                "A value does not fit its shared slot", seen=f"{length} bytes", allowed=self.capacity_bytes
            )
        sequence = self.sequence + 1
        start = self._bank_start(sequence)
        _U64.pack_into(self._map, start, sequence)
        _fence()
        at = start + _BANK.size
        for piece in pieces:
            self._map[at : at + len(piece)] = piece
            at += len(piece)
        _U64.pack_into(self._map, start + 16, length)
        _fence()
        _U64.pack_into(self._map, start + 8, sequence)
        _fence()
        _U64.pack_into(self._map, _LATEST_AT, sequence)
        return sequence

    def read(self, newer_than: int = 0) -> tuple[int, bytes] | None:
        """Return the newest whole value and its sequence number, or None where there is none newer.

        Never waits: a writer that overtakes the reader several times running also gives None.
        """
        for _ in range(_READ_ATTEMPTS):
            sequence = self.sequence
            if sequence <= newer_than:
                return None
            start = self._bank_start(sequence)
            _fence()
            _, after, length = _BANK.unpack_from(self._map, start)
            if after == sequence and length <= self.capacity_bytes:
                blob = self._map[start + _BANK.size : start + _BANK.size + length]
                _fence()
                if _U64.unpack_from(self._map, start)[0] == sequence:
                    return sequence, blob
        return None

    def close(self) -> None:
        """Unmap the file, which stays."""
        self._map.close()

    def _bank_start(self, sequence: int) -> int:
        return _HEADER.size + sequence % _BANKS * self._bank_bytes


class ValueSlot[T]:
    """A slot whose values travel as maps of what the codec carries.

    Args:
        path: The mapped file; made where it is missing or has another size.
        capacity_bytes: The largest map.
        what: A value's name, for messages.
        pack: Makes a map of a value.
        unpack: Makes a value of a map, or fails where the map is none.
    """

    def __init__(
        self,
        path: Path,
        capacity_bytes: int,
        what: str,
        pack: Callable[[T], Mapping[str, Any]],
        unpack: Callable[[dict[str, Any]], T],
    ) -> None:
        self._slot = Slot(path, capacity_bytes)
        self._what, self._pack, self._unpack = what, pack, unpack
        self._seen = 0

    def publish(self, value: T) -> None:
        """Make a value the newest. Never waits."""
        self._slot.write(encode(self._pack(value)))

    def newest(self) -> T | None:
        """Return the newest value, seen before or not; None before the first. Never waits.

        Raises:
            WireError: If the writer left something else.
        """
        self._seen = 0
        return self.unseen()

    def unseen(self) -> T | None:
        """Return the newest value where this reader has not had it yet, else None. Never waits.

        Raises:
            WireError: If the writer left something else; that too is had once.
        """
        found = self._slot.read(self._seen)
        if found is None:
            return None
        self._seen, blob = found
        message = decode(split(blob))
        try:
            return self._unpack(message)
        except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
            raise WireError(f"{self._what} is malformed", seen=f"{type(error).__name__}: {error}") from error


class Doorbell:
    """Wakes a waiting process, through a named pipe. Ringing never waits, and a lost ring costs one time-out.

    Args:
        path: The pipe; made where it is missing.
    """

    def __init__(self, path: Path) -> None:
        with contextlib.suppress(FileExistsError):
            os.mkfifo(path, 0o600)
        # Opened for both directions, so that neither side ever sees the other one missing.
        self._fd = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        self._close = weakref.finalize(self, os.close, self._fd)

    def ring(self) -> None:
        """Wake the listener."""
        with contextlib.suppress(BlockingIOError):
            os.write(self._fd, b"!")

    def wait(self, timeout_s: float) -> bool:
        """Sleep until somebody rings; False after ``timeout_s``."""
        ready, _, _ = select.select([self._fd], [], [], timeout_s)
        if ready:
            with contextlib.suppress(BlockingIOError):
                os.read(self._fd, 4096)
        return bool(ready)

    def close(self) -> None:
        """Close this end."""
        self._close()


@dataclass(frozen=True, kw_only=True)
class Request:
    """An observation for the inference process.

    Attributes:
        key: The episode; another one than before means that the policy forgets the last.
        index: Which observation of it.
        wanted: Whether control needs a chunk that starts here.
        after_person: Whether a person commanded the step before: what the policy planned until then is out of date.
        observation: The observation itself.
    """

    key: EpisodeKey
    index: int
    wanted: bool
    after_person: bool = False
    observation: Observation


def inference_bell(folder: Path) -> Doorbell:
    """Return what wakes the inference process: for an observation, or for new weights."""
    return Doorbell(folder / "inference.bell")


class ObservationSlot(ValueSlot[Request]):
    """The newest observation, from control to inference and to whoever else watches.

    Args:
        folder: Where ``observation.slot`` and the doorbell lie.
        cameras: Picture shapes (h, w, 3) by camera name.
        state_dim: Size of the state.
    """

    def __init__(self, folder: Path, cameras: dict[str, tuple[int, int, int]], state_dim: int) -> None:
        pixels = sum(math.prod(shape) for shape in cameras.values())
        capacity_bytes = pixels + 4 * state_dim + 8192
        super().__init__(
            folder / "observation.slot", capacity_bytes, "An observation", _pack_request, _unpack_request
        )
        self._bell = inference_bell(folder)

    def publish(self, value: Request) -> None:
        """Write the observation and wake the reader."""
        super().publish(value)
        self._bell.ring()

    def wait(self, timeout_s: float) -> Request | None:
        """Return the newest unread observation, sleeping up to ``timeout_s`` for one, or until the bell rings for weights."""
        request = self.unseen()
        if request is None and self._bell.wait(timeout_s):
            request = self.unseen()
        return request


def _pack_request(request: Request) -> dict[str, Any]:
    observation = request.observation
    frames = {
        name: {"rgb": frame.rgb, "stamp_ns": frame.stamp_ns, "id": frame.id}
        for name, frame in observation.frames.items()
    }
    return {
        "key": str(request.key),
        "index": request.index,
        "wanted": request.wanted,
        "after_person": request.after_person,
        "state": observation.state,
        "stamp_ns": observation.stamp_ns,
        "frames": frames,
    }


def _unpack_request(message: dict[str, Any]) -> Request:
    frames = {
        name: Frame(rgb=frame["rgb"], camera=name, stamp_ns=frame["stamp_ns"], id=frame["id"])
        for name, frame in message["frames"].items()
    }
    return Request(
        key=EpisodeKey.parse(message["key"]),
        index=int(message["index"]),
        wanted=bool(message["wanted"]),
        after_person=bool(message["after_person"]),
        observation=Observation(frames=frames, state=message["state"], stamp_ns=message["stamp_ns"]),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Chunk:
    """Actions proposed for the policy steps from ``first`` on.

    Attributes:
        key: The episode they are meant for.
        first: Index of the observation that they were chosen at.
        actions: float32 (h, a), in [-1, 1].
        policy_version: Version of the weights that chose them.
    """

    key: EpisodeKey
    first: int
    actions: NDArray[np.float32]
    policy_version: int

    def covers(self, key: EpisodeKey, index: int) -> bool:
        """True where the chunk holds an action for step ``index`` of episode ``key``."""
        return self.key == key and self.first <= index < self.first + len(self.actions)


class ChunkSlot(ValueSlot[Chunk]):
    """The newest action chunk, from inference to control.

    Args:
        folder: Where ``chunk.slot`` lies.
        capacity_bytes: The largest chunk.
    """

    def __init__(self, folder: Path, capacity_bytes: int = 1 << 16) -> None:
        super().__init__(folder / "chunk.slot", capacity_bytes, "A chunk", _pack_chunk, _unpack_chunk)


def _pack_chunk(chunk: Chunk) -> dict[str, Any]:
    return {**vars(chunk), "key": str(chunk.key)}


def _unpack_chunk(message: dict[str, Any]) -> Chunk:
    return Chunk(
        key=EpisodeKey.parse(message["key"]),
        first=int(message["first"]),
        actions=np.asarray(message["actions"], np.float32),
        policy_version=int(message["policy_version"]),
    )
