"""RA-BC weights: how much each frame of a dataset counts when it is cloned, by the progress that it leads to.

Arrays have one value per row of an episode. A missing score is NaN, never a number.

Source: Chen et al., "SARM: Stage-aware reward modeling for long horizon robot manipulation", arXiv 2509.25358, equations 8 and 9.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from roborl.errors import ConfigError
from roborl.rewards.instructions import one_spelling
from roborl.rewards.shaping import held, potential

Rule = Literal["roborl", "lerobot"]

LEROBOT_KAPPA = 0.01
_EPSILON = 1e-6
# Share of the chunk over which a gain is measured at least: over less, noise is taken for progress.
_LEAST_LAG = 0.25
# Episodes that a task's own κ is of at least: by one or two of its own, a slow demonstrator sets what is usual.
_LEAST_EPISODES = 3

type Curve = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class RabcSettings:
    """How frames are weighed."""

    # actions in a chunk of the policy that is to be trained: gains of progress are measured over so many rows
    chunk: int = 50
    # roborl: see RabcSettings.kappa, pace, finished and doubt; lerobot: LeRobot's formula to the letter, with its kappa 0.01
    rule: Rule = "roborl"
    # gain over a chunk from which a frame counts fully; 0: from the pace or the quantile, and 0.01 under lerobot
    kappa: float = 0.0
    # kappa in units of the mean gain over a chunk in the episodes of the same task that finish, from where they begin until they
    # are done; of all tasks where none of its own does
    pace: float = 1.0
    # instead: kappa is this quantile of all gains of the same task, or of all tasks where fewer than three of its episodes have
    # any, in (0, 1); 0: by the pace
    kappa_quantile: float = 0.0
    # progress from which the task counts as done: frames there that stay there count fully, though they gain nothing
    finished: float = 0.9
    # spread of the progress at which a frame counts half; infinite: the spread plays no part
    doubt: float = math.inf

    def __post_init__(self) -> None:
        if (
            self.chunk < 1
            or not 0 <= self.kappa < math.inf
            or not 0 < self.pace < math.inf
            or not 0 < self.finished <= 1
            or not 0 <= self.kappa_quantile < 1
            or not self.doubt > 0
        ):
            raise ConfigError(
                "Frames cannot be weighed in this way",
                seen=f"chunk {self.chunk}, kappa {self.kappa:g}, pace {self.pace:g}, kappa_quantile"
                f" {self.kappa_quantile:g}, finished {self.finished:g}, doubt {self.doubt:g}",
                allowed="chunk ≥ 1, kappa ≥ 0, pace > 0, kappa_quantile in [0, 1), finished in (0, 1], doubt > 0",
            )


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Weighed:
    """Weights of a dataset.

    Attributes:
        weights: By episode index, float32 in [0, 1], one per row.
        gains: Gains over a chunk, NaN where progress is missing; by episode index.
        kappa: The gain from which a frame counts fully, by episode index; the same throughout a task, however it is spelled.
        unknown: Rows whose gain is not known.
    """

    weights: Mapping[int, Curve]
    gains: Mapping[int, Curve]
    kappa: Mapping[int, float]
    unknown: int


def on_lines(curve: Curve, scored: NDArray[np.bool_]) -> Curve:
    """Return a curve whose rows between two scores lie on the line from one to the other.

    What is held until the next score would stand still and then jump. That is right for a potential, which must not know what
    comes; a weight may.

    Args:
        curve: Progress, NaN where a score is missing, float32 (rows,).
        scored: Rows that the model was asked to score, bool (rows,).

    Returns:
        A new curve, NaN also in rows beside a missing score.

    Example:
        >>> on_lines(np.float32([0.0, 0.0, 0.4, 0.4, np.nan]), np.array([True, False, True, False, True])).tolist()
        [0.0, 0.20000000298023224, 0.4000000059604645, nan, nan]
    """
    ids = np.flatnonzero(scored)
    if not ids.size:
        return np.full(len(curve), np.nan, np.float32)
    rows = np.arange(len(curve))
    lines = np.interp(rows, ids, curve[ids], left=np.nan, right=np.nan)
    return np.where(scored, curve, lines).astype(np.float32)


def weigh(
    progress: Mapping[int, tuple[Curve, Curve]],
    lengths: Mapping[int, int],
    settings: RabcSettings,
    tasks: Mapping[int, str] | None = None,
) -> Weighed:
    """Weigh every row of a dataset.

    By LeRobot's rule a gain above κ counts fully, one below 0 nothing, and one between by a ramp from two standard
    deviations below the mean gain to two above, which jumps at κ and gives a share to frames that stand still. At an
    episode's end the gain is over fewer rows, and so small. A row without a gain counts fully.

    Ours rises from 0 to 1 as the gain rises from 0 to κ; κ comes from each task's own pace; where the episode ends or the task is
    done within the chunk the gain until there is scaled up, and a task that is done and stays done counts fully. A missing score
    holds the last one with its spread; a chunk without a score has no gain. A row without a gain counts as much as the others
    do on average.

    Args:
        progress: Progress and its spread by episode index, float32 (rows,) each, as :func:`on_lines` returns progress that
            was held; episodes may be left out.
        lengths: Rows of every episode.
        settings: How.
        tasks: The instruction of every episode; None where all have the same.

    Example:
        >>> rising = np.linspace(0, 1, 5, dtype=np.float32)
        >>> standing = np.zeros(5, np.float32)
        >>> found = weigh({0: (rising, standing), 1: (standing, standing)}, {0: 5, 1: 5}, RabcSettings(chunk=2))
        >>> found.kappa[0], found.weights[0].tolist(), found.weights[1].tolist()
        (0.5, [1.0, 1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0, 0.0])
    """
    nothing = {index: np.full(rows, np.nan, np.float32) for index, rows in lengths.items()}
    curves = {index: progress[index][0] if index in progress else nothing[index] for index in lengths}
    if settings.rule == "lerobot":
        return _by_lerobot(curves, settings)
    read = {index: ~np.isnan(curve) for index, curve in curves.items()}
    curves = {index: _held(curve) for index, curve in curves.items()}
    gains = {index: _gains(curve, read[index], settings) for index, curve in curves.items()}
    kappa = _kappas(curves, gains, settings, tasks or dict.fromkeys(curves, ""))
    weights = {
        index: _ramp(
            curve, gains[index], progress[index][1] if index in progress else None, kappa[index], settings
        )
        for index, curve in curves.items()
    }
    everything = np.concatenate(list(weights.values()))
    known = everything[~np.isnan(everything)]
    usual = np.float32(known.mean() if known.size else 1.0)
    return Weighed(
        weights={i: np.where(np.isnan(w), usual, w).astype(np.float32) for i, w in weights.items()},
        gains=gains,
        kappa=kappa,
        unknown=len(everything) - known.size,
    )


def _by_lerobot(curves: Mapping[int, Curve], settings: RabcSettings) -> Weighed:
    kappa = settings.kappa or LEROBOT_KAPPA
    exact = {}
    for index, curve in curves.items():
        end = np.minimum(np.arange(len(curve)) + settings.chunk, len(curve) - 1)
        exact[index] = curve.astype(np.float64)[end] - curve
    every = np.concatenate(list(exact.values()))
    every = every[~np.isnan(every)]
    mean = max(float(every.mean()), 0.0) if every.size else 0.0
    deviation = max(float(every.std()), _EPSILON) if every.size else _EPSILON
    # In single precision from here on, as LeRobot has it: a gain at κ falls on the same side.
    gains = {index: gain.astype(np.float32) for index, gain in exact.items()}
    weights = {}
    for index, gain in gains.items():
        soft = np.clip((gain - (mean - 2 * deviation)) / (4 * deviation + _EPSILON), 0.0, 1.0)
        counted = np.where(gain > kappa, 1.0, np.where(gain >= 0, soft, 0.0))
        weights[index] = np.where(np.isnan(gain), 1.0, counted).astype(np.float32)
    unknown = sum(int(np.isnan(gain).sum()) for gain in gains.values())
    return Weighed(weights=weights, gains=gains, kappa=dict.fromkeys(curves, kappa), unknown=unknown)


def _held(curve: Curve) -> Curve:
    """Return a curve whose missing values hold the last one; NaN before the first."""
    ids = np.flatnonzero(~np.isnan(curve))
    filled = held(curve[ids], ids, len(curve))
    filled[: ids[0] if ids.size else len(curve)] = np.nan
    return filled


def _gains(curve: Curve, read: NDArray[np.bool_], settings: RabcSettings) -> Curve:
    """Return the gain over a chunk from each row; where the episode ends or the task is done before, that until there, scaled up.

    Over less than a quarter of a chunk nothing is measured: the last rows take rows before them in. Nor is anything where no
    score was read behind the first row, (rows,): what is held there did not stand still.
    """
    last = len(curve) - 1
    if last < 1:
        return np.full(len(curve), np.nan, np.float32)
    rows = np.arange(last + 1)
    end = np.minimum(rows + settings.chunk, last)
    done = _next_done(curve, settings.finished)
    end = np.where(curve[end] >= settings.finished, np.minimum(end, done), end)
    start = np.maximum(0, np.minimum(rows, end - math.ceil(_LEAST_LAG * settings.chunk)))
    gains: Curve = (curve[end] - curve[start]) * (settings.chunk / np.maximum(end - start, 1))
    scores = np.cumsum(read)
    return np.where(scores[end] > scores[start], gains, np.nan).astype(np.float32)


def _next_done(curve: Curve, finished: float) -> NDArray[np.int64]:
    """Return for each row the next one after it at which the task is done, int64 (rows,); far away where there is none."""
    never = 2 * len(curve)
    places = np.where(curve >= finished, np.arange(len(curve)), never)
    return np.append(np.minimum.accumulate(places[::-1])[::-1][1:], never)


def _kappas(
    curves: Mapping[int, Curve], gains: Mapping[int, Curve], settings: RabcSettings, tasks: Mapping[int, str]
) -> dict[int, float]:
    """Return κ by episode: of its task, or of all tasks where its own says nothing."""
    if settings.kappa:
        return dict.fromkeys(curves, settings.kappa)
    spelled = one_spelling(tasks[index] for index in curves)
    of_task: dict[str, list[int]] = {}
    for index in curves:
        of_task.setdefault(spelled[tasks[index]], []).append(index)
    find = _quantile if settings.kappa_quantile else _pace
    told = gains if settings.kappa_quantile else curves
    kappas = {
        task: find([told[i] for i in indices], settings, _LEAST_EPISODES) for task, indices in of_task.items()
    }
    every = list(told.values())
    pooled = find(every, settings) or (1.0 if settings.kappa_quantile else _unfinished_pace(every, settings))
    return {index: kappas[spelled[tasks[index]]] or pooled for index in curves}


def _quantile(gains: Sequence[Curve], settings: RabcSettings, least: int = 1) -> float | None:
    """Return κ by all gains; None where fewer than so many episodes have any."""
    known = [found for gain in gains if (found := gain[~np.isnan(gain)]).size]
    if len(known) < least:
        return None
    return max(float(np.quantile(np.concatenate(known), settings.kappa_quantile)), _EPSILON)


def _pace(curves: Sequence[Curve], settings: RabcSettings, least: int = 1) -> float | None:
    """Return κ by the episodes that finish; None where fewer than so many do."""
    worked = [curve[~np.isnan(curve)] for curve in curves]
    done = [
        (c, int((c >= settings.finished).argmax()))
        for c in worked
        if len(c) > 1 and c[-1] >= settings.finished
    ]
    paces = [(float(c[first] - c[0]), first) for c, first in done if c[first] > c[0]]
    return _mean_gain(paces, settings) if len(paces) >= least else None


def _unfinished_pace(curves: Sequence[Curve], settings: RabcSettings) -> float:
    """Return κ where nothing finishes: by what would finish in the length that the episodes have."""
    worked = [curve[~np.isnan(curve)] for curve in curves]
    paces = [(float(1.0 - c[0]), len(c) - 1) for c in worked if len(c) > 1 and c[0] < 1.0]
    return _mean_gain(paces, settings) or settings.pace


def _mean_gain(paces: Sequence[tuple[float, int]], settings: RabcSettings) -> float | None:
    """Return the mean gain over a chunk of rises over so many rows, times the pace; None of none."""
    if not paces:
        return None
    rise, steps = np.sum(paces, axis=0)
    return float(settings.pace * settings.chunk * rise / steps)


def _ramp(curve: Curve, gain: Curve, spread: Curve | None, kappa: float, settings: RabcSettings) -> Curve:
    weight = np.clip(gain / np.float32(kappa), 0.0, 1.0)
    end = np.minimum(np.arange(len(curve)) + settings.chunk, len(curve) - 1)
    weight[(curve >= settings.finished) & (curve[end] >= settings.finished)] = 1.0
    if spread is None or math.isinf(settings.doubt):
        return weight.astype(np.float32)
    known = np.nan_to_num(_held(spread))
    weighed: Curve = potential(weight, np.maximum(known, known[end]), doubt=settings.doubt)
    return weighed.astype(np.float32)
