"""A set of weights as one flat buffer and a manifest, checked on both sides of the link."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from roborl.errors import WireError
from roborl.serving.buffers import Buffers
from roborl.serving.sockets import Limits

type Arrays = Mapping[str, NDArray[Any]]

CHUNK_BYTES = 1 << 20
MOST_BYTES = 1 << 30
"""The largest set that a subscriber takes."""
LIMITS = Limits(part_bytes=4 << 20, queue=256)
_ALIGN = 64
_DTYPES = frozenset({"<f4", "<f2", "<f8", "<i8", "<i4", "|u1", "|i1", "|b1"})
_FINITE_BLOCK = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """Where one array lies in the flat buffer."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int

    @property
    def stop(self) -> int:
        """One past its last byte."""
        return self.start + math.prod(self.shape) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class WeightSet:
    """One version of a policy's weights.

    Attributes:
        version: Counts up with every publication.
        entries: The arrays in the order of the buffer.
        flat: All bytes, uint8 (n,).
    """

    version: int
    entries: Sequence[Entry]
    flat: NDArray[np.uint8]

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return read-only views of the buffer by name."""
        views = {}
        for entry in self.entries:
            view = self.flat[entry.start : entry.stop].view(entry.dtype).reshape(entry.shape)
            view.flags.writeable = False
            views[entry.name] = view
        return views

    def manifest(self) -> list[list[Any]]:
        """Return name, dtype and shape of each array as plain values."""
        return [[entry.name, entry.dtype, list(entry.shape)] for entry in self.entries]


def lay_out(manifest: object, *, most_bytes: int) -> tuple[list[Entry], int]:
    """Place the arrays of a manifest in a flat buffer, each at a multiple of 64 bytes.

    Args:
        manifest: What :meth:`WeightSet.manifest` returned, or hostile bytes.
        most_bytes: Largest buffer accepted.

    Returns:
        The entries and the size of the buffer in bytes.

    Raises:
        WireError: If it is no manifest, or a buffer too large.
    """
    entries: list[Entry] = []
    end = 0
    for row in manifest if isinstance(manifest, list) else [None]:
        if (
            not isinstance(row, list)
            or len(row) != 3
            or type(row[0]) is not str
            or row[1] not in _DTYPES
            or not isinstance(row[2], list)
            or len(row[2]) > 8
            or not all(type(n) is int and 0 <= n <= most_bytes for n in row[2])
        ):
            raise WireError("A manifest of weights is malformed", seen=repr(row)[:120])
        entry = Entry(name=row[0], dtype=row[1], shape=tuple(row[2]), start=end)
        end = -(-entry.stop // _ALIGN) * _ALIGN
        if end > most_bytes:
            raise WireError("A set of weights is too large", seen=f"{end} bytes", allowed=most_bytes)
        entries.append(entry)
    if len({entry.name for entry in entries}) != len(entries):
        raise WireError("A manifest of weights names an array twice")
    return entries, end


class Packing:
    """A set on its way into one buffer: its chunks get whole one after the other, and may be sent while others follow.

    One thread fills it, another may read what is whole.

    Args:
        version: Its version.
        arrays: By name.
        buffers: Where the buffer comes from.

    Attributes:
        weights: The set; bytes beyond the whole chunks are undefined.
        chunks: All its bytes, cut.
        digests: XXH3 check sum of each whole chunk, uint64.
        memory: Where another process of this machine finds the buffer, None where it cannot.
        whole: How many chunks, from the first on, are final.
        failed: The rest will never come.

    Raises:
        WireError: If an array has a dtype that is not sent.
    """

    def __init__(self, version: int, arrays: Arrays, buffers: Buffers) -> None:
        manifest = []
        for name, array in arrays.items():
            if array.dtype.str not in _DTYPES:
                raise WireError(
                    f"Weights {name!r} cannot be sent", seen=array.dtype.str, allowed=sorted(_DTYPES)
                )
            manifest.append([name, array.dtype.str, list(array.shape)])
        entries, size = lay_out(manifest, most_bytes=1 << 40)
        flat, self.memory = buffers.take(size)
        self.weights = WeightSet(version=version, entries=entries, flat=flat)
        self.chunks = chunks(flat)
        self.digests = np.zeros(len(self.chunks), np.uint64)
        self.whole = 0
        self.failed = False

    @property
    def done(self) -> bool:
        """Whether all of it is there."""
        return self.whole == len(self.chunks)

    def fill(self, arrays: Arrays) -> Iterator[int]:
        """Copy the arrays in, and yield how many chunks are whole whenever there are more.

        Each byte is copied, checked and summed up while it is in the processor's cache.

        Raises:
            WireError: If an array is not finite; then the packing has failed.
        """
        try:
            for entry in self.weights.entries:
                target = self.weights.flat[entry.start : entry.stop].view(entry.dtype)
                for landed in _copy_finite(entry, arrays[entry.name], target):
                    yield from self._seal(entry.start + landed)
            yield from self._seal(self.weights.flat.size)
        finally:
            self.failed = not self.done

    def _seal(self, landed: int) -> Iterator[int]:
        before = self.whole
        while not self.done and landed >= min((self.whole + 1) * CHUNK_BYTES, self.weights.flat.size):
            self.digests[self.whole] = digest(self.chunks[self.whole])
            self.whole += 1
        if self.whole > before:
            yield self.whole


def _copy_finite(entry: Entry, array: NDArray[Any], target: NDArray[Any]) -> Iterator[int]:
    """Copy an array and yield how many of its bytes are there and finite."""
    if not array.flags.c_contiguous:
        np.copyto(target.reshape(entry.shape), array)
        check_finite(entry.name, target)
        yield target.nbytes
        return
    source = array.reshape(-1)
    for start in range(0, source.size, _FINITE_BLOCK):  # checked while it is still in the cache
        block = target[start : start + _FINITE_BLOCK]
        np.copyto(block, source[start : start + _FINITE_BLOCK])
        check_finite(entry.name, block)
        yield start * target.itemsize + block.nbytes


def chunks(flat: NDArray[np.uint8]) -> list[memoryview]:
    """Cut a buffer into views of ``CHUNK_BYTES``, the last one shorter."""
    view = memoryview(flat)
    return [view[start : start + CHUNK_BYTES] for start in range(0, flat.size, CHUNK_BYTES)]


def digest(chunk: memoryview | bytes) -> int:
    """Return the check sum that travels with a chunk."""
    return xxhash.xxh3_64_intdigest(chunk)


def check_finite(name: str, array: NDArray[Any]) -> None:
    """Refuse weights that hold NaN or infinity.

    Raises:
        WireError: Naming the array.
    """
    if array.dtype.kind != "f":
        return
    flat = array.reshape(-1)
    for start in range(0, flat.size, _FINITE_BLOCK):
        block = flat[start : start + _FINITE_BLOCK]
        # A product with itself is finite only where all are, and runs at memory speed; very large ones are looked at again.
        if (
            not (block.dtype == np.float32 and np.isfinite(np.dot(block, block)))
            and not np.isfinite(block).all()
        ):
            raise WireError(
                f"Weights {name!r} are not finite",
                seen=f"{int((~np.isfinite(block)).sum())} of {block.size} values from {start} on",
                allowed="finite numbers",
                remedy="The last good set stays in use; look at the learning rate and the losses",
            )
