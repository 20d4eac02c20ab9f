"""How long a training run lasts, and how fast it learns on the way."""

from __future__ import annotations

import math
from dataclasses import dataclass

_LAST_SHARE = 0.02  # of the largest learning rate, at the end


@dataclass(frozen=True, kw_only=True)
class Pace:
    """Length and learning rate of a run."""

    steps: int  # optimiser steps
    learning_rate: float  # largest
    warm_up: float  # share of the run in which the rate grows to that
    # Seconds of optimisation; the run ends at these or at its steps, whichever comes first. None for no such end.
    budget_s: float | None = None

    def over(self, step: int, seconds: float) -> bool:
        """Return whether a run ends that has taken so many steps and seconds."""
        return step >= self.steps or (self.budget_s is not None and seconds >= self.budget_s)

    def rate(self, step: int, seconds: float) -> float:
        """Return the learning rate of the step after so many, and so many seconds."""
        if self.budget_s is None:
            return self.learning_rate * by_step(step, self.steps, self.warm_up)
        # Nobody knows which step will be the last.
        return self.learning_rate * by_share(max(step / self.steps, seconds / self.budget_s), self.warm_up)


def by_step(step: int, planned: int, warm_up: float) -> float:
    """Return the factor of the learning rate: straight up, then a cosine down to a fiftieth.

    Example:
        >>> [round(by_step(step, 100, 0.1), 2) for step in (0, 9, 55, 99)]
        [0.1, 1.0, 0.51, 0.02]
    """
    rising = round(warm_up * planned)
    if step < rising:
        return (step + 1) / rising
    return _falling(math.pi * ((step - rising) / max(1, planned - rising)))


def by_share(used: float, warm_up: float) -> float:
    """Return the same of the share of a run that is over, in [0, 1); it begins with a fiftieth.

    Example:
        >>> [round(by_share(used, 0.1), 2) for used in (0.0, 0.05, 0.1, 0.55, 0.99)]
        [0.02, 0.5, 1.0, 0.51, 0.02]
    """
    if used < warm_up:
        return max(_LAST_SHARE, used / warm_up)
    return _falling(math.pi * (used - warm_up) / (1.0 - warm_up))


def _falling(angle: float) -> float:
    return _LAST_SHARE + (1.0 - _LAST_SHARE) * 0.5 * (1.0 + math.cos(angle))
