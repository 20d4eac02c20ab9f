"""Large byte buffers that are used again, and that another process of this machine may read."""

from __future__ import annotations

import fcntl
import mmap
import os
import stat
import sys
from collections.abc import Buffer, Callable
from functools import partial
from inspect import BufferFlags
from io import BufferedIOBase
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from roborl.errors import WireError


class SharedMemory(NamedTuple):
    """Where a buffer is to be found by other processes of the same user on this machine."""

    pid: int
    descriptor: int

    @classmethod
    def from_wire(cls, value: object) -> SharedMemory:
        """Read a pair of numbers from a message.

        Raises:
            WireError: If it is none.
        """
        if (
            not isinstance(value, list)
            or len(value) != 2
            or not all(type(n) is int and n >= 0 for n in value)
        ):
            raise WireError("A place in memory is malformed", seen=repr(value)[:80])
        return cls(value[0], value[1])


class Windows:
    """Views of buffers in other processes, kept open since opening one costs as much as reading it."""

    _KEPT = 4

    def __init__(self) -> None:
        self._open: dict[tuple[int, int], memoryview] = {}

    def view(self, memory: SharedMemory, size: int) -> memoryview:
        """Return the ``size`` bytes of another process's buffer, read-only.

        Raises:
            OSError: If it cannot be reached from this process.
            WireError: If it is no buffer of ours of that size.
        """
        descriptor = os.open(f"/proc/{memory.pid}/fd/{memory.descriptor}", os.O_RDONLY | os.O_NONBLOCK)
        try:
            status = os.fstat(descriptor)
            # Without the seal its owner could shorten it, and reading on would kill this process.
            if not stat.S_ISREG(status.st_mode) or status.st_size != size or not _sealed(descriptor):
                raise WireError(
                    "A buffer in memory is not what was announced", seen=status.st_size, allowed=size
                )
            key = (status.st_dev, status.st_ino)
            if key not in self._open:
                while len(self._open) >= self._KEPT:
                    del self._open[next(iter(self._open))]
                self._open[key] = memoryview(mmap.mmap(descriptor, size, prot=mmap.PROT_READ))
            return self._open[key]
        finally:
            os.close(descriptor)

    def clear(self) -> None:
        """Let go of all views: whose they were is gone."""
        self._open.clear()


def _sealed(descriptor: int) -> bool:
    try:
        return bool(fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK)
    except OSError:
        return False


class _Memory(NamedTuple):
    array: NDArray[np.uint8]
    file: BufferedIOBase | None  # closes its descriptor when nobody holds it any more


class Buffers:
    """Hands out buffers, and takes each back once the last array on it is gone: fresh memory costs more than a copy.

    Args:
        shared: Whether other processes of this machine may read them, where the system can do that.

    Example:
        >>> buffers = Buffers()
        >>> first, _ = buffers.take(64)
        >>> address = first.ctypes.data
        >>> del first
        >>> buffers.take(64)[0].ctypes.data == address
        True
    """

    def __init__(self, *, shared: bool = False) -> None:
        self._shared = shared and sys.platform == "linux"
        self._free: list[_Memory] = []

    def take(self, size: int) -> tuple[NDArray[np.uint8], SharedMemory | None]:
        """Return a writable array of ``size`` bytes, its content undefined, and where others find it."""
        if size == 0:
            return np.empty(0, np.uint8), None
        while self._free:
            memory = self._free.pop()
            if memory.array.size == size:
                break
        else:
            memory = self._make(size)
        where = None if memory.file is None else SharedMemory(os.getpid(), memory.file.fileno())
        return lend(memory.array, partial(self._free.append, memory)), where

    def _make(self, size: int) -> _Memory:
        if not self._shared:
            return _Memory(np.empty(size, np.uint8), None)
        file = os.fdopen(os.memfd_create("roborl", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING), "r+b")
        os.ftruncate(file.fileno(), size)
        fcntl.fcntl(file.fileno(), fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
        return _Memory(np.frombuffer(mmap.mmap(file.fileno(), size), np.uint8), file)


def lend(memory: Buffer, give_back: Callable[[], None]) -> NDArray[np.uint8]:
    """Return an array on some memory, uint8 (n,), and call ``give_back`` once neither it nor any array on it is left."""
    return np.frombuffer(_Lease(memory, give_back), np.uint8)


class _Lease:
    def __init__(self, memory: Buffer, give_back: Callable[[], None]) -> None:
        self._memory, self._give_back = memory, give_back

    def __buffer__(self, flags: int) -> memoryview:
        view = memoryview(self._memory)
        if view.readonly and flags & BufferFlags.WRITABLE:
            # Asked like this first; whoever hands the view out all the same is never told when it is given up.
            raise BufferError("this memory is only read")
        return view

    def __release_buffer__(self, view: memoryview) -> None:
        view.release()
        self._give_back()
