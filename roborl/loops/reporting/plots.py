"""The report's figures: each drawn once for a light page and once for a dark one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import product
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from roborl.loops.reporting.results import Results
from roborl.loops.reporting.run_results import ProgressCurve, RunResults, SuccessRate, running_mean

WINDOW = 20
_DPI = 160


@dataclass(frozen=True, kw_only=True)
class Theme:
    """Colours of a figure."""

    paper: str
    ink: str
    muted: str
    grid: str
    accent: str
    good: str
    bad: str


LIGHT = Theme(
    paper="#ffffff",
    ink="#1b2330",
    muted="#6b7686",
    grid="#e6e9ef",
    accent="#2f6fde",
    good="#1f9d63",
    bad="#d1495b",
)
DARK = Theme(
    paper="#171c24",
    ink="#e8ecf3",
    muted="#94a0b3",
    grid="#2a323e",
    accent="#7aa7ff",
    good="#4fd097",
    bad="#ff7d8c",
)


def learning_curve(
    run: RunResults, theme: Theme, *, base: SuccessRate | None = None, final: SuccessRate | None = None
) -> Figure:
    """Draw the success of online episodes over episodes and minutes, between two evaluations where there are any.

    Discarded episodes count for nothing: they leave a gap.
    """
    figure, (axes,) = new_figure(theme, 9.0, 3.9, 1)
    counted = [n for n, episode in enumerate(run.episodes, 1) if not episode.get("discarded")]
    won = [run.episodes[n - 1]["success"] is True for n in counted]
    x = np.array(counted)
    if won:
        colours = [theme.good if success else theme.bad for success in won]
        axes.scatter(x, [1.06 if success else -0.06 for success in won], c=colours, s=9, marker="|", lw=1.2)
        # The mean of a few episodes is all or nothing: a long run's line begins where its window is full.
        first = WINDOW - 1 if len(won) >= 2 * WINDOW else 0
        axes.plot(
            x[first:],
            running_mean(won, WINDOW)[first:],
            color=theme.accent,
            lw=2.2,
            label=f"online, with exploration (mean of {WINDOW})",
        )
    last = max(len(run.episodes), 1)
    room = 0.02
    if base is not None and final is not None:
        room = 0.07
        _evaluation(axes, -0.02 * last, base, theme.bad, "before", theme)
        _evaluation(axes, 1.02 * last, final, theme.good, "after", theme)
    axes.set(xlabel="online episode", ylabel="success", ylim=(-0.13, 1.13))
    axes.set_xlim(-room * last, (1 + room) * last)
    axes.set_xticks([tick for tick in MaxNLocator(9, integer=True).tick_values(1, last) if 1 <= tick <= last])
    _percent(axes)
    if won:
        _minutes(axes, run.minutes, theme)
        legend(axes, theme, loc="center right")
    return figure


def progress_panels(groups: Mapping[str, Sequence[ProgressCurve]], theme: Theme) -> Figure:
    """Draw the reward model's progress over time, a panel per group of episodes, a line per episode.

    An episode without a verdict has a colour of its own.

    Args:
        groups: Episodes by the title of their panel.
        theme: Colours.
    """
    figure, panels = new_figure(theme, 10.5, 2.9, len(groups), share_y=True)
    colours = {True: theme.good, False: theme.bad, None: theme.muted}
    for axes, (title, curves) in zip(panels, groups.items(), strict=True):
        axes.set_title(title, color=theme.ink, fontsize=9.5, loc="left")
        for curve in curves:
            colour = colours[curve.success]
            steps = np.arange(len(curve.progress))
            axes.plot(steps, curve.progress, color=colour, lw=1.3, alpha=0.75)
            axes.plot(steps[-1], curve.progress[-1], "o", color=colour, ms=3)
        if not curves:
            axes.text(0.5, 0.5, "none", color=theme.muted, ha="center", transform=axes.transAxes)
        axes.set(xlabel="step", ylim=(-0.04, 1.04))
    panels[0].set_ylabel("progress")
    shown = {True, False, *(curve.success for curves in groups.values() for curve in curves)}
    for success, label in ((True, "task done"), (False, "task not done"), (None, "no verdict")):
        if success in shown:
            panels[0].plot([], [], color=colours[success], label=label)
    legend(panels[0], theme, loc="lower right")
    return figure


def episodes(run: RunResults, theme: Theme) -> Figure:
    """Draw how long each online episode took and how it came out, and what share a person drove, where one did."""
    x = np.arange(1, len(run.episodes) + 1)
    steps = np.array([episode["steps"] for episode in run.episodes], float)
    driven = np.array([episode.get("person", 0) for episode in run.episodes], float)
    outcomes = np.array([_outcome(episode) for episode in run.episodes], dtype=str)
    figure, (lengths, *others) = new_figure(theme, 10.5, 2.9, 2 if driven.any() else 1)
    for name, colour in (("success", theme.good), ("no success", theme.bad), ("discarded", theme.muted)):
        those = outcomes == name
        if those.any():
            lengths.scatter(x[those], steps[those], color=colour, s=14, label=name)
    lengths.set_title("steps of each episode", color=theme.ink, fontsize=9.5, loc="left")
    lengths.set(xlabel="online episode", ylim=(0, 1.3 * max(steps, default=1.0)))
    if len(x):
        legend(lengths, theme, loc="upper left", columns=3)
    for axes in others:
        axes.bar(x, 100 * driven / np.maximum(steps, 1), color=theme.accent, width=1.0)
        axes.set_title("driven by a person (%)", color=theme.ink, fontsize=9.5, loc="left")
        axes.set(xlabel="online episode", ylim=(0, 100))
    return figure


def learning(run: RunResults, theme: Theme) -> Figure:
    """Draw what the trainer reported over time: values, losses, pace, and how far the arm is behind."""
    figure, (values, losses, pace, lag) = new_figure(theme, 10.5, 2.9, 4)
    _over_time(run, values, {"value": theme.accent, "target": theme.good}, "value of what is drawn", theme)
    _over_time(run, losses, {"critic_loss": theme.accent, "clone_loss": theme.bad}, "losses", theme)
    losses.set_yscale("log")
    for axes in (values, losses):
        if run.training:
            legend(axes, theme, loc="best")
    _pace_and_lag(run, pace, lag, theme)
    return figure


def timings(results: Results, theme: Theme) -> Figure:
    """Draw how long each stage took, and how the learner kept pace."""
    figure, (stages, pace, lag) = new_figure(theme, 10.5, 2.9, 3, widths=(1.5, 1, 1))
    names = list(results.stages)
    seconds = [float(results.stages[name]["wall_s"]) for name in names]
    places = np.arange(len(names))[::-1]
    stages.barh(places, seconds, color=theme.accent, height=0.6)
    stages.set_yticks(places, names, color=theme.ink, fontsize=9)
    for place, value in zip(places, seconds, strict=True):
        stages.text(value, place, f"  {value:.0f}", va="center", color=theme.ink, fontsize=8.5)
    stages.set(xlim=(0, 1.18 * max(seconds, default=1.0)))
    stages.set_title("stages (s)", color=theme.ink, fontsize=9.5, loc="left")
    stages.grid(visible=False, axis="y")
    _pace_and_lag(results.online, pace, lag, theme)
    return figure


def arms(curves: Mapping[str, Mapping[str, Sequence[Sequence[bool]]]], window: int, theme: Theme) -> Figure:
    """Draw the running success rate of online episodes, a panel per task, a line per arm and a thin one for each of its seeds.

    Args:
        curves: By task and arm, the successes of each seed's episodes in order.
        window: Episodes in the running mean.
        theme: Colours.
    """
    figure, panels = new_figure(theme, 4.2 * max(1, len(curves)), 4.2, max(1, len(curves)), share_y=True)
    looks = product(("-", "--", ":"), (theme.accent, theme.bad, theme.good, theme.muted, theme.ink))
    look_of = dict(
        zip(dict.fromkeys(arm for by_arm in curves.values() for arm in by_arm), looks, strict=False)
    )
    for axes, (task, by_arm) in zip(panels, curves.items(), strict=False):
        axes.set_title(task, color=theme.ink, fontsize=10, loc="left")
        for arm, seeds in by_arm.items():
            style, colour = look_of[arm]
            length = min(map(len, seeds))
            first = min(window, length)  # the first whole window
            means = np.array([running_mean(won[:length], window)[first - 1 :] for won in seeds])
            episode = np.arange(first, length + 1)
            axes.plot(episode, means.T, color=colour, ls=style, lw=0.7, alpha=0.35)
            axes.plot(episode, means.mean(axis=0), color=colour, ls=style, lw=2.2, label=arm)
        axes.set(ylim=(-0.03, 1.03), xlim=(0, None), xlabel="online episodes")
    panels[0].set_ylabel(f"success, mean over {window}")
    named = {
        label: line for axes in panels for line, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(
        named.values(),
        named.keys(),
        loc="outside lower left",
        frameon=False,
        fontsize=8.5,
        labelcolor=theme.ink,
    )
    return figure


def png(figure: Figure) -> bytes:
    """Return the figure as a PNG file."""
    out = BytesIO()
    figure.savefig(out, dpi=_DPI, format="png", facecolor=figure.get_facecolor())
    return out.getvalue()


def new_figure(
    theme: Theme,
    width_in: float,
    height_in: float,
    columns: int,
    *,
    share_y: bool = False,
    widths: Sequence[float] | None = None,
    rows: int = 1,
) -> tuple[Figure, list[Axes]]:
    """Return an empty figure and its panels from left to right, row by row."""
    figure = Figure(figsize=(width_in, height_in), layout="constrained", facecolor=theme.paper)
    grid = figure.subplots(rows, columns, sharey=share_y, squeeze=False, width_ratios=widths)
    panels: list[Any] = list(grid.flat)
    for axes in panels:
        axes.set_facecolor(theme.paper)
        axes.tick_params(colors=theme.muted, labelsize=8.5, length=0)
        axes.grid(visible=True, color=theme.grid, lw=0.8)
        axes.set_axisbelow(True)
        axes.spines[:].set_visible(False)
        axes.xaxis.label.set(color=theme.muted, fontsize=9)
        axes.yaxis.label.set(color=theme.muted, fontsize=9)
    return figure, panels


def _outcome(episode: Mapping[str, Any]) -> str:
    if episode.get("discarded"):
        return "discarded"
    return "success" if episode["success"] else "no success"


def _pace_and_lag(run: RunResults, pace: Axes, lag: Axes, theme: Theme) -> None:
    for axes, field, title in (
        (pace, "updates_per_s", "updates per second"),
        (lag, "policy_version_lag", "versions the arm is behind"),
    ):
        _over_time(run, axes, {field: theme.accent}, title, theme)
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_locator(MaxNLocator(6, integer=True))


def _over_time(run: RunResults, axes: Axes, fields: Mapping[str, str], title: str, theme: Theme) -> None:
    """Draw fields of the trainer's figures, each in its colour; a missing one leaves a gap."""
    minutes = [line["minute"] for line in run.training]
    for field, colour in fields.items():
        found = [line.get(field) for line in run.training]
        numbers = [np.nan if value is None else float(value) for value in found]
        axes.plot(minutes, numbers, color=colour, lw=1.6, label=field.replace("_", " "))
    axes.set_title(title, color=theme.ink, fontsize=9.5, loc="left")
    axes.set_xlabel("minute of learning")


def _evaluation(axes: Axes, x: float, rate: SuccessRate, colour: str, name: str, theme: Theme) -> None:
    if not rate.of:
        return
    low, high = rate.interval
    spans = [[rate.share - low], [high - rate.share]]
    axes.errorbar(x, rate.share, yerr=spans, fmt="D", color=colour, ms=7, capsize=4, lw=1.8, zorder=5)
    if name == "before":
        at, offset, align = (high, (0, 7), "bottom") if rate.share < 0.5 else (low, (0, -7), "top")
    else:  # The line ends beside this diamond: what is said of it stands outside.
        at, offset, align = rate.share, (12, 0), "center"
    axes.annotate(
        f"{name}: {100 * rate.share:.0f} %",
        (x, at),
        xytext=offset,
        textcoords="offset points",
        ha="left",
        va=align,
        color=theme.ink,
        fontsize=10,
        fontweight="bold",
        bbox={"facecolor": theme.paper, "edgecolor": "none", "alpha": 0.85, "pad": 1.5},
        zorder=6,
    )


def _percent(axes: Axes) -> None:
    ticks = np.linspace(0, 1, 6)
    axes.set_yticks(ticks, [f"{100 * tick:.0f} %" for tick in ticks])


def _minutes(axes: Axes, minutes: Sequence[float], theme: Theme) -> None:
    """Put the clock above the episodes."""
    above = axes.secondary_xaxis("top")
    wanted = np.linspace(0, len(minutes) - 1, min(6, len(minutes))).round().astype(int)
    above.set_xticks(wanted + 1, [f"{minutes[index]:.1f}" for index in wanted])
    above.tick_params(colors=theme.muted, labelsize=8.5, length=0)
    above.set_xlabel("minutes of learning", color=theme.muted, fontsize=9)
    above.spines[:].set_visible(False)


def legend(
    axes: Axes,
    theme: Theme,
    *,
    loc: Literal["best", "center right", "lower right", "upper left"],
    columns: int = 1,
) -> None:
    """Say which colour is what."""
    axes.legend(frameon=False, labelcolor=theme.ink, fontsize=8.5, loc=loc, ncols=columns)
