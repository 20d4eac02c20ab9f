"""Where shaping helps and where it does not: whole runs over tasks, seeds and arms, each of them resumable."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from roborl.envs.tasks.registry import TASKS
from roborl.learning.clone import CloneConfig
from roborl.learning.rlpd import RlpdConfig
from roborl.locks import kept
from roborl.loops.demo import clone_all_and_measure, learn_and_measure, prepare, try_clone
from roborl.loops.demo_config import DemoConfig
from roborl.loops.grid import LOOK_AGAIN_S, Cell, at_work, code_version, run_grid
from roborl.loops.learner.episode_labels import LabelConfig
from roborl.loops.learner.learn_config import (
    RunFolder,
    ShapingConfig,
    StoreConfig,
)
from roborl.loops.reporting.plots import LIGHT, png
from roborl.loops.reporting.plots import arms as arms_figure
from roborl.loops.reporting.results import read_results
from roborl.loops.reporting.run_results import succeeded
from roborl.rewards.forms import (
    INVARIANT_IN_THE_END,
    NOT_POLICY_INVARIANT,
    NOT_YET_INVARIANT,
    POLICY_INVARIANT,
)
from roborl.rewards.metrics import paired_interval, student_interval

log = logging.getLogger(__name__)

SCENES = ("PickCube", "PickPlace", "ClearTable")
CLONE = "clone of all demonstrations"
ARMS = (
    "shaped",
    "sparse",
    "sparse damped",
    "shaped plain",
    "shuffled",
    "blind",
    CLONE,
    "shaped without demonstrations",
    "sparse without demonstrations",
    "shaped dense",
    "blind dense",
)
CONDITIONS = (" without demonstrations", " dense")
"""Ends of names of arms: such an arm is set beside the full one under the same condition."""

DEMO = DemoConfig(filmed=0)
SETTINGS = {DEMO.scene: DEMO, "PickCube": replace(DEMO, spread_m=0.1)}
"""By task, settings as light as the demonstration run's. PickCube is easier: there the cube starts in a larger area."""
STAGED = replace(
    DEMO,
    spread_m=0.04,
    demonstrations=8,
    failures=60,
    clone=CloneConfig(keypoints=32, channels=32, encoder_updates=3000, still_weight=1.0, from_first=True),
    rlpd=RlpdConfig(batch_size=128, lookahead_updates=400_000),
    store=StoreConfig(capacity_bytes=3 << 30),
    labels=LabelConfig(),
    trainer=replace(DEMO.trainer, budget=replace(DEMO.trainer.budget, ratio=8.0, head_start=30_000)),
)
"""Settings for tasks of more stages than those in :data:`SETTINGS`: better eyes and more scenes to learn to see on, larger batches
half as often, and more patience."""

STARTS = Path("outputs/bench/starts")
"""Where the grids keep what a seed begins from, so that a seed that several of them run is recorded and cloned once."""

_SAYS = (NOT_POLICY_INVARIANT, NOT_YET_INVARIANT, INVARIANT_IN_THE_END, POLICY_INVARIANT)
_WINDOW = 20
_NOTHING = 1e-6
_REACHED = 0.9


def run(
    *,
    scenes: Sequence[str] = SCENES,
    arms: Sequence[str] = ARMS,
    seeds: int = 5,
    first_seed: int = DEMO.seed,
    episodes: int = 150,
    evaluation: int = 50,
    base_at_most: float = 0.1,
    out: Path = Path("outputs/bench/seeds"),
    starts: Path = STARTS,
    stop_after_s: float = float("inf"),
    settings: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Run the grid, going on where an earlier call stopped; several processes on one folder share it.

    A seed takes part if its clone succeeds on at most ``base_at_most`` of the evaluation scenes; further seeds are
    prepared until there are ``seeds`` of them, and those that were turned away are reported.

    Args:
        scenes: Simulated tasks.
        arms: Names out of :data:`ARMS`. The critics of "sparse" look all the way ahead, those of "sparse damped" as short as
            the shaped run's, whose own look all the way in "shaped plain". "blind" has a critic that is not told the potential,
            "shuffled" scores that are shuffled in time within their episode, and the clone of all demonstrations does not learn
            online. "dense" scores every observation, for which a large judge has no time, on tasks where the full run does not.
        seeds: Seeds per task.
        first_seed: The first to be tried. Settings were chosen on earlier ones.
        episodes: Online episodes of a run.
        evaluation: Scenes of each evaluation.
        base_at_most: The gate on the clone.
        out: Folder of runs and cells.
        starts: Folder of prepared seeds.
        stop_after_s: Begin nothing new after so many seconds of runs.
        settings: Fields of :class:`roborl.loops.demo_config.DemoConfig` that differ from those in :data:`SETTINGS`, and from
            :data:`STAGED` on every other task.

    Returns:
        ``cells``, ``table`` by task and arm, ``differences`` of shaped minus every other arm paired over seeds with 95 %
        intervals by resampling and by Student's t, in the end and in practice, ``rejected`` seeds, and the path of ``plot``.
    """
    changed: dict[str, Any] = {"episodes": episodes, "evaluation": evaluation} | dict(settings or {})
    common = {scene: settings_on(scene, changed) for scene in scenes}
    commit = code_version()
    given = {"evaluation": evaluation} | dict(settings or {})
    taken: dict[str, list[int]] = {}
    rejected: list[dict[str, Any]] = []
    for scene in scenes:
        taken[scene], turned_away = gate(
            common[scene],
            partial(prepared_folder, starts, commit, scene, given),
            seeds=seeds,
            first_seed=first_seed,
            base_at_most=base_at_most,
        )
        rejected += turned_away
    cells = [
        Cell(
            arm=f"{scene} {arm}",
            seed=seed,
            config={"scene": scene, "arm": arm, "episodes": episodes, "evaluation": evaluation}
            | dict(settings or {})
            | {"spread_m": common[scene].spread_m},
        )
        for seed_number in range(seeds)
        for scene in scenes
        for arm in arms_on(common[scene], arms)
        for seed in [taken[scene][seed_number]]
    ]

    def run_cell(cell: Cell) -> dict[str, Any]:
        scene, arm = str(cell.config["scene"]), str(cell.config["arm"])
        config = of_arm(replace(common[scene], seed=cell.seed, out=out / "runs" / cell.key(commit)), arm)
        prepared = prepared_folder(starts, commit, scene, given, cell.seed)
        if arm == CLONE:
            return {"success": clone_all_and_measure(config, prepared=prepared)["success"], "episodes": []}
        return learn_cell(config, prepared)

    results = run_grid(cells, run_cell, out / "cells", commit=commit, stop_after_s=stop_after_s)
    return summarise(results, full="shaped", plot=out / "seeds.png") | {
        "commit": commit,
        "of": len(cells),
        "rejected": rejected,
    }


def learn_cell(config: DemoConfig, prepared: Path) -> dict[str, Any]:
    """Run a cell that learns online.

    Returns:
        Its final ``success``, that of each online episode in order, and what the run ``says`` of its reward.
    """
    _, after = learn_and_measure(config, prepared=prepared)
    run = RunFolder(config.out / "run")
    results = read_results(config.out).online
    arena = run.store / "arena"
    if arena.is_dir():  # A gigabyte for every cell would fill a disk; the sealed episodes stay.
        shutil.rmtree(arena)
    return {
        "success": after["success"],
        "episodes": [succeeded(episode) for episode in results.episodes],
        "says": results.form[1],
    }


def summarise(results: Sequence[Mapping[str, Any]], *, full: str, plot: Path) -> dict[str, Any]:
    """Return what the cells of a grid say, and draw it.

    Args:
        results: Of the cells.
        full: The arm that the others of its task are taken from.
        plot: Where the curves are drawn; arms whose reward may make another policy the best are labelled so.
    """
    table = summary(results)
    lines = {
        task: {_labelled(arm, table[f"{task} {arm}"]["says"]): seeds for arm, seeds in by_arm.items()}
        for task, by_arm in curves(results).items()
    }
    plot.write_bytes(png(arms_figure(lines, _WINDOW, LIGHT)))
    return {
        "cells": len(results),
        "table": table,
        "differences": differences(results, full),
        "plot": str(plot),
    }


def _labelled(arm: str, says: str) -> str:
    return arm if says in (POLICY_INVARIANT, INVARIANT_IN_THE_END) else f"{arm}, {says}"


def gate(
    config: DemoConfig,
    folder: Callable[[int], Path],
    *,
    seeds: int,
    first_seed: int,
    base_at_most: float,
    ready: Callable[[DemoConfig], Any] | None = None,
) -> tuple[list[int], list[dict[str, Any]]]:
    """Prepare seeds until there are enough whose clone mostly fails. Several processes on one folder share the work.

    Args:
        config: Settings on one task.
        folder: Where a seed is prepared.
        seeds: How many are wanted.
        first_seed: The first to be tried, then the next.
        base_at_most: Success of a clone that takes part.
        ready: Does the rest of the preparation of a seed that does; that of the demonstration where None.

    Returns:
        The seeds that take part; and those that were turned away, each with ``scene seed success``.
    """
    outcomes: dict[int, float] = {}
    while True:
        taken: list[int] = []
        elsewhere: list[int] = []
        for seed in count(first_seed):
            # One that another process has in its hands may pass: only if it does not, a further one is looked at.
            if len(taken) + len(elsewhere) == seeds:
                break
            if seed not in outcomes:
                with kept(at_work(folder(seed))) as mine:
                    if not mine:
                        elsewhere.append(seed)
                        continue
                    start = replace(config, seed=seed, out=folder(seed))
                    success = try_clone(start)
                    if success <= base_at_most:
                        (ready or prepare)(start)
                    outcomes[seed] = success
            if outcomes[seed] <= base_at_most:
                taken.append(seed)
        if not elsewhere:
            rejected = [
                s for s in sorted(outcomes) if outcomes[s] > base_at_most and s < max(taken, default=0)
            ]
            return taken, [{"scene": config.scene, "seed": s, "success": outcomes[s]} for s in rejected]
        time.sleep(LOOK_AGAIN_S)


def arms_on(config: DemoConfig, arms: Sequence[str]) -> list[str]:
    """Return the arms that make sense with a task's settings: where every observation is scored anyway, none is "dense".

    Example:
        >>> arms_on(STAGED, ["shaped", "shaped dense"])
        ['shaped']
    """
    return [arm for arm in arms if not arm.endswith(" dense") or config.labels.stride > 1]


def of_arm(config: DemoConfig, arm: str) -> DemoConfig:
    """Return the settings of one arm; arms differ in nothing else, but that the critics of "sparse" look all the way ahead.

    Example:
        >>> of_arm(DemoConfig(), "sparse").shaping.scale
        0.0
    """
    if arm.startswith("sparse"):
        # A potential so small that it pays nothing leaves the look ahead as it is with one.
        config = replace(config, shaping=ShapingConfig(scale=_NOTHING if arm.endswith(" damped") else 0.0))
    if arm.endswith(" plain"):
        config = replace(config, rlpd=replace(config.rlpd, lookahead=1.0))
    if arm == "shuffled":
        config = replace(config, shaping=replace(config.shaping, shuffled=True))
    if arm.startswith("blind"):
        config = replace(config, rlpd=replace(config.rlpd, critic_sees_potential=False))
    if arm.endswith("without demonstrations"):
        config = replace(config, replay_demonstrations=False)
    if arm.endswith(" dense"):
        config = replace(config, labels=replace(config.labels, stride=1))
    return config


def episodes_to(successes: Sequence[bool], share: float = _REACHED, window: int = _WINDOW) -> int | None:
    """Return after how many episodes the running success rate first reaches ``share``, None where it never does.

    Example:
        >>> episodes_to([False] * 10 + [True] * 20, 0.9, 10)
        19
    """
    won = np.asarray(successes, float)
    for end in range(window, len(won) + 1):
        if won[end - window : end].mean() >= share - 1e-9:
            return end
    return None


def curves(results: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, list[list[bool]]]]:
    """Return by task and arm the successes of each seed's online episodes, for the arms that have any."""
    found: dict[str, dict[str, list[list[bool]]]] = {}
    for result in results:
        if not result["episodes"]:
            continue  # Nothing was learnt online.
        arms = found.setdefault(result["config"]["scene"], {})
        arms.setdefault(result["config"]["arm"], []).append(result["episodes"])
    return found


def summary(results: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return by task and arm: mean final success, per seed, episodes to 90 % by seed, and the least that a run says of its reward."""
    by_arm: dict[str, list[Mapping[str, Any]]] = {}
    for result in results:
        by_arm.setdefault(result["arm"], []).append(result)
    return {
        arm: {
            "success": float(np.mean([r["success"] for r in rows])),
            "by_seed": {str(r["seed"]): r["success"] for r in rows},
            "episodes_to_90": {str(r["seed"]): episodes_to(r["episodes"]) for r in rows},
            "says": min((str(r["says"]) for r in rows if "says" in r), key=_SAYS.index, default=""),
            "commits": sorted({r["commit"] for r in rows}),
        }
        for arm, rows in sorted(by_arm.items())
    }


def differences(results: Sequence[Mapping[str, Any]], full: str = "shaped") -> dict[str, dict[str, Any]]:
    """Return the full arm minus each other arm of the same task, over the seeds that both have: in the end and in practice."""
    by_cell = {(r["config"]["scene"], r["config"]["arm"], r["seed"]): r for r in results}
    found: dict[str, dict[str, Any]] = {}
    for scene in sorted({scene for scene, _, _ in by_cell}):
        for arm in sorted({arm for s, arm, _ in by_cell if s == scene}):
            ours = full + next((condition for condition in CONDITIONS if arm.endswith(condition)), "")
            seeds = sorted(
                s for sc, a, s in by_cell if (sc, a) == (scene, ours) and (scene, arm, s) in by_cell
            )
            if arm == ours or len(seeds) < 2:
                continue
            pairs = [(by_cell[scene, ours, seed], by_cell[scene, arm, seed]) for seed in seeds]
            of = difference([(a["success"], b["success"]) for a, b in pairs]) | {"seeds": seeds}
            if all(a["episodes"] and b["episodes"] for a, b in pairs):
                of["in practice"] = difference(
                    [(np.mean(a["episodes"]), np.mean(b["episodes"])) for a, b in pairs]
                )
            found[f"{scene}: {ours} - {arm}"] = of
    return found


def difference(pairs: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """Return the mean of first minus second over pairs, one of each seed, and its 95 % intervals, resampled and by Student's t."""
    a, b = zip(*pairs, strict=True)
    return {
        "mean": float(np.mean(a) - np.mean(b)),
        "interval": list(paired_interval(a, b)),
        "interval by t": list(student_interval(a, b)),
    }


def settings_on(scene: str, changed: Mapping[str, Any]) -> DemoConfig:
    """Return the settings of runs on one task, of all grids; where its objects have no usual places they start anywhere in reach.

    Args:
        scene: The simulated task.
        changed: Fields that differ from those in :data:`SETTINGS`, and from :data:`STAGED` on every other task.
    """
    config = replace(SETTINGS.get(scene, STAGED), scene=scene, **changed)
    return replace(config, spread_m=config.spread_m if TASKS[scene].usual else 0.0)


def prepared_folder(root: Path, commit: str, scene: str, given: Mapping[str, Any], seed: int) -> Path:
    """Return where a seed of a grid is prepared: another folder for other code and other settings.

    Args:
        root: Folder of all of them.
        commit: The code.
        scene: The simulated task.
        given: Everything else that decides what is prepared.
        seed: The seed.
    """
    return root / "prepared" / Cell(arm=scene, seed=seed, config=given).key(commit)
