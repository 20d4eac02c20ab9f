"""From hops to progress: what several perspectives say about one frame, fused into one value that looks back only.

A *hop* says how far a second picture is from a first one, in [-1, 1]: the share of what remained where the task came
closer, the share of what had been achieved where it fell back. Three perspectives ask for hops: from the frame scored
before (*incremental*), from the first frame of the episode (*forward*) and from a picture of the goal (*backward*).

Source: Robo-Dopamine, arXiv 2512.23703, equations 4 to 11 and appendix A.1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import ArrayLike, NDArray

from roborl.errors import ConfigError, ShapeError

_TINY = 1e-6  # keeps the relative disagreement finite where both perspectives say 0 and there is no floor


class Perspective(StrEnum):
    """Which picture stands before, in the comparison that gives a hop."""

    INCREMENTAL = "incremental"
    """The frame of the last hop."""
    FORWARD = "forward"
    """The first frame of the episode."""
    BACKWARD = "backward"
    """The goal."""


class FusionRule(StrEnum):
    """How the perspectives become one value."""

    MEAN = "mean"
    """Their plain mean."""
    CONSISTENCY = "consistency"
    """A step away from the value before, the shorter the more forward and backward disagree."""


class Recursion(StrEnum):
    """What an incremental hop is added to."""

    FUSED = "fused"
    """The fused value of the frame before."""
    INDEPENDENT = "independent"
    """The incremental value of the frame before, as if the other perspectives were not there."""


def hop_between(before: ArrayLike, after: ArrayLike) -> NDArray[np.float64]:
    """Return the true hop between two states of known progress; 0 where nothing remained or had been achieved.

    Args:
        before: Progress in [0, 1], any shape.
        after: Progress in [0, 1], a shape that goes with it.

    Example:
        >>> hop_between([0, 0.5, 0.5], [0.25, 0.75, 0.25])
        array([ 0.25,  0.5 , -0.5 ])
    """
    p, q = np.broadcast_arrays(np.asarray(before, np.float64), np.asarray(after, np.float64))
    room = np.where(q >= p, 1.0 - p, p)
    return np.asarray(np.divide(q - p, room, out=np.zeros(p.shape), where=room > 0.0))


def apply_hop(progress: ArrayLike, hop: ArrayLike) -> NDArray[np.float64]:
    """Return the progress after a hop: the inverse of :func:`hop_between`, within [0, 1] whatever the hop in [-1, 1].

    Example:
        >>> apply_hop([0.4, 0.4], [0.5, -0.5])
        array([0.7, 0.2])
    """
    p, h = np.asarray(progress, np.float64), np.asarray(hop, np.float64)
    return np.clip(p + h * room_for(p, h), 0.0, 1.0)


def room_for(progress: ArrayLike, hop: ArrayLike) -> NDArray[np.float64]:
    """Return what a hop is a share of: what remains for a hop forwards, what has been achieved for one backwards."""
    p = np.asarray(progress, np.float64)
    return np.where(np.asarray(hop, np.float64) >= 0.0, 1.0 - p, p)


def consistency_weight(
    forward: ArrayLike, backward: ArrayLike, *, alpha: float, floor: float
) -> NDArray[np.float64]:
    """Return exp(-αd²) in [0, 1], with d the disagreement of two perspectives relative to their mean.

    Near the start the mean is small, and the rounding of the replies alone would make d so large that progress stays
    at 0. Relative to at least ``floor``, it does not.

    Args:
        forward: Progress seen from the first frame, in [0, 1].
        backward: Progress seen from the goal, in [0, 1], same shape.
        alpha: Sharpness, ≥ 0.
        floor: Least value that the disagreement is taken relative to, ≥ 0; 0 for the formula as published.

    Source: equations 9 and 10; the floor is ours.

    Example:
        >>> [float(w.round(3)) for w in consistency_weight([0.5, 0.02], [0.6, 0.03], alpha=20.0, floor=0.0)]
        [0.516, 0.041]
        >>> float(consistency_weight(0.02, 0.03, alpha=20.0, floor=0.1).round(3))
        0.819
    """
    f, b = np.asarray(forward, np.float64), np.asarray(backward, np.float64)
    disagreement = np.abs(b - f) / (np.maximum((f + b) / 2.0, floor) + _TINY)
    return np.asarray(np.exp(-alpha * disagreement**2))


@dataclass(frozen=True, kw_only=True)
class FusionConfig:
    """How hops become progress."""

    # What each scored frame is compared with.
    perspectives: tuple[Perspective, ...] = (
        Perspective.INCREMENTAL,
        Perspective.FORWARD,
        Perspective.BACKWARD,
    )
    # How the perspectives become one value.
    rule: FusionRule = FusionRule.MEAN
    # What an incremental hop is added to.
    recursion: Recursion = Recursion.FUSED
    # Sharpness with which disagreement holds progress back (consistency rule only).
    alpha: float = 20.0
    # Least progress that disagreement is taken relative to (consistency rule only).
    floor: float = 0.1

    def __post_init__(self) -> None:
        asked = [str(perspective) for perspective in self.perspectives]
        if not asked or len(set(asked)) != len(asked):
            raise ConfigError(
                "Progress needs one or more perspectives, each once",
                seen=asked,
                allowed=[str(perspective) for perspective in Perspective],
            )
        if not (math.isfinite(self.alpha) and self.alpha >= 0.0 and 0.0 <= self.floor <= 1.0):
            raise ConfigError(
                "The settings of the consistency rule cannot be used",
                seen=f"alpha {self.alpha}, floor {self.floor}",
                allowed="alpha ≥ 0, floor in [0, 1]",
            )
        if self.rule is FusionRule.CONSISTENCY:
            self._check_consistency()

    def _check_consistency(self) -> None:
        if not {Perspective.FORWARD, Perspective.BACKWARD} <= set(self.perspectives):
            raise ConfigError(
                "The consistency rule compares forward with backward, and one of them is not asked for",
                seen=[str(perspective) for perspective in self.perspectives],
                allowed="forward and backward, with or without incremental",
                remedy="Choose the mean, or give a picture of the goal and ask for both",
            )
        if self.recursion is not Recursion.FUSED:
            raise ConfigError(
                "The consistency rule adds to the fused progress",
                seen=str(self.recursion),
                allowed=str(Recursion.FUSED),
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Hop:
    """One reply: a comparison of two pictures.

    Attributes:
        value: Positive where the second picture is closer to the goal, in [-1, 1].
        spread: Standard deviation of the value, ≥ 0; 0 where the judge does not say.
    """

    value: float
    spread: float = 0.0

    def __post_init__(self) -> None:
        if not (-1.0 <= self.value <= 1.0 and 0.0 <= self.spread < math.inf):
            raise ShapeError(
                "A hop is out of range",
                seen=f"{self.value} ± {self.spread}",
                allowed="a value in [-1, 1] and a finite spread",
                remedy="A reply that cannot be read is None, not a hop",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Fused:
    """What the perspectives say together about one frame.

    Attributes:
        progress: The fused value, in [0, 1].
        spread: Standard deviation over the perspectives, and within them where the judge says.
        weight: How far forward and backward were trusted, in [0, 1]; 1 under the mean.
        parts: What each perspective says on its own, in [0, 1].
    """

    progress: float
    spread: float
    weight: float
    parts: Mapping[Perspective, float]


class ProgressFusion:
    """The running progress of one episode, which begins at 0.

    Where a hop is lost there is no score, since fewer perspectives fuse to another quantity. What did arrive still
    moves the value that the next incremental hop is added to, where it suffices: any perspective for the mean, forward
    together with backward for the consistency rule. So a lost incremental hop counts as no movement, and under the
    fused recursion the other perspectives make up for it.

    Args:
        config: How hops become progress.
    """

    def __init__(self, config: FusionConfig) -> None:
        self._config = config
        self._before = 0.0

    def update(self, hops: Mapping[Perspective, Hop | None], *, advance: bool = True) -> Fused | None:
        """Take the hops of the next frame and return its progress, or None where one of them is lost.

        Args:
            hops: One per perspective asked for; None for one that is lost.
            advance: Whether the next incremental hop starts at this frame. Hops that are too short to be told from
                rounding are avoided by letting several frames be compared with the same one before.
        """
        config = self._config
        came = {name: hop for name in config.perspectives if (hop := hops[name]) is not None}
        parts = {name: self._seen_from(name, hop.value) for name, hop in came.items()}
        if len(came) < len(config.perspectives):
            if advance:
                self._carry(parts)
            return None
        progress, weight = self._fuse(parts)
        spread = self._spread(parts, came)
        if advance:
            own = parts.get(Perspective.INCREMENTAL, progress)
            self._before = progress if config.recursion is Recursion.FUSED else own
        return Fused(progress=progress, spread=spread, weight=weight, parts=parts)

    def _seen_from(self, perspective: Perspective, hop: float) -> float:
        if perspective is Perspective.INCREMENTAL:
            return float(apply_hop(self._before, hop))
        return float(apply_hop(0.0 if perspective is Perspective.FORWARD else 1.0, hop))

    def _fuse(self, parts: Mapping[Perspective, float]) -> tuple[float, float]:
        if self._config.rule is FusionRule.MEAN:
            return math.fsum(parts.values()) / len(parts), 1.0
        forward, backward = parts[Perspective.FORWARD], parts[Perspective.BACKWARD]
        alpha, floor = self._config.alpha, self._config.floor
        weight = float(consistency_weight(forward, backward, alpha=alpha, floor=floor))
        targets = [(forward + backward) / 2.0]
        if Perspective.INCREMENTAL in parts:
            targets.append(parts[Perspective.INCREMENTAL])
        # Equation 11 written as a step towards the mean of its two targets, which shows that it stays within [0, 1].
        step = math.fsum(target - self._before for target in targets) / len(targets)
        return min(max(self._before + weight * step, 0.0), 1.0), weight

    def _spread(self, parts: Mapping[Perspective, float], hops: Mapping[Perspective, Hop]) -> float:
        within = []
        for name, hop in hops.items():
            share = float(room_for(self._before, hop.value)) if name is Perspective.INCREMENTAL else 1.0
            within.append((hop.spread * share) ** 2)
        return math.sqrt(math.fsum(within) / len(within) + float(np.var(list(parts.values()))))

    def _carry(self, parts: Mapping[Perspective, float]) -> None:
        """Move on from a frame without a score, as far as what came allows."""
        if self._config.recursion is Recursion.INDEPENDENT:
            self._before = parts.get(Perspective.INCREMENTAL, self._before)
        elif self._suffices(parts):
            self._before, _ = self._fuse(parts)

    def _suffices(self, parts: Mapping[Perspective, float]) -> bool:
        if self._config.rule is FusionRule.MEAN:
            return bool(parts)
        return {Perspective.FORWARD, Perspective.BACKWARD} <= parts.keys()
