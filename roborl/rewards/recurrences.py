"""From pairwise changes to a value: three recurrences, two-sided scoring and abstention.

A pair critic looks at an earlier and a later picture and says which share of the *remaining* way was made between
them: a change c in [−1, 1], so that from value v the task comes to v + (1 − v)·c. Values start at 0 and reach 1 at the
goal. Everything here is in such fractions; percent exist in a model's text alone.

The three rules agree on progress and differ on regress. *Linear* applies the formula to both signs. *Inverse* undoes
exactly what the opposite change would have done, as fits a critic whose replies are antisymmetric: c and then −c leads
back. *Mixed* is inverse in the upper half, with a floor, and proportional in the lower half, so that it never leaves
[0, 1].

Source: Zhai et al., "A vision-language-action-critic model for robotic real-world reinforcement learning", 2025
(arXiv 2509.15937), equation 7, for the linear rule; the other two are those of the code released with it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import ArrayLike, NDArray

from roborl.errors import ConfigError, ShapeError

WORST_CHANGE = -0.99
"""A change is never taken to be worse: at −1 the inverse rule has no value."""

_LEAST_REMAINING = 0.01
_MIXED_FLOOR = 0.1
_HALF = 0.5 + 1e-9  # 1 − 0.01 / 0.02 is a little more than a half
_LARGEST_SPREAD = 0.5


class Recurrence(StrEnum):
    """How changes accumulate to a value."""

    LINEAR = "linear"
    INVERSE = "inverse"
    MIXED = "mixed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What several looks at one pair say together.

    Attributes:
        mean: The change, in [−1, 1].
        error: Standard deviation of the looks, in [0, 1].
    """

    mean: float
    error: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """An accumulated value.

    Attributes:
        mean: At most 1; under the linear and inverse rules it may fall below 0, the state of the start.
        spread: Standard deviation, in [0, 0.5]: a quantity within [0, 1] has no larger one.
    """

    mean: float = 0.0
    spread: float = 0.0


def advance(value: float, change: float, rule: Recurrence) -> float:
    """Return the value after one change.

    Args:
        value: Before, at most 1.
        change: Share of the remaining way, in [−1, 1]; below −0.99 it counts as −0.99.
        rule: The recurrence.

    Raises:
        ShapeError: If value or change is outside its range or not finite.

    Example:
        >>> [round(advance(0.616, -0.5, rule), 3) for rule in Recurrence]
        [0.424, 0.232, 0.232]
    """
    change = _checked(value, change)
    if change == 0.0:  # as published, standing still within 1 % of the goal would be a step back to 99 %
        return value
    if change > 0.0 or rule is Recurrence.LINEAR:
        return min(1.0, value + (1.0 - value) * change)
    if rule is Recurrence.MIXED and value <= _HALF:
        return value * (1.0 + change)
    undone = 1.0 - max(1.0 - value, _LEAST_REMAINING) / (1.0 + change)
    return max(_MIXED_FLOOR, undone) if rule is Recurrence.MIXED else undone


def advance_with_doubt(before: Value, change: Change, rule: Recurrence, *, floor: float = -math.inf) -> Value:
    """Return the value after one change, and how far doubt about both carries over to it.

    First-order propagation of independent errors: an error in a value fades as the goal comes near, and an error in a
    change counts for the way that remained.

    Args:
        before: The value so far.
        change: The change, and the disagreement about it.
        rule: The recurrence.
        floor: The value never falls below this, so that one absurd reply can be made good again.

    Raises:
        ShapeError: As :func:`advance`.
    """
    mean = max(floor, advance(before.mean, change.mean, rule))
    by_value, by_change = _slopes(before.mean, max(change.mean, WORST_CHANGE), rule)
    spread = math.hypot(by_value * before.spread, by_change * change.error)
    return Value(mean=mean, spread=min(spread, _LARGEST_SPREAD))


def accumulate(
    changes: ArrayLike, rule: Recurrence = Recurrence.LINEAR, *, start: float = 0.0
) -> NDArray[np.float64]:
    """Return the value before the first change and after each, float64 (K + 1,).

    Causal: entry k depends on the first k changes alone.

    Args:
        changes: In [−1, 1], (K,).
        rule: The recurrence.
        start: Value before the first change.

    Raises:
        ShapeError: As :func:`advance`.

    Example:
        >>> accumulate([0.2, 0.2, -0.2, 0.5, -0.5]).round(3)
        array([0.   , 0.2  , 0.36 , 0.232, 0.616, 0.424])
    """
    values = [start]
    for change in np.asarray(changes, np.float64).tolist():
        values.append(advance(values[-1], change, rule))
    return np.array(values)


def agree(looks: Iterable[float]) -> Change:
    """Return mean and standard deviation of several estimates of one change.

    Looks at the same pair share their errors, so the deviation is not divided by their number.

    Raises:
        ShapeError: If there is none.
    """
    estimates = np.fromiter(looks, np.float64)
    if estimates.size == 0:
        raise ShapeError("A change needs at least one look at the pair", seen=0, allowed="1 or more")
    return Change(mean=float(estimates.mean()), error=float(estimates.std()))


def two_sided(forward: Sequence[float], backward: Sequence[float]) -> Change:
    """Return the change that the looks at one pair make, each view's given with the pictures either way round.

    An antisymmetric critic replies c and −c. The mean (c(a, b) − c(b, a)) / 2 cancels what it says whatever it is
    shown, and |c(a, b) + c(b, a)| / 2, the standard deviation of the two looks, says how much that was.

    Example:
        >>> two_sided([0.6], [-0.4])
        Change(mean=0.5, error=0.09999999999999998)
    """
    return agree(look for there, back in zip(forward, backward, strict=True) for look in (there, -back))


def quieten(change: float, *, rise: float = 0.0, fall: float = 0.0) -> float:
    """Return 0 for a change in (0, rise] or [−fall, 0), the change itself otherwise.

    Example:
        >>> quieten(0.02, rise=0.02), quieten(-0.05, rise=0.02, fall=0.03)
        (0.0, -0.05)
    """
    return 0.0 if 0.0 < change <= rise or -fall <= change < 0.0 else change


def sample_reference(length: int, count: int) -> list[int]:
    """Return which pictures of a reference trajectory to show: ``count`` of them, the first and the last among them.

    A trajectory that is shorter is shown whole; of one picture asked for, the last is the one that tells most. In whole
    numbers: as published, in floating point, the last one is missed at some lengths.

    Args:
        length: Pictures of the trajectory, at least 1.
        count: Pictures to show, at least 1.

    Raises:
        ConfigError: If either is less than 1.

    Example:
        >>> sample_reference(30, 6)
        [0, 5, 11, 17, 23, 29]
    """
    if length < 1 or count < 1:
        raise ConfigError(
            "A reference trajectory cannot be sampled",
            seen=f"{count} of {length} pictures",
            allowed="at least 1 of at least 1",
        )
    if count == 1:
        return [length - 1]
    count = min(count, length)
    return [0] if count == 1 else [k * (length - 1) // (count - 1) for k in range(count)]


class Abstention:
    """Notices a critic that sees nothing: every reply so far was exactly 0.

    A critic that does not recognise the scene answers 0 to every pair, which looks like an arm that stands still. The
    first non-zero reply ends the suspicion for the rest of the episode.

    Args:
        patience: Pairs with nothing but zeros before it speaks up; 0 to never do so.
    """

    def __init__(self, patience: int) -> None:
        self._patience = patience
        self._zeros = 0
        self._seeing = patience == 0

    def see(self, replies: Sequence[float]) -> bool:
        """Take the replies to one more pair, and return whether to abstain now."""
        self._seeing |= any(reply != 0.0 for reply in replies)
        self._zeros += bool(replies)
        return not self._seeing and self._zeros >= self._patience


def _slopes(value: float, change: float, rule: Recurrence) -> tuple[float, float]:
    """Derivatives of the next value by the value and by the change."""
    if change > 0.0 or rule is Recurrence.LINEAR:
        return 1.0 - change, 1.0 - value
    if rule is Recurrence.MIXED and value <= _HALF:
        return 1.0 + change, value
    remaining = max(1.0 - value, _LEAST_REMAINING)
    return 1.0 / (1.0 + change), remaining / (1.0 + change) ** 2


def _checked(value: float, change: float) -> float:
    if not (math.isfinite(value) and value <= 1.0 and -1.0 <= change <= 1.0):
        raise ShapeError(
            "A change cannot be added to a value",
            seen=f"value {value}, change {change}",
            allowed="a finite value of at most 1, and a change in [−1, 1]",
            remedy="Count a reply outside this range as missing",
        )
    return max(change, WORST_CHANGE)
