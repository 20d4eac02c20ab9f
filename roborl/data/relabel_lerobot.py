"""Episodes of a LeRobotDataset for relabelling."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from roborl.data.dataset_episode import DatasetEpisode
from roborl.data.demos import as_judged
from roborl.data.lerobot_columns import LAST, REWARD, SUCCESS
from roborl.data.lerobot_files import load_files
from roborl.data.lerobot_frames import LeRobotFilm
from roborl.data.lerobot_info import camera_keys, check_filmed
from roborl.data.lerobot_io import read_one
from roborl.data.oxe import is_on_arm, known_dataset
from roborl.data.relabel_source import LeftOut, RelabelSource, first_lit
from roborl.errors import DatasetError


class LeRobotSubset:
    """The episodes of a LeRobotDataset.

    One that says nothing of success or reward is taken for demonstrations only where ``datasets/oxe.yaml`` knows it as such.

    Args:
        place: A folder, or an id on the hub.
        split: The split to read, as ``meta/info.json`` names it; empty for all of them.
        cameras: Which to try, in this order; empty for those that ``datasets/oxe.yaml`` names, or all, those from outside
            first.
        rate_hz: Observations per second; None for what the dataset says.

    Raises:
        DatasetError: If the dataset cannot be read, or has no such camera or split.
    """

    def __init__(
        self,
        place: str | Path,
        *,
        split: str = "",
        cameras: Sequence[str] = (),
        rate_hz: float | None = None,
    ) -> None:
        self._files, self._wanted = load_files(place), split
        # What a hub's cache calls a dataset's folder is a commit.
        self._name = (
            self._files.root.resolve().name if Path(place).expanduser().exists() else Path(place).name
        )
        self._splits = _ranges(self._files.info.get("splits") or {})
        keys = camera_keys(self._files.features)
        check_filmed(place, keys)
        if absent := [name for name in cameras if name not in keys]:
            raise DatasetError(
                "The dataset has no such camera",
                seen=absent,
                allowed=sorted(keys),
                remedy="Name one of these with camera",
            )
        if split and split not in self._splits.values():
            raise DatasetError(
                "The dataset has no such split",
                seen=split,
                allowed=sorted(set(self._splits.values())),
                remedy="Name one of these, or none",
            )
        self._known = known_dataset(self.name)
        named = [name for name in (self._known.images if self._known else ()) if name in keys]
        self._cameras = {name: keys[name] for name in cameras or named or sorted(keys, key=is_on_arm)}
        features = self._files.features
        self._judged = bool(
            features.keys() & {LAST, SUCCESS, REWARD} or (self._known and not self._known.success)
        )
        self._rate_hz = rate_hz or float(self._files.info["fps"])
        self._rows = [row for row in self._files.episodes if not split or self._split_of(row) == split]

    @property
    def name(self) -> str:
        """The dataset's name: that of its folder, or on the hub."""
        return self._name

    @property
    def split(self) -> str:
        """Which split it is, empty for all of them."""
        return self._wanted

    def __len__(self) -> int:
        """How many episodes it has."""
        return len(self._rows)

    def open(self, place: int) -> RelabelSource | LeftOut:
        """Read what one episode is about; see :class:`~roborl.data.relabel_source.Subset`."""
        row = self._rows[place]
        whole = read_one(self._files, row, {})
        if whole is None:
            return LeftOut.SHORT
        episode = as_judged(whole)
        # A last observation that is the one before once more is no row.
        count = episode.steps + 1 - episode.repeated_last
        if count < 2:
            return LeftOut.SHORT
        if episode.discarded:
            return LeftOut.DISCARDED
        if not episode.task.strip():
            return LeftOut.NO_TASK
        if episode.more_tasks:
            return LeftOut.SEVERAL_TASKS
        films = {
            name: LeRobotFilm(files=self._files, row=row, key=key) for name, key in self._cameras.items()
        }
        camera = first_lit((name, film.read([0])[0]) for name, film in films.items())
        if camera is None:
            return LeftOut.BLACK
        return RelabelSource(
            dataset=self.name,
            split=self._split_of(row),
            episode=f"{episode.index:06d}",
            task=episode.task.strip(),
            camera=camera,
            rate_hz=self._rate_hz,
            count=count,
            success=episode.success if self._judged else None,
            film=films[camera],
            content=_digest(episode),
            recorded=whole.content,
            onset=_marked_onset(episode, count) or (self._known.onset if self._known else None),
            on_arm=is_on_arm(camera) or bool(self._known and self._known.wrist_only),
        )

    def _split_of(self, row: Mapping[str, Any]) -> str:
        index = int(row["episode_index"])
        return next((name for range_, name in self._splits.items() if index in range_), "train")


def _digest(episode: DatasetEpisode) -> str:
    """Return a digest of the motion: that of no two episodes is the same to the last bit."""
    found = hashlib.sha256()
    for values in (episode.state, episode.action):
        found.update(np.ascontiguousarray(values).tobytes())
    return found.hexdigest()[:16]


def _marked_onset(episode: DatasetEpisode, count: int) -> float | None:
    """Return the share of its observations after which the last marked sub-task is done, None where none is marked."""
    if episode.success is False or not episode.subtasks:
        return None
    return min(1.0, episode.subtasks[-1].end / (count - 1))


def _ranges(splits: Mapping[str, Any]) -> dict[range, str]:
    """Return the episodes of each split that LeRobot writes as ``first:last + 1``."""
    found = {}
    for name, text in splits.items():
        if match := re.fullmatch(r"\s*(\d+)\s*:\s*(\d+)\s*", str(text)):
            found[range(int(match[1]), int(match[2]))] = str(name)
    return found
