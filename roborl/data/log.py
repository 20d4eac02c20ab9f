"""Append-only logs of records: the truth about an episode until it is sealed.

A log is a preamble and frames of (length, checksum, body). A body names the ring and the sequence number its record came
with, so how far a ring has been taken can be read from the disk alone. A process killed in the middle of an append leaves
a torn last frame, which :meth:`RecordLog.recover` cuts off; it was never acknowledged.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from roborl.codec import Part
from roborl.errors import DatasetError

_PREAMBLE = struct.Struct("<8sQI")
_MAGIC = b"RBRLLOG1"
_FRAME = struct.Struct("<II")
_BODY = struct.Struct("<QB")
FIRST_ENTRY = _PREAMBLE.size


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class LogEntry:
    """One record as it was received.

    Attributes:
        ring_id: The ring it came from; empty for a record the store made itself.
        sequence: Its number there.
        blob: The record, laid end to end.
        stop: Offset in the file behind it, where the next entry starts.
    """

    ring_id: str
    sequence: int
    blob: memoryview
    stop: int


class RecordLog:
    """A log open for appending. What :meth:`append` returned from survives the death of the process.

    Args:
        path: An existing log whose every byte is whole; :meth:`create` and :meth:`recover` make sure of that.
        sync: Flush to the disk itself on each append, so that it also survives the loss of power.
    """

    def __init__(self, path: Path, *, sync: bool = False) -> None:
        self.path = path
        self._sync = sync
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        self.size = os.fstat(self._fd).st_size

    @classmethod
    def create(cls, path: Path, ordinal: int, *, sync: bool = False) -> RecordLog:
        """Make an empty log; ``ordinal`` is the episode's place in the order of arrival."""
        head = struct.pack("<8sQ", _MAGIC, ordinal)
        path.write_bytes(head + struct.pack("<I", zlib.crc32(head)))
        return cls(path, sync=sync)

    @classmethod
    def recover(cls, path: Path, *, sync: bool = False) -> RecordLog:
        """Open a log for appending behind its last whole record.

        A torn tail is dropped. A whole frame with the wrong checksum is damage rather than a tear: it and what follows
        are kept beside the log under ``.damaged``.

        Raises:
            DatasetError: If not even the preamble is whole, so that the log holds nothing.
        """
        read_ordinal(path)
        stop = FIRST_ENTRY
        for entry in entries(path):
            stop = entry.stop
        with open(path, "r+b") as file:
            file.seek(stop)
            tail = file.read()
            if len(tail) >= _FRAME.size and len(tail) >= _FRAME.size + _FRAME.unpack_from(tail)[0]:
                path.with_name(path.name + ".damaged").write_bytes(tail)
            file.truncate(stop)
        return cls(path, sync=sync)

    def append(self, ring_id: str, sequence: int, blob: Part) -> None:
        """Write one record behind the others.

        Raises:
            DatasetError: If the disk did not take it; the log is then as before.
        """
        name = ring_id.encode()
        body = _BODY.pack(sequence, len(name)) + name
        length = len(body) + len(blob)
        head = _FRAME.pack(length, zlib.crc32(blob, zlib.crc32(body)))
        try:
            written = os.writev(self._fd, (head, body, blob))
            if written != _FRAME.size + length:
                raise OSError(f"{written} of {_FRAME.size + length} bytes written")
            if self._sync:
                os.fdatasync(self._fd)
        except OSError as error:
            os.ftruncate(self._fd, self.size)
            raise DatasetError(
                "A log cannot be written", seen=f"{self.path}: {error}", remedy="Free some space on the disk"
            ) from error
        self.size += written

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)


def read_ordinal(path: Path) -> int:
    """Return the ordinal a log was made with.

    Raises:
        DatasetError: If its preamble is torn or it is no log.
    """
    with open(path, "rb") as file:
        head = file.read(_PREAMBLE.size)
    if len(head) == _PREAMBLE.size:
        magic, ordinal, checksum = _PREAMBLE.unpack(head)
        if magic == _MAGIC and checksum == zlib.crc32(head[:-4]):
            return int(ordinal)
    raise DatasetError(
        "This file is not a log, or nothing of it was written",
        seen=path,
        allowed="a log as the store writes it",
        remedy="Take it from a backup, or move it out of the store: the other episodes need it not",
    )


def entries(path: Path, start: int = FIRST_ENTRY) -> Iterator[LogEntry]:
    """Yield the whole entries of a log from offset ``start``, up to the first that is torn or damaged.

    The log may be growing: what is not whole yet is met again when reading on from the last ``stop``.
    """
    with open(path, "rb") as file:
        file.seek(start)
        while True:
            head = file.read(_FRAME.size)
            if len(head) < _FRAME.size:
                return
            length, checksum = _FRAME.unpack(head)
            start += _FRAME.size + length
            body = _read_whole(file.fileno(), file.tell(), length)
            if body is None or zlib.crc32(body) != checksum:
                return
            file.seek(start)
            sequence, name_size = _BODY.unpack_from(body)
            behind = _BODY.size + name_size
            yield LogEntry(
                ring_id=body[_BODY.size : behind].decode(),
                sequence=sequence,
                blob=memoryview(body)[behind:],
                stop=start,
            )


def _read_whole(fd: int, offset: int, length: int) -> bytes | None:
    # The length may be damaged: nothing is allocated for bytes the file does not have.
    if length < _BODY.size or offset + length > os.fstat(fd).st_size:
        return None
    body = os.pread(fd, length, offset)
    return body if len(body) == length else None
