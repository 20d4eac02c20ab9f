"""A file in memory that several processes share, and that any of them may be the first to make."""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
from pathlib import Path

from roborl.errors import ConfigError
from roborl.whole_files import reserve, whole_file


def map_file(path: Path, size: int, header: bytes) -> mmap.mmap:
    """Map ``path`` if it is a file of that size with that header, else replace it in one step by a zeroed one.

    Of several who make it at the same time one does; each waits for no more than that.

    Raises:
        ConfigError: If there is no room for it.
    """
    found = _map_found(path, size, header)
    if found is not None:
        return found
    with path.with_name(".making").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = _map_found(path, size, header)
        if found is not None:
            return found
        with whole_file(path) as draft, draft.open("w+b") as file:
            reserve(
                file,
                size,
                path,
                what="what the actor's processes share",
                remedy="Free some, give the memory disk more (docker run --shm-size), or lower ring_mb",
                error=ConfigError,
            )
            file.write(header)
            file.flush()
            return mmap.mmap(file.fileno(), size)


def _map_found(path: Path, size: int, header: bytes) -> mmap.mmap | None:
    with contextlib.suppress(OSError), path.open("r+b") as file:
        if os.fstat(file.fileno()).st_size == size and file.read(len(header)) == header:
            return mmap.mmap(file.fileno(), size)
    return None
