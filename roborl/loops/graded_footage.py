"""Graded videos as judges of videos learn from them: every question with its grade, and none of an episode held out alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from roborl.errors import DatasetError
from roborl.rewards.adaptation.lessons import FilmedEpisode
from roborl.rewards.graded_videos import METADATA, GradedVideo, read_graded
from roborl.rewards.grades import HIGHEST
from roborl.rewards.references import video_frames
from roborl.rewards.training.learnt_from import Origin
from roborl.types import Image


def is_graded(dataset: str) -> bool:
    """Whether a dataset is a folder of graded videos, as each split of RoboReward and of ``roborl relabel``."""
    return (Path(dataset) / METADATA).is_file()


def read_graded_footage(dataset: str, *, rate_hz: float, episodes: Sequence[int] = ()) -> list[FilmedEpisode]:
    """Return the questions of a folder of graded videos; blocks while it counts their frames.

    Args:
        dataset: The folder.
        rate_hz: Observations per second.
        episodes: Which lines of its metadata, from 0; all where none is named.

    Raises:
        DatasetError: If it cannot be read, or lacks a line that is named.
    """
    graded = read_graded(Path(dataset))
    if absent := sorted(number for number in set(episodes) if not 0 <= number < len(graded)):
        raise DatasetError(
            "The folder has no such graded videos", seen=absent, allowed=f"0 to {len(graded) - 1}"
        )
    places: dict[Path, tuple[int, ...]] = {}
    recordings: dict[Path, str] = {}
    contents: dict[Path, str] = {}
    found = []
    for number in episodes or range(len(graded)):
        video = graded[number]
        if video.file not in places:
            places[video.file] = tuple(video.places(rate_hz))
            contents[video.file] = video.content()
            recordings[video.file] = video.recording()
        at = places[video.file]
        best = video.level == HIGHEST
        found.append(
            FilmedEpisode(
                name=f"line {number + 1} of {Path(dataset) / METADATA}",
                tasks=(video.task,),
                count=len(at),
                kind="success" if best else f"score {video.level}",
                keyframes=(0, len(at) - 1) if best else (),
                level=video.level,
                ladder=video.ladder or recordings[video.file],
                footage=GradedFootage(video=video, places=at),
                origin=Origin(content=contents[video.file]),
            )
        )
    return found


@dataclass(frozen=True, kw_only=True)
class GradedFootage:
    """Pictures of a graded video, whatever the view is called.

    Attributes:
        video: The video.
        places: Frame of each observation.
    """

    video: GradedVideo
    places: tuple[int, ...]

    def read(self, wanted: Mapping[str, Sequence[int]]) -> dict[str, dict[int, Image]]:
        """Decode what is wanted."""
        found = {}
        for camera, indices in wanted.items():
            frames = video_frames(self.video.file, [self.places[index] for index in indices])
            absent = [index for index in indices if self.places[index] not in frames]
            if absent:
                raise DatasetError("A video lacks frames", seen=f"{self.video.file}: {absent[:5]}")
            found[camera] = {index: frames[self.places[index]] for index in indices}
        return found


def split_ladders(
    episodes: Sequence[FilmedEpisode],
    held_out: float,
    seed: int,
    *,
    spare: Callable[[FilmedEpisode], bool] = lambda _: True,
) -> tuple[list[FilmedEpisode], list[FilmedEpisode]]:
    """Hold out a share of the ladders, at least one where there are two: what is made from one recording stays together.

    Args:
        episodes: All.
        held_out: The share.
        seed: Which ones.
        spare: Which can be held out at all, and with them their ladder; where too few can, fewer are.
    """
    ladders = sorted({episode.ladder for episode in episodes})
    count = max(round(held_out * len(ladders)), int(held_out > 0.0 and len(ladders) > 1))
    kept = {episode.ladder for episode in episodes if not spare(episode)}
    order = np.random.default_rng(seed).permutation(len(ladders)).tolist()
    out = set([ladders[i] for i in order if ladders[i] not in kept][:count])
    train = [episode for episode in episodes if episode.ladder not in out]
    return train, [episode for episode in episodes if episode.ladder in out]
