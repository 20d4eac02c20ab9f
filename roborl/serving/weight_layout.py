"""A set of weights as one flat buffer and a manifest. Knows no sockets: the policy's process reads sets too."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roborl.errors import WireError

type Arrays = Mapping[str, NDArray[Any]]

MOST_BYTES = 1 << 30
"""The largest set that a subscriber takes."""
_ALIGN = 64
_DTYPES = frozenset({"<f4", "<f2", "<f8", "<i8", "<i4", "|u1", "|i1", "|b1"})


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrayPlace:
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
    entries: Sequence[ArrayPlace]
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

    @classmethod
    def of(cls, version: int, arrays: Arrays) -> WeightSet:
        """Copy arrays into a set.

        Raises:
            WireError: If one has a dtype that is not sent.
        """
        entries, size = lay_out(manifest_of(arrays), most_bytes=MOST_BYTES)
        flat = np.zeros(size, np.uint8)
        for entry in entries:
            flat[entry.start : entry.stop].view(entry.dtype).reshape(entry.shape)[...] = arrays[entry.name]
        return cls(version=version, entries=entries, flat=flat)


def manifest_of(arrays: Arrays) -> list[list[Any]]:
    """Return name, dtype and shape of each array as plain values.

    Raises:
        WireError: If one has a dtype that is not sent.
    """
    for name, array in arrays.items():
        if array.dtype.str not in _DTYPES:
            raise WireError(f"Weights {name!r} cannot be sent", seen=array.dtype.str, allowed=sorted(_DTYPES))
    return [[name, array.dtype.str, list(array.shape)] for name, array in arrays.items()]


def lay_out(manifest: object, *, most_bytes: int) -> tuple[list[ArrayPlace], int]:
    """Place the arrays of a manifest in a flat buffer, each at a multiple of 64 bytes.

    Args:
        manifest: What :meth:`WeightSet.manifest` returned, or hostile bytes.
        most_bytes: Largest buffer accepted.

    Returns:
        The entries and the size of the buffer in bytes.

    Raises:
        WireError: If it is no manifest, or a buffer too large.
    """
    entries: list[ArrayPlace] = []
    end = 0
    for row in manifest if isinstance(manifest, list) else [None]:
        if (
            not isinstance(row, list)
            or len(row) != 3
            or type(row[0]) is not str
            or type(row[1]) is not str
            or row[1] not in _DTYPES
            or not isinstance(row[2], list)
            or len(row[2]) > 8
            or not all(type(n) is int and n >= 0 for n in row[2])
            or math.prod(filter(None, row[2])) > most_bytes
        ):
            raise WireError("A manifest of weights is malformed", seen=repr(row)[:120])
        entry = ArrayPlace(name=row[0], dtype=row[1], shape=tuple(row[2]), start=end)
        end = -(-entry.stop // _ALIGN) * _ALIGN
        if end > most_bytes:
            raise WireError("A set of weights is too large", seen=f"{end} bytes", allowed=most_bytes)
        entries.append(entry)
    if len({entry.name for entry in entries}) != len(entries):
        raise WireError("A manifest of weights names an array twice")
    return entries, end
