"""The perceptual reward model: steps recognised in a frozen network's features, passed one after the other.

Every picture says how much it looks like each step. A step is reached only from its neighbours, and no single picture
says more than so much, so one that looks like a late step does not count before the earlier ones have been seen; an
episode may begin in any of them. Progress is
the share of the steps that are over, and within the present one how near the look of the next has come. Work that is
undone loses it. A picture that looks like none of them, a black one say, has no score and changes nothing. It is
trained for one task and does not read the instruction.

Source: Sermanet, Xu and Levine, "Unsupervised perceptual rewards for imitation learning", RSS 2017 (arXiv 1612.06699).
There, each later step's likelihood counts twice as much as the one before; here, a filter keeps their order, and
progress has a scale.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from roborl.errors import ShapeError
from roborl.images import square
from roborl.rewards.model import NO_REPLY, Fold, Judge, References, missing, views_of
from roborl.rewards.model_info import ModelInfo
from roborl.rewards.perceptual.config import PerceptualConfig
from roborl.rewards.perceptual.order import advance, step_moves
from roborl.rewards.perceptual.selection import Looks
from roborl.rewards.perceptual.steps import Features
from roborl.rewards.training.encoders import FrameEncoder
from roborl.types import Image, Observation, Score


@dataclass(frozen=True, eq=False, kw_only=True)
class StepStatistics:
    """What demonstrations teach.

    Attributes:
        looks: Of the K steps and of the finished task.
        lengths: Mean frames of each step, float32 (K,).
        starts: Progress at which each step begins, and 1, float32 (K + 1,).
        far: Mean nearness to the next look in the first frame of each step, float32 (K,).
        slope: Progress within a step per nearness to the next look; 0 where that does not grow, float32 (K,).
        doubt: Root mean squared error of the progress within each step, float32 (K,).
        least_near: Nearness to its nearest look of the frame that is farthest from all of them, float32 (1,), below 0.
    """

    looks: Looks
    lengths: NDArray[np.float32]
    starts: NDArray[np.float32]
    far: NDArray[np.float32]
    slope: NDArray[np.float32]
    doubt: NDArray[np.float32]
    least_near: NDArray[np.float32]

    def __post_init__(self) -> None:
        steps = len(self.looks.index) - 1
        shapes = {n: getattr(self, n).shape for n in ("lengths", "far", "slope", "doubt", "starts")}
        if [*shapes.values()] != [(steps,)] * 4 + [(steps + 1,)]:
            raise ShapeError("The statistics of steps do not match", seen=shapes, allowed=f"{steps} steps")
        rising = (np.diff(self.starts) > 0.0).all() and self.starts[0] == 0.0 and self.starts[-1] == 1.0
        if self.least_near.shape != (1,) or self.least_near[0] >= 0.0:
            raise ShapeError(
                "The least nearness is impossible", seen=self.least_near, allowed="one number below 0"
            )
        if not rising or self.lengths.min() < 1.0 or min(self.slope.min(), self.doubt.min()) < 0.0:
            raise ShapeError(
                "The statistics of steps are impossible",
                seen=f"starts {self.starts}, lengths {self.lengths}, slopes {self.slope}, doubts {self.doubt}",
                allowed="starts that rise from 0 to 1, lengths of 1 at least, nothing negative",
            )

    def within(self, nearness: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the progress within each step as if it were the present one, float64 (n, K) in [0, 1].

        Args:
            nearness: To each look, (n, K + 1).
        """
        return np.asarray((self.slope * (nearness[:, 1:] - self.far)).clip(0.0, 1.0))


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class FeatureQuery:
    """Pictures to turn into one vector.

    Attributes:
        pictures: One per camera, uint8 (px, px, 3).
    """

    pictures: tuple[Image, ...]


class FeatureJudge(Judge[FeatureQuery, Features]):
    """Encodes pictures with a frozen network, all of a batch at once. Used by one thread.

    Args:
        encoder: The network.
    """

    def __init__(self, encoder: FrameEncoder) -> None:
        self._encoder = encoder.eval()

    @torch.inference_mode()
    def answer(self, queries: Sequence[FeatureQuery]) -> list[Features]:
        """Return one vector per query, its cameras side by side, float32 (c · d,)."""
        if not queries:
            return []
        pictures = np.stack([picture for query in queries for picture in query.pictures])
        vectors = self._encoder(torch.from_numpy(pictures)).to(torch.float32)
        return list(vectors.reshape(len(queries), -1).numpy())


class PerceptualFold(Fold[FeatureQuery, Features]):
    """The belief about which step is being done.

    Args:
        model: Whose steps.
    """

    def __init__(self, model: PerceptualModel) -> None:
        self._model = model
        steps = len(model.moves)
        self._belief: NDArray[np.float64] = np.full(steps, 1.0 / steps)
        self._last: int | None = None

    def queries(self, observation: Observation) -> list[FeatureQuery]:
        """Return one query: the pictures of all cameras.

        Raises:
            ShapeError: If a view is missing.
        """
        px = self._model.config.image_px
        views = views_of(observation, self._model.info.cameras)
        return [FeatureQuery(pictures=tuple(square(view, px) for view in views))]

    def fold(self, observation_id: int, replies: Sequence[Features | None]) -> Score:
        """Weigh what the picture looks like against where the episode was; a lost reply leaves that as it is."""
        (vector,) = replies
        model = self._model
        if vector is None:
            return missing(observation_id, NO_REPLY, version=model.info.version)
        if not np.isfinite(vector).all():
            return missing(observation_id, "not finite", version=model.info.version)
        looks, statistics = model.statistics.looks, model.statistics
        nearness = looks.nearness(vector[None])
        if nearness.max() < model.config.strange * statistics.least_near[0]:
            return missing(observation_id, "like nothing demonstrated", version=model.info.version)
        frames = 0 if self._last is None else observation_id - self._last
        log_odds = model.config.evidence * looks.odds(vector[None])[0, :-1]
        bounded = np.maximum(log_odds - log_odds.max(), -model.config.most_evidence)
        belief = self._belief = advance(self._belief, model.moves, bounded, frames)
        self._last = observation_id
        shares = np.diff(statistics.starts)
        places = statistics.starts[:-1] + shares * statistics.within(nearness)[0]
        progress = float(belief @ places)
        variance = belief @ ((places - progress) ** 2 + (shares * statistics.doubt) ** 2)
        return Score(
            frame_id=observation_id,
            progress=min(max(progress, 0.0), 1.0),
            raw=progress,
            spread=float(np.sqrt(variance)),
            stage=int(belief.argmax()),
            version=model.info.version,
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class PerceptualModel:
    """A frozen network, and what a few demonstrations say about its features.

    Attributes:
        encoder: The network.
        config: What it looks at and how steps are told apart.
        statistics: What the demonstrations taught.
        info: Its version is the hash of network, settings, views and statistics.
        tasks: Instructions of the demonstrations; for people.
    """

    encoder: FrameEncoder
    config: PerceptualConfig
    statistics: StepStatistics
    info: ModelInfo
    tasks: tuple[str, ...]
    judge: FeatureJudge = field(init=False)
    moves: NDArray[np.float64] = field(init=False)

    def __post_init__(self) -> None:
        size = len(self.info.cameras) * self.encoder.dim
        if self.statistics.looks.index.max() >= size:
            raise ShapeError(
                "A step is recognised by a feature that the encoder does not have",
                seen=int(self.statistics.looks.index.max()),
                allowed=f"0 to {size - 1}",
            )
        object.__setattr__(self, "judge", FeatureJudge(self.encoder))
        object.__setattr__(self, "moves", step_moves(self.statistics.lengths, self.config.undo))

    def start(self, task: str, references: References) -> PerceptualFold:
        """Return the fold of a new episode; task and references play no part."""
        return PerceptualFold(self)
