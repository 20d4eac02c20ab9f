"""How good a progress curve is, how good its calibration, and how sure a success rate: statistics with no model in them.

Curves are float arrays (T,) in time order unless said otherwise.
"""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from roborl.errors import ShapeError

type Curve = NDArray[np.floating]
type Interval = tuple[float, float]


def ranks(values: ArrayLike) -> NDArray[np.float64]:
    """Return ranks from 1, tied values sharing their mean rank, float64 (n,).

    Example:
        >>> ranks([3.0, 1.0, 3.0])
        array([2.5, 1. , 2.5])
    """
    array = np.asarray(values, np.float64)
    _, inverse, counts = np.unique(array, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]


def value_order_correlation(values: ArrayLike) -> float:
    """Return the Spearman correlation of values with their time order, in [-1, 1]; 0 for a constant curve.

    Source: Ma et al., "Vision language models are in-context value learners", ICLR 2025 (VOC).

    Raises:
        ShapeError: If there are fewer than two values, or one is not finite.

    Example:
        >>> value_order_correlation([0.0, 0.2, 0.2, 0.9]) > 0.9, value_order_correlation([0.5, 0.5])
        (True, 0.0)
    """
    curve = _finite("A value-order correlation", values, at_least=2)
    return rank_correlation(curve, np.arange(curve.size))


def rank_correlation(values: ArrayLike, truth: ArrayLike) -> float:
    """Return the Spearman correlation of two curves, in [-1, 1]; 0 where one is constant.

    What :func:`value_order_correlation` is for a video in which progress does not rise all the way.

    Raises:
        ShapeError: If they are empty, of different lengths, or a value is not finite.

    Example:
        >>> rank_correlation([0.1, 0.9, 0.2], [0.0, 1.0, 0.0])
        0.8660254037844387
    """
    first, second = (ranks(curve) - (curve.size + 1) / 2 for curve in _pair(values, truth))
    norm = math.sqrt(float(first @ first) * float(second @ second))
    return float(first @ second) / norm if norm else 0.0


def voc_f1(forward: float, backward: float) -> float:
    """Return the harmonic mean of two order correlations that are both good near +1; 0 where either is not positive.

    Args:
        forward: Value-order correlation of the video as it is.
        backward: *Minus* the value-order correlation in time order of the video played backwards.
    """
    return 2 * forward * backward / (forward + backward) if min(forward, backward) > 0 else 0.0


def negative_rate(values: ArrayLike, *, lag: int = 1) -> float:
    """Return the share of changes over ``lag`` frames that go down, in [0, 1]."""
    return float(np.mean(_differences(values, lag) < 0))


def mean_absolute_error(values: ArrayLike, truth: ArrayLike) -> float:
    """Return the mean of |value − truth|."""
    curve, true = _pair(values, truth)
    return float(np.mean(np.abs(curve - true)))


def calibration_error(predicted: ArrayLike, truth: ArrayLike, *, bins: int = 10) -> float:
    """Return the expected calibration error: |mean prediction − mean truth| in bins of the prediction, by share.

    Args:
        predicted: Predictions in [0, 1], (n,).
        truth: What was the case, in [0, 1], (n,).
        bins: Number of equally wide bins.

    Example:
        >>> calibration_error([0.9, 0.9], [1.0, 0.0])
        0.4
    """
    p, y = _pair(predicted, truth)
    which = np.clip((p * bins).astype(int), 0, bins - 1)
    gap = np.bincount(which, p, bins) - np.bincount(which, y, bins)
    return float(np.abs(gap).sum() / p.size)


def false_progress(values: ArrayLike, truth: ArrayLike | None = None) -> float:
    """Return the largest excess of progress over the truth, which for a failure without known truth is 0 throughout."""
    curve = _finite("False progress", values, at_least=1)
    true = np.zeros_like(curve) if truth is None else _pair(values, truth)[1]
    return float(max(0.0, np.max(curve - true)))


def wilson_interval(successes: int, n: int, *, confidence: float = 0.95) -> Interval:
    """Return Wilson's interval of a success rate.

    Source: Wilson, "Probable inference, the law of succession, and statistical inference", JASA 1927.

    Raises:
        ShapeError: If ``successes`` is not within 0 to ``n``, or ``n`` is 0.

    Example:
        >>> [round(bound, 3) for bound in wilson_interval(45, 50)]
        [0.786, 0.957]
    """
    if not 0 <= successes <= n or n == 0:
        raise ShapeError(
            "A success rate cannot be formed", seen=f"{successes} of {n}", allowed="0 ≤ k ≤ n, n > 0"
        )
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    rate, square = successes / n, z * z / n
    middle = (rate + square / 2) / (1 + square)
    half = math.sqrt(rate * (1 - rate) * square + square * square / 4) / (1 + square)
    return max(0.0, middle - half), min(1.0, middle + half)


def bootstrap_interval(
    values: ArrayLike,
    *,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Interval:
    """Return the percentile bootstrap interval of the mean of independent values.

    Args:
        values: One value per independent unit, (n,).
        confidence: Coverage.
        resamples: Number of resamples.
        seed: Of the resampling.
    """
    data = _finite("A bootstrap", values, at_least=1)
    draws = np.random.default_rng(seed).integers(data.size, size=(resamples, data.size))
    tail = (1 - confidence) / 2
    low, high = np.quantile(data[draws].mean(axis=1), [tail, 1 - tail])
    return float(low), float(high)


def paired_interval(
    ours: ArrayLike, theirs: ArrayLike, *, confidence: float = 0.95, seed: int = 0
) -> Interval:
    """Return the bootstrap interval of the mean difference of two arms measured on the same seeds or scenes.

    Args:
        ours: One result per pair, (n,).
        theirs: The other arm's results in the same order, (n,).
        confidence: Coverage.
        seed: Of the resampling.

    Example:
        >>> low, high = paired_interval([0.9, 1.0, 0.8], [0.4, 0.5, 0.5])
        >>> low > 0
        True
    """
    a, b = _pair(ours, theirs)
    return bootstrap_interval(a - b, confidence=confidence, seed=seed)


def student_interval(ours: ArrayLike, theirs: ArrayLike, *, confidence: float = 0.95) -> Interval:
    """Return Student's interval of the mean difference of two arms measured on the same seeds: honest for as few as five.

    Resampling so few takes their spread for smaller than it is; this takes their differences to be normal.

    Args:
        ours: One result per pair, (n,), two at least.
        theirs: The other arm's results in the same order, (n,).
        confidence: Coverage.

    Example:
        >>> low, high = student_interval([0.9, 1.0, 0.8], [0.4, 0.5, 0.5])
        >>> round(low, 2), round(high, 2)
        (0.15, 0.72)
    """
    from scipy.stats import t

    a, b = _pair(ours, theirs)
    difference = _finite("Student's interval", a - b, at_least=2)
    half = t.ppf(0.5 + confidence / 2, difference.size - 1) * difference.std(ddof=1) / difference.size**0.5
    return float(difference.mean() - half), float(difference.mean() + half)


def _finite(what: str, values: ArrayLike, *, at_least: int) -> NDArray[np.float64]:
    array = np.asarray(values, np.float64)
    if array.ndim != 1 or array.size < at_least or not np.isfinite(array).all():
        raise ShapeError(
            f"{what} cannot be computed",
            seen=f"shape {array.shape}, {int((~np.isfinite(array)).sum())} not finite",
            allowed=f"at least {at_least} finite values in one row",
            remedy="Leave missing scores out, and report how many there were",
        )
    return array


def _pair(first: ArrayLike, second: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    a, b = _finite("A comparison", first, at_least=1), _finite("A comparison", second, at_least=1)
    if a.size != b.size:
        raise ShapeError(
            "Two rows of values do not pair", seen=f"{a.size} and {b.size}", allowed="equal lengths"
        )
    return a, b


def _differences(values: ArrayLike, lag: int) -> NDArray[np.float64]:
    curve = _finite("A change over time", values, at_least=lag + 1)
    return curve[lag:] - curve[:-lag]
