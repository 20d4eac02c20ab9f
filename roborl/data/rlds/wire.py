"""Bytes of a ``tf.train.Example`` to its lists, by name.

Protocol buffers are fields, each a tag (number and wire type) and a value. What this message consists of::

    Example   1: Features
    Features  1: entry, repeated         entry   1: name   2: Feature
    Feature   1: bytes list   2: float list   3: int64 list       each list   1: value, repeated or packed

Fields of other numbers are passed over, a name that comes twice has its last value, and a list that comes in pieces is
put together, as any reader of protocol buffers does. Whatever the bytes, nothing but a :class:`DatasetError` leaves
:func:`parse_example`, and what it makes is at most some hundred times as large as they are.

Source: the wire format, https://protobuf.dev/programming-guides/encoding, and ``tensorflow/core/example/feature.proto``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from roborl.errors import DatasetError

type Values = list[bytes] | NDArray[np.float32] | NDArray[np.int64]
"""What stands under one name; an empty list of bytes where a feature has no list at all."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_NAMES = {_VARINT: "varint", _FIXED64: "8 bytes", _BYTES: "length and bytes", _FIXED32: "4 bytes"}
_LONGEST_VARINT = 10
_BLOCK = 1 << 18


def parse_example(record: bytes) -> dict[str, Values]:
    """Return the lists of an example by name; arrays are read-only views of ``record`` where that is possible.

    Raises:
        DatasetError: If the bytes are not such a message.
    """
    found: dict[str, Values] = {}
    for number, kind, start, stop in _fields(record, 0, len(record)):
        if number != 1:
            continue
        _expect(kind, _BYTES, start, "Features")
        for inner, inner_kind, inner_start, inner_stop in _fields(record, start, stop):
            if inner == 1:
                _expect(inner_kind, _BYTES, inner_start, "an entry")
                name, values = _entry(record, inner_start, inner_stop)
                found[name] = values
    return found


def _entry(record: bytes, start: int, stop: int) -> tuple[str, Values]:
    name, values = "", list[bytes]()  # type: str, Values
    for number, kind, at, end in _fields(record, start, stop):
        if number == 1:
            _expect(kind, _BYTES, at, "a name")
            try:
                name = record[at:end].decode()
            except UnicodeDecodeError:
                _malformed("a name that is no UTF-8", at)
        elif number == 2:
            _expect(kind, _BYTES, at, "a Feature")
            values = _feature(record, at, end)
    return name, values


def _feature(record: bytes, start: int, stop: int) -> Values:
    which, pieces = 0, list[tuple[int, int]]()
    for number, kind, at, end in _fields(record, start, stop):
        if number in (1, 2, 3):
            _expect(kind, _BYTES, at, "a list")
            if number != which:  # of several kinds the last one counts
                which, pieces = number, []
            pieces.append((at, end))
    if which == 2:
        floats = [part for at, end in pieces for part in _floats(record, at, end)]
        return _joined(floats, np.dtype(np.float32))
    if which == 3:
        numbers = [part for at, end in pieces for part in _integers(record, at, end)]
        return _joined(numbers, np.dtype(np.int64))
    return [value for at, end in pieces for value in _texts(record, at, end)]


def _texts(record: bytes, start: int, stop: int) -> Iterator[bytes]:
    for number, kind, at, end in _fields(record, start, stop):
        if number == 1:
            _expect(kind, _BYTES, at, "bytes")
            yield record[at:end]


def _floats(record: bytes, start: int, stop: int) -> Iterator[NDArray[np.float32]]:
    for number, kind, at, end in _fields(record, start, stop):
        if number != 1:
            continue
        if kind != _FIXED32:
            _expect(kind, _BYTES, at, "floats")
        if (end - at) % 4:
            _malformed(f"{end - at} bytes of floats, of 4 each", at)
        yield np.frombuffer(record, "<f4", (end - at) // 4, at)


def _integers(record: bytes, start: int, stop: int) -> Iterator[NDArray[np.int64]]:
    for number, kind, at, end in _fields(record, start, stop):
        if number != 1:
            continue
        if kind != _VARINT:
            _expect(kind, _BYTES, at, "integers")
        yield from _varints(np.frombuffer(record, np.uint8, end - at, at), at)


def _varints(raw: NDArray[np.uint8], at: int) -> Iterator[NDArray[np.int64]]:
    """Decode integers that stand behind each other, of up to ten bytes of seven bits each, lowest first."""
    ends = np.flatnonzero(raw < 0x80) + 1
    if len(raw) and (not len(ends) or ends[-1] != len(raw)):
        _malformed("an integer without an end", at)
    starts = np.r_[0, ends[:-1]]
    for first in range(0, len(ends), _BLOCK):  # in pieces: each byte becomes three words for a while
        begin, end = starts[first : first + _BLOCK], ends[first : first + _BLOCK]
        lengths = end - begin
        if lengths.max() > _LONGEST_VARINT:
            _malformed(f"an integer of {lengths.max()} bytes", at)
        piece = raw[begin[0] : end[-1]]
        if len(piece) == len(begin):
            yield piece.astype(np.int64)
            continue
        place = np.arange(len(piece)) - np.repeat(begin - begin[0], lengths)
        parts = (piece & 0x7F).astype(np.uint64) << (7 * place).astype(np.uint64)
        yield np.bitwise_or.reduceat(parts, begin - begin[0]).view(np.int64)


def _joined[T: (np.float32, np.int64)](parts: list[NDArray[T]], dtype: np.dtype[T]) -> NDArray[T]:
    if len(parts) == 1:
        return parts[0]
    return np.concatenate(parts) if parts else np.zeros(0, dtype)


def _fields(record: bytes, at: int, stop: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield number, wire type, and where the value begins and ends, of each field of a message."""
    while at < stop:
        tag, at = _varint(record, at, stop)
        number, kind = tag >> 3, tag & 7
        if not 0 < number < 1 << 29:
            _malformed(f"field number {number}", at)
        if kind == _VARINT:
            _, end = _varint(record, at, stop)
        elif kind == _BYTES:
            length, at = _varint(record, at, stop)
            end = at + length
        elif kind in (_FIXED64, _FIXED32):
            end = at + (8 if kind == _FIXED64 else 4)
        else:
            _malformed(f"wire type {kind}", at)
        if end > stop:
            _malformed(f"a field of {end - at} bytes, where {stop - at} are left", at)
        yield number, kind, at, end
        at = end


def _varint(record: bytes, at: int, stop: int) -> tuple[int, int]:
    """Return the integer at a place and where it ends."""
    value = 0
    for place in range(_LONGEST_VARINT):
        if at + place >= stop:
            _malformed("an integer without an end", at)
        byte = record[at + place]
        value |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, at + place + 1
    return _malformed(f"an integer of more than {_LONGEST_VARINT} bytes", at)


def _expect(kind: int, wanted: int, at: int, what: str) -> None:
    if kind != wanted:
        _malformed(f"{_NAMES[kind]} where {what} should be", at)


def _malformed(what: str, at: int) -> NoReturn:
    raise DatasetError(
        "A record is no tf.train.Example",
        seen=f"{what}, at byte {at}",
        allowed="episodes as TFDS writes them, one to a record",
        remedy="Fetch the file again; if it is whole, it holds something else",
    )
