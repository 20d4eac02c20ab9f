"""A set of weights on its way: copied, checked and summed up chunk by chunk."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from roborl.errors import WireError
from roborl.finite import BLOCK, all_finite
from roborl.serving.buffers import Buffers
from roborl.serving.sockets import Limits
from roborl.serving.weight_layout import MOST_BYTES, ArrayPlace, Arrays, WeightSet, lay_out, manifest_of

CHUNK_BYTES = 1 << 20
LIMITS = Limits(part_bytes=4 << 20, queue=256)


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
        WireError: If an array has a dtype that is not sent, or there is too much of them.
    """

    def __init__(self, version: int, arrays: Arrays, buffers: Buffers) -> None:
        entries, size = lay_out(manifest_of(arrays), most_bytes=MOST_BYTES)
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


def _copy_finite(entry: ArrayPlace, array: NDArray[Any], target: NDArray[Any]) -> Iterator[int]:
    """Copy an array and yield how many of its bytes are there and finite."""
    if not array.flags.c_contiguous:
        np.copyto(target.reshape(entry.shape), array)
        check_finite(entry.name, target)
        yield target.nbytes
        return
    source = array.reshape(-1)
    for start in range(0, source.size, BLOCK):  # checked while it is still in the cache
        block = target[start : start + BLOCK]
        np.copyto(block, source[start : start + BLOCK])
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
    if not all_finite(array):
        raise WireError(
            f"Weights {name!r} are not finite",
            seen=f"{int((~np.isfinite(array)).sum())} of {array.size} values in one place",
            allowed="finite numbers",
            remedy="The last good set stays in use; look at the learning rate and the losses",
        )
