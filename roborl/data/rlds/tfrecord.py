"""TFRecord files: records one behind the other, each between checksums, and where each of them begins.

A record is its length (uint64), a checksum of the length, the bytes, and a checksum of the bytes. Nothing in a file says
where records begin, so a file is gone through once, header by header, and the places are kept in the cache.

Source: the layout and the mask of the checksum are TensorFlow's, ``tensorflow/core/lib/io/record_writer.h``.
"""

from __future__ import annotations

import hashlib
import logging
import os
import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from roborl.errors import DatasetError
from roborl.paths import cache_folder
from roborl.whole_files import whole_file

log = logging.getLogger(__name__)

_HEADER = struct.Struct("<QI")
_FOOTER_BYTES = 4
_MASK = 0xA282EAD8
_FETCH = "Fetch the file again"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RecordIndex:
    """Where the records of a file are.

    Attributes:
        offsets: Where each begins, its header included, int64 (n,), in bytes.
        lengths: How long each is without header and checksums, int64 (n,), in bytes.
        torn: What is wrong behind the last whole record; empty for a whole file.
    """

    offsets: NDArray[np.int64]
    lengths: NDArray[np.int64]
    torn: str = ""


def masked_crc(data: bytes) -> int:
    """Return the checksum that stands in TFRecord files: CRC-32C, rotated by 15 bits, plus a constant.

    Example:
        >>> hex(masked_crc(b"123456789"))
        '0xc78ab0e5'
    """
    crc = int(google_crc32c.value(data))
    return (((crc >> 15) | (crc << 17)) + _MASK) & 0xFFFFFFFF


class RecordFile:
    """A TFRecord file, any record of which can be read.

    Args:
        path: The file.
        strict: Whether a file that is torn is refused. Otherwise its records up to there are read, and the log says so.

    Raises:
        DatasetError: If it cannot be read, no record of it is whole, or it is torn and ``strict``.
    """

    def __init__(self, path: Path, *, strict: bool = False) -> None:
        self.path = path
        try:
            self.index = _kept_index(path)
        except OSError as error:
            raise DatasetError(
                "A TFRecord file cannot be read",
                seen=f"{path}: {error.strerror or error}",
                allowed="a file that is there",
                remedy=_FETCH,
            ) from error
        if self.index.torn and (strict or not len(self)):
            raise DatasetError(
                "A TFRecord file is torn"
                if len(self)
                else "This is no TFRecord file, or one without a whole record",
                seen=f"{path}: {len(self)} whole records, then {self.index.torn}",
                allowed="whole records to the end, without compression",
                remedy=_FETCH,
            )
        if self.index.torn:
            log.warning("%s is torn: %d whole records are read, then %s", path, len(self), self.index.torn)

    def __len__(self) -> int:
        """How many whole records it has."""
        return len(self.index.offsets)

    def checksum(self, place: int) -> int:
        """Return the checksum that stands behind one record, without reading the record; blocks.

        Raises:
            DatasetError: If it cannot be read.
        """
        offset, length = int(self.index.offsets[place]), int(self.index.lengths[place])
        try:
            with self.path.open("rb") as file:
                file.seek(offset + _HEADER.size + length)
                return int.from_bytes(file.read(_FOOTER_BYTES), "little")
        except OSError as error:
            raise DatasetError(
                "A TFRecord file cannot be read", seen=f"{self.path}: {error}", remedy=_FETCH
            ) from error

    def read(self, place: int) -> bytes:
        """Return one record, having checked it; blocks.

        Raises:
            DatasetError: If it is not there, or is not what was written.
        """
        if not 0 <= place < len(self):
            raise DatasetError(
                "The file has no such record",
                seen=f"{place} of {self.path}",
                allowed=f"0 to {len(self) - 1}",
            )
        offset, length = int(self.index.offsets[place]), int(self.index.lengths[place])
        try:
            with self.path.open("rb") as file:
                file.seek(offset + _HEADER.size)
                data, footer = file.read(length), file.read(_FOOTER_BYTES)
        except OSError as error:
            raise DatasetError(
                "A TFRecord file cannot be read", seen=f"{self.path}: {error}", remedy=_FETCH
            ) from error
        if len(footer) != _FOOTER_BYTES or masked_crc(data) != int.from_bytes(footer, "little"):
            raise DatasetError(
                "A record is not what was written",
                seen=f"record {place} of {self.path}, at byte {offset}",
                allowed="bytes that go with their checksum",
                remedy=_FETCH,
            )
        return data


def find_records(path: Path) -> RecordIndex:
    """Go through a file header by header; blocks.

    Raises:
        OSError: If it cannot be read.
    """
    offsets, lengths, torn, at = [], [], "", 0
    with path.open("rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        while at < size and not torn:
            header = os.pread(file.fileno(), _HEADER.size, at)
            if len(header) < _HEADER.size:
                torn = f"{size - at} bytes of a header at byte {at}"
                break
            length, check = _HEADER.unpack(header)
            end = at + _HEADER.size + length + _FOOTER_BYTES
            if masked_crc(header[:8]) != check:
                torn = f"no header at byte {at}: its checksum differs"
            elif end > size:
                torn = f"{size - at} of {end - at} bytes of a record at byte {at}"
            else:
                offsets.append(at)
                lengths.append(length)
                at = end
    return RecordIndex(offsets=np.array(offsets, np.int64), lengths=np.array(lengths, np.int64), torn=torn)


def _kept_index(path: Path) -> RecordIndex:
    """Return the index of a file from the cache, or find it and keep it there for as long as the file is the same."""
    status = path.stat()
    stamp = np.array([status.st_size, status.st_mtime_ns], np.int64)
    kept = cache_folder("tfrecord") / f"{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:32]}.npz"
    try:
        with np.load(kept, allow_pickle=False) as held:
            if np.array_equal(held["stamp"], stamp):
                index = RecordIndex(offsets=held["offsets"], lengths=held["lengths"], torn=str(held["torn"]))
                if _fits(index, status.st_size):
                    return index
    except (OSError, ValueError, KeyError, EOFError, NotImplementedError, zipfile.BadZipFile):
        pass
    index = find_records(path)
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(kept) as draft, draft.open("wb") as file:
            np.savez(
                file, stamp=stamp, offsets=index.offsets, lengths=index.lengths, torn=np.array(index.torn)
            )
    except OSError as error:
        log.info("the places of the records of %s cannot be kept: %s", path, error)
    return index


def _fits(index: RecordIndex, size: int) -> bool:
    """Whether an index from the cache can be that of a file of this size."""
    offsets, lengths = index.offsets, index.lengths
    ends = offsets + lengths + _HEADER.size + _FOOTER_BYTES
    return bool(
        offsets.dtype == lengths.dtype == np.int64
        and offsets.shape == lengths.shape == (len(offsets),)
        and (lengths >= 0).all()
        and (offsets == np.r_[np.int64(0), ends][: len(offsets)]).all()
        and (not len(ends) or ends[-1] <= size)
    )
