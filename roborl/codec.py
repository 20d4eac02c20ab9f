"""Headers in msgpack, arrays as raw buffers beside them: one form for the wire, the ring and the episode log.

A message is a list of byte parts. Part 0 is a msgpack map; an array in it stands as an extension value that names its
part, dtype and shape. Nothing is copied on the way in, arrays that come out are read-only views of the parts.
"""

from __future__ import annotations

import math
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
MAX_RECORD_BYTES = 64 << 20
"""Of a step, laid end to end, on its way from an actor to its learner."""
_MAX_DIMENSIONS = 8
_MAX_PART_BYTES = (1 << 32) - 1

_ARRAY = 1  # msgpack extension code
_DTYPES = ("|u1", "<f4", "<f8", "<i8", "<i4", "<f2", "|b1", "<u4", "<u8", "<i2", "<u2", "|i1")
_KINDS = [np.dtype(name) for name in _DTYPES]
_CODES = {kind: code for code, kind in enumerate(_KINDS)}
_HEADS = [struct.Struct(f"<BB{ndim}Q") for ndim in range(_MAX_DIMENSIONS + 1)]


def encode(message: Mapping[str, Any]) -> list[Part]:
    """Turn a map of plain values and arrays into byte parts without copying the arrays.

    Args:
        message: Values may be None, bool, int (64 bits), float, str, bytes, numpy arrays, and lists and maps (with str
            keys) of these. An array that is not contiguous is copied.

    Raises:
        WireError: If a value cannot be sent, or more than ``MAX_PARTS`` or ``MAX_HEADER_BYTES`` would be needed.

    Example:
        >>> parts = encode({"name": "front", "rgb": np.zeros((2, 2, 3), np.uint8)})
        >>> len(parts), decode(parts)["rgb"].shape
        (2, (2, 2, 3))
    """
    parts: list[Part] = [b""]

    def default(value: object) -> object:
        if isinstance(value, np.ndarray):
            code = _CODES.get(value.dtype)
            if code is None or value.ndim > _MAX_DIMENSIONS:
                raise WireError(
                    "This array cannot be sent",
                    seen=f"{value.dtype.str} with {value.ndim} dimensions",
                    allowed=f"up to {_MAX_DIMENSIONS} dimensions of {', '.join(_DTYPES)}",
                )
            whole = value if value.flags.c_contiguous else np.ascontiguousarray(value)
            parts.append(memoryview(whole).cast("B") if value.size else b"")
            head = _HEADS[value.ndim].pack(len(parts) - 1 & 0xFF, code, *value.shape)
            return msgpack.ExtType(_ARRAY, head)
        if isinstance(value, np.generic) and value.dtype in _CODES:
            return value.item()
        raise WireError("This value cannot be sent", seen=type(value).__name__)

    try:
        parts[0] = msgpack.packb(message, default=default, use_bin_type=True)
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise WireError("A message cannot be written", seen=f"{type(error).__name__}: {error}") from error
    _check_size(parts)
    return parts


def decode(parts: Sequence[Part]) -> Header:
    """Rebuild the map that :func:`encode` was given; its arrays are read-only views of ``parts``.

    Parts are bytes, or views of single bytes. Parts that no array names are allowed: links carry opaque payloads behind a message.

    Raises:
        WireError: If the parts are not such a message. No other error leaves this function, whatever the bytes.
    """
    _check_size(parts)
    named: set[int] = set()

    def array(code: int, data: bytes) -> Any:
        ndim, rest = divmod(len(data) - 2, 8)
        if code != _ARRAY or rest or not 0 <= ndim <= _MAX_DIMENSIONS:
            raise WireError("A message holds an unknown extension", seen=f"code {code}, {len(data)} bytes")
        index, kind, *shape = _HEADS[ndim].unpack(data)
        if not 0 < index < len(parts) or index in named or kind >= len(_KINDS):
            raise WireError("A message describes an array that cannot be", seen=(index, kind, shape))
        named.add(index)
        return _view(parts[index], _KINDS[kind], shape)

    try:
        header = msgpack.unpackb(parts[0], object_hook=_text_keys, ext_hook=array, raw=False, timestamp=0)
    except WireError:
        raise
    except Exception as error:  # msgpack documents no closed set of errors for hostile bytes
        raise WireError("A message cannot be read", seen=f"{type(error).__name__}: {error}") from error
    if not isinstance(header, dict):
        raise WireError("A message is not a map", seen=type(header).__name__)
    return header


def join(parts: Sequence[Part]) -> bytes:
    """Lay parts end to end behind their count and lengths, for a ring slot or a log.

    Raises:
        WireError: If there is no part, or too many, or one of 4 GiB.

    Example:
        >>> [bytes(part) for part in split(join([b"ab", b"", b"c"]))]
        [b'ab', b'', b'c']
    """
    sizes = [memoryview(part).nbytes for part in parts]
    if not 0 < len(sizes) <= MAX_PARTS or max(sizes) > _MAX_PART_BYTES:
        raise WireError(
            "These parts cannot be laid end to end",
            seen=f"{len(sizes)} parts, the largest of {max(sizes, default=0)} bytes",
            allowed=f"1 to {MAX_PARTS} parts of up to {_MAX_PART_BYTES} bytes",
        )
    return b"".join(laid_out(parts)[1])


def laid_out(parts: Sequence[Part]) -> tuple[int, tuple[Part, ...]]:
    """Return how long :func:`join` makes parts, and what it lays end to end: their count and lengths, then they. Copies nothing."""
    sizes = [memoryview(part).nbytes for part in parts]
    head = struct.pack(f"<I{len(sizes)}I", len(sizes), *sizes)
    return len(head) + sum(sizes), (head, *parts)


def split(blob: Part) -> list[memoryview]:
    """Undo :func:`join` without copying.

    Raises:
        WireError: If the lengths do not add up.
    """
    view = memoryview(blob).cast("B")
    if len(view) < 4:
        raise WireError("A blob is too short", seen=f"{len(view)} bytes", allowed="4 bytes and more")
    (count,) = struct.unpack_from("<I", view)
    if not 0 < count <= MAX_PARTS or len(view) < 4 + 4 * count:
        raise WireError("A blob names an impossible number of parts", seen=count, allowed=MAX_PARTS)
    sizes = struct.unpack_from(f"<{count}I", view, 4)
    if 4 + 4 * count + sum(sizes) != len(view):
        raise WireError(
            "The parts of a blob do not fill it", seen=len(view), allowed=4 + 4 * count + sum(sizes)
        )
    parts, start = [], 4 + 4 * count
    for size in sizes:
        parts.append(view[start : start + size])
        start += size
    return parts


def _check_size(parts: Sequence[Part]) -> None:
    header = len(parts[0]) if parts else 0
    if not 0 < len(parts) <= MAX_PARTS or header > MAX_HEADER_BYTES:
        raise WireError(
            "A message has the wrong size",
            seen=f"{len(parts)} parts, header of {header} bytes",
            allowed=f"1 to {MAX_PARTS} parts, header up to {MAX_HEADER_BYTES} bytes",
        )


def _text_keys(mapping: dict[Any, Any]) -> dict[Any, Any]:
    for key in mapping:
        if type(key) is not str:
            raise WireError("A map in a message has a key that is not text", seen=type(key).__name__)
    return mapping


def _view(part: Part, kind: np.dtype[Any], shape: list[int]) -> np.ndarray[Any, Any]:
    if math.prod(shape) * kind.itemsize != len(part):
        raise WireError(
            "An array does not fill its part",
            seen=f"{len(part)} bytes",
            allowed=f"{kind.str} {tuple(shape)}",
        )
    view: np.ndarray[Any, Any] = np.ndarray(shape, kind, part)
    if kind == np.bool_ and len(part) and int(view.view(np.uint8).max()) > 1:
        raise WireError("A boolean array holds other bytes than 0 and 1")
    view.flags.writeable = False
    return view
