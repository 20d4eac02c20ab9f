"""Reward models and a dataset in, a table, plots and a result that training can demand out: trust before use."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from roborl.data.lerobot_info import describe
from roborl.errors import ConfigError
from roborl.loops.benchmarks.reward_cohort import Cohort, read_cohort
from roborl.loops.benchmarks.reward_config import RESULT, BenchRewardConfig
from roborl.loops.benchmarks.reward_plots import progress_panels, reliability_panels
from roborl.loops.benchmarks.reward_result import TIME_ONLY, BenchRewardResult
from roborl.loops.reporting.plots import LIGHT, png
from roborl.pretrained import CONFIG
from roborl.rewards.benchmark import (
    BenchmarkSettings,
    Measurement,
    measure,
    time_only_model,
)
from roborl.rewards.graded_videos import grade_videos
from roborl.rewards.instructions import much_alike
from roborl.rewards.measured import calibration_of
from roborl.rewards.model import RewardModel
from roborl.rewards.observation_rate import check_rate, warn_of_rate
from roborl.rewards.references import digest, of_cameras
from roborl.rewards.registry import load_reward_model
from roborl.whole_files import as_json, write_whole

log = logging.getLogger(__name__)


def bench_reward(
    config: BenchRewardConfig, *, on_video: Callable[[str, int, int], None] = lambda model, done, of: None
) -> BenchRewardResult:
    """Measure reward models, one after the other, and write the result and its plots.

    Args:
        config: What to do.
        on_video: Told the model, how many videos it has seen, and of how many.

    Raises:
        ConfigError: If no model is named, or neither dataset nor graded videos, or a model cannot watch them, or the
            result would be written over the calibration of one.
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
    _check_out(config)
    torch.set_num_threads(config.threads)
    cohort = read_cohort(config)
    names = short_names(config.model)
    for name, place in names.items():
        _warn_of_learnt(name, place, cohort)
    by_time: dict[str, Measurement] = {}
    if config.dataset:
        clock, settings = time_only_model(cohort.validation), replace(_settings(config), probes=False)
        fit, test = ([s.unseen() for s in part] for part in (cohort.validation, cohort.test))
        by_time[TIME_ONLY] = measure(clock, fit, test, settings)
        _warn_of_untimed(cohort)
    measured: dict[str, Measurement] = {}
    shown: dict[str, dict[str, str]] = {}
    result = None
    rates = [(float(describe(path).fps), f"dataset {path}") for path in config.dataset]
    rates += [(config.graded_hz, "graded videos")] if cohort.graded else []
    for name, place in names.items():
        # One at a time: a model may fill the device.
        model = load_reward_model(place)
        for rate_hz, where in rates:
            check_rate(model.info.observation_hz, rate_hz, where)
            warn_of_rate(model.info.trained_hz, rate_hz, where)
        shown[name] = {t: digest(of_cameras(r, model.info.cameras)) for t, r in cohort.references.items()}
        tell = partial(on_video, name)
        found = measure(model, cohort.fitted_on(place), cohort.test, _settings(config), on_video=tell)
        measured[name] = _with_given(config, model, cohort, found, tell)
        del model
        result = BenchRewardResult(
            cohort=cohort,
            measured=measured | by_time,
            places={known: names[known] for known in measured},
            shown=shown,
            require=tuple(config.require),
            learnt_too=config.learnt_too,
        )
        _write(config, result)
    assert result is not None, "there is at least one model"
    return result


def _check_out(config: BenchRewardConfig) -> None:
    """Refuse to write over a calibration that one of the models is named with: the model would be lost with it."""
    ours = (config.out / RESULT).resolve()
    for place in config.model:
        inner = place
        while named := calibration_of(inner):
            result, inner = named
            if result.resolve() == ours:
                raise ConfigError(
                    "The result would be written over the calibration of a model that is to be measured",
                    seen=f"{result}, in {place}",
                    allowed="another folder than that of the calibration",
                    remedy=f"Set another folder for the result: --out {config.out}-calibrated",
                )


def short_names(places: Sequence[str]) -> dict[str, str]:
    """Return a name for each model, and where it is: a short one where no other model has that.

    Raises:
        ConfigError: If one is named twice.

    Example:
        >>> short_names(["a/reward", "vlac:b/2b", "c/reward"])
        {'a/reward': 'a/reward', 'vlac:2b': 'vlac:b/2b', 'c/reward': 'c/reward'}
    """
    if len(set(places)) != len(places):
        raise ConfigError("A model is named twice", seen=list(places), allowed="each model once")
    short = {place: _short(place) for place in places}
    taken = Counter(short.values())
    return {place if taken[name] > 1 or name == TIME_ONLY else name: place for place, name in short.items()}


def _short(place: str) -> str:
    kind, colon, checkpoint = place.partition(":")
    return kind + colon + Path(checkpoint).name if colon else Path(place).name


def _warn_of_untimed(cohort: Cohort) -> None:
    timed = {s.episode.task for s in cohort.validation if s.episode.success}
    told = {s.episode.task: any(much_alike(task, s.episode.task) for task in timed) for s in cohort.test}
    if untimed := sum(not told[s.episode.task] for s in cohort.test):
        log.warning(
            "The model of time alone knows only the mean of other tasks on %d of %d episodes: no success of their task is"
            " among those to fit on. Name another --seed, or more episodes of each task",
            untimed,
            len(cohort.test),
        )


def _warn_of_learnt(name: str, place: str, cohort: Cohort) -> None:
    if count := cohort.learnt_by(place):
        log.warning("%s is measured on %d episodes that it learnt from: too few others are left", name, count)
    if cohort.learnt[place] is None and (Path(place) / CONFIG).is_file():
        log.warning(
            "%s does not say which episodes it learnt from, as models of earlier releases do not: whether it is measured on"
            " some of them is not known",
            name,
        )


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
    write_whole(config.out / "progress.png", png(progress_panels(result, LIGHT)))
    write_whole(config.out / "reliability.png", png(reliability_panels(result, LIGHT)))
    write_whole(config.out / RESULT, as_json(result.as_dict(config), indent=2) + "\n")
