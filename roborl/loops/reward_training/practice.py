"""What practice teaches a reward model: how its episodes came out is known, and where a policy's successes end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from roborl.clock import NS
from roborl.data.episodes import EpisodeInfo
from roborl.data.export import exported
from roborl.data.reader import StoreReader
from roborl.envs.ranges import check_number
from roborl.errors import DatasetError
from roborl.loops.learner.learn_config import RunFolder
from roborl.loops.reporting.run_results import LastProgress, ProgressCurve, last_progress, task_done
from roborl.loops.reward_training.training_episodes import at_size, to_training
from roborl.rewards.instructions import much_alike
from roborl.rewards.observation_rate import warn_of_rate
from roborl.rewards.training.episodes import TrainingEpisode
from roborl.rewards.training.evaluation import Watcher


@dataclass(frozen=True, kw_only=True)
class PracticeConfig:
    """Runs whose practice a reward model learns from beside the recordings."""

    # Folders of runs of train. Of an episode that succeeded its two ends teach, for nobody marked more.
    runs: list[str] = field(default_factory=list)
    # Newest episodes of each run that are looked at.
    newest: int = 200

    def __post_init__(self) -> None:
        check_number("practice.newest", self.newest, at_least=1, remedy="Set --practice.newest")


@dataclass(frozen=True, kw_only=True)
class Practice:
    """Episodes of practice, in the order in which they came.

    Attributes:
        lessons: Successes to learn from.
        held_out: Those that came after them, however they came out, to measure on.
    """

    lessons: Sequence[TrainingEpisode] = ()
    held_out: Sequence[TrainingEpisode] = ()


@dataclass(frozen=True, kw_only=True)
class PracticeReport:
    """What a reward model makes of practice.

    Attributes:
        taught: Successes that it learnt from.
        last: What it said last of episodes that came later, by how they came out.
    """

    taught: int
    last: Sequence[LastProgress]

    def as_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {"taught": self.taught, "held_out": [asdict(row) for row in self.last]}

    def __str__(self) -> str:
        """The report for people, a line for each way in which episodes came out."""
        lines = [
            f"{row.outcome} ({row.episodes}): {row.above_half} end at 0.5 or more, median {row.median:.2f},"
            f" lowest tenth below {row.low:.2f}, highest above {row.high:.2f}"
            for row in self.last
        ]
        later = "; of later episodes" if lines else ""
        return "\n".join([f"learnt from {self.taught} successes of practice{later}", *lines])


def read_practice(
    config: PracticeConfig,
    *,
    cameras: Sequence[str],
    tasks: Sequence[str],
    rate_hz: float,
    side_px: int,
    held_out: float,
    unseen_state: int | None = None,
) -> Practice:
    """Read what runs practised; blocks. Discarded episodes are left out, and those of which nobody said how they came out.

    Args:
        config: Which runs.
        cameras: The views that the model sees.
        tasks: The instructions of the recordings.
        rate_hz: Their observations per second. A run is taken at its own, for there the model is to be used; one that is far
            from this is warned of.
        side_px: Pictures become squares of this side as they are read.
        held_out: Share of each run's episodes, the newest of them, that is measured on.
        unseen_state: Size of the recordings' state where the model does not look at it: then a run's may have another.

    Raises:
        DatasetError: If a run has no store or no success to learn from, is of another task, or lacks a camera.
    """
    lessons: list[TrainingEpisode] = []
    later: list[TrainingEpisode] = []
    for run in config.runs:
        reader = _open(run)
        infos = [info for info in reader.episodes() if _counts(info)][-config.newest :]
        _check_task(run, infos, tasks)
        first_held = len(infos) - round(held_out * len(infos))
        won = [info for info in infos[:first_held] if task_done(info)]
        if not won:
            raise DatasetError(
                "No episode of this practice succeeded, so it teaches no ends",
                seen=f"{run}: {first_held} judged episodes to learn from",
                allowed="a run of roborl train with successes",
                remedy="Let it practise on, or leave it out",
            )
        taught, rates = zip(*_read(reader, won, cameras, side_px), strict=True)
        warn_of_rate(rate_hz, round(float(np.median(rates)), 1), f"practice of {run}")
        lessons.extend(taught)
        later.extend(episode for episode, _ in _read(reader, infos[first_held:], cameras, side_px))
    if unseen_state is not None:
        lessons, later = (
            [_without_state(e, unseen_state) for e in episodes] for episodes in (lessons, later)
        )
    return Practice(lessons=lessons, held_out=later)


def measure_practice(watch: Watcher, practice: Practice) -> PracticeReport:
    """Return what a model says last of the episodes that are held out; one whose last score is missing is left out."""
    curves = []
    for episode in practice.held_out:
        progress = watch(episode, range(episode.frames)).astype(np.float32)
        if not np.isnan(progress[-1]):
            curves.append(ProgressCurve(name=episode.kind, progress=progress, success=episode.success))
    return PracticeReport(taught=len(practice.lessons), last=last_progress(curves))


def _open(run: str) -> StoreReader:
    store = RunFolder(Path(run)).store
    if not store.is_dir():
        raise DatasetError(
            "There is no run in this folder to learn from",
            seen=run,
            allowed="the folder that train was told with --run",
            remedy="Of a demonstration that is the folder run in its own",
        )
    return StoreReader(store, leave_out_torn=True)


def _counts(info: EpisodeInfo) -> bool:
    return (
        info.kind == "online"
        and info.end is not None
        and info.steps > 0
        and not info.discarded
        and task_done(info) is not None
    )


def _without_state(episode: TrainingEpisode, size: int) -> TrainingEpisode:
    return replace(episode, state=np.zeros((episode.frames, size), np.float32))


def _check_task(run: str, infos: Sequence[EpisodeInfo], tasks: Sequence[str]) -> None:
    others = sorted({i.task for i in infos if not any(much_alike(i.task, task) for task in tasks)})
    if others:
        raise DatasetError(
            "This practice is of another task than the recordings, and its stages are not theirs",
            seen=f"{run}: {others}",
            allowed=sorted(set(tasks)),
        )


def _read(
    reader: StoreReader, infos: Sequence[EpisodeInfo], cameras: Sequence[str], side_px: int
) -> Iterator[tuple[TrainingEpisode, float]]:
    """Yield episodes as a reward model is shown them, with their observations per second; each is made ready before the next is read."""
    for info in infos:
        recorded = exported(reader, info)
        assert recorded.provenance is not None, "an episode of a store has one"
        hz = NS / float(np.median(np.diff(recorded.provenance.stamp_ns[:, 0])))
        lesson = to_training(recorded, cameras)
        lesson = replace(lesson, success=bool(task_done(info)), kind="practice", ends_only=True)
        yield at_size(lesson, side_px), hz
