"""Watches the labels of a run and holds them against those of an undisturbed scoring."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from roborl.data.arena import ArenaReader
from roborl.data.columns import ProgressColumns, active_version
from roborl.data.reader import StoreReader
from roborl.errors import DatasetError
from roborl.rewards.model import score_episode
from roborl.rewards.registry import load_reward_model
from roborl.rewards.shaping import held
from roborl.types import EpisodeKey


class LabelWatch:
    """The labels of one run.

    Args:
        store: Root of its store.
        model: Name or folder of the reward model that makes them.
    """

    def __init__(self, store: Path, model: str = "brightness") -> None:
        self._store, self._model = store, model
        self._seen: dict[EpisodeKey, int] = {}
        self.taken_back = 0

    def unlabelled(self, keys: Sequence[EpisodeKey] | None = None) -> dict[EpisodeKey, int]:
        """Return how many frames of each ended episode have no label yet, for those that lack some."""
        arena, columns = self._open()
        behind = {}
        for key, slot in arena.slots().items():
            entry = arena.table[slot]
            if (keys is None and entry["ended"] and not entry["discarded"]) or (keys and key in keys):
                done = 0 if columns is None else columns.labelled(key)
                # The label lane goes forward only.
                self.taken_back += done < self._seen.get(key, 0)
                self._seen[key] = done
                if done < entry["observations"]:
                    behind[key] = int(entry["observations"]) - done
        return behind

    def caught_up(self, keys: Sequence[EpisodeKey]) -> bool:
        """Return whether all frames of these episodes are labelled."""
        return not keys or not self.unlabelled(keys)

    def compare(self) -> dict[str, int]:
        """Score every stored episode again, undisturbed, with the stride it was labelled with.

        Returns:
            Counts of observations: ``labelled``, and ``wrong`` for labels that differ by more than rounding; of episodes
            whose labels went backwards: ``taken_back``; of episodes with each stride.
        """
        arena, columns = self._open()
        model, reader = load_reward_model(self._model), StoreReader(self._store)
        counts = {"labelled": 0, "wrong": 0, "taken_back": self.taken_back, "episodes": 0, "strided": 0}
        if columns is None:
            return counts
        strides = self._strides(columns.version)
        for info in reader.episodes():
            done, slot = columns.labelled(info.key), arena.slot(info.key)
            if not done or slot is None:
                continue
            observations = list(reader.observations(info.key))
            stride = strides.get(str(info.key), 1)
            scores = score_episode(model, info.task, observations, stride=stride)
            valid = [score for score in scores if score.valid]
            progress = np.array([score.progress for score in valid])
            ids = np.array([score.frame_id for score in valid], np.int64)
            wanted = held(progress, ids, len(observations))
            row = int(arena.table["start"][slot])
            stored = columns.progress[row : row + done]
            counts["episodes"] += 1
            counts["strided"] += stride > 1
            counts["labelled"] += done
            counts["wrong"] += int((np.abs(stored - wanted[:done]) > _ROUNDING).sum())
        return counts

    def _open(self) -> tuple[ArenaReader, ProgressColumns | None]:
        arena = ArenaReader(self._store)
        version = active_version(self._store)
        try:
            return arena, None if version is None else ProgressColumns(arena, version)
        except DatasetError:
            return arena, None  # Only just being made.

    def _strides(self, version: str) -> dict[str, int]:
        path = self._store / "arena" / "progress" / version / "strides.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return {entry["episode"]: entry["stride"] for entry in map(json.loads, lines)}


_ROUNDING = 1e-5
