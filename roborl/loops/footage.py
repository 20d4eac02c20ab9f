"""Filmed episodes for judges, from a LeRobotDataset, an RLDS dataset, or a folder of videos with their keyframes."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from roborl.data.annotations import read_keyframes
from roborl.data.dataset_episode import DatasetEpisode, Subtask
from roborl.data.demos import as_judged
from roborl.data.lerobot_files import fingerprint
from roborl.data.lerobot_info import describe, describe_filmed
from roborl.data.lerobot_io import read_episodes
from roborl.data.oxe import known_onset
from roborl.data.rlds.shards import find_rlds
from roborl.errors import DatasetError
from roborl.loops.failed_episodes import judges_some, verdicts, with_task
from roborl.loops.rlds_footage import read_rlds_footage, until_onset
from roborl.rewards.adaptation.lessons import FilmedEpisode
from roborl.rewards.references import count_frames, video_frames
from roborl.rewards.training.learnt_from import Origin
from roborl.types import Image

log = logging.getLogger(__name__)

KEYFRAMES = "annotated_keyframes.json"
"""Name of the file by which an episode of the second kind is known; Robo-Dopamine's own."""
_INSTRUCTIONS = "task_instruction.json"
_RATE_SHARE = 0.01  # By which the frames per second of two videos may differ.


def is_footage(dataset: str) -> bool:
    """Whether a dataset is a folder of videos with their keyframes."""
    return any(Path(dataset).glob(f"*/{KEYFRAMES}"))


def read_footage(
    dataset: str,
    *,
    episodes: Sequence[int] = (),
    camera_map: Mapping[str, str] | None = None,
    failed: Sequence[int] = (),
) -> tuple[list[FilmedEpisode], float]:
    """Return the episodes of a dataset, without decoding a picture.

    Args:
        dataset: A LeRobotDataset (folder or hub id); an RLDS dataset that ``datasets/oxe.yaml`` knows; or a folder that
            holds one folder per episode, each with ``annotated_keyframes.json`` and a video per camera, and
            ``task_instruction.json`` with ways of saying the one task of them all.
        episodes: Which, by number, in this order; all where none is named. In a folder of videos they count from 0, by
            name.
        camera_map: Our camera name to the dataset's, where they differ.
        failed: Numbers of episodes that failed, whatever the dataset says.

    Returns:
        The episodes, discarded ones and such without an instruction or a verdict left out, and the observations per second.

    Raises:
        DatasetError: If it cannot be read, or lacks an episode that is named.
    """
    if is_footage(dataset):
        found, rate = _filmed(Path(dataset), episodes, camera_map or {}, failed)
    elif find_rlds(dataset) is not None:
        found, rate = read_rlds_footage(dataset, episodes, camera_map or {}, failed)
    else:
        info = describe_filmed(dataset)
        rate, success = info.fps, verdicts(failed, info.episodes)
        read = read_episodes(dataset, episodes=list(episodes) or None, with_images=False, success=success)
        kept = {e.index: e for e in read if not e.discarded}
        order = [index for index in episodes or kept if index in kept]
        usable = with_task([kept[index] for index in order], dataset, lambda: judges_some(dataset))
        found = recorded(usable, dataset, camera_map or {}, mark=fingerprint(info.root))
    if not found or (episodes and len(found) != len(episodes)):
        raise DatasetError(
            "The dataset has no such episodes, or they have no instruction or verdict, repeat a sub-task or are to be kept out of"
            " training",
            seen=list(episodes) or "no episodes",
            allowed=f"different ones of {dataset}",
        )
    return found, rate


def recorded(
    episodes: Sequence[DatasetEpisode], dataset: str, camera_map: Mapping[str, str], *, mark: str = ""
) -> list[FilmedEpisode]:
    """Return the episodes of a LeRobotDataset as lessons take them.

    Without a verdict an episode is a success. A failure with marked sub-tasks has reached the share of the stages that
    it got through, if its marks are a beginning of those of the successes: its last one was not completed. A success in
    which a sub-task had to be done again is left out: what is asked of these judges rises from mark to mark. ``mark`` is the
    dataset's fingerprint. What came after a verdict ended the task is no part of an episode, see
    :func:`~roborl.data.demos.as_judged`; it is known again by the whole recording.

    Where no sub-task is marked, a success is done where ``datasets/oxe.yaml`` says that its dataset's usually are.
    """
    origins = {e.index: Origin(content=e.content, dataset=mark, index=e.index) for e in episodes}
    episodes = [as_judged(episode) for episode in episodes]
    onset = known_onset(dataset) or 1.0
    marked = [[s.name for s in e.subtasks] for e in episodes if e.success is not False]
    straight = [names for names in marked if len(set(names)) == len(names)]
    stages = max(straight, key=len, default=[]) or max(marked, key=len, default=[])
    undone = {e.index for e in episodes if e.success is not False and straight and _repeats(e.subtasks)}
    if undone:
        log.warning(
            "left out of %s, for a sub-task in them is marked more than once: %s", dataset, sorted(undone)
        )
    return [
        FilmedEpisode(
            name=f"episode {episode.index} of {dataset}",
            tasks=(episode.task,),
            count=episode.steps + 1,
            kind="success" if episode.success is not False else episode.failure or "failure",
            keyframes=_edges(episode.subtasks, episode.steps) or until_onset(episode, onset)
            if episode.success is not False
            else (),
            reached=_reached(episode.subtasks, stages) if episode.success is False else None,
            footage=DatasetFootage(dataset=dataset, index=episode.index, camera_map=dict(camera_map)),
            origin=origins[episode.index],
        )
        for episode in episodes
        if episode.index not in undone
    ]


@dataclass(frozen=True, kw_only=True)
class DatasetFootage:
    """Pictures of one episode of a LeRobotDataset.

    Attributes:
        dataset: Folder or hub id.
        index: Its ``episode_index``.
        camera_map: Our camera name to the dataset's, where they differ.
    """

    dataset: str
    index: int
    camera_map: Mapping[str, str]

    def read(self, wanted: Mapping[str, Sequence[int]]) -> dict[str, dict[int, Image]]:
        """Decode the episode and keep what is wanted."""
        sizes = describe(self.dataset).cameras
        theirs = {camera: self.camera_map.get(camera, camera) for camera in wanted}
        absent = sorted(set(theirs.values()) - set(sizes))
        if absent:
            raise DatasetError(
                "The dataset lacks a camera",
                seen=absent,
                allowed=sorted(sizes),
                remedy="Name the model's cameras, as in --model.front, or map them: --camera_map",
            )
        (episode,) = read_episodes(
            self.dataset,
            cameras={ours: sizes[name] for ours, name in theirs.items()},
            camera_map=theirs,
            episodes=[self.index],
        )
        return {
            camera: {i: episode.images[camera][i].copy() for i in indices}
            for camera, indices in wanted.items()
        }


@dataclass(frozen=True, kw_only=True)
class VideoFootage:
    """Pictures of one episode that lies as videos in a folder.

    Attributes:
        folder: With ``CAMERA.mp4`` for each camera.
        camera_map: Our camera name to the file's, where they differ.
        side_px: Makes pictures squares of this side as they are decoded; None leaves them as they are.
    """

    folder: Path
    camera_map: Mapping[str, str]
    side_px: int | None = None

    def read(self, wanted: Mapping[str, Sequence[int]]) -> dict[str, dict[int, Image]]:
        """Decode what is wanted."""
        found = {}
        for camera, indices in wanted.items():
            path = self.folder / f"{self.camera_map.get(camera, camera)}.mp4"
            found[camera] = video_frames(path, indices, side_px=self.side_px)
            absent = sorted(set(indices) - set(found[camera]))
            if absent:
                raise DatasetError(
                    "A video lacks frames",
                    seen=f"{path}: {absent[:5]}" if path.is_file() else f"no {path}",
                    allowed=sorted(p.stem for p in self.folder.glob("*.mp4")),
                    remedy="Name the model's cameras, as in --model.front, or map them: --camera_map",
                )
        return found


def _filmed(
    root: Path, episodes: Sequence[int], camera_map: Mapping[str, str], failed: Sequence[int]
) -> tuple[list[FilmedEpisode], float]:
    folders = sorted(path.parent for path in root.glob(f"*/{KEYFRAMES}"))
    verdicts(failed, len(folders))
    tasks = read_instructions(root)
    found: list[FilmedEpisode] = []
    rates: dict[Path, float] = {}
    for number in [i for i in episodes or range(len(folders)) if 0 <= i < len(folders)]:
        folder, success = folders[number], number not in failed
        videos = sorted(folder.glob("*.mp4"))
        # Of one of them: a shorter one is noticed when its pictures are read, and going through a video takes long.
        count = count_frames(videos[0]) if videos else 0
        marks = _marks(folder / KEYFRAMES)
        if count < 2 or not marks or marks[-1].end > count:
            raise DatasetError(
                "The videos of an episode do not go with its keyframes",
                seen=f"{folder}: {count} frames in the first of {len(videos)} videos",
                allowed=f"at least {marks[-1].end if marks else 2} frames and one keyframe",
            )
        rates[videos[0]] = _rate(videos[0])
        found.append(
            FilmedEpisode(
                name=str(folder),
                tasks=tasks,
                count=count,
                kind="success" if success else "failure",
                keyframes=_edges(marks, count - 1) if success else (),
                subtasks=tuple((mark.name, mark.start, min(mark.end, count - 1)) for mark in marks),
                footage=VideoFootage(folder=folder, camera_map=dict(camera_map)),
                origin=Origin(content=hashlib.sha256(videos[0].read_bytes()).hexdigest(), index=number),
            )
        )
    return found, _common_rate(rates)


def _common_rate(rates: Mapping[Path, float]) -> float:
    """Return the frames per second that all videos have, 0 without any."""
    slow, fast = (
        min(rates, key=rates.__getitem__, default=None),
        max(rates, key=rates.__getitem__, default=None),
    )
    if slow is None or fast is None:
        return 0.0
    if rates[fast] > rates[slow] * (1 + _RATE_SHARE):
        raise DatasetError(
            "The episodes of a folder of videos were filmed at different rates",
            seen=f"{slow}: {rates[slow]:g} frames per second, {fast}: {rates[fast]:g}",
            allowed="the same for all, by which what is learnt counts time",
            remedy="Write them anew at one rate (ffmpeg -r), or put them into folders of their own: --episodes takes some",
        )
    return rates[slow]


def _marks(path: Path) -> tuple[Subtask, ...]:
    found = list(read_keyframes(path).values())
    if len(found) != 1:
        raise DatasetError(
            "Keyframes beside the videos of one episode are not those of one episode",
            seen=f"{path}: of {len(found)} episodes",
            allowed="a list of {annotation, start_frame_id, end_frame_id}",
            remedy="Give each episode a folder of its own, with its marks: roborl annotate --help",
        )
    return found[0]


def read_instructions(root: Path) -> tuple[str, ...]:
    """Return the ways of saying the one task of a folder of videos.

    Raises:
        DatasetError: If there are none.
    """
    path = root / _INSTRUCTIONS
    try:
        tasks = json.loads(path.read_text())
        if not isinstance(tasks, list) or not tasks or not all(isinstance(t, str) and t for t in tasks):
            raise ValueError("no list of words")
    except (OSError, ValueError) as error:
        raise DatasetError(
            "The instructions of a folder of videos cannot be read",
            seen=f"{path}: {error}",
            allowed="a JSON list of one or more ways of saying the task",
        ) from error
    return tuple(tasks)


def _rate(video: Path) -> float:
    import cv2

    capture = cv2.VideoCapture(str(video))
    rate = float(capture.get(cv2.CAP_PROP_FPS))
    capture.release()
    return rate


def _edges(subtasks: Sequence[Subtask], last: int) -> tuple[int, ...]:
    """Return where sub-tasks begin and the last one ends; nothing where none is marked."""
    edges = [*(s.start for s in subtasks), min(subtasks[-1].end, last)] if subtasks else []
    return tuple(dict.fromkeys(edges))


def _repeats(subtasks: Sequence[Subtask]) -> bool:
    return len({s.name for s in subtasks}) < len(subtasks)


def _reached(subtasks: Sequence[Subtask], stages: Sequence[str]) -> float | None:
    names = [s.name for s in subtasks]
    return (len(names) - 1) / len(stages) if names and names == list(stages[: len(names)]) else None
