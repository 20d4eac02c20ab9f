"""Dataset to perceptual reward model: a few demonstrations learn, the others and the failures measure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from roborl.errors import ConfigError
from roborl.loops.reward_training.required import check_required
from roborl.loops.reward_training.train_reward import frame_latency_ms
from roborl.loops.reward_training.training_episodes import (
    check_named_once,
    check_one_task,
    read_training,
    split,
)
from roborl.rewards.perceptual.checkpoint import save_perceptual
from roborl.rewards.perceptual.config import PerceptualConfig
from roborl.rewards.perceptual.model import PerceptualModel
from roborl.rewards.perceptual.steps import Discovery, boundary_errors, even_bounds
from roborl.rewards.perceptual.training import learn_perceptual
from roborl.rewards.training.episodes import TrainingEpisode
from roborl.rewards.training.evaluation import (
    HeldOutReport,
    format_reports,
    held_out_report,
    leak,
    time_only,
    watcher,
)
from roborl.rewards.training.labels import plan_stages
from roborl.rewards.training.learnt_from import learnt as learnt_from
from roborl.rewards.training.learnt_from import write_learnt


@dataclass(frozen=True, kw_only=True)
class TrainPerceptualConfig:
    """Which demonstrations, which features, where to."""

    # A LeRobotDataset v3 (folder or hub id), or a folder of videos with annotated_keyframes.json.
    dataset: str
    out: Path  # folder for the model, the encoder's vectors and the report
    episodes: list[int] = field(default_factory=list)  # which episodes, all of one task; empty: all
    # Which episodes failed, whatever the dataset says; a dataset that says nothing holds successes alone.
    failed: list[int] = field(default_factory=list)
    # Observations per second that are kept; 0: every recorded one. Its steps last so many, so it is to be used at that rate.
    rate_hz: float = 0.0
    # Views to look at, by the model's names, which are to be the bench's; empty: all that the dataset has.
    cameras: list[str] = field(default_factory=list)
    # The model's camera name to the dataset's, where they differ.
    camera_map: dict[str, str] = field(default_factory=dict)
    # Bars like "forward>=0.95" on the figures of episodes it has not learnt from; one that is missed sets the exit code.
    require: list[str] = field(default_factory=list)
    model: PerceptualConfig = field(default_factory=PerceptualConfig)
    demonstrations: int = 10  # most successes to learn from
    held_out: float = 0.2  # share of the episodes kept for the report, at least one of each kind
    seed: int = 0  # which ones

    def __post_init__(self) -> None:
        check_required(self.require)
        check_named_once("--episodes", self.episodes)
        if (
            self.demonstrations < 1
            or not 0.0 <= self.held_out < 1.0
            or self.seed < 0
            or not 0.0 <= self.rate_hz < math.inf
        ):
            raise ConfigError(
                "Demonstrations cannot be chosen in this way",
                seen=f"demonstrations {self.demonstrations}, held_out {self.held_out}, seed {self.seed},"
                f" rate_hz {self.rate_hz}",
                allowed="demonstrations ≥ 1, held_out in [0, 1), seed ≥ 0, a finite rate_hz ≥ 0",
            )


@dataclass(frozen=True, eq=False, kw_only=True)
class TrainPerceptualResult:
    """A model and what it is worth.

    Attributes:
        model: The model, also in its folder.
        found: The steps of the demonstrations it learnt from.
        ours: Its figures on episodes it has not learnt from.
        by_time: The same of a model that only knows the time.
        boundaries: Mean frames from marked boundaries to the nearest found and to the nearest of as many even cuts, where
            demonstrations are annotated.
        leak: Largest change of a score by frames later than it.
        frame_ms: Milliseconds per observation, all cameras, one at a time, on one thread.
    """

    model: PerceptualModel
    found: Discovery
    ours: HeldOutReport
    by_time: HeldOutReport
    boundaries: dict[str, float]
    leak: float
    frame_ms: float

    @property
    def table(self) -> str:
        """The report for people."""
        lines = [format_reports({"this model": self.ours, "time only": self.by_time})]
        if self.boundaries:
            lines.append(
                "marked boundaries lie {found:.1f} frames from the nearest found, {even:.1f} from the nearest of as many"
                " even cuts".format(**self.boundaries)
            )
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "version": self.model.info.version,
            "step_starts": self.model.statistics.starts.tolist(),
            "deviation_left": list(self.found.left),
            "demonstrations": len(self.found.bounds),
            "boundary_error_frames": self.boundaries,
            "held_out": self.ours.as_dict(),
            "time_only": self.by_time.as_dict(),
            "leak": self.leak,
            "frame_ms": self.frame_ms,
        }


def train_perceptual(config: TrainPerceptualConfig) -> TrainPerceptualResult:
    """Learn a perceptual model from a dataset, measure it on what it has not learnt from, and save it.

    Raises:
        ConfigError: If the encoder is none that has been trained.
        DatasetError: If the dataset cannot be read, is of several tasks, or holds no successful episode that is long enough.
        ModelLoadError: If the encoder cannot be loaded.
    """
    read, rate_hz = read_training(
        config.dataset,
        episodes=config.episodes,
        cameras=config.cameras,
        camera_map=config.camera_map,
        failed=config.failed,
        rate_hz=config.rate_hz,
        side_px=config.model.image_px,
    )
    check_one_task({number: episode.task for number, episode in read.items()})
    train, held_out = split(list(read.values()), config.held_out, config.seed)
    successes = [episode for episode in train if episode.success]
    learnt = successes[: config.demonstrations]
    model, found = learn_perceptual(learnt, config.model, rate_hz=rate_hz, cache=config.out / "vectors")
    write_learnt(config.out, learnt_from(episode.origin for episode in learnt))
    save_perceptual(model, config.out)
    # Failures teach it nothing, and neither do the successes beyond those few.
    rest = [*held_out, *successes[len(learnt) :], *(e for e in train if not e.success)]
    # It knows nothing of marked sub-tasks, and neither shall what it is compared with and measured by.
    known, unseen = ([replace(e, subtasks=None) for e in episodes] for episodes in (learnt, rest))
    watch, task_as_a_whole = watcher(model), plan_stages([])
    probe = unseen[0] if unseen else learnt[0]
    return TrainPerceptualResult(
        model=model,
        found=found,
        ours=held_out_report(watch, unseen, task_as_a_whole),
        by_time=held_out_report(time_only(known, task_as_a_whole), unseen, task_as_a_whole),
        boundaries=_boundaries(found, learnt),
        leak=leak(watch, probe, probe.frames // 2),
        frame_ms=frame_latency_ms(model, probe),
    )


def _boundaries(found: Discovery, demonstrations: Sequence[TrainingEpisode]) -> dict[str, float]:
    ours, even = [], []
    for bounds, episode in zip(found.bounds, demonstrations, strict=True):
        marked = [end for _, _, end in (episode.subtasks or ())[:-1]]
        if marked:
            ours.append(boundary_errors(bounds, marked).mean())
            even.append(boundary_errors(even_bounds(episode.frames, found.steps), marked).mean())
    return {"found": float(np.mean(ours)), "even": float(np.mean(even))} if ours else {}
