"""A memory-mapped ring of committed records between one writer and one reader.

The file outlives both: a record is committed once its slot's sequence word has been stored, which is the last thing
:meth:`Ring.append` does, and stays until the reader has acknowledged it. Nothing here waits, and no tensor library is used.

Layout: one header page, then ``slots`` slots of a 32-byte head (sequence, length, checksum) and the payload. Words that
both sides look at are aligned 8-byte stores, so neither side can see half of one.
"""

from __future__ import annotations

import mmap
import os
import secrets
import struct
from collections.abc import Sequence
from pathlib import Path

import xxhash

from roborl.codec import Part, laid_out
from roborl.errors import DatasetError
from roborl.locks import lock
from roborl.whole_files import reserve, whole_file

_MAGIC = int.from_bytes(b"RBRLRNG2", "little")
_HEADER_BYTES = 4096
_HEAD_BYTES = 32
_POPULATED_BYTES = 512 << 20
_INCARNATIONS = 10**12
# Words of the header page.
_MAGIC_WORD, _SLOTS, _SLOT_BYTES, _IDENTITY, _INCARNATION, _ACKNOWLEDGED = range(6)
# Words of a slot's head.
_SEQUENCE, _LENGTH, _CHECKSUM = range(3)


class Ring:
    """A ring of byte records, numbered from 1 over the life of its file.

    Args:
        path: An existing ring file.
        writer: Take the writer's place. Only one process has it at a time; it is freed when that process dies.

    Raises:
        DatasetError: If the file is missing or is not a ring, or another process is its writer.

    Example:
        >>> import tempfile
        >>> from roborl.codec import split
        >>> path = Path(tempfile.mkdtemp()) / "ring.bin"
        >>> with Ring.create(path, slots=4, slot_bytes=64) as ring:
        ...     sequence = ring.append([b"a", b"bc"])
        ...     [bytes(part) for part in split(ring.read(sequence))], ring.free_slots
        ([b'a', b'bc'], 3)
    """

    def __init__(self, path: Path, *, writer: bool = False) -> None:
        self.path = path
        try:
            self._file = open(path, "r+b")  # noqa: SIM115  (held for as long as the ring is open: it carries the lock)
        except OSError as error:
            raise DatasetError(
                "There is no ring here", seen=path, remedy="Start the actor, which makes its ring"
            ) from error
        try:
            if writer:
                lock(
                    self._file,
                    path,
                    busy="This ring has a writer already",
                    remedy="Stop the other control process",
                )
            size = os.fstat(self._file.fileno()).st_size
            if size < _HEADER_BYTES or size % 8:
                raise DatasetError(
                    "This file is not a ring",
                    seen=f"{size} bytes in {path}",
                    allowed="the whole of what was made",
                    remedy="Delete it and start again",
                )
            # Pages are mapped now rather than by faults inside a control period, unless that would fill the memory.
            populate = getattr(mmap, "MAP_POPULATE", 0) if size <= _POPULATED_BYTES else 0
            self._map = mmap.mmap(self._file.fileno(), size, flags=mmap.MAP_SHARED | populate)
        except DatasetError:
            self._file.close()
            raise
        self._bytes = memoryview(self._map)
        self._words = self._bytes.cast("Q")
        self.slots, self.slot_bytes = self._words[_SLOTS], self._words[_SLOT_BYTES]
        self._stride = _stride(self.slot_bytes)
        if self._words[_MAGIC_WORD] != _MAGIC or size != _HEADER_BYTES + self.slots * self._stride:
            self.close()
            raise DatasetError("This file is not a ring", seen=path, remedy="Delete it and start again")
        self._head = self._find_head()

    @classmethod
    def create(cls, path: Path, *, slots: int, slot_bytes: int) -> Ring:
        """Make a ring file, whole or not at all, and open it as its writer.

        Args:
            path: Where; on a memory file system it costs no disk.
            slots: How many records it holds that the reader has not acknowledged.
            slot_bytes: Longest record, laid end to end.

        Raises:
            DatasetError: If the disk has no room for it.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as draft, draft.open("wb") as file:
            size = _HEADER_BYTES + slots * _stride(slot_bytes)
            reserve(
                file,
                size,
                path,
                what="the ring",
                remedy="Free some space or choose fewer slots",
                error=DatasetError,
            )
            identity, incarnation = secrets.randbits(63), secrets.randbelow(_INCARNATIONS)
            file.write(struct.pack("=6Q", _MAGIC, slots, slot_bytes, identity, incarnation, 0))
        return cls(path, writer=True)

    @classmethod
    def attach(cls, path: Path) -> Ring:
        """Open an existing ring as its reader."""
        return cls(path)

    @classmethod
    def continue_or_create(cls, path: Path, *, slots: int, slot_bytes: int) -> Ring:
        """Open a ring as its writer, making it where there is none.

        A ring of another form is replaced once its reader has acknowledged everything in it.

        Raises:
            DatasetError: If a ring of another form still holds records that nobody has.
        """
        if not path.exists():
            return cls.create(path, slots=slots, slot_bytes=slot_bytes)
        ring = cls(path, writer=True)
        if (ring.slots, ring.slot_bytes) == (slots, slot_bytes):
            return ring
        waiting = ring.head - ring.acknowledged
        form = f"{ring.slots} slots of {ring.slot_bytes} bytes"
        ring.close()
        if waiting:
            raise DatasetError(
                "The ring left by the last run has another form and is not empty",
                seen=f"{form}, {waiting} records waiting",
                allowed=f"{slots} slots of {slot_bytes} bytes",
                remedy="Run once more with the old settings and the learner up, or delete the ring and lose them",
            )
        return cls.create(path, slots=slots, slot_bytes=slot_bytes)

    @property
    def id(self) -> str:
        """Identity of this ring file: another file, even at the same path, has another."""
        return f"{self._words[_IDENTITY]:016x}"

    @property
    def incarnation(self) -> int:
        """Number of the control process that started last on this ring.

        Each start counts one up, from a random number: no two rings give an episode the same key, wherever they lie and
        whatever was forgotten in between.
        """
        return self._words[_INCARNATION]

    def start_incarnation(self) -> int:
        """Count one more start of the control process and return its number."""
        self._words[_INCARNATION] += 1
        return self._words[_INCARNATION]

    @property
    def head(self) -> int:
        """Sequence number of the newest committed record, 0 before the first."""
        while self._words[self._slot(self._head + 1) // 8 + _SEQUENCE] == self._head + 1:
            self._head += 1
        return self._head

    @property
    def acknowledged(self) -> int:
        """Everything up to this sequence number is durable elsewhere."""
        return self._words[_ACKNOWLEDGED]

    @property
    def free_slots(self) -> int:
        """How many records can be appended before the reader acknowledges more."""
        return self.slots - (self.head - self.acknowledged)

    def append(self, parts: Sequence[Part]) -> int:
        """Commit one record and return its sequence number. Never blocks.

        The parts are copied straight into the slot, in the form :func:`roborl.codec.join` has.

        Raises:
            DatasetError: If the ring is full or the record is longer than a slot; then nothing is committed.
        """
        length, pieces = laid_out(parts)
        sequence = self.head + 1
        if length > self.slot_bytes:
            raise DatasetError("A record is longer than a slot", seen=length, allowed=self.slot_bytes)
        if sequence - self.acknowledged > self.slots:
            raise DatasetError(
                "The ring is full",
                seen=f"{self.slots} records wait for the learner",
                remedy="End the episode and pause until the learner has acknowledged some",
            )
        start = self._slot(sequence)
        word = start // 8
        self._words[word + _SEQUENCE] = 0
        position, checksum = start + _HEAD_BYTES, xxhash.xxh3_64()
        for piece in pieces:
            size = len(piece)
            self._bytes[position : position + size] = piece
            checksum.update(piece)
            position += size
        self._words[word + _LENGTH] = length
        self._words[word + _CHECKSUM] = checksum.intdigest()
        self._words[word + _SEQUENCE] = sequence
        self._head = sequence
        return sequence

    def read(self, sequence: int) -> memoryview:
        """Return the record's bytes in place, valid until it is acknowledged.

        Raises:
            DatasetError: If it is not in the ring, or its bytes are not those that were committed.
        """
        start = self._slot(sequence)
        word = start // 8
        if sequence < 1 or self._words[word + _SEQUENCE] != sequence:
            raise DatasetError(
                "This record is not in the ring",
                seen=sequence,
                allowed=f"{max(1, self.head - self.slots + 1)} to {self.head}",
            )
        payload = self._bytes[start + _HEAD_BYTES :][: self._words[word + _LENGTH]].toreadonly()
        if xxhash.xxh3_64_intdigest(payload) != self._words[word + _CHECKSUM]:
            raise DatasetError(
                "A record in the ring is damaged", seen=sequence, remedy="Check the machine's memory and disk"
            )
        return payload

    def acknowledge(self, sequence: int) -> None:
        """Free everything up to ``sequence``; the reader calls this once it is durable elsewhere.

        Raises:
            DatasetError: If it was never committed.
        """
        if sequence > self.head:
            raise DatasetError("An acknowledgement runs ahead of the ring", seen=sequence, allowed=self.head)
        if sequence > self.acknowledged:
            self._words[_ACKNOWLEDGED] = sequence

    def close(self) -> None:
        """Give the mapping and the writer's place back. Views from :meth:`read` must be gone."""
        self._words.release()
        self._bytes.release()
        self._map.close()
        self._file.close()

    def __enter__(self) -> Ring:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _slot(self, sequence: int) -> int:
        return _HEADER_BYTES + ((sequence - 1) % self.slots) * self._stride

    def _find_head(self) -> int:
        first, step = _HEADER_BYTES // 8 + _SEQUENCE, self._stride // 8
        newest = max(self._words[first + i * step] for i in range(self.slots))
        # A writer killed while it reused the only slot ever filled leaves none; what was acknowledged is then the head.
        return max(newest, self._words[_ACKNOWLEDGED])


def _stride(slot_bytes: int) -> int:
    return (_HEAD_BYTES + slot_bytes + 63) // 64 * 64
