"""From subtask annotations to training labels: stage shares, stage, within-stage progress, ceilings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from roborl.errors import DatasetError

UNKNOWN = -1
"""Stage of a frame that no annotation speaks of."""

UNMARKED = ("task",)
"""The one stage of a plan without annotations."""

type Span = tuple[str, int, int]
"""A subtask's name, its first frame, and the frame at which the next one takes over."""


@dataclass(frozen=True, kw_only=True)
class StagePlan:
    """The stages of a task, in order, and the share of the task that each one is.

    Attributes:
        names: Stage names.
        shares: α of each stage, positive, summing to 1.
    """

    names: tuple[str, ...]
    shares: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.names or len(self.names) != len(self.shares) or len(set(self.names)) != len(self.names):
            raise DatasetError(
                "A stage plan needs distinct names with one share each",
                seen=f"names {self.names}, shares {self.shares}",
            )
        if not math.isclose(sum(self.shares), 1.0, abs_tol=1e-6) or min(self.shares) <= 0.0:
            raise DatasetError("Stage shares must be positive and sum to 1", seen=self.shares)

    @property
    def starts(self) -> NDArray[np.float32]:
        """P_0 … P_K: the progress at which each stage begins, and 1 for the finished state, float32 (K + 1,)."""
        total = np.concatenate([[0.0], np.cumsum(self.shares)])
        total[-1] = 1.0
        return total.astype(np.float32)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class FrameLabels:
    """What is known about every frame of one episode.

    Attributes:
        stage: 0 … K - 1, K for finished, UNKNOWN where nobody said; int64 (n,).
        within: Progress within that stage in [0, 1]; NaN where unknown; float32 (n,).
        progress: P_stage + α_stage · within; NaN where unknown; float32 (n,).
        ceiling: Progress must not pass this; 1 where there is no such bound; float32 (n,).
    """

    stage: NDArray[np.int64]
    within: NDArray[np.float32]
    progress: NDArray[np.float32]
    ceiling: NDArray[np.float32]


def plan_stages(successes: Sequence[Sequence[Span] | None]) -> StagePlan:
    """Learn stage order and shares from the annotations of the successful episodes.

    α_k is the mean over episodes of (length of stage k / length of the episode's annotated part): a mean of ratios, so
    that a slow demonstration weighs as much as a quick one. Successes in which a stage was repeated have no say in
    order or shares. Without any annotation there is a single stage.

    Raises:
        DatasetError: If no success goes through each stage once, or two do so in different ways.

    Example:
        >>> plan_stages([[("reach", 0, 5), ("lift", 5, 10)], [("reach", 0, 30), ("lift", 30, 40)]]).shares
        (0.625, 0.375)
    """
    annotated = [spans for spans in successes if spans]
    if not annotated:
        return StagePlan(names=UNMARKED, shares=(1.0,))
    straight = [spans for spans in annotated if len({name for name, _, _ in spans}) == len(spans)]
    orders = {tuple(name for name, _, _ in spans) for spans in straight}
    if len(orders) != 1:
        raise DatasetError(
            "The successful episodes must go through the same subtasks in the same order",
            seen=sorted(orders) or "each of them repeats one",
            allowed="one order, and at least one episode with each subtask once",
            remedy="Correct it with roborl annotate, or name the odd episodes as failures: --failed '[3, 7]'",
        )
    ratios = []
    for spans in straight:
        _check_spans(spans)
        lengths = np.array([end - start for _, start, end in spans], dtype=np.float64)
        ratios.append(lengths / lengths.sum())
    shares = np.mean(ratios, axis=0)
    return StagePlan(names=orders.pop(), shares=tuple(float(share) for share in shares / shares.sum()))


def label_frames(
    plan: StagePlan, frames: int, spans: Sequence[Span] | None, *, success: bool, failure_ceiling: float
) -> FrameLabels:
    """Label each of ``frames`` observations.

    Spans may repeat stages and go backwards: work that was undone. A span that the next stage follows at once was
    completed and has within-stage labels; of any other span only the stage is known.

    A success is finished from the end of its last span on. Without spans it is one stage from first frame to last.
    A failure may stop anywhere; frames that no span covers must not pass the end of the furthest stage that was completed
    by then or by the next span, which begins after it, nor ``failure_ceiling``.

    Raises:
        DatasetError: If a span names an unknown stage or is out of order.
    """
    if success and not spans:
        if len(plan.names) > 1:  # the others were annotated, this one was not: it teaches its two ends
            return label_ends(plan, frames)
        spans = [(plan.names[0], 0, frames - 1)]
    spans = list(spans or [])
    _check_spans(spans)
    index = {name: number for number, name in enumerate(plan.names)}
    count = len(plan.names)
    stage = np.full(frames, UNKNOWN, np.int64)
    within = np.full(frames, np.nan, np.float32)
    ceiling = np.ones(frames, np.float32)
    if not success:
        ceiling[:] = failure_ceiling
    furthest, covered = 0.0, 0
    for position, (name, start, end) in enumerate(spans):
        if name not in index:
            raise DatasetError("An annotation names an unknown subtask", seen=name, allowed=plan.names)
        k = index[name]
        if not success:
            furthest = max(furthest, float(plan.starts[k]))
            ceiling[covered:start] = min(failure_ceiling, furthest)
        following = spans[position + 1] if position + 1 < len(spans) else None
        if following is None:
            complete = success
        else:
            complete = index.get(following[0]) == k + 1 and (success or following[1] == end)
        last = end if complete and following is not None else end + 1
        where, covered = np.arange(start, min(last, frames)), last
        stage[where] = k
        ceiling[where] = 1.0
        if complete:
            within[where] = np.minimum(1.0, (where - start) / max(1, end - start))
            furthest = max(furthest, float(plan.starts[k + 1]))
    if spans and not success:
        ceiling[covered:] = min(failure_ceiling, furthest)
    if success:
        first, last = spans[0][1], spans[-1][2]
        stage[:first], within[:first] = 0, 0.0
        for (_, _, end), (next_name, start, _) in pairwise(spans):
            gap = slice(end, start)  # between two stages: the second is about to begin
            stage[gap], within[gap] = index[next_name], 0.0
        stage[last:], within[last:] = count, 0.0
    known = stage != UNKNOWN
    shares = np.array([*plan.shares, 0.0], np.float32)
    progress = np.full(frames, np.nan, np.float32)
    progress[known] = plan.starts[stage[known]] + shares[stage[known]] * within[known]
    return FrameLabels(stage=stage, within=within, progress=progress, ceiling=ceiling)


def label_ends(plan: StagePlan, frames: int) -> FrameLabels:
    """Label a success of which only its two ends are known: nothing done at the first frame, all at the last."""
    stage = np.full(frames, UNKNOWN, np.int64)
    within = np.full(frames, np.nan, np.float32)
    progress = np.full(frames, np.nan, np.float32)
    stage[0], within[0], progress[0] = 0, 0.0, 0.0
    stage[-1], within[-1], progress[-1] = len(plan.names), 0.0, 1.0
    return FrameLabels(stage=stage, within=within, progress=progress, ceiling=np.ones(frames, np.float32))


def _check_spans(spans: Sequence[Span]) -> None:
    previous = 0
    for name, start, end in spans:
        if start < previous or end <= start:
            raise DatasetError(
                "Subtask spans must be in order, not empty, and must not overlap",
                seen=f"{name!r} from {start} to {end} after one that ends at {previous}",
                allowed="start < end ≤ next start",
                remedy="Correct it with roborl annotate",
            )
        previous = end
