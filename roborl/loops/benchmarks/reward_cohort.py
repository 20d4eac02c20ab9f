"""The episodes of a benchmark of reward models: what is fitted on some, what is judged on others, and what is graded."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from roborl.data.lerobot_files import Files, fingerprint, load_files
from roborl.data.lerobot_info import camera_keys, describe, describe_filmed
from roborl.data.lerobot_io import read_one
from roborl.errors import DatasetError
from roborl.loops.benchmarks.reward_config import BenchRewardConfig
from roborl.loops.failed_episodes import judged, verdicts
from roborl.loops.references import NoDemonstration, ReferencesConfig, read_demonstration
from roborl.loops.reward_training.training_episodes import split, to_training, views_of
from roborl.rewards.graded_videos import METADATA, GradedVideo, read_graded
from roborl.rewards.instructions import much_alike
from roborl.rewards.judges.queries import picture_key
from roborl.rewards.model import References
from roborl.rewards.observation_rate import check_alike
from roborl.rewards.subjects import StoredEpisode, Subject, stored
from roborl.rewards.training.episodes import TrainingEpisode
from roborl.rewards.training.labels import label_frames, plan_stages
from roborl.rewards.training.learnt_from import LearntFrom, Origin, read_learnt

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False, kw_only=True)
class Cohort:
    """The episodes of a benchmark.

    Attributes:
        validation: What things are fitted on.
        test: What models are judged on.
        references: What models are shown, by task.
        graded: Videos that people graded.
        left_out: Episodes whose task nobody demonstrates, where models are shown demonstrations.
        repeated: Episodes left out because a dataset that was named before holds them as well, with the same pictures.
        learnt: What each model learnt from, by its place; None where it does not say.
        graded_learnt: How many of the graded videos each model learnt from, by its place.
        left_out_learnt: Episodes and graded videos left out because a model learnt from them; none are where too few
            others would be left.
        fingerprints: Of the datasets and of what is said about graded videos.
    """

    validation: tuple[Subject, ...]
    test: tuple[Subject, ...]
    references: Mapping[str, References]
    graded: tuple[GradedVideo, ...] = ()
    left_out: int = 0
    repeated: int = 0
    learnt: Mapping[str, LearntFrom | None] = field(default_factory=dict)
    graded_learnt: Mapping[str, int] = field(default_factory=dict)
    left_out_learnt: int = 0
    fingerprints: Mapping[str, str]

    def fitted_on(self, place: str) -> tuple[Subject, ...]:
        """Return the validation episodes that a model's calibration is fitted on: none that it learnt from."""
        known = self.learnt.get(place) or LearntFrom()
        return tuple(s for s in self.validation if not known.holds(s.episode.origin))

    def learnt_by(self, place: str) -> int:
        """Return how many of the episodes and videos that a model is judged on are such that it learnt from."""
        known = self.learnt.get(place) or LearntFrom()
        return sum(known.holds(s.episode.origin) for s in self.test) + self.graded_learnt.get(place, 0)

    def described(self) -> dict[str, Any]:
        """Return what is in it, for the result."""
        successes = sum(s.episode.success for s in self.test)
        return {
            "datasets": dict(self.fingerprints),
            "validation_episodes": len(self.validation),
            "left_out": self.left_out,
            "repeated": self.repeated,
            "left_out_learnt": self.left_out_learnt,
            "test_successes": successes,
            "test_failures": len(self.test) - successes,
            "test_videos": len({s.episode.video for s in self.test}),
            "privileged_truth": sum(s.episode.benchmark is not None for s in self.test),
            "derived_grades": sum(s.level is not None for s in self.test),
            "given_grades": len(self.graded),
            "other_words": "another task's" if all(s.other_task for s in self.test) else "none",
        }


def read_cohort(config: BenchRewardConfig) -> Cohort:
    """Read the datasets, and set episodes aside for what has to be fitted; without datasets there are graded videos alone.

    What any of the models learnt from is left out for all, so that they are judged on the same, wherever enough is left.

    Raises:
        ConfigError: If the datasets differ in their rate.
        DatasetError: If a dataset, a demonstration or what is said about graded videos cannot be read, or the datasets do
            not hold two successes, one to fit on and one to judge.
        ModelLoadError: If what a model says it learnt from cannot be read.
    """
    graded = tuple(video for folder in config.graded for video in read_graded(Path(folder)))
    given = len(graded)
    check_alike({source: float(describe_filmed(source).fps) for source in config.dataset})
    said = {
        folder: hashlib.sha256((Path(folder) / METADATA).read_bytes()).hexdigest() for folder in config.graded
    }
    learnt = {place: read_learnt(place) for place in config.model}
    everyone: list[_Group] = []
    shown: dict[str, References] = {}
    marks: dict[str, str] = {}
    pictures: set[bytes] = set()
    left_out = repeated = 0
    named = Counter(Path(source).name for source in set(config.dataset))
    for source in config.dataset:
        name = Path(source).name
        group = name if named[name] == 1 else source
        marks[source] = fingerprint(source)
        found = _Dataset.described(config, source, marks[source])
        before = LearntFrom(origins=_origins(e for _, some in everyone for e in some))
        kept: list[StoredEpisode] = []
        shot: set[bytes] = set()
        for number in judged(source, found.told)[: config.episodes or None]:
            episode = found.episode(number)
            shots = b"".join(picture_key(*rgb) for rgb in episode.images.values())
            # The same motion before another camera, or in another light, is what robustness is measured on.
            if before.holds(episode.origin) and shots in pictures:
                repeated += 1
                continue
            shot.add(shots)
            if config.references.path:
                if episode.task not in shown:
                    shown[episode.task] = _demonstration(config.references, episode)
                left_out += not shown[episode.task]
                if not shown[episode.task] or _is(episode, shown[episode.task]):
                    continue
            kept.append(stored(episode, partial(found.episode, number)))
        everyone.append((group, kept))
        pictures |= shot
    if left_out:
        log.warning("%d episodes are left out: there is no demonstration of their task", left_out)
    if repeated:
        log.warning("%d episodes are left out: a dataset that was named before holds them as well", repeated)
    fit, test = _unseen(config, everyone, [k for k in learnt.values() if k is not None])
    seen = {place: _seen(graded, k) for place, k in learnt.items()}
    graded = tuple(video for video in graded if not any(video in some for some in seen.values())) or graded
    left_out_learnt = sum(len(some) for _, some in everyone) - len(fit) - len(test) + given - len(graded)
    if left_out_learnt:
        log.warning("%d episodes or videos are left out: models learnt from them", left_out_learnt)
    if config.dataset and not _enough(fit, test):
        counts = [sum(episode.success for _, episode in part) for part in (fit, test)]
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
        graded=graded,
        left_out=left_out,
        repeated=repeated,
        learnt=learnt,
        graded_learnt={place: len(some & set(graded)) for place, some in seen.items()},
        left_out_learnt=left_out_learnt,
        fingerprints=said | marks,
    )


type _Group = tuple[str, list[StoredEpisode]]
type _Part = list[tuple[str, StoredEpisode]]


def _parted(config: BenchRewardConfig, everyone: Sequence[_Group]) -> tuple[_Part, _Part]:
    """Return what is fitted on and what is judged, of each group a share; the same motion in other pictures stays with its twin."""
    fit: _Part = []
    test: _Part = []
    for group, episodes in everyone:
        fitted, tested = (LearntFrom(origins=_origins(e for _, e in part)) for part in (fit, test))
        to_fit = [e for e in episodes if fitted.holds(e.origin)]
        to_test = [e for e in episodes if tested.holds(e.origin)]
        alone = [e for e in episodes if not fitted.holds(e.origin) and not tested.holds(e.origin)]
        rest, held = split(alone, config.validation, config.seed)
        fit += [(group, episode) for episode in held + to_fit]
        test += [(group, episode) for episode in rest + to_test]
    return fit, test


def _origins(episodes: Iterable[StoredEpisode]) -> frozenset[Origin]:
    return frozenset(episode.origin for episode in episodes if episode.origin is not None)


def _unseen(
    config: BenchRewardConfig, everyone: Sequence[_Group], known: Sequence[LearntFrom]
) -> tuple[_Part, _Part]:
    """Part the episodes that no model learnt from; all of them where those are too few."""
    left = [
        (group, [e for e in some if not any(k.holds(e.origin) for k in known)]) for group, some in everyone
    ]
    fit, test = _parted(config, left)
    if not _enough(fit, test):
        return _parted(config, everyone)
    failures = [sum(not e.success for _, some in groups for e in some) for groups in (everyone, left)]
    if failures[0] and not failures[1]:
        log.warning("models learnt from every failure there is: what they make of failures is not measured")
    return fit, test


def _enough(fit: _Part, test: _Part) -> bool:
    return all(any(episode.success for _, episode in part) for part in (fit, test))


def _seen(videos: Sequence[GradedVideo], known: LearntFrom | None) -> set[GradedVideo]:
    """Return the graded videos that a model learnt from, and what else was made of the same recordings."""
    if known is None or not known.origins:
        return set()

    def learnt_from(video: GradedVideo) -> bool:
        # By its file too: models of earlier releases know no more of what they learnt from.
        return any(known.holds(Origin(content=content)) for content in (video.content(), video.digest()))

    recordings = {video.recording() for video in videos if learnt_from(video)}
    return {video for video in videos if video.recording() in recordings}


@dataclass(frozen=True, kw_only=True)
class _Dataset:
    """A dataset as a benchmark reads it, at first and each time that an episode is shown.

    Attributes:
        files: Its metadata.
        rows: The rows of its episodes in there, by their numbers.
        views: The cameras shown: by our names, their column, and height and width.
        told: The verdicts.
        mark: Its fingerprint.
    """

    files: Files
    rows: Mapping[int, Mapping[str, Any]]
    views: Mapping[str, tuple[str, tuple[int, int]]]
    told: bool | Mapping[int, bool] | None
    mark: str

    @classmethod
    def described(cls, config: BenchRewardConfig, source: str, mark: str) -> _Dataset:
        info, files = describe(source), load_files(source)
        keys = camera_keys(files.features)
        views = {
            ours: (keys[theirs], info.cameras[theirs])
            for ours, theirs in views_of(list(info.cameras), config.cameras, config.camera_map).items()
        }
        told = verdicts(config.failed, info.episodes)
        rows = {int(row["episode_index"]): row for row in files.episodes}
        return cls(files=files, rows=rows, views=views, told=told, mark=mark)

    def episode(self, number: int) -> TrainingEpisode:
        """Decode one episode that has more than a single frame."""
        told = self.told.get(number) if isinstance(self.told, Mapping) else self.told
        found = read_one(self.files, self.rows[number], self.views, told)
        assert found is not None, number
        return to_training(found, mark=self.mark)


def _subject_maker(
    everyone: Sequence[StoredEpisode], references: Mapping[str, References]
) -> Callable[[str, StoredEpisode], Subject]:
    tasks = sorted({episode.task for episode in everyone})
    of_task = {task: [e.subtasks for e in everyone if e.success and e.task == task] for task in tasks}
    plans = {task: plan_stages(spans) for task, spans in of_task.items() if spans}

    def make(group: str, episode: StoredEpisode) -> Subject:
        if episode.benchmark is not None:
            truth = np.asarray(episode.benchmark, np.float64)
        elif episode.task in plans:
            plan, spans = plans[episode.task], episode.subtasks
            labels = label_frames(plan, episode.frames, spans, success=episode.success, failure_ceiling=1.0)
            truth = labels.progress.astype(np.float64)
        else:
            truth = np.full(episode.frames, np.nan)
        return Subject(
            episode=episode,
            group=group,
            truth=truth,
            references=references.get(episode.task, {}),
            other_task=next((task for task in tasks if not much_alike(task, episode.task)), ""),
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
