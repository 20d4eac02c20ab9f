"""A monotone map from raw progress to calibrated progress, fitted on validation episodes by ``roborl bench-reward``.

A model opened as ``calibrated:RESULT:MODEL`` applies it, see :mod:`roborl.rewards.calibrated`. A map of progress makes
another potential, and every potential leaves the optimal policy alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from roborl.errors import ShapeError

# Raw values are averaged in so many groups of equal size first, which keeps a few frames from making a step of their own.
_MOST_BENDS = 32


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """A non-decreasing, piecewise linear map of [0, 1] into [0, 1].

    Attributes:
        raw: Where the map bends, increasing.
        calibrated: Its values there, non-decreasing.
    """

    raw: tuple[float, ...]
    calibrated: tuple[float, ...]

    def __post_init__(self) -> None:
        x, y = np.asarray(self.raw, float), np.asarray(self.calibrated, float)
        if (
            x.shape != y.shape
            or x.size == 0
            or not np.isfinite([*x, *y]).all()
            or (np.diff(x) <= 0).any()
            or (np.diff(y) < 0).any()
            or y.min() < 0
            or y.max() > 1
        ):
            raise ShapeError(
                "A calibration is not a monotone map",
                seen=f"{self.raw} to {self.calibrated}",
                allowed="increasing raw values, non-decreasing calibrated values in [0, 1]",
            )

    def __call__(self, progress: ArrayLike) -> NDArray[np.float64]:
        """Map raw progress of any shape; constant beyond the outermost bends.

        Example:
            >>> Calibration(raw=(0.0, 0.5), calibrated=(0.0, 1.0))([0.25, 0.9])
            array([0.5, 1. ])
        """
        return np.asarray(np.interp(np.asarray(progress, float), self.raw, self.calibrated))

    def as_dict(self) -> dict[str, list[float]]:
        """Return the form that the JSON of a benchmark keeps."""
        return {"raw": list(self.raw), "calibrated": list(self.calibrated)}

    @classmethod
    def from_dict(cls, values: Mapping[str, list[float]]) -> Calibration:
        """Undo :meth:`as_dict`.

        Raises:
            ShapeError: If the values are not a monotone map.
        """
        return cls(raw=tuple(values["raw"]), calibrated=tuple(values["calibrated"]))


def fit_calibration(raw: ArrayLike, truth: ArrayLike) -> Calibration:
    """Fit the isotonic regression of the truth on raw progress.

    Args:
        raw: Progress as the model gives it on *validation* episodes, never on those it was trained on, (n,).
        truth: Progress as it was, in [0, 1], (n,).

    Raises:
        ShapeError: If the rows do not pair, are empty, or are not finite.
    """
    from scipy.optimize import isotonic_regression

    x, y = np.asarray(raw, float), np.asarray(truth, float)
    if x.shape != y.shape or x.ndim != 1 or x.size == 0 or not np.isfinite([x, y]).all():
        raise ShapeError(
            "A calibration cannot be fitted",
            seen=f"shapes {x.shape} and {y.shape}",
            allowed="two rows of finite values, equally long",
        )
    # By the truth as well, and equal values pooled first: the order of rows then means nothing, nor where a group ends.
    order = np.lexsort((y, x))
    _, value, count = np.unique(x[order], return_inverse=True, return_counts=True)
    x, y = x[order], (np.bincount(value, y[order]) / count)[value]
    groups = np.array_split(np.arange(x.size), min(_MOST_BENDS, x.size))
    # The mean of n equal floats depends on n in its last bit.
    centres = np.array([np.clip(x[group].mean(), x[group[0]], x[group[-1]]) for group in groups])
    means = np.array([y[group].mean() for group in groups])
    weights = np.array([group.size for group in groups], float)
    distinct, inverse = np.unique(centres, return_inverse=True)
    pooled = np.bincount(inverse, means * weights) / np.bincount(inverse, weights)
    fitted = isotonic_regression(pooled, weights=np.bincount(inverse, weights)).x
    return Calibration(raw=tuple(distinct.tolist()), calibrated=tuple(np.clip(fitted, 0.0, 1.0).tolist()))
