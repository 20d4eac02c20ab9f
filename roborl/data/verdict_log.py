"""Verdicts of a judge on their way into the store: a log that the labeller writes and the store's process reads.

It lies beside the store's own folders. Each process that writes is a ring of its own to the store, its records numbered
from 1, so that the store takes each once; and an episode that is in the log never gets a second one.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

from roborl.codec import join, split
from roborl.data.log import FIRST_ENTRY, LogEntry, RecordLog, entries
from roborl.records import Verdict, pack_record, unpack_record
from roborl.types import EpisodeKey

_NAME = "verdicts.log"


class VerdictLog:
    """The writing end; one process at a time has it.

    Args:
        root: The store's folder.

    Raises:
        DatasetError: If what is there is no log.
    """

    def __init__(self, root: Path) -> None:
        path = root / _NAME
        # Shorter than its preamble, it was torn while it was made.
        if not path.exists() or path.stat().st_size < FIRST_ENTRY:
            RecordLog.create(path, 0).close()
        self._log = RecordLog.recover(path)
        self._ring, self._last = f"judge-{secrets.token_hex(8)}", 0
        self._given = {unpack_record(split(entry.blob)).key for entry in entries(path)}

    def given(self, key: EpisodeKey) -> bool:
        """Return whether there is a verdict on an episode."""
        return key in self._given

    def give(self, verdict: Verdict) -> None:
        """Write a verdict down; it survives the death of the process, and there is one for each episode.

        Raises:
            DatasetError: If the disk did not take it; then it was not given.
        """
        if self.given(verdict.key):
            return
        self._log.append(self._ring, self._last + 1, join(pack_record(verdict)))
        self._last += 1
        self._given.add(verdict.key)

    def close(self) -> None:
        """Close the file."""
        self._log.close()


class VerdictReader:
    """The reading end.

    Args:
        root: The store's folder.
        last_sequence: Tells how far the store has taken a ring.
    """

    def __init__(self, root: Path, last_sequence: Callable[[str], int]) -> None:
        self._path, self._last_sequence = root / _NAME, last_sequence
        self._offset = FIRST_ENTRY

    def fresh(self) -> Iterator[LogEntry]:
        """Yield the entries since the last call that the store does not have, in order."""
        if not self._path.exists():
            return
        for entry in entries(self._path, self._offset):
            self._offset = entry.stop
            if entry.sequence > self._last_sequence(entry.ring_id):
                yield entry
