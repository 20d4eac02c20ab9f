"""How well a model grades whole videos from 1 to 5: the protocol of RoboRewardBench.

The error is averaged within each group of videos and then over the groups; an answer that cannot be read counts as the
worst error. Several questions may be about one video, or about what was made of one recording, so intervals come from
drawing those, not questions.

Source: Lee et al., "RoboReward: General-purpose vision-language reward models for robotics", arXiv 2601.00675.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from roborl.errors import ShapeError
from roborl.rewards.metrics import Interval, wilson_interval

LOWEST, HIGHEST = 1, 5
WORST_ERROR = float(HIGHEST - LOWEST)

_NUMBER = r"(-?[0-9]+(?:\.[0-9]+)?)"
_MARKED = re.compile(rf"\banswer\s*:\s*{_NUMBER}", re.IGNORECASE)
_LEADING = re.compile(rf"\s*{_NUMBER}\b")


class GradeReading(StrEnum):
    """What of an answer is taken for the level."""

    PROGRESS = "progress"
    """The level nearest to the progress, which is what a learner is paid by."""
    WRITTEN = "written"
    """What the judge's words state, by :func:`stated_number`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grade:
    """One question about a video, and its answer.

    Attributes:
        group: Where the video is from: all groups weigh the same.
        video: Identity of the video, or of the recording that several were made of; questions about the same one are not
            independent.
        truth: Level from 1 to 5.
        answer: The level answered, as stated whatever it is; None where the answer could not be read.
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
        reading: What of an answer is taken for the level.
        questions: How many.
        videos: How many different ones they are about, or recordings that those were made of.
        mae: Mean absolute error, of each group and then of the groups.
        interval: Its 95 % bootstrap interval over those.
        by_group: Mean absolute error of each group.
        exact: Share of answers that hit the level.
        within_one: Share of answers at most one level off.
        unparsable: How many could not be read.
        confusion: How many videos of each level, a row each, were given each level, 1 to 5.
        false_five: Share of the questions about lower levels that were answered with 5: what a learner finds and exploits.
            One that could not be read pays nothing, so it is none. NaN where there is no such question.
        false_five_high: Upper bound of its 95 % interval, Wilson's as if there were one question about each video.
    """

    reading: GradeReading
    questions: int
    videos: int
    mae: float
    interval: Interval
    by_group: dict[str, float]
    exact: float
    within_one: float
    unparsable: int
    confusion: tuple[tuple[int, ...], ...]
    false_five: float
    false_five_high: float


def stated_number(text: str) -> float | None:
    """Return the number in the words of an answer by the published rule of RoboRewardBench, which guesses and bounds nothing.

    It is for comparing errors with published ones. What a learner is paid by is read by
    :func:`roborl.rewards.parsing.parse_score`, to which an answer in another form is missing.

    Returns:
        The first number right behind ``ANSWER:``, in any case, else one that the answer begins with; None where there is
        neither.

    Example:
        >>> [stated_number(text) for text in ("ANSWER: 4.5", "**Answer: 4** or 5", "4 out of 5", "level 4")]
        [4.5, 4.0, 4.0, None]

    Source: stanford-crfm/helm, the progress metric of RoboRewardBench.
    """
    found = _MARKED.search(text) or _LEADING.match(text)
    number = math.nan if found is None else float(found[1])
    return number if math.isfinite(number) else None


def level_of(progress: float) -> int:
    """Return the level whose progress is nearest: 0 is level 1, 1 is level 5.

    Example:
        >>> [level_of(progress) for progress in (0.0, 0.3, 0.9)]
        [1, 2, 5]
    """
    return LOWEST + math.floor(progress * (HIGHEST - LOWEST) + 0.5)


def grade(
    grades: Sequence[Grade],
    *,
    reading: GradeReading = GradeReading.PROGRESS,
    resamples: int = 2000,
    seed: int = 0,
) -> GradeReport | None:
    """Sum up the answers to a set of questions; None where there is none.

    Args:
        grades: The answers.
        reading: What of an answer was taken for the level.
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
    false_five, false_five_high = _false_five(grades)
    return GradeReport(
        reading=reading,
        questions=len(grades),
        videos=len(videos),
        mae=float(means.mean()),
        interval=(float(low), float(high)),
        by_group={group: float(mean) for group, mean in zip(groups, means, strict=True)},
        exact=float(np.mean(read & (errors < 0.5))),
        within_one=float(np.mean(read & (errors <= 1.0))),
        unparsable=int((~read).sum()),
        confusion=_confusion(grades),
        false_five=false_five,
        false_five_high=false_five_high,
    )


def _answered(g: Grade) -> int | None:
    """Return the level nearest to an answer."""
    return None if g.answer is None else min(max(math.floor(g.answer + 0.5), LOWEST), HIGHEST)


def _confusion(grades: Sequence[Grade]) -> tuple[tuple[int, ...], ...]:
    counts = Counter((g.truth, _answered(g)) for g in grades)
    levels = range(LOWEST, HIGHEST + 1)
    return tuple(tuple(counts[truth, answer] for answer in levels) for truth in levels)


def _false_five(grades: Sequence[Grade]) -> tuple[float, float]:
    lower = [g for g in grades if g.truth < HIGHEST]
    if not lower:
        return math.nan, math.nan
    false = sum(_answered(g) == HIGHEST for g in lower)
    # Questions about one video are not independent: the bound is that of as many questions as there are videos.
    videos = len({(g.group, g.video) for g in lower})
    return false / len(lower), wilson_interval(-(-false * videos // len(lower)), videos)[1]
