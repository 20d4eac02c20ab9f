"""The figure of ``roborl train-reward``: a held-out success forwards, backwards and spliced, beside what was true."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from roborl.loops.reporting.plots import Theme, legend, new_figure
from roborl.rewards.training.evaluation import HeldOutReport


def held_out_panels(reports: Mapping[str, HeldOutReport], theme: Theme) -> Figure:
    """Draw one panel for each way of showing the first held-out success.

    Args:
        reports: Ours, then those to compare with, by name; with curves.
        theme: Colours.
    """
    first = next(iter(reports.values())).curves
    figure, panels = new_figure(theme, 10.5, 3.1, len(first), share_y=True)
    for axes, how in zip(panels, first, strict=True):
        places = np.arange(len(first[how][1]))
        axes.plot(places, first[how][1], color=theme.muted, lw=1.2, ls="--", label="true")
        for (name, report), colour in zip(reports.items(), (theme.accent, theme.bad), strict=False):
            axes.plot(places, report.curves[how][0], color=colour, lw=1.6, label=name)
        axes.set_title(how, color=theme.ink, fontsize=9.5, loc="left")
        axes.set(xlabel="observation", ylim=(-0.04, 1.04))
    panels[0].set_ylabel("progress")
    legend(panels[0], theme, loc="upper left")
    return figure
