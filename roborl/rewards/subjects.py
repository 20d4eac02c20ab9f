"""The episodes that a reward model is judged on: what is known of each, and its pictures only while they are shown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from roborl.rewards.grades import level_of
from roborl.rewards.judges.queries import picture_key
from roborl.rewards.model import References
from roborl.rewards.training.episodes import TrainingEpisode
from roborl.rewards.training.labels import Span
from roborl.rewards.training.learnt_from import Origin


@dataclass(frozen=True, eq=False, kw_only=True)
class StoredEpisode:
    """A recorded episode whose pictures are left where they are: those of a few datasets fill a memory.

    Attributes:
        frames: T + 1.
        task: The instruction in words.
        success: Whether it was one.
        subtasks: Annotated spans, where there are any.
        kind: What sort of episode.
        benchmark: Privileged progress, float32 (T + 1,), where there is one.
        origin: By what it is known again.
        video: Identity of its pictures.
        read: Reads the whole episode; blocks while pictures are decoded.
    """

    frames: int
    task: str
    success: bool
    subtasks: Sequence[Span] | None
    kind: str
    benchmark: NDArray[np.float32] | None
    origin: Origin | None
    video: str
    read: Callable[[], TrainingEpisode]


def stored(episode: TrainingEpisode, read: Callable[[], TrainingEpisode]) -> StoredEpisode:
    """Return what is kept of an episode that was read once, and is read again when it is shown."""
    return StoredEpisode(
        frames=episode.frames,
        task=episode.task,
        success=episode.success,
        subtasks=episode.subtasks,
        kind=episode.kind,
        benchmark=episode.benchmark,
        origin=episode.origin,
        video=picture_key(*next(iter(episode.images.values()))).hex(),
        read=read,
    )


@dataclass(frozen=True, eq=False, kw_only=True)
class Subject:
    """An episode to be judged.

    Attributes:
        episode: The episode.
        group: Where it is from.
        truth: Progress as it was, NaN where unknown, float64 (T + 1,).
        references: What models are told besides the task.
        other_task: Another instruction, for the probe that shows the same pictures under other words.
    """

    episode: StoredEpisode
    group: str
    truth: NDArray[np.float64]
    references: References
    other_task: str

    @property
    def level(self) -> int | None:
        """The grade derived for it: 5 for a success, at most 4 for a failure of known progress, None for any other.

        People who grade a video may say otherwise; what they said about videos is for :mod:`.graded_videos`.
        """
        if self.episode.success:
            return 5
        return None if np.isnan(self.truth[-1]) else min(4, level_of(float(self.truth[-1])))

    def unseen(self) -> Subject:
        """Return it with a black dot for each picture, for whoever does not look."""
        episode = self.episode
        blind = TrainingEpisode(
            images={"": np.zeros((episode.frames, 1, 1, 3), np.uint8)},
            state=np.zeros((episode.frames, 0), np.float32),
            task=episode.task,
            success=episode.success,
        )
        return replace(self, episode=replace(episode, read=lambda: blind))
