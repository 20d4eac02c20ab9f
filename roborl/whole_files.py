"""Files and folders that appear whole or not at all: whoever reads sees the old or the new, whenever the writer is killed."""

from __future__ import annotations

import errno
import glob
import json
import math
import os
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from roborl.errors import ConfigError, RoborlError

_ABANDONED_S = 3600.0


@contextmanager
def whole_file(path: Path, *, sync: bool = False) -> Iterator[Path]:
    """Give out the path of a draft beside ``path``, and rename it over when the block ends well.

    Several processes may write the same file: one of them is last. A draft whose block raised is removed at once, that of
    a killed process by a later writer.

    Args:
        path: The file; its folder is there.
        sync: Whether the bytes reach the disk before the name does, so that a power cut leaves no empty file.

    Raises:
        OSError: If the disk does not take it; the old file stays. It names the file, which a write to a full disk does not.
    """
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}.draft")
    _remove_abandoned(path)
    try:
        yield draft
        if sync:
            with draft.open("rb") as handle:
                os.fsync(handle.fileno())
        draft.replace(path)
    except BaseException as error:
        draft.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise


def write_whole(path: Path, content: str | bytes, *, sync: bool = False) -> None:
    """Write a small file; see :func:`whole_file`. Text is written as UTF-8."""
    with whole_file(path, sync=sync) as draft:
        draft.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def draft_folder(draft: Path) -> Iterator[Path]:
    """Give out the path of a folder that is to be filled, and renamed to its place, within the block.

    What an earlier block left there is removed first. So is, at once, what a block leaves that raises: on a full disk it would
    hold the last of the room.

    Args:
        draft: The folder, which the block makes; on the file system where it is to go.
    """
    shutil.rmtree(draft, ignore_errors=True)
    try:
        yield draft
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


def reserve(
    file: IO[bytes], size: int, path: Path, *, what: str, remedy: str, error: type[RoborlError]
) -> None:
    """Take the room of a file that will be mapped: without it, a later store into the mapping would be a bus error.

    Args:
        file: The file, or its draft, open for writing; it then has that size, filled with zeros.
        size: Bytes.
        path: Where it will lie, for the message.
        what: What it holds, for the message.
        remedy: What helps where there is no room.
        error: What is raised then.
    """
    try:
        os.posix_fallocate(file.fileno(), 0, size)
    except OSError as full:
        disk = os.statvfs(path.parent)
        raise error(
            f"There is no room for {what}",
            seen=f"{size} bytes for {path}: {full.strerror}",
            allowed=f"{disk.f_bavail * disk.f_frsize} bytes, which are free there",
            remedy=remedy,
        ) from full


def as_json(value: Any, *, indent: int | None = None) -> str:
    """Return results as JSON that every reader takes: a number that is not finite becomes null, as JSON has no word for it.

    Args:
        value: Mappings, sequences, texts and numbers; anything else must be a number to ``float``.
        indent: Spaces per level; None for one line.
    """
    return json.dumps(_finite(value), indent=indent, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    if value is None or isinstance(value, str | int):
        return value
    number = float(value)
    return number if math.isfinite(number) else None


def read_json(path: Path, *, remedy: str) -> Any:
    """Read a small JSON file of ours.

    Args:
        path: The file.
        remedy: What to do where it is no JSON, as after a loss of power.

    Raises:
        ConfigError: If it is no JSON.
        OSError: If it is not there.
    """
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise ConfigError(
            "A file cannot be read",
            seen=f"{path}: {error}",
            allowed="the JSON that roborl wrote",
            remedy=remedy,
        ) from error


def require_writable(path: Path) -> None:
    """See whether a file can be written before the work that it is to hold is done. Makes its folder.

    Raises:
        OSError: If it cannot.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    probe = path.with_name(f".{path.name}.{secrets.token_hex(4)}.draft")
    probe.touch()
    probe.unlink()


def _remove_abandoned(path: Path) -> None:
    for draft in path.parent.glob(f".{glob.escape(path.name)}.*.draft"):
        with suppress(OSError):
            if time.time() - draft.stat().st_mtime > _ABANDONED_S:
                draft.unlink()
