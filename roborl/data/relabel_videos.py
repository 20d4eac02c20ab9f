"""Videos that were graded, in the layout of RoboReward, for relabelling."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2

from roborl.data.oxe import known_dataset
from roborl.data.relabel_source import LeftOut, RelabelSource, first_lit
from roborl.errors import DatasetError
from roborl.rewards.graded_videos import METADATA, GradedVideo, read_graded
from roborl.rewards.grades import HIGHEST
from roborl.rewards.references import count_frames, video_frames
from roborl.types import Image

CAMERA = "video"
"""What the one camera of a video is called."""

# What RoboReward's authors put behind the name of an episode: which copy it is, and which cut.
_COPY = re.compile(r"(_index_\d+)(_\d+)?(_attempt_\d+_score_\d+)?$")


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoFilm:
    """The pictures of a video file.

    Attributes:
        file: The video.
    """

    file: Path

    def read(self, indices: Sequence[int]) -> dict[int, Image]:
        """Decode frames by index, uint8 RGB (h, w, 3) each; blocks.

        Raises:
            DatasetError: If one cannot be decoded.
        """
        found = video_frames(self.file, indices)
        if absent := sorted(set(indices) - set(found)):
            raise DatasetError(
                "A video lacks frames",
                seen=f"{absent[:5]} of {self.file}",
                allowed="the frames that were counted",
                remedy="Fetch it again",
            )
        return {index: found[index] for index in indices}


class VideoSubset:
    """The videos of one group in a folder with ``metadata.jsonl``.

    A video that people gave the highest grade is a success, any other is none. Copies and cuts of one episode have it for
    their origin.

    Args:
        folder: The folder.
        group: Name of the group.
        videos: Those of the group.
        rate_hz: Frames per second; None for what each file says.
    """

    def __init__(
        self, folder: Path, group: str, videos: Sequence[GradedVideo], *, rate_hz: float | None = None
    ) -> None:
        self._folder, self._group, self._videos, self._rate_hz = folder, group, list(videos), rate_hz

    @property
    def name(self) -> str:
        """The group's name."""
        return self._group

    @property
    def split(self) -> str:
        """Which split it is: the folder's name."""
        return self._folder.resolve().name

    def __len__(self) -> int:
        """How many questions there are about its videos."""
        return len(self._videos)

    def open(self, place: int) -> RelabelSource | LeftOut:
        """Count the frames of one video; see :class:`~roborl.data.relabel_source.Subset`."""
        video = self._videos[place]
        count, rate = count_frames(video.file), self._rate_hz or _rate(video.file)
        if not video.task.strip():
            return LeftOut.NO_TASK
        if not count or not rate:
            raise DatasetError(
                "A video cannot be read",
                seen=f"{video.file}: {count} frames, {rate:g} a second",
                allowed="a video with frames",
                remedy="Fetch it again",
            )
        if count < 2:
            return LeftOut.SHORT
        film = VideoFilm(file=video.file)
        if first_lit([(CAMERA, film.read([0])[0])]) is None:
            return LeftOut.BLACK
        name, known = str(video.file.relative_to(self._folder).with_suffix("")), known_dataset(self._group)
        return RelabelSource(
            dataset=self._group,
            split=self.split,
            # The same video may be asked about with several tasks.
            episode=f"{name}#{place:06d}",
            task=video.task.strip(),
            camera=CAMERA,
            rate_hz=rate,
            count=count,
            success=video.level == HIGHEST,
            film=film,
            content=video.digest(),
            onset=known.onset if known else None,
            origin=_COPY.sub(r"\1", name),
            recorded=video.content(),
        )


def open_videos(folder: Path, *, rate_hz: float | None = None) -> list[VideoSubset]:
    """Return the groups of videos in a folder, or in the folders of its splits.

    Raises:
        DatasetError: If their metadata cannot be read.
    """
    found = []
    for place in [folder] if (folder / METADATA).is_file() else splits_of(folder):
        groups: dict[str, list[GradedVideo]] = {}
        for video in read_graded(place):
            groups.setdefault(video.group, []).append(video)
        found += [
            VideoSubset(place, name, videos, rate_hz=rate_hz) for name, videos in sorted(groups.items())
        ]
    return found


def splits_of(folder: Path) -> list[Path]:
    """Return the folders with graded videos that a folder holds."""
    return sorted(path.parent for path in folder.glob(f"*/{METADATA}"))


def _rate(video: Path) -> float:
    capture = cv2.VideoCapture(str(video))
    rate = float(capture.get(cv2.CAP_PROP_FPS))
    capture.release()
    return rate
