"""The one-page report of a filtering: what counts how much, which episodes go, and how to go on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from roborl.loops.rabc.filter_config import FilterConfig
from roborl.loops.rabc.filter_dataset import Filtered, in_words
from roborl.loops.reporting.filling import fill, percent
from roborl.loops.reporting.pages import draw
from roborl.loops.reporting.plots import Theme, legend, new_figure
from roborl.whole_files import write_whole

PAGE = "report.html"
RESULT = "filter.json"

_BINS = 10
_CURVES = 60
_TASKS = 12


def write_filter_page(config: FilterConfig, filtered: Filtered) -> Path:
    """Write ``filter.json``, ``weights.png`` and ``report.html`` into the report's folder.

    Returns:
        The page.

    Raises:
        OSError: If the folder cannot be written.
    """
    config.report.mkdir(parents=True, exist_ok=True)
    figures = filtered.figures()
    rows = [
        {
            "episode": episode.index,
            "task": episode.task,
            "verdict": episode.verdict,
            "success": episode.success,
            **{name: None if np.isnan(value) else value for name, value in episode.figures.items()},
        }
        for episode in filtered.episodes
    ]
    write_whole(config.report / RESULT, json.dumps({**figures, "by_episode": rows}, indent=1) + "\n")
    judged = [e for e in filtered.episodes if e.success is not None]
    text = fill(
        "filter.html",
        headline=f"{len(filtered.kept)} of {len(filtered.episodes)} episodes stay, and their frames count"
        f" {percent(figures['mean_weight'])} on average",
        name=Path(config.dataset).name,
        config=config,
        figures=figures,
        facts=[
            ("frames that count fully", percent(figures["share_full"])),
            ("frames that count in part", percent(figures["share_soft"])),
            ("frames that count for nothing", percent(figures["share_none"])),
            *_kappa_facts(filtered.kappa),
            ("rows whose gain is not known", f"{filtered.unknown:,}"),
            ("reward model", filtered.version),
        ],
        drop=config.drop,
        episodes=rows,
        judged=len(judged),
        agreed={
            name: sum(not e.dropped for e in judged if e.success is success)
            for name, success in (("successes", True), ("failures", False))
        },
        of={
            name: sum(e.success is success for e in judged)
            for name, success in (("successes", True), ("failures", False))
        },
        pictures={"weights": draw(config.report, "weights", lambda theme: weights_figure(filtered, theme))},
    )
    page = config.report / PAGE
    write_whole(page, text)
    return page


def _kappa_facts(kappa: Mapping[str, float]) -> list[tuple[str, str]]:
    """Return the gain from which a frame counts fully: one, one for each task, or the least and the most of many."""
    name = "gain over a chunk from which a frame counts fully"
    if len(set(kappa.values())) > 1 and len(kappa) <= _TASKS:
        return [(f"{name}: {task}", f"{value:.3g}") for task, value in kappa.items()]
    return [(name if len(kappa) == 1 else f"{name}, of {len(kappa)} tasks", in_words(kappa))]


def weights_figure(filtered: Filtered, theme: Theme) -> Figure:
    """Draw progress along the episodes, how the weights of those that stay are spread, and where along the task they fall."""
    figure, (curves, spread, along) = new_figure(theme, 10.5, 3.1, 3)
    every = max(1, len(filtered.episodes) // _CURVES)
    for episode in filtered.episodes[::every]:
        colour = theme.bad if episode.dropped else theme.good
        curves.plot(episode.progress, color=colour, lw=1.1, alpha=0.7)
    for colour, label in ((theme.good, "stays"), (theme.bad, "left out")):
        curves.plot([], [], color=colour, label=label)
    curves.set(xlabel="observation", ylim=(-0.04, 1.04))
    curves.set_title("progress of episodes", color=theme.ink, fontsize=9.5, loc="left")
    legend(curves, theme, loc="best")
    weights = np.concatenate([episode.weights for episode in filtered.kept])
    shares = np.full(len(weights), 100 / max(len(weights), 1))
    spread.hist(weights, bins=_BINS, range=(0, 1), weights=shares, color=theme.accent, rwidth=0.9)
    spread.set(xlabel="weight", ylim=(0, 100))
    spread.set_title("frames of those that stay (%)", color=theme.ink, fontsize=9.5, loc="left")
    reached = np.concatenate([episode.progress[: len(episode.weights)] for episode in filtered.kept])
    bins = np.clip(np.nan_to_num(reached, nan=-1.0) * _BINS, -1, _BINS - 1).astype(int)
    means = [weights[bins == k].mean() if (bins == k).any() else np.nan for k in range(_BINS)]
    along.bar((np.arange(_BINS) + 0.5) / _BINS, means, width=0.9 / _BINS, color=theme.accent)
    along.set(xlabel="progress", xlim=(0, 1), ylim=(0, 1.04))
    along.set_title("mean weight along the task", color=theme.ink, fontsize=9.5, loc="left")
    return figure
