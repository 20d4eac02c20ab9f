"""A CLIP network as a reward model: how near a picture lies to words for the goal, away from words for a baseline.

It looks at one picture at a time, so its potential depends on the frame and on fixed anchors alone. It needs no
training and little memory, knows little of robots, and is the baseline that other models have to beat.

Source: Rocamonde et al., "Vision-language models are zero-shot reward models for reinforcement learning", ICLR 2024
(arXiv 2310.12921): goal-baseline regularisation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from roborl.errors import ConfigError, ShapeError
from roborl.rewards.model import NO_REPLY, Fold, References, missing, views_of
from roborl.rewards.model_info import ModelInfo
from roborl.rewards.references import take_reference
from roborl.rewards.settings import described, settings_at, version_of
from roborl.types import Image, Observation, Score

if TYPE_CHECKING:
    from roborl.rewards.judges.clip_judge import ClipQuery, VectorJudge, Vectors

_SAME = 1e-6  # squared distance below which goal and baseline are the same words


def goal_baseline_reward(
    pictures: ArrayLike, goal: ArrayLike, baseline: ArrayLike, *, strength: float
) -> NDArray[np.float64]:
    """Return 1 − ½ ‖α · proj(s) + (1 − α) · s − g‖², proj being the nearest point of the line through b and g.

    At strength 0, and with unit vectors, that is the cosine ⟨s, g⟩; at 1, only the place along the line counts, and what
    a picture shows besides does not.

    Args:
        pictures: s, unit vectors (n, d).
        goal: g, vector of the words for the goal, (d,).
        baseline: b, vector of the words for what the scene looks like anyway, (d,).
        strength: α, in [0, 1].

    Returns:
        Rewards, float64 (n,), at most 1.

    Raises:
        ConfigError: If goal and baseline are the same, or the strength is out of range.
        ShapeError: If the vectors do not match.

    Example:
        >>> goal_baseline_reward([[0.6, 0.8]], [1.0, 0.0], [0.0, 1.0], strength=0.0).round(9)
        array([0.6])
    """
    s, g, b = (np.asarray(vectors, np.float64) for vectors in (pictures, goal, baseline))
    if s.ndim != 2 or g.shape != s.shape[1:] or b.shape != g.shape:
        raise ShapeError(
            "Vectors of pictures and words do not match",
            seen=f"{s.shape}, {g.shape} and {b.shape}",
            allowed="(n, d), (d,) and (d,)",
        )
    line = g - b
    if not 0.0 <= strength <= 1.0 or line @ line < _SAME:
        raise ConfigError(
            "The goal cannot be told from the baseline",
            seen=f"strength {strength}, squared distance {line @ line:.2g}",
            allowed="a strength in [0, 1], and different words for goal and baseline",
        )
    projected = b + np.outer((s - b) @ line / (line @ line), line)
    off = strength * projected + (1.0 - strength) * s - g
    return np.asarray(1.0 - 0.5 * (off**2).sum(axis=1))


@dataclass(frozen=True, kw_only=True)
class ClipConfig:
    """Which network looks, and what its pictures are compared with."""

    # Folder of the checkpoint, or its name in the hub's cache.
    checkpoint: str = ""
    # Where it runs: auto (a GPU where there is one), cpu, cuda or cuda:1.
    device: str = "auto"
    # Views to look at, by name; progress is their mean.
    cameras: tuple[str, ...] = ("front",)
    # Words for the goal; {task} stands for the instruction. Their vectors are averaged.
    goal: tuple[str, ...] = ("a robot arm that has finished this: {task}",)
    # Words for what the scene looks like anyway.
    baseline: tuple[str, ...] = ("a robot arm at a table",)
    # How strongly pictures are projected on the line from baseline to goal, in [0, 1]; 0 compares with the goal alone.
    strength: float = 0.5
    # Whether progress 0 and 1 are the first and the last picture of a demonstration. Without, they are the two rewards
    # below; text and pictures lie far apart in such a space, so those have to be fitted to the bench.
    demonstration: bool = True
    # Reward that counts as progress 0, and as progress 1.
    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if not self.cameras or "" in self.cameras or len(set(self.cameras)) != len(self.cameras):
            raise ConfigError(
                "The cameras of the CLIP model cannot be used",
                seen=self.cameras,
                allowed="one view or several different ones, by name",
            )
        if not self.goal or not self.baseline or not 0.0 <= self.strength <= 1.0 or not self.low < self.high:
            raise ConfigError(
                "The settings of the CLIP model cannot be used",
                seen=f"{len(self.goal)} goals, {len(self.baseline)} baselines, strength {self.strength},"
                f" low {self.low}, high {self.high}",
                allowed="words for goal and baseline, a strength in [0, 1], low below high",
            )


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Target:
    """What the pictures of an episode are compared with.

    Attributes:
        goals: One vector per wording of the goal, (k, d).
        baseline: Mean vector of the baseline's wordings, (d,).
        anchors: Rewards that count as progress 0 and 1, per view and wording of the goal and then their mean,
            (2, c, k + 1).
    """

    goals: Vectors
    baseline: Vectors
    anchors: NDArray[np.float64]


class ClipFold(Fold["ClipQuery", "Vectors"]):
    """Keeps nothing: every picture is judged by itself.

    Args:
        model: Whose pictures to ask for.
        target: What they are compared with.
    """

    def __init__(self, model: ClipModel, target: Target) -> None:
        self._model = model
        self._target = target

    def queries(self, observation: Observation) -> list[ClipQuery]:
        """Return one query with the present picture of each view.

        Raises:
            ShapeError: If a view is missing.
        """
        from roborl.rewards.judges.clip_judge import ClipQuery

        return [ClipQuery(pictures=self._model.views(observation))]

    def fold(self, observation_id: int, replies: Sequence[Vectors | None]) -> Score:
        """Compare the vectors with the target; wordings and views that differ give the spread."""
        (vectors,) = replies
        version = self._model.info.version
        if vectors is None:
            return missing(observation_id, NO_REPLY, version=version)
        if not np.isfinite(vectors).all():
            return missing(observation_id, "not finite", version=version)
        rewards = self._model.rewards(vectors, self._target)
        low, high = self._target.anchors
        progress = np.clip((rewards - low) / (high - low), 0.0, 1.0)
        return Score(
            frame_id=observation_id,
            progress=float(progress[:, -1].mean()),
            raw=float(rewards[:, -1].mean()),
            spread=float(progress[:, :-1].std()),
            version=version,
        )


class ClipModel:
    """Goal and baseline words in the space of a CLIP network.

    Args:
        judge: The network.
        config: What it looks at and compares with.
    """

    def __init__(self, judge: VectorJudge, config: ClipConfig) -> None:
        self.judge = judge
        self.config = config
        about = described("clip", config, places=("checkpoint", "device"), judge=judge.identity)
        self.info = ModelInfo(version=version_of(about), cameras=config.cameras, says_done=False, about=about)

    def start(self, task: str, references: References) -> ClipFold:
        """Return the fold of a new episode; encodes the words, and the ends of the demonstration.

        Args:
            task: The instruction in words.
            references: ``demo/<camera>`` uint8 (t, h, w, 3) for each camera, where the settings ask for it: the same for
                all episodes, so that potentials can be compared.

        Raises:
            ConfigError: If one that is needed is missing or has another form, its end is no nearer to the goal than its
                beginning, or the words are too long.
        """
        goals = self.judge.read([text.replace("{task}", task) for text in self.config.goal])
        baseline = self.judge.read([t.replace("{task}", task) for t in self.config.baseline]).mean(axis=0)
        shape = (len(self.config.cameras), len(goals) + 1)
        fixed = np.stack([np.full(shape, self.config.low), np.full(shape, self.config.high)])
        target = Target(goals=goals, baseline=baseline, anchors=fixed)
        if not self.config.demonstration:
            return ClipFold(self, target)
        from roborl.rewards.judges.clip_judge import ClipQuery

        demos = [_demonstration(references, camera) for camera in self.config.cameras]
        ends = [ClipQuery(pictures=tuple(demo[place] for demo in demos)) for place in (0, -1)]
        anchors = np.stack([self.rewards(vectors, target) for vectors in self.judge.answer(ends)])
        gain = anchors[1] - anchors[0]
        if not (np.isfinite(gain).all() and gain.min() > 0.0):
            raise ConfigError(
                "The end of the demonstration is no nearer to the words for the goal than its beginning",
                seen=f"a gain of {gain.min():.4f} for {task!r}",
                allowed="more than 0 in every view and wording",
                remedy="Say otherwise what the goal looks like, or use another network: this one does not see the task",
            )
        return ClipFold(self, Target(goals=goals, baseline=baseline, anchors=anchors))

    def rewards(self, vectors: Vectors, target: Target) -> NDArray[np.float64]:
        """Return rewards of pictures by each wording of the goal, and last by the mean of them, (c, k + 1)."""
        goals = [*target.goals, target.goals.mean(axis=0)]
        return np.stack(
            [
                goal_baseline_reward(vectors, goal, target.baseline, strength=self.config.strength)
                for goal in goals
            ],
            axis=1,
        )

    def views(self, observation: Observation) -> tuple[Image, ...]:
        """Take from an observation what the network looks at.

        Raises:
            ShapeError: If a view is missing.
        """
        return views_of(observation, self.config.cameras)


def load_clip(place: str) -> ClipModel:
    """Load a CLIP checkpoint with its settings.

    Args:
        place: Folder of a checkpoint, its name in the hub's cache, or a YAML file of :class:`ClipConfig`.

    Raises:
        ModelLoadError: If the checkpoint cannot be used.
        ConfigError: If the settings cannot be used.
    """
    from roborl.rewards.judges.clip_judge import ClipJudge

    config: ClipConfig = settings_at(ClipConfig, place)
    return ClipModel(ClipJudge.load(config.checkpoint, device=config.device), config)


def _demonstration(references: References, camera: str) -> NDArray[np.uint8]:
    demo = take_reference(references, f"demo/{camera}")
    if demo is None or len(demo) < 2:
        raise ConfigError(
            "The reward model lacks a demonstration",
            seen=(sorted(references) or "none") if demo is None else f"{demo.dtype} {demo.shape}",
            allowed=f"demo/{camera} uint8 (t, h, w, 3), t ≥ 2",
            remedy="Show it one: --references.path DATASET; or set demonstration to False, and low and high to rewards"
            " fitted on this bench",
        )
    return demo
