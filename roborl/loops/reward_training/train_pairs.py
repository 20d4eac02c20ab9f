"""Datasets to the small judge of hops: learnt from scratch on some tasks, adapted to another with one demonstration."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from roborl.errors import ConfigError, DatasetError
from roborl.loops.reward_training.required import check_required
from roborl.loops.reward_training.train_reward import frame_latency_ms
from roborl.loops.reward_training.training_episodes import read_training
from roborl.rewards.dopamine import DopamineConfig, DopamineModel
from roborl.rewards.fusion import FusionConfig, Perspective
from roborl.rewards.instructions import much_alike
from roborl.rewards.observation_rate import check_rate
from roborl.rewards.pairs.batches import prepare_task
from roborl.rewards.pairs.checkpoint import load_pairs
from roborl.rewards.pairs.config import PairNetworkConfig, PairTraining
from roborl.rewards.pairs.judge import PairJudge, check_wrists
from roborl.rewards.pairs.model import load_pair_model, save_pair_model
from roborl.rewards.pairs.network import PairNetwork
from roborl.rewards.pairs.training import train_pairs
from roborl.rewards.training.episodes import TrainingEpisode, check_measurable
from roborl.rewards.training.evaluation import (
    HeldOutReport,
    format_reports,
    held_out_report,
    time_only,
    watcher,
)
from roborl.rewards.training.labels import StagePlan, plan_stages
from roborl.rewards.training.learnt_from import LearntFrom, learnt, read_learnt, write_learnt
from roborl.rewards.training.run import Log

logger = logging.getLogger(__name__)

FUSED = "as set"


@dataclass(frozen=True, kw_only=True)
class TrainPairsConfig:
    """Which data, which judge, where to."""

    out: Path  # folder for the judge and its report
    # LeRobotDatasets or folders of videos, of any tasks: successes with marked sub-tasks, failures.
    dataset: list[str] = field(default_factory=list)
    # Dataset of a further task, to whose first success the judge is adapted; empty: none.
    demonstration: str = ""
    start: str = ""  # folder of a judge to go on from; empty: from scratch
    # Dataset of the demonstration's task to measure on, its episodes that the judge learnt from left out; empty: none.
    measured: str = ""
    # The model's camera name to that of these datasets, where they differ.
    camera_map: dict[str, str] = field(default_factory=dict)
    # Bars like "forward>=0.95" on the figures of --measured as it is set; one that is missed sets the exit code.
    require: list[str] = field(default_factory=list)
    # How it is asked: cameras, perspectives and rules, as in the file of its settings. It states a hop by the
    # probabilities of all, so that short ones are not rounded away.
    model: DopamineConfig = field(default_factory=lambda: DopamineConfig(left_wrist="wrist", hop_s=0.1))
    network: PairNetworkConfig = field(default_factory=PairNetworkConfig)  # of a judge from scratch
    training: PairTraining = field(default_factory=PairTraining)

    def __post_init__(self) -> None:
        check_required(self.require)
        if self.require and not self.measured:
            raise ConfigError(
                "Nothing is measured that bars could be held against",
                seen=f"require {self.require}, no measured",
                remedy="Set --measured, or leave out --require",
            )
        if self.measured and not self.demonstration:
            raise ConfigError(
                "The judge cannot be measured without a picture of the goal",
                seen=f"measured {self.measured}, no demonstration",
                remedy="Set --demonstration; with --training.steps 0 nothing is learnt from it",
            )
        if not self.dataset and not self.demonstration:
            raise ConfigError("The judge has nothing to learn from", remedy="Set --dataset '[PATH, …]'")
        if not self.training.steps and not self.start:
            raise ConfigError(
                "A judge that learns nothing has to be one that was trained before",
                seen="training.steps 0, no start",
                remedy="Set --start",
            )


@dataclass(frozen=True, eq=False, kw_only=True)
class TrainPairsResult:
    """A judge and what it is worth.

    Attributes:
        model: The reward model that asks it, also in its folder.
        episodes: How many it learnt from, by task.
        measured: Its figures by perspective, the fusion as it is set first, and those of a model of time alone; empty
            where nothing is measured.
        left_out: How many episodes of the dataset to measure on the judge learnt from, here or before, and how many are of
            other tasks than the demonstration; empty where nothing is measured.
        frame_ms: Milliseconds per observation as it is set, one at a time, on one thread; NaN where nothing is measured.
        first_loss: Mean loss of the first tenth of the steps; NaN without any.
        last_loss: The same of the last tenth.
        seconds: Time of the training.
    """

    model: DopamineModel
    episodes: Mapping[str, int]
    measured: Mapping[str, HeldOutReport]
    left_out: Mapping[str, int]
    frame_ms: float
    first_loss: float
    last_loss: float
    seconds: float

    @property
    def table(self) -> str:
        """The report for people; empty where nothing is measured."""
        return format_reports(dict(self.measured)) if self.measured else ""

    def as_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "version": self.model.info.version,
            "episodes": dict(self.episodes),
            "measured": {name: report.as_dict() for name, report in self.measured.items()},
            "left_out": dict(self.left_out),
            "frame_ms": self.frame_ms,
            "first_loss": self.first_loss,
            "last_loss": self.last_loss,
            "seconds": self.seconds,
        }


def train_pairs_on(config: TrainPairsConfig, *, log: Log | None = None) -> TrainPairsResult:
    """Train a judge of pairs on datasets, save it, and measure it.

    Raises:
        DatasetError: If a dataset cannot be read, a task has no success, or the judge learnt from all it would be measured on.
        ModelLoadError: If ``start`` cannot be read.
        ConfigError: If the settings do not go together, or it would be measured at another rate than it counts on.
        TrainingError: If the training comes to nothing.
    """
    cameras = config.model.cameras
    torch.manual_seed(config.training.seed)
    network = (
        load_pairs(config.start) if config.start else PairNetwork(config.network, wrists=len(cameras) - 1)
    )
    if network.wrists != len(cameras) - 1:
        raise ConfigError(
            "The judge to go on from has other cameras",
            seen=f"{network.wrists} wrists",
            allowed=f"{len(cameras) - 1}, as in model: {list(cameras)}",
        )
    check_wrists(PairJudge(network), left=config.model.left_wrist, right=config.model.right_wrist)
    px = network.config.image_px
    tasks, demonstration = _read(config, px)
    # Without a step the judge is what it was before; the end of the demonstration is shown to it all the same.
    taught = [episode for episodes in tasks.values() for episode in episodes if config.training.steps]
    taught += [demonstration] if demonstration is not None and not taught else []
    known = learnt((episode.origin for episode in taught), _learnt_before(config))
    others, left_out = _others(config, px, known) if config.measured else ([], {})
    trained = train_pairs(
        network,
        {name: prepare_task(episodes, cameras, px) for name, episodes in tasks.items()},
        config.training,
        demonstration="" if demonstration is None else demonstration.task,
        workspace=config.out / "work",
        log=log,
    )
    goal = None if demonstration is None else demonstration.images[config.model.front][-1]
    write_learnt(config.out, known)
    save_pair_model(network, config.out, asked=config.model, tasks=sorted(tasks), goal=goal)
    model = load_pair_model(config.out)
    measured, frame_ms = {}, math.nan
    if others and demonstration is not None:
        measured = _measure(model, demonstration, others)
        frame_ms = frame_latency_ms(model, demonstration)
    return TrainPairsResult(
        model=model,
        episodes={name: len(episodes) for name, episodes in tasks.items()},
        measured=measured,
        left_out=left_out,
        frame_ms=frame_ms,
        first_loss=trained.first_loss,
        last_loss=trained.last_loss,
        seconds=trained.seconds,
    )


def _read(
    config: TrainPairsConfig, px: int
) -> tuple[dict[str, list[TrainingEpisode]], TrainingEpisode | None]:
    """Read the episodes by task, that of the demonstration among them; and the demonstration, as it was recorded."""
    tasks: dict[str, list[TrainingEpisode]] = {}
    for dataset in config.dataset:
        for episode in _episodes(dataset, config, px)[0].values():
            tasks.setdefault(episode.task, []).append(episode)
    if not config.demonstration:
        return tasks, None
    shown, rate_hz = _episodes(config.demonstration, config, px)
    if config.measured:
        check_rate(config.model.observation_hz, rate_hz, "demonstration")
    first = next((number for number, episode in shown.items() if episode.success), None)
    if first is None:
        raise DatasetError(
            "A demonstration needs to be a success",
            seen=f"{len(shown)} episodes of {config.demonstration}, none successful",
        )
    # Once more, alone and at its recorded size: its end is kept as a picture of the goal.
    demonstration = _episodes(config.demonstration, config, None, [first])[0][first]
    if demonstration.task in tasks:
        raise ConfigError(
            "The task of the demonstration is learnt from other episodes as well",
            seen=f"{demonstration.task!r}, {len(tasks[demonstration.task])} episodes in --dataset",
            remedy="Leave them out to adapt to one demonstration, or leave out --demonstration to learn from all",
        )
    tasks[demonstration.task] = [demonstration]
    return tasks, demonstration


def _episodes(
    dataset: str, config: TrainPairsConfig, px: int | None, numbers: Sequence[int] = ()
) -> tuple[dict[int, TrainingEpisode], float]:
    return read_training(
        dataset, episodes=numbers, cameras=config.model.cameras, camera_map=config.camera_map, side_px=px
    )


def _learnt_before(config: TrainPairsConfig) -> LearntFrom | None:
    """Return what the judge to go on from learnt from."""
    known = read_learnt(config.start) if config.start else None
    if config.start and config.measured and known is None:
        logger.warning(
            "%s does not say which episodes it learnt from, as models of earlier releases do not: whether it is measured on"
            " some of them is not known",
            config.start,
        )
    return known


def _others(
    config: TrainPairsConfig, px: int, known: LearntFrom
) -> tuple[list[TrainingEpisode], dict[str, int]]:
    """Read the episodes of the demonstration's task that the judge does not learn from; count the others."""
    demonstration = next(e for e in _episodes(config.demonstration, config, px)[0].values() if e.success)
    shown, rate_hz = _episodes(config.measured, config, px)
    check_rate(config.model.observation_hz, rate_hz, "dataset")
    of_task = [e for e in shown.values() if much_alike(e.task, demonstration.task)]
    others = [e for e in of_task if not known.holds(e.origin) and not _same(e, demonstration)]
    left_out = {"other_tasks": len(shown) - len(of_task), "learnt_from": len(of_task) - len(others)}
    if not of_task:
        raise DatasetError(
            "There is no episode of the demonstration's task to measure on",
            seen=sorted({e.task for e in shown.values()}),
            allowed=f"{demonstration.task!r}",
            remedy="Name a dataset of that task: --measured",
        )
    if not others:
        raise DatasetError(
            "The judge would be measured on what it learnt from",
            seen=f"all {len(of_task)} episodes of that task in {config.measured}",
            allowed="others than the demonstration, those of --dataset, and what --start learnt from",
            remedy="Name a dataset of other episodes: --measured",
        )
    check_measurable(others, _plan(demonstration))
    if any(left_out.values()):
        logger.warning(
            "%s: left out are %d episodes of other tasks than the demonstration's, and %d that the judge learnt from",
            config.measured,
            *left_out.values(),
        )
    return others, left_out


def _plan(demonstration: TrainingEpisode) -> StagePlan:
    """Return the demonstration's stages, each the same share of the progress."""
    plan = plan_stages([demonstration.subtasks])
    return replace(plan, shares=(1.0 / len(plan.names),) * len(plan.names))


def _measure(
    model: DopamineModel, demonstration: TrainingEpisode, episodes: Sequence[TrainingEpisode]
) -> dict[str, HeldOutReport]:
    """Measure the judge as it is set and by each perspective alone, beside what the demonstration's timing is worth."""
    plan = _plan(demonstration)
    asked = {FUSED: model.config.fusion}
    asked |= {str(alone): FusionConfig(perspectives=(alone,)) for alone in Perspective}
    reports = {
        name: held_out_report(watcher(_asking(model, fusion)), episodes, plan)
        for name, fusion in asked.items()
    }
    return reports | {"time only": held_out_report(time_only([demonstration], plan), episodes, plan)}


def _same(one: TrainingEpisode, other: TrainingEpisode) -> bool:
    """Return whether two episodes show the same pictures, wherever they are kept."""
    return all(np.array_equal(one.images[name], other.images[name]) for name in one.images)


def _asking(model: DopamineModel, fusion: FusionConfig) -> DopamineModel:
    return DopamineModel(
        judge=model.judge,
        config=replace(model.config, fusion=fusion),
        prompt=model.prompt,
        references=model.references,
    )
