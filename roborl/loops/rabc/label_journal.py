"""What a labelling has done so far: a line per episode, beside the file that is written at the end.

It stays behind that file while the judge owes answers: they are asked for again by the next labelling.
"""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from roborl.data.progress import Progress
from roborl.errors import DatasetError
from roborl.locks import lock
from roborl.loops.run_files import read_lines

log = logging.getLogger(__name__)


class LabelJournal:
    """Keeps the labels of finished episodes over a kill; one process at a time has it.

    Args:
        path: The journal; one of another version or of other data is begun anew.
        version: The reward model's.
        fingerprint: The dataset's.

    Attributes:
        progress: What stands in it, by episode index.
        unanswered: Episodes of these with observations that the judge gave no answer on.

    Raises:
        DatasetError: If another process is labelling here.
    """

    def __init__(self, path: Path, *, version: str, fingerprint: str) -> None:
        self._path = path
        self._file = path.open("ab")
        try:
            lock(self._file, path, busy="Another process labels this dataset with the same version")
        except DatasetError:
            self._file.close()
            raise
        lines = read_lines(path)
        begun = {"version": version, "fingerprint": fingerprint}
        if lines[:1] != [begun]:
            if lines:
                log.warning("%s was begun for other data: it is begun anew", path)
            self._file.truncate(0)
            lines = []
            self._write(begun)
        elif not path.read_bytes().endswith(b"\n"):
            self._file.write(b"\n")  # behind a line that a kill has torn
        self.progress: dict[int, Progress] = {line["episode"]: _labels(line) for line in lines[1:]}
        owed = {line["episode"]: line.get("unanswered", 0) for line in lines[1:]}
        self.unanswered = {episode for episode, count in owed.items() if count}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, episode: int, progress: Progress, *, unanswered: int = 0) -> None:
        """Write an episode's labels down; they are on the disk when this returns.

        Args:
            episode: Its index.
            progress: Its labels, in place of those of before.
            unanswered: How many observations the judge gave no answer on.
        """
        self.progress[episode] = progress
        self.unanswered.discard(episode)
        if unanswered:
            self.unanswered.add(episode)
        self._write(
            {
                "episode": episode,
                "progress": _plain(progress.values),
                "spread": _plain(progress.spread),
                "scored": progress.scored.tolist(),
                "unanswered": unanswered,
            }
        )

    def remove(self) -> None:
        """Remove the journal: what it held stands elsewhere."""
        self._path.unlink(missing_ok=True)

    def _write(self, line: object) -> None:
        self._file.write(json.dumps(line).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())


def _labels(line: dict[str, Any]) -> Progress:
    values = _read(line["progress"])
    return Progress(
        values, _read(line["spread"]), np.array(line.get("scored", np.ones(len(values))), np.bool_)
    )


def _plain(values: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> list[float | None]:
    return [None if np.isnan(value) else float(value) for value in values]


def _read(values: list[float | None]) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.array([np.nan if value is None else value for value in values], np.float32)
