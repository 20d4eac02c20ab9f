"""Headers in msgpack, arrays as raw buffers beside them: one form for the wire, the ring and the episode log.

A message is a list of byte parts. Part 0 is a msgpack map; arrays in it stand as ``{"__array__": n, "d": dtype, "s": shape}``
and their bytes are part ``n``. Nothing is copied on the way in, arrays that come out are read-only views of the parts.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any

import msgpack
import numpy as np

from roborl.errors import WireError

type Part = bytes | memoryview
type Header = dict[str, Any]

MAX_HEADER_BYTES = 1 << 20
MAX_PARTS = 256
_DTYPES = frozenset({"|u1", "<f4", "<f8", "<i8", "<i4", "<f2", "|b1", "<u4", "<u8", "<i2", "<u2", "|i1"})


def encode(message: Mapping[str, Any]) -> list[Part]:
    """Turn a map of plain values and arrays into byte parts without copying the arrays.

    Args:
        message: Values may be None, bool, int, float, str, bytes, numpy arrays, and lists and maps of these.

    Raises:
        WireError: If an array has a dtype that is not sent.

    Example:
        >>> parts = encode({"name": "front", "rgb": np.zeros((2, 2, 3), np.uint8)})
        >>> len(parts), decode(parts)["rgb"].shape
        (2, (2, 2, 3))
    """
    parts: list[Part] = [b""]

    def default(value: object) -> object:
        if isinstance(value, np.ndarray):
            if value.dtype.str not in _DTYPES:
                raise WireError("This array cannot be sent", seen=value.dtype.str, allowed=sorted(_DTYPES))
            contiguous = np.ascontiguousarray(value)
            parts.append(memoryview(contiguous).cast("B") if contiguous.size else b"")
            return {"__array__": len(parts) - 1, "d": value.dtype.str, "s": list(value.shape)}
        if isinstance(value, np.generic):
            return value.item()
        raise WireError("This value cannot be sent", seen=type(value).__name__)

    parts[0] = msgpack.packb(message, default=default, use_bin_type=True)
    return parts


def decode(parts: Sequence[Part]) -> Header:
    """Rebuild the map that :func:`encode` was given; its arrays are read-only views of ``parts``.

    Raises:
        WireError: If the parts are not such a message. No other error leaves this function, whatever the bytes.
    """
    if not parts or len(parts) > MAX_PARTS or len(parts[0]) > MAX_HEADER_BYTES:
        raise WireError(
            "A message has the wrong size",
            seen=f"{len(parts)} parts"
            if not parts
            else f"{len(parts)} parts, header of {len(parts[0])} bytes",
            allowed=f"1 to {MAX_PARTS} parts, header up to {MAX_HEADER_BYTES} bytes",
        )

    def array(mapping: dict[Any, Any]) -> Any:
        if "__array__" not in mapping:
            return mapping
        index, dtype, shape = mapping.get("__array__"), mapping.get("d"), mapping.get("s")
        if (
            not isinstance(index, int)
            or not 0 < index < len(parts)
            or dtype not in _DTYPES
            or not isinstance(shape, list)
            or len(shape) > 8
            or not all(type(n) is int and 0 <= n < 1 << 40 for n in shape)
        ):
            raise WireError("A message describes an array that cannot be", seen=mapping)
        kind = np.dtype(dtype)
        count = 1
        for n in shape:
            count *= n
        if count * kind.itemsize != len(parts[index]):
            raise WireError(
                "An array does not fill its part",
                seen=f"{len(parts[index])} bytes",
                allowed=f"{count * kind.itemsize} bytes for {dtype} {shape}",
            )
        view = np.frombuffer(parts[index], dtype=kind).reshape(shape)
        view.flags.writeable = False
        return view

    try:
        header = msgpack.unpackb(
            parts[0], object_hook=array, raw=False, strict_map_key=True, max_buffer_size=MAX_HEADER_BYTES
        )
    except WireError:
        raise
    except Exception as error:  # msgpack documents no closed set of errors for hostile bytes
        raise WireError("A message cannot be read", seen=f"{type(error).__name__}: {error}") from error
    if not isinstance(header, dict):
        raise WireError("A message is not a map", seen=type(header).__name__)
    return header


def join(parts: Sequence[Part]) -> bytes:
    """Lay parts end to end behind their count and lengths, for a ring slot or a log.

    Example:
        >>> [bytes(part) for part in split(join([b"ab", b"", b"c"]))]
        [b'ab', b'', b'c']
    """
    sizes = struct.pack(f"<I{len(parts)}I", len(parts), *(len(part) for part in parts))
    return b"".join((sizes, *parts))


def split(blob: Part) -> list[memoryview]:
    """Undo :func:`join` without copying.

    Raises:
        WireError: If the lengths do not add up.
    """
    view = memoryview(blob)
    if len(view) < 4:
        raise WireError("A blob is too short", seen=f"{len(view)} bytes")
    (count,) = struct.unpack_from("<I", view)
    if not 0 < count <= MAX_PARTS or len(view) < 4 + 4 * count:
        raise WireError("A blob names an impossible number of parts", seen=count, allowed=MAX_PARTS)
    sizes = struct.unpack_from(f"<{count}I", view, 4)
    if 4 + 4 * count + sum(sizes) != len(view):
        raise WireError("The parts of a blob do not fill it", seen=len(view))
    parts, start = [], 4 + 4 * count
    for size in sizes:
        parts.append(view[start : start + size])
        start += size
    return parts
