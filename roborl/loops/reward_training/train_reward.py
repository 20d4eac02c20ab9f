"""Dataset to reward model: read, hold some episodes out, train, measure, save."""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from roborl.errors import ConfigError, DatasetError
from roborl.loops.reward_training.practice import (
    Practice,
    PracticeConfig,
    PracticeReport,
    measure_practice,
    read_practice,
)
from roborl.loops.reward_training.required import check_required
from roborl.loops.reward_training.training_episodes import check_named_once, read_training, split
from roborl.rewards.model import RewardModel
from roborl.rewards.sarm.checkpoint import save_sarm
from roborl.rewards.sarm.config import SarmConfig, SarmTraining
from roborl.rewards.sarm.model import RememberingJudge, SarmModel
from roborl.rewards.sarm.training import train_sarm
from roborl.rewards.training.episodes import TrainingEpisode, as_video, check_measurable
from roborl.rewards.training.evaluation import (
    HeldOutReport,
    format_reports,
    held_out_report,
    leak,
    time_only,
    watcher,
)
from roborl.rewards.training.labels import plan_stages
from roborl.rewards.training.learnt_from import learnt, write_learnt
from roborl.rewards.training.run import Log

logger = logging.getLogger(__name__)

_LATENCY_FRAMES = 40


@dataclass(frozen=True, kw_only=True)
class TrainRewardConfig:
    """Which data, which model, where to.

    This is ``--model sarm``, where none is named. Each other kind has its own settings: ``--model perceptual --help``, from a few
    demonstrations; ``pairs``, from other tasks; ``dopamine``, ``roboreward`` or ``vlac``, which adapt a published judge.
    """

    # A LeRobotDataset v3 or v2 (folder or hub id), or a folder of videos with annotated_keyframes.json.
    dataset: str
    out: Path  # folder for the model, its resume points and its report
    episodes: list[int] = field(default_factory=list)  # which to learn from; empty: all others
    # Which to measure on; empty: a share, training.held_out.
    held_out: list[int] = field(default_factory=list)
    # Which failed, whatever the dataset says; a dataset that says nothing holds successes alone.
    failed: list[int] = field(default_factory=list)
    # Observations per second that are kept; 0: every recorded one. Its windows count them, so it is to be used at that rate.
    rate_hz: float = 0.0
    # Views to look at, by the model's names, which are to be the bench's; empty: all that the dataset has.
    cameras: list[str] = field(default_factory=list)
    # The model's camera name to the dataset's, where they differ.
    camera_map: dict[str, str] = field(default_factory=dict)
    # What a policy practised, to learn from as well: where its successes end, which recordings know little of.
    practice: PracticeConfig = field(default_factory=PracticeConfig)
    # Bars like "forward>=0.95" on the figures of the held-out episodes; one that is missed sets the exit code.
    require: list[str] = field(default_factory=list)
    model: SarmConfig = field(default_factory=SarmConfig)
    training: SarmTraining = field(default_factory=SarmTraining)

    def __post_init__(self) -> None:
        check_required(self.require)
        check_named_once("--episodes", self.episodes)
        check_named_once("--held_out", self.held_out)
        if not 0.0 <= self.rate_hz < math.inf:
            raise ConfigError(
                "Observations cannot be kept at this rate",
                seen=f"rate_hz {self.rate_hz}",
                allowed="> 0, or 0 for every recorded one",
            )
        if both := sorted(set(self.episodes) & set(self.held_out)):
            raise ConfigError(
                "Episodes are to be learnt from and held out",
                seen=both,
                allowed="each number in --episodes or in --held_out",
            )


@dataclass(frozen=True, eq=False, kw_only=True)
class TrainRewardResult:
    """A trained model and what it is worth.

    Attributes:
        model: The model, also in its folder.
        ours: Its figures on the held-out episodes.
        by_time: The same of a model that only knows the time.
        leak: Largest change of a score by frames later than it.
        frame_ms: Milliseconds per observation, all cameras, one at a time, on one thread.
        seconds: Time spent in optimisation.
        steps: Optimiser steps taken.
        planned_steps: Optimiser steps that were wanted; the budget ends a run before them.
        practice: What it makes of practice, None where it learnt from none.
    """

    model: SarmModel
    ours: HeldOutReport
    by_time: HeldOutReport
    leak: float
    frame_ms: float
    seconds: float
    steps: int
    planned_steps: int
    practice: PracticeReport | None = None

    @property
    def table(self) -> str:
        """The report for people."""
        return format_reports(self.reports)

    @property
    def reports(self) -> dict[str, HeldOutReport]:
        """Both reports, by what people call them."""
        return {"this model": self.ours, "time only": self.by_time}

    def as_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "version": self.model.info.version,
            "stages": dict(zip(self.model.plan.names, self.model.plan.shares, strict=True)),
            "held_out": self.ours.as_dict(),
            "time_only": self.by_time.as_dict(),
            "leak": self.leak,
            "frame_ms": self.frame_ms,
            "seconds": self.seconds,
            "steps": self.steps,
            "planned_steps": self.planned_steps,
        } | ({} if self.practice is None else {"practice": self.practice.as_dict()})


def train_reward(config: TrainRewardConfig, *, log: Log | None = None) -> TrainRewardResult:
    """Train a reward model on a dataset, measure it on held-out episodes, and save it.

    Args:
        config: What to do.
        log: Receives the progress of the training.

    Raises:
        DatasetError: If the dataset cannot be read, holds no successful episode, or marks one that is held out otherwise;
            if practice cannot be read, or is of another task.
        ModelLoadError: If ``config.out`` holds a resume point of another run.
        TrainingError: If the training comes to nothing.
    """
    train, held_out, rate_hz = _parted(config)
    practice = Practice()
    if config.practice.runs:
        practice = read_practice(
            config.practice,
            cameras=sorted(train[0].images),
            tasks=[episode.task for episode in train],
            rate_hz=rate_hz,
            side_px=config.model.image_px,
            held_out=config.training.held_out,
            unseen_state=None if config.model.use_state else train[0].state.shape[1],
        )
    successes = [episode for episode in train if episode.success]
    if successes:
        check_measurable(held_out, plan_stages([episode.subtasks for episode in successes]))
    taught = [*train, *practice.lessons]
    trained = train_sarm(
        taught,
        config.model,
        config.training,
        rate_hz=rate_hz,
        workspace=config.out / "work",
        cache=config.out / "vectors",
        log=log,
    )
    write_learnt(config.out, learnt(episode.origin for episode in taught))
    save_sarm(trained.model, config.out)
    if trained.steps < config.training.steps // 2:
        logger.warning(
            "The budget of %.0f s ended the training after %d of %d steps: expect a poor model",
            config.training.budget_s,
            trained.steps,
            config.training.steps,
        )
    watch = watcher(trained.model, RememberingJudge(trained.model.network))
    probe = held_out[0] if held_out else train[0]
    return TrainRewardResult(
        model=trained.model,
        ours=held_out_report(watch, held_out, trained.model.plan),
        by_time=held_out_report(time_only(successes, trained.model.plan), held_out, trained.model.plan),
        leak=leak(watch, probe, probe.frames // 2),
        frame_ms=frame_latency_ms(trained.model, probe),
        seconds=trained.seconds,
        steps=trained.steps,
        planned_steps=config.training.steps,
        practice=measure_practice(watch, practice) if practice.lessons else None,
    )


def _parted(config: TrainRewardConfig) -> tuple[list[TrainingEpisode], list[TrainingEpisode], float]:
    """Read the episodes; return those to learn from, those to measure on, and their observations per second."""
    read, rate_hz = read_training(
        config.dataset,
        episodes=[*config.episodes, *config.held_out] if config.episodes else [],
        cameras=config.cameras,
        camera_map=config.camera_map,
        failed=config.failed,
        rate_hz=config.rate_hz,
        side_px=config.model.image_px,
    )
    if not config.held_out:
        train, held_out = split(list(read.values()), config.training.held_out, config.training.seed)
        return train, held_out, rate_hz
    if absent := sorted(set(config.held_out) - set(read)):
        raise DatasetError("The dataset lacks episodes to hold out", seen=absent, allowed=sorted(read))
    held_out = [read.pop(number) for number in config.held_out]
    return list(read.values()), held_out, rate_hz


def frame_latency_ms(model: RewardModel[Any, Any], episode: TrainingEpisode) -> float:
    """Return the median time from an observation to its score: a lone session, on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    fold = model.start(episode.task, {})
    times = []
    order = [i % episode.frames for i in range(_LATENCY_FRAMES)]
    for index, observation in enumerate(as_video(episode, order)):
        began = time.perf_counter()
        fold.fold(index, model.judge.answer(fold.queries(observation)))
        times.append(time.perf_counter() - began)
    torch.set_num_threads(threads)
    return float(np.median(times)) * 1e3
