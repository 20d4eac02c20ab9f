"""How scores from 1 to 5, one per observation, become the rewards of an episode, by name.

A learner pays the verdict of a judge by one of them, the one that pays for the last step alone; potential, delta and
absolute are forms of its shaped reward as well, see :mod:`roborl.rewards.forms`. The scale of DSRL, 1 less at every step,
is not among them: where a failure ends an episode as well, it pays for failing soon.
"""

from __future__ import annotations

from enum import StrEnum

import numpy as np
from numpy.typing import ArrayLike, NDArray

from roborl.errors import ConfigError, ShapeError


class RewardTransform(StrEnum):
    """How the scores of an episode become its rewards."""

    TERMINAL01 = "terminal01"
    """(E − 1) / 4 at the last step, 0 elsewhere."""
    POTENTIAL = "potential"
    """γΦ′ − Φ with Φ = (E − 1) / 4 of the part so far, and Φ = 0 at a true end: leaves the optimal policy alone."""
    DELTA = "delta"
    """The change of (E − 1) / 4 over each step: pays for staying, by the discount."""
    ABSOLUTE = "absolute"
    """(E − 1) / 4 of the part so far, at every step: pays for not finishing; only where forced."""

    def verdict(self, score: float) -> float:
        """Return the reward of an episode's last step, where no other step has one.

        Args:
            score: Expected score of the whole episode, 1 to 5.

        Raises:
            ConfigError: If it pays for other steps too.

        Example:
            >>> RewardTransform.TERMINAL01.verdict(4)
            0.75
        """
        if self is not RewardTransform.TERMINAL01:
            raise ConfigError(
                "A verdict pays for the last step alone",
                seen=str(self),
                allowed=str(RewardTransform.TERMINAL01),
                remedy="Turn progress along the episode into reward with shaping.form",
            )
        return float(self.rewards([1.0, score])[-1])

    def rewards(
        self, scores: ArrayLike, *, discount: float = 0.99, terminated: bool = True, forced: bool = False
    ) -> NDArray[np.float64]:
        """Turn scores into rewards.

        Args:
            scores: Expected scores of all T + 1 observations in 1 to 5, (T + 1,); the last is the verdict.
            discount: The learner's own, per step.
            terminated: Whether the task itself ended.
            forced: Whether absolute scores are really wanted.

        Returns:
            Rewards of the T steps, (T,).

        Raises:
            ShapeError: If there are fewer than two scores, or one is out of range.
            ConfigError: If absolute scores are not forced.

        Example:
            >>> RewardTransform.DELTA.rewards([1, 2, 5]).tolist()
            [0.25, 0.75]
        """
        e = np.asarray(scores, float)
        if e.ndim != 1 or e.size < 2 or not np.isfinite(e).all() or e.min() < 1 or e.max() > 5:
            raise ShapeError(
                "Scores cannot be turned into rewards",
                seen=f"shape {e.shape}",
                allowed="at least two finite scores in 1 to 5, one per observation",
            )
        share = (e - 1) / 4
        match self:
            case RewardTransform.TERMINAL01:
                last = np.zeros(e.size - 1)
                last[-1] = share[-1]
                return last
            case RewardTransform.DELTA:
                return np.diff(share)
            case RewardTransform.POTENTIAL:
                after = share[1:].copy()
                after[-1] *= not terminated
                return discount * after - share[:-1]
            case RewardTransform.ABSOLUTE:
                if not forced:
                    raise ConfigError(
                        "Absolute scores at every step reward an episode for going on, not for succeeding",
                        seen=str(self),
                        allowed=[str(t) for t in RewardTransform if t is not self],
                        remedy="Choose potential, or force it",
                    )
                return share[1:]
