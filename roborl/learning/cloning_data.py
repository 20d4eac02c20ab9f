"""Demonstrations and failures as arrays to be cloned: pictures and states, what was done, and where each sub-task ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise, zip_longest

import numpy as np
from numpy.typing import NDArray

from roborl.data.dataset_episode import DatasetEpisode
from roborl.errors import DatasetError
from roborl.images import square
from roborl.types import Image


@dataclass(frozen=True, kw_only=True, eq=False)
class CloningData:
    """Frames as arrays; row i is an observation and the action taken in it.

    Attributes:
        images: By camera, uint8 (n, h, w, 3).
        state: float32 (n, s).
        action: float32 (n, a).
        progress: Share of the episode that is over, float32 (n,); meaningless for failures.
        waypoints: The state at the end of each of k sub-tasks, float32 (n, k, s).
        ahead: Whether that sub-task ends after this row and was completed, float32 (n, k) of 0 and 1.
        still: Whether that sub-task is under way or to come, and its end is not known, float32 (n, k) of 0 and 1.
        age: Rows since the first of the episode, int64 (n,).
        episode: Index of the demonstration, -1 for failures, int64 (n,).
        weight: How much each row of a demonstration counts, float32 (n,), in [0, 1]; 1 for failures.
    """

    images: dict[str, Image]
    state: NDArray[np.float32]
    action: NDArray[np.float32]
    progress: NDArray[np.float32]
    waypoints: NDArray[np.float32]
    ahead: NDArray[np.float32]
    still: NDArray[np.float32]
    age: NDArray[np.int64]
    episode: NDArray[np.int64]
    weight: NDArray[np.float32]

    @property
    def first(self) -> NDArray[np.int64]:
        """The first row of each row's episode, int64 (n,)."""
        return np.arange(len(self.age)) - self.age

    def of(self, episodes: int | None) -> CloningData:
        """Return only the rows of the first so many demonstrations, of all of them for None."""
        keep = (self.episode >= 0) & (self.episode < (len(self.episode) if episodes is None else episodes))
        return CloningData(
            images={name: pixels[keep] for name, pixels in self.images.items()},
            state=self.state[keep],
            action=self.action[keep],
            progress=self.progress[keep],
            waypoints=self.waypoints[keep],
            ahead=self.ahead[keep],
            still=self.still[keep],
            age=self.age[keep],
            episode=self.episode[keep],
            weight=self.weight[keep],
        )


def cloning_data(
    demonstrations: Sequence[DatasetEpisode],
    failures: Sequence[DatasetEpisode] = (),
    *,
    cameras: Sequence[str],
    image_px: int,
    weights: Sequence[NDArray[np.float32]] = (),
) -> CloningData:
    """Lay episodes out as arrays; of one that is not annotated only its end is known, as that of the last sub-task.

    Args:
        demonstrations: Successes, to be cloned.
        failures: Their completed sub-tasks help the encoder; their actions are never cloned.
        cameras: Views to keep, in order.
        image_px: Side of the square pictures.
        weights: How much each step of each demonstration counts, float32 (T,) in [0, 1]; all count fully where there are none.

    Raises:
        DatasetError: If no demonstration has a step, no step counts, or weights have another length.
    """
    _check_weights(demonstrations, weights)
    episodes = [*demonstrations, *failures]
    rows = [(e, t) for e, episode in enumerate(episodes) for t in range(len(episode.action))]
    if not any(e < len(demonstrations) for e, _ in rows):
        raise DatasetError(
            "There is nothing to clone", seen=f"{len(demonstrations)} episodes", allowed="at least one step"
        )
    names = list(dict.fromkeys(part.name for episode in demonstrations for part in episode.subtasks)) or [""]
    ends = np.array([_ends(episodes[e], t, names, e < len(demonstrations)) for e, t in rows])
    begun = np.array([_begun(episodes[e], t, names) for e, t in rows])
    return CloningData(
        images={
            name: np.stack([square(episodes[e].images[name][t], image_px) for e, t in rows])
            for name in cameras
        },
        state=np.stack([episodes[e].state[t] for e, t in rows]),
        action=np.stack([episodes[e].action[t] for e, t in rows]),
        progress=np.array([t / len(episodes[e].action) for e, t in rows], np.float32),
        waypoints=np.stack([episodes[e].state[at.clip(0)] for (e, _), at in zip(rows, ends, strict=True)]),
        ahead=(ends >= 0).astype(np.float32),
        still=((np.arange(len(names)) >= begun[:, None]) & (ends < 0)).astype(np.float32),
        age=np.array([t for _, t in rows]),
        episode=np.array([e if e < len(demonstrations) else -1 for e, _ in rows]),
        weight=np.array([weights[e][t] if e < len(weights) else 1.0 for e, t in rows], np.float32),
    )


def _check_weights(demonstrations: Sequence[DatasetEpisode], weights: Sequence[NDArray[np.float32]]) -> None:
    given, steps = [len(row) for row in weights], [len(episode.action) for episode in demonstrations]
    if given and (given != steps or not any(row.any() for row in weights)):
        raise DatasetError(
            "Demonstrations cannot be cloned by these weights",
            seen=f"{given} weights, the largest {max(row.max(initial=0.0) for row in weights):g}",
            allowed=f"{steps} in [0, 1], one above 0 at least",
            remedy="Name the weights that were made of these demonstrations with --demos.weights, or leave that out",
        )


def _ends(episode: DatasetEpisode, t: int, names: Sequence[str], success: bool) -> list[int]:
    """Return for each sub-task the observation at which it next ends after ``t``, -1 where it does not."""
    if not episode.subtasks:
        # Of a success that nobody marked, where others are, it is known where the last one ended.
        return [*[-1] * (len(names) - 1), len(episode.action) if success else -1]
    # In a failure only what the next sub-task followed was completed: the last was not, nor was what came undone.
    follows = dict(pairwise(names))
    parts = [
        part
        for part, then in zip_longest(episode.subtasks, episode.subtasks[1:])
        if success or (then is not None and follows.get(part.name) == then.name)
    ]
    return [
        min((part.end for part in parts if part.name == name and part.end > t), default=-1) for name in names
    ]


def _begun(episode: DatasetEpisode, t: int, names: Sequence[str]) -> int:
    """Return the furthest sub-task that had begun by observation ``t``; beyond the last where nothing is annotated."""
    begun = (names.index(p.name) for p in episode.subtasks if p.start <= t and p.name in names)
    return max(begun, default=len(names))
