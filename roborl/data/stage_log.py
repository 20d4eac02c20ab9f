"""Append-only JSON lines, one for each reply that was paid for: what stands there is not asked for again.

A line is on its way to the disk when :meth:`StageLog.append` returns, so a process killed at any instant loses at most the
one that it was writing; a torn last line is cut off when the log is opened again.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from roborl.errors import DatasetError

log = logging.getLogger(__name__)


class StageLog:
    """The lines of one stage by their keys.

    Args:
        path: The file; it and its folder are made.
        dry: Reads what is there and writes nothing: lines are kept in memory alone.

    Raises:
        OSError: If it cannot be written.
    """

    def __init__(self, path: Path, *, dry: bool = False) -> None:
        self.path = path
        self._lines: dict[str, Mapping[str, Any]] = {}
        self._fd: int | None = None
        if dry:
            self._size = self._read() if path.is_file() else 0
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        self._size = self._read()

    def __len__(self) -> int:
        return len(self._lines)

    def get(self, key: str) -> Mapping[str, Any] | None:
        """Return the line of a key; None where there is none."""
        return self._lines.get(key)

    def lines(self) -> list[Mapping[str, Any]]:
        """Return all lines, without their keys."""
        return list(self._lines.values())

    def append(self, key: str, line: Mapping[str, Any]) -> None:
        """Write a line behind the others.

        Args:
            key: By which it is found again.
            line: What else it says, as JSON has it.

        Raises:
            DatasetError: If the disk does not take it; the log is then as before.
        """
        if self._fd is None:
            self._lines[key] = line
            return
        raw = (json.dumps({"key": key, **line}) + "\n").encode()
        try:
            written = os.write(self._fd, raw)
            if written != len(raw):
                raise OSError(f"{written} of {len(raw)} bytes written")
        except OSError as error:
            os.ftruncate(self._fd, self._size)
            raise DatasetError(
                "A log cannot be written", seen=f"{self.path}: {error}", remedy="Free some space on the disk"
            ) from error
        self._size += len(raw)
        self._lines[key] = line

    def close(self) -> None:
        """Close the file."""
        if self._fd is not None:
            os.close(self._fd)

    def _read(self) -> int:
        """Take up the lines that are whole and cut off a torn tail; return the size of the file."""
        raw = self.path.read_bytes()
        whole = raw.rfind(b"\n") + 1
        damaged = 0
        for each in raw[:whole].splitlines():
            try:
                line = json.loads(each)
                self._lines[str(line.pop("key"))] = line
            except (ValueError, KeyError, AttributeError, TypeError):
                damaged += 1
        if damaged:
            log.warning(
                "%d damaged lines of %s are passed over: what they held is asked for again",
                damaged,
                self.path,
            )
        if whole < len(raw) and self._fd is not None:
            os.ftruncate(self._fd, whole)
        return whole
