"""By which features a step is recognised: those that differ most between its frames and all the others.

Source: Sermanet, Xu and Levine, "Unsupervised perceptual rewards for imitation learning", RSS 2017 (arXiv 1612.06699):
independent Gaussians per feature, and the score zᵢ = α |μᵢ⁺ − μᵢ⁻| − (σᵢ⁺ + σᵢ⁻) of normalised features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from roborl.errors import ShapeError
from roborl.rewards.perceptual.config import PerceptualConfig
from roborl.rewards.perceptual.steps import Features, feature_scale


@dataclass(frozen=True, eq=False, kw_only=True)
class Looks:
    """What each step looks like, and last the finished task: K + 1 looks of m features, in the encoder's own units.

    Attributes:
        index: Which features, int64 (K + 1, m).
        inside_mean: Of the frames that look so, float32 (K + 1, m).
        inside_std: Their deviation, positive.
        outside_mean: Of all other frames.
        outside_std: Their deviation, positive.
    """

    index: NDArray[np.int64]
    inside_mean: NDArray[np.float32]
    inside_std: NDArray[np.float32]
    outside_mean: NDArray[np.float32]
    outside_std: NDArray[np.float32]

    def __post_init__(self) -> None:
        shapes = {field.name: getattr(self, field.name).shape for field in fields(self)}
        if len(set(shapes.values())) != 1 or self.index.ndim != 2 or len(self.index) < 2:
            raise ShapeError(
                "The looks of steps do not match", seen=shapes, allowed="one shape (k, m), k ≥ 2"
            )
        if self.index.min() < 0 or min(self.inside_std.min(), self.outside_std.min()) <= 0.0:
            raise ShapeError("Looks need features that there are, and positive deviations")

    def nearness(self, vectors: Features) -> NDArray[np.float64]:
        """Return −½ of the mean squared distance to each look, in its deviations: a log-likelihood per feature.

        Args:
            vectors: Frames, float32 (n, f).

        Returns:
            Float64 (n, K + 1), at most 0.
        """
        inside = self._distances(vectors, self.inside_mean, self.inside_std)
        return np.asarray((-0.5 * inside**2).mean(axis=2))

    def odds(self, vectors: Features) -> NDArray[np.float64]:
        """Return how much likelier each look is than its absence: the mean log-ratio over its features.

        Args:
            vectors: Frames, float32 (n, f).

        Returns:
            Float64 (n, K + 1).
        """
        outside = self._distances(vectors, self.outside_mean, self.outside_std)
        absent = (-0.5 * outside**2 - np.log(self.outside_std)).mean(axis=2)
        return np.asarray(self.nearness(vectors) - np.log(self.inside_std).mean(axis=1) - absent)

    def _distances(self, vectors: Features, mean: Features, std: Features) -> NDArray[np.float64]:
        return np.asarray((vectors[:, self.index].astype(np.float64) - mean) / std)


def select_looks(
    demonstrations: Sequence[Features], bounds: Sequence[Sequence[int]], config: PerceptualConfig
) -> Looks:
    """Choose the features of each step, and of the finished task, over all demonstrations together.

    Args:
        demonstrations: Each (n, f).
        bounds: Each one's steps, as :class:`~roborl.rewards.perceptual.steps.Discovery` has them.
        config: How many features, and how they are scored.
    """
    scale = feature_scale(demonstrations)
    frames = np.concatenate(demonstrations)
    step = np.concatenate([np.repeat(np.arange(len(b) - 1), np.diff(b)) for b in bounds])
    finished = np.concatenate([np.arange(len(x)) >= len(x) - config.finish_frames for x in demonstrations])
    inside = [*(step == k for k in range(len(bounds[0]) - 1)), finished]
    looks = [_look(frames, where, scale, config) for where in inside]
    index, *numbers = (np.stack(part) for part in zip(*looks, strict=True))
    means_and_stds = [part.astype(np.float32) for part in numbers]
    return Looks(
        index=index.astype(np.int64),
        inside_mean=means_and_stds[0],
        inside_std=means_and_stds[1],
        outside_mean=means_and_stds[2],
        outside_std=means_and_stds[3],
    )


def _look(
    frames: Features, inside: NDArray[np.bool_], scale: Features, config: PerceptualConfig
) -> tuple[NDArray[np.generic], ...]:
    """Index, inside mean and deviation, outside mean and deviation of the best features."""
    here, elsewhere = frames[inside].astype(np.float64), frames[~inside].astype(np.float64)
    means, stds = (here.mean(axis=0), elsewhere.mean(axis=0)), (here.std(axis=0), elsewhere.std(axis=0))
    scores = (config.contrast * np.abs(means[0] - means[1]) - (stds[0] + stds[1])) / scale
    scores[np.isinf(scale)] = -np.inf  # what never changes is no sign of anything
    best = np.argsort(-scores, kind="stable")[: config.features]
    floor = np.where(np.isinf(scale), 1.0, config.least_deviation * scale)[best]
    low, high = np.maximum(stds[0][best], floor), np.maximum(stds[1][best], floor)
    return best, means[0][best], low, means[1][best], high
