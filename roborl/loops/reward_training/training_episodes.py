"""The episodes that a reward model learns from or is measured on: from a dataset or a folder of videos, thinned out, split."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from roborl.data.dataset_episode import DatasetEpisode
from roborl.data.demos import as_judged
from roborl.data.lerobot_files import fingerprint
from roborl.data.lerobot_info import describe_filmed
from roborl.data.lerobot_io import read_episodes
from roborl.errors import ConfigError, DatasetError
from roborl.loops.failed_episodes import judged, verdicts
from roborl.loops.footage import VideoFootage, is_footage, read_footage
from roborl.rewards.adaptation.lessons import FilmedEpisode
from roborl.rewards.instructions import much_alike
from roborl.rewards.training.episodes import TrainingEpisode, resize_episode
from roborl.rewards.training.labels import Span
from roborl.rewards.training.learnt_from import Origin


def read_training(
    dataset: str,
    *,
    episodes: Sequence[int] = (),
    cameras: Sequence[str] = (),
    camera_map: Mapping[str, str] | None = None,
    failed: Sequence[int] = (),
    rate_hz: float = 0.0,
    side_px: int | None = None,
) -> tuple[dict[int, TrainingEpisode], float]:
    """Read episodes with their pictures; blocks. Discarded ones are left out, those of several tasks, and of unknown outcome among judged ones.

    Args:
        dataset: A LeRobotDataset v3, or a folder of videos with keyframes; see
            :func:`~roborl.loops.footage.read_footage`. Videos have no proprioception: their states are of size 0.
        episodes: Which, by number; all where none is named.
        cameras: Views to read, by our names; all where none is named.
        camera_map: Our camera name to the dataset's, where they differ. A camera whose name is given to another is left out.
        failed: Numbers of episodes that failed, whatever the dataset says.
        rate_hz: Observations per second that are kept; 0 for every recorded one.
        side_px: Pictures become squares of this side as they are read, so that only those are held; None leaves them
            as they are.

    Returns:
        The episodes by number, in the order in which they were named; and the observations per second that they have.

    Raises:
        DatasetError: If the dataset cannot be read, has no camera, or lacks an episode or a camera that is named.
    """
    if is_footage(dataset):
        return _read_videos(dataset, episodes, cameras, camera_map or {}, failed, rate_hz, side_px)
    info = describe_filmed(dataset)
    views = views_of(list(info.cameras), cameras, camera_map or {})
    told = verdicts(failed, info.episodes)
    found = read_episodes(
        info.root,
        cameras={ours: info.cameras[theirs] for ours, theirs in views.items()},
        camera_map=views,
        success=told,
        episodes=judged(dataset, told, episodes=episodes),
    )
    mark = fingerprint(info.root)
    # Each is made ready before the next is decoded: the pictures of a whole dataset at recorded size fill a memory.
    read = {e.index: at_size(_thinned(to_training(e, mark=mark), info.fps, rate_hz), side_px) for e in found}
    if absent := sorted(set(episodes) - set(read)):
        raise DatasetError(
            "The dataset has no such episodes, or they have no verdict, several instructions, or are to be kept out of training",
            seen=absent,
            allowed=f"others of {dataset}",
        )
    return {number: read[number] for number in episodes or read}, _kept_hz(info.fps, rate_hz)


def _read_videos(
    dataset: str,
    episodes: Sequence[int],
    cameras: Sequence[str],
    camera_map: Mapping[str, str],
    failed: Sequence[int],
    rate_hz: float,
    side_px: int | None,
) -> tuple[dict[int, TrainingEpisode], float]:
    """Read a folder of videos as :func:`read_training` does."""
    filmed, fps = read_footage(dataset, episodes=episodes, camera_map=camera_map, failed=failed)
    read = {
        number: _filmed(episode, cameras, _kept(episode.count, fps, rate_hz), side_px)
        for number, episode in zip(list(episodes) or range(len(filmed)), filmed, strict=True)
    }
    return read, _kept_hz(fps, rate_hz)


def views_of(have: Sequence[str], cameras: Sequence[str], camera_map: Mapping[str, str]) -> dict[str, str]:
    """Return the views to read, our camera name to the dataset's.

    Raises:
        DatasetError: If the dataset lacks one of them, or one that the map names.
    """
    spare = [name for name in have if name not in camera_map and name not in camera_map.values()]
    views = {name: camera_map.get(name, name) for name in cameras or [*camera_map, *spare]}
    if absent := sorted({*views.values(), *camera_map.values()} - set(have)):
        raise DatasetError(
            "The dataset lacks a camera",
            seen=absent,
            allowed=list(have),
            remedy="Where its name is another, map it, ours to the dataset's: --camera_map '{OURS: THEIRS}'",
        )
    return views


def at_size(episode: TrainingEpisode, side_px: int | None) -> TrainingEpisode:
    """Return an episode with its pictures as squares of this side, as it is where that is None."""
    if side_px is None:
        return episode
    names = list(episode.images)
    return replace(episode, images=dict(zip(names, resize_episode(episode, names, side_px), strict=True)))


def _filmed(
    episode: FilmedEpisode, cameras: Sequence[str], places: NDArray[np.int64], side_px: int | None
) -> TrainingEpisode:
    assert isinstance(episode.footage, VideoFootage), "it was found in a folder of videos"
    footage = replace(episode.footage, side_px=side_px)
    have = sorted(video.stem for video in footage.folder.glob("*.mp4"))
    # One camera at a time: the pictures of a video are let go as soon as they stand in one array.
    pictures = {
        name: footage.read({name: places.tolist()})[name]
        for name in views_of(have, cameras, footage.camera_map)
    }
    return TrainingEpisode(
        images={name: np.stack([found[i] for i in places.tolist()]) for name, found in pictures.items()},
        state=np.zeros((len(places), 0), np.float32),
        task=episode.tasks[0],
        success=episode.success,
        subtasks=_spans(episode.subtasks, places) or None,
        kind=episode.kind,
        origin=episode.origin,
    )


def _kept_hz(fps: float, rate_hz: float) -> float:
    """Return the observations per second that are kept."""
    return float(rate_hz if 0 < rate_hz < fps else fps)


def _kept(count: int, fps: float, rate_hz: float) -> NDArray[np.int64]:
    """Return the observations that are kept of ``count``, evenly spaced back from the last: that is where the work is done."""
    every = fps / rate_hz if 0 < rate_hz < fps else 1.0
    return np.unique(count - 1 - np.arange(0, count, every).astype(np.int64))


def _spans(spans: Sequence[Span], places: NDArray[np.int64]) -> list[Span]:
    """Return spans as the thinned-out episode counts, each edge at the first observation from it on.

    One that is passed between two observations still gets a step, from the one behind it or, at the end, from those before.
    """
    names = [name for name, _, _ in spans]
    edges = [[int(np.searchsorted(places, edge)) for edge in span[1:]] for span in spans]
    free = 0
    for edge in edges:
        edge[0] = max(edge[0], free)
        free = edge[1] = max(edge[1], edge[0] + 1)
    free = len(places) - 1
    for edge in reversed(edges):
        edge[1] = min(edge[1], free)
        free = edge[0] = min(edge[0], edge[1] - 1)
    return [(name, start, end) for name, (start, end) in zip(names, edges, strict=True)]


def _thinned(episode: TrainingEpisode, fps: float, rate_hz: float) -> TrainingEpisode:
    places = _kept(episode.frames, fps, rate_hz)
    if len(places) == episode.frames:
        return episode
    return replace(
        episode,
        images={name: rgb[places] for name, rgb in episode.images.items()},
        state=episode.state[places],
        subtasks=None if episode.subtasks is None else _spans(episode.subtasks, places),
        benchmark=None if episode.benchmark is None else episode.benchmark[places],
    )


def to_training(episode: DatasetEpisode, cameras: Sequence[str] = (), *, mark: str = "") -> TrainingEpisode:
    """Return what a reward model may learn from an episode; without a verdict it is taken as a success.

    What came after a verdict ended the task is no part of it, see :func:`~roborl.data.demos.as_judged`; it is known again by
    the whole recording.

    Args:
        episode: The episode.
        cameras: Its views; all where none is named.
        mark: Fingerprint of its dataset.

    Raises:
        DatasetError: If it lacks a camera that is named.
    """
    names = list(cameras) or sorted(episode.images)
    missing = [name for name in names if name not in episode.images]
    if missing:
        raise DatasetError("The dataset lacks a camera", seen=sorted(episode.images), allowed=names)
    success = episode.success is not False
    kept = as_judged(episode)
    return TrainingEpisode(
        images={name: kept.images[name] for name in names},
        state=kept.state,
        task=episode.task,
        success=success,
        subtasks=[(part.name, part.start, part.end) for part in kept.subtasks] or None,
        kind="success" if success else episode.failure or "failure",
        benchmark=kept.benchmark_progress,
        origin=Origin(content=episode.content, dataset=mark, index=episode.index),
    )


def check_named_once(option: str, numbers: Sequence[int]) -> None:
    """See that no episode is named twice: one of the two might be learnt from and the other held out.

    Raises:
        ConfigError: If one is.
    """
    if repeated := sorted({number for number in numbers if numbers.count(number) > 1}):
        raise ConfigError(
            "Episodes are named more than once",
            seen=f"{option} with {repeated} again",
            allowed="each number once",
            remedy="Leave the repeated ones out",
        )


def check_one_task(tasks: Mapping[int, str]) -> None:
    """See that episodes are of one task, as far as their instructions tell; spelling makes no other task.

    Args:
        tasks: Instructions by the number of the episode.

    Raises:
        DatasetError: If they are not.
    """
    found: dict[str, list[int]] = {}
    for number, task in tasks.items():
        said = next((known for known in found if much_alike(known, task)), task)
        found.setdefault(said, []).append(number)
    if len(found) > 1:
        raise DatasetError(
            "The episodes are of more than one task, and what they go through is not the same",
            seen=", ".join(f"{task!r} in {numbers}" for task, numbers in found.items()),
            allowed="episodes with one instruction",
            remedy=f"Name those of one task, such as --episodes '{next(iter(found.values()))}'",
        )


class OfKind(Protocol):
    """An episode of which it is known what sort it is."""

    @property
    def kind(self) -> str:
        """Such as ``success`` or ``miss``."""
        ...


def split[E: OfKind](
    episodes: Sequence[E], held_out: float, seed: int, *, spare: Callable[[E], bool] = lambda _: True
) -> tuple[list[E], list[E]]:
    """Hold out a share of every kind of episode, at least one where there are two; the same for the same seed.

    Args:
        episodes: All.
        held_out: The share.
        seed: Which ones.
        spare: Which can be held out at all; where too few can, fewer are.
    """
    rng = np.random.default_rng(seed)
    train: list[E] = []
    rest: list[E] = []
    for kind in sorted({episode.kind for episode in episodes}):
        same = [episode for episode in episodes if episode.kind == kind]
        count = max(round(held_out * len(same)), int(held_out > 0.0 and len(same) > 1))
        order = [i for i in rng.permutation(len(same)).tolist() if spare(same[i])]
        chosen = set(order[:count])
        for index, episode in enumerate(same):
            (rest if index in chosen else train).append(episode)
    return train, rest
