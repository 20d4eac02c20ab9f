"""What a reward model is trained on and measured with: recorded episodes as arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from roborl.errors import DatasetError
from roborl.images import square
from roborl.rewards.training.labels import UNMARKED, FrameLabels, Span, StagePlan, label_ends, label_frames
from roborl.rewards.training.learnt_from import Origin
from roborl.types import Frame, Observation


@dataclass(frozen=True, eq=False, kw_only=True)
class TrainingEpisode:
    """One episode of T steps and T + 1 observations.

    Attributes:
        images: Pictures by camera, uint8 (T + 1, h, w, 3) each.
        state: Proprioception, float32 (T + 1, s).
        task: The instruction in words.
        success: Whether it was one.
        subtasks: Annotated spans, where there are any.
        kind: What sort of episode, for the report: "success", "miss", "policy" …
        benchmark: Privileged progress, float32 (T + 1,): for the report alone, never for training.
        origin: By what it is known again where the model is measured; None where it was never recorded.
        ends_only: Whether no more is known of a success than that nothing is done at its beginning and all at its end.
    """

    images: Mapping[str, NDArray[np.uint8]]
    state: NDArray[np.float32]
    task: str
    success: bool
    subtasks: Sequence[Span] | None = None
    kind: str = ""
    benchmark: NDArray[np.float32] | None = None
    origin: Origin | None = None
    ends_only: bool = False

    def __post_init__(self) -> None:
        lengths = {name: len(frames) for name, frames in self.images.items()}
        if not lengths or set(lengths.values()) != {len(self.state)} or len(self.state) < 2:
            raise DatasetError(
                "An episode needs one state and one picture per camera for each of its observations",
                seen=f"{len(self.state)} states, pictures {lengths}",
                allowed="equal lengths of at least 2",
            )

    @property
    def frames(self) -> int:
        """T + 1."""
        return len(self.state)


def as_video(episode: TrainingEpisode, order: Sequence[int]) -> list[Observation]:
    """Return the chosen frames as the observations 0, 1, … of an episode."""
    return [
        Observation(
            frames={
                name: Frame(rgb=rgb[index], camera=name, stamp_ns=at, id=at)
                for name, rgb in episode.images.items()
            },
            state=episode.state[index],
            stamp_ns=at,
        )
        for at, index in enumerate(order)
    ]


def common_cameras(episodes: Sequence[TrainingEpisode]) -> tuple[str, ...]:
    """Return the camera names that all episodes share.

    Raises:
        DatasetError: If there are no episodes, or they disagree.
    """
    found = {tuple(sorted(episode.images)) for episode in episodes}
    if len(found) != 1:
        raise DatasetError(
            "All episodes must have the same cameras",
            seen=sorted(found) or "no episodes",
            remedy="Give the dataset a camera map, or leave out the odd episodes",
        )
    return found.pop()


def resize_episode(
    episode: TrainingEpisode, cameras: Sequence[str], px: int
) -> tuple[NDArray[np.uint8], ...]:
    """Return its pictures at the model's size, camera by camera, uint8 (n, px, px, 3) each."""
    return tuple(
        np.stack([np.ascontiguousarray(square(rgb, px)) for rgb in episode.images[camera]])
        for camera in cameras
    )


def label_episode(episode: TrainingEpisode, plan: StagePlan, failure_ceiling: float) -> FrameLabels:
    """Label an episode's frames by the plan; see :func:`~roborl.rewards.training.labels.label_frames`."""
    if episode.success and episode.ends_only:
        return label_ends(plan, episode.frames)
    return label_frames(
        plan, episode.frames, episode.subtasks, success=episode.success, failure_ceiling=failure_ceiling
    )


def check_measurable(episodes: Sequence[TrainingEpisode], plan: StagePlan) -> None:
    """Hold the marks of successes that are measured on against the plan by which their true progress is told.

    A success is not measured by its marks where it has none, or privileged progress. One that repeats a stage may do so
    in any order.

    Raises:
        DatasetError: If a success is marked with an unknown stage, or lacks one.
    """
    for episode in episodes:
        if not episode.success or not episode.subtasks or episode.benchmark is not None:
            continue
        names = [name for name, _, _ in episode.subtasks]
        repeats = len(set(names)) < len(names)
        if set(names) - set(plan.names) if repeats else tuple(names) != plan.names:
            where = "" if episode.origin is None else f" in episode {episode.origin.index}"
            raise DatasetError(
                "A success to measure on is not marked as those that are learnt from",
                seen=f"{names}{where}",
                allowed=list(plan.names) if plan.names != UNMARKED else "no marks, for those have none",
                remedy="Correct it with roborl annotate, or mark the others alike",
            )
