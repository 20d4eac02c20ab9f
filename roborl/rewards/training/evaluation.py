"""What a reward model is worth on episodes it has not seen, beside a model that only knows the time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roborl.rewards.metrics import (
    false_progress,
    mean_absolute_error,
    rank_correlation,
    value_order_correlation,
)
from roborl.rewards.model import Judge, RewardModel, score_episode
from roborl.rewards.shaping import held
from roborl.rewards.time_only import Clock
from roborl.rewards.training.episodes import TrainingEpisode, as_video, label_episode
from roborl.rewards.training.labels import StagePlan

_GAINED = 0.05
"""Progress below which an episode gained nothing that could be given back."""
_FROZEN_FRAMES = 12
_FROZEN_AT = (0.0, 0.25, 0.5, 0.75, 1.0)

type Shown = tuple[NDArray[np.float64], NDArray[np.float64]]
"""A model's progress along a video, and the true one."""

type Watcher = Callable[[TrainingEpisode, Sequence[int]], NDArray[np.float64]]
"""Shows a model chosen frames of an episode, in that order, as a video; returns its progress at each, NaN where it has none."""


@dataclass(frozen=True, kw_only=True)
class KindReport:
    """Failures of one kind.

    Attributes:
        kind: Which.
        episodes: How many.
        highest: Mean over episodes of the highest progress.
        final: Mean over episodes of the last progress.
        excess: Mean over episodes of the largest excess over the privileged progress; NaN where there is none.
        error: Mean absolute error against it; NaN where there is none.
        order: Mean value-order correlation.
    """

    kind: str
    episodes: int
    highest: float
    final: float
    excess: float
    error: float
    order: float


FIGURES = (
    *("forward", "backward", "frozen", "undone", "spliced", "spliced_error"),
    *("error", "final", "missing", "successes"),
)
"""Names of a report's figures that bars may speak of."""


@dataclass(frozen=True, kw_only=True)
class HeldOutReport:
    """Figures of one model on held-out episodes; NaN where the episodes do not allow one.

    Attributes:
        successes: How many successful episodes.
        forward: Mean value-order correlation of successes.
        backward: The same of successes played backwards, in the order in which they were played.
        frozen: Largest movement of the progress while one picture stands still.
        undone: Mean share of the gained progress that is given back when a success runs back to its start, where any was.
        spliced: Mean rank correlation with the true progress of successes cut as :func:`splice` does.
        spliced_error: Mean absolute error against it.
        error: Mean absolute error against the true progress on successes: the privileged one where there is one, else
            that of the marked sub-tasks.
        final: Mean last progress of successes.
        missing: Share of all scores that were missing; figures hold the one before, as a learner does.
        failures: One entry per kind.
        curves: Progress of the first success, and its true one, by how it was shown.
    """

    successes: int
    forward: float
    backward: float
    frozen: float
    undone: float
    spliced: float
    spliced_error: float
    error: float
    final: float
    missing: float
    failures: tuple[KindReport, ...]
    curves: Mapping[str, Shown] = field(default_factory=dict)

    def as_dict(self) -> dict[str, object]:
        """Return plain values, without the curves."""
        return {name: value for name, value in asdict(self).items() if name != "curves"}


def watcher(model: RewardModel[Any, Any], judge: Judge[Any, Any] | None = None) -> Watcher:
    """Return a watcher that shows the videos to ``model``.

    Args:
        model: Whose progress is read.
        judge: Answers in the place of the model's own judge, from the same network.
    """

    def watch(episode: TrainingEpisode, order: Sequence[int]) -> NDArray[np.float64]:
        scores = score_episode(model, episode.task, as_video(episode, order), judge=judge or model.judge)
        return np.array([score.progress if score.valid else np.nan for score in scores])

    return watch


class _Holding:
    """Watches as a learner does: where a score is missing, the one before is held, and 0 before the first.

    Args:
        watch: Who is asked.

    Attributes:
        asked: Scores asked for.
        missing: How many of them were missing.
    """

    def __init__(self, watch: Watcher) -> None:
        self._watch = watch
        self.asked = self.missing = 0

    def __call__(self, episode: TrainingEpisode, order: Sequence[int]) -> NDArray[np.float64]:
        progress = self._watch(episode, order)
        known = np.flatnonzero(~np.isnan(progress))
        self.asked += len(progress)
        self.missing += len(progress) - len(known)
        return held(progress[known], known, len(progress))


def time_only(demonstrations: Sequence[TrainingEpisode], plan: StagePlan) -> Watcher:
    """Return a watcher that ignores pictures and replies with the mean progress of the task's demonstrations at that time."""
    clock = Clock([(e.task, label_episode(e, plan, 1.0).progress) for e in demonstrations])

    def watch(episode: TrainingEpisode, order: Sequence[int]) -> NDArray[np.float64]:
        return clock.at(episode.task, np.arange(len(order)))

    return watch


def splice(frames: int) -> list[int]:
    """Return an order of frames in which work is seen twice and undone: what only a model that looks can follow.

    The first half is shown, its second half again and on to three quarters, back to the middle, and on to the end.

    Example:
        >>> splice(9)
        [0, 1, 2, 3, 4, 2, 3, 4, 5, 6, 5, 4, 5, 6, 7, 8]
    """
    quarter, half, most = (round(share * (frames - 1)) for share in (0.25, 0.5, 0.75))
    parts = (
        range(half + 1),
        range(quarter, most + 1),
        range(most - 1, half - 1, -1),
        range(half + 1, frames),
    )
    return [index for part in parts for index in part]


def held_out_report(watch: Watcher, episodes: Sequence[TrainingEpisode], plan: StagePlan) -> HeldOutReport:
    """Measure a model on held-out episodes, whose marks are of the plan's stages."""
    watch = _Holding(watch)
    successes = [episode for episode in episodes if episode.success]
    forward, backward, frozen, undone, spliced, spliced_errors, errors, finals = ([] for _ in range(8))
    curves: dict[str, Shown] = {}
    for episode in successes:
        order, truth = list(range(episode.frames)), _truth(episode, plan)
        orders = {"forwards": order, "backwards": order[::-1], "spliced": splice(episode.frames)}
        shown = {how: (watch(episode, o), truth[o]) for how, o in orders.items()}
        curves = curves or shown
        progress = shown["forwards"][0]
        forward.append(value_order_correlation(progress))
        backward.append(value_order_correlation(shown["backwards"][0]))
        finals.append(progress[-1])
        errors.append(mean_absolute_error(*_known(shown["forwards"])))
        spliced.append(rank_correlation(*_known(shown["spliced"])))
        spliced_errors.append(mean_absolute_error(*_known(shown["spliced"])))
        there_and_back = watch(episode, order + order[-2::-1])
        peak = there_and_back[: len(order)].max()
        gained = peak - there_and_back[0]
        if gained > _GAINED:
            undone.append((peak - there_and_back[-1]) / gained)
        for share in _FROZEN_AT:
            still = watch(episode, [round(share * (episode.frames - 1))] * _FROZEN_FRAMES)
            frozen.append(float(np.ptp(still)))
    kinds = sorted({episode.kind or "failure" for episode in episodes if not episode.success})
    failures = tuple(
        _kind_report(watch, kind, [e for e in episodes if not e.success and (e.kind or "failure") == kind])
        for kind in kinds
    )
    return HeldOutReport(
        successes=len(successes),
        forward=_mean(forward),
        backward=_mean(backward),
        frozen=max(frozen, default=float("nan")),
        undone=_mean(undone),
        spliced=_mean(spliced),
        spliced_error=_mean(spliced_errors),
        error=_mean(errors),
        final=_mean(finals),
        missing=watch.missing / max(1, watch.asked),
        failures=failures,
        curves=curves,
    )


def leak(watch: Watcher, episode: TrainingEpisode, at: int) -> float:
    """Return how much scores up to ``at`` change when every later frame is replaced by noise; 0 for a causal model.

    Up to rounding: the judge may batch differently.
    """
    rng = np.random.default_rng(0)
    images = {}
    for name, rgb in episode.images.items():
        images[name] = rgb.copy()
        images[name][at + 1 :] = rng.integers(0, 256, rgb[at + 1 :].shape, dtype=np.uint8)
    scrambled = TrainingEpisode(
        images=images, state=episode.state, task=episode.task, success=episode.success, kind=episode.kind
    )
    order = range(episode.frames)
    watch = _Holding(watch)
    difference = watch(scrambled, order)[: at + 1] - watch(episode, order)[: at + 1]
    return float(np.abs(difference).max())


def format_reports(reports: dict[str, HeldOutReport]) -> str:
    """Return a table with one column per model."""
    some = next(iter(reports.values()))
    rows: list[tuple[str, str, list[float]]] = [
        ("value order, successes", "≥ 0.95", [r.forward for r in reports.values()]),
        ("value order, played backwards", "≤ -0.70", [r.backward for r in reports.values()]),
        ("movement on a frozen video", "< 0.05", [r.frozen for r in reports.values()]),
        ("given back when undone", "→ 1", [r.undone for r in reports.values()]),
        ("order of a splice", "> time's", [r.spliced for r in reports.values()]),
        ("error on a splice", "< time's", [r.spliced_error for r in reports.values()]),
        ("error against true progress", "≤ 0.08", [r.error for r in reports.values()]),
        ("final progress, successes", "→ 1", [r.final for r in reports.values()]),
        ("scores that were missing", "→ 0", [r.missing for r in reports.values()]),
    ]
    for i, failure in enumerate(some.failures):
        label = f"{failure.kind} ({failure.episodes})"
        parts = [r.failures[i] for r in reports.values()]
        rows += [
            (f"{label}: highest progress", "", [p.highest for p in parts]),
            (f"{label}: final progress", "", [p.final for p in parts]),
            (f"{label}: excess over the truth", "", [p.excess for p in parts]),
            (f"{label}: error", "", [p.error for p in parts]),
        ]
    width = max(len(row[0]) for row in rows)
    head = f"{some.successes} held-out successes".ljust(width)
    lines = [f"{head}  {'bar':>8}  " + "  ".join(f"{name:>10}" for name in reports)]
    for label, bar, values in rows:
        cells = "  ".join(f"{'-' if np.isnan(v) else format(v, '.3f'):>10}" for v in values)
        lines.append(f"{label.ljust(width)}  {bar:>8}  {cells}")
    return "\n".join(lines)


def _truth(episode: TrainingEpisode, plan: StagePlan) -> NDArray[np.float64]:
    """Return the progress of a success as far as it is known, NaN where it is not."""
    labelled = label_episode(episode, plan, 1.0).progress if episode.benchmark is None else episode.benchmark
    return labelled.astype(np.float64)


def _known(shown: Shown) -> Shown:
    progress, truth = shown
    known = ~np.isnan(truth)
    return progress[known], truth[known]


def _kind_report(watch: Watcher, kind: str, episodes: Sequence[TrainingEpisode]) -> KindReport:
    curves = [(watch(episode, range(episode.frames)), episode.benchmark) for episode in episodes]
    known = [(curve, truth) for curve, truth in curves if truth is not None]
    return KindReport(
        kind=kind,
        episodes=len(episodes),
        highest=_mean([float(curve.max()) for curve, _ in curves]),
        final=_mean([float(curve[-1]) for curve, _ in curves]),
        excess=_mean([false_progress(curve, truth) for curve, truth in known]),
        error=_mean([mean_absolute_error(curve, truth) for curve, truth in known]),
        order=_mean([value_order_correlation(curve) for curve, _ in curves]),
    )


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if len(values) else float("nan")
