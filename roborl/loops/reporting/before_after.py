"""One video of two evaluations: the same scenes before and after learning, beside each other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path

import cv2
import numpy as np

from roborl.errors import DatasetError
from roborl.loops.evaluate import LINGER_FRAMES
from roborl.loops.video import write_video
from roborl.types import Image

_GAP_PX, _HEAD_PX = 8, 28
_PAPER, _INK = 250, (40, 40, 40)


def write_before_after(
    before: Path, after: Path, steps: tuple[Sequence[int], Sequence[int]], out: Path, *, fps: float
) -> int:
    """Put two films of the same scenes beside each other; the shorter episode waits for the longer one.

    Args:
        before: Film that an evaluation made.
        after: Film of the same scenes in the same order.
        steps: Steps of each evaluation's episodes, in order; more than were filmed are ignored.
        out: The MP4 file to write.
        fps: Frames per second.

    Returns:
        How many scenes it shows.

    Raises:
        DatasetError: If a film does not consist of whole episodes of these lengths.
    """
    films = [cut(read_video(path), lengths) for path, lengths in zip((before, after), steps, strict=True)]
    scenes = min(map(len, films))
    write_video(out, _beside(films[0][:scenes], films[1][:scenes]), fps=fps)
    return scenes


def read_video(path: Path) -> list[Image]:
    """Return every frame of a video, uint8 (h, w, 3) each."""
    import av

    with av.open(str(path)) as container:
        frames = [
            np.asarray(frame.to_ndarray(format="rgb24"), np.uint8) for frame in container.decode(video=0)
        ]
    return frames


def cut(frames: Sequence[Image], steps: Sequence[int]) -> list[Sequence[Image]]:
    """Cut an evaluation's film into its episodes.

    Raises:
        DatasetError: If it does not end where an episode does.
    """
    episodes: list[Sequence[Image]] = []
    at = 0
    for taken in steps:
        if at == len(frames):
            break
        # T + 1 observations, of which the last lingers.
        stop = at + taken + 1 + LINGER_FRAMES
        episodes.append(frames[at:stop])
        at = stop
    if at != len(frames):
        raise DatasetError(
            "A film does not fit its evaluation's table",
            seen=f"{len(frames)} frames",
            allowed=f"whole episodes of {[taken + 1 + LINGER_FRAMES for taken in steps]} frames",
            remedy="Delete film and table, and evaluate again",
        )
    return episodes


def strip(frames: Sequence[Image], count: int = 4, *, width_px: int = 1320) -> Image:
    """Return some frames of an episode beside each other, evenly apart, the last one among them, uint8 (h, w, 3)."""
    chosen = np.linspace(0, len(frames) - 1, count + 1).round().astype(int)[1:]
    whole = np.concatenate([frames[index] for index in chosen], axis=1)
    height = round(whole.shape[0] * width_px / whole.shape[1])
    return np.asarray(cv2.resize(whole, (width_px, height), interpolation=cv2.INTER_AREA), np.uint8)


def _beside(before: Sequence[Sequence[Image]], after: Sequence[Sequence[Image]]) -> Iterator[Image]:
    for left, right in zip(before, after, strict=True):
        for one, other in zip_longest(left, right):
            pair = [left[-1] if one is None else one, right[-1] if other is None else other]
            yield _titled(pair)


def _titled(pair: Sequence[Image]) -> Image:
    height = max(picture.shape[0] for picture in pair)
    parts: list[Image] = []
    for title, picture in zip(("before learning", "after learning"), pair, strict=True):
        sheet = np.full((_HEAD_PX + height, picture.shape[1], 3), _PAPER, np.uint8)
        sheet[_HEAD_PX : _HEAD_PX + picture.shape[0]] = picture
        cv2.putText(sheet, title, (8, 20), cv2.FONT_HERSHEY_SIMPLEX, 0.55, _INK, 1, cv2.LINE_AA)
        parts += [sheet, np.full((_HEAD_PX + height, _GAP_PX, 3), _PAPER, np.uint8)]
    return np.asarray(np.concatenate(parts[:-1], axis=1), np.uint8)
