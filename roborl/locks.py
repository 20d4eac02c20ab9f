"""Files and folders that one process at a time may write: the lock goes with the process, however that ends."""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from roborl.errors import DatasetError

log = logging.getLogger(__name__)


def lock(file: int | IO[Any], path: Path, *, busy: str, remedy: str = "Wait until it is done") -> None:
    """Keep an open file for this process until it is closed. Without locks on the file system that is only a warning.

    Args:
        file: The open file or folder, or its descriptor.
        path: Its name.
        busy: What to say of whoever has it.
        remedy: What to do then.

    Raises:
        DatasetError: If another process has it; the file stays open.
    """
    if not _lock(file, path):
        raise DatasetError(busy, seen=path, allowed="one at a time", remedy=remedy)


def _lock(file: int | IO[Any], path: Path, *, wait: bool = False) -> bool:
    """Return whether the file is this process's now."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError as error:
        log.warning("%s cannot be locked, do not write to it twice at once: %s", path, error)
    return True


class FolderLock:
    """Keeps a folder for one writer, until it is closed or its process ends.

    Args:
        path: The folder.
        busy: What to say of whoever has it.
        remedy: What to do then.

    Raises:
        DatasetError: If another process has it.
    """

    def __init__(
        self,
        path: Path,
        busy: str = "Another recording writes into this dataset",
        remedy: str = "Wait until it is done, or give another path",
    ) -> None:
        self._fd: int | None = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            lock(self._fd, path, busy=busy, remedy=remedy)
        except DatasetError:
            self.close()
            raise

    def close(self) -> None:
        """Give the folder back."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def __del__(self) -> None:
        self.close()


@contextmanager
def kept(path: Path, *, wait: bool = False) -> Iterator[bool]:
    """Keep a piece of work that several processes share for this one while the block runs.

    Args:
        path: An empty file that stands for it; made if missing, and left there.
        wait: Block until whoever has it is done, so that it is always this process's.

    Returns:
        Whether it is this process's; False while another one has it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        yield _lock(file, path, wait=wait)
