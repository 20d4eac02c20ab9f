"""Episodes to an adapted judge: read, hold some out, ask, train, measure, save."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import batched
from pathlib import Path
from typing import Any

import draccus
import numpy as np

from roborl.errors import ConfigError, DatasetError
from roborl.images import encode_png
from roborl.loops.footage import read_footage
from roborl.loops.graded_footage import is_graded, read_graded_footage, split_ladders
from roborl.loops.reward_training.training_episodes import check_named_once, split
from roborl.loops.run_files import versions_here
from roborl.rewards.adaptation.changes import ChangeConfig, ChangeLessons
from roborl.rewards.adaptation.config import AdaptationTraining, Method
from roborl.rewards.adaptation.hops import HopLessons
from roborl.rewards.adaptation.lessons import Album, FilmedEpisode, Lessons, Sample, TimeGuess
from roborl.rewards.adaptation.saving import save_adapted
from roborl.rewards.adaptation.scores import ScoreConfig, ScoreLessons, until_done
from roborl.rewards.adaptation.training import Adapted, adapt
from roborl.rewards.batching import BatchAsker
from roborl.rewards.dopamine import DopamineConfig, DopamineModel, open_dopamine
from roborl.rewards.hop_pairs import PairConfig
from roborl.rewards.judges.config import JudgeKind, Quantisation
from roborl.rewards.judges.opening import checkpoint_folder
from roborl.rewards.observation_rate import check_rate
from roborl.rewards.roboreward import open_roboreward
from roborl.rewards.roboreward_config import RoboRewardConfig
from roborl.rewards.training.learnt_from import LearntFrom, learnt, read_learnt, write_learnt
from roborl.rewards.training.run import Log
from roborl.rewards.vlac.checkpoint import native_checkpoint, open_vlac
from roborl.rewards.vlac.config import VlacConfig
from roborl.whole_files import write_whole

logger = logging.getLogger(__name__)

_AT_ONCE = 16  # questions of the report


@dataclass(frozen=True, kw_only=True)
class _AdaptConfig:
    """What all kinds of judges share."""

    # A LeRobotDataset (folder or hub id), or a folder of videos with annotated_keyframes.json; for roboreward also a split of
    # graded videos, such as roborl relabel writes.
    dataset: str
    out: Path  # folder for the judge, its resume point, its log and its report
    episodes: list[int] = field(default_factory=list)  # which episodes; empty: all
    failed: list[int] = field(default_factory=list)  # which failed, whatever the dataset says
    one_shot: bool = False  # learn from the first of these alone, measure on the others
    # The model's camera name to the dataset's, where they differ.
    camera_map: dict[str, str] = field(default_factory=dict)
    training: AdaptationTraining = field(default_factory=AdaptationTraining)

    def __post_init__(self) -> None:
        check_named_once("--episodes", self.episodes)


@dataclass(frozen=True, kw_only=True)
class AdaptDopamineConfig(_AdaptConfig):
    """A judge of hops: which checkpoint and words, and which pairs."""

    model: DopamineConfig = field(default_factory=DopamineConfig)  # as in the file of its settings
    samples: PairConfig = field(default_factory=PairConfig)


@dataclass(frozen=True, kw_only=True)
class AdaptRoboRewardConfig(_AdaptConfig):
    """A judge of videos: which checkpoint and words, and which videos."""

    model: RoboRewardConfig = field(default_factory=RoboRewardConfig)  # as in the file of its settings
    samples: ScoreConfig = field(default_factory=ScoreConfig)


@dataclass(frozen=True, kw_only=True)
class AdaptVlacConfig(_AdaptConfig):
    """A pair critic: which checkpoint and words, and which pairs."""

    model: VlacConfig = field(default_factory=VlacConfig)  # as in the file of its settings
    samples: ChangeConfig = field(default_factory=ChangeConfig)


type AdaptConfig = AdaptDopamineConfig | AdaptRoboRewardConfig | AdaptVlacConfig

ADAPT_CONFIGS: dict[str, type[_AdaptConfig]] = {
    "dopamine": AdaptDopamineConfig,
    "roboreward": AdaptRoboRewardConfig,
    "vlac": AdaptVlacConfig,
}
"""Settings by the name of a judge that can be adapted."""


def adapt_reward(config: AdaptConfig, *, log: Log | None = None) -> dict[str, Any]:
    """Adapt a judge to the episodes of a dataset, measure it on others, and save it.

    Returns:
        What it took and what it is worth, which also stands in ``training.json``.

    Raises:
        DatasetError: If the dataset cannot be read or teaches nothing.
        ModelLoadError: If the checkpoint cannot be used, or ``config.out`` holds a resume point of another run.
        ConfigError: If the settings do not go together.
        TrainingError: If the training comes to nothing.
    """
    _check(config)
    episodes, rate = _read(config)
    if isinstance(config, AdaptRoboRewardConfig):
        episodes = until_done(episodes, config.samples.onset)
    known = _learnt_before(config)
    train, rest = _parted(episodes, config, known)
    learnt_before = [episode.name for episode in train if known.holds(episode.origin)]
    lessons = _lessons(config, rate)
    guess = TimeGuess.of(train)
    training = config.training
    samples = lessons.samples(train, guess, training.seed)
    held_out = lessons.samples(rest, guess, training.seed + 1) if rest else []
    kind_of_held_out = "other episodes"
    if not held_out:
        # One episode, or none of its kind to spare: some of its questions, near to which others are learnt from.
        count = round(training.held_out * len(samples))
        order = np.random.default_rng([training.seed, 3]).permutation(len(samples))
        samples, held_out = [samples[i] for i in order[count:]], [samples[i] for i in order[:count]]
        rest, kind_of_held_out = train, "other questions about the same episodes"
        if learnt_before:
            kind_of_held_out += f", of which the checkpoint had learnt from {len(learnt_before)}"
    held_out = draw_some(held_out, max(training.report, training.measure), training.seed)
    logger.info(
        "%d questions about %d episodes to learn from, %d about %s to measure with",
        len(samples),
        len(train),
        len(held_out),
        kind_of_held_out,
    )
    albums = Album(train, samples), Album(rest, held_out)
    base = lessons.judge.identity
    adapted = adapt(lessons, samples, held_out, albums, training, workspace=config.out / "work", log=log)
    report = {
        "model": lessons.name,
        "questions": len(samples),
        "episodes": [episode.name for episode in train],
        "taught_nothing": _silent(train, samples),
        "learnt_before": learnt_before,
        "held_out": {
            "of": kind_of_held_out,
            **measure(lessons, held_out[: training.report], albums[1]),
        },
        **_figures(adapted),
        "prompt_sha256": lessons.prompt_sha256,
        "base": base,
    }
    _save(config, lessons, adapted, train, known, report)
    return report


def draw_some(samples: Sequence[Sample], most: int, seed: int) -> list[Sample]:
    """Return samples of all episodes, cameras and kinds, in order of which they are drawn; all as they are where they are few.

    The same for the same seed, and of those any first part is of all of them as well.
    """
    if len(samples) <= most:
        return list(samples)
    order = np.random.default_rng([seed, 4]).permutation(len(samples))
    return [samples[i] for i in order[:most]]


def measure(lessons: Lessons, samples: Sequence[Sample], album: Album) -> dict[str, Any]:
    """Return how well a judge answers questions, beside a guess that knows the time alone and one that says the mean.

    Mean absolute errors, of the numbers as watching reads them; unreadable replies, and questions that do not fit into
    the card even alone, are counted and left out.
    """
    if not samples:
        return {"questions": 0}
    asker = BatchAsker[Any, Any](lessons.judge, _AT_ONCE)
    replies: list[Any] = []  # or None; a judge in this process is never away
    truth = []
    for part in batched(samples, _AT_ONCE):
        shown = [album.pictures(sample) for sample in part]
        replies += asker.ask([sample.ask(pictures) for sample, pictures in zip(part, shown, strict=True)])
        truth += [lessons.relabelled(*pair).value for pair in zip(part, shown, strict=True)]
    said = [None if reply is None else lessons.read(reply) for reply in replies]
    rows = [
        (value, true, sample.guess)
        for value, true, sample in zip(said, truth, samples, strict=True)
        if value is not None
    ]
    if not rows:
        return {"questions": len(samples), "unreadable": len(samples)}
    value, true, guess = np.array(rows).T
    return {
        "questions": len(samples),
        "unreadable": len(samples) - len(rows),
        "error": float(np.abs(value - true).mean()),
        "error_time_only": float(np.abs(guess - true).mean()),
        "error_mean": float(np.abs(true.mean() - true).mean()),
        "correlation": _correlation(value, true),
        "correlation_time_only": _correlation(guess, true),
    }


def _correlation(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> float | None:
    if one.std() == 0 or other.std() == 0:
        return None
    return float(np.corrcoef(one, other)[0, 1])


def _check(config: AdaptConfig) -> None:
    judge, method = config.model.judge, config.training.method
    if judge.kind is not JudgeKind.TRANSFORMERS:
        raise ConfigError(
            "Only a judge in this process can be trained",
            seen=judge.kind,
            allowed="--model.judge.kind transformers",
        )
    if method is Method.FULL and judge.quantisation is not Quantisation.NONE:
        raise ConfigError(
            "Weights of a few bits cannot all be trained",
            seen=judge.quantisation,
            allowed="--training.method lora, or --model.judge.quantisation none",
        )
    if method is Method.LORA and judge.adapter:
        raise ConfigError(
            "An adapter cannot be trained on top of another",
            seen=judge.adapter,
            remedy="Train all weights, or start from the checkpoint without it",
        )
    checkpoint_folder(
        judge, config.model.checkpoint
    )  # Where there is none, nothing has to be read to say so.


def _read(config: AdaptConfig) -> tuple[list[FilmedEpisode], float]:
    """Return the episodes of a dataset, or the questions of a folder of graded videos, and the observations per second."""
    if not is_graded(config.dataset):
        return read_footage(
            config.dataset, episodes=config.episodes, camera_map=config.camera_map, failed=config.failed
        )
    if not isinstance(config, AdaptRoboRewardConfig) or config.failed or config.one_shot:
        raise ConfigError(
            "Graded videos are no episodes to learn from in this way",
            seen=config.dataset,
            allowed="--model roboreward, without --failed and --one_shot: the grades say what failed",
        )
    rate = config.model.observation_hz
    return read_graded_footage(config.dataset, rate_hz=rate, episodes=config.episodes), rate


def _learnt_before(config: AdaptConfig) -> LearntFrom:
    """Return what the judge to be adapted learnt from already."""
    places = [place for place in (config.model.checkpoint, config.model.judge.adapter) if place]
    return learnt((), *(read_learnt(str(place)) for place in places))


def _parted(
    episodes: Sequence[FilmedEpisode], config: AdaptConfig, known: LearntFrom
) -> tuple[list[FilmedEpisode], list[FilmedEpisode]]:
    """Return the episodes to learn from and those to measure on, none of which the judge knows already."""

    def unseen(episode: FilmedEpisode) -> bool:
        return not known.holds(episode.origin)

    training = config.training
    if episodes[0].ladder:
        return split_ladders(episodes, training.held_out, training.seed, spare=unseen)
    if not config.one_shot:
        return split(episodes, training.held_out, training.seed, spare=unseen)
    first, *others = episodes
    if not first.success:
        raise DatasetError(
            "One-shot adaptation needs a demonstration",
            seen=f"{first.name} is a failure",
            remedy="Name a successful episode first: --episodes",
        )
    return [first], [episode for episode in others if unseen(episode)]


def _lessons(config: AdaptConfig, rate: float) -> Lessons:
    match config:
        case AdaptDopamineConfig():
            return HopLessons(open_dopamine(config.model), config.samples)
        case AdaptVlacConfig():
            return ChangeLessons(open_vlac(config.model), config.samples)
    # A graded video has one view, whatever it is called.
    camera = config.model.camera or ("front" if is_graded(config.dataset) else "")
    if not camera:
        raise ConfigError(
            "It is not said which camera the judge looks at", remedy="Name it: --model.camera front"
        )
    check_rate(config.model.observation_hz, rate, "dataset")
    return ScoreLessons(open_roboreward(config.model), camera, config.samples)


def _silent(episodes: Sequence[FilmedEpisode], samples: Sequence[Sample]) -> list[str]:
    """Return the episodes that no question is about."""
    heard = {place for sample in samples for place, _, _ in sample.spots}
    return [episode.name for place, episode in enumerate(episodes) if place not in heard]


def _figures(adapted: Adapted) -> dict[str, Any]:
    return {
        "steps": adapted.steps,
        "skipped": adapted.skipped,
        "weights": adapted.weights.count,
        "first_loss": adapted.first_loss,
        "last_loss": adapted.last_loss,
        "seconds": adapted.seconds,
    }


def _save(
    config: AdaptConfig,
    lessons: Lessons,
    adapted: Adapted,
    train: Sequence[FilmedEpisode],
    known: LearntFrom,
    report: dict[str, Any],
) -> None:
    base = checkpoint_folder(config.model.judge, config.model.checkpoint)
    assert base is not None, "the judge was loaded from it"
    if isinstance(config, AdaptVlacConfig):
        base = native_checkpoint(str(base))
    references: dict[str, Path] = {}
    if isinstance(lessons, HopLessons):
        references = _goal(config.out, lessons.model, train)
    record = {
        **report,
        "checkpoint": config.model.checkpoint,
        "settings": draccus.encode(config),
        "packages": versions_here(("torch", "transformers", "peft")),
    }
    write_learnt(config.out, learnt((episode.origin for episode in train), known))
    save_adapted(
        config.out,
        lessons,
        adapted.weights,
        method=config.training.method,
        base=base,
        record=record,
        references=references,
    )


def _goal(folder: Path, model: DopamineModel, train: Sequence[FilmedEpisode]) -> dict[str, Path]:
    """Write the goal of a demonstration as a picture, for sessions that bring none; nothing where tasks differ."""
    config = model.config
    if config.references:
        return {name: Path(file).absolute() for name, file in config.references.items()}
    shown = next(episode for episode in train if episode.success)
    if not config.goal or len({episode.tasks for episode in train}) > 1:
        return {}
    last = shown.keyframes[-1]
    rgb = shown.footage.read({config.front: [last]})[config.front][last]
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "goal.png", encode_png(rgb))
    return {f"goal/{config.front}": Path("goal.png")}
