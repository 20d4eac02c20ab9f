"""Reward models and a dataset in, a table, plots and a result that training can demand out: trust before use."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import draccus
import numpy as np
import torch

from roborl.data.lerobot_files import fingerprint
from roborl.data.lerobot_io import read_episodes
from roborl.errors import ConfigError, DatasetError
from roborl.loops.bench_reward_plots import progress_panels, reliability_panels
from roborl.loops.plots import LIGHT, png
from roborl.loops.references import NoDemonstration, ReferencesConfig, read_demonstration
from roborl.loops.requirements import Requirement
from roborl.loops.training_episodes import split, to_training
from roborl.rewards.benchmark import (
    FIGURES,
    BenchmarkSettings,
    Measurement,
    Subject,
    measure,
    time_only_model,
)
from roborl.rewards.judges.queries import picture_key
from roborl.rewards.measured import FORMAT
from roborl.rewards.model import References
from roborl.rewards.references import digest, of_cameras
from roborl.rewards.registry import load_reward_model
from roborl.rewards.sarm.episodes import TrainingEpisode, label_episode
from roborl.rewards.sarm.labels import plan_stages

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
        if not 0.0 < self.validation < 1.0 or self.episodes < 0 or self.threads < 1:
            raise ConfigError(
                "Models cannot be measured in this way",
                seen=f"validation {self.validation}, episodes {self.episodes}, threads {self.threads}",
                allowed="validation in (0, 1), episodes ≥ 0, threads ≥ 1",
            )
        for text in self.require:
            Requirement.parse(text, FIGURES)


@dataclass(frozen=True, eq=False, kw_only=True)
class Cohort:
    """The episodes of a benchmark.

    Attributes:
        validation: What things are fitted on.
        test: What models are judged on.
        references: What models are shown, by task.
        left_out: Episodes whose task nobody demonstrates, where models are shown demonstrations.
        fingerprints: Of the datasets.
    """

    validation: tuple[Subject, ...]
    test: tuple[Subject, ...]
    references: Mapping[str, References]
    left_out: int = 0
    fingerprints: Mapping[str, str]

    def described(self) -> dict[str, Any]:
        """Return what is in it, for the result."""
        successes = sum(s.episode.success for s in self.test)
        return {
            "datasets": dict(self.fingerprints),
            "validation_episodes": len(self.validation),
            "left_out": self.left_out,
            "test_successes": successes,
            "test_failures": len(self.test) - successes,
            "test_videos": len({s.video for s in self.test}),
            "privileged_truth": sum(s.episode.benchmark is not None for s in self.test),
            "graded": sum(s.level is not None for s in self.test),
            "other_words": "another task's" if all(s.other_task for s in self.test) else "none",
        }


@dataclass(frozen=True, eq=False, kw_only=True)
class BenchRewardResult:
    """What was found.

    Attributes:
        cohort: The episodes.
        measured: Each model by its short name, and the model of time.
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
            f"{about['test_successes']} successes and {about['test_failures']} failures; {about['graded']} with a known"
            f" grade; progress privileged in {about['privileged_truth']}, elsewhere even between marks or ends;"
            f" {about['validation_episodes']} others to fit on"
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
        by_time = entries.pop(TIME_ONLY)
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
        ConfigError: If no model or dataset is named, or a model cannot watch these episodes.
        DatasetError: If a dataset cannot be read, or does not hold what is needed.
        ModelLoadError: If a model cannot be used.
    """
    if not config.model or not config.dataset:
        raise ConfigError(
            "There is nothing to measure",
            seen=f"models {config.model}, datasets {config.dataset}",
            allowed="at least one of each",
            remedy="roborl bench-reward --model FOLDER --dataset PATH",
        )
    torch.set_num_threads(config.threads)
    cohort = read_cohort(config)
    names = short_names(config.model)
    by_time = measure(
        time_only_model(cohort.validation),
        cohort.validation,
        cohort.test,
        replace(_settings(config), probes=False),
    )
    measured: dict[str, Measurement] = {}
    shown: dict[str, dict[str, str]] = {}
    result = None
    for name, place in names.items():
        # One at a time: a model may fill the device.
        model = load_reward_model(place)
        shown[name] = {t: digest(of_cameras(r, model.cameras)) for t, r in cohort.references.items()}
        measured[name] = measure(
            model,
            cohort.validation,
            cohort.test,
            _settings(config),
            on_video=lambda done, of, name=name: on_video(name, done, of),  # type: ignore[misc]
        )
        del model
        result = BenchRewardResult(
            cohort=cohort,
            measured={**measured, TIME_ONLY: by_time},
            places={known: names[known] for known in measured},
            shown=shown,
            require=tuple(config.require),
        )
        _write(config, result)
    assert result is not None, "there is at least one model"
    return result


def read_cohort(config: BenchRewardConfig) -> Cohort:
    """Read the datasets, and set episodes aside for what has to be fitted.

    Raises:
        DatasetError: If a dataset or a demonstration cannot be read, or there are not two successes, one to fit on and
            one to judge.
    """
    fit: list[tuple[str, TrainingEpisode]] = []
    test: list[tuple[str, TrainingEpisode]] = []
    shown: dict[str, References] = {}
    left_out = 0
    for source in config.dataset:
        group = Path(source).name
        episodes = list(_read(config, source))
        if config.references.path:
            for episode in episodes:
                if episode.task not in shown:
                    shown[episode.task] = _demonstration(config.references, episode)
            left_out += sum(not shown[e.task] for e in episodes)
            episodes = [e for e in episodes if shown[e.task] and not _is(e, shown[e.task])]
        rest, held = split(episodes, config.validation, config.seed)
        fit += [(group, episode) for episode in held]
        test += [(group, episode) for episode in rest]
    if left_out:
        log.warning("%d episodes are left out: there is no demonstration of their task", left_out)
    counts = [sum(episode.success for _, episode in part) for part in (fit, test)]
    if not all(counts):
        raise DatasetError(
            "The datasets hold too few successful episodes",
            seen=f"{sum(counts)} of {len(fit) + len(test)} episodes",
            allowed="at least two beside the demonstrations: one to fit on and one to judge",
        )
    make = _subject_maker([episode for _, episode in (*fit, *test)], shown)
    return Cohort(
        validation=tuple(make(g, e) for g, e in fit),
        test=tuple(make(g, e) for g, e in test),
        references={task: references for task, references in shown.items() if references},
        left_out=left_out,
        fingerprints={source: fingerprint(source) for source in config.dataset},
    )


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


def _settings(config: BenchRewardConfig) -> BenchmarkSettings:
    return BenchmarkSettings(
        lag=config.lag, stride=config.stride, max_batch=config.max_batch, probes=config.probes
    )


def _read(config: BenchRewardConfig, source: str) -> Iterator[TrainingEpisode]:
    count = 0
    for episode in read_episodes(source, camera_map=config.camera_map or None):
        if config.episodes and count >= config.episodes:
            return
        if not episode.discarded:
            count += 1
            yield to_training(episode, config.cameras)


def _subject_maker(
    everyone: Sequence[TrainingEpisode], references: Mapping[str, References]
) -> Callable[[str, TrainingEpisode], Subject]:
    tasks = sorted({episode.task for episode in everyone})
    of_task = {task: [e.subtasks for e in everyone if e.success and e.task == task] for task in tasks}
    plans = {task: plan_stages(spans) for task, spans in of_task.items() if spans}

    def make(group: str, episode: TrainingEpisode) -> Subject:
        if episode.benchmark is not None:
            truth = np.asarray(episode.benchmark, np.float64)
        elif episode.task in plans:
            truth = label_episode(episode, plans[episode.task], 1.0).progress.astype(np.float64)
        else:
            truth = np.full(episode.frames, np.nan)
        pictures = next(iter(episode.images.values()))
        return Subject(
            episode=episode,
            group=group,
            video=picture_key(*pictures).hex(),
            truth=truth,
            references=references.get(episode.task, {}),
            other_task=next((task for task in tasks if task != episode.task), ""),
        )

    return make


def _demonstration(config: ReferencesConfig, episode: TrainingEpisode) -> References:
    """Return the demonstration of an episode's task, empty where there is none."""
    try:
        return read_demonstration(config, list(episode.images), episode.task)
    except NoDemonstration:
        return {}


def _is(episode: TrainingEpisode, references: References) -> bool:
    """Return whether the episode is the demonstration: it ends, and begins where that is shown, with the same pictures."""
    return all(
        np.array_equal(episode.images[camera][-1], pictures if pictures.ndim == 3 else pictures[-1])
        and (pictures.ndim == 3 or np.array_equal(episode.images[camera][0], pictures[0]))
        for camera, pictures in ((name.partition("/")[2], found) for name, found in references.items())
    )


def _write(config: BenchRewardConfig, result: BenchRewardResult) -> None:
    config.out.mkdir(parents=True, exist_ok=True)
    (config.out / "progress.png").write_bytes(png(progress_panels(result, LIGHT)))
    (config.out / "reliability.png").write_bytes(png(reliability_panels(result, LIGHT)))
    partial = config.out / f"{RESULT}.part"
    partial.write_text(json.dumps(result.as_dict(config), indent=2, default=str) + "\n")
    os.replace(partial, config.out / RESULT)


def _no_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _no_nan(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_no_nan(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
