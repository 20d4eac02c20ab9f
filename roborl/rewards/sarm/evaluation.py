"""What a reward model is worth on episodes it has not seen, beside a model that only knows the time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roborl.rewards.metrics import false_progress, mean_absolute_error, value_order_correlation
from roborl.rewards.model import RewardModel, score_episode
from roborl.rewards.sarm.episodes import TrainingEpisode, as_video, label_episode
from roborl.rewards.sarm.labels import StagePlan
from roborl.rewards.time_only import mean_progress

_FROZEN_FRAMES = 12
_FROZEN_AT = (0.0, 0.25, 0.5, 0.75, 1.0)

type Watcher = Callable[[TrainingEpisode, Sequence[int]], NDArray[np.float64]]
"""Shows a model chosen frames of an episode, in that order, as a video; returns its progress at each."""


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


@dataclass(frozen=True, kw_only=True)
class HeldOutReport:
    """Figures of one model on held-out episodes; NaN where the episodes do not allow one.

    Attributes:
        successes: How many successful episodes.
        forward: Mean value-order correlation of successes.
        backward: The same of successes played backwards, in the order in which they were played.
        frozen: Largest movement of the progress while one picture stands still.
        undone: Mean share of the gained progress that is given back when a success runs back to its start.
        error: Mean absolute error against privileged progress on successes.
        final: Mean last progress of successes.
        failures: One entry per kind.
    """

    successes: int
    forward: float
    backward: float
    frozen: float
    undone: float
    error: float
    final: float
    failures: tuple[KindReport, ...]

    def as_dict(self) -> dict[str, object]:
        """Return plain values."""
        return asdict(self)


def watcher(model: RewardModel[Any, Any]) -> Watcher:
    """Return a watcher that shows the videos to ``model``."""

    def watch(episode: TrainingEpisode, order: Sequence[int]) -> NDArray[np.float64]:
        scores = score_episode(model, episode.task, as_video(episode, order))
        return np.array([score.progress for score in scores])

    return watch


def time_only(demonstrations: Sequence[TrainingEpisode], plan: StagePlan) -> Watcher:
    """Return a watcher that ignores pictures and replies with the demonstrations' mean progress at that time."""
    mean = mean_progress([label_episode(episode, plan, 1.0).progress for episode in demonstrations])

    def watch(episode: TrainingEpisode, order: Sequence[int]) -> NDArray[np.float64]:
        shown: NDArray[np.float64] = mean[np.minimum(np.arange(len(order)), len(mean) - 1)]
        return shown

    return watch


def held_out_report(watch: Watcher, episodes: Sequence[TrainingEpisode]) -> HeldOutReport:
    """Measure a model on held-out episodes."""
    successes = [episode for episode in episodes if episode.success]
    forward, backward, frozen, undone, errors, finals = [], [], [], [], [], []
    for episode in successes:
        order = list(range(episode.frames))
        progress = watch(episode, order)
        forward.append(value_order_correlation(progress))
        finals.append(progress[-1])
        if episode.benchmark is not None:
            errors.append(mean_absolute_error(progress, episode.benchmark))
        backward.append(value_order_correlation(watch(episode, order[::-1])))
        there_and_back = watch(episode, order + order[-2::-1])
        peak = there_and_back[: len(order)].max()
        undone.append((peak - there_and_back[-1]) / max(peak - there_and_back[0], 1e-6))
        for share in _FROZEN_AT:
            still = watch(episode, [round(share * (episode.frames - 1))] * _FROZEN_FRAMES)
            frozen.append(float(np.ptp(still)))
    kinds = sorted({episode.kind or "failure" for episode in episodes if not episode.success})
    return HeldOutReport(
        successes=len(successes),
        forward=_mean(forward),
        backward=_mean(backward),
        frozen=max(frozen, default=float("nan")),
        undone=_mean(undone),
        error=_mean(errors),
        final=_mean(finals),
        failures=tuple(
            _kind_report(
                watch, kind, [e for e in episodes if not e.success and (e.kind or "failure") == kind]
            )
            for kind in kinds
        ),
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
        ("error against privileged progress", "≤ 0.08", [r.error for r in reports.values()]),
        ("final progress, successes", "→ 1", [r.final for r in reports.values()]),
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
