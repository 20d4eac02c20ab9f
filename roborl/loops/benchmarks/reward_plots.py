"""The figures of ``roborl bench-reward``: progress on test episodes, and how far it can be taken at its word."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from roborl.loops.benchmarks.reward_result import BenchRewardResult
from roborl.loops.reporting.plots import Theme, legend, new_figure

_BINS = 10
_COLUMNS = 4
_WIDTH_IN, _HEIGHT_IN = 3.4, 3.1
_MOST_CURVES = 30


def progress_panels(result: BenchRewardResult, theme: Theme) -> Figure:
    """Draw each model's progress on the test episodes, over the share of the episode that has passed."""
    figure, panels = _panels(result, theme)
    for axes, (name, found) in zip(panels, result.measured.items(), strict=True):
        for success, colour in ((True, theme.good), (False, theme.bad)):
            pairs = zip(result.cohort.test, found.curves, strict=True)
            for curve in [c for s, c in pairs if s.episode.success is success][:_MOST_CURVES]:
                passed = curve.scored / (curve.frames - 1)
                # Dots too: a score between two that could not be read makes no line.
                axes.plot(passed, curve.progress, ".-", color=colour, lw=1.2, ms=3, alpha=0.6)
        axes.set_title(name, color=theme.ink, fontsize=9.5, loc="left")
        axes.set(xlabel="share of the episode", ylim=(-0.04, 1.04), xlim=(-0.02, 1.02))
    panels[0].set_ylabel("progress")
    for colour, label in ((theme.good, "success"), (theme.bad, "failure")):
        panels[0].plot([], [], color=colour, label=label)
    legend(panels[0], theme, loc="upper left")
    return figure


def reliability_panels(result: BenchRewardResult, theme: Theme) -> Figure:
    """Draw the true progress over the progress that a model gave, raw and calibrated; a model to trust is on the line."""
    figure, panels = _panels(result, theme)
    for axes, (name, found) in zip(panels, result.measured.items(), strict=True):
        raw, calibrated, truth = found.reliability
        axes.plot([0, 1], [0, 1], color=theme.muted, lw=1.0, ls=":")
        off = []
        for values, colour, when in ((raw, theme.bad, "before"), (calibrated, theme.accent, "after")):
            error = found.figures[f"calibration_{when}"]
            off.append("-" if np.isnan(error) else f"{error:.3f}")
            if not np.isnan(error):
                axes.plot(*_binned(values, truth), "o-", color=colour, ms=3.5, lw=1.5)
        axes.set_title(f"{name}: {off[0]} to {off[1]} off", color=theme.ink, fontsize=9.5, loc="left")
        axes.set(xlabel="progress given", ylim=(-0.04, 1.04), xlim=(-0.04, 1.04))
    panels[0].set_ylabel("progress in truth")
    for colour, label in ((theme.bad, "raw"), (theme.accent, "calibrated")):
        panels[0].plot([], [], color=colour, label=label)
    legend(panels[0], theme, loc="upper left")
    return figure


def _panels(result: BenchRewardResult, theme: Theme) -> tuple[Figure, list[Axes]]:
    """A panel per model, those left over hidden."""
    count = len(result.measured)
    columns = min(count, _COLUMNS)
    rows = -(-count // columns)
    figure, panels = new_figure(
        theme, _WIDTH_IN * columns, _HEIGHT_IN * rows, columns, rows=rows, share_y=True
    )
    for spare in panels[count:]:
        spare.set_axis_off()
    return figure, panels[:count]


def _binned(
    values: NDArray[np.float64], truth: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean prediction and mean truth of each bin that has any."""
    which = np.clip((values * _BINS).astype(int), 0, _BINS - 1)
    count = np.bincount(which, minlength=_BINS)
    there = count > 0
    given, true = (np.bincount(which, x, _BINS)[there] / count[there] for x in (values, truth))
    return given, true
