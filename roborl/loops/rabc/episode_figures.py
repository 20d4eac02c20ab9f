"""Figures of an episode's progress, by which whole episodes are left out."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from roborl.rewards.metrics import rank_correlation

DROP_FIGURES = (
    "progress",
    "highest",
    "gain",
    "regression",
    "flat",
    "order",
    "missing",
    "weight",
    "steps",
)
"""Names of what :func:`episode_figures` returns."""

# Share of κ below which a gain, up or down, is none.
_STILL = 0.1

type Curve = NDArray[np.float32]


def episode_figures(
    progress: Curve,
    gains: Curve,
    weights: Curve,
    *,
    scored: NDArray[np.bool_],
    kappa: float,
    finished: float,
) -> dict[str, float]:
    """Return what an episode came to; NaN where no score says so.

    Args:
        progress: NaN where a score is missing, float32 (rows,).
        gains: Gain over a chunk, float32 (rows,).
        weights: How much each row with an action counts.
        scored: Rows that the model was asked to score, bool (rows,).
        kappa: Gain from which a row counts fully.
        finished: Progress from which the task counts as done.

    Example:
        >>> there = np.array([0.0, 0.5, 0.2, 0.9], np.float32)
        >>> gains, asked = np.diff(there, append=0.9), np.ones(4, np.bool_)
        >>> found = episode_figures(there, gains, np.ones(3, np.float32), scored=asked, kappa=0.3, finished=0.8)
        >>> round(found["progress"], 2), round(found["regression"], 2), found["missing"]
        (0.9, 0.3, 0.0)
    """
    known = ~np.isnan(progress)
    curve = progress[known]
    figures = {
        "missing": float(1.0 - known[scored].mean()) if scored.any() else 1.0,
        "weight": float(weights.mean()) if len(weights) else float("nan"),
        "steps": float(len(weights)),
    }
    if not len(curve):
        return dict.fromkeys(DROP_FIGURES, float("nan")) | figures
    with_gain = ~np.isnan(gains)
    still = (np.abs(gains) < _STILL * kappa) & ~(progress >= finished)
    return figures | {
        "progress": float(curve[-1]),
        "highest": float(curve.max()),
        "gain": float(curve[-1] - curve[0]),
        "regression": float((np.maximum.accumulate(curve) - curve).max()),
        "flat": float(still[with_gain].mean()) if with_gain.any() else float("nan"),
        "order": rank_correlation(curve, np.arange(len(curve))) if len(curve) > 1 else float("nan"),
    }
