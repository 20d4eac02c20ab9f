"""A reward model that only knows the time: what a progress curve is worth that did not look.

Whoever beats it by little has learned how long an episode takes. It is a baseline, and no potential for training.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from roborl.errors import DatasetError
from roborl.rewards.model import NO_REPLY, Fold, Judge, References, missing, observation_id
from roborl.rewards.model_info import ModelInfo
from roborl.types import Observation, Score


def mean_progress(curves: Sequence[ArrayLike]) -> NDArray[np.float64]:
    """Return the mean progress of demonstrations at each instant; one that is over stays at 1.

    Args:
        curves: Progress of each, (T + 1,) of any length, NaN where unknown.

    Returns:
        As long as the longest, float64; where nobody knows, what was known last.

    Raises:
        DatasetError: If nothing is known of any.

    Example:
        >>> mean_progress([[0.0, 1.0], [0.0, 0.5, 1.0]])
        array([0.  , 0.75, 1.  ])
    """
    rows = [np.asarray(curve, np.float64) for curve in curves]
    longest = max((row.size for row in rows), default=0)
    table = np.array([np.r_[row, np.ones(longest - row.size)] for row in rows]).reshape(len(rows), longest)
    known = ~np.isnan(table)
    if not known.any():
        raise DatasetError(
            "A model of time alone has nothing to learn from",
            seen=f"{len(rows)} successful episodes",
            allowed="at least one whose progress is known",
        )
    count = known.sum(axis=0)
    instants = np.arange(longest)
    mean = np.where(known, table, 0.0).sum(axis=0) / count.clip(1)
    return np.asarray(np.interp(instants, instants[count > 0], mean[count > 0]))


class _Clock(Judge[int, float]):
    def __init__(self, curve: NDArray[np.float64]) -> None:
        self._curve = curve

    def answer(self, queries: Sequence[int]) -> list[float]:
        return [float(self._curve[min(instant, len(self._curve) - 1)]) for instant in queries]


class _TimeFold(Fold[int, float]):
    def __init__(self, version: str) -> None:
        self._version = version

    def queries(self, observation: Observation) -> list[int]:
        return [observation_id(observation)]

    def fold(self, observation_id: int, replies: Sequence[float | None]) -> Score:
        (progress,) = replies
        if progress is None:
            return missing(observation_id, NO_REPLY, version=self._version)
        return Score(frame_id=observation_id, progress=progress, raw=progress, version=self._version)


class TimeOnlyModel:
    """Replies with what demonstrations had reached at that time, whatever is shown.

    Args:
        curve: Progress at each instant, in [0, 1], as :func:`mean_progress` returns it.
    """

    def __init__(self, curve: NDArray[np.float64]) -> None:
        version = f"time-only-{hashlib.sha256(curve.tobytes()).hexdigest()[:16]}"
        self.info = ModelInfo(version=version, says_done=False)
        self.judge = _Clock(curve)

    def start(self, task: str, references: References) -> _TimeFold:
        """Return the fold of a new episode; task and references play no part."""
        return _TimeFold(self.info.version)
