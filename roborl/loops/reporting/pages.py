"""What the pages of training runs share: figures that stand in the page itself, and how the run fared in words."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from roborl.errors import RoborlError
from roborl.loops.reporting import plots
from roborl.loops.reporting.filling import data_address
from roborl.loops.reporting.run_results import ProgressCurve, RunResults, online_curves
from roborl.loops.run_files import read_status
from roborl.rewards.forms import INVARIANT_IN_THE_END, NOT_POLICY_INVARIANT, NOT_YET_INVARIANT
from roborl.whole_files import write_whole

_CURVES = 10


def draw(folder: Path, name: str, figure: Callable[[plots.Theme], Figure]) -> dict[str, str]:
    """Draw a figure for light and dark pages; leave the light one as ``name.png`` in the folder.

    Returns:
        Both as addresses that hold the picture itself, ``light`` and ``dark``.
    """
    light, dark = plots.png(figure(plots.LIGHT)), plots.png(figure(plots.DARK))
    write_whole(folder / f"{name}.png", light)
    return {"light": data_address("image/png", light), "dark": data_address("image/png", dark)}


def online(run: RunResults, missing: list[str]) -> list[ProgressCurve]:
    """Return progress along the labelled online episodes, in order; add to ``missing`` why there is too little to compare."""
    try:
        curves = online_curves(run)
    except RoborlError as error:
        missing.append(f"progress along online episodes ({error.problem})")
        return []
    if len(curves) < 2:
        missing.append("progress along online episodes (too few are labelled)")
    return curves


def first_and_last(curves: Sequence[ProgressCurve]) -> dict[str, Sequence[ProgressCurve]]:
    """Return the panels that set early online episodes beside late ones, which never share one."""
    count = min(_CURVES, len(curves) // 2)
    return {
        f"first {count} online episodes": curves[:count],
        f"last {count} online episodes": curves[len(curves) - count :],
    }


def of_its_reward(run: RunResults) -> dict[str, Any]:
    """Return what ``shaping.html`` needs: how progress became reward, and what the run says of itself."""
    form, invariance = run.form
    return {
        "form": form.value,
        "invariance": invariance,
        "invariant": invariance not in (NOT_POLICY_INVARIANT, NOT_YET_INVARIANT),
        "grows": invariance in (INVARIANT_IN_THE_END, NOT_YET_INVARIANT),
        "lookahead": run.lookahead,
        "of_updates": run.algorithm.get("lookahead_updates", 0),
        "of_successes": run.algorithm.get("lookahead_successes", 0),
    }


def running_facts(run: RunResults, told: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return how the processes fared while learning, as names and figures; what was not measured is left out.

    Args:
        run: What they wrote.
        told: What the launcher returned, empty where it did not come to that.
    """
    trainer = told.get("trainer") or read_status(run.run.status("trainer"))
    labeller = told.get("labeller") or read_status(run.run.status("labeller"))
    facts: list[tuple[str, str]] = []
    speeds = [line["updates_per_s"] for line in run.training if line.get("updates_per_s", 0) > 0]
    if speeds:
        facts.append(("updates per second, median", f"{statistics.median(speeds):.0f}"))
    if "achieved_ratio" in trainer:
        words = f"{trainer['achieved_ratio']:.2f} of {trainer['requested_ratio']:g} asked for"
        facts.append(("updates per transition", words))
    lags = [line["policy_version_lag"] for line in run.training if "policy_version_lag" in line]
    if lags:
        facts.append(("versions the arm was behind", f"median {statistics.median(lags):g}, most {max(lags)}"))
    for actor in told.get("actors", []):
        late = [actor[f"late_{part}_ms"] for part in ("p50", "p99", "max")]
        words = "p50 {:.2f} ms, p99 {:.2f} ms, most {:.1f} ms".format(*late)
        facts.append((f"lateness of {actor['ticks']:,} control ticks ({actor['actor']})", words))
        facts.append((f"inference ({actor['actor']})", f"mean {actor['inference_mean_ms']:.1f} ms"))
        facts.append((f"ticks without a new action ({actor['actor']})", f"{actor['holds']:,}"))
    for name, source, key in (
        ("frames scored by the reward server", labeller, "scored"),
        ("scores that could not be read", labeller, "missing"),
        ("transitions drawn while their labels were missing", trainer, "held_draws"),
        ("weights refused by the gate", trainer, "refused_versions"),
    ):
        if key in source:
            facts.append((name, f"{source[key]:,.0f}"))
    if "restarts" in told:
        facts.append(("processes restarted", f"{sum(told['restarts'].values())}"))
    return facts
