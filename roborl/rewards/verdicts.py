"""From a progress curve to a verdict: when a task counts as finished, and how an episode came out."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from roborl.errors import ConfigError, ShapeError

_ROUNDING = 1e-9  # 0.62 - 0.60 is a little more than 0.02


@dataclass(frozen=True, kw_only=True)
class DoneRule:
    """When progress counts as the task being finished; of a judge that is asked outright, see :class:`DoneVotes`. The threshold belongs to one task and one way of asking.

    A published threshold holds for the setting that it was published with: a judge that never saw the task, has one
    view or no picture of the goal reads far less than 1 on true successes, and 0.95 never comes. Fit it on held-out
    episodes, or open the model calibrated: the rule then reads the calibrated progress.
    """

    # Progress from which a reading counts, in (0, 1].
    progress: float = 0.95
    # So many readings in a row, counted in scored frames, make "done".
    readings: int = 3
    # Most by which these readings may differ: a task that is finished stays so; 1 asks for nothing.
    band: float = 1.0

    def __post_init__(self) -> None:
        if not (0.0 < self.progress <= 1.0 and self.readings >= 1 and 0.0 <= self.band <= 1.0):
            raise ConfigError(
                "The done rule cannot be used",
                seen=f"progress {self.progress}, readings {self.readings}, band {self.band}",
                allowed="progress in (0, 1], readings ≥ 1, band in [0, 1]",
            )


class DoneCounter:
    """Applies a done rule to one episode, reading by reading. A reading that is missing starts the count anew.

    Example:
        >>> counter = DoneCounter(DoneRule(progress=0.9, readings=2))
        >>> [counter.read(progress) for progress in (0.95, None, 0.95, 0.96, 0.3)]
        [None, None, None, True, False]
    """

    def __init__(self, rule: DoneRule) -> None:
        self._rule = rule
        self._high: deque[float] = deque(maxlen=rule.readings)

    def read(self, progress: float | None) -> bool | None:
        """Take in a reading, None where it is missing; return whether the task counts as finished.

        None means that nothing is said yet: it looks finished, and has not done so for long enough.
        """
        if progress is None or progress < self._rule.progress:
            self._high.clear()
            return None if progress is None else False
        self._high.append(progress)
        steady = max(self._high) - min(self._high) <= self._rule.band + _ROUNDING
        return True if len(self._high) == self._rule.readings and steady else None


class InARow:
    """Counts readings in a row that say the same. A reading that is missing is not counted: it leaves the count as it is.

    Args:
        enough: How many make it true.

    Example:
        >>> finished = InARow(2)
        >>> [finished.read(says) for says in (True, False, True, True)]
        [None, False, None, True]
    """

    def __init__(self, enough: int) -> None:
        self._enough = enough
        self._count = 0

    def read(self, holds: bool) -> bool | None:
        """Return whether it holds, None where it has not done so often enough up to this reading."""
        self._count = self._count + 1 if holds else 0
        return (True if self._count >= self._enough else None) if holds else False


@dataclass(frozen=True, slots=True, kw_only=True)
class DoneVotes:
    """When a row of probabilities means that the task is finished."""

    # Probability at which a frame speaks for "done", in (0, 1].
    enter: float = 0.9
    # Probability below which a frame speaks against it, in [0, enter].
    leave: float = 0.5
    # Frames that must say the same for a change of mind.
    votes: int = 3
    # Frames of which those may be any, at least votes.
    window: int = 4

    def __post_init__(self) -> None:
        if not (0.0 <= self.leave <= self.enter <= 1.0 and 1 <= self.votes <= self.window):
            raise ConfigError(
                "This rule can never be met, or contradicts itself",
                seen=f"enter {self.enter}, leave {self.leave}, {self.votes} votes of {self.window}",
                allowed="0 ≤ leave ≤ enter ≤ 1 and 1 ≤ votes ≤ window",
            )


class DoneSignal:
    """Debounced "done" with hysteresis: so many of the last frames must agree, to raise it and to take it back.

    Args:
        rule: The thresholds.
    """

    def __init__(self, rule: DoneVotes) -> None:
        self._rule = rule
        self._latest: deque[float] = deque(maxlen=rule.window)
        self._done = False

    def see(self, probability: float | None) -> bool | None:
        """Take the next frame's probability of "done", None where there is none, and return whether it is done.

        None means that nothing is said yet: this frame speaks for "done", and too few others do. A missing probability leaves
        everything as it was.
        """
        if probability is None:
            return True if self._done else None
        self._latest.append(probability)
        if self._done:
            self._done = sum(p < self._rule.leave for p in self._latest) < self._rule.votes
        else:
            self._done = sum(p >= self._rule.enter for p in self._latest) >= self._rule.votes
        return True if self._done else None if probability >= self._rule.enter else False


class Outcome(StrEnum):
    """How an episode came out, as its progress tells it."""

    SUCCESS = "success"
    PARTIAL = "partial"
    FAILURE = "failure"


def outcome_of(progress: Sequence[float]) -> Outcome:
    """Judge a whole curve: success where it ends above 0.8 and its last third is above 0.6 on average.

    Of the others, those with a mean of at least 0.4 are partial successes. It looks at a finished episode as a whole,
    so it serves benchmarks and never a potential.

    Args:
        progress: Progress in [0, 1] at the scored frames, in order, at least one.

    Raises:
        ShapeError: If there is no reading, or one is missing.

    Source: Robo-Dopamine, arXiv 2512.23703, equation 58.

    Example:
        >>> [str(outcome_of(curve)) for curve in ([0.1, 0.5, 0.9], [0.2, 0.9, 0.5], [0.1, 0.2, 0.1])]
        ['success', 'partial', 'failure']
    """
    curve = np.asarray(progress, np.float64)
    if curve.ndim != 1 or not curve.size or not np.isfinite(curve).all():
        raise ShapeError("An outcome needs a curve without gaps", seen=curve.tolist(), allowed="(n,), n ≥ 1")
    last_third = curve[-(-2 * curve.size // 3) :] if curve.size >= 3 else curve[-1:]
    if curve[-1] > 0.8 and last_third.mean() > 0.6:
        return Outcome.SUCCESS
    return Outcome.PARTIAL if curve.mean() >= 0.4 else Outcome.FAILURE
