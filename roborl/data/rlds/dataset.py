"""The episodes of one split of an RLDS dataset, any of which can be read."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from roborl.clock import Every
from roborl.data.rlds.episode import RldsEpisode
from roborl.data.rlds.shards import RldsInfo, Shard, describe_rlds
from roborl.data.rlds.tfrecord import RecordFile
from roborl.errors import DatasetError

log = logging.getLogger(__name__)

_TELL_EVERY_S = 5.0


class RldsDataset:
    """One split of a dataset.

    Opening it finds out where its records are, which takes as long as reading some bytes of each does, once: after that
    it is known for as long as the files are the same. A record is read when its episode is, and nothing else is kept.

    Args:
        place: The dataset's folder, or one with a folder for each version.
        split: Which; empty for the only one that has files, or "train".
        strict: Whether a torn file is refused. Otherwise its episodes up to there are read, and the log says so.

    Attributes:
        info: What the dataset says about itself.
        split: The split's name.

    Raises:
        DatasetError: If it cannot be read, or has no such split.
    """

    def __init__(self, place: str | Path, *, split: str = "", strict: bool = False) -> None:
        self.info: RldsInfo = describe_rlds(place)
        self.split = _chosen(self.info, split)
        if absent := self.info.absent[self.split]:
            shards = self.info.splits[self.split]
            log.warning(
                "%s: %d of %d files of %s are not there; the others are read",
                self.info.root,
                absent,
                absent + len(shards),
                self.split,
            )
        self._files: list[tuple[Shard, RecordFile]] = []
        progress = Every(_TELL_EVERY_S, at_once=False)
        for done, shard in enumerate(self.info.splits[self.split]):
            self._files.append((shard, self._opened(shard, strict)))
            if progress.due():
                log.info(
                    "%s: looked for records in %d of %d files",
                    self.info.name,
                    done + 1,
                    len(self.info.splits[self.split]),
                )
        self._ends = np.cumsum([len(file) for _, file in self._files])

    def __len__(self) -> int:
        """How many episodes can be read."""
        return int(self._ends[-1]) if len(self._ends) else 0

    def name(self, place: int) -> str:
        """Return an episode's name, which does not depend on which files are there: file and record, from 0."""
        shard, _, record = self._at(place)
        return f"{shard.number:05d}-{record:06d}"

    def digest(self, place: int) -> str:
        """Return what tells an episode's record from another of the same name: its length and checksum; blocks.

        Raises:
            DatasetError: If it cannot be read.
        """
        _, file, record = self._at(place)
        return f"{int(file.index.lengths[record])}-{file.checksum(record):08x}"

    def episode(self, place: int) -> RldsEpisode:
        """Read one episode, checked; blocks.

        Raises:
            DatasetError: If its record is damaged, or holds something else.
        """
        shard, file, record = self._at(place)
        return RldsEpisode(file.read(record), self.info.features, f"record {record} of {shard.path}")

    def _opened(self, shard: Shard, strict: bool) -> RecordFile:
        file = RecordFile(shard.path, strict=strict)
        if shard.records not in (None, len(file)) and not file.index.torn:
            log.warning("%s has %d records, where %s should be", shard.path, len(file), shard.records)
        return file

    def _at(self, place: int) -> tuple[Shard, RecordFile, int]:
        if not 0 <= place < len(self):
            raise DatasetError(
                "The dataset has no such episode",
                seen=f"{place} of {self.info.name} {self.split}",
                allowed=f"0 to {len(self) - 1}",
            )
        number = int(np.searchsorted(self._ends, place, side="right"))
        shard, file = self._files[number]
        return shard, file, place - (int(self._ends[number - 1]) if number else 0)


def _chosen(info: RldsInfo, split: str) -> str:
    there = [name for name, shards in info.splits.items() if shards]
    chosen = split or (there[0] if len(there) == 1 else "train")
    if chosen not in there:
        raise DatasetError(
            "The dataset has no such split, or none of its files is there",
            seen=chosen,
            allowed=there,
            remedy="Name one of these with split, or fetch its files",
        )
    return chosen
