"""What RA-BC weights are worth: cloning successes and failures mixed, with and without them, beside the true successes alone.

Demonstrations and failures are recorded as one dataset whose verdicts, rewards, marks and true progress are taken away. A
stage-aware reward model learns from another, smaller recording, of which it is told what succeeded, as a person would tell
it; it labels the mixed one from the cameras' pictures. What the simulator knows enters neither labels nor weights: only the
arm that clones the true successes, which no real bench has, is told of them.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from roborl.data.dataset_episode import DatasetEpisode
from roborl.data.lerobot_io import read_episodes
from roborl.data.lerobot_writer import write_dataset
from roborl.data.rabc import Rule
from roborl.data.weights import read_weights
from roborl.envs.bench import Bench, load_bench
from roborl.envs.robot_env import RobotEnv
from roborl.learning.clone import CloneConfig
from roborl.locks import kept
from roborl.loops.benchmarks.seeds import difference
from roborl.loops.evaluate import evaluate
from roborl.loops.first_policy import first_policy
from roborl.loops.grid import Cell, at_work, code_version, run_grid
from roborl.loops.rabc.filter_config import FilterConfig
from roborl.loops.rabc.filter_dataset import filter_dataset
from roborl.loops.rabc.label_config import LabelDatasetConfig
from roborl.loops.rabc.label_dataset import label_dataset
from roborl.loops.record import record_scripted
from roborl.loops.reward_training.train_reward import TrainRewardConfig, train_reward
from roborl.loops.scripts import failure_kinds, script_maker
from roborl.loops.seeds import scene_seed
from roborl.loops.stages import Stages
from roborl.rewards.metrics import wilson_interval
from roborl.rewards.sarm.config import SarmTraining
from roborl.types import EndCause

EVERYTHING, WEIGHTED, DROPPED, LEROBOT, SUCCESSES = (
    "everything",
    "weighted",
    "weighted, without what ends below a half",
    "weighted by LeRobot's formula",
    "true successes alone",
)
ARMS = (EVERYTHING, WEIGHTED, DROPPED, LEROBOT, SUCCESSES)

_RULES: Mapping[str, tuple[Rule, list[str]]] = {
    WEIGHTED: ("roborl", []),
    DROPPED: ("roborl", ["progress<0.5"]),
    LEROBOT: ("lerobot", []),
}
# The reward model's recording is of scenes that no seed's dataset has.
_JUDGE_SEEDS = 20_000


@dataclass(frozen=True, kw_only=True)
class RabcBenchConfig:
    """One seed of it."""

    # simulated task
    scene: str = "Reach"
    # scripted demonstrations in the mixed dataset
    demonstrations: int = 10
    # scripted failures in it, spread over the kinds that the task knows
    failures: int = 30
    # scripted demonstrations that the reward model learns from; about as many failures go with them
    judged: int = 9
    # optimiser steps of its training
    reward_steps: int = 600
    # rows over which a gain is measured
    chunk: int = 5
    # evaluation scenes
    evaluation: int = 50
    # updates of the clone's encoder
    encoder_updates: int = 1500
    # updates of its actor
    actor_updates: int = 1000


def run(
    *,
    arms: Sequence[str] = ARMS,
    seeds: int = 3,
    first_seed: int = 2009,
    out: Path = Path("outputs/bench/rabc"),
    stop_after_s: float = math.inf,
    settings: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Run the grid, going on where an earlier call stopped.

    Args:
        arms: Names out of :data:`ARMS`.
        seeds: How many.
        first_seed: The first.
        out: Folder of datasets, reward models and cells.
        stop_after_s: Begin nothing new after so many seconds.
        settings: Fields of :class:`RabcBenchConfig` that are to be otherwise.

    Returns:
        ``table`` by arm: successes, of how many, share, 95 % Wilson interval over all seeds' scenes as if one clone had met
        them all, and by seed;
        ``differences`` of the weighted arms minus everything, paired over seeds; ``weights`` by seed and arm.
    """
    config = RabcBenchConfig(**(settings or {}))
    plain = asdict(config)
    commit = code_version()
    cells = [
        Cell(arm=arm, seed=first_seed + number, config={"arm": arm, **plain})
        for number in range(seeds)
        for arm in arms
    ]

    def run_cell(cell: Cell) -> dict[str, Any]:
        prepared = out / "prepared" / Cell(arm=config.scene, seed=cell.seed, config=plain).key(commit)
        return clone_and_measure(config, cell.arm, cell.seed, prepared)

    results = run_grid(cells, run_cell, out / "cells", commit=commit, stop_after_s=stop_after_s)
    return summary(results) | {"commit": commit, "cells": len(results), "of": len(cells)}


def summary(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what the cells say, by arm."""
    by_arm: dict[str, list[Mapping[str, Any]]] = {}
    for result in results:
        by_arm.setdefault(result["arm"], []).append(result)
    table: dict[str, dict[str, Any]] = {}
    for arm, rows in by_arm.items():
        won, of = (sum(int(row[name]) for row in rows) for name in ("successes", "scenes"))
        low, high = wilson_interval(won, of)
        table[arm] = {
            "successes": won,
            "of": of,
            "success": won / of,
            "low": low,
            "high": high,
            "by_seed": {str(row["seed"]): row["successes"] / row["scenes"] for row in rows},
        }
    base: Mapping[str, float] = table[EVERYTHING]["by_seed"] if EVERYTHING in table else {}
    differences = {}
    for arm, entry in table.items():
        both = [seed for seed in entry["by_seed"] if seed in base]
        if arm != EVERYTHING and len(both) > 1:
            pairs = [(entry["by_seed"][s], base[s]) for s in both]
            differences[f"{arm} - {EVERYTHING}"] = difference(pairs) | {"seeds": both}
    return {"table": table, "differences": differences}


def clone_and_measure(config: RabcBenchConfig, arm: str, seed: int, prepared: Path) -> dict[str, Any]:
    """Clone the mixed dataset in one way, and evaluate; records, trains the reward model and labels where that is not done yet.

    Returns:
        ``successes`` of ``scenes``, and what the weights were.
    """
    torch.set_num_threads(1)
    bench = load_bench("so101_sim", [f"--robot.scene={config.scene}"])
    stages = Stages(prepared)
    told: dict[str, Any] = {}
    weights: dict[int, NDArray[np.float32]] | None = None
    # Arms of a seed share what is prepared, and those that differ in the rule alone a file of weights.
    with kept(at_work(prepared), wait=True):
        stages.run("record", lambda: _record(config, bench, seed, prepared))
        if arm in _RULES:
            stages.run("train the reward model", lambda: _train(config, seed, prepared))
            told["label"] = stages.run("label", lambda: _label(prepared))
            weights, told["filter"] = _weigh(config, arm, prepared)
    chosen = None
    if arm == SUCCESSES:
        chosen = [e.index for e in read_episodes(prepared / "true", with_images=False) if e.success]
    policy = first_policy(
        CloneConfig(encoder_updates=config.encoder_updates, actor_updates=config.actor_updates),
        read_episodes(prepared / "mixed", episodes=chosen),
        bench,
        seed=seed,
        weights=weights,
    )
    result = evaluate(
        lambda env: policy,
        lambda: RobotEnv(bench),
        [scene_seed("evaluation", seed, index) for index in range(config.evaluation)],
    )
    return {"successes": result.successes, "scenes": config.evaluation, **told}


def unjudged(episode: DatasetEpisode) -> DatasetEpisode:
    """Return an episode of which nothing says how it came out: without verdict, reward, marks, kind or true progress."""
    known = episode.provenance
    return replace(
        episode,
        success=None,
        end=EndCause.TIME_LIMIT,
        reward=np.zeros_like(episode.reward),
        subtasks=(),
        failure="",
        key="",
        benchmark_progress=None,
        provenance=None if known is None else replace(known, verdict_index=-1, kind="", meta={}),
    )


def _record(config: RabcBenchConfig, bench: Bench, seed: int, prepared: Path) -> dict[str, Any]:
    counts = {}
    for name, demonstrations, failures, scenes in (
        ("true", config.demonstrations, config.failures, seed),
        ("lessons", config.judged, config.judged, _JUDGE_SEEDS + seed),
    ):
        env = RobotEnv(bench)
        try:
            kinds = failure_kinds(env)
            recorded = record_scripted(
                env,
                prepared / name,
                script_maker(noise=0.15, detours=0.3),
                demonstrations=demonstrations,
                failures=math.ceil(failures / len(kinds)),
                failure_kinds=kinds,
                seed=scenes,
            )
        finally:
            env.close()
        counts[name] = recorded.written | recorded.present
    # A person says of the lessons how each came out; where stages begin and end stays unsaid.
    told = (replace(e, subtasks=()) for e in read_episodes(prepared / "lessons"))
    mixed = (unjudged(e) for e in read_episodes(prepared / "true"))
    for name, episodes in (("judged", told), ("mixed", mixed)):
        shutil.rmtree(prepared / name, ignore_errors=True)
        write_dataset(prepared / name, episodes, fps=round(bench.policy_hz))
    return counts


def _train(config: RabcBenchConfig, seed: int, prepared: Path) -> dict[str, Any]:
    trained = train_reward(
        TrainRewardConfig(
            dataset=str(prepared / "judged"),
            out=prepared / "reward",
            # By steps and not by time, so that a busy machine comes to the same.
            training=SarmTraining(steps=config.reward_steps, budget_s=1e6, seed=seed),
        )
    )
    return trained.as_dict()


def _label(prepared: Path) -> dict[str, Any]:
    return label_dataset(
        LabelDatasetConfig(dataset=str(prepared / "mixed"), reward=str(prepared / "reward"))
    ).figures()


def _weigh(
    config: RabcBenchConfig, arm: str, prepared: Path
) -> tuple[dict[int, NDArray[np.float32]], dict[str, Any]]:
    rule, drop = _RULES[arm]
    filtered = filter_dataset(
        FilterConfig(dataset=str(prepared / "mixed"), chunk=config.chunk, rule=rule, drop=drop)
    )
    true = {e.index: e.success for e in read_episodes(prepared / "true", with_images=False)}
    means = {
        name: float(np.mean([e.figures["weight"] for e in filtered.episodes if true[e.index] is success]))
        for name, success in (("mean weight of successes", True), ("mean weight of failures", False))
    }
    said = {name: value for name, value in filtered.figures().items() if name != "command"}
    return read_weights(prepared / "mixed", filtered.weights), said | means
