"""The newest policy weights on this machine: received by the I/O process, read by the inference process where they lie."""

from __future__ import annotations

import fcntl
import itertools
import mmap
import os
from collections.abc import Hashable
from functools import partial
from io import BufferedIOBase
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from roborl.codec import decode, encode, join, split
from roborl.errors import ConfigError, WireError
from roborl.loops.actor.mapped_file import map_file
from roborl.serving.buffers import lend
from roborl.serving.weight_layout import MOST_BYTES, WeightSet, lay_out
from roborl.whole_files import write_whole

_READ_ATTEMPTS = 4
_USUAL = 4  # sets at a time: the last good one, one on trial, one newer, one being filled


class WeightsSlot:
    """Holds whole sets of weights, of which the newest counts. Nobody waits, and nothing is copied on the way.

    Each set has a file of its own, ``weights-SIZE-N.bin``. Whoever uses one holds a lock on it, which goes with its process,
    however that ends; a file is filled again only when nobody does. ``weights.news`` names the newest, and is replaced as a
    whole. There is one writer at a time.

    Args:
        folder: Where the files lie.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / "weights.news"
        self._lent: dict[int, tuple[str, BufferedIOBase]] = {}  # what is being filled, by its address
        self._reserved = 0
        # Kept, for to open one costs as much as to read it: the writer's by name, the reader's by device and inode.
        self._maps: dict[Hashable, mmap.mmap] = {}

    def take(self, size: int) -> tuple[NDArray[np.uint8], None]:
        """Return memory for a set of ``size`` bytes, which nobody else uses as long as any array on it is there.

        Raises:
            ConfigError: If there is no room for the first set.
            MemoryError: If there is none for a later one.
        """
        if not size:
            return np.empty(0, np.uint8), None
        told = self._told()
        newest = "" if told is None else str(decode(split(told)).get("file"))
        try:
            if size != self._reserved:
                self._sweep(size, newest)
                # At once, so that want of room is known at the start and not hours later.
                for n in range(_USUAL):
                    self._filled(_name(size, n), size)
                self._reserved = size
            return self._free(size, newest), None
        except ConfigError as error:
            if told is None:
                raise
            raise MemoryError(str(error)) from error

    def write(self, weights: WeightSet) -> None:
        """Make a set the newest. One in memory that :meth:`take` gave stays there, and is not to be changed any more."""
        name = ""
        if weights.flat.size:
            if weights.flat.ctypes.data not in self._lent:
                flat, _ = self.take(weights.flat.size)
                flat[:] = weights.flat
                weights = WeightSet(version=weights.version, entries=weights.entries, flat=flat)
            name, lock = self._lent[weights.flat.ctypes.data]
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)  # others may read it from now on
        news = {"version": weights.version, "file": name, "manifest": weights.manifest()}
        write_whole(self._path, join(encode(news)))
        self._sweep(weights.flat.size, name)

    def read(self) -> WeightSet | None:
        """Return the newest set, None where there is none. Its memory does not change as long as it is used.

        Raises:
            WireError: If the files hold something else.
        """
        for _ in range(_READ_ATTEMPTS):
            told = self._told()
            if told is None:
                return None
            news = decode(split(told))
            try:
                version, name, manifest = int(news["version"]), str(news["file"]), news["manifest"]
            except (KeyError, TypeError, ValueError) as error:
                raise WireError("This is no news of weights", seen=self._path, remedy="Delete it") from error
            entries, size = lay_out(manifest, most_bytes=MOST_BYTES)
            flat = self._hold(name, size)
            # Held too late, if something newer has come in between: then its file may have been filled again.
            if flat is not None and self._told() == told:
                return WeightSet(version=version, entries=entries, flat=flat)
        return None

    def _told(self) -> bytes | None:
        try:
            return self._path.read_bytes()
        except FileNotFoundError:
            return None

    def _free(self, size: int, newest: str) -> NDArray[np.uint8]:
        for name in (_name(size, n) for n in itertools.count()):
            if name == newest:
                continue
            mapped = self._filled(name, size)
            lock = (self._folder / name).open("r+b")
            if _locked(lock, fcntl.LOCK_EX):
                address = np.frombuffer(mapped, np.uint8).ctypes.data
                self._lent[address] = name, lock
                return lend(mapped, partial(self._give_back, address))
            lock.close()
        raise AssertionError("there are as many files as are needed")

    def _filled(self, name: str, size: int) -> mmap.mmap:
        if name not in self._maps:
            self._maps[name] = map_file(self._folder / name, size, b"")
        return self._maps[name]

    def _hold(self, name: str, size: int) -> NDArray[np.uint8] | None:
        """Return the memory of a set and keep it from being filled again, None where that comes too late."""
        self._forget_others(size)
        if not size:
            return np.empty(0, np.uint8)
        path = self._folder / Path(name).name
        try:
            # Opened twice: a map keeps what it was made of open, and its lock with it.
            file, again = path.open("rb"), path.open("rb")
        except FileNotFoundError:
            return None
        with again:
            status = os.fstat(file.fileno())
            same = os.path.samestat(status, os.fstat(again.fileno())) and status.st_size == size
            if not same or not _locked(file, fcntl.LOCK_SH):
                file.close()
                return None
            key = (status.st_dev, status.st_ino)
            if key not in self._maps:
                # Nobody is to write there, and if somebody did, it would be to pages of their own.
                self._maps[key] = mmap.mmap(again.fileno(), size, access=mmap.ACCESS_COPY)
        return lend(self._maps[key], file.close)

    def _sweep(self, size: int, newest: str) -> None:
        """Remove the files of sets of another size, but for the newest; who still uses one keeps its memory."""
        kept = {newest, *(name for name, _ in self._lent.values())}
        for path in self._folder.glob("weights-*-*.bin"):
            if path.name not in kept and not path.name.startswith(f"weights-{size}-"):
                path.unlink()
                self._maps.pop(path.name, None)

    def _forget_others(self, size: int) -> None:
        """Keep no maps of sets of another size."""
        self._maps = {key: mapped for key, mapped in self._maps.items() if len(mapped) == size}

    def _give_back(self, address: int) -> None:
        _, lock = self._lent.pop(address)
        lock.close()


def _name(size: int, number: int) -> str:
    return f"weights-{size}-{number}.bin"


def _locked(file: BufferedIOBase, kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
