"""What ``roborl bench-reward`` is asked: which models, on which episodes, against which bars."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

from roborl.errors import ConfigError
from roborl.loops.references import ReferencesConfig
from roborl.loops.requirements import Requirement
from roborl.rewards.benchmark import FIGURES, BenchmarkSettings

RESULT = "bench_reward.json"


@dataclass(frozen=True, kw_only=True)
class BenchRewardConfig(BenchmarkSettings):
    """Which models, on which episodes, against which bars."""

    # reward models: a folder that train-reward wrote, or NAME:CHECKPOINT of a published one, or "brightness"; or one of
    # these behind the calibration of an earlier benchmark, calibrated:RESULT:MODEL
    model: list[str] = field(default_factory=list)
    # LeRobotDatasets v3 with successes and failures, all of one rate: folders or hub ids; each is a group of its own, by the
    # name of its folder where no other has that
    dataset: list[str] = field(default_factory=list)
    # videos that people graded from 1 to 5: folders with a metadata.jsonl, in the layout of RoboRewardBench
    graded: list[str] = field(default_factory=list)
    # observations per second that models are shown of graded videos, Hz: frames of slower ones come several times
    graded_hz: float = 10.0
    # folder for the result, bench_reward.json, and the plots
    out: Path = Path("outputs/bench-reward")
    # bars like "voc>=0.8"; every model has to meet all, which sets the exit code and is written down
    require: list[str] = field(default_factory=list)
    # whether figures count for the bars that are of episodes a model learnt from, where too few others are left
    learnt_too: bool = False
    # views to show; empty: all that the dataset has
    cameras: list[str] = field(default_factory=list)
    # our name of a camera to the dataset's, where they differ
    camera_map: dict[str, str] = field(default_factory=dict)
    # share of the episodes of each kind that calibration and the model of time are fitted on, in (0, 1)
    validation: float = 0.3
    # most episodes of each dataset; 0 for all
    episodes: int = 0
    # numbers of episodes that failed, whatever the dataset says; with several datasets none can be named
    failed: list[int] = field(default_factory=list)
    # the demonstration that models are shown, of each task its own, as training shows it; nobody is judged on it
    references: ReferencesConfig = field(default_factory=ReferencesConfig)
    # of the choice of validation episodes
    seed: int = 0
    # threads of the tensor library
    threads: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        paced = 0.0 < self.graded_hz < math.inf
        if not (0.0 < self.validation < 1.0 and self.episodes >= 0 and self.threads >= 1 and paced):
            raise ConfigError(
                "Models cannot be measured in this way",
                seen=f"validation {self.validation}, episodes {self.episodes}, threads {self.threads},"
                f" graded_hz {self.graded_hz}",
                allowed="validation in (0, 1), episodes ≥ 0, threads ≥ 1, graded_hz > 0 and finite",
            )
        if self.failed and len(self.dataset) > 1:
            raise ConfigError(
                "A number alone does not name an episode of several datasets",
                seen=f"failed {self.failed}, datasets {self.dataset}",
                allowed="failed with one dataset",
                remedy="Measure on that dataset alone",
            )
        for text in self.require:
            Requirement.parse(text, FIGURES)
