"""How well a model grades whole videos from 1 to 5: the protocol of RoboRewardBench.

The error is averaged within each group of videos and then over the groups; an answer that cannot be read counts as the
worst error. Several questions may be about one video, so intervals come from drawing videos, not questions.

Source: Lee et al., "RoboReward: General-purpose vision-language reward models for robotics", arXiv 2601.00675.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from roborl.errors import ShapeError
from roborl.rewards.metrics import Interval

LOWEST, HIGHEST = 1, 5
WORST_ERROR = float(HIGHEST - LOWEST)


@dataclass(frozen=True, slots=True, kw_only=True)
class Grade:
    """One question about a video, and its answer.

    Attributes:
        group: Where the video is from: all groups weigh the same.
        video: Identity of the video; questions about the same one are not independent.
        truth: Level from 1 to 5.
        answer: The level answered; None where the answer could not be read.
    """

    group: str
    video: str
    truth: int
    answer: float | None

    def __post_init__(self) -> None:
        if not LOWEST <= self.truth <= HIGHEST:
            raise ShapeError("A grade has an impossible truth", seen=self.truth, allowed="1 to 5")

    @property
    def error(self) -> float:
        """How far the answer is off."""
        return WORST_ERROR if self.answer is None else abs(self.answer - self.truth)


@dataclass(frozen=True, kw_only=True)
class GradeReport:
    """What the answers are worth.

    Attributes:
        questions: How many.
        videos: How many different ones they are about.
        mae: Mean absolute error, of each group and then of the groups.
        interval: Its 95 % bootstrap interval over videos.
        by_group: Mean absolute error of each group.
        exact: Share of answers that hit the level.
        within_one: Share of answers at most one level off.
        unparsable: How many could not be read.
    """

    questions: int
    videos: int
    mae: float
    interval: Interval
    by_group: dict[str, float]
    exact: float
    within_one: float
    unparsable: int


def level_of(progress: float) -> int:
    """Return the level whose progress is nearest: 0 is level 1, 1 is level 5.

    Example:
        >>> [level_of(progress) for progress in (0.0, 0.3, 0.9)]
        [1, 2, 5]
    """
    return LOWEST + math.floor(progress * (HIGHEST - LOWEST) + 0.5)


def grade(grades: Sequence[Grade], *, resamples: int = 2000, seed: int = 0) -> GradeReport | None:
    """Sum up the answers to a set of questions; None where there is none.

    Args:
        grades: The answers.
        resamples: Draws of the videos for the interval.
        seed: Of the draws.
    """
    if not grades:
        return None
    groups = sorted({g.group for g in grades})
    videos = sorted({(g.group, g.video) for g in grades})
    place = {video: row for row, video in enumerate(videos)}
    sums, counts = np.zeros((2, len(videos), len(groups)))
    for g in grades:
        at = place[g.group, g.video], groups.index(g.group)
        sums[at] += g.error
        counts[at] += 1
    draws = np.random.default_rng(seed).multinomial(
        len(videos), np.full(len(videos), 1 / len(videos)), resamples
    )
    # A group of which no video was drawn has no say in that draw.
    with np.errstate(invalid="ignore"):
        low, high = np.quantile(np.nanmean((draws @ sums) / (draws @ counts), axis=1), [0.025, 0.975])
    means = sums.sum(axis=0) / counts.sum(axis=0)
    errors = np.array([g.error for g in grades])
    read = np.array([g.answer is not None for g in grades])
    return GradeReport(
        questions=len(grades),
        videos=len(videos),
        mae=float(means.mean()),
        interval=(float(low), float(high)),
        by_group={group: float(mean) for group, mean in zip(groups, means, strict=True)},
        exact=float(np.mean(read & (errors < 0.5))),
        within_one=float(np.mean(read & (errors <= 1.0))),
        unparsable=int((~read).sum()),
    )
