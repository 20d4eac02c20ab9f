"""Steps in their order: a belief about which one is being done, that moves to neighbours only."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_LEAST = 1e-300  # of a probability, so that its logarithm is finite
_QUICKEST = 0.5  # most that leaves a step within one frame


def step_moves(lengths: NDArray[np.floating], undo: float) -> NDArray[np.float64]:
    """Return the chance of going from step to step within one frame, float64 (K, K), rows summing to 1.

    Args:
        lengths: Mean number of frames of each step, (K,): it ends at any of them with the same chance.
        undo: Chance of falling back to the step before.

    Example:
        >>> step_moves(np.array([4.0, 2.0]), 0.1)
        array([[0.75, 0.25],
               [0.1 , 0.9 ]])
    """
    moves = np.diag(np.minimum(1.0 / np.asarray(lengths[:-1], np.float64), _QUICKEST), k=1)
    moves += np.diag(np.full(len(lengths) - 1, undo), k=-1)
    return np.asarray(moves + np.diag(1.0 - moves.sum(axis=1)))


def advance(
    belief: NDArray[np.float64], moves: NDArray[np.float64], log_odds: NDArray[np.float64], frames: int
) -> NDArray[np.float64]:
    """Return the belief after a look at a frame: the forward filter of a hidden Markov model.

    Args:
        belief: Probability of each step at the last frame that was looked at, (K,).
        moves: As :func:`step_moves` returns them.
        log_odds: What the present frame says for each step, (K,), up to a constant.
        frames: How many frames ago the last look was; 0 for a first one, when the belief is the prior.

    Source:
        Rabiner, "A tutorial on hidden Markov models", Proc. IEEE 1989, Eq. 20.
    """
    expected = belief @ np.linalg.matrix_power(moves, frames)
    posterior = np.log(expected.clip(_LEAST)) + log_odds
    likely = np.exp(posterior - posterior.max())
    return np.asarray(likely / likely.sum())
