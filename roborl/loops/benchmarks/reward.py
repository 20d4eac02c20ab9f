"""Reward models and a dataset in, a table, plots and a result that training can demand out: trust before use."""

from __future__ import annotations

import json
import logging
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import draccus
import torch

from roborl.data.lerobot_info import describe
from roborl.errors import ConfigError
from roborl.loops.benchmarks.reward_cohort import Cohort, read_cohort
from roborl.loops.benchmarks.reward_plots import progress_panels, reliability_panels
from roborl.loops.plots import LIGHT, png
from roborl.loops.references import ReferencesConfig
from roborl.loops.requirements import Requirement
from roborl.rewards.benchmark import (
    FIGURES,
    BenchmarkSettings,
    Measurement,
    measure,
    time_only_model,
)
from roborl.rewards.graded_videos import grade_videos
from roborl.rewards.measured import FORMAT
from roborl.rewards.model import RewardModel
from roborl.rewards.observation_rate import check_rate, told_rate, trained_rate, warn_of_rate
from roborl.rewards.references import digest, of_cameras
from roborl.rewards.registry import load_reward_model
from roborl.whole_files import write_whole

log = logging.getLogger(__name__)

RESULT = "bench_reward.json"
TIME_ONLY = "time only"


@dataclass(frozen=True, kw_only=True)
class BenchRewardConfig(BenchmarkSettings):
    """Which models, on which episodes, against which bars."""

    # reward models: a folder that train-reward wrote, or NAME:CHECKPOINT of a published one, or "brightness"; or one of
    # these behind the calibration of an earlier benchmark, calibrated:RESULT:MODEL
    model: list[str] = field(default_factory=list)
    # LeRobotDatasets v3 with successes and failures: folders or hub ids; each is a group of its own
    dataset: list[str] = field(default_factory=list)
    # videos that people graded from 1 to 5: folders with a metadata.jsonl, in the layout of RoboRewardBench
    graded: list[str] = field(default_factory=list)
    # observations per second that models are shown of graded videos, Hz
    graded_hz: float = 10.0
    # folder for the result, bench_reward.json, and the plots
    out: Path = Path("outputs/bench-reward")
    # bars like "voc>=0.8"; every model has to meet all, which sets the exit code and is written down
    require: list[str] = field(default_factory=list)
    # views to show; empty: all that the dataset has
    cameras: list[str] = field(default_factory=list)
    # our name of a camera to the dataset's, where they differ
    camera_map: dict[str, str] = field(default_factory=dict)
    # share of the episodes of each kind that calibration and the model of time are fitted on, in (0, 1)
    validation: float = 0.3
    # most episodes of each dataset; 0 for all
    episodes: int = 0
    # the demonstration that models are shown, of each task its own, as training shows it; nobody is judged on it
    references: ReferencesConfig = field(default_factory=ReferencesConfig)
    # of the choice of validation episodes
    seed: int = 0
    # threads of the tensor library
    threads: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 < self.validation < 1.0 or self.episodes < 0 or self.threads < 1 or self.graded_hz <= 0:
            raise ConfigError(
                "Models cannot be measured in this way",
                seen=f"validation {self.validation}, episodes {self.episodes}, threads {self.threads},"
                f" graded_hz {self.graded_hz}",
                allowed="validation in (0, 1), episodes ≥ 0, threads ≥ 1, graded_hz > 0",
            )
        for text in self.require:
            Requirement.parse(text, FIGURES)


@dataclass(frozen=True, eq=False, kw_only=True)
class BenchRewardResult:
    """What was found.

    Attributes:
        cohort: The episodes.
        measured: Each model by its short name, and the model of time where there are episodes to learn it from.
        places: Where each model was found, by its short name.
        shown: Digest of what each model was shown, by its short name and the task.
        require: The bars.
    """

    cohort: Cohort
    measured: Mapping[str, Measurement]
    places: Mapping[str, str]
    shown: Mapping[str, Mapping[str, str]]
    require: tuple[str, ...]

    def missed(self, name: str) -> list[str]:
        """Return the bars that a model does not meet."""
        figures = self.measured[name].figures
        return [text for text in self.require if not Requirement.parse(text, FIGURES).holds(figures)]

    @property
    def met(self) -> bool:
        """Whether every model meets every bar."""
        return not any(self.missed(name) for name in self.places)

    @property
    def summary(self) -> str:
        """What the figures are of, in a line."""
        about = self.cohort.described()
        return (
            f"{about['test_successes']} successes and {about['test_failures']} failures; {about['derived_grades']} with a"
            f" derived grade; progress privileged in {about['privileged_truth']}, elsewhere even between marks or ends;"
            f" {about['validation_episodes']} others to fit on; {about['given_grades']} videos graded by people"
        )

    @property
    def table(self) -> str:
        """The report for people."""
        return format_table({name: found.figures for name, found in self.measured.items()})

    def as_dict(self, config: BenchRewardConfig) -> dict[str, Any]:
        """Return plain values; JSON knows no NaN, so a figure that is not there is null."""
        entries = {
            name: {
                "place": self.places.get(name, ""),
                "references": dict(self.shown.get(name, {})),
                **found.as_dict(),
                "missed": self.missed(name),
            }
            for name, found in self.measured.items()
        }
        by_time = entries.pop(TIME_ONLY, None)
        stated: dict[str, Any] = _no_nan(
            {
                "format": FORMAT,
                "settings": draccus.encode(config),
                "episodes": self.cohort.described(),
                "require": list(self.require),
                "met": self.met,
                "models": entries,
                "time_only": by_time,
            }
        )
        return stated


def bench_reward(
    config: BenchRewardConfig, *, on_video: Callable[[str, int, int], None] = lambda model, done, of: None
) -> BenchRewardResult:
    """Measure reward models, one after the other, and write the result and its plots.

    Args:
        config: What to do.
        on_video: Told the model, how many videos it has seen, and of how many.

    Raises:
        ConfigError: If no model is named, or neither dataset nor graded videos, or a model cannot watch them.
        DatasetError: If a dataset cannot be read, or does not hold what is needed.
        ModelLoadError: If a model cannot be used.
    """
    if not config.model or not (config.dataset or config.graded):
        raise ConfigError(
            "There is nothing to measure",
            seen=f"models {config.model}, datasets {config.dataset}, graded {config.graded}",
            allowed="at least one model, and one dataset or folder of graded videos",
            remedy="roborl bench-reward --model FOLDER --dataset PATH",
        )
    torch.set_num_threads(config.threads)
    cohort = read_cohort(config)
    names = short_names(config.model)
    by_time: dict[str, Measurement] = {}
    if config.dataset:
        clock, settings = time_only_model(cohort.validation), replace(_settings(config), probes=False)
        by_time[TIME_ONLY] = measure(clock, cohort.validation, cohort.test, settings)
    measured: dict[str, Measurement] = {}
    shown: dict[str, dict[str, str]] = {}
    result = None
    rates = [(float(describe(path).fps), f"dataset {path}") for path in config.dataset]
    rates += [(config.graded_hz, "graded videos")] if cohort.graded else []
    for name, place in names.items():
        # One at a time: a model may fill the device.
        model = load_reward_model(place)
        for rate_hz, where in rates:
            check_rate(told_rate(model), rate_hz, where)
            warn_of_rate(trained_rate(model), rate_hz, where)
        shown[name] = {t: digest(of_cameras(r, model.cameras)) for t, r in cohort.references.items()}
        tell = partial(on_video, name)
        found = measure(model, cohort.validation, cohort.test, _settings(config), on_video=tell)
        measured[name] = _with_given(config, model, cohort, found, tell)
        del model
        result = BenchRewardResult(
            cohort=cohort,
            measured=measured | by_time,
            places={known: names[known] for known in measured},
            shown=shown,
            require=tuple(config.require),
        )
        _write(config, result)
    assert result is not None, "there is at least one model"
    return result


def short_names(places: Sequence[str]) -> dict[str, str]:
    """Return a short name for each model, and where it is.

    Raises:
        ConfigError: If one is named twice.

    Example:
        >>> short_names(["a/reward", "vlac:b/2b", "c/reward"])
        {'reward': 'a/reward', 'vlac:2b': 'vlac:b/2b', 'c/reward': 'c/reward'}
    """
    if len(set(places)) != len(places):
        raise ConfigError("A model is named twice", seen=list(places), allowed="each model once")
    names: dict[str, str] = {}
    for place in places:
        kind, colon, checkpoint = place.partition(":")
        short = kind + colon + Path(checkpoint).name if colon else Path(place).name
        names[place if short in names or short == TIME_ONLY else short] = place
    return names


def format_table(figures: Mapping[str, Mapping[str, float]]) -> str:
    """Return a table with one column per model."""
    width = max(map(len, FIGURES.values()))
    columns = {name: max(10, len(name)) for name in figures}
    lines = [" " * width + "".join(f"  {name:>{columns[name]}}" for name in figures)]
    for key, meaning in FIGURES.items():
        values = [(columns[name], found[key]) for name, found in figures.items()]
        cells = "".join(f"  {'-' if math.isnan(value) else format(value, '.3f'):>{w}}" for w, value in values)
        lines.append(f"{meaning:<{width}}{cells}  {key}")
    return "\n".join(lines)


def _with_given(
    config: BenchRewardConfig,
    model: RewardModel[Any, Any],
    cohort: Cohort,
    found: Measurement,
    on_video: Callable[[int, int], None],
) -> Measurement:
    """Return what was found with the grades of graded videos; where there is nothing else, with what they took."""
    if not cohort.graded:
        return found
    given = grade_videos(
        model, cohort.graded, rate_hz=config.graded_hz, max_batch=config.max_batch, on_video=on_video
    )
    figures = given.figures | {name: value for name, value in found.figures.items() if not math.isnan(value)}
    return replace(
        found,
        figures=found.figures | figures,
        given=given.report,
        given_written=given.written,
        reasons=dict((Counter(found.reasons) + Counter(given.reasons)).most_common(5)),
    )


def _settings(config: BenchRewardConfig) -> BenchmarkSettings:
    return BenchmarkSettings(
        lag=config.lag, stride=config.stride, max_batch=config.max_batch, probes=config.probes
    )


def _write(config: BenchRewardConfig, result: BenchRewardResult) -> None:
    config.out.mkdir(parents=True, exist_ok=True)
    (config.out / "progress.png").write_bytes(png(progress_panels(result, LIGHT)))
    (config.out / "reliability.png").write_bytes(png(reliability_panels(result, LIGHT)))
    write_whole(config.out / RESULT, json.dumps(result.as_dict(config), indent=2, default=str) + "\n")


def _no_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _no_nan(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_no_nan(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
