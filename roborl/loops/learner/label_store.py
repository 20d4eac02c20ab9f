"""The store as the labeller sees it: which episodes lack labels, their frames, and the columns to write."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Set
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from roborl.clock import NS, Clock, MonotonicClock
from roborl.data.arena import ArenaReader
from roborl.data.columns import (
    NO_LABELS,
    NO_VERDICT,
    ProgressColumns,
    active_version,
    saved_stride,
    switch,
)
from roborl.data.episodes import EpisodeInfo
from roborl.data.reader import StoreReader
from roborl.errors import DatasetError
from roborl.loops.learner.episode_labels import LabelledRows
from roborl.loops.run_files import append_line, written
from roborl.types import EpisodeKey, Observation

log = logging.getLogger(__name__)

# Two labels of one frame may differ by what batches of different sizes do to the judge's arithmetic.
_ROUNDING = 2e-3
# Between two looks passes this many times what one took, and no more than this: a look at 10,000 episodes takes 50 ms.
_REST, _LONGEST_REST_NS = 9, NS


class StoredEpisodes:
    """Implements :class:`roborl.loops.learner.label_protocols.LabelStore` on a store's folder.

    Args:
        root: The store's folder.
        clock: Paces the looks at the folder.
        every_s: Least seconds between two of them; a look that takes longer is made less often.
        sync: Whether the store flushes episodes to the disk itself: then their labels are as well.
        alive: Called between episodes whose saved labels are taken in, of which there may be thousands.

    Attributes:
        arena: The replay memory, as of the last look.

    Raises:
        DatasetError: If there is no store.
    """

    def __init__(
        self,
        root: Path,
        *,
        clock: Clock | None = None,
        every_s: float = 0.05,
        sync: bool = False,
        alive: Callable[[], None] = lambda: None,
    ) -> None:
        self._root, self._sync, self._alive = root, sync, alive
        self._reader, self.arena = StoreReader(root, leave_out_torn=True), ArenaReader(root)
        self._clock: Clock = clock or MonotonicClock()
        self._every_ns = int(every_s * NS)
        self._look_ns = self._clock.now_ns()
        self._found: list[EpisodeInfo] = []
        self._made: dict[str, StoredColumn] = {}

    def episodes(self) -> list[EpisodeInfo]:
        """Return every episode that the replay memory holds and that may be trained on.

        An episode counts as ended once the replay memory has all its observations.

        Raises:
            DatasetError: If the replay memory was made anew: then everything begun on the old one is void.
        """
        began = self._clock.now_ns()
        if began < self._look_ns:
            return self._found
        infos = self._reader.episodes()
        if self.arena.refresh():
            raise DatasetError(
                "The replay memory was made anew", seen=self._root, remedy="Start the labeller again"
            )
        slots = self.arena.slots()
        self._found = [
            self._as_far_as_held(info, slots[info.key])
            for info in infos
            if info.key in slots and info.kind != "evaluation" and not self._left_out(info, slots[info.key])
        ]
        now = self._clock.now_ns()
        self._look_ns = max(began + self._every_ns, now + min((now - began) * _REST, _LONGEST_REST_NS))
        whole = {info.key for info in self._found if info.end is not None}
        for column in self._made.values():
            column.restore(whole)
            column.save_finished()
        return self._found

    def observations(self, key: EpisodeKey, start: int) -> Iterator[Observation]:
        """Return the observations of an episode from ``start`` on, at recording resolution."""
        return self._reader.observations(key, start)

    def column(self, version: str) -> StoredColumn:
        """Return the column of a version, made where there is none, with what was saved of it."""
        if version not in self._made:
            column = StoredColumn(self.arena, version, sync=self._sync, alive=self._alive)
            column.restore(
                {key for key, slot in self.arena.slots().items() if self.arena.table["ended"][slot]}
            )
            self._made[version] = column
        return self._made[version]

    def active(self) -> str | None:
        """Return the version that the learner trains with, None before the first."""
        return active_version(self._root)

    @property
    def faults(self) -> int:
        """How often the disk did not take something; it is tried again."""
        return sum(column.faults for column in self._made.values())

    def _left_out(self, info: EpisodeInfo, slot: int) -> bool:
        # The store leaves out of the replay memory, as if discarded, what it could not read.
        return info.discarded or bool(self.arena.table["discarded"][slot])

    def _as_far_as_held(self, info: EpisodeInfo, slot: int) -> EpisodeInfo:
        entry = self.arena.table[slot]
        held = int(entry["observations"])
        if held >= info.observations:
            return info
        # An episode that is longer than its block ends, here, with the block.
        return replace(info, observations=held, end=info.end if entry["ended"] else None)


class StoredColumn:
    """Implements :class:`roborl.loops.learner.label_protocols.Column` on the store's progress columns.

    Args:
        arena: The replay memory.
        version: Of the reward model.
        sync: Whether what is saved with an episode is flushed to the disk itself.
        alive: Called between episodes whose saved labels are taken in.

    Attributes:
        columns: What is written.
        faults: How often the disk did not take something; it is tried again.
    """

    def __init__(
        self,
        arena: ArenaReader,
        version: str,
        *,
        sync: bool = False,
        alive: Callable[[], None] = lambda: None,
    ) -> None:
        self.version = version
        self._arena, self._alive = arena, alive
        self.columns = ProgressColumns(arena, version, write=True, sync=sync)
        self._restored: set[EpisodeKey] = set()
        self._strides_file = arena.root / "arena" / "progress" / version / "strides.jsonl"
        self._strides = _read_strides(self._strides_file)
        self._finished: dict[EpisodeKey, dict[str, Any]] = {}
        self.faults = 0

    def restore(self, keys: Set[EpisodeKey]) -> None:
        """Take in what was saved with episodes that were not asked about before, as they come into the replay memory.

        Their strides too, which are gone with a memory that was made anew.
        """
        new = keys - self._restored
        self._restored |= new
        for key in new:
            self._alive()
            if self.columns.restore([key]) and not self.stride(key):
                stride = saved_stride(self._arena.root, key, self.version)
                self.set_stride(key, stride)
                self._strides[str(key)] = stride  # A full disk does not make it another.

    def labelled(self, key: EpisodeKey) -> int:
        """Return how many observations of the episode are labelled."""
        return self.columns.labelled(key)

    def write(self, key: EpisodeKey, rows: LabelledRows) -> None:
        """Write rows that follow those labelled before; an episode that was evicted meanwhile is left alone."""
        self.columns.write(key, rows.start, rows.progress, rows.spread, rows.missing)

    def agrees(self, key: EpisodeKey, rows: LabelledRows) -> bool:
        """Return whether rows made anew say what the column says, up to the judge's rounding."""
        slot = self._arena.slot(key)
        if slot is None:
            return True
        first = int(self._arena.table["start"][slot]) + rows.start
        stored = self.columns.progress[first : first + len(rows.progress)]
        return bool(np.allclose(stored, rows.progress, atol=_ROUNDING))

    def stride(self, key: EpisodeKey) -> int:
        """Return the stride that the episode is labelled with, 0 where none was recorded."""
        return self._strides.get(str(key), 0)

    def set_stride(self, key: EpisodeKey, stride: int) -> bool:
        """Record the stride of an episode; return whether the disk took it."""
        line = json.dumps({"episode": str(key), "stride": stride}).encode() + b"\n"
        if not self._kept(self._strides_file, lambda: append_line(self._strides_file, line)):
            return False
        self._strides[str(key)] = stride
        return True

    def hold(self, key: EpisodeKey, *, verdict: bool = False) -> bool:
        """Let the episode be trained on without the labels, and maybe the verdict, it lacks; False where it was held already."""
        slot = self._arena.slot(key)
        if slot is None:
            return False
        entry, labels = self._arena.table[slot], self.columns.table[slot]
        before = labels["deadline"] if labels["ordinal"] == entry["ordinal"] else 0
        if before < (NO_VERDICT if verdict else NO_LABELS):
            self.columns.mark_deadline(key, verdict=verdict)
        return not before

    def finish(self, key: EpisodeKey) -> None:
        """Keep the episode's labels with its recording, as soon as that is sealed."""
        self._finished[key] = {"stride": self.stride(key)}

    def save_finished(self) -> None:
        """Save the columns of finished episodes whose recording has been sealed since.

        Where the disk does not take one, that one and those after it wait for another call.
        """
        for key, details in list(self._finished.items()):
            if not self._kept(self._arena.root / "store.zarr" / str(key), partial(self._save, key, details)):
                # Last, lest it stands in the way of all others.
                self._finished[key] = self._finished.pop(key)
                return

    def _save(self, key: EpisodeKey, details: dict[str, Any]) -> None:
        if self.columns.save(key, details) or self._arena.slot(key) is None:
            del self._finished[key]

    def _kept(self, path: Path, write: Callable[[], object]) -> bool:
        kept = written(path, write, told=self.faults > 0)
        self.faults += not kept
        return kept

    def activate(self) -> None:
        """Make this the version that the learner trains with."""
        switch(self._arena.root, self.version)


def _read_strides(path: Path) -> dict[str, int]:
    strides: dict[str, int] = {}
    if path.exists():
        for line in path.read_bytes().splitlines():
            try:
                fields = json.loads(line)
                strides[str(fields["episode"])] = int(fields["stride"])
            except (ValueError, KeyError, TypeError):
                continue  # A killed labeller leaves at most one torn line, of an episode it had not begun.
    return strides
