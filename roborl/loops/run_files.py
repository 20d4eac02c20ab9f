"""Small files that the processes of a run leave for whoever looks. A disk that is full costs lines, never a process."""

from __future__ import annotations

import errno
import json
import logging
import os
import platform
import time
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from roborl.whole_files import as_json, write_whole

log = logging.getLogger(__name__)


class JsonLines:
    """Appends maps to a JSONL file, each in one write, so that several processes may share it.

    Args:
        path: The file; its folder is made.
        common: Stands in every line.

    Attributes:
        lost: Lines that could not be written.
    """

    def __init__(self, path: Path, **common: Any) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path, self._common = path, common
        self.lost = 0

    def __call__(self, line: Mapping[str, Any]) -> None:
        """Append one line; a number that is not finite becomes null, which JSON has no other word for."""
        raw = as_json(self._common | dict(line)).encode() + b"\n"
        if not written(self._path, lambda: append_line(self._path, raw), told=self.lost > 0):
            self.lost += 1


def append_line(path: Path, line: bytes) -> None:
    """Append a line, its end included, in one write; where a kill or a full disk left half a line, it ends that first.

    Raises:
        OSError: If the disk does not take the whole of it.
    """
    with path.open("a+b", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        torn = size > 0 and os.pread(file.fileno(), 1, size - 1) != b"\n"
        raw = b"\n" + line if torn else line
        if (count := file.write(raw)) != len(raw):
            raise OSError(errno.ENOSPC, f"{count} of {len(raw)} bytes written")


def write_status(path: Path, status: Mapping[str, Any]) -> None:
    """Leave the newest counters of a process for whoever looks; a reader sees whole files only, maybe older ones."""

    def write() -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps({"at_ns": time.monotonic_ns(), **status}, default=float))

    written(path, write)


def read_status(path: Path) -> dict[str, Any]:
    """Return the newest counters of a process, empty before the first, or where a loss of power has torn them."""
    try:
        return dict(json.loads(path.read_bytes()))
    except (FileNotFoundError, ValueError):
        return {}


def read_lines(path: Path, kind: str = "") -> list[dict[str, Any]]:
    """Return the lines of one kind, or all, from a JSONL file, without one that a kill or a full disk has torn."""
    lines: list[dict[str, Any]] = []
    if path.exists():
        for raw in path.read_bytes().splitlines():
            try:
                line = json.loads(raw)
            except ValueError:
                continue
            if not kind or line.get("kind") == kind:
                lines.append(line)
    return lines


def written(path: Path, write: Callable[[], object], *, told: bool = False) -> bool:
    """Write a file that the process can do without; return whether that worked.

    Args:
        path: The file, for the log.
        write: Does it.
        told: Whether its failure needs no word.
    """
    try:
        write()
    except OSError as error:
        log.log(logging.DEBUG if told else logging.ERROR, "%s cannot be written: %s", path, error)
        return False
    return True


def versions_here(packages: Iterable[str]) -> dict[str, str]:
    """Return the versions of Python and of those of the packages that are installed: an extra may do without some."""
    found = {"python": platform.python_version()}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
