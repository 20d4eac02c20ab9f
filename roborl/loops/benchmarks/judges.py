"""Which perspective teaches: a small judge learnt on other tasks, adapted to one demonstration, drives practice on a grid.

What it shows of Robo-Dopamine (arXiv 2512.23703) is the shape of its headline, in simulation and with a judge of our own:
fused progress beside one perspective alone, no shaping, and a naive difference of progress.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from roborl import config as configuration
from roborl.envs.bench import load_bench
from roborl.envs.registration import NAMES
from roborl.envs.robot_env import RobotEnv
from roborl.locks import kept
from roborl.loops.benchmarks.seeds import (
    DEMO,
    STARTS,
    gate,
    learn_cell,
    prepared_folder,
    settings_on,
    summarise,
)
from roborl.loops.demo import Folders
from roborl.loops.demo_config import DemoConfig
from roborl.loops.grid import Cell, at_work, code_version, run_grid
from roborl.loops.learner.learn_config import ShapingConfig
from roborl.loops.record import record_scripted
from roborl.loops.reward_training.train_pairs import TrainPairsConfig, train_pairs_on
from roborl.loops.scripts import failure_kinds, script_maker
from roborl.loops.stages import Stages
from roborl.rewards.fusion import FusionConfig, Perspective
from roborl.rewards.pairs.config import PairTraining
from roborl.rewards.pairs.model import load_pair_model

FUSED, UNSHAPED, NAIVE = "fused", "no shaping", "naive difference"
ARMS = (FUSED, *map(str, Perspective), UNSHAPED, NAIVE)
_ADAPT = "adapt the judge"


@dataclass(frozen=True, kw_only=True)
class GridPart:
    """One task of the grid.

    Attributes:
        scene: The simulated task.
        arms: Names out of :data:`ARMS`.
        seeds: How many.
    """

    scene: str
    arms: tuple[str, ...] = (FUSED, UNSHAPED)
    seeds: int = 3


GRID = (
    GridPart(scene="PickPlace", arms=ARMS, seeds=5),
    GridPart(scene="PickCube"),
    GridPart(scene="PushCube"),
)


@dataclass(frozen=True, kw_only=True)
class _Others:
    """A judge that has learnt on every task but one, and what it learnt from."""

    judge: Path
    datasets: list[str]


def run(
    *,
    grid: Sequence[GridPart] = GRID,
    first_seed: int = DEMO.seed,
    episodes: int = 150,
    evaluation: int = 50,
    base_at_most: float = 0.1,
    recorded: int = 30,
    steps: int = 1500,
    adapting_steps: int = 600,
    out: Path = Path("outputs/bench/judges"),
    starts: Path = STARTS,
    stop_after_s: float = float("inf"),
    most_seeds: int = 5,
    settings: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Run the grid, going on where an earlier call stopped.

    For each task a judge learns from scratch on all the other tasks, and is adapted to each seed's first demonstration:
    the one that the policy is cloned from. The judge sees nothing else of the task. The policy is prepared as in the
    demonstration run, once for this grid and that of :mod:`roborl.loops.benchmarks.seeds`: its encoder learns from all that was
    recorded, and its critics from the failures too, with what the judge says of them. One judge that has learnt the other
    tasks serves all seeds of a task, so intervals over seeds leave out how such judges differ.

    Args:
        grid: Tasks, their arms and seeds.
        first_seed: The first to be tried of each task. Settings were chosen on earlier ones.
        episodes: Online episodes of a run.
        evaluation: Scenes of each evaluation.
        base_at_most: The gate on the clone.
        recorded: Demonstrations of each other task that the judge learns from; a fifth as many failures of each kind.
        steps: Of learning on them.
        adapting_steps: Of adapting.
        out: Folder of the other tasks' recordings, judges, runs and cells.
        starts: Folder of recorded and cloned seeds.
        stop_after_s: Begin nothing new after so many seconds of runs.
        most_seeds: Of any task.
        settings: Fields of :class:`roborl.loops.demo_config.DemoConfig` that differ from those of
            :func:`roborl.loops.benchmarks.seeds.settings_on`.

    Returns:
        ``cells``, ``table`` by task and arm, ``differences`` of fused minus every other arm paired over seeds with 95 %
        intervals, ``judges`` by task and seed as they measured on what the seed recorded, but for the demonstration that they
        were adapted to, ``rejected`` seeds, and the path of ``plot``.
    """
    changed: dict[str, Any] = {"episodes": episodes, "evaluation": evaluation} | dict(settings or {})
    commit = code_version()
    cells: list[Cell] = []
    rejected: list[dict[str, Any]] = []
    judges: dict[str, Any] = {}
    started = {"evaluation": evaluation} | dict(settings or {})
    given = {"recorded": recorded, "steps": steps, "adapting_steps": adapting_steps} | started

    def adapted(scene: str, seed: int) -> Path:
        return prepared_folder(out, commit, scene, given, seed)

    for part in grid:
        others = _learn_others(out, commit, part.scene, recorded=recorded, steps=steps)
        taken, turned_away = gate(
            settings_on(part.scene, changed),
            partial(prepared_folder, starts, commit, part.scene, started),
            seeds=min(part.seeds, most_seeds),
            first_seed=first_seed,
            base_at_most=base_at_most,
            ready=partial(_adapt, into=partial(adapted, part.scene), others=others, steps=adapting_steps),
        )
        rejected += turned_away
        for seed in taken:
            judges[f"{part.scene} {seed}"] = Stages(adapted(part.scene, seed)).done[_ADAPT]
            cells += [
                Cell(
                    arm=f"{part.scene} {arm}",
                    seed=seed,
                    config={"scene": part.scene, "arm": arm, "episodes": episodes} | given,
                )
                for arm in part.arms
            ]

    def run_cell(cell: Cell) -> dict[str, Any]:
        scene = str(cell.config["scene"])
        config = replace(settings_on(scene, changed), seed=cell.seed, out=out / "runs" / cell.key(commit))
        return learn_cell(
            of_arm(config, str(cell.config["arm"]), adapted(scene, cell.seed)),
            prepared_folder(starts, commit, scene, started, cell.seed),
        )

    results = run_grid(cells, run_cell, out / "cells", commit=commit, stop_after_s=stop_after_s)
    return summarise(results, full=FUSED, plot=out / "judges.png") | {
        "commit": commit,
        "of": len(cells),
        "judges": judges,
        "rejected": rejected,
    }


def of_arm(config: DemoConfig, arm: str, adapted: Path) -> DemoConfig:
    """Return the settings of one arm, with its judge out of the folder where it was adapted.

    Example:
        >>> of_arm(DemoConfig(), "forward", Path("adapted")).judge
        'dopamine:adapted/judge/forward.yaml'
        >>> of_arm(DemoConfig(), "naive difference", Path("adapted")).shaping.form
        'difference'
    """
    name = FUSED if arm in (UNSHAPED, NAIVE) else arm
    config = replace(config, judge=f"dopamine:{_judge(adapted) / name}.yaml")
    if arm == UNSHAPED:
        config = replace(config, shaping=ShapingConfig(scale=0.0))
    if arm == NAIVE:
        config = replace(config, shaping=replace(config.shaping, form="difference"))
    return config


def _adapt(start: DemoConfig, *, into: Callable[[int], Path], others: _Others, steps: int) -> None:
    """Adapt the judge to the demonstration that the policy was cloned from."""
    folder = into(start.seed)
    dataset = Folders(root=start.out).dataset
    Stages(folder).run(_ADAPT, lambda: _adapt_to(dataset, _judge(folder), others, steps, start.seed))


def _adapt_to(dataset: Path, judge: Path, others: _Others, steps: int, seed: int) -> dict[str, Any]:
    result = train_pairs_on(
        TrainPairsConfig(
            out=judge,
            start=str(others.judge),
            dataset=others.datasets,
            demonstration=str(dataset),
            measured=str(dataset),
            training=PairTraining(steps=steps, seed=seed),
        )
    )
    asked = load_pair_model(judge).config
    asked_from: dict[str, tuple[Perspective, ...]] = {str(alone): (alone,) for alone in Perspective}
    for name, perspectives in (asked_from | {FUSED: tuple(Perspective)}).items():
        setting = replace(
            asked, checkpoint=str(judge.resolve()), fusion=FusionConfig(perspectives=perspectives)
        )
        (judge / f"{name}.yaml").write_text(configuration.dump(setting))
    return result.as_dict()


def _learn_others(out: Path, commit: str, scene: str, *, recorded: int, steps: int) -> _Others:
    given = {"recorded": recorded, "steps": steps}
    root = out / Cell(arm="others", seed=0, config=given).key(commit)
    with kept(at_work(root), wait=True):
        return _learn_others_in(root, scene, recorded=recorded, steps=steps)


def _learn_others_in(root: Path, scene: str, *, recorded: int, steps: int) -> _Others:
    stages = Stages(root)
    datasets = {name: root / name for name in NAMES if name != scene}
    for name, dataset in datasets.items():
        stages.run(f"record {name}", partial(_record, name, dataset, recorded))
    judge = root / f"judge-without-{scene}"

    others = _Others(judge=judge, datasets=[str(dataset) for dataset in datasets.values()])

    def learn() -> dict[str, Any]:
        training = PairTraining(steps=steps)
        return train_pairs_on(
            TrainPairsConfig(out=judge, dataset=others.datasets, training=training)
        ).as_dict()

    stages.run(f"learn to judge without {scene}", learn)
    return others


def _record(scene: str, dataset: Path, demonstrations: int) -> dict[str, Any]:
    env = RobotEnv(load_bench("so101_sim", [f"--robot.scene={scene}"]))
    try:
        written = record_scripted(
            env,
            dataset,
            script_maker(noise=0.2, detours=0.3),
            demonstrations=demonstrations,
            failures=max(1, demonstrations // 5),
            failure_kinds=failure_kinds(env),
            seed=0,
        )
    finally:
        env.close()
    return {"episodes": written.written}


def _judge(adapted: Path) -> Path:
    return adapted / "judge"
