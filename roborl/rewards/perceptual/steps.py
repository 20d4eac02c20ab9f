"""Finding the steps of a task: cuts that leave pictures as much alike as can be within each piece.

Each demonstration is cut by itself, exactly, into as many pieces as the others; the first piece of each is the first
step, and so on. How many there are is given, or decided by all demonstrations together.

Source: Sermanet, Xu and Levine, "Unsupervised perceptual rewards for imitation learning", RSS 2017 (arXiv 1612.06699):
the mean deviation of features within segments is made small. Theirs is a recursion over all cuts; dynamic programming
finds the same best ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from roborl.errors import DatasetError

type Features = NDArray[np.float32]
"""One demonstration as a frozen network sees it, float32 (n, f)."""

FLAT = 1e-3  # features that vary by less say nothing
_MOST_FRAMES = 240


@dataclass(frozen=True, eq=False, kw_only=True)
class Discovery:
    """Steps of a task in its demonstrations.

    Attributes:
        bounds: For each demonstration K + 1 frames: step k lasts from bound k up to, not including, bound k + 1.
        left: Deviation within steps that 1, 2, … steps leave, as a share of that around a single one.
    """

    bounds: tuple[tuple[int, ...], ...]
    left: tuple[float, ...]

    @property
    def steps(self) -> int:
        """K."""
        return len(self.bounds[0]) - 1


def discover_steps(
    demonstrations: Sequence[Features], *, steps: int, shortest: int, most: int = 8, least_gain: float = 0.05
) -> Discovery:
    """Cut demonstrations into steps, the same number in each.

    A demonstration of more than 240 frames is thinned evenly to that many at most; its cuts fall on frames that are kept.

    Args:
        demonstrations: One or more, of any lengths.
        steps: K; 0 goes on as long as one step more takes away at least ``least_gain`` of the deviation around a single
            one, from two steps on.
        shortest: Least frames of a step, of those that are kept.
        most: Most steps where the number is not given.
        least_gain: See ``steps``.

    Raises:
        DatasetError: If there is none, or one is too short for so many steps.
    """
    strides = [-(-len(features) // _MOST_FRAMES) for features in demonstrations]
    kept = [features[::stride] for features, stride in zip(demonstrations, strides, strict=True)]
    wanted = max(steps, 2)
    least = min((len(features) for features in kept), default=0)
    if least < wanted * shortest:
        raise DatasetError(
            "The demonstrations are too short for their steps",
            seen=f"{len(kept)} demonstrations, the shortest of {least} frames",
            allowed=f"one at least, of {wanted * shortest} frames: {wanted} steps of {shortest}",
            remedy="Ask for fewer steps, or for shorter ones",
        )
    reach = steps or min(most, least // shortest)
    scale = feature_scale(demonstrations)
    found = [_cuts(deviation_costs(features / scale), reach, shortest) for features in kept]
    left = np.sum([[cost for cost, _ in one] for one in found], axis=0)
    left = left / max(float(left[0]), 1e-9)
    count = steps
    if not count:
        count = 2
        while count < reach and left[count - 1] - left[count] >= least_gain:
            count += 1
    return Discovery(
        bounds=tuple(
            (*(cut * stride for cut in one[count - 1][1]), len(whole))
            for one, stride, whole in zip(found, strides, demonstrations, strict=True)
        ),
        left=tuple(left.tolist()),
    )


def boundary_errors(bounds: Sequence[int], marked: Sequence[int]) -> NDArray[np.int64]:
    """Return how many frames each marked boundary lies from the nearest cut, int64 (m,).

    More steps come nearer to any mark: compare with :func:`even_bounds` of as many.

    Args:
        bounds: Of one demonstration, as :class:`Discovery` has them.
        marked: Frames at which a person, or a script, has one step end and the next begin.

    Example:
        >>> boundary_errors((0, 4, 9, 20), [5, 10])
        array([1, 1])
    """
    cuts = np.asarray(bounds[1:-1], np.int64)
    return np.asarray(np.abs(np.asarray(marked, np.int64)[:, None] - cuts).min(axis=1))


def even_bounds(frames: int, steps: int) -> tuple[int, ...]:
    """Return the bounds of equally long steps: cuts by time alone.

    Example:
        >>> even_bounds(10, 3)
        (0, 3, 7, 10)
    """
    return tuple(int(bound) for bound in np.linspace(0, frames, steps + 1).round())


def feature_scale(demonstrations: Sequence[Features]) -> Features:
    """Return each feature's standard deviation over all frames, float32 (f,); infinite where it stands still."""
    count = sum(map(len, demonstrations))
    mean = sum(x.sum(axis=0, dtype=np.float64) for x in demonstrations) / count
    squares = sum(((x - mean) ** 2).sum(axis=0) for x in demonstrations) / count
    scale = np.sqrt(np.asarray(squares, np.float64))
    return np.where(scale > FLAT, scale, np.inf).astype(np.float32)


def deviation_costs(features: Features) -> NDArray[np.float64]:
    """Return what it costs to make one step of the frames [a, b): their number times their mean standard deviation.

    Args:
        features: One demonstration, every feature scaled, (n, f).

    Returns:
        Float64 (n + 1, n + 1) by a and b; infinite where b ≤ a.

    Example:
        >>> deviation_costs(np.array([[0.0], [0.0], [2.0]], np.float32))[0]
        array([       inf, 0.        , 0.        , 2.82842712])
    """
    n = len(features)
    x = features.astype(np.float64)
    x -= x.mean(axis=0)  # differences of large sums lose digits
    first, second = (np.concatenate([np.zeros((1, x.shape[1])), part.cumsum(axis=0)]) for part in (x, x * x))
    costs = np.full((n + 1, n + 1), np.inf)
    for a in range(n):
        frames = np.arange(1, n - a + 1)[:, None]
        variance = (second[a + 1 :] - second[a]) / frames - ((first[a + 1 :] - first[a]) / frames) ** 2
        costs[a, a + 1 :] = frames[:, 0] * np.sqrt(variance.clip(0.0)).mean(axis=1)
    return costs


def _cuts(costs: NDArray[np.float64], most: int, shortest: int) -> list[tuple[float, tuple[int, ...]]]:
    """The cheapest pieces for 1 to ``most`` of them: what they cost together, and where each begins."""
    ends = np.arange(len(costs))
    costs = np.where(ends[None, :] - ends[:, None] >= shortest, costs, np.inf)
    best, last = costs[0], []
    found: list[tuple[float, tuple[int, ...]]] = [(float(best[-1]), (0,))]
    for _ in range(1, most):
        through = best[:, None] + costs
        last.append(through.argmin(axis=0))
        best = through.min(axis=0)
        begins = [len(costs) - 1]
        for before in reversed(last):
            begins.append(int(before[begins[-1]]))
        found.append((float(best[-1]), (0, *reversed(begins[1:]))))
    return found
