"""The demonstration that reward models are shown: read once by whoever opens sessions, and passed with each of them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from roborl.data.lerobot_info import describe_filmed
from roborl.data.lerobot_io import read_episodes
from roborl.errors import ConfigError, DatasetError
from roborl.loops.failed_episodes import verdicts
from roborl.loops.footage import VideoFootage, is_footage, read_footage, recorded
from roborl.loops.references_config import ReferencesConfig as ReferencesConfig
from roborl.rewards.adaptation.lessons import FilmedEpisode
from roborl.rewards.references import Pictures, count_frames, digest, spaced

log = logging.getLogger(__name__)

# A part of a message has 32 MiB at most; and while references travel, nothing else does.
_MOST_BYTES = 16 << 20


class NoDemonstration(DatasetError):
    """A task that no success of the dataset shows."""


def read_demonstration(config: ReferencesConfig, cameras: Sequence[str], task: str) -> dict[str, Pictures]:
    """Return what sessions are to bring; blocks while videos are decoded.

    Args:
        config: Which demonstration.
        cameras: Views of whoever opens the sessions; one that the demonstration lacks is left out, and a model that
            needs it says so.
        task: The instruction in words.

    Returns:
        Read-only arrays by name: ``demo/<camera>`` uint8 (t, h, w, 3), or ``goal/<camera>`` uint8 (h, w, 3) where one
        picture is to be shown. Of a camera with large pictures there are fewer, so that no session takes long to open.
        Empty where no demonstration is named.

    Raises:
        NoDemonstration: If no success is of the task.
        DatasetError: If there is no such demonstration, or it was filmed by none of these cameras.
        ConfigError: If its pictures are too large to go with every session.
    """
    if not config.path:
        return {}
    shown, filmed = _find(config, task)
    views = [name for name in cameras if config.camera_map.get(name, name) in filmed]
    if not views:
        raise DatasetError(
            "The demonstration was filmed by none of the cameras",
            seen=filmed,
            allowed=list(cameras),
            remedy="Map them: --references.camera_map '{OURS: THEIRS}'",
        )
    places = spaced(shown.count, config.frames)
    references: dict[str, Pictures] = {}
    for name, pictures in shown.footage.read(dict.fromkeys(views, places)).items():
        kept = _bounded(np.stack([pictures[place] for place in places]), name)
        kept.flags.writeable = False
        references[f"goal/{name}" if config.frames == 1 else f"demo/{name}"] = (
            kept[-1] if config.frames == 1 else kept
        )
    log.info(
        "Reward models are shown %s (%s): %s, %.1f MB with every session",
        shown.name,
        digest(references),
        ", ".join(f"{name} {pictures.shape}" for name, pictures in references.items()),
        sum(pictures.nbytes for pictures in references.values()) / 1e6,
    )
    return references


def _find(config: ReferencesConfig, task: str) -> tuple[FilmedEpisode, list[str]]:
    """Return the demonstration and the cameras that filmed it."""
    root = Path(config.path)
    videos = sorted(root.glob("*.mp4"))
    if videos:
        footage = VideoFootage(folder=root, camera_map=config.camera_map)
        count = count_frames(videos[0])
        if not count:
            raise DatasetError(
                "A video cannot be opened",
                seen=videos[0],
                allowed="a whole video with at least one picture",
                remedy="Take it out of the folder, or record it again",
            )
        episode = FilmedEpisode(name=str(root), tasks=(), count=count, kind="success", footage=footage)
        return episode, [video.stem for video in videos]
    if is_footage(config.path):
        (episode,), _ = read_footage(
            config.path,
            episodes=[max(config.episode, 0)],
            camera_map=config.camera_map,
            failed=config.failed,
        )
        assert isinstance(episode.footage, VideoFootage), "it was found in a folder of videos"
        filmed = [video.stem for video in sorted(episode.footage.folder.glob("*.mp4"))]
        return _of_task(config, [episode], task), filmed
    chosen = None if config.episode < 0 else [config.episode]
    info = describe_filmed(config.path)
    told = verdicts(config.failed, info.episodes)
    read = (
        recorded([e], config.path, config.camera_map)[0]
        for e in read_episodes(config.path, episodes=chosen, with_images=False, success=told)
        if not e.discarded and not e.more_tasks
    )
    return _of_task(config, read, task), sorted(info.cameras)


def _of_task(config: ReferencesConfig, episodes: Iterable[FilmedEpisode], task: str) -> FilmedEpisode:
    """Return the first that is a success, and of the task unless it was named."""
    others: set[str] = set()
    for episode in episodes:
        if episode.success and (config.episode >= 0 or task in episode.tasks):
            return episode
        others.update(episode.tasks if episode.success else ())
    if config.episode >= 0:
        raise DatasetError(
            "The demonstration is not there, or is no success",
            seen=f"episode {config.episode} of {config.path}",
            allowed="a successful episode that is not discarded",
            remedy="Name another: --references.episode",
        )
    raise NoDemonstration(
        "There is no demonstration of the task",
        seen=repr(task),
        allowed=sorted(others) or f"no success in {config.path}",
        remedy="Name an episode that shows it in other words: --references.episode NUMBER",
    )


def _bounded(pictures: Pictures, camera: str) -> Pictures:
    most = _MOST_BYTES // pictures[0].nbytes
    if most < min(len(pictures), 2):
        raise ConfigError(
            "The pictures of a demonstration are too large to go with every session",
            seen=f"{pictures[0].nbytes / 1e6:.0f} MB each from {camera}",
            allowed=f"{_MOST_BYTES / 1e6:.0f} MB for all of a camera",
            remedy="Show one picture, --references.frames 1, or a smaller recording",
        )
    return pictures if len(pictures) <= most else pictures[spaced(len(pictures), most)]
