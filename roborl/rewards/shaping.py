"""Potential shaping at draw time: r + γʰΦ′ − Φ, for numpy arrays and torch tensors alike.

Nothing here is ever stored. A learner calls :func:`potential` on the two scores of a drawn transition and
:func:`shaped_reward` with its own discount, so that discount, scale and reward model can change in mid-run.

Source: Ng, Harada and Russell, "Policy invariance under reward transformations", ICML 1999, equation 2.
Source: Grześ, "Reward shaping in episodic reinforcement learning", AAMAS 2017 (the potential of a terminal state is zero).
"""

from __future__ import annotations

import math
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from roborl.errors import ConfigError, ShapeError


def shaped_reward[A](
    reward: A,
    potential: A,
    next_potential: A,
    terminated: A,
    *,
    discount: float,
    horizon: int | A = 1,
) -> A:
    """Return ``reward + discount**horizon * next_potential - potential``, with ``next_potential`` 0 where terminated.

    All arrays have one shape, usually (B,), and are all numpy or all torch. A transition that was truncated, not
    terminated, keeps its next potential, since the learner bootstraps from it.

    Args:
        reward: Task reward Σᵢ γⁱ rᵢ over the ``horizon`` steps, already discounted, float (B,).
        potential: Φ of the observation acted in, float (B,).
        next_potential: Φ of the observation ``horizon`` steps later, float (B,); ignored where terminated, even NaN.
        terminated: True where the task itself ended within these steps, bool (B,).
        discount: The learner's own γ, in (0, 1].
        horizon: Steps between the two observations, at least 1: one int, or ints (B,).

    Returns:
        The shaped reward in the dtype of ``reward``, a new array (B,).

    Raises:
        ShapeError: If the shapes or kinds of array differ, ``reward`` is not float, or ``terminated`` is not bool.
        ConfigError: If the discount is outside (0, 1].

    Example:
        >>> one = np.ones(2)
        >>> shaped_reward(0 * one, 0.5 * one, one, np.array([False, True]), discount=0.75)
        array([ 0.25, -0.5 ])
    """
    if not 0.0 < discount <= 1.0:
        raise ConfigError("The discount cannot be used for shaping", seen=discount, allowed="(0, 1]")
    _check(reward, potential, next_potential, terminated, horizon)
    r, phi, phi_next, ends, h = cast(
        "tuple[Any, ...]", (reward, potential, next_potential, terminated, horizon)
    )
    if isinstance(reward, np.ndarray):
        after = np.where(ends, reward.dtype.type(0), phi_next)
        factor = discount**h if isinstance(h, int) else discount ** h.astype(reward.dtype)
        return cast("A", (r + factor * after - phi).astype(reward.dtype, copy=False))
    after = phi_next.masked_fill(ends, 0.0)
    factor = discount**h if isinstance(h, int) else discount ** h.to(r.dtype)
    return cast("A", (r + factor * after - phi).to(r.dtype))


def potential[A](progress: A, spread: A, *, scale: float = 1.0, doubt: float = math.inf) -> A:
    """Return Φ = w(spread) · progress · scale, with w = 1 / (1 + (spread / doubt)²).

    Doubt belongs inside Φ: multiplied onto the shaped difference instead, it changes which policy is best.

    Args:
        progress: Progress in [0, 1], float array of any shape.
        spread: Standard deviation of the progress, ≥ 0, same shape; 0 where unknown.
        scale: Reward that full progress is worth, > 0.
        doubt: The spread at which a score counts half, > 0; infinite to let every score count fully.

    Raises:
        ConfigError: If scale or doubt is not positive.

    Example:
        >>> potential(np.array([0.8, 0.8]), np.array([0.0, 0.1]), doubt=0.1)
        array([0.8, 0.4])
    """
    if not (scale > 0.0 and doubt > 0.0):
        raise ConfigError(
            "A potential needs positive settings", seen=f"scale {scale}, doubt {doubt}", allowed="> 0"
        )
    p, s = cast("tuple[Any, Any]", (progress, spread))
    return cast("A", p * scale if math.isinf(doubt) else p * scale / (1.0 + (s / doubt) ** 2))


def held[F: np.floating[Any]](scored: NDArray[F], ids: NDArray[np.integer[Any]], length: int) -> NDArray[F]:
    """Spread the values of scored observations over all observations: each is held until the next, 0 before the first.

    Causal by construction: the value at ``t`` comes from a score at or before ``t``, never from a line to a later one.

    Args:
        scored: Values of the scored observations, (n,).
        ids: Their indices, int (n,), strictly increasing, within ``[0, length)``.
        length: Number of observations in the episode.

    Returns:
        The value of each observation, (length,).

    Raises:
        ShapeError: If the indices are not increasing, leave the episode, or do not match the values.

    Example:
        >>> held(np.array([0.1, 0.4]), np.array([1, 3]), 5)
        array([0. , 0.1, 0.1, 0.4, 0.4])
    """
    if (
        scored.shape != ids.shape
        or ids.ndim != 1
        or (ids.size and (ids[0] < 0 or ids[-1] >= length or (np.diff(ids) <= 0).any()))
    ):
        raise ShapeError(
            "Scores cannot be laid over an episode",
            seen=f"{scored.shape} values at {ids.tolist()}",
            allowed=f"one value each at increasing indices below {length}",
        )
    latest = np.searchsorted(ids, np.arange(length), side="right")
    column: NDArray[F] = np.concatenate([np.zeros(1, scored.dtype), scored])[latest]
    return column


def _check(reward: Any, potential: Any, next_potential: Any, terminated: Any, horizon: Any) -> None:
    arrays = [reward, potential, next_potential, terminated]
    if not isinstance(horizon, int):
        arrays.append(horizon)
    forms = [(type(array), tuple(getattr(array, "shape", (None,)))) for array in arrays]
    if any(form != forms[0] for form in forms):
        raise ShapeError(
            "The parts of a shaped reward do not match",
            seen=", ".join(f"{kind.__name__} {shape}" for kind, shape in forms),
            allowed="arrays of one shape, all numpy or all torch",
        )
    if "float" not in str(reward.dtype):
        raise ShapeError("Rewards are not floating point", seen=reward.dtype, allowed="float16 to float64")
    if "bool" not in str(terminated.dtype):
        raise ShapeError("Terminations are not boolean", seen=terminated.dtype, allowed="bool")
    shortest = horizon if isinstance(horizon, int) else min(horizon.ravel().tolist(), default=1)
    if shortest < 1:
        raise ShapeError("A horizon is too short", seen=shortest, allowed="at least 1 step")
