"""The newest policy weights on this machine: received by the I/O process, read by the inference process where they lie."""

from __future__ import annotations

import fcntl
import itertools
import mmap
import os
from functools import partial
from io import BufferedReader
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from roborl.codec import decode, encode, split
from roborl.errors import WireError
from roborl.loops.actor.mapped_file import map_file
from roborl.loops.actor.shared import Slot
from roborl.serving.buffers import lend
from roborl.serving.weight_layout import MOST_BYTES, WeightSet, lay_out

_READ_ATTEMPTS = 4
_ROUND = 1 << 12
_USUAL = 3  # one in use, one newer, one being filled


class WeightsSlot:
    """Holds whole sets of weights, of which the newest counts. Nobody waits, and nothing is copied on the way.

    Each set has a file of its own, ``weights-SIZE-N.bin``. Whoever uses one holds a lock on it, which goes with its process,
    however that ends; a file is filled again only when nobody does. ``weights.slot`` names the newest.

    Args:
        folder: Where the files lie.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / "weights.slot"
        self._news: Slot | None = None
        self._lent: dict[int, tuple[str, BufferedReader]] = {}  # what is being filled, by its address
        self._reserved, self._swept = 0, ""
        self._maps: dict[str, mmap.mmap] = {}  # kept, for to open one costs as much as to read it

    def take(self, size: int) -> tuple[NDArray[np.uint8], None]:
        """Return memory for a set of ``size`` bytes, which nobody else uses as long as any array on it is there.

        Raises:
            ConfigError: If there is no room for it.
        """
        if not size:
            return np.empty(0, np.uint8), None
        told = self._told()
        newest = "" if told is None else str(decode(split(told)).get("file"))
        if size != self._reserved:
            # At once, so that want of room is known at the start and not hours later.
            for n in range(_USUAL):
                self._filled(f"weights-{size}-{n}.bin", size)
            self._reserved = size
        for name in (f"weights-{size}-{n}.bin" for n in itertools.count()):
            if name == newest:
                continue
            mapped = self._filled(name, size)
            lock = (self._folder / name).open("rb")
            if not _locked(lock, fcntl.LOCK_EX):
                lock.close()
                continue
            address = np.frombuffer(mapped, np.uint8).ctypes.data
            self._lent[address] = name, lock
            return lend(mapped, partial(self._give_back, address)), None
        raise AssertionError("there are as many files as are needed")

    def write(self, weights: WeightSet) -> None:
        """Make a set the newest. One in memory that :meth:`take` gave stays there, and is not to be changed any more."""
        name = ""
        if weights.flat.size:
            if weights.flat.ctypes.data not in self._lent:
                flat, _ = self.take(weights.flat.size)
                flat[:] = weights.flat
                weights = WeightSet(version=weights.version, entries=weights.entries, flat=flat)
            name, lock = self._lent[weights.flat.ctypes.data]
            fcntl.flock(lock, fcntl.LOCK_SH)
        parts = encode({"version": weights.version, "file": name, "manifest": weights.manifest()})
        size = sum(len(part) + 4 for part in parts) + 4
        if self._news is None or size > self._news.capacity_bytes:
            # In round sizes, so that the next process, whose message is a little longer, finds a slot that fits.
            self._news = Slot(self._path, -(-2 * size // _ROUND) * _ROUND)
        self._news.write(parts)
        self._sweep(name)

    def read(self) -> WeightSet | None:
        """Return the newest set, None where there is none. Its memory does not change as long as it is used.

        Raises:
            WireError: If the files hold something else.
        """
        for _ in range(_READ_ATTEMPTS):
            told = self._told()
            if told is None:
                return None
            message = decode(split(told))
            try:
                version, name, manifest = int(message["version"]), str(message["file"]), message["manifest"]
            except (KeyError, TypeError, ValueError) as error:
                raise WireError("This is no news of weights", seen=self._path, remedy="Delete it") from error
            entries, size = lay_out(manifest, most_bytes=MOST_BYTES)
            flat = self._hold(name, size)
            # Held too late, if something newer has come in between: then its file may have been filled again.
            if flat is not None and self._told() == told:
                return WeightSet(version=version, entries=entries, flat=flat)
        return None

    def _told(self) -> bytes | None:
        if not self._path.is_file():
            return None
        slot = Slot.attach(self._path)
        found = slot.read()
        slot.close()
        return None if found is None else found[1]

    def _hold(self, name: str, size: int) -> NDArray[np.uint8] | None:
        """Return the memory of a set and keep it from being filled again, None where that comes too late."""
        if not size:
            return np.empty(0, np.uint8)
        path = self._folder / Path(name).name
        try:
            file = path.open("rb")
        except FileNotFoundError:
            return None
        if os.fstat(file.fileno()).st_size != size or not _locked(file, fcntl.LOCK_SH):
            file.close()
            return None
        if name not in self._maps:
            self._forget_others(name)
            # Of a file opened once more: a map keeps what it was made of open, and its lock with it. Nobody is to write there,
            # and if somebody did, it would be to pages of their own.
            with path.open("rb") as opened_again:
                self._maps[name] = mmap.mmap(opened_again.fileno(), size, access=mmap.ACCESS_COPY)
        return lend(self._maps[name], file.close)

    def _filled(self, name: str, size: int) -> mmap.mmap:
        if name not in self._maps:
            self._maps[name] = map_file(self._folder / name, size, b"")
        return self._maps[name]

    def _sweep(self, newest: str) -> None:
        """Remove the files of sets of another size; who still uses one keeps its memory."""
        if _kind(newest) == self._swept:
            return
        self._swept = _kind(newest)
        kept = {name for name, _ in self._lent.values()}
        for path in self._folder.glob("weights-*-*.bin"):
            if _kind(path.name) != self._swept and path.name not in kept:
                path.unlink()
        self._forget_others(newest)

    def _forget_others(self, name: str) -> None:
        """Keep no maps of sets of another size than this one's."""
        self._maps = {other: mapped for other, mapped in self._maps.items() if _kind(other) == _kind(name)}

    def _give_back(self, address: int) -> None:
        _, lock = self._lent.pop(address)
        lock.close()


def _locked(file: BufferedReader, kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _kind(name: str) -> str:
    return name.rpartition("-")[0]
