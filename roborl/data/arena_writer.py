"""The writing side of the replay memory: placing episodes, filling their rows, evicting the oldest."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from roborl.data.arena import (
    DEMO,
    EPISODE,
    FAILURE,
    PAD,
    ArenaLayout,
    Columns,
    clear,
    mark_filled,
    reusable,
    write_layout,
)
from roborl.data.episodes import KINDS, EpisodeInfo
from roborl.data.sealed import REWARD_SOURCES, SOURCES
from roborl.images import square
from roborl.records import Arrival
from roborl.types import EpisodeKey, Image, RewardSource

log = logging.getLogger(__name__)


class ArenaWriter:
    """The one writer of an arena.

    An arena left by another process is used again if it has the same layout and the machine has not been restarted since;
    otherwise it starts empty and ``reused`` is False.

    Args:
        folder: Where the columns are.
        layout: Their form.
    """

    def __init__(self, folder: Path, layout: ArenaLayout) -> None:
        self.folder, self.layout = folder, layout
        self.evicted = 0
        self._told_of_eviction = False
        self.reused = reusable(folder, layout)
        if not self.reused:
            clear(folder)
        self.columns = Columns(folder, layout, write=True)
        self._table, self._keys = self.columns.table, self.columns.keys
        if not self.reused:
            write_layout(folder, layout)
        live = np.flatnonzero(self._table["ordinal"] > 0)
        self._slots = {self._keys[slot].decode(): int(slot) for slot in live}
        self._scratch = np.empty((layout.image_px + 2 * PAD,) * 2 + (3,), np.uint8)

    def mark_complete(self) -> None:
        """Let others use this arena: it holds what it should of the recording. For one that is used again that is known."""
        if not self.reused:
            mark_filled(self.folder)

    def __contains__(self, key: EpisodeKey) -> bool:
        return str(key) in self._slots

    def observations(self, key: EpisodeKey) -> int:
        """Return how many rows of an episode are filled, 0 where it is not here."""
        slot = self._slots.get(str(key))
        return 0 if slot is None else int(self._table["observations"][slot])

    def oldest_evictable(self) -> int | None:
        """Return the ordinal of the next episode to be evicted."""
        ordinals = self._table["ordinal"][self._evictable()]
        return int(ordinals.min()) if ordinals.size else None

    def place(self, info: EpisodeInfo, rows: int) -> bool:
        """Reserve a block of rows for an episode, evicting the oldest ones that were not recorded to learn from.

        It counts as open until :meth:`update` says otherwise, so that nobody takes it for whole while it is filled.

        Returns False, and evicts nothing, where it cannot fit beside what is recorded or open; such an episode is recorded
        and not replayed.
        """
        ordinals = self._table["ordinal"]
        staying = (ordinals > 0) & ~self._evictable()
        if staying.all() or self._find(rows, staying) is None:
            return False
        while (start := self._find(rows, ordinals > 0)) is None or (ordinals > 0).all():
            slot = int(np.flatnonzero(ordinals == self.oldest_evictable())[0])
            self._tell_of_eviction(slot)
            self._evict(slot)
        slot = int(np.flatnonzero(self._table["ordinal"] == 0)[0])
        entry = np.zeros((), EPISODE)
        entry["start"], entry["reserved"] = start, rows
        self._keys[slot] = str(info.key).encode()
        self._table[slot] = entry
        self._slots[str(info.key)] = slot
        self._describe(slot, info)
        self._table["ordinal"][slot] = info.ordinal
        return True

    def write(self, arrival: Arrival) -> bool:
        """Fill the next row of an episode; return False where the episode is not here or its block is full."""
        slot = self._slots.get(str(arrival.key))
        if slot is None:
            return False
        entry = self._table[slot]
        index = int(entry["observations"])
        if arrival.index != index or index >= int(entry["reserved"]):
            return False
        row, columns = int(entry["start"]) + index, self.columns
        for camera, column in columns.frames.items():
            pad_into(
                column[row],
                square(arrival.observation.frames[camera].rgb, self.layout.image_px),
                self._scratch,
            )
        columns.state[row] = arrival.observation.state
        if arrival.command is not None:
            before = row - 1
            columns.action[before] = arrival.command.action
            columns.proposed[before] = arrival.command.proposed
            columns.source[before] = SOURCES.index(arrival.command.source)
            columns.policy_version[before] = arrival.command.policy_version
            columns.reward[before] = arrival.reward
            columns.reward_source[before] = REWARD_SOURCES.index(arrival.reward_source)
        self._table["observations"][slot] = index + 1
        return True

    def update(self, info: EpisodeInfo) -> None:
        """Bring an episode's entry in line with its end, verdict and discard; at its end all its rows are there."""
        slot = self._slots.get(str(info.key))
        if slot is None:
            return
        self._describe(slot, info)
        if info.end is not None:
            self._table["reserved"][slot] = max(1, self._table["observations"][slot])
            self._table["ended"][slot] = 1

    def keep_only(self, keys: Iterable[EpisodeKey]) -> None:
        """Free the rows of all other episodes: their recording is gone."""
        wanted = {str(key) for key in keys}
        for key, slot in list(self._slots.items()):
            if key not in wanted:
                self._evict(slot)

    def _describe(self, slot: int, info: EpisodeInfo) -> None:
        table = self._table
        terminal = -1 if info.terminal_index is None else info.terminal_index
        if terminal >= table["observations"][slot]:
            terminal = -1  # Its row is still to be filled in.
        table["kind"][slot] = KINDS.index(info.kind)
        table["discarded"][slot] = info.discarded
        table["success"][slot] = -1 if info.success is None else int(info.success)
        if terminal != table["terminal"][slot]:
            table["terminal"][slot] = -1
        table["verdict_reward"][slot] = self._verdict_reward(slot, info, terminal)
        table["terminal"][slot] = terminal
        # Last: until it stands there where the task ended, the steps behind that are not to be sampled.
        table["awaits_verdict"][slot] = info.awaits_verdict

    def _verdict_reward(self, slot: int, info: EpisodeInfo, terminal: int) -> float:
        if info.verdict is None or terminal != info.verdict.index:
            return float("nan")
        row = int(self._table["start"][slot]) + terminal - 1
        if self.columns.reward_source[row] == REWARD_SOURCES.index(RewardSource.ENV):
            return float("nan")
        return float(info.verdict.success) if info.verdict.reward is None else info.verdict.reward

    def _evictable(self) -> NDArray[np.bool_]:
        table = self._table
        evictable: NDArray[np.bool_] = (
            (table["ordinal"] > 0) & ~np.isin(table["kind"], (DEMO, FAILURE)) & (table["ended"] == 1)
        )
        return evictable

    def _tell_of_eviction(self, slot: int) -> None:
        if self._told_of_eviction:
            return
        self._told_of_eviction = True
        log.warning(
            "The replay memory is full, at %d observations: from %s on the oldest online episodes are no longer learnt from, "
            "a person's corrections among them. The recording keeps all; for more room raise --store.capacity_bytes",
            self.layout.rows,
            self._keys[slot].decode(),
        )

    def _evict(self, slot: int) -> None:
        self._table["ordinal"][slot] = 0
        del self._slots[self._keys[slot].decode()]
        self.evicted += 1

    def _find(self, rows: int, held: NDArray[np.bool_]) -> int | None:
        """Return the first row of the first gap of ``rows`` that the ``held`` entries leave, None where there is none."""
        live = self._table[held]
        order = np.argsort(live["start"])
        starts = np.append(live["start"][order], self.layout.rows)
        stops = np.insert((live["start"] + live["reserved"])[order], 0, 0)
        gaps = np.flatnonzero(starts - stops >= rows)
        return int(stops[gaps[0]]) if gaps.size else None


def pad_into(target: Image, image: Image, scratch: Image) -> None:
    """Write a picture with ``PAD`` pixels of repeated edge around it.

    Args:
        target: uint8 (h + 2 PAD, w + 2 PAD, 3).
        image: uint8 (h, w, 3).
        scratch: Of the shape of ``target``; its content is lost.
    """
    scratch[PAD:-PAD, PAD:-PAD] = image
    scratch[PAD:-PAD, :PAD] = image[:, :1]
    scratch[PAD:-PAD, -PAD:] = image[:, -1:]
    scratch[:PAD] = scratch[PAD]
    scratch[-PAD:] = scratch[-PAD - 1]
    target[...] = scratch
