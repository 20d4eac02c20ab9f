"""One episode of a dataset: whole arrays, as files hold them and as reward models and cloning want them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from roborl.errors import ShapeError
from roborl.records import Verdict
from roborl.types import (
    Command,
    EndCause,
    Episode,
    EpisodeKey,
    Frame,
    Observation,
    RewardSource,
    Source,
    Step,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Subtask:
    """One stage of an episode.

    Attributes:
        name: What is done in it.
        start: Observation at which it begins; progress within it is 0 there.
        end: Observation at which it is done; progress within it is 1 there. The next one may start at the same.
    """

    name: str
    start: int
    end: int


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Provenance:
    """Where the actions and rewards of an episode came from.

    Attributes:
        proposed: What the policy had proposed, float32 (T, a).
        source: Who chose each executed action, T of them.
        policy_version: Weights behind each proposal, int64 (T,).
        reward_source: Who gave each reward, T of them.
        stamp_ns: Monotonic instants of the state and then of each camera, in the order of the images, int64 (T + 1, 1 + cameras).
        verdict_index: The observation that a verdict judged, -1 where there was none.
        verdict_source: Who judged.
        verdict_reward: Task reward that the verdict came with, None for 1 on success and 0 otherwise.
        kind: What the episode was in its store: "online", "demo", "evaluation" or "failure"; empty elsewhere.
        meta: What the actor said about it when it began.
    """

    proposed: NDArray[np.float32]
    source: tuple[Source, ...]
    policy_version: NDArray[np.int64]
    reward_source: tuple[RewardSource, ...]
    stamp_ns: NDArray[np.int64]
    verdict_index: int = -1
    verdict_source: RewardSource = RewardSource.NONE
    verdict_reward: float | None = None
    kind: str = ""
    meta: Mapping[str, str | int | float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class DatasetEpisode:
    """T steps and T + 1 observations.

    Attributes:
        task: The instruction in words.
        images: Pixels by camera name, uint8 (T + 1, h, w, 3).
        state: Proprioception, float32 (T + 1, s).
        action: The actions executed, in the dataset's own units, float32 (T, a).
        reward: The task's reward for each step, float32 (T,).
        success: The verdict, None where nobody gave one.
        end: Why it ended.
        subtasks: Stages in time order; empty where the episode is not annotated.
        failure: The kind of a scripted failure, empty otherwise.
        discarded: True where the operator asked to keep it out of training.
        repeated_last: True where the last observation is a copy of the one before it, because the file has none.
        copied_last: True where it is such a copy, and the file has it: it was written from an episode without a last one.
        key: The identity it had in a store, or in the RLDS dataset it was imported from; empty otherwise.
        index: Its ``episode_index`` in the file it was read from, -1 otherwise.
        provenance: Where actions and rewards came from, None where the file does not say.
        benchmark_progress: Privileged progress, float32 (T + 1,), for benchmarks and tests only; None elsewhere.
        more_tasks: Further instructions that its rows have. What is made of words and outcomes leaves such an episode out:
            nobody says which of its tasks was done where.
    """

    task: str
    images: Mapping[str, NDArray[np.uint8]]
    state: NDArray[np.float32]
    action: NDArray[np.float32]
    reward: NDArray[np.float32]
    success: bool | None
    end: EndCause
    subtasks: tuple[Subtask, ...] = ()
    failure: str = ""
    discarded: bool = False
    repeated_last: bool = False
    copied_last: bool = False
    key: str = ""
    index: int = -1
    provenance: Provenance | None = None
    benchmark_progress: NDArray[np.float32] | None = None
    more_tasks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        steps = len(self.action)
        _check("state", self.state, np.float32, 2, steps + 1)
        _check("action", self.action, np.float32, 2, steps)
        _check("reward", self.reward, np.float32, 1, steps)
        for name, pixels in self.images.items():
            _check(f"camera {name!r}", pixels, np.uint8, 4, steps + 1)
        if self.benchmark_progress is not None:
            _check("benchmark_progress", self.benchmark_progress, np.float32, 1, steps + 1)
        for subtask in self.subtasks:
            if not 0 <= subtask.start <= subtask.end <= steps:
                raise ShapeError(
                    f"Sub-task {subtask.name!r} lies outside its episode",
                    seen=f"{subtask.start} to {subtask.end}",
                    allowed=f"0 to {steps}",
                    remedy="Correct its keyframes, for example with roborl annotate",
                )

    @property
    def steps(self) -> int:
        """T, the number of steps; there is one observation more."""
        return len(self.action)

    @property
    def content(self) -> str:
        """Digest of the motion as it was recorded, by which it is known again in a copy; empty where there is none."""
        rows = self.steps + 1 - (self.repeated_last or self.copied_last)
        motion = (self.state[:rows], self.action[: rows - 1])
        if not sum(values.size for values in motion):
            return ""
        found = hashlib.sha256()
        for values in motion:
            found.update(f"{values.shape}".encode() + np.ascontiguousarray(values).tobytes())
        return found.hexdigest()[:16]

    @property
    def verdict(self) -> Verdict | None:
        """What was judged of it in its store; None where nobody did, or it was in none."""
        known = self.provenance
        if known is None or known.verdict_index < 0 or not self.key:
            return None
        return Verdict(
            key=EpisodeKey.parse(self.key),
            index=known.verdict_index,
            success=self.success is True,
            source=known.verdict_source,
            reward=known.verdict_reward,
        )


def _check(name: str, array: object, dtype: type, dims: int, length: int) -> None:
    if (
        not isinstance(array, np.ndarray)
        or array.dtype != dtype
        or array.ndim != dims
        or len(array) != length
    ):
        seen = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
        raise ShapeError(
            f"An episode's {name} has the wrong form",
            seen=seen,
            allowed=f"{np.dtype(dtype).name}, {dims} dimensions, {length} rows",
        )


def from_episode(episode: Episode, *, discarded: bool = False) -> DatasetEpisode:
    """Lay an episode of the store out as arrays, losing nothing but what rewards hold beyond single precision."""
    observations, steps = episode.observations, episode.steps
    cameras = list(observations[0].frames)
    width = len(steps[0].command.action) if steps else 0
    empty = np.zeros((0, width), np.float32)
    return DatasetEpisode(
        task=episode.task,
        images={name: np.stack([o.frames[name].rgb for o in observations]) for name in cameras},
        state=np.stack([o.state for o in observations]),
        action=np.stack([s.command.action for s in steps]) if steps else empty,
        reward=np.array([s.reward for s in steps], np.float32),
        success=episode.success,
        end=episode.end,
        discarded=discarded,
        key=str(episode.key),
        provenance=Provenance(
            proposed=np.stack([s.command.proposed for s in steps]) if steps else empty,
            source=tuple(s.command.source for s in steps),
            policy_version=np.array([s.command.policy_version for s in steps], np.int64),
            reward_source=tuple(s.reward_source for s in steps),
            stamp_ns=np.array(
                [[o.stamp_ns, *(o.frames[name].stamp_ns for name in cameras)] for o in observations], np.int64
            ),
        ),
    )


def to_episode(episode: DatasetEpisode, key: EpisodeKey | None = None, *, fps: float = 10.0) -> Episode:
    """Turn arrays into an episode for the store; frames are views of the arrays.

    Args:
        episode: Actions must already be the bench's, in [-1, 1].
        key: Identity; by default the one it had when it was exported, or else its place in its dataset.
        fps: Used for stamps where the file has none.
    """
    key = key or (
        EpisodeKey.parse(episode.key)
        if episode.key
        else EpisodeKey(actor="dataset", incarnation=1, episode=max(episode.index, 0))
    )
    cameras, known = list(episode.images), episode.provenance
    even = (np.arange(episode.steps + 1) * (1e9 / fps)).astype(np.int64)
    stamps = known.stamp_ns if known else np.repeat(even[:, None], 1 + len(cameras), axis=1)
    observations = [
        Observation(
            frames={
                name: Frame(rgb=episode.images[name][t], camera=name, stamp_ns=int(stamps[t, 1 + c]), id=t)
                for c, name in enumerate(cameras)
            },
            state=episode.state[t],
            stamp_ns=int(stamps[t, 0]),
        )
        for t in range(episode.steps + 1)
    ]
    steps = tuple(
        Step(
            observation=observations[t],
            command=Command(
                action=episode.action[t],
                proposed=known.proposed[t] if known else episode.action[t],
                source=known.source[t] if known else Source.PERSON,
                policy_version=int(known.policy_version[t]) if known else 0,
            ),
            reward=float(episode.reward[t]),
            reward_source=known.reward_source[t] if known else RewardSource.OPERATOR,
        )
        for t in range(episode.steps)
    )
    return Episode(
        key=key,
        task=episode.task,
        steps=steps,
        last_observation=observations[-1],
        end=episode.end,
        success=episode.success,
    )
