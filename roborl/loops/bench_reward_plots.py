"""The figures of ``roborl bench-reward``: progress on test episodes, and how far it can be taken at its word."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from roborl.loops.plots import Theme, legend, new_figure

if TYPE_CHECKING:
    from roborl.loops.bench_reward import BenchRewardResult

_BINS = 10
_WIDTH_IN, _HEIGHT_IN = 3.4, 3.1
_MOST_CURVES = 30


def progress_panels(result: BenchRewardResult, theme: Theme) -> Figure:
    """Draw each model's progress on the test episodes, over the share of the episode that has passed."""
    figure, panels = new_figure(
        theme, _WIDTH_IN * len(result.measured), _HEIGHT_IN, len(result.measured), share_y=True
    )
    for axes, (name, found) in zip(panels, result.measured.items(), strict=True):
        for success, colour in ((False, theme.bad), (True, theme.good)):
            pairs = zip(result.cohort.test, found.curves, strict=True)
            for curve in [c for s, c in pairs if s.episode.success is success][:_MOST_CURVES]:
                passed = curve.scored / (curve.frames - 1)
                axes.plot(passed, curve.progress, color=colour, lw=1.2, alpha=0.6)
        axes.set_title(name, color=theme.ink, fontsize=9.5, loc="left")
        axes.set(xlabel="share of the episode", ylim=(-0.04, 1.04), xlim=(0.0, 1.0))
    panels[0].set_ylabel("progress")
    for colour, label in ((theme.good, "success"), (theme.bad, "failure")):
        panels[0].plot([], [], color=colour, label=label)
    legend(panels[0], theme, loc="upper left")
    return figure


def reliability_panels(result: BenchRewardResult, theme: Theme) -> Figure:
    """Draw the true progress over the progress that a model gave, raw and calibrated; a model to trust is on the line."""
    figure, panels = new_figure(
        theme, _WIDTH_IN * len(result.measured), _HEIGHT_IN, len(result.measured), share_y=True
    )
    for axes, (name, found) in zip(panels, result.measured.items(), strict=True):
        raw, calibrated, truth = found.reliability
        axes.plot([0, 1], [0, 1], color=theme.muted, lw=1.0, ls=":")
        after = found.figures["calibration_after"]
        for values, colour, label, error in (
            (raw, theme.bad, "raw", found.figures["calibration_before"]),
            (calibrated, theme.accent, "calibrated", after),
        ):
            if not np.isnan(error):
                axes.plot(
                    *_binned(values, truth),
                    "o-",
                    color=colour,
                    ms=3.5,
                    lw=1.5,
                    label=f"{label}, {error:.3f} off",
                )
        axes.set_title(name, color=theme.ink, fontsize=9.5, loc="left")
        axes.set(xlabel="progress given", ylim=(-0.04, 1.04), xlim=(-0.04, 1.04))
        if axes.get_legend_handles_labels()[0]:
            legend(axes, theme, loc="upper left")
        else:
            axes.text(0.5, 0.5, "no known progress", color=theme.muted, ha="center", transform=axes.transAxes)
    panels[0].set_ylabel("progress in truth")
    return figure


def _binned(
    values: NDArray[np.float64], truth: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean prediction and mean truth of each bin that has any."""
    which = np.clip((values * _BINS).astype(int), 0, _BINS - 1)
    count = np.bincount(which, minlength=_BINS)
    there = count > 0
    given, true = (np.bincount(which, x, _BINS)[there] / count[there] for x in (values, truth))
    return given, true
